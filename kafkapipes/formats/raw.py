"""RAW: a value and its label are the bytes of an array, C order, no header. Vectorised over the batch.

The record's value is the input, its key the label (Kafka-ML's RAW format: `array.tobytes()`).
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kafkapipes.arrays import MAX_ELEMENTS, ArrayBatch, Column, Shape, TextColumn, parse_shape
from kafkapipes.dead_letters import LeftOut
from kafkapipes.errors import ConfigError, DecodeError
from kafkapipes.options import check_count, shown
from kafkapipes.records import BytesColumn, RecordBatch


@dataclass(frozen=True)
class Numbers:
    """Fixed-size arrays of one dtype."""

    dtype: np.dtype
    elements: int | None = None  # per sample; None until the first record tells
    told_by: str = ""  # coordinates of that record

    @property
    def is_sized(self) -> bool:
        """Whether the number of elements is known."""
        return self.elements is not None

    def sized_by(self, length: int, coordinates: str) -> "Numbers":
        """The same type with the number of elements that an entry of `length` bytes holds."""
        elements, rest = divmod(length, self.dtype.itemsize)
        if rest or not elements:
            raise DecodeError(
                f"wanted a whole number of {self.dtype.name} elements ({self.dtype.itemsize} bytes each) at "
                f"{coordinates}, found {length} bytes; correct the type, or declare how many elements a sample has"
            )
        return replace(self, elements=elements, told_by=coordinates)

    def wrong(self, column: BytesColumn) -> np.ndarray:
        """bool [B]: which entries do not fit this type."""
        wrong: np.ndarray = column.lengths != (self.elements or 0) * self.dtype.itemsize
        if self.dtype.kind == "b":
            wrong |= _rows_with(column, column.buffer > 1)
        return wrong

    def complaint(self, length: int) -> str:
        """What was wanted, and what a wrong entry of `length` bytes is instead, for messages."""
        size = (self.elements or 0) * self.dtype.itemsize
        if length == size:
            return "wanted bool bytes 0 or 1, found another byte"
        like = f", as the first record at {self.told_by} has," if self.told_by else ""
        return f"wanted {size} bytes ({self.elements} x {self.dtype.name}){like} found {length} bytes"

    def view(self, column: BytesColumn) -> np.ndarray:
        """[B, elements] in native byte order; shares memory with the column where the order is native."""
        array = column.buffer.view(self.dtype).reshape(len(column), self.elements or 0)
        return array.astype(self.dtype.newbyteorder("="), copy=False)


@dataclass(frozen=True)
class Text:
    """UTF-8 text of any length."""

    is_sized = True

    def wrong(self, column: BytesColumn) -> np.ndarray:
        """bool [B]: which entries are not UTF-8. One pass over the buffer where all are."""
        # Valid as a whole, and no entry begins inside a character: then each entry is valid by itself.
        begins = column.starts[column.lengths > 0]
        inside = (column.buffer[begins] & 0xC0) == 0x80
        if not inside.any() and _is_utf8(column.buffer.data):
            return np.zeros(len(column), bool)
        return np.fromiter((not _is_utf8(item or b"") for item in column), bool, len(column))

    def complaint(self, length: int) -> str:
        """What was wanted, and what a wrong entry of `length` bytes is instead, for messages."""
        return f"wanted UTF-8 text, found {length} bytes that are not"

    def view(self, column: BytesColumn) -> TextColumn:
        """The entries as `str`; shares memory with the column."""
        return TextColumn(column.buffer, column.lengths)


@dataclass(frozen=True)
class Blob:
    """Bytes of any length, as they are."""

    is_sized = True

    def wrong(self, column: BytesColumn) -> np.ndarray:
        """bool [B]: all False, as every byte string fits."""
        return np.zeros(len(column), bool)

    def complaint(self, length: int) -> str:
        """What an entry of `length` bytes is, for messages."""
        return f"found {length} bytes"  # never said: every byte string fits

    def view(self, column: BytesColumn) -> BytesColumn:
        """The column itself."""
        return column


ElementType = Numbers | Text | Blob


def element_type(name: str | np.dtype | type, elements: int | None = None) -> ElementType:
    """The element type of a name: a NumPy bool or number, byte order allowed, or `string`, or `bytes`.

    >>> element_type(">f4").dtype, element_type("string")
    (dtype('>f4'), Text())

    Raises:
        ConfigError: no such type, or one that holds no numbers.
    """
    if isinstance(name, str) and name in ("string", "str"):
        return Text()
    if isinstance(name, str) and name == "bytes":
        return Blob()
    rule = "wanted the name of a NumPy bool or number such as 'uint8', 'float32' or '>f4', or 'string' or 'bytes'"
    try:
        with warnings.catch_warnings(action="ignore"):  # NumPy has names that it would rather not have
            dtype = np.dtype(name)
    except (TypeError, ValueError, SyntaxError):
        raise ConfigError(f"the type is {shown(name)}, {rule}") from None
    if name is None or dtype.kind not in "biufc" or dtype.subdtype is not None:
        raise ConfigError(f"the type is {shown(name)}, {rule}")
    if elements is not None:
        check_count("the number of elements of a sample", elements, MAX_ELEMENTS)
    return Numbers(dtype, elements)


def least_bytes(kind: ElementType) -> int:
    """The least bytes that an entry of a type takes in memory.

    >>> least_bytes(element_type("float32", 784)), least_bytes(element_type("float32")), least_bytes(Text())
    (3136, 4, 8)
    """
    return (kind.elements or 1) * kind.dtype.itemsize if isinstance(kind, Numbers) else np.dtype(np.int64).itemsize


def no_rows(kind: ElementType, shape: Shape | None) -> Column:
    """A column without rows, of the type and shape that its rows would have; a size that only a record tells is 0."""
    if not isinstance(kind, Numbers):
        return kind.view(BytesColumn.from_list([]))
    sizes = (0,) if shape is None else (max(number, 0) for number in shape)
    return np.empty((0, *sizes), kind.dtype.newbyteorder("="))


def shape_for(kind: ElementType, shape: Shape | None, name: str) -> Shape | None:
    """`shape`, after a check that the type can have one."""
    if shape is not None and not isinstance(kind, Numbers):
        raise ConfigError(f"{name} is {shape!r}, but strings and bytes have no shape: leave it empty")
    return shape


@dataclass(frozen=True)
class RawFormat:
    """What a control message says of RAW records.

    >>> RawFormat.from_config({"data_type": "uint8", "label_type": "uint8", "data_reshape": "28 28"}).data_shape
    (28, 28)
    """

    data_type: str
    label_type: str | None
    data_shape: Shape | None
    label_shape: Shape | None

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> "RawFormat":
        """Reads `data_type`, `label_type`, `data_reshape` and `label_reshape`.

        Raises:
            ConfigError: a field is missing, unknown, or makes no sense.
        """
        known = ("data_type", "label_type", "data_reshape", "label_reshape")
        if unknown := sorted(set(map(str, config)) - set(known)):
            raise ConfigError(f"input_config has {', '.join(map(repr, unknown))}; RAW knows {', '.join(known)}")
        if not config.get("data_type"):
            raise ConfigError("input_config has no data_type, wanted a type such as 'uint8'")
        data_type, label_type = config["data_type"], config.get("label_type") or None
        if not (isinstance(data_type, str) and isinstance(label_type, str | None)):
            raise ConfigError(
                f"data_type is {shown(data_type)} and label_type {shown(label_type)}, wanted names such as 'uint8'"
            )
        shapes: Mapping[str, Any] = config  # Any: parse_shape checks the types
        data_shape = shape_for(element_type(data_type), parse_shape(shapes.get("data_reshape")), "data_reshape")
        label_shape = parse_shape(shapes.get("label_reshape"))
        if label_type is not None:
            shape_for(element_type(label_type), label_shape, "label_reshape")
        return cls(data_type, label_type, data_shape, label_shape)


@dataclass(frozen=True)
class RawDecoder:
    """`RecordBatch` → `ArrayBatch` for RAW records; those that do not fit go to a `LeftOut`."""

    data: ElementType
    label: ElementType | None

    def without_nulls(self, batch: RecordBatch, left_out: LeftOut) -> RecordBatch:
        """The batch without tombstones, and without null keys where they should hold labels.

        Raises:
            DecodeError: there is one, and its policy is "raise".
        """
        null = "wanted a value, found null (a tombstone)"
        batch = left_out.without(batch, batch.values.is_null, "tombstone", lambda row: null)
        if self.label is None:
            return batch
        null_key = "wanted a key that holds the label, found null"
        return left_out.without(batch, batch.keys.is_null, "null_key", lambda row: null_key)

    def sized_by(self, batch: RecordBatch) -> "RawDecoder":
        """The same decoder, with the sample sizes that were not declared taken from the first record of a batch.

        Args:
            batch: a batch `without_nulls`, so that no record that a policy drops tells the size
        """
        data = _sized(self.data, batch.values, batch)
        label = None if self.label is None else _sized(self.label, batch.keys, batch)
        return self if (data, label) == (self.data, self.label) else replace(self, data=data, label=label)

    def decode(self, batch: RecordBatch, left_out: LeftOut) -> ArrayBatch:
        """A batch `without_nulls` as arrays: values [B, n], labels [B, m] or None.

        Raises:
            DecodeError: a record does not fit and its policy is "raise".
        """
        if self.label is not None:
            batch = _fitting(batch, batch.keys, self.label, "key (the label)", left_out)
        batch = _fitting(batch, batch.values, self.data, "value", left_out)
        labels: Column | None = None if self.label is None else self.label.view(batch.keys)
        return ArrayBatch(self.data.view(batch.values), labels, batch.offsets, batch.account)


def _fitting(batch: RecordBatch, column: BytesColumn, kind: ElementType, name: str, left_out: LeftOut) -> RecordBatch:
    def complaint(row: int) -> str:
        return f"wanted a {name} that fits: {kind.complaint(int(column.lengths[row]))}"

    return left_out.without(batch, kind.wrong(column), "on_error", complaint)


def as_array(value: object) -> np.ndarray:
    """An array of a value.

    Raises:
        ConfigError: NumPy cannot hold the value whole.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise ConfigError("wanted a whole array, found a masked one: its mask would be lost; fill it first")
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as exc:  # ragged lists, tensors that need a gradient, ...
        raise ConfigError(f"wanted an array, found {type(value).__name__}: {str(exc).splitlines()[0]}") from None


