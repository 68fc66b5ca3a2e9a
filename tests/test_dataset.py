import pickle
import signal
import subprocess
import sys
import time
from functools import partial
from inspect import signature

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset
from torchdata.stateful_dataloader import StatefulDataLoader

from kafkapipes import (
    ByteDecoder,
    BytesTensor,
    ConfigError,
    ControlMessage,
    ControlMessageError,
    DecodeError,
    MemoryLimitError,
    RangeError,
    TensorLoader,
    TrainingKafkaDataset,
)
from kafkapipes import dataset as dataset_module
from kafkapipes.kafka import fetcher
from kafkapipes.kafka.direct import open_reader
from kafkapipes.kafka.native import VARIABLE
from kafkapipes.memory import MachineLimit, Memory

CONFIG = {"data_type": "uint8", "label_type": "uint8", "data_reshape": "2 3", "label_reshape": ""}


def value(index):
    return np.arange(index, index + 6, dtype=np.uint8)


@pytest.fixture
def clicks(embedded):
    """50 records in partition 0 and 30 in partition 1, numbered through; the label is the number."""
    embedded.create_topic("clicks", partitions=2)
    embedded.fill("clicks", [(value(index).tobytes(), bytes([index])) for index in range(50)], 0)
    embedded.fill("clicks", [(value(index).tobytes(), bytes([index])) for index in range(50, 80)], 1)
    return embedded


def make(kafka, topic="clicks:*:earliest:latest", config=CONFIG, **options):
    return TrainingKafkaDataset({"topic": topic, "input_config": config}, kafka.bootstrap_servers, "sink", **options)


def shift(array):
    array += 100  # in place: the dataset's own memory must not change
    return array


def test_samples_are_value_and_scalar_label_in_the_order_written(clicks):
    dataset = make(clicks, "clicks:1:0:5,clicks:0:0:0,clicks:0:10:12")

    assert [int(label) for _, label in dataset] == [50, 51, 52, 53, 54, 10, 11]
    np.testing.assert_array_equal(dataset[5][0], value(10).reshape(2, 3))
    assert isinstance(dataset[5][1], np.uint8)


def test_values_and_labels_are_contiguous_tensors(clicks):
    dataset = make(clicks)

    assert (dataset.values.shape, dataset.values.dtype, dataset.labels.shape) == ((80, 2, 3), torch.uint8, (80,))
    assert dataset.values.is_contiguous()
    assert dataset.values.untyped_storage().nbytes() == 80 * 6


@pytest.mark.parametrize("client", ["direct", "native"])
@pytest.mark.parametrize("readers", [2, 3, 7])
@pytest.mark.parametrize("config", [CONFIG, {"data_type": "bytes", "label_type": "uint8"}, {"data_type": "string"}])
def test_samples_do_not_depend_on_the_number_of_readers(clicks, readers, config, client, monkeypatch):
    pytest.importorskip("kafkapipes.kafka._native", reason="kafkapipes was installed without its extensions")
    monkeypatch.setenv(VARIABLE, client)
    text = "clicks:1:2:29,clicks:0:0:0,clicks:0:0:50,clicks:1:5:9"
    one = make(clicks, text, config, readers=1)
    several = make(clicks, text, config, readers=readers, batch_records=3)

    assert len(several) == len(one) == 81
    for left, right in zip(several, one, strict=True):
        np.testing.assert_equal(left, right)
    assert [several.coordinates(row) for row in range(81)] == [one.coordinates(row) for row in range(81)]
    assert [account.delivered for account in several.report] == [27, 0, 50, 4]
    assert all(account.finished for account in several.report)


@pytest.mark.parametrize("readers", [1, 2, 4])
def test_records_that_are_left_out_are_counted_over_all_readers(embedded, readers):
    records = [(b"ab" if number % 5 else b"a", bytes([number])) for number in range(200)]
    embedded.fill("clicks", records)
    config = {"data_type": "uint8", "label_type": "uint8", "data_reshape": "2"}

    dataset = make(embedded, "clicks:0:0:200", config, on_error="skip", readers=readers, batch_records=7)

    assert dataset.labels.tolist() == [number for number in range(200) if number % 5]
    assert [dataset.coordinates(row)[2] for row in range(160)] == dataset.labels.tolist()
    assert dataset.report[0].skipped == {"on_error": 40}
    with pytest.raises(DecodeError, match="max_skipped"):
        make(embedded, "clicks:0:0:200", config, on_error="skip", readers=readers, max_skipped=39)


