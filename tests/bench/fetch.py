"""The bare Fetch protocol: one connection, one request at a time, the answers thrown away.

No client can be faster against this broker without a second connection: nothing is checked, unpacked or kept, and of
each batch of records only the header is looked at, to know where the next request begins.
"""

import socket
import struct

_FETCH, _VERSION = 1, 4  # the oldest version that Kafka 4 answers; later ones add nothing that is needed here
_MOST_BYTES = 16_777_216  # of an answer: what the other ways fetch by, too
_BATCH_HEAD = struct.Struct(">qi")  # base offset, length of what follows
_LAST_DELTA = struct.Struct(">i")
_LAST_DELTA_AT = 23  # in a batch: behind base offset, length, leader epoch, magic, checksum and attributes


def read_bare(servers: str, topic: str, partition: int, records: int) -> None:
    """Fetch a partition from offset 0 until `records` offsets have come."""
    host, port = servers.split(",")[0].rsplit(":", 1)
    answer = memoryview(bytearray(_MOST_BYTES + 2_000_000))
    offset = 0
    with socket.create_connection((host, int(port)), 10) as connection:
        while offset < records:
            connection.sendall(_request(topic, partition, offset))
            size = struct.unpack(">i", _receive(connection, answer[:4]))[0]
            reached = _next_offset(_receive(connection, answer[:size]), offset, len(topic.encode()))
            if reached == offset:
                raise RuntimeError(f"{topic}:{partition} ends at {offset}, wanted {records} records")
            offset = reached


def _request(topic: str, partition: int, offset: int) -> bytes:
    name, client = topic.encode(), b"bench"
    head = struct.pack(f">hhih{len(client)}s", _FETCH, _VERSION, 0, len(client), client)
    limits = struct.pack(">iiiib", -1, 500, 1, _MOST_BYTES, 0)
    what = struct.pack(f">ih{len(name)}siiqi", 1, len(name), name, 1, partition, offset, _MOST_BYTES)
    return struct.pack(">i", len(head + limits + what)) + head + limits + what


def _receive(connection: socket.socket, into: memoryview) -> memoryview:
    done = 0
    while done < len(into):
        count = connection.recv_into(into[done:])
        if not count:
            raise ConnectionError("the broker closed the connection")
        done += count
    return into


def _next_offset(answer: memoryview, offset: int, name_bytes: int) -> int:
    """The offset behind the last whole batch of an answer."""
    at = 4 + 4 + 4 + 2 + name_bytes + 4 + 4  # correlation id, throttle time, topics, name, partitions, partition
    error, _, _, aborted = struct.unpack_from(">hqqi", answer, at)
    if error:
        raise RuntimeError(f"the broker answered a fetch with error {error}")
    at += 22 + 16 * max(0, aborted) + 4
    while at + _BATCH_HEAD.size < len(answer):
        base, length = _BATCH_HEAD.unpack_from(answer, at)
        if at + _BATCH_HEAD.size + length > len(answer):
            break
        offset = base + _LAST_DELTA.unpack_from(answer, at + _LAST_DELTA_AT)[0] + 1
        at += _BATCH_HEAD.size + length
    return offset
