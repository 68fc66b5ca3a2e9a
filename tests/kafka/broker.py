"""Answers of a broker, encoded by the protocol guide, and a broker that gives those that it is told to."""

import itertools
import socket
import struct
import threading
from contextlib import suppress

from kafkapipes.kafka import _batches

APPEND_TIME, TRANSACTIONAL, CONTROL = 0x08, 0x10, 0x20  # attributes of a batch
METADATA, FETCH = 3, 1
MISSING = b"\xff\xff\xff\xff"  # the length of an array that is none


def varint(number):
    """Zigzag, in groups of seven bits from the lowest."""
    bits, found = (number << 1) ^ (number >> 63), bytearray()
    while bits > 0x7F:
        found.append(bits & 0x7F | 0x80)
        bits >>= 7
    return bytes([*found, bits])


def string(data):
    return varint(-1) if data is None else varint(len(data)) + data


def record(delta, value, key=None, later=0, headers=()):
    body = b"\0" + varint(later) + varint(delta) + string(key) + string(value) + varint(len(headers))
    body += b"".join(string(name.encode()) + string(found) for name, found in headers)
    return varint(len(body)) + body


def sealed(base, body, epoch=0, magic=2):
    """A batch, with a checksum that fits: `body` is all from the attributes on."""
    checksum = struct.pack(">I", _batches.checksum(body))
    rest = struct.pack(">ib", epoch, magic) + checksum + body
    return struct.pack(">qi", base, len(rest)) + rest


def batch(base, records, *, last=None, epoch=0, attributes=0, first_timestamp=0, max_timestamp=0):
    """A batch of encoded records, whose last offset is `base + last`: by default that of its last record."""
    last = len(records) - 1 if last is None else last
    producer = struct.pack(">qhi", -1, -1, -1)
    head = struct.pack(">hiqq", attributes, last, first_timestamp, max_timestamp)
    return sealed(base, head + producer + struct.pack(">i", len(records)) + b"".join(records), epoch)


def plain(base, values, **options):
    """A batch of values at consecutive offsets."""
    return batch(base, [record(delta, value) for delta, value in enumerate(values)], **options)


def text(name):
    encoded = name.encode()
    return struct.pack(">h", len(encoded)) + encoded


def metadata_answer(number, address, topic="t", partition=0, error=0):
    """One broker, which leads one partition."""
    host, port = address
    broker = struct.pack(">ii", 1, 7) + text(host) + struct.pack(">i", port) + b"\xff\xff"
    leads = struct.pack(">hii", error, partition, 7) + struct.pack(">ii", 1, 7) + struct.pack(">ii", 1, 7)
    topics = struct.pack(">ih", 1, 0) + text(topic) + b"\0" + struct.pack(">i", 1) + leads
    return struct.pack(">ii", number, 0) + broker + text("cluster") + struct.pack(">i", 7) + topics


def unsigned(number):
    """In groups of seven bits from the lowest."""
    groups = [number >> shift & 0x7F | 0x80 for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*groups[:-1], groups[-1] & 0x7F])


def compact(name):
    """A text as the newer versions of questions have it."""
    return b"\0" if name is None else unsigned(len(name.encode()) + 1) + name.encode()


def identity_answer(number, identity, topic="t", error=0, tags=b"\0", brokers=1):
    """Brokers without a rack, and one topic, of which no more follows than its identity."""
    broker = struct.pack(">i", 7) + compact("there") + struct.pack(">i", 9092) + compact(None) + tags
    cluster = compact("cluster") + struct.pack(">i", 7)
    head = struct.pack(">i", number) + tags + struct.pack(">i", 0) + unsigned(brokers + 1)
    return head + brokers * broker + cluster + b"\x02" + struct.pack(">h", error) + compact(topic) + identity


def fetch_answer(
    number, batches, topic="t", partition=0, error=0, throttled_ms=0, high=100, stable=100, aborted=MISSING
):
    """Record batches of one partition."""
    head = struct.pack(">iii", number, throttled_ms, 1) + text(topic) + struct.pack(">i", 1)
    partition_head = struct.pack(">ihqq", partition, error, high, stable) + aborted
    return head + partition_head + struct.pack(">i", len(batches)) + batches


class ScriptedBroker:
    """Answers each Fetch by the next entry of a script: batches, or a dictionary of `fetch_answer`'s arguments.

    An entry may also be a function (connection, number) that does as it likes. Behind the script there is silence.
    Metadata names this broker, unless `metadata` is such a function.

    Attributes:
        asked: the offsets that were asked for
        most_bytes: how much was asked for each time
    """

    def __init__(self, *script, metadata=None):
        self._script = iter(script)
        self._metadata = metadata
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = self._listening.getsockname()
        self.servers = "{}:{}".format(*self.address)
        self.asked, self.most_bytes = [], []
        self._connections = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for one in [self._listening, *self._connections]:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self._connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with suppress(OSError, struct.error):
            while True:
                (size,) = struct.unpack(">i", connection.recv(4, socket.MSG_WAITALL))
                question = connection.recv(size, socket.MSG_WAITALL)
                kind, _, number = struct.unpack_from(">hhi", question)
                if kind == FETCH:
                    offset, most = struct.unpack(">qi", question[-12:])
                    self.asked.append(offset)
                    self.most_bytes.append(most)
                    self._answer_fetch(connection, number)
                elif self._metadata is None:
                    send(connection, metadata_answer(number, self.address))
                else:
                    self._metadata(connection, number)

    def _answer_fetch(self, connection, number):
        for entry in itertools.islice(self._script, 1):
            if callable(entry):
                entry(connection, number)
            else:
                options = entry if isinstance(entry, dict) else {"batches": entry}
                send(connection, fetch_answer(number, **{"batches": b"", **options}))


def send(connection, answer):
    connection.sendall(struct.pack(">i", len(answer)) + answer)
