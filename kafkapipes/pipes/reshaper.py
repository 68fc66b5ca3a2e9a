"""Reshaper, `.reshape_arrays()`: the rows of `ArrayBatch`es get their shape."""

from collections.abc import Iterable, Iterator, Sequence

from torch.utils.data import IterDataPipe, functional_datapipe

from kafkapipes.arrays import ArrayBatch, parse_shape, reshape


@functional_datapipe("reshape_arrays")
class Reshaper(IterDataPipe[ArrayBatch]):
    """Gives each value, and each label, its shape: a view of the same memory.

    Args:
        arrays: batches of decoded samples
        data_shape: `"28 28"` or `(28, 28)`, one number may be -1; "" or None leaves values flat
        label_shape: the same for labels

    Yields:
        ArrayBatch: values [B, *data_shape], labels [B, *label_shape].

    Raises:
        DecodeError: a sample has not as many elements as its shape.

    >>> import numpy as np
    >>> from kafkapipes.ranges import OffsetRange
    >>> from kafkapipes.report import RangeReport
    >>> flat = ArrayBatch(np.zeros((2, 6)), None, np.arange(2), RangeReport(OffsetRange("clicks", 0, 0, 2), 0, 2))
    >>> [batch.values.shape for batch in Reshaper([flat], "2 -1")]
    [(2, 2, 3)]
    """

    def __init__(
        self,
        arrays: Iterable[ArrayBatch],
        data_shape: str | Sequence[int] | None,
        label_shape: str | Sequence[int] | None = None,
    ) -> None:
        self._source = arrays
        self._value_shape = parse_shape(data_shape)
        self._key_shape = parse_shape(label_shape)

    def __iter__(self) -> Iterator[ArrayBatch]:
        for batch in self._source:
            yield reshape(batch, self._value_shape, self._key_shape)

    def __repr__(self) -> str:
        return f"Reshaper({self._value_shape}, {self._key_shape})"
