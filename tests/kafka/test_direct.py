"""The direct client: record batches into columns, whatever the bytes; and when it hands over, from where."""

import contextlib
import socket
import struct
import threading
import time

import numpy as np
import pytest
from confluent_kafka import KafkaError
from hypothesis import given, settings
from hypothesis import strategies as st

from kafkapipes import ConfigError, RangeParser, StalledError
from kafkapipes.kafka import direct
from kafkapipes.kafka.config import ClientConfig
from kafkapipes.kafka.direct import DirectClient, open_reader
from kafkapipes.kafka.failures import Complaints
from kafkapipes.kafka.native import VARIABLE
from kafkapipes.ranges import OffsetRange
from kafkapipes.report import RangeReport
from tests.kafka.broker import (
    APPEND_TIME,
    CONTROL,
    TRANSACTIONAL,
    ScriptedBroker,
    batch,
    fetch_answer,
    identity_answer,
    metadata_answer,
    plain,
    record,
    sealed,
    send,
)

_batches = pytest.importorskip("kafkapipes.kafka._batches", reason="kafkapipes was installed without its extension")
ACCOUNT = RangeReport(OffsetRange("t", 0, 0, 100), 0, 100)
START = (0, 0, 0, 0, -1)
BEHIND = 61  # where the records of a batch begin


def arrays(rows):
    """Offsets, epochs, starts and lengths of keys and of values, timestamps."""
    return [np.full(rows, -9, dtype) for dtype in (np.int64, np.int32, *[np.int64] * 5)]


def parsed(data, cursor=START, rows=100):
    """(offset, key, value, epoch, timestamp) of each record, the cursor behind them, and why it stopped."""
    columns = arrays(rows)
    count, cursor, stopped = _batches.parse(data, cursor, *columns)
    offsets, epochs, key_starts, key_lengths, value_starts, value_lengths, timestamps = (
        column[:count].tolist() for column in columns
    )
    keys, values = (
        [None if length < 0 else bytes(data[start : start + length]) for start, length in zip(*column, strict=True)]
        for column in ((key_starts, key_lengths), (value_starts, value_lengths))
    )
    return list(zip(offsets, keys, values, epochs, timestamps, strict=True)), cursor, stopped


def values(data, cursor=START, rows=100):
    return [value for _, _, value, _, _ in parsed(data, cursor, rows)[0]]


# Of the checksum


def test_checksums_are_those_of_the_standard():
    """RFC 3720, appendix B.4, and the check value of CRC-32C in the usual catalogues."""
    known = {bytes(32): 0x8A9136AA, b"\xff" * 32: 0x62A8AB43, bytes(range(32)): 0x46DD794E, b"123456789": 0xE3069283}

    assert {data: _batches.checksum(data) for data in known} == known


@given(st.binary(max_size=200))
def test_the_processor_and_the_table_agree(data):
    assert _batches.checksum(data) == _batches.checksum(data, True)


# Of the batches


def test_records_come_as_they_were_written():
    records = [
        record(0, b"ab", b"k", 5),
        record(1, None, b""),
        record(4, b"", None, -3),
        record(5, b"c" * 300, b"l" * 70),
    ]
    data = batch(10, records, epoch=3, first_timestamp=1000)

    assert parsed(data) == (
        [
            (10, b"k", b"ab", 3, 1005),
            (11, b"", None, 3, 1000),
            (14, None, b"", 3, 997),
            (15, b"l" * 70, b"c" * 300, 3, 1000),
        ],
        (len(data), 0, 0, 16, 3),
        _batches.ALL_BYTES,
    )


def test_headers_are_passed_over():
    assert values(batch(0, [record(0, b"a", headers=[("h", b"1"), ("h", None)]), record(1, b"b")])) == [b"a", b"b"]


def test_where_the_log_gives_the_time_all_records_have_the_batchs():
    data = batch(0, [record(0, b"a", later=5)], attributes=APPEND_TIME, first_timestamp=1000, max_timestamp=2000)

    assert [stamp for *_, stamp in parsed(data)[0]] == [2000]


