"""StreamingKafkaDataset on the embedded broker: what comes, in which order, for which worker and rank."""

import copy
import gc
import multiprocessing
import os
import pickle
import threading
import weakref

import numpy as np
import pytest
import torch
from torch import distributed
from torch.utils.data import DataLoader

from kafkapipes import (
    ConfigError,
    ControlMessageError,
    DataLossError,
    DecodeError,
    RangeError,
    StreamingKafkaDataset,
    TopicError,
    TrainingKafkaDataset,
    format_ranges,
)
from kafkapipes.kafka.fetcher import Fetcher
from kafkapipes.testing import EmbeddedKafka
from kafkapipes.windows import Cycle

CONFIG = {"data_type": "uint8", "label_type": "uint8", "data_reshape": "2 3", "label_reshape": ""}
RECORDS = 240  # of topic clicks, numbered through; the label is the number
METHODS = [
    pytest.param(method, marks=pytest.mark.slow if method == "forkserver" else ())
    for method in multiprocessing.get_all_start_methods()
]
WAYS = {
    "in order": {},
    "shuffled": {"shuffle": True, "seed": 3},
    "shuffled in small blocks": {"shuffle": True, "block_records": 5, "window_blocks": 2},
}


def value(number):
    return np.arange(number, number + 6, dtype=np.uint16).astype(np.uint8)


@pytest.fixture(scope="module")
def clicks():
    """A topic of three partitions, and one of strings."""
    with EmbeddedKafka() as kafka:
        kafka.create_topic("clicks", partitions=3)
        for partition, numbers in enumerate((range(150), range(150, 190), range(190, RECORDS))):
            kafka.fill("clicks", [(value(number).tobytes(), bytes([number])) for number in numbers], partition)
        kafka.fill("words", [(f"word {number}".encode(), bytes([number])) for number in range(20)])
        yield kafka


def make(kafka, topic="clicks:0:0:150,clicks:1:0:40,clicks:2:0:50", layout=CONFIG, **options):
    return StreamingKafkaDataset({"topic": topic, "input_config": layout}, kafka.bootstrap_servers, "g", **options)


def labels_of(batches):
    return [labels.tolist() for _, labels in batches]


def flat(nested):
    return [item for part in nested for item in part]


@pytest.fixture
def fetched(monkeypatch):
    """The ranges that are fetched in this process."""
    ranges, original = [], Fetcher.fetch

    def fetch(self, account):
        ranges.append(account.range)
        return original(self, account)

    monkeypatch.setattr(Fetcher, "fetch", fetch)
    return ranges


# Samples and batches


def test_samples_come_as_from_the_dataset_in_memory(clicks):
    stream = list(make(clicks))
    whole = TrainingKafkaDataset(
        {"topic": "clicks:*:earliest:latest", "input_config": CONFIG}, clicks.bootstrap_servers, "g"
    )

    assert [int(label) for _, label in stream] == list(range(RECORDS))
    for (one, label), (other, other_label) in zip(stream, whole, strict=True):
        np.testing.assert_array_equal(one, other)
        assert type(one) is type(other)
        assert label == other_label
        assert type(label) is type(other_label)


def test_batches_are_tensors_of_values_and_scalar_labels_the_last_one_short(clicks):
    batches = list(make(clicks, batch_size=32))

    assert [len(labels) for _, labels in batches] == [32] * 7 + [16]
    values, labels = batches[4]
    assert (values.shape, values.dtype, labels.shape, labels.dtype) == ((32, 2, 3), torch.uint8, (32,), torch.uint8)
    assert values[5].tolist() == value(133).reshape(2, 3).tolist()
    assert flat(labels_of(batches)) == list(range(RECORDS))


@pytest.mark.parametrize("batch_size", [1, 7, 150, 1000])
def test_a_batch_may_reach_over_ranges_and_be_larger_than_all(clicks, batch_size):
    batches = labels_of(make(clicks, batch_size=batch_size))

    assert {len(batch) for batch in batches[:-1]} <= {batch_size}
    assert flat(batches) == list(range(RECORDS))


