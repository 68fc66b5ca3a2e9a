import ctypes
import gc
import socket
import time
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from confluent_kafka import IsolationLevel, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from kafkapipes import ConnectError, DataLossError, RangeError, RangeParser, TopicError
from kafkapipes.kafka import offsets
from kafkapipes.kafka.config import ClientConfig
from kafkapipes.kafka.offsets import LogReader, PartitionLog, ask_topic_id, expand, plan_ranges, resolve, settle
from kafkapipes.ranges import AtTime, OffsetRange, Symbol, parse_ranges

LOG = PartitionLog(low=10, stable=80, high=100)


def one(text):
    return parse_ranges(text)[0]


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("t:0:20:30", "t:0:20:30"), ("t:0:earliest:latest", "t:0:10:80"), ("t:0:-5:latest", "t:0:75:80"),
        ("t:0:-5000:latest", "t:0:10:80"), ("t:0:@1:@2", "t:0:33:44"), ("t:0:@2:@3", "t:0:44:80"),
        ("t:0:@3:latest", "t:0:80:80"),
    ],
)  # fmt: skip
def test_symbols_become_offsets(text, resolved):
    times = {("t", 0, 1): 33, ("t", 0, 2): 44, ("t", 0, 3): -1}

    assert str(resolve(one(text), LOG.low, LOG.stable, times)) == resolved


def test_a_range_that_resolves_backwards_is_an_error():
    with pytest.raises(RangeError, match="start 44 behind end 33"):
        resolve(one("t:0:@2:@1"), 10, 80, {("t", 0, 1): 33, ("t", 0, 2): 44})


def test_every_partition_becomes_a_range_in_order():
    assert list(map(str, expand(one("t:*:0:9"), [0, 1, 2]))) == ["t:0:0:9", "t:1:0:9", "t:2:0:9"]


def test_a_missing_partition_is_an_error_that_lists_the_others():
    with pytest.raises(TopicError, match=r"no partition 30 in topic t, it has 25: 0, 1, .*19, \.\.\."):
        expand(one("t:30:0:9"), list(range(25)))


@pytest.mark.parametrize(
    ("text", "start", "end"), [("t:0:10:80", 10, 80), ("t:0:5:5", 5, 5), ("t:0:500:500", 500, 500)]
)
def test_a_range_inside_the_log_or_empty_is_read_as_it_is(text, start, end):
    account = settle(one(text), LOG, LOG.stable, "raise", "raise")

    assert (account.start, account.end, account.aged_out, account.unwritten) == (start, end, 0, 0)


def test_a_start_below_the_log_is_loss_with_the_numbers():
    with pytest.raises(DataLossError, match=r"wanted offset 3, the log of t:0 begins at 10, so 7 offset\(s\) are gone"):
        settle(one("t:0:3:50"), LOG, LOG.stable, "raise", "raise")


@pytest.mark.parametrize(("text", "aged_out", "left"), [("t:0:3:50", 7, 40), ("t:0:3:8", 5, 0)])
def test_loss_can_be_read_around_and_is_counted(text, aged_out, left):
    account = settle(one(text), LOG, LOG.stable, "continue", "raise")

    assert (account.aged_out, account.end - account.start) == (aged_out, left)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("t:0:10:101", "behind the log.*high watermark is t:0@100"),
        ("t:0:85:90", "open transaction.*stable until t:0@80, high watermark 100"),
    ],
)
def test_an_end_that_the_log_does_not_hold_is_an_error_with_both_limits(text, expected):
    with pytest.raises(DataLossError, match=expected):
        settle(one(text), LOG, LOG.stable, "raise", "raise")


def test_without_read_committed_the_high_watermark_is_the_limit():
    assert settle(one("t:0:85:90"), LOG, LOG.high, "raise", "raise").end == 90


@pytest.mark.parametrize(("text", "end", "unwritten"), [("t:0:50:200", 80, 120), ("t:0:150:200", 200, 50)])
def test_reading_can_stop_at_the_end_of_the_log_and_count_the_rest(text, end, unwritten):
    account = settle(one(text), LOG, LOG.stable, "raise", "stop")

    assert account.unwritten == unwritten
    assert account.end - account.start == max(80 - int(account.range.start), 0)


