"""What every case of the scorecard needs: records that prove themselves, six ways to read, and the verdict.

A record's value is CRC32 | topic | partition | sequence | filler, and its key the sequence: whatever arrives in the
wrong place, twice, changed or not at all shows.
"""

import gc
import json
import multiprocessing
import os
import struct
import threading
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader, IterDataPipe

from kafkapipes import KafkaPipesError, RangeParser, StreamingKafkaDataset, TrainingKafkaDataset
from kafkapipes.kafka.fetcher import Fetcher
from tests.faults.oracle import Truth, checksum

CANARY = "canary-7f3e-do-not-show"  # a password in every read's properties: it must show nowhere
RESULTS_VARIABLE = "KAFKAPIPES_SCORECARD"  # a file that takes one line of JSON per verdict
HEAD = struct.Struct(">IIII")
READS = ("dataset-0", "dataset-2", "chain-0", "chain-2", "stream-0", "stream-2")
QUICK = ("dataset-0", "chain-2", "stream-0")
WORKERS = ("chain-2", "stream-2")  # that read, each its share, and hand it out by turns
BY_TURNS = (*WORKERS, "dataset-2")  # or readers in threads, each its share, which are put in order
# With more fetched ahead, a fault in a broker comes when all records are here already, and proves nothing.
LITTLE_AHEAD = {"queued.max.messages.kbytes": 256, "fetch.max.bytes": 200_000, "message.max.bytes": 150_000}
Coordinates = tuple[str, int, int]


def record(topic: str, partition: int, sequence: int, size: int = 32) -> tuple[bytes, bytes]:
    """(value, key) of one record of `size` bytes."""
    filler = np.random.default_rng(sequence).integers(0, 256, size - HEAD.size, np.uint8).tobytes()
    body = struct.pack(">III", zlib.crc32(topic.encode()), partition, sequence) + filler
    return struct.pack(">I", zlib.crc32(body)) + body, struct.pack(">I", sequence)


def records(topic: str, sequences: Iterable[int], partition: int = 0, size: int = 32) -> list[tuple[bytes, bytes]]:
    return [record(topic, partition, sequence, size) for sequence in sequences]


def sequence_of(topic: str, partition: int, value: bytes) -> int | None:
    """The sequence that a value proves to have; None where it is damaged or comes from elsewhere."""
    if len(value) < HEAD.size:
        return None
    checksum, topic_checksum, found_partition, sequence = HEAD.unpack_from(value)
    whole = checksum == zlib.crc32(value[4:])
    here = (topic_checksum, found_partition) == (zlib.crc32(topic.encode()), partition)
    return sequence if whole and here else None


def fast(*ways: str) -> list:
    """Parameters for `how`: all ways to read, of which the fast run takes these only, where each takes seconds."""
    return [pytest.param(how, marks=() if how in ways else pytest.mark.slow) for how in READS]


@dataclass
class Outcome:
    """What a read came to: records in the order that they came, or an error, or both."""

    read: str
    delivered: list[tuple[Coordinates, bytes]] = field(default_factory=list)
    error: BaseException | None = None
    text: str = ""
    report: object = None
    seconds: float = 0.0
    leaked: list[str] = field(default_factory=list)


class _Flat(IterDataPipe):
    """A user's own pipe: each batch as a list of (coordinates, value)."""

    def __init__(self, source):
        self._batches = source

    def __iter__(self):
        for batch in self._batches:
            item = batch.account.range
            rows = zip(batch.offsets.tolist(), batch.values, strict=True)
            yield [((item.topic, item.partition, offset), bytes(value)) for offset, value in rows]


def read(how: str, servers: str, text: str, **options) -> Outcome:
    """Read ranges of `bytes` in one of the ways of `READS`; an error of ours is part of the outcome.

    Args:
        options: of `PartitionReader`; with `config`, the canary is added to it
    """
    outcome, before, began = Outcome(how), _clients(), time.monotonic()
    options["config"] = {"sasl.password": CANARY, **options.get("config", {})}
    kind, workers = how.split("-")
    try:
        if kind == "dataset":
            _read_dataset(outcome, servers, text, int(workers), options)
        elif kind == "stream":
            _read_stream(outcome, servers, text, int(workers), options)
        else:
            _read_chain(outcome, servers, text, int(workers), options)
    except KafkaPipesError as exc:
        outcome.error, outcome.text = exc, "".join(traceback.format_exception(exc))
        exc.__traceback__ = None  # its frames hold the read's clients
    outcome.seconds = time.monotonic() - began
    outcome.leaked = _leaked(before)
    return outcome


def _read_dataset(outcome: Outcome, servers: str, text: str, workers: int, options: dict) -> None:
    dataset = dataset_of(servers, text, workers, options)
    outcome.report = dataset.report
    loader = DataLoader(dataset, batch_size=None, num_workers=workers, collate_fn=_as_it_is)
    outcome.delivered += [(dataset.coordinates(row), bytes(value)) for row, value in enumerate(loader)]


