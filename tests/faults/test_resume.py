"""Between a checkpoint and its resume: what may have become of the log, of the state, and of the readers.

A stream is stopped, something happens, and another reader goes on from the state: with exactly the rest, or an error.
"""

import itertools
import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from confluent_kafka import TopicPartition

from kafkapipes import (
    DataLossError,
    KafkaPipesError,
    StateError,
    StreamingKafkaDataset,
    TopicChangedError,
    TruncationError,
    checkpoints,
    following,
    merge_states,
)
from kafkapipes.checkpoints import Checkpoint, StateWriter
from kafkapipes.following import LiveCheckpoint, LiveStateWriter
from kafkapipes.testing import EmbeddedKafka
from tests.faults.harness import CANARY, Outcome, ledger, records
from tests.faults.test_identity import make_anew
from tests.faults.test_truncation import LENGTH, OTHERS, Cut, append, cut_back, lost_by

LARGE = 50_000
BOUNDED, LIVE = "{}:0:0:60", "{}:0:0:"


def make(servers, text, **options):
    message = {"topic": text, "input_config": {"data_type": "bytes"}}
    if text.endswith(":"):
        options = {"idle_timeout_s": 0.5, **options}
    config = {"sasl.password": CANARY}
    return StreamingKafkaDataset(message, servers, "faults", coordinates=True, config=config, **options)


def taken(samples, count):
    """The next samples, as the harness counts them."""
    return [(where, bytes(value)) for value, where in itertools.islice(samples, count)]


def stopped(stream, count):
    """What a reader is handed out, and its state then, in JSON."""
    samples = iter(stream)
    delivered = taken(samples, count)
    state = json.dumps(samples.state_dict())
    samples.close()
    return delivered, state


def resumed(make_stream, state, before=()):
    """What a new reader makes of a state: with what came before, or an error."""
    outcome, began = Outcome("stream-0", list(before)), time.monotonic()
    try:
        samples = iter(make_stream())
        samples.load_state_dict(json.loads(state))
        outcome.delivered += taken(samples, None)
    except KafkaPipesError as exc:
        outcome.error, outcome.text = exc, str(exc)
        exc.__traceback__ = None
    outcome.seconds = time.monotonic() - began
    return outcome


# The topic made anew


@pytest.mark.kafka
@pytest.mark.case(11)
@pytest.mark.parametrize("text", [BOUNDED, LIVE], ids=["bounded", "live"])
def test_a_topic_made_anew_between_checkpoint_and_resume_is_an_error_with_both_identities(cluster, verdict, text):
    topic = cluster.new_topic()
    cluster.produce(topic, records(topic, range(60), size=LARGE))
    delivered, state = stopped(make(cluster.bootstrap_servers, text.format(topic)), 20)
    verdict.has_fired(make_anew(cluster, topic, range(100, 160)))

    outcome = resumed(lambda: make(cluster.bootstrap_servers, text.format(topic)), state, delivered)

    truth = ledger(topic, range(60))
    verdict.failed(outcome, TopicChangedError, topic, "made anew", "id", within_s=15, truth=truth)


@pytest.mark.kafka
@pytest.mark.case(11)
@pytest.mark.parametrize("text", [BOUNDED, LIVE], ids=["bounded", "live"])
def test_without_the_identity_in_a_state_another_topic_is_read_on_in_silence(cluster, verdict, text, monkeypatch):
    """The control."""
    topic = cluster.new_topic()
    cluster.produce(topic, records(topic, range(60), size=LARGE))
    delivered, state = stopped(make(cluster.bootstrap_servers, text.format(topic)), 20)
    verdict.has_fired(make_anew(cluster, topic, range(100, 160)))
    monkeypatch.setattr(checkpoints, "check_topics", lambda *_: None)
    monkeypatch.setattr(following, "check_topics", lambda *_: None)
    monkeypatch.setattr("kafkapipes.kafka.watch.TopicWatch.tick", lambda *_: None)
    monkeypatch.setattr("kafkapipes.kafka.watch.TopicWatch.confirm", lambda *_: None)

    outcome = resumed(lambda: make(cluster.bootstrap_servers, text.format(topic)), state, delivered)

    verdict.control(outcome, ledger(topic, range(60)))


# The log cut back

