"""One process of Apache Kafka, from Maven's jars: found, formatted, started and stopped."""

import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

VERSION = "4.4.0"
START_S = 60  # about 3 s on an idle machine
_CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qg"
# Whatever ends the tests, `kill -9` too, ends the broker: the pipe closes, and no line has come. No child of ours.
_GUARD = 'exec 3<&0; (read -r line <&3 || kill -9 "$0") >/dev/null 2>&1 &'
_PORTS = 12_000  # from which free ones are drawn


class NoKafka(Exception):
    """There is no way to a Kafka broker on this machine; the text says what was looked for."""


class Node:
    """A broker and controller in one process, on ports and a data folder that outlive it.

    Attributes:
        number: its node.id
        servers: where it is asked whether it is up
        restarts: how often it was started again
    """

    def __init__(self, jars: Path, folder: Path, servers: str, properties: dict[str, object], heap: str) -> None:
        self.number = int(str(properties["node.id"]))
        self.servers = servers
        self.data = folder / "data"
        self.restarts = -1
        folder.mkdir(exist_ok=True)
        settings = folder / "server.properties"
        settings.write_text("".join(f"{key}={value}\n" for key, value in {**properties, "log.dirs": self.data}.items()))
        options = [f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        self._java = [find_java(), *options, "-cp", f"{jars}/*"]
        self._settings = str(settings)
        self._log = folder / "broker.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started yet"
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def format(self) -> subprocess.Popen[bytes]:
        """Begin to write the data folder's first files; the caller waits."""
        command = ["kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", self._settings]
        with self._log.open("ab") as log:
            return subprocess.Popen([*self._java, *command], stdout=log, stderr=log)

    def launch(self) -> None:
        """Begin to start; `await_start` waits for the end of it."""
        assert not self.alive, f"node {self.number} runs already"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([*self._java, "kafka.Kafka", self._settings], stdout=log, stderr=log)
        self._guard = subprocess.Popen(
            ["sh", "-c", _GUARD, str(self.pid)], stdin=subprocess.PIPE, start_new_session=True
        )
        self._guard.wait(10)
        self.restarts += 1

    def await_start(self) -> None:
        """Return once the node answers and counts itself among the brokers.

        Raises:
            RuntimeError: it has not within START_S; the text holds the end of its log.
        """
        host, port = self.servers.split(":")
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.alive:
            with suppress(KafkaException, OSError):
                socket.create_connection((host, int(port)), 1).close()
                if self.number in quiet_admin(self.servers).list_topics(timeout=2).brokers:
                    return
            time.sleep(0.05)
        self.kill()
        log = self._log.read_text(errors="replace")[-3000:]
        raise RuntimeError(f"Kafka did not start within {START_S} s; the end of its log:\n{log}")

    def kill(self) -> None:
        """SIGKILL, and wait until the process is gone."""
        if self._guard is not None:
            self._guard.communicate(b"\n")
            self._guard = None
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)

    def pause(self) -> None:
        """Stop the process where it stands: connections stay open, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


def quiet_admin(servers: str) -> AdminClient:
    """An admin client that does not write to stderr that a broker is away: here they are, on purpose."""
    return AdminClient({"bootstrap.servers": servers, "log_level": 0})


def start_nodes(nodes: list[Node]) -> None:
    """Format and start all at once."""
    for formatting in [node.format() for node in nodes]:
        if formatting.wait(START_S):
            raise RuntimeError("Kafka's data folder was not formatted; the log is beside it")
    for node in nodes:
        node.launch()
    for node in nodes:
        node.await_start()


def find_java() -> str:
    """The path of a Java 17 or newer, or ''."""
    home = os.environ.get("JAVA_HOME", "")
    for java in filter(None, (home and shutil.which(f"{home}/bin/java"), shutil.which("java"))):
        words = subprocess.run([java, "-version"], capture_output=True, text=True).stderr.split('"')
        if len(words) > 1 and words[1].split(".")[0].isdigit() and int(words[1].split(".")[0]) >= 17:
            return java
    return ""


def fetch_jars() -> Path:
    """The folder of Kafka's jars, fetched by Maven once and kept in the user's cache.

    Raises:
        NoKafka: no JDK, no Maven, or Maven could not fetch them.
    """
    if not (find_java() and shutil.which("mvn")):
        raise NoKafka("no JDK 17+ with Maven")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    jars = cache / "kafkapipes" / f"kafka-{VERSION}"
    jars.mkdir(parents=True, exist_ok=True)
    with open(jars / "lock", "w") as lock:  # processes of tests that start together
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (jars / "complete").exists():
            pom = Path(__file__).with_name("pom.xml")
            command = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={jars}"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
            if done.returncode:
                raise NoKafka(f"Maven could not fetch Kafka's jars: {done.stdout[-500:]}")
            (jars / "complete").touch()
    return jars


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 below those that the system gives to outgoing connections.

    A killed broker's port lies free until its restart: a client that keeps trying would be given it as its own, and
    then be connected to itself.
    """
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        first = 49_152
    draw = random.SystemRandom()
    ports: list[int] = []
    while len(ports) < count:
        port = draw.randrange(max(1024, first - _PORTS), first)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports += [port] if port not in ports else []
    return ports
