import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafkapipes.errors import RangeError
from kafkapipes.options import shown
from kafkapipes.ranges import MAX_OFFSET, AtTime, Last, OffsetRange, Symbol, format_ranges, parse_ranges, share_ranges

topics = st.from_regex(r"[a-zA-Z0-9._-]{1,30}", fullmatch=True).filter(lambda name: name not in (".", ".."))
offsets = st.integers(0, MAX_OFFSET)
starts = st.one_of(
    offsets, st.just(Symbol.EARLIEST), st.builds(Last, st.integers(1, MAX_OFFSET)), st.builds(AtTime, offsets)
)
ends = st.one_of(offsets, st.sampled_from([Symbol.LATEST, Symbol.UNBOUNDED]), st.builds(AtTime, offsets))
partitions = st.one_of(st.integers(0, 2**31 - 1), st.just(Symbol.ALL))


@st.composite
def ranges(draw):
    start, end = draw(starts), draw(ends)
    if isinstance(start, int) and isinstance(end, int):
        start, end = sorted((start, end))
    return OffsetRange(draw(topics), draw(partitions), start, end)


@given(st.lists(ranges(), min_size=1, max_size=5))
def test_formatting_then_parsing_gives_the_same_ranges(items):
    assert parse_ranges(format_ranges(items)) == items


@pytest.mark.parametrize(
    "text",
    [
        "clicks:0:0:100",
        "a:*:earliest:latest",
        "a:0:-10:latest",
        "a:0:@1700000000000:@1700000001000",
        "a:0:5:",
        "a:0:0:1,b:1:2:3",
    ],
)
def test_parsing_then_formatting_gives_the_same_text(text):
    assert format_ranges(parse_ranges(text)) == text


def test_every_symbol_of_the_grammar_is_understood():
    assert parse_ranges("t:*:earliest:latest") == [OffsetRange("t", Symbol.ALL, Symbol.EARLIEST, Symbol.LATEST)]
    assert parse_ranges("t:0:-7:@9") == [OffsetRange("t", 0, Last(7), AtTime(9))]
    assert parse_ranges("t:0:@3:*") == [OffsetRange("t", 0, AtTime(3), Symbol.UNBOUNDED)]


def test_blanks_around_parts_and_fields_are_allowed():
    assert parse_ranges(" a:0:0:1 ,\tb : 1 : 2 : 3 ") == [OffsetRange("a", 0, 0, 1), OffsetRange("b", 1, 2, 3)]


def test_ranges_may_repeat_overlap_and_be_empty():
    assert [len(item) for item in parse_ranges("a:0:0:10,a:0:5:15,a:0:5:15,a:0:7:7")] == [10, 10, 10, 0]


BAD_TEXTS = [
    "", ",", " ", "t", "t:0", "t:0:5", "t:0:1:2:3", "t:0:5:3", "t:-1:0:1", "t:0:0:-5", "t:0:0:9223372036854775808",
    "t:x:0:1", "t:0:x:1", "t:0:0:x", ":0:0:1", "t::0:1", "t:0::1", "t:0:latest:5", "t:0:0:earliest", "t:0:*:5",
    "t:0:-0:5", "t:0:-:5", "t:0:@:5", "t:0:@-1:5", "t:0:0:@x", "t:0:0:1,", ",t:0:0:1", "t:0:0:1,,t:0:0:1",
    "t:+1:0:1", "t:0:1_0:20", "t:0:1.0:2", "t:0:0x1:2", "t:٣:0:1",
    "t:0:0:1\n", "t\n:0:0:1", "a b:0:0:1", "tä:0:0:1", ".:0:0:1", "..:0:0:1",
    "a" * 250 + ":0:0:1", "t:2147483648:0:1", "t:0:EARLIEST:1", "t:0:0:1;u:0:0:1", "t/0/0/1", "t:0:0:" + "9" * 5000,
    "t:**:0:1",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_TEXTS)
def test_a_bad_text_is_refused_with_the_part_and_the_rule(text):
    with pytest.raises(RangeError, match=r"part .*topic:partition:start:end") as caught:
        parse_ranges(text)
    assert shown(text) in str(caught.value)


def test_the_error_names_the_part_and_the_whole_text():
    with pytest.raises(RangeError, match=r"part 'b:0:9:3' of 'a:0:0:1,b:0:9:3': start 9 lies behind end 3"):
        parse_ranges("a:0:0:1,b:0:9:3")


@pytest.mark.parametrize("text", [None, 5, b"t:0:0:1", ["t:0:0:1"]])
def test_what_is_not_text_is_refused(text):
    with pytest.raises(RangeError, match="a range text is a str"):
        parse_ranges(text)


def test_a_topic_of_249_characters_is_allowed():
    assert parse_ranges("a" * 249 + ":0:0:1")[0].topic == "a" * 249


@pytest.mark.parametrize(
    "fields", [("t", True, 0, 1), ("t", 0, 0.5, 1), ("t", 0, 0, "1"), (None, 0, 0, 1), ("t", 0, Symbol.ALL, 1)]
)
def test_a_range_of_wrong_types_is_refused(fields):
    with pytest.raises(RangeError):
        OffsetRange(*fields)


def test_a_symbolic_range_has_no_length_yet():
    with pytest.raises(TypeError, match="before its bounds are resolved"):
        len(OffsetRange("t", 0, 0, Symbol.LATEST))


def test_a_hundred_thousand_ranges_parse_and_more_are_refused():
    assert len(parse_ranges(",".join(["t:0:0:1"] * 100_000))) == 100_000

    with pytest.raises(RangeError, match="wanted at most 100000 ranges in a text, found 100001"):
        parse_ranges(",".join(["t:0:0:1"] * 100_001))


def test_a_long_text_is_cut_in_the_error():
    with pytest.raises(RangeError, match="characters") as caught:
        parse_ranges("t:0:0:1," * 10_000)
    assert len(str(caught.value)) < 1000


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 50)), max_size=6), st.integers(1, 9))
def test_the_shares_of_all_workers_hold_every_offset_once_and_in_order(bounds, instances):
    whole = [OffsetRange("t", place, start, start + length) for place, (start, length) in enumerate(bounds)]
    shares = [share_ranges(whole, instances, instance) for instance in range(instances)]

    offsets = [
        (item.partition, offset) for share in shares for _, item in share for offset in range(item.start, item.end)
    ]

    assert offsets == [(item.partition, offset) for item in whole for offset in range(item.start, item.end)]


@given(st.lists(st.integers(0, 50), max_size=6), st.integers(1, 9))
def test_shares_differ_in_size_by_one_at_most_and_each_range_has_an_owner(lengths, instances):
    whole = [OffsetRange("t", place, 0, length) for place, length in enumerate(lengths)]
    shares = [share_ranges(whole, instances, instance) for instance in range(instances)]
    sizes = [sum(len(item) for _, item in share) for share in shares]

    assert max(sizes) - min(sizes) <= 1
    assert {index for share in shares for index, _ in share} == set(range(len(whole)))