@given(
    st.lists(st.lists(st.binary(max_size=5), min_size=1, max_size=5), max_size=4), st.integers(1, 7), st.integers(0, 12)
)
def test_in_however_many_calls_the_records_are_the_same(batches, rows, first):
    data, base, every = b"", 0, []
    for content in batches:
        data += plain(base, content)
        every += content
        base += len(content)
    found, cursor, stopped = [], (0, 0, 0, first, -1), _batches.ALL_ROWS
    while stopped == _batches.ALL_ROWS:
        some, cursor, stopped = parsed(data, cursor, rows)
        found += some
    assert stopped == _batches.ALL_BYTES
    assert [(offset, value) for offset, _, value, _, _ in found] == list(enumerate(every))[first:]
    assert cursor[3] == max(first, base) == _batches.next_offset(data, first)


def test_without_timestamps_none_are_written():
    *columns, _ = arrays(2)

    assert _batches.parse(plain(0, [b"a"]), START, *columns, None)[0] == 1


def test_a_batch_that_is_cut_off_is_left():
    first, second = plain(0, [b"a", b"b"]), plain(2, [b"c"])
    for size in range(len(second)):
        found, cursor, stopped = parsed(first + second[:size])
        assert ([value for _, _, value, _, _ in found], cursor[0], cursor[3]) == ([b"a", b"b"], len(first), 2)
        assert stopped == _batches.ALL_BYTES
        assert _batches.next_offset(first + second[:size], 0) == 2


def test_markers_and_batches_without_records_move_the_position_and_the_epoch():
    marker = batch(3, [record(0, b"\0\0\0\0\0\0", b"\0\0\0\1")], attributes=TRANSACTIONAL | CONTROL, epoch=4)
    data = marker + batch(4, [], last=5, epoch=6)

    assert parsed(data) == ([], (len(data), 0, 0, 10, 6), _batches.ALL_BYTES)


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_a_compressed_batch_is_not_taken_but_the_ones_before_it(codec):
    data = plain(0, [b"a"])
    found, cursor, stopped = parsed(data + plain(1, [b"b"], attributes=codec))

    assert ([value for _, _, value, _, _ in found], cursor, stopped) == (
        [b"a"],
        (len(data), 0, 0, 1, 0),
        _batches.NOT_PLAIN,
    )


@pytest.mark.parametrize("magic", [0, 1, 3, -1])
def test_a_batch_of_another_format_is_not_taken(magic):
    body = plain(0, [b"a"])[21:]

    assert parsed(sealed(0, body, magic=magic)) == ([], START, _batches.NOT_PLAIN)


def test_no_flipped_bit_behind_the_checksum_is_delivered():
    data = plain(0, [b"hello", b"world"])
    for bit in range(17 * 8, len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert parsed(flipped) == ([], START, _batches.DAMAGED)


@pytest.mark.parametrize(
    "bad",
    [
        b"\x80",  # its size does not end
        varied := record(0, b"value", b"key")[:-3],  # shorter than its size says
        b"\x01" + record(0, b"value")[1:],  # of negative size
        record(-1, b"a"),
        record(2**31, b"a"),
        b"\x0a\0\0\0\x64\0",  # a key longer than the record
        b"\x0c\0\0\0\x03\x02a",  # a key of length -2
        b"\x16" + b"\0" + b"\xff" * 10,  # a number of too many bytes
    ],
)
def test_a_record_that_is_none_ends_the_plain_part(bad):
    data = batch(0, [record(0, b"a"), bad], last=1)

    found, cursor, stopped = parsed(data)

    assert ([value for _, _, value, _, _ in found], cursor[3], stopped) == ([b"a"], 1, _batches.NOT_PLAIN)
    assert parsed(data, cursor) == ([], cursor, _batches.NOT_PLAIN)


def test_a_batch_of_senseless_size_is_not_taken():
    for length in (-1, 0, 48, -(2**31)):
        data = bytearray(plain(0, [b"a"]))
        data[8:12] = struct.pack(">i", length)
        assert parsed(data)[2] == parsed(data[:20])[2] == _batches.NOT_PLAIN
        assert _batches.next_offset(data, 7) == 7


@settings(max_examples=500)
@given(st.data())
def test_whatever_the_bytes_all_starts_and_lengths_lie_within(data):
    body = bytearray(plain(0, [b"hello", b"world", b""])[21:])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(6, len(body) - 1))
        body[place] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, data.draw(st.integers(0, 255))]))
    raw = sealed(0, bytes(body)) + data.draw(st.binary(max_size=80))
    columns = arrays(10)
    rows, cursor, _ = _batches.parse(raw, START, *columns)

    assert 0 <= rows <= 10
    assert 0 <= cursor[0] <= len(raw)
    for starts, lengths in (columns[2:4], columns[4:6]):
        assert (starts[:rows] >= 0).all()
        assert (lengths[:rows] >= -1).all()
        assert (starts[:rows] + np.maximum(lengths[:rows], 0) <= len(raw)).all()
    assert (np.diff(columns[0][:rows]) > 0).all()
    _batches.next_offset(raw, 0)


