"""Whatever comes in, it is either understood or ends in the one error that is meant for it."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kafkapipes import (
    BytesColumn,
    ConfigError,
    ControlMessage,
    ControlMessageError,
    DecodeError,
    OffsetRange,
    RangeError,
    RangeReport,
    RecordBatch,
    format_ranges,
    parse_ranges,
)
from kafkapipes.dead_letters import LeftOut, RecordPolicies
from kafkapipes.formats.raw import RawDecoder, element_type
from kafkapipes.kafka.config import ClientConfig

ANY_TEXT = st.text(st.characters(), max_size=60)  # lone surrogates too
RANGE_LIKE = st.lists(
    st.sampled_from([*":::,-@* \t", "t", "click.s", "earliest", "latest", "0", "7", "99", "9223372036854775807"])
).map("".join)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=20,
)
FIELDS = st.sampled_from([*ControlMessage.__dataclass_fields__, "config"])
CONFIGS = st.fixed_dictionaries(
    {}, optional={name: JSON_VALUES for name in ("data_type", "label_type", "data_reshape", "label_reshape")}
)
MESSAGES = st.dictionaries(FIELDS, JSON_VALUES) | st.builds(
    lambda config, fields: {"topic": "t:0:0:1", "input_config": {"data_type": "u1", **config}, **fields},
    CONFIGS,
    st.dictionaries(FIELDS, JSON_VALUES, max_size=2),
)
TYPES = ["uint8", "int16", ">i4", "float32", ">f8", "complex64", "bool", "half"]
NAMES = st.sampled_from(
    ["client.id", "sasl.password", "security.protocol", "isolation.level", "fetch.min.bytes", "check.crcs", "error_cb",
     "enable.auto.commit", "auto.offset.reset", "group.id", "bootstrap.servers", "logger", "debug"]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT | st.binary(max_size=9)


def attempt(make, error):
    """What comes of it, and the text of the one error that it may end in."""
    try:
        return make(), None
    except error as exc:
        return None, str(exc)


def batch_of(values):
    columns = BytesColumn.from_list([None] * len(values)), BytesColumn.from_list(values)
    account = RangeReport(OffsetRange("clicks", 3, 0, len(values)), 0, len(values))
    return RecordBatch(np.arange(len(values)), *columns, account)


def decode(kind, values):
    decoder, left_out, batch = RawDecoder(kind, None), LeftOut(RecordPolicies()), batch_of(values)
    batch = decoder.without_nulls(batch, left_out)
    return decoder.sized_by(batch).decode(batch, left_out).values


@given(ANY_TEXT | RANGE_LIKE)
def test_any_text_is_ranges_that_come_back_or_a_range_error(text):
    ranges, refusal = attempt(lambda: parse_ranges(text), RangeError)

    if refusal is None:
        assert parse_ranges(format_ranges(ranges)) == ranges
    else:
        assert "topic:partition:start:end" in refusal


@given(MESSAGES | JSON_VALUES)
def test_any_value_is_a_control_message_that_comes_back_or_a_control_message_error(value):
    message, refusal = attempt(lambda: ControlMessage.from_dict(value), ControlMessageError)

    assert refusal or ControlMessage.from_json(message.to_json()) == message


@given(MESSAGES.map(json.dumps) | JSON_VALUES.map(json.dumps) | ANY_TEXT | st.binary())
def test_any_json_text_or_bytes_is_a_control_message_or_a_control_message_error(text):
    message, refusal = attempt(lambda: ControlMessage.from_json(text), ControlMessageError)

    assert refusal or message.ranges


@given(st.sampled_from(TYPES), st.none() | st.integers(1, 4), st.lists(st.none() | st.binary(max_size=20), min_size=1))
def test_any_bytes_are_numbers_of_the_declared_type_or_a_decode_error_with_coordinates(name, elements, values):
    array, refusal = attempt(lambda: decode(element_type(name, elements), values), DecodeError)

    if refusal is None:
        dtype = np.dtype(name)
        assert array.dtype == dtype.newbyteorder("=")
        assert array.shape == (len(values), elements or len(values[0]) // dtype.itemsize)
        assert array.astype(dtype).tobytes() == b"".join(values)
    else:
        assert "clicks:3@" in refusal


@given(st.lists(st.binary(max_size=8) | st.text(max_size=4).map(str.encode)))
def test_any_bytes_are_texts_or_a_decode_error_with_the_coordinates_of_the_first_that_is_none(values):
    column, refusal = attempt(lambda: decode(element_type("string"), values), DecodeError)

    texts = [attempt(value.decode, UnicodeDecodeError)[0] for value in values]
    if refusal is None:
        assert list(column) == texts
    else:
        assert f"at clicks:3@{texts.index(None)}:" in refusal


@given(
    st.just("b:9092") | ANY_TEXT | st.lists(ANY_TEXT, max_size=2),
    st.just("g") | ANY_TEXT,
    st.dictionaries(NAMES | ANY_TEXT, SCALARS, max_size=4),
)
def test_any_properties_are_those_of_a_safe_client_or_a_config_error(servers, group, properties):
    made, refusal = attempt(lambda: ClientConfig(servers, group, properties).consumer(), ConfigError)

    if refusal is None:
        forced = [
            made[name] for name in ("group.id", "enable.auto.commit", "auto.offset.reset", "enable.partition.eof")
        ]
        assert forced == [group, False, "error", True]
    else:
        assert all(char.isprintable() for char in refusal)
