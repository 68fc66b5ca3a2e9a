"""The direct client: it asks the leader itself, and takes the columns out of its answers as they came.

librdkafka makes an object of each record, which costs up to half of a read of small ones. Where records come in clear
and uncompressed, and the user has set nothing that is not known here, it need not be. This client knows that one case.
At anything else (another codec, an aborted transaction, an error, silence) it hands over to a client of librdkafka, for
good and from the very offset that it has come to: what an error means, and what to do then, is decided there alone.
"""

import logging
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from confluent_kafka import KafkaError

from kafkapipes.errors import ConfigError, StalledError
from kafkapipes.kafka.addresses import host_and_port
from kafkapipes.kafka.client import NO_END, Client, Fetched, Word
from kafkapipes.kafka.config import ClientConfig
from kafkapipes.kafka.failures import Complaints
from kafkapipes.kafka.native import VARIABLE, chosen, open_client
from kafkapipes.kafka.protocol import (
    SIZE,
    ProtocolError,
    Question,
    fetch_question,
    fetched,
    first_batch,
    identity_of,
    identity_question,
    leader_of,
    metadata_question,
)
from kafkapipes.kafka.release import in_time
from kafkapipes.records import BytesColumn, Destination, RecordBatch
from kafkapipes.report import RangeReport

try:
    import kafkapipes.kafka._batches as _batches

    _built = True
except ImportError:  # installed without a compiler
    _built = False

KNOWN = {"client.id", "isolation.level", "error_cb", "logger"}  # properties that this client knows too
NUMBERS = {  # the same, with the least and the most that librdkafka takes (its CONFIGURATION.md)
    "fetch.max.bytes": (1, 2_147_483_135), "max.partition.fetch.bytes": (1, 1_000_000_000),
    "message.max.bytes": (1000, 1_000_000_000), "queued.max.messages.kbytes": (1, 2_097_151),
    "queued.min.messages": (1, 10_000_000), "socket.timeout.ms": (1100, 300_000),
}  # fmt: skip
_MESSAGE_BYTES = 1_000_000  # of message.max.bytes, by default
_IN_CLEAR = ("sasl.", "ssl.")  # properties that say nothing without security.protocol
ANSWER_BYTES = 2**22  # of records: what each answer costs beside its bytes, some 0.3 ms, is then little
LARGEST_ANSWER = 2**27  # one batch may be larger than what was asked for, but not this large
CONNECT_S = 1.0  # for a name, a connection, or the name of a leader: what takes longer is for librdkafka
OPEN_S = (
    10.0  # in which a client of librdkafka starts: it takes milliseconds, or for ever without memory for its threads
)
_log = logging.getLogger("kafkapipes")


def open_reader(
    config: ClientConfig, properties: Mapping[str, Any], complaints: Complaints, *, timestamps: bool, headers: bool
) -> Client:
    """The client that reads with these properties: the direct one where it can, else one of librdkafka's.

    Raises:
        ConfigError: the environment asks for a client that cannot be had
        KafkaException, ValueError, TypeError: librdkafka refuses the properties
    """

    def librdkafka() -> Client:
        return open_client(properties, complaints, timestamps=timestamps, headers=headers)

    choice = chosen()
    if choice not in ("auto", "direct"):
        return librdkafka()
    if reason := _obstacle(config, properties, headers):
        if choice == "direct":
            raise ConfigError(f"the environment variable {VARIABLE} is 'direct', but {reason}; unset it")
        return librdkafka()
    most = "max.partition.fetch.bytes"
    answer_bytes = min(
        int(properties["fetch.max.bytes"]), int(properties[most]) if most in config.names else ANSWER_BYTES
    )
    return DirectClient(
        properties, librdkafka, complaints.note, answer_bytes=answer_bytes, reads_committed=config.reads_committed,
        timestamps=timestamps,
    )  # fmt: skip


