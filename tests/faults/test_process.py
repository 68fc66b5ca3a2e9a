"""Processes: consumers across a fork, errors and deaths of workers, signals, and what is committed to a group."""

import gc
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from torch.utils.data import DataLoader, IterDataPipe

import kafkapipes.errors
from kafkapipes import ConfigError, KafkaPipesError, RangeParser, TrainingKafkaDataset
from kafkapipes.kafka.fetcher import Fetcher
from kafkapipes.kafka.watch import TopicWatch
from kafkapipes.testing import EmbeddedKafka
from tests.faults.harness import LITTLE_AHEAD, Outcome, _as_it_is, _Flat, ledger, read, records
from tests.faults.proxy import proxied_mock
from tests.faults.reading import Readings, Terminated

RECORDS = 200
TEXT = f"t:0:0:{RECORDS}"
TRUTH = ledger("t", range(RECORDS))
MANY = 4000  # of 1 kB: at 2 MB a second and connection, a read of some seconds
CLASSES = [kind for kind in vars(kafkapipes.errors).values() if isinstance(kind, type)]
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]


@pytest.fixture
def kafka(embedded):
    embedded.fill("t", records("t", range(RECORDS)))
    return embedded


def flat(kafka, batch_records=10):
    """The chain of the harness: lists of (coordinates, value)."""
    reader = RangeParser(TEXT).read_partitions(kafka.bootstrap_servers, batch_records=batch_records)
    return _Flat(reader.decode_bytes("bytes"))


def rows_of(batches):
    return [row for batch in batches for row in batch]


def in_a_fork(action):
    """Run `action` in a fork of this process; its exit code, 0 where it returned."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.case(36)
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
@pytest.mark.parametrize("workers", [0, 1, 4])
def test_workers_started_amid_a_read_and_that_read_each_deliver_all_once(kafka, verdict, workers, start_method):
    begun = iter(flat(kafka))
    rows = next(begun)
    context = start_method if workers else None
    loader = DataLoader(
        flat(kafka), batch_size=None, num_workers=workers, collate_fn=_as_it_is, multiprocessing_context=context
    )
    found = rows_of(loader)
    rows += rows_of(begun)

    verdict.complete(Outcome("chain-0", rows), TRUTH)
    verdict.complete(Outcome("chain-2" if workers > 1 else "chain-0", found), TRUTH)
    verdict.has_fired(len(rows) > RECORDS / 2)


@pytest.mark.case(36)
def test_a_fork_that_goes_on_with_a_read_of_its_parent_gets_an_error_and_no_record(kafka, verdict):
    begun = iter(flat(kafka))
    rows = next(begun)

    def go_on():
        with pytest.raises(KafkaPipesError, match=r"at t:0@10: wanted to go on in process"):
            next(begun)

    verdict.has_fired(in_a_fork(go_on) == 0)
    rows += rows_of(begun)
    verdict.complete(Outcome("chain-0", rows), TRUTH)


@pytest.mark.case(36)
def test_a_fork_that_drops_a_read_of_its_parent_neither_hangs_nor_aborts_nor_takes_records(kafka, verdict):
    begun = iter(flat(kafka))
    rows = next(begun)

    def drop():
        begun.close()
        gc.collect()

    verdict.has_fired(in_a_fork(drop) == 0)
    rows += rows_of(begun)
    verdict.complete(Outcome("chain-0", rows), TRUTH)


AMID_LOOK_UPS = """
import os, signal, sys, threading, time
from kafkapipes import KafkaPipesError, RangeParser
def pipe():
    return RangeParser("t:0:0:200").read_partitions(sys.argv[1], connect_timeout_s=5, stall_timeout_s=3)
def look_up():
    while True:
        pipe().plan()
for _ in range(2):
    threading.Thread(target=look_up, daemon=True).start()
reader = pipe()
reader.plan()
ends, until = [], time.monotonic() + 40
while time.monotonic() < until:
    child = os.fork()
    if child == 0:
        signal.alarm(15)
        code = 1
        try:
            code = 0 if sum(map(len, reader)) == 200 else 2
        except KafkaPipesError:
            code = 3
        finally:
            os._exit(code)
    ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(*sorted(set(ends)), len(ends), flush=True)
os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.case(36)
def test_a_worker_forked_while_another_thread_looks_up_a_name_reads_or_raises_and_never_hangs(kafka):
    """The C library's lock on look-ups may stay shut in the child, where a client then never ends."""
    servers = kafka.bootstrap_servers.replace("127.0.0.1", "localhost")
    command = [sys.executable, "-W", "ignore", "-c", AMID_LOOK_UPS, servers]

    *ends, forks = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout.split()

    assert set(ends) <= {"0", "3"}
    assert int(forks) > 10


