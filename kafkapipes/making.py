"""What a user gets of decoded columns: samples, or batches of tensors, transformed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from kafkapipes.arrays import Column
from kafkapipes.pipes.transformer import Transform, make_sample

Coordinates = tuple[list[str], np.ndarray, np.ndarray]  # topics, partitions (int64) and offsets (int64) of records
NOWHERE: Coordinates = ([], np.empty(0, np.int64), np.empty(0, np.int64))


@dataclass(frozen=True)
class Making:
    """How samples and batches are made of decoded columns.

    Attributes:
        transform, label_transform: called with each value and each label
        batch_transform: called with values and labels of a batch, or with the values alone
        coordinates: whether each item comes with the places of its records
    """

    transform: Transform | None = None
    label_transform: Transform | None = None
    batch_transform: Callable[..., Any] | None = None
    coordinates: bool = False

    def samples(self, values: Column, labels: Column | None) -> Iterator[Any]:
        """The samples of a batch, one at a time."""
        for row, value in enumerate(values):
            yield make_sample(value, None if labels is None else labels[row], self.transform, self.label_transform)

    def batch(self, values: Column, labels: Column | None, coordinates: Coordinates) -> Any:
        """The batch as tensors, or lists of str or bytes."""
        if (self.transform or self.label_transform) and len(values):
            made = default_collate(list(self.samples(values, labels)))
            parts = [made] if labels is None else list(made)
        else:
            parts = [_tensor(values)] if labels is None else [_tensor(values), _tensor(labels)]
        if self.batch_transform is not None:
            made = self.batch_transform(*parts)
            parts = list(made) if isinstance(made, tuple) else [made]
        if self.coordinates:
            topics, partitions, offsets = coordinates
            parts.append((topics, torch.from_numpy(partitions), torch.from_numpy(offsets)))
        return tuple(parts) if len(parts) > 1 else parts[0]


def _tensor(column: Column) -> Any:
    return torch.from_numpy(column) if isinstance(column, np.ndarray) else list(column)