CUTS = {
    "below-the-state": Cut(10),
    "below-and-refilled": Cut(10, 80),
    "above-the-state": Cut(40),
    "above-and-refilled": Cut(40, 40),
    "above-and-refilled-in-vain": Cut(40, 30, aborted=True),
}


def cut_while_stopped(broker, oracle, name, text, verdict):
    """Stop behind 20 of 60 records, and cut the log; what was delivered, the state, and the topic."""
    topic = broker.new_topic()
    append(broker, topic, range(LENGTH))
    delivered, state = stopped(make(broker.bootstrap_servers, text.format(topic)), 20)
    cut_back(broker, topic, CUTS[name])
    verdict.has_fired(lost_by(oracle, broker, topic, CUTS[name]))
    return topic, delivered, state


@pytest.mark.kafka
@pytest.mark.case(32)
@pytest.mark.parametrize(
    ("text", "name"),
    [
        pytest.param(text, name, marks=() if quick else pytest.mark.slow)
        for text, name, quick in [
            (BOUNDED, "below-the-state", False), (BOUNDED, "below-and-refilled", True),
            (BOUNDED, "above-the-state", True), (BOUNDED, "above-and-refilled", False),
            (BOUNDED, "above-and-refilled-in-vain", False), (LIVE, "below-the-state", False),
            (LIVE, "below-and-refilled", True),
        ]
    ],
)  # fmt: skip
def test_a_log_that_is_cut_back_between_checkpoint_and_resume_is_an_error(spare_broker, oracle, text, name, verdict):
    topic, delivered, state = cut_while_stopped(spare_broker, oracle, name, text, verdict)

    outcome = resumed(lambda: make(spare_broker.bootstrap_servers, text.format(topic)), state, delivered)

    truth = ledger(topic, range(LENGTH))
    verdict.failed(outcome, TruncationError, f"{topic}:0", "cut back", within_s=20, truth=truth)


def without_epochs(state):
    """The state as it would be without leader epochs."""
    fields = json.loads(state)
    if "positions" in fields:
        then = LiveCheckpoint.from_state(fields)
        plain = {key: replace(item, epoch=-1) for key, item in then.followed.items()}
        return json.dumps(LiveStateWriter(then).state(plain, then.records))
    then = Checkpoint.from_state(fields)
    plain = replace(then, logs=tuple(replace(log, epoch=-1) for log in then.logs))
    return json.dumps(StateWriter(plain).state(then.done, then.missing))


@pytest.mark.kafka
@pytest.mark.case(32)
@pytest.mark.parametrize("text", [BOUNDED, pytest.param(LIVE, marks=pytest.mark.slow)], ids=["bounded", "live"])
def test_without_leader_epochs_in_a_state_other_records_are_read_in_silence(spare_broker, oracle, text, verdict):
    """The control."""
    topic, delivered, state = cut_while_stopped(spare_broker, oracle, "below-and-refilled", text, verdict)

    outcome = resumed(
        lambda: make(spare_broker.bootstrap_servers, text.format(topic)), without_epochs(state), delivered
    )

    verdict.control(outcome, ledger(topic, range(LENGTH)))


@pytest.mark.kafka
@pytest.mark.case(32)
@pytest.mark.slow
@pytest.mark.parametrize("text", [BOUNDED, LIVE], ids=["bounded", "live"])
def test_a_restart_that_loses_nothing_between_checkpoint_and_resume_changes_nothing(spare_broker, text, verdict):
    topic = spare_broker.new_topic()
    append(spare_broker, topic, range(LENGTH))
    delivered, state = stopped(make(spare_broker.bootstrap_servers, text.format(topic)), 20)
    before = spare_broker.restarts
    spare_broker.kill()
    spare_broker.start()
    append(spare_broker, topic, range(OTHERS, OTHERS + 5))
    more = ledger(topic, range(OTHERS, OTHERS + 5), first=LENGTH) if text is LIVE else []

    outcome = resumed(lambda: make(spare_broker.bootstrap_servers, text.format(topic)), state, delivered)

    verdict.complete(outcome, ledger(topic, range(LENGTH)) + more)
    verdict.has_fired(spare_broker.restarts - before)


# Retention between checkpoint and resume