@pytest.mark.parametrize("readers", [1, 2, 4])
def test_the_first_record_tells_the_size_however_many_read(embedded, readers):
    embedded.fill("clicks", [(b"ab", b"")] + [(b"abc", b"")] * 59)

    dataset = make(embedded, "clicks:0:0:60", {"data_type": "uint8"}, on_error="skip", readers=readers, batch_records=9)

    assert dataset.values.shape == (1, 2)
    assert dataset.report[0].skipped == {"on_error": 59}


def readers_of(kafka, monkeypatch, config=CONFIG, **options):
    """How many clients a dataset of 50 records is read by where 10 offsets pay for a reader, with 2 processors."""
    opened = []
    monkeypatch.setattr(dataset_module, "_OFFSETS_A_READER", 10)
    monkeypatch.setattr(dataset_module, "_processors", lambda: 2)
    monkeypatch.setattr(fetcher, "open_reader", lambda *args, **named: opened.append(1) or open_reader(*args, **named))
    make(kafka, "clicks:0:0:50", config, **options)
    return len(opened)


def test_as_many_readers_as_pay_off_read_where_no_number_is_given(clicks, monkeypatch):
    assert readers_of(clicks, monkeypatch) == 3
    assert readers_of(clicks, monkeypatch, readers=1) == 1
    assert readers_of(clicks, monkeypatch, on_short="wait") == 1
    assert readers_of(clicks, monkeypatch, {"data_type": "bytes"}) == 1


@pytest.mark.parametrize("readers", [0, -1, 257, True, 1.0, "2"])
def test_a_senseless_number_of_readers_is_refused(readers):
    with pytest.raises(ConfigError, match=r"readers is .*, wanted a whole number from 1 to 256"):
        TrainingKafkaDataset({"topic": "t:0:0:1", "input_config": CONFIG}, "localhost:1", "g", readers=readers)


def test_length_is_exact(clicks):
    assert len(make(clicks, "clicks:0:0:7,clicks:1:0:3")) == 10


def test_a_value_is_a_fresh_array_that_a_transform_may_change(clicks):
    dataset = make(clicks, transform=shift)

    first, again = dataset[0][0], dataset[0][0]

    assert first.tolist() == again.tolist() == [[100, 101, 102], [103, 104, 105]]
    assert dataset.values[0].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_transforms_run_at_each_access(clicks):
    seen = []
    dataset = make(
        clicks, transform=lambda array: seen.append("value") or array, label_transform=lambda label: -int(label)
    )
    assert seen == []

    assert (dataset[3][1], dataset[3][1], len(seen)) == (-3, -3, 2)


def test_negative_indices_slices_and_lists_of_indices_work(clicks):
    dataset = make(clicks)

    assert dataset[-1][1] == 79
    assert [int(label) for _, label in dataset[1:7:2]] == [1, 3, 5]
    for index in ([4, -1], (4, 79), np.array([4, 79]), torch.tensor([4, 79])):
        assert [int(label) for _, label in dataset[index]] == [4, 79]
    assert dataset[torch.tensor(4)][1] == dataset[np.int64(4)][1] == 4


def test_samples_at_several_indices_are_copies_also_of_one_another(clicks):
    dataset = make(clicks, transform=shift)

    samples = dataset[[3, 3]]

    assert [image[0, 0] for image, _ in samples] == [103, 103]
    assert dataset.values[3, 0, 0] == 3


@pytest.mark.parametrize("index", [80, -81, 10**30, [0, 80], [-81], [10**30], torch.tensor([80])])
def test_an_index_outside_is_an_index_error(clicks, index):
    with pytest.raises(IndexError, match="of 80"):
        make(clicks)[index]


@pytest.mark.parametrize("index", [1.5, "1", None, True, ["1"], [0, True], np.array([True] * 80)])
def test_what_is_no_index_is_a_type_error(clicks, index):
    with pytest.raises(TypeError):
        make(clicks)[index]


def test_coordinates_name_the_record_of_a_sample(clicks):
    dataset = make(clicks, "clicks:1:3:5,clicks:0:7:7,clicks:0:20:22")

    assert [dataset.coordinates(index) for index in range(-4, 0)] == [
        ("clicks", 1, 3), ("clicks", 1, 4), ("clicks", 0, 20), ("clicks", 0, 21),
    ]  # fmt: skip


