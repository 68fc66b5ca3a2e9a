"""What a range holds, told by Kafka's Java client: an independent reader to compare ours with."""

import subprocess
import threading
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from kafkapipes.testing import EmbeddedKafka
from tests.faults.proxy import proxied_mock
from tests.kafka.node import fetch_jars, find_java

Record = tuple[int, int | None, int | None]
_SOURCE = Path(__file__).with_name("Oracle.java")
_ANSWER_S = 120  # the Java side gives up much earlier
_TO_THE_END = 2**63 - 1
# The mock answers a newer ApiVersions request one byte askew: Java reads a throttle of 20 minutes in it.
_MOCK_REFUSAL = bytes.fromhex("0023 01 00120000")
_JAVA_REFUSAL = bytes.fromhex("0023 01 00000000")


@dataclass(frozen=True, slots=True)
class Truth:
    """The log of a partition, and every record of it in a range.

    Attributes:
        low: offset where the log begins
        stable: last stable offset, up to which committed reading goes
        high: high watermark
        records: (offset, CRC-32 of the key, CRC-32 of the value), None for null
        headers: number of headers of each record
        timestamps: milliseconds of each record
    """

    low: int
    stable: int
    high: int
    records: list[Record]
    headers: list[int] = field(default_factory=list)
    timestamps: list[int] = field(default_factory=list)

    @property
    def offsets(self) -> list[int]:
        return [record[0] for record in self.records]


class Oracle:
    """A Java process that reads ranges; one for the whole session, since Java takes a second to start.

    Raises:
        NoKafka: no JDK, or no jars of Kafka.
    """

    def __init__(self) -> None:
        jars = fetch_jars()
        options = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=off"
        self._process = subprocess.Popen(
            [find_java(), *options, quiet, "-cp", f"{jars}/*", str(_SOURCE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def truth(
        self,
        servers: str,
        topic: str,
        partition: int = 0,
        start: int = 0,
        end: int = _TO_THE_END,
        committed: bool = True,
        stall_s: int = 20,
    ) -> Truth:
        """Read [start, end), as far as the log holds it, and up to the last stable offset where `committed`.

        Raises:
            RuntimeError: the range cannot be read; the text is the Java client's.
        """
        words = (servers, topic, partition, start, end, "committed" if committed else "uncommitted", stall_s)
        watchdog = threading.Timer(_ANSWER_S, self._process.kill)
        watchdog.start()
        try:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write("\t".join(map(str, words)) + "\n")
            self._process.stdin.flush()
            state, *numbers = self._process.stdout.readline().rstrip("\n").split("\t")
            if state != "ok":
                raise RuntimeError(f"the oracle cannot read {topic}:{partition}:{start}:{end}: {numbers or 'it died'}")
            low, stable, high, count = map(int, numbers)
            rows = [self._process.stdout.readline().split() for _ in range(count)]
        finally:
            watchdog.cancel()
            watchdog.join()
        return Truth(
            low,
            stable,
            high,
            [(int(row[0]), _number(row[1]), _number(row[2])) for row in rows],
            [int(row[3]) for row in rows],
            [int(row[4]) for row in rows],
        )

    def truth_of_mock(
        self, embedded: EmbeddedKafka, topic: str, partition: int = 0, start: int = 0, end: int = _TO_THE_END
    ) -> Truth:
        """The same of an EmbeddedKafka, whose clients are led elsewhere meanwhile: call it before or after the read."""
        with proxied_mock(embedded) as proxy:
            proxy.replace(_MOCK_REFUSAL, _JAVA_REFUSAL)
            return self.truth(proxy.servers, topic, partition, start, end)

    def close(self) -> None:
        self._process.communicate(timeout=30)  # the end of its input ends it

    def __enter__(self) -> "Oracle":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def checksum(content: bytes | None) -> int | None:
    """The checksum of a key or value, as a Truth has it."""
    return None if content is None else zlib.crc32(content)


def _number(word: str) -> int | None:
    return None if word == "-" else int(word)
