"""The native client: librdkafka's own consumer, driven from C, fills columns without an object per record.

It takes the library that confluent_kafka itself has loaded. Where it cannot be used, the Python client reads.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import confluent_kafka
import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException

from kafkapipes.errors import ConfigError
from kafkapipes.kafka.client import Client, Fetched, PythonClient, Word
from kafkapipes.kafka.failures import Complaints
from kafkapipes.options import check_choice
from kafkapipes.records import BytesColumn, RecordBatch
from kafkapipes.report import RangeReport

try:
    import kafkapipes.kafka._native as _native

    _built = True
except ImportError:  # installed without a compiler
    _built = False

VARIABLE = "KAFKAPIPES_CLIENT"  # of the environment: which client reads
CHOICES = ("auto", "native", "python")
OLDEST, NEWEST = 0x020E0000, 0x02FFFFFF  # of librdkafka: what setup.cfg allows, and the interface that _native.c knows
SEEK_MS = 5000  # in which the client answers itself, without asking a broker
_HEARD = ("error_cb", "stats_cb", "logger")  # of the properties: `Complaints` hears these, whichever client speaks
_LOG_LEVELS = (50, 50, 50, 40, 30, 20, 20, 10)  # of logging, by syslog's
_NO_PARTITION, _NO_OFFSET = -1, -1001


def open_client(properties: Mapping[str, object], complaints: Complaints, *, timestamps: bool, headers: bool) -> Client:
    """The client that reads with these properties: the native one where it can be had, else the Python one.

    Raises:
        ConfigError: the environment asks for the native client, which cannot be had
        KafkaException, ValueError, TypeError: librdkafka refuses the properties
    """
    choice = os.environ.get(VARIABLE) or "auto"
    check_choice(f"the environment variable {VARIABLE}", choice, CHOICES)
    reason = "" if choice == "python" else _obstacle(properties)
    if choice == "native" and reason:
        raise ConfigError(f"the environment variable {VARIABLE} is 'native', but {reason}; unset it")
    if choice == "python" or reason:
        return PythonClient(Consumer(dict(properties)), timestamps=timestamps, headers=headers)
    return NativeClient(properties, complaints, timestamps=timestamps, headers=headers)


@cache
def library_path() -> Path | None:
    """The librdkafka that confluent_kafka itself has loaded, found beside it in its wheel; None where it has none."""
    package = Path(confluent_kafka.__file__).parent
    places = [package.parent / "confluent_kafka.libs", package / ".dylibs", package]
    found = [path for place in places for path in sorted(place.glob("*rdkafka*")) if path.suffix != ".py"]
    return found[0] if found else None


def _obstacle(properties: Mapping[str, object]) -> str:
    """Why the native client cannot be used with these properties; '' where it can."""
    if callbacks := sorted(name for name, value in properties.items() if callable(value) and name not in _HEARD):
        return f"config holds {', '.join(callbacks)}, for which it never calls Python"
    mechanisms = (str(properties.get(name, "")).upper() for name in ("sasl.mechanism", "sasl.mechanisms"))
    if "OAUTHBEARER" in mechanisms:
        return "OAUTHBEARER is a mechanism in which it has not been tried"
    return _missing()


@cache
def _missing() -> str:
    """What of the native client this installation lacks; '' where nothing."""
    if not _built:
        return "kafkapipes was installed without its extension kafkapipes.kafka._native: a C compiler builds it"
    if (path := library_path()) is None:
        return "there is no librdkafka beside confluent_kafka: its binary wheel brings one"
    try:
        version = _native.version(path)
    except OSError as exc:
        return f"the librdkafka beside confluent_kafka cannot be used: {exc}"
    if not OLDEST <= version <= NEWEST:
        return f"librdkafka is version {version:#010x}, wanted {OLDEST:#010x} to {NEWEST:#010x}"
    return ""


@contextmanager
def _as_kafka_errors() -> Iterator[None]:
    """An error of _native.c inside comes out as the other client would raise it."""
    try:
        yield
    except _native.Error as exc:
        raise KafkaException(KafkaError(*exc.args)) from None


class NativeClient:
    """A client by _native.c."""

    name = "native"

    @_as_kafka_errors()
    def __init__(
        self, properties: Mapping[str, object], complaints: Complaints, *, timestamps: bool, headers: bool
    ) -> None:
        texts = [(name, _text(value)) for name, value in properties.items() if name not in _HEARD]
        self._consumer = _native.Consumer(library_path() or "", texts)
        self._complaints = complaints
        self._timestamps = timestamps
        self._headers = headers

    @_as_kafka_errors()
    def assign(self, topic: str, partition: int, offset: int) -> None:
        """Read this partition from `offset`, and no other."""
        self._consumer.assign(topic, partition, offset)

    @_as_kafka_errors()
    def seek(self, topic: str, partition: int, offset: int, epoch: int) -> None:
        """Go on at `offset`, once the broker has confirmed that it is one of leader epoch `epoch`."""
        self._consumer.seek(topic, partition, offset, epoch, SEEK_MS)

    @contextmanager
    def fetch(self, records: int, timeout_s: float) -> Iterator[Fetched]:
        """At most `records` records and words; those that have come when `timeout_s` has passed. Good in the block."""
        columns = [np.empty(records, np.int64) for _ in range(3)]  # offsets, lengths of keys, lengths of values
        with _as_kafka_errors():
            rows, words = self._consumer.fetch(round(timeout_s * 1000), *columns)
        try:
            self._listen()
            if rows < records:
                columns = [column[:rows].copy() for column in columns]  # or few records would hold the room of many
            yield _Rows(self._consumer, list(map(_word, words)), columns, self._timestamps, self._headers)
        finally:
            self._consumer.drop()

    @_as_kafka_errors()
    def unassign(self) -> None:
        """Read nothing."""
        self._consumer.unassign()

    def close(self) -> None:
        """End the client and its threads."""
        self._consumer.close()

    def _listen(self) -> None:
        """Pass on what the client has said beside the records."""
        for kind, *said in self._consumer.events():
            if kind == "error":
                self._complaints.note(KafkaError(*said))
            elif kind == "statistics":
                self._complaints.note_statistics(*said)
            elif kind == "log":
                level, *parts = said
                self._complaints.log(_LOG_LEVELS[level], "%s [%s] %s", *parts)


class _Rows:
    """The records of one fetch of _native.c, which holds them until they are copied."""

    def __init__(
        self,
        consumer: "_native.Consumer",
        words: list[Word],
        columns: Sequence[np.ndarray],
        timestamps: bool,
        headers: bool,
    ) -> None:
        self.words = words
        self.offsets, self._key_lengths, self._value_lengths = columns
        self._consumer = consumer
        self._timestamps = timestamps
        self._headers = headers

    def epoch(self, row: int) -> int:
        """The leader epoch of a record; -1 where unknown."""
        return self._consumer.epoch(row)

    def origins(self, rows: int) -> set[tuple[str, int]]:
        """The (topic, partition) pairs that the first `rows` records come from."""
        return self._consumer.origins(rows)

    def batch(self, rows: int, account: RangeReport) -> RecordBatch:
        """The first `rows` records, copied; the client has none of them any longer."""
        keys, values = (_empty(lengths[:rows]) for lengths in (self._key_lengths, self._value_lengths))
        timestamps = np.empty(rows, np.int64) if self._timestamps else None
        headers = self._consumer.headers(rows) if self._headers else None
        self._consumer.copy(rows, keys.buffer, values.buffer, timestamps)
        return RecordBatch(self.offsets[:rows], keys, values, account, timestamps, headers)


def _empty(lengths: np.ndarray) -> BytesColumn:
    """A column for byte strings of these lengths, its bytes not written yet."""
    return BytesColumn(np.empty(np.maximum(lengths, 0).sum(), np.uint8), lengths)


def _word(said: tuple[int, int, str, str | None, int, int]) -> Word:
    row, code, text, topic, partition, offset = said
    return Word(
        row, KafkaError(code, text), topic,
        None if partition == _NO_PARTITION else partition,
        None if offset == _NO_OFFSET else offset,
    )  # fmt: skip


def _text(value: object) -> str:
    """A property's value as librdkafka reads it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
