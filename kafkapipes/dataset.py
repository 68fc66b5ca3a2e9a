"""TrainingKafkaDataset: assembles the five pipes, runs them once into memory, and is then a map-style dataset."""

import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from kafkapipes.arrays import (
    ArrayBatch,
    Column,
    ColumnBuilder,
    OffsetIndex,
    RowBuilder,
    SideBySide,
    TextColumn,
    column_bytes,
    elements_of,
    row_bytes,
)
from kafkapipes.control import ControlMessage, as_control_message
from kafkapipes.dead_letters import TakeLetters
from kafkapipes.errors import ConfigError
from kafkapipes.formats.raw import Numbers, RawFormat, element_type, least_bytes, no_rows
from kafkapipes.kafka.dead_letter_topic import DeadLetterTopic
from kafkapipes.loader import TensorLoader, take
from kafkapipes.memory import ByteLimit, MachineLimit, MemoryLimit
from kafkapipes.pipes.decoder import ByteDecoder
from kafkapipes.pipes.parser import RangeParser
from kafkapipes.pipes.reader import PartitionReader
from kafkapipes.pipes.reshaper import Reshaper
from kafkapipes.pipes.transformer import Sample, Transform, make_sample
from kafkapipes.ranges import OffsetRange
from kafkapipes.records import BytesColumn
from kafkapipes.report import Piece, ReadReport

# For less, another reader costs more to begin than it gains; more of them would crowd a broker.
_OFFSETS_A_READER, _BYTES_A_READER, _MOST_READERS = 200_000, 2**26, 4


