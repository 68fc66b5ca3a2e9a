import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from confluent_kafka import Message, Producer

import kafkapipes.kafka.sink
from kafkapipes import ConfigError, ConnectError, DeliveryError, KafkaSink, RangeError, TrainingKafkaDataset

VALUES = np.arange(60, dtype=np.uint8).reshape(20, 3)
LABELS = np.arange(20, dtype=np.uint8)


@pytest.fixture
def digits(embedded):
    embedded.create_topic("digits", partitions=3)
    return embedded


def read(kafka, sink):
    return TrainingKafkaDataset(sink.control_message, kafka.bootstrap_servers, "sink")


def test_what_was_sent_comes_back(digits):
    with KafkaSink("digits", digits.bootstrap_servers, description="twenty") as sink:
        sink.send_batch(VALUES, LABELS)

    dataset = read(digits, sink)

    np.testing.assert_array_equal(dataset.values, VALUES)
    np.testing.assert_array_equal(dataset.labels, LABELS)
    assert (sink.control_message.description, sink.control_message.total_msg) == ("twenty", 20)


def test_types_and_shapes_are_taken_from_the_first_sample(digits):
    with KafkaSink("digits", digits.bootstrap_servers) as sink:
        sink.send(torch.ones(2, 2, dtype=torch.float64), np.int32([1, 2]))

    assert sink.control_message.input_config == {
        "data_type": "float64", "label_type": "int32", "data_reshape": "2 2", "label_reshape": "2",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "label", "config"),
    [
        ("grün", b"\x01", {"data_type": "string", "label_type": "bytes", "data_reshape": "", "label_reshape": ""}),
        (
            np.float32([1, 2]),
            None,
            {"data_type": "float32", "label_type": None, "data_reshape": "2", "label_reshape": ""},
        ),
        (1.5, 7, {"data_type": "float64", "label_type": "int64", "data_reshape": "1", "label_reshape": ""}),
        (
            np.array([1, 2], ">i2"),
            "x",
            {"data_type": ">i2", "label_type": "string", "data_reshape": "2", "label_reshape": ""},
        ),
    ],
)
def test_every_kind_of_sample_can_be_sent_and_read_back(digits, value, label, config):
    with KafkaSink("digits", digits.bootstrap_servers) as sink:
        sink.send(value, label)

    assert sink.control_message.input_config == config
    dataset = read(digits, sink)
    found = dataset[0] if label is None else dataset[0][0]
    np.testing.assert_array_equal(found, np.atleast_1d(value) if not isinstance(value, str) else value)
    assert label is None or dataset[0][1] == label


def test_declared_types_convert_what_fits(digits):
    with KafkaSink("digits", digits.bootstrap_servers, data_type=">f4", label_type="uint8") as sink:
        sink.send([1.5, 2.0], 7)

    assert read(digits, sink).values.tolist() == [[1.5, 2.0]]


def test_the_ranges_hold_exactly_the_sinks_own_records_in_the_order_sent(digits, monkeypatch):
    """Another producer writes between; short stretches make the sink use every partition several times."""
    monkeypatch.setattr(kafkapipes.kafka.sink, "STRETCH", 4)
    other = Producer({"bootstrap.servers": digits.bootstrap_servers})
    with KafkaSink("digits", digits.bootstrap_servers) as sink:
        for row in range(20):
            sink.send(VALUES[row], LABELS[row])
            if row % 3 == 0:
                sink.flush()
                other.produce("digits", b"not ours", b"?", row % 2)
                other.flush()

    assert read(digits, sink).labels.tolist() == list(range(20))
    assert sink.control_message.topic.count(",") > 4


def test_a_sink_alone_on_a_topic_announces_one_range(digits):
    with KafkaSink("digits", digits.bootstrap_servers, partition=2) as sink:
        sink.send_batch(VALUES)

    assert sink.control_message.topic == "digits:2:0:20"


def test_lists_of_samples_can_be_sent(digits):
    with KafkaSink("digits", digits.bootstrap_servers) as sink:
        sink.send_batch(["a", "bc"], ["x", "y"])

    assert list(read(digits, sink)) == [("a", "x"), ("bc", "y")]


def test_a_record_that_is_too_large_is_refused_at_once(digits):
    with KafkaSink("digits", digits.bootstrap_servers) as sink:
        sink.send(b"small")
        with pytest.raises(DeliveryError, match="value 1 for digits was refused"):
            sink.send(bytes(2_000_000))


def test_a_record_that_is_not_acknowledged_fails_the_sink(digits):
    sink = KafkaSink("digits", digits.bootstrap_servers, delivery_timeout_s=1)
    digits.close()
    sink.send(b"lost")

    with pytest.raises(DeliveryError, match=r"1 record\(s\) for digits were not acknowledged"):
        sink.close()
    with pytest.raises(DeliveryError):
        _ = sink.control_message


def test_a_record_acknowledged_without_a_place_fails_the_sink(digits):
    sink = KafkaSink("digits", digits.bootstrap_servers)
    sink.send(b"one")
    sink._settle(None, SimpleNamespace(partition=lambda: 0, offset=lambda: None))

    with pytest.raises(DeliveryError, match="acknowledged without an offset"):
        _ = sink.control_message


