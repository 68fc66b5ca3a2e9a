"""Streams on a real Apache Kafka, where offsets hold no record: compacted ones, markers and aborted transactions."""

import itertools
import time

import numpy as np
import pytest
from torch.utils.data import DataLoader

from kafkapipes import RangeParser, StreamingKafkaDataset
from kafkapipes.testing import assert_resumes_exactly

pytestmark = [pytest.mark.kafka, pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")]
COMMITTED = [*range(10), *range(17, 22), *range(29, 49)]  # 10, 22: markers; 11-16 and 23-28: aborted, with theirs
SURVIVORS = [0, 3, 4, 30, 31, 55, 98]
CONFIG = {"data_type": "uint8", "label_type": "uint8"}


def records(first, last):
    return [(bytes([number]), bytes([number])) for number in range(first, last)]


@pytest.fixture(scope="module")
def transactional(cluster):
    topic = cluster.new_topic()
    cluster.transaction(topic, records(0, 10), end="commit")
    cluster.transaction(topic, records(11, 16), end="abort")
    cluster.transaction(topic, records(17, 22), end="commit")
    cluster.transaction(topic, records(23, 28), end="abort")
    cluster.produce(topic, records(29, 49))
    return f"{topic}:0:0:49"


@pytest.fixture(scope="module")
def compacted(cluster):
    """Of offsets 0 to 99 only SURVIVORS have keys that come once; a filter on values makes up for the keys."""
    topic = cluster.new_topic(
        cleanup_policy="compact", segment_ms="200", min_cleanable_dirty_ratio="0.01", delete_retention_ms="0"
    )
    keys = {offset: bytes([offset]) for offset in SURVIVORS}
    cluster.produce(topic, [(bytes([number]), keys.get(number, b"\xff")) for number in range(100)])
    text, deadline = f"{topic}:0:0:99", time.monotonic() + 60
    while _offsets(cluster, text) != SURVIVORS:
        assert time.monotonic() < deadline, "the log was not compacted"
        time.sleep(0.25)
        cluster.produce(topic, [(b"x", b"\xff")])  # rolls the segment, so that the one before is compacted
    return text


def _offsets(cluster, text):
    reader = RangeParser(text).read_partitions(cluster.bootstrap_servers)
    return [offset for batch in reader for offset in batch.offsets.tolist()]


@pytest.fixture(params=["transactional", "compacted"])
def ranges(request):
    """A range with gaps, and the numbers of the records that it holds."""
    return request.getfixturevalue(request.param), COMMITTED if request.param == "transactional" else SURVIVORS


def make(cluster, text, **options):
    return StreamingKafkaDataset({"topic": text, "input_config": CONFIG}, cluster.bootstrap_servers, "g", **options)


def numbers(items):
    return [int(label) for _, labels in items for label in np.atleast_1d(labels)]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_a_stream_with_gaps_comes_whole_and_resumes_behind_any_item(cluster, ranges, shuffle, batch_size):
    text, wanted = ranges
    stream = make(cluster, text, shuffle=shuffle, batch_size=batch_size, block_records=3)
    stops = None if batch_size else (0, 1, len(wanted) // 2, len(wanted) - 1, len(wanted))

    assert sorted(numbers(stream)) == wanted
    assert_resumes_exactly(stream, stops=stops)


@pytest.mark.parametrize(("workers", "persistent", "interval"), [(0, False, 2), (2, True, 3)])
def test_a_stream_with_gaps_resumes_in_a_loader(cluster, ranges, workers, persistent, interval):
    stream = make(cluster, ranges[0], shuffle=True, batch_size=8, block_records=5)

    assert_resumes_exactly(
        stream, num_workers=workers, persistent_workers=persistent, snapshot_every_n_steps=interval, stops=(1, 4)
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("workers", "shuffle", "persistent", "method", "interval"),
    [
        *itertools.product((1, 2, 3), (False, True), (False, True), ("fork",), (1, 3)),
        *itertools.product((2,), (True,), (False, True), ("spawn", "forkserver"), (2,)),
    ],
)
def test_a_stream_with_gaps_resumes_in_every_way(cluster, ranges, workers, shuffle, persistent, method, interval):
    stream = make(cluster, ranges[0], shuffle=shuffle, batch_size=8, block_records=5)

    assert_resumes_exactly(
        stream, num_workers=workers, persistent_workers=persistent, start_method=method,
        snapshot_every_n_steps=interval, stops=(0, 3, 5),
    )  # fmt: skip


@pytest.mark.parametrize("equal_ranks", ["drop", "pad"])
def test_ranks_have_as_many_items_where_gaps_are_uneven(cluster, transactional, equal_ranks):
    options = {"world_size": 3, "equal_ranks": equal_ranks, "batch_size": 4, "block_records": 3}
    streams = [make(cluster, transactional, rank=rank, **options) for rank in range(3)]
    counts = [len(list(stream)) for stream in streams]

    assert counts == [len(stream) for stream in streams]
    assert len(set(counts)) == 1


def test_workers_share_gaps(cluster, ranges):
    text, wanted = ranges
    loader = DataLoader(make(cluster, text, batch_size=4), batch_size=None, num_workers=3)

    assert numbers(loader) == wanted


def test_a_stream_without_an_end_resumes_over_gaps(cluster, transactional):
    text = transactional.removesuffix("49")
    stream = make(cluster, text, batch_size=6, idle_timeout_s=0.5, linger_s=0.1)

    assert sorted(numbers(stream)) == COMMITTED
    assert_resumes_exactly(stream, stops=[3])