def test_skipped_records_do_not_shift_the_coordinates(embedded):
    embedded.fill("clicks", [(b"a", b"0"), (b"bb", b"1"), (None, b"2"), (b"d", None), (b"e", b"4")])
    config = {"data_type": "uint8", "label_type": "uint8", "data_reshape": "1"}
    dataset = make(embedded, "clicks:0:0:5", config, on_error="skip", tombstone="skip", null_key="skip")

    assert [dataset.coordinates(index)[2] for index in range(len(dataset))] == [0, 4]
    assert dataset.report[0].skipped == {"tombstone": 1, "null_key": 1, "on_error": 1}


def test_ranges_and_report_hold_the_resolved_bounds(clicks):
    dataset = make(clicks, "clicks:*:-5:latest")

    assert list(map(str, dataset.ranges)) == ["clicks:0:45:50", "clicks:1:25:30"]
    assert (dataset.report.requested, dataset.report.delivered) == (10, 10)


def test_labels_of_several_elements_get_their_shape(embedded):
    embedded.fill("clicks", [(b"ab", bytes(range(4)))])
    dataset = make(embedded, "clicks:0:0:1", {**CONFIG, "data_reshape": "", "label_reshape": "2 2"})

    sample, label = dataset[0]

    assert (sample.tolist(), label.tolist()) == ([97, 98], [[0, 1], [2, 3]])
    assert dataset.labels.shape == (1, 2, 2)


def test_big_endian_numbers_become_native_tensors(embedded):
    embedded.fill("clicks", [(np.array([1.5, -2.0], ">f8").tobytes(), np.array(7, ">i4").tobytes())])
    dataset = make(embedded, "clicks:0:0:1", {"data_type": ">f8", "label_type": ">i4"})

    assert (dataset.values.tolist(), dataset.labels.tolist()) == ([[1.5, -2.0]], [7])


def test_strings_and_bytes_are_samples_too(embedded):
    embedded.fill("clicks", [("grün".encode(), b"\xff\x00"), (b"", b"")])
    dataset = make(embedded, "clicks:0:0:2", {"data_type": "string", "label_type": "bytes"}, transform=str.upper)

    assert list(dataset) == [("GRÜN", b"\xff\x00"), ("", b"")]
    assert isinstance(dataset.values, BytesTensor)
    assert dataset.values[:] == ["grün", ""]
    assert pickle.loads(pickle.dumps(dataset.values))[0] == "grün"


def test_strings_are_found_by_index_slice_and_from_the_end(embedded):
    embedded.fill("words", [(word.encode(), None) for word in ("a", "", "grün", "d")])
    words = make(embedded, "words:0:0:4", {"data_type": "string"}).values

    assert (words[2], words[-1], words[::-2], len(words)) == ("grün", "d", ["d", ""], 4)
    with pytest.raises(IndexError, match="of 4"):
        words[4]


def test_without_a_label_type_a_sample_is_the_value_alone(embedded):
    embedded.fill("clicks", [(b"ab", None)])
    dataset = make(embedded, "clicks:0:0:1", {"data_type": "uint8"})

    assert dataset[0].tolist() == [97, 98]
    assert [value.tolist() for value in dataset[:]] == [[97, 98]]
    assert [values.tolist() for values in dataset.loader()] == [[[97, 98]]]
    assert dataset.labels is None


@pytest.mark.parametrize(
    ("config", "shape"),
    [(CONFIG, (0, 2, 3)), ({**CONFIG, "data_reshape": ""}, (0, 0)), ({**CONFIG, "data_reshape": "-1 3"}, (0, 0, 3))],
)
def test_an_empty_range_is_an_empty_dataset(clicks, config, shape):
    dataset = make(clicks, "clicks:0:5:5", config)

    assert (len(dataset), tuple(dataset.values.shape), tuple(dataset.labels.shape)) == (0, shape, (0,))
    assert list(dataset) == []


def test_an_empty_range_of_strings_is_an_empty_dataset(clicks):
    dataset = make(clicks, "clicks:0:5:5", {"data_type": "string", "label_type": "string"})

    assert (len(dataset), list(dataset)) == (0, [])


