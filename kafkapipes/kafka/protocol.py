"""Three questions of Kafka's protocol, as bytes: who leads a partition, its records, and a topic's identity. Pure.

Layouts and numbers are those of the protocol guide, https://kafka.apache.org/protocol.html. Fetch 4 is the
oldest version that Kafka 4 answers, Metadata 4 the first that can ask without making the topic, and Metadata 10
the first that tells its identity (Kafka 2.8).
"""

import struct
from base64 import b64encode
from dataclasses import dataclass

_FETCH, _METADATA = 1, 3
_FETCH_VERSION, _METADATA_VERSION, _IDENTITY_VERSION = 4, 4, 10
SIZE = struct.Struct(">i")  # before every question and answer: how many bytes follow
_HEADER = struct.Struct(">hhi")  # of a question: its kind, its version, and the number that the answer will bear
_BATCH = struct.Struct(">8xi11xi")  # of the head of a batch: the bytes behind that number, and its last offset's delta
_BEFORE_LENGTH = 12  # bytes that it does not count
_ANY_REPLICA = -1
_UUID_BYTES = 16
_NO_TAGS = b"\0"  # from some version on every structure ends in tagged fields; here there are none


class ProtocolError(Exception):
    """An answer that is not what was asked for."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question about one partition.

    Attributes:
        number: the answer bears it too
        client_id: the name under which the broker knows this client
    """

    number: int
    client_id: str
    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """The answer to a Fetch.

    Attributes:
        error: Kafka's code, 0 where there is none
        throttled_ms: for how long the broker asks to be left alone
        end: offset up to which this reader may read at present: the last stable offset, or the high watermark
        has_aborted: whether records of aborted transactions are among the batches
        begin: where the record batches begin in the answer; they end with it
    """

    error: int
    throttled_ms: int
    end: int
    has_aborted: bool
    begin: int


def metadata_question(question: Question) -> bytes:
    """Who are the brokers, and which of them leads the partition?"""
    body = SIZE.pack(1) + _string(question.topic) + b"\0"  # which must not be created
    return _framed(_METADATA, _METADATA_VERSION, question, body)


def leader_of(answer: memoryview, question: Question) -> tuple[str, int]:
    """Host and port of the partition's leader.

    Raises:
        ProtocolError: the answer names none
    """
    reader = _Reader(answer, question)
    reader.integer(4)  # throttled: of no concern to one question
    brokers = {}
    for _ in range(reader.integer(4)):
        broker, host, port = reader.integer(4), reader.string(), reader.integer(4)
        reader.string()  # its rack
        brokers[broker] = host, port
    reader.string()  # the cluster
    reader.integer(4)  # its controller
    for _ in range(reader.integer(4)):
        reader.integer(2)  # an error, beside which there are no partitions
        named = reader.string() == question.topic
        reader.integer(1)
        for _ in range(reader.integer(4)):
            error, partition, leader = reader.integer(2), reader.integer(4), reader.integer(4)
            for _ in ("replicas", "of them in synchrony"):
                reader.skip(4 * reader.integer(4))
            if named and partition == question.partition and error == 0 and leader in brokers:
                host, port = brokers[leader]
                return host or "", port
    raise ProtocolError("no leader")


def identity_question(question: Question) -> bytes:
    """What is the topic's identity?"""
    topic = question.topic.encode()
    body = b"\x02" + bytes(_UUID_BYTES) + _varint(len(topic) + 1) + topic + _NO_TAGS  # one topic, by its name
    body += b"\0\0\0" + _NO_TAGS  # which must not be created, and nobody's rights are asked for
    return _framed(_METADATA, _IDENTITY_VERSION, question, _NO_TAGS + body)


def identity_of(answer: memoryview, question: Question) -> str:
    """The topic's identity, in base64 as librdkafka writes it.

    Raises:
        ProtocolError: the answer does not tell it
    """
    reader = _Reader(answer, question)
    reader.pass_tags()
    reader.integer(4)  # throttled: of no concern to one question
    for _ in range(reader.varint() - 1):
        reader.integer(4)  # a broker
        reader.compact()  # its host
        reader.integer(4)
        reader.compact()  # its rack
        reader.pass_tags()
    reader.compact()  # the cluster
    reader.integer(4)  # its controller
    topics, error = reader.varint() - 1, reader.integer(2)
    if (topics, error, reader.compact()) != (1, 0, question.topic):
        raise ProtocolError(f"no identity of this topic: {topics} topics, error {error}")
    return b64encode(reader.raw(_UUID_BYTES)).decode().rstrip("=")


