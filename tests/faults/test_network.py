"""Between reader and brokers: processes that die or hang, leaders that move, connections that break, stall or crawl."""

import ctypes
import multiprocessing
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

import kafkapipes.kafka.fetcher
from kafkapipes import ConnectError, StalledError, streaming
from kafkapipes.kafka.failures import LOG_LINES, SILENCE, Complaints
from kafkapipes.kafka.offsets import LogReader
from kafkapipes.pipes.reader import PartitionReader
from kafkapipes.progress import RangeProgress
from kafkapipes.testing import EmbeddedKafka
from tests.faults.harness import BY_TURNS, LITTLE_AHEAD, READS, fast, fault, ledger, read, records, vouched
from tests.faults.proxy import Proxy
from tests.kafka.node import free_ports

COUNT, LARGE = 60, 50_000
SLOWLY = {"config": LITTLE_AHEAD, "batch_records": 1, "stall_timeout_s": 20}
STALL_S = 3
# The client complains after this long of what is not answered, so that a stall has a cause to name.
IMPATIENT = {**LITTLE_AHEAD, "socket.timeout.ms": 1100}
FINDS_LEADERS = {**IMPATIENT, "topic.metadata.refresh.interval.ms": 1000}
IMPATIENT_GROUP = {"max.poll.interval.ms": 6000, "session.timeout.ms": 6000}
FETCH = 1  # the protocol's number of the request
PASSING = (3, 6, 56, 74, 78, 100)  # errors of a Fetch while a leader moves
UNRESOLVABLE = f"{'x' * 64}.invalid:9092"  # one letter too long to be looked up, so no name server has a say
CUT_OFF = -195  # the client's number of a connection that breaks
kafka = pytest.mark.kafka


@pytest.fixture(params=fast("dataset-0", "chain-2"))
def how(request):
    return request.param


def filled(broker, **options):
    """A new topic of 60 large records, in batches a little larger than LITTLE_AHEAD: each fetch brings one."""
    name = broker.new_topic(**options)
    properties = {"bootstrap.servers": broker.bootstrap_servers, "batch.size": 250_000, "enable.idempotence": True}
    producer = Producer(properties)
    for value, key in records(name, range(COUNT), size=LARGE):
        producer.produce(name, value, key, 0)
    assert producer.flush(60) == 0
    return name


@pytest.fixture(scope="module")
def topic(cluster):
    return filled(cluster)


@pytest.fixture(scope="module")
def spare_topic(spare_broker):
    return filled(spare_broker)


@pytest.fixture
def proxy(own_broker):
    """A proxy before the broker, whose clients come by it again and again."""
    with Proxy(int(own_broker.proxied_servers.split(":")[1]), own_broker.proxy_target) as between:
        yield between


@pytest.fixture
def paused(own_broker):
    """What stops the broker's process, and returns whether it stands; at the end it goes on."""

    def stop():
        own_broker.pause()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            if "State:\tT" in Path(f"/proc/{own_broker.pid}/status").read_text():
                return True
        return False

    yield stop
    own_broker.resume()


@pytest.fixture
def three(three_brokers):
    yield three_brokers
    three_brokers.heal()


@contextmanager
def later(seconds, action):
    """Run an action in the background, so long after the block has called what it is given."""
    timer = threading.Timer(seconds, action)
    yield timer.start
    timer.join()


def place(outcome, topic):
    """Where a read ended, as far as the caller can know."""
    return f"{topic}:0@{len(outcome.delivered)}" if outcome.read == "chain-0" else f"{topic}:0@"


def lead(embedded, broker):
    """Make a broker of an EmbeddedKafka the leader of t:0."""
    move = embedded._library.rd_kafka_mock_partition_set_leader
    move.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_int32]
    assert move(embedded._cluster, b"t", 0, broker) == 0


def push_fetch_errors(embedded, codes):
    """The next Fetch requests to the one broker of an EmbeddedKafka get these errors."""
    push = embedded._library.rd_kafka_mock_broker_push_request_error_rtts
    push.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int16, ctypes.c_size_t]  # and pairs of ints
    for code in codes:
        assert push(embedded._cluster, 1, FETCH, 1, ctypes.c_int(code), ctypes.c_int(0)) == 0