def test_waiting_reads_to_the_end_that_was_asked_for():
    assert settle(one("t:0:90:200"), LOG, LOG.stable, "raise", "wait").end == 200


def test_waiting_from_beyond_the_log_is_an_error():
    with pytest.raises(DataLossError):
        settle(one("t:0:150:200"), LOG, LOG.stable, "raise", "wait")


def test_no_ranges_need_no_broker():
    assert len(plan_ranges([], ClientConfig("127.0.0.1:1", "g"))) == 0


def test_a_range_without_an_end_is_refused_before_any_connection():
    with pytest.raises(RangeError, match="has no end"):
        plan_ranges([OffsetRange("t", 0, 0, Symbol.UNBOUNDED)], ClientConfig("127.0.0.1:1", "g"))


def test_several_topics_and_repeated_ranges_are_planned_in_order(embedded):
    for topic in ("b", "a"):
        embedded.fill(topic, [(b"", None)] * 5)

    reader = RangeParser("b:0:1:2,a:*:earliest:latest,b:0:1:2").read_partitions(embedded.bootstrap_servers)

    assert list(map(str, reader.plan().ranges)) == ["b:0:1:2", "a:0:0:5", "b:0:1:2"]


def test_a_time_is_a_non_negative_number():
    with pytest.raises(RangeError, match="MS"):
        AtTime(-1)


def test_a_plan_knows_the_identity_of_its_topic_and_how_far_its_log_is_stable(embedded):
    embedded.fill("t", [(b"", None)] * 5)

    first, again = (RangeParser("t:0:0:4").read_partitions(embedded.bootstrap_servers).plan()[0] for _ in range(2))

    assert first.topic_id == again.topic_id != ""
    assert first.stable == 5


def failed(code):
    future = Future()
    future.set_exception(KafkaException(KafkaError(code)))
    return future


def test_a_client_is_told_to_look_for_a_leader_before_it_is_first_asked_for_offsets(embedded, monkeypatch):
    """Left to itself it takes, now and then, seconds to look."""
    embedded.fill("clicks", [(b"a", None)])
    asked = []

    class Noting(AdminClient):
        def list_topics(self, *args, **named):
            found = super().list_topics(*args, **named)  # which may raise: not answered
            asked.append("leaders")
            return found

        def list_offsets(self, *args, **named):
            asked.append("offsets")
            return super().list_offsets(*args, **named)

    monkeypatch.setattr(offsets, "AdminClient", Noting)
    with LogReader(ClientConfig(embedded.bootstrap_servers, "g"), 10) as reader:
        assert reader.ends({("clicks", 0)})["clicks", 0][0] == 1
        assert reader.logs({("clicks", 0)})["clicks", 0].high == 1

    assert asked == ["leaders", "offsets", "offsets", "offsets", "offsets"]


@pytest.mark.parametrize("early", [failed(KafkaError.UNKNOWN_TOPIC_OR_PART), failed(KafkaError._TRANSPORT), Future()])
def test_an_identity_that_was_asked_for_too_early_is_asked_for_again(embedded, early, monkeypatch):
    """The topic may have been made since, or the connection not have been there yet."""
    embedded.create_topic("clicks")
    answers = [early]
    monkeypatch.setattr(offsets, "ask_topic_id", lambda *args: answers.pop() if answers else ask_topic_id(*args))

    report = plan_ranges([OffsetRange("clicks", 0, 0, 0)], ClientConfig(embedded.bootstrap_servers, "g"))

    assert (report[0].topic_id != "", answers) == (True, [])


def test_a_cluster_that_names_no_controller_is_planned_without_identities_and_says_so(embedded, caplog):
    embedded.fill("t", [(b"", None)] * 5)
    embedded._library.rd_kafka_mock_set_controller_id(ctypes.c_void_p(embedded._cluster), 77)
    reader = RangeParser("t:0:0:5").read_partitions(embedded.bootstrap_servers)
    began = time.monotonic()

    assert sum(map(len, reader)) == 5

    assert reader.report[0].topic_id == ""
    assert "no broker tells the identity of topic t" in caplog.text
    assert time.monotonic() - began < 2


