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


def arrays(count):
    return [np.empty(count, np.int64) for _ in range(3)]


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

    with pytest.raises(ConfigError, match="KAFKAPIPES_CLIENT is 'fast', wanted one of 'auto', 'native', 'python'"):
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
    library.push(offset=5, value=(b"value", 5), key=(b"k", 1))
    library.push(offset=9, value=(b"", 0))
    offsets, key_lengths, value_lengths = arrays(3)
    assert consumer.fetch(0, offsets, key_lengths, value_lengths) == (2, [])
    keys, values, timestamps = np.zeros(1, np.uint8), np.zeros(5, np.uint8), np.zeros(2, np.int64)

    consumer.copy(2, keys, values, timestamps)

    assert (offsets[:2].tolist(), key_lengths[:2].tolist(), value_lengths[:2].tolist()) == ([5, 9], [1, -1], [5, 0])
    assert (keys.tobytes(), values.tobytes(), timestamps.tolist()) == (b"k", b"value", [5000, 9000])


@pytest.mark.parametrize("sizes", [(0, 5), (2, 5), (1, 4), (1, 6), (0, 0)])
def test_a_buffer_of_another_size_is_refused_and_its_neighbours_are_not_written_to(library, consumer, sizes):
    library.push(value=(b"value", 5), key=(b"k", 1))
    consumer.fetch(0, *arrays(1))
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
    _, _, value_lengths = columns = arrays(1)
    consumer.fetch(0, *columns)
    assert value_lengths[0] == length

    with pytest.raises(ValueError, match="exactly the size"):
        consumer.copy(1, np.empty(0, np.uint8), np.empty(5, np.uint8))


def test_records_that_nobody_took_are_freed(library, consumer):
    for fetch in ("by the next call", "by drop", "by close"):
        library.push(value=(fetch.encode(), len(fetch)))
        consumer.fetch(0, *arrays(1))
        assert library.count("alive") == 4
    consumer.drop()
    assert library.count("alive") == 3
    library.push()
    consumer.fetch(0, *arrays(1))


GARBAGE = [
    ("fetch", ()),
    ("fetch", (0, None, None, None)),
    ("fetch", (0, b"read-only", b"read-only", b"read-only")),
    ("fetch", (-1, *arrays(1))),
    ("fetch", (2**40, *arrays(1))),
    ("fetch", ("soon", *arrays(1))),
    ("fetch", (0, *arrays(0))),
    ("fetch", (0, *arrays(1_000_001))),
    ("fetch", (0, *arrays(2)[:2], *arrays(1)[:1])),
    ("fetch", (0, *[np.empty(2, np.int64)[::-1] for _ in range(3)])),
    ("fetch", (0, *[np.empty(17, np.uint8)[1:] for _ in range(3)])),
    ("copy", ()),
    ("copy", (2, np.empty(1, np.uint8), np.empty(5, np.uint8))),
    ("copy", (-1, np.empty(1, np.uint8), np.empty(5, np.uint8))),
    ("copy", (2**70, np.empty(1, np.uint8), np.empty(5, np.uint8))),
    ("copy", (1, b"k", b"value")),
    ("copy", (1, np.empty(1, np.uint8), np.empty(5, np.uint8), np.empty(2, np.int64))),
    ("copy", (1, np.empty(1, np.uint8), np.empty(5, np.uint8), "now")),
    ("epoch", (1,)),
    ("epoch", (-1,)),
    ("epoch", (2**63 - 1,)),
    ("epoch", (-(2**63),)),
    ("origins", (2,)),
    ("origins", (-1,)),
    ("headers", (2,)),
    ("assign", ("t",)),
    ("assign", ("a\0b", 0, 0)),
    ("assign", ("t", 2**31, 0)),
    ("assign", ("t", 0, 2**63)),
    ("seek", ("t", 0, 0, 0)),
    ("seek", (None, 0, 0, 0, 0)),
]


@pytest.mark.parametrize(("method", "arguments"), GARBAGE)
def test_arguments_that_make_no_sense_are_refused(library, consumer, method, arguments):
    library.push(value=(b"value", 5), key=(b"k", 1))
    consumer.fetch(0, *arrays(1))

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
    _, ((_, _, text, topic, _, _),) = consumer.fetch(0, *arrays(1))

    assert (text, topic) == ("why \ufffd", "t\ufffd")


