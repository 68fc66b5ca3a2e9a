"""What is fetched for the items of a worker, and what comes out of it."""

import time
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kafkapipes.blocks import Cut, Order, Places, Share
from kafkapipes.dead_letters import RecordPolicies
from kafkapipes.decoding import Decoding
from kafkapipes.errors import DecodeError
from kafkapipes.formats.raw import RawDecoder, element_type
from kafkapipes.ranges import OffsetRange, format_ranges
from kafkapipes.records import BytesColumn, RecordBatch
from kafkapipes.report import RangeReport, ReadReport
from kafkapipes.windows import WindowReader

NUMBERS = Decoding(RawDecoder(element_type("int64"), None), None, None, RecordPolicies())
DECLARED = Decoding(RawDecoder(element_type("int64", 1), None), None, None, RecordPolicies())


class Log:
    """Stands in for a `Fetcher`: the value of a record is its place. It notes what it is asked for."""

    def __init__(self, ranges, gaps=(), batch=7, values=None):
        self.fetched, self.opened, self.confirmed = [], 0, 0
        self._ranges, self._places, self._gaps, self._batch = ranges, Places(ranges), set(gaps), batch
        self._values = values or (lambda place: np.int64(place).tobytes())

    @contextmanager
    def connect(self, destination):
        self.opened += 1
        yield Connection(self, destination)

    def records(self, account, destination):
        self.fetched.append(account.range)
        source = next(
            number
            for number, item in enumerate(self._ranges)
            if (item.topic, item.partition) == (account.range.topic, account.range.partition)
            and item.start <= account.range.start <= account.range.end <= item.end
        )
        offsets = np.arange(account.range.start, account.range.end)
        places = self._places.of(source, offsets)
        there = np.array([place not in self._gaps for place in places], bool)
        offsets, places = offsets[there], places[there]
        for first in range(0, len(offsets), self._batch):
            rows = slice(first, first + self._batch)
            values = laid(BytesColumn.from_list([self._values(place) for place in places[rows]]), destination)
            account.received += len(offsets[rows])
            destination.came(len(offsets[rows]))
            yield RecordBatch(offsets[rows], BytesColumn.from_list([None] * len(values)), values, account)
        account.finished = True


class Connection:
    def __init__(self, log, destination):
        self._log, self._destination = log, destination

    def confirm(self):
        self._log.confirmed += 1

    def fetch(self, account):
        return self._log.records(account, self._destination)


def laid(column, destination):
    """The column, as a client lays it where there is room."""
    room = destination.room_for_values(len(column), int(column.lengths[0]))
    if room is None or (column.lengths != column.lengths[0]).any():
        return column
    room[:] = column.buffer
    return BytesColumn(room, column.lengths)


def reader(log, ranges, order, share=None, cuts=(), decoding=NUMBERS, readers=1, stretch=0):
    share, places = share or Share(), Places(ranges)
    deal = order.deal(order.course(places.total, 0, cuts), 0, share)
    accounts = ReadReport(RangeReport(item, item.start, item.end) for item in ranges)
    return WindowReader(log.connect, accounts, places, deal, share, decoding, readers, stretch), accounts, deal


def items_of(made, done=0):
    items = []
    for cycle in made.read(done):
        for taken in cycle:
            items.append([] if taken is None else taken[0][:, 0].tolist())
            assert taken is None or cycle.places[taken[2]].tolist() == items[-1]
    return items


def expected(deal, share, gaps, done=0):
    """The items by arithmetic alone."""
    found = {}
    for cycle in deal.cycles(share.worker, share.workers, done):
        for window in cycle:
            for number in deal.own(window, share.worker, share.workers, done).tolist():
                begin, end = deal.bounds(window, number)
                found[number] = [place for place in deal.places(window)[begin:end].tolist() if place not in gaps]
    return [found[number] for number in sorted(found)]


RANGES = [OffsetRange("t", 0, 100, 160), OffsetRange("t", 1, 5, 5), OffsetRange("u", 0, 0, 40)]


