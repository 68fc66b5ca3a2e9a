"""Stopped anywhere and restored, with and without a loader, a stream goes on with what was to come."""

import itertools
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from torch.utils.data import DataLoader

from kafkapipes import (
    DataLossError,
    OffsetRange,
    StateError,
    StreamingKafkaDataset,
    TruncationError,
    format_ranges,
    merge_states,
)
from kafkapipes.checkpoints import Checkpoint, Log, StateWriter
from kafkapipes.kafka.fetcher import Fetcher
from kafkapipes.testing import EmbeddedKafka, assert_resumes_exactly

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
CONFIG = {"data_type": "uint8", "label_type": "uint8"}
RECORDS = 100
TOPIC = "clicks:0:0:70,clicks:1:0:30"
WAYS = {
    "batches": {"batch_size": 16},
    "shuffled batches": {"batch_size": 16, "shuffle": True},
    "samples": {},
    "shuffled samples": {"shuffle": True},
}


@pytest.fixture(scope="module")
def clicks():
    with EmbeddedKafka() as kafka:
        kafka.create_topic("clicks", partitions=2)
        kafka.fill("clicks", [(bytes([number, 0]), bytes([number])) for number in range(70)], 0)
        kafka.fill("clicks", [(bytes([number, 1]), bytes([number])) for number in range(70, RECORDS)], 1)
        yield kafka


def make(kafka, topic=TOPIC, **options):
    return StreamingKafkaDataset({"topic": topic, "input_config": CONFIG}, kafka.bootstrap_servers, "g", **options)


def numbers(items):
    """The labels of samples or batches, flat."""
    return [int(label) for _, labels in items for label in np.atleast_1d(labels)]


@pytest.mark.parametrize(("workers", "interval"), [(None, 1), (0, 1), (0, 3)])
@pytest.mark.parametrize("way", WAYS)
def test_it_resumes_behind_every_item_of_one_process(clicks, way, workers, interval):
    options = {"num_workers": workers, "snapshot_every_n_steps": interval}
    stops = None if "batches" in way else (0, 1, 37, 69, 70, 99, 100)

    assert assert_resumes_exactly(make(clicks, **WAYS[way]), stops=stops, **options) >= 12


@pytest.mark.parametrize(
    ("workers", "way", "persistent", "method", "interval", "stops"),
    [
        (2, "batches", False, "fork", 1, (0, 3, 7)), (3, "shuffled batches", True, "fork", 2, (3, 6)),
        (1, "samples", True, "fork", 1, (2, 11)), (2, "shuffled samples", False, "fork", 3, (5,)),
        (1, "samples", True, "forkserver", 2, (4,)),
    ],
)  # fmt: skip
def test_it_resumes_with_workers(clicks, workers, way, persistent, method, interval, stops):
    """A part of all ways, which are slow."""
    resumes(clicks, workers, way, persistent, method, interval, stops)


ALONE = itertools.product((0,), WAYS, (False,), (None,), (1, 2, 5), [None])
FORKED = itertools.product((1, 2, 3), WAYS, (False, True), ("fork",), (1, 2, 5), [(0, 1, 3, 6, 7)])
STARTED = itertools.product(
    (1, 2, 3), ("shuffled batches", "samples"), (False, True), ("spawn", "forkserver"), (2,), [(4, 7)]
)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("workers", "way", "persistent", "method", "interval", "stops"), [*ALONE, *FORKED, *STARTED])
def test_it_resumes_in_every_way(clicks, workers, way, persistent, method, interval, stops):
    """Any number of workers, with and without shuffle, workers that live on, start methods and snapshot intervals."""
    resumes(clicks, workers, way, persistent, method, interval, stops)