class BytesTensor(Sequence[Any]):
    """N strings or byte strings in one tensor: what `dataset.values` is for the types "string" and "bytes".

    Attributes:
        buffer: uint8 [total], the byte strings end to end
        bounds: int64 [N + 1]; entry i is `buffer[bounds[i]:bounds[i + 1]]`

    >>> words = BytesTensor(TextColumn.from_list([b"one", b"two"]))
    >>> words[1], len(words)
    ('two', 2)
    """

    def __init__(self, column: BytesColumn) -> None:
        self.buffer = torch.from_numpy(column.buffer)
        self.bounds = torch.zeros(len(column) + 1, dtype=torch.int64)
        torch.cumsum(torch.from_numpy(column.lengths), 0, out=self.bounds[1:])
        self._is_text = isinstance(column, TextColumn)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.__getitems__(range(*index.indices(len(self))))
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The entries at several indices."""
        rows = _rows(indices, len(self))
        bounds, content = self.bounds.numpy(), self.buffer.numpy().data
        parts = [
            content[start:end] for start, end in zip(bounds[rows].tolist(), bounds[rows + 1].tolist(), strict=True)
        ]
        return [str(part, "utf-8") for part in parts] if self._is_text else [bytes(part) for part in parts]

    def __repr__(self) -> str:
        return f"BytesTensor({len(self)} {'strings' if self._is_text else 'byte strings'}, {len(self.buffer)} bytes)"


class TrainingKafkaDataset(Dataset[Sample]):
    """The records that a control message names, read once into memory: a map-style dataset.

    `dataset[i]` is `(value, label)`: value a fresh NumPy array [*shape] of the declared dtype (or a str or bytes),
    label a NumPy scalar where it has one element; where the control message names no `label_type`, the value
    alone. The transforms run at each access. Slices and index lists give lists of samples. Any DataLoader can
    use it, with any number of workers and any start method: they share the memory.

    Args:
        control_message: a `ControlMessage`, its dictionary, or its JSON text
        bootstrap_servers: `"host:port"`, or several, as a list or separated by commas
        group_id: passed on to the client; nothing is committed under it
        transform: called with each value at each access
        label_transform: called with each label at each access
        config: librdkafka properties; no secret is ever shown, a value may be a callable that fetches it
        progress: True or False turns the progress bar on or off; None shows it on a terminal
        batch_records: the most records fetched at once
        readers: consumers that read at the same time, each its part of the offsets; the rows' order does not depend
            on it. None takes as many as pay off: `readers_for` says how many, for strings it is one
        on_data_loss, on_short, connect_timeout_s, stall_timeout_s: as for `PartitionReader`
        on_error, tombstone, null_key, dead_letter, dead_letter_payload, max_skipped: as for `ByteDecoder`
        max_bytes: the most bytes that `values` and `labels` may take; a larger read is refused, before any record is
            read where the size of a sample is declared. None: the free memory of this machine, as the arrays grow

    Attributes:
        values: tensor [N, *shape] of the declared dtype, contiguous, not copied; a `BytesTensor` for strings
        labels: tensor [N] or [N, *label_shape], or a `BytesTensor`, or None
        report: per range what was requested, delivered and missing, and why
        ranges: the ranges with their bounds resolved to numbers

    Raises:
        ControlMessageError, RangeError, ConfigError: before any connection is made
        KafkaPipesError: what went wrong at the broker, or in a record; `kafkapipes.errors` lists the classes

    >>> import numpy as np
    >>> from kafkapipes.testing import EmbeddedKafka
    >>> with EmbeddedKafka() as kafka:
    ...     points = np.float32([[1, 2], [3, 4]])
    ...     kafka.fill("clicks", [(points[0].tobytes(), bytes([7])), (points[1].tobytes(), bytes([8]))])
    ...     message = {"topic": "clicks:0:0:2", "input_config": {"data_type": "float32", "label_type": "uint8"}}
    ...     dataset = TrainingKafkaDataset(message, kafka.bootstrap_servers, "readers")
    >>> dataset.values, dataset[1]
    (tensor([[1., 2.],
            [3., 4.]]), (array([3., 4.], dtype=float32), ...8...))
    """

    def __init__(
        self,
        control_message: ControlMessage | Mapping[str, object] | str,
        bootstrap_servers: str | Sequence[str],
        group_id: str,
        transform: Transform | None = None,
        label_transform: Transform | None = None,
        *,
        config: Mapping[str, object] | None = None,
        progress: bool | None = None,
        batch_records: int = 40_000,
        readers: int | None = None,
        on_data_loss: str = "raise",
        on_short: str = "raise",
        on_error: str = "raise",
        tombstone: str = "raise",
        null_key: str = "raise",
        dead_letter: TakeLetters | None = None,
        dead_letter_payload: bool = False,
        max_skipped: int | None = None,
        max_bytes: int | None = None,
        connect_timeout_s: float = 30.0,
        stall_timeout_s: float = 60.0,
    ) -> None:
        limit: MemoryLimit = MachineLimit() if max_bytes is None else ByteLimit(max_bytes)
        message = as_control_message(control_message)
        layout = message.format
        check_fits_torch(layout.data_type)
        check_fits_torch(layout.label_type)
        reader = PartitionReader(
            RangeParser(message), bootstrap_servers, group_id, config=config, batch_records=batch_records,
            on_data_loss=on_data_loss, on_short=on_short, connect_timeout_s=connect_timeout_s,
            stall_timeout_s=stall_timeout_s, timestamps=False,
            readers=1 if readers is None else readers,
        )  # fmt: skip
        if isinstance(dead_letter, DeadLetterTopic):
            dead_letter.check_source({item.topic for item in message.ranges})
        decoder = ByteDecoder(
            reader, layout.data_type, layout.label_type, data_elements=elements_of(layout.data_shape),
            label_elements=elements_of(layout.label_shape), on_error=on_error, tombstone=tombstone, null_key=null_key,
            dead_letter=dead_letter, dead_letter_payload=dead_letter_payload, max_skipped=max_skipped,
        )  # fmt: skip
        arrays = Reshaper(decoder, layout.data_shape, layout.label_shape)
        with _progress_bar(reader.plan().requested, progress) as bar:
            limit.allow(reader.report.readable, _least_bytes(layout), _named(reader.report))
            if readers is None and on_short != "wait" and _has_rows(layout):
                reader._readers = readers_for(reader.report.readable, _least_bytes(layout), _processors())
            values, labels, self._runs = _materialise(arrays, reader, bar, limit)
        self.report: ReadReport = reader.report
        self.values = _tensor(no_rows(element_type(layout.data_type), layout.data_shape) if values is None else values)
        self.labels = None
        if layout.label_type is not None:
            shape = () if elements_of(layout.label_shape) in (None, 1) else layout.label_shape
            self.labels = _tensor(no_rows(element_type(layout.label_type), shape) if labels is None else labels)
        self._length = len(self.values)  # a tensor is slow to say
        self.transform = transform
        self.label_transform = label_transform
        self._views: dict[str, tuple[int, np.ndarray]] = {}

    @property
    def ranges(self) -> list[OffsetRange]:
        """The ranges that were read, in the order written, with their bounds resolved to numbers."""
        return self.report.ranges

    def coordinates(self, index: int) -> tuple[str, int, int]:
        """(topic, partition, offset) of a sample: the address of its record in Kafka."""
        row = _row(index, len(self))
        rows, offsets, ranges = self._runs
        run = int(np.searchsorted(rows, row, side="right")) - 1
        source = self.ranges[int(ranges[run])]
        partition = int(source.partition)  # type: ignore[arg-type]  # resolved
        return source.topic, partition, int(offsets[run] + row - rows[run])

    def loader(
        self,
        batch_size: int = 1,
        shuffle: bool = False,
        *,
        seed: int = 0,
        sampler: Iterable[int] | None = None,
        drop_last: bool = False,
        batch_transform: Callable[..., Any] | None = None,
        pin_memory: bool = False,
        device: torch.device | str | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> TensorLoader:
        """The batches of this dataset, each gathered in one go: what to train with where the samples need no Python.

        The arguments are those of `TensorLoader`, whose iterations are epochs that yield `(values, labels)`.

        >>> import numpy as np
        >>> from kafkapipes.testing import EmbeddedKafka
        >>> with EmbeddedKafka() as kafka:
        ...     kafka.fill("clicks", [(bytes([number]), bytes([number % 2])) for number in range(5)])
        ...     message = {"topic": "clicks:0:0:5", "input_config": {"data_type": "uint8", "label_type": "uint8"}}
        ...     dataset = TrainingKafkaDataset(message, kafka.bootstrap_servers, "readers")
        >>> for values, labels in dataset.loader(batch_size=3):
        ...     values.flatten(), labels
        (tensor([0, 1, 2], dtype=torch.uint8), tensor([0, 1, 0], dtype=torch.uint8))
        (tensor([3, 4], dtype=torch.uint8), tensor([1, 0], dtype=torch.uint8))
        """
        return TensorLoader(
            self, batch_size, shuffle, seed=seed, sampler=sampler, drop_last=drop_last, batch_transform=batch_transform,
            pin_memory=pin_memory, device=device, rank=rank, world_size=world_size,
        )  # fmt: skip

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        """The sample at an index; the list of samples for a slice, a list, or a 1-d array or tensor of indices."""
        if type(index) is int and -self._length <= index < self._length:  # by far the most frequent
            return self._sample(index)
        if isinstance(index, slice):
            return self.__getitems__(range(*index.indices(len(self))))
        if isinstance(index, Sequence) or getattr(index, "ndim", 0) == 1:
            return self.__getitems__(index if isinstance(index, Sequence) else index.tolist())
        return self._sample(_row(index, len(self)))

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """The samples at several indices, rows of one copy; DataLoader fetches its batches by this."""
        rows = _rows(indices, len(self))
        values = _mapped(self.transform, take(self.values, rows))
        if self.labels is None:
            return list(values)
        return list(zip(values, _mapped(self.label_transform, take(self.labels, rows)), strict=True))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_views": {}}  # they would be pickled by value, beside their tensors

    def __repr__(self) -> str:
        shape = tuple(getattr(self.values, "shape", (len(self),)))
        return f"TrainingKafkaDataset({len(self)} samples, values {list(shape)} from {len(self.report)} range(s))"

    def _sample(self, row: int) -> Sample:
        value = self._view("values")[row]
        label = None if self.labels is None else self._view("labels")[row]
        return make_sample(_fresh(value), _fresh(label), self.transform, self.label_transform)

    def _view(self, name: str) -> Any:
        """`values` or `labels` as a NumPy view: several times cheaper to index than a tensor.

        Sharing a tensor with another process moves its memory, so a view is good only for the address it was made at.
        """
        tensor = getattr(self, name)
        if type(tensor) is BytesTensor:  # isinstance is slow on abstract classes
            return tensor
        address, view = self._views.get(name, (None, None))
        if address != tensor.data_ptr():
            view = tensor.numpy()
            self._views[name] = (tensor.data_ptr(), view)
        return view


def _progress_bar(total: int, progress: bool | None) -> "tqdm[Any]":
    disable = None if progress is None else not progress  # None: tqdm's own rule, off when not a terminal
    return tqdm(total=total, unit=" records", unit_scale=True, disable=disable, desc="Kafka")


def _materialise(
    arrays: Iterable[ArrayBatch], reader: PartitionReader, bar: "tqdm[Any]", limit: MemoryLimit
) -> tuple[Column | None, Column | None, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """All batches as one column of values and one of labels (None where nothing came), and where rows come from."""
    collected = _Collected(reader, limit)
    reader._collect = collected.begin
    for batch in arrays:
        collected.append(batch)
        bar.update(len(batch))
    bar.total = bar.n  # gaps hold no records
    bar.refresh()
    return collected.finish()


class _Rows:
    """The rows that one reader reads: the `Destination` of its records, where they are laid as they come."""

    def __init__(self, part: list[Piece]) -> None:
        self.most = sum(piece.account.end - piece.account.start for piece in part)
        self.index = OffsetIndex()
        self.values: ColumnBuilder | None = None
        self.labels: ColumnBuilder | None = None
        self._came = 0

    def append(self, batch: ArrayBatch, place: int) -> None:
        """Add a batch of the range at a place among all; batches come here in the order in which they were read."""
        for builder, column in ((self.values, batch.values), (self.labels, batch.scalar_labels)):
            if builder is not None:
                builder.append(column)
        self.index.append(batch.offsets, place)

    def room_for_values(self, rows: int, row_bytes: int) -> np.ndarray | None:
        """uint8 [rows * row_bytes] where the next rows of `values` will lie, or None."""
        return self.values.room(self._came, rows, row_bytes) if isinstance(self.values, RowBuilder) else None

    def room_for_keys(self, rows: int, row_bytes: int) -> np.ndarray | None:
        """The same for `labels`."""
        return self.labels.room(self._came, rows, row_bytes) if isinstance(self.labels, RowBuilder) else None

    def came(self, rows: int) -> None:
        """Take note of the next records."""
        self._came += rows


class _Collected:
    """Batches of one read, as columns that grow."""

    def __init__(self, reader: PartitionReader, limit: MemoryLimit) -> None:
        self._reader = reader
        self._limit = limit
        self._rows: list[_Rows] = []
        self._owners: dict[int, tuple[_Rows, int]] = {}  # account → whose rows, and the place of its range
        self._columns: list[SideBySide] = []

    def begin(self, parts: list[list[Piece]]) -> list[_Rows]:
        """Where the records of each part go."""
        self._rows = list(map(_Rows, parts))
        for rows, part in zip(self._rows, parts, strict=True):
            self._owners.update({id(piece.account): (rows, piece.place) for piece in part})
        return self._rows

    def append(self, batch: ArrayBatch) -> None:
        """Add a batch; the first one tells types and shapes."""
        columns = [column for column in (batch.values, batch.scalar_labels) if column is not None]
        if not self._columns:
            self._make(columns)
        self._limit.add(sum(map(column_bytes, columns)), batch.coordinates(0))
        rows, place = self._owners[id(batch.account)]
        rows.append(batch, place)

    def finish(self) -> tuple[Column | None, Column | None, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The columns of values and labels, None where nothing came, and the index of the rows."""
        index = OffsetIndex()
        for rows in self._rows:
            index.extend(rows.index)
        values, labels, *_ = [*(columns.finish() for columns in self._columns), None, None]
        return values, labels, index.finish()

    def _make(self, first: list[Column]) -> None:
        """The builders of all parts."""
        report = self._reader.report
        self._limit.allow(report.readable, sum(map(row_bytes, first)), _named(report))
        self._columns = [SideBySide(column, [rows.most for rows in self._rows], self._limit.most) for column in first]
        for number, rows in enumerate(self._rows):
            rows.values, rows.labels, *_ = [*(columns.parts[number] for columns in self._columns), None]


