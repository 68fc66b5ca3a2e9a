import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafkapipes.ranges import OffsetRange, Symbol
from kafkapipes.report import MAX_COORDINATES, RangeReport, ReadReport

small = st.integers(0, 30)


def account(start=0, end=10, low=0, high=100):
    return RangeReport(OffsetRange("t", 1, start, end), low, high)


@given(small, small, small, small, st.data())
def test_requested_is_the_sum_of_what_came_and_what_is_missing(start, length, low, more, data):
    item = account(start, start + length, low, low + more)
    item.finished = True
    item.received = data.draw(st.integers(0, item.end - item.start))
    item.skip("tombstone", range(data.draw(st.integers(0, item.received))))

    found = item.delivered + item.gaps + item.aged_out + item.unwritten + sum(item.skipped.values())

    assert found == item.requested
    assert min(item.delivered, item.gaps, item.aged_out, item.unwritten) >= 0


def test_skipped_records_are_counted_by_reason_and_the_first_are_named():
    item = account()
    item.received = 50
    item.skip("tombstone", [7])
    item.skip("on_error", range(20, 40))

    assert item.skipped == {"tombstone": 1, "on_error": 20}
    assert item.skipped_at["tombstone"] == ["t:1@7"]
    assert item.skipped_at["on_error"] == [f"t:1@{offset}" for offset in range(20, 20 + MAX_COORDINATES)]
    assert item.delivered == 29


def test_gaps_are_unknown_before_the_range_is_finished():
    assert account().gaps == 0


def test_a_report_prints_what_is_missing_and_why():
    item = account(0, 10, low=2, high=9)
    item.received, item.finished = 6, True
    item.skip("on_error", [2])
    item.received += 1
    item.skip("null_key", [3])

    text = str(ReadReport([item]))

    assert "5 of 10 delivered from 1 range(s)" in text
    assert "2 aged out, 1 unwritten, 1 skipped (on_error, first at t:1@2), 1 skipped (null_key, first at t:1@3)" in text


def test_a_report_as_a_dictionary_is_json():
    report = ReadReport([account(), account(5, 7)])

    loaded = json.loads(json.dumps(report.to_dict()))

    assert loaded["requested"] == 12
    assert loaded["ranges"][1]["range"] == "t:1:5:7"


def test_shares_carry_the_limits_of_their_range():
    report = ReadReport([account(0, 10, low=8)])

    shares = [report.share(2, instance) for instance in range(2)]

    assert [share[0].aged_out for share in shares] == [5, 3]
    assert [share.ranges for share in shares] == [[OffsetRange("t", 1, 0, 5)], [OffsetRange("t", 1, 5, 10)]]


def test_a_report_is_a_sequence_of_accounts():
    first, second = account(), account()
    report = ReadReport([first, second])

    assert report[-1] is second
    assert list(report[:1]) == [first]
    assert repr(report) == "ReadReport(0 of 20 delivered, 2 range(s))"


def test_a_symbolic_range_has_no_account():
    with pytest.raises(TypeError, match="concrete"):
        _ = RangeReport(OffsetRange("t", 0, 0, Symbol.LATEST), 0, 1).start


def test_a_worker_keeps_what_was_planned_of_the_log():
    item = RangeReport(OffsetRange("t", 1, 0, 10), 2, 90, "an-id", 7, 80)

    (piece,) = ReadReport([item]).share(2, 1)

    assert (piece.low, piece.high, piece.topic_id, piece.epoch, piece.stable) == (2, 90, "an-id", 7, 80)


def test_the_rate_is_the_records_received_a_second():
    item = account()
    assert item.rate == 0
    item.received, item.seconds, item.finished = 3000, 1.5, True

    assert item.rate == 2000
    assert "1.50 s (2,000 records/s)" in str(item)
    assert item.to_dict()["rate"] == 2000


def test_the_pieces_of_a_range_are_counted_together_and_finish_it_once_they_cover_it():
    whole = account(0, 10)
    for start, received in ((6, 3), (0, 6)):
        part = whole.part(OffsetRange("t", 1, start, start + 5 if start == 0 else 10))
        part.received = received
        part.skip("on_error", [start])
        whole.add(part, 5 if start == 0 else 4)
    assert (whole.finished, whole.received, whole.skipped) == (False, 9, {"on_error": 2})
    assert whole.skipped_at == {"on_error": ["t:1@6", "t:1@0"]}

    whole.add(whole.part(OffsetRange("t", 1, 5, 6)), 1)

    assert (whole.finished, whole.delivered, whole.gaps) == (True, 7, 1)


def test_a_piece_that_was_counted_is_not_counted_again():
    whole = account(0, 10)
    part = whole.part(whole.range)
    part.received = 3
    part.skip("tombstone", range(2))
    whole.add(part, 3)
    whole.add(part, 0)

    assert (whole.received, whole.skipped, part.received, part.skipped) == (3, {"tombstone": 2}, 0, {})


@given(st.integers(1, 5), st.lists(st.integers(0, 30), min_size=1, max_size=4))
def test_accounts_of_pieces_read_side_by_side_add_up_to_those_of_the_ranges(parts, lengths):
    report = ReadReport(RangeReport(OffsetRange("t", place, 10, 10 + n), 12, 35) for place, n in enumerate(lengths))
    pieces = [piece for number in range(parts) for piece in report.pieces(parts, number)]
    for seconds, piece in enumerate(pieces):
        account = piece.account
        assert account.range.partition == piece.place
        account.received, account.seconds, account.client = account.end - account.start, seconds, "native"
        account.skip("on_error", range(account.start, account.start + account.received // 2))
        account.finished = True

    for piece in pieces:
        report[piece.place].merge(piece.account)

    assert sum(len(piece.account.range) for piece in pieces) == report.requested == sum(lengths)
    assert sum(account.received for account in report) == report.readable
    for account in report:
        assert (account.finished, account.gaps, account.client) == (True, 0, "native")
        assert account.delivered + sum(account.skipped.values()) + account.aged_out + account.unwritten == len(
            account.range
        )


def test_a_range_of_which_a_piece_was_not_read_to_its_end_is_not_finished():
    report = ReadReport([RangeReport(OffsetRange("t", 0, 0, 10), 0, 10)])
    first, second = (report.pieces(2, number)[0].account for number in range(2))
    first.received, first.finished, second.received = 5, True, 3

    for account in (first, second):
        report[0].merge(account)

    assert (report[0].received, report[0].finished) == (8, False)
