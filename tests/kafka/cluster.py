"""Real Apache Kafka for the tests, from whatever this machine has.

In this order: the address in KAFKAPIPES_TEST_BOOTSTRAP_SERVERS; a broker of our own, from Maven's jars, where there
is a JDK 17+ and Maven; a container, where testcontainers is installed and a Docker engine answers. Three brokers, and
brokers with TLS, can only be our own.
"""

import os
import shutil
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import ElectionType, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import NewTopic, OffsetSpec, PartitionMetadata

from tests.faults.certificates import Certificates
from tests.kafka.node import Node, NoKafka, fetch_jars, free_ports, quiet_admin, start_nodes
from tests.kafka.reassign import reassign

ADDRESS_VARIABLE = "KAFKAPIPES_TEST_BOOTSTRAP_SERVERS"
PASSWORD = "reader-secret-4711"  # of the user "reader", who may read nothing until a test grants it
SASL = {
    "security.protocol": "SASL_PLAINTEXT",
    "sasl.mechanism": "PLAIN",
    "sasl.username": "reader",
    "sasl.password": PASSWORD,
}
_SETTLE_S = 60  # in which leaders and replicas come to rest after what was done to a broker

_COMMON = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "num.partitions": 1,
    "group.initial.rebalance.delay.ms": 0,
    "log.cleaner.backoff.ms": 200,
    "log.cleaner.dedupe.buffer.size": 4194304,
    "log.initial.task.delay.ms": 500,
    "log.retention.check.interval.ms": 500,
    "offsets.topic.num.partitions": 1,
    "transaction.state.log.num.partitions": 1,
}
_ALONE = {
    "node.id": 1,
    "offsets.topic.replication.factor": 1,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",
}
_SASL = {
    "listener.name.sasl.sasl.enabled.mechanisms": "PLAIN",
    "listener.name.sasl.plain.sasl.jaas.config": "org.apache.kafka.common.security.plain.PlainLoginModule required "
    f'user_reader="{PASSWORD}";',
}
_TOGETHER = {
    "default.replication.factor": 3,
    "min.insync.replicas": 2,
    "offsets.topic.replication.factor": 3,
    "transaction.state.log.replication.factor": 3,
    "transaction.state.log.min.isr": 2,
    "auto.leader.rebalance.enable": "false",  # a leader moves when a test moves it
    "broker.heartbeat.interval.ms": 500,
    "broker.session.timeout.ms": 4000,  # after which the leaders of a dead or paused broker move; 9000 by default
}
# A killed broker is let in again once its session has expired, by default 9 s; who pauses longer loses its leaders.
QUICK_RESTART = {"broker.heartbeat.interval.ms": 300, "broker.session.timeout.ms": 1500}


class Listener(NamedTuple):
    """A port of a broker; clients are sent to `advertised` where that is another."""

    name: str
    port: int
    protocol: str = "PLAINTEXT"
    advertised: int = 0


