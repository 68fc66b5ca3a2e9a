"""The ways to read a topic into two arrays, ours and the others, each as well as an expert would write it.

Each way is a generator. Up to its first yield it imports and sets up, and no clock runs; from there to its second
yield, of the finished values and labels, it reads; what it does then, as closing, is its own affair.
`python -m tests.bench.read WAY SERVERS TOPIC` runs one in this process, checks every byte and prints its figures.
"""

import ctypes
import gc
import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.fetch import read_bare
from tests.bench.memory import have_at_hand
from tests.bench.topics import Topic, count_wrong

Way = Callable[..., Generator[Any, None, Any]]
PERF_VARIABLE = "KAFKAPIPES_BENCH_PERF"  # two pipes of `perf record --control`, which then records the reading only
_BUILD = Path(__file__).parents[2] / "build" / "bench"
_COPIES, _BESIDES_MB = 3, 200  # times the data, and megabytes: more than a copy of it
_LARGE_BYTES = 10_000  # from here on, copying a record by itself is cheaper than joining it to others
_TUNED = {
    "group.id": "bench", "enable.auto.commit": "false", "enable.auto.offset.store": "false",
    "auto.offset.reset": "error", "check.crcs": "true", "fetch.max.bytes": "16777216",
    "queued.max.messages.kbytes": "32768", "queued.min.messages": "100000", "fetch.queue.backoff.ms": "0",
}  # fmt: skip


def kafkapipes(servers: str, topic: Topic, client: str = "auto", **options: Any) -> Generator[Any, None, Any]:
    """The constructor, with its plan, its checks and its report."""
    os.environ["KAFKAPIPES_CLIENT"] = client
    from kafkapipes import TrainingKafkaDataset

    config = {"data_type": "uint8", "label_type": "uint8", "data_reshape": str(topic.size)}
    yield
    dataset = TrainingKafkaDataset({"topic": topic.ranges, "input_config": config}, servers, "bench", **options)
    yield dataset.values.numpy(), dataset.labels.numpy()
    return {"client": getattr(dataset.report[0], "client", "python")}


def by_hand(servers: str, topic: Topic, place: Callable[..., int] | None = None) -> Generator[Any, None, Any]:
    """A tuned consumer, batches by consume(), one array allocated ahead."""
    import torch
    from confluent_kafka import Consumer, TopicPartition

    place = place or _place
    yield
    consumer = Consumer({"bootstrap.servers": servers, **_TUNED})
    consumer.assign([TopicPartition(topic.name, partition, 0) for partition in range(topic.partitions)])
    values, labels = np.empty((topic.records, topic.size), np.uint8), np.empty(topic.records, np.uint8)
    rows = [partition * topic.per_partition for partition in range(topic.partitions)]
    done = 0
    while done < topic.records:
        messages = consumer.consume(min(_batch(topic.size), topic.records - done), 1.0)
        for partition, group in _by_partition(messages, topic.partitions):
            rows[partition] += place(group, values, labels, rows[partition])
        done += len(messages)
    yield torch.from_numpy(values).numpy(), torch.from_numpy(labels).numpy()
    consumer.close()


def by_hand_every_trick(servers: str, topic: Topic) -> Generator[Any, None, Any]:
    """The same by someone who knows the interpreter: no garbage collector, no loop where map() does."""
    reading = by_hand(servers, topic, _place_large if topic.size >= _LARGE_BYTES else _place_mapped)
    yield next(reading)
    gc.disable()
    yield from reading


def c_loop(servers: str, topic: Topic) -> Generator[Any, None, Any]:
    """loop.c, called with the interpreter's lock released."""
    library = _compiled_loop()
    properties = [text.encode() for item in {"bootstrap.servers": servers, **_TUNED}.items() for text in item]
    array = (ctypes.c_char_p * (len(properties) + 1))(*properties, None)
    error = ctypes.create_string_buffer(512)
    yield
    client = library.loop_open(array, topic.name.encode(), topic.partitions, error, len(error))
    if not client:
        raise RuntimeError(error.value.decode())
    values, labels = np.empty((topic.records, topic.size), np.uint8), np.empty(topic.records, np.uint8)
    code = library.loop_read(
        client, topic.records, topic.per_partition, topic.size, _batch(topic.size), values.ctypes.data,
        labels.ctypes.data,
    )  # fmt: skip
    if code:
        raise RuntimeError(f"the C loop ended with librdkafka's code {code}")
    yield values, labels
    library.loop_close(client)


