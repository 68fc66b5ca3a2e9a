import numpy as np
import pytest

from kafkapipes.errors import CorruptDataError, StalledError
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


def test_no_records_are_no_news():
    read = progress(0, 10)
    read.clock.now = 10.5
    read.records(offsets())

    with pytest.raises(StalledError):
        read.check_stall("")