LIST_OFFSETS = 2  # the protocol's number of the request
TRANSPORT, LEADER_NOT_AVAILABLE, NOT_LEADER = -195, 5, 6


def fail_requests(embedded, key, *codes):
    """The next requests of a kind get these errors from the embedded broker."""
    array = (ctypes.c_int * len(codes))(*codes)
    push = embedded._library.rd_kafka_mock_push_request_errors_array
    push.argtypes = [ctypes.c_void_p, ctypes.c_int16, ctypes.c_size_t, ctypes.c_void_p]
    push(embedded._cluster, key, len(codes), array)


@pytest.mark.parametrize("code", [TRANSPORT, LEADER_NOT_AVAILABLE, NOT_LEADER, 7, 9, 13, 14, 74, 75])
@pytest.mark.parametrize("text", ["t:0:0:20", "t:*:earliest:latest", "t:0:-20:latest"])
def test_a_failed_question_for_offsets_is_asked_again_and_never_taken_for_an_answer(embedded, code, text):
    """A connection that breaks there looks to the client like an answer of -1001."""
    embedded.fill("t", [(b"", None)] * 20)
    fail_requests(embedded, LIST_OFFSETS, code)
    reader = RangeParser(text).read_partitions(embedded.bootstrap_servers, on_short="stop", connect_timeout_s=10)

    assert sum(map(len, reader)) == 20


def test_a_question_for_offsets_that_keeps_failing_is_an_error_with_its_cause(embedded):
    embedded.fill("t", [(b"", None)] * 20)
    fail_requests(embedded, LIST_OFFSETS, *[NOT_LEADER] * 500)
    reader = RangeParser("t:0:0:20").read_partitions(embedded.bootstrap_servers, connect_timeout_s=1)

    with pytest.raises(ConnectError, match=r"offsets of t:0.*NOT_LEADER"):
        list(reader)


def test_a_broker_that_does_not_answer_is_an_error_that_says_so():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        servers = f"127.0.0.1:{silent.getsockname()[1]}"
        reader = RangeParser("t:0:0:20").read_partitions(servers, connect_timeout_s=0.5)

        with pytest.raises(ConnectError, match="nothing is refused and nothing answers"):
            list(reader)


def test_an_interrupted_question_leaves_no_client_to_the_one_who_catches(monkeypatch):
    """Whose last reference goes ends the client, and waits for the name server while a name is looked up."""

    def interrupted(self, *_, **__):
        raise KeyboardInterrupt

    def clients():
        return {id(item) for item in gc.get_objects() if type(item) is AdminClient}

    monkeypatch.setattr(AdminClient, "list_topics", interrupted)
    before, deadline = clients(), time.monotonic() + 10
    with pytest.raises(KeyboardInterrupt) as caught:
        plan_ranges([one("t:0:0:1")], ClientConfig("127.0.0.1:1", "g"))
    while clients() - before and time.monotonic() < deadline:
        time.sleep(0.01)

    assert caught.value.__traceback__ is not None
    assert not clients() - before


def test_the_epoch_of_a_log_is_that_of_the_newer_leader_where_two_have_answered(monkeypatch):
    """Committed and uncommitted reading are two questions, and the leader may move between them, to and fro."""
    found = {IsolationLevel.READ_COMMITTED: (50, 7), IsolationLevel.READ_UNCOMMITTED: (50, 6)}

    def answers(self, partitions, spec, level):
        offset, epoch = found[level]
        return dict.fromkeys(partitions, SimpleNamespace(offset=offset, leader_epoch=epoch))

    monkeypatch.setattr(LogReader, "_offsets", answers)
    with LogReader(ClientConfig("127.0.0.1:1", "g"), 1) as reader:
        assert reader.logs({("t", 0)})["t", 0].epoch == 7