def kind_of(item: object) -> ElementType:
    """The element type of a str, of bytes, or of an array."""
    if isinstance(item, np.ndarray):
        return element_type(item.dtype)
    return Text() if isinstance(item, str) else Blob()


def encode(value: object, kind: ElementType) -> bytes:
    """The bytes of one value: the inverse of decoding.

    Raises:
        ConfigError: the value is not of the declared type, or would lose by the conversion.
    """
    if isinstance(kind, Text) and isinstance(value, str):
        return _utf8(value)
    if isinstance(kind, Blob) and isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if not isinstance(kind, Numbers) or isinstance(value, str | bytes | bytearray | memoryview):
        raise ConfigError(f"wanted a value of type {type_name(kind)}, found {type(value).__name__}")
    array = as_array(value)
    if not array.size:
        raise ConfigError(f"wanted at least one element, found shape {array.shape}")
    if array.dtype.kind not in "biufc" or not _same_after_cast(array, kind.dtype):
        raise ConfigError(f"wanted a value of type {type_name(kind)}, found {array.dtype.name} that does not fit in it")
    return array.astype(kind.dtype, copy=False).tobytes()


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as exc:
        raise ConfigError(f"wanted text that UTF-8 can hold, found a character that it cannot: {exc.reason}") from None


def type_name(kind: ElementType) -> str:
    """The name that `element_type` reads back."""
    if isinstance(kind, Numbers):
        return kind.dtype.name if kind.dtype.isnative else kind.dtype.str
    return "string" if isinstance(kind, Text) else "bytes"


def _sized(kind: ElementType, column: BytesColumn, batch: RecordBatch) -> ElementType:
    if not isinstance(kind, Numbers) or kind.is_sized or len(batch) == 0:
        return kind
    return kind.sized_by(int(column.lengths[0]), batch.coordinates(0))


def _rows_with(column: BytesColumn, flags: np.ndarray) -> np.ndarray:
    """bool [B]: the rows that hold a flagged byte."""
    rows = np.zeros(len(column), bool)
    if flags.any():
        rows[np.searchsorted(column.starts, np.flatnonzero(flags), side="right") - 1] = True
    return rows


def _is_utf8(data: bytes | memoryview) -> bool:
    try:
        str(data, "utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _same_after_cast(array: np.ndarray, dtype: np.dtype) -> bool:
    if np.can_cast(array.dtype, dtype, "equiv"):
        return True
    with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):  # complex → real warns
        there = array.astype(dtype)
        back = there.astype(array.dtype)
    # Both ways: there and back hides a wrapped sign, and one comparison alone may round both sides.
    nan = array.dtype.kind in "fc"
    return np.array_equal(back, array, equal_nan=nan) and np.array_equal(
        there, array, equal_nan=nan and dtype.kind in "fc"
    )