def fetch_errors_left(embedded):
    """How many of them were not given yet."""
    left = ctypes.c_size_t()
    count = embedded._library.rd_kafka_mock_broker_error_stack_cnt
    count.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int16, ctypes.c_void_p]
    assert count(embedded._cluster, 1, FETCH, ctypes.byref(left)) == 0
    return left.value


def since(moment, began, outcome):
    """Seconds from a moment to the end of a read that began then."""
    return began + outcome.seconds - moment


@kafka
@pytest.mark.case(14)
@pytest.mark.parametrize("how", fast("chain-2"))
def test_a_broker_that_is_killed_and_started_again_amid_a_read_loses_and_doubles_nothing(
    spare_broker, spare_topic, oracle, how, verdict, monkeypatch
):
    before = spare_broker.restarts

    def kill():
        spare_broker.kill()
        start()

    with later(0, spare_broker.start) as start, fault(monkeypatch, kill):
        outcome = read(how, spare_broker.bootstrap_servers, f"{spare_topic}:0:0:{COUNT}", **SLOWLY)

    told = oracle.truth(spare_broker.bootstrap_servers, spare_topic)
    verdict.complete(outcome, vouched(told, ledger(spare_topic, range(COUNT)), LARGE), within_s=20)
    verdict.has_fired(spare_broker.restarts - before)


@kafka
@pytest.mark.slow
@pytest.mark.case(14)
@pytest.mark.parametrize("after", range(1, COUNT, 3))
def test_at_no_place_in_a_read_does_a_kill_lose_or_double_a_record(
    spare_broker, spare_topic, after, verdict, monkeypatch
):
    before = spare_broker.restarts

    def kill():
        spare_broker.kill()
        start()

    with later(0, spare_broker.start) as start, fault(monkeypatch, kill, after):
        outcome = read("chain-0", spare_broker.bootstrap_servers, f"{spare_topic}:0:0:{COUNT}", **SLOWLY)

    verdict.complete(outcome, ledger(spare_topic, range(COUNT)), within_s=20)
    verdict.has_fired(spare_broker.restarts - before)


def fail_over(three, how, kind, verdict, monkeypatch, **options):
    """Read while the leader is killed, paused or moved."""
    topic = filled(three, leader=1)
    act = (lambda: three.move_leader(topic)) if kind == "move_leader" else (lambda: getattr(three, kind)(1))

    with fault(monkeypatch, act):
        outcome = read(how, three.bootstrap_servers, f"{topic}:0:0:{COUNT}", **{**SLOWLY, **options})

    verdict.complete(outcome, ledger(topic, range(COUNT)), within_s=20)
    verdict.has_fired(three.leader(topic) != 1)


@kafka
@pytest.mark.case(15)
@pytest.mark.parametrize("how", fast("chain-2"))
@pytest.mark.parametrize("kind", ["kill", pytest.param("pause", marks=pytest.mark.slow), "move_leader"])
def test_a_leader_that_fails_over_amid_a_read_loses_and_doubles_nothing(three, how, kind, verdict, monkeypatch):
    fail_over(three, how, kind, verdict, monkeypatch, config=FINDS_LEADERS)


@kafka
@pytest.mark.slow
@pytest.mark.case(15)
@pytest.mark.parametrize("kind", ["kill", "pause"])
def test_a_new_leader_is_found_in_time_without_any_property_set(three, kind, verdict, monkeypatch):
    fail_over(three, "chain-0", kind, verdict, monkeypatch)