def _least_bytes(layout: RawFormat) -> int:
    """The least bytes that a sample takes, by what the control message says of it."""
    types = [(layout.data_type, layout.data_shape), (layout.label_type, layout.label_shape)]
    return sum(least_bytes(element_type(name, elements_of(shape))) for name, shape in types if name)


def readers_for(offsets: int, sample_bytes: int, processors: int) -> int:
    """How many readers side by side pay off: one for each 200,000 offsets or 64 MiB, up to 4.

    Nor more than the processors and one: while one waits for its broker, another can use its processor.

    >>> readers_for(10**6, 100, 2), readers_for(10**6, 100, 16), readers_for(10, 100, 16), readers_for(2000, 10**5, 16)
    (3, 4, 1, 2)
    """
    paying = max(offsets // _OFFSETS_A_READER, offsets * sample_bytes // _BYTES_A_READER)
    return max(1, min(paying, processors + 1, _MOST_READERS))


def _processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _has_rows(layout: RawFormat) -> bool:
    """Whether all samples are numbers, which have their rows in an array before they come."""
    names = [name for name in (layout.data_type, layout.label_type) if name is not None]
    return all(isinstance(element_type(name), Numbers) for name in names)


def _named(report: ReadReport) -> str:
    """The first ranges, for messages."""
    return ", ".join([*map(str, report.ranges[:3]), *(["..."] if len(report) > 3 else [])])


def _tensor(column: Column) -> "torch.Tensor | BytesTensor":
    return torch.from_numpy(column) if isinstance(column, np.ndarray) else BytesTensor(column)


def check_fits_torch(type_name: str | None) -> None:
    """Raise a `ConfigError` where torch has no tensors of a type."""
    kind = None if type_name is None else element_type(type_name)
    if not isinstance(kind, Numbers):
        return
    try:
        torch.from_numpy(np.empty(0, kind.dtype.newbyteorder("=")))
    except TypeError:
        raise ConfigError(
            f"the type is {type_name!r}, which torch has no tensors of; the pipes can still decode it"
        ) from None


def _fresh(item: Any) -> Any:
    """An array of its own, so that a transform may change it in place; other items are their own already."""
    return item.copy() if isinstance(item, np.ndarray) else item


def _mapped(transform: Transform | None, items: Iterable[Any]) -> Iterable[Any]:
    return items if transform is None else map(transform, items)


def _row(index: Any, length: int) -> int:
    if isinstance(index, bool | np.bool_):
        raise TypeError(f"an index is {index!r}, wanted a whole number: a mask does not select here")
    row = operator.index(index)
    if not -length <= row < length:
        raise IndexError(f"sample {row} of {length}: wanted an index from {-length} to {length - 1}")
    return row % length if length else row


def _rows(indices: Sequence[int], length: int) -> np.ndarray:
    """int64 [B], from 0: the rows of several indices."""
    if set(map(type, indices)) != {int} or not -length <= min(indices) <= max(indices) < length:
        indices = [_row(index, length) for index in indices]  # which raises for what is no index, or outside
    return np.array(indices, np.int64) % max(1, length)