def test_ctrl_c_amid_an_acknowledgement_leaves_its_record_unacknowledged(digits, monkeypatch):
    sink = KafkaSink("digits", digits.bootstrap_servers)
    sink.send(b"one")
    monkeypatch.setattr("kafkapipes.kafka.sink._Stretch.acknowledged", ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        sink._settle(None, Message(topic="digits", partition=0, offset=0))

    with pytest.raises(DeliveryError, match="1 of 1 record"):
        _ = sink.control_message


def ctrl_c(*_):
    raise KeyboardInterrupt


def test_an_error_inside_the_block_is_the_one_that_is_seen(digits):
    def fail():
        with KafkaSink("digits", digits.bootstrap_servers) as sink:
            sink.send(b"a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()


def test_there_is_no_control_message_before_all_is_acknowledged_or_without_records(digits):
    with KafkaSink("digits", digits.bootstrap_servers, config={"linger.ms": 5000}) as sink:
        with pytest.raises(DeliveryError, match="no record was sent"):
            _ = sink.control_message
        sink.send(b"a")
        with pytest.raises(DeliveryError, match=r"1 of 1 .* not acknowledged yet"):
            _ = sink.control_message


def test_a_closed_sink_takes_nothing_more(digits):
    sink = KafkaSink("digits", digits.bootstrap_servers)
    sink.close()
    sink.close()

    with pytest.raises(DeliveryError, match="closed"):
        sink.send(b"a")


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        ((np.zeros(3), 1), (np.zeros(4), 1), r"value 1 .* has shape \(4,\), wanted \(3,\)"),
        ((np.zeros(3), 1), (np.zeros(3), None), "either all samples have a label or none has"),
        ((np.zeros(3), 1), ("text", 1), r"value 1 .*"),
        ((np.zeros(3, np.uint8), 1), (np.full(3, 300), 1), "does not fit"),
        (("a", 1), (7, 1), "wanted a value of type string, found ndarray"),
    ],
)
def test_a_sample_that_is_not_like_the_first_is_refused(digits, first, second, text):
    with KafkaSink("digits", digits.bootstrap_servers) as sink:
        sink.send(*first)
        with pytest.raises(ConfigError, match=text):
            sink.send(*second)


@pytest.mark.parametrize(
    "value",
    [
        None, np.zeros((0,)), np.zeros((3, 0)), [], [[1], [1, 2]], np.array([object()]), 
        torch.ones(2, requires_grad=True),
        np.ma.masked_array([1, 2], [0, 1]), np.array(["a"]), np.datetime64("2026-01-01"), object(), {"a": 1}, "\ud800",
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", repr(value)),  # the same name in every process
)  # fmt: skip
def test_what_cannot_be_sent_whole_is_refused_and_changes_nothing(digits, value):
    with KafkaSink("digits", digits.bootstrap_servers) as sink:
        with pytest.raises(ConfigError, match="value 0 for digits"):
            sink.send(value)
        sink.send(np.float32([7]))

    assert read(digits, sink).values.tolist() == [[7.0]]


@pytest.mark.parametrize("values", ["text", b"bytes", 7, np.float32(7), torch.tensor(7), None, object()])
def test_a_batch_must_be_many_samples(digits, values):
    with KafkaSink("digits", digits.bootstrap_servers) as sink, pytest.raises(ConfigError, match="wanted"):
        sink.send_batch(values)


def test_an_empty_batch_sends_nothing(digits):
    with KafkaSink("digits", digits.bootstrap_servers) as sink:
        sink.send_batch(np.zeros((0, 3)), np.zeros(0))
        sink.send_batch([])
        sink.send(b"one")

    assert sink.control_message.total_msg == 1


def test_arrays_that_are_not_contiguous_are_sent_as_they_read(digits):
    values = np.arange(24, dtype=np.int32).reshape(4, 6)[:, ::2].T
    with KafkaSink("digits", digits.bootstrap_servers) as sink:
        sink.send_batch(values)

    np.testing.assert_array_equal(read(digits, sink).values, values)


def test_values_and_labels_must_be_of_one_length(digits):
    with (
        KafkaSink("digits", digits.bootstrap_servers) as sink,
        pytest.raises(ConfigError, match="20 values and 3 labels"),
    ):
        sink.send_batch(VALUES, LABELS[:3])


def test_a_partition_that_does_not_exist_is_refused(digits):
    with pytest.raises(ConfigError, match=r"partition is 9, wanted one of topic digits: \[0, 1, 2\]"):
        KafkaSink("digits", digits.bootstrap_servers, partition=9)


@pytest.mark.parametrize(
    "options",
    [
        {"delivery_timeout_s": 0}, {"delivery_timeout_s": float("inf")}, {"delivery_timeout_s": "x"},
        {"connect_timeout_s": None}, {"connect_timeout_s": -1}, {"config": {"message.timeout.ms": 1}},
        {"config": {"enable.idempotence": "false"}},
    ],
)  # fmt: skip
def test_a_senseless_option_is_refused(digits, options):
    with pytest.raises(ConfigError):
        KafkaSink("digits", digits.bootstrap_servers, **options)


@pytest.mark.parametrize("topic", [None, 5, "a b", "", "a:b"])
def test_a_topic_that_cannot_be_announced_is_refused(topic):
    with pytest.raises(RangeError, match="the topic is"):
        KafkaSink(topic, "127.0.0.1:1")


def test_samples_of_bytes_may_differ_in_length(digits):
    with KafkaSink("digits", digits.bootstrap_servers) as sink:
        sink.send_batch([bytearray(b"a"), memoryview(b"bcd"), b""])

    assert list(read(digits, sink)) == [b"a", b"bcd", b""]


def test_an_unreachable_broker_is_an_error_within_the_timeout():
    with pytest.raises(ConnectError, match="within 1 s"):
        KafkaSink("digits", "127.0.0.1:1", connect_timeout_s=1)


def test_a_topic_that_is_made_on_first_use_can_be_sent_to(embedded):
    with KafkaSink("fresh", embedded.bootstrap_servers) as sink:
        sink.send_batch(VALUES, LABELS)

    assert read(embedded, sink).labels.tolist() == LABELS.tolist()
