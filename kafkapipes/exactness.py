"""Does a dataset resume exactly? Stopped behind any item and restored elsewhere, it must go on with the next one."""

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from kafkapipes.options import shown


def assert_resumes_exactly(
    dataset: IterableDataset[Any],
    *,
    num_workers: int | None = None,
    batch_size: int | None = None,
    persistent_workers: bool = False,
    start_method: str | None = None,
    snapshot_every_n_steps: int = 1,
    stops: Iterable[int] | None = None,
) -> int:
    """Raise unless a dataset, stopped behind any item, goes on with exactly the items that were to come.

    It is read once undisturbed. Then, for each stop, it is read up to there, its state goes through JSON and into a
    new loader, and from there, one item further, into another one. What both give must be what is missing, and the
    epoch after it whole.

    Args:
        dataset: an `IterableDataset` whose iterators have `state_dict` and `load_state_dict`; an epoch must be finite
        num_workers: of a StatefulDataLoader; None asks the dataset's own iterators, without a loader
        batch_size, persistent_workers, start_method, snapshot_every_n_steps: of the loader
        stops: numbers of items behind which to stop; None: behind each, from 0 to all

    Returns:
        The number of states that were resumed from.

    Raises:
        AssertionError: an item is missing, comes twice or differs; says behind which stop, and at which item

    >>> from kafkapipes import StreamingKafkaDataset
    >>> from kafkapipes.testing import EmbeddedKafka, assert_resumes_exactly
    >>> with EmbeddedKafka() as kafka:
    ...     kafka.fill("clicks", [(bytes([number]), None) for number in range(20)])
    ...     message = {"topic": "clicks:0:0:20", "input_config": {"data_type": "uint8"}}
    ...     stream = StreamingKafkaDataset(message, kafka.bootstrap_servers, "readers", shuffle=True, batch_size=3)
    ...     assert_resumes_exactly(stream)
    14
    """
    loaders = _Loaders(dataset, num_workers, batch_size, persistent_workers, start_method, snapshot_every_n_steps)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*set_vital")  # which torchdata calls in every loader
        whole = list(loaders.new())
        return sum(_try(loaders, whole, stop) for stop in (range(len(whole) + 1) if stops is None else stops))


class _Loaders:
    """Makes loaders of a dataset, all alike; without workers to be, a dataset stands for its own loader."""

    def __init__(
        self,
        dataset: IterableDataset[Any],
        workers: int | None,
        batch_size: int | None,
        persistent: bool,
        method: str | None,
        interval: int,
    ) -> None:
        self._dataset = dataset
        self._bare = workers is None
        self._options: dict[str, Any] = {
            "num_workers": workers, "batch_size": batch_size, "snapshot_every_n_steps": interval,
            "persistent_workers": persistent and bool(workers),
            "multiprocessing_context": method if workers else None,
        }  # fmt: skip

    def new(self, state: Mapping[str, Any] | None = None) -> Any:
        """A loader, which stands where a state says; it is iterated again for the next epoch."""
        if self._bare:
            loader: Any = _Bare(self._dataset)
        else:
            from torchdata.stateful_dataloader import StatefulDataLoader  # only here: it takes its time to import

            loader = StatefulDataLoader(self._dataset, **self._options)
        if state is not None:
            loader.load_state_dict(json.loads(json.dumps(state)))
        return loader


class _Bare:
    """A dataset with the face of a StatefulDataLoader."""

    def __init__(self, dataset: IterableDataset[Any]) -> None:
        self._dataset = dataset
        self._state: Any = None
        self._iterator: Any = None

    def __iter__(self) -> Iterator[Any]:
        self._iterator = iter(self._dataset)
        if self._state is not None:
            self._iterator.load_state_dict(self._state)
            self._state = None
        return self._iterator  # type: ignore[no-any-return]  # any dataset's

    def state_dict(self) -> Any:
        if self._iterator is None:
            iter(self)
        return self._iterator.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self._state = state


def _try(loaders: _Loaders, whole: Sequence[Any], stop: int) -> int:
    """Stop once, go on one item and stop again; how many states were resumed from."""
    first = loaders.new()
    items = iter(first)
    head = [item for _, item in zip(range(stop), items, strict=False)]
    if stop == len(whole):
        head += list(items)  # the end is noticed only now
    state = first.state_dict()
    del first, items
    second = loaders.new(state)
    items = iter(second)
    rest = [item for _, item in zip(range(1), items, strict=False)]
    again = second.state_dict()
    if stop < len(whole) or (isinstance(second, _Bare) and not rest):
        _compare(whole, head + rest + list(items), f"resumed behind item {stop}")
    else:  # such a state stands before the next epoch
        _compare(whole, rest + list(items), f"resumed behind the last item, {stop}")
    _compare(whole, list(second), f"in the epoch after that which was resumed behind item {stop}")
    del second, items
    if stop + 1 >= len(whole):
        return 1
    _compare(whole, head + rest + list(loaders.new(again)), f"resumed behind item {stop} and again behind the next")
    return 2


def _compare(wanted: Sequence[Any], found: Sequence[Any], when: str) -> None:
    for place, (one, other) in enumerate(zip(wanted, found, strict=False)):
        if not _same(one, other):
            raise AssertionError(f"{when}: wanted item {place} to be {shown(one)}, found {shown(other)}")
    if len(wanted) != len(found):
        raise AssertionError(f"{when}: wanted {len(wanted)} items, found {len(found)}")


def _same(one: Any, other: Any) -> bool:
    """Whether two items are of one type, shape and content."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
