"""Logs without an end → records, as they are written: each log is asked where it ends, and read up to there."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from kafkapipes.arrays import ArrayBatch
from kafkapipes.errors import ConnectError, StalledError, TruncationError
from kafkapipes.following import Followed, Partition, Stripes, passed
from kafkapipes.kafka.config import ClientConfig
from kafkapipes.kafka.fetcher import Fetcher
from kafkapipes.kafka.offsets import LogReader
from kafkapipes.kafka.watch import TopicWatch
from kafkapipes.ranges import OffsetRange
from kafkapipes.records import RecordBatch
from kafkapipes.report import RangeReport

POLL_S = 0.02  # between two questions where logs end, as long as nothing is new
DISCOVER_S = 5.0  # between two looks for partitions that have been added
TURN = 16_384  # offsets of one partition that are read before it is another one's turn


class Arrived(NamedTuple):
    """What was read of one partition.

    Attributes:
        samples: None where there is nothing but gaps, or others' offsets
        position: the offset behind all this
        epoch: leader epoch of the log then
    """

    key: Partition
    samples: ArrayBatch | None
    position: int
    epoch: int


class PartitionPart(NamedTuple):
    """Offsets to be read of a log, and what it was when they were found to be there."""

    key: Partition
    start: int
    end: int
    stable: int
    epoch: int


@dataclass(frozen=True)
class Following:
    """What is followed, and how.

    Attributes:
        client: how brokers are reached
        fetching: options of `Fetcher`
        stall_timeout_s: seconds without an answer after which it is given up
        stripes: which offsets are this reader's
        topic_ids: of each topic; "" where the cluster does not tell
        growing: topics of which partitions that are added are followed too
        ends: of the partitions that have one, where their ranges end
    """

    client: ClientConfig
    fetching: Mapping[str, Any]
    stall_timeout_s: float
    stripes: Stripes
    topic_ids: Mapping[str, str]
    growing: frozenset[str]
    ends: Mapping[Partition, int]


class Follower:
    """Follows logs from where they were followed before. For one thread.

    Args:
        decode: records → samples
        followed: how far each partition was followed
        accounts: of each partition, added to as partitions are added; what is read is counted in them
        stopped: whether somebody wants this to end
    """

    def __init__(
        self,
        following: Following,
        decode: Callable[[RecordBatch], ArrayBatch],
        followed: Mapping[Partition, Followed],
        accounts: dict[Partition, RangeReport],
        stopped: Callable[[], bool],
    ) -> None:
        self._following = following
        self._decode = decode
        self._followed = dict(followed)
        self._accounts = accounts
        self._stopped = stopped
        self._watch = TopicWatch(following.client, following.stall_timeout_s)
        self._discovered = time.monotonic()

    def arrivals(self) -> Iterator[Arrived | None]:
        """What is written to the logs, and None when all of it was read; until this is stopped, or all logs have ended.

        Raises:
            TopicChangedError, TopicError, TruncationError, DataLossError: a log is not the one that was followed
            StalledError: no broker answers for `stall_timeout_s`
        """
        following = self._following
        with (
            LogReader(following.client, following.stall_timeout_s) as logs,
            Fetcher(following.client, **following.fetching) as fetcher,
        ):
            try:
                self._check_positions(logs, fetcher)
                caught_up = False
                while self._open() and not self._stopped():
                    before, caught_up = caught_up, True
                    for key, (end, epoch) in sorted(self._ask(logs).items()):  # a set's order is each process's own
                        for arrived in self._read(fetcher, key, end, epoch):
                            caught_up = False
                            yield arrived
                    if caught_up:
                        if not before:
                            yield None
                        time.sleep(POLL_S)
                    self._look_around(logs)
            finally:
                self._watch.close()

    def _open(self) -> set[Partition]:
        """The partitions that have not come to an end."""
        ends = self._following.ends
        return {key for key, followed in self._followed.items() if key not in ends or followed.position < ends[key]}

    def _ask(self, logs: LogReader) -> dict[Partition, tuple[int, int]]:
        """Where the logs end by now, and their leader epochs."""
        try:
            return logs.ends(self._open())
        except ConnectError as exc:
            raise StalledError(str(exc)) from None

    def _read(self, fetcher: Fetcher, key: Partition, stable: int, epoch: int) -> Iterator[Arrived]:
        """What is this reader's of one log up to an offset, a turn of it at the most."""
        followed = self._followed[key]
        limit = min(stable, self._following.ends.get(key, stable))
        if stable < followed.position:
            self._watch.confirm()  # if it is another topic, that says more
            raise self._cut_back(key, stable)
        if len(self._followed) > 1:
            limit = min(limit, followed.position + TURN * self._following.stripes.readers)
        if limit == followed.position:
            return
        for start, end in self._following.stripes.own(key[1], followed.position, limit, followed.taken):
            yield from self._fetch(fetcher, PartitionPart(key, start, end, stable, epoch))
        self._followed[key] = passed(followed, limit, epoch)
        yield Arrived(key, None, limit, epoch)

    def _fetch(self, fetcher: Fetcher, wanted: PartitionPart) -> Iterator[Arrived]:
        key, start, end, stable, epoch = wanted
        account = self._accounts[key]
        account.range = replace(account.range, end=max(end, int(account.range.end)))  # type: ignore[arg-type]  # concrete
        account.high = int(account.range.end)  # type: ignore[arg-type]
        piece = replace(account.range, start=start, end=end)
        part = RangeReport(piece, start, end, account.topic_id, epoch, stable)
        first = start
        for batch in fetcher.fetch(part):
            following = int(batch.offsets[-1]) + 1
            samples = self._decode(batch)
            account.add(part, following - first)
            first = following
            if len(samples):
                yield Arrived(key, samples, following, epoch)
        account.add(part, end - first)
        account.seconds += part.seconds

    def _look_around(self, logs: LogReader) -> None:
        """Is each topic still the one that was planned, and has it more partitions?"""
        for topic, topic_id in self._following.topic_ids.items():
            self._watch.tick(topic, topic_id)
        if not self._following.growing or time.monotonic() - self._discovered < DISCOVER_S:
            return
        self._discovered = time.monotonic()
        new = {
            (topic, partition)
            for topic in self._following.growing
            for partition in logs.partitions(topic)
            if (topic, partition) not in self._followed
        }
        for key, log in logs.logs(new).items() if new else ():
            self._followed[key] = Followed(log.low, log.low, log.epoch)
            self._accounts[key] = RangeReport(
                OffsetRange(*key, log.low, log.low), log.low, log.low, self._following.topic_ids[key[0]], log.epoch
            )

    def _check_positions(self, logs: LogReader, fetcher: Fetcher) -> None:
        """Is each log, up to where it was followed, still the one that was followed?

        The record before a position is read again: it must be there, and of no later leader epoch.
        """
        begun = {key for key, followed in self._followed.items() if followed.position > followed.start}
        for key, log in logs.logs(begun).items() if begun else ():
            position, epoch = self._followed[key].position, self._followed[key].epoch
            if log.stable < position:
                raise self._cut_back(key, log.stable)
            if epoch < 0 or log.low >= position:
                continue
            piece = OffsetRange(*key, position - 1, position)
            account = RangeReport(piece, position - 1, position, self._following.topic_ids[key[0]], epoch, position)
            for _ in fetcher.fetch(account):
                pass

    def _cut_back(self, key: Partition, end: int) -> TruncationError:
        topic, partition = key
        return TruncationError(
            f"following {topic}:{partition}@{self._followed[key].position}: the log ends at {end} by now, so it was "
            "cut back below what was already read; begin the stream anew, from where it can be trusted"
        )