@kafka
@pytest.mark.case(15)
@pytest.mark.parametrize(
    "kind", [*(pytest.param(kind, marks=pytest.mark.slow) for kind in ("kill", "pause")), "move_leader"]
)
def test_a_leader_that_fails_over_between_two_questions_of_the_plan_is_asked_where_it_is_now(
    three, kind, verdict, monkeypatch
):
    topic, ask = filled(three, leader=1), LogReader.logs

    def fail_over_first(reader, partitions):
        three.move_leader(topic) if kind == "move_leader" else getattr(three, kind)(1)
        three.await_leader(topic, other_than=1)
        monkeypatch.setattr(LogReader, "logs", ask)
        return ask(reader, partitions)

    monkeypatch.setattr(LogReader, "logs", fail_over_first)
    options = {"config": FINDS_LEADERS, "stall_timeout_s": 20, "connect_timeout_s": 20}
    outcome = read("chain-0", three.bootstrap_servers, f"{topic}:0:0:{COUNT}", **options)

    verdict.complete(outcome, ledger(topic, range(COUNT)), within_s=20)
    verdict.has_fired(three.leader(topic) != 1)


@pytest.mark.case(15)
def test_errors_that_tell_of_a_move_are_mended_in_silence(embedded, how, verdict, monkeypatch):
    embedded.fill("t", records("t", range(COUNT), size=LARGE))
    pushed = [code for code in PASSING for _ in range(2)]
    config = {**LITTLE_AHEAD, "fetch.error.backoff.ms": 100}  # after each of them

    with fault(monkeypatch, lambda: push_fetch_errors(embedded, pushed)):
        outcome = read(how, embedded.bootstrap_servers, f"t:0:0:{COUNT}", **{**SLOWLY, "config": config})

    verdict.complete(outcome, ledger("t", range(COUNT)), within_s=15)
    verdict.has_fired(len(pushed) - fetch_errors_left(embedded))


@pytest.mark.case(15)
def test_a_leader_that_moves_on_the_embedded_brokers_is_followed(how, verdict, monkeypatch):
    with EmbeddedKafka(brokers=3) as kafka:
        kafka.fill("t", records("t", range(COUNT), size=LARGE))
        lead(kafka, 1)

        with fault(monkeypatch, lambda: lead(kafka, 2)) as fired:
            outcome = read(how, kafka.bootstrap_servers, f"t:0:0:{COUNT}", **SLOWLY)

    verdict.complete(outcome, ledger("t", range(COUNT)), within_s=15)
    verdict.has_fired(fired.count)


@kafka
@pytest.mark.case(16)
def test_a_broker_that_pauses_shortly_loses_and_doubles_nothing(own_broker, topic, paused, how, verdict, monkeypatch):
    def pause():
        resume()
        return paused()

    with later(1.0, own_broker.resume) as resume, fault(monkeypatch, pause) as fired:
        outcome = read(how, own_broker.bootstrap_servers, f"{topic}:0:0:{COUNT}", **SLOWLY)

    verdict.complete(outcome, ledger(topic, range(COUNT)), within_s=8)
    assert outcome.seconds > 1.0
    verdict.has_fired(fired.result)


def stalled_after(servers, topic, how, action, verdict, monkeypatch):
    """Check the error of a read whose broker falls silent by an action; the seconds from then to the error."""

    moment, began = [], time.monotonic()
    options = {"config": IMPATIENT, "batch_records": 1, "stall_timeout_s": STALL_S}
    with fault(monkeypatch, lambda: (action(), moment.append(time.monotonic()))):
        outcome = read(how, servers, f"{topic}:0:0:{COUNT}", **options)
    words = (place(outcome, topic), "nothing arrived for")
    verdict.failed(outcome, StalledError, *words, within_s=10, truth=ledger(topic, range(COUNT)))
    seconds = since(moment[0], began, outcome)
    assert seconds < STALL_S - 0.5 or "last word of the client: " in str(outcome.error)
    return seconds


@kafka
@pytest.mark.case(16)
def test_a_broker_that_hangs_is_a_stall_with_place_and_cause(own_broker, topic, paused, how, verdict, monkeypatch):
    seconds = stalled_after(own_broker.bootstrap_servers, topic, how, paused, verdict, monkeypatch)

    assert STALL_S - 0.5 < seconds < STALL_S + 1
    verdict.has_fired(paused())  # it stands still


