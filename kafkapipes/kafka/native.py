"""The native client: librdkafka's own consumer, driven from C, fills columns without an object per record.

It takes the library that confluent_kafka itself has loaded. Where it cannot be used, the Python client reads.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import confluent_kafka
import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException

from kafkapipes.errors import ConfigError
from kafkapipes.kafka.client import NO_END, Client, Fetched, PythonClient, Word
from kafkapipes.kafka.failures import Complaints
from kafkapipes.kafka.release import check_lookups
from kafkapipes.options import check_choice
from kafkapipes.records import BytesColumn, Destination, RecordBatch
from kafkapipes.report import RangeReport

try:
    import kafkapipes.kafka._native as _native

    _built = True
except ImportError:  # installed without a compiler
    _built = False

VARIABLE = "KAFKAPIPES_CLIENT"  # of the environment: which client reads
CHOICES = ("auto", "direct", "native", "python")
OLDEST, NEWEST = 0x020E0000, 0x02FFFFFF  # of librdkafka: what setup.cfg allows, and the interface that _native.c knows
SEEK_MS = 5000  # in which the client answers itself, without asking a broker
_HEARD = ("error_cb", "stats_cb", "logger")  # of the properties: `Complaints` hears these, whichever client speaks
_LOG_LEVELS = (50, 50, 50, 40, 30, 20, 20, 10)  # of logging, by syslog's
UNKNOWN = -2  # a length, as _native.c says it
_NO_PARTITION, _NO_OFFSET = -1, -1001  # as librdkafka says it


def open_client(properties: Mapping[str, object], complaints: Complaints, *, timestamps: bool, headers: bool) -> Client:
    """The client that reads with these properties: the native one where it can be had, else the Python one.

    Raises:
        ConfigError: the environment asks for the native client, which cannot be had
        KafkaException, ValueError, TypeError: librdkafka refuses the properties
        StalledError: no client of librdkafka can work in this process
    """
    check_lookups()
    choice = chosen()
    reason = "" if choice == "python" else _obstacle(properties)
    if choice == "native" and reason:
        raise ConfigError(f"the environment variable {VARIABLE} is 'native', but {reason}; unset it")
    if choice == "python" or reason:
        return PythonClient(Consumer(dict(properties)), timestamps=timestamps, headers=headers)
    return NativeClient(properties, complaints, timestamps=timestamps, headers=headers)


def chosen() -> str:
    """The client that the environment asks for, by default "auto"."""
    choice = os.environ.get(VARIABLE) or "auto"
    check_choice(f"the environment variable {VARIABLE}", choice, CHOICES)
    return choice


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
    """A client by _native.c. Where records have one size, their bytes are laid into place as they come."""

    name = "native"
    next_offset = -1

    @_as_kafka_errors()
    def __init__(
        self, properties: Mapping[str, object], complaints: Complaints, *, timestamps: bool, headers: bool
    ) -> None:
        texts = [(name, _text(value)) for name, value in properties.items() if name not in _HEARD]
        self._consumer = _native.Consumer(library_path() or "", texts)
        self._complaints = complaints
        self._timestamps = timestamps
        self._headers = headers
        self._assigned = ("", -1)
        self._key_length = self._value_length = UNKNOWN  # that the next records are expected to have

    @_as_kafka_errors()
    def assign(self, topic: str, partition: int, offset: int, end: int = NO_END) -> None:
        """Read this partition from `offset`, and no other."""
        self._consumer.assign(topic, partition, offset)
        self._assigned = (topic, partition)

    @_as_kafka_errors()
    def seek(self, topic: str, partition: int, offset: int, epoch: int) -> None:
        """Go on at `offset`, once the broker has confirmed that it is one of leader epoch `epoch`."""
        self._consumer.seek(topic, partition, offset, epoch, SEEK_MS)

    @contextmanager
    def fetch(self, records: int, timeout_s: float, destination: Destination | None = None) -> Iterator[Fetched]:
        """At most `records` records and words; those that have come when `timeout_s` has passed. Good in the block."""
        offsets, epochs = np.empty(records, np.int64), np.empty(records, np.int32)
        keys = _Lane(records, self._key_length, None if destination is None else destination.room_for_keys)
        values = _Lane(records, self._value_length, None if destination is None else destination.room_for_values)
        timestamps = np.empty(records, np.int64) if self._timestamps else None
        with _as_kafka_errors():
            rows, laid, stray, words = self._consumer.fetch(
                round(timeout_s * 1000), offsets, keys.lengths, values.lengths, epochs,
                keys.buffer, keys.length, values.buffer, values.length, timestamps,
            )  # fmt: skip
        try:
            self._listen()
            if rows and not self._headers:  # which are taken from records that are held, not laid
                self._key_length, self._value_length = keys.found(rows, laid), values.found(rows, laid)
            yield _Rows(
                self._consumer, [_word(*said) for said in words], _trimmed(offsets, rows), epochs, self._assigned,
                stray, keys, values, laid, timestamps, self._headers,
            )  # fmt: skip
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


class _Lane:
    """Where the keys, or the values, of one fetch are laid end to end, as long as each has the length expected.

    Attributes:
        length: the length expected, -1 for a null, `UNKNOWN` for none
        buffer: uint8, room for all records of that length: in the memory that `room` grants, or its own
        lengths: int64 [records], of those that came
    """

    def __init__(self, records: int, length: int, room: Callable[[int, int], np.ndarray | None] | None) -> None:
        granted = room(records, length) if room is not None and length > 0 else None
        self.length = length
        self.buffer = np.empty(records * max(length, 0), np.uint8) if granted is None else granted
        self.lengths = np.empty(records, np.int64)

    def found(self, rows: int, laid: int) -> int:
        """The length that all records had, which the next ones are expected to have, or `UNKNOWN`."""
        if laid == rows:
            return self.length
        first = int(self.lengths[0])
        return first if (self.lengths[:rows] == first).all() else UNKNOWN

    def column(self, rows: int, laid: int) -> tuple[BytesColumn, np.ndarray]:
        """A column of the first `rows`, and the part of its buffer behind those that were laid, still to be written."""
        lengths, done = _trimmed(self.lengths, rows), min(rows, laid) * max(self.length, 0)
        if laid >= rows:
            return BytesColumn(_trimmed(self.buffer, done), lengths), self.buffer[:0]
        buffer = np.empty(np.maximum(lengths, 0).sum(), np.uint8)
        buffer[:done] = self.buffer[:done]
        return BytesColumn(buffer, lengths), buffer[done:]


class _Rows:
    """The records of one fetch of _native.c, which holds those that were not laid until they are copied."""

    def __init__(
        self,
        consumer: "_native.Consumer",
        words: list[Word],
        offsets: np.ndarray,
        epochs: np.ndarray,
        assigned: tuple[str, int],
        stray: tuple[int, str, int] | None,
        keys: _Lane,
        values: _Lane,
        laid: int,
        timestamps: np.ndarray | None,
        headers: bool,
    ) -> None:
        self.words = words
        self.offsets = offsets
        self._consumer = consumer
        self._epochs = epochs
        self._assigned = assigned
        self._stray = stray
        self._keys = keys
        self._values = values
        self._laid = laid
        self._timestamps = timestamps
        self._headers = headers

    def epoch(self, row: int) -> int:
        """The leader epoch of a record; -1 where unknown."""
        return int(self._epochs[row])

    def origins(self, rows: int) -> set[tuple[str, int]]:
        """The (topic, partition) pairs that records come from: what was assigned, and the first other."""
        if self._stray is None or self._stray[0] >= rows:
            return {self._assigned}
        return {self._assigned, self._stray[1:]}

    def batch(self, rows: int, account: RangeReport) -> RecordBatch:
        """The first `rows` records."""
        keys, key_tail = self._keys.column(rows, self._laid)
        values, value_tail = self._values.column(rows, self._laid)
        headers = self._consumer.headers(rows) if self._headers else None
        if rows > self._laid:
            self._consumer.copy(rows - self._laid, key_tail, value_tail)
        timestamps = None if self._timestamps is None else _trimmed(self._timestamps, rows)
        return RecordBatch(self.offsets[:rows], keys, values, account, timestamps, headers)


def _trimmed(array: np.ndarray, size: int) -> np.ndarray:
    """The first `size` items: a view, or a copy where few would hold the memory of many."""
    return array[:size] if 2 * size >= len(array) else array[:size].copy()


def _word(row: int, code: int, text: str, topic: str | None, partition: int, offset: int) -> Word:
    return Word(
        row, KafkaError(code, text), topic,
        None if partition == _NO_PARTITION else partition,
        None if offset == _NO_OFFSET else offset,
    )  # fmt: skip


def _text(value: object) -> str:
    """A property's value as librdkafka reads it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
