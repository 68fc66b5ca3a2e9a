"""What only the native client can get wrong: memory, threads, forks, and the choice of it."""

import gc
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import KafkaError, KafkaException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kafkapipes import ConfigError, RangeParser
from kafkapipes.kafka import native
from kafkapipes.kafka.config import ClientConfig
from kafkapipes.kafka.failures import Complaints
from kafkapipes.kafka.native import VARIABLE, open_client
from kafkapipes.ranges import OffsetRange
from kafkapipes.report import RangeReport

_native = pytest.importorskip("kafkapipes.kafka._native", reason="kafkapipes was installed without its extension")
ACCOUNT = RangeReport(OffsetRange("t", 0, 0, 100), 0, 100)


def opened(config=None):
    """The client that reads with these properties."""
    configuration = ClientConfig("127.0.0.1:1", "g", config)
    complaints = Complaints(configuration)
    properties = complaints.listening(configuration.consumer())
    client = open_client(properties, complaints, timestamps=False, headers=False)
    client.close()
    return client.name


NOTHING = np.empty(0, np.uint8)


def arrays(count):
    """Offsets, lengths of keys, lengths of values, epochs."""
    return [*(np.empty(count, np.int64) for _ in range(3)), np.empty(count, np.int32)]


def fetch(consumer, columns, timeout_ms=0, keys=NOTHING, key_length=-2, values=NOTHING, value_length=-2, stamps=None):
    """(rows, laid, stray, words) of one fetch; nothing is laid unless lengths are given."""
    return consumer.fetch(timeout_ms, *columns, keys, key_length, values, value_length, stamps)


@pytest.fixture
def library(fake_library):
    fake_library.forget()
    return fake_library


@pytest.fixture
def consumer(library):
    """A bare Consumer of a library that says what it is told; all that it was given is freed in the end."""
    made = _native.Consumer(library.path, [])
    yield made
    made.close()
    assert (library.count("alive"), library.count("freed_twice")) == (0, 0)


# The choice


@pytest.fixture
def unset(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def test_the_native_client_reads_where_it_can_be_had(unset):
    assert opened() == "native"


def test_the_environment_may_ask_for_the_python_client(monkeypatch):
    monkeypatch.setenv(VARIABLE, "python")

    assert opened() == "python"


def test_another_word_in_the_environment_is_an_error(monkeypatch):
    monkeypatch.setenv(VARIABLE, "fast")

    with pytest.raises(ConfigError, match=r"KAFKAPIPES_CLIENT is 'fast', wanted one of 'auto', 'direct', 'nat"):
        opened()


def ignore(*_):
    pass


def token(_):
    return "token", time.time() + 3600


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"throttle_cb": ignore}, "config holds throttle_cb"),
        ({"on_commit": ignore}, "config holds on_commit"),
        ({"sasl.mechanism": "OAUTHBEARER", "security.protocol": "sasl_ssl", "oauth_cb": token}, "oauth_cb"),
        (
            {"sasl.mechanisms": "OAUTHBEARER", "security.protocol": "sasl_ssl",
             "enable.sasl.oauthbearer.unsecure.jwt": True, "sasl.oauthbearer.config": "principal=me"},
            "OAUTHBEARER",
        ),
    ],
)  # fmt: skip
def test_what_it_cannot_do_the_python_client_does_or_it_is_said(unset, monkeypatch, config, why):
    assert opened(config) == "python"

    monkeypatch.setenv(VARIABLE, "native")
    with pytest.raises(ConfigError, match=rf"KAFKAPIPES_CLIENT is 'native', but .*{why}"):
        opened(config)


def test_the_callbacks_that_are_heard_beside_a_read_are_no_obstacle(unset):
    assert opened({"error_cb": ignore, "stats_cb": ignore, "logger": logging.getLogger()}) == "native"


@pytest.fixture
def fresh():
    """No answer about this installation is kept."""
    native._missing.cache_clear()
    yield
    native._missing.cache_clear()


def test_without_its_extension_the_python_client_reads(unset, fresh, monkeypatch):
    monkeypatch.setattr(native, "_built", False)

    assert opened() == "python"
    assert "C compiler" in native._missing()


def test_without_a_library_beside_confluent_kafka_the_python_client_reads(unset, fresh, monkeypatch):
    monkeypatch.setattr(native, "library_path", lambda: None)

    assert opened() == "python"
    assert "binary wheel" in native._missing()