@given(st.binary(max_size=200), st.tuples(*[st.integers(-5, 300)] * 3))
def test_whatever_the_cursor_nothing_outside_is_read(raw, cursor):
    with contextlib.suppress(ValueError):
        _batches.parse(raw + plain(0, [b"a"]), (*cursor, 0, -1), *arrays(3))


def test_arrays_that_do_not_fit_together_are_refused():
    for place in range(7):
        columns = arrays(3)
        columns[place] = columns[place][:2]
        with pytest.raises(ValueError, match="of one length"):
            _batches.parse(b"", START, *columns)
    for cursor in ((-1, 0, 0, 0, -1), (1, 0, 0, 0, -1), (0, 61, 1, 0, -1), (0, 0, -1, 0, -1)):
        with pytest.raises(ValueError, match="cursor"):
            _batches.parse(b"", cursor, *arrays(3))


def test_bytes_are_gathered_end_to_end():
    out = np.zeros(4, np.uint8)
    _batches.gather(b"abcdef", np.array([4, 0, 2]), np.array([2, -1, 2]), out)

    assert out.tobytes() == b"efcd"


@pytest.mark.parametrize(
    ("starts", "lengths", "size"),
    [
        ([0], [7], 7),
        ([-1], [1], 1),
        ([7], [0], 0),
        ([0], [2], 1),
        ([0], [1], 2),
        ([0, 1], [1], 1),
        ([2**62], [2**62], 0),
    ],
)
def test_what_lies_outside_or_does_not_fill_the_buffer_is_not_gathered(starts, lengths, size):
    with pytest.raises(ValueError, match="within the data"):
        _batches.gather(b"abcdef", np.array(starts), np.array(lengths), np.empty(size, np.uint8))


# Of the client


class Successor:
    """Takes over; keeps from where."""

    name = "librdkafka"
    next_offset = -1

    def __init__(self):
        self.assigned = None
        self.sought = None

    def assign(self, *place):
        self.assigned = place

    def seek(self, *place):
        self.sought = place

    @contextlib.contextmanager
    def fetch(self, records, timeout_s, destination=None):
        yield direct._Rows.none([])

    def unassign(self):
        self.assigned = None

    def close(self):
        self.assigned = "closed"


@pytest.fixture
def reading():
    """A function: opens a direct client of a broker, at t:0@0 up to an end. Its `successor` has what it handed over."""
    opened = []

    def open_at(servers, end=100, *, patience_ms=5000, most=2**20, timestamps=False):
        properties = {
            "bootstrap.servers": servers, "fetch.wait.max.ms": 3, "socket.timeout.ms": patience_ms,
        }  # fmt: skip
        successor = Successor()
        noted = []
        client = DirectClient(
            properties, lambda: successor, noted.append, answer_bytes=most, reads_committed=True, timestamps=timestamps
        )
        client.noted = noted
        client.successor = successor
        client.assign("t", 0, 0, end)
        opened.append(client)
        return client

    yield open_at
    for client in opened:
        client.close()


