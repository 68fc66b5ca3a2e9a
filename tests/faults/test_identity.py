"""Is it still the log that was planned? Topics deleted, made anew, or given more partitions; logs cut back."""

import time

import pytest
from confluent_kafka.admin import NewPartitions, NewTopic

from kafkapipes import TopicChangedError, TopicError
from kafkapipes.kafka import watch
from kafkapipes.kafka.watch import TopicWatch
from tests.faults.harness import LITTLE_AHEAD, fault, ledger, read, records

pytestmark = pytest.mark.kafka
LARGE = 50_000
SLOWLY = {"config": LITTLE_AHEAD, "batch_records": 1, "stall_timeout_s": 20}


@pytest.fixture(autouse=True)
def asked_often(monkeypatch):
    monkeypatch.setattr(watch, "CHECK_S", 0.2)


@pytest.fixture
def topic(cluster):
    name = cluster.new_topic()
    cluster.produce(name, records(name, range(60), size=LARGE))
    return name


def make_anew(cluster, topic, sequences):
    """Delete a topic and create one of the same name, with as many records of other sequences."""
    cluster.admin.delete_topics([topic])[topic].result(30)
    while topic in cluster.admin.list_topics(timeout=10).topics:
        time.sleep(0.05)
    cluster.admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)
    cluster.produce(topic, records(topic, sequences, size=LARGE))
    return True


@pytest.mark.case(10)
def test_a_topic_that_is_deleted_amid_a_read_is_an_error_at_once(cluster, topic, how, verdict, monkeypatch):
    with fault(monkeypatch, lambda: cluster.admin.delete_topics([topic])[topic].result(30)) as fired:
        outcome = read(how, cluster.bootstrap_servers, f"{topic}:0:0:60", **SLOWLY)

    verdict.failed(outcome, TopicError, topic, within_s=15, truth=ledger(topic, range(60)))
    verdict.has_fired(fired.count)


@pytest.mark.case(11)
def test_a_topic_that_is_made_anew_amid_a_read_is_an_error_that_names_both_identities(
    cluster, topic, how, verdict, monkeypatch
):
    with fault(monkeypatch, lambda: make_anew(cluster, topic, range(100, 160))) as fired:
        outcome = read(how, cluster.bootstrap_servers, f"{topic}:0:0:60", **SLOWLY)

    verdict.failed(outcome, TopicChangedError, topic, "made anew", "id", within_s=20)
    verdict.has_fired(fired.count)


@pytest.mark.case(11)
def test_without_the_watch_a_topic_made_anew_is_read_on_in_silence(cluster, topic, verdict, monkeypatch):
    """The control: with the guard off, the fault does what it is feared for."""
    monkeypatch.setattr(TopicWatch, "tick", lambda *_: None)
    monkeypatch.setattr(TopicWatch, "confirm", lambda *_: None)

    with fault(monkeypatch, lambda: make_anew(cluster, topic, range(100, 160))) as fired:
        outcome = read("chain-0", cluster.bootstrap_servers, f"{topic}:0:0:60", **SLOWLY)

    verdict.control(outcome, ledger(topic, range(60)))
    verdict.has_fired(fired.count)


@pytest.mark.case(12)
@pytest.mark.parametrize(("text", "words"), [("no-such-topic:0:0:1", "no-such-topic"), ("{}:7:0:1", "it has 1: 0")])
def test_what_does_not_exist_is_an_error_at_once(cluster, topic, how, verdict, text, words):
    outcome = read(how, cluster.bootstrap_servers, text.format(topic))

    verdict.failed(outcome, TopicError, words, within_s=5)
    verdict.has_fired(1)


@pytest.mark.case(13)
def test_partitions_that_are_added_amid_a_read_change_nothing(cluster, topic, how, verdict, monkeypatch):
    with fault(
        monkeypatch, lambda: cluster.admin.create_partitions([NewPartitions(topic, 3)])[topic].result(30)
    ) as fired:
        outcome = read(how, cluster.bootstrap_servers, f"{topic}:*:earliest:latest", **SLOWLY)

    verdict.complete(outcome, ledger(topic, range(60)))
    verdict.has_fired(fired.count)
