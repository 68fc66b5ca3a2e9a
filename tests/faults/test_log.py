"""What a log lacks: compacted offsets, markers, aborted and open transactions, ends not reached, starts aged out.

The truth is the ledger of what was produced, and where a log decides what is left of it, Kafka's own client agrees.
"""

import threading
import time
from contextlib import contextmanager, suppress
from itertools import pairwise

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, OffsetSpec, ResourceType

from kafkapipes import ConfigError, DataLossError, RangeError, StalledError
from kafkapipes.kafka.config import ClientConfig
from tests.faults.harness import (
    BY_TURNS,
    LITTLE_AHEAD,
    WORKERS,
    Fired,
    Outcome,
    fault,
    ledger,
    read,
    record,
    records,
    vouched,
)

pytestmark = pytest.mark.kafka
LARGE = 50_000
SLOWLY = {"config": LITTLE_AHEAD, "batch_records": 1}
UNCOMMITTED = {"config": {"isolation.level": "read_uncommitted"}}
# Several workers may not wait. A dataset reads in the parent, whatever its workers.
MORE_WAITING = ("dataset-2", "chain-0", "stream-0", "stream-1")
WAITING = ["dataset-0", "chain-1", *(pytest.param(way, marks=pytest.mark.slow) for way in MORE_WAITING)]


def part(truth, start, end):
    """What a truth holds in [start, end)."""
    return [(where, sequence) for where, sequence in truth if start <= where[2] < end]


def gaps(outcome):
    """Gaps of each range; None where the report stays in the workers."""
    return None if outcome.report is None else [account.gaps for account in outcome.report]


def delete_below(cluster, topic, low):
    place = TopicPartition(topic, 0, low)
    cluster.admin.delete_records([place])[place].result(30)
    return low