def _obstacle(config: ClientConfig, properties: Mapping[str, Any], headers: bool) -> str:
    """Why the direct client cannot be used; '' where it can."""
    if not _built:
        return "kafkapipes was installed without its extension kafkapipes.kafka._batches: a C compiler builds it"
    if headers:
        return "headers are wanted, which it passes over"
    known = {*KNOWN, *(name for name in NUMBERS if _is_fit(name, properties.get(name)))}
    if "security.protocol" not in config.names:
        known.update(name for name in config.names if name.startswith(_IN_CLEAR))
    if strange := sorted(config.names - known):
        return f"config sets {', '.join(strange)}, which it does not know, or not so"
    if int(properties["fetch.max.bytes"]) < int(properties.get("message.max.bytes", _MESSAGE_BYTES)):
        return "fetch.max.bytes is less than message.max.bytes"
    if str(properties["isolation.level"]).lower() not in ("read_committed", "read_uncommitted"):
        return "isolation.level is neither 'read_committed' nor 'read_uncommitted'"
    return ""


def _is_fit(name: str, value: object) -> bool:
    """Whether a property is a number that librdkafka takes, written so that it is the same one here."""
    least, most = NUMBERS[name]
    is_whole = (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, str) and value.isdecimal()
    )
    return is_whole and least <= int(value) <= most  # type: ignore[call-overload]  # an int or a text of digits