@pytest.mark.kafka
@pytest.mark.case(9)
@pytest.mark.parametrize("text", [BOUNDED, LIVE], ids=["bounded", "live"])
def test_records_that_are_gone_before_the_state_do_not_matter_and_others_are_an_error(own_broker, text, verdict):
    topic = own_broker.new_topic()
    own_broker.produce(topic, records(topic, range(60), size=LARGE))
    delivered, state = stopped(make(own_broker.bootstrap_servers, text.format(topic)), 20)
    delete_below(own_broker, topic, 20)
    outcome = resumed(lambda: make(own_broker.bootstrap_servers, text.format(topic)), state, delivered)
    verdict.complete(outcome, ledger(topic, range(60)))

    delete_below(own_broker, topic, 30)
    outcome = resumed(lambda: make(own_broker.bootstrap_servers, text.format(topic)), state, delivered)
    verdict.failed(outcome, DataLossError, f"{topic}:0@20", "begins at 30", within_s=10, truth=ledger(topic, range(60)))
    verdict.has_fired(1)


def delete_below(broker, topic, offset):
    (done,) = broker.admin.delete_records([TopicPartition(topic, 0, offset)]).values()
    done.result(30)


# Signals

READER = """
import json, os, sys, time
from kafkapipes import StreamingKafkaDataset
from torchdata.stateful_dataloader import StatefulDataLoader
servers, path, workers, shuffle = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "True"
message = {"topic": "t:0:0:600", "input_config": {"data_type": "bytes"}}
stream = StreamingKafkaDataset(message, servers, "faults", shuffle=shuffle, batch_size=7, block_records=20)
loader = StatefulDataLoader(stream, batch_size=None, num_workers=workers)
trained = []
if os.path.exists(path):
    saved = json.load(open(path))
    trained = saved["trained"]
    loader.load_state_dict(saved["loader"])
for values in loader:
    trained += [value.hex() for value in values]
    time.sleep(0.01)
    with open(path + ".new", "w") as file:
        json.dump({"trained": trained, "loader": loader.state_dict()}, file)
    os.replace(path + ".new", path)  # a step and its checkpoint are one
"""


@pytest.fixture(scope="module")
def kafka():
    with EmbeddedKafka() as embedded:
        embedded.fill("t", records("t", range(600)))
        yield embedded


@pytest.mark.case(38)
@pytest.mark.parametrize(
    ("number", "workers", "shuffle", "seed"),
    [
        (signal.SIGKILL, 0, True, 0), (signal.SIGINT, 2, True, 1),
        *(
            pytest.param(number, workers, shuffle, seed, marks=pytest.mark.slow)
            for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
            for workers in (0, 2)
            for shuffle in (False, True)
            for seed in (2, 3, 4)
        ),
    ],
)  # fmt: skip
def test_a_process_that_a_signal_ends_at_any_moment_is_gone_on_from_exactly(
    kafka, tmp_path, number, workers, shuffle, seed, verdict
):
    """Each step writes its checkpoint; three processes are ended amid their epoch, and the fourth comes to its end."""
    draw, path, began, codes = random.Random(seed), tmp_path / "state", time.monotonic(), []
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        READER,
        kafka.bootstrap_servers,
        str(path),
        str(workers),
        str(shuffle),
    ]
    for ended in range(4):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            before = path.stat().st_mtime_ns if path.exists() else 0
            while ended < 3 and process.poll() is None and (not path.exists() or path.stat().st_mtime_ns == before):
                time.sleep(0.01)
            if ended < 3:
                time.sleep(draw.uniform(0, 0.2))
                process.send_signal(number)
            codes.append(process.wait(60))
    values = [bytes.fromhex(value) for value in json.loads(path.read_text())["trained"]]
    found = [(("t", 0, int.from_bytes(value[12:16])), value) for value in values]
    outcome = Outcome("stream-0", sorted(found) if shuffle else found, seconds=time.monotonic() - began)

    assert codes[3] == 0
    verdict.complete(outcome, ledger("t", range(600)), within_s=170)
    verdict.has_fired(sum(code != 0 for code in codes))


# The state torn, old, or of something else


