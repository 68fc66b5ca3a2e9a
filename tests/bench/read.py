"""How fast, and in how much memory, does the constructor read, against the best loop written by hand?

`python -m tests.bench.read` starts a broker (or takes the one in KAFKAPIPES_TEST_BOOTSTRAP_SERVERS), fills one
partition a record size, and then lets both ways read it in turn, each in a process of its own, for several rounds.
Seconds run from the call to the finished tensors; the ratio of a round is theirs over ours, so above 1 is faster.
"""

import argparse
import gc
import json
import resource
import statistics
import subprocess
import sys
import time

import numpy as np

SIZES = {100: 1_000_000, 784: 300_000}  # bytes of a record → records


def ours(servers: str, topic: str, records: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The constructor, with its plan, its checks and its report."""
    from kafkapipes import TrainingKafkaDataset

    began = time.perf_counter()
    config = {"data_type": "uint8", "label_type": "uint8", "data_reshape": str(size)}
    dataset = TrainingKafkaDataset({"topic": f"{topic}:0:0:{records}", "input_config": config}, servers, "bench")
    print(json.dumps({"seconds": time.perf_counter() - began}))
    return dataset.values.numpy(), dataset.labels.numpy()


def by_hand(servers: str, topic: str, records: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """What an expert writes with confluent-kafka: tuned, batches by consume, one array allocated ahead."""
    import torch
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    began = time.perf_counter()
    properties = {
        "bootstrap.servers": servers, "group.id": "bench",
        "enable.auto.commit": False, "enable.auto.offset.store": False,
        "fetch.max.bytes": 16_777_216, "queued.max.messages.kbytes": 32_768, "queued.min.messages": 100_000,
        "fetch.queue.backoff.ms": 0, "check.crcs": True, "auto.offset.reset": "error",
    }  # fmt: skip
    consumer = Consumer(properties)
    consumer.assign([TopicPartition(topic, 0, 0)])
    values, labels = np.empty((records, size), np.uint8), np.empty(records, np.uint8)
    done = 0
    while done < records:
        messages = consumer.consume(min(5000, records - done), 1.0)
        parts, keys = [], []
        for message in messages:
            if message.error():
                raise KafkaException(message.error())
            parts.append(message.value())
            keys.append(message.key())
        values[done : done + len(parts)] = np.frombuffer(b"".join(parts), np.uint8).reshape(-1, size)
        labels[done : done + len(parts)] = np.frombuffer(b"".join(keys), np.uint8)
        done += len(parts)
    consumer.close()
    tensors = torch.from_numpy(values), torch.from_numpy(labels)
    print(json.dumps({"seconds": time.perf_counter() - began}))
    return tensors[0].numpy(), tensors[1].numpy()


def by_hand_without_collector(*arguments: object) -> tuple[np.ndarray, np.ndarray]:
    """The same loop by someone who knows that the garbage collector takes half of its time."""
    gc.disable()
    return by_hand(*arguments)


WAYS = {"ours": ours, "by hand": by_hand, "no gc": by_hand_without_collector}


def measure(way: str, *arguments: object) -> dict[str, float]:
    """One way, in a fresh process: seconds, and the most memory in use above that of the bare imports, in MB."""
    command = [sys.executable, "-m", "tests.bench.read", "--way", way, "--arguments", json.dumps(arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {key: value for line in done.stdout.splitlines() for key, value in json.loads(line).items()}


def run_way(way: str, servers: str, topic: str, records: int, size: int) -> None:
    import confluent_kafka  # noqa: F401  # both ways: imports are not measured

    import kafkapipes  # noqa: F401

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    values, labels = WAYS[way](servers, topic, records, size)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    wrong = (values[:, 0] != labels).sum() + (len(values) != records)
    print(json.dumps({"peak_mb": peak, "wrong": int(wrong)}))


def fill(cluster, records: int, size: int) -> str:
    topic = cluster.new_topic()
    body = np.random.default_rng(0).integers(0, 256, size - 1, np.uint8).tobytes()
    for first in range(0, records, 100_000):
        rows = range(first, min(first + 100_000, records))
        cluster.produce(topic, [(bytes([row % 251]) + body, bytes([row % 251])) for row in rows])
    return topic


def table(cluster, rounds: int) -> None:
    print(f"{'record':>8} {'data':>8} {'way':>8} {'best rec/s':>11} {'median':>11} {'peak above imports':>19}")
    for size, records in SIZES.items():
        topic = fill(cluster, records, size)
        results = {way: [] for way in WAYS}
        for _ in range(rounds):
            for way in WAYS:
                results[way].append(measure(way, cluster.bootstrap_servers, topic, records, size))
        for way, runs in results.items():
            assert not any(run["wrong"] for run in runs)
            seconds = [run["seconds"] for run in runs]
            rates = f"{records / min(seconds):>11,.0f} {records / statistics.median(seconds):>11,.0f}"
            peak = max(run["peak_mb"] for run in runs)
            print(f"{size:>6} B {records * size / 1e6:>5.0f} MB {way:>8} {rates} {peak:>16.0f} MB")
        for way in WAYS:
            if way != "ours":
                print_ratios(way, [run["seconds"] for run in results[way]], [run["seconds"] for run in results["ours"]])


def print_ratios(way: str, theirs: list[float], mine: list[float]) -> None:
    ratios = [other / own for other, own in zip(theirs, mine, strict=True)]
    spread = f"from {min(ratios):.2f} to {max(ratios):.2f}"
    best = min(theirs) / min(mine)
    print(f"  ours to {way!r}: median {statistics.median(ratios):.2f} ({spread}), best to best {best:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--arguments", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        run_way(args.way, *args.arguments)
        return
    from tests.kafka.cluster import open_cluster

    cluster = open_cluster()
    try:
        table(cluster, args.rounds)
    finally:
        cluster.close()


if __name__ == "__main__":
    main()
