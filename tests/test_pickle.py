"""Everything public is pickled: DataLoader workers under spawn get it so."""

import pickle

import numpy as np
import pytest
import torch

import kafkapipes
from kafkapipes import (
    ArrayBatch,
    AtTime,
    ByteDecoder,
    BytesColumn,
    BytesTensor,
    ControlMessage,
    DeadLetter,
    FromEnvironment,
    Last,
    OffsetRange,
    PartitionReader,
    RangeParser,
    RangeReport,
    ReadReport,
    RecordBatch,
    Reshaper,
    Symbol,
    TensorLoader,
    TextColumn,
    Transformer,
)


class Numbers:
    values = torch.arange(5)
    labels = transform = label_transform = None

    def __len__(self):
        return 5


RANGE = OffsetRange("t", 0, 0, 2)
ACCOUNT = RangeReport(RANGE, 0, 2)
COLUMN = BytesColumn.from_list([b"a", None])
PUBLIC = [
    RANGE, Last(3), AtTime(5), Symbol.ALL, ACCOUNT, ReadReport([ACCOUNT]), COLUMN, TextColumn.from_list([b"a"]),
    RecordBatch(np.arange(2), COLUMN, COLUMN, ACCOUNT),
    ArrayBatch(np.zeros((2, 3)), None, np.arange(2), ACCOUNT),
    BytesTensor(TextColumn.from_list([b"a"])), ControlMessage("t:0:0:1", {"data_type": "uint8"}),
    RangeParser("t:0:0:1"), PartitionReader([RANGE], "broker:9092"),
    ByteDecoder([], "uint8"), Reshaper([], "2 2"), Transformer([]),
    DeadLetter("t", 0, 1, "on_error", "DecodeError", "wanted"), FromEnvironment("KAFKA_PASSWORD"),
    TensorLoader(Numbers(), 2, shuffle=True),
]  # fmt: skip
NOT_PICKLED = {
    "DeadLetterTopic",
    "KafkaSink",
    "StreamIterator",
    "StreamingKafkaDataset",
    "TrainingKafkaDataset",
}  # need a broker: each has a test of its own
FUNCTIONS = {"as_stream", "format_ranges", "merge_states", "parse_ranges"}
WARNINGS = {"SecurityWarning"}


@pytest.mark.parametrize("item", PUBLIC, ids=lambda item: type(item).__name__)
def test_a_public_object_comes_back_from_pickling_as_it_was(item):
    again = pickle.loads(pickle.dumps(item))

    assert type(again) is type(item)
    assert repr(again) == repr(item)


def test_no_public_class_is_left_out():
    errors = {name for name in kafkapipes.__all__ if name.endswith("Error")}

    assert {type(item).__name__ for item in PUBLIC} | NOT_PICKLED | FUNCTIONS | WARNINGS | errors == set(
        kafkapipes.__all__
    )


def test_a_sink_says_that_it_cannot_be_pickled(embedded):
    embedded.create_topic("t")
    with kafkapipes.KafkaSink("t", embedded.bootstrap_servers) as sink, pytest.raises(TypeError, match="pickle"):
        pickle.dumps(sink)
