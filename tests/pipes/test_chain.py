"""The five pipes together, on the embedded broker."""

import os
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from confluent_kafka import KafkaError, KafkaException
from torch.utils.data import DataLoader, IterDataPipe, functional_datapipe

from kafkapipes import (
    AuthorizationError,
    ConfigError,
    ConnectError,
    DataLossError,
    DecodeError,
    OffsetRange,
    PartitionReader,
    RangeError,
    RangeParser,
    TopicError,
    format_ranges,
)
from kafkapipes.kafka.fetcher import Fetcher

RECORDS = 240  # divides into shares of 1, 2 and 3 workers, and does not into batches of 7


@functional_datapipe("double_values")
class DoubleValues(IterDataPipe):
    """A user's own pipe over column batches."""

    def __init__(self, source):
        self.source = source

    def __iter__(self):
        for batch in self.source:
            yield replace(batch, values=batch.values * 2)


def sample(index):
    """The value and label of record `index`: 25 floats, one byte."""
    return np.arange(index, index + 25, dtype=np.float32), index % 10


@pytest.fixture
def clicks(embedded):
    """A topic of three partitions: 100, 80 and 60 records; the samples are numbered through."""
    embedded.create_topic("clicks", partitions=3)
    first = 0
    for partition, count in enumerate((100, 80, 60)):
        records = [sample(index) for index in range(first, first + count)]
        embedded.fill("clicks", [(value.tobytes(), bytes([label])) for value, label in records], partition)
        first += count
    return embedded


def chain(servers, text="clicks:*:earliest:latest", batch_records=5000, readers=1):
    return (
        RangeParser(text)
        .read_partitions(servers, batch_records=batch_records, readers=readers)
        .decode_bytes("float32", "uint8")
        .reshape_arrays("5 5")
        .transform_samples(label_transform=int)
    )


def numbers(samples):
    """Which records these samples are, after a check that value and label belong together."""
    found = [(int(value.flat[0]), label) for value, label in samples]
    assert all(label == number % 10 for number, label in found)
    return [number for number, _ in found]


@pytest.mark.parametrize("batch_records", [1, 2, 7, 5000])
def test_the_samples_are_the_same_in_the_same_order_for_every_batch_size(clicks, batch_records):
    assert numbers(chain(clicks.bootstrap_servers, batch_records=batch_records)) == list(range(RECORDS))


def test_a_sample_is_a_value_of_its_shape_and_a_scalar_label(clicks):
    value, label = next(iter(chain(clicks.bootstrap_servers)))

    assert (value.shape, value.dtype, label) == ((5, 5), np.float32, 0)


def test_iterating_again_gives_the_same_samples(clicks):
    pipe = chain(clicks.bootstrap_servers)

    assert numbers(pipe) == numbers(pipe)


def test_ranges_come_in_the_order_written_and_may_overlap(clicks):
    text = "clicks:1:70:80,clicks:0:5:8,clicks:0:6:9,clicks:2:3:3,clicks:0:-2:latest"

    expected = [*range(170, 180), 5, 6, 7, 6, 7, 8, 98, 99]

    assert numbers(chain(clicks.bootstrap_servers, text)) == expected


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_share_the_records_and_each_arrives_once(clicks, workers, start_method):
    loader = DataLoader(
        chain(clicks.bootstrap_servers), batch_size=7, num_workers=workers, multiprocessing_context=start_method
    )

    found = [int(value[0, 0]) for values, _ in loader for value in values]

    assert sorted(found) == list(range(RECORDS))


def test_persistent_workers_give_every_record_in_every_epoch(clicks):
    loader = DataLoader(chain(clicks.bootstrap_servers), batch_size=7, num_workers=2, persistent_workers=True)

    for _ in range(2):
        assert sorted(int(value[0, 0]) for values, _ in loader for value in values) == list(range(RECORDS))


def test_one_worker_gives_the_order_of_none(clicks):
    loader = DataLoader(chain(clicks.bootstrap_servers), batch_size=None, num_workers=1)

    assert numbers((value.numpy(), label) for value, label in loader) == list(range(RECORDS))


def test_workers_split_one_partition_inside(clicks):
    loader = DataLoader(process_ids(clicks, "clicks:0:0:100"), batch_size=None, num_workers=2)

    shares = {}
    for process, count in loader:
        shares[process] = shares.get(process, 0) + count

    assert sorted(shares.values()) == [50, 50]


def process_ids(kafka, text):
    return RangeParser(text).read_partitions(kafka.bootstrap_servers).map(process_and_length)


def process_and_length(batch):
    return os.getpid(), len(batch)


def test_with_workers_the_parents_report_is_the_plan_that_they_share(clicks):
    reader = RangeParser("clicks:*:earliest:latest").read_partitions(clicks.bootstrap_servers)
    list(reader)
    list(DataLoader(reader.map(process_and_length), batch_size=None, num_workers=2))

    assert (reader.report.requested, reader.report.delivered) == (RECORDS, 0)
    assert "not finished in this process" in str(reader.report)