TO_ITS_END = """
import os, sys
from kafkapipes import RangeParser
begun = iter(RangeParser("t:0:0:200").read_partitions({servers!r}, batch_records=10))
batches = [next(begun)]
child = os.fork()
if child == 0:
    {action}
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
for batch in [*batches, *begun]:
    for offset, value in zip(batch.offsets, batch.values):
        print(offset, value.hex())
"""


@pytest.mark.case(36)
@pytest.mark.parametrize("action", ["pass", "begun.close()", "del begun"])
def test_a_fork_amid_a_read_may_go_to_the_end_of_its_program(kafka, verdict, action):
    command = [sys.executable, "-c", TO_ITS_END.format(servers=kafka.bootstrap_servers, action=action)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    code, *lines = done.stdout.splitlines()
    rows = [(("t", 0, int(offset)), bytes.fromhex(value)) for offset, value in map(str.split, lines)]

    verdict.complete(Outcome("chain-0", rows, text=done.stderr), TRUTH)
    assert done.stderr == ""
    verdict.has_fired(code == "7")


@pytest.mark.case(36)
def test_a_bare_consumer_across_a_fork_delivers_records_twice(kafka, verdict):
    """The control."""
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": "control"})
    consumer.assign([TopicPartition("t", 0, 0)])
    rows = rows_of([consumed(consumer, 10)])
    time.sleep(0.3)  # in which it fetches ahead
    reading, writing = os.pipe()

    def go_on():
        os.write(writing, bytes(offset for (_, _, offset), _ in consumed(consumer, 50)))

    assert in_a_fork(go_on) == 0
    twice = os.read(reading, 1000)
    rows += consumed(consumer, RECORDS - 10)
    consumer.close()
    values = dict(rows)
    outcome = Outcome("control", rows + [(("t", 0, offset), values["t", 0, offset]) for offset in twice])

    verdict.control(outcome, TRUTH)
    verdict.has_fired(len(twice))


def consumed(consumer, count):
    """Records by a bare client, as (coordinates, value)."""
    rows, deadline = [], time.monotonic() + 10
    while len(rows) < count and time.monotonic() < deadline:
        for message in consumer.consume(count - len(rows), 0.2):
            rows += [] if message.error() else [(("t", 0, message.offset()), message.value())]
    return rows


class Raising(IterDataPipe):
    """A user's own pipe that fails at the third batch."""

    def __init__(self, source, exc):
        self._batches = source
        self._exc = exc

    def __iter__(self):
        for number, batch in enumerate(self._batches):
            if number == 2:
                raise self._exc
            yield batch


class RaisingTransform:
    """A user's own transform that fails at the third sample of its process."""

    def __init__(self, exc):
        self.exc = exc
        self.count = 0

    def __call__(self, value):
        self.count += 1
        if self.count == 3:
            raise self.exc
        return value


def outcome_of(how, load):
    """What an epoch came to that `load` gives row by row."""
    outcome, began = Outcome(how), time.monotonic()
    try:
        for row in load():
            outcome.delivered.append(row)
    except Exception as exc:
        outcome.error, outcome.text = exc, str(exc)
        exc.__traceback__ = None
    outcome.seconds = time.monotonic() - began
    return outcome


def failing_epoch(kafka, how, exc):
    """An epoch with two workers in which the user's own code raises."""
    if how == "chain-2":
        loader = DataLoader(Raising(flat(kafka), exc), batch_size=None, num_workers=2, collate_fn=_as_it_is)
        return outcome_of(how, lambda: (row for batch in loader for row in batch))
    message = {"topic": TEXT, "input_config": {"data_type": "bytes"}}
    dataset = TrainingKafkaDataset(message, kafka.bootstrap_servers, "faults", transform=RaisingTransform(exc))
    loader = DataLoader(dataset, batch_size=None, num_workers=2, collate_fn=_as_it_is)
    return outcome_of(how, lambda: ((dataset.coordinates(row), value) for row, value in enumerate(loader)))


@pytest.mark.case(37)
@pytest.mark.parametrize("way", ["dataset-2", "chain-2"])
@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_crosses_from_a_worker_with_its_class_and_text(kafka, verdict, way, kind):
    text = "wanted one thing at t:0@7, found another; do a third"

    outcome = failing_epoch(kafka, way, kind(text))

    verdict.failed(outcome, kind, text, within_s=15, truth=TRUTH)
    verdict.has_fired(1)


@pytest.mark.case(37)
def test_a_bare_error_of_the_client_ends_the_epoch_of_a_worker_in_silence(kafka, verdict, capfd):
    """The control, and the reason why none leaves kafkapipes."""
    outcome = failing_epoch(kafka, "chain-2", KafkaException(KafkaError(KafkaError._BAD_MSG, "at t:0@7")))

    verdict.control(outcome, TRUTH)
    verdict.has_fired("cimpl" in capfd.readouterr().err)


def bare_error(*_):
    raise KafkaException(KafkaError(KafkaError._BAD_MSG, "as the client says it"))


@pytest.mark.case(37)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("owner", "name"), [(Fetcher, "_assign"), (Fetcher, "_next_batch"), (TopicWatch, "tick"), (TopicWatch, "confirm")]
)
def test_a_bare_error_of_the_client_is_made_one_of_ours_wherever_in_a_read_it_comes(
    kafka, verdict, monkeypatch, owner, name, workers
):
    monkeypatch.setattr(owner, name, bare_error)

    outcome = read(f"chain-{workers}", kafka.bootstrap_servers, TEXT)

    verdict.failed(outcome, kafkapipes.CorruptDataError, "as the client says it", within_s=15, truth=TRUTH)
    verdict.has_fired(1)


