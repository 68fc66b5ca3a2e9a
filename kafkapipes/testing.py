"""For examples and users' own tests: `EmbeddedKafka`, and `assert_resumes_exactly` for any stateful dataset.

EmbeddedKafka is librdkafka's mock cluster as a context manager. It speaks the Kafka protocol on 127.0.0.1 to any client
and any process, and starts in milliseconds. Its limits (librdkafka's `rdkafka_mock.h` calls it experimental):

- a partition keeps its last 5 MB or 100,000 records, whichever is less
- no SASL, no TLS, no ACLs, no compaction, no transactions' markers, no admin requests but list_offsets
- a topic that is produced to without being created gets 4 partitions
- times (`@MS`) are not searched: every time resolves to the end of the log
- all is gone when the context ends
"""

import ctypes
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from ctypes import c_char_p, c_int, c_size_t, c_void_p
from functools import cache
from pathlib import Path
from typing import NoReturn

import confluent_kafka

from kafkapipes.errors import ConfigError, KafkaPipesError
from kafkapipes.exactness import assert_resumes_exactly as assert_resumes_exactly
from kafkapipes.kafka.native import library_path
from kafkapipes.options import check_count, shown
from kafkapipes.ranges import OffsetRange

_PRODUCER = 0  # rd_kafka_type_t RD_KAFKA_PRODUCER
MAX_PARTITIONS = 10_000  # of a topic; the mock cluster aborts the process where it has no memory for more


