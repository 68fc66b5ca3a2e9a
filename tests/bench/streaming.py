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

from tests.bench.measure import OURS, Run, Session, Work
from tests.bench.topics import LABELS, Topic

CONSTRUCTOR, IN_ORDER, BUDGET = "TrainingKafkaDataset", "in order", "50 µs a batch"
ONE_READER = "TrainingKafkaDataset, one reader"  # as a stream in order has
BATCH = 256
_LONG_BYTES = 1_000_000_000  # of a topic for which a shuffle has several cycles of windows to read
_BUDGET_S = 50e-6


def works(session: Session) -> Iterator[Work]:
    """In order against the constructor, shuffled against in order, a batch beyond the read, and workers."""
    from tests.bench.parts import mains, words  # which finds this part by its file

    for topic in mains(session):
        name, facts = words(topic), asdict(topic)
        long = topic if session.quick else replace(topic, records=min(5_000_000, _LONG_BYTES // topic.size))
        for batch in (BATCH, 4096):
            ways = {
                OURS: stream(session, topic, batch), CONSTRUCTOR: session.read("kafkapipes", topic),
                ONE_READER: session.read("kafkapipes", topic, readers=1),
            }  # fmt: skip
            yield Work("streaming", f"stream, {name}, batches of {batch}", ways, {CONSTRUCTOR: 0.9}, facts, rounds=5)
        ways = {OURS: stream(session, long, BATCH, shuffle=True), IN_ORDER: stream(session, long, BATCH)}
        yield Work("streaming", f"stream shuffled, {name}", ways, {IN_ORDER: 0.8}, asdict(long), rounds=5)
        ways = {OURS: stream(session, topic, BATCH, figure="batches"), BUDGET: lambda: {"rate": 1 / _BUDGET_S}}
        yield Work("streaming", f"batches beyond the read, {name}", ways, {BUDGET: 1.0}, facts, rounds=5)
    several = {f"{count} worker(s)": stream(session, long, BATCH, workers=count) for count in (1, 2)}
    ways = {OURS: stream(session, long, BATCH), **several}
    yield Work("streaming", f"stream with workers, {words(long)}", ways, {}, asdict(long), rounds=3)


def stream(session: Session, topic: Topic, batch: int, **options: Any) -> Run:
    """A run of one epoch in a process of its own."""
    options = {"batch_size": batch, **options}
    return lambda: session.fresh(["tests.bench.streaming", *session.arguments("", topic, 0, options)])


def epoch(
    servers: str, topic: Topic, batch_size: int, shuffle: bool = False, workers: int = 0, figure: str = "records"
) -> dict[str, Any]:
    """Read one epoch: seconds from the constructor on, and the rate of records.

    Args:
        figure: "batches" gives the rate of batches by the processor time of the thread that takes them, in which
            nothing is fetched or decoded: what a batch costs beyond the read
    """
    from torch.utils.data import DataLoader

    from kafkapipes import StreamingKafkaDataset

    config = {"data_type": "uint8", "label_type": "uint8", "data_reshape": str(topic.size)}
    message = {"topic": topic.ranges, "input_config": config}
    began = time.perf_counter()
    dataset = StreamingKafkaDataset(message, servers, "bench", shuffle=shuffle, batch_size=batch_size)
    batches = DataLoader(dataset, batch_size=None, num_workers=workers) if workers else dataset
    thread, found = time.thread_time(), []
    for _, labels in batches:
        found.append(labels)
    thread, seconds = time.thread_time() - thread, time.perf_counter() - began
    _check(topic, np.concatenate([labels.numpy() for labels in found]))
    told = {"seconds": seconds, "batch_us": 1e6 * thread / len(found)}
    return {**told, "rate": len(found) / thread if figure == "batches" else topic.records / seconds}


def _check(topic: Topic, labels: np.ndarray) -> None:
    wanted = np.bincount(np.arange(topic.records) % LABELS, minlength=LABELS)
    if not np.array_equal(np.bincount(labels, minlength=LABELS), wanted):
        raise RuntimeError(f"found {len(labels)} records, wanted {topic.records}, each once")


if __name__ == "__main__":
    _, servers, topic, options = sys.argv[1:]
    print(json.dumps(epoch(servers, Topic(**json.loads(topic)), **json.loads(options))))