@settings(deadline=None)
@given(
    st.builds(
        Order,
        block=st.integers(1, 30),
        batch=st.none() | st.integers(1, 20),
        window=st.integers(1, 3),
        seed=st.none() | st.integers(0, 9),
        equal_ranks=st.sampled_from([None, "drop", "pad"]),
    ),
    st.builds(Share, st.integers(0, 1), st.just(2), st.integers(0, 2), st.just(3)) | st.just(Share()),
    st.sets(st.integers(0, 99)),
    st.integers(1, 60),
    st.integers(0, 12),
    st.booleans(),
    st.sampled_from([1, 1, 2, 3]),
    st.sampled_from([0, 1, 25]),
    st.sampled_from([NUMBERS, DECLARED]),
)
def test_each_item_holds_the_records_of_its_places_in_their_order(
    order, share, gaps, batch, done, cut, readers, stretch, decoding
):
    cuts = (Cut(((3, 2), (1, 0))),) if cut else ()
    made, _, deal = reader(Log(RANGES, gaps, batch), RANGES, order, share, cuts, decoding, readers, stretch)

    assert items_of(made, done) == expected(deal, share, gaps, done)


def test_one_reader_of_the_ranges_in_their_order_fetches_each_range_in_one_go():
    log = Log(RANGES)
    made, accounts, _ = reader(log, RANGES, Order(block=10, batch=4, window=1, seed=None))
    items_of(made)

    assert format_ranges(log.fetched) == "t:0:100:160,u:0:0:40"
    assert (log.opened, log.confirmed) == (1, 1)
    assert [account.finished for account in accounts] == [True, False, True]


def test_several_readers_of_the_ranges_in_their_order_fetch_stretch_after_stretch():
    log = Log(RANGES)
    made, accounts, _ = reader(log, RANGES, Order(10, 4, 1, None), readers=3, stretch=30)
    items_of(made)

    assert sorted(map(str, log.fetched)) == ["t:0:100:128", "t:0:128:156", "t:0:156:160", "u:0:0:24", "u:0:24:40"]
    assert (log.opened, log.confirmed) == (3, 3)
    assert [account.delivered for account in accounts] == [60, 0, 40]


@pytest.mark.parametrize("share", [Share(0, 1, 1, 2), Share(1, 3)])
@pytest.mark.parametrize("stretch", [0, 200])
def test_one_reader_goes_alone_where_there_is_no_stretch_or_only_one(share, stretch):
    log = Log(RANGES)
    items_of(reader(log, RANGES, Order(10, 4, 1, None), share, readers=3, stretch=stretch)[0])

    assert log.opened == 1


def test_readers_in_order_are_no_further_ahead_than_their_stretches():
    ranges = [OffsetRange("t", 0, 0, 100_000)]
    log = Log(ranges, batch=100)
    cycles = reader(log, ranges, Order(100, 50, 1, None), readers=2, stretch=400)[0].read(0)
    next(cycles)
    time.sleep(0.2)  # in which they would go on

    assert max(item.end for item in log.fetched) <= 400 * (1 + 2 * 2)


@pytest.mark.parametrize("done", [0, 3, 24])
def test_a_reader_that_goes_on_fetches_from_its_place_and_nothing_before(done):
    log = Log(RANGES)
    made, _, _ = reader(log, RANGES, Order(block=10, batch=4, window=1, seed=None))
    items_of(made, done)

    first = log.fetched[0]
    assert (first.topic, first.start) == (("t", 100 + 4 * done) if done < 15 else ("u", 36))


def test_nothing_is_connected_to_where_nothing_is_left():
    log = Log(RANGES)
    made, _, _ = reader(log, RANGES, Order(block=10, batch=4, window=1, seed=None))

    assert items_of(made, 25) == []
    assert log.opened == 0


@pytest.mark.parametrize("readers", [1, 3])
@pytest.mark.parametrize("workers", [1, 2, 3, 4, 6, 12])
def test_workers_of_a_shuffle_fetch_each_offset_once_together(workers, readers):
    ranges = [OffsetRange("t", 0, 0, 5000)]
    log = Log(ranges, batch=1000)
    for worker in range(workers):
        items_of(reader(log, ranges, Order(20, 16, 3, seed=1), Share(0, 1, worker, workers), readers=readers)[0])

    fetched = np.concatenate([np.arange(item.start, item.end) for item in log.fetched])
    assert sorted(fetched.tolist()) == list(range(5000))


