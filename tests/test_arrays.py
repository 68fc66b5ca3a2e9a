import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafkapipes import arrays
from kafkapipes.arrays import (
    ArrayBatch,
    BytesBuilder,
    OffsetIndex,
    RowBuilder,
    SideBySide,
    TextColumn,
    builder_for,
    column_bytes,
    elements_of,
    joined,
    parse_shape,
    reshape,
    row_bytes,
)
from kafkapipes.errors import ConfigError, DecodeError, MemoryLimitError
from kafkapipes.ranges import OffsetRange
from kafkapipes.records import BytesColumn
from kafkapipes.report import RangeReport


def batch(values, labels=None):
    account = RangeReport(OffsetRange("t", 2, 7, 7 + len(values)), 0, 100)
    return ArrayBatch(values, labels, np.arange(7, 7 + len(values)), account)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("28 28", (28, 28)),
        ((3, 2), (3, 2)),
        ([5], (5,)),
        ("", None),
        ("  ", None),
        (None, None),
        ("-1 4", (-1, 4)),
        (7, (7,)),
        ("1", (1,)),
    ],
)
def test_a_shape_is_read_from_text_or_numbers(text, shape):
    assert parse_shape(text) == shape


@pytest.mark.parametrize(
    "text",
    [
        "28x28",
        "28,28",
        "0",
        "-2",
        "-1 -1",
        "2.5",
        (2.5,),
        (True, 2),
        "a",
        (),
        "9" * 4000,
        "2 " * 40,
        (2**40,),
        {"a": 1},
        object(),
        b"4",
        "2_2",
        "\uff12 \uff12",
        {2, 3},
        (np.float32(2.7), 2),
    ],
)
def test_a_senseless_shape_is_refused(text):
    with pytest.raises(ConfigError, match="the shape is"):
        parse_shape(text)


def test_elements_are_unknown_where_a_dimension_is():
    assert [elements_of(shape) for shape in ((2, 3), (-1, 3), None)] == [6, None, None]


def test_reshaped_values_share_memory_and_labels_get_their_own_shape():
    flat = batch(np.arange(12).reshape(2, 6), np.arange(8).reshape(2, 4))

    shaped = reshape(flat, (2, 3), (2, 2))

    assert shaped.values.shape == (2, 2, 3)
    assert shaped.labels.shape == (2, 2, 2)
    assert np.shares_memory(shaped.values, flat.values)


def test_one_dimension_may_be_inferred():
    assert reshape(batch(np.zeros((2, 6))), (3, -1), None).values.shape == (2, 3, 2)


@pytest.mark.parametrize("shape", [(5,), (2, 2), (-1, 4)])
def test_a_shape_that_does_not_fit_names_both_sizes_and_the_place(shape):
    with pytest.raises(DecodeError, match=r"values of shape .* found 6 elements of float64 at t:2@7"):
        reshape(batch(np.zeros((2, 6))), shape, None)


def test_a_label_shape_that_does_not_fit_is_an_error():
    with pytest.raises(DecodeError, match="labels of shape"):
        reshape(batch(np.zeros((2, 6)), np.zeros((2, 3))), None, (2,))


def test_strings_have_no_shape():
    with pytest.raises(DecodeError, match="strings or bytes"):
        reshape(batch(BytesColumn.from_list([b"a"])), (1,), None)


@pytest.mark.parametrize("labels", [np.array([[7], [8]]), np.array([7, 8]), np.array([[[7]], [[8]]])])
def test_labels_of_one_element_are_scalars(labels):
    assert batch(np.zeros((2, 3)), labels).scalar_labels.tolist() == [7, 8]


def test_selecting_rows_keeps_values_labels_and_offsets_in_step():
    words = TextColumn.from_list([b"a", b"b", b"c"])

    some = batch(np.arange(6).reshape(3, 2), words).select(np.array([2, 0]))

    assert (some.values.tolist(), list(some.labels), some.offsets.tolist()) == ([[4, 5], [0, 1]], ["c", "a"], [9, 7])
    assert batch(words).select(np.array([1])).labels is None


def test_labels_of_several_elements_stay_arrays():
    assert batch(np.zeros((2, 3)), np.zeros((2, 2))).scalar_labels.shape == (2, 2)


def test_a_row_builder_gives_back_its_unused_rows():
    builder = builder_for(np.zeros((0, 2), np.int16), 1000, 10**6)
    builder.append(np.array([[1, 2]], np.int16))
    builder.append(np.array([[3, 4], [5, 6]], np.int16))

    built = builder.finish()

    assert isinstance(builder, RowBuilder)
    assert built.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert built.nbytes == 12