@kafka
@pytest.mark.case(16)
def test_without_the_watchdog_a_broker_that_hangs_is_waited_for_without_a_word(
    own_broker, topic, paused, verdict, monkeypatch
):
    """The control: no client ends a read that a broker leaves unanswered."""
    monkeypatch.setattr(RangeProgress, "check_stall", lambda *_: None)

    def pause():
        resume()
        return paused()

    with later(2.5, own_broker.resume) as resume, fault(monkeypatch, pause) as fired:
        options = {"config": LITTLE_AHEAD, "batch_records": 1, "stall_timeout_s": 1}
        outcome = read("chain-0", own_broker.bootstrap_servers, f"{topic}:0:0:{COUNT}", **options)

    verdict.complete(outcome, ledger(topic, range(COUNT)))
    assert outcome.seconds > 2.5
    verdict.read = "control"
    verdict.has_fired(fired.result)


@kafka
@pytest.mark.case(16)
@pytest.mark.parametrize("how", fast("chain-2"))
def test_a_black_hole_is_a_stall_with_place_and_cause(proxy, topic, how, verdict, monkeypatch):
    seconds = stalled_after(proxy.servers, topic, how, proxy.stall, verdict, monkeypatch)

    assert STALL_S - 0.5 < seconds < STALL_S + 1
    verdict.has_fired(proxy.fired)


@kafka
@pytest.mark.case(16)
def test_a_black_hole_behind_the_last_record_is_a_stall_since_the_topic_is_not_confirmed(
    proxy, topic, verdict, monkeypatch
):
    options = {"config": IMPATIENT, "batch_records": 1, "stall_timeout_s": STALL_S}
    with fault(monkeypatch, proxy.stall, after=COUNT):
        outcome = read("chain-0", proxy.servers, f"{topic}:0:0:{COUNT}", **options)

    verdict.failed(outcome, StalledError, topic, "no broker confirmed within 3 s", SILENCE, within_s=STALL_S + 2)
    verdict.has_fired(proxy.fired)


@kafka
@pytest.mark.case(16)
@pytest.mark.parametrize("how", fast())
def test_a_connection_that_goes_nowhere_any_more_is_made_anew_before_the_read_is_given_up(
    proxy, topic, how, verdict, monkeypatch
):
    """As where a firewall forgets connections. No property is set: the stall timeout sets the patience."""
    with fault(monkeypatch, lambda: proxy.stall(open_only=True)):
        outcome = read(how, proxy.servers, f"{topic}:0:0:{COUNT}", **{**SLOWLY, "stall_timeout_s": 8})

    verdict.complete(outcome, ledger(topic, range(COUNT)), within_s=12)
    verdict.has_fired(proxy.fired)


@pytest.fixture
def unreachable(request, proxy):
    """(servers, words): an address of that kind where no broker answers, and words that an error may say of it."""
    if request.param == "closed port":
        servers = f"127.0.0.1:{free_ports(1)[0]}"
        return servers, ("Connection refused",)
    if request.param == "unknown host":
        return UNRESOLVABLE, ("Failed to resolve",)
    proxy.stall()
    return proxy.servers, (SILENCE, "Timed out")


def is_unreachable(servers):
    """Whether a plain socket finds the same: nobody connects, or nobody answers."""
    host, port = servers.split(":")
    try:
        with socket.create_connection((host, int(port)), 1) as connection:
            connection.settimeout(0.2)
            connection.sendall(bytes(20))
            return not connection.recv(1)
    except (OSError, UnicodeError):  # the latter for a name that none can have
        return True


@kafka
@pytest.mark.case(17)
@pytest.mark.parametrize("unreachable", ["closed port", "unknown host", "black hole"], indirect=True)
def test_what_cannot_be_reached_is_an_error_in_time_with_host_and_cause(unreachable, how, verdict):
    servers, words = unreachable

    outcome = read(how, servers, "t:0:0:10", connect_timeout_s=1)

    verdict.failed(outcome, ConnectError, servers, "within 1 s", within_s=1.5)
    assert any(word in str(outcome.error) for word in words), outcome.text
    verdict.has_fired(is_unreachable(servers))


