"""What the seam promises, asked of all clients."""

import logging
import time
from ctypes import c_size_t, c_void_p

import numpy as np
import pytest
from confluent_kafka import KafkaError, Producer

from kafkapipes import ConfigError, KafkaPipesError, RangeParser
from kafkapipes.kafka.config import ClientConfig
from kafkapipes.kafka.direct import open_reader
from kafkapipes.kafka.failures import Complaints
from kafkapipes.kafka.fetcher import Fetcher
from kafkapipes.kafka.native import VARIABLE, chosen
from kafkapipes.ranges import OffsetRange
from kafkapipes.report import RangeReport
from tests.kafka.fake import ScriptedConsumer, python_client

ACCOUNT = RangeReport(OffsetRange("t", 0, 0, 100), 0, 100)
FETCH = 1  # the protocol's number of the request


@pytest.fixture(params=["python", "native", "direct"])
def kind(request, monkeypatch):
    if request.param == "native":
        request.getfixturevalue("fake_library")  # which skips where there is no extension
    monkeypatch.setenv(VARIABLE, request.param)
    return request.param


of_librdkafka = pytest.mark.parametrize("kind", ["python", "native"], indirect=True)  # the direct one hands over


@pytest.fixture
def client(kind, embedded):
    """A client of the embedded broker; all but the direct one read headers."""
    opened = opened_at(embedded.bootstrap_servers)
    yield opened
    opened.close()


def opened_at(servers, config=None, complaints=None, timestamps=True, headers=True):
    configuration = ClientConfig(servers, "g", config)
    complaints = complaints or Complaints(configuration)
    properties = {"socket.timeout.ms": 5000, **complaints.listening(configuration.consumer())}
    headers = headers and chosen() != "direct"
    return open_reader(configuration, properties, complaints, timestamps=timestamps, headers=headers)


def collect(client, until, within_s=10.0):
    """Fetch until so many records and words came: the batches, and the words."""
    batches, words, deadline = [], [], time.monotonic() + within_s
    while sum(map(len, batches)) + len(words) < until:
        assert time.monotonic() < deadline, (batches, words)
        with client.fetch(until, 0.05) as fetched:
            words += fetched.words
            if rows := len(fetched.offsets):
                batches.append(fetched.batch(rows, ACCOUNT))
    return batches, words


def test_the_environment_chooses_the_client(client, kind):
    assert client.name == kind


def test_a_null_is_told_from_an_empty_key_or_value(client, embedded):
    embedded.fill("t", [(b"ab", b"k"), (None, b""), (b"", None), (b"c" * 1000, b"long")])
    client.assign("t", 0, 0)

    ((batch,), _) = collect(client, 4)

    assert list(batch.values) == [b"ab", None, b"", b"c" * 1000]
    assert list(batch.keys) == [b"k", b"", None, b"long"]
    assert batch.values.lengths.tolist() == [2, -1, 0, 1000]
    assert batch.keys.lengths.tolist() == [1, 0, -1, 4]
    assert (batch.values.buffer.dtype, batch.values.lengths.dtype) == (np.uint8, np.int64)


def test_all_nulls_are_a_column_too(client, embedded):
    embedded.fill("t", [(None, None)] * 3)
    client.assign("t", 0, 0)

    ((batch,), _) = collect(client, 3)

    assert (list(batch.values), list(batch.keys)) == ([None] * 3, [None] * 3)


@of_librdkafka
def test_headers_keep_their_order_their_repetitions_and_their_nulls(client, embedded):
    producer = Producer({"bootstrap.servers": embedded.bootstrap_servers})
    embedded.create_topic("t")
    headers = [("a", b"1"), ("b", None), ("a", b""), ("ü", b"\0\xff")]
    producer.produce("t", b"with", partition=0, headers=headers, timestamp=1_700_000_000_123)
    producer.produce("t", b"without", partition=0, timestamp=1_700_000_000_124)
    assert producer.flush(10) == 0
    client.assign("t", 0, 0)

    ((batch,), _) = collect(client, 2)

    assert batch.headers == [headers, []]
    assert batch.timestamps.tolist() == [1_700_000_000_123, 1_700_000_000_124]


