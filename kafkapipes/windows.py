"""Windows of places → samples as columns: what lies there is fetched, decoded, and put in the order of the items.

Places say what to read (`blocks.py`), a `Fetcher` reads it, the format decodes it. No torch, and no state: what is read
again gives the same.
"""

import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, chain, islice
from typing import NamedTuple, Protocol

import numpy as np

from kafkapipes.abreast import Abreast, Shared
from kafkapipes.arrays import (
    ArrayBatch,
    Column,
    ColumnBuilder,
    RowBuilder,
    builder_for,
    joined_columns,
    row_bytes,
    rows_between,
    rows_of,
)
from kafkapipes.blocks import Blocks, Deal, Places, Share, Window
from kafkapipes.decoding import Decoding, SampleDecoder
from kafkapipes.memory import ReusedMemory
from kafkapipes.records import Destination, RecordBatch
from kafkapipes.report import RangeReport, ReadReport

NO_RECORD = -1  # the row of a place that holds none
AHEAD_BLOCKS = 2  # that each of several readers is ahead, and what it fetches at once
READ_THROUGH = 1000  # places between two that are wanted: so many are read and dropped, since to find one costs more
_SPARES = 4  # pieces of memory of each size that wait to be used again
_REUSED_BYTES = 2**16  # of the records of a batch, below which new memory is as good
_ANY_BYTES = 2**62  # of strings: their number is bounded, and room grows with them
Part = tuple[np.ndarray, ArrayBatch]  # ascending places, and the sample at each
Columns = tuple[Column, Column | None]  # values, and their labels, one number a sample where they have one element


class Fetches(Protocol):
    """What is needed of a `Fetcher`."""

    def fetch(self, account: RangeReport) -> Iterator[RecordBatch]:
        """The records of one range, in offset order."""

    def confirm(self) -> None:
        """Make sure that the topics are still those that were planned."""


class Connect(Protocol):
    """Opens what fetches."""

    def __call__(self, *, destination: Destination) -> AbstractContextManager[Fetches]:
        """It may write the bytes of records where the destination has them."""


class Cycle:
    """The items of one worker in a cycle of windows, read. Iterating takes them one after the other, and holds nothing.

    Of each there are its values, its labels (None where there are none) and their rows; None where its places hold no
    record.

    Args:
        begins, ends: int64, of each item, in their order: where among `rows` its places are; together they are all
        rows: int64, of each place: which of the samples is there, or NO_RECORD
        found: int64, the places of the samples, in parts
        parts: the samples
        full: whether it is known that every place holds a record
        straight: whether it is known that the records follow one another
    """

    def __init__(
        self,
        begins: np.ndarray,
        ends: np.ndarray,
        rows: np.ndarray,
        found: Sequence[np.ndarray],
        parts: Sequence[Columns],
        full: bool = False,
        straight: bool = False,
    ) -> None:
        self._begins, self._ends = begins, ends
        self._rows = rows
        self._found = found
        self._known = [straight] if full else []
        self._parts = parts
        self._bounds = list(accumulate((len(values) for values, _ in parts), initial=0))  # rows

    @property
    def rows(self) -> np.ndarray:
        """int64, of the places of all items, item after item: which of the samples is there, or NO_RECORD."""
        rows: np.ndarray = self._rows[_spread(self._begins, self._ends)]
        return rows

    @cached_property
    def places(self) -> np.ndarray:
        """int64, of each sample."""
        return np.concatenate([np.empty(0, np.int64), *self._found])

    @property
    def samples(self) -> Columns | None:
        """The values and labels of all samples, by place; None where there are none."""
        if len(self._parts) > 1:
            self._parts, self._bounds = [_joined(self._parts)], [0, self._bounds[-1]]
        return self._parts[0] if self._parts else None

    def __iter__(self) -> Iterator[tuple[Column, Column | None, np.ndarray] | None]:
        full, straight = self._kinds()
        columns = self._begins, self._ends, self._rows[self._begins]
        items = zip(*(column.tolist() for column in columns), full, straight, strict=True)
        for begin, end, first, is_full, is_straight in items:
            rows = self._rows[begin:end]
            if is_straight:
                yield *self._between(first, first + end - begin), rows
                continue
            if not is_full:
                rows = rows[rows != NO_RECORD]
            if (samples := self.samples) is None or not len(rows):
                yield None
                continue
            values, labels = samples
            yield rows_of(values, rows), None if labels is None else rows_of(labels, rows), rows

    def _kinds(self) -> tuple[list[bool], list[bool]]:
        """Of each item, whether every place holds a record, and whether these follow one another: of all at once."""
        for straight in self._known:
            return [True] * len(self._begins), [straight] * len(self._begins)
        is_hole = self._rows == NO_RECORD
        breaks = np.append(self._rows[1:] != self._rows[:-1] + 1, False)
        breaks[self._ends - 1] = False  # to the next item
        order = np.argsort(self._begins)
        kinds = np.empty((2, len(order)), bool)
        kinds[:, order] = np.logical_or.reduceat([is_hole, is_hole | breaks], self._begins[order], axis=1)
        has_holes, broken = (~kinds).tolist()
        return has_holes, broken

    def _between(self, begin: int, end: int) -> Columns:
        """Consecutive samples: no copy, unless they came in several parts."""
        number = bisect_right(self._bounds, begin) - 1
        found = []
        while begin < end:
            (values, labels), start, stop = self._parts[number], self._bounds[number], self._bounds[number + 1]
            rows = begin - start, min(stop, end) - start
            found.append((rows_between(values, *rows), None if labels is None else rows_between(labels, *rows)))
            begin, number = stop, number + 1
        return found[0] if len(found) == 1 else _joined(found)