@pytest.mark.case(48)
@pytest.mark.parametrize("text", ["t:0:0:600", "t:0:0:"], ids=["bounded", "live"])
def test_a_state_torn_at_any_byte_or_with_any_byte_changed_is_refused(kafka, text):
    _, state = stopped(make(kafka.bootstrap_servers, text), 20)
    samples, draw, refused = iter(make(kafka.bootstrap_servers, text)), random.Random(0), 0
    torn = [state[:length] for length in range(len(state))]
    for place in range(len(state)):
        other = draw.choice([char for char in '0123456789abcxyz:,"[]{} -' if char != state[place]])
        torn.append(state[:place] + other + state[place + 1 :])
    for wrong in torn:
        try:
            fields = json.loads(wrong)
            if fields == json.loads(state):
                continue  # a blank more between two fields
        except ValueError:
            refused += 1
            continue
        with pytest.raises((StateError, TopicChangedError)):
            samples.load_state_dict(fields)
        refused += 1

    assert refused > 1.9 * len(state)


@pytest.mark.case(48)
@pytest.mark.parametrize("changes", [{"text": "t:0:0:599"}, {"seed": 1}, {"batch_size": 8}, {"window_blocks": 9}])
def test_a_state_of_another_range_or_order_is_refused(kafka, changes):
    options = {"text": "t:0:0:600", "shuffle": True, "batch_size": 7}
    _, state = stopped(make(kafka.bootstrap_servers, **{**options, "text": "t:0:0:600"}), 0)

    outcome = resumed(lambda: make(kafka.bootstrap_servers, **{**options, **changes}), state)
    assert type(outcome.error) is StateError


@pytest.mark.case(48)
def test_an_old_state_of_the_same_stream_goes_on_where_it_stood(kafka):
    """It is no error: what came since comes again, in the same order."""
    stream = make(kafka.bootstrap_servers, "t:0:0:600", shuffle=True)
    delivered, state = stopped(stream, 300)
    early, old = stopped(stream, 100)

    again = resumed(lambda: make(kafka.bootstrap_servers, "t:0:0:600", shuffle=True), old).delivered
    assert early == delivered[:100]
    assert again[:200] == delivered[100:]
    assert again[200:] == resumed(lambda: stream, state).delivered


# Other readers