def test_a_wrong_size_raises_before_anything_is_kept(clicks):
    with pytest.raises(DecodeError, match=r"clicks:0@0: .*wanted 784 bytes \(784 x uint8\) found 6"):
        make(clicks, config={**CONFIG, "data_reshape": "28 28"})


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({}, ControlMessageError), ("nonsense", ControlMessageError), ({"topic": "clicks:0:0:1"}, ControlMessageError),
        ({"topic": "clicks:0:0:", "input_config": CONFIG}, RangeError),
        ({"topic": "clicks:0:0:1", "input_config": {"data_type": "longdouble"}}, ConfigError),
        ({"topic": "clicks:0:0:1", "input_config": {"data_type": "u1", "label_type": ">c32"}}, ConfigError),
    ],
)  # fmt: skip
def test_a_bad_control_message_is_refused_before_any_connection(message, error):
    began = time.monotonic()

    with pytest.raises(error):
        TrainingKafkaDataset(message, "127.0.0.1:1", "sink")
    assert time.monotonic() - began < 1


class Untouched(ByteDecoder):
    """A decoder of which nothing may be read."""

    def __iter__(self):
        raise AssertionError("a record was read")


def test_a_declared_size_times_the_offsets_is_refused_before_any_record_is_read(clicks, monkeypatch):
    monkeypatch.setattr("kafkapipes.dataset.ByteDecoder", Untouched)

    with pytest.raises(MemoryLimitError, match=r"80 offset\(s\) x 7 bytes a sample = 560 bytes"):
        make(clicks, "clicks:0:0:50,clicks:1:0:30", max_bytes=559)


def test_what_fits_exactly_is_read(clicks):
    assert len(make(clicks, max_bytes=560)) == 80


def test_only_offsets_that_can_be_read_count(clicks):
    assert len(make(clicks, "clicks:0:40:1000000", max_bytes=70, on_short="stop")) == 10


@pytest.mark.parametrize(("most", "fits"), [(560, True), (559, False)])
def test_an_undeclared_size_is_checked_when_the_first_batch_tells_it(clicks, most, fits):
    config = {"data_type": "uint8", "label_type": "uint8"}
    if fits:
        assert len(make(clicks, config=config, max_bytes=most)) == 80
    else:
        with pytest.raises(MemoryLimitError, match=r"80 offset\(s\) x 7 bytes a sample"):
            make(clicks, config=config, max_bytes=most)


def test_strings_count_as_they_come(embedded):
    embedded.fill("words", [(b"x" * 100, None)] * 50)
    config = {"data_type": "string"}

    assert len(make(embedded, "words:0:0:50", config, max_bytes=50 * 108, batch_records=10)) == 50
    with pytest.raises(MemoryLimitError, match=r"at words:0@40: wanted 5400 bytes .*max_bytes is 5399"):
        make(embedded, "words:0:0:50", config, max_bytes=5399, batch_records=10)


def test_more_offsets_than_strings_fit_lengths_of_are_refused_before_any_record_is_read(embedded):
    embedded.fill("words", [(b"", None)] * 50)

    with pytest.raises(MemoryLimitError, match=r"50 offset\(s\) x 8 bytes"):
        make(embedded, "words:0:0:50", {"data_type": "string"}, max_bytes=399)


def test_without_a_number_the_free_memory_is_the_limit(embedded, monkeypatch):
    monkeypatch.setattr("kafkapipes.memory.STEP", 1000)
    monkeypatch.setattr("kafkapipes.dataset.MachineLimit", partial(MachineLimit, lambda: Memory(10**9, 6 * 10**7)))
    embedded.fill("words", [(b"x" * 10_000, None)] * 50)
    assert len(make(embedded, "words:0:0:50", {"data_type": "bytes"})) == 50

    monkeypatch.setattr("kafkapipes.dataset.MachineLimit", partial(MachineLimit, lambda: Memory(10**9, 5 * 10**7)))
    with pytest.raises(MemoryLimitError, match=r"at words:0@0: .*found 50000000 of 1000000000 bytes free"):
        make(embedded, "words:0:0:50", {"data_type": "bytes"})


def test_a_senseless_limit_is_refused_before_any_connection():
    with pytest.raises(ConfigError, match="max_bytes is 0"):
        TrainingKafkaDataset({"topic": "clicks:0:0:1", "input_config": CONFIG}, "127.0.0.1:1", "sink", max_bytes=0)


@pytest.mark.parametrize("form", ["dict", "object", "json"])
def test_a_control_message_may_come_in_any_form(clicks, form):
    message = ControlMessage("clicks:0:0:3", CONFIG)
    given = {"dict": message.to_dict(), "object": message, "json": message.to_json()}[form]

    assert len(TrainingKafkaDataset(given, [clicks.bootstrap_servers], "sink")) == 3


