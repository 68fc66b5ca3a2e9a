"""How much memory there is, the limit on what one read may collect, and memory that is used again.

Pure, but for the files it reads.
"""

import os
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from kafkapipes.errors import MemoryLimitError
from kafkapipes.options import check_count

STEP = 64 * 2**20  # bytes collected between two looks at the machine's memory
_KEPT = 20  # one part in so many of all memory is left to others, as is what may come until the next look
_CGROUP_FILES: tuple[
    tuple[str, str, tuple[str, ...]], ...
] = (  # of each version: limit, usage, and within its statistics what can be dropped at any time
    ("memory.max", "memory.current", ("inactive_file", "active_file", "slab_reclaimable")),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
)


class Memory(NamedTuple):
    """Bytes: all that this process could ever have, and what is free for it now."""

    total: int
    free: int


def machine_memory(root: Path = Path("/")) -> Memory:
    """The memory of this machine, or of the control group that this process is in, whichever has less free.

    >>> machine_memory().free <= machine_memory().total
    True
    """
    return min([_physical(root), *_groups(root)], key=lambda memory: memory.free)


class MemoryLimit(Protocol):
    """What the columns of one read may take.

    Attributes:
        most: bytes that no read can exceed, whatever comes
    """

    most: int

    def allow(self, rows: int, row_bytes: int, where: str) -> None:
        """Raise unless so many rows of so many bytes each, from the ranges `where`, may be collected in all."""

    def add(self, size: int, where: str) -> None:
        """Raise if `size` more bytes, from the batch at coordinates `where`, are too many."""


class ByteLimit:
    """A number of bytes, from `max_bytes`: what is known to exceed it is refused before it is read.

    >>> ByteLimit(1000).allow(10, 100, "clicks:0:0:10")
    """

    def __init__(self, most: int) -> None:
        check_count("max_bytes", most, 2**63 - 1)
        self.most = most
        self._taken = 0

    def allow(self, rows: int, row_bytes: int, where: str) -> None:
        """Raise unless so many rows of so many bytes each, from the ranges `where`, may be collected in all."""
        if rows * row_bytes > self.most:
            raise MemoryLimitError(
                f"{where}: wanted {rows} offset(s) x {row_bytes} bytes a sample = {rows * row_bytes} bytes in memory, "
                f"the limit max_bytes is {self.most}; {_ADVICE}, or raise max_bytes"
            )

    def add(self, size: int, where: str) -> None:
        """Raise if `size` more bytes, from the batch at coordinates `where`, are too many."""
        self._taken += size
        if self._taken > self.most:
            raise MemoryLimitError(
                f"at {where}: wanted {self._taken} bytes in memory by the end of this batch, the limit max_bytes is "
                f"{self.most}; {_ADVICE}, or raise max_bytes"
            )


class MachineLimit:
    """The free memory of the machine, looked at anew after every 64 MiB: others may take of it too."""

    def __init__(self, memory: Callable[[], Memory] = machine_memory) -> None:
        self._memory = memory
        self.most = memory().total
        self._taken = 0
        self._unchecked = 0

    def allow(self, rows: int, row_bytes: int, where: str) -> None:
        """Pass: `rows` is an upper bound, and a compacted range may hold a fraction of it."""

    def add(self, size: int, where: str) -> None:
        """Raise if `size` more bytes, from the batch at coordinates `where`, are too many."""
        self._taken += size
        self._unchecked += size
        if self._unchecked < STEP:
            return
        self._unchecked = 0
        total, free = self._memory()
        kept = total // _KEPT + STEP
        if size + kept > free:
            raise MemoryLimitError(
                f"at {where}: wanted {self._taken} bytes in memory by the end of this batch, found {free} of {total} "
                f"bytes free, of which {kept} are kept for the system; {_ADVICE}, or set max_bytes"
            )


class ReusedMemory:
    """Memory for arrays that come and go: what was one's serves another once nobody has it any more.

    To touch new memory can take longer than all else that is done with it: the system clears each page first.

    Args:
        spares: how many pieces of each size are kept for arrays to come; sizes are powers of two

    >>> memory = ReusedMemory(spares=1)
    >>> memory.array(1000).ctypes.data == memory.array(600).ctypes.data
    True
    """

    def __init__(self, spares: int) -> None:
        self._spare: dict[int, deque[np.ndarray]] = defaultdict(lambda: deque(maxlen=spares))

    def array(self, size: int) -> np.ndarray:
        """uint8 [size], whatever is in it: its memory is nobody else's as long as it, or a view of it, is held."""
        room = 1 << max(size - 1, 0).bit_length()
        spare = self._spare[room]
        try:
            piece = spare.pop()  # of which any thread may be the first
        except IndexError:
            piece = np.empty(room, np.uint8)
        # All views of an array over a memoryview hold that array, not what is below it.
        lent = np.frombuffer(piece.data, np.uint8, size)
        weakref.finalize(lent, spare.append, piece).atexit = False
        return lent


_ADVICE = "name a smaller range, or read it by the pipes, which hold some batches only"


def refused(rows: int, row_bytes: int) -> MemoryLimitError:
    """The error where the system itself has no room for so many rows."""
    return MemoryLimitError(
        f"wanted {rows} rows x {row_bytes} bytes = {rows * row_bytes} bytes in memory, found that the system grants "
        f"no more to this process; {_ADVICE}"
    )


def _physical(root: Path) -> Memory:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        found = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
        return Memory(found["MemTotal"], found["MemAvailable"])
    except (OSError, KeyError, ValueError, IndexError):  # not Linux
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return Memory(total, total)


def _groups(root: Path) -> Iterable[Memory]:
    """The control groups of this process that have a limit: its own, and those above it."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, files = root / "sys/fs/cgroup", _CGROUP_FILES[0]
        elif "memory" in controllers.split(","):
            mount, files = root / "sys/fs/cgroup/memory", _CGROUP_FILES[1]
        else:
            continue
        own = mount / path.lstrip("/")
        for group in [own, *own.parents]:
            if group.is_relative_to(mount) and (memory := _group(group, *files)):
                yield memory


def _group(group: Path, limit_file: str, usage_file: str, droppable: tuple[str, ...]) -> Memory | None:
    """One control group; None where it sets no limit, or is not to be seen from inside a container."""
    try:
        limit = int((group / limit_file).read_text())  # "max" where there is none
        used = int((group / usage_file).read_text())
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        free = limit - used + sum(int(statistics.get(name, 0)) for name in droppable)
        return Memory(limit, max(0, min(free, limit)))
    except (OSError, ValueError):
        return None