@pytest.mark.case(49)
@pytest.mark.parametrize("shuffle", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize(
    ("old", "new"),
    [((1, 1), (2, 3)), ((2, 3), (1, 1)), ((4, 1), (2, 2)), ((1, 3), (4, 3))],
    ids=lambda topology: "x".join(map(str, topology)),
)
def test_other_numbers_of_ranks_and_workers_go_on_at_every_seventh_batch(kafka, shuffle, old, new, verdict):
    """(ranks, workers) before and after; workers are played by their states, one process each would take too long."""
    total = 0
    for step in range(0, 30, 7):
        delivered, states = [], []
        for rank in range(old[0]):
            for worker in range(old[1]):
                samples = iter(Reader(kafka, rank, old[0], worker, old[1], shuffle))
                delivered += batches_of(samples, step // old[1] + (worker < step % old[1]))
                states.append(samples.state_dict())
                samples.close()
        whole = json.loads(json.dumps(merge_states(states)))
        for rank in range(new[0]):
            for worker in range(new[1]):
                delivered += batches_of(iter(Reader(kafka, rank, new[0], worker, new[1], shuffle, whole)), None)
        delivered.sort(key=lambda row: row[0])
        verdict.complete(Outcome("stream-0", delivered), ledger("t", range(600)))
        total += 1
    verdict.has_fired(total)


class Reader:
    """A dataset as one of the workers of one of the ranks has it."""

    def __init__(self, kafka, rank, world, worker, workers, shuffle, state=None):
        options = {"rank": rank, "world_size": world, "shuffle": shuffle, "batch_size": 7, "block_records": 20}
        self._stream = make(kafka.bootstrap_servers, "t:0:0:600", **options)
        if state is not None:
            self._stream = self._stream.rest(state)
        whole = self._stream._share()
        self._stream._share = lambda: whole._replace(worker=worker, workers=workers)

    def __iter__(self):
        return iter(self._stream)


def batches_of(batches, count):
    rows = []
    for values, (topics, partitions, offsets) in itertools.islice(batches, count):
        places = zip(topics, partitions.tolist(), offsets.tolist(), strict=True)
        rows += [(where, bytes(value)) for where, value in zip(places, values, strict=True)]
    return rows


# The group


@pytest.mark.case(40)
@pytest.mark.parametrize("steps", [0, 1, 5, 8])
def test_a_kill_between_a_step_and_its_commit_brings_that_step_again_and_loses_nothing(kafka, steps, verdict):
    group = f"group-{steps}"

    def stream():
        message = {"topic": "t:0:0:", "input_config": {"data_type": "bytes"}}
        options = {"batch_size": 50, "idle_timeout_s": 0.5, "coordinates": True, "from_committed": True}
        return StreamingKafkaDataset(message, kafka.bootstrap_servers, group, **options)

    before = stream()
    batches = iter(before)
    rows = []
    for _ in range(steps):
        rows += batches_of(batches, 1)
        before.commit(batches.state_dict())
    replayed = batches_of(batches, 1)  # a step whose commit the kill prevents, while more is read ahead
    batches.close()
    rows += batches_of(iter(stream()), None)

    verdict.complete(Outcome("stream-0", rows), ledger("t", range(600)))
    assert len(replayed) == 50
    assert set(replayed) <= set(rows)
    verdict.has_fired(1)


@pytest.mark.case(40)
def test_a_zombie_that_commits_late_brings_records_again_and_loses_none(kafka, verdict):
    """Nobody joins the group, so nobody is fenced off: the last commit holds, whoever made it."""

    def stream():
        message = {"topic": "t:0:0:", "input_config": {"data_type": "bytes"}}
        options = {"batch_size": 50, "idle_timeout_s": 0.5, "coordinates": True, "from_committed": True}
        return StreamingKafkaDataset(message, kafka.bootstrap_servers, "zombies", **options)

    zombie, rows = stream(), []
    its_batches = iter(zombie)
    batches_of(its_batches, 2)
    late = its_batches.state_dict()
    its_batches.close()
    living = stream()
    batches = iter(living)
    rows += batches_of(batches, 6)
    living.commit(batches.state_dict())
    batches.close()
    zombie.commit(late)
    rows += [row for row in batches_of(iter(stream()), None) if row not in rows]

    verdict.complete(Outcome("stream-0", rows), ledger("t", range(600)))
    verdict.has_fired(1)


@pytest.mark.case(40)
def test_without_a_commit_behind_the_step_records_are_lost(kafka, verdict):
    """The control: a loop that commits what was read ahead, as automatic commits do."""
    message = {"topic": "t:0:0:", "input_config": {"data_type": "bytes"}}
    options = {"batch_size": 50, "idle_timeout_s": 0.5, "coordinates": True, "from_committed": True}
    before = StreamingKafkaDataset(message, kafka.bootstrap_servers, "heedless", **options)
    batches = iter(before)
    rows = batches_of(batches, 1)
    ahead = batches.state_dict()
    fields = LiveCheckpoint.from_state(ahead)
    followed = {key: replace(item, position=600) for key, item in fields.followed.items()}
    before.commit(LiveStateWriter(fields).state(followed, 600))
    batches.close()
    rows += batches_of(iter(StreamingKafkaDataset(message, kafka.bootstrap_servers, "heedless", **options)), None)

    verdict.control(Outcome("stream-0", rows), ledger("t", range(600)))
    verdict.has_fired(1)


# The end of a process amid an epoch

ENDING = """
import sys
from kafkapipes import StreamingKafkaDataset
from torch.utils.data import DataLoader
servers, text, workers = sys.argv[1], sys.argv[2], int(sys.argv[3])
message = {"topic": text, "input_config": {"data_type": "bytes"}}
stream = StreamingKafkaDataset(message, servers, "faults", batch_size=7, block_records=20, prefetch_blocks=2)
batches = iter(DataLoader(stream, batch_size=None, num_workers=workers) if workers else stream)
next(batches), next(batches)
import time
print(time.time(), flush=True)
"""


@pytest.mark.case(36)
@pytest.mark.parametrize("text", ["t:0:0:600", "t:0:0:"], ids=["bounded", "live"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_program_that_ends_amid_an_epoch_ends_at_once_and_with_0(kafka, text, workers, verdict):
    command = [sys.executable, "-W", "error", "-c", ENDING, kafka.bootstrap_servers, text, str(workers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    seconds = time.time() - float(done.stdout)

    assert (done.returncode, done.stderr) == (0, "")
    assert seconds < 5
    verdict.seconds, verdict.outcomes, verdict.read = seconds, 1, f"stream-{workers}"
    verdict.has_fired(1)
