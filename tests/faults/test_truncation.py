"""A log that is cut back under a live reader: what was promised is gone, and other records may stand in its place."""

import random
from typing import NamedTuple

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from kafkapipes import TruncationError
from kafkapipes.progress import RangeProgress
from tests.faults.batches import base_offset
from tests.faults.harness import BY_TURNS, LITTLE_AHEAD, READS, fault, ledger, read, records, vouched

pytestmark = pytest.mark.kafka
LARGE = 50_000
LENGTH = 60  # of a log when a read of all of it is planned
OTHERS = 1000  # the first sequence of records that come to stand in the place of others
TRANSACTION = 20  # records that are committed behind them
SLOWLY = {"config": LITTLE_AHEAD, "batch_records": 1, "stall_timeout_s": 30}


class Cut(NamedTuple):
    """A log is cut back to `end`, and `others` records are appended, which are aborted or not."""

    end: int
    others: int = 0
    aborted: bool = False


# The reader has taken 12 of 60 records when it happens, and a few more are fetched.
CUTS = {
    "below-the-reader": Cut(5),
    "above-the-reader": Cut(40),
    "below-and-refilled": Cut(5, 80),
    "above-and-refilled": Cut(40, 40),
    "above-and-refilled-in-vain": Cut(40, 30, aborted=True),
}
SAYS = {
    "below-the-reader": "the log ends at 5 by now, it held records up to 60",
    "above-the-reader": "the log ends at 40 by now, it held records up to 60",
    "below-and-refilled": "cut back",
    "above-and-refilled": "epoch",
    "above-and-refilled-in-vain": "truncation detected at offset 60",
}
PAIRS = [(cut, how) for cut in CUTS for how in READS]
QUICK = {
    ("below-the-reader", "dataset-0"),
    ("above-the-reader", "chain-2"),
    ("below-and-refilled", "chain-0"),
    ("above-and-refilled", "dataset-2"),
    ("above-and-refilled-in-vain", "chain-2"),
}


def append(cluster, topic, sequences, aborted=False):
    """Append records, each in a batch of its own, so that a log can be cut between any two."""
    properties = {
        "bootstrap.servers": cluster.bootstrap_servers, "batch.num.messages": 1, "enable.idempotence": True,
        "log_level": 0, **({"transactional.id": topic} if aborted else {}),
    }  # fmt: skip
    producer = Producer(properties)
    if aborted:
        producer.init_transactions(30)
        producer.begin_transaction()
    for value, key in records(topic, sequences, size=LARGE):
        producer.produce(topic, value, key, 0)
    assert producer.flush(30) == 0
    if aborted:
        producer.abort_transaction(30)


def cut_back(broker, topic, cut):
    """Kill the broker, cut its log, start it again, and append other records."""
    broker.kill()
    folder = broker.log_folder(topic)
    log = folder / "00000000000000000000.log"
    content, at = log.read_bytes(), 0
    while at < len(content) and base_offset(content, at) < cut.end:
        at += 12 + int.from_bytes(content[at + 8 : at + 12])
    log.write_bytes(content[:at])
    for derived in ("*.index", "*.timeindex", "*.snapshot"):
        for path in folder.glob(derived):
            path.unlink()
    broker.start()
    if cut.others:
        append(broker, topic, range(OTHERS, OTHERS + cut.others), cut.aborted)


def lost_by(oracle, broker, topic, cut):
    """How many of the records that were promised the log lacks by now, as Kafka's own client sees it."""
    others = [] if cut.aborted else ledger(topic, range(OTHERS, OTHERS + cut.others), first=cut.end)
    told = oracle.truth(broker.bootstrap_servers, topic)
    vouched(told, ledger(topic, range(cut.end)) + others, size=LARGE)
    assert told.high == cut.end + cut.others + cut.aborted  # the marker of the abort
    return LENGTH - cut.end


def epochs(cluster, topic, count):
    """The leader epochs of the first records, by a bare client."""
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap_servers, "group.id": "epochs", "log_level": 0})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found = [message.leader_epoch() for message in consumer.consume(count, 20)]
    consumer.close()
    assert len(found) == count
    return found


@pytest.fixture
def topic(spare_broker):
    name = spare_broker.new_topic()
    append(spare_broker, name, range(LENGTH))
    return name


