"""Reading ahead: a thread runs an iterator while its items are consumed, so many places ahead and no more. Pure."""

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from kafkapipes.errors import KafkaPipesError

Item = TypeVar("Item")
Make = Callable[[Callable[[], bool]], Iterator[Item]]
_END_S = 2.0  # in which the thread ends what it does, or is left behind: it is a daemon
_LOOK_S = 1.0  # Ctrl-C is seen between two waits


class Ahead(Generic[Item]):
    """An iterator over the items of another one, which a thread of its own makes ahead of time.

    Whatever the other one opens, it opens, uses and closes in that thread.

    Args:
        make: makes the iterator; called with what tells whether this was closed, for one that waits by itself
        weigh: what an item counts
        limit: as long as the items that wait to be taken count less, another one is made

    >>> list(Ahead(lambda closed: iter([1, 2, 3]), weigh=int, limit=3))
    [1, 2, 3]
    """

    def __init__(self, make: Make[Item], weigh: Callable[[Item], int], limit: int) -> None:
        self._queue: _Queue[Item] = _Queue(weigh, limit)
        self._pid = os.getpid()
        thread = threading.Thread(target=_fill, args=(self._queue, make), name="kafkapipes-ahead", daemon=True)
        # Also where nobody closes this, and at the end of the interpreter: a client is not to be torn down amid a call.
        self.close = weakref.finalize(self, _end, self._queue, thread, self._pid)
        thread.start()

    def __iter__(self) -> "Ahead[Item]":
        return self

    def __next__(self) -> Item:
        self._check_process()
        while not self._queue.ready(_LOOK_S):
            pass
        return self._queue.take()

    def poll(self, timeout_s: float) -> Item | None:
        """The next item; None where none has come in time."""
        self._check_process()
        return self._queue.take() if self._queue.ready(timeout_s) else None

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise KafkaPipesError(
                f"wanted to go on in process {os.getpid()}, but the read was begun in process {self._pid}, and no "
                "consumer survives a fork; begin a read in this process"
            )


class _Queue(Generic[Item]):
    """What lies between the thread and its consumer."""

    def __init__(self, weigh: Callable[[Item], int], limit: int) -> None:
        self._weigh = weigh
        self._limit = limit
        self._weight = 0
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._end: BaseException | None = None
        self.stopped = False

    def wait(self) -> None:
        """Return once another item is wanted."""
        with self._changed:
            while self._weight >= self._limit and not self.stopped:
                self._changed.wait()

    def put(self, item: Item) -> None:
        """Add an item."""
        with self._changed:
            self._items.append(item)
            self._weight += self._weigh(item)
            self._changed.notify_all()

    def ready(self, timeout_s: float) -> bool:
        """Whether there is an item, or the end of the thread, within a time."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._items) or self._end is not None, timeout_s)

    def take(self) -> Item:
        """The next item; raises what has ended the thread."""
        with self._changed:
            if not self._items:
                assert self._end is not None
                raise self._end
            item = self._items.popleft()
            self._weight -= self._weigh(item)
            self._changed.notify_all()
            return item

    def finish(self, end: BaseException) -> None:
        """Note how the thread ended."""
        with self._changed:
            self._end = end
            self._changed.notify_all()

    def stop(self) -> None:
        """Let the thread end at its next item."""
        with self._changed:
            self.stopped = True
            self._items.clear()
            self._changed.notify_all()


def _fill(queue: _Queue[Item], make: Make[Item]) -> None:
    end: BaseException = StopIteration()
    try:
        items = make(lambda: queue.stopped)
        for item in items:
            queue.put(item)
            del item  # the consumer's alone
            queue.wait()
            if queue.stopped:
                break
        del items  # which closes it, in this thread
    except BaseException as exc:  # whatever it is, the consumer raises it
        end = exc
    queue.finish(end)


def _end(queue: _Queue[Item], thread: threading.Thread, pid: int) -> None:
    if os.getpid() == pid:
        queue.stop()
        thread.join(_END_S)
