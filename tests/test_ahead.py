import gc
import os
import subprocess
import sys
import threading
import time

import pytest

from kafkapipes.ahead import Ahead, side_by_side
from kafkapipes.errors import KafkaPipesError


class Source:
    """An iterator that notes what is asked of it, in which thread, and whether it was closed."""

    def __init__(self, count=10**9, raises=None):
        self.made, self.closed_in, self.threads = 0, None, set()
        self._count, self._raises = count, raises

    def items(self, closed):
        try:
            for number in range(self._count):
                self.made += 1
                self.threads.add(threading.current_thread().name)
                yield number
            if self._raises is not None:
                raise self._raises
        finally:
            self.closed_in = threading.current_thread().name


def ahead(source, limit=1):
    return Ahead(source.items, weigh=lambda item: 1, limit=limit)


def settled(value, timeout_s=5.0):
    """A value once it no longer changes."""
    before, deadline = None, time.monotonic() + timeout_s
    while (now := value()) != before and time.monotonic() < deadline:
        before = now
        time.sleep(0.1)
    return now


def test_items_come_in_order_and_then_the_end_again_and_again():
    items = ahead(Source(count=5))

    assert list(items) == [0, 1, 2, 3, 4]
    with pytest.raises(StopIteration):
        next(items)


def test_no_more_is_made_ahead_than_the_limit():
    source = Source()
    items = ahead(source, limit=3)

    assert settled(lambda: source.made) == 3
    assert [next(items), next(items)] == [0, 1]
    assert settled(lambda: source.made) == 5
    items.close()


def test_one_item_is_made_however_much_it_weighs():
    source = Source()
    items = Ahead(source.items, weigh=lambda item: 100, limit=1)

    assert settled(lambda: source.made) == 1
    assert next(items) == 0
    items.close()


def test_an_error_comes_behind_the_items_before_it():
    items = ahead(Source(count=2, raises=KafkaPipesError("broken at t:0@2")), limit=9)

    assert [next(items), next(items)] == [0, 1]
    for _ in range(2):
        with pytest.raises(KafkaPipesError, match="broken at t:0@2"):
            next(items)


def test_an_error_in_making_the_iterator_is_an_error_of_the_first_item():
    with pytest.raises(ZeroDivisionError):
        next(Ahead(lambda closed: 1 // 0, weigh=int, limit=1))


def test_the_source_is_used_and_closed_in_the_thread_alone():
    source = Source()
    items = ahead(source)
    next(items)
    items.close()

    assert source.threads == {"kafkapipes-ahead"}
    assert source.closed_in == "kafkapipes-ahead"


def test_what_nobody_refers_to_any_more_ends():
    source = Source()
    items = ahead(source)
    next(items)
    del items
    gc.collect()

    assert source.closed_in == "kafkapipes-ahead"


def test_an_item_is_waited_for_as_long_as_one_likes():
    may_go_on = threading.Event()
    items = Ahead(lambda closed: (may_go_on.wait() and number for number in (1, 2)), weigh=lambda item: 1, limit=1)

    assert items.poll(0.01) is None
    may_go_on.set()
    assert [items.poll(5), items.poll(5)] == [1, 2]
    with pytest.raises(StopIteration):
        items.poll(5)


def test_an_iterator_that_waits_by_itself_is_told_when_it_is_closed():
    waiting = []

    def wait(closed):
        while not closed():
            waiting.append(1)
            time.sleep(0.01)
        yield from ()

    items = Ahead(wait, weigh=lambda item: 1, limit=1)
    while not waiting:
        time.sleep(0.01)
    items.close()

    assert settled(lambda: len(waiting)) == len(waiting)


def test_closing_twice_does_no_harm():
    items = ahead(Source())
    items.close()
    items.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_that_would_wait_for_a_thread_it_does_not_have_is_told():
    items = ahead(Source())
    next(items)
    reading, writing = os.pipe()
    if os.fork() == 0:
        try:
            next(items)
        except KafkaPipesError as exc:
            os.write(writing, str(exc).encode())
        os._exit(0)
    os.close(writing)

    assert b"no consumer survives a fork" in os.read(reading, 1000)
    assert next(items) == 1
    items.close()


@pytest.mark.parametrize("blocked", [False, True])
def test_the_interpreter_ends_in_time_with_its_own_exit_code(blocked):
    """Also while the thread is amid a call that does not end."""
    code = (
        "import time\nfrom kafkapipes.ahead import Ahead\n"
        f"wait = lambda: time.sleep({60 if blocked else 0}) or 1\n"
        "items = Ahead(lambda closed: iter(wait, None), weigh=int, limit=1)\n"
        + ("time.sleep(0.1)" if blocked else "next(items)")
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - began < 15  # of which the imports take most


def test_items_side_by_side_come_each_once_and_each_iterators_in_order():
    sources = [Source(count=count) for count in (50, 0, 7, 200)]

    def tagged(number):
        return lambda closed: ((number, item) for item in sources[number].items(closed))

    items = list(side_by_side([tagged(number) for number in range(4)], 2))

    for number, count in enumerate((50, 0, 7, 200)):
        assert [item for tag, item in items if tag == number] == list(range(count))
    assert all(source.closed_in == "kafkapipes-ahead" for source in sources)


def test_the_first_item_side_by_side_is_that_of_the_first_iterator_that_has_one():
    go_on = threading.Event()

    def slowly_nothing(closed):
        go_on.wait(5)
        yield from ()

    def slowly(closed):
        go_on.wait(5)
        time.sleep(0.05)
        yield "second"

    items = side_by_side([slowly_nothing, slowly, lambda closed: iter(["third"] * 3)], 1)
    threading.Timer(0.1, go_on.set).start()

    assert next(items) == "second"
    assert list(items) == ["third"] * 3


def test_an_error_side_by_side_reaches_the_caller_and_ends_the_others():
    sources = [Source(), Source(count=3, raises=ValueError("broken")), Source()]

    with pytest.raises(ValueError, match="broken"):
        for _ in side_by_side([source.items for source in sources], 1):
            pass

    assert all(source.closed_in for source in sources)


def test_side_by_side_no_more_waits_to_be_taken_than_the_limit_of_each():
    sources = [Source(), Source()]
    items = side_by_side([source.items for source in sources], 3)
    next(items)

    assert settled(lambda: sum(source.made for source in sources)) == 7
    items.close()


def test_who_closes_side_by_side_does_not_wait_for_each_in_turn():
    def hang(closed):
        yield 0
        time.sleep(60)

    items = side_by_side([hang] * 3, 1)
    next(items)
    began = time.monotonic()
    items.close()

    assert time.monotonic() - began < 5