class Cluster:
    """Brokers at an address, with what tests do to them through the admin client."""

    def __init__(self, bootstrap_servers: str) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.admin = quiet_admin(bootstrap_servers)

    def new_topic(self, partitions: int = 1, **config: str) -> str:
        """A topic of its own for a test; config names have _ for the dots."""
        return self._create(config, partitions, replication_factor=1)

    def produce(
        self,
        topic: str,
        records: list[tuple[bytes | None, bytes | None]],
        partition: int = 0,
        in_a_batch: int = 10_000,
        **options,
    ) -> None:
        """Append (value, key) records, in this order, each once, all acknowledged when it returns."""
        settings = {"linger.ms": 20, "enable.idempotence": True, "batch.num.messages": in_a_batch}
        producer = Producer({"bootstrap.servers": self.bootstrap_servers, **settings})
        for value, key in records:
            while True:
                try:
                    producer.produce(topic, value, key, partition, **options)
                    break
                except BufferError:
                    producer.poll(0.1)
        assert producer.flush(60) == 0

    def transaction(self, topic: str, records: list[tuple[bytes, bytes]], *, end: str) -> Producer:
        """Append records in a transaction that ends in "commit" or "abort", or stays "open"."""
        before = self._high_watermark(topic)
        producer = Producer({"bootstrap.servers": self.bootstrap_servers, "transactional.id": uuid.uuid4().hex})
        producer.init_transactions(30)
        producer.begin_transaction()
        for value, key in records:
            producer.produce(topic, value, key, 0)
        assert producer.flush(30) == 0
        if end != "open":
            {"commit": producer.commit_transaction, "abort": producer.abort_transaction}[end](30)
            # The coordinator writes the marker after it has answered; another record could come before it.
            while self._high_watermark(topic) < before + len(records) + 1:
                time.sleep(0.02)
        return producer

    def close(self) -> None:
        """End what was started for this cluster."""

    def __enter__(self):
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _create(self, config: dict[str, str], partitions: int, **layout) -> str:
        name = f"test-{uuid.uuid4().hex[:12]}"
        settings = {key.replace("_", "."): value for key, value in config.items()}
        self.admin.create_topics([NewTopic(name, partitions, config=settings, **layout)])[name].result(30)
        self._await_leaders(name, partitions)
        return name

    def _high_watermark(self, topic: str) -> int:
        partition, deadline = TopicPartition(topic, 0), time.monotonic() + 30
        while True:
            try:
                asked = self.admin.list_offsets({partition: OffsetSpec.latest()}, request_timeout=5)
                return asked[partition].result(30).offset
            except KafkaException:  # a topic that was just made, or a leader that just moved
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
                self.admin.list_topics(topic, timeout=10)  # only this lets the client look for the leader again

    def _await_leaders(self, name: str, partitions: int) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            found = self.admin.list_topics(name, timeout=10).topics[name].partitions
            if len(found) == partitions and all(item.leader >= 0 for item in found.values()):
                return
            time.sleep(0.05)
        raise TimeoutError(f"topic {name} has no leaders")


class OwnBroker(Cluster):
    """A broker of our own, KRaft, on free loopback ports; it has a SASL listener and an authorizer.

    Attributes:
        sasl_servers: where it wants a user and a password
        proxied_servers: a port where nothing listens until a test puts a proxy there; its clients are sent to it again
        proxy_target: (host, port) that such a proxy forwards to
    """

    def __init__(self, jars: Path, listeners: tuple[Listener, ...] = (), properties: dict[str, object] | None = None):
        self.folder = Path(tempfile.mkdtemp(prefix="kafkapipes-broker-"))
        plain, sasl, proxied, proxy, controller = free_ports(5)
        self.sasl_servers = f"127.0.0.1:{sasl}"
        self.proxied_servers = f"127.0.0.1:{proxy}"
        self.proxy_target = ("127.0.0.1", proxied)
        ports = (
            Listener("PLAINTEXT", plain),
            Listener("SASL", sasl, "SASL_PLAINTEXT"),
            Listener("PROXIED", proxied, advertised=proxy),
            *listeners,
            Listener("CONTROLLER", controller),
        )
        voters = {"controller.quorum.voters": f"1@127.0.0.1:{controller}"}
        settings = {**_COMMON, **_ALONE, **_SASL, **voters, **_listening(ports), **(properties or {})}
        self._node = Node(jars, self.folder, f"127.0.0.1:{plain}", settings, "320m")
        try:
            start_nodes([self._node])
        except BaseException:
            self.close()
            raise
        super().__init__(self._node.servers)

    @property
    def pid(self) -> int:
        return self._node.pid

    @property
    def restarts(self) -> int:
        """How often the broker was started again."""
        return self._node.restarts

    def log_folder(self, topic: str, partition: int = 0) -> Path:
        """Where the segments of a partition lie on disk."""
        return self._node.data / f"{topic}-{partition}"

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        self._node.kill()

    def start(self) -> None:
        """Start the broker again, with its ports and its data; returns when it leads all its partitions."""
        self._node.launch()
        self._node.await_start()
        self.admin = quiet_admin(self.bootstrap_servers)  # the old one may believe for 10 s that there are no leaders
        for name, topic in self.admin.list_topics(timeout=10).topics.items():
            self._await_leaders(name, len(topic.partitions))

    def pause(self) -> None:
        """Stop the broker's process where it stands: connections stay open, nothing is answered."""
        self._node.pause()

    def resume(self) -> None:
        self._node.resume()

    def close(self) -> None:
        self._node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class TlsBroker(OwnBroker):
    """A broker of our own with a TLS listener for each server certificate besides.

    Attributes:
        tls_servers: address by certificate: "good", "expired", "other-host"
        ca: what a client trusts that wants to come in
        other_ca: what signed none of the certificates
    """

    def __init__(self, jars: Path, certificates: Certificates) -> None:
        ports = dict(zip(certificates.servers, free_ports(len(certificates.servers)), strict=True))
        self.tls_servers = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        self.ca, self.other_ca = certificates.ca, certificates.other_ca
        names = {name: f"TLS_{name.replace('-', '_').upper()}" for name in ports}
        properties: dict[str, object] = {}
        for name, path in certificates.servers.items():
            properties[f"listener.name.{names[name].lower()}.ssl.keystore.type"] = "PEM"
            properties[f"listener.name.{names[name].lower()}.ssl.keystore.location"] = path
        super().__init__(jars, tuple(Listener(names[name], port, "SSL") for name, port in ports.items()), properties)


