import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafkapipes.dead_letters import LeftOut, RecordPolicies
from kafkapipes.errors import ConfigError, DecodeError
from kafkapipes.formats.raw import RawDecoder, element_type, encode, type_name
from kafkapipes.ranges import OffsetRange
from kafkapipes.records import BytesColumn, RecordBatch
from kafkapipes.report import RangeReport

NUMBER_TYPES = [
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32",
    "float64", "half",
    "float", "double", "single", "complex64", "complex128", ">f4", "<f4", ">i2", ">u8", ">c8", "longdouble",
]  # fmt: skip


def batch(values, keys=None, first=100):
    keys = [b"\x00"] * len(values) if keys is None else keys
    account = RangeReport(OffsetRange("t", 3, first, first + len(values)), 0, 10**6)
    account.received = len(values)
    return RecordBatch(
        np.arange(first, first + len(values)), BytesColumn.from_list(keys), BytesColumn.from_list(values), account
    )


def decode(records, data_type, label_type=None, elements=None, **policies):
    decoder = RawDecoder(element_type(data_type, elements), label_type and element_type(label_type))
    left_out = LeftOut(RecordPolicies(**policies))
    records = decoder.without_nulls(records, left_out)
    arrays = decoder.sized_by(records).decode(records, left_out)
    left_out.settle()
    return arrays


@pytest.mark.parametrize("name", NUMBER_TYPES)
def test_every_numeric_type_comes_back_as_it_was_written(name):
    written = np.array([[0, 1, 1], [1, 0, 1]]).astype(name)

    arrays = decode(batch([row.tobytes() for row in written]), name)

    np.testing.assert_array_equal(arrays.values, written)
    assert arrays.values.dtype == np.dtype(name).newbyteorder("=")


@given(st.lists(st.lists(st.floats(width=32), min_size=3, max_size=3), min_size=1, max_size=8), st.sampled_from("<>"))
def test_floats_come_back_bit_for_bit_in_either_byte_order(rows, order):
    written = np.array(rows, np.dtype("f4").newbyteorder(order))

    arrays = decode(batch([row.tobytes() for row in written]), f"{order}f4")

    assert arrays.values.tobytes() == written.astype("=f4").tobytes()


def test_native_values_are_a_writable_view_of_the_batch():
    records = batch([b"ab", b"cd"])

    values = decode(records, "uint8").values

    assert np.shares_memory(values, records.values.buffer)
    assert values.flags.writeable


def test_the_key_is_the_label():
    arrays = decode(batch([b"a", b"b"], [b"\x07\x00", b"\x08\x00"]), "uint8", "<u2")

    assert arrays.labels.tolist() == [[7], [8]]


def test_without_a_label_type_keys_do_not_matter():
    assert decode(batch([b"a", b"b"], [None, b"xyz"]), "uint8").labels is None


@pytest.mark.parametrize(
    "name",
    ["object", "O", "S5", "U5", "datetime64[s]", "m8", "V4", "uint7", "", None, "(2,)f4", "f4,f4", [], "string "],
)
def test_a_type_that_is_not_a_number_is_refused(name):
    with pytest.raises(ConfigError, match="the type is"):
        element_type(name)


@pytest.mark.parametrize("place", [0, 1, 4])
def test_a_record_of_the_wrong_size_names_its_place_and_both_sizes(place):
    values = [b"abcd"] * 5
    values[place] = b"abc"

    with pytest.raises(DecodeError, match=rf"t:3@{100 + place}: .*wanted 4 bytes \(4 x uint8\) found 3 bytes"):
        decode(batch(values), "uint8", elements=4)


def test_an_undeclared_size_is_that_of_the_first_record_which_the_error_names():
    with pytest.raises(
        DecodeError, match=r"at t:3@101: .*wanted 8 bytes \(2 x float32\), as the first record at t:3@100 has, found 12"
    ):
        decode(batch([b"12345678", b"123456789012"]), "float32")


@pytest.mark.parametrize("value", [b"", b"123"])
def test_a_first_record_that_holds_no_whole_element_is_refused(value):
    with pytest.raises(DecodeError, match=rf"t:3@100, found {len(value)} bytes"):
        decode(batch([value]), "float32")


def test_records_of_the_wrong_size_can_be_skipped_and_are_counted():
    records = batch([b"ab", b"abc", b"cd", b""])

    arrays = decode(records, "uint8", elements=2, on_error="skip")

    assert arrays.values.tolist() == [[97, 98], [99, 100]]
    assert arrays.offsets.tolist() == [100, 102]
    assert records.account.skipped == {"on_error": 2}
    assert records.account.skipped_at == {"on_error": ["t:3@101", "t:3@103"]}


def test_a_label_of_the_wrong_size_is_an_error():
    with pytest.raises(DecodeError, match=r"t:3@101: wanted a key \(the label\)"):
        decode(batch([b"a", b"b"], [b"1", b"22"]), "uint8", "uint8")


def test_a_tombstone_is_an_error_or_is_skipped():
    with pytest.raises(DecodeError, match=r"t:3@100: .*tombstone.*tombstone='skip'"):
        decode(batch([None, b"a"]), "uint8")

    records = batch([None, b"a"])
    assert decode(records, "uint8", tombstone="skip").values.tolist() == [[97]]
    assert records.account.skipped == {"tombstone": 1}


