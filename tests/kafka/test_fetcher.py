import gc
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from confluent_kafka import KafkaError, Message

import kafkapipes.kafka.fetcher
from kafkapipes import (
    CorruptDataError,
    DataLossError,
    KafkaPipesError,
    RangeParser,
    StalledError,
    TopicError,
    TruncationError,
)
from kafkapipes.kafka.failures import HARMLESS, TERMINAL
from kafkapipes.kafka.fetcher import Fetcher
from kafkapipes.kafka.offsets import PartitionLog
from kafkapipes.ranges import OffsetRange
from kafkapipes.report import RangeReport
from tests.kafka.fake import CONFIG, ScriptedConsumer, python_client

CODES = sorted({*TERMINAL, *HARMLESS, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN})
OPTIONS = {"batch_records": 10, "stall_timeout_s": 0.2, "timestamps": False, "headers": False}


def record(offset, partition=0, topic="t", epoch=-1):
    value = b"%d" % offset
    return Message(topic=topic, partition=partition, offset=offset, key=b"k", value=value, leader_epoch=epoch)


def event(code, offset=-1001, text="why"):
    return Message(topic="t", partition=0, offset=offset, value=text.encode(), error=KafkaError(code, text))


@pytest.fixture(params=["python", "native"])
def client_for(request, monkeypatch):
    """A function: what a client of either kind gives, as lists of messages → that client."""
    if request.param == "python":
        return lambda *fetches, after_seek=(): python_client(ScriptedConsumer(*fetches, after_seek=after_seek))
    library = request.getfixturevalue("fake_library")
    library.forget()

    def native_client(*fetches, after_seek=()):
        library.forget()
        library.say(*fetches, after_seek=after_seek)
        return library.client(monkeypatch)

    return native_client


@pytest.fixture
def scripted(client_for):
    """A function that reads t:0:start:end from what a client gives: the offsets that the read delivers.

    Args:
        log_now: what the brokers say of the log when they are asked again
        stable, epoch: what the log held when the read was planned, and under which leader epoch
        after_seek: what the client gives once it is sent to an offset of a known epoch
    """

    def read(
        *fetches, start=0, end=3, assigned_before=0, log_now=None, stable=0, epoch=-1, after_seek=(),
        on_data_loss="raise",
    ):  # fmt: skip
        account = RangeReport(OffsetRange("t", 0, start, end), 0, 100, stable=stable, epoch=epoch)
        fetcher = Fetcher(CONFIG, on_data_loss=on_data_loss, **OPTIONS)
        fetcher._client.close()
        fetcher._client, fetcher._assigned = client_for(*fetches, after_seek=after_seek), assigned_before
        fetcher._log_now = lambda progress: log_now
        for batch in fetcher.fetch(account):
            yield from map(int, batch.offsets)

    return read


@pytest.fixture
def fetch(scripted):
    """The same, read to its end: a list."""
    return lambda *fetches, **options: list(scripted(*fetches, **options))


def test_records_and_the_end_of_the_log_may_come_together(fetch):
    assert fetch([record(0), record(1), event(KafkaError._PARTITION_EOF, 3)]) == [0, 1]


def test_an_end_of_log_before_new_records_does_not_end_the_range(fetch):
    assert fetch([record(0), event(KafkaError._PARTITION_EOF, 1), record(1)], [record(2)]) == [0, 1, 2]


def test_the_end_of_another_partitions_log_ends_nothing(fetch):
    stale = Message(topic="t", partition=1, offset=50, error=KafkaError(KafkaError._PARTITION_EOF, "end"))

    assert fetch([record(0), stale], [record(1), record(2)]) == [0, 1, 2]


def test_the_text_of_an_error_is_never_taken_for_a_value(fetch):
    with pytest.raises(TopicError, match=r"reading t:0:0:3 at t:0@1: .*UNKNOWN"):
        fetch([record(0)], [event(KafkaError.UNKNOWN_TOPIC_OR_PART)])


@pytest.mark.parametrize("code", CODES)
def test_whatever_error_comes_among_records_the_read_is_whole_or_raises(fetch, code):
    with suppress(KafkaPipesError):
        got = fetch([record(0), event(code, 1), record(1)], [record(2)], log_now=PartitionLog(0, 100, 100))

        assert got == [0, 1, 2]


def test_a_damaged_batch_ends_the_read_at_once(fetch):
    with pytest.raises(CorruptDataError, match=r"t:0@0.*_BAD_MSG"):
        fetch([event(KafkaError._BAD_MSG)], [record(0), record(1), record(2)])


def test_what_came_with_a_damaged_batch_is_handed_out_before_the_error_that_names_its_offset(scripted):
    delivered = []

    with pytest.raises(CorruptDataError, match=r"reading t:0:0:5 at t:0@2: _BAD_MSG"):
        delivered.extend(scripted([record(0), record(1), event(KafkaError._BAD_MSG), record(3)], end=5))
    assert delivered == [0, 1]


