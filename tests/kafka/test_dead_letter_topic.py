import json
import os
import pickle
import time

import pytest
from torch.utils.data import DataLoader

from kafkapipes import (
    ConfigError,
    ConnectError,
    DeadLetter,
    DeadLetterTopic,
    DeliveryError,
    RangeParser,
    TrainingKafkaDataset,
)
from kafkapipes.testing import EmbeddedKafka


def letter(offset, **payload):
    return DeadLetter("clicks", 2, offset, "on_error", "DecodeError", f"wanted 4 bytes, found {offset}", **payload)


@pytest.fixture
def left_out(embedded):
    embedded.create_topic("left-out")
    return DeadLetterTopic("left-out", embedded.bootstrap_servers)


def stored(kafka):
    """(key, value, headers) of every dead letter in the topic."""
    reader = RangeParser("left-out:0:earliest:latest").read_partitions(kafka.bootstrap_servers, headers=True)
    return [item for batch in reader for item in zip(batch.keys, batch.values, batch.headers, strict=True)]


def test_a_letter_is_a_record_with_its_json_and_headers_and_no_key(embedded, left_out):
    left_out([letter(5)])

    ((key, value, headers),) = stored(embedded)
    assert key is None
    assert json.loads(value) == {
        "topic": "clicks", "partition": 2, "offset": 5, "reason": "on_error", "error": "DecodeError",
        "text": "wanted 4 bytes, found 5",
    }  # fmt: skip
    assert headers == [
        ("kafkapipes.topic", b"clicks"), ("kafkapipes.partition", b"2"), ("kafkapipes.offset", b"5"),
        ("kafkapipes.reason", b"on_error"), ("kafkapipes.error", b"DecodeError"),
        ("kafkapipes.text", b"wanted 4 bytes, found 5"),
    ]  # fmt: skip


def test_a_letter_with_its_payload_is_the_record_itself_with_headers(embedded, left_out):
    left_out([letter(5, key=b"k", value=b"\x00\xff"), letter(6, key=b"k", value=None)])

    (key, value, headers), (_, tombstone, _) = stored(embedded)
    assert (key, value, tombstone) == (b"k", b"\x00\xff", None)
    assert ("kafkapipes.offset", b"5") in headers


def test_a_letter_is_stored_when_the_call_returns(embedded, left_out):
    for offset in range(3):
        left_out([letter(offset), letter(offset + 10)])

        assert len(stored(embedded)) == 2 * (offset + 1)


def test_more_letters_than_the_clients_queue_holds_are_all_stored(embedded):
    embedded.create_topic("left-out")
    config = {"queue.buffering.max.messages": 10}

    DeadLetterTopic("left-out", embedded.bootstrap_servers, config=config)([letter(offset) for offset in range(100)])

    assert len(stored(embedded)) == 100


def test_letters_never_go_to_the_topic_that_they_come_from(embedded):
    embedded.fill("clicks", [(b"a", None)])
    topic = DeadLetterTopic("clicks", embedded.bootstrap_servers)
    message = {"topic": "clicks:0:0:1", "input_config": {"data_type": "uint8"}}

    with pytest.raises(ConfigError, match="would go to clicks itself"):
        topic([letter(5)])
    with pytest.raises(ConfigError, match="would go to clicks itself"):
        TrainingKafkaDataset(message, "127.0.0.1:1", "g", on_error="dead-letter", dead_letter=topic)


def test_a_letter_that_is_not_acknowledged_is_an_error_within_the_timeout():
    with EmbeddedKafka() as kafka:
        kafka.create_topic("left-out")
        topic = DeadLetterTopic("left-out", kafka.bootstrap_servers, delivery_timeout_s=3)
        topic([letter(1)])
    began = time.monotonic()

    with pytest.raises(DeliveryError, match=r"wanted 2 dead letter\(s\) acknowledged by left-out, found 0.*clicks:2@7"):
        topic([letter(7), letter(8)])
    assert time.monotonic() - began < 9


def test_a_letter_that_is_too_large_names_the_record_and_not_its_contents(left_out):
    with pytest.raises(DeliveryError, match=r"the dead letter for clicks:2@5 was refused: .*[Ll]arge") as caught:
        left_out([letter(5, value=b"secret" * 500_000)])
    assert "secret" not in str(caught.value)


def test_a_topic_that_cannot_be_asked_for_is_an_error_before_any_read():
    with pytest.raises(ConnectError, match=r"within 0\.5 s"):
        DeadLetterTopic("left-out", "127.0.0.1:1", connect_timeout_s=0.5)


@pytest.mark.parametrize(
    "options",
    [
        {"connect_timeout_s": 0},
        {"delivery_timeout_s": -1},
        {"config": {"message.timeout.ms": 5}},
        {"config": {"enable.idempotence": False}},
    ],
)
def test_a_senseless_option_is_refused(embedded, options):
    embedded.create_topic("left-out")

    with pytest.raises(ConfigError):
        DeadLetterTopic("left-out", embedded.bootstrap_servers, **options)([letter(5)])


def test_no_secret_shows_in_a_repr_or_a_pickle(embedded):
    config = {"sasl.password": "hunter2-canary", "sasl.username": "reader"}
    topic = DeadLetterTopic("left-out", embedded.bootstrap_servers, config=config)

    assert "hunter2" not in repr(topic)
    assert b"hunter2" not in pickle.dumps(topic)


def test_a_topic_that_was_used_can_be_pickled_and_used_again(embedded, left_out):
    left_out([letter(1)])

    pickle.loads(pickle.dumps(left_out))([letter(2)])

    assert len(stored(embedded)) == 2


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_workers_store_their_letters_also_when_the_parent_has_stored_some_before(embedded, left_out, start_method):
    embedded.fill("clicks", [(b"ab" if offset % 3 else b"abc", None) for offset in range(60)])
    reader = RangeParser("clicks:0:0:60").read_partitions(embedded.bootstrap_servers)
    chain = reader.decode_bytes("uint8", data_elements=2, on_error="dead-letter", dead_letter=left_out)
    samples = chain.transform_samples()
    bad = list(range(0, 60, 3))

    assert len(list(samples)) == 40
    loader = DataLoader(samples, batch_size=None, num_workers=2, multiprocessing_context=start_method)
    assert len(list(loader)) == 40
    left_out([letter(99)])

    assert sorted(json.loads(value)["offset"] for _, value, _ in stored(embedded)) == sorted([*bad, *bad, 99])


def test_a_producer_that_a_fork_inherits_is_neither_used_nor_freed(embedded, left_out):
    left_out([letter(1)])
    child = os.fork()
    if child == 0:
        left_out([letter(2)])
        left_out.__del__()
        os._exit(7)
    _, status = os.waitpid(child, 0)
    left_out([letter(3)])

    assert os.waitstatus_to_exitcode(status) == 7
    assert sorted(json.loads(value)["offset"] for _, value, _ in stored(embedded)) == [1, 2, 3]