@pytest.mark.case(37)
def test_a_worker_that_is_killed_ends_the_epoch_in_an_error(kafka, verdict):
    outcome = outcome_of("chain-2", lambda: rows_of(DataLoader(Dying(flat(kafka)), batch_size=None, num_workers=2)))

    verdict.failed(outcome, RuntimeError, "DataLoader worker", within_s=15)
    verdict.has_fired(1)


class Dying(IterDataPipe):
    """A user's own pipe whose process is killed at the third batch, as the system does where memory ends."""

    def __init__(self, source):
        self._batches = source

    def __iter__(self):
        for number, batch in enumerate(self._batches):
            if number == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch


@pytest.fixture(scope="module")
def readings(tmp_path_factory):
    with Readings(tmp_path_factory.mktemp("readings")) as found:
        yield found


@pytest.fixture(scope="module")
def slow():
    """A slow link to a broker with 4 MB in topic t."""
    with EmbeddedKafka() as kafka:
        kafka.fill("t", records("t", range(MANY), size=1000))
        with proxied_mock(kafka) as proxy:
            yield proxy


SLOWLY = {"config": LITTLE_AHEAD, "batch_records": 50}
LONG = f"t:0:0:{MANY}"
LONG_TRUTH = ledger("t", range(MANY))


def start_slowly(readings, how, proxy, **options):
    proxy.throttle(bytes_per_second=2_000_000)
    return readings.start(how, proxy.servers, LONG, **{**SLOWLY, **options})


def check_ctrl_c_at_a_random_moment(readings, slow, how, verdict, seed):
    draw = random.Random(f"{how}:{seed}")
    reading = start_slowly(readings, how, slow)
    time.sleep(draw.uniform(0, 0.9))  # of at least a second
    reading.signal(signal.SIGINT, group=draw.random() < 0.5)
    outcome, _ = reading.end()

    if "Exception ignored" not in outcome.text:
        verdict.failed(outcome, KeyboardInterrupt, within_s=8, truth=LONG_TRUTH)
    elif outcome.error is None:  # while it forks its workers, CPython itself prints and drops what a signal raises
        verdict.complete(outcome, LONG_TRUTH)
    else:  # and workers that heard it have ended
        verdict.failed(outcome, RuntimeError, "exited unexpectedly", within_s=20, truth=LONG_TRUTH)
    verdict.has_fired(1)


@pytest.mark.case(38)
@pytest.mark.parametrize("seed", range(3))
def test_ctrl_c_ends_a_read_as_it_ends_python_and_hands_nothing_out_twice(readings, slow, how, verdict, seed):
    check_ctrl_c_at_a_random_moment(readings, slow, how, verdict, seed)


@pytest.mark.slow
@pytest.mark.case(38)
@pytest.mark.parametrize("seed", range(3, 23))
def test_ctrl_c_at_twenty_more_moments(readings, slow, how, verdict, seed):
    check_ctrl_c_at_a_random_moment(readings, slow, how, verdict, seed)


@pytest.mark.case(38)
@pytest.mark.parametrize("silent_from", [0, 300_000])
def test_ctrl_c_ends_a_read_that_waits_for_a_silent_broker(readings, slow, how, verdict, silent_from):
    slow.throttle(bytes_per_second=2_000_000)
    forwarded = slow.bytes_forwarded + silent_from
    reading = readings.start(how, slow.servers, LONG, **SLOWLY)
    while slow.bytes_forwarded < forwarded:
        time.sleep(0.01)
    slow.stall()
    time.sleep(0.5)
    reading.signal(signal.SIGINT)
    outcome, _ = reading.end()

    verdict.failed(outcome, KeyboardInterrupt, within_s=8, truth=LONG_TRUTH)
    verdict.has_fired(1)


