import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kafkapipes.ranges import OffsetRange
from kafkapipes.records import BytesColumn, RecordBatch
from kafkapipes.report import RangeReport

items = st.lists(st.one_of(st.none(), st.binary(max_size=9)), max_size=20)


@given(items)
def test_a_column_gives_back_what_it_was_made_of(entries):
    assert list(BytesColumn.from_list(entries)) == entries


@given(items, st.data())
def test_selected_rows_are_those_rows(entries, data):
    rows = data.draw(st.lists(st.integers(0, max(len(entries) - 1, 0)), max_size=10 if entries else 0))

    selected = BytesColumn.from_list(entries).select(np.array(rows, np.int64))

    assert list(selected) == [entries[row] for row in rows]


def test_null_and_empty_are_told_apart():
    column = BytesColumn.from_list([None, b""])

    assert column.is_null.tolist() == [True, False]
    assert (column[0], column[1]) == (None, b"")


def test_a_column_is_one_writable_buffer_with_lengths():
    column = BytesColumn.from_list([b"ab", b"c"])

    assert column.buffer.tolist() == [97, 98, 99]
    assert column.buffer.flags.writeable
    assert column.lengths.tolist() == [2, 1]


def test_selecting_rows_of_a_batch_keeps_its_columns_in_step():
    batch = RecordBatch(
        np.array([5, 6, 9]),
        BytesColumn.from_list([b"a", None, b"c"]),
        BytesColumn.from_list([b"1", b"2", b"3"]),
        RangeReport(OffsetRange("t", 2, 5, 10), 0, 10),
        np.array([50, 60, 90]),
        [[("h", b"x")], [], [("h", None)]],
    )

    some = batch.select(np.array([0, 2]))

    assert (len(some), some.topic, some.partition, some.coordinates(1)) == (2, "t", 2, "t:2@9")
    assert (list(some.keys), list(some.values)) == ([b"a", b"c"], [b"1", b"3"])
    assert (some.timestamps.tolist(), some.headers) == ([50, 90], [[("h", b"x")], [("h", None)]])


@given(items, st.data())
def test_rows_between_two_are_those_rows_and_share_memory(entries, data):
    begin = data.draw(st.integers(0, len(entries)))
    end = data.draw(st.integers(begin, len(entries)))
    column = BytesColumn.from_list(entries)

    between = column.between(begin, end)

    assert list(between) == entries[begin:end]
    assert between.buffer.base is not None