@pytest.mark.parametrize("batch_records", [1, 2, 7, 5000])
def test_the_tensors_are_the_same_for_every_batch_size(clicks, batch_records):
    dataset = make(clicks, batch_records=batch_records)

    assert dataset.labels.tolist() == list(range(80))
    assert dataset.values[:, 0, 0].tolist() == list(range(80))


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_give_the_batches_of_none(clicks, workers, start_method):
    dataset = make(clicks, transform=shift)
    loader = DataLoader(dataset, batch_size=7, num_workers=workers, multiprocessing_context=start_method)

    batches = list(loader)

    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(80))
    assert torch.cat([values for values, _ in batches])[:, 0, 0].tolist() == list(range(100, 180))


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_workers_share_the_memory(clicks, start_method):
    dataset = make(clicks)
    before = dataset[79][0].tolist()
    loader = DataLoader(dataset, batch_size=40, num_workers=1, multiprocessing_context=start_method)
    list(loader)

    assert dataset.values.is_shared()
    dataset.values[0, 0, 0] = 99  # seen by a worker that shares the memory, also if it was made before
    assert next(iter(loader))[0][0, 0, 0] == 99
    assert dataset[79][0].tolist() == before
    assert dataset[0][0][0, 0] == 99


def test_a_subset_and_a_shuffling_loader_work(clicks):
    loader = DataLoader(Subset(make(clicks), range(10, 20)), batch_size=5, shuffle=True)

    assert sorted(torch.cat([labels for _, labels in loader]).tolist()) == list(range(10, 20))


def test_a_loader_gives_the_whole_dataset_in_batches(clicks):
    loader = make(clicks).loader(32, True, seed=3)

    batches = list(loader)

    assert [len(labels) for _, labels in batches] == [32, 32, 16]
    assert all(torch.equal(values[:, 0, 0], labels) for values, labels in batches)
    assert sorted(torch.cat([labels for _, labels in batches]).tolist()) == list(range(80))


def test_a_loader_takes_all_options_of_a_tensor_loader(clicks):
    taken = list(signature(TrainingKafkaDataset.loader).parameters.values())
    options = {"batch_size": 3, "drop_last": True, "batch_transform": lambda values, labels: labels, "device": "cpu"}

    assert taken[1:] == list(signature(TensorLoader).parameters.values())[1:]
    loader = make(clicks, "clicks:0:0:5").loader(**options, sampler=[4, 3, 2, 1])
    assert [labels.tolist() for labels in loader] == [[4, 3, 2]]
    shares = [make(clicks, "clicks:0:0:5").loader(9, rank=rank, world_size=2) for rank in range(2)]
    assert [labels.tolist() for ((_, labels),) in shares] == [[0, 2, 4], [1, 3, 0]]


def test_a_loader_gives_what_a_dataloader_makes_of_the_same_transforms(clicks):
    dataset = make(clicks, transform=shift, label_transform=float)

    for ours, theirs in zip(dataset.loader(32), DataLoader(dataset, batch_size=32), strict=True):
        assert all(map(torch.equal, ours, theirs))


def test_a_loader_goes_on_in_a_dataset_that_is_read_anew(clicks):
    loader = make(clicks).loader(30, True)
    batches = iter(loader)
    next(batches)
    again = make(clicks).loader(30, True)
    again.load_state_dict(loader.state_dict())

    assert [labels.tolist() for _, labels in again] == [labels.tolist() for _, labels in batches]


def test_a_dataset_survives_pickling_also_after_it_was_used(clicks):
    dataset = make(clicks, label_transform=int)
    before = dataset[7]

    again = pickle.loads(pickle.dumps(dataset))

    assert again[7][1] == before[1] == 7
    assert again.coordinates(60) == ("clicks", 1, 10)
    assert str(again.report) == str(dataset.report)


def test_a_dataset_prints_itself_in_one_line(clicks):
    assert repr(make(clicks)) == "TrainingKafkaDataset(80 samples, values [80, 2, 3] from 2 range(s))"


@pytest.mark.parametrize(("progress", "shown"), [(True, True), (False, False), (None, False)])
def test_the_progress_bar_shows_records_where_it_is_wanted(clicks, capsys, progress, shown):
    make(clicks, progress=progress)

    text = capsys.readouterr().err
    assert ("80.0/80.0" in text and "records/s" in text) == shown
    assert (text != "") == shown