class ThreeBrokers(Cluster):
    """Three brokers of our own, 1, 2 and 3, which are the controllers too; two must live."""

    def __init__(self, jars: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kafkapipes-brokers-"))
        plain, controller = free_ports(3), free_ports(3)
        voters = ",".join(f"{node}@127.0.0.1:{port}" for node, port in enumerate(controller, 1))
        self._nodes: dict[int, Node] = {}
        for number in (1, 2, 3):
            ports = (Listener("PLAINTEXT", plain[number - 1]), Listener("CONTROLLER", controller[number - 1]))
            own = {"node.id": number, "controller.quorum.voters": voters}
            settings = {**_COMMON, **_TOGETHER, **own, **_listening(ports)}
            self._nodes[number] = Node(
                jars, self.folder / str(number), f"127.0.0.1:{plain[number - 1]}", settings, "256m"
            )
        self._paused: set[int] = set()
        try:
            start_nodes(list(self._nodes.values()))
        except BaseException:
            self.close()
            raise
        super().__init__(",".join(node.servers for node in self._nodes.values()))

    def new_topic(self, partitions: int = 1, leader: int = 1, replicas: int = 3, **config: str) -> str:
        """A topic whose partitions are all led by one node; the other replicas follow by number, 1 after 3."""
        order = [(leader - 1 + step) % 3 + 1 for step in range(replicas)]
        settings = {"min_insync_replicas": str(min(2, replicas)), **config}
        return self._create(settings, partitions, replica_assignment=[order] * partitions)

    def leader(self, topic: str, partition: int = 0) -> int:
        """The node that leads a partition, as a living broker knows it; -1 where none does."""
        return self._partition(topic, partition).leader

    def log_folder(self, node: int, topic: str, partition: int = 0) -> Path:
        """Where a node keeps the segments of a partition."""
        return self._nodes[node].data / f"{topic}-{partition}"

    def pid(self, node: int) -> int:
        return self._nodes[node].pid

    def restarts(self, node: int) -> int:
        """How often a node was started again."""
        return self._nodes[node].restarts

    def kill(self, node: int) -> None:
        """SIGKILL; returns when the process is gone. Its leaders move some 4 seconds later."""
        self._nodes[node].kill()
        self._paused.discard(node)

    def start(self, node: int) -> None:
        """Start a killed node again; returns when it answers and is one of the cluster, for which two must live."""
        self._nodes[node].launch()
        self._nodes[node].await_start()

    def pause(self, node: int) -> None:
        """Stop a node's process where it stands. Its leaders move some 4 seconds later."""
        self._nodes[node].pause()
        self._paused.add(node)

    def resume(self, node: int) -> None:
        self._nodes[node].resume()
        self._paused.discard(node)

    def heal(self) -> None:
        """Resume what is paused and start what is killed."""
        for node in list(self._paused):
            self.resume(node)
        dead = [node for node in self._nodes.values() if not node.alive]
        for node in dead:
            node.launch()
        for node in dead:
            node.await_start()

    def move_leader(self, topic: str, partition: int = 0) -> tuple[int, int]:
        """Make another replica that is in sync the leader, while all live; (old, new)."""
        found = self._partition(topic, partition)
        old = found.leader
        new = next(node for node in found.replicas if node != old and node in found.isrs)
        order = [new, *(node for node in found.replicas if node != new)]
        reassign(self._awake()[0].servers, topic, partition, order)
        self._await(lambda: list(self._partition(topic, partition).replicas) == order, "has no new order of replicas")
        self.admin.elect_leaders(ElectionType.PREFERRED, [TopicPartition(topic, partition)]).result(30)
        self._await(lambda: self.leader(topic, partition) == new, f"of {topic} is not led by node {new}")
        return old, new

    def await_leader(self, topic: str, partition: int = 0, *, other_than: int = -1) -> int:
        """The leader, once there is one and it is not `other_than`."""
        self._await(lambda: self.leader(topic, partition) not in (-1, other_than), f"of {topic} has no new leader")
        return self.leader(topic, partition)

    def await_in_sync(self, topic: str) -> None:
        """Return once every replica of the topic is in sync, and every living broker says so, and who leads.

        One that was paused believes for a while to lead what it led before.
        """

        def settled() -> bool:
            views = [self._partitions(topic, node) for node in self._awake()]
            leaders = {tuple((number, item.leader) for number, item in sorted(view.items())) for view in views}
            items = [item for view in views for item in view.values()]
            return len(leaders) == 1 and all(len(item.isrs) == len(item.replicas) for item in items)

        self._await(settled, f"of {topic} is not in sync")

    def close(self) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(Node.kill, self._nodes.values()))
        shutil.rmtree(self.folder, ignore_errors=True)

    def _awake(self) -> list[Node]:
        return [node for number, node in self._nodes.items() if node.alive and number not in self._paused]

    def _partition(self, topic: str, partition: int) -> PartitionMetadata:
        return self._partitions(topic)[partition]

    def _partitions(self, topic: str, node: Node | None = None) -> dict[int, PartitionMetadata]:
        """As one node has them, or any that is awake."""
        # A client that knows all brokers would ask the paused one too, and wait for it.
        return quiet_admin((node or self._awake()[0]).servers).list_topics(topic, timeout=10).topics[topic].partitions

    def _await(self, reached, otherwise: str) -> None:
        deadline = time.monotonic() + _SETTLE_S
        while time.monotonic() < deadline:
            with suppress(KafkaException, KeyError):
                if reached():
                    return
            time.sleep(0.05)
        raise TimeoutError(f"after {_SETTLE_S} s a partition {otherwise}")