def test_a_shuffle_that_goes_on_fetches_no_more_than_what_it_mixes():
    ranges = [OffsetRange("t", 0, 0, 100_000)]
    order = Order(20, 16, 3, seed=1)
    held = 12 * 3 * 20
    for done in (10, 3000, 6000):
        log = Log(ranges, batch=1000)
        made, _, _ = reader(log, ranges, order)
        next(made.read(done))

        assert sum(map(len, log.fetched)) <= held


def test_several_readers_of_a_shuffle_are_opened_as_far_as_there_is_something_to_read_and_each_confirms():
    for end, opened in ((0, 0), (20, 1), (5000, 3)):
        ranges = [OffsetRange("t", 0, 0, end)]
        log = Log(ranges, batch=1000)
        items_of(reader(log, ranges, Order(20, 16, 3, seed=1), readers=3)[0])

        assert (log.opened, log.confirmed) == (opened, opened)


def test_an_error_of_one_of_several_readers_comes_where_it_would_of_one():
    ranges = [OffsetRange("t", 0, 0, 5000)]
    found = []
    for readers in (1, 3):
        log = Log(ranges, values=lambda place: b"short" if place in (2007, 4444) else np.int64(place).tobytes())
        made, (account,), _ = reader(log, ranges, Order(20, 16, 3, seed=1), readers=readers)
        with pytest.raises(DecodeError) as raised:
            items_of(made)
        found.append((str(raised.value), account.delivered))

    assert found[0] == found[1]


def test_what_lies_between_two_workers_items_is_not_fetched():
    ranges = [OffsetRange("t", 0, 0, 100)]
    log = Log(ranges)
    made, _, _ = reader(log, ranges, Order(block=50, batch=10, window=1, seed=None), Share(0, 1, 1, 2))
    items_of(made)

    assert format_ranges(log.fetched) == "t:0:10:20,t:0:30:40,t:0:50:60,t:0:70:80,t:0:90:100"


def test_the_report_counts_each_record_once_also_where_others_are_read_with_it():
    ranges = [OffsetRange("t", 0, 0, 3000)]
    log = Log(ranges, gaps={7, 8}, batch=100)
    order, share = Order(block=60, batch=10, window=2, seed=1), Share(0, 1, 3, 5)  # 5 workers cannot share 12 lanes
    made, (account,), _ = reader(log, ranges, order, share)
    own = sum(map(len, items_of(made)))

    assert account.delivered == own
    assert sum(map(len, log.fetched)) > own
    assert not account.finished


@pytest.mark.parametrize("readers", [1, 3])
def test_the_report_of_a_whole_read_adds_up(readers):
    ranges = [OffsetRange("t", 0, 0, 10_000)]
    made, (account,), _ = reader(Log(ranges, gaps={7, 8, 9999}), ranges, Order(60, 10, 2, seed=1), readers=readers)
    items_of(made)

    assert (account.finished, account.delivered, account.gaps) == (True, 9997, 3)


def test_what_a_policy_leaves_out_is_like_a_gap_and_is_named_in_the_report():
    ranges = [OffsetRange("t", 0, 50, 60)]
    skipping = Decoding(RawDecoder(element_type("int64"), None), None, None, RecordPolicies(on_error="skip"))
    log = Log(ranges, values=lambda place: b"short" if place in (2, 3) else np.int64(place).tobytes())
    made, (account,), _ = reader(log, ranges, Order(4, 4, 1, None), decoding=skipping)

    assert items_of(made) == [[0, 1], [4, 5, 6, 7], [8, 9]]
    assert account.skipped == {"on_error": 2}
    assert account.skipped_at == {"on_error": ["t:0@52", "t:0@53"]}
    assert (account.delivered, account.gaps) == (8, 0)


