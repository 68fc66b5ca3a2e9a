"""The tools of the fault tests do what they say: a fault that does not happen would prove nothing."""

import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from tests.faults.certificates import make_certificates
from tests.faults.oracle import checksum
from tests.faults.proxy import Proxy, proxied_mock
from tests.kafka.node import free_ports

FRAME = (5).to_bytes(4) + b"hello"


def consume(servers, topic, count, config=None, timeout_s=20):
    """Values of the first records, and codes of what ended the read, by a bare client."""
    values, errors = [], []
    settings = {
        "bootstrap.servers": servers,
        "group.id": "infrastructure",
        "check.crcs": True,
        "log_level": 0,
        "error_cb": lambda error: errors.append(error.code()) if error.code() == KafkaError._SSL else None,
        **(config or {}),
    }
    consumer = Consumer(settings)
    consumer.assign([TopicPartition(topic, 0, 0)])
    deadline = time.monotonic() + timeout_s
    while len(values) < count and not errors and time.monotonic() < deadline:
        message = consumer.poll(0.1)
        if message is not None and message.error():
            errors.append(message.error().code())
        elif message is not None:
            values.append(message.value())
    consumer.close()
    return values, errors[:1]


def refuses_soon(host, port):
    """Whether nothing listens there within some seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, port), 1).close()
        except ConnectionRefusedError:
            return True
        time.sleep(0.05)
    return False


@contextmanager
def answering(answer):
    """A server that answers whatever comes; its (host, port)."""

    class Answer(socketserver.BaseRequestHandler):
        def handle(self):
            with suppress(OSError):
                while self.request.recv(100):
                    self.request.sendall(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.02])
        thread.start()
        yield server.server_address
        server.shutdown()
        thread.join(10)


@pytest.fixture
def proxy():
    with answering(FRAME * 1000) as target, Proxy(0, target) as between:
        yield between


def ask(proxy, size=9000):
    """What comes back through the proxy until `size` bytes are there, or it ends."""
    host, port = proxy.servers.split(":")
    with socket.create_connection((host, int(port)), 3) as connection:
        connection.settimeout(1)
        connection.sendall(b"?")
        answer = b""
        while len(answer) < size and (piece := connection.recv(1000)):
            answer += piece
        return answer


def test_a_proxy_forwards_all_and_counts_it(proxy):
    assert ask(proxy) == FRAME * 1000
    assert (proxy.fired, proxy.connections, proxy.bytes_forwarded) == (0, 1, 9001)


def test_a_stalled_proxy_holds_bytes_back_and_gives_them_when_it_passes_again(proxy):
    host, port = proxy.servers.split(":")
    proxy.stall()
    with socket.create_connection((host, int(port)), 3) as connection:
        connection.settimeout(0.3)
        connection.sendall(b"?")
        with pytest.raises(TimeoutError):
            connection.recv(1)
        assert (proxy.fired, proxy.bytes_forwarded) == (1, 0)

        proxy.pass_through()

        assert connection.recv(4) == FRAME[:4]


def test_a_stall_of_what_is_open_lets_new_connections_through(proxy):
    host, port = proxy.servers.split(":")
    with socket.create_connection((host, int(port)), 3) as connection:
        connection.settimeout(0.3)
        connection.sendall(b"?")
        assert connection.recv(4) == FRAME[:4]
        proxy.stall(open_only=True)
        connection.sendall(b"?")

        assert ask(proxy) == FRAME * 1000
        assert proxy.fired == 1


def test_a_refusing_proxy_cuts_what_is_open_and_listens_no_more(proxy):
    host, port = proxy.servers.split(":")
    with socket.create_connection((host, int(port)), 3) as connection:
        connection.sendall(b"?")
        connection.recv(1)
        proxy.refuse()
        with pytest.raises(ConnectionResetError):
            connection.makefile("rb").read()
    with pytest.raises(ConnectionRefusedError):
        ask(proxy)
    assert proxy.fired == 1

    proxy.pass_through()

    assert ask(proxy) == FRAME * 1000


def test_resets_come_after_as_many_bytes_as_the_seed_says(proxy):
    def until_reset():
        before = proxy.bytes_forwarded
        with pytest.raises(ConnectionResetError):
            ask(proxy)
        return proxy.bytes_forwarded - before

    proxy.reset_every(7, 100)
    first, second = until_reset(), until_reset()

    assert proxy.fired == 2
    assert first != second
    with answering(FRAME * 1000) as target, Proxy(0, target) as proxy:
        proxy.reset_every(7, 100)
        assert (until_reset(), until_reset()) == (first, second)


def test_a_throttle_caps_the_rate_and_breaks_the_answer_into_pieces(proxy):
    proxy.throttle(bytes_per_second=45_000, chunk=10)
    began = time.monotonic()

    assert ask(proxy) == FRAME * 1000
    assert 0.15 < time.monotonic() - began < 1
    assert proxy.fired == 1 + 900


def test_a_delay_is_waited_each_way(proxy):
    proxy.throttle(delay_s=0.1)
    began = time.monotonic()

    assert ask(proxy) == FRAME * 1000
    assert time.monotonic() - began >= 0.2


def test_a_flip_changes_one_bit_once(proxy):
    proxy.flip(b"hell")

    assert ask(proxy) == FRAME.replace(b"o", b"n") + FRAME * 999
    assert proxy.fired == 1


def test_a_rewritten_response_may_have_another_length(proxy):
    proxy.rewrite(lambda body: body + b"!!")

    assert ask(proxy, 11_000) == ((7).to_bytes(4) + b"hello!!") * 1000
    assert proxy.fired == 1000


def test_modes_may_change_in_the_middle_of_a_response(proxy):
    """A stall begins after 6 bytes, inside of a frame; from the next one on they are rewritten, then not any more."""
    host, port = proxy.servers.split(":")
    proxy.throttle(bytes_per_second=30, chunk=6)
    with socket.create_connection((host, int(port)), 3) as connection:
        connection.settimeout(3)
        connection.sendall(b"?")
        answer = connection.recv(6)
        proxy.replace(b"hello", b"HELLO")
        while len(answer) < 9000:
            answer += connection.recv(1000)
        proxy.pass_through()
        connection.sendall(b"?")
        after = connection.recv(9)

    assert answer == FRAME + ((5).to_bytes(4) + b"HELLO") * 999
    assert after == FRAME


def test_a_closed_proxy_leaves_no_thread_whatever_its_mode(proxy):
    before = set(threading.enumerate())
    for mode in ("pass_through", "stall", "refuse"):
        with Proxy(0, proxy.target) as other:
            getattr(other, mode)()
            with socket.socket() as client:
                client.connect_ex(("127.0.0.1", other.port))
                time.sleep(0.05)

    assert set(threading.enumerate()) <= before


def test_ports_are_below_those_of_outgoing_connections():
    with socket.create_server(("127.0.0.1", 0)) as outgoing:
        assert max(free_ports(20)) < outgoing.getsockname()[1]


def test_a_proxy_before_the_embedded_broker_sees_all_that_is_read(embedded):
    embedded.fill("t", [(b"v" * 1000, None)] * 50)
    with proxied_mock(embedded) as proxy:
        assert consume(embedded.bootstrap_servers, "t", 50) == ([b"v" * 1000] * 50, [])
        assert proxy.bytes_forwarded > 50_000

        proxy.flip(b"v" * 10)

        assert consume(proxy.servers, "t", 50) == ([], [KafkaError._BAD_MSG])
        assert proxy.fired == 1
    assert consume(embedded.bootstrap_servers, "t", 50)[0] == [b"v" * 1000] * 50


@pytest.mark.kafka
def test_the_oracle_reads_the_embedded_broker(embedded, oracle):
    embedded.fill("t", [(b"a", b"k"), (None, b""), (b"", None)])

    told = oracle.truth_of_mock(embedded, "t", start=1)

    assert (told.low, told.high, told.records) == (0, 3, [(1, checksum(b""), None), (2, None, checksum(b""))])


@pytest.mark.kafka
def test_the_oracle_tells_nulls_from_empty_and_leaves_out_what_was_aborted(cluster, oracle):
    topic = cluster.new_topic()
    cluster.transaction(topic, [(b"one", b"k"), (b"two", b"k")], end="commit")  # 0, 1; marker 2
    cluster.transaction(topic, [(b"never", b"k")], end="abort")  # 3; marker 4
    cluster.produce(topic, [(None, b""), (b"", None)], headers=[("h", b"1"), ("h", None)])  # 5, 6
    open_one = cluster.transaction(topic, [(b"later", b"k")], end="open")  # 7

    told = oracle.truth(cluster.bootstrap_servers, topic, 0, 1, 8)
    everything = oracle.truth(cluster.bootstrap_servers, topic, 0, 0, 8, committed=False)
    open_one.abort_transaction(30)

    key, empty = 0x0862575D, 0
    assert (told.low, told.stable, told.high) == (0, 7, 8)
    assert told.records == [(1, key, 0x11CA8A66), (5, empty, None), (6, None, empty)]
    assert told.headers == [0, 2, 2]
    assert everything.offsets == [0, 1, 3, 5, 6, 7]


@pytest.mark.kafka
def test_a_range_below_the_log_is_told_from_where_it_begins(cluster, oracle):
    topic = cluster.new_topic()
    cluster.produce(topic, [(b"v", None)] * 5)
    cluster.admin.delete_records([TopicPartition(topic, 0, 3)])[TopicPartition(topic, 0)].result(30)

    told = oracle.truth(cluster.bootstrap_servers, topic, 0, 0, 10)

    assert (told.low, told.offsets) == (3, [3, 4])


@pytest.mark.kafka
def test_a_killed_broker_comes_back_with_its_records_and_its_ports(spare_broker, oracle):
    topic = spare_broker.new_topic()
    spare_broker.produce(topic, [(bytes([number]), None) for number in range(100)])
    first = spare_broker.pid
    before = spare_broker.restarts
    spare_broker.kill()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(spare_broker.bootstrap_servers.split(":")[1])))

    spare_broker.start()

    assert spare_broker.pid != first
    assert spare_broker.restarts == before + 1
    assert oracle.truth(spare_broker.bootstrap_servers, topic).records == [
        (number, None, checksum(bytes([number]))) for number in range(100)
    ]
    assert (spare_broker.log_folder(topic) / "00000000000000000000.log").stat().st_size > 100


@pytest.mark.kafka
def test_a_broker_does_not_outlive_tests_that_were_killed(own_broker, tmp_path):
    code = "from tests.kafka.cluster import *; print(OwnBroker(fetch_jars()).bootstrap_servers, flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    tests = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, **pipes)
    host, port = tests.stdout.readline().split(":")
    socket.create_connection((host, int(port))).close()
    tests.kill()
    tests.communicate()

    assert refuses_soon(host, int(port))


@pytest.mark.kafka
def test_clients_of_the_proxied_listener_come_by_the_proxy_again_and_again(spare_broker):
    topic = spare_broker.new_topic()
    spare_broker.produce(topic, [(b"v" * 1000, None)] * 50)
    port = int(spare_broker.proxied_servers.split(":")[1])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))

    with Proxy(port, spare_broker.proxy_target) as proxy:
        assert consume(spare_broker.proxied_servers, topic, 50)[0] == [b"v" * 1000] * 50
        assert proxy.connections >= 2  # the one to bootstrap from, and the broker as it is advertised
        assert proxy.bytes_forwarded > 50_000


@pytest.fixture
def three(three_brokers):
    yield three_brokers
    three_brokers.heal()


@pytest.mark.kafka
def test_a_leader_moves_while_all_live(three):
    topic = three.new_topic(partitions=2, leader=2)

    assert three.leader(topic, 1) == 2
    assert three.move_leader(topic, 1) == (2, 3)
    assert (three.leader(topic, 0), three.leader(topic, 1)) == (2, 3)


@pytest.mark.kafka
@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_three_brokers_fail_over_and_keep_what_was_acknowledged(three, oracle, fault):
    topic = three.new_topic(leader=1)
    three.produce(topic, [(b"before", None)] * 10)
    getattr(three, fault)(1)

    assert three.await_leader(topic, other_than=1) in (2, 3)
    three.produce(topic, [(b"after", None)] * 10)
    three.heal()
    three.await_in_sync(topic)
    told = oracle.truth(three.bootstrap_servers, topic)
    assert [value for _, _, value in told.records] == [checksum(b"before")] * 10 + [checksum(b"after")] * 10


@pytest.mark.kafka
@pytest.mark.slow
def test_an_unclean_leader_cuts_back_what_only_the_dead_one_had(three, oracle):
    topic = three.new_topic(leader=1, replicas=2, min_insync_replicas="1", unclean_leader_election_enable="true")
    three.produce(topic, [(b"both", None)] * 10)
    three.kill(2)
    three.produce(topic, [(b"alone", None)] * 5)
    three.kill(1)
    three.start(2)
    three.await_leader(topic, other_than=1)
    three.start(1)
    three.await_in_sync(topic)

    assert oracle.truth(three.bootstrap_servers, topic).records == [(n, None, checksum(b"both")) for n in range(10)]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize(
    ("server", "authority", "says"),
    [
        ("good", "ca", "good.pem: OK"),
        ("good", "other_ca", "unable to get local issuer certificate"),
        ("expired", "ca", "certificate has expired"),
        ("other-host", "ca", "IP address mismatch"),
    ],
)
def test_openssl_finds_with_each_certificate_what_is_wrong_with_it(certificates, server, authority, says):
    trusted = getattr(certificates, authority)
    command = ["openssl", "verify", "-verify_ip", "127.0.0.1", "-CAfile", trusted, certificates.servers[server]]
    done = subprocess.run(command, capture_output=True, text=True)

    assert says in done.stdout + done.stderr


@pytest.mark.kafka
def test_a_client_that_trusts_the_authority_reads_by_the_good_certificate_only(tls_broker):
    topic = tls_broker.new_topic()
    tls_broker.produce(topic, [(b"v", None)] * 3)

    def read(server, ca):
        tls = {"security.protocol": "SSL", "ssl.ca.location": str(ca)}
        return consume(tls_broker.tls_servers[server], topic, 3, tls)

    assert read("good", tls_broker.ca) == ([b"v"] * 3, [])
    assert read("good", tls_broker.other_ca) == ([], [KafkaError._SSL])
    assert read("expired", tls_broker.ca) == ([], [KafkaError._SSL])
    assert read("other-host", tls_broker.ca) == ([], [KafkaError._SSL])
