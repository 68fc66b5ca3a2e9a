"""What is read: topics whose every record is known by its number, so that each way's result can be checked whole."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # the other systems' environment has not what it imports
    from tests.kafka.cluster import Cluster

COUNTER_BYTES = 4  # each value begins with its number
LABELS = 251  # a prime, so that no label keeps step with batches
_POOL_BYTES = 4_000_000  # of bodies that differ: more than codecs look back within one batch
_CHUNK_BYTES = 32_000_000


@dataclass(frozen=True)
class Topic:
    """`records` values of `size` bytes, with keys of one byte, in equal parts in `partitions`; rows in range order."""

    records: int
    size: int
    partitions: int = 1
    codec: str = "none"
    name: str = ""

    @property
    def per_partition(self) -> int:
        return self.records // self.partitions

    @property
    def megabytes(self) -> float:
        return self.records * self.size / 1e6

    @property
    def ranges(self) -> str:
        return ",".join(f"{self.name}:{partition}:0:{self.per_partition}" for partition in range(self.partitions))


def expected(topic: Topic) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The content, in chunks: first row, values uint8 [n, size], labels uint8 [n]."""
    step = max(1, _CHUNK_BYTES // topic.size)
    for first in range(0, topic.records, step):
        rows = np.arange(first, min(first + step, topic.records), dtype="<u4")
        values = _bodies(topic.size)[rows % len(_bodies(topic.size))]
        values[:, :COUNTER_BYTES] = rows.view(np.uint8).reshape(-1, COUNTER_BYTES)
        yield first, values, (rows % LABELS).astype(np.uint8)


def count_wrong(topic: Topic, values: np.ndarray, labels: np.ndarray) -> int:
    """How many rows are not what was produced, in number, order, value and label."""
    if values.shape != (topic.records, topic.size) or labels.shape != (topic.records,):
        return topic.records
    chunks = expected(topic)
    return sum(
        int(
            (
                (values[first : first + len(right)] != right).any(axis=1) | (labels[first : first + len(right)] != key)
            ).sum()
        )
        for first, right, key in chunks
    )


def fill(cluster: "Cluster", topic: Topic) -> Topic:
    """Make the topic and produce its records; returns it with its name."""
    from confluent_kafka import Producer

    topic = replace(topic, name=cluster.new_topic(topic.partitions), records=topic.per_partition * topic.partitions)
    failed: list[object] = []
    producer = Producer({
        "bootstrap.servers": cluster.bootstrap_servers, "compression.type": topic.codec, "linger.ms": 50,
        "batch.size": 1_000_000, "message.max.bytes": 1_040_000, "queue.buffering.max.kbytes": 262_144,
        "queue.buffering.max.messages": 500_000, "enable.idempotence": True,  # or a retry could double records
        "delivery.report.only.error": True, "on_delivery": lambda error, _: failed.append(error),
    })  # fmt: skip
    for first, values, labels in expected(topic):
        body, keys = values.tobytes(), [bytes([label]) for label in labels]
        for row, key in enumerate(keys):
            value = body[row * topic.size : (row + 1) * topic.size]
            partition = (first + row) // topic.per_partition
            while True:
                try:
                    producer.produce(topic.name, value, key, partition)
                    break
                except BufferError:
                    producer.poll(0.1)
    if producer.flush(120) or failed:
        raise RuntimeError(f"{topic} was not filled: {failed[:1]}")
    return topic


@cache
def _bodies(size: int) -> np.ndarray:
    """Bodies of noise and zeros in equal parts: they compress about two to one, as images do."""
    bodies = np.random.default_rng(0).integers(0, 256, (max(3, min(1009, _POOL_BYTES // size)), size), np.uint8)
    bodies[:, size // 2 :] = 0
    return bodies