def collect(client, within_s=5.0):
    """What comes until the client says that something ended, or hands over: values, and the offset of that word."""
    found, deadline = [], time.monotonic() + within_s
    while client.name == "direct":
        assert time.monotonic() < deadline, found
        with client.fetch(100, 0.05) as fetched:
            if rows := len(fetched.offsets):
                found += list(fetched.batch(rows, ACCOUNT).values)
            if fetched.words:
                (word,) = fetched.words
                assert (word.row, word.error.code(), word.topic, word.partition) == (
                    0,
                    KafkaError._PARTITION_EOF,
                    "t",
                    0,
                )
                return found, word.offset
    return found, None


def test_records_are_asked_for_ahead_but_none_behind_the_end(reading):
    with ScriptedBroker(plain(0, [b"a", b"b"]), plain(2, [b"c", b"d"]), plain(4, [b"e"])) as broker:
        assert collect(reading(broker.servers, end=4)) == ([b"a", b"b", b"c", b"d"], 4)
        assert broker.asked == [0, 2]


def test_no_more_is_asked_for_than_what_is_wanted_by_what_a_batch_held_last(reading):
    first, second = plain(0, [b"a" * 100] * 10), plain(10, [b"b" * 100] * 10)
    with ScriptedBroker(first, second) as broker:
        collect(reading(broker.servers, end=15))

        assert broker.most_bytes == [2**20, len(first) * 15 // 10]


def test_no_more_than_the_most_is_asked_for_however_much_is_wanted(reading):
    with ScriptedBroker(plain(0, [b"a" * 100] * 10), plain(10, [b"b" * 100] * 10)) as broker:
        collect(reading(broker.servers, end=20, most=300))
        assert broker.most_bytes == [300, 300]


def test_the_end_of_the_log_is_told_once_where_the_reader_may_not_go_on(reading):
    with ScriptedBroker(
        plain(0, [b"a"]), {"high": 5, "stable": 1}, {"high": 5, "stable": 1}, plain(1, [b"b"])
    ) as broker:
        client = reading(broker.servers, end=2)

        assert collect(client) == ([b"a"], 1)
        assert collect(client) == ([b"b"], 2)


def test_markers_at_the_end_are_vouched_for_by_their_epoch(reading):
    marker = batch(1, [record(0, b"\0\0\0\0\0\0", b"\0\0\0\1")], attributes=TRANSACTIONAL | CONTROL, epoch=4)
    with ScriptedBroker(plain(0, [b"a"], epoch=3) + marker) as broker:
        client = reading(broker.servers, end=2)
        with client.fetch(100, 5) as fetched:
            assert (fetched.offsets.tolist(), fetched.epoch(0)) == ([0], 3)
        with client.fetch(100, 5) as fetched:
            assert [(word.offset, word.epoch) for word in fetched.words] == [(2, 4)]


def test_an_assignment_that_goes_on_where_the_last_one_ended_asks_for_nothing_twice(reading):
    with ScriptedBroker(plain(0, [b"a", b"b", b"c"])) as broker:
        client = reading(broker.servers, end=1)
        for start in range(3):
            client.assign("t", 0, start, start + 1)
            with client.fetch(1, 5) as fetched:
                assert fetched.offsets.tolist() == [start]
        assert broker.asked == [0]


def test_an_answer_that_nobody_waits_for_any_more_is_passed_over(reading):
    with ScriptedBroker(plain(0, [b"a"]), plain(1, [b"b"]), plain(50, [b"z"])) as broker:
        client = reading(broker.servers)
        with client.fetch(100, 5) as fetched:
            assert fetched.offsets.tolist() == [0]
        client.assign("t", 0, 50, 51)

        assert collect(client) == ([b"z"], 51)
        assert broker.asked == [0, 1, 50]


def test_an_answer_that_comes_in_pieces_is_waited_for(reading):
    def slowly(connection, number):
        answer = fetch_answer(number, plain(0, [b"a" * 1000]))
        framed = struct.pack(">i", len(answer)) + answer
        for begin in range(0, len(framed), 100):
            connection.sendall(framed[begin : begin + 100])
            time.sleep(0.02)

    with ScriptedBroker(slowly) as broker:
        client = reading(broker.servers, end=1)
        with client.fetch(100, 0.03) as fetched:
            assert len(fetched.offsets) == 0
        assert collect(client) == ([b"a" * 1000], 1)


def test_a_batch_larger_than_was_asked_for_is_taken(reading):
    with ScriptedBroker(plain(0, [b"a" * 10**6])) as broker:
        assert collect(reading(broker.servers, end=1, most=1000)) == ([b"a" * 10**6], 1)


def test_timestamps_come_where_they_were_asked_for(reading):
    with ScriptedBroker(plain(0, [b"a"], first_timestamp=77)) as broker:
        client = reading(broker.servers, timestamps=True)
        with client.fetch(1, 5) as fetched:
            assert fetched.batch(1, ACCOUNT).timestamps.tolist() == [77]


def hang_up(connection, number):
    connection.shutdown(socket.SHUT_RDWR)


def cut(connection, number):
    answer = fetch_answer(number, plain(1, [b"b"]))
    connection.sendall(struct.pack(">i", len(answer)) + answer[:-5])
    connection.shutdown(socket.SHUT_RDWR)


def silent(connection, number):
    pass


def far_too_large(connection, number):
    connection.sendall(struct.pack(">i", 2**30))


def no_answer_at_all(connection, number):
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def of_another_topic(connection, number):
    send(connection, fetch_answer(number, plain(1, [b"b"]), topic="u"))


ABORTED = struct.pack(">iqq", 1, 7, 1)
SURPRISES = {
    "an error": {"error": 6},
    "a quota": {"batches": plain(1, [b"b"]), "throttled_ms": 10},
    "aborted transactions": {"batches": plain(1, [b"b"]), "aborted": ABORTED},
    "compression": plain(1, [b"b"], attributes=4),
    "part of a batch": plain(1, [b"b"])[:-1],
    "a closed connection": hang_up,
    "half an answer": cut,
    "silence": silent,
    "an answer without end": far_too_large,
    "another protocol": no_answer_at_all,
    "another topic": of_another_topic,
}


@pytest.mark.parametrize("surprise", SURPRISES.values(), ids=list(SURPRISES))
def test_at_whatever_else_it_hands_over_behind_the_last_record(reading, surprise):
    with ScriptedBroker(plain(0, [b"a"]), surprise) as broker:
        client = reading(broker.servers, patience_ms=300)

        assert collect(client) == ([b"a"], None)
        assert client.successor.assigned == ("t", 0, 1, 100)
        assert client.name == "direct, then librdkafka"
        codes = {silent: KafkaError._TIMED_OUT, hang_up: KafkaError._TRANSPORT, cut: KafkaError._TRANSPORT}
        expected = [codes[surprise]] if callable(surprise) and surprise in codes else []
        assert [error.code() for error in client.noted] == expected


def test_a_successor_that_does_not_start_is_an_error(reading, monkeypatch):
    monkeypatch.setattr(direct, "OPEN_S", 0.1)
    over = threading.Event()
    with ScriptedBroker({"error": 6}) as broker:
        client = reading(broker.servers)
        client._make_successor = over.wait
        with pytest.raises(StalledError, match=r"t:0@0: a client of librdkafka.*did not start within 0\.1 s"):
            collect(client)
    over.set()


def test_a_damaged_batch_is_a_word_behind_the_records_before_it(reading):
    damaged = (
        plain(1, [b"b" + bytes(100)])[:-1] + b"!"
    )  # librdkafka 2.16 aborts the process where such a one ends in zeros
    with ScriptedBroker(plain(0, [b"a"]) + damaged) as broker:
        client = reading(broker.servers)
        with client.fetch(100, 5) as fetched:
            assert fetched.offsets.tolist() == [0]
        for _ in range(2):
            with client.fetch(100, 5) as fetched:
                (word,) = fetched.words
            assert (word.error.code(), word.topic, word.partition) == (KafkaError._BAD_MSG, "t", 0)
            assert "from offset 1 on" in word.error.str()


def test_amid_an_answer_it_hands_over_too(reading):
    with ScriptedBroker(plain(0, [b"a", b"b"]) + plain(2, [b"c"], attributes=1) + plain(3, [b"d"])) as broker:
        client = reading(broker.servers)

        assert collect(client) == ([b"a", b"b"], None)
        assert client.successor.assigned == ("t", 0, 2, 100)


def unknown_leader(connection, number):
    send(connection, metadata_answer(number, ("127.0.0.1", 1), error=5))


def nobody_there(connection, number):
    send(connection, metadata_answer(number, ("127.0.0.1", 1)))


@pytest.mark.parametrize("metadata", [unknown_leader, nobody_there, silent, hang_up])
def test_without_a_leader_it_hands_over(reading, metadata):
    with ScriptedBroker(metadata=metadata) as broker:
        client = reading(broker.servers)

        assert collect(client) == ([], None)
        assert client.successor.assigned == ("t", 0, 0, 100)


def test_without_a_server_it_hands_over(reading):
    assert collect(reading("127.0.0.1:1")) == ([], None)


def test_a_server_that_does_not_answer_is_passed_over(reading):
    with ScriptedBroker(plain(0, [b"a"])) as broker:
        assert collect(reading(f"127.0.0.1:1,{broker.servers}", end=1)) == ([b"a"], 1)


def test_a_name_server_that_hangs_holds_up_nothing(reading, monkeypatch):
    look_up, over = socket.getaddrinfo, threading.Event()

    def hangs(host, port, family, kind, protocol, flags=0):
        if flags == socket.AI_NUMERICHOST:
            return look_up(host, port, family, kind, protocol, flags)
        over.wait(30)
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    monkeypatch.setattr(direct, "CONNECT_S", 0.1)
    began = time.monotonic()

    assert collect(reading("broker.example:9092")) == ([], None)
    assert time.monotonic() - began < 5
    over.set()


def test_names_are_looked_up(reading):
    with ScriptedBroker(plain(0, [b"a"])) as broker:
        assert collect(reading(f"localhost:{broker.address[1]}", end=1)) == ([b"a"], 1)


def tells(identity, **other):
    return lambda connection, number: send(connection, identity_answer(number, identity, **other))


def test_the_identity_of_a_topic_is_asked_of_one_server_after_the_other(reading, monkeypatch):
    monkeypatch.setattr(direct, "CONNECT_S", 0.1)
    unknown = tells(b"x" * 16, error=3)
    with contextlib.ExitStack() as stack:
        answers = (silent, hang_up, far_too_large, no_answer_at_all, unknown, tells(b"a" * 16), tells(b"b" * 16))
        servers = [stack.enter_context(ScriptedBroker(metadata=answer)).servers for answer in answers]

        assert reading(",".join(["127.0.0.1:1", *servers])).topic_id("t") == "YWFhYWFhYWFhYWFhYWFhYQ"
        assert reading(",".join(servers[:-2])).topic_id("t") == ""


def test_once_handed_over_all_goes_to_the_successor(reading):
    with ScriptedBroker({"error": 6}) as broker:
        client = reading(broker.servers)
        collect(client)
        client.assign("t", 1, 5, 9)
        assert client.successor.assigned == ("t", 1, 5, 9)
        client.seek("t", 1, 7, 3)
        assert client.successor.sought == ("t", 1, 7, 3)
        client.unassign()
        assert client.successor.assigned is None


def test_an_epoch_is_confirmed_by_the_successor(reading):
    with ScriptedBroker(plain(0, [b"a"])) as broker:
        client = reading(broker.servers, end=1)
        collect(client)
        client.seek("t", 0, 1, 3)

        assert client.successor.assigned == ("t", 0, 1, 1)
        assert client.successor.sought == ("t", 0, 1, 3)


def test_it_says_how_far_it_has_come_also_without_a_record(reading):
    with ScriptedBroker(batch(0, [], last=41)) as broker:
        client = reading(broker.servers)
        with client.fetch(100, 0.2) as fetched:
            assert len(fetched.offsets) == 0
        assert client.next_offset == 42


# Of the choice


def opened(config=None, headers=False):
    """The name of the client that reads with these properties."""
    configuration = ClientConfig("127.0.0.1:1", "g", config)
    complaints = Complaints(configuration)
    properties = complaints.listening({"socket.timeout.ms": 1000, **configuration.consumer()})
    client = open_reader(configuration, properties, complaints, timestamps=False, headers=headers)
    client.close()
    return client.name


@pytest.mark.parametrize(
    "config",
    [
        {}, {"client.id": "me"}, {"isolation.level": "READ_UNCOMMITTED"}, {"error_cb": print},
        {"isolation.level": lambda: "read_committed"}, {"sasl.password": "unused", "ssl.ca.location": "unused"},
        {"fetch.max.bytes": 2_000_000}, {"fetch.max.bytes": "200000", "message.max.bytes": 150_000},
        {"queued.min.messages": 1, "queued.max.messages.kbytes": 100}, {"socket.timeout.ms": 5000},
    ],
)  # fmt: skip
def test_it_reads_where_nothing_is_set_that_it_does_not_know(config, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)

    assert opened(config) == "direct"


@pytest.mark.parametrize(
    "config",
    [
        {"security.protocol": "ssl"}, {"client.rack": "a"}, {"debug": "fetch"}, {"stats_cb": print},
        {"security.protocol": "sasl_plaintext", "sasl.username": "me", "sasl.password": "x", "sasl.mechanism": "PLAIN"},
        {"fetch.wait.max.ms": 100}, {"check.crcs": False},
    ],
)  # fmt: skip
def test_with_any_other_property_librdkafka_reads(config, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)

    assert opened(config) != "direct"


def test_headers_are_read_by_librdkafka(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)

    assert opened(headers=True) != "direct"


def test_without_the_extension_librdkafka_reads(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(direct, "_built", False)

    assert opened() != "direct"


@pytest.mark.parametrize("choice", ["native", "python"])
def test_the_environment_can_forbid_it(choice, monkeypatch):
    if choice == "native":
        pytest.importorskip("kafkapipes.kafka._native")
    monkeypatch.setenv(VARIABLE, choice)

    assert opened() == choice


def test_asked_for_where_it_cannot_be_had_it_is_an_error_that_says_why(monkeypatch):
    monkeypatch.setenv(VARIABLE, "direct")

    assert opened() == "direct"
    for asked, why in (
        (lambda: opened({"client.rack": "a"}), "client.rack"),
        (lambda: opened(headers=True), "headers"),
        (lambda: opened({"isolation.level": "any"}), "isolation.level"),
        (lambda: opened({"fetch.max.bytes": 10}), "fetch.max.bytes is less than"),
        (lambda: opened({"queued.min.messages": 0}), "queued.min.messages"),
        (lambda: opened({"queued.min.messages": "0x10"}), "queued.min.messages"),
        (lambda: opened({"socket.timeout.ms": True}), "socket.timeout.ms"),
    ):
        with pytest.raises(ConfigError, match=f"KAFKAPIPES_CLIENT is 'direct', but .*{why}"):
            asked()
    monkeypatch.setattr(direct, "_built", False)
    with pytest.raises(ConfigError, match="C compiler"):
        opened()


def test_the_report_names_both_clients_where_it_handed_over(embedded, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    embedded.fill("t", [(b"a", None)] * 3)
    reader = RangeParser("t:0:0:3").read_partitions(embedded.bootstrap_servers)
    assert sum(map(len, reader)) == 3
    assert [account.client for account in reader.report] == ["direct"]

    monkeypatch.setattr(direct, "fetched", lambda *args, **options: (_ for _ in ()).throw(direct.ProtocolError("no")))
    reader = RangeParser("t:0:0:3").read_partitions(embedded.bootstrap_servers)
    assert sum(map(len, reader)) == 3
    assert [account.client.startswith("direct, then ") for account in reader.report] == [True]
