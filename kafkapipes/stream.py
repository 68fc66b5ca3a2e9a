"""StreamIterator: one pass of one reader over a stream, which knows where it stands."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from kafkapipes.ahead import Ahead
from kafkapipes.arrays import ArrayBatch, Column, elements_of
from kafkapipes.blocks import Deal, Places
from kafkapipes.checkpoints import Checkpoint, StateWriter
from kafkapipes.errors import DataLossError, TruncationError
from kafkapipes.formats.raw import no_rows
from kafkapipes.pipes.transformer import Transform, make_sample
from kafkapipes.ranges import OffsetRange
from kafkapipes.report import RangeReport, ReadReport
from kafkapipes.windows import NO_RECORD, Connect, Cycle, Decoding, WindowReader

State = dict[str, Any]


@dataclass(frozen=True)
class Making:
    """How a user wants samples and batches made of decoded columns."""

    transform: Transform | None = None
    label_transform: Transform | None = None
    batch_transform: Callable[..., Any] | None = None

    def samples(self, batch: ArrayBatch) -> Iterator[Any]:
        """The samples of a batch, one at a time."""
        labels = batch.scalar_labels
        for row, value in enumerate(batch.values):
            yield make_sample(value, None if labels is None else labels[row], self.transform, self.label_transform)

    def batch(self, batch: ArrayBatch) -> Any:
        """The batch as tensors, or lists of str or bytes."""
        if (self.transform or self.label_transform) and len(batch):
            made = default_collate(list(self.samples(batch)))
            values, labels = (made, None) if batch.labels is None else made
        else:
            column = batch.scalar_labels
            values, labels = _tensor(batch.values), None if column is None else _tensor(column)
        parts = (values,) if batch.labels is None else (values, labels)
        if self.batch_transform is not None:
            return self.batch_transform(*parts)
        return parts if len(parts) > 1 else values


@dataclass(frozen=True)
class Stream:
    """All that an iterator needs of its dataset.

    Attributes:
        start: where it begins
        declared: the ranges as they were given
        stable: (topic, partition) → offset up to which its log held records for good when the dataset was made
        loss: why the ranges cannot be read from their beginning; "" where they can
        any_block: whether the size of blocks was not chosen, so that a state's may be taken
        connect: opens what fetches
        decoding, making: records → samples
        prefetch: places that are read ahead
        note: called with the report of each pass
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
    note: Callable[[ReadReport], None]

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