def test_rows_that_are_written_where_they_will_lie_are_not_copied():
    builder = RowBuilder(5, np.zeros((0, 2), np.int16))
    builder.append(np.array([[1, 2]], np.int16))
    room = builder.room(1, 2, 4)
    room[:] = np.array([3, 4, 5, 6], np.int16).view(np.uint8)
    builder._array.flags.writeable = False

    builder.append(room.view(np.int16).reshape(2, 2))
    builder._array.flags.writeable = True
    builder.append(np.array([[7, 8]], np.int16))

    assert (room.size, room.dtype) == (8, np.uint8)
    assert builder.finish().tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]


@pytest.mark.parametrize(("rows", "row_bytes"), [(5, 4), (1, 3), (1, 5), (2, 2), (1, 0), (2**40, 4)])
def test_there_is_no_room_for_rows_of_another_size_or_beyond_the_bound(rows, row_bytes):
    builder = RowBuilder(5, np.zeros((0, 2), np.int16))
    builder.append(np.array([[1, 2]], np.int16))

    assert builder.room(1, rows, row_bytes) is None


def test_a_builder_that_has_no_memory_ahead_has_no_room():
    assert RowBuilder(2**60, np.zeros((0, 1000))).room(0, 1, 8000) is None


@pytest.mark.parametrize("kept", [[0, 1, 2, 3], [1, 3], [0, 3], [3], [2, 3]])
def test_rows_in_a_room_behind_others_that_are_left_out_are_moved(kept):
    builder = RowBuilder(9, np.zeros((0, 1), np.uint8))
    builder.append(np.array([[9]], np.uint8))
    rows = builder.room(1, 4, 1).reshape(4, 1)
    rows[:] = [[0], [1], [2], [3]]
    room = builder.room(5, 1, 1)
    room[:] = 4

    builder.append(rows[kept[0] : kept[-1] + 1] if kept == list(range(kept[0], 4)) else rows[kept])
    builder.append(room.reshape(1, 1))

    assert builder.finish().ravel().tolist() == [9, *kept, 4]


@pytest.mark.parametrize("other", [np.int8, ">u2"])
def test_the_same_memory_of_another_type_is_converted(other):
    builder = RowBuilder(4, np.zeros((0, 1), np.uint8 if other is np.int8 else np.uint16))
    rows = builder.room(0, 2, builder._array.itemsize).view(other).reshape(2, 1)
    rows[:] = [[1], [2]]

    builder.append(rows)

    assert builder.finish().ravel().tolist() == [1, 2]


def test_a_builder_takes_no_more_room_ahead_than_there_can_be_bytes():
    builder = builder_for(np.zeros((1, 10)), 2**60, 800)

    assert builder._array.shape == (10, 10)


def test_a_row_builder_grows_where_its_upper_bound_is_beyond_all_memory():
    builder = RowBuilder(2**60, np.zeros((0, 1000)))
    for row in range(100):
        builder.append(np.full((1, 1000), row, float))

    assert builder.finish()[:, 999].tolist() == list(range(100))


def laid_side_by_side(collected, parts):
    """Rows of several parts, written where there is room for them and appended by turns."""
    for turn in range(max(map(len, parts))):
        for builder, rows in zip(collected.parts, parts, strict=True):
            if turn < len(rows):
                room = builder.room(turn, 1, rows[turn].nbytes)
                room[:] = rows[turn].view(np.uint8)
                builder.append(room.view(rows.dtype).reshape(1, -1))


@pytest.mark.parametrize("lengths", [(3, 3, 3), (1, 3, 2), (0, 3, 1), (3, 0, 0), (0, 0, 1), (2, 2, 3), (0, 0, 0)])
@pytest.mark.parametrize("moved_bytes", [1, 10, 2**20])
def test_rows_that_are_collected_side_by_side_lie_one_behind_the_other(lengths, moved_bytes, monkeypatch):
    monkeypatch.setattr(arrays, "_MOVED_BYTES", moved_bytes)
    rows = np.arange(18, dtype=np.int16).reshape(9, 2)
    parts = [rows[3 * number : 3 * number + length] for number, length in enumerate(lengths)]
    collected = SideBySide(rows, [3, 3, 3], 10**6)

    laid_side_by_side(collected, parts)
    whole = collected.finish()

    np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert (whole.base, whole.dtype) == (None, np.int16)


def test_a_part_that_is_full_is_not_moved_and_none_is_copied():
    collected = SideBySide(np.zeros((1, 2), np.int16), [2, 2], 10**6)
    laid_side_by_side(collected, [np.ones((2, 2), np.int16), np.ones((1, 2), np.int16)])
    address = collected.parts[0]._array.__array_interface__["data"][0]

    assert collected.finish().__array_interface__["data"][0] == address


@pytest.mark.parametrize("max_bytes", [6 * 8, 6 * 8 - 1])
def test_rows_of_which_there_could_be_too_many_are_collected_part_by_part(max_bytes):
    collected = SideBySide(np.zeros((1, 1)), [3, 3], max_bytes)
    collected.parts[1].append(np.array([[2.0], [3.0]]))
    collected.parts[0].append(np.array([[1.0]]))

    assert collected.finish().ravel().tolist() == [1, 2, 3]


