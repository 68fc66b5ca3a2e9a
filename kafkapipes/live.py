"""A pass through logs without an end: what is written to them comes, until somebody or a limit ends it."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from kafkapipes.ahead import Ahead
from kafkapipes.arrays import ArrayBatch, joined
from kafkapipes.decoding import Decoding, SampleDecoder
from kafkapipes.errors import DataLossError
from kafkapipes.following import Followed, LiveCheckpoint, LiveStateWriter, Partition, passed
from kafkapipes.kafka.follower import Arrived, Follower, Following
from kafkapipes.making import Coordinates, Making
from kafkapipes.pipes.transformer import make_sample
from kafkapipes.ranges import OffsetRange
from kafkapipes.report import RangeReport, ReadReport

_MOMENT_S = 0.05  # the longest wait for what arrives, between two looks whether to end


@dataclass(frozen=True)
class LiveStream:
    """Ranges without an end, as a dataset has them for one of its readers.

    Attributes:
        start: where it begins
        following: what is followed
        loss: why the logs cannot be read from the beginning; "" where they can
        decoding, making: records → samples
        batch_size: records of a batch; None for samples
        linger_s: after so many seconds without a record a batch is handed out though it is not full
        idle_timeout_s: after so many it ends; None: never
        max_records: after so many records of all readers it ends; None: never
        prefetch: records that are read ahead
        stopped: whether it is to end now
        note: called with each pass
    """

    start: LiveCheckpoint
    following: Following
    loss: str
    decoding: Decoding
    making: Making
    batch_size: int | None
    linger_s: float
    idle_timeout_s: float | None
    max_records: int | None
    prefetch: int
    stopped: Callable[[], bool]
    note: Callable[["LivePass"], None]

    def begin(self) -> "LivePass":
        """A pass from the beginning."""
        return LivePass(self, self.start, resumed=False)

    def resume(self, state: object) -> "LivePass":
        """A pass from where a state stands.

        Raises:
            StateError, TopicChangedError: it does not fit.
        """
        return LivePass(self, self.checked(LiveCheckpoint.from_state(state)), resumed=True)

    def checked(self, found: LiveCheckpoint) -> LiveCheckpoint:
        """Where this reader goes on from a checkpoint, after a look whether it fits."""
        found.check_fits(self.start)
        assert self.start.share is not None
        found = found.resumed_by(self.start.share)
        return replace(found, followed={**self.start.followed, **found.followed})  # and what has been added since


class LivePass(Iterator[Any]):
    """One pass of one reader through logs without an end."""

    def __init__(self, stream: LiveStream, checkpoint: LiveCheckpoint, resumed: bool) -> None:
        assert checkpoint.share is not None
        self._stream = stream
        self._checkpoint = checkpoint
        self._loss = "" if resumed else stream.loss
        self._followed = dict(checkpoint.followed)
        self._writer = LiveStateWriter(checkpoint)
        self._accounts = {key: _account(key, item, checkpoint) for key, item in self._followed.items()}
        self._most = _part_of(stream.max_records, checkpoint)
        self.epoch = 0
        self.done = checkpoint.records
        self._items = self._samples() if stream.batch_size is None else self._batches(stream.batch_size)
        stream.note(self)

    @property
    def report(self) -> ReadReport:
        """Per partition what was read since this pass began."""
        return ReadReport(list(self._accounts.values()))

    def __next__(self) -> Any:
        if self._stream.stopped():
            self.close()
        return next(self._items)

    def state(self) -> dict[str, Any]:
        """Where it stands, behind the last item."""
        return self._writer.state(self._followed, self.done)

    def close(self) -> None:
        """End it."""
        self._items.close()

    def _samples(self) -> Generator[Any, None, None]:
        for arrived, _ in self._arrivals():
            if arrived is None:
                continue
            for sample in self._samples_of(arrived):
                yield sample
                if self._is_over():
                    return
            self._pass(arrived.key, arrived.position, arrived.epoch)

    def _samples_of(self, arrived: Arrived) -> Iterator[Any]:
        samples, making = arrived.samples, self._stream.making
        if samples is None:
            return
        labels = samples.scalar_labels
        for row, offset in enumerate(samples.offsets.tolist()):
            label = None if labels is None else labels[row]
            sample = make_sample(samples.values[row], label, making.transform, making.label_transform)
            if making.coordinates:
                sample = (*((sample,) if label is None else sample), (*arrived.key, offset))
            self._pass(arrived.key, offset + 1, arrived.epoch)
            self.done += 1
            yield sample

    def _batches(self, size: int) -> Generator[Any, None, None]:
        pending = _Pending()
        for arrived, silent_s in self._arrivals():
            if arrived:
                pending.add(arrived)
                pending.skip(self._pass)
            while pending.records >= min(size, self._left(size)) or (
                pending.records and silent_s > self._stream.linger_s
            ):
                yield self._batch(pending, size)
                if self._is_over():
                    return
        if pending.records and not self._stream.stopped():
            yield self._batch(pending, size)

    def _batch(self, pending: "_Pending", size: int) -> Any:
        parts = pending.take(min(size, self._left(size), pending.records), self._pass)
        self.done += sum(map(len, parts))
        making = self._stream.making
        whole = joined(parts)
        return making.batch(whole.values, whole.scalar_labels, _coordinates(parts))

    def _arrivals(self) -> Generator[tuple[Arrived | None, float], None, None]:
        """What arrives, and seconds since all that there is was read; None where nothing has arrived for a moment."""
        if self._loss:
            raise DataLossError(self._loss)
        stream, since = self._stream, time.monotonic()
        if self._is_over():
            return
        ahead = Ahead(self._follow, _News.weight, max(1, stream.prefetch))
        moment_s = min(_MOMENT_S, stream.linger_s / 2)
        caught_up = False
        try:
            while not stream.stopped():
                try:
                    news = ahead.poll(moment_s)
                except StopIteration:
                    return
                if news is not None:
                    caught_up, since = news.arrived is None, time.monotonic()
                silent_s = time.monotonic() - since if caught_up else 0.0
                yield None if news is None else news.arrived, silent_s
                if stream.idle_timeout_s is not None and silent_s > stream.idle_timeout_s:
                    return
        finally:
            ahead.close()

    def _follow(self, closed: Callable[[], bool]) -> Iterator["_News"]:
        """In the thread that reads."""
        stream = self._stream
        decode = SampleDecoder(stream.decoding)
        stopped = lambda: closed() or stream.stopped()  # noqa: E731  # one line says it
        follower = Follower(stream.following, decode, self._checkpoint.followed, self._accounts, stopped)
        return map(_News, follower.arrivals())

    def _pass(self, key: Partition, position: int, epoch: int) -> None:
        before = self._followed.get(key) or Followed(int(self._accounts[key].range.start), position)  # type: ignore[arg-type]
        self._followed[key] = passed(before, position, epoch)

    def _left(self, most: int) -> int:
        return most if self._most is None else self._most - self.done

    def _is_over(self) -> bool:
        return self._most is not None and self.done >= self._most


class _News(NamedTuple):
    """What arrived, or None where all that there is was read."""

    arrived: Arrived | None

    def weight(self) -> int:
        """Records, and one for the news."""
        return 1 + len((self.arrived and self.arrived.samples) or ())


class _Pending:
    """What has arrived and is yet to be handed out, in order."""

    def __init__(self) -> None:
        self.records = 0
        self._arrived: deque[Arrived] = deque()

    def add(self, arrived: Arrived) -> None:
        self._arrived.append(arrived)
        self.records += len(arrived.samples or ())

    def skip(self, pass_to: Callable[[Partition, int, int], None]) -> None:
        """Pass what holds no record, as far as nothing is handed out before it."""
        while self._arrived and not self._arrived[0].samples:
            arrived = self._arrived.popleft()
            pass_to(arrived.key, arrived.position, arrived.epoch)

    def take(self, records: int, pass_to: Callable[[Partition, int, int], None]) -> list[ArrayBatch]:
        """The next samples, in parts, each of one partition."""
        parts = []
        self.records -= records
        while records:
            arrived = self._arrived.popleft()
            assert arrived.samples is not None  # skipped
            part = arrived.samples.between(0, records)
            parts.append(part)
            records -= len(part)
            if len(part) < len(arrived.samples):
                rest = arrived.samples.between(len(part), len(arrived.samples))
                self._arrived.appendleft(arrived._replace(samples=rest))
                pass_to(arrived.key, int(part.offsets[-1]) + 1, arrived.epoch)
            else:
                pass_to(arrived.key, arrived.position, arrived.epoch)
            self.skip(pass_to)
        return parts


def _account(key: Partition, followed: Followed, checkpoint: LiveCheckpoint) -> RangeReport:
    nothing = OffsetRange(*key, followed.position, followed.position)
    topic_id = checkpoint.topic_ids.get(key[0], "")
    return RangeReport(nothing, followed.position, followed.position, topic_id, followed.epoch)


def _part_of(most: int | None, checkpoint: LiveCheckpoint) -> int | None:
    """How many of the records that all readers may hand out are this one's."""
    assert checkpoint.share is not None
    if most is None:
        return None
    rank, world, worker, workers = checkpoint.share
    readers, reader, left = world * workers, rank * workers + worker, max(0, most - checkpoint.before)
    return left * (reader + 1) // readers - left * reader // readers


def _coordinates(parts: list[ArrayBatch]) -> Coordinates:
    ranges = [part.account.range for part in parts]
    topics = [item.topic for item, part in zip(ranges, parts, strict=True) for _ in range(len(part))]
    partitions = np.repeat(np.array([item.partition for item in ranges], np.int64), list(map(len, parts)))
    return topics, partitions, np.concatenate([part.offsets for part in parts])