class StreamIterator(Iterator[Any]):
    """What `iter(StreamingKafkaDataset(...))` gives: samples or batches, and the state behind the last one.

    Nothing is connected to before the first item is asked for.

    >>> from kafkapipes import StreamingKafkaDataset
    >>> from kafkapipes.testing import EmbeddedKafka
    >>> kafka = EmbeddedKafka()
    >>> kafka.fill("clicks", [(bytes([number]), None) for number in range(10)])
    >>> message = {"topic": "clicks:0:0:10", "input_config": {"data_type": "uint8"}}
    >>> stream = StreamingKafkaDataset(message, kafka.bootstrap_servers, "readers", batch_size=4)
    >>> batches = iter(stream)
    >>> next(batches).flatten().tolist()
    [0, 1, 2, 3]
    >>> state = batches.state_dict()  # plain values: save it as JSON, or within any checkpoint
    >>> again = iter(stream)
    >>> again.load_state_dict(state)
    >>> [batch.flatten().tolist() for batch in again]
    [[4, 5, 6, 7], [8, 9]]
    >>> batches.close()
    >>> kafka.close()
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._pass = _Pass(stream, stream.start, resumed=False)

    def __next__(self) -> Any:
        return next(self._pass)

    def state_dict(self) -> State:
        """Where this stands, behind the last item that was handed out: what was read ahead does not count.

        A new dictionary each time, of plain values, some hundred bytes and the ranges; it fits JSON.
        """
        return self._pass.state()

    def load_state_dict(self, state: State) -> None:
        """Go on where a state stands: that of the same reader, of the only one, or of all (`merge_states`).

        The next item is found by its offset, wherever it lies: nothing before it is read again, but what a shuffle
        mixes with it.

        Raises:
            StateError: the state is torn, or of other ranges, another order, or another reader
            TopicChangedError: a topic was deleted and made anew since
            TruncationError: a log has become shorter since
        """
        checkpoint = self._stream.checked(Checkpoint.from_state(state))
        self._pass.close()
        self._pass = _Pass(self._stream, checkpoint, resumed=True)

    def close(self) -> None:
        """End what reads ahead; to go on, begin another iterator and load the state of this one."""
        self._pass.close()

    @property
    def epoch(self) -> int:
        """The epoch that this passes through."""
        return self._pass.checkpoint.epoch

    @property
    def report(self) -> ReadReport:
        """Per range what was requested, delivered and missing, as far as this iterator has read."""
        return self._pass.report

    def __del__(self) -> None:
        if hasattr(self, "_pass"):
            self._pass.close()

    def __repr__(self) -> str:
        return f"StreamIterator(epoch {self.epoch}, {self._pass.done} item(s) passed)"


class _Pass(Iterator[Any]):
    """The pass itself. Apart from its iterator, which ends it when nobody refers to that any more."""

    def __init__(self, stream: Stream, checkpoint: Checkpoint, resumed: bool) -> None:
        assert checkpoint.share is not None
        self.checkpoint = checkpoint
        self.report = _fresh_report(checkpoint)
        stream.note(self.report)
        self.done, self.missing = checkpoint.done, checkpoint.missing
        self._stream = stream
        self._share = checkpoint.share
        self._equal = checkpoint.order.equal_ranks is not None
        self._loss = "" if resumed else stream.loss
        self._writer = StateWriter(checkpoint)
        self._own = 0  # items of this reader
        self._items = self._all_items()

    def __next__(self) -> Any:
        return next(self._items)

    def state(self) -> State:
        return self._writer.state(self.done, self.missing)

    def close(self) -> None:
        self._items.close()

    def _all_items(self) -> Generator[Any, None, None]:
        """The items up to the last; where ranks are to be equal, then others for those that held no record."""
        if self._loss:
            raise DataLossError(self._loss)
        places, order = Places(self.checkpoint.readable), self.checkpoint.order
        course = order.course(places.total, self.checkpoint.epoch, self.checkpoint.cuts)
        deal = order.deal(course, self.checkpoint.epoch, self._share)
        self._own = len(range(self._share.worker, deal.items, self._share.workers))
        if self.done < self._own:
            with closing(self._read(deal, places, self.report, self.done)) as cycles:
                yield from self._handed_out(cycles)
        while self.missing:
            if self.missing == self._own:
                raise DataLossError(
                    f"rank {self._share.rank} of {self._share.world} found no record in its {deal.size} offset(s), and "
                    "equal_ranks wants as many of all; leave it out, or name ranges that hold records"
                )
            with closing(self._read(deal, places, _fresh_report(self.checkpoint), self.done % self._own)) as cycles:
                for item in self._handed_out(cycles):
                    self.missing -= 1
                    yield item
                    if not self.missing:
                        break

    def _read(self, deal: Deal, places: Places, report: ReadReport, done: int) -> Generator[Cycle, None, None]:
        """The cycles behind the first `done` items, read ahead."""
        stream = self._stream
        reader = WindowReader(stream.connect, report, places, deal, self._share, stream.decoding)
        if not stream.prefetch:
            yield from reader.read(done)
            return
        ahead = Ahead(lambda: reader.read(done), lambda cycle: len(cycle.rows), stream.prefetch)
        try:
            yield from ahead
        finally:
            ahead.close()

    def _handed_out(self, cycles: Iterator[Cycle]) -> Iterator[Any]:
        return self._samples(cycles) if self.checkpoint.order.batch is None else self._batches(cycles)

    def _batches(self, cycles: Iterator[Cycle]) -> Iterator[Any]:
        making = self._stream.making
        for cycle in cycles:
            for _ in range(cycle.items):
                samples = cycle.take()
                self._pass_one(samples is not None)
                if samples is not None:
                    yield making.batch(samples)
                elif self._share.workers > 1 and not self._equal:  # the turn of this worker
                    yield making.batch(_no_samples(self._stream.decoding))

    def _samples(self, cycles: Iterator[Cycle]) -> Iterator[Any]:
        transform, label_transform = self._stream.making.transform, self._stream.making.label_transform
        for cycle in cycles:
            found = cycle.samples
            values, labels = (None, None) if found is None else (found.values, found.scalar_labels)
            for row in cycle.rows.tolist():
                self._pass_one(row != NO_RECORD)
                if row != NO_RECORD and values is not None:
                    yield make_sample(values[row], None if labels is None else labels[row], transform, label_transform)

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


def _no_samples(decoding: Decoding) -> ArrayBatch:
    """No rows, of the type and shape that they would have."""
    data, label = decoding.decoder.data, decoding.decoder.label
    shape = () if elements_of(decoding.label_shape) in (None, 1) else decoding.label_shape
    labels = None if label is None else no_rows(label, shape)
    account = RangeReport(OffsetRange("none", 0, 0, 0), 0, 0)
    return ArrayBatch(no_rows(data, decoding.data_shape), labels, np.empty(0, np.int64), account)


def _tensor(column: Column) -> Any:
    return torch.from_numpy(column) if isinstance(column, np.ndarray) else list(column)