class DirectClient:
    """A client by _batches.c over a connection of its own, until it hands over to the one that `successor` makes.

    Args:
        note: is told what went wrong with a connection
        answer_bytes: the most that is asked for at once
    """

    def __init__(
        self,
        properties: Mapping[str, Any],
        successor: Callable[[], Client],
        note: Callable[[KafkaError], object],
        *,
        answer_bytes: int,
        reads_committed: bool,
        timestamps: bool,
    ) -> None:
        self._make_successor = successor
        self._successor: Client | None = None
        self._note = note
        self._committed = reads_committed
        self._timestamps = timestamps
        self._servers = [host_and_port(server) for server in str(properties["bootstrap.servers"]).split(",")]
        self._client_id = str(properties.get("client.id", "kafkapipes"))
        self._wait_ms = int(properties["fetch.wait.max.ms"])
        self._most_bytes = answer_bytes
        self._batch = ("", 0, 1)  # topic, bytes and offsets of a batch that came last
        self._patience_s = int(properties["socket.timeout.ms"]) / 1000
        self._numbers = count(1)
        self._lines: dict[tuple[str, int], _Line] = {}
        self._leaders: dict[tuple[str, int], _Line] = {}
        self._reads = False
        self._assigned = ("", -1)
        self._end = self._position = self._told_end = -1
        self._asked: tuple[Question, int, float] | None = None  # what is not answered yet, its offset, and since when
        self._answer = _Answer(memoryview(b""), (0, 0, 0, 0, -1), False)
        self._starts = np.empty((2, 0), np.int64)

    @property
    def name(self) -> str:
        """What the report calls it."""
        return "direct" if self._successor is None else f"direct, then {self._successor.name}"

    @property
    def next_offset(self) -> int:
        """The offset that it has come to; -1 once it has handed over."""
        return self._position if self._successor is None else self._successor.next_offset

    def assign(self, topic: str, partition: int, offset: int, end: int = NO_END) -> None:
        """Read this partition from `offset`, and no other."""
        if self._successor is not None:
            self._successor.assign(topic, partition, offset, end)
            return
        if (self._assigned, self._position) != ((topic, partition), offset):  # else what is at hand goes on there
            self._answer, self._asked = _Answer(memoryview(b""), (0, 0, 0, offset, -1), False), None
        self._assigned, self._position, self._end, self._told_end = (topic, partition), offset, end, -1
        self._reads = True

    def seek(self, topic: str, partition: int, offset: int, epoch: int) -> None:
        """Go on at `offset`, once the broker has confirmed that it is one of leader epoch `epoch`."""
        self._successor_for("an epoch is to be confirmed").seek(topic, partition, offset, epoch)

    @contextmanager
    def fetch(self, records: int, timeout_s: float, destination: Destination | None = None) -> Iterator[Fetched]:
        """At most `records` records and words; those that have come when `timeout_s` has passed. Good in the block."""
        if self._successor is None and (rows := self._take(records, time.monotonic() + timeout_s, destination)):
            yield rows
        else:
            assert self._successor is not None
            with self._successor.fetch(records, timeout_s, destination) as fetched:
                yield fetched

    def unassign(self) -> None:
        """Read nothing; what has come is kept, for an assignment that goes on there."""
        self._reads = False
        if self._successor is not None:
            self._successor.unassign()

    def topic_id(self, topic: str) -> str:
        """The identity of a topic by the word of the first server that tells it; "" where none does. For any thread."""
        question = Question(1, self._client_id, topic, -1)
        for server in self._servers:
            with suppress(OSError, ProtocolError), closing(_Line(server, 0)) as line:
                line.ask(identity_question(question))
                if (answer := line.answer(question.number, time.monotonic() + CONNECT_S)) is not None:
                    return identity_of(answer, question)
        return ""

    def close(self) -> None:
        """End the client."""
        self._hang_up()
        if self._successor is not None:
            self._successor.close()

    def _take(self, records: int, deadline: float, destination: Destination | None) -> "_Rows | None":
        """What has come until the deadline; None where this client has handed over."""
        if not self._reads:
            time.sleep(max(0.0, deadline - time.monotonic()))
            return _Rows.none([])
        try:
            while True:
                rows = self._records(records, destination) if self._answer.data else None
                if rows is not None:
                    return rows
                words = self._words()
                if words or not self._next_answer(deadline):
                    return _Rows.none(words)
                if not self._answer.data and time.monotonic() > deadline:
                    return _Rows.none(self._words())
        except ProtocolError as exc:
            self._successor_for(str(exc))
        except OSError as exc:
            code = KafkaError._TIMED_OUT if isinstance(exc, TimeoutError) else KafkaError._TRANSPORT
            self._note(KafkaError(code, f"the direct client: {exc}"))
            self._successor_for(f"{type(exc).__name__}: {exc}")
        return None

    def _records(self, records: int, destination: Destination | None) -> "_Rows | None":
        """The next records of the answer at hand, None where it holds no more."""
        if self._starts.shape[1] < records:
            self._starts = np.empty((2, records), np.int64)
        key_starts, value_starts = self._starts[:, :records]
        offsets, key_lengths, value_lengths = (np.empty(records, np.int64) for _ in range(3))
        epochs = np.empty(records, np.int32)
        timestamps = np.empty(records, np.int64) if self._timestamps else None
        data, cursor = self._answer.data, self._answer.cursor
        rows, cursor, stopped = _batches.parse(
            data, cursor, offsets, epochs, key_starts, key_lengths, value_starts, value_lengths, timestamps
        )
        progress = cursor != self._answer.cursor
        self._answer.cursor = cursor
        self._position = cursor[3]
        if stopped == _batches.NOT_PLAIN and not rows:
            raise ProtocolError("a batch that is compressed or of another format")
        self._answer.is_damaged = stopped == _batches.DAMAGED
        if stopped == _batches.ALL_BYTES:
            if not progress:
                raise ProtocolError("no batch that is whole")
            self._answer.data = data[:0]
        if not rows:
            return None
        keys = _Lane(data, key_starts[:rows], key_lengths[:rows], destination.room_for_keys if destination else None)
        values = _Lane(
            data, value_starts[:rows], value_lengths[:rows], destination.room_for_values if destination else None
        )
        return _Rows([], offsets[:rows], epochs, self._assigned, keys, values, timestamps)

    def _words(self) -> list[Word]:
        """That what was assigned has come to an end, or its log, once; or that it goes on with a damaged batch."""
        position = self._position
        if self._answer.is_damaged:
            text = f"the checksum (CRC-32C) of a batch from offset {position} on does not fit"
            return [Word(0, KafkaError(KafkaError._BAD_MSG, text), *self._assigned, position)]
        if self._told_end == position or (position < self._end and not self._answer.is_log_end):
            return []
        self._told_end = position
        return [Word(0, KafkaError(KafkaError._PARTITION_EOF), *self._assigned, position, self._answer.cursor[-1])]

    def _next_answer(self, deadline: float) -> bool:
        """Whether the next answer has come by the deadline; what comes behind it is asked for at once."""
        if self._asked is None:
            self._ask(self._position)
        assert self._asked is not None
        question, offset, since = self._asked
        line = self._leaders[self._assigned]
        answer = line.answer(question.number, deadline)
        if answer is None:
            if time.monotonic() - since > self._patience_s:
                raise TimeoutError(f"no answer from {line.name} within {self._patience_s:g} s")
            return False
        self._asked = None
        found = fetched(answer, question, reads_committed=self._committed)
        if found.error or found.throttled_ms or found.has_aborted:
            raise ProtocolError(str(found))
        data = answer[found.begin :]
        self._answer = _Answer(data, (0, 0, 0, offset, self._answer.cursor[-1]), not data and offset >= found.end)
        following = _batches.next_offset(data, offset)
        size, offsets = first_batch(data)
        self._batch = (question.topic, size, max(1, offsets))
        if offset < following < self._end:
            self._ask(following)
        return True

    def _ask(self, offset: int) -> None:
        """Ask for the records from `offset`: for no more than is wanted, by what a batch of the topic held last."""
        line = self._leaders.get(self._assigned) or self._find_leader()
        question = Question(next(self._numbers), self._client_id, *self._assigned)
        topic, size, offsets = self._batch
        # Offset and end may lie anywhere in their batches: that is about one more, which is sent whole or for nothing.
        bound = size + max(0, self._end - offset) * size // offsets
        most_bytes = min(bound, self._most_bytes) if size and topic == question.topic else self._most_bytes
        line.ask(fetch_question(question, offset, self._wait_ms, most_bytes, reads_committed=self._committed))
        self._asked = question, offset, time.monotonic()

    def _find_leader(self) -> "_Line":
        """A connection to the leader of what is assigned, by the word of the first server that answers."""
        for server in self._servers:
            try:
                line = self._line(server)
                question = Question(next(self._numbers), self._client_id, *self._assigned)
                line.ask(metadata_question(question))
                answer = line.answer(question.number, time.monotonic() + CONNECT_S)
            except OSError:
                if server in self._lines:
                    self._lines.pop(server).close()
                continue
            if answer is not None:
                self._leaders[self._assigned] = leader = self._line(leader_of(answer, question))
                return leader
        raise ProtocolError("no server names the leader")

    def _line(self, address: tuple[str, int]) -> "_Line":
        if address not in self._lines:
            self._lines[address] = _Line(address, self._most_bytes)
        return self._lines[address]

    def _successor_for(self, reason: str) -> Client:
        """The client that reads from here on."""
        if self._successor is None:
            topic, partition = self._assigned
            _log.debug("reading %s:%s@%s on by librdkafka: %s", topic, partition, self._position, reason)
            self._hang_up()
            made: list[Client] = []
            if not in_time(lambda: made.append(self._make_successor()), OPEN_S, "kafkapipes-open"):
                raise StalledError(
                    f"reading {topic}:{partition}@{self._position}: a client of librdkafka, to read on, did not "
                    f"start within {OPEN_S:g} s; is memory short, as under a limit on addresses (ulimit -v)?"
                )
            (self._successor,) = made
            self._successor.assign(topic, partition, self._position, self._end)
        return self._successor

    def _hang_up(self) -> None:
        for line in self._lines.values():
            line.close()
        self._lines, self._leaders, self._asked = {}, {}, None


