"""Decoded samples as columns: values, labels and where each row came from. Pure (NumPy)."""

import itertools
import math
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from kafkapipes.errors import ConfigError, DecodeError
from kafkapipes.memory import refused
from kafkapipes.options import shown
from kafkapipes.records import BytesColumn
from kafkapipes.report import RangeReport

MAX_DIMENSIONS = 32  # NumPy 1 holds no more; a longer shape is a mistake
MAX_ELEMENTS = 2**31  # elements of one sample: above it a shape is taken for a mistake, not for data

Shape = tuple[int, ...]


class TextColumn(BytesColumn):
    """A `BytesColumn` of valid UTF-8: an entry reads as `str`."""

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # text reads as str
        item = super().__getitem__(index)
        assert item is not None  # decoding leaves no null behind
        return item.decode()


Column = np.ndarray | BytesColumn


@dataclass(frozen=True)
class ArrayBatch:
    """Consecutive samples of one range, as columns.

    Attributes:
        values: [B, n] after decoding, [B, *shape] after reshaping; a `BytesColumn` for strings and bytes
        labels: [B, m], or a `BytesColumn`, or None where no label type was given
        offsets: int64 [B], the offset of each sample
        account: the account of the range that the samples come from
    """

    values: Column
    labels: Column | None
    offsets: np.ndarray
    account: RangeReport

    @property
    def scalar_labels(self) -> Column | None:
        """The labels, one number a sample ([B]) where each has a single element."""
        if isinstance(self.labels, np.ndarray) and len(self) and self.labels.size == len(self):
            return self.labels.reshape(len(self))
        return self.labels

    def coordinates(self, row: int) -> str:
        """`topic:partition@offset` of one row, for messages."""
        return f"{self.account.range.topic}:{self.account.range.partition}@{int(self.offsets[row])}"

    def select(self, rows: np.ndarray) -> "ArrayBatch":
        """The batch of some rows (int64 indices), copied."""
        labels = None if self.labels is None else rows_of(self.labels, rows)
        return ArrayBatch(rows_of(self.values, rows), labels, self.offsets[rows], self.account)

    def between(self, begin: int, end: int) -> "ArrayBatch":
        """The batch of the rows from `begin` up to, and without, `end`: shares memory."""
        labels = None if self.labels is None else rows_between(self.labels, begin, end)
        return ArrayBatch(rows_between(self.values, begin, end), labels, self.offsets[begin:end], self.account)

    def __len__(self) -> int:
        return len(self.offsets)


def joined(batches: Sequence[ArrayBatch]) -> ArrayBatch:
    """Several batches of one kind as one, copied; its account is that of the first."""
    if len(batches) == 1:
        return batches[0]
    first = batches[0]
    labels = None if first.labels is None else joined_columns([batch.labels for batch in batches])
    values, offsets = joined_columns([batch.values for batch in batches]), [batch.offsets for batch in batches]
    return replace(first, values=values, labels=labels, offsets=np.concatenate(offsets))


def rows_of(column: Column, rows: np.ndarray) -> Column:
    """Some rows (int64 indices) of a column, copied."""
    return column.take(rows, axis=0) if isinstance(column, np.ndarray) else column.select(rows)


def rows_between(column: Column, begin: int, end: int) -> Column:
    """The rows from `begin` up to, and without, `end`: shares memory."""
    return column[begin:end] if isinstance(column, np.ndarray) else column.between(begin, end)


def joined_columns(columns: Sequence[Any]) -> Column:
    """Several columns of one kind as one, copied."""
    first = columns[0]
    if isinstance(first, np.ndarray):
        whole: np.ndarray = np.concatenate(columns)
        return whole
    buffer, lengths = (np.concatenate([getattr(column, name) for column in columns]) for name in ("buffer", "lengths"))
    column: BytesColumn = type(first)(buffer, lengths)
    return column


