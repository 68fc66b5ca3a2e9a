import numpy as np
import pytest

from kafkapipes.errors import CorruptDataError, StalledError, TruncationError
from kafkapipes.progress import RangeProgress
from kafkapipes.ranges import OffsetRange
from kafkapipes.report import RangeReport


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def progress(start, end, low=0, high=10**6, stall_timeout_s=10.0):
    clock = Clock()
    made = RangeProgress(RangeReport(OffsetRange("t", 3, start, end), low, high), stall_timeout_s, clock)
    made.clock = clock
    return made


def offsets(*numbers):
    return np.array(numbers, np.int64)


def test_a_range_ends_with_its_last_record():
    read = progress(5, 8)

    assert read.records(offsets(5, 6)) == 2
    assert not read.finished
    assert read.records(offsets(7)) == 1
    assert read.finished


def test_a_record_past_the_end_ends_the_range_and_is_not_counted():
    read = progress(0, 5)

    assert read.records(offsets(0, 1, 9)) == 2
    assert read.finished
    assert (read.account.delivered, read.account.gaps) == (2, 3)


def test_the_end_of_the_log_ends_a_range_whose_last_offset_holds_no_record():
    read = progress(0, 6)
    read.records(offsets(0, 1, 2, 3, 4))
    assert not read.finished

    read.end_of_log(6)

    assert read.finished
    assert read.account.gaps == 1


def test_an_end_of_log_below_the_end_does_not_end_the_range():
    read = progress(0, 6)

    read.end_of_log(5)

    assert not read.finished


@pytest.mark.parametrize("bounds", [(4, 4), (0, 5)])
def test_a_range_without_readable_records_is_finished_at_once(bounds):
    assert progress(*bounds, low=5).finished


def test_a_range_that_begins_below_the_log_is_read_from_the_start_of_the_log():
    read = progress(0, 10, low=4)

    assert read.position == 4
    assert read.account.aged_out == 4


def test_a_range_that_ends_behind_the_log_is_read_to_the_end_of_the_log():
    read = progress(0, 10, high=7)

    assert read.wanted == 7
    assert read.account.unwritten == 3


@pytest.mark.parametrize("again", [(1,), (5, 5), (6, 5)])
def test_an_offset_that_does_not_ascend_is_an_error(again):
    read = progress(0, 10)
    read.records(offsets(0, 1, 2))

    with pytest.raises(CorruptDataError, match="t:3@3"):
        read.records(offsets(*again))


def test_silence_longer_than_the_timeout_is_a_stall_that_names_position_and_cause():
    read = progress(0, 10)
    read.records(offsets(0, 1))
    read.clock.now = 10.5

    with pytest.raises(StalledError, match=r"up to offset 10.*10\.5 s at t:3@2.*broker away.*stall_timeout_s"):
        read.check_stall("broker away")


def test_news_of_any_kind_puts_a_stall_off():
    read = progress(0, 10)
    for step in (read.resume, lambda: read.end_of_log(1), lambda: read.records(offsets(1))):
        read.clock.now += 9.0
        read.check_stall("")
        step()
    read.clock.now += 9.0

    read.check_stall("")


def test_the_time_in_which_this_process_did_not_run_is_no_silence():
    read = progress(0, 10)
    read.clock.now = 30.0
    read.absent(21.0)
    read.check_stall("")
    read.clock.now = 32.0

    with pytest.raises(StalledError, match=r"nothing arrived for 11\.0 s"):
        read.check_stall("")


def test_no_records_are_no_news():
    read = progress(0, 10)
    read.clock.now = 10.5
    read.records(offsets())

    with pytest.raises(StalledError):
        read.check_stall("")


def planned(start, end, stable, epoch=-1):
    account = RangeReport(OffsetRange("t", 3, start, end), 0, max(end, stable), "id", epoch, stable)
    made = RangeProgress(account, 10.0, Clock())
    return made


def epochs(*numbers):
    return numbers.__getitem__


def test_a_record_below_the_planned_end_of_a_later_epoch_was_written_anew():
    read = planned(0, 100, stable=50, epoch=4)
    read.records(offsets(*range(10)), epochs(*[4] * 10))

    with pytest.raises(TruncationError, match=r"under leader epoch 4, found a record of epoch 5 at t:3@11"):
        read.records(offsets(10, 11), epochs(4, 5))


