"""A seeded random campaign of faults: `python -m tests.faults.campaign --minutes N [--seed S]`.

Each round draws a log (plain, committed and aborted records, over two partitions), a way to read it and a schedule of
faults, and compares what was delivered with what the oracle says. A schedule that fails is shortened, fault by fault,
as long as it still fails, and printed.
"""

import argparse
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from confluent_kafka import KafkaException, TopicPartition

from kafkapipes import DataLossError
from tests.faults.harness import LITTLE_AHEAD, READS, Outcome, Verdict, faults, read, records
from tests.faults.oracle import Oracle, checksum
from tests.faults.proxy import Proxy
from tests.kafka.cluster import QUICK_RESTART, OwnBroker, ThreeBrokers
from tests.kafka.node import fetch_jars

SIZE = 20_000  # bytes of a record
RECORDS = 120  # of a partition, roughly
ALONE = ("kill", "pause", "reset", "stall", "throttle", "delete", "abort", "interrupt")
TOGETHER = ("move", "kill-leader", "pause-leader", "abort", "delete", "interrupt")
DEADLINE_S = 60.0


@dataclass(frozen=True)
class Schedule:
    """One round, to be repeated: `faults` are (batches taken before it, its name)."""

    seed: int
    brokers: int
    how: str
    on_data_loss: str
    faults: tuple[tuple[int, str], ...]


def draw(seed: int, brokers: int) -> Schedule:
    chance = random.Random(seed)
    names = ALONE if brokers == 1 else TOGETHER
    moments = sorted(chance.sample(range(1, RECORDS), chance.randint(1, 4)))
    steps = tuple((moment, chance.choice(names)) for moment in moments)
    return Schedule(seed, brokers, chance.choice(READS), chance.choice(("raise", "continue")), steps)


class World:
    """Brokers, and what a fault's name does to them."""

    def __init__(self, cluster: OwnBroker | ThreeBrokers, oracle: Oracle, stack: ExitStack) -> None:
        self.cluster, self.oracle = cluster, oracle
        self.proxy = None
        if isinstance(cluster, OwnBroker):
            self.proxy = stack.enter_context(Proxy(int(cluster.proxied_servers.split(":")[1]), cluster.proxy_target))

    def play(self, schedule: Schedule) -> tuple[str, int]:
        """What is wrong with the outcome ("" if nothing), and how many faults happened."""
        chance = random.Random(schedule.seed)
        topic = self._log(chance)
        servers = self.proxy.servers if self.proxy else self.cluster.bootstrap_servers
        ends = {number: self._truth(topic, number).stable for number in (0, 1)}
        text = ",".join(f"{topic}:{number}:0:{end}" for number, end in ends.items())
        truth = self._records(topic)
        steps = [(after, self._action(name, topic, chance)) for after, name in schedule.faults]
        options = {"config": LITTLE_AHEAD, "batch_records": 1, "stall_timeout_s": 30, "connect_timeout_s": 30}
        try:
            with pytest.MonkeyPatch.context() as patch, faults(patch, steps) as fired:
                for _ in range(1 + len(steps)):  # an interrupted read is begun anew
                    try:
                        outcome = read(schedule.how, servers, text, on_data_loss=schedule.on_data_loss, **options)
                        break
                    except KeyboardInterrupt:
                        continue
        finally:
            self._calm()
        return self._judge(schedule, outcome, truth, topic), fired.count

    def _judge(self, schedule: Schedule, outcome: Outcome, truth: dict, topic: str) -> str:
        deleted = any(name == "delete" for _, name in schedule.faults)
        if outcome.error is not None:
            allowed = deleted and isinstance(outcome.error, DataLossError) and schedule.on_data_loss == "raise"
            return "" if allowed else outcome.text
        low = {number: self._truth(topic, number).low for number in (0, 1)}
        gone = {where for where in truth if where[2] < low[where[1]]}
        found = {where for where, _ in outcome.delivered}
        wanted = [(where, sequence) for where, sequence in truth.items() if where not in gone or where in found]
        verdict = Verdict(0)
        verdict._count(outcome, wanted)
        if verdict.silent:
            return str(verdict)
        if outcome.leaked or outcome.seconds > DEADLINE_S:
            return f"leaked {outcome.leaked}, took {outcome.seconds:.0f} s"
        missing = sum(account.aged_out for account in outcome.report) if outcome.report else None
        return "" if missing is None or missing >= len(gone - found) else f"reported {missing} of {len(gone - found)}"

    def _log(self, chance: random.Random) -> str:
        """A topic of two partitions with records, transactions and aborted ones."""
        topic = self.cluster.new_topic(partitions=2)
        sequence = 0
        while sequence < 2 * RECORDS:
            count, partition = chance.randint(1, 30), chance.randint(0, 1)
            batch = records(topic, range(sequence, sequence + count), partition, SIZE)
            how = chance.choice(("plain", "plain", "commit", "abort")) if partition == 0 else "plain"
            if how == "plain":
                self.cluster.produce(topic, batch, partition)
            else:
                self.cluster.transaction(topic, batch, end=how)
            sequence += count
        return topic

    def _records(self, topic: str) -> dict[tuple[str, int, int], int]:
        """(coordinates) → sequence of every record that the oracle sees, by the checksum of its key."""
        keys = {checksum(sequence.to_bytes(4, "big")): sequence for sequence in range(3 * RECORDS)}
        return {
            (topic, number, offset): keys[key]
            for number in (0, 1)
            for offset, key, _ in self._truth(topic, number).records
        }

    def _truth(self, topic: str, partition: int):
        return self.oracle.truth(self.cluster.bootstrap_servers, topic, partition)

    def _action(self, name: str, topic: str, chance: random.Random) -> Callable[[], object]:
        seconds, upto, seed = chance.uniform(0.2, 2), chance.randint(1, RECORDS), chance.randrange(10**6)

        def for_a_while(begin: Callable[[], object], end: Callable[[], object]) -> Callable[[], object]:
            return lambda: (begin(), time.sleep(seconds), end())

        cluster, proxy = self.cluster, self.proxy
        leader = lambda: cluster.leader(topic, 0)  # noqa: E731
        actions: dict[str, Callable[[], object]] = {
            "abort": lambda: cluster.transaction(topic, records(topic, range(9000, 9005)), end="abort"),
            "delete": lambda: self._delete(topic, upto),
            "interrupt": lambda: os.kill(os.getpid(), signal.SIGINT),
            "kill": lambda: (cluster.kill(), time.sleep(seconds / 2), cluster.start()),
            "pause": for_a_while(lambda: cluster.pause(), lambda: cluster.resume()),
            "reset": lambda: proxy.reset_every(seed, 800_000),  # the largest batch is 600,000, and must come whole
            "stall": for_a_while(lambda: proxy.stall(), lambda: proxy.pass_through()),
            "throttle": lambda: proxy.throttle(bytes_per_second=2_000_000, chunk=1000),
            "move": lambda: cluster.move_leader(topic),
            "kill-leader": lambda: cluster.kill(leader()),
            "pause-leader": lambda: cluster.pause(leader()),
        }

        def act() -> None:  # and keep no client that the action returns: it would look like one left behind
            self._whole()  # two of three must live, and what asks the brokers is not to wait for a dead one
            actions[name]()

        return act

    def _delete(self, topic: str, upto: int) -> None:
        partition = TopicPartition(topic, 1, min(upto, self._truth(topic, 1).high))
        deadline = time.monotonic() + 30
        while True:
            try:
                self.cluster.admin.delete_records([partition])[partition].result(30)
                return
            except KafkaException:  # the leader has just moved, and the client looks for it only if told to
                if time.monotonic() > deadline:
                    raise
                self.cluster.admin.list_topics(topic, timeout=10)
                time.sleep(0.1)

    def _calm(self) -> None:
        if self.proxy:
            self.proxy.pass_through()
        self._whole()

    def _whole(self) -> None:
        if isinstance(self.cluster, ThreeBrokers):
            self.cluster.heal()