def fetch_question(question: Question, offset: int, wait_ms: int, most_bytes: int, *, reads_committed: bool) -> bytes:
    """The records from `offset`, as soon as there is one, or none after `wait_ms`; at least one whole batch."""
    body = struct.pack(">iiiib", _ANY_REPLICA, wait_ms, 1, most_bytes, reads_committed)
    body += SIZE.pack(1) + _string(question.topic) + SIZE.pack(1)
    body += struct.pack(">iqi", question.partition, offset, most_bytes)
    return _framed(_FETCH, _FETCH_VERSION, question, body)


def fetched(answer: memoryview, question: Question, *, reads_committed: bool) -> Fetched:
    """What stands before the record batches.

    Raises:
        ProtocolError: the answer is about something else
    """
    reader = _Reader(answer, question)
    throttled_ms = reader.integer(4)
    about = reader.integer(4), reader.string(), reader.integer(4), reader.integer(4)
    if about != (1, question.topic, 1, question.partition):
        raise ProtocolError(f"another partition: {about}")
    error, watermark, stable = reader.integer(2), reader.integer(8), reader.integer(8)
    aborted = reader.integer(4)
    reader.skip(16 * max(0, aborted))
    size = reader.integer(4)
    if reader.at + max(0, size) != len(answer):
        raise ProtocolError(f"{size} bytes of records, found {len(answer) - reader.at}")
    return Fetched(error, throttled_ms, stable if reads_committed else watermark, aborted > 0, reader.at)


def first_batch(batches: memoryview) -> tuple[int, int]:
    """How many bytes the first of some record batches has, and how many offsets; (0, 0) where nothing tells."""
    if len(batches) < _BATCH.size:
        return 0, 0
    length, last = _BATCH.unpack_from(batches)
    return (length + _BEFORE_LENGTH, last + 1) if min(length, last) >= 0 else (0, 0)


def _framed(kind: int, version: int, question: Question, body: bytes) -> bytes:
    header = _HEADER.pack(kind, version, question.number) + _string(question.client_id)
    return SIZE.pack(len(header) + len(body)) + header + body


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack(">h", len(encoded)) + encoded


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; each but the last is marked by its highest bit."""
    low, high = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(high) if high else bytes([low])


class _Reader:
    """Takes one field after the other from an answer, which must bear the question's number."""

    def __init__(self, answer: memoryview, question: Question) -> None:
        self._answer = answer
        self.at = 0
        if self.integer(4) != question.number:
            raise ProtocolError("the answer to another question")

    def integer(self, size: int) -> int:
        return int.from_bytes(self._take(size), "big", signed=True)

    def string(self) -> str | None:
        length = self.integer(2)
        return None if length < 0 else str(self._take(length), "utf-8", "replace")

    def varint(self) -> int:
        """Seven bits a byte, the lowest first."""
        number = 0
        for shift in range(0, 35, 7):
            byte = self._take(1)[0]
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
        raise ProtocolError("a number of more than five bytes")

    def compact(self) -> str | None:
        """A text as the newer versions have it: before it stands its length, plus one."""
        length = self.varint() - 1
        return None if length < 0 else str(self._take(length), "utf-8", "replace")

    def pass_tags(self) -> None:
        """Pass over the tagged fields at the end of a structure."""
        for _ in range(self.varint()):
            self.varint()
            self._take(self.varint())

    def raw(self, size: int) -> bytes:
        return bytes(self._take(size))

    def skip(self, size: int) -> None:
        self._take(size)

    def _take(self, size: int) -> memoryview:
        begin, self.at = self.at, self.at + size
        if size < 0 or self.at > len(self._answer):
            raise ProtocolError(f"it ends at byte {len(self._answer)}, amid a field")
        return self._answer[begin : self.at]