def dataset_of(servers: str, text: str, workers: int, options: dict) -> TrainingKafkaDataset:
    """A dataset for so many workers, read by as many readers side by side where that is allowed."""
    readers = 1 if options.get("on_short") == "wait" else max(1, workers)
    message = {"topic": text, "input_config": {"data_type": "bytes"}}
    return TrainingKafkaDataset(message, servers, "faults", **{"readers": readers, **options})


def _read_stream(outcome: Outcome, servers: str, text: str, workers: int, options: dict) -> None:
    message = {"topic": text, "input_config": {"data_type": "bytes"}}
    stream = StreamingKafkaDataset(message, servers, "faults", coordinates=True, **options)
    for value, where in DataLoader(stream, batch_size=None, num_workers=workers, collate_fn=_as_it_is):
        outcome.delivered.append((where, bytes(value)))
    outcome.report = stream.report if workers == 0 else None  # each worker has its own


def _read_chain(outcome: Outcome, servers: str, text: str, workers: int, options: dict) -> None:
    reader = RangeParser(text).read_partitions(servers, "faults", **options)
    flat = _Flat(reader.decode_bytes("bytes"))
    for batch in DataLoader(flat, batch_size=None, num_workers=workers, collate_fn=_as_it_is):
        outcome.delivered += batch
    outcome.report = reader.report if workers == 0 else None  # each worker has its own


def _as_it_is(item):
    return item


@contextmanager
def fault(monkeypatch, action: Callable[[], object], after: int = 2) -> Iterator["Fired"]:
    """Run `action` once, in this process, when the read inside the block has taken `after` batches.

    The read waits meanwhile, in whichever processes and threads it runs; so a fault comes amid a read, never before or
    behind it.
    """
    with faults(monkeypatch, [(after, action)]) as fired:
        yield fired


@contextmanager
def faults(monkeypatch, steps: list[tuple[int, Callable[[], object]]]) -> Iterator["Fired"]:
    """The same for several actions, each after its own number of batches, all different."""
    context = multiprocessing.get_context("fork")
    reached, taken = [(context.Event(), context.Event()) for _ in steps], context.Value("i", 0)
    original, fired = Fetcher._next_batch, Fired()

    def next_batch(self, wanted, progress):
        batch = original(self, wanted, progress)
        if batch is not None:
            with taken.get_lock():
                taken.value += 1
                here = [pair for pair, (after, _) in zip(reached, steps, strict=True) if after <= taken.value]
            for begin, done in here:
                begin.set()
                done.wait(60)
        return batch

    def act(begin, done, action) -> None:
        begin.wait()
        try:
            if not fired.over:
                fired.result = action()
                fired.count += 1
        except Exception as exc:  # raised below, in the test's own thread
            fired.failures.append(exc)
        finally:
            done.set()

    threads = [
        threading.Thread(target=act, args=(*pair, action), name="fault", daemon=True)
        for pair, (_, action) in zip(reached, steps, strict=True)
    ]
    monkeypatch.setattr(Fetcher, "_next_batch", next_batch)
    for thread in threads:
        thread.start()
    try:
        yield fired
    finally:
        fired.over = True
        for (begin, _), thread in zip(reached, threads, strict=True):
            begin.set()
            thread.join(60)
        monkeypatch.setattr(Fetcher, "_next_batch", original)
    if fired.failures:
        raise fired.failures[0]


@dataclass
class Fired:
    """How often a fault happened, and what its action returned."""

    count: int = 0
    result: object = None
    over: bool = False
    failures: list[Exception] = field(default_factory=list)