class Run(NamedTuple):
    """Ascending places that are read in one go.

    Attributes:
        start, stop: from and to
        wanted: int64, which are wanted; None: all
    """

    start: int
    stop: int
    wanted: np.ndarray | None = None

    @property
    def size(self) -> int:
        """How many are wanted."""
        return self.stop - self.start if self.wanted is None else len(self.wanted)


@dataclass(eq=False)
class Load:
    """What is read for a cycle of windows, and where it is put together.

    Attributes:
        begins, ends: int64, of each item, in their order: where among `rows`, or `wanted`, its places are
        runs: the places of all items, ascending
        rows: int64, of each place, the how manieth in `runs` it is; None where that is not known
        wanted: int64, the places, where `rows` is None
        straight: whether the items have the places in their order
        values, labels: uint8, memory for those at all places, while they are put together; None where these are no
            numbers, or their size is not known yet
    """

    begins: np.ndarray
    ends: np.ndarray
    runs: list[Run]
    rows: np.ndarray | None = None
    wanted: np.ndarray | None = None
    straight: bool = False
    values: np.ndarray | None = None
    labels: np.ndarray | None = None

    @cached_property
    def bounds(self) -> list[int]:
        """The rows where each run begins if nothing is missing, and where the last one ends."""
        return list(accumulate((run.size for run in self.runs), initial=0))

    def open(self, memory: ReusedMemory, row_bytes: tuple[int, int]) -> None:
        """Let readers write values and labels of so many bytes where they are to be."""
        self.values, self.labels = (memory.array(self.bounds[-1] * size) if size else None for size in row_bytes)

    def rows_among(self, found: Sequence[np.ndarray]) -> np.ndarray:
        """int64: of each place, which of those found it is, or NO_RECORD."""
        if self.rows is not None and sum(map(len, found)) == self.bounds[-1]:
            return self.rows
        wanted = self.wanted
        if wanted is None:  # all places of all runs
            starts, stops = np.array([run[:2] for run in self.runs], np.int64).T
            wanted = _spread(starts, stops)[self.rows]
        return _rows(np.concatenate(found) if found else np.empty(0, np.int64), wanted)


@dataclass(frozen=True, slots=True)
class Reading:
    """A step of a read: records that came, or the end of a piece.

    Attributes:
        source: which range
        batch: the records; None at the end
        account: of this step alone; the batch has the same
        offsets: wanted offsets that it has covered
    """

    source: int
    batch: RecordBatch | None
    account: RangeReport
    offsets: int