def resumes(clicks, workers, way, persistent, method, interval, stops):
    assert_resumes_exactly(
        make(clicks, **WAYS[way]), num_workers=workers, batch_size=None if "batches" in way else 9,
        persistent_workers=persistent, start_method=method, snapshot_every_n_steps=interval, stops=stops,
    )  # fmt: skip


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("equal_ranks", [None, "drop", "pad"])
def test_each_rank_resumes(clicks, rank, equal_ranks):
    options = {"rank": rank, "world_size": 3, "equal_ranks": equal_ranks, "shuffle": True, "batch_size": 5}

    assert_resumes_exactly(make(clicks, **options), stops=(0, 2, 6, 7))


# What a restore costs


@pytest.fixture
def fetched(monkeypatch):
    """The ranges that are fetched, and how many records of each arrive, in this process."""
    found, original = [], Fetcher.fetch

    def fetch(self, account):
        found.append([account.range, 0])
        for batch in original(self, account):
            found[-1][1] += len(batch)
            yield batch

    monkeypatch.setattr(Fetcher, "fetch", fetch)
    return found


@pytest.mark.parametrize("place", [1, 40, 69, 70, 99])
def test_a_restore_in_order_fetches_from_the_place_itself(clicks, fetched, place):
    before = iter(make(clicks))
    for _ in range(place):
        next(before)
    state = before.state_dict()
    before.close()
    fetched.clear()
    again = iter(make(clicks))
    again.load_state_dict(state)

    assert numbers(again) == list(range(place, RECORDS))
    assert sum(count for _, count in fetched) == RECORDS - place
    first = fetched[0][0]
    assert (first.partition, first.start) == ((0, place) if place < 70 else (1, place - 70))


@pytest.mark.parametrize("done", [10, 1200, 2700])
def test_a_restore_of_a_shuffle_fetches_what_is_mixed_with_the_next_item_however_far_it_is(embedded, fetched, done):
    embedded.fill("t", [(bytes([number % 251]), bytes([number % 251])) for number in range(3000)])
    options = {"shuffle": True, "batch_size": 10, "block_records": 10, "window_blocks": 2, "prefetch_blocks": 0}
    before = iter(make(embedded, "t:0:0:3000", **options))
    for _ in range(done // 10):
        next(before)
    state = before.state_dict()
    fetched.clear()
    again = iter(make(embedded, "t:0:0:3000", **options))
    again.load_state_dict(state)
    next(again)

    assert 0 < sum(count for _, count in fetched) <= 12 * 2 * 10


def test_nothing_is_fetched_by_a_restore_at_the_end(clicks, fetched):
    before = iter(make(clicks, batch_size=7))
    list(before)
    state = before.state_dict()
    fetched.clear()
    again = iter(make(clicks, batch_size=7))
    again.load_state_dict(state)

    assert list(again) == []
    assert fetched == []


# In another process, after a kill


RESUMED = """
import json, sys
from kafkapipes import StreamingKafkaDataset
servers, path, stop = sys.argv[1], sys.argv[2], int(sys.argv[3])
message = {"topic": "clicks:0:0:70,clicks:1:0:30", "input_config": {"data_type": "uint8", "label_type": "uint8"}}
stream = iter(StreamingKafkaDataset(message, servers, "g", shuffle=True, batch_size=16))
if stop < 0:
    stream.load_state_dict(json.load(open(path)))
for number, (values, labels) in enumerate(stream):
    print(*labels.tolist(), flush=True)
    json.dump(stream.state_dict(), open(path, "w"))
    if number == stop:
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow  # its like, of signals at any moment, is among the faults
def test_a_process_that_is_killed_is_gone_on_from_by_a_new_one(clicks, tmp_path):
    def run(stop, status):
        command = [sys.executable, "-c", RESUMED, clicks.bootstrap_servers, str(tmp_path / "state"), str(stop)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == status, done.stderr
        return [list(map(int, line.split())) for line in done.stdout.splitlines()]

    parts = run(2, -9), run(-1, 0)

    assert list(map(len, parts)) == [3, 4]
    assert [*parts[0], *parts[1]] == [labels.tolist() for _, labels in make(clicks, shuffle=True, batch_size=16)]


# Another number of workers and ranks


def started(stream, workers, items, batch_size=None):
    """A StatefulDataLoader's state behind some items, and these."""
    from torchdata.stateful_dataloader import StatefulDataLoader

    loader = StatefulDataLoader(stream, batch_size=batch_size, num_workers=workers)
    head = [item for _, item in zip(range(items), loader, strict=False)]
    return loader.state_dict(), numbers(head)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("old", "new"), [(2, 0), (0, 3), (3, 2)])