@pytest.mark.case(31)
@pytest.mark.parametrize(
    ("name", "how"), [pytest.param(*pair, marks=[] if pair in QUICK else pytest.mark.slow) for pair in PAIRS]
)
def test_a_log_that_is_cut_back_amid_a_read_is_an_error(spare_broker, oracle, topic, name, how, verdict, monkeypatch):
    cut, before = CUTS[name], spare_broker.restarts

    with fault(monkeypatch, lambda: cut_back(spare_broker, topic, cut), after=12) as fired:
        outcome = read(how, spare_broker.bootstrap_servers, f"{topic}:0:0:{LENGTH}", **SLOWLY)

    says = "cut back" if how in BY_TURNS else SAYS[name]  # the first of two workers to notice may stand elsewhere
    verdict.failed(
        outcome, TruncationError, says, f"{topic}:0@", "read the range again from its start",
        within_s=30, truth=ledger(topic, range(LENGTH)),
    )  # fmt: skip
    assert (fired.count, spare_broker.restarts) == (1, before + 1)
    verdict.has_fired(lost_by(oracle, spare_broker, topic, cut))


@pytest.mark.case(31)
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_wherever_a_log_is_cut_and_whatever_fills_it_nothing_is_lost_in_silence(
    spare_broker, oracle, topic, seed, verdict, monkeypatch
):
    draw = random.Random(seed)
    cut = Cut(draw.randrange(1, LENGTH), draw.choice([0, 1, 20, 80]))
    cut = cut._replace(aborted=cut.others > 0 and draw.random() < 0.5)
    how, after = draw.choice(READS), draw.randrange(1, 20)
    truth = ledger(topic, range(LENGTH))

    with fault(monkeypatch, lambda: cut_back(spare_broker, topic, cut), after) as fired:
        outcome = read(how, spare_broker.bootstrap_servers, f"{topic}:0:0:{LENGTH}", **SLOWLY)

    if outcome.error is None:  # all that is gone had been fetched
        verdict.complete(outcome, truth)
    else:
        verdict.failed(outcome, TruncationError, f"{topic}:0@", "cut back", within_s=30, truth=truth)
    verdict.has_fired(fired.count * lost_by(oracle, spare_broker, topic, cut))


@pytest.mark.case(31)
@pytest.mark.parametrize(
    "name", ["above-and-refilled", pytest.param("above-and-refilled-in-vain", marks=pytest.mark.slow)]
)
def test_without_a_look_at_epochs_other_records_are_read_or_old_ones_left_out_in_silence(
    spare_broker, oracle, topic, name, verdict, monkeypatch
):
    """The control: with the guards off, the fault does what it is feared for."""
    cut = CUTS[name]
    monkeypatch.setattr(RangeProgress, "in_doubt", False)
    if not cut.aborted:
        monkeypatch.setattr(RangeProgress, "_check_epoch", lambda *_: None)

    with fault(monkeypatch, lambda: cut_back(spare_broker, topic, cut), after=12):
        outcome = read("chain-0", spare_broker.bootstrap_servers, f"{topic}:0:0:{LENGTH}", **SLOWLY)

    verdict.control(outcome, ledger(topic, range(LENGTH)))
    verdict.has_fired(lost_by(oracle, spare_broker, topic, cut))


@pytest.mark.case(31)
@pytest.mark.slow
@pytest.mark.parametrize("way", ["dataset-0", "chain-0"])
@pytest.mark.parametrize("cut", [Cut(40), Cut(40, 10), Cut(40, 80), Cut(40, 80, aborted=True)])
@pytest.mark.parametrize(
    ("batch_records", "after"),
    [
        (1, 12),
        (23, 1),  # a batch of old records, of others, and of such as were never promised
        (1, LENGTH),  # all that was promised is read
    ],
)
def test_a_log_that_is_cut_back_while_more_is_waited_for_is_an_error(
    spare_broker, oracle, topic, cut, batch_records, after, way, verdict, monkeypatch
):
    options = {**SLOWLY, "batch_records": batch_records, "on_short": "wait"}

    with fault(monkeypatch, lambda: cut_back(spare_broker, topic, cut), after) as fired:
        outcome = read(way, spare_broker.bootstrap_servers, f"{topic}:0:0:{LENGTH + 30}", **options)

    truth = ledger(topic, range(LENGTH))
    verdict.failed(outcome, TruncationError, f"{topic}:0@", "cut back", within_s=40, truth=truth)
    verdict.has_fired(fired.count * lost_by(oracle, spare_broker, topic, cut))


# Leaders that change and lose nothing