def test_symbolic_bounds_are_frozen_for_all_workers_and_epochs(clicks):
    loader = DataLoader(chain(clicks.bootstrap_servers, "clicks:0:earliest:latest"), batch_size=10, num_workers=2)
    first = sum(len(labels) for _, labels in loader)
    clicks.fill("clicks", [(sample(0)[0].tobytes(), b"\x00")])

    assert first == sum(len(labels) for _, labels in loader) == 100


@pytest.fixture
def two_ranks(monkeypatch):
    """What a reader sees of torch.distributed on one of two ranks; DataLoader itself sees none."""
    monkeypatch.setattr("kafkapipes.pipes.reader._several_ranks", lambda: True)


def test_several_ranks_must_not_each_resolve_symbolic_bounds(clicks, two_ranks):
    with pytest.raises(RangeError, match="give every rank that text"):
        next(iter(DataLoader(chain(clicks.bootstrap_servers), batch_size=7)))


def test_several_ranks_read_ranges_that_were_resolved_once(clicks, two_ranks):
    plan = RangeParser("clicks:*:earliest:latest").read_partitions(clicks.bootstrap_servers).plan()
    loader = DataLoader(chain(clicks.bootstrap_servers, format_ranges(plan.ranges)), batch_size=None)

    assert len(list(loader)) == RECORDS


def test_torchs_own_pipes_follow(clicks):
    torch.manual_seed(0)
    pipe = chain(clicks.bootstrap_servers).shuffle(buffer_size=1000).batch(16, drop_last=True).collate().map(shapes)

    assert list(pipe) == [((16, 5, 5), (16,))] * 15


def shapes(batch):
    values, labels = batch
    return tuple(values.shape), tuple(labels.shape)


def test_a_loader_shuffles_by_a_shuffler_in_the_chain(clicks):
    pipe = chain(clicks.bootstrap_servers).shuffle(buffer_size=1000)

    found = [int(value[0, 0]) for value, _ in DataLoader(pipe, batch_size=None, shuffle=True)]

    assert sorted(found) == list(range(RECORDS))
    assert found != sorted(found)


def test_a_users_own_pipe_fits_anywhere_in_between(clicks):
    decoded = RangeParser("clicks:0:0:3").read_partitions(clicks.bootstrap_servers).decode_bytes("float32", "uint8")

    pipe = decoded.double_values().reshape_arrays("5 5").transform_samples()

    assert [int(value[0, 0]) for value, _ in pipe] == [0, 2, 4]


def test_ranges_can_be_filtered_before_they_are_read(clicks):
    pipe = RangeParser("clicks:0:0:10,clicks:1:0:10").filter(is_partition_1).read_partitions(clicks.bootstrap_servers)

    assert [batch.partition for batch in pipe] == [1]


def is_partition_1(item):
    return item.partition == 1


def test_a_reader_takes_plain_ranges(clicks):
    reader = PartitionReader([OffsetRange("clicks", 0, 0, 10)], clicks.bootstrap_servers)

    assert [batch.offsets.tolist() for batch in reader] == [list(range(10))]


def test_batches_carry_keys_timestamps_and_headers(embedded):
    embedded.fill("clicks", [(b"a", b"k"), (b"b", None)])
    reader = RangeParser("clicks:0:0:2").read_partitions(embedded.bootstrap_servers, headers=True)

    read = list(reader)

    assert [key for batch in read for key in batch.keys] == [b"k", None]
    assert all((batch.timestamps > 1_600_000_000_000).all() for batch in read)
    assert [headers for batch in read for headers in batch.headers] == [[], []]


def test_the_report_accounts_for_every_range(clicks):
    reader = RangeParser("clicks:0:10:20,clicks:1:5:5,clicks:2:-7:latest").read_partitions(clicks.bootstrap_servers)
    list(reader)

    assert [(str(item.range), item.delivered, item.finished) for item in reader.report] == [
        ("clicks:0:10:20", 10, True),
        ("clicks:1:5:5", 0, True),
        ("clicks:2:53:60", 7, True),
    ]


def test_skipped_records_show_in_the_readers_report(embedded):
    embedded.fill("clicks", [(b"ab", None), (b"abc", None), (None, None)])
    reader = RangeParser("clicks:0:0:3").read_partitions(embedded.bootstrap_servers)

    samples = list(reader.decode_bytes("uint8", on_error="skip", tombstone="skip").transform_samples())

    assert [value.tolist() for value in samples] == [[97, 98]]
    assert reader.report[0].skipped == {"tombstone": 1, "on_error": 1}


def test_a_bad_record_names_its_coordinates_also_from_a_worker(embedded):
    embedded.fill("clicks", [(b"ab", None), (b"abc", None)])
    pipe = RangeParser("clicks:0:0:2").read_partitions(embedded.bootstrap_servers).decode_bytes("uint8")

    with pytest.raises(DecodeError, match="clicks:0@1"):
        list(pipe)
    with pytest.raises(DecodeError, match="clicks:0@1"):
        list(DataLoader(pipe, batch_size=None, num_workers=1))