@pytest.mark.case(38)
def test_what_was_handed_out_before_ctrl_c_and_a_read_from_there_are_the_whole_range(readings, slow, verdict):
    reading = start_slowly(readings, "chain-0", slow)
    reading.await_batches(5)
    reading.signal(signal.SIGINT)
    outcome, _ = reading.end()
    verdict.failed(outcome, KeyboardInterrupt, within_s=8, truth=LONG_TRUTH)
    _, _, last = outcome.delivered[-1][0]

    slow.pass_through()
    rest = read("chain-0", slow.servers, f"t:0:{last + 1}:{MANY}")
    rest.delivered = outcome.delivered + rest.delivered

    verdict.complete(rest, LONG_TRUTH)
    verdict.has_fired(0 < last < MANY - 1)


@pytest.mark.case(38)
def test_a_loop_over_a_bare_consumer_that_goes_on_after_ctrl_c_loses_what_it_had_fetched(readings, slow, verdict):
    """The control: the records of the call that Ctrl-C interrupts are gone, and the position is behind them."""
    reading = start_slowly(readings, "control", slow)
    reading.await_batches(1)
    time.sleep(0.2)
    reading.signal(signal.SIGINT)
    outcome, code = reading.end()

    assert code == 0
    verdict.control(outcome, LONG_TRUTH)
    verdict.has_fired(1)


@pytest.mark.case(38)
def test_sigterm_ends_a_read_and_its_workers(readings, slow, how, verdict):
    # A worker of a process that is gone ends only if its pipe takes what it has: 64 kB. Tensors take less.
    reading = start_slowly(readings, how, slow, batch_records=5)
    time.sleep(0.6)
    reading.signal(signal.SIGTERM, group=False)
    outcome, _ = reading.end()

    verdict.failed(outcome, Terminated, within_s=5, truth=LONG_TRUTH)
    verdict.has_fired(1)


@pytest.mark.case(38)
def test_a_reader_that_is_stopped_for_longer_than_its_timeout_goes_on_as_if_nothing_were(readings, slow, how, verdict):
    """As a scheduler stops a job that has to wait; it is no silence of the broker."""
    reading = start_slowly(readings, how, slow, stall_timeout_s=1.5)
    time.sleep(0.7)
    reading.signal(signal.SIGSTOP)
    time.sleep(3)
    reading.signal(signal.SIGCONT)
    outcome, code = reading.end()

    assert code == 0
    verdict.complete(outcome, LONG_TRUTH)
    verdict.has_fired(1)


def committed(kafka, group):
    """The offset that a group has committed for t:0."""
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": group})
    (found,) = consumer.committed([TopicPartition("t", 0)], timeout=10)
    consumer.close()
    return found.offset


@pytest.mark.case(41)
def test_a_read_commits_nothing_to_the_group_that_it_names(kafka, how, verdict):
    owner = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": "faults"})
    owner.commit(offsets=[TopicPartition("t", 0, 7)], asynchronous=False)
    owner.close()

    outcome = read(how, kafka.bootstrap_servers, TEXT)

    assert committed(kafka, "faults") == 7
    verdict.complete(outcome, TRUTH)
    verdict.has_fired(1)


@pytest.mark.case(41)
def test_a_bare_consumer_commits_what_it_was_only_assigned(kafka, verdict):
    """The control: by the client's default the next reader of the group would begin behind these records."""
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": "control"})
    consumer.assign([TopicPartition("t", 0, 0)])
    consumed(consumer, 50)
    consumer.close()
    begin = committed(kafka, "control")
    verdict.has_fired(begin)

    outcome = read("chain-0", kafka.bootstrap_servers, f"t:0:{begin}:{RECORDS}")

    verdict.control(outcome, TRUTH)


@pytest.mark.case(41)
@pytest.mark.parametrize("name", ["enable.auto.commit", "enable.auto.offset.store"])
@pytest.mark.parametrize("value", [True, "true", 1])
def test_properties_that_would_commit_are_refused(kafka, how, verdict, name, value):
    outcome = read(how, kafka.bootstrap_servers, TEXT, config={name: value})

    verdict.failed(outcome, ConfigError, f"config sets {name}, wanted False", within_s=1)
    verdict.has_fired(1)
