import pytest

from kafkapipes import ControlMessage, ControlMessageError, OffsetRange, PartitionReader, RangeError, RangeParser

CONFIG = {"data_type": "uint8"}
RANGE = OffsetRange("a", 0, 0, 1)


@pytest.mark.parametrize(
    "source",
    [
        "a:0:0:1",
        RANGE,
        ControlMessage("a:0:0:1", CONFIG),
        {"topic": "a:0:0:1", "input_config": CONFIG},
        ["a:0:0:1"],
        [RANGE],
        (RANGE,),
    ],
)
def test_every_kind_of_source_gives_its_ranges(source):
    assert list(RangeParser(source)) == [RANGE]


def test_an_iterable_gives_the_ranges_of_all_its_items_in_order():
    parser = RangeParser(["b:0:0:1,a:0:0:1", {"topic": "c:0:0:1", "input_config": CONFIG}])

    assert [item.topic for item in parser] == ["b", "a", "c"]


def test_a_bad_text_is_refused_at_construction():
    with pytest.raises(RangeError, match="part 'nonsense'"):
        RangeParser("nonsense")


def test_a_bad_control_message_is_refused_at_construction():
    with pytest.raises(ControlMessageError, match="no input_config"):
        RangeParser({"topic": "a:0:0:1"})


def test_a_source_of_another_kind_is_refused():
    with pytest.raises(RangeError, match="wanted a range text, a control message or an OffsetRange, found int"):
        list(RangeParser([7]))


@pytest.mark.parametrize("source", [None, 7, object()])
def test_what_is_no_source_is_refused_at_construction(source):
    with pytest.raises(RangeError, match="wanted ranges"):
        RangeParser(source)


def test_a_reader_of_texts_points_to_the_parser():
    with pytest.raises(RangeError, match="RangeParser"):
        list(PartitionReader(["a:0:0:1"], "127.0.0.1:1"))