def test_damage_behind_the_end_of_the_range_is_no_error(fetch):
    assert fetch([record(0), record(1), record(2), event(KafkaError._BAD_MSG)]) == [0, 1, 2]


def test_a_group_that_may_not_be_joined_is_no_reason_to_stop(fetch):
    assert fetch([event(KafkaError.GROUP_AUTHORIZATION_FAILED), record(0), record(1)], [record(2)]) == [0, 1, 2]


def test_a_passing_error_is_the_cause_that_a_stall_names(fetch):
    with pytest.raises(StalledError, match=r"t:0@1; last word of the client: _TRANSPORT: gone"):
        fetch([record(0), event(KafkaError._TRANSPORT, text="gone")])


LOST = [KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE]


@pytest.mark.parametrize("code", LOST)
def test_a_position_that_retention_has_overtaken_is_an_error_from_where_the_log_begins_now(fetch, code):
    with pytest.raises(DataLossError, match=r"at t:0@1: the log begins at 7 by now, so 6 offset\(s\) were taken"):
        fetch([record(0), event(code)], end=10, log_now=PartitionLog(7, 100, 100))


@pytest.mark.parametrize("code", LOST)
def test_a_read_may_go_on_where_the_log_begins_now(fetch, code):
    goes_on = {"log_now": PartitionLog(7, 100, 100), "on_data_loss": "continue"}

    assert fetch([record(0), event(code)], [record(7), record(8), record(9)], end=10, **goes_on) == [0, 7, 8, 9]
    assert fetch([record(0), event(code)], end=5, **goes_on) == [0]


@pytest.mark.parametrize("code", LOST)
@pytest.mark.parametrize("on_data_loss", ["raise", "continue"])
def test_a_position_behind_the_end_of_the_log_is_truncation(fetch, code, on_data_loss):
    with pytest.raises(TruncationError, match=r"at t:0@2: the log ends at 1 by now, it held records up to 9"):
        fetch(
            [record(0), record(1), event(code)],
            end=5, stable=9, log_now=PartitionLog(0, 1, 1), on_data_loss=on_data_loss,
        )  # fmt: skip


def test_a_log_that_ends_below_what_was_planned_is_truncation_once_a_broker_says_so(fetch):
    ends = [record(0), event(KafkaError._PARTITION_EOF, 1)]

    with pytest.raises(TruncationError, match=r"at t:0@1: the log ends at 1 by now, it held records up to 9"):
        fetch(ends, end=5, stable=9, log_now=PartitionLog(0, 1, 1))
    whole = PartitionLog(0, 9, 9)  # a new leader that did not know the end yet
    assert fetch(ends, [], [record(1), record(2)], stable=9, log_now=whole) == [0, 1, 2]


GAP_AT_THE_END = [record(0, epoch=4), event(KafkaError._PARTITION_EOF, 7)]
CUT = event(KafkaError._AUTO_OFFSET_RESET, text="Partition log truncation detected at offset 3")


def test_a_gap_at_the_end_is_truncation_if_the_planned_epoch_ends_before_it(fetch):
    with pytest.raises(TruncationError, match=r"reading t:0:0:3 at t:0@7: .*truncation detected at offset 3"):
        fetch(GAP_AT_THE_END, stable=5, epoch=4, after_seek=[[], [CUT]], log_now=PartitionLog(0, 7, 7))


@pytest.mark.parametrize(
    ("answer", "low"),
    [
        ([event(KafkaError._PARTITION_EOF, 7)], 0),
        ([record(5, epoch=6)], 0),
        ([event(KafkaError._AUTO_OFFSET_RESET)], 4),  # retention took it, after all was read
    ],
)
def test_a_gap_at_the_end_is_one_if_the_planned_epoch_reaches_behind_it(fetch, answer, low):
    log_now = PartitionLog(low, 7, 7)

    assert fetch(GAP_AT_THE_END, stable=5, epoch=4, after_seek=[[], answer], log_now=log_now) == [0]


def test_a_gap_at_the_end_that_no_broker_explains_is_a_stall(fetch):
    with pytest.raises(StalledError, match="t:0@7"):
        fetch(GAP_AT_THE_END, stable=5, epoch=4)


def test_a_reader_that_was_stopped_itself_does_not_take_that_for_silence(fetch, monkeypatch):
    original = Fetcher._next_batch

    def after_a_while(*arguments):  # in which the process did not run
        time.sleep(1.5)
        return original(*arguments)

    monkeypatch.setattr(kafkapipes.kafka.fetcher, "AWAY_S", 0.1)
    monkeypatch.setattr(Fetcher, "_next_batch", after_a_while)

    assert fetch([], [record(0), record(1), record(2)]) == [0, 1, 2]