def test_another_number_of_workers_goes_on_with_the_rest(clicks, way, old, new):
    stream, batch_size = make(clicks, **WAYS[way]), None if "batches" in way else 8
    state, head = started(stream, old, 3, batch_size)
    rest = make(clicks, **WAYS[way]).rest(json.loads(json.dumps(state)))
    tail = numbers(DataLoader(rest, batch_size=batch_size, num_workers=new))

    assert len(head) == (48 if batch_size is None else 24)
    assert sorted(head + tail) == list(range(RECORDS))


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("old", "new"), [(1, 3), (3, 1), (2, 4)])
def test_another_number_of_ranks_goes_on_with_the_rest(clicks, shuffle, old, new):
    options, states, delivered = {"shuffle": shuffle, "batch_size": 6}, [], []
    for rank in range(old):
        state, head = started(make(clicks, rank=rank, world_size=old, **options), rank, 2 + rank)
        states.append(state)
        delivered += head
    whole = merge_states(states)
    for rank in range(new):
        delivered += numbers(make(clicks, rank=rank, world_size=new, **options).rest(whole))

    assert sorted(delivered) == list(range(RECORDS))


def test_the_rest_of_a_rest_is_shared_out_again(clicks):
    options, delivered = {"shuffle": True, "batch_size": 4}, []
    state, head = started(make(clicks, **options), 3, 5)
    delivered += head
    for workers in (2, 0, 1):
        state, head = started(make(clicks, **options).rest(state), workers, 5)
        delivered += head
    delivered += numbers(make(clicks, **options).rest(state))

    assert sorted(delivered) == list(range(RECORDS))


def test_a_rest_resumes_exactly_too(clicks):
    options = {"shuffle": True, "batch_size": 7}
    state, _ = started(make(clicks, **options), 2, 4)

    assert assert_resumes_exactly(make(clicks, **options).rest(state), stops=(0, 1, 6, 11)) == 7


def test_the_rest_is_of_its_epoch_and_the_dataset_goes_on_with_whole_ones(clicks):
    stream = make(clicks, shuffle=True, batch_size=10)
    stream.set_epoch(3)
    state, _ = started(stream, 0, 4)
    later = make(clicks, shuffle=True, batch_size=10)
    rest = later.rest(state)

    assert (rest.epoch, later.epoch, len(numbers(rest)), len(numbers(later))) == (3, 0, 60, 100)
    with pytest.raises(ValueError, match="the rest of epoch 3, wanted 4"):
        rest.set_epoch(4)


def test_the_state_of_the_only_reader_is_loaded_by_each_of_several(clicks):
    before = iter(make(clicks, batch_size=10))
    delivered = numbers([next(before) for _ in range(3)])
    for rank in range(2):
        again = iter(make(clicks, batch_size=10, rank=rank, world_size=2))
        again.load_state_dict(before.state_dict())
        delivered += numbers(again)

    assert sorted(delivered) == list(range(RECORDS))


def test_one_of_several_readers_cannot_stand_for_all(clicks):
    before = iter(make(clicks, batch_size=10, rank=1, world_size=2))
    again = iter(make(clicks, batch_size=10))

    with pytest.raises(StateError, match=r"rank 1 of 2, and this is .*merge_states"):
        again.load_state_dict(before.state_dict())
    with pytest.raises(StateError, match="none of worker 0 of 1 of rank 0 of 2"):
        make(clicks, batch_size=10).rest(before.state_dict())