@kafka
@pytest.mark.case(17)
@pytest.mark.parametrize("unreachable", ["closed port", "unknown host", "black hole"], indirect=True)
def test_one_living_address_among_dead_ones_is_enough(unreachable, own_broker, topic, verdict):
    servers, _ = unreachable

    outcome = read("chain-0", f"{servers},{own_broker.bootstrap_servers}", f"{topic}:0:0:{COUNT}")

    verdict.complete(outcome, ledger(topic, range(COUNT)), within_s=10)
    verdict.has_fired(is_unreachable(servers))


ASKS_IN_VAIN = """
import sys, time
from kafkapipes import KafkaPipesError, RangeParser
try:
    reader = RangeParser("t:0:0:1").read_partitions("no-such-host.invalid:9092", connect_timeout_s=float(sys.argv[1]))
    print("began", flush=True)
    began = time.monotonic()
    list(reader)
except (KafkaPipesError, KeyboardInterrupt) as exc:
    kind, text = type(exc).__name__, str(exc).partition("\\n")[0]
print(kind, text, flush=True)
print(time.monotonic() - began, flush=True)
"""


@pytest.fixture
def silent_name_server(tmp_path):
    """What starts a Python process whose name server never answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        try:
            server.bind(("127.0.0.1", 53))
        except OSError as exc:
            pytest.skip(f"needs the port of name servers: {exc}")
        settings = tmp_path / "resolv.conf"
        settings.write_text("nameserver 127.0.0.1\n")
        elsewhere = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"', str(settings)]
        if subprocess.run([*elsewhere, "true"], capture_output=True).returncode:
            pytest.skip("needs the right to mount a file in a namespace of its own")

        def start(*words):
            server.setblocking(False)
            return subprocess.Popen([*elsewhere, sys.executable, "-c", *words], stdout=subprocess.PIPE, text=True)

        start.was_asked = lambda: len(server.recv(1000))
        yield start


@pytest.mark.case(17)
def test_a_name_that_is_being_looked_up_for_ever_is_an_error_in_time(silent_name_server, verdict):
    with silent_name_server(ASKS_IN_VAIN, "1.5") as process:
        _, text, seconds = process.communicate(timeout=60)[0].splitlines()

    assert text.startswith("ConnectError ")
    assert "no-such-host.invalid:9092 within 1.5 s" in text
    assert SILENCE in text
    assert float(seconds) < 2
    verdict.outcomes, verdict.seconds, verdict.error = 1, float(seconds), "ConnectError"
    verdict.has_fired(silent_name_server.was_asked())


@pytest.mark.case(17)
def test_ctrl_c_does_not_wait_for_a_name_server(silent_name_server, verdict):
    with silent_name_server(ASKS_IN_VAIN, "60") as process:
        assert process.stdout.readline() == "began\n"
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        text, seconds = process.communicate(timeout=60)[0].splitlines()

    assert text == "KeyboardInterrupt "
    assert float(seconds) < 2.2
    assert time.monotonic() - sent < 3  # and so has the process
    verdict.outcomes, verdict.seconds, verdict.error = 1, float(seconds), "KeyboardInterrupt"
    verdict.has_fired(silent_name_server.was_asked())


READS_BESIDE = """
import sys, time
from kafkapipes import RangeParser
began = time.monotonic()
servers = "no-such-host.invalid:9092," + sys.argv[1]
print(sum(map(len, RangeParser("t:0:0:20").read_partitions(servers))), time.monotonic() - began)
"""


@pytest.mark.case(17)
def test_one_name_that_is_being_looked_up_for_ever_does_not_hold_up_a_read(embedded, silent_name_server, verdict):
    embedded.fill("t", records("t", range(20)))

    with silent_name_server(READS_BESIDE, embedded.bootstrap_servers) as process:
        count, seconds = process.communicate(timeout=60)[0].split()

    assert count == "20"
    assert float(seconds) < 10  # the direct client waits for 1 s, and three others are waited for 2 s at their end
    verdict.outcomes, verdict.seconds, verdict.error = 1, float(seconds), "complete"
    verdict.has_fired(silent_name_server.was_asked())


def survive_resets(proxy, topic, how, seed, mean_bytes, verdict):
    proxy.reset_every(seed, mean_bytes)

    outcome = read(how, proxy.servers, f"{topic}:0:0:{COUNT}", **SLOWLY)

    verdict.complete(outcome, ledger(topic, range(COUNT)), within_s=60)
    verdict.has_fired(proxy.fired)


@kafka
@pytest.mark.case(18)
def test_connections_that_are_reset_at_random_cost_no_record(proxy, topic, how, verdict):
    survive_resets(proxy, topic, how, 0, 500_000, verdict)


@kafka
@pytest.mark.slow
@pytest.mark.case(18)
@pytest.mark.parametrize("seed", range(20))
def test_no_seed_of_resets_costs_a_record(proxy, topic, seed, verdict):
    survive_resets(proxy, topic, READS[seed % 4], seed, 400_000, verdict)


@pytest.mark.case(18)
def test_fetches_that_are_cut_off_are_made_again(embedded, how, verdict, monkeypatch):
    embedded.fill("t", records("t", range(COUNT), size=LARGE))

    with fault(monkeypatch, lambda: push_fetch_errors(embedded, [CUT_OFF] * 3)):
        outcome = read(how, embedded.bootstrap_servers, f"t:0:0:{COUNT}", **SLOWLY)

    verdict.complete(outcome, ledger("t", range(COUNT)), within_s=15)
    verdict.has_fired(3 - fetch_errors_left(embedded))


@kafka
@pytest.mark.case(19)
def test_a_link_so_slow_that_the_read_outlasts_the_stall_timeout_is_no_stall(proxy, topic, how, verdict):
    proxy.throttle(bytes_per_second=600_000 if how in BY_TURNS else 1_200_000)  # of each connection

    outcome = read(how, proxy.servers, f"{topic}:0:0:{COUNT}", config=LITTLE_AHEAD, stall_timeout_s=1.5)

    verdict.complete(outcome, ledger(topic, range(COUNT)), within_s=20)
    assert outcome.seconds > 2
    verdict.has_fired(proxy.fired)


@pytest.fixture(scope="module")
def small_topic(cluster):
    name = cluster.new_topic()
    cluster.produce(name, records(name, range(COUNT)))
    return name


@kafka
@pytest.mark.case(19)
def test_frames_that_come_byte_by_byte_are_put_together(proxy, small_topic, how, verdict):
    proxy.throttle(chunk=1)

    outcome = read(how, proxy.servers, f"{small_topic}:0:0:{COUNT}")

    verdict.complete(outcome, ledger(small_topic, range(COUNT)), within_s=20)
    verdict.has_fired(proxy.fired)
    assert proxy.fired > COUNT * 32


@kafka
@pytest.mark.case(19)
def test_a_link_of_long_delays_costs_time_and_no_record(proxy, small_topic, how, verdict):
    proxy.throttle(delay_s=0.03)

    outcome = read(how, proxy.servers, f"{small_topic}:0:0:{COUNT}", stall_timeout_s=3)

    verdict.complete(outcome, ledger(small_topic, range(COUNT)), within_s=20)
    verdict.has_fired(proxy.fired)


BEHIND = 41  # the offset of the record behind what was aborted


@pytest.fixture(scope="module")
def aborted(cluster):
    """Between two records 3 MB of others, all aborted: 10 transactions of 3, and their markers."""
    name = cluster.new_topic()
    cluster.produce(name, records(name, [0]))
    for first in range(0, 30, 3):
        cluster.transaction(name, records(name, range(first, first + 3), size=2 * LARGE), end="abort")
    cluster.produce(name, records(name, [BEHIND]))
    return name


def read_over_aborted(proxy, topic, how):
    proxy.throttle(bytes_per_second=800_000)
    one_at_a_time = {**LITTLE_AHEAD, "fetch.max.bytes": 310_000}
    return read(how, proxy.servers, f"{topic}:0:0:{BEHIND + 1}", config=one_at_a_time, stall_timeout_s=2)


@kafka
@pytest.mark.case(19)
@pytest.mark.parametrize("how", fast("dataset-0"))
def test_a_stretch_of_aborted_records_that_comes_slowly_is_no_stall(proxy, aborted, oracle, how, verdict):
    outcome = read_over_aborted(proxy, aborted, how)

    fired = proxy.fired
    proxy.pass_through()
    truth = [((aborted, 0, 0), 0), ((aborted, 0, BEHIND), BEHIND)]
    verdict.complete(outcome, vouched(oracle.truth(proxy.servers, aborted), truth), within_s=20)
    assert outcome.seconds > 2.5
    verdict.has_fired(fired)


@kafka
@pytest.mark.case(19)
def test_without_the_clients_statistics_that_stretch_would_be_a_stall(proxy, aborted, verdict, monkeypatch):
    """The control: nothing else tells that something comes."""
    monkeypatch.setattr(kafkapipes.kafka.fetcher, "_standing", lambda *_: (-1, ""))

    outcome = read_over_aborted(proxy, aborted, "chain-0")

    verdict.failed(outcome, StalledError, f"{aborted}:0@1", within_s=10)
    verdict.read = "control"
    verdict.has_fired(proxy.fired)


def missed_its_poll(cluster, topic):
    """Whether a consumer that subscribes is thrown out of its group where it is as slow as these properties forbid."""
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap_servers, "group.id": topic, **IMPATIENT_GROUP})
    consumer.subscribe([topic])
    while not consumer.assignment():
        consumer.poll(0.1)
    time.sleep(7)
    codes = []
    while KafkaError._MAX_POLL_EXCEEDED not in codes and len(codes) < 100:
        message = consumer.poll(0.1)
        codes.append(message.error().code() if message is not None and message.error() else 0)
    consumer.close()
    return KafkaError._MAX_POLL_EXCEEDED in codes


@kafka
@pytest.mark.case(39)
@pytest.mark.parametrize("how", fast("chain-2"))
def test_a_caller_slower_than_max_poll_interval_ms_loses_nothing(cluster, topic, how, verdict, monkeypatch):
    options = {**SLOWLY, "config": {**LITTLE_AHEAD, **IMPATIENT_GROUP}}
    with fault(monkeypatch, lambda: missed_its_poll(cluster, topic)) as fired:
        outcome = read(how, cluster.bootstrap_servers, f"{topic}:0:0:{COUNT}", **options)

    verdict.complete(outcome, ledger(topic, range(COUNT)), within_s=30)
    verdict.has_fired(fired.result)


@pytest.fixture
def clock(monkeypatch):
    """The wall clock of this process and of those it forks, as a number of seconds to be ahead."""
    ahead, now = multiprocessing.Value("d", 0.0), time.time
    monkeypatch.setattr(time, "time", lambda: now() + ahead.value)
    return ahead


TEN_YEARS = 315_000_000


@kafka
@pytest.mark.case(45)
@pytest.mark.parametrize("jump", [-TEN_YEARS, TEN_YEARS])
def test_a_clock_that_jumps_and_timestamps_of_the_future_change_nothing(
    cluster, clock, how, jump, verdict, monkeypatch
):
    topic = cluster.new_topic(message_timestamp_after_max_ms=str(2**62))
    for sequence in range(10):
        in_the_future = int(time.time() * 1000) + 86_400_000 * (10 - sequence)  # and they descend
        cluster.produce(topic, records(topic, [sequence]), timestamp=in_the_future)

    def leap():
        clock.value = jump
        return abs(time.time() - time.clock_gettime(time.CLOCK_REALTIME)) > TEN_YEARS / 2

    with fault(monkeypatch, leap) as fired:
        outcome = read(how, cluster.bootstrap_servers, f"{topic}:0:0:10", batch_records=1, stall_timeout_s=5)

    verdict.complete(outcome, ledger(topic, range(10)), within_s=5)
    verdict.has_fired(fired.result)


def stall_under_a_jump(proxy, topic, how, clock, jump, verdict, monkeypatch):
    """Seconds from a silence to the error, where the clock jumps in between."""
    with later(0.5, lambda: setattr(clock, "value", jump)) as leap:

        def fall_silent():
            proxy.stall()
            leap()

        return stalled_after(proxy.servers, topic, how, fall_silent, verdict, monkeypatch)


@kafka
@pytest.mark.case(45)
@pytest.mark.parametrize("jump", [pytest.param(-TEN_YEARS, marks=pytest.mark.slow), TEN_YEARS])
def test_a_stall_is_timed_by_a_clock_that_does_not_jump(proxy, topic, clock, jump, verdict, monkeypatch):
    seconds = stall_under_a_jump(proxy, topic, "chain-0", clock, jump, verdict, monkeypatch)

    assert STALL_S - 0.5 < seconds < STALL_S + 1
    verdict.has_fired(clock.value == jump)


@kafka
@pytest.mark.case(45)
def test_by_the_wall_clock_a_stall_would_come_at_once(proxy, topic, clock, verdict, monkeypatch):
    """The control: the jump does what it is feared for."""
    monkeypatch.setattr(RangeProgress.__init__, "__defaults__", (lambda: time.time(),))

    assert stall_under_a_jump(proxy, topic, "chain-0", clock, TEN_YEARS, verdict, monkeypatch) < STALL_S - 1
    verdict.read = "control"
    verdict.has_fired(clock.value == TEN_YEARS)


class Counts:
    """A logger and an error callback that count over all processes."""

    def __init__(self):
        self.lines, self.errors = multiprocessing.Value("i", 0), multiprocessing.Value("i", 0)

    def log(self, *_):
        with self.lines.get_lock():
            self.lines.value += 1

    def error(self, _):
        with self.errors.get_lock():
            self.errors.value += 1


@kafka
@pytest.mark.case(46)
def test_a_storm_of_reconnects_is_waited_out_in_few_lines(proxy, topic, how, verdict, monkeypatch):
    kept, said = Counts(), multiprocessing.Value("i", 0)
    log = Complaints.log

    def count(complaints, *line):
        with said.get_lock():
            said.value += 1
        log(complaints, *line)

    monkeypatch.setattr(Complaints, "log", count)

    def refuse():
        proxy.refuse()
        pass_again()

    options = {**SLOWLY, "config": {**LITTLE_AHEAD, "logger": kept, "error_cb": kept.error}}
    with later(2, proxy.pass_through) as pass_again, fault(monkeypatch, refuse):
        outcome = read(how, proxy.servers, f"{topic}:0:0:{COUNT}", **options)

    verdict.complete(outcome, ledger(topic, range(COUNT)), within_s=15)
    clients = 4 if how in BY_TURNS else 2  # each process that reads has one that fetches and one that asks
    assert kept.lines.value <= clients * LOG_LINES
    assert kept.errors.value <= 100 * clients
    verdict.has_fired(said.value - kept.lines.value)


@kafka
@pytest.mark.case(47)
def test_a_short_range_that_ends_on_a_marker_is_read_in_a_moment(cluster, how, verdict, monkeypatch):
    topic, planned, plan = cluster.new_topic(), [], PartitionReader.plan
    cluster.transaction(topic, records(topic, range(10)), end="commit")

    def note(reader):
        try:
            return plan(reader)
        finally:
            planned.append(time.monotonic())

    def note_stream(*options):
        try:
            return plan_stream(*options)
        finally:
            planned.append(time.monotonic())

    plan_stream = streaming._plan
    monkeypatch.setattr(PartitionReader, "plan", note)
    monkeypatch.setattr(streaming, "_plan", note_stream)
    began = time.monotonic()
    outcome = read(how, cluster.bootstrap_servers, f"{topic}:0:0:11")

    verdict.complete(outcome, ledger(topic, range(10)), within_s=3)
    assert since(planned[0], began, outcome) < (1.0 if how.endswith("2") else 0.3)  # to start workers takes its time
    verdict.has_fired(waits_for_more(cluster, topic))


def waits_for_more(cluster, topic):
    """Whether a bare client that asks for more records than there are waits for its whole timeout."""
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap_servers, "group.id": topic})
    consumer.assign([TopicPartition(topic, 0, 0)])
    began = time.monotonic()
    assert len(consumer.consume(500, 2.0)) == 10
    consumer.close()
    return time.monotonic() - began >= 2