def test_columns_that_nobody_asked_for_are_none(kind, embedded):
    embedded.fill("t", [(b"a", None)])
    client = opened_at(embedded.bootstrap_servers, timestamps=False, headers=False)
    client.assign("t", 0, 0)

    ((batch,), _) = collect(client, 1)
    client.close()

    assert (batch.timestamps, batch.headers) == (None, None)


def test_fewer_records_may_be_taken_than_came(client, embedded):
    embedded.fill("t", [(b"%d" % number, b"k") for number in range(5)])
    client.assign("t", 0, 0)

    with client.fetch(5, 5.0) as fetched:
        batch = fetched.batch(3, ACCOUNT)

    assert batch.offsets.tolist() == [0, 1, 2]
    assert list(batch.values) == [b"0", b"1", b"2"]
    assert len(batch.keys) == len(batch.timestamps) == 3


def test_a_batch_outlives_the_client(client, embedded):
    embedded.fill("t", [(b"first", b"k")])
    client.assign("t", 0, 0)
    ((batch,), _) = collect(client, 1)

    client.close()

    assert list(batch.values) == [b"first"]
    client.close = lambda: None  # the fixture's


def test_the_end_of_the_log_is_a_word_behind_the_records(client, embedded):
    embedded.fill("t", [(b"a", None), (b"b", None)])
    client.assign("t", 0, 1)

    batches, (word,) = collect(client, 2)

    assert [batch.offsets.tolist() for batch in batches] == [[1]]
    assert word.error.code() == KafkaError._PARTITION_EOF
    assert (word.topic, word.partition, word.offset) == ("t", 0, 2)


@of_librdkafka
def test_an_error_is_a_word_with_its_code_its_text_and_its_place(client, embedded):
    embedded.fill("t", [(b"a", None)])
    push = embedded._library.rd_kafka_mock_broker_push_request_error_rtts
    assert push(c_void_p(embedded._cluster), 1, FETCH, c_size_t(1), KafkaError.TOPIC_AUTHORIZATION_FAILED, 0) == 0
    client.assign("t", 0, 0)

    _, (word, *_) = collect(client, 1)

    assert word.error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
    assert (word.row, word.topic, word.partition) == (0, "t", 0)
    assert "authorization failed" in word.error.str()


def test_a_new_assignment_delivers_nothing_of_the_one_before(client, embedded):
    embedded.create_topic("t", partitions=2)
    embedded.fill("t", [(b"old", None)] * 2000)
    embedded.fill("t", [(b"new", None)] * 3, partition=1)
    client.assign("t", 0, 0)
    with client.fetch(10, 5.0) as fetched:
        assert fetched.origins(10) == {("t", 0)}

    client.assign("t", 1, 0)
    with client.fetch(3, 5.0) as fetched:
        assert fetched.origins(3) == {("t", 1)}
        assert list(fetched.batch(3, ACCOUNT).values) == [b"new"] * 3


def test_nothing_comes_once_nothing_is_assigned(client, embedded):
    embedded.fill("t", [(b"a", None)] * 100)
    client.assign("t", 0, 0)
    with client.fetch(10, 5.0) as fetched:
        assert len(fetched.offsets) == 10

    client.unassign()
    with client.fetch(10, 0.2) as fetched:
        assert (len(fetched.offsets), fetched.words) == (0, [])


def test_a_record_tells_its_leader_epoch(client, embedded):
    embedded.fill("t", [(b"a", None)])
    client.assign("t", 0, 0)

    with client.fetch(1, 5.0) as fetched:
        assert fetched.epoch(0) == 0


def test_a_seek_names_the_offset_and_its_epoch_in_python():
    consumer = ScriptedConsumer()
    python_client(consumer).seek("t", 0, 7, 4)

    assert consumer.sought == ("t", 0, 7, 4)