def test_a_loader_that_is_ahead_of_its_workers_states_is_refused(clicks):
    from torchdata.stateful_dataloader import StatefulDataLoader

    loader = StatefulDataLoader(make(clicks, batch_size=5), batch_size=None, num_workers=2, snapshot_every_n_steps=4)
    items = iter(loader)
    for _ in range(6):
        next(items)

    with pytest.raises(StateError, match="2 step"):
        make(clicks, batch_size=5).rest(loader.state_dict())


# What is refused, and what is not


def test_a_state_is_followed_into_its_epoch_whatever_the_dataset_has(clicks):
    stream = make(clicks, shuffle=True, batch_size=10)
    stream.set_epoch(5)
    before = iter(stream)
    head = numbers([next(before)])
    again = iter(make(clicks, shuffle=True, batch_size=10))
    again.load_state_dict(before.state_dict())

    assert again.epoch == 5
    assert head + numbers(again) == numbers(stream)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"topic": "clicks:0:0:70"}, "of other ranges"), ({"seed": 1}, "seed of the shuffle 0, the dataset has 1"),
        ({"shuffle": False}, "seed of the shuffle 0, the dataset has None"), ({"batch_size": 11}, "batch_size 10"),
        ({"batch_size": None}, "batch_size 10"), ({"window_blocks": 3}, "window_blocks 4"),
        ({"block_records": 77}, "block_records"), ({"equal_ranks": "pad"}, "equal_ranks None"),
    ],
)  # fmt: skip
def test_a_state_of_another_stream_is_refused_with_the_reason(clicks, options, said):
    state = iter(make(clicks, shuffle=True, batch_size=10)).state_dict()
    other = iter(make(clicks, **{"shuffle": True, "batch_size": 10, **options}))

    with pytest.raises(StateError, match=said):
        other.load_state_dict(state)


def test_a_refused_state_leaves_the_iterator_as_it_was(clicks):
    again = iter(make(clicks, batch_size=10))
    with pytest.raises(StateError):
        again.load_state_dict({"version": 1})

    assert numbers(again) == list(range(RECORDS))


def test_words_for_bounds_stand_in_a_state_for_what_they_stood_for(embedded):
    embedded.fill("t", [(b"x", bytes([number])) for number in range(10)])
    before = iter(make(embedded, "t:0:-8:latest", shuffle=True, batch_size=3))
    head = numbers([next(before)])
    embedded.fill("t", [(b"x", bytes([number])) for number in range(10, 40)])
    later = make(embedded, "t:0:-8:latest", shuffle=True, batch_size=3)
    again = iter(later)
    again.load_state_dict(before.state_dict())

    assert format_ranges(later.ranges) == "t:0:32:40"
    assert sorted(head + numbers(again)) == list(range(2, 10))


def test_records_that_are_gone_matter_only_if_they_are_yet_to_be_read(embedded):
    """Retention has taken what the state has behind it: the range as a whole could not be read any more."""
    embedded.fill("t", [(b"x" * 100_000, bytes([number])) for number in range(40)])  # 4 MB of 5 that are kept
    before = iter(make(embedded, "t:0:0:40", batch_size=10))
    head = numbers([next(before) for _ in range(3)])
    state = before.state_dict()
    before.close()
    embedded.fill("t", [(b"x" * 100_000, b"y")] * 25)
    stream = make(embedded, "t:0:0:40", batch_size=10)
    again = iter(stream)
    again.load_state_dict(state)

    assert head + numbers(again) == list(range(40))
    with pytest.raises(DataLossError, match="starts below the log"):
        list(stream)


def test_a_log_that_has_become_shorter_is_refused(embedded):
    embedded.fill("t", [(b"x", bytes([number])) for number in range(30)])
    again = iter(make(embedded, "t:0:earliest:latest", batch_size=10))
    then = Checkpoint.from_state(again.state_dict())
    longer = replace(then, ranges=(OffsetRange("t", 0, 0, 40),), logs=(Log(0, 40, 0, 40),))

    with pytest.raises(TruncationError, match="ends at 30 by now; it held records up to 40"):
        again.load_state_dict(StateWriter(longer).state(3, 0))