class EmbeddedKafka:
    """A Kafka cluster inside this process.

    Args:
        brokers: number of brokers

    Attributes:
        bootstrap_servers: `"127.0.0.1:PORT"`, what every client wants

    >>> with EmbeddedKafka() as kafka:
    ...     kafka.create_topic("clicks", partitions=3)
    ...     kafka.bootstrap_servers.startswith("127.0.0.1:")
    True
    """

    def __init__(self, brokers: int = 1) -> None:
        check_count("brokers", brokers, 100)
        self._library = _library()
        self._pid = os.getpid()
        error = ctypes.create_string_buffer(512)
        config = self._library.rd_kafka_conf_new()
        self._library.rd_kafka_conf_set(config, b"log_level", b"0", None, 0)
        self._client = self._library.rd_kafka_new(_PRODUCER, config, error, len(error))
        if not self._client:
            raise KafkaPipesError(f"the embedded broker did not start: {error.value.decode()}")
        with _signals_blocked():
            self._cluster = self._library.rd_kafka_mock_cluster_new(self._client, brokers)
        # By itself it names a controller that does not exist, and clients ask that one for the identity of a topic.
        with suppress(AttributeError):  # before librdkafka 2.16; the identity is not told then
            self._library.rd_kafka_mock_set_controller_id(c_void_p(self._cluster), 1)
        servers: bytes = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster)
        self.bootstrap_servers = servers.decode()

    def create_topic(self, topic: str, partitions: int = 1) -> None:
        """Create a topic; without this a topic gets 4 partitions on its first use.

        Raises:
            RangeError: the topic's name is none
            ConfigError: the number of partitions is not from 1 to 10,000
            KafkaPipesError: the topic exists, or the cluster is closed or of another process
        """
        check_count("partitions", partitions, MAX_PARTITIONS)
        code = self._create(topic, partitions)
        if code:
            name = _error_name(self._library, code)
            raise KafkaPipesError(f"topic {topic!r} with {partitions} partition(s) was not created: {name}")

    def fill(self, topic: str, records: Iterable[tuple[bytes | None, bytes | None]], partition: int = 0) -> None:
        """Append (value, key) records to a topic, which is created if it is new, up to this partition.

        Raises:
            RangeError: the topic's name is none
            ConfigError: the partition is not from 0 to 9,999, or a record is no such pair; those before it are there
            KafkaPipesError: the broker did not take a record, or the cluster is closed or of another process
        """
        check_count("partition", partition, MAX_PARTITIONS - 1, least=0)
        if not isinstance(records, Iterable):
            raise ConfigError(f"records is {shown(records)}, wanted (value, key) pairs")
        self._create(topic, partition + 1)  # no harm if it exists
        # The flush sends all at once: what comes in one batch does not hang on how long it took to hand it over.
        options = {"bootstrap.servers": self.bootstrap_servers, "log_level": 0, "linger.ms": 10_000}
        producer = confluent_kafka.Producer(options)
        failed: list[object] = []
        for place, record in enumerate(records):
            value, key = _pair(record, place)
            try:
                producer.produce(
                    topic, value, key, partition, on_delivery=lambda error, _: failed.append(error) if error else None
                )
            except confluent_kafka.KafkaException as exc:
                failed.append(exc.args[0])
                break
            producer.poll(0)
        if producer.flush(30) or failed:
            raise KafkaPipesError(f"the embedded broker did not take all records of {topic!r}: {failed[:1]}")

    def close(self) -> None:
        """Stop the brokers; in a process that inherited them by a fork they are not its own to stop."""
        if self._cluster and os.getpid() == self._pid:
            self._library.rd_kafka_mock_cluster_destroy(self._cluster)
            self._library.rd_kafka_destroy(self._client)
            self._cluster = None

    def __enter__(self) -> "EmbeddedKafka":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"EmbeddedKafka({self.bootstrap_servers!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an EmbeddedKafka cannot be pickled: give the other process its bootstrap_servers")

    def _create(self, topic: str, partitions: int) -> int:
        """librdkafka's error code for making a topic."""
        name = OffsetRange(topic, 0, 0, 0).topic.encode()  # which checks it
        if not self._cluster:
            raise KafkaPipesError("this EmbeddedKafka is closed")
        if os.getpid() != self._pid:
            raise KafkaPipesError(
                "this EmbeddedKafka runs in another process: fill it there, and read it by its address"
            )
        return int(self._library.rd_kafka_mock_topic_create(self._cluster, name, partitions, 1))


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """No signal reaches a thread that is started inside.

    One that interrupts the brokers' thread ends them, and DataLoader has a handler for the end of a worker.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _pair(record: object, place: int) -> tuple[bytes | None, bytes | None]:
    if isinstance(record, tuple) and len(record) == 2 and all(isinstance(item, bytes | None) for item in record):
        return record
    raise ConfigError(f"record {place} is {shown(record)}, wanted a pair (value, key), each bytes or None")


@cache
def _library() -> ctypes.CDLL:
    """The librdkafka that confluent_kafka itself has loaded."""
    if (path := library_path()) is None:
        package = Path(confluent_kafka.__file__).parent
        raise KafkaPipesError(
            f"no librdkafka beside {package}: EmbeddedKafka needs confluent-kafka from its binary wheel"
        )
    library = ctypes.CDLL(str(path))
    library.rd_kafka_conf_new.restype = c_void_p
    library.rd_kafka_conf_set.argtypes = [c_void_p, c_char_p, c_char_p, c_char_p, c_size_t]
    library.rd_kafka_new.restype = c_void_p
    library.rd_kafka_new.argtypes = [c_int, c_void_p, c_char_p, c_size_t]
    library.rd_kafka_mock_cluster_new.restype = c_void_p
    library.rd_kafka_mock_cluster_new.argtypes = [c_void_p, c_int]
    library.rd_kafka_mock_cluster_bootstraps.restype = c_char_p
    library.rd_kafka_mock_cluster_bootstraps.argtypes = [c_void_p]
    library.rd_kafka_mock_topic_create.argtypes = [c_void_p, c_char_p, c_int, c_int]
    library.rd_kafka_mock_cluster_destroy.argtypes = [c_void_p]
    library.rd_kafka_destroy.argtypes = [c_void_p]
    library.rd_kafka_err2name.restype = c_char_p
    return library


def _error_name(library: ctypes.CDLL, code: int) -> str:
    name: bytes = library.rd_kafka_err2name(code)
    return name.decode()
