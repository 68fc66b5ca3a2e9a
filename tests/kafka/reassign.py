"""AlterPartitionReassignments, version 0, byte by byte: an admin request that confluent_kafka lacks."""

import socket
import struct

_API_KEY = 45


def reassign(servers: str, topic: str, partition: int, replicas: list[int]) -> None:
    """Give a partition its replicas in a new order, the preferred leader first; any broker passes it on.

    Raises:
        RuntimeError: the cluster refused.
    """
    name = topic.encode()
    request = b"".join(
        [
            struct.pack(">hhih", _API_KEY, 0, 1, -1) + b"\0",  # correlation id 1, no client id, no tags
            struct.pack(">i", 30_000) + b"\x02",  # timeout; one topic (compact lengths are one more)
            bytes([len(name) + 1]) + name + b"\x02",  # one partition
            struct.pack(">i", partition) + bytes([len(replicas) + 1]),
            b"".join(struct.pack(">i", node) for node in replicas),
            b"\0\0\0",  # no tags of partition, topic, request
        ]
    )
    host, port = servers.split(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        answer = connection.makefile("rb")
        body = answer.read(struct.unpack(">i", answer.read(4))[0])
    # After correlation id, tags and throttle time: an error for all, its text, then those of topic and partition.
    outer = struct.unpack(">h", body[9:11])[0]
    inner = struct.unpack(">h", body[11 + 1 + 1 + 1 + len(name) + 1 + 4 :][:2])[0] if outer == 0 else 0
    if outer or inner:
        raise RuntimeError(f"{topic}:{partition} was not given the replicas {replicas}: error {outer or inner}")