def test_a_null_key_is_an_error_or_is_skipped():
    with pytest.raises(DecodeError, match=r"t:3@101: .*key.*null.*null_key='skip'"):
        decode(batch([b"a", b"b"], [b"1", None]), "uint8", "uint8")

    records = batch([b"a", b"b"], [None, b"1"])
    assert decode(records, "uint8", "uint8", null_key="skip").offsets.tolist() == [101]
    assert records.account.skipped == {"null_key": 1}


def test_what_is_left_out_of_a_batch_comes_as_dead_letters_once_in_the_order_of_offsets():
    taken = []
    records = batch([b"abc", None, b"ab", b"cd"], [b"0", b"1", b"22", None])
    policies = dict.fromkeys(["on_error", "tombstone", "null_key"], "dead-letter")

    arrays = decode(records, "uint8", "uint8", elements=2, dead_letter=taken.append, **policies)

    assert len(arrays) == 0
    assert [[(letter.coordinates, letter.reason, letter.text) for letter in letters] for letters in taken] == [
        [
            ("t:3@100", "on_error", "wanted a value that fits: wanted 2 bytes (2 x uint8) found 3 bytes"),
            ("t:3@101", "tombstone", "wanted a value, found null (a tombstone)"),
            (
                "t:3@102",
                "on_error",
                "wanted a key (the label) that fits: wanted 1 bytes (1 x uint8), "
                "as the first record at t:3@100 has, found 2 bytes",
            ),
            ("t:3@103", "null_key", "wanted a key that holds the label, found null"),
        ]
    ]
    assert records.account.skipped == {"tombstone": 1, "null_key": 1, "on_error": 2}


def test_a_record_that_a_policy_drops_does_not_tell_the_size():
    keys = [b"long-key", b"1", b"2"]
    assert decode(batch([None, b"ab", b"cd"], keys), "uint8", "uint8", tombstone="skip").labels.tolist() == [[49], [50]]
    assert len(decode(batch([b"abc", b"ab", b"cd"], [None, b"1", b"2"]), "uint8", "uint8", null_key="skip")) == 2


@pytest.mark.parametrize("elements", [0, -1, 2.0, "4", True])
def test_a_senseless_number_of_elements_is_refused(elements):
    with pytest.raises(ConfigError, match="number of elements"):
        element_type("uint8", elements)


def test_all_records_may_be_skipped():
    assert len(decode(batch([None, None]), "uint8", tombstone="skip")) == 0


def test_text_and_bytes_keep_their_own_lengths():
    arrays = decode(batch(["grün".encode(), b""], [b"\xff", b"yes"]), "string", "bytes")

    assert list(arrays.values) == ["grün", ""]
    assert list(arrays.labels) == [b"\xff", b"yes"]


def test_text_that_is_not_utf8_names_its_place():
    with pytest.raises(DecodeError, match=r"t:3@102: .*UTF-8"):
        decode(batch([b"a", b"", b"\xff", b"b"]), "string")


def test_a_character_split_over_two_records_is_not_utf8():
    first, second = "ü".encode()[:1], "ü".encode()[1:]

    with pytest.raises(DecodeError, match="t:3@101"):
        decode(batch([b"a", first, second]), "string")


@given(st.lists(st.binary(max_size=6), min_size=1, max_size=10))
def test_exactly_the_records_that_are_not_utf8_are_skipped(values):
    def is_text(value):
        try:
            value.decode()
        except UnicodeDecodeError:
            return False
        return True

    arrays = decode(batch(values), "string", on_error="skip")

    assert list(arrays.values) == [value.decode() for value in values if is_text(value)]


def test_a_bool_byte_other_than_0_and_1_is_an_error():
    with pytest.raises(DecodeError, match=r"t:3@101: .*bool bytes 0 or 1, found another"):
        decode(batch([b"\x00\x01", b"\x00\x02"]), "bool")


@pytest.mark.parametrize("name", [*NUMBER_TYPES, "string", "bytes"])
def test_the_name_of_a_type_reads_back_as_the_type(name):
    assert element_type(type_name(element_type(name))) == element_type(name)


@pytest.mark.parametrize(
    ("value", "name", "encoded"),
    [
        (np.uint8([1, 2]), "uint8", b"\x01\x02"), (np.arange(6).reshape(2, 3).T, "uint8", bytes([0, 3, 1, 4, 2, 5])),
        (7, ">i2", b"\x00\x07"), (1.5, "float32", np.float32(1.5).tobytes()), ("ü", "string", "ü".encode()),
        (b"\x00", "bytes", b"\x00"), (True, "bool", b"\x01"),
    ],
)  # fmt: skip
def test_values_are_encoded_in_c_order(value, name, encoded):
    assert encode(value, element_type(name)) == encoded


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (300, "uint8"),
        (-1, "uint8"),
        (1.5, "int32"),
        (np.int8(-1), "uint8"),
        (np.uint8(200), "int8"),
        (-1, "uint64"),
        (2**53 + 1, "float64"),
        (1j, "f4"),
        ("a", "uint8"),
        (b"a", "string"),
        (7, "string"),
        ("a", "bytes"),
    ],
)
def test_a_value_that_would_change_is_refused(value, name):
    with pytest.raises(ConfigError, match="wanted a value of type"):
        encode(value, element_type(name))
