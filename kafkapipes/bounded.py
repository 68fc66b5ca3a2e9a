"""A pass through ranges with an end: the items of one reader, in an order that is known before."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import numpy as np

from kafkapipes.ahead import Ahead
from kafkapipes.blocks import Deal, Places
from kafkapipes.checkpoints import Checkpoint, StateWriter
from kafkapipes.decoding import Decoding
from kafkapipes.errors import DataLossError, TruncationError
from kafkapipes.making import NOWHERE, Coordinates, Making
from kafkapipes.pipes.transformer import make_sample
from kafkapipes.ranges import OffsetRange
from kafkapipes.report import RangeReport, ReadReport
from kafkapipes.windows import NO_RECORD, Connect, Cycle, WindowReader

READERS = 3  # side by side: while one takes in a block, the others wait for theirs


@dataclass(frozen=True)
class BoundedStream:
    """Ranges with an end, as a dataset has them for one of its readers.

    Attributes:
        start: where it begins
        declared: the ranges as they were given
        stable: (topic, partition) → offset up to which its log held records for good when the dataset was made
        loss: why the ranges cannot be read from their beginning; "" where they can
        any_block: whether the size of blocks was not chosen, so that a state's may be taken
        connect: opens what fetches
        decoding, making: records → samples
        prefetch: places that are read ahead
        stretch: places that one of several readers reads in one go, in order; 0: one reader goes through them alone
        stopped: whether it is to end now
        note: called with each pass
    """

    start: Checkpoint
    declared: Sequence[OffsetRange]
    stable: Mapping[tuple[str, int], int]
    loss: str
    any_block: bool
    connect: Connect
    decoding: Decoding
    making: Making
    prefetch: int
    stretch: int
    stopped: Callable[[], bool]
    note: Callable[["BoundedPass"], None]

    def begin(self) -> "BoundedPass":
        """A pass from the beginning."""
        return BoundedPass(self, self.start, resumed=False)

    def resume(self, state: object) -> "BoundedPass":
        """A pass from where a state stands.

        Raises:
            StateError, TopicChangedError, TruncationError: it does not fit.
        """
        return BoundedPass(self, self.checked(Checkpoint.from_state(state)), resumed=True)

    def checked(self, found: Checkpoint) -> Checkpoint:
        """Where this reader goes on from a checkpoint, after a look whether it fits.

        Raises:
            StateError, TopicChangedError, TruncationError: it does not.
        """
        block = found.order.block if self.any_block else self.start.order.block
        found.check_fits(replace(self.start, order=replace(self.start.order, block=block)), self.declared)
        assert self.start.share is not None
        for item, log in zip(found.ranges, found.logs, strict=True):
            now = self.stable.get((item.topic, int(item.partition)), log.stable)  # type: ignore[arg-type]  # concrete
            if now < min(log.stable, log.end):
                raise TruncationError(
                    f"wanted to go on in {item}, found that the log of {item.topic}:{item.partition} ends at {now} by "
                    f"now; it held records up to {log.stable} when the epoch was planned, so it was cut back: begin "
                    "the epoch anew"
                )
        return found.resumed_by(self.start.share)


class BoundedPass(Iterator[Any]):
    """One pass of one reader through ranges with an end."""

    def __init__(self, stream: BoundedStream, checkpoint: Checkpoint, resumed: bool) -> None:
        assert checkpoint.share is not None
        self.checkpoint = checkpoint
        self.report = _fresh_report(checkpoint)
        self.done, self.missing = checkpoint.done, checkpoint.missing
        self._stream = stream
        self._places = Places(checkpoint.readable)
        self._share = checkpoint.share
        self._equal = checkpoint.order.equal_ranks is not None
        self._loss = "" if resumed else stream.loss
        self._writer = StateWriter(checkpoint)
        self._own = 0  # items of this reader
        self._items = self._all_items()
        stream.note(self)

    @property
    def epoch(self) -> int:
        """Which epoch it is."""
        return self.checkpoint.epoch

    def __next__(self) -> Any:
        if self._stream.stopped():
            self.close()
        return next(self._items)

    def state(self) -> dict[str, Any]:
        """Where it stands, behind the last item."""
        return self._writer.state(self.done, self.missing)

    def close(self) -> None:
        """End it."""
        self._items.close()

    def _all_items(self) -> Generator[Any, None, None]:
        """The items up to the last; where ranks are to be equal, then others for those that held no record."""
        if self._loss:
            raise DataLossError(self._loss)
        order = self.checkpoint.order
        course = order.course(self._places.total, self.checkpoint.epoch, self.checkpoint.cuts)
        deal = order.deal(course, self.checkpoint.epoch, self._share)
        self._own = len(range(self._share.worker, deal.items, self._share.workers))
        if self.done < self._own:
            with closing(self._read(deal, self.report, self.done)) as cycles:
                yield from self._handed_out(cycles)
        while self.missing:
            if self.missing == self._own:
                raise DataLossError(
                    f"rank {self._share.rank} of {self._share.world} found no record in its {deal.size} offset(s), and "
                    "equal_ranks wants as many of all; leave it out, or name ranges that hold records"
                )
            with closing(self._read(deal, _fresh_report(self.checkpoint), self.done % self._own)) as cycles:
                for item in self._handed_out(cycles):
                    self.missing -= 1
                    yield item
                    if not self.missing:
                        break

    def _read(self, deal: Deal, report: ReadReport, done: int) -> Generator[Cycle, None, None]:
        """The cycles behind the first `done` items, read ahead."""
        stream = self._stream
        readers = READERS if stream.prefetch else 1
        reader = WindowReader(
            stream.connect, report, self._places, deal, self._share, stream.decoding, readers, stream.stretch
        )
        if not stream.prefetch:
            yield from reader.read(done)
            return
        ahead = Ahead(lambda closed: reader.read(done), lambda cycle: len(cycle.rows), stream.prefetch)
        try:
            yield from ahead
        finally:
            ahead.close()

    def _handed_out(self, cycles: Iterator[Cycle]) -> Iterator[Any]:
        return self._samples(cycles) if self.checkpoint.order.batch is None else self._batches(cycles)

    def _batches(self, cycles: Iterator[Cycle]) -> Iterator[Any]:
        making, nothing = self._stream.making, self._stream.decoding.nothing()
        for cycle in cycles:
            for taken in cycle:
                self._pass_one(taken is not None)
                if taken is None and (self._share.workers == 1 or self._equal):
                    continue
                # With several workers it is the turn of this one, also with nothing.
                values, labels, rows = taken or (nothing.values, nothing.labels, np.empty(0, np.int64))
                coordinates = self._coordinates(cycle.places[rows]) if making.coordinates else NOWHERE
                yield making.batch(values, labels, coordinates)
            del cycle  # whose memory the next one may have

    def _samples(self, cycles: Iterator[Cycle]) -> Iterator[Any]:
        making = self._stream.making
        for cycle in cycles:
            found = cycle.samples
            values, labels = found or (None, None)
            located = making.coordinates and found is not None
            coordinates = zip(*self._coordinates(cycle.places[cycle.rows]), strict=True) if located else repeat(None)
            for row, where in zip(cycle.rows.tolist(), coordinates, strict=False):
                self._pass_one(row != NO_RECORD)
                if row == NO_RECORD or values is None:
                    continue
                label = None if labels is None else labels[row]
                sample = make_sample(values[row], label, making.transform, making.label_transform)
                if where is not None:
                    topic, partition, offset = where
                    parts = (sample,) if label is None else sample
                    sample = (*parts, (topic, int(partition), int(offset)))
                yield sample

    def _coordinates(self, places: np.ndarray) -> Coordinates:
        ranges = self.checkpoint.ranges
        sources, offsets = self._places.at(places)
        partitions = np.array([item.partition for item in ranges], np.int64)
        return [ranges[source].topic for source in sources.tolist()], partitions[sources], offsets

    def _pass_one(self, found: bool) -> None:
        self.done += 1
        if self._equal and not found and self.done <= self._own:
            self.missing += 1


def _fresh_report(checkpoint: Checkpoint) -> ReadReport:
    accounts = []
    for item, log in zip(checkpoint.ranges, checkpoint.logs, strict=True):
        topic_id = checkpoint.topic_ids.get(item.topic, "")
        accounts.append(RangeReport(item, log.start, log.end, topic_id, log.epoch, log.stable))
    return ReadReport(accounts)
