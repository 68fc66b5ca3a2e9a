"""Records as columns of bytes: one contiguous buffer a column, with lengths. Pure (NumPy)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, Self

import numpy as np

from kafkapipes.report import RangeReport

NULL = -1  # the length of a null: Kafka tells a null key or value from an empty one
Headers = list[tuple[str, bytes | None]]


@dataclass(frozen=True)
class BytesColumn:
    """A column of byte strings, each of its own length, in one buffer.

    Attributes:
        buffer: uint8 [total], the byte strings end to end
        lengths: int64 [B], the length of each in bytes, -1 for a null

    >>> column = BytesColumn.from_list([b"ab", None, b"", b"c"])
    >>> column[0], column[1], column[2], column.lengths.tolist()
    (b'ab', None, b'', [2, -1, 0, 1])
    """

    buffer: np.ndarray
    lengths: np.ndarray

    @classmethod
    def from_list(cls, items: Sequence[bytes | None]) -> "BytesColumn":
        """The column of `items`, copied into one buffer."""
        try:
            sizes = list(map(len, items))  # type: ignore[arg-type]  # a null raises, which is rare
            joined = bytearray().join(items)  # type: ignore[arg-type]  # no null here
        except TypeError:
            sizes = [NULL if item is None else len(item) for item in items]
            joined = bytearray().join(item for item in items if item is not None)
        # Mostly all sizes are one, and then counting it is twice as fast as converting a list of numbers.
        uniform = sizes and sizes.count(sizes[0]) == len(sizes)
        lengths = np.full(len(sizes), sizes[0], np.int64) if uniform else np.array(sizes, np.int64)
        return cls(np.frombuffer(joined, np.uint8), lengths)  # a bytearray gives a writable array

    @cached_property
    def starts(self) -> np.ndarray:
        """int64 [B]: where each byte string begins in `buffer`."""
        sizes = np.maximum(self.lengths, 0)
        starts: np.ndarray = np.cumsum(sizes) - sizes
        return starts

    @property
    def is_null(self) -> np.ndarray:
        """bool [B]: which entries are null."""
        is_null: np.ndarray = self.lengths == NULL
        return is_null

    def select(self, rows: np.ndarray) -> Self:
        """The column of some rows (int64 indices), copied."""
        lengths = self.lengths[rows]
        sizes = np.maximum(lengths, 0)
        first = np.cumsum(sizes) - sizes
        # Byte j of the result comes from its row's start in the source plus its place within the row.
        source = np.arange(sizes.sum()) + np.repeat(self.starts[rows] - first, sizes)
        return type(self)(self.buffer[source], lengths)

    def between(self, begin: int, end: int) -> Self:
        """The column of the rows from `begin` up to, and without, `end`: shares memory."""
        if begin >= end:
            return type(self)(self.buffer[:0], self.lengths[:0])
        last = end - 1
        stop = int(self.starts[last]) + max(int(self.lengths[last]), 0)
        return type(self)(self.buffer[int(self.starts[begin]) : stop], self.lengths[begin:end])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> bytes | None:
        start, length = int(self.starts[index]), int(self.lengths[index])
        return None if length == NULL else self.buffer[start : start + length].tobytes()

    def __iter__(self) -> Iterator[bytes | None]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True)
class RecordBatch:
    """Consecutive records of one range, as columns.

    Attributes:
        offsets: int64 [B], ascending; a gap in the log is a gap here
        keys: B keys, null where a record has none
        values: B values, null for a tombstone
        account: the account of the range that the records come from
        timestamps: int64 [B], milliseconds since the epoch, -1 where unknown; None unless asked for
        headers: B lists of (name, value), in the order written; None unless asked for
    """

    offsets: np.ndarray
    keys: BytesColumn
    values: BytesColumn
    account: RangeReport
    timestamps: np.ndarray | None = None
    headers: list[Headers] | None = None

    @property
    def topic(self) -> str:
        """The topic that the records come from."""
        return self.account.range.topic

    @property
    def partition(self) -> int:
        """The partition that the records come from."""
        return int(self.account.range.partition)  # type: ignore[arg-type]  # concrete ranges only

    def coordinates(self, row: int) -> str:
        """`topic:partition@offset` of one row, for messages."""
        return f"{self.topic}:{self.partition}@{int(self.offsets[row])}"

    def select(self, rows: np.ndarray) -> "RecordBatch":
        """The batch of some rows (int64 indices), copied."""
        return replace(
            self,
            offsets=self.offsets[rows],
            keys=self.keys.select(rows),
            values=self.values.select(rows),
            timestamps=None if self.timestamps is None else self.timestamps[rows],
            headers=None if self.headers is None else [self.headers[row] for row in rows],
        )

    def __len__(self) -> int:
        return len(self.offsets)


class Destination(Protocol):
    """Memory where the bytes of records may be written at once, instead of into a column of their own."""

    def room_for_values(self, rows: int, row_bytes: int) -> np.ndarray | None:
        """uint8 [rows * row_bytes] for the values of the next records, all of one size; None where there is none."""

    def room_for_keys(self, rows: int, row_bytes: int) -> np.ndarray | None:
        """The same for their keys."""

    def came(self, rows: int) -> None:
        """Take note of the next records: those behind them have their room behind theirs."""