class _Answer:
    """The record batches of one answer, and how far they were taken."""

    def __init__(self, data: memoryview, cursor: tuple[int, int, int, int, int], is_log_end: bool) -> None:
        self.data = data
        self.cursor = cursor
        self.is_log_end = is_log_end
        self.is_damaged = False


@dataclass(frozen=True, slots=True)
class _Lane:
    """The keys, or the values, of some records: where they lie in an answer, and where they may be written to."""

    data: memoryview
    starts: np.ndarray
    lengths: np.ndarray
    room: Callable[[int, int], np.ndarray | None] | None

    def column(self, rows: int) -> BytesColumn:
        """The first `rows` of them, copied."""
        starts, lengths = self.starts[:rows], self.lengths[:rows]
        length = int(lengths[0])
        if (lengths == length).all():
            size = max(length, 0)
            granted = self.room(rows, size) if self.room is not None and size else None
            buffer = np.empty(rows * size, np.uint8) if granted is None else granted[: rows * size]
        else:
            buffer = np.empty(int(np.maximum(lengths, 0).sum()), np.uint8)
        _batches.gather(self.data, starts, lengths, buffer)
        return BytesColumn(buffer, lengths)


@dataclass(slots=True)
class _Rows:
    """The records of one fetch, while the answer that they lie in is at hand."""

    words: list[Word]
    offsets: np.ndarray
    epochs: np.ndarray
    assigned: tuple[str, int]
    keys: _Lane
    values: _Lane
    timestamps: np.ndarray | None

    @classmethod
    def none(cls, words: list[Word]) -> "_Rows":
        nothing = np.empty(0, np.int64)
        lane = _Lane(memoryview(b""), nothing, nothing, None)
        return cls(words, nothing, nothing, ("", -1), lane, lane, None)

    def epoch(self, row: int) -> int:
        """The leader epoch of a record; -1 where unknown."""
        return int(self.epochs[row])

    def origins(self, rows: int) -> set[tuple[str, int]]:
        """The (topic, partition) pair that was asked for: the answer named it too."""
        return {self.assigned}

    def batch(self, rows: int, account: RangeReport) -> RecordBatch:
        """The first `rows` records."""
        keys, values = self.keys.column(rows), self.values.column(rows)
        timestamps = None if self.timestamps is None else self.timestamps[:rows]
        return RecordBatch(self.offsets[:rows], keys, values, account, timestamps)