class WindowReader:
    """Reads the windows of one worker, in the order in which it needs them.

    Args:
        connect: opens what fetches
        accounts: of each range; what is read is counted in them
        places: what the places of the deal are
        deal: the part of this worker's rank
        share: which worker this is
        decoding: how records become samples
        readers: how many read side by side, each in a thread of its own; 1: this thread alone
        stretch: places that one of several reads in one go where they come in their order; 0: one reader goes through
            them alone
    """

    def __init__(
        self,
        connect: Connect,
        accounts: ReadReport,
        places: Places,
        deal: Deal,
        share: Share,
        decoding: Decoding,
        readers: int = 1,
        stretch: int = 0,
    ) -> None:
        self._connect = connect
        self._accounts = accounts
        self._places = places
        self._deal = deal
        self._share = share
        self._decode = SampleDecoder(decoding)
        self._readers = readers
        self._stretch = stretch
        self._memory = ReusedMemory(_SPARES)
        straight = deal.key is None and share.workers == 1 and isinstance(deal.course, Blocks)
        self._horizon = min(deal.first + deal.size, deal.course.total) if straight else 0
        self._goes_around = deal.first + deal.size > deal.course.total
        self._open = (0, 0)  # places that the open stream has yet to give
        self._stream: Iterator[Part] = iter(())
        self._kept: list[Part] = []  # the first of these

    def read(self, done: int) -> Iterator[Cycle]:
        """The items behind the first `done` ones; nothing is connected to where there are none.

        Raises:
            KafkaPipesError: what `Fetcher.fetch` and the policies say.
        """
        left = self._deal.size - done * self._deal.item
        if self._readers > 1 and self._horizon and not self._goes_around and left > self._stretch > 0:
            return self._read_abreast(self._stretches(done), self._stretch)
        cycles = self._deal.cycles(self._share.worker, self._share.workers, done)
        loads = (self._planned(windows, done) for windows in cycles)
        if self._readers > 1 and self._deal.key is not None:
            return self._read_abreast(loads, AHEAD_BLOCKS * self._deal.block)
        return self._read_alone(loads)

    def _read_alone(self, loads: Iterator[Load]) -> Iterator[Cycle]:
        for first in islice(loads, 1):
            room, every = _Room(self._memory), chain(iter([first]), loads)
            del first  # which holds memory, and is done before the others
            with self._connect(destination=room) as fetcher:
                for load in every:
                    yield self._cycle(load, self._parts(fetcher, load, room))
                fetcher.confirm()

    def _read_abreast(self, loads: Iterator[Load], limit: int) -> Iterator[Cycle]:
        """The same by several readers, which all wait at once: each is so many places ahead."""
        shared = Shared(loads, self._readers + 1)
        runs = (_runs_of(shared.taken_by(number)) for number in range(self._readers))
        works = (islice(every, number, None, self._readers) for number, every in enumerate(runs))
        abreast = Abreast(self._readings_of, works, weigh=_weight, limit=limit)
        try:
            for load in shared.taken_by(self._readers):
                parts = (part for _ in load.runs for part in self._samples(abreast.following()))
                yield self._cycle(load, parts)
            abreast.finish()
        finally:
            abreast.close()

    def _readings_of(self, runs: Iterator[tuple[Load, int]]) -> Iterator[Reading | None]:
        """What one of several readers makes of its runs."""
        for first in islice(runs, 1):
            room, every = _Room(self._memory), chain(iter([first]), runs)
            del first  # which holds memory, and is done before the others
            with self._connect(destination=room) as fetcher:
                for load, number in every:
                    room.go_to(load, number)
                    yield from self._readings(fetcher, load.runs[number])
                    yield None
                fetcher.confirm()

    def _stretches(self, done: int) -> Iterator[Load]:
        """What is read for items in their order, by several readers."""
        step = max(1, self._stretch // self._deal.item) * self._deal.item
        for begin in range(done * self._deal.item, self._deal.size, step):
            yield self._planned_straight(begin, min(begin + step, self._deal.size))

    def _planned(self, windows: list[Window], done: int) -> Load:
        end = self._deal.first + windows[0].start + windows[0].size
        if len(windows) == 1 and end <= self._horizon:
            before = int(self._deal.own(windows[0], 0, 1, done)[0]) - windows[0].first
            return self._planned_straight(windows[0].start + before * self._deal.item, end - self._deal.first)
        begins, ends, index = self._dealt(windows, done)
        if index is None and not self._goes_around and isinstance(self._deal.course, Blocks):
            runs, rows = self._whole(self._deal.course, windows)
            return Load(begins, ends, runs, rows)
        places = np.concatenate([self._deal.places(window) for window in windows])
        wanted = places if index is None else places[index]
        # Whole windows are nobody else's, and blocks apart: all between them would be read for nothing.
        apart = index is None and not self._deal.course.depth
        runs = _runs(np.sort(wanted), 0 if apart else min(READ_THROUGH, self._deal.block - 1))
        return Load(begins, ends, runs, wanted=wanted)

    def _planned_straight(self, begin: int, end: int) -> Load:
        """The same where some positions of this rank are the places, in their order."""
        rows = np.arange(end - begin)
        begins = rows[:: self._deal.item]
        ends = np.minimum(begins + self._deal.item, len(rows))
        run = Run(self._deal.first + begin, self._deal.first + end)
        return Load(begins, ends, [run], rows, straight=True)

    def _whole(self, course: Blocks, windows: list[Window]) -> tuple[list[Run], np.ndarray]:
        """Runs and rows of whole windows of blocks: by what lies together, which is quicker than place by place."""
        begins = [self._deal.first + window.start for window in windows]
        stretches = [course.stretches(begin, begin + w.size) for begin, w in zip(begins, windows, strict=True)]
        starts, ends = np.concatenate(stretches).T
        ascending = np.argsort(starts)
        firsts = np.empty(len(starts), np.int64)  # rows
        firsts[ascending] = np.cumsum((ends - starts)[ascending]) - (ends - starts)[ascending]
        rows = np.split(_spread(firsts, firsts + ends - starts), np.cumsum([window.size for window in windows])[:-1])
        mixed = [own[self._deal.order(window)] for own, window in zip(rows, windows, strict=True)]
        apart = np.append(starts[ascending][1:] != ends[ascending][:-1], True)
        bounds = zip(starts[ascending][np.roll(apart, 1)].tolist(), ends[ascending][apart].tolist(), strict=True)
        return [Run(start, stop) for start, stop in bounds], np.concatenate(mixed)

    def _dealt(self, windows: list[Window], done: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """The items to be read: where the places of each begin and end, and which of all windows' these are, or all."""
        own = [self._deal.own(window, self._share.worker, self._share.workers, done) for window in windows]
        begins = [
            (numbers - window.first) // self._deal.lanes * self._deal.item
            for numbers, window in zip(own, windows, strict=True)
        ]
        limits = np.repeat([window.size for window in windows], list(map(len, own)))
        shifts = np.repeat(np.cumsum([0, *(window.size for window in windows[:-1])]), list(map(len, own)))
        starts = np.concatenate(begins)
        sizes = np.minimum(starts + self._deal.item, limits) - starts
        order, ends = np.argsort(np.concatenate(own), kind="stable"), np.cumsum(sizes)
        is_whole = ends[-1] == sum(window.size for window in windows)
        index = None if is_whole else _spread(starts + shifts, starts + shifts + sizes)
        return (ends - sizes)[order], ends[order], index

    def _parts(self, fetcher: Fetches, load: Load, room: "_Room") -> Iterator[Part]:
        for number, run in enumerate(load.runs):
            room.go_to(load, number)
            yield from self._take(fetcher, run)

    def _take(self, fetcher: Fetches, run: Run) -> Iterator[Part]:
        """The samples of a run, from the open stream if it stands there."""
        start, stop, sparse = run
        if sparse is not None or self._open[0] != start or self._open[1] < stop:
            self._open = (start, stop if sparse is not None else max(stop, self._horizon))
            self._stream, self._kept = self._samples(self._readings(fetcher, Run(*self._open, sparse))), []
        for where, samples in chain(self._kept, self._stream):
            end = int(np.searchsorted(where, stop))
            self._kept = [(where[end:], samples.between(end, len(where)))] if end < len(where) else []
            if end:
                yield where[:end], samples.between(0, end)
            if self._kept:
                break
        self._open = (stop, self._open[1])

    def _readings(self, fetcher: Fetches, run: Run) -> Iterator[Reading]:
        """What lies at the places of a run; touches no account."""
        start, stop, wanted = run
        for source, first, end in self._places.pieces(start, stop):
            whole = self._accounts[source]
            piece = whole.part(replace(whole.range, start=first, end=end))
            for batch in fetcher.fetch(piece):
                following = int(batch.offsets[-1]) + 1
                if wanted is not None:
                    batch = _only(batch, self._places.of(source, batch.offsets), wanted)
                step = _moved(piece)
                yield Reading(source, replace(batch, account=step), step, self._count(source, first, following, wanted))
                first = following
            yield Reading(source, None, _moved(piece), self._count(source, first, end, wanted))

    def _samples(self, readings: Iterator[Reading]) -> Iterator[Part]:
        """The samples in the records, which are counted."""
        began = time.monotonic()
        for reading in readings:
            whole, offsets = self._accounts[reading.source], 0
            try:
                samples = None if reading.batch is None else self._decode(reading.batch)
                offsets = reading.offsets
            finally:
                whole.add(reading.account, offsets)
            now = time.monotonic()
            whole.seconds, began = whole.seconds + now - began, now
            if samples is not None and len(samples):
                yield self._places.of(reading.source, samples.offsets), samples

    def _cycle(self, load: Load, parts: Iterator[Part]) -> Cycle:
        if self._deal.key is None:
            found, samples = _kept(parts)
        else:
            load.open(self._memory, self._decode.row_bytes)
            found, samples = _copied(parts, load, self._memory)
        rows = load.rows_among(found)
        return Cycle(load.begins, load.ends, rows, found, samples, full=rows is load.rows, straight=load.straight)

    def _count(self, source: int, first: int, end: int, wanted: np.ndarray | None) -> int:
        """How many of some offsets are wanted."""
        if wanted is None:
            return end - first
        return int(np.diff(np.searchsorted(wanted, self._places.of(source, np.array([first, end]))))[0])


def _joined(parts: Sequence[Columns]) -> Columns:
    """Several values and labels as one, copied."""
    values, labels = zip(*parts, strict=True)
    return joined_columns(values), None if labels[0] is None else joined_columns(labels)


def _spread(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """int64: all numbers from each start up to, and without, its end."""
    sizes = ends - starts
    spread: np.ndarray = np.arange(sizes.sum()) + np.repeat(starts - np.cumsum(sizes) + sizes, sizes)
    return spread


def _moved(account: RangeReport) -> RangeReport:
    """What a piece has counted since it was asked last, as an account of its own."""
    step = account.part(account.range)
    step.add(account, 0)
    return step


def _weight(reading: Reading) -> int:
    return 0 if reading.batch is None else len(reading.batch)


def _only(batch: RecordBatch, places: np.ndarray, wanted: np.ndarray) -> RecordBatch:
    """The records at wanted places: the others are for another worker, or were handed out before."""
    at = np.minimum(np.searchsorted(wanted, places), len(wanted) - 1)
    rows = np.flatnonzero(wanted[at] == places)
    batch.account.received -= len(batch) - len(rows)
    return batch.select(rows)


def _runs(places: np.ndarray, read_through: int) -> list[Run]:
    """Ascending places, parted where more than so many lie between two of them."""
    parted = np.split(places, np.flatnonzero(np.diff(places) > 1 + read_through) + 1)
    bounds = ((int(part[0]), int(part[-1]) + 1, part) for part in parted)
    return [Run(start, stop, part if len(part) < stop - start else None) for start, stop, part in bounds]


def _runs_of(loads: Iterator[Load]) -> Iterator[tuple[Load, int]]:
    """Each run of each load, by its number."""
    for load in loads:
        for number in range(len(load.runs)):
            yield load, number


def _kept(parts: Iterator[Part]) -> tuple[list[np.ndarray], list[Columns]]:
    """The parts as they came: most items lie within one."""
    found = list(parts)
    return [places for places, _ in found], [(samples.values, samples.scalar_labels) for _, samples in found]


def _copied(parts: Iterator[Part], load: Load, memory: ReusedMemory) -> tuple[list[np.ndarray], list[Columns]]:
    """The parts as one: any item may have samples of each. What is not where it is to be yet is copied as it comes."""
    found: list[np.ndarray] = []
    builders: list[ColumnBuilder] = []
    for places, samples in parts:
        columns = [column for column in (samples.values, samples.scalar_labels) if column is not None]
        if not found:
            rooms = zip(columns, (load.values, load.labels), strict=False)
            builders = [_builder(column, load.bounds[-1], room, memory) for column, room in rooms]
        for builder, column in zip(builders, columns, strict=True):
            builder.append(column)
        found.append(places)
    if not found:
        return [], []
    values, labels, *_ = [*(builder.finish() for builder in builders), None]
    return found, [(values, labels)]


def _builder(first: Column, most: int, room: np.ndarray | None, memory: ReusedMemory) -> ColumnBuilder:
    """A builder for columns like the first, with so many rows: for numbers in the room that there is for them."""
    if not isinstance(first, np.ndarray):
        return builder_for(first, most, _ANY_BYTES)
    size = most * row_bytes(first)
    whole = room if room is not None and len(room) == size else memory.array(size)
    return RowBuilder.over(whole.view(first.dtype).reshape(most, *first.shape[1:]))


class _Room:
    """The `Destination` of what one reader fetches.

    That is where it is to be, if that is open; else memory that is used again, of which small records have their own.
    """

    def __init__(self, memory: ReusedMemory) -> None:
        self._memory = memory
        self._load: Load | None = None
        self._row = self._end = self._rows = 0

    def go_to(self, load: Load, number: int) -> None:
        """What comes next is a run of a load, its records row by row."""
        is_whole = load.runs[number].wanted is None  # else there is more between what is wanted
        self._load, self._rows = load if is_whole else None, load.bounds[-1]
        self._row, self._end = load.bounds[number : number + 2]

    def room_for_values(self, rows: int, row_bytes: int) -> np.ndarray | None:
        """uint8 [rows * row_bytes]"""
        return self._room(None if self._load is None else self._load.values, rows, row_bytes)

    def room_for_keys(self, rows: int, row_bytes: int) -> np.ndarray | None:
        """uint8 [rows * row_bytes]"""
        return self._room(None if self._load is None else self._load.labels, rows, row_bytes)

    def came(self, rows: int) -> None:
        """Take note of the next records: those behind them are behind theirs."""
        self._row += rows

    def _room(self, whole: np.ndarray | None, rows: int, row_bytes: int) -> np.ndarray | None:
        if whole is not None and len(whole) == self._rows * row_bytes and self._row + rows <= self._end:
            return whole[self._row * row_bytes : (self._row + rows) * row_bytes]
        return self._memory.array(rows * row_bytes) if rows * row_bytes >= _REUSED_BYTES else None


def _rows(places: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Which of some ascending places each wanted one is; NO_RECORD where it is none."""
    if not len(places):
        return np.full(len(wanted), NO_RECORD)
    # By the first place of each run without a gap: these are few, and looked up many times faster than all places.
    firsts = np.concatenate([[0], np.flatnonzero(np.diff(places) != 1) + 1])
    ends = np.append(firsts[1:], len(places))
    run = np.searchsorted(places[firsts], wanted, side="right") - 1  # -1 before the first, where no row fits
    rows = wanted - places[firsts][run] + firsts[run]
    return np.where((run >= 0) & (rows < ends[run]), rows, NO_RECORD)