@pytest.mark.parametrize("version", [0x020D00FF, 0x030000FF])
def test_a_library_of_another_version_is_not_used(unset, fresh, library, monkeypatch, version):
    monkeypatch.setattr(native, "library_path", lambda: library.path)
    library.set("version", version)
    try:
        assert opened() == "python"
        assert f"{version:#010x}" in native._missing()
    finally:
        library.set("version", 0x021000FF)


def test_a_file_that_is_no_such_library_is_not_used(unset, fresh, monkeypatch, tmp_path):
    (tmp_path / "librdkafka.so").write_text("not a library")
    monkeypatch.setattr(native, "library_path", lambda: tmp_path / "librdkafka.so")

    assert opened() == "python"


def test_a_library_that_lacks_a_function_is_named_with_it():
    with pytest.raises(OSError, match="has no rd_kafka_version"):
        _native.version(_native.__file__)


# Memory


def test_records_go_into_buffers_that_they_fill(library, consumer):
    library.push(offset=5, epoch=3, value=(b"value", 5), key=(b"k", 1))
    library.push(offset=9, epoch=4, value=(b"", 0))
    offsets, key_lengths, value_lengths, epochs = columns = arrays(3)
    timestamps, keys, values = np.zeros(3, np.int64), np.zeros(1, np.uint8), np.zeros(5, np.uint8)
    assert fetch(consumer, columns, stamps=timestamps) == (2, 0, (0, "t", 0), [])

    consumer.copy(2, keys, values)

    assert (offsets[:2].tolist(), key_lengths[:2].tolist(), value_lengths[:2].tolist()) == ([5, 9], [1, -1], [5, 0])
    assert (keys.tobytes(), values.tobytes(), timestamps.tolist()) == (b"k", b"value", [5000, 9000, 0])
    assert epochs[:2].tolist() == [3, 4]


def test_records_of_the_lengths_expected_are_laid_as_they_come(library, consumer):
    for number in range(2000):  # several chunks
        library.push(offset=number, value=(b"%04d" % number, 4), key=(b"%d" % (number % 10), 1))
    keys, values, columns = np.zeros(2000, np.uint8), np.zeros(8000, np.uint8), arrays(2000)

    assert fetch(consumer, columns, 1000, keys, 1, values, 4)[:2] == (2000, 2000)

    assert keys.tobytes() == b"0123456789" * 200
    assert values.tobytes() == b"".join(b"%04d" % number for number in range(2000))
    assert columns[0].tolist() == list(range(2000))
    assert library.count("alive") == 3  # the client and its two queues


