"""Reading side by side: several threads do works that are in an order, and what comes of them keeps it. Pure.

Where each work begins with a wait, as a read from another place of a log does, one thread's wait is the others' time.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from kafkapipes.ahead import Ahead, end_all

Work = TypeVar("Work")
Item = TypeVar("Item")


class Abreast(Generic[Work, Item]):
    """The items of works, work after work, that threads make ahead: each does every n-th work.

    Args:
        make: makes, in a thread of its own, the items of the works that it is given, and None behind those of each
        works: the works, each thread's; they are asked for in the threads
        weigh: what an item counts
        limit: as long as the items of a thread that wait to be taken count less, it makes another one

    >>> def letters(works):
    ...     for work in works:
    ...         yield from [*work, None]
    >>> abreast = Abreast(letters, [iter(["ab", "ef"]), iter(["cd"])], weigh=len, limit=1)
    >>> [list(abreast.following()) for _ in range(3)]
    [['a', 'b'], ['c', 'd'], ['e', 'f']]
    """

    def __init__(
        self,
        make: Callable[[Iterator[Work]], Iterator[Item | None]],
        works: Iterable[Iterator[Work]],
        weigh: Callable[[Item], int],
        limit: int,
    ) -> None:
        self._threads = [
            Ahead(
                lambda closed, own=own: make(own),  # type: ignore[misc]  # bound here, for each thread its own
                lambda item: 0 if item is None else weigh(item),
                limit,
            )
            for own in works
        ]
        self._done = 0  # works

    def following(self) -> Iterator[Item]:
        """The items of the next work."""
        thread = self._threads[self._done % len(self._threads)]
        self._done += 1
        for item in thread:
            if item is None:
                return
            yield item

    def finish(self) -> None:
        """Wait for the threads, which have no work left; raises what has ended one."""
        for thread in self._threads:
            for _ in thread:
                pass

    def close(self) -> None:
        """End the threads."""
        end_all(self._threads)


class Shared(Generic[Item]):
    """An iterator for several threads: each sees all items, which the one makes that comes first.

    >>> shared = Shared(iter("ab"), 2)
    >>> list(shared.taken_by(0)), list(shared.taken_by(1))
    (['a', 'b'], ['a', 'b'])
    """

    def __init__(self, items: Iterator[Item], takers: int) -> None:
        self._items = items
        self._waiting: list[deque[Item]] = [deque() for _ in range(takers)]
        self._lock = threading.Lock()

    def taken_by(self, taker: int) -> Iterator[Item]:
        """The items, for one of the takers."""
        own = self._waiting[taker]
        while True:
            with self._lock:
                if not own:
                    for item in self._items:
                        for waiting in self._waiting:
                            waiting.append(item)
                        break
                    else:
                        return
                item = own.popleft()
            yield item