def test_without_a_label_type_a_batch_is_the_values_alone(clicks):
    batch = next(iter(make(clicks, layout={"data_type": "uint8"}, batch_size=4)))

    assert (type(batch), batch.shape) == (torch.Tensor, (4, 6))


def test_labels_of_several_elements_keep_their_shape(embedded):
    embedded.fill("t", [(b"ab", bytes(range(4)))] * 3)
    stream = make(
        embedded, "t:0:0:3", {"data_type": "uint8", "label_type": "uint8", "label_reshape": "2 2"}, batch_size=2
    )

    assert [labels.shape for _, labels in stream] == [(2, 2, 2), (1, 2, 2)]


@pytest.mark.parametrize("shuffle", [False, True])
def test_strings_come_as_lists(clicks, shuffle):
    stream = make(clicks, "words:0:0:20", {"data_type": "string", "label_type": "bytes"}, batch_size=8, shuffle=shuffle)
    batches = list(stream)

    assert [len(words) for words, _ in batches] == [8, 8, 4]
    assert {word: label for words, labels in batches for word, label in zip(words, labels, strict=True)} == {
        f"word {number}": bytes([number]) for number in range(20)
    }


def add_one(item):
    return item + 1


def test_transforms_are_called_with_each_sample_and_their_results_collated(clicks):
    samples = make(clicks, transform=np.sum, label_transform=int)
    batches = make(clicks, transform=add_one, label_transform=int, batch_size=100)

    assert next(iter(samples)) == (15, 0)
    values, labels = next(iter(batches))
    assert values[3].tolist() == (value(3) + 1).reshape(2, 3).tolist()
    assert (labels.dtype, labels[:3].tolist()) == (torch.int64, [0, 1, 2])


def test_a_batch_transform_is_called_with_whole_batches(clicks):
    both = make(clicks, batch_size=100, batch_transform=lambda values, labels: (values.float() / 2, labels.long()))
    alone = make(clicks, layout={"data_type": "uint8"}, batch_size=100, batch_transform=torch.Tensor.float)

    values, labels = next(iter(both))
    assert (values.dtype, values[1, 0, 0].item(), labels.dtype) == (torch.float32, 0.5, torch.int64)
    assert next(iter(alone)).dtype == torch.float32


@pytest.mark.parametrize("way", WAYS)
def test_samples_and_batches_tell_where_their_records_lie_if_asked_to(clicks, way):
    first = {0: 0, 1: 150, 2: 190}  # label of the first record of each partition
    samples = list(make(clicks, coordinates=True, **WAYS[way]))
    batches = list(DataLoader(make(clicks, coordinates=True, batch_size=16, **WAYS[way]), batch_size=None))
    loaded = list(DataLoader(make(clicks, coordinates=True, **WAYS[way]), batch_size=16, num_workers=2))

    assert {topic for _, _, (topic, _, _) in samples} == {"clicks"}
    assert all(label == first[partition] + offset for _, label, (_, partition, offset) in samples)
    for found in (batches, loaded):
        for _, labels, (topics, partitions, offsets) in found:
            assert (list(topics), partitions.dtype, offsets.dtype) == (
                ["clicks"] * len(labels),
                torch.int64,
                torch.int64,
            )
            assert labels.tolist() == [
                first[partition] + offset
                for partition, offset in zip(partitions.tolist(), offsets.tolist(), strict=True)
            ]


def test_a_value_alone_has_its_coordinates_beside_it(clicks):
    value, where = next(iter(make(clicks, layout={"data_type": "uint8"}, coordinates=True)))

    assert (value.shape, where) == ((6,), ("clicks", 0, 0))


def test_changing_a_batch_in_place_changes_no_other(clicks):
    for _, labels in zip(range(5), make(clicks, batch_size=10), strict=False):
        labels[0].zero_()

    assert flat(labels_of(make(clicks, batch_size=10))) == list(range(RECORDS))


def test_big_endian_numbers_become_native_tensors(embedded):
    embedded.fill("t", [(np.array([1.5, -2.0], ">f8").tobytes(), np.array(7, ">i4").tobytes())])
    ((values, labels),) = make(embedded, "t:0:0:1", {"data_type": ">f8", "label_type": ">i4"}, batch_size=2)

    assert (values.tolist(), labels.tolist()) == ([[1.5, -2.0]], [7])