# torch's own clean-up stumbles over an error that comes before its workers are started.
@pytest.mark.filterwarnings("ignore:Exception ignored in.*_MultiProcessingDataLoaderIter")
@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_at_the_broker_reaches_the_caller_from_the_loader(clicks, workers):
    with pytest.raises(DataLossError, match="high watermark is clicks:0@100"):
        list(DataLoader(chain(clicks.bootstrap_servers, "clicks:0:0:500"), num_workers=workers))


def test_an_unknown_topic_is_an_error_and_is_not_created(clicks):
    for _ in range(2):
        with pytest.raises(TopicError, match="topic views"):
            list(chain(clicks.bootstrap_servers, "views:0:0:1"))


def test_an_unknown_partition_is_an_error_that_lists_those_there_are(clicks):
    with pytest.raises(TopicError, match=r"no partition 7 in topic clicks, it has 3: 0, 1, 2"):
        list(chain(clicks.bootstrap_servers, "clicks:7:0:1"))


def test_an_unreachable_broker_is_an_error_within_the_timeout():
    reader = RangeParser("clicks:0:0:1").read_partitions("127.0.0.1:1", connect_timeout_s=1)

    with pytest.raises(ConnectError, match=r"127\.0\.0\.1:1 within 1 s.*Connection refused.*connect_timeout_s"):
        list(reader)


def test_waiting_for_a_short_log_is_for_one_worker_only(clicks):
    reader = RangeParser("clicks:0:0:100").read_partitions(clicks.bootstrap_servers, on_short="wait")

    assert sum(DataLoader(reader.map(len), batch_size=None, num_workers=1)) == 100
    with pytest.raises(ConfigError, match="wanted one"):
        list(DataLoader(reader.map(len), batch_size=None, num_workers=2))


def test_a_range_without_an_end_is_refused(clicks):
    with pytest.raises(RangeError, match="has no end"):
        list(chain(clicks.bootstrap_servers, "clicks:0:0:"))


def test_a_short_log_can_be_read_to_its_end(clicks):
    reader = RangeParser("clicks:0:90:500").read_partitions(clicks.bootstrap_servers, on_short="stop")

    assert sum(map(len, reader)) == 10
    assert (reader.report[0].unwritten, reader.report[0].finished) == (400, True)


@pytest.mark.parametrize(
    "options",
    [
        {"on_short": "maybe"}, {"on_data_loss": "ignore"}, {"batch_records": 0}, {"batch_records": 2_000_000},
        {"stall_timeout_s": -1}, {"connect_timeout_s": float("nan")}, {"connect_timeout_s": True},
    ],
)  # fmt: skip
def test_a_senseless_option_is_refused_at_construction(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        RangeParser("clicks:0:0:1").read_partitions("127.0.0.1:1", **options)


@pytest.mark.parametrize("readers", [2, 3, 100])
def test_readers_side_by_side_give_each_record_once_and_each_ranges_account(clicks, readers):
    text = "clicks:1:2:30,clicks:0:0:0,clicks:0:0:50"
    reader = RangeParser(text).read_partitions(clicks.bootstrap_servers, batch_records=4, readers=readers)

    offsets = [(batch.partition, offset) for batch in reader for offset in batch.offsets.tolist()]

    assert sorted(offsets) == [*((0, offset) for offset in range(50)), *((1, offset) for offset in range(2, 30))]
    assert offsets[0] == (1, 2)
    assert [(account.delivered, account.finished) for account in reader.report] == [(28, True), (0, True), (50, True)]
    assert {account.client for account in reader.report if account.delivered} <= {"direct", "native", "python"}


def test_a_range_that_is_too_short_for_several_readers_has_its_account(clicks):
    reader = RangeParser("clicks:0:7:8").read_partitions(clicks.bootstrap_servers, readers=3)

    assert [batch.offsets.tolist() for batch in reader] == [[7]]
    assert (reader.report[0].delivered, reader.report[0].finished) == (1, True)


def test_readers_side_by_side_in_workers_give_each_record_once(clicks):
    loader = DataLoader(chain(clicks.bootstrap_servers, batch_records=9, readers=2), batch_size=7, num_workers=2)

    assert sorted(int(value[0, 0]) for values, _ in loader for value in values) == list(range(RECORDS))


def test_what_ends_one_of_several_readers_ends_the_read(clicks, monkeypatch):
    original = Fetcher._next_batch

    def next_batch(self, wanted, progress):
        if progress.account.range.partition == 1:
            raise KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
        return original(self, wanted, progress)

    monkeypatch.setattr(Fetcher, "_next_batch", next_batch)
    reader = RangeParser("clicks:*:earliest:latest").read_partitions(clicks.bootstrap_servers, readers=3)

    with pytest.raises(AuthorizationError, match="reading clicks:1:"):
        list(reader)
    assert not [thread.name for thread in threading.enumerate() if thread.name == "kafkapipes-ahead"]


def test_who_stops_amid_a_read_of_several_readers_leaves_no_thread(clicks):
    reader = RangeParser("clicks:*:earliest:latest").read_partitions(
        clicks.bootstrap_servers, batch_records=1, readers=3
    )
    batches = iter(reader)
    next(batches)
    batches.close()

    assert not [thread.name for thread in threading.enumerate() if thread.name == "kafkapipes-ahead"]
    assert reader.report[0].finished is False