class _Line:
    """A connection to a broker. Answers come in the order of the questions.

    Attributes:
        name: host and port
    """

    def __init__(self, address: tuple[str, int], answer_bytes: int) -> None:
        self.name = "{}:{}".format(*address)
        self._socket = _connected(*address)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._buffer = bytearray(answer_bytes + 2**12)
        self._size: int | None = None  # of the answer that is coming
        self._filled = 0

    def ask(self, question: bytes) -> None:
        """Send a question."""
        self._socket.settimeout(CONNECT_S)
        self._socket.sendall(question)

    def answer(self, number: int, deadline: float) -> memoryview | None:
        """The answer to a question, good until the next call; None when it has not come by the deadline.

        Answers to earlier questions, which nobody waits for any more, are passed over.
        """
        while True:
            if self._size is None:
                if not self._fill(SIZE.size, deadline):
                    return None
                (self._size,) = SIZE.unpack_from(self._buffer)
                if not SIZE.size <= self._size <= LARGEST_ANSWER:
                    raise ProtocolError(f"an answer of {self._size} bytes")
                if self._size > len(self._buffer):
                    self._buffer = bytearray(self._size)
                self._filled = 0
            if not self._fill(self._size, deadline):
                return None
            found = memoryview(self._buffer)[: self._size]
            self._size, self._filled = None, 0
            (answered,) = SIZE.unpack_from(found)
            if answered == number:
                return found

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _fill(self, size: int, deadline: float) -> bool:
        """Whether so many bytes have come by the deadline."""
        while self._filled < size:
            left_ms = int(1000 * (deadline - time.monotonic()))
            self._filled = _batches.receive(self._socket.fileno(), self._buffer, self._filled, size, max(left_ms, 1))
            if left_ms <= 0:
                break
        return self._filled >= size


def _connected(host: str, port: int) -> socket.socket:
    """A connection, within `CONNECT_S` for each address of the host."""
    refused: OSError = OSError(f"no address of {host} is known in time")
    for family, kind, protocol, _, address in _addresses(host, port):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(CONNECT_S)
            connection.connect(address)
            return connection
        except OSError as exc:
            connection.close()
            refused = exc
    raise refused


def _addresses(host: str, port: int) -> list[Any]:
    """The addresses of a host. A name server may hang: it is waited for in a thread, which holds up nothing."""
    look_up = (host, port, 0, socket.SOCK_STREAM, 0)
    with suppress(socket.gaierror, UnicodeError):
        return socket.getaddrinfo(*look_up, socket.AI_NUMERICHOST)
    found: list[Any] = []
    with suppress(OSError, UnicodeError):
        in_time(lambda: found.extend(socket.getaddrinfo(*look_up)), CONNECT_S, "kafkapipes-lookup")
    return list(found)
