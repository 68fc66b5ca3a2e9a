import re
import time
from ctypes import c_char_p, c_int32, c_void_p
from functools import partial
from threading import Timer

import pytest

from kafkapipes import StalledError, TopicChangedError, TopicError
from kafkapipes.kafka import watch
from kafkapipes.kafka.config import ClientConfig
from kafkapipes.kafka.fetcher import Fetcher
from kafkapipes.kafka.native import VARIABLE
from kafkapipes.kafka.offsets import LogReader
from kafkapipes.kafka.watch import TopicWatch
from kafkapipes.testing import EmbeddedKafka


@pytest.fixture
def planned(embedded):
    """(a watch, the identity of its topic "t")"""
    embedded.create_topic("t")
    config = ClientConfig(embedded.bootstrap_servers, "g")
    with LogReader(config, 10) as reader:
        topic_id = reader.topic_id("t")
    made = TopicWatch(config, 5.0)
    yield made, topic_id
    made.close()


def delete(embedded, topic):
    """The embedded broker forgets a topic."""
    library, cluster = embedded._library, c_void_p(embedded._cluster)
    assert library.rd_kafka_mock_topic_delete(cluster, c_char_p(topic.encode())) == 0


def tick_for(seconds, watched, topic_id, *where):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        watched.tick("t", topic_id, *where)
        time.sleep(0.01)


def test_the_same_topic_passes(planned, monkeypatch):
    monkeypatch.setattr(watch, "CHECK_S", 0.02)
    watched, topic_id = planned
    assert topic_id

    tick_for(0.3, watched, topic_id)
    watched.confirm()


def test_a_topic_made_anew_is_found_by_a_tick_and_by_the_confirmation(planned, embedded, monkeypatch):
    monkeypatch.setattr(watch, "CHECK_S", 0.02)
    watched, topic_id = planned
    watched.tick("t", topic_id)
    delete(embedded, "t")
    embedded.create_topic("t")

    with pytest.raises(TopicChangedError, match=f"topic t was deleted and made anew.*{re.escape(topic_id)}, found "):
        tick_for(5, watched, topic_id)
    with pytest.raises(TopicChangedError, match=re.escape(topic_id)):
        watched.confirm()


def test_a_deleted_topic_is_an_error_only_when_two_answers_say_so(planned, embedded, monkeypatch):
    monkeypatch.setattr(watch, "DOUBT_S", 0.5)
    watched, topic_id = planned
    watched.tick("t", topic_id)
    delete(embedded, "t")
    began = time.monotonic()

    with pytest.raises(TopicError, match="topic t while it was read"):
        watched.confirm()

    assert 0.4 < time.monotonic() - began < 3


def test_what_a_tick_finds_has_the_place_of_the_reader_if_that_is_in_the_same_topic(planned, embedded, monkeypatch):
    monkeypatch.setattr(watch, "DOUBT_S", 0.1)
    watched, topic_id = planned
    delete(embedded, "t")

    with pytest.raises(TopicError, match=r"^reading t:0:0:9 at t:0@3: "):
        tick_for(5, watched, topic_id, "reading t:0:0:9 at t:0@3")
    watched.tick("t", topic_id)  # asks
    time.sleep(0.5)
    with pytest.raises(TopicError, match=r"^topic t while it was read: "):
        watched.tick("u", topic_id, "reading u:0:0:9 at u:0@3")


def test_a_topic_without_identity_is_let_be(planned):
    watched, _ = planned

    watched.tick("t", "")
    watched.confirm()

    assert watched._admin is None


def glancing(planned, glance):
    """A watch that glances first, and what it was glanced at."""
    watched, seen = planned[0], []

    def noted(topic):
        seen.append(topic)
        return glance(topic)

    watched._glance = noted
    return watched, seen


def test_a_glance_that_tells_the_planned_identity_needs_no_client(planned, monkeypatch):
    monkeypatch.setattr(watch, "CHECK_S", 0.02)
    watched, seen = glancing(planned, lambda topic: planned[1])

    tick_for(0.3, watched, planned[1])
    watched.confirm()

    assert watched._admin is None
    assert len(seen) > 3


def fail(topic):
    raise ValueError(topic)


@pytest.mark.parametrize("glance", [lambda topic: "", lambda topic: "another", fail])
def test_what_a_glance_does_not_confirm_a_client_is_asked(planned, glance, monkeypatch):
    monkeypatch.setattr(watch, "DOUBT_S", 0.02)
    watched, seen = glancing(planned, glance)

    tick_for(0.3, watched, planned[1])
    watched.confirm()

    assert seen == ["t"]
    assert watched._admin is not None


def test_a_direct_reader_glances_and_finds_a_topic_made_anew(planned, embedded, monkeypatch):
    monkeypatch.setenv(VARIABLE, "direct")
    config, topic_id = ClientConfig(embedded.bootstrap_servers, "g"), planned[1]
    with Fetcher(config, batch_records=9, stall_timeout_s=5, timestamps=False, headers=False) as fetcher:
        fetcher._watch.tick("t", topic_id)
        fetcher.confirm()
        assert fetcher._watch._admin is None
        delete(embedded, "t")
        embedded.create_topic("t")

        with pytest.raises(TopicChangedError, match=re.escape(topic_id)):
            fetcher.confirm()


def test_a_cluster_that_does_not_confirm_is_a_stall(planned, embedded):
    watched, topic_id = planned
    watched.tick("t", topic_id)
    watched._timeout_s = 1.0
    embedded.close()

    with pytest.raises(StalledError, match=r"topic t was read to the end, but no broker confirmed within 1 s.*refused"):
        watched.confirm()


def test_another_broker_confirms_when_the_one_that_was_asked_is_gone():
    with EmbeddedKafka(brokers=2) as embedded:
        embedded.create_topic("t")
        config = ClientConfig(embedded.bootstrap_servers, "g")
        with LogReader(config, 10) as reader:
            topic_id = reader.topic_id("t")
        watched = TopicWatch(config, 20.0)
        watched.tick("t", topic_id)
        watched.confirm()
        embedded._library.rd_kafka_mock_broker_set_down(c_void_p(embedded._cluster), c_int32(1))
        name_another = partial(
            embedded._library.rd_kafka_mock_set_controller_id, c_void_p(embedded._cluster), c_int32(2)
        )
        Timer(1.5, name_another).start()  # until then the cluster still names the broker that is gone
        began = time.monotonic()

        watched.confirm()
        watched.close()

    assert time.monotonic() - began < 12