def parse_shape(shape: str | Sequence[int] | int | None) -> Shape | None:
    """A shape from its text or numbers; None where the sample stays flat.

    >>> parse_shape("28 28"), parse_shape((3, -1)), parse_shape(""), parse_shape(None)
    ((28, 28), (3, -1), None, None)

    Raises:
        ConfigError: a part is not a whole number above 0 (one may be -1), or the shape is absurdly large.
    """
    if shape is None or (isinstance(shape, str) and not shape.strip()):
        return None
    rule = "wanted whole numbers above 0 such as '28 28' or (28, 28), one of which may be -1"
    try:
        numbers = tuple(_dimensions(shape))
    except (TypeError, ValueError):
        raise ConfigError(f"the shape is {shown(shape)}, {rule}") from None
    sensible = all(number > 0 or number == -1 for number in numbers) and numbers.count(-1) <= 1
    if not numbers or not sensible:
        raise ConfigError(f"the shape is {shown(shape)}, {rule}")
    if len(numbers) > MAX_DIMENSIONS or abs(math.prod(numbers)) > MAX_ELEMENTS:
        raise ConfigError(
            f"the shape is {shown(shape)}, wanted at most {MAX_DIMENSIONS} dimensions and {MAX_ELEMENTS} elements"
        )
    return numbers


def _dimensions(shape: Any) -> list[int]:
    """The numbers of a shape; TypeError or ValueError for what is none."""
    if isinstance(shape, str):
        if not re.fullmatch(r"[-0-9 \t]+", shape):
            raise ValueError
        return [int(part) for part in shape.split()]
    parts = shape if isinstance(shape, list | tuple) else [shape]
    if any(isinstance(part, bool) for part in parts):
        raise TypeError
    return [operator.index(part) for part in parts]


def elements_of(shape: Shape | None) -> int | None:
    """How many elements a sample of `shape` has; None where the shape does not tell."""
    return None if shape is None or -1 in shape else math.prod(shape)


def reshape(batch: ArrayBatch, data_shape: Shape | None, label_shape: Shape | None) -> ArrayBatch:
    """The same batch with values [B, *data_shape] and labels [B, *label_shape]: views, no copies.

    Raises:
        DecodeError: a sample has not as many elements as its shape.
    """
    values = _reshape_column(batch, batch.values, data_shape, "value")
    labels = None if batch.labels is None else _reshape_column(batch, batch.labels, label_shape, "label")
    return replace(batch, values=values, labels=labels)


def _reshape_column(batch: ArrayBatch, column: Column, shape: Shape | None, name: str) -> Column:
    if shape is None or len(batch) == 0:
        return column
    where = f"at {batch.coordinates(0)}"
    if isinstance(column, BytesColumn):
        raise DecodeError(f"wanted {name}s of shape {shape}, found strings or bytes {where}: leave their shape empty")
    elements = column.size // len(batch)
    known = math.prod(number for number in shape if number != -1)
    if elements != known and (-1 not in shape or elements % known):
        raise DecodeError(
            f"wanted {name}s of shape {shape} ({known}{' x any' if -1 in shape else ''} elements), found {elements} "
            f"elements of {column.dtype} {where}; correct the shape or the type"
        )
    return column.reshape(len(batch), *shape)


class ColumnBuilder(Protocol):
    """Collects columns of one kind into one column."""

    def append(self, rows: Any) -> None:  # Any: each builder takes the kind of column that it was made for
        """Add the rows of a column of that kind behind those collected so far."""

    def finish(self) -> Column:
        """The column of all rows collected."""