def test_a_record_that_does_not_fit_ends_the_read_with_its_coordinates():
    ranges = [OffsetRange("t", 0, 50, 60)]
    log = Log(ranges, values=lambda place: b"short" if place == 7 else np.int64(place).tobytes())
    made, _, _ = reader(log, ranges, Order(4, 4, 1, None))

    with pytest.raises(DecodeError, match="t:0@57"):
        items_of(made)


@pytest.mark.parametrize("seed", [None, 3])
def test_strings_of_any_length_are_put_in_order_too(seed):
    ranges = [OffsetRange("t", 0, 0, 50)]
    texts = Decoding(RawDecoder(element_type("string"), None), None, None, RecordPolicies())
    log = Log(ranges, gaps={5}, values=lambda place: ("x" * int(place) + str(place)).encode())
    made, _, deal = reader(log, ranges, Order(8, 6, 2, seed), decoding=texts)

    found = [list(taken[0]) for cycle in made.read(0) for taken in cycle]
    places = expected(deal, Share(), {5})
    assert found == [["x" * place + str(place) for place in item] for item in places]


def test_a_batch_within_what_came_together_shares_its_memory():
    ranges = [OffsetRange("t", 0, 0, 64)]
    made, _, _ = reader(Log(ranges, batch=64), ranges, Order(64, 16, 1, None))
    (cycle,) = made.read(0)
    first, second, *_ = [taken[0] for taken in cycle]

    assert first.base is not None
    assert second.ctypes.data - first.ctypes.data == 16 * 8


@pytest.mark.parametrize("gaps", [(), {7}])
def test_records_of_a_known_size_are_fetched_to_where_they_are_mixed(gaps):
    ranges = [OffsetRange("t", 0, 0, 3000)]
    log = Log(ranges, gaps, batch=10)
    given = []

    @contextmanager
    def connect(destination):
        with log.connect(Noting(destination, given)) as connection:
            yield connection

    made, *_ = reader(log, ranges, Order(50, 10, 60, seed=1), decoding=DECLARED)
    made._connect = connect
    (cycle,) = made.read(0)
    values, _ = cycle.samples

    assert [place for place, *_ in cycle.samples[0].tolist()] == [n for n in range(3000) if n not in gaps]
    assert all(np.shares_memory(values, room) for room in given[:-1])


@pytest.mark.parametrize("readers", [1, 3])
def test_all_cycles_of_a_shuffle_take_turns_in_the_memory_of_two(readers):
    ranges = [OffsetRange("t", 0, 0, 30_000)]
    made, *_ = reader(Log(ranges, batch=100), ranges, Order(50, 10, 5, seed=1), decoding=DECLARED, readers=readers)
    places, count = set(), 0
    for cycle in made.read(0):
        places.add(cycle.samples[0].ctypes.data)
        count += 1
        del cycle  # as one who is done with it

    assert count == 10
    assert len(places) <= 2


class Noting:
    """A destination that keeps what rooms were given."""

    def __init__(self, destination, given):
        self._destination, self._given = destination, given

    def room_for_values(self, rows, row_bytes):
        self._given.append(self._destination.room_for_values(rows, row_bytes))
        return self._given[-1]

    def came(self, rows):
        self._destination.came(rows)


@pytest.mark.parametrize("elements", [None, 1000])
@pytest.mark.parametrize("seed", [None, 3])
def test_what_is_still_held_is_not_written_over(seed, elements):
    """Memory that others have left is used again, but by nobody else as long as an item is held."""
    ranges = [OffsetRange("t", 0, 0, 3000)]
    log = Log(ranges, batch=10, values=lambda place: np.full(1000, place, np.int64).tobytes())
    decoding = Decoding(RawDecoder(element_type("int64", elements), None), None, None, RecordPolicies())
    made, _, _ = reader(log, ranges, Order(10, 10, 2, seed), decoding=decoding)
    held = [taken[0] for cycle in made.read(0) for number, taken in enumerate(cycle) if number % 3 == 0]

    assert len(held) > 90
    assert all((values == values[:, :1]).all() for values in held)
    assert len(np.unique(np.concatenate(held)[:, 0])) == sum(map(len, held))