def retain_less(cluster, topic):
    """Have the broker keep less of a log, by whole segments; where it begins then."""
    setting = ConfigEntry("retention.bytes", "800000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[setting])
    cluster.admin.incremental_alter_configs([resource])[resource].result(30)
    place, deadline = TopicPartition(topic, 0), time.monotonic() + 30
    while not (low := cluster.admin.list_offsets({place: OffsetSpec.earliest()})[place].result(30).offset):
        assert time.monotonic() < deadline, "nothing was deleted"
        time.sleep(0.05)
    return low


@contextmanager
def later(action, after_s=1.0):
    """Run `action` once, some seconds after the block begins: for reads that get nothing, and so count nothing."""
    fired = Fired()

    def act():
        fired.result = action()
        fired.count += 1

    timer = threading.Timer(after_s, act)
    timer.start()
    try:
        yield fired
    finally:
        timer.join(30)


# Compaction


SURVIVORS = [*range(20, 30), *range(60, 70)]


@pytest.fixture(scope="module")
def compacted(cluster, oracle):
    """Of offsets 0 to 99 only SURVIVORS have keys that come once."""
    topic = cluster.new_topic(
        cleanup_policy="compact", segment_ms="200", min_cleanable_dirty_ratio="0.01", delete_retention_ms="0"
    )
    keys = {offset: b"%d" % offset for offset in SURVIVORS}
    for first in range(0, 100, 50):
        cluster.produce(
            topic, [(record(topic, 0, n)[0], keys.get(n, b"again and again")) for n in range(first, first + 50)]
        )
        time.sleep(0.25)
    deadline = time.monotonic() + 60
    while oracle.truth(cluster.bootstrap_servers, topic, 0, 0, 100).offsets != SURVIVORS:
        assert time.monotonic() < deadline, "the log was not compacted"
        cluster.produce(topic, [(b"x", b"again and again")])  # rolls the segment, so that the one before is compacted
        time.sleep(0.25)
    return topic


@pytest.mark.case(1)
@pytest.mark.parametrize(
    "bounds",
    [
        [(0, 100)],
        [(0, 1), (20, 30), (55, 60), (60, 100)],  # nothing; everything; nothing; only the end is lacking
    ],
)
def test_compacted_offsets_are_gaps_at_the_start_inside_and_at_the_end(
    cluster, oracle, compacted, bounds, how, verdict
):
    text = ",".join(f"{compacted}:0:{start}:{end}" for start, end in bounds)
    left = [((compacted, 0, offset), offset) for offset in SURVIVORS]
    truth = [row for start, end in bounds for row in part(left, start, end)]
    lacking = [end - start - len(part(left, start, end)) for start, end in bounds]
    vouched(oracle.truth(cluster.bootstrap_servers, compacted, 0, 0, 100), left)

    outcome = read(how, cluster.bootstrap_servers, text)

    verdict.complete(outcome, truth, within_s=8)
    assert gaps(outcome) in (None, lacking)
    verdict.has_fired(sum(lacking))


# Transactions that have ended


@pytest.fixture(scope="module")
def transactions(cluster):
    """0-4 committed, 5 their marker; 6-8 aborted, 9 their marker; 10-11 plain; 12-14 committed, 15 their marker."""
    topic = cluster.new_topic()
    cluster.transaction(topic, records(topic, range(5)), end="commit")
    cluster.transaction(topic, records(topic, range(6, 9)), end="abort")
    cluster.produce(topic, records(topic, [10, 11]))
    cluster.transaction(topic, records(topic, range(12, 15)), end="commit")
    return topic


@pytest.fixture
def committed(cluster, oracle, transactions):
    """The truth of committed reading, in which Kafka's own client agrees."""
    truth = [((transactions, 0, offset), offset) for offset in (*range(5), *range(10, 15))]
    told = oracle.truth(cluster.bootstrap_servers, transactions)
    assert (told.low, told.stable, told.high) == (0, 16, 16)
    return vouched(told, truth)


@pytest.mark.case(2)
@pytest.mark.parametrize(
    ("bounds", "lacking"),
    [
        ([(0, 6), (8, 10), (10, 16)], [1, 2, 1]),  # on a commit marker; on one of an abort; on the last offset of all
        ([(5, 6)], [1]),  # nothing else
    ],
)
def test_a_range_that_ends_on_a_marker_is_finished_and_not_waited_for(
    cluster, transactions, committed, bounds, lacking, how, verdict
):
    text = ",".join(f"{transactions}:0:{start}:{end}" for start, end in bounds)

    outcome = read(how, cluster.bootstrap_servers, text)

    verdict.complete(outcome, [row for start, end in bounds for row in part(committed, start, end)], within_s=8)
    assert gaps(outcome) in (None, lacking)
    verdict.has_fired(sum(lacking))


@pytest.mark.case(3)
@pytest.mark.parametrize(("start", "end"), [(6, 9), (3, 16)])
def test_aborted_records_are_gaps(cluster, oracle, transactions, committed, start, end, how, verdict):
    truth = part(committed, start, end)
    all_there = oracle.truth(cluster.bootstrap_servers, transactions, 0, start, end, committed=False).offsets

    outcome = read(how, cluster.bootstrap_servers, f"{transactions}:0:{start}:{end}")

    verdict.complete(outcome, truth, within_s=8)
    assert gaps(outcome) in (None, [end - start - len(truth)])
    verdict.has_fired(len(all_there) - len(truth))


@pytest.mark.case(3)
def test_uncommitted_reading_gives_aborted_records_but_no_markers(cluster, oracle, transactions, how, verdict):
    truth = [((transactions, 0, offset), offset) for offset in range(15) if offset not in (5, 9)]
    vouched(oracle.truth(cluster.bootstrap_servers, transactions, committed=False), truth)

    outcome = read(how, cluster.bootstrap_servers, f"{transactions}:0:0:16", **UNCOMMITTED)

    verdict.complete(outcome, truth, within_s=8)
    assert gaps(outcome) in (None, [3])
    verdict.has_fired(len({6, 7, 8} & {where[2] for where, _ in outcome.delivered}))


# An open transaction


class OpenTransaction:
    """A log of 0-9 plain, 10-14 in a transaction that is open, 15-17 plain; its marker comes at 18."""

    def __init__(self, cluster):
        self.topic = cluster.new_topic()
        cluster.produce(self.topic, records(self.topic, range(10)))
        self._producer = cluster.transaction(self.topic, records(self.topic, range(10, 15)), end="open")
        cluster.produce(self.topic, records(self.topic, range(15, 18)))
        self.everything = ledger(self.topic, range(18))
        self.stable = part(self.everything, 0, 10)

    def commit(self):
        self._producer.commit_transaction(30)

    def abort(self):
        self._producer.abort_transaction(30)


@pytest.fixture
def unended(cluster):
    made = OpenTransaction(cluster)
    yield made
    with suppress(KafkaException):  # the test has ended it
        made.abort()


def unstable(cluster, oracle, unended):
    """How many offsets lie behind the open transaction's start, as Kafka's own client sees it."""
    told = oracle.truth(cluster.bootstrap_servers, unended.topic)
    assert (told.stable, told.high) == (10, 18)
    vouched(told, unended.stable)
    return told.high - told.stable


@pytest.mark.case(4)
def test_a_range_that_ends_in_an_open_transaction_is_an_error_with_both_limits(cluster, oracle, unended, how, verdict):
    verdict.has_fired(unstable(cluster, oracle, unended))

    outcome = read(how, cluster.bootstrap_servers, f"{unended.topic}:0:0:18")

    stable = f"stable until {unended.topic}:0@10, high watermark 18"
    verdict.failed(outcome, DataLossError, f"{unended.topic}:0:0:18", "open transaction", stable, within_s=5)
    assert not outcome.delivered


@pytest.mark.case(4)
def test_reading_may_stop_where_a_transaction_is_open_and_reports_the_rest(cluster, oracle, unended, how, verdict):
    verdict.has_fired(unstable(cluster, oracle, unended))

    outcome = read(how, cluster.bootstrap_servers, f"{unended.topic}:0:0:18", on_short="stop")

    verdict.partial(outcome, unended.stable, missing=8, within_s=8)


@pytest.mark.case(4)
@pytest.mark.parametrize(("options", "end"), [({}, 10), (UNCOMMITTED, 18)], ids=["committed", "uncommitted"])
def test_latest_is_where_an_open_transaction_begins_unless_it_is_read_too(
    cluster, oracle, unended, options, end, how, verdict
):
    verdict.has_fired(unstable(cluster, oracle, unended))

    outcome = read(how, cluster.bootstrap_servers, f"{unended.topic}:0:earliest:latest", **options)

    told = oracle.truth(cluster.bootstrap_servers, unended.topic, committed=not options)
    verdict.complete(outcome, vouched(told, part(unended.everything, 0, end)), within_s=8)


@pytest.mark.case(4)
@pytest.mark.parametrize("end", ["commit", "abort"])
@pytest.mark.parametrize("way", WAITING)
def test_a_transaction_that_ends_while_it_is_waited_for_is_read_as_it_ended(
    cluster, oracle, unended, end, way, verdict, monkeypatch
):
    verdict.has_fired(unstable(cluster, oracle, unended))

    with fault(monkeypatch, getattr(unended, end), after=1) as fired:
        outcome = read(way, cluster.bootstrap_servers, f"{unended.topic}:0:0:18", on_short="wait", stall_timeout_s=20)

    told = oracle.truth(cluster.bootstrap_servers, unended.topic, 0, 0, 18)
    kept = [row for row in unended.everything if end == "commit" or not 10 <= row[0][2] < 15]
    verdict.complete(outcome, vouched(told, kept), within_s=10)
    assert gaps(outcome) in (None, [18 - len(kept)])
    verdict.has_fired(fired.count)


@pytest.mark.case(4)
@pytest.mark.parametrize("way", WAITING)
def test_a_transaction_that_does_not_end_is_a_stall_where_it_begins(cluster, oracle, unended, way, verdict):
    verdict.has_fired(unstable(cluster, oracle, unended))

    outcome = read(way, cluster.bootstrap_servers, f"{unended.topic}:0:0:18", on_short="wait", stall_timeout_s=1)

    stalled_at = f"at {unended.topic}:0@10"
    verdict.failed(outcome, StalledError, stalled_at, "stall_timeout_s", within_s=5, truth=unended.stable)


@pytest.mark.case(4)
@pytest.mark.parametrize("way", WORKERS)
def test_several_workers_may_not_wait(cluster, oracle, unended, way, verdict):
    """Another worker's share may begin where the log does not reach yet."""
    verdict.has_fired(unstable(cluster, oracle, unended))

    outcome = read(way, cluster.bootstrap_servers, f"{unended.topic}:0:0:18", on_short="wait")

    verdict.failed(outcome, ConfigError, "on_short", "num_workers", within_s=5)


@pytest.mark.case(5)
def test_a_range_that_starts_in_an_open_transaction_is_an_error_before_it_is_read(
    cluster, oracle, unended, how, verdict
):
    verdict.has_fired(unstable(cluster, oracle, unended))

    outcome = read(how, cluster.bootstrap_servers, f"{unended.topic}:0:12:17")

    stable = f"stable until {unended.topic}:0@10, high watermark 18"
    verdict.failed(outcome, DataLossError, f"{unended.topic}:0:12:17", "open transaction", stable, within_s=5)


@pytest.mark.case(5)
def test_a_range_that_starts_in_an_open_transaction_may_be_reported_instead(cluster, oracle, unended, how, verdict):
    verdict.has_fired(unstable(cluster, oracle, unended))

    outcome = read(how, cluster.bootstrap_servers, f"{unended.topic}:0:12:17", on_short="stop")

    verdict.partial(outcome, [], missing=5, within_s=5)


@pytest.mark.case(5)
@pytest.mark.parametrize("way", WAITING)
def test_a_start_in_an_open_transaction_is_read_once_the_transaction_ends(cluster, oracle, unended, way, verdict):
    verdict.has_fired(unstable(cluster, oracle, unended))

    with later(unended.commit) as fired:
        outcome = read(way, cluster.bootstrap_servers, f"{unended.topic}:0:12:17", on_short="wait", stall_timeout_s=20)

    told = oracle.truth(cluster.bootstrap_servers, unended.topic, 0, 12, 17)
    verdict.complete(outcome, vouched(told, part(unended.everything, 12, 17)), within_s=10)
    verdict.has_fired(fired.count)


@pytest.mark.case(5)
@pytest.mark.parametrize("way", WAITING)
def test_a_start_in_a_transaction_that_does_not_end_is_a_stall(cluster, oracle, unended, way, verdict):
    verdict.has_fired(unstable(cluster, oracle, unended))

    outcome = read(way, cluster.bootstrap_servers, f"{unended.topic}:0:12:17", on_short="wait", stall_timeout_s=1)

    verdict.failed(outcome, StalledError, f"at {unended.topic}:0@12", "stall_timeout_s", within_s=5)


@pytest.mark.case(5)
def test_without_the_plan_a_start_in_an_open_transaction_gives_no_record_no_end_and_no_error(
    cluster, oracle, unended, verdict
):
    """The control: a reader that takes silence for the end would lose all."""
    verdict.has_fired(unstable(cluster, oracle, unended))
    consumer = Consumer(ClientConfig(cluster.bootstrap_servers, "faults").consumer())
    place = TopicPartition(unended.topic, 0, 12)
    consumer.assign([place])

    events = consumer.consume(100, 3.0)

    waits_at = consumer.position([place])[0].offset
    consumer.close()
    unended.commit()
    assert events == []
    assert waits_at < 0  # it knows of no position either
    told = oracle.truth(cluster.bootstrap_servers, unended.topic, 0, 12, 17)
    verdict.control(Outcome("raw consumer"), vouched(told, part(unended.everything, 12, 17)))


# The end of the log


@pytest.fixture
def topic(cluster):
    """A log of 0 to 19."""
    name = cluster.new_topic()
    cluster.produce(name, records(name, range(20)))
    return name


def beyond(cluster, oracle, topic, end):
    """How many offsets a range names that the log does not hold, as Kafka's own client sees it."""
    return end - oracle.truth(cluster.bootstrap_servers, topic).high


@pytest.mark.case(6)
def test_a_range_that_ends_behind_the_log_is_an_error_with_both_numbers(cluster, oracle, topic, how, verdict):
    verdict.has_fired(beyond(cluster, oracle, topic, 30))

    outcome = read(how, cluster.bootstrap_servers, f"{topic}:0:0:30")

    verdict.failed(outcome, DataLossError, f"{topic}:0:0:30", "up to 30", f"high watermark is {topic}:0@20", within_s=5)
    assert not outcome.delivered


@pytest.mark.case(6)
def test_reading_may_stop_at_the_end_of_the_log_and_reports_the_rest(cluster, oracle, topic, how, verdict):
    verdict.has_fired(beyond(cluster, oracle, topic, 30))

    outcome = read(how, cluster.bootstrap_servers, f"{topic}:0:0:30", on_short="stop")

    verdict.partial(outcome, ledger(topic, range(20)), missing=10, within_s=8)


@pytest.mark.case(6)
@pytest.mark.parametrize("way", WAITING)
def test_records_that_are_written_while_they_are_waited_for_are_read(cluster, oracle, topic, way, verdict, monkeypatch):
    verdict.has_fired(beyond(cluster, oracle, topic, 30))

    def write():
        cluster.produce(topic, records(topic, range(20, 25)))
        time.sleep(0.5)
        cluster.produce(topic, records(topic, range(25, 35)))

    with fault(monkeypatch, write, after=1) as fired:
        outcome = read(way, cluster.bootstrap_servers, f"{topic}:0:0:30", on_short="wait", stall_timeout_s=20)

    told = oracle.truth(cluster.bootstrap_servers, topic, 0, 0, 30)
    verdict.complete(outcome, vouched(told, ledger(topic, range(30))), within_s=10)
    verdict.has_fired(fired.count)


@pytest.mark.case(6)
@pytest.mark.parametrize("way", WAITING)
def test_a_range_that_begins_where_the_log_ends_is_read_when_it_is_written(cluster, oracle, topic, way, verdict):
    verdict.has_fired(beyond(cluster, oracle, topic, 30))

    with later(lambda: cluster.produce(topic, records(topic, range(20, 30)))) as fired:
        outcome = read(way, cluster.bootstrap_servers, f"{topic}:0:20:30", on_short="wait", stall_timeout_s=20)

    verdict.complete(outcome, ledger(topic, range(20, 30), first=20), within_s=10)
    verdict.has_fired(fired.count)


@pytest.mark.case(6)
@pytest.mark.parametrize("way", WAITING)
def test_a_range_that_is_never_filled_is_a_stall_where_the_log_ends(cluster, oracle, topic, way, verdict):
    verdict.has_fired(beyond(cluster, oracle, topic, 30))

    outcome = read(way, cluster.bootstrap_servers, f"{topic}:0:0:30", on_short="wait", stall_timeout_s=1)

    truth = ledger(topic, range(20))
    verdict.failed(outcome, StalledError, "up to offset 30", f"at {topic}:0@20", within_s=5, truth=truth)


@pytest.mark.case(7)
@pytest.mark.parametrize("on_short", ["raise", "wait"])
def test_a_range_that_starts_behind_the_log_is_an_error_before_it_is_read(
    cluster, oracle, topic, on_short, how, verdict
):
    verdict.has_fired(beyond(cluster, oracle, topic, 25))

    outcome = read(how, cluster.bootstrap_servers, f"{topic}:0:25:30", on_short=on_short)

    verdict.failed(outcome, DataLossError, f"{topic}:0:25:30", f"high watermark is {topic}:0@20", within_s=5)


@pytest.mark.case(7)
def test_a_range_that_starts_behind_the_log_may_be_reported_instead(cluster, oracle, topic, how, verdict):
    verdict.has_fired(beyond(cluster, oracle, topic, 25))

    outcome = read(how, cluster.bootstrap_servers, f"{topic}:0:25:30", on_short="stop")

    verdict.partial(outcome, [], missing=5, within_s=5)


# The start of the log


@pytest.fixture
def large(own_broker):
    """A log of 0 to 59, in three segments, of which only a few records are fetched ahead."""
    name = own_broker.new_topic(segment_bytes="1048576")
    own_broker.produce(name, records(name, range(60), size=LARGE), in_a_batch=4)
    return name


@pytest.mark.case(8)
def test_a_range_that_starts_below_the_log_is_an_error_that_says_what_is_gone(cluster, oracle, topic, how, verdict):
    delete_below(cluster, topic, 7)
    verdict.has_fired(oracle.truth(cluster.bootstrap_servers, topic).low)

    outcome = read(how, cluster.bootstrap_servers, f"{topic}:0:2:20")

    gone = f"wanted offset 2, the log of {topic}:0 begins at 7, so 5 offset(s) are gone"
    verdict.failed(outcome, DataLossError, gone, f"start at {topic}:0@7", within_s=5)
    assert not outcome.delivered


@pytest.mark.case(8)
def test_what_lies_below_the_log_may_be_left_out_and_is_reported(cluster, oracle, topic, how, verdict):
    delete_below(cluster, topic, 7)
    told = oracle.truth(cluster.bootstrap_servers, topic, 0, 0, 20)
    verdict.has_fired(told.low)

    outcome = read(how, cluster.bootstrap_servers, f"{topic}:0:0:5,{topic}:0:5:20", on_data_loss="continue")

    truth = vouched(told, part(ledger(topic, range(20)), 7, 20))
    verdict.partial(outcome, truth, missing=7, within_s=8)
    if outcome.report is not None:
        accounts = [(account.aged_out, account.overtaken, account.gaps) for account in outcome.report]
        assert accounts == [(5, 0, 0), (2, 0, 0)]


@pytest.mark.case(8)
def test_what_retention_deleted_is_told_as_what_is_gone(own_broker, oracle, large, how, verdict):
    low = retain_less(own_broker, large)

    refused = read(how, own_broker.bootstrap_servers, f"{large}:0:0:60")
    outcome = read(how, own_broker.bootstrap_servers, f"{large}:0:0:60", on_data_loss="continue")

    verdict.failed(refused, DataLossError, f"begins at {low}, so {low} offset(s) are gone", within_s=5)
    told = oracle.truth(own_broker.bootstrap_servers, large, 0, 0, 60)
    truth = vouched(told, ledger(large, range(low, 60), first=low), size=LARGE)
    verdict.partial(outcome, truth, missing=low, within_s=8)
    verdict.has_fired(low)


# A slow reader, overtaken


@pytest.mark.case(9)
def test_retention_that_overtakes_a_reader_is_an_error_that_says_where_the_log_begins_now(
    own_broker, oracle, large, how, verdict, monkeypatch
):
    with fault(monkeypatch, lambda: delete_below(own_broker, large, 45)) as fired:
        outcome = read(how, own_broker.bootstrap_servers, f"{large}:0:0:60", **SLOWLY)

    assert oracle.truth(own_broker.bootstrap_servers, large).low == fired.result == 45
    words = (f"reading {large}:0:", f"at {large}:0@", "the log begins at 45 by now", "offset(s) were taken")
    verdict.failed(outcome, DataLossError, *words, within_s=8, truth=ledger(large, range(60)))
    if how == "chain-0":
        stood = len(outcome.delivered)
        assert f"at {large}:0@{stood}: the log begins at 45 by now, so {45 - stood} offset(s)" in str(outcome.error)
    verdict.has_fired(fired.count)


@pytest.mark.case(9)
@pytest.mark.parametrize("take", [lambda *log: delete_below(*log, 45), retain_less], ids=["deletion", "retention"])
def test_an_overtaken_reader_may_go_on_where_the_log_begins_and_reports_each_offset_that_is_gone(
    own_broker, oracle, large, take, how, verdict, monkeypatch
):
    with fault(monkeypatch, lambda: take(own_broker, large)) as fired:
        outcome = read(how, own_broker.bootstrap_servers, f"{large}:0:0:60", on_data_loss="continue", **SLOWLY)

    everything, low = ledger(large, range(60)), fired.result
    told = oracle.truth(own_broker.bootstrap_servers, large, 0, 0, 60)
    assert told.low == low
    kept = vouched(told, part(everything, low, 60), size=LARGE)
    before = [where[2] for where, _ in outcome.delivered if where[2] < low]
    gone = sorted(set(range(low)) - set(before))
    shares = [(0, 30), (30, 60)] if how in BY_TURNS else [(0, 60)]
    for start, end in shares:  # each reader lost one stretch, from where it stood to where the log begins
        lost = [offset for offset in gone if start <= offset < end]
        assert lost == list(range(min(lost, default=0), min(low, end) if lost else 0))
    verdict.partial(outcome, [row for row in everything if row[0][2] in before] + kept, len(gone))
    assert gaps(outcome) in (None, [0])
    if outcome.report is not None:
        assert (outcome.report[0].aged_out, outcome.report[0].overtaken) == (len(gone), len(gone))
    verdict.has_fired(fired.count)
    verdict.has_fired(len(gone))


# Ranges by time


@pytest.fixture(scope="module")
def timed(cluster):
    """A log whose timestamps do not ascend, and are old enough to be deleted for it."""
    topic = cluster.new_topic(retention_ms="-1")
    for number, timestamp in enumerate((1000, 3000, 2000, 5000, 4000)):
        cluster.produce(topic, records(topic, [number]), timestamp=timestamp)
    return topic


@pytest.mark.case(44)
@pytest.mark.parametrize(
    "bounds",
    [
        [("0", "@2500"), ("@2500", "@3001"), ("@3001", "latest")],  # one partition in several questions at once
        [("@0", "@1000"), ("@1000", "@5000"), ("@9000", "latest")],  # nothing before the first, nor past the last
        [("@2500", "@9000")],
    ],
)
def test_a_time_is_the_first_offset_at_or_after_it_whatever_order_the_timestamps_have(
    cluster, oracle, timed, bounds, how, verdict
):
    told = oracle.truth(cluster.bootstrap_servers, timed)
    vouched(told, ledger(timed, range(5)))
    verdict.has_fired(sum(later < earlier for earlier, later in pairwise(told.timestamps)))

    def offset(bound):
        words = {"0": 0, "latest": told.high}
        if bound in words:
            return words[bound]
        stamps = zip(told.offsets, told.timestamps, strict=True)
        return next((place for place, stamp in stamps if stamp >= int(bound[1:])), told.high)

    resolved = [(offset(start), offset(end)) for start, end in bounds]
    text = ",".join(f"{timed}:0:{start}:{end}" for start, end in bounds)

    outcome = read(how, cluster.bootstrap_servers, text)

    truth = [row for start, end in resolved for row in part(ledger(timed, range(5)), start, end)]
    verdict.complete(outcome, truth, within_s=8)
    if outcome.report is not None:
        assert [(item.start, item.end) for item in outcome.report.ranges] == resolved


@pytest.mark.case(44)
def test_times_that_resolve_backwards_are_an_error_and_not_an_empty_range(cluster, timed, how, verdict):
    outcome = read(how, cluster.bootstrap_servers, f"{timed}:0:@3001:@2500")

    verdict.failed(outcome, RangeError, "start 3", "end 1", within_s=5)
    verdict.has_fired(1)