LENGTHS = st.one_of(st.none(), st.binary(max_size=40), st.binary(min_size=8, max_size=8))
MESSAGES = st.lists(
    st.tuples(st.sampled_from([0, 0, 0, 0, KafkaError._PARTITION_EOF, KafkaError._TRANSPORT]), LENGTHS, LENGTHS),
    max_size=60,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(messages=MESSAGES, records=st.integers(1, 70), taken=st.integers(0, 70), stamped=st.booleans())
def test_whatever_comes_is_copied_as_it_is(library, monkeypatch, messages, records, taken, stamped):
    library.forget()
    client = library.client(monkeypatch, timestamps=stamped, headers=stamped)
    for offset, (code, value, key) in enumerate(messages):
        library.push(code, offset=offset, value=(value, len(value or b"")), key=(key, len(key or b"")))
    first = messages[:records]
    expected = [(offset, value, key) for offset, (code, value, key) in enumerate(first) if code == 0][:taken]

    with client.fetch(records, 0.0) as fetched:
        codes = [word.error.code() for word in fetched.words]
        rows = [word.row for word in fetched.words]
        batch = fetched.batch(min(taken, len(fetched.offsets)), ACCOUNT)
    client.close()

    assert list(zip(batch.offsets.tolist(), batch.values, batch.keys, strict=True)) == expected
    assert codes == [code for code, _, _ in first if code]
    assert rows == [sum(c == 0 for c, _, _ in first[:place]) for place, (code, _, _) in enumerate(first) if code]
    if stamped:
        assert batch.timestamps.tolist() == [offset * 1000 for offset, _, _ in expected]
        assert batch.headers == [[("key", key)] if key is not None else [] for _, _, key in expected]
    assert (library.count("alive"), library.count("freed_twice")) == (0, 0)


def test_no_call_keeps_what_it_was_given(library, consumer):
    library.push(value=(b"value", 5), key=(b"k", 1))
    given_ = [*arrays(1), np.empty(1, np.uint8), np.empty(5, np.uint8), np.empty(1, np.int64)]
    before = [sys.getrefcount(item) for item in given_]

    consumer.fetch(0, *given_[:3])
    consumer.headers(1)
    consumer.origins(1)
    consumer.copy(1, *given_[3:])

    assert [sys.getrefcount(item) for item in given_] == before


def test_many_calls_take_no_memory_for_good(library, monkeypatch):
    def rounds(count):
        for _ in range(count):
            library.forget()
            library.push(KafkaError._TRANSPORT, text="a word")
            library.push(value=(b"value", 5), key=(b"k", 1))
            consumer.fetch(0, *columns)
            consumer.origins(1), consumer.headers(1), consumer.epoch(0), consumer.events()
            consumer.copy(1, *buffers)
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
        lambda consumer: consumer.fetch(0, *arrays(1)),
        lambda consumer: consumer.assign("t", 0, 0),
        lambda consumer: consumer.unassign(),
        lambda consumer: consumer.seek("t", 0, 0, 0, 0),
        lambda consumer: consumer.epoch(0),
        lambda consumer: consumer.origins(0),
        lambda consumer: consumer.headers(0),
        lambda consumer: consumer.copy(0, np.empty(0, np.uint8), np.empty(0, np.uint8)),
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
    consumer.fetch(0, *arrays(1))

    del consumer

    assert (library.count("alive"), library.count("freed_twice")) == (0, 0)


@pytest.fixture
def waiting():
    """A real consumer with nothing to read, in which another thread waits for 0.5 s."""
    consumer = _native.Consumer(native.library_path(), [("bootstrap.servers", "127.0.0.1:1"), ("group.id", "g")])
    thread = threading.Thread(target=consumer.fetch, args=(500, *arrays(1)))
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
    assert consumer.fetch(5000, *arrays(10))[0] == 10
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            consumer.fetch(0, *arrays(1))
        except RuntimeError as exc:
            code = 0 if "belongs to process" in str(exc) else 2
        consumer.close()
        del consumer
        gc.collect()
        os._exit(code)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert consumer.fetch(5000, *arrays(10))[0] == 10
    consumer.close()


LEFT_OPEN = """
import threading, numpy as np
from kafkapipes.kafka import _native, native
properties = [("bootstrap.servers", {servers!r}), ("group.id", "g")]
consumers = [_native.Consumer(native.library_path(), properties) for _ in range(2)]
arrays = lambda: [np.empty(10, np.int64) for _ in range(3)]
consumers[0].assign("t", 0, 0)
print(consumers[0].fetch(5000, *arrays())[0], flush=True)
threading.Thread(target=consumers[1].fetch, args=(60_000, *arrays()), daemon=True).start()
"""


def test_an_interpreter_may_end_with_consumers_open_and_in_use(embedded):
    embedded.fill("t", [(b"a", None)] * 10)
    command = [sys.executable, "-c", LEFT_OPEN.format(servers=embedded.bootstrap_servers)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout, done.stderr) == (0, "10\n", "")


def read_in_a_process(servers, queue):
    reader = RangeParser("t:0:0:100").read_partitions(servers)
    queue.put((sum(map(len, reader)), reader.report[0].client))


def test_a_fork_makes_its_own_client(unset, embedded):
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
