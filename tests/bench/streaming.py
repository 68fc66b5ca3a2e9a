"""How fast is a stream, against the constructor on the same topic, and what do shuffle, batches and workers cost?

`python -m tests.bench.streaming "" SERVERS TOPIC OPTIONS` reads one epoch in this process, checks that each record came
once, and prints its figures.
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from tests.bench.measure import OURS, Run, Session, Work
from tests.bench.memory import have_at_hand
from tests.bench.topics import LABELS, Topic

CONSTRUCTOR, IN_ORDER, BUDGET = "TrainingKafkaDataset", "in order", "50 µs a batch"
NOTHING = "1 worker(s) that read nothing"  # what torch takes to pass as many batches of that size to the parent
BATCH, LARGE_BATCH = 256, 4096
_LONG_BYTES = 1_000_000_000  # of a topic for which a shuffle has several cycles of windows to read
_AT_HAND_MB = 1000  # more than a shuffle holds
_BUDGET_S = 50e-6


def works(session: Session) -> Iterator[Work]:
    """In order against the constructor, shuffled against in order, a batch beyond the read, and workers."""
    from tests.bench.parts import mains, words  # which finds this part by its file

    for topic in mains(session):
        name, facts = words(topic), asdict(topic)
        long = topic if session.quick else replace(topic, records=_LONG_BYTES // topic.size)
        for batch in (BATCH, LARGE_BATCH):
            ways = {OURS: stream(session, topic, batch), CONSTRUCTOR: session.read("kafkapipes", topic)}
            yield Work("streaming", f"stream, {name}, batches of {batch}", ways, {CONSTRUCTOR: 0.9}, facts, rounds=5)
        ways = {OURS: stream(session, long, BATCH, shuffle=True), IN_ORDER: stream(session, long, BATCH)}
        yield Work("streaming", f"stream shuffled, {name}", ways, {IN_ORDER: 0.8}, asdict(long), rounds=5)
        ways = {OURS: stream(session, topic, BATCH, figure="batches"), BUDGET: lambda: {"rate": 1 / _BUDGET_S}}
        yield Work("streaming", f"batches beyond the read, {name}", ways, {BUDGET: 1.0}, facts, rounds=5)
    for read, batch in ((topic, BATCH), (long, LARGE_BATCH)):
        several = {f"{count} worker(s)": stream(session, read, batch, workers=count) for count in (1, 2)}
        ways = {
            OURS: stream(session, read, batch),
            **several,
            NOTHING: stream(session, read, batch, workers=1, made=True),
        }
        name = f"stream with workers, {words(read)}, batches of {batch}"
        yield Work("streaming", name, ways, {}, asdict(read), rounds=3)


def stream(session: Session, topic: Topic, batch: int, **options: Any) -> Run:
    """A run of one epoch in a process of its own."""
    options = {"batch_size": batch, **options}
    return lambda: session.fresh(["tests.bench.streaming", *session.arguments("", topic, 0, options)])


def epoch(
    servers: str,
    topic: Topic,
    batch_size: int,
    shuffle: bool = False,
    workers: int = 0,
    figure: str = "records",
    made: bool = False,
) -> dict[str, Any]:
    """Read one epoch: seconds from the constructor on, and the rate of records.

    Args:
        made: nothing is read, the batches are made
        figure: "batches" gives the rate of batches by the processor time of the thread that takes them, in which
            nothing is fetched or decoded: what a batch costs beyond the read
    """
    from kafkapipes import StreamingKafkaDataset

    have_at_hand(_AT_HAND_MB)
    config = {"data_type": "uint8", "label_type": "uint8", "data_reshape": str(topic.size)}
    message = {"topic": topic.ranges, "input_config": config}
    began = time.perf_counter()
    dataset = (
        Made(topic, batch_size)
        if made
        else StreamingKafkaDataset(message, servers, "bench", shuffle=shuffle, batch_size=batch_size)
    )
    batches = DataLoader(dataset, batch_size=None, num_workers=workers) if workers else dataset
    thread, found = time.thread_time(), []
    for _, labels in batches:
        found.append(labels)
    thread, seconds = time.thread_time() - thread, time.perf_counter() - began
    _check(topic, np.concatenate([labels.numpy() for labels in found]))
    told = {"seconds": seconds, "batch_us": 1e6 * thread / len(found)}
    return {**told, "rate": len(found) / thread if figure == "batches" else topic.records / seconds}


class Made(IterableDataset):
    """Batches in memory, of the size of a topic's, with its labels."""

    def __init__(self, topic: Topic, batch_size: int) -> None:
        self._labels = (np.arange(topic.records) % LABELS).astype(np.uint8)
        self._values = np.ones((batch_size, topic.size), np.uint8)

    def __iter__(self) -> Iterator[Any]:
        for first in range(0, len(self._labels), len(self._values)):
            labels = self._labels[first : first + len(self._values)]
            yield torch.from_numpy(self._values[: len(labels)]), torch.from_numpy(labels)


def _check(topic: Topic, labels: np.ndarray) -> None:
    wanted = np.bincount(np.arange(topic.records) % LABELS, minlength=LABELS)
    if not np.array_equal(np.bincount(labels, minlength=LABELS), wanted):
        raise RuntimeError(f"found {len(labels)} records, wanted {topic.records}, each once")


if __name__ == "__main__":
    _, servers, topic, options = sys.argv[1:]
    print(json.dumps(epoch(servers, Topic(**json.loads(topic)), **json.loads(options))))