class Container(Cluster):
    """A broker in a container of testcontainers."""

    def __init__(self) -> None:
        try:
            from testcontainers.community.kafka import KafkaContainer
        except ImportError:  # before testcontainers 5
            from testcontainers.kafka import KafkaContainer

        self._container = KafkaContainer().with_kraft()
        for name in ("REPLICATION_FACTOR", "MIN_ISR"):  # one broker is all there is
            self._container.with_env(f"KAFKA_TRANSACTION_STATE_LOG_{name}", "1")
        self._container.start()
        super().__init__(self._container.get_bootstrap_server())

    def close(self) -> None:
        self._container.stop()


def open_cluster() -> Cluster:
    """The first Kafka that can be had.

    Raises:
        NoKafka: none can.
    """
    if address := os.environ.get(ADDRESS_VARIABLE):
        return Cluster(address)
    try:
        jars = fetch_jars()
    except NoKafka as no_broker:
        try:
            return Container()
        except Exception as exc:  # not installed, or no engine: each has errors of its own
            found = f"no {ADDRESS_VARIABLE}, {no_broker}, no container ({type(exc).__name__}: {exc})"
            raise NoKafka(found.splitlines()[0]) from None
    return OwnBroker(jars)


def _listening(listeners: tuple[Listener, ...]) -> dict[str, str]:
    return {
        "listeners": ",".join(f"{item.name}://127.0.0.1:{item.port}" for item in listeners),
        "advertised.listeners": ",".join(
            f"{item.name}://127.0.0.1:{item.advertised or item.port}" for item in listeners if item.name != "CONTROLLER"
        ),
        "listener.security.protocol.map": ",".join(f"{item.name}:{item.protocol}" for item in listeners),
    }
