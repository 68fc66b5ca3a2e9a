"""Streams without an end on the embedded broker: what is written comes, soon, once, and is gone on with."""

import gc
import json
import pickle
import threading
import time

import pytest
from confluent_kafka import Consumer, TopicPartition
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from kafkapipes import (
    ConfigError,
    DataLossError,
    DecodeError,
    KafkaPipesError,
    RangeError,
    StateError,
    StreamingKafkaDataset,
    merge_states,
)
from kafkapipes.kafka import follower, release
from kafkapipes.kafka.fetcher import Fetcher
from kafkapipes.testing import assert_resumes_exactly

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")


def write(kafka, numbers, partition=0, topic="t"):
    kafka.fill(topic, [(bytes([number % 251, number // 251]), bytes([number % 251])) for number in numbers], partition)


def make(kafka, topic="t:0:earliest:", **options):
    layout = {"data_type": "uint8", "label_type": "uint8"}
    options = {"idle_timeout_s": 0.4, "linger_s": 0.1, **options}
    return StreamingKafkaDataset({"topic": topic, "input_config": layout}, kafka.bootstrap_servers, "g", **options)


def number_of(value):
    low, high = value.tolist()
    return high * 251 + low


def numbers(samples):
    return [number_of(value) for value, _ in samples]


def flat(batches):
    return [number for values, _ in batches for number in map(number_of, values)]


@pytest.fixture
def readers_ended():
    """No thread that reads is left behind."""
    yield
    gc.collect()
    deadline = time.monotonic() + 5
    while any(thread.name == "kafkapipes-ahead" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_is_there_and_what_is_written_later_comes_in_order(embedded, readers_ended):
    write(embedded, range(10))
    samples = iter(make(embedded))
    found = numbers([next(samples) for _ in range(10)])
    write(embedded, range(10, 15))

    assert found + numbers(samples) == list(range(15))


def test_a_record_is_handed_out_soon_after_it_was_written(embedded):
    write(embedded, range(1))
    samples = iter(make(embedded, idle_timeout_s=None))
    next(samples)
    waits = []
    for number in range(1, 6):
        time.sleep(0.1)
        write(embedded, [number])
        written = time.monotonic()
        next(samples)
        waits.append(time.monotonic() - written)
    samples.close()

    assert sorted(waits)[2] < 1.0  # some 50 ms on an idle machine


def test_it_ends_when_nothing_has_come_for_the_idle_timeout(embedded, readers_ended):
    write(embedded, range(3))
    stream = make(embedded, idle_timeout_s=0.5)
    began = time.monotonic()

    assert numbers(stream) == [0, 1, 2]
    assert 0.5 < time.monotonic() - began < 10


def test_an_empty_topic_is_idle_from_the_beginning(embedded):
    embedded.create_topic("t")

    assert numbers(make(embedded, idle_timeout_s=0.3)) == []


@pytest.mark.parametrize("batch_size", [None, 4])
def test_it_ends_after_the_most_records(embedded, batch_size, readers_ended):
    write(embedded, range(50))
    stream = make(embedded, idle_timeout_s=None, max_records=10, batch_size=batch_size)

    assert (flat(stream) if batch_size else numbers(stream)) == list(range(10))


def test_batches_are_full_while_records_come_and_short_when_none_has_for_a_while(embedded):
    write(embedded, range(10))
    batches = iter(make(embedded, batch_size=4, idle_timeout_s=None, linger_s=0.2))
    sizes = [len(next(batches)[0]) for _ in range(3)]
    write(embedded, range(10, 18))
    sizes += [len(next(batches)[0]) for _ in range(2)]
    batches.close()

    assert sizes == [4, 4, 2, 4, 4]


def test_the_last_batch_comes_when_it_ends(embedded):
    write(embedded, range(10))

    assert [len(values) for values, _ in make(embedded, batch_size=4, linger_s=60, idle_timeout_s=0.5)] == [4, 4, 2]


@pytest.mark.parametrize("batch_size", [None, 3])
def test_it_stops_when_it_is_told_to_also_while_it_waits(embedded, batch_size, readers_ended):
    write(embedded, range(6))
    stream = make(embedded, idle_timeout_s=None, batch_size=batch_size)
    threading.Timer(1.0, stream.stop).start()
    began = time.monotonic()

    found = list(stream)
    assert len(found) == (6 if batch_size is None else 2)
    assert time.monotonic() - began < 10


def test_a_stop_is_for_iterators_that_are_there_not_for_those_to_come(embedded):
    write(embedded, range(6))
    stream = make(embedded)
    before = iter(stream)
    next(before)
    state = before.state_dict()
    stream.stop()
    again = iter(stream)
    again.load_state_dict(state)

    assert list(before) == []
    assert numbers(again) == [1, 2, 3, 4, 5]


def test_a_stop_ends_a_stream_with_an_end_as_well(embedded):
    write(embedded, range(100))
    stream = make(embedded, "t:0:0:100", idle_timeout_s=None)
    samples = iter(stream)
    next(samples)
    stream.stop()

    assert list(samples) == []
    assert len(list(stream)) == 100


def test_a_stop_reaches_workers(embedded):
    write(embedded, range(20))
    stream = make(embedded, idle_timeout_s=None, batch_size=5)
    batches = iter(DataLoader(stream, batch_size=None, num_workers=2))
    found = [next(batches) for _ in range(2)]
    threading.Timer(1.0, stream.stop).start()

    assert sorted(flat(found + list(batches))) == list(range(20))


# Several partitions


def test_all_partitions_are_followed(embedded):
    embedded.create_topic("t", partitions=3)
    for partition in range(3):
        write(embedded, range(partition * 100, partition * 100 + 5), partition)
    samples = iter(make(embedded, "t:*:earliest:"))
    found = numbers([next(samples) for _ in range(15)])
    write(embedded, [5, 6], 0)
    write(embedded, [205], 2)
    found += numbers(samples)

    assert sorted(found) == [0, 1, 2, 3, 4, 5, 6, 100, 101, 102, 103, 104, 200, 201, 202, 203, 204, 205]
    assert [number for number in found if number < 100] == list(range(7))


def test_partitions_take_turns_where_much_is_waiting(embedded, monkeypatch):
    monkeypatch.setattr(follower, "TURN", 10)
    embedded.create_topic("t", partitions=2)
    for partition in range(2):
        write(embedded, range(partition * 100, partition * 100 + 50), partition)

    found = numbers(make(embedded, "t:*:earliest:"))
    assert [number // 100 for number in found] == ([0] * 10 + [1] * 10) * 5
    assert sorted(found) == [*range(50), *range(100, 150)]


def test_the_turns_of_partitions_are_in_their_order_in_every_process(embedded):
    embedded.create_topic("t", partitions=8)
    for partition in range(8):
        write(embedded, [partition * 10, partition * 10 + 1], partition)

    assert numbers(make(embedded, "t:*:earliest:")) == [0, 1, 10, 11, 20, 21, 30, 31, 40, 41, 50, 51, 60, 61, 70, 71]


def test_ranges_with_and_without_an_end_go_together(embedded):
    write(embedded, range(20))
    write(embedded, range(100, 110), topic="u")
    found = numbers(make(embedded, "t:0:5:15,u:0:-3:"))

    assert sorted(found) == [*range(5, 15), 107, 108, 109]


def test_samples_and_batches_tell_where_their_records_lie(embedded):
    embedded.create_topic("t", partitions=2)
    write(embedded, range(3), 0)
    write(embedded, range(100, 102), 1)

    samples = list(make(embedded, "t:*:earliest:", coordinates=True))
    assert [(number_of(value), where) for value, _, where in samples] == [
        (0, ("t", 0, 0)), (1, ("t", 0, 1)), (2, ("t", 0, 2)), (100, ("t", 1, 0)), (101, ("t", 1, 1)),
    ]  # fmt: skip
    ((_, _, (topics, partitions, offsets)),) = make(embedded, "t:*:earliest:", coordinates=True, batch_size=9)
    assert (topics, partitions.tolist(), offsets.tolist()) == (["t"] * 5, [0, 0, 0, 1, 1], [0, 1, 2, 0, 1])


# Workers and ranks


@pytest.mark.parametrize("batch_size", [None, 5])
def test_workers_and_ranks_share_what_is_written(embedded, batch_size):
    embedded.create_topic("t", partitions=2)
    write(embedded, range(300), 0)
    write(embedded, range(300, 340), 1)
    options = {"batch_size": batch_size, "block_records": 16, "world_size": 2}
    loaders = [
        DataLoader(make(embedded, "t:*:0:", rank=rank, **options), batch_size=None, num_workers=2) for rank in range(2)
    ]
    found = [flat(loader) if batch_size else numbers(loader) for loader in loaders]

    assert sorted(found[0] + found[1]) == list(range(340))
    assert min(map(len, found)) > 100


def test_the_most_records_are_those_of_all_workers(embedded):
    write(embedded, range(200))
    stream = make(embedded, idle_timeout_s=None, max_records=25, block_records=10)

    assert len(list(DataLoader(stream, batch_size=None, num_workers=3))) == 25


def test_words_for_the_start_are_refused_on_several_ranks(embedded):
    write(embedded, range(3))

    with pytest.raises(RangeError, match="resolve them once"):
        iter(make(embedded, rank=0, world_size=2))


# Resuming


@pytest.mark.parametrize(("workers", "batch_size"), [(None, None), (None, 4), (0, 4), (2, 4)])
def test_it_resumes_exactly(embedded, workers, batch_size):
    write(embedded, range(30))
    stream = make(embedded, idle_timeout_s=0.2, linger_s=0.05, batch_size=batch_size)
    stops = [3] if workers else [0, 3, 8] if batch_size else [0, 1, 29]

    assert_resumes_exactly(stream, num_workers=workers, stops=stops)


def test_a_restore_reads_from_its_place_on(embedded, monkeypatch):
    fetched, original = [], Fetcher.fetch

    def fetch(self, account):
        fetched.append(account.range)
        return original(self, account)

    write(embedded, range(60))
    before = iter(make(embedded))
    for _ in range(40):
        next(before)
    state = json.loads(json.dumps(before.state_dict()))
    before.close()
    monkeypatch.setattr(Fetcher, "fetch", fetch)
    again = iter(make(embedded))
    again.load_state_dict(state)

    assert numbers(again) == list(range(40, 60))
    assert [(item.start, item.end) for item in fetched if len(item) > 1] == [(40, 60)]


def test_a_state_is_behind_what_was_handed_out_not_what_was_read_ahead(embedded):
    write(embedded, range(60))
    samples = iter(make(embedded))
    for _ in range(7):
        next(samples)

    assert samples.state_dict()["positions"] == {"t:0": "0 7 -1"}
    samples.close()


def test_other_numbers_of_readers_go_on_with_the_rest(embedded):
    write(embedded, range(100))
    states, delivered = [], []
    for rank in range(3):
        samples = iter(make(embedded, "t:0:0:", rank=rank, world_size=3, block_records=4))
        delivered += numbers([next(samples) for _ in range(5 + 3 * rank)])
        states.append(samples.state_dict())
        samples.close()
    whole = merge_states(states)
    write(embedded, range(100, 120))
    for rank in range(2):
        delivered += numbers(make(embedded, "t:0:0:", rank=rank, world_size=2, block_records=4).rest(whole))

    assert sorted(delivered) == list(range(120))


def test_the_most_records_hold_across_other_readers(embedded):
    write(embedded, range(100))
    samples = iter(make(embedded, max_records=30, block_records=4))
    delivered = numbers([next(samples) for _ in range(11)])
    rest = make(embedded, max_records=30, block_records=4).rest(samples.state_dict())
    samples.close()
    found = [DataLoader(rest, batch_size=None, num_workers=2)]
    delivered += numbers(found[0])

    assert len(delivered) == len(set(delivered)) == 30


@pytest.mark.parametrize(
    ("topic", "options", "said"),
    [
        ("t:0:1:", {}, "it follows t:0:earliest:, wanted t:0:1:"),
        ("t:0:earliest:", {"batch_size": 7}, "stripes of 256 offsets, the dataset has 7"),
        ("t:0:0:5", {"idle_timeout_s": None}, "state"),
    ],
)
def test_a_state_of_another_stream_is_refused(embedded, topic, options, said):
    write(embedded, range(10))
    state = iter(make(embedded)).state_dict()

    with pytest.raises(StateError, match=said):
        iter(make(embedded, topic, **options)).load_state_dict(state)


@pytest.mark.parametrize("name", ["ranges", "topic_ids", "stripe", "share", "before", "positions", "records", "check"])
def test_a_state_that_was_changed_or_torn_is_refused(embedded, name):
    write(embedded, range(10))
    samples = iter(make(embedded))
    next(samples)
    state = samples.state_dict()
    samples.close()
    torn = {key: value for key, value in state.items() if key != name}
    changed = {**state, name: {"t:0": "0 5 0"} if name == "positions" else 77}

    for wrong in (torn, changed):
        with pytest.raises(StateError, match="torn or was changed"):
            iter(make(embedded)).load_state_dict(wrong)


# Policies and errors


@pytest.mark.parametrize("workers", [0, 1])
def test_a_record_that_does_not_fit_is_an_error_with_its_place(embedded, workers):
    write(embedded, range(5))
    embedded.fill("t", [(b"three", b"1")])

    with pytest.raises(DecodeError, match="t:0@5"):
        list(DataLoader(make(embedded), batch_size=None, num_workers=workers))


def test_records_left_out_are_counted_and_passed(embedded):
    write(embedded, range(5))
    embedded.fill("t", [(b"three", b"1"), (None, b"2")])
    write(embedded, range(5, 7))
    stream = make(embedded, on_error="skip", tombstone="skip")
    samples = iter(stream)

    assert numbers(samples) == list(range(7))
    assert stream.report[0].skipped == {"tombstone": 1, "on_error": 1}
    assert samples.state_dict()["positions"] == {"t:0": "0 9 -1"}


def test_the_report_grows_with_what_was_read(embedded):
    write(embedded, range(5))
    stream = make(embedded)
    list(stream)

    assert (stream.report.requested, stream.report.delivered) == (5, 5)
    assert str(stream.report[0].range) == "t:0:0:5"


def test_a_start_below_the_log_is_an_error_before_the_first_item(embedded):
    embedded.fill("t", [(b"x" * 100_000, b"1")] * 80)  # of which 5 MB are kept

    with pytest.raises(DataLossError, match="starts below the log"):
        next(iter(make(embedded, "t:0:0:")))


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"shuffle": True}, ConfigError, "shuffle is True, but a range has no end"),
        ({"equal_ranks": "drop"}, ConfigError, "equal_ranks, but a range has no end"),
        ({"topic": "t:0:0:5"}, ConfigError, "there is idle_timeout_s, but every range has an end"),
        ({"topic": "t:0:0:5", "idle_timeout_s": None, "from_committed": True}, ConfigError, "there is from_committed"),
        ({"idle_timeout_s": 0}, ConfigError, "idle_timeout_s is 0"), ({"linger_s": -1}, ConfigError, "linger_s is -1"),
        ({"max_records": 0}, ConfigError, "max_records is 0"),
        ({"topic": "t:*:0:,t:0:0:"}, RangeError, "each partition once where a range has no end, found t:0 2 times"),
        ({"topic": "t:0:50:"}, RangeError, "resolves to start 50 behind end 5"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_when_it_is_made(embedded, options, error, said):
    write(embedded, range(5))

    with pytest.raises(error, match=said):
        make(embedded, **options)


# The group's offsets


def committed(kafka, group="g", topic="t", partition=0):
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": group})
    (found,) = consumer.committed([TopicPartition(topic, partition)], timeout=10)
    consumer.close()
    return found.offset


def test_what_was_handed_out_is_committed_and_nothing_that_was_only_read_ahead(embedded):
    write(embedded, range(60))
    stream = make(embedded)
    samples = iter(stream)
    for _ in range(7):
        next(samples)
    assert committed(embedded) < 0
    stream.commit(samples.state_dict())
    assert committed(embedded) == 7
    next(samples)
    stream.commit(samples.state_dict())

    assert committed(embedded) == 8
    samples.close()


def test_a_stream_begins_where_the_group_has_committed(embedded):
    embedded.create_topic("t", partitions=2)
    write(embedded, range(20), 0)
    write(embedded, range(100, 105), 1)
    first = make(embedded, "t:*:earliest:", batch_size=8)
    batches = iter(first)
    head = flat([next(batches)])
    first.commit(batches.state_dict())
    lost = flat([next(batches)])  # handed out, but not committed
    batches.close()
    tail = flat(make(embedded, "t:*:earliest:", batch_size=8, from_committed=True))

    assert sorted(head + tail) == [*range(20), *range(100, 105)]
    assert set(lost) <= set(tail)


def test_workers_and_ranks_commit_what_lies_below_all_of_them(embedded):
    write(embedded, range(100))
    options = {"world_size": 2, "batch_size": 5}
    loaders = [
        StatefulDataLoader(make(embedded, "t:0:0:", rank=rank, **options), batch_size=None, num_workers=2)
        for rank in range(2)
    ]
    batches = list(map(iter, loaders))
    handed_out = flat([next(batches[0]) for _ in range(4)] + [next(batches[1]) for _ in range(2)])
    stream = make(embedded, "t:0:0:", rank=0, **options)
    with pytest.raises(StateError, match="rank 1 of 2"):
        stream.commit(loaders[0].state_dict())
    stream.commit([loader.state_dict() for loader in loaders])

    below = committed(embedded)
    assert 0 < below <= 30
    assert set(range(below)) <= set(handed_out)
    assert below not in handed_out


def test_ranges_with_an_end_are_not_committed(embedded):
    write(embedded, range(10))
    stream = make(embedded, "t:0:0:10", idle_timeout_s=None)

    with pytest.raises(ConfigError, match="wanted ranges without an end to commit for"):
        stream.commit(iter(stream).state_dict())


def test_a_group_that_consumers_have_joined_is_theirs(embedded):
    write(embedded, range(10))
    consumer = Consumer({"bootstrap.servers": embedded.bootstrap_servers, "group.id": "g", "log_level": 0})
    consumer.subscribe(["t"])
    deadline = time.monotonic() + 20
    while not consumer.assignment() and time.monotonic() < deadline:
        consumer.poll(0.1)
    stream = make(embedded)

    with pytest.raises(KafkaPipesError, match=r"committing in group g: .*consumers have joined this group"):
        stream.commit(iter(stream).state_dict())
    consumer.close()


def test_a_dataset_that_has_committed_is_pickled_and_forked_without_its_client(embedded):
    write(embedded, range(10))
    stream = make(embedded, batch_size=5)
    stream.commit(iter(stream).state_dict())

    assert flat(pickle.loads(pickle.dumps(stream))) == list(range(10))
    assert sorted(flat(DataLoader(stream, batch_size=None, num_workers=1))) == list(range(10))


def test_a_client_that_commits_is_left_alone_where_a_fork_has_brought_it(embedded, monkeypatch):
    monkeypatch.setattr(release, "_inherited", [])
    write(embedded, range(10))
    stream = make(embedded)
    stream.commit(iter(stream).state_dict())
    group = stream._group[1]
    admin, group._pid, stream._group = group._admin, -1, None  # as a child has it, in which the cycle is collected
    del group
    gc.collect()

    assert release._inherited == [admin]
