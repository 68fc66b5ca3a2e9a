"""Reading ahead: a thread runs an iterator while its items are consumed, so many places ahead and no more. Pure."""

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
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
        changed: notified of every change, where several of these are waited for at once

    >>> list(Ahead(lambda closed: iter([1, 2, 3]), weigh=int, limit=3))
    [1, 2, 3]
    """

    def __init__(
        self,
        make: Make[Item],
        weigh: Callable[[Item], int],
        limit: int,
        changed: threading.Condition | None = None,
    ) -> None:
        self._queue: _Queue[Item] = _Queue(weigh, limit, changed or threading.Condition())
        self._pid = os.getpid()
        thread = threading.Thread(target=_fill, args=(self._queue, make), name="kafkapipes-ahead", daemon=True)
        # Also where nobody closes this, and at the end of the interpreter: a client is not to be torn down amid a call.
        self._thread = thread
        self.close = weakref.finalize(self, _end, self._queue, thread, self._pid, _END_S)
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

    @property
    def ready(self) -> bool:
        """Whether `next` would not wait."""
        return self._queue.filled

    def stop(self) -> None:
        """Let the thread end what it does, without waiting for that."""
        self._queue.stop()

    def end(self, wait_s: float) -> None:
        """Close this, but wait no longer than so many seconds for the thread to end."""
        if self.close.detach() is not None:
            _end(self._queue, self._thread, self._pid, wait_s)

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise KafkaPipesError(
                f"wanted to go on in process {os.getpid()}, but the read was begun in process {self._pid}, and no "
                "consumer survives a fork; begin a read in this process"
            )


def side_by_side(makes: Sequence[Make[Item]], limit: int) -> Iterator[Item]:
    """The items of several iterators, each made by a thread of its own, as they come.

    The very first one is that of the first iterator that has any, however long it takes: what is learned from it does
    not depend on chance.

    Args:
        makes: makes each iterator, as for `Ahead`
        limit: how many items of each may wait to be taken

    >>> list(side_by_side([lambda closed: iter([]), lambda closed: iter([1]), lambda closed: iter([2])], 1))
    [1, 2]
    """
    changed = threading.Condition()
    started = [Ahead(make, lambda item: 1, limit, changed) for make in makes]
    try:
        running, begun = list(started), False
        while running:
            asked = running if begun else running[:1]
            with changed:
                changed.wait_for(partial(_any_ready, asked), _LOOK_S)
            for ahead in [ahead for ahead in asked if ahead.ready]:
                for item in ahead:
                    yield item
                    begun = True
                    break
                else:
                    running.remove(ahead)
    finally:
        end_all(started)


def end_all(several: Sequence[Ahead[Item]]) -> None:
    """Close several at once: all of them together have the time that one has to end."""
    for ahead in several:
        ahead.stop()
    deadline = time.monotonic() + _END_S
    for ahead in several:
        ahead.end(deadline - time.monotonic())


def _any_ready(several: list[Ahead[Item]]) -> bool:
    return any(ahead.ready for ahead in several)


class _Queue(Generic[Item]):
    """What lies between the thread and its consumer."""

    def __init__(self, weigh: Callable[[Item], int], limit: int, changed: threading.Condition) -> None:
        self._weigh = weigh
        self._limit = limit
        self._weight = 0
        self._items: deque[Item] = deque()
        self._changed = changed
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
            return self._changed.wait_for(lambda: self.filled, timeout_s)

    @property
    def filled(self) -> bool:
        """Whether there is an item, or the end of the thread."""
        return bool(self._items) or self._end is not None

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


def _end(queue: _Queue[Item], thread: threading.Thread, pid: int, wait_s: float) -> None:
    if os.getpid() == pid:
        queue.stop()
        thread.join(max(0.0, wait_s))