@dataclass
class Verdict:
    """The numbers of one case, read in one way, and the checks on them. The scorecard prints them."""

    case: int
    read: str = ""
    fired: int = 0
    lost: int = 0
    duplicated: int = 0
    wrong: int = 0
    out_of_order: int = 0
    silent: int = 0
    seconds: float = 0.0
    error: str = ""
    outcomes: int = 0

    def complete(self, outcome: Outcome, truth: Iterable[tuple[Coordinates, int]], within_s: float = 60.0) -> None:
        """The read delivered exactly `truth`, (coordinates, sequence) in order, without an error, and says so."""
        self._count(outcome, list(truth))
        assert outcome.error is None, outcome.text
        assert (self.lost, self.duplicated, self.wrong, self.out_of_order, self.silent) == (0,) * 5, self
        self._in_order(outcome, within_s)

    def failed(self, outcome: Outcome, kind: type[KafkaPipesError], *words: str, within_s: float, truth=()) -> None:
        """The read ended in an error of exactly this class, whose text has all these words, in time.

        What it delivered before is checked against `truth` where given.
        """
        truth = list(truth)
        self._count(outcome, truth)
        assert outcome.error is not None, f"no error, {len(outcome.delivered)} records"
        assert type(outcome.error) is kind, outcome.text
        for word in words:
            assert word in str(outcome.error), (word, str(outcome.error))
        assert (self.duplicated, self.silent) == (0, 0), self
        assert not truth or self.wrong == 0, self
        self._in_order(outcome, within_s)

    def partial(
        self, outcome: Outcome, truth: Iterable[tuple[Coordinates, int]], missing: int, within_s: float = 60.0
    ) -> None:
        """The read delivered `truth`, which lacks `missing` offsets that the caller's policy allows, all reported."""
        self.complete(outcome, truth, within_s)
        self.lost = missing
        if outcome.report is not None:
            reported = sum(account.aged_out + account.unwritten for account in outcome.report)
            assert reported == missing, str(outcome.report)

    def control(self, outcome: Outcome, truth: Iterable[tuple[Coordinates, int]]) -> None:
        """With our guard off, the read ended well and was wrong: the fault is real, and only the guard catches it."""
        counted = Verdict(self.case)
        counted._count(outcome, list(truth))
        self.read, self.outcomes = "control", 1
        assert counted.silent > 0, (outcome.text, counted)

    def has_fired(self, count: object) -> None:
        """The fault demonstrably happened: `count` of its own evidence, above 0."""
        self.fired += int(count)  # type: ignore[call-overload]
        assert self.fired > 0, "the fault did not happen: the case was not exercised"

    def _count(self, outcome: Outcome, truth: list[tuple[Coordinates, int]]) -> None:
        self.read, self.seconds = outcome.read, outcome.seconds
        self.error = type(outcome.error).__name__ if outcome.error else ""
        self.outcomes += 1
        expected = dict(truth)
        found = Counter(where for where, _ in outcome.delivered)
        self.lost += len(expected.keys() - found.keys()) if outcome.error is None else 0
        self.duplicated += sum(found.values()) - len(found)
        self.wrong += (
            sum(sequence_of(*where[:2], value) != expected.get(where) for where, value in outcome.delivered)
            if truth or outcome.error is None
            else 0
        )
        if outcome.read not in WORKERS:
            places = [where for where, _ in truth]
            order = {where: place for place, where in enumerate(places)}
            taken = [order[where] for where, _ in outcome.delivered if where in order]
            self.out_of_order += sum(later < earlier for earlier, later in pairwise(taken)) if truth else 0
        if outcome.error is None:
            self.silent += self.lost + self.duplicated + self.wrong + self.out_of_order

    def _in_order(self, outcome: Outcome, within_s: float) -> None:
        assert outcome.seconds < within_s, f"{outcome.seconds:.1f} s, wanted {within_s} s"
        assert CANARY not in outcome.text + str(outcome.report), "a secret shows"
        assert not outcome.leaked, outcome.leaked

    def write(self, passed: bool) -> None:
        if path := os.environ.get(RESULTS_VARIABLE):
            with Path(path).open("a") as file:
                file.write(json.dumps({**self.__dict__, "passed": passed}) + "\n")


def ledger(topic: str, sequences: Iterable[int], partition: int = 0, first: int = 0) -> list[tuple[Coordinates, int]]:
    """The truth for records that were appended one after the other from offset `first`."""
    return [((topic, partition, first + place), sequence) for place, sequence in enumerate(sequences)]


def vouched(told: Truth, truth: list[tuple[Coordinates, int]], size: int = 32) -> list[tuple[Coordinates, int]]:
    """`truth`, after a look whether the oracle was told exactly these records, of `size` bytes, and no other."""
    expected = [(where[2], checksum(record(*where[:2], sequence, size)[0])) for where, sequence in truth]
    assert [(offset, value) for offset, _, value in told.records] == expected, "ledger and oracle disagree"
    return truth


def _clients() -> Counter:
    """The clients and child processes that live in this process now; librdkafka names a client's thread rdk:main."""
    found: Counter = Counter()
    for task in Path("/proc/self/task").iterdir():
        try:
            found[(task / "comm").read_text().strip()] += 1
            for pid in (task / "children").read_text().split():
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                found[f"child {name}"] += 1
        except OSError:  # it ended meanwhile
            continue
    return Counter({name: count for name, count in found.items() if name == "rdk:main" or name.startswith("child")})


def _leaked(before: Counter) -> list[str]:
    """What lives now and did not before, after a moment in which it may end. A broker (java) is the test's own."""
    deadline = time.monotonic() + 8
    while True:
        gc.collect()
        more = [f"{count} {name}" for name, count in (_clients() - before).items() if name != "child java"]
        if not more or time.monotonic() > deadline:
            return more
        time.sleep(0.05)
