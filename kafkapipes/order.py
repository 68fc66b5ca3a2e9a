"""In which order the samples of an epoch come, and where in it an iteration stands: indices, and no sample."""

import operator
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler

from kafkapipes.errors import ConfigError
from kafkapipes.options import check_count, shown

MOST = 2**62  # of a seed and of an epoch: their sum seeds torch's generator
STATE_VERSION = 1
_CHECKED = 1024  # indices of an epoch that a state vouches for: two orders that differ do so long before


class EpochSampler(Sampler[int]):
    """Each of N samples once an epoch, in order or shuffled by seed and epoch; no global generator is touched.

    The shuffled order is that of torch's `DistributedSampler` with the same seed and epoch.

    >>> sampler = EpochSampler(100, shuffle=True, seed=0)
    >>> first = list(sampler)
    >>> sampler.set_epoch(1)
    >>> first == list(sampler), sorted(first) == list(range(100))
    (False, True)
    """

    def __init__(self, length: int, shuffle: bool, seed: int) -> None:
        check_count("seed", seed, MOST, least=0)
        self._length = length
        self._shuffle = shuffle
        self._seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, whose order comes next."""
        check_count("epoch", epoch, MOST, least=0)
        self.epoch = epoch

    def order(self, epoch: int) -> np.ndarray:
        """int64 [N]: the indices of all samples in the order of an epoch."""
        if not self._shuffle:
            return np.arange(self._length)
        generator = torch.Generator().manual_seed(self._seed + epoch)
        order: np.ndarray = torch.randperm(self._length, generator=generator).numpy()
        return order

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(self.epoch).tolist())

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        how = f"shuffled with seed {self._seed}" if self._shuffle else "in order"
        return f"EpochSampler({self._length} samples, {how})"


class Position(NamedTuple):
    """Where an iteration stands.

    Attributes:
        epoch: the epoch, from 0
        delivered: samples of the epoch that came before, on all ranks together
        checksum: of the first of their indices, which tells whether another iteration has the same order
    """

    epoch: int
    delivered: int = 0
    checksum: int = 0

    def behind(self, indices: np.ndarray) -> "Position":
        """The position behind the samples (int64 indices) that come next.

        >>> start = Position(epoch=3)
        >>> start.behind(np.arange(5)) == start.behind(np.arange(2)).behind(np.arange(2, 5))
        True
        """
        checked = indices[: max(0, _CHECKED - self.delivered)]
        return Position(self.epoch, self.delivered + len(indices), zlib.crc32(checked.data, self.checksum))


def read_indices(sampler: Iterable[int], start: Position, step: int, length: int) -> Iterator[np.ndarray]:
    """The indices of the rest of an epoch, int64 arrays of `step`, the last shorter.

    A sampler that is not ours is asked for no more than the next of them: it may be endless.

    Raises:
        ConfigError: the sampler does not repeat the order that led to `start`
        IndexError: the sampler gives an index that none of `length` samples has
    """
    if isinstance(sampler, EpochSampler):
        order = sampler.order(start.epoch)
        _check_repeats(sampler, order[: start.delivered], start)
        yield from (order[first : first + step] for first in range(start.delivered, len(order), step))
        return
    source = map(operator.index, sampler)
    _check_repeats(sampler, np.fromiter(islice(source, start.delivered), np.int64), start)
    while len(indices := np.fromiter(islice(source, step), np.int64)):
        outside = indices[(indices < -length) | (indices >= length)]
        if len(outside):
            raise IndexError(f"{named(sampler)}: wanted indices from {-length} to {length - 1}, found {outside[0]}")
        yield indices % length


def share(indices: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """The indices of one rank, as many for each: where they do not divide, the first come again at the end.

    >>> [share(np.arange(5), rank, 3).tolist() for rank in range(3)]
    [[0, 3], [1, 4], [2, 0]]
    """
    if world_size == 1:
        return indices
    return np.resize(indices, -(-len(indices) // world_size) * world_size)[rank::world_size]


def named(sampler: object) -> str:
    """A sampler in states and messages: the repr of one that is not ours may hold its address, or all its indices."""
    return repr(sampler) if isinstance(sampler, EpochSampler) else type(sampler).__name__


def check_sampler(sampler: object) -> None:
    """Raise unless a sampler can be iterated once an epoch."""
    if not isinstance(sampler, Iterable) or isinstance(sampler, Iterator):
        raise ConfigError(f"sampler is {shown(sampler)}, wanted what gives indices anew each time it is iterated")


def write_state(position: Position, sampler: object) -> dict[str, Any]:
    """A position as a dictionary of numbers and one string."""
    return {"version": STATE_VERSION, "sampler": named(sampler), **position._asdict()}


def read_state(state: Mapping[str, Any], sampler: object) -> Position:
    """The position that a state holds.

    Raises:
        ConfigError: the state is torn, or of another version, or was taken with another sampler
    """
    wanted = {"version", "sampler", *Position._fields}
    if not isinstance(state, Mapping) or set(state) != wanted or state["version"] != STATE_VERSION:
        raise ConfigError(
            f"the state is {shown(state)}, wanted what state_dict returns: a dictionary of "
            f"{', '.join(sorted(wanted))}, of version {STATE_VERSION}"
        )
    if state["sampler"] != named(sampler):
        raise ConfigError(f"the state was taken with {shown(state['sampler'])}, this loader has {named(sampler)}")
    for field in Position._fields:
        check_count(f"{field} of the state", state[field], MOST, least=0)
    return Position(*(state[field] for field in Position._fields))


def _check_repeats(sampler: object, passed: np.ndarray, start: Position) -> None:
    if Position(start.epoch).behind(passed) != start:
        raise ConfigError(
            f"wanted to go on behind {start.delivered} samples of epoch {start.epoch}, found that {named(sampler)} "
            f"gives others, or fewer, than when the state was taken; wanted a sampler that repeats its order, and of "
            f"each rank that has one the state of its own"
        )