@pytest.mark.parametrize("options", [{}, {"batch_size": 4}, {"batch_size": 4, "shuffle": True}])
def test_an_empty_range_is_an_empty_stream(clicks, options):
    assert list(make(clicks, "clicks:0:5:5", **options)) == []


# Order


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("batch_size", [None, 16])
def test_every_record_comes_once_in_an_order_that_is_the_same_again(clicks, way, batch_size):
    def order():
        stream = make(clicks, batch_size=batch_size, **WAYS[way])
        return flat(labels_of(stream)) if batch_size else [int(label) for _, label in stream]

    found = order()
    assert sorted(found) == list(range(RECORDS))
    assert (found == list(range(RECORDS))) == (way == "in order")
    assert order() == found


@pytest.mark.parametrize("way", WAYS)
def test_batches_come_in_the_same_sequence_for_any_number_of_workers(clicks, way):
    def sequence(workers):
        return labels_of(DataLoader(make(clicks, batch_size=11, **WAYS[way]), batch_size=None, num_workers=workers))

    assert (
        sequence(0) == sequence(1) == sequence(2) == sequence(3) == labels_of(make(clicks, batch_size=11, **WAYS[way]))
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_samples_are_shared_out_to_workers_each_once(clicks, way, workers):
    loader = DataLoader(make(clicks, **WAYS[way]), batch_size=7, num_workers=workers)

    assert sorted(flat(labels_of(loader))) == list(range(RECORDS))


@pytest.mark.parametrize(
    ("layout", "records"),
    [
        ({"data_type": "uint8", "data_reshape": "100", "label_type": "uint8"}, 2**22 // 101),
        ({"data_type": "uint8", "data_reshape": "100", "label_type": "float32", "label_reshape": "3"}, 2**22 // 112),
        ({"data_type": "float32", "data_reshape": "28 28"}, 2**22 // 3136),
        ({"data_type": "float32", "label_type": "uint8"}, 4096),
        ({"data_type": "uint8", "data_reshape": "1", "label_type": "uint8"}, 65_536),
    ],
)
def test_a_block_has_four_mebibytes_where_the_size_of_a_value_is_declared(clicks, layout, records):
    assert iter(make(clicks, layout=layout)).state_dict()["order"]["block"] == records


def test_epochs_differ_in_order_and_come_again_by_their_number(clicks):
    stream = make(clicks, batch_size=16, shuffle=True)
    first = labels_of(stream)
    stream.set_epoch(1)
    second = labels_of(stream)
    stream.set_epoch(0)

    assert (first != second, sorted(flat(second))) == (True, list(range(RECORDS)))
    assert labels_of(stream) == first
    assert labels_of(make(clicks, batch_size=16, shuffle=True, seed=1)) != first


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_that_live_on_see_the_epoch(clicks, method):
    stream = make(clicks, batch_size=16, shuffle=True)
    options = {"persistent_workers": True, "multiprocessing_context": method}
    loader, found = DataLoader(stream, batch_size=None, num_workers=2, **options), []
    for epoch in range(3):
        stream.set_epoch(epoch)
        found.append(labels_of(loader))

    assert found[0] != found[1] != found[2]
    for epoch, labels in enumerate(found):
        stream.set_epoch(epoch)
        assert labels == labels_of(stream)


def test_one_dataset_may_be_iterated_by_several_at_once(clicks):
    stream = make(clicks, batch_size=10)

    assert [(first[1].tolist(), second[1].tolist()) for first, second in zip(stream, stream, strict=True)] == [
        (labels, labels) for labels in labels_of(stream)
    ]


def test_words_for_bounds_are_resolved_once(embedded):
    embedded.fill("t", [(bytes([number]), None) for number in range(10)])
    stream = make(embedded, "t:0:-5:latest", {"data_type": "uint8"}, batch_size=4)
    embedded.fill("t", [(b"x", None)] * 5)

    assert format_ranges(stream.ranges) == "t:0:5:10"
    assert flat(batch.flatten().tolist() for batch in stream) == [5, 6, 7, 8, 9]


# Ranks


@pytest.mark.parametrize("batch_size", [None, 9])
@pytest.mark.parametrize("way", WAYS)
def test_ranks_share_the_records(clicks, batch_size, way):
    ranks = [
        flat(labels_of(make(clicks, batch_size=batch_size, rank=rank, world_size=4, **WAYS[way])))
        if batch_size
        else [int(label) for _, label in make(clicks, rank=rank, world_size=4, **WAYS[way])]
        for rank in range(4)
    ]

    assert [len(rank) for rank in ranks] == [60] * 4
    assert sorted(flat(ranks)) == list(range(RECORDS))


def test_ranks_and_workers_share_the_records_together(clicks):
    loaders = [
        DataLoader(make(clicks, shuffle=True, rank=rank, world_size=3), batch_size=8, num_workers=2)
        for rank in range(3)
    ]

    assert sorted(flat(flat(map(labels_of, loaders)))) == list(range(RECORDS))


@pytest.mark.parametrize("batch_size", [None, 7])
@pytest.mark.parametrize(("equal_ranks", "total"), [("drop", 238), ("pad", 245), (None, 240)])
def test_equal_ranks_drop_or_repeat_a_few(clicks, batch_size, equal_ranks, total):
    options = {"batch_size": batch_size, "world_size": 7, "equal_ranks": equal_ranks, "shuffle": True}
    ranks = [list(make(clicks, rank=rank, **options)) for rank in range(7)]

    counts = [sum(labels.size if batch_size is None else len(labels) for _, labels in rank) for rank in ranks]
    assert sum(counts) == total
    assert (len(set(counts)) == 1) == (equal_ranks is not None)


def test_the_length_is_known_where_ranks_are_equal_and_else_said_not_to_be(clicks):
    stream = make(clicks, batch_size=16, rank=0, world_size=2, equal_ranks="drop")

    assert len(stream) == len(DataLoader(stream, batch_size=None, num_workers=2)) == len(list(stream)) == 8
    assert len(make(clicks, rank=0, world_size=7, equal_ranks="pad")) == 35
    with pytest.raises(TypeError, match="no length before it is read"):
        len(make(clicks))
    assert make(clicks)


def test_arguments_come_before_torch_and_torch_before_the_environment(clicks, monkeypatch, tmp_path):
    def first_label(**options):
        return int(next(iter(make(clicks, **options)))[1])

    assert first_label() == 0
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert first_label() == 120
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        assert first_label() == 0
        assert first_label(rank=3, world_size=4) == 180
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize(
    "environment", [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "x", "WORLD_SIZE": "2"}, {"RANK": "1"}]
)
def test_an_environment_that_makes_no_sense_is_no_rank(clicks, monkeypatch, environment):
    for name, text in environment.items():
        monkeypatch.setenv(name, text)

    assert len(list(make(clicks))) == RECORDS


class RankOneOfTwo:
    """Stands in for an initialised torch.distributed."""

    def __init__(self, monkeypatch):
        monkeypatch.setattr(distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(distributed, "get_rank", lambda: 1)
        monkeypatch.setattr(distributed, "get_world_size", lambda: 2)


@pytest.mark.parametrize("method", METHODS)
def test_workers_have_the_rank_of_their_parent_and_its_sequence_however_they_are_started(clicks, monkeypatch, method):
    RankOneOfTwo(monkeypatch)
    stream = make(clicks, batch_size=7, shuffle=True)
    loader = DataLoader(stream, batch_size=None, num_workers=2, multiprocessing_context=method)

    found = labels_of(loader)
    assert found == labels_of(stream)
    assert len(flat(found)) == 120


def test_a_copy_made_before_torch_knows_the_rank_learns_it_later(clicks, monkeypatch):
    stream = copy.deepcopy(make(clicks))
    RankOneOfTwo(monkeypatch)

    assert int(next(iter(stream))[1]) == 120


def test_words_for_bounds_are_refused_on_several_ranks(clicks):
    stream = make(clicks, "clicks:0:earliest:latest", rank=0, world_size=2)

    with pytest.raises(RangeError, match=r"resolve them once, format_ranges\(dataset.ranges\)"):
        iter(stream)


# What is read


def test_a_pass_in_order_reads_each_range_in_one_go(clicks, fetched):
    labels_of(make(clicks, batch_size=16))

    assert format_ranges(fetched) == "clicks:0:0:150,clicks:1:0:40,clicks:2:0:50"


def test_nothing_is_read_before_the_first_item_is_asked_for(clicks, fetched):
    iterator = iter(make(clicks, batch_size=16))

    assert fetched == []
    next(iterator)
    assert fetched != []


def test_the_report_adds_up(clicks):
    stream = make(clicks, batch_size=16, shuffle=True)
    assert [account.finished for account in stream.report] == [False] * 3
    labels_of(stream)

    assert (stream.report.requested, stream.report.delivered) == (240, 240)
    assert [account.finished for account in stream.report] == [True] * 3
    assert "150 of 150 delivered" in str(stream.report[0])


def test_without_reading_ahead_everything_comes_too(clicks):
    assert flat(labels_of(make(clicks, batch_size=16, prefetch_blocks=0))) == list(range(RECORDS))


def readers_alive():
    return [thread for thread in threading.enumerate() if thread.name == "kafkapipes-ahead"]


def test_an_iterator_that_is_left_ends_what_reads_ahead(clicks):
    for _ in make(clicks, batch_size=16, block_records=16, prefetch_blocks=1):
        break
    gc.collect()

    assert readers_alive() == []


@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize("shuffle", [False, True])
def test_what_was_handed_out_is_held_no_longer(clicks, shuffle, batch_size):
    """Nor until the garbage collector comes, to which arrays weigh nothing."""
    gc.collect()
    gc.disable()
    try:
        cycles = weakref.WeakSet()
        stream = make(clicks, batch_size=batch_size, shuffle=shuffle, block_records=4, window_blocks=1)
        for number, _ in enumerate(stream):
            if number % 15 == 0:
                cycles.update(item for item in gc.get_objects() if type(item) is Cycle)
        assert len(cycles) <= 3  # the last, which is still the loop's, and what was read ahead of it
    finally:
        gc.enable()


def test_an_iterator_that_is_closed_is_at_its_end(clicks):
    iterator = iter(make(clicks, batch_size=16))
    next(iterator)
    iterator.close()

    assert readers_alive() == []
    assert list(iterator) == []


# Policies and errors


def test_records_that_a_policy_leaves_out_make_batches_smaller_and_are_counted(embedded):
    embedded.fill("t", [(b"ab", b"0"), (b"abc", b"1"), (None, b"2"), (b"cd", None), (b"ef", b"4"), (b"gh", b"5")])
    config = {"data_type": "uint8", "label_type": "uint8", "data_reshape": "2"}
    letters = []
    stream = make(
        embedded, "t:0:0:6", config, batch_size=2, tombstone="skip", null_key="skip", on_error="dead-letter",
        dead_letter=letters.extend, prefetch_blocks=0,
    )  # fmt: skip

    assert labels_of(stream) == [[ord("0")], [ord("4"), ord("5")]]
    assert stream.report[0].skipped == {"tombstone": 1, "null_key": 1, "on_error": 1}
    assert [letter.coordinates for letter in letters] == ["t:0@1"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_record_that_does_not_fit_is_an_error_with_its_coordinates(embedded, workers):
    embedded.fill("t", [(b"ab", b"0"), (b"abc", b"1")])
    stream = make(embedded, "t:0:0:2", {"data_type": "uint8", "data_reshape": "2"}, batch_size=1)

    with pytest.raises(DecodeError, match="t:0@1"):
        list(DataLoader(stream, batch_size=None, num_workers=workers))


@pytest.mark.parametrize("workers", [0, 1])  # torch gives each that has failed 5 seconds to end
@pytest.mark.parametrize(
    ("topic", "text"),
    [("clicks:0:0:500", "ends behind the log"), ("clicks:0:400:500", "ends behind the log")],
)
def test_a_range_that_the_log_does_not_hold_is_an_error_before_the_first_item(clicks, topic, text, workers, fetched):
    stream = make(clicks, topic, batch_size=16)

    with pytest.raises(DataLossError, match=text):
        list(DataLoader(stream, batch_size=None, num_workers=workers))
    assert fetched == []


def test_a_range_that_ends_behind_the_log_stops_there_if_asked_to(clicks):
    stream = make(clicks, "clicks:2:0:500", batch_size=20, on_short="stop")

    assert [len(labels) for _, labels in stream] == [20, 20, 10]
    assert stream.report[0].unwritten == 450


def test_waiting_for_records_goes_with_one_reader_in_order_only(clicks):
    for options in ({"shuffle": True}, {"rank": 0, "world_size": 2}):
        with pytest.raises(ConfigError, match="wanted one reader that goes through the ranges in their order"):
            iter(make(clicks, "clicks:2:0:60", on_short="wait", **options))


def test_records_that_are_yet_to_be_written_are_waited_for(embedded):
    embedded.fill("t", [(bytes([number]), None) for number in range(5)])
    stream = make(embedded, "t:0:0:8", {"data_type": "uint8"}, on_short="wait")
    samples = iter(stream)
    found = [int(next(samples)[0])]
    embedded.fill("t", [(bytes([number]), None) for number in range(5, 8)])

    assert found + [int(sample[0]) for sample in samples] == list(range(8))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"batch_size": 0}, ConfigError), ({"batch_size": True}, ConfigError), ({"block_records": 0}, ConfigError),
        ({"window_blocks": 0}, ConfigError), ({"prefetch_blocks": -1}, ConfigError), ({"seed": -1}, ConfigError),
        ({"seed": 0.5}, ConfigError), ({"rank": 0}, ConfigError), ({"rank": 2, "world_size": 2}, ConfigError),
        ({"rank": -1, "world_size": 2}, ConfigError), ({"equal_ranks": "cut"}, ConfigError),
        ({"on_short": "go"}, ConfigError), ({"on_data_loss": "go"}, ConfigError), ({"on_error": "go"}, ConfigError),
        ({"stall_timeout_s": 0}, ConfigError), ({"connect_timeout_s": 0}, ConfigError),
        ({"batch_transform": abs}, ConfigError), ({"max_skipped": -1}, ConfigError),
        ({"config": {"enable.auto.commit": True}}, ConfigError), ({"topic": "clicks"}, ControlMessageError),
        ({"config": {"group.id": "x"}}, ConfigError), ({"topic": "clicks:9:0:1"}, TopicError),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_when_it_is_made(clicks, options, error):
    with pytest.raises(error):
        make(clicks, **options)


def test_batches_of_a_type_that_torch_has_not_are_refused(clicks):
    with pytest.raises(ConfigError, match="torch has no tensors of"):
        make(clicks, layout={"data_type": "longdouble"}, batch_size=2)


def test_the_epoch_is_a_number_from_0(clicks):
    for epoch in (-1, 0.5, "1", None):
        with pytest.raises(ConfigError, match="epoch is"):
            make(clicks).set_epoch(epoch)


def test_it_prints_itself_in_a_line_without_its_secrets(clicks):
    stream = make(clicks, batch_size=16, config={"sasl.password": "hunter2"})

    assert repr(stream) == "StreamingKafkaDataset(batches of 16 from 3 range(s), epoch 0)"
    assert repr(iter(stream)) == "StreamIterator(epoch 0, 0 item(s) passed)"
    assert b"hunter2" not in pickle.dumps(stream)


def test_pickled_it_gives_the_same_stream(clicks):
    stream = make(clicks, batch_size=16, shuffle=True)
    stream.set_epoch(2)

    assert labels_of(pickle.loads(pickle.dumps(stream))) == labels_of(stream)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_an_iterator_does_not_go_on_in_a_fork(clicks):
    iterator = iter(make(clicks, block_records=4, prefetch_blocks=1))
    next(iterator)
    reading, writing = os.pipe()
    if os.fork() == 0:
        try:
            list(iterator)
        except Exception as exc:
            os.write(writing, str(exc).encode())
        os._exit(0)
    os.close(writing)

    assert b"no consumer survives a fork" in os.read(reading, 1000)
    assert len(list(iterator)) == RECORDS - 1