class RowBuilder:
    """Rows of one shape and dtype, collected into one array that is sized ahead; no second copy.

    Memory that is never written to is never taken from the system, so an upper bound of the rows is enough. Where
    not even the addresses for that many rows are to be had, the array grows with the rows.

    Rows that were written where `room` said are not copied when they are appended. Another thread may write them
    there meanwhile: the array grows only for rows that come behind all of which there was room.
    """

    def __init__(self, max_rows: int, first: np.ndarray) -> None:
        self._rows = 0
        try:
            self._array = np.empty((max_rows, *first.shape[1:]), first.dtype)
        except (MemoryError, ValueError):
            self._array = np.empty((0, *first.shape[1:]), first.dtype)

    @classmethod
    def over(cls, array: np.ndarray) -> "RowBuilder":
        """A builder in memory that is there: for no more rows than it has."""
        builder = cls(0, array)
        builder._array = array
        return builder

    def room(self, first: int, rows: int, row_bytes: int) -> np.ndarray | None:
        """uint8 [rows * row_bytes]: where rows from the `first` on will lie if all are appended; None where they won't.

        Rows that are appended later than that, because others were left out, are moved.
        """
        place = self._array[first : first + rows]
        return place.reshape(-1).view(np.uint8) if place.nbytes == rows * row_bytes and len(place) == rows else None

    def append(self, rows: np.ndarray) -> None:
        """Copy rows behind those collected so far."""
        needed = self._rows + len(rows)
        if needed > len(self._array):  # growing by half costs each row a constant number of moves; NumPy writes zeros
            self._resize(max(needed, len(self._array) * 3 // 2))
        place = self._array[self._rows : needed]
        if not _are_one(place, rows):
            place[...] = rows
        self._rows = needed

    def finish(self) -> np.ndarray:
        """The rows collected; the unused tail is handed back, without a copy."""
        if self._array.base is not None:
            return self._array[: self._rows]
        self._resize(self._rows)
        return self._array

    def _resize(self, rows: int) -> None:
        shape = self._array.shape[1:]
        try:
            self._array.resize((rows, *shape), refcheck=False)
        except MemoryError:
            raise refused(rows, math.prod(shape) * self._array.itemsize) from None


def _are_one(place: np.ndarray, rows: np.ndarray) -> bool:
    """Whether two arrays are the same numbers in the same memory."""

    def layout(array: np.ndarray) -> tuple[object, ...]:
        return array.__array_interface__["data"][0], array.shape, array.dtype, array.strides

    return layout(place) == layout(rows)


_MOVED_BYTES = 2**20  # at once, where rows are moved within an array
_ROOM = 8  # times the mean length of the first strings


class BytesBuilder:
    """Byte strings collected into one buffer and their lengths, both sized ahead.

    There is room for strings of many times the length of the first ones, so that growing, which writes zeros, is rare.
    Not for more: a process that holds the addresses of as much memory as the machine has cannot be forked.
    """

    def __init__(self, max_rows: int, max_bytes: int, first: BytesColumn) -> None:
        mean = -(-len(first.buffer) // max(1, len(first)))
        self._kind = type(first)
        self._lengths = RowBuilder(max_rows, first.lengths)
        self._buffer = RowBuilder(min(max_bytes, _ROOM * max_rows * mean), first.buffer)

    def append(self, rows: BytesColumn) -> None:
        """Copy byte strings behind those collected so far."""
        self._buffer.append(rows.buffer)
        self._lengths.append(rows.lengths)

    def finish(self) -> BytesColumn:
        """The byte strings collected."""
        return self._kind(self._buffer.finish(), self._lengths.finish())


class SideBySide:
    """Columns of one kind that are collected at the same time, and become one, in their order.

    Rows of numbers are collected in one array, each part where its first row will lie if every part is full; those of
    parts that are not full are moved together at the end. Strings, and rows of which there could be more than may be
    held, are collected part by part, and copied.

    Args:
        first: some rows
        most: the most rows of each part
        max_bytes: the most bytes that all may take

    Attributes:
        parts: a builder for each part

    >>> two = SideBySide(np.array([[1, 2]]), [3, 3], 1000)
    >>> two.parts[1].append(np.array([[5, 6]]))
    >>> two.parts[0].append(np.array([[1, 2], [3, 4]]))
    >>> two.finish().tolist()
    [[1, 2], [3, 4], [5, 6]]
    """

    def __init__(self, first: Column, most: Sequence[int], max_bytes: int) -> None:
        self._whole = _whole(first, sum(most), max_bytes) if len(most) > 1 else None
        self._starts = np.cumsum([0, *most]).tolist()
        self.parts: list[ColumnBuilder]
        if self._whole is None:
            self.parts = [builder_for(first, rows, max_bytes) for rows in most]
        else:
            self.parts = [RowBuilder.over(self._whole[begin:end]) for begin, end in itertools.pairwise(self._starts)]

    def finish(self) -> Column:
        """The column of all rows collected."""
        if len(self.parts) == 1:
            return self.parts.pop().finish()
        columns = [part.finish() for part in self.parts]
        self.parts = []
        if self._whole is None:
            return _joined_in_turn(columns)
        end = 0
        for begin, rows in zip(self._starts, map(len, columns), strict=False):
            _move_down(self._whole, begin, end, rows)
            end += rows
        columns.clear()
        whole, self._whole = self._whole, None
        whole.resize((end, *whole.shape[1:]), refcheck=False)
        return whole


def _whole(first: Column, rows: int, max_bytes: int) -> np.ndarray | None:
    """An array for so many rows like the first; None where there can be none."""
    if not isinstance(first, np.ndarray) or rows * row_bytes(first) > max_bytes:
        return None
    try:
        return np.empty((rows, *first.shape[1:]), first.dtype)
    except (MemoryError, ValueError):
        return None


def _move_down(array: np.ndarray, begin: int, end: int, rows: int) -> None:
    """Move rows from `begin` to `end`, which is not above it; NumPy would copy all of them aside first."""
    step = max(1, _MOVED_BYTES // max(1, row_bytes(array)))
    for row in range(0, rows if end < begin else 0, step):
        count = min(step, rows - row)
        array[end + row : end + row + count] = array[begin + row : begin + row + count]


def _joined_in_turn(columns: list[Any]) -> Column:
    """The columns as one, each freed as soon as it is copied."""
    builder = builder_for(columns[0], sum(map(len, columns)), sum(map(column_bytes, columns)))
    columns.reverse()
    while columns:
        builder.append(columns.pop())
    return builder.finish()


def column_bytes(column: Column) -> int:
    """The bytes that a column takes where it is collected."""
    return column.nbytes if isinstance(column, np.ndarray) else column.buffer.nbytes + column.lengths.nbytes


def row_bytes(column: Column) -> int:
    """The least bytes that each row of a column takes there; of a string, its length is known only when it comes."""
    return column.nbytes // max(1, len(column)) if isinstance(column, np.ndarray) else column.lengths.itemsize


def builder_for(first: Column, max_rows: int, max_bytes: int) -> ColumnBuilder:
    """A builder for columns like `first`, with room for `max_rows` rows, or for `max_bytes` where that is less."""
    rows = min(max_rows, max_bytes // max(1, row_bytes(first)))
    return RowBuilder(rows, first) if isinstance(first, np.ndarray) else BytesBuilder(rows, max_bytes, first)


class OffsetIndex:
    """Row → offset and range, kept as runs of consecutive offsets: a range without gaps costs three numbers."""

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []  # first row of each run
        self._offsets: list[np.ndarray] = []  # offset of that row
        self._ranges: list[np.ndarray] = []  # range of that row
        self._length = 0

    def append(self, offsets: np.ndarray, range_index: int) -> None:
        """Note the offsets (int64 [B], B > 0, ascending) of the next B rows."""
        rows = np.zeros(1, np.int64)
        if offsets[-1] - offsets[0] != len(offsets) - 1:  # there are gaps
            rows = np.concatenate([rows, np.flatnonzero(offsets[1:] != offsets[:-1] + 1) + 1])
        self._rows.append(rows + self._length)
        self._offsets.append(offsets[rows])
        self._ranges.append(np.full(len(rows), range_index))
        self._length += len(offsets)

    def extend(self, other: "OffsetIndex") -> None:
        """Note the rows of another one behind these."""
        self._rows += [rows + self._length for rows in other._rows]
        self._offsets += other._offsets
        self._ranges += other._ranges
        self._length += other._length

    def finish(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(first row, its offset, its range) of every run, int64, neighbours that touch joined."""
        if not self._rows:
            return (np.empty(0, np.int64),) * 3
        rows, offsets, ranges = map(np.concatenate, (self._rows, self._offsets, self._ranges))
        touches = (np.diff(offsets) == np.diff(rows)) & (np.diff(ranges) == 0)
        keep = np.concatenate([[True], ~touches])
        return rows[keep], offsets[keep], ranges[keep]
