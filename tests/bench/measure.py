"""Measuring: each run in a process of its own, the ways in turn, round after round, and what comes of it as numbers."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tqdm import tqdm

from tests.bench.topics import Topic, fill

OURS = "kafkapipes"
RUN_LIMIT_S = 90  # for one run, after which it has failed
Run = Callable[[], dict[str, Any]]


class Failed(Exception):
    """A run has no figure; the text says why."""


@dataclass(frozen=True)
class Work:
    """What is to be done in several ways; each way is run once a round and returns its figures, `rate` among them.

    Attributes:
        part: the part of the suite that it belongs to
        name: the work, in words
        ways: name → what runs it once
        wanted: opponent → how many times its rate ours shall be
        facts: numbers that say where it stands in a row of works, such as the size of a record
        rounds: how often, where not as often as the rest
    """

    part: str
    name: str
    ways: Mapping[str, Run]
    wanted: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    rounds: int = 0


@dataclass(frozen=True)
class Result:
    """What came of a `Work`: the figures of each way, a round each, and why a way has none."""

    part: str
    name: str
    wanted: dict[str, float]
    facts: dict[str, Any]
    runs: dict[str, list[dict[str, Any]]]
    failed: dict[str, str]

    def values(self, way: str, figure: str = "rate") -> list[float]:
        return [run[figure] for run in self.runs.get(way, [])]

    def median(self, way: str, figure: str = "rate") -> float:
        """The median over the rounds; not a number where the way has none."""
        return statistics.median(self.values(way, figure) or [float("nan")])

    def ratios(self, opponent: str) -> list[float]:
        """Our rate over the opponent's, round by round."""
        return [ours / theirs for ours, theirs in zip(self.values(OURS), self.values(opponent), strict=False)]

    def best_ratio(self, opponent: str) -> float:
        return max(self.values(OURS)) / max(self.values(opponent))


def timed(epoch: Callable[[], int]) -> Run:
    """A run in this process: what returns how many samples it has gone through, by the clock."""

    def run() -> dict[str, Any]:
        began = time.perf_counter()
        count = epoch()
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "rate": count / seconds}

    return run


class Session:
    """A broker, its topics, and how much is to be measured on it.

    Attributes:
        rounds: how often each way runs
        quick: a trial: fewer points, smaller topics
        peers: the Python of the environment that tests/bench/peers.txt describes
    """

    def __init__(self, cluster: Any, rounds: int, quick: bool, peers: str, minutes: float) -> None:
        self.rounds, self.quick, self.peers = rounds, quick, peers
        self._cluster = cluster
        self._deadline = time.monotonic() + 60 * minutes
        self._topics: dict[Topic, Topic] = {}

    def read(self, way: str, topic: Topic, records: int = 0, **options: Any) -> Run:
        """A run that reads a topic, or its first records, in a way of read.py."""
        return lambda: self.fresh(["tests.bench.read", *self.arguments(way, topic, records, options)])

    def read_by_peer(self, way: str, topic: Topic, records: int = 0) -> Run:
        """The same in the peers' environment."""
        return lambda: self.fresh(["tests.bench.read", *self.arguments(way, topic, records, {})], python=self.peers)

    def arguments(self, way: str, topic: Topic, records: int, options: dict[str, Any]) -> list[str]:
        """The command line of read.py; the topic is filled when it is first asked for."""
        if topic not in self._topics:
            self._topics[topic] = fill(self._cluster, topic)
            self.fresh(["tests.bench.read", *self.arguments("bare Fetch", topic, 0, {})])  # so that all lies in memory
        named = self._topics[topic]
        named = replace(named, records=records) if records else named
        return [way, self._cluster.bootstrap_servers, json.dumps(asdict(named)), json.dumps(options)]

    def fresh(
        self, module: Sequence[str], python: str = sys.executable, prefix: Sequence[str] = (), **environment: str
    ) -> dict[str, Any]:
        """Run a module in a new process; it prints its figures as JSON, on its last line.

        Raises:
            Failed: it ended with an error or not in time, or could not be started.
        """
        command = [*prefix, python, "-m", *module]
        try:
            done = subprocess.run(
                command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=RUN_LIMIT_S
            )
        except FileNotFoundError as exc:
            raise Failed(f"not installed: {exc.filename}") from None
        except subprocess.TimeoutExpired:
            raise Failed(f"not finished within {RUN_LIMIT_S} s") from None
        if done.returncode:
            raise Failed((done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1][:200])
        return json.loads(done.stdout.splitlines()[-1])

    def close(self) -> None:
        """Delete the topics."""
        names = [topic.name for topic in self._topics.values()]
        for deletion in self._cluster.admin.delete_topics(names).values() if names else ():
            deletion.result(30)

    def compare(self, work: Work, bar: tqdm) -> Result:
        """Run the ways in turn, back and forth, while there is time; a way that fails is left out from then on."""
        result = Result(work.part, work.name, dict(work.wanted), dict(work.facts), {way: [] for way in work.ways}, {})
        rounds = self.rounds_of(work)
        for number in range(rounds):
            for way, run in list(work.ways.items())[:: -1 if number % 2 else 1]:
                bar.set_description(f"{work.part}: {work.name}, {way}"[:60])
                if way not in result.failed:
                    self._run_once(way, run, result, number)
                bar.update()
        return result

    def rounds_of(self, work: Work) -> int:
        return min(work.rounds or self.rounds, self.rounds)

    def _run_once(self, way: str, run: Run, result: Result, number: int) -> None:
        if time.monotonic() > self._deadline:
            if not number:
                result.failed[way] = "no time was left"
            return
        try:
            result.runs[way].append(run())
        except Exception as exc:  # whatever it is: it becomes a word in the table, and the others go on
            reason = str(exc) if isinstance(exc, Failed) else f"{type(exc).__name__}: {exc}"
            result.failed[way] = " ".join(f"{reason} (round {number + 1})".split())
