"""A real Apache Kafka for the tests, from whatever this machine has.

In this order: the address in KAFKAPIPES_TEST_BOOTSTRAP_SERVERS; a broker of our own, from Maven's jars, where there
is a JDK 17+ and Maven; a container, where testcontainers is installed and a Docker engine answers.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path

from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

ADDRESS_VARIABLE = "KAFKAPIPES_TEST_BOOTSTRAP_SERVERS"
VERSION = "4.4.0"
START_S = 60  # about 5 s on an idle machine
PASSWORD = "reader-secret-4711"  # of the user "reader", who may read nothing until a test grants it

_PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listeners=PLAINTEXT://127.0.0.1:{plain},SASL://127.0.0.1:{sasl},CONTROLLER://127.0.0.1:{controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
listener.name.sasl.sasl.enabled.mechanisms=PLAIN
listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
user_reader="{password}";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
log.dirs={folder}/data
num.partitions=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
log.cleaner.backoff.ms=200
log.cleaner.dedupe.buffer.size=4194304
log.initial.task.delay.ms=500
"""


class NoKafka(Exception):
    """There is no way to a Kafka broker on this machine; the text says what was looked for."""


class Cluster:
    """A broker at an address, with what tests do to it through the admin client."""

    owned = False  # whether the tests may stop and resume the broker

    def __init__(self, bootstrap_servers: str) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.admin = AdminClient({"bootstrap.servers": bootstrap_servers})

    def new_topic(self, partitions: int = 1, **config: str) -> str:
        """A topic of its own for a test; config names have _ for the dots."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        settings = {key.replace("_", "."): value for key, value in config.items()}
        self.admin.create_topics([NewTopic(name, partitions, 1, config=settings)])[name].result(30)
        self._await_leaders(name, partitions)
        return name

    def produce(
        self, topic: str, records: list[tuple[bytes | None, bytes | None]], partition: int = 0, **options
    ) -> None:
        """Append (value, key) records, all acknowledged when it returns."""
        producer = Producer({"bootstrap.servers": self.bootstrap_servers, "linger.ms": 20})
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

    def _high_watermark(self, topic: str) -> int:
        partition = TopicPartition(topic, 0)
        return self.admin.list_offsets({partition: OffsetSpec.latest()})[partition].result(30).offset

    def _await_leaders(self, name: str, partitions: int) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            found = self.admin.list_topics(name, timeout=10).topics[name].partitions
            if len(found) == partitions and all(item.leader >= 0 for item in found.values()):
                return
            time.sleep(0.05)
        raise TimeoutError(f"topic {name} has no leaders")


class OwnBroker(Cluster):
    """A broker of our own, KRaft, on free loopback ports; it has a SASL listener and an authorizer."""

    owned = True

    def __init__(self, jars: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kafkapipes-broker-"))
        plain, sasl, controller = _free_ports(3)
        self.sasl_servers = f"127.0.0.1:{sasl}"
        settings = self.folder / "server.properties"
        settings.write_text(
            _PROPERTIES.format(plain=plain, sasl=sasl, controller=controller, folder=self.folder, password=PASSWORD)
        )
        java = [_java(), "-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{jars}/*"]
        cluster_id = "MkU3OEVBNTcwNTJENDM2Qg"
        subprocess.run(
            [*java, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(settings)],
            check=True,
            capture_output=True,
        )
        self._log = (self.folder / "broker.log").open("wb")
        self._process = subprocess.Popen([*java, "kafka.Kafka", str(settings)], stdout=self._log, stderr=self._log)
        super().__init__(f"127.0.0.1:{plain}")
        self._await_start()

    def pause(self) -> None:
        """Stop the broker's process where it stands: connections stay open, nothing is answered."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(30)
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _await_start(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(KafkaException, OSError):
                host, port = self.bootstrap_servers.split(":")
                socket.create_connection((host, int(port)), 1).close()
                if self.admin.list_topics(timeout=2).brokers:
                    return
            time.sleep(0.1)
        log = (self.folder / "broker.log").read_text(errors="replace")[-3000:]
        self.close()
        raise RuntimeError(f"Kafka did not start within {START_S} s; the end of its log:\n{log}")


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
    if _java() and shutil.which("mvn"):
        return OwnBroker(_jars())
    try:
        return Container()
    except Exception as exc:  # not installed, or no engine: each has errors of its own
        raise NoKafka(
            f"no {ADDRESS_VARIABLE}, no JDK 17+ with Maven, no container ({type(exc).__name__}: {exc})".splitlines()[0]
        ) from None


def _java() -> str:
    """The path of a Java 17 or newer, or ''."""
    home = os.environ.get("JAVA_HOME", "")
    for java in filter(None, (home and shutil.which(f"{home}/bin/java"), shutil.which("java"))):
        words = subprocess.run([java, "-version"], capture_output=True, text=True).stderr.split('"')
        if len(words) > 1 and words[1].split(".")[0].isdigit() and int(words[1].split(".")[0]) >= 17:
            return java
    return ""


def _jars() -> Path:
    """The folder of Kafka's jars, fetched by Maven once and kept in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    jars = cache / "kafkapipes" / f"kafka-{VERSION}"
    if not (jars / "complete").exists():
        pom = Path(__file__).with_name("pom.xml")
        command = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={jars}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise NoKafka(f"Maven could not fetch Kafka's jars: {done.stdout[-500:]}")
        (jars / "complete").touch()
    return jars


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for item in sockets:
        item.bind(("127.0.0.1", 0))
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports
