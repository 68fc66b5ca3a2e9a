"""Transformer, `.transform_samples()`: `ArrayBatch`es → single samples, transformed."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch.utils.data import IterDataPipe, functional_datapipe

from kafkapipes.arrays import ArrayBatch

Transform = Callable[[Any], Any]
Sample = Any  # (value, label), or the value alone where there are no labels: what they are is the user's transform's


@functional_datapipe("transform_samples")
class Transformer(IterDataPipe[Sample]):
    """Yields one sample at a time, `(value, label)`, or `value` where there are no labels.

    Args:
        arrays: batches of decoded, reshaped samples
        transform: called with each value, a NumPy array [*shape], or a str or bytes
        label_transform: called with each label, a NumPy scalar where it has one element

    Yields:
        (value, label), in order; what a DataLoader collates.

    >>> import numpy as np
    >>> from kafkapipes.ranges import OffsetRange
    >>> from kafkapipes.report import RangeReport
    >>> account = RangeReport(OffsetRange("clicks", 0, 0, 2), 0, 2)
    >>> batch = ArrayBatch(np.array([[1, 2], [3, 4]]), np.array([[7], [8]]), np.arange(2), account)
    >>> list(Transformer([batch], transform=np.ndarray.tolist, label_transform=int))
    [([1, 2], 7), ([3, 4], 8)]
    """

    def __init__(
        self, arrays: Iterable[ArrayBatch], transform: Transform | None = None, label_transform: Transform | None = None
    ) -> None:
        self._source = arrays
        self._on_value = transform
        self._on_label = label_transform

    def __iter__(self) -> Iterator[Sample]:
        for batch in self._source:
            labels = batch.scalar_labels
            for row, value in enumerate(batch.values):
                label = None if labels is None else labels[row]
                yield make_sample(value, label, self._on_value, self._on_label)

    def __repr__(self) -> str:
        return f"Transformer({self._on_value}, {self._on_label})"


def make_sample(value: Any, label: Any, transform: Transform | None, label_transform: Transform | None) -> Sample:
    """One sample from its parts; a label of None means that there are no labels."""
    if transform is not None:
        value = transform(value)
    if label is None:
        return value
    return value, label if label_transform is None else label_transform(label)
