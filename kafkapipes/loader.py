"""TensorLoader: batches out of columns in memory, each gathered in one go. Knows of a dataset only its columns."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import default_collate

from kafkapipes.errors import ConfigError
from kafkapipes.options import check_count, shown
from kafkapipes.order import (
    MOST,
    EpochSampler,
    Position,
    check_sampler,
    named,
    read_indices,
    read_state,
    share,
    write_state,
)


class Columns(Protocol):
    """What is loaded: N samples, as columns.

    Attributes:
        values: tensor [N, ...] in the memory of the host, or a sequence of N items with `__getitems__`
        labels: the same, or None
        transform: called with each value, or None
        label_transform: called with each label, or None
    """

    values: Any
    labels: Any
    transform: Callable[[Any], Any] | None
    label_transform: Callable[[Any], Any] | None

    def __len__(self) -> int:
        """N."""


class TensorLoader:
    """A DataLoader over columns in memory: a batch is gathered in one go, without a sample in between.

    Iterating yields `(values, labels)`, or `values` alone where there are no labels: tensors [B, ...] of the dtype in
    the dataset, in memory of their own, or lists of B str or bytes; fewer in the last batch. Where the dataset has a
    `transform` or a `label_transform`, it is called with each sample of that column and the results are collated,
    as by a DataLoader, and about as slow; `batch_transform` is the fast way.

    Each iteration is an epoch. Shuffled, each epoch has an order of its own, the same in every process and on every
    machine. It takes 8 bytes a sample for that order, and no copy of the data.

    Args:
        dataset: has `values`, `labels`, `transform`, `label_transform` and a length
        batch_size: samples in a batch
        shuffle: another order each epoch
        seed: decides, with the epoch, the order of `shuffle`; all ranks need the same
        sampler: gives the indices of samples in place of `shuffle`, anew for each epoch: any of torch's, or a list
        drop_last: leave out a last batch that is smaller
        batch_transform: called with values and labels of each batch, or with values alone where there are no labels;
            what it returns is the batch
        pin_memory: put the tensors of a batch into pinned memory, for `.to(device, non_blocking=True)`
        device: keep a copy of the columns on this device, made now, and gather there
        rank, world_size: of `world_size` processes this is number `rank`, from 0: each gets its share of every epoch,
            as many batches as any; up to `world_size - 1` samples of the last come twice, unless `drop_last`

    Attributes:
        dataset, batch_size, sampler, drop_last, batch_transform, pin_memory, device: as above

    Raises:
        ConfigError: an option makes no sense, or does not go with another

    >>> from types import SimpleNamespace
    >>> class Squares(SimpleNamespace):
    ...     def __len__(self):
    ...         return 5
    >>> squares = Squares(values=torch.arange(5) ** 2, labels=None, transform=None, label_transform=None)
    >>> list(TensorLoader(squares, batch_size=2))
    [tensor([0, 1]), tensor([4, 9]), tensor([16])]
    >>> loader = TensorLoader(squares, batch_size=2, shuffle=True)
    >>> batches = iter(loader)
    >>> first, state = next(batches), loader.state_dict()
    >>> resumed = TensorLoader(squares, batch_size=2, shuffle=True)
    >>> resumed.load_state_dict(state)
    >>> all(map(torch.equal, resumed, batches))  # the second and the third batch
    True
    """

    def __init__(
        self,
        dataset: Columns,
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
    ) -> None:
        check_count("batch_size", batch_size, MOST)
        check_count("world_size", world_size, MOST)
        check_count("rank", rank, world_size - 1, least=0)
        if sampler is not None:
            check_sampler(sampler)
            if shuffle or seed or world_size > 1:
                raise ConfigError("a sampler decides order and share itself: leave out shuffle, seed, rank, world_size")
        self.dataset = dataset
        self.batch_size = batch_size
        self.sampler: Iterable[int] = EpochSampler(len(dataset), shuffle, seed) if sampler is None else sampler
        self.drop_last = drop_last
        self.batch_transform = batch_transform
        self.pin_memory = pin_memory
        self.device = torch.device("cpu" if device is None else device)
        self._rank, self._world_size = rank, world_size
        self._position: Position | None = None  # behind the latest batch; None between epochs
        self._loaded: Position | None = None  # where the next iteration goes on
        self._moved: list[torch.Tensor] | None = None
        if self.device.type != "cpu":
            _check_fits_device(dataset, self.device, pin_memory)
            self._moved = [column.to(self.device) for column in _columns(dataset)]
            self.device = self._moved[0].device  # "cuda" is another one once the current device has changed
        if pin_memory and not _can_pin():
            warnings.warn("pin_memory is True, but there is no accelerator that needs it", stacklevel=2)

    def __len__(self) -> int:
        """The batches of an epoch; TypeError where the sampler has no length."""
        samples = len(self.sampler)  # type: ignore[arg-type]  # raises what it should
        return samples // self._step if self.drop_last else -(-samples // self._step)

    def __iter__(self) -> Iterator[Any]:
        start = self._position = self._start()
        self._loaded = None
        if isinstance(self.sampler, EpochSampler):
            self.sampler.set_epoch(start.epoch + 1)
        return self._batches(start)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, that the next iteration is; each later one is the next, unless set again.

        Raises:
            ConfigError: the sampler has no epochs
        """
        if not hasattr(self.sampler, "set_epoch"):
            raise ConfigError(f"wanted to set the epoch to {shown(epoch)}, found {named(self.sampler)} without epochs")
        self.sampler.set_epoch(epoch)
        self._position = None

    def state_dict(self) -> dict[str, Any]:
        """Where this loader stands, behind the latest batch that it gave: small, fit for JSON, the same on each rank.

        With a `sampler` of your own each rank has a state of its own.
        """
        return write_state(self._start() if self._position is None else self._position, self.sampler)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration go on behind the batch at which a state was taken; those after it are whole epochs.

        The batch size and the number of ranks may have changed. From the last batch of an epoch it goes on with no
        batch, from the end of an epoch with the next. If then another epoch is set, that one begins at its beginning.

        Raises:
            ConfigError: the state is not whole, or of another order; the latter shows at the first batch at the latest
        """
        position = read_state(state, self.sampler)
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(position.epoch)
        self._position, self._loaded = None, position

    def __repr__(self) -> str:
        part = f", rank {self._rank} of {self._world_size}" if self._world_size > 1 else ""
        return f"TensorLoader(batches of {self.batch_size}, {named(self.sampler)}{part})"

    @property
    def _step(self) -> int:
        """The samples of one batch on each rank."""
        return self.batch_size * self._world_size

    def _start(self) -> Position:
        """Where the next iteration begins."""
        epoch = getattr(self.sampler, "epoch", 0)
        if self._loaded is not None and self._loaded.epoch == epoch:
            return self._loaded
        return Position(epoch)

    def _batches(self, position: Position) -> Iterator[Any]:
        for indices in read_indices(self.sampler, position, self._step, len(self.dataset)):
            if self.drop_last and len(indices) < self._step:
                break
            batch = self._batch(share(indices, self._rank, self._world_size))
            position = position.behind(indices)
            self._position = position  # right before the batch leaves, so that Ctrl-C does not come in between
            yield batch
        self._position = None

    def _batch(self, rows: np.ndarray) -> Any:
        if self._moved is not None:
            index = self._index(rows)
            columns = [column.index_select(0, index) for column in self._moved]
        else:
            transforms = self.dataset.transform, self.dataset.label_transform
            pairs = zip(_columns(self.dataset), transforms, strict=False)
            columns = [_transformed(take(column, rows), transform) for column, transform in pairs]
        if self.batch_transform is not None:
            batch = self.batch_transform(*columns)
        else:
            batch = columns[0] if len(columns) == 1 else tuple(columns)
        return _pinned(batch) if self.pin_memory and _can_pin() else batch

    def _index(self, rows: np.ndarray) -> torch.Tensor:
        """The rows on the device. From pinned memory: any other copy waits until the device has done its work."""
        index = torch.from_numpy(rows)
        return index.pin_memory().to(self.device, non_blocking=True) if _can_pin() else index.to(self.device)


def take(column: Any, rows: np.ndarray) -> Any:
    """Some rows (int64 [B], from 0) of a column, copied: an array [B, ...] of a tensor, otherwise a list.

    By NumPy's take: torch's index_select is as fast with one thread, slower on megabytes; with several it gains a third
    where cores are idle, and where they are busy its threads wait for each other, ten times as long.
    """
    return column.numpy().take(rows, axis=0) if isinstance(column, torch.Tensor) else column.__getitems__(rows.tolist())


def _columns(dataset: Columns) -> list[Any]:
    return [dataset.values] if dataset.labels is None else [dataset.values, dataset.labels]


def _transformed(items: Any, transform: Callable[[Any], Any] | None) -> Any:
    """The batch of the items of one column."""
    if transform is not None:
        return default_collate([transform(item) for item in items])
    return torch.from_numpy(items) if isinstance(items, np.ndarray) else items


def _check_fits_device(dataset: Columns, device: torch.device, pin_memory: bool) -> None:
    if dataset.transform is not None or dataset.label_transform is not None:
        raise ConfigError(
            f"device is {str(device)!r}, but transform and label_transform of the dataset are called with samples in "
            f"the memory of the host; set them to None and use batch_transform, which gets tensors on the device"
        )
    if not all(isinstance(column, torch.Tensor) for column in _columns(dataset)):
        raise ConfigError(f"device is {str(device)!r}, where strings and bytes cannot be kept; leave it out")
    if pin_memory:
        raise ConfigError(f"pin_memory is for batches in the memory of the host, and device is {str(device)!r}")


def _can_pin() -> bool:
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found is not None and found.type != "mps"  # as torch's own DataLoader has it


def _pinned(batch: Any) -> Any:
    """The batch with its tensors in pinned memory, also those in lists, tuples and dictionaries."""
    if hasattr(batch, "pin_memory"):
        return batch.pin_memory()
    if isinstance(batch, Mapping):
        return {key: _pinned(item) for key, item in batch.items()}
    if isinstance(batch, list | tuple):
        items = map(_pinned, batch)
        return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
    return batch
