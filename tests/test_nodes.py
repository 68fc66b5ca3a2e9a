"""A stream as a node of torchdata.nodes: exact at every step, whatever reads ahead behind it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from torchdata.nodes import Batcher, Loader, ParallelMapper, Prefetcher

from kafkapipes import StateError, StreamingKafkaDataset
from kafkapipes.nodes import KafkaNode
from kafkapipes.testing import EmbeddedKafka

RECORDS = 40
WAYS = {
    "batches": {"batch_size": 6},
    "shuffled batches": {"batch_size": 6, "shuffle": True},
    "samples": {},
    "shuffled samples": {"shuffle": True},
}


@pytest.fixture(scope="module")
def clicks():
    with EmbeddedKafka() as kafka:
        kafka.create_topic("clicks", partitions=2)
        kafka.fill("clicks", [(bytes([number]), bytes([number])) for number in range(25)], 0)
        kafka.fill("clicks", [(bytes([number]), bytes([number])) for number in range(25, RECORDS)], 1)
        yield kafka


def make(kafka, topic="clicks:0:0:25,clicks:1:0:15", **options):
    message = {"topic": topic, "input_config": {"data_type": "uint8", "label_type": "uint8"}}
    return StreamingKafkaDataset(message, kafka.bootstrap_servers, "g", **options)


def labels(item):
    return np.atleast_1d(item[1]).tolist()


def pipeline(stream, **options):
    """A mapper of two threads and what prefetches, behind the node."""
    mapped = ParallelMapper(KafkaNode(stream), labels, num_workers=2, method="thread", **options)
    return Loader(Prefetcher(mapped, prefetch_factor=3))


def flat(items):
    return [label for item in items for label in item]


def through_json(state):
    return json.loads(json.dumps(state))


def stopped(loader, items):
    """The first items and the state behind them."""
    iterator = iter(loader)
    head = [next(iterator) for _ in range(items)]
    return head, through_json(loader.state_dict())


@pytest.mark.parametrize("way", WAYS)
def test_a_pipeline_goes_on_exactly_behind_any_item(clicks, way):
    whole = list(pipeline(make(clicks, **WAYS[way])))
    assert sorted(flat(whole)) == list(range(RECORDS))

    for stop in range(len(whole)) if "batches" in way else (0, 1, 17, RECORDS - 1):
        head, state = stopped(pipeline(make(clicks, **WAYS[way])), stop)
        again = pipeline(make(clicks, **WAYS[way]))
        again.load_state_dict(state)

        assert head + list(again) == whole, f"behind item {stop}"
        assert list(again) == whole, f"in the epoch after that which was resumed behind item {stop}"


def test_a_pipeline_that_is_resumed_twice_goes_on_exactly(clicks):
    stream = make(clicks, shuffle=True, batch_size=3)
    whole = list(pipeline(stream))
    found, state = stopped(pipeline(stream), 2)
    for _ in range(3):
        again = pipeline(stream)
        again.load_state_dict(state)
        head, state = stopped(again, 3)
        found += head

    assert found == whole[:11]


def test_states_that_are_taken_less_often_are_replayed_from(clicks):
    stream = make(clicks, shuffle=True, batch_size=3)
    head, state = stopped(pipeline(stream, snapshot_frequency=4), 6)
    again = pipeline(stream, snapshot_frequency=4)
    again.load_state_dict(state)

    assert head + list(again) == list(pipeline(stream))


def test_a_state_at_the_end_leads_to_the_next_epoch(clicks):
    stream = make(clicks, shuffle=True, batch_size=6)
    loader = pipeline(stream)
    whole = list(loader)
    state = through_json(loader.state_dict())
    stream.set_epoch(1)
    again = pipeline(stream)
    again.load_state_dict(state)
    later = list(again)

    assert sorted(flat(later)) == list(range(RECORDS))
    assert later != whole


def test_the_epoch_is_the_datasets_and_a_state_is_followed_into_its_own(clicks):
    stream = make(clicks, shuffle=True, batch_size=6)
    stream.set_epoch(3)
    loader = pipeline(stream)
    head, state = stopped(loader, 2)
    fresh = make(clicks, shuffle=True, batch_size=6)
    again = pipeline(fresh)
    again.load_state_dict(state)

    assert head + list(again) == [batch.tolist() for _, batch in stream]
    assert list(again) == [batch.tolist() for _, batch in fresh]


def test_a_node_by_itself_and_batches_made_behind_it(clicks):
    node = KafkaNode(make(clicks))
    assert next(node)[1] == 0
    state = node.state_dict()
    node.reset(state)
    batches = Loader(Batcher(node, 7, drop_last=False))

    assert next(node)[1] == 1
    assert [len(batch) for batch in batches] == [7, 7, 7, 7, 7, 5]


def test_a_stream_without_an_end_resumes(clicks):
    clicks.create_topic("live")
    clicks.fill("live", [(bytes([number]), bytes([number])) for number in range(12)])
    options = {"topic": "live:0:earliest:", "batch_size": 3, "idle_timeout_s": 0.2, "linger_s": 0.05}
    head, state = stopped(pipeline(make(clicks, **options)), 2)
    again = pipeline(make(clicks, **options))
    again.load_state_dict(state)

    assert flat(head + list(again)) == list(range(12))


def test_a_state_of_another_stream_is_refused(clicks):
    state = KafkaNode(make(clicks, batch_size=6)).state_dict()

    with pytest.raises(StateError, match="batch_size 6, the dataset has 5"):
        KafkaNode(make(clicks, batch_size=5)).reset(state)


def test_a_node_that_is_reset_while_another_thread_waits_leaves_it_be(clicks):
    """What waits ends by itself, and the next pass is whole."""
    clicks.create_topic("slow")
    clicks.fill("slow", [(b"0", b"0")])
    stream = make(clicks, topic="slow:0:earliest:", idle_timeout_s=0.4, linger_s=0.05)
    loader = pipeline(stream)
    next(iter(loader))  # the threads behind wait for what does not come

    assert [len(item) for item in loader] == [1]


def test_kafkapipes_itself_does_not_import_it():
    code = "import sys, kafkapipes; raise SystemExit('torchdata.nodes' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
