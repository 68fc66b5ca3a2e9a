"""Who reads which place when: by arithmetic alone, for any number of workers and ranks."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kafkapipes.blocks import LANES, Blocks, Cut, Order, Piece, Places, Share, shuffled
from kafkapipes.errors import ConfigError
from kafkapipes.ranges import OffsetRange, parse_ranges

patient = settings(deadline=None)  # the machine may be busy
counts = st.integers(0, 200)
worlds = st.integers(1, 4)
workers = st.integers(1, 5)
NEITHER = st.none()
equal = st.sampled_from([None, "drop", "pad"])


@st.composite
def orders(draw, equal_ranks=NEITHER):
    return Order(
        block=draw(st.integers(1, 50)),
        batch=draw(st.none() | st.integers(1, 30)),
        window=draw(st.integers(1, 6)),
        seed=draw(st.none() | st.integers(0, 2**63 - 1)),
        equal_ranks=draw(equal_ranks),
    )


def items_of(order, course, share, epoch=0, done=0):
    """The items of one worker, each a list of places, by way of the windows in the order in which they are read."""
    deal = order.deal(course, epoch, share)
    found = {}
    for window in flat(deal.cycles(share.worker, share.workers, done)):
        places = deal.places(window).tolist()
        for number in deal.own(window, share.worker, share.workers, done).tolist():
            begin, end = deal.bounds(window, number)
            found[number] = places[begin:end]
    assert list(found) == sorted(found) or deal.lanes > 1
    return [found[number] for number in sorted(found)]


def in_turn(queues):
    """What a DataLoader makes of the items of several workers."""
    queues = [list(queue) for queue in queues]
    found = []
    while any(queues):
        found += [queue.pop(0) for queue in queues if queue]
    return found


def epoch_of(order, total, world=1, workers=1, epoch=0, cuts=()):
    """The items of each rank, in the order in which its loader hands them out."""
    course = order.course(total, epoch, cuts)
    return [
        in_turn([items_of(order, course, Share(rank, world, worker, workers), epoch) for worker in range(workers)])
        for rank in range(world)
    ]


def flat(nested):
    return [place for item in nested for place in item]


@patient
@given(orders(), counts, worlds, workers)
def test_every_place_comes_once_whatever_the_blocks_workers_and_ranks(order, total, world, workers):
    ranks = epoch_of(order, total, world, workers)

    assert sorted(flat(flat(ranks))) == list(range(total))


@patient
@given(orders(), counts, worlds, workers)
def test_batches_come_in_the_same_sequence_for_any_number_of_workers(order, total, world, workers):
    order = Order(order.block, order.batch or 7, order.window, order.seed)

    assert epoch_of(order, total, world, workers) == epoch_of(order, total, world, 1)


@patient
@given(orders(), counts, worlds)
def test_without_a_shuffle_the_places_come_in_their_order(order, total, world):
    order = Order(order.block, order.batch, order.window, None)

    assert flat(flat(epoch_of(order, total, world))) == list(range(total))


@patient
@given(orders(), st.integers(1, 400), worlds, workers)
def test_all_batches_but_a_ranks_last_are_full(order, total, world, workers):
    order = Order(order.block, 7, order.window, order.seed)

    for rank in epoch_of(order, total, world, workers):
        assert {len(item) for item in rank[:-1]} <= {7}
        assert all(0 < len(item) <= 7 for item in rank)


@patient
@given(orders(equal), counts, worlds, workers)
def test_equal_ranks_have_as_many_places_in_as_many_items(order, total, world, workers):
    ranks = epoch_of(order, total, world, workers)

    sizes = [[len(item) for item in rank] for rank in ranks]
    if order.equal_ranks:
        assert all(rank == sizes[0] for rank in sizes)
    if order.equal_ranks == "drop":
        assert len(flat(flat(ranks))) == total // world * world
        assert max(Counter(flat(flat(ranks))).values(), default=1) == 1
    if order.equal_ranks == "pad":
        assert set(flat(flat(ranks))) == set(range(total))
        assert len(flat(flat(ranks))) == -(-total // world) * world


@patient
@given(st.data(), orders(equal), counts, st.lists(st.tuples(worlds, workers), min_size=3, max_size=3))
def test_another_number_of_workers_and_ranks_goes_on_with_what_is_left(data, order, total, topologies):
    """Stopped twice at any moment, also where workers are not equally far: nothing is lost, nothing comes twice."""
    seen, cuts = [], ()
    for world, workers in topologies[:2]:
        course, done = order.course(total, 3, cuts), []
        for rank in range(world):
            queues = [items_of(order, course, Share(rank, world, worker, workers), 3) for worker in range(workers)]
            done.append(tuple(data.draw(st.integers(0, len(queue))) for queue in queues))
            seen += [queue[: done[-1][worker]] for worker, queue in enumerate(queues)]
        cuts = (*cuts, Cut(tuple(done)))
    rest = flat(flat(epoch_of(order, total, *topologies[2], 3, cuts)))

    delivered = flat(flat(seen)) + rest
    repeated, missing = len(delivered) - len(set(delivered)), total - len(set(delivered))
    assert missing == 0 or (order.equal_ranks == "drop" and missing < topologies[2][0])
    assert repeated == 0 or order.equal_ranks == "pad"


@patient
@given(orders(), counts, worlds, workers, st.data())
def test_a_worker_goes_on_behind_what_it_has_handed_out(order, total, world, workers, data):
    share = Share(data.draw(st.integers(0, world - 1)), world, data.draw(st.integers(0, workers - 1)), workers)
    course = order.course(total, 0)
    whole = items_of(order, course, share)
    done = data.draw(st.integers(0, len(whole)))

    assert items_of(order, course, share, done=done) == whole[done:]


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("batch", [None, 8])
def test_workers_that_divide_the_lanes_have_windows_of_their_own(workers, batch):
    order = Order(block=16, batch=batch, window=4, seed=0)
    course = order.course(5000, 0)
    deal = order.deal(course, 0, Share(0, 1, 0, workers))
    windows = [flat(deal.cycles(worker, workers)) for worker in range(workers)]

    taken = flat(windows)
    assert len(taken) == len(set(taken))
    assert sum(window.size for window in taken) == 5000


@patient
@given(st.integers(1, 3), st.integers(1, 400))
def test_any_number_of_workers_shares_samples_and_ordered_batches_without_a_window_read_twice(window, total):
    for order in (Order(16, None, window, 5), Order(16, None, window, None), Order(16, 4, window, None)):
        deal = order.deal(order.course(total, 0), 0, Share(0, 1, 0, 5))
        taken = [window for worker in range(5) for window in flat(deal.cycles(worker, 5))]

        assert sum(window.size for window in taken) == total


@patient
@given(st.integers(0, 3000), st.integers(0, 2**64), st.integers(0, 100))
def test_the_shuffle_is_a_permutation_that_the_key_alone_decides(count, seed, epoch):
    order = shuffled(count, seed, epoch)

    assert sorted(order.tolist()) == list(range(count))
    assert (order == shuffled(count, seed, epoch)).all()


@patient
@given(
    st.integers(1, 200), st.integers(1, 50), st.none() | st.integers(0, 9), st.none() | st.integers(1, 200), st.data()
)
def test_the_places_at_positions_lie_together_in_the_blocks_stretches(total, block, seed, most, data):
    blocks = Blocks(total, block, None if seed is None else (seed, 0), most)
    start = data.draw(st.integers(0, blocks.total - 1))
    stop = data.draw(st.integers(start + 1, blocks.total))
    stretches = blocks.stretches(start, stop).tolist()

    assert flat(range(*stretch) for stretch in stretches) == blocks.at(np.arange(start, stop)).tolist()
    assert len(stretches) <= (stop - start) // block + 3


def test_the_shuffle_is_the_same_on_every_machine_for_ever():
    """A checkpoint is good for as long as its records are."""
    assert shuffled(10).tolist() == [2, 4, 6, 8, 5, 1, 7, 0, 9, 3]
    assert shuffled(10, 7, 3).tolist() == [7, 2, 0, 9, 5, 3, 4, 8, 6, 1]


def test_each_number_is_as_likely_at_each_place():
    found = np.array([shuffled(8, seed) for seed in range(8000)])

    counted = np.array([np.bincount(column, minlength=8) for column in found.T])
    assert abs(counted - 1000).max() < 150  # five standard deviations


def test_neighbouring_seeds_and_epochs_have_nothing_in_common():
    orders = [shuffled(1000, seed, epoch) for seed in range(5) for epoch in range(5)]

    same = [int((one == other).sum()) for place, one in enumerate(orders) for other in orders[:place]]
    assert max(same) < 10  # of 1000, where 1 is expected


def test_epochs_shuffle_blocks_and_windows_anew():
    order = Order(block=10, batch=5, window=2, seed=0)
    first, second = [flat(flat(epoch_of(order, 1000, epoch=epoch))) for epoch in (0, 1)]

    assert first != second
    assert sorted(first) == sorted(second) == list(range(1000))


def test_a_batch_mixes_the_blocks_of_its_window():
    order = Order(block=10, batch=20, window=8, seed=0)
    (batches,) = epoch_of(order, 10 * 8 * LANES * 5)

    blocks = [len({place // 10 for place in batch}) for batch in batches]
    assert min(blocks) >= 5


def test_places_are_the_offsets_of_ranges_end_to_end():
    places = Places(parse_ranges("t:0:100:107,t:1:3:3,t:1:5:10"))

    assert places.total == 12
    assert list(places.pieces(5, 9)) == [Piece(0, 105, 107), Piece(2, 5, 7)]
    assert list(places.pieces(3, 3)) == []
    assert places.of(2, np.array([5, 9])).tolist() == [7, 11]
    assert [found.tolist() for found in places.at(np.array([11, 0, 6, 7]))] == [[2, 0, 0, 2], [9, 100, 106, 5]]


@patient
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), max_size=6), st.data())
def test_pieces_and_places_are_inverses(bounds, data):
    ranges = [OffsetRange("t", number, start, start + size) for number, (start, size) in enumerate(bounds)]
    places = Places(ranges)
    start = data.draw(st.integers(0, places.total))
    stop = data.draw(st.integers(start, places.total))

    found = [
        places.of(piece.source, np.arange(piece.start, piece.end)).tolist() for piece in places.pieces(start, stop)
    ]
    assert flat(found) == list(range(start, stop))


def test_a_place_may_be_any_offset_that_kafka_has():
    places = Places([OffsetRange("t", 0, 2**63 - 3, 2**63 - 1), OffsetRange("t", 1, 0, 5)])

    assert list(places.pieces(1, 4)) == [Piece(0, 2**63 - 2, 2**63 - 1), Piece(1, 0, 2)]


def test_a_huge_range_costs_nothing_before_it_is_read():
    order = Order(block=4096, batch=256, window=8, seed=None)
    deal = order.deal(order.course(10**15, 0), 0, Share(1, 3, 2, 4))

    ((window,), *_) = [next(deal.cycles(2, 4, done=10**11))]
    assert window.first == 2 + 4 * 10**11
    assert deal.places(window)[0] == 10**15 // 3 + window.first * 256


def test_more_blocks_than_can_be_shuffled_are_refused_with_the_way_out():
    with pytest.raises(ConfigError, match="raise block_records"):
        Blocks(10**12, 1000, key=(0,))


def test_nothing_is_dealt_from_nothing():
    for equal_ranks in (None, "drop", "pad"):
        order = Order(4, 2, 2, 0, equal_ranks)

        assert epoch_of(order, 0, world=2, workers=2) == [[], []]