@pytest.mark.parametrize("kind", [BytesColumn, TextColumn])
def test_strings_that_are_collected_side_by_side_become_one_column(kind):
    first = kind.from_list([b"a", b"bcd"])
    collected = SideBySide(first, [5, 5, 5], 10**6)
    collected.parts[2].append(kind.from_list([b"", b"x" * 100]))
    collected.parts[0].append(first)
    collected.parts[2].append(kind.from_list([b"z"]))

    whole = collected.finish()

    assert type(whole) is kind
    assert [bytes(item, "utf-8") if kind is TextColumn else item for item in whole] == [
        b"a", b"bcd", b"", b"x" * 100, b"z",
    ]  # fmt: skip


def test_an_index_goes_on_with_the_rows_of_another():
    index, other = OffsetIndex(), OffsetIndex()
    index.append(np.array([5, 6]), 0)
    other.append(np.array([7, 8]), 0)
    other.append(np.array([10]), 1)

    index.extend(other)

    assert [part.tolist() for part in index.finish()] == [[0, 4], [5, 10], [0, 1]]


def test_rows_that_the_system_has_no_room_for_are_an_error_that_says_so():
    builder = RowBuilder(0, np.zeros((0, 1)))

    with pytest.raises(MemoryLimitError, match=rf"wanted {2**52} rows x 8 bytes = {2**55} bytes"):
        builder.append(np.broadcast_to(np.zeros(1), (2**52, 1)))


def test_the_bytes_of_a_column_are_those_of_its_rows_and_of_the_lengths_of_strings():
    words = TextColumn.from_list([b"one", b"three"])

    assert (column_bytes(words), row_bytes(words)) == (8 + 2 * 8, 8)
    assert (column_bytes(np.zeros((3, 2), np.int16)), row_bytes(np.zeros((3, 2), np.int16))) == (12, 4)
    assert row_bytes(np.zeros((0, 2))) == 0


@given(st.lists(st.lists(st.binary(max_size=20), max_size=8), min_size=1, max_size=8), st.sampled_from([0, 50, 2**40]))
def test_a_bytes_builder_joins_columns_whatever_room_it_expects_to_need(columns, most):
    made = [TextColumn(*vars(BytesColumn.from_list(items)).values()) for items in columns]
    builder = builder_for(made[0], sum(map(len, columns)), most)
    for column in made:
        builder.append(column)

    built = builder.finish()

    assert isinstance(builder, BytesBuilder)
    assert isinstance(built, TextColumn)
    assert [BytesColumn.__getitem__(built, row) for row in range(len(built))] == [
        item for items in columns for item in items
    ]


@given(st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(0, 60), min_size=1, unique=True)), max_size=8))
def test_the_offset_index_finds_every_row(batches):
    index, rows = OffsetIndex(), []
    for place, offsets in batches:
        index.append(np.array(sorted(offsets)), place)
        rows += [(place, offset) for offset in sorted(offsets)]
    first, offset_of, range_of = index.finish()

    found = [
        (range_of[run], offset_of[run] + row - first[run])
        for row in range(len(rows))
        for run in [np.searchsorted(first, row, side="right") - 1]
    ]

    assert found == rows


def test_an_unbroken_range_costs_one_run():
    index = OffsetIndex()
    index.append(np.arange(100, 200), 0)
    index.append(np.arange(200, 300), 0)

    assert [column.tolist() for column in index.finish()] == [[0], [100], [0]]


def test_room_for_strings_is_made_for_eight_times_the_length_of_the_first_and_for_no_more_than_allowed():
    first = BytesColumn.from_list([b"abc", b"de"])  # 2.5 bytes each, counted as 3

    assert len(BytesBuilder(1000, 10**12, first)._buffer._array) == 24_000
    assert len(BytesBuilder(1000, 500, first)._buffer._array) == 500


@pytest.mark.parametrize(
    "column", [np.arange(12).reshape(6, 2), TextColumn.from_list([b"", b"a", b"bc", b"", b"d", b""])]
)
def test_a_batch_cut_into_pieces_and_joined_is_the_same(column):
    whole = batch(column, np.arange(6).reshape(6, 1))

    again = joined([whole.between(0, 2), whole.between(2, 2), whole.between(2, 5), whole.between(5, 6)])

    assert list(map(str, again.values)) == list(map(str, whole.values))
    assert (again.labels.tolist(), again.offsets.tolist()) == (whole.labels.tolist(), whole.offsets.tolist())
    assert type(again.values) is type(whole.values)


def test_a_piece_of_a_batch_shares_its_memory_and_one_alone_is_not_copied():
    whole = batch(np.arange(12).reshape(6, 2))
    piece = whole.between(2, 4)

    assert np.shares_memory(piece.values, whole.values)
    assert joined([piece]) is piece
