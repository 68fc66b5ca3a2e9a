"""Reads in processes of their own, for tests that send them signals.

Each is forked from one process that has imported everything and never had a client, and so begins at once. It is the
leader of a session: whatever it leaves behind can be found. What it is handed out it writes to a file, a pickle per
batch, as it comes.

As a script it takes lines of JSON, and for each prints the pid of the read and, when that has ended, its wait status.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition
from torch.utils.data import DataLoader

from kafkapipes import RangeParser, StreamingKafkaDataset
from tests.faults.harness import CANARY, Outcome, _as_it_is, _Flat, dataset_of


class Terminated(Exception):
    """SIGTERM ended a process."""


ENDS = {-signal.SIGINT: KeyboardInterrupt, -signal.SIGTERM: Terminated}


class Readings:
    """Starts reads, one at a time. A context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.faults.reading"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, how: str, servers: str, text: str, **options) -> "Reading":
        """Begin a read in one of the ways of `READS`; `options` are those of `PartitionReader`."""
        self._count += 1
        path = self._folder / f"read-{self._count}"
        options["config"] = {"sasl.password": CANARY, **options.get("config", {})}
        job = {"how": how, "servers": servers, "text": text, "options": options, "path": str(path)}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return Reading(how, path, int(self._process.stdout.readline()), self._process.stdout)

    def __enter__(self) -> "Readings":
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.communicate(timeout=30)


@dataclass
class Reading:
    """A read that is going on in a process."""

    how: str
    path: Path
    pid: int
    answers: object

    def await_batches(self, count: int) -> None:
        """Return once so many batches were handed out, or the read has ended."""
        deadline = time.monotonic() + 60
        while len(list(self._batches())) < count and _alive(self.pid):
            assert time.monotonic() < deadline, "the read does not come forward"
            time.sleep(0.005)

    def signal(self, number: int, group: bool = True) -> None:
        """Send a signal, to the workers as well where `group`, as Ctrl-C in a terminal does."""
        with suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, number)

    def end(self, within_s: float = 8) -> tuple[Outcome, int]:
        """What the read came to, and its exit code, -N where signal N ended it; `seconds` count from now.

        What lives of its session `within_s` after that was left behind.
        """
        began = time.monotonic()
        code = os.waitstatus_to_exitcode(int(self.answers.readline()))
        outcome = Outcome(self.how, seconds=time.monotonic() - began)
        outcome.delivered = [row for batch in self._batches() for row in batch]
        outcome.text = self.path.with_suffix(".err").read_text()
        if code:
            outcome.error = ENDS[code]() if code in ENDS else RuntimeError(outcome.text)
        while (left := _session(self.pid)) and time.monotonic() < began + within_s:
            time.sleep(0.02)
        outcome.leaked = left
        self.signal(signal.SIGKILL)
        return outcome, code

    def _batches(self) -> Iterator[list]:
        with suppress(FileNotFoundError), self.path.open("rb") as file, suppress(EOFError, pickle.UnpicklingError):
            while True:
                yield pickle.load(file)


def _alive(pid: int) -> bool:
    return any(state != "Z" for number, state in _processes_of(pid) if number == pid)


def _session(session: int) -> list[str]:
    """The processes that are left of a session."""
    return [f"process {number}" for number, state in _processes_of(session) if state != "Z"]


def _processes_of(session: int) -> list[tuple[int, str]]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session:
                found.append((int(path.parent.name), state))
    return found


def handed_out(how: str, servers: str, text: str, options: dict) -> Iterator[list]:
    """What a training loop gets, as lists of (coordinates, value)."""
    if how == "control":
        yield from _heedless(servers, text)
        return
    kind, workers = how.split("-")
    if kind == "dataset":
        dataset = dataset_of(servers, text, int(workers), options)
        loader = DataLoader(dataset, batch_size=None, num_workers=int(workers), collate_fn=_as_it_is)
        for row, value in enumerate(loader):
            yield [(dataset.coordinates(row), bytes(value))]
    elif kind == "stream":
        message = {"topic": text, "input_config": {"data_type": "bytes"}}
        stream = StreamingKafkaDataset(message, servers, "faults", coordinates=True, **options)
        for value, where in DataLoader(stream, batch_size=None, num_workers=int(workers), collate_fn=_as_it_is):
            yield [(where, bytes(value))]
    else:
        reader = RangeParser(text).read_partitions(servers, "faults", **options)
        flat = _Flat(reader.decode_bytes("bytes"))
        yield from DataLoader(flat, batch_size=None, num_workers=int(workers), collate_fn=_as_it_is)


def _heedless(servers: str, text: str) -> Iterator[list]:
    """A bare consumer in a loop that goes on after Ctrl-C, until a second passes without a record."""
    topic, partition, start, _ = text.split(":")
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "control", "log_level": 0})
    consumer.assign([TopicPartition(topic, int(partition), int(start))])
    silent_since = time.monotonic()
    while time.monotonic() - silent_since < 1:
        with suppress(KeyboardInterrupt):
            messages = consumer.consume(1000, 0.5)
            if messages:
                yield [((topic, int(partition), message.offset()), message.value()) for message in messages]
                silent_since = time.monotonic()
    consumer.close()


def _read(job: dict) -> None:
    with Path(job["path"]).open("wb", buffering=0) as file:
        for batch in handed_out(job["how"], job["servers"], job["text"], job["options"]):
            file.write(pickle.dumps(batch))


def _serve() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        errors = os.open(f"{job['path']}.err", os.O_WRONLY | os.O_CREAT)
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.dup2(errors, 2)
            print(os.getpid(), flush=True)  # from in here: what a signal does to a fork is no concern of ours
            _read(job)
            return  # to the end of the script, as any program: what happens there belongs to the test
        os.close(errors)
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    _serve()