def test_records_past_the_planned_end_do_not_hide_one_below_it_that_was_written_anew():
    read = planned(0, 100, stable=12, epoch=4)

    with pytest.raises(TruncationError, match=r"found a record of epoch 5 at t:3@11"):
        read.records(offsets(10, 11, 12, 13), epochs(4, 5, 5, 6))


@pytest.mark.parametrize(
    ("stable", "epoch", "found"),
    [
        (50, 4, (4, 4)),
        (50, 4, (3, 4)),
        (50, -1, (8, 9)),
        (50, 4, (-1, -1)),
        (11, 4, (4, 5)),  # a later one at the end that was planned
        (10, 4, (5, 5)),
    ],
)
def test_an_epoch_that_may_be_is_read(stable, epoch, found):
    assert planned(0, 100, stable, epoch).records(offsets(10, 11), epochs(*found)) == 2


@pytest.mark.parametrize(
    ("end", "stable", "found", "in_doubt"),
    [
        (12, 50, (4, 4), False),
        (13, 50, (4, 4), True),  # a gap at the end: a marker, or what was cut off
        (100, 12, (4, 4), False),  # nothing was promised beyond
        (11, 50, (3, 4), False),  # a record past the end vouches for all before it
        (12, 11, (4, 5), False),
        (12, 12, (4, 4), False),
    ],
)
def test_a_log_is_in_doubt_where_its_last_offsets_hold_no_record_of_the_planned_epoch(end, stable, found, in_doubt):
    read = planned(0, end, stable, epoch=4)
    read.records(offsets(10, 11), epochs(*found))
    read.end_of_log(end)

    assert read.finished
    assert read.in_doubt == in_doubt


@pytest.mark.parametrize(("epoch", "in_doubt"), [(4, False), (3, False), (5, True), (-1, True)])
def test_the_epoch_of_what_is_no_record_vouches_too_unless_it_is_later(epoch, in_doubt):
    read = planned(0, 20, stable=20, epoch=4)
    read.records(offsets(10, 11), epochs(4, 4))
    read.end_of_log(20, epoch)

    assert (read.finished, read.in_doubt) == (True, in_doubt)


def test_a_later_record_past_the_end_vouches_for_nothing():
    read = planned(0, 20, stable=20, epoch=4)
    read.records(offsets(10, 11, 30), epochs(4, 4, 5))

    assert (read.finished, read.in_doubt) == (True, True)


def test_without_epochs_no_log_is_in_doubt():
    read = planned(0, 20, stable=20)
    read.end_of_log(20)

    assert (read.finished, read.in_doubt) == (True, False)


def test_what_retention_took_is_not_in_doubt():
    read = planned(0, 20, stable=20, epoch=4)
    read.overtaken(30)

    assert (read.finished, read.in_doubt) == (True, False)


def test_an_end_of_log_below_what_was_planned_is_remembered_until_more_comes():
    read = planned(0, 100, stable=50)

    read.end_of_log(40)
    assert read.ends_at == 40
    read.records(offsets(40))
    assert read.ends_at is None
    read.end_of_log(50)
    assert read.ends_at is None  # nothing was promised beyond: a caller who waits


def test_offsets_that_retention_takes_amid_a_read_are_aged_out_and_not_gaps():
    read = progress(0, 10)
    read.records(offsets(0, 1))

    read.overtaken(6)
    read.records(offsets(6, 7, 9))

    assert read.finished
    assert (read.account.aged_out, read.account.gaps, read.account.delivered) == (4, 1, 5)


def test_retention_that_takes_the_rest_ends_the_range():
    read = progress(0, 10)
    read.records(offsets(0, 1))

    read.overtaken(600)

    assert read.finished
    assert (read.account.aged_out, read.account.gaps) == (8, 0)


def test_a_fetch_position_that_moves_is_news_and_one_that_stands_is_not():
    read = progress(0, 1000)
    read.fetched_to(300)
    read.clock.now = 8
    read.fetched_to(500)
    read.clock.now = 16
    read.check_stall("")
    read.fetched_to(500)
    read.clock.now = 19
    with pytest.raises(StalledError):
        read.check_stall("")


def test_a_fetch_position_that_only_confirms_what_has_arrived_is_no_news():
    read = progress(0, 1000)
    read.records(offsets(0, 1, 2))
    read.clock.now = 8
    read.fetched_to(3)
    read.clock.now = 11

    with pytest.raises(StalledError, match="t:3@3"):
        read.check_stall("")