def shortest(schedule: Schedule, fails: Callable[[Schedule], bool]) -> Schedule:
    """The schedule without the faults that it does not need in order to fail."""
    for step in schedule.faults:
        shorter = Schedule(
            schedule.seed, schedule.brokers, schedule.how, schedule.on_data_loss,
            tuple(other for other in schedule.faults if other != step),
        )  # fmt: skip
        if fails(shorter):
            return shortest(shorter, fails)
    return schedule


def run(minutes: float, seed: int, brokers: tuple[int, ...] = (1, 3), rounds: int | None = None) -> str:
    """Rounds until the time is up; the shortest failing schedule and what it did, or ""."""
    began, number, happened = time.monotonic(), 0, 0
    with ExitStack() as stack:
        oracle = stack.enter_context(Oracle())
        worlds = {}
        if 1 in brokers:
            worlds[1] = World(stack.enter_context(OwnBroker(fetch_jars(), properties=QUICK_RESTART)), oracle, stack)
        if 3 in brokers:
            worlds[3] = World(stack.enter_context(ThreeBrokers(fetch_jars())), oracle, stack)
        while number != rounds and time.monotonic() - began < minutes * 60:
            schedule = draw(seed + number, brokers[number % len(brokers)])
            wrong, fired = worlds[schedule.brokers].play(schedule)
            number, happened = number + 1, happened + fired
            print(f"{schedule}: {fired} fault(s), {'FAILED' if wrong else 'ok'}", flush=True)
            if wrong:
                print(wrong)
                least = shortest(schedule, lambda one: bool(worlds[one.brokers].play(one)[0]))
                return f"{least}\nof {schedule}, which came to\n{wrong}"
    print(f"{number} rounds, {happened} faults, {time.monotonic() - began:.0f} s, nothing lost, doubled or wrong")
    assert happened, "no fault happened: nothing was shown"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=None, help="the first round's; drawn where not given")
    parser.add_argument("--brokers", type=int, choices=(1, 3), help="one kind of cluster only")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    failing = run(options.minutes, seed, (options.brokers,) if options.brokers else (1, 3))
    if failing:
        print(f"\nThe shortest failing schedule:\n{failing}")
    return bool(failing)


if __name__ == "__main__":
    sys.exit(main())