@pytest.mark.parametrize("stale", [record(1, partition=1), record(1, topic="u")])
def test_a_record_of_the_range_before_is_an_error_and_not_data(fetch, stale):
    with pytest.raises(CorruptDataError, match=r"wanted records of t:0:0:3 only"):
        fetch([record(0), stale], assigned_before=1)


def test_a_record_that_comes_again_is_an_error_and_not_data(fetch):
    with pytest.raises(CorruptDataError, match="counts twice"):
        fetch([record(0), record(1)], [record(1), record(2)])


@pytest.mark.parametrize("collecting", [True, False])
def test_the_garbage_collector_is_left_as_it_was(fetch, collecting):
    (gc.enable if collecting else gc.disable)()
    try:
        fetch([record(0)], [record(1), record(2)])
        assert gc.isenabled() == collecting
    finally:
        gc.enable()


def test_large_records_come_in_small_batches(embedded, monkeypatch):
    monkeypatch.setattr(kafkapipes.kafka.fetcher, "BATCH_BYTES", 10_000)
    monkeypatch.setattr(kafkapipes.kafka.fetcher, "FIRST_BATCH", 3)
    embedded.fill("t", [(bytes(2500), None) for _ in range(20)])

    batches = list(RangeParser("t:0:0:20").read_partitions(embedded.bootstrap_servers))

    assert max(map(len, batches)) == 4
    assert sum(map(len, batches)) == 20


def test_what_one_range_tells_of_the_size_of_records_holds_for_the_next_of_its_topic_alone(embedded, monkeypatch):
    monkeypatch.setattr(kafkapipes.kafka.fetcher, "FIRST_BATCH", 3)
    for topic in ("t", "u"):
        embedded.fill(topic, [(bytes(10), None) for _ in range(40)])

    batches = RangeParser("t:0:0:20,t:0:20:40,u:0:0:20").read_partitions(embedded.bootstrap_servers, batch_records=20)
    first = {str(batch.account.range): len(batch) for batch in reversed(list(batches))}

    assert first["t:0:0:20"] == first["u:0:0:20"] == 3
    assert first["t:0:20:40"] > 3


def test_a_reader_whose_caller_takes_its_time_leaves_the_processor_alone(embedded):
    embedded.fill("t", [(bytes(50_000), None)] * 60)
    config = {"queued.max.messages.kbytes": 100}  # full with what comes at once
    batches = iter(RangeParser("t:0:0:60").read_partitions(embedded.bootstrap_servers, batch_records=1, config=config))
    next(batches)
    time.sleep(0.3)
    before = time.process_time()
    time.sleep(1)

    assert time.process_time() - before < 0.3


ABANDONED = """
from kafkapipes import RangeParser
batches = iter(RangeParser("t:0:0:1000").read_partitions({servers!r}, batch_records=10))
print(len(next(batches)))
"""


def test_a_process_may_end_in_the_middle_of_a_read(embedded):
    embedded.fill("t", [(b"a", None)] * 1000)
    began = time.monotonic()

    command = [sys.executable, "-c", ABANDONED.format(servers=embedded.bootstrap_servers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)

    assert (done.returncode, done.stdout, done.stderr) == (0, "10\n", "")
    assert time.monotonic() - began < 20  # most of it imports torch


class InterruptedInClose(ScriptedConsumer):
    def close(self):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as exc:  # a callback of the client was interrupted, and the client asks nobody
            raise SystemError("returned a result with an exception set") from exc


def test_ctrl_c_while_the_client_closes_is_seen_as_ctrl_c():
    fetcher = Fetcher(CONFIG, **OPTIONS)
    fetcher._client.close()
    fetcher._client = python_client(InterruptedInClose())

    with pytest.raises(KeyboardInterrupt), fetcher:
        pass


def test_a_stall_tells_how_the_client_stands_by_its_own_statistics(embedded, monkeypatch):
    monkeypatch.setenv("KAFKAPIPES_CLIENT", "python")
    embedded.fill("t", [(b"a", None)] * 3)
    options = {"on_short": "wait", "stall_timeout_s": 0.5}
    reader = RangeParser("t:0:0:10").read_partitions(embedded.bootstrap_servers, **options)

    standing = r"; it says of itself: leader 1, fetch state active, next offset 3, brokers .*127\.0\.0\.1:\d+/1 UP"
    with pytest.raises(StalledError, match=standing):
        list(reader)


@pytest.mark.parametrize(
    "statistics", ['{"topics": {}}', '{"topics": {"t": {"partitions": {"1": {"next_offset": 7}}}}}', '{"brokers": {}}']
)
def test_statistics_that_do_not_know_the_partition_tell_no_offset(statistics):
    account = RangeReport(OffsetRange("t", 0, 0, 3), 0, 100)

    assert kafkapipes.kafka.fetcher._standing(statistics, account)[0] == -1
