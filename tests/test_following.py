from hypothesis import given, settings
from hypothesis import strategies as st

from kafkapipes.blocks import Share
from kafkapipes.following import Followed, Stripes, passed, together

KEY = ("t", 3)


def offsets(spans):
    return [offset for start, end in spans for offset in range(start, end)]


def shares(world, workers):
    return [Share(rank, world, worker, workers) for rank in range(world) for worker in range(workers)]


topologies = st.tuples(st.integers(1, 3), st.integers(1, 3))
taken = st.lists(st.tuples(st.integers(0, 90), st.integers(1, 9)), max_size=4).map(
    lambda pairs: [(start, start + size) for start, size in sorted(pairs)]
)


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 3), st.integers(1, 3), st.integers(0, 60), st.integers(0, 60), taken)
def test_each_offset_that_was_not_taken_is_one_readers(size, world, workers, start, length, taken):
    found = [
        offset
        for share in shares(world, workers)
        for offset in offsets(Stripes(size, share).own(KEY[1], start, start + length, taken))
    ]

    assert sorted(found) == [offset for offset in range(start, start + length) if offset not in offsets(taken)]


def test_the_first_stripes_of_partitions_are_those_of_different_readers():
    owners = [
        share.worker for partition in range(4) for share in shares(1, 4) if list(Stripes(5, share).own(partition, 0, 5))
    ]

    assert sorted(owners) == [0, 1, 2, 3]


@settings(deadline=None)
@given(st.data(), st.integers(1, 10), st.integers(0, 30), st.lists(topologies, min_size=3, max_size=3))
def test_other_readers_go_on_with_what_all_have_left(data, size, start, topologies):
    """Twice another number of readers, each anywhere; the first may not have met the partition yet."""
    end, delivered, whole = start + 60, [], None
    for topology in topologies[:2]:
        readers, begun = {}, whole or Followed(start, start)
        for share in shares(*topology):
            if whole is None and data.draw(st.booleans()):
                readers[share] = {}
                continue
            position = data.draw(st.integers(begun.position, end))
            delivered += offsets(Stripes(size, share).own(KEY[1], begun.position, position, begun.taken))
            readers[share] = {KEY: passed(begun, position, 0)}
        whole = together(readers, size).get(KEY)
    whole = whole or Followed(start, start)
    for share in shares(*topologies[2]):
        delivered += offsets(Stripes(size, share).own(KEY[1], whole.position, end, whole.taken))

    assert sorted(delivered) == list(range(start, end))


def test_what_one_reader_has_passed_is_told_no_more():
    followed = Followed(0, 5, 1, ((10, 20), (30, 40)))

    assert passed(followed, 25, 2) == Followed(0, 25, 2, ((30, 40),))


def test_one_reader_owns_all():
    assert list(Stripes(10, Share()).own(0, 5, 45)) == [(5, 45)]
    assert list(Stripes(10, Share()).own(0, 5, 5)) == []
