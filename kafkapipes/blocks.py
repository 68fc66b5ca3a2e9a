"""Ranges as blocks of offsets: their order, their shuffle, their shares and what is left of them. Pure (NumPy).

Every record has an address, so who reads what and when is arithmetic, known to all processes before a byte is fetched.

    ranges    t:0:100:107     t:1:5:10          end to end; each offset has a place, with or without a record
    places    0 1 2 3 4 5 6   7 8 9 10 11
    course    8 9 10 11 | 0 1 2 3 | 4 5 6 7     blocks of 4 places, in an order that (seed, epoch) gives
    ranks     8 9 10 11   0 1   2 3   4 5 6 7   equal parts of the course, to the place
    windows   (8 9 10 11) (0 1)   (2 3 4 5) ..  cut from a rank's part, each shuffled by (seed, epoch, where it begins)
    items     9 11 | 1 0 | 8 10                 dealt from L windows in turn, a cycle: item k comes from lane k mod L

An item is a batch, or a single sample. Of W workers, worker w takes the items w, w + W, ...: a DataLoader takes them in
turn, so the sequence is the same for any W. Where W divides L, the number of lanes, each window belongs to one worker,
and no block is fetched twice. Without a shuffle a window is a piece of the ranges, and items come in their order.

A position is one number: how many of its items a worker has handed out. It counts places, not records: offsets without
a record (compacted, markers) make an item smaller, which nobody knows before it is read, and which moves no other.
Another number of workers or ranks may go on from there: what all the old ones have left (`Rest`) is a course again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from kafkapipes.errors import ConfigError
from kafkapipes.ranges import OffsetRange

LANES = 12  # windows open at a time: 1, 2, 3, 4, 6 or 12 workers can share them
MAX_BLOCKS = 20_000_000  # of a shuffled course: its order takes some seconds, and 16 bytes each
EQUAL_RANKS = ("drop", "pad")
_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


def shuffled(count: int, *key: int) -> np.ndarray:
    """int64 [count]: the numbers below `count` in an order that depends on the key alone, on every machine for ever.

    NumPy's own generators may change from version to version, and a checkpoint outlives one.

    >>> shuffled(6, 0, 1).tolist(), shuffled(6, 0, 2).tolist()
    ([0, 4, 3, 2, 1, 5], [1, 2, 3, 5, 0, 4])
    """
    state = 0
    for part in key:
        state = int(_mixed(np.array([(state ^ (part & _MASK)) + _GOLDEN & _MASK], np.uint64))[0])
    numbers = np.arange(count, dtype=np.uint64)
    below = np.uint64((1 << max(count - 1, 0).bit_length()) - 1)
    keys = _mixed((numbers + np.uint64(1)) * np.uint64(_GOLDEN) + np.uint64(state))
    # Each number in the low bits of its key: to sort is several times faster than to find an order, and as no two keys
    # are the same, any way of sorting gives one.
    keys = (keys & ~below) | numbers
    keys.sort()
    numbers = keys & below
    return numbers.view(np.int64)


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64 (Steele, Lea, Flood 2014): each bit of the input changes half of the output."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = numbers ^ (numbers >> np.uint64(31))
    return mixed


class Piece(NamedTuple):
    """Consecutive offsets of one range."""

    source: int  # which range
    start: int
    end: int


class Places:
    """Concrete ranges laid end to end: place ↔ offset.

    >>> from kafkapipes.ranges import parse_ranges
    >>> places = Places(parse_ranges("t:0:100:107,t:1:5:10"))
    >>> places.total, list(places.pieces(5, 9))
    (12, [Piece(source=0, start=105, end=107), Piece(source=1, start=5, end=7)])
    """

    def __init__(self, ranges: Sequence[OffsetRange]) -> None:
        self._starts = np.array([item.start for item in ranges], np.int64)
        lengths = np.array([len(item) for item in ranges], np.int64)
        self._ends = np.cumsum(lengths)
        self._begins = self._ends - lengths
        self.total = sum(len(item) for item in ranges)

    def pieces(self, start: int, stop: int) -> Iterator[Piece]:
        """The offsets of the places from `start` up to, and without, `stop`."""
        while start < stop:
            source = int(np.searchsorted(self._ends, start, side="right"))
            end = min(stop, int(self._ends[source]))
            shift = int(self._starts[source]) - int(self._begins[source])
            yield Piece(source, start + shift, end + shift)
            start = end

    def of(self, source: int, offsets: np.ndarray) -> np.ndarray:
        """int64 [B]: the places of some offsets of one range."""
        places: np.ndarray = offsets + (self._begins[source] - self._starts[source])
        return places

    def at(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 [B] twice: which range some places are of, and their offsets."""
        sources = np.searchsorted(self._ends, places, side="right")
        return sources, places + (self._starts - self._begins)[sources]


