"""Several threads side by side: what comes, in which order, and how they end."""

import threading
import time

import pytest

from kafkapipes.abreast import Abreast, Shared
from kafkapipes.errors import KafkaPipesError


def begun(works, threads=3, limit=1, make=None):
    """Threads that give each number so many times as it says."""

    def times(own):
        for work in own:
            yield from [work] * work
            yield None

    return Abreast(make or times, [iter(works[number::threads]) for number in range(threads)], lambda item: 1, limit)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("limit", [1, 100])
def test_items_come_work_after_work_whoever_makes_them(threads, limit):
    works = [3, 0, 1, 5, 2, 0, 0, 4]
    abreast = begun(works, threads, limit)

    assert [len(list(abreast.following())) for _ in works] == works
    abreast.finish()
    abreast.close()


def test_works_are_done_at_once_by_as_many_as_there_are():
    together = threading.Barrier(3, timeout=10)

    def meet(own):
        for work in own:
            together.wait()
            yield work
            yield None

    abreast = begun([1, 2, 3], make=meet)

    assert [list(abreast.following()) for _ in range(3)] == [[1], [2], [3]]
    abreast.close()


def test_an_error_comes_in_its_turn():
    def broken(own):
        for work in own:
            if work == 2:
                raise KafkaPipesError("broken at t:0@2")
            yield work
            yield None

    abreast = begun([0, 1, 2, 3], threads=2, make=broken)

    assert [list(abreast.following()) for _ in range(2)] == [[0], [1]]
    with pytest.raises(KafkaPipesError, match="broken at t:0@2"):
        list(abreast.following())
    abreast.close()


def test_an_error_behind_the_last_work_is_raised_at_the_end():
    def unconfirmed(own):
        for _ in own:
            yield None
        raise KafkaPipesError("not confirmed")

    abreast = begun([1], threads=1, make=unconfirmed)
    assert list(abreast.following()) == []
    with pytest.raises(KafkaPipesError, match="not confirmed"):
        abreast.finish()
    abreast.close()


def test_threads_that_are_ahead_end_when_this_is_closed():
    ended = threading.Semaphore(0)

    def endless(own):
        try:
            for work in own:
                while True:
                    yield work
        finally:
            ended.release()

    abreast = begun([1, 2, 3], make=endless)
    next(abreast.following())
    abreast.close()

    assert all(ended.acquire(timeout=5) for _ in range(3))


def test_each_of_several_threads_sees_all_items_and_each_is_made_once():
    made = []

    def slowly():
        for number in range(50):
            made.append(number)
            time.sleep(0.001)
            yield number

    shared, seen = Shared(slowly(), 4), [[], [], [], []]
    threads = [
        threading.Thread(target=lambda own=own, number=number: own.extend(shared.taken_by(number)))
        for number, own in enumerate(seen)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert made == list(range(50))
    assert seen == [made] * 4