def bare_fetch(servers: str, topic: Topic) -> Generator[Any, None, Any]:
    """The limit, for orientation: fetch.py, which keeps nothing and counts offsets."""
    yield
    for partition in range(topic.partitions):
        read_bare(servers, topic.name, partition, topic.per_partition)
    yield None


def kafka_python(servers: str, topic: Topic) -> Generator[Any, None, Any]:
    """As PyTorchKafkaDataset reads: subscribe, poll, seek, then an array and a tuple for each record, until end - 1."""
    from kafka import KafkaConsumer, TopicPartition

    yield
    samples = []
    consumer = KafkaConsumer(topic.name, bootstrap_servers=servers, group_id=f"bench-{os.getpid()}")
    for partition in range(topic.partitions):
        while not consumer.assignment():
            consumer.poll(500)
        consumer.seek(TopicPartition(topic.name, partition), 0)
        for message in consumer:
            value = np.frombuffer(message.value, np.uint8).copy().reshape(topic.size)
            label = np.frombuffer(message.key, np.uint8).copy()
            samples.append((value, label[0]))
            if message.offset >= topic.per_partition - 1:
                break
    yield Unstacked(samples)  # where that dataset is finished: it has no arrays
    consumer.close()


def ray(servers: str, topic: Topic) -> Generator[Any, None, Any]:
    """ray.data.read_kafka on a running and warm Ray, its Arrow blocks copied into two arrays."""
    import logging

    import ray

    ray.init(num_cpus=os.cpu_count(), log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    ray.data.range(100).materialize()
    yield
    offsets = {topic.name: dict.fromkeys(range(topic.partitions), topic.per_partition)}
    source = ray.data.read_kafka(
        topic.name, bootstrap_servers=servers, start_offset=0, end_offset=offsets, consumer_config=_peer_properties()
    )
    tables = [ray.get(reference) for reference in source.to_arrow_refs()]
    values = np.concatenate([_rows(table.column("value"), topic.size) for table in tables])
    labels = np.concatenate([_rows(table.column("key"), 1) for table in tables]).reshape(-1)
    yield values, labels
    ray.shutdown()


def daft(servers: str, topic: Topic) -> Generator[Any, None, Any]:
    """daft.read_kafka with batches as large as the loops', its Arrow columns copied into two arrays."""
    import daft

    yield
    ends = dict.fromkeys(range(topic.partitions), topic.per_partition)
    frame = daft.read_kafka(
        servers, topic.name, start=dict.fromkeys(ends, 0), end=ends, partitions=list(ends),
        chunk_size=_batch(topic.size), kafka_client_config=_peer_properties(),
    )  # fmt: skip
    table = frame.select("value", "key").to_arrow()
    yield _rows(table.column("value"), topic.size), _rows(table.column("key"), 1).reshape(-1)


class Unstacked(list):
    """Samples that are no arrays yet: stacked for the check, when the clock has stopped."""

    def stack(self) -> tuple[np.ndarray, np.ndarray]:
        return np.stack([value for value, _ in self]), np.array([label for _, label in self])


WAYS: dict[str, Way] = {
    "kafkapipes": kafkapipes,
    "by hand": by_hand,
    "by hand, every trick": by_hand_every_trick,
    "C loop": c_loop,
    "bare Fetch": bare_fetch,
    "kafka-python loop": kafka_python,
    "ray": ray,
    "daft": daft,
}


def run(way: str, servers: str, topic: Topic, options: dict[str, Any]) -> dict[str, Any]:
    """Read in this process: seconds, processor seconds, records a second, and the peak of memory above the set-up's.

    The option `memory_at_hand` is false where the pages are to be those that the machine happens to have.
    """
    has_memory = options.pop("memory_at_hand", True)
    reading = WAYS[way](servers, topic, **options)
    next(reading)
    if has_memory:
        have_at_hand(_COPIES * topic.megabytes + _BESIDES_MB)
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory counts from here (proc(5))
    before = _kilobytes("VmRSS")
    _control_perf("enable")
    processor, began = time.process_time(), time.perf_counter()
    arrays = next(reading)
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    _control_perf("disable")
    peak = (_kilobytes("VmHWM") - before) / 1024
    if arrays is not None:
        wrong = count_wrong(topic, *(arrays.stack() if isinstance(arrays, Unstacked) else arrays))
        if wrong:
            raise RuntimeError(f"{wrong} of {topic.records} records are wrong")
    try:
        next(reading)
    except StopIteration as end:
        told = end.value or {}
    rate = topic.records / seconds
    return {"seconds": seconds, "rate": rate, "cpu_s": processor, "peak_mb": peak, "data_mb": topic.megabytes, **told}


def _place(messages: list, values: np.ndarray, labels: np.ndarray, row: int) -> int:
    from confluent_kafka import KafkaException

    parts, keys = [], []
    for message in messages:
        if message.error():
            raise KafkaException(message.error())
        parts.append(message.value())
        keys.append(message.key())
    values[row : row + len(parts)] = np.frombuffer(b"".join(parts), np.uint8).reshape(len(parts), -1)
    labels[row : row + len(parts)] = np.frombuffer(b"".join(keys), np.uint8)
    return len(parts)


def _place_mapped(messages: list, values: np.ndarray, labels: np.ndarray, row: int) -> int:
    from confluent_kafka import KafkaException, Message

    count = len(messages)
    if any(map(Message.error, messages)):
        raise KafkaException(next(filter(None, map(Message.error, messages))))
    values[row : row + count] = np.frombuffer(b"".join(map(Message.value, messages)), np.uint8).reshape(count, -1)
    labels[row : row + count] = np.frombuffer(b"".join(map(Message.key, messages)), np.uint8)
    return count


def _place_large(messages: list, values: np.ndarray, labels: np.ndarray, row: int) -> int:
    from confluent_kafka import KafkaException

    for message in messages:
        if message.error():
            raise KafkaException(message.error())
        values[row].data[:] = message.value()
        labels[row] = message.key()[0]
        row += 1
    return len(messages)


def _by_partition(messages: list, partitions: int) -> list[tuple[int, list]]:
    if not messages or partitions == 1:
        return [(0, messages)] if messages else []
    groups = defaultdict(list)
    for message in messages:
        groups[message.partition()].append(message)
    return list(groups.items())


def _batch(size: int) -> int:
    """Records a call: 5000, or some megabytes."""
    return max(1, min(5000, 8_000_000 // size))


def _peer_properties() -> dict[str, str]:
    """The tuned properties, without those that the other systems set themselves."""
    own = ("group.id", "enable.auto", "auto.offset.reset")
    return {key: value for key, value in _TUNED.items() if not key.startswith(own)}


def _rows(column: Any, width: int) -> np.ndarray:
    """An Arrow column of byte strings of one length as uint8 [n, width], by its buffers and not by its items."""
    chunks = []
    for chunk in column.chunks:
        wide = str(chunk.type).startswith("large")
        bounds = np.frombuffer(chunk.buffers()[1], np.int64 if wide else np.int32)[chunk.offset :][: len(chunk) + 1]
        if not (np.diff(bounds) == width).all():
            raise RuntimeError(f"not every entry has {width} bytes")
        chunks.append(np.frombuffer(chunk.buffers()[2], np.uint8)[bounds[0] : bounds[-1]].reshape(-1, width))
    return np.concatenate(chunks)


def _compiled_loop() -> ctypes.CDLL:
    """loop.c as a library, linked to the librdkafka inside confluent_kafka's wheel and found there."""
    import confluent_kafka

    site = Path(confluent_kafka.__file__).parents[1]
    librdkafka = str(next((site / "confluent_kafka.libs").glob("librdkafka*")))
    source, target = Path(__file__).with_name("loop.c"), _BUILD / "loop.so"
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(librdkafka).parent
        command = ["gcc", "-O3", "-march=native", "-shared", "-fPIC", str(source), librdkafka, f"-Wl,-rpath,{folder}"]
        subprocess.run([*command, "-o", str(target)], check=True)
    library = ctypes.CDLL(str(target))
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    library.loop_open.restype = pointer
    library.loop_open.argtypes = [pointer, text, ctypes.c_int, pointer, ctypes.c_size_t]
    sizes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_size_t, ctypes.c_size_t]
    library.loop_read.argtypes = [pointer, *sizes, pointer, pointer]
    library.loop_close.argtypes = [pointer]
    return library


def _control_perf(word: str) -> None:
    if pipes := os.environ.get(PERF_VARIABLE):
        control, answer = pipes.split(",")
        Path(control).write_text(f"{word}\n")
        with open(answer) as pipe:
            pipe.readline()


def _kilobytes(name: str) -> int:
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


if __name__ == "__main__":
    import_module("confluent_kafka")  # all ways: whose imports are not measured
    way, servers, topic, options = sys.argv[1:]
    print(json.dumps(run(way, servers, Topic(**json.loads(topic)), json.loads(options))))