def test_a_seek_names_the_offset_and_its_epoch_in_c(fake_library, monkeypatch):
    fake_library.forget()
    fake_library.client(monkeypatch).seek("t", 0, 7, 4)

    assert (fake_library.count("sought"), fake_library.count("sought_epoch")) == (7, 4)


def test_a_seek_goes_there(client, embedded):
    embedded.fill("t", [(b"%d" % number, None) for number in range(10)])
    client.assign("t", 0, 0)
    collect(client, 11)

    client.seek("t", 0, 8, -1)
    ((batch,), _) = collect(client, 2)

    assert batch.offsets.tolist() == [8, 9]


REFUSED = [
    {"no.such.property": "x"},
    {"fetch.wait.max.ms": "soon"},
    {"fetch.wait.max.ms": -5},
    {"security.protocol": "carrier-pigeon"},
    {"security.protocol": "ssl", "ssl.ca.location": "/no/such/file"},
    {"fetch.max.bytes": 1000, "message.max.bytes": 2000},
    {"sasl.mechanism": "NONE-SUCH", "security.protocol": "sasl_plaintext"},
]


@pytest.mark.parametrize("config", REFUSED, ids=lambda config: next(iter(config)))
def test_what_one_client_refuses_the_other_refuses_in_the_same_words(embedded, monkeypatch, fake_library, config):
    embedded.fill("t", [(b"a", None)])
    told = {}
    for kind in ("python", "native"):
        monkeypatch.setenv(VARIABLE, kind)
        with pytest.raises(KafkaPipesError) as refusal:
            opened_through_the_fetcher(embedded.bootstrap_servers, config)
        told[kind] = (type(refusal.value), str(refusal.value))

    assert told["python"] == told["native"]
    assert told["native"][0] is ConfigError


def opened_through_the_fetcher(servers, config):
    options = {"batch_records": 10, "stall_timeout_s": 1.0, "timestamps": False, "headers": False}
    with Fetcher(ClientConfig(servers, "g", config), **options):
        pass


class Lines(list):
    def log(self, level, template, *parts):
        self.append((level, template % parts))


@of_librdkafka
def test_what_goes_wrong_with_connections_is_told_to_the_users_ears(kind):
    errors, statistics, lines = [], [], Lines()
    config = {
        "error_cb": errors.append, "stats_cb": statistics.append, "logger": lines, "statistics.interval.ms": 100,
        "client.id": "ears",
    }  # fmt: skip
    complaints = Complaints(ClientConfig("127.0.0.1:1", "g", config))
    client = opened_at("127.0.0.1:1", config, complaints)
    deadline = time.monotonic() + 10
    while not (errors and statistics and lines):
        assert time.monotonic() < deadline, (errors, statistics, lines)
        with client.fetch(1, 0.05) as fetched:
            assert fetched.words == []
    client.close()

    assert {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN} & {error.code() for error in errors}
    assert '"client_id":"ears"' in statistics[0].replace(" ", "")
    level, line = next((level, line) for level, line in lines if line.startswith("FAIL"))
    assert (level, "Connection refused" in line) == (logging.ERROR, True)
    assert "Connect to ipv4#127.0.0.1:1 failed" in complaints.last


@of_librdkafka
def test_a_callback_that_raises_is_told_with_its_name(kind):
    def refuse(_):
        raise ValueError("no")

    config = {"error_cb": refuse}
    complaints = Complaints(ClientConfig("127.0.0.1:1", "g", config))
    client = opened_at("127.0.0.1:1", config, complaints)
    deadline = time.monotonic() + 10
    while not complaints.last:
        assert time.monotonic() < deadline
        with client.fetch(1, 0.05):
            pass
    client.close()

    with pytest.raises(ConfigError, match="the error_cb of config raised ValueError: no"):
        complaints.check_callbacks("t:0@0")


def test_the_report_names_the_client(kind, embedded):
    embedded.fill("t", [(b"a", None)])
    reader = RangeParser("t:0:0:1").read_partitions(embedded.bootstrap_servers)
    list(reader)

    assert reader.report[0].client == kind
    assert reader.report[0].to_dict()["client"] == kind