class Course(Protocol):
    """The order in which places are visited, before windows are shuffled.

    Attributes:
        total: number of positions
        depth: how often the course was cut anew
    """

    total: int
    depth: int

    def at(self, positions: np.ndarray) -> np.ndarray:
        """int64 [B]: the places at some positions."""


class Blocks:
    """A whole epoch: all places, or the first `most`, in blocks that are in their own order, or shuffled by a key.

    >>> Blocks(10, 4).at(np.arange(10)).tolist()
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    >>> Blocks(10, 4, key=(0, 2)).at(np.arange(10)).tolist()
    [4, 5, 6, 7, 8, 9, 0, 1, 2, 3]
    """

    depth = 0

    def __init__(self, total: int, block: int, key: tuple[int, ...] | None = None, most: int | None = None) -> None:
        self.total = total if most is None else min(total, most)
        self._places = total
        self._block = block
        self._key = key
        count = -(-total // block)
        if key is not None and count > MAX_BLOCKS:
            raise ConfigError(
                f"wanted {total} offsets shuffled in blocks of {block}, found that these are {count} blocks, more than "
                f"{MAX_BLOCKS}; raise block_records"
            )

    def at(self, positions: np.ndarray) -> np.ndarray:
        """int64 [B]: the places at some positions."""
        if self._key is None:
            return positions
        whole = self._in_whole_blocks(positions)
        places: np.ndarray = self._order[whole // self._block] * self._block + whole % self._block
        return places

    def stretches(self, start: int, stop: int) -> np.ndarray:
        """int64 [S, 2]: the places at the positions from `start` up to, and without, `stop`, from and to.

        >>> Blocks(10, 4, key=(0, 2)).stretches(1, 8).tolist()
        [[5, 8], [8, 10], [0, 2]]
        """
        if self._key is None:
            return np.array([[start, stop]])
        first, last = (int(whole) for whole in self._in_whole_blocks(np.array([start, stop - 1])))
        blocks = self._order[first // self._block : last // self._block + 1] * self._block
        bounds = np.stack([blocks, np.minimum(blocks + self._block, self._places)], axis=1)
        bounds[0, 0] += first % self._block
        bounds[-1, 1] = blocks[-1] + last % self._block + 1
        return bounds

    def _in_whole_blocks(self, positions: np.ndarray) -> np.ndarray:
        """The positions if all blocks were whole; one may be short, and behind it all is shifted."""
        last = len(self._order) - 1
        missing = (last + 1) * self._block - self._places
        short = int(np.flatnonzero(self._order == last)[0]) if missing else last
        whole: np.ndarray = positions + np.where(positions >= (short + 1) * self._block - missing, missing, 0)
        return whole

    @cached_property
    def _order(self) -> np.ndarray:
        return shuffled(-(-self._places // self._block), *(self._key or ()))


class Rest:
    """What is left of a course, part after part: a course again.

    Args:
        parts: each a (start, stop) of positions of that course, or an int64 array of them
    """

    def __init__(self, course: Course, parts: Sequence[tuple[int, int] | np.ndarray]) -> None:
        self.depth = course.depth + 1
        self._course = course
        self._parts = parts
        lengths = [part[1] - part[0] if isinstance(part, tuple) else len(part) for part in parts]
        self._ends = np.cumsum([0, *lengths])[1:]
        self._begins = self._ends - np.array(lengths, np.int64)
        self.total = sum(lengths)

    def at(self, positions: np.ndarray) -> np.ndarray:
        """int64 [B]: the places at some positions."""
        which = np.searchsorted(self._ends, positions, side="right")
        below = np.empty(len(positions), np.int64)
        for number in np.unique(which):
            rows = which == number
            within = positions[rows] - self._begins[number]
            part = self._parts[number]
            below[rows] = within + part[0] if isinstance(part, tuple) else part[within]
        return self._course.at(below)


class Share(NamedTuple):
    """Who reads: worker `worker` of `workers` of rank `rank` of `world`."""

    rank: int = 0
    world: int = 1
    worker: int = 0
    workers: int = 1


class Cut(NamedTuple):
    """How far an epoch had come when another number of workers or ranks took over.

    Attributes:
        done: for each rank, for each of its workers, how many items it had handed out
    """

    done: tuple[tuple[int, ...], ...]

    @property
    def world(self) -> int:
        """The number of ranks until then."""
        return len(self.done)


class Window(NamedTuple):
    """Positions of a rank's part that are read and shuffled together, and the items that are dealt from them."""

    lane: int
    start: int  # first position
    size: int  # positions
    first: int  # number of its first item; the next ones follow at the distance of the lanes
    items: int


@dataclass(frozen=True)
class Deal:
    """A rank's part of a course, dealt into windows and items.

    Attributes:
        course: where the positions lead
        first: position of the course at which the part begins
        size: positions of the part; those behind the end of the course begin it again, to make ranks equal
        block: offsets that lie together
        item: positions an item
        turns: items that a window holds; fewer in the last windows
        lanes: windows that are dealt from in turn
        key: of the shuffle of windows; None leaves them as they are

    >>> deal = Deal(Blocks(10, 5), 0, 10, block=5, item=2, turns=2, lanes=2, key=None)
    >>> cycles = deal.cycles(worker=0, workers=1)
    >>> [[(window.start, window.size, deal.own(window, 0, 1).tolist()) for window in cycle] for cycle in cycles]
    [[(0, 4, [0, 2]), (4, 4, [1, 3])], [(8, 2, [4])]]
    """

    course: Course
    first: int
    size: int
    block: int
    item: int
    turns: int
    lanes: int
    key: tuple[int, ...] | None

    @property
    def items(self) -> int:
        """The number of items."""
        return -(-self.size // self.item)

    def cycles(self, worker: int, workers: int, done: int = 0) -> Iterator[list[Window]]:
        """The windows with items of one worker behind its first `done` ones, cycle after cycle."""
        following = worker + done * workers
        while following < self.items:
            cycle = following // self._cycle
            yield [window for window in self._windows(cycle) if len(self.own(window, worker, workers, done))]
            following += -(-((cycle + 1) * self._cycle - following) // workers) * workers

    def own(self, window: Window, worker: int, workers: int, done: int = 0) -> np.ndarray:
        """int64: the numbers of the items of a window that a worker has yet to hand out, ascending."""
        numbers = window.first + self.lanes * np.arange(window.items)
        own: np.ndarray = numbers[(numbers % workers == worker) & (numbers >= worker + done * workers)]
        return own

    def order(self, window: Window) -> np.ndarray:
        """int64 [size]: which of its positions come one after the other."""
        if self.key is None:
            return np.arange(window.size)
        return shuffled(window.size, *self.key, self.first + window.start)

    def places(self, window: Window) -> np.ndarray:
        """int64 [size]: the places of a window, in the order in which they are handed out."""
        return self.course.at(self._positions(window) % self.course.total)

    def bounds(self, window: Window, number: int) -> tuple[int, int]:
        """Where in the order of its window an item begins and ends."""
        begin = (number - window.first) // self.lanes * self.item
        return begin, min(begin + self.item, window.size)

    def left(self, done: Sequence[int]) -> Iterator[tuple[int, int] | np.ndarray]:
        """The positions of the course that the workers have left, where each has handed out so many items."""
        workers = len(done)
        behind = max(((count - 1) * workers + worker + 1 for worker, count in enumerate(done) if count), default=0)
        begun = -(-behind // self._cycle)  # cycles of which an item was handed out
        for cycle in range(min(worker + count * workers for worker, count in enumerate(done)) // self._cycle, begun):
            yield from (self._left_of(window, done) for window in self._windows(cycle))
        start = self.first + min(begun * self._cycle * self.item, self.size)
        yield start, max(start, min(self.first + self.size, self.course.total))

    @property
    def _cycle(self) -> int:
        """Items of a cycle: a window of each lane."""
        return self.turns * self.lanes

    def _windows(self, cycle: int) -> list[Window]:
        return [self._window(cycle, lane) for lane in range(max(0, min(self.lanes, self.items - cycle * self._cycle)))]

    def _window(self, cycle: int, lane: int) -> Window:
        before = cycle * self._cycle
        items = min(self._cycle, self.items - before)  # of this cycle
        turns, over = divmod(items, self.lanes)  # the first lanes have one more
        short = (
            0 if items + before < self.items else self.items * self.item - self.size
        )  # positions the last item lacks
        ends_in = (items - 1) % self.lanes
        start = (before + lane * turns + min(lane, over)) * self.item - (short if lane > ends_in else 0)
        own = turns + (lane < over)
        return Window(lane, start, own * self.item - (short if lane == ends_in else 0), before + lane, own)

    def _positions(self, window: Window) -> np.ndarray:
        return self.first + window.start + self.order(window)

    def _left_of(self, window: Window, done: Sequence[int]) -> np.ndarray:
        workers, positions = len(done), self._positions(window)
        numbers = window.first + self.lanes * (np.arange(window.size) // self.item)
        left = numbers // workers >= np.array(done)[numbers % workers]
        return np.sort(positions[left & (positions < self.course.total)])  # the others are repeats


@dataclass(frozen=True)
class Order:
    """All that an order depends on, but for ranges, epoch and shares.

    Attributes:
        block: offsets a block
        batch: offsets a batch; None where an item is a single sample
        window: blocks that are mixed with one another
        seed: of the shuffle; None leaves the ranges in their order
        equal_ranks: "drop" leaves out offsets so that all ranks have as many, "pad" repeats some; None does neither
        most: offsets of an epoch, the first in its order; None: all

    >>> order = Order(block=4, batch=2, window=2, seed=None)
    >>> course = order.course(10, epoch=0)
    >>> [order.deal(course, 0, Share(rank, 3)).items for rank in range(3)]
    [2, 2, 2]
    """

    block: int
    batch: int | None
    window: int
    seed: int | None
    equal_ranks: str | None = None
    most: int | None = None

    def course(self, total: int, epoch: int, cuts: Sequence[Cut] = ()) -> Course:
        """The course of an epoch through so many places, or of what several cuts have left of it."""
        key = None if self.seed is None else (self.seed, epoch)
        course: Course = Blocks(total, self.block, key, self.most)
        for cut in cuts:
            course = self._rest(course, epoch, cut)
        return course

    def deal(self, course: Course, epoch: int, share: Share) -> Deal:
        """How the part of a rank is dealt; all its workers get the same."""
        first, size = _part(course.total, share, self.equal_ranks)
        item, turns, lanes = self._sizes(share.workers)
        key = None if self.seed is None else (self.seed, epoch, course.depth, 1)
        return Deal(course, first, size, self.block, item, turns, lanes, key)

    def _sizes(self, workers: int) -> tuple[int, int, int]:
        """Positions an item, items a window, and lanes."""
        window = self.block * (1 if self.seed is None else self.window)
        if self.batch is None:  # samples: no two workers share a window, and the sequence is that of their turns
            return 1, window, workers * (1 if self.seed is None else -(-LANES // workers))
        if self.seed is not None:
            return self.batch, max(1, window // self.batch), LANES
        # Items come in the order of the ranges whatever the windows are: the largest that one worker has for itself.
        return self.batch, max(1, window // self.batch) if workers == 1 else 1, 1

    def _rest(self, course: Course, epoch: int, cut: Cut) -> Rest:
        parts: list[tuple[int, int] | np.ndarray] = []
        covered = 0
        for rank, done in enumerate(cut.done):
            deal = self.deal(course, epoch, Share(rank, cut.world, 0, len(done)))
            parts += deal.left(done)
            covered = deal.first + deal.size
        return Rest(course, [*parts, (min(covered, course.total), course.total)])


def _part(total: int, share: Share, equal_ranks: str | None) -> tuple[int, int]:
    """(first position, positions) of a rank."""
    if equal_ranks is not None:
        size = total // share.world if equal_ranks == "drop" else -(-total // share.world)
        return share.rank * size, size
    first = total * share.rank // share.world
    return first, total * (share.rank + 1) // share.world - first