INTERRUPTED = """
import time
from kafkapipes import TrainingKafkaDataset
message = {{"topic": "clicks:0:0:100", "input_config": {{"data_type": "uint8"}}}}
print("reading", flush=True)
try:
    TrainingKafkaDataset(message, {servers!r}, "sink", on_short="wait")
except KeyboardInterrupt:
    print(time.monotonic())
"""


@pytest.mark.parametrize("waiting_for", ["records", "a broker"])
def test_ctrl_c_stops_within_a_second(embedded, waiting_for):
    embedded.fill("clicks", [(b"a", None)])
    servers = embedded.bootstrap_servers if waiting_for == "records" else "127.0.0.1:1"
    command = [sys.executable, "-c", INTERRUPTED.format(servers=servers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    time.sleep(2)
    began = time.monotonic()  # the same clock in every process
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)

    assert float(output) - began < 1
    assert process.returncode == 0


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata's own call into torch
def test_a_stateful_loader_resumes_after_the_batches_already_given(clicks):
    loader = StatefulDataLoader(make(clicks, label_transform=int), batch_size=10)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    again = StatefulDataLoader(make(clicks, label_transform=int), batch_size=10)
    again.load_state_dict(loader.state_dict())

    assert [int(labels[0]) for _, labels in again] == [30, 40, 50, 60, 70]


def test_the_constructor_takes_four_things_by_position(clicks):
    message = {"topic": "clicks:0:0:1", "input_config": CONFIG}

    assert TrainingKafkaDataset(message, [clicks.bootstrap_servers], "sink", np.sum)[0][0] == 15


ODD = {
    "a longer value": (b"toolong" * 3, b"\1"), "a shorter value": (b"abc", b"\1"), "an empty value": (b"", b"\1"),
    "a tombstone": (None, b"\1"), "a null key": (b"sixsix", None), "a longer key": (b"sixsix", b"\1\2"),
}  # fmt: skip


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
@pytest.mark.parametrize("places", [[0], [499, 500, 501], [600], [999, 1000], [1999], [*range(700, 1300)], [700, 1999]])
def test_a_record_that_does_not_fit_leaves_its_neighbours_as_they_are(embedded, odd, places):
    good = [(row.to_bytes(6), bytes([row % 251])) for row in range(2000)]
    embedded.fill("t", [odd if row in places else item for row, item in enumerate(good)])
    skip = {"on_error": "skip", "tombstone": "skip", "null_key": "skip"}

    dataset = make(embedded, "t:0:0:2000", {**CONFIG, "label_reshape": "1"}, batch_records=400, **skip)

    kept = [row for row in range(2000) if row not in places]
    assert dataset.values.numpy().tobytes() == b"".join(good[row][0] for row in kept)
    assert dataset.labels.tolist() == [row % 251 for row in kept]
    assert [dataset.coordinates(row)[2] for row in (0, len(kept) // 2, -1)] == [kept[0], kept[len(kept) // 2], kept[-1]]
    assert sum(dataset.report[0].skipped.values()) == len(places)


@pytest.mark.parametrize(
    "names", [("uint8", "uint8", "6"), (">i2", ">i2", "3"), ("bool", "bool", "6"), ("<f2", "u2", "")]
)
def test_bytes_that_are_laid_into_place_are_decoded_as_all_others(embedded, names):
    data_type, label_type, shape = names
    values = (np.arange(6000, dtype=np.uint8) % 2).tobytes()
    size = np.dtype(label_type).itemsize
    embedded.fill("t", [(values[row : row + 6], bytes(size - 1) + bytes([row % 2])) for row in range(3000)])
    config = {"data_type": data_type, "label_type": label_type, "data_reshape": shape}

    dataset = make(embedded, "t:0:0:3000", config)

    expected = np.stack([np.frombuffer(values[row : row + 6], data_type) for row in range(3000)])
    np.testing.assert_array_equal(dataset.values.numpy(), expected.astype(expected.dtype.newbyteorder("=")))
    labels = np.frombuffer(b"".join(bytes(size - 1) + bytes([row % 2]) for row in range(3000)), label_type)
    np.testing.assert_array_equal(dataset.labels.numpy(), labels.astype(labels.dtype.newbyteorder("=")))