class Grown(NamedTuple):
    """A log that several leaders have written: TRANSACTION records more than LENGTH, and a marker at its end."""

    topic: str
    truth: list
    length: int


def grow(cluster, topic, change_leader):
    """Append, and change the leader, by turns."""
    for first in (0, LENGTH // 2):
        append(cluster, topic, range(first, first + LENGTH // 2))
        change_leader()
    cluster.transaction(topic, records(topic, range(LENGTH, LENGTH + TRANSACTION), size=LARGE), end="commit")
    return Grown(topic, ledger(topic, range(LENGTH + TRANSACTION)), LENGTH + TRANSACTION + 1)


def check_clean(cluster, oracle, grown, how, change_leader, verdict, monkeypatch, *, wait):
    """A read of a log whose leader changes amid it is complete; where it waits, the new leader writes the rest."""
    more = ledger(grown.topic, range(OTHERS, OTHERS + 10), first=grown.length) if wait else []
    planned_below = max(epochs(cluster, grown.topic, len(grown.truth)))

    def change():
        change_leader()
        append(cluster, grown.topic, range(OTHERS, OTHERS + 10))

    with fault(monkeypatch, change, after=8) as fired:
        outcome = read(
            how, cluster.bootstrap_servers, f"{grown.topic}:0:0:{grown.length + len(more)}",
            on_short="wait" if wait else "raise", **SLOWLY,
        )  # fmt: skip

    told = oracle.truth(cluster.bootstrap_servers, grown.topic, 0, 0, grown.length + len(more))
    verdict.complete(outcome, vouched(told, grown.truth + more, size=LARGE), within_s=60)
    found = epochs(cluster, grown.topic, len(grown.truth) + 10)
    assert found == sorted(found)
    if outcome.report is not None:  # what the plan relies on: none of its records has a later epoch than its answer
        assert planned_below <= outcome.report[0].epoch < found[-1]
    verdict.has_fired(fired.count * (len(set(found)) - 1))


@pytest.mark.case(31)
@pytest.mark.slow
@pytest.mark.parametrize(("how", "wait"), [*((how, False) for how in READS), ("chain-0", True), ("dataset-2", True)])
def test_restarts_that_lose_nothing_are_no_truncation(spare_broker, oracle, how, wait, verdict, monkeypatch):
    def restart():
        spare_broker.kill()
        spare_broker.start()

    grown = grow(spare_broker, spare_broker.new_topic(), restart)
    check_clean(spare_broker, oracle, grown, how, restart, verdict, monkeypatch, wait=wait)


@pytest.fixture
def three(three_brokers):
    yield three_brokers
    three_brokers.heal()


@pytest.mark.case(31)
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["moves", "dies"])
@pytest.mark.parametrize(("how", "wait"), [*((how, False) for how in READS), ("chain-0", True), ("dataset-2", True)])
def test_leaders_that_fail_over_and_lose_nothing_are_no_truncation(
    three, oracle, kind, how, wait, verdict, monkeypatch
):
    topic = three.new_topic()

    def move():
        three.await_in_sync(topic)
        three.move_leader(topic)

    def die():
        leader = three.leader(topic)
        three.kill(leader)
        three.await_leader(topic, other_than=leader)

    grown = grow(three, topic, move)
    check_clean(three, oracle, grown, how, {"moves": move, "dies": die}[kind], verdict, monkeypatch, wait=wait)


@pytest.mark.case(31)
@pytest.mark.slow
@pytest.mark.parametrize("others", [0, 40])
def test_an_unclean_leader_that_lacks_what_was_promised_is_an_error(three, oracle, others, how, verdict, monkeypatch):
    topic = three.new_topic(leader=1, replicas=2, min_insync_replicas="1", unclean_leader_election_enable="true")
    append(three, topic, range(40))
    three.kill(2)
    append(three, topic, range(40, LENGTH))

    def elect():
        three.kill(1)
        three.start(2)
        three.await_leader(topic, other_than=1)
        append(three, topic, range(OTHERS, OTHERS + others))

    with fault(monkeypatch, elect, after=8) as fired:
        outcome = read(how, three.bootstrap_servers, f"{topic}:0:0:{LENGTH}", **SLOWLY)

    truth = ledger(topic, range(LENGTH))
    verdict.failed(outcome, TruncationError, f"{topic}:0@", "cut back", within_s=60, truth=truth)
    verdict.has_fired(fired.count * lost_by(oracle, three, topic, Cut(40, others)))