ODD = [(b"longer", 6), (b"sho", 3), (b"", 0), (None, 0)]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("place", [0, 1, 499, 500, 501, 998, 999])
def test_a_record_of_another_length_and_those_behind_it_are_held(library, consumer, odd, place):
    for number in range(1000):
        library.push(offset=number, value=odd if number == place else (b"good", 4), key=(None, 0))
    values = np.full(4000, 7, np.uint8)

    rows, laid, _, _ = fetch(consumer, arrays(1000), 1000, NOTHING, -1, values, 4)

    assert (laid, rows - laid) == (place, min(1000, 500 * (1 + place // 500)) - place)
    assert values.tobytes() == b"good" * place + b"\7" * (4000 - 4 * place)
    assert library.count("alive") == 3 + rows - laid
    tail = np.empty(4 * (rows - laid - 1) + odd[1], np.uint8)
    consumer.copy(rows - laid, NOTHING, tail)
    assert tail.tobytes() == (odd[0] or b"") + b"good" * (rows - laid - 1)


@pytest.mark.parametrize(
    ("key_room", "value_room", "laid"), [(3, 12, 3), (2, 12, 2), (3, 11, 2), (3, 3, 0), (0, 12, 0)]
)
def test_no_more_is_laid_than_there_is_room_for(library, consumer, key_room, value_room, laid):
    for number in range(3):
        library.push(offset=number, value=(b"good", 4), key=(b"k", 1))
    room = np.full(64, 7, np.uint8)
    keys, values = room[8 : 8 + key_room], room[32 : 32 + value_room]

    assert fetch(consumer, arrays(3), 0, keys, 1, values, 4)[:2] == (3, laid)

    around = np.delete(room, [*range(8, 8 + laid), *range(32, 32 + 4 * laid)])
    assert set(around.tolist()) == {7}


def test_a_word_ends_a_fetch_so_that_it_is_heard_in_its_place(library, consumer):
    for number in range(1200):
        library.push(KafkaError._PARTITION_EOF if number == 700 else 0, offset=number, value=(b"good", 4))
    values = np.zeros(4800, np.uint8)

    rows, laid, _, words = fetch(consumer, arrays(1200), 1000, NOTHING, -1, values, 4)

    assert (rows, laid, [word[0] for word in words]) == (999, 999, [700])


def test_a_record_of_elsewhere_is_named(library, consumer):
    consumer.assign("t", 3, 0)
    for partition, topic in ((3, "t"), (3, "t"), (4, "t"), (3, "u")):
        library.push(partition=partition, topic=topic, value=(b"good", 4))

    assert fetch(consumer, arrays(4))[2] == (2, "t", 4)


@pytest.mark.parametrize("sizes", [(0, 5), (2, 5), (1, 4), (1, 6), (0, 0)])
def test_a_buffer_of_another_size_is_refused_and_its_neighbours_are_not_written_to(library, consumer, sizes):
    library.push(value=(b"value", 5), key=(b"k", 1))
    fetch(consumer, arrays(1))
    room = np.full(64, 7, np.uint8)
    keys, values = room[8 : 8 + sizes[0]], room[32 : 32 + sizes[1]]

    with pytest.raises(ValueError, match="exactly the size"):
        consumer.copy(1, keys, values)

    around = np.delete(room, [*range(8, 8 + sizes[0]), *range(32, 32 + sizes[1])])
    assert set(around.tolist()) == {7}
    assert library.count("alive") == 3  # the client and its two queues


@pytest.mark.parametrize("length", [2**31, 2**62, 2**63 - 1])
def test_a_length_beyond_all_memory_is_no_write(library, consumer, length):
    library.push(value=(b"short", length))
    _, _, value_lengths, _ = columns = arrays(1)
    fetch(consumer, columns)
    assert value_lengths[0] == length

    with pytest.raises(ValueError, match="exactly the size"):
        consumer.copy(1, np.empty(0, np.uint8), np.empty(5, np.uint8))


def test_records_that_nobody_took_are_freed(library, consumer):
    for _ in range(2):
        library.push(value=(b"value", 5))
        fetch(consumer, arrays(1))
        assert library.count("alive") == 4  # by the next call one of them is freed
    consumer.drop()
    assert library.count("alive") == 3
    library.push()
    fetch(consumer, arrays(1))


LANES = (NOTHING, -2, NOTHING, -2)
GARBAGE = [
    ("fetch", ()),
    ("fetch", (0, None, None, None, None, *LANES)),
    ("fetch", (0, b"read-only", b"read-only", b"read-only", b"read-only", *LANES)),
    ("fetch", (-1, *arrays(1), *LANES)),
    ("fetch", (2**40, *arrays(1), *LANES)),
    ("fetch", ("soon", *arrays(1), *LANES)),
    ("fetch", (0, *arrays(0), *LANES)),
    ("fetch", (0, *arrays(1_000_001), *LANES)),
    ("fetch", (0, *arrays(2)[:3], np.empty(2, np.int64), *LANES)),
    ("fetch", (0, *arrays(2)[:2], *arrays(1)[2:], *LANES)),
    ("fetch", (0, *[np.empty(4, np.int64)[::2] for _ in range(3)], np.empty(2, np.int32), *LANES)),
    ("fetch", (0, *[np.empty(17, np.uint8)[1:] for _ in range(3)], np.empty(2, np.int32), *LANES)),
    ("fetch", (0, *arrays(1), NOTHING, 2**63, NOTHING, 0)),
    ("fetch", (0, *arrays(1), b"", 0, b"", 0)),
    ("fetch", (0, *arrays(1), *LANES, np.empty(2, np.int64))),
    ("fetch", (0, *arrays(1), *LANES, "now")),
    ("copy", ()),
    ("copy", (2, np.empty(1, np.uint8), np.empty(5, np.uint8))),
    ("copy", (-1, np.empty(1, np.uint8), np.empty(5, np.uint8))),
    ("copy", (2**70, np.empty(1, np.uint8), np.empty(5, np.uint8))),
    ("copy", (1, b"k", b"value")),
    ("headers", (2,)),
    ("headers", (-1,)),
    ("assign", ("t",)),
    ("assign", ("a\0b", 0, 0)),
    ("assign", ("t" * 250, 0, 0)),
    ("assign", ("t", 2**31, 0)),
    ("assign", ("t", 0, 2**63)),
    ("seek", ("t", 0, 0, 0)),
    ("seek", (None, 0, 0, 0, 0)),
]


@pytest.mark.parametrize(("method", "arguments"), GARBAGE)
def test_arguments_that_make_no_sense_are_refused(library, consumer, method, arguments):
    library.push(value=(b"value", 5), key=(b"k", 1))
    fetch(consumer, arrays(1))

    with pytest.raises((TypeError, ValueError, IndexError, OverflowError, BufferError)):
        getattr(consumer, method)(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [(), (None, []), ("/no/such/library", []), ("a\0b", []), (__file__, [])],
)
def test_a_consumer_of_no_library_is_refused(arguments):
    with pytest.raises((TypeError, ValueError, OSError)):
        _native.Consumer(*arguments)


@pytest.mark.parametrize("properties", [None, 5, "ab", [("a",)], [("a", 1)], [["a", "b"]], [("a", "b\0c")], [None]])
def test_properties_that_are_no_texts_are_refused_and_leave_nothing_behind(library, properties):
    with pytest.raises((TypeError, ValueError)):
        _native.Consumer(library.path, properties)

    assert library.count("alive") == 0


def test_a_property_that_the_library_refuses_is_an_error_in_its_words(library):
    with pytest.raises(_native.Error) as refusal:
        _native.Consumer(library.path, [("fine", "x"), ("refused", "because")])

    assert refusal.value.args == (KafkaError._INVALID_ARG, "because")
    assert library.count("alive") == 0


def test_a_client_that_cannot_be_made_is_an_error_in_the_librarys_words(library):
    library.set("last_error", KafkaError._FAIL)

    with pytest.raises(_native.Error) as refusal:
        _native.Consumer(library.path, [])

    assert refusal.value.args == (KafkaError._FAIL, "Failed to create consumer: not today")
    assert library.count("alive") == 0


@pytest.mark.parametrize(
    "call", [lambda client: client.assign("t", 0, 0), lambda client: client.seek("t", 0, 0, 0), lambda c: c.unassign()]
)
def test_a_call_that_the_library_refuses_is_an_exception_of_the_client(library, monkeypatch, call):
    client = library.client(monkeypatch)
    library.set("last_error", KafkaError._STATE)

    with pytest.raises(KafkaException) as refusal:
        call(client)

    assert refusal.value.args[0].code() == KafkaError._STATE
    client.close()


def test_a_fetch_that_the_library_refuses_is_an_exception_of_the_client(library, monkeypatch):
    client = library.client(monkeypatch)
    library.set("last_error", KafkaError._STATE)
    library.set("got", -1)

    with pytest.raises(KafkaException), client.fetch(1, 0.0):
        pass
    client.close()


def test_text_that_is_no_utf8_is_shown_and_not_fatal(library, consumer):
    library._library.fake_push(-1, b"t\xff", 0, 0, -1, None, 0, None, 0, b"why \xfe")
    *_, ((_, _, text, topic, _, _),) = fetch(consumer, arrays(1))

    assert (text, topic) == ("why \ufffd", "t\ufffd")


LENGTHS = st.one_of(st.just(b"8 bytes."), st.just(b"8 bytes."), st.none(), st.binary(max_size=40))
MESSAGES = st.lists(
    st.tuples(st.sampled_from([0] * 9 + [KafkaError._PARTITION_EOF, KafkaError._TRANSPORT]), LENGTHS, LENGTHS),
    max_size=60,
)


class Rooms:
    """A destination in the middle of memory of which nothing else may be written to."""

    def __init__(self, most):
        self.most, self.memory, self.given = most, np.full(10_000, 7, np.uint8), []

    def room_for_values(self, rows, row_bytes, first=100):
        if rows * row_bytes > self.most:
            return None
        self.given.append((first, first + rows * row_bytes))
        return self.memory[first : first + rows * row_bytes]

    def room_for_keys(self, rows, row_bytes):
        return self.room_for_values(rows, row_bytes, 5000)

    @property
    def around(self):
        untouched = self.memory.copy()
        for first, last in self.given:
            untouched[first:last] = 7
        return set(untouched.tolist())


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(
    fetches=st.lists(MESSAGES, min_size=1, max_size=4), records=st.integers(1, 70), taken=st.integers(1, 70),
    stamped=st.booleans(), headers=st.booleans(), most=st.sampled_from([0, 100, 4800]),
)  # fmt: skip
def test_whatever_comes_is_copied_as_it_is(library, monkeypatch, fetches, records, taken, stamped, headers, most):
    """Several fetches, so that the lengths of one are what the next one expects."""
    library.forget()
    client = library.client(monkeypatch, timestamps=stamped, headers=headers)
    client.assign("t", 0, 0)
    rooms = Rooms(most)
    for messages in fetches:
        for offset, (code, value, key) in enumerate(messages):
            library.push(code, offset=offset, value=(value, len(value or b"")), key=(key, len(key or b"")))
        library._library.fake_end_fetch()
    # An empty list is a fetch that brings nothing.
    pieces = [list_[at : at + records] for list_ in fetches for at in range(0, max(1, len(list_)), records)]
    for piece in pieces:
        check_fetch(client, records, taken, rooms, piece)
    client.close()

    assert rooms.around <= {7}
    assert (library.count("alive"), library.count("freed_twice")) == (0, 0)


def check_fetch(client, records, taken, rooms, piece):
    """One fetch gives exactly `piece`, of which the first `taken` records are taken."""
    with client.fetch(records, 0.0, rooms) as fetched:
        codes, rows = [word.error.code() for word in fetched.words], [word.row for word in fetched.words]
        origins, count = fetched.origins(len(fetched.offsets)), min(taken, len(fetched.offsets))
        batch = fetched.batch(count, ACCOUNT) if count else None
    good = [(value, key) for code, value, key in piece if code == 0]

    assert codes == [code for code, _, _ in piece if code]
    assert rows == [sum(c == 0 for c, _, _ in piece[:place]) for place, (code, _, _) in enumerate(piece) if code]
    assert origins == {("t", 0)}
    assert (batch is None) == (not good)
    if batch is None:
        return
    assert list(zip(batch.values, batch.keys, strict=True)) == good[:count]
    if batch.timestamps is not None:
        assert batch.timestamps.tolist() == [offset * 1000 for offset in batch.offsets.tolist()]
    if batch.headers is not None:
        assert batch.headers == [[("key", key)] if key is not None else [] for _, key in good[:count]]


def test_no_call_keeps_what_it_was_given(library, consumer):
    library.push(value=(b"value", 5), key=(b"k", 1))
    given_ = [*arrays(1), np.empty(1, np.uint8), np.empty(5, np.uint8), np.empty(1, np.int64)]
    before = [sys.getrefcount(item) for item in given_]

    for _ in range(3):
        fetch(consumer, given_[:4], 0, given_[4], -2, given_[5], -2, given_[6])
        with suppress(ValueError):
            consumer.fetch(-1, *given_[:4], given_[4], 1, given_[5], 5, given_[6])
        with suppress(TypeError):
            consumer.fetch(0, *given_[:4], given_[4], 1, given_[5], "five")
    with suppress(IndexError):
        consumer.copy(9, *given_[4:6])
    consumer.copy(0, NOTHING, NOTHING)

    assert [sys.getrefcount(item) for item in given_] == before


def test_many_calls_take_no_memory_for_good(library, monkeypatch):
    def rounds(count):
        for _ in range(count):
            library.forget()
            library.push(KafkaError._TRANSPORT, text="a word")
            library.push(value=(b"value", 5), key=(b"k", 1))
            fetch(consumer, columns)
            consumer.headers(1), consumer.events()
            consumer.copy(1, *buffers)
            library.push(value=(b"value", 5), key=(b"k", 1))
            fetch(consumer, columns, 0, buffers[0], 1, buffers[1], 5)
            with suppress(IndexError):
                consumer.copy(9, *buffers)
            consumer.assign("t", 0, 0)

    columns, buffers = arrays(2), [np.empty(1, np.uint8), np.empty(5, np.uint8)]
    consumer = _native.Consumer(library.path, [])
    rounds(1000)
    gc.collect()
    before = resident()
    rounds(20_000)
    gc.collect()

    assert resident() - before < 2**20


def resident():
    """Bytes of this process's memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# Closing, threads, forks, the end of the interpreter


@pytest.mark.parametrize(
    "call",
    [
        lambda consumer: fetch(consumer, arrays(1)),
        lambda consumer: consumer.assign("t", 0, 0),
        lambda consumer: consumer.unassign(),
        lambda consumer: consumer.seek("t", 0, 0, 0, 0),
        lambda consumer: consumer.headers(0),
        lambda consumer: consumer.copy(0, NOTHING, NOTHING),
        lambda consumer: consumer.drop(),
        lambda consumer: consumer.events(),
    ],
)
def test_a_closed_consumer_is_not_used(consumer, call):
    consumer.close()

    with pytest.raises(RuntimeError, match="closed"):
        call(consumer)


def test_closing_twice_is_closing_once(library, consumer):
    consumer.close()
    consumer.close()

    assert library.count("alive") == 0


def test_a_consumer_that_is_forgotten_frees_what_it_has(library):
    library.push()
    consumer = _native.Consumer(library.path, [])
    fetch(consumer, arrays(1))

    del consumer

    assert (library.count("alive"), library.count("freed_twice")) == (0, 0)


@pytest.fixture
def waiting():
    """A real consumer with nothing to read, in which another thread waits for 0.5 s."""
    consumer = _native.Consumer(native.library_path(), [("bootstrap.servers", "127.0.0.1:1"), ("group.id", "g")])
    thread = threading.Thread(target=fetch, args=(consumer, arrays(1), 500))
    thread.start()
    time.sleep(0.1)
    yield consumer
    thread.join()
    consumer.close()


@pytest.mark.parametrize("method", ["close", "drop", "events", "unassign"])
def test_a_second_thread_is_refused(waiting, method):
    with pytest.raises(RuntimeError, match="in use by another thread"):
        getattr(waiting, method)()


def test_a_fetch_lets_other_threads_run(waiting):
    began, turns = time.monotonic(), 0
    while time.monotonic() - began < 0.1:
        turns += 1

    assert turns > 100


def test_a_fork_neither_uses_nor_frees_what_it_inherits(embedded):
    embedded.fill("t", [(b"a", None)] * 100)
    consumer = _native.Consumer(
        native.library_path(), [("bootstrap.servers", embedded.bootstrap_servers), ("group.id", "g")]
    )
    consumer.assign("t", 0, 0)
    assert fetch(consumer, arrays(10), 5000)[0] == 10
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            fetch(consumer, arrays(1))
        except RuntimeError as exc:
            code = 0 if "belongs to process" in str(exc) else 2
        consumer.close()
        del consumer
        gc.collect()
        os._exit(code)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert fetch(consumer, arrays(10), 5000)[0] == 10
    consumer.close()


LEFT_OPEN = """
import threading, numpy as np
from kafkapipes.kafka import _native, native
properties = [("bootstrap.servers", {servers!r}), ("group.id", "g")]
consumers = [_native.Consumer(native.library_path(), properties) for _ in range(2)]
def fetch(consumer, timeout_ms):
    arrays = [*(np.empty(10, np.int64) for _ in range(3)), np.empty(10, np.int32)]
    return consumer.fetch(timeout_ms, *arrays, np.empty(0, np.uint8), -2, np.empty(0, np.uint8), -2)
consumers[0].assign("t", 0, 0)
print(fetch(consumers[0], 5000)[0], flush=True)
threading.Thread(target=fetch, args=(consumers[1], 60_000), daemon=True).start()
"""


def test_an_interpreter_may_end_with_consumers_open_and_in_use(embedded):
    embedded.fill("t", [(b"a", None)] * 10)
    command = [sys.executable, "-c", LEFT_OPEN.format(servers=embedded.bootstrap_servers)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout, done.stderr) == (0, "10\n", "")


def read_in_a_process(servers, queue):
    reader = RangeParser("t:0:0:100").read_partitions(servers)
    queue.put((sum(map(len, reader)), reader.report[0].client))


def test_a_fork_makes_its_own_client(embedded, monkeypatch):
    monkeypatch.setenv(VARIABLE, "native")
    embedded.fill("t", [(b"a", None)] * 100)
    reader = RangeParser("t:0:0:100").read_partitions(embedded.bootstrap_servers, batch_records=10)
    batches = iter(reader)
    next(batches)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=read_in_a_process, args=(embedded.bootstrap_servers, queue))
    process.start()

    assert queue.get(timeout=30) == (100, "native")
    process.join(30)
    assert process.exitcode == 0
    assert 10 + sum(map(len, batches)) == 100
