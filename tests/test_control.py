import json

import pytest

from kafkapipes.control import MAX_JSON_BYTES, ControlMessage
from kafkapipes.errors import ControlMessageError
from kafkapipes.ranges import OffsetRange

RAW = {"data_type": "uint8", "label_type": "uint8", "data_reshape": "28 28", "label_reshape": ""}
SEED = {
    "topic": "pytorch_mnist_test:0:0:20000,pytorch:0:20000:50000,pytorch_mnist_test:0:120000:140000",
    "input_config": RAW,
}
KAFKA_ML = {
    "topic": "automl:0:0:70000", "unsupervised_topic": None, "input_format": "RAW", "description": "Mnist dataset",
    "dataset_restrictions": {}, "input_config": RAW, "validation_rate": 0.1, "test_rate": 0.1, "total_msg": 70000,
    "incremental": False,
}  # fmt: skip


def test_only_topic_and_input_config_are_required():
    message = ControlMessage.from_dict(SEED)

    assert message.input_format == "RAW"
    assert sum(map(len, message.ranges)) == 70_000
    assert message.format.data_shape == (28, 28)


def test_a_kafka_ml_message_comes_back_unchanged():
    assert ControlMessage.from_dict(KAFKA_ML).to_dict() == KAFKA_ML
    assert json.loads(ControlMessage.from_json(json.dumps(KAFKA_ML)).to_json()) == KAFKA_ML


def test_what_kafka_mls_database_adds_is_understood():
    stored = {**KAFKA_ML, "input_config": json.dumps(RAW), "deployment": 7, "time": "2026-01-01T00:00:00Z"}

    message = ControlMessage.from_dict(stored)

    assert message.input_config == RAW
    assert message.to_dict()["deployment"] == 7


def test_the_callers_dictionary_is_not_kept():
    config = dict(RAW)
    message = ControlMessage("t:0:0:1", config)
    config["data_type"] = "float64"

    assert message.format.data_type == "uint8"


def test_an_unlabelled_dataset_needs_no_label_type():
    assert ControlMessage("t:0:0:1", {"data_type": "uint8"}).format.label_type is None


def changed(**fields):
    return {**KAFKA_ML, **fields}


BAD_MESSAGES = [
    ({}, "no topic and no input_config"),
    ({"topic": "t:0:0:1"}, "no input_config"),
    ({"input_config": RAW}, "no topic"),
    (changed(topic="t"), "topic:partition:start:end"),
    (changed(topic="t:0:5:1"), "start 5 lies behind end 1"),
    (changed(topic=7), "a range text is a str"),
    (changed(topic=["t:0:0:1"]), "a range text is a str"),
    (changed(input_format="AVRO"), "'AVRO'; supported: RAW"),
    (changed(input_format="raw"), "supported: RAW"),
    (changed(input_format=["RAW"]), "supported: RAW"),
    (changed(input_config=5), "input_config is 5"),
    (changed(input_config="{"), "found text that is not"),
    (changed(input_config="[]"), "wanted a JSON object"),
    (changed(input_config={}), "no data_type"),
    (changed(input_config={**RAW, "data_type": "uint7"}), "the type is 'uint7'"),
    (changed(input_config={**RAW, "data_type": "object"}), "the type is 'object'"),
    (changed(input_config={**RAW, "data_type": 8}), "data_type is 8"),
    (changed(input_config={**RAW, "label_type": "M8[s]"}), "the type is 'M8"),
    (changed(input_config={**RAW, "data_reshape": "28x28"}), "the shape is '28x28'"),
    (changed(input_config={**RAW, "label_reshape": "0"}), "the shape is '0'"),
    (changed(input_config={**RAW, "data_type": "string"}), "strings and bytes have no shape"),
    (changed(input_config={**RAW, "datatype": "uint8"}), "'datatype'; RAW knows data_type"),
    (changed(validation_rate=1.5), "validation_rate is 1.5"),
    (changed(test_rate="x"), "test_rate is 'x'"),
    (changed(test_rate=True), "test_rate is True"),
    (changed(test_rate=float("nan")), "test_rate is nan"),
    (changed(total_msg=-1), "total_msg is -1"),
    (changed(total_msg=1.5), "total_msg is 1.5"),
    (changed(incremental="no"), "incremental is 'no'"),
    (changed(bogus=1), r"unknown fields \['bogus'\]; known: topic"),
    ([], "found list"),
    (None, "found NoneType"),
]


@pytest.mark.parametrize(("message", "text"), BAD_MESSAGES)
def test_a_bad_message_is_refused_and_says_why(message, text):
    with pytest.raises(ControlMessageError, match=text):
        ControlMessage.from_dict(message)


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[1]", "7", '{"topic": "t:0:0:1"', "[" * 60_000, b"\xff\xfe", " " * (MAX_JSON_BYTES + 1)]
)
def test_what_is_not_a_json_object_is_refused(text):
    with pytest.raises(ControlMessageError, match="wanted"):
        ControlMessage.from_json(text)


def test_sixteen_levels_of_json_are_read_and_what_brackets_a_text_holds_does_not_count():
    deep = {
        **KAFKA_ML,
        "dataset_restrictions": json.loads("[" * 15 + "]" * 15),
        "description": "[" * 100 + '"' + "{" * 100,
    }

    assert ControlMessage.from_json(json.dumps(deep)).to_dict() == deep


def test_a_secret_in_an_unknown_field_is_not_echoed():
    with pytest.raises(ControlMessageError, match="unknown fields") as caught:
        ControlMessage.from_dict({**KAFKA_ML, "config": {"sasl.password": "hunter2"}})
    assert "hunter2" not in str(caught.value)


def test_ranges_come_in_the_order_written():
    message = ControlMessage("b:1:0:1,a:0:0:1", RAW)

    assert message.ranges == [OffsetRange("b", 1, 0, 1), OffsetRange("a", 0, 0, 1)]
