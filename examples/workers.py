"""How do the workers of a DataLoader share the ranges of a chain?

Run `python examples/workers.py --workers 3`: each offset is read by one worker, so every sample arrives exactly once.
"""

import argparse
import multiprocessing
from contextlib import ExitStack

import numpy as np
import torch
from torch.utils.data import DataLoader, get_worker_info

from kafkapipes import KafkaSink, RangeParser
from kafkapipes.testing import EmbeddedKafka


def with_worker(value):
    """Runs where the sample was read: (its number, the worker's)."""
    return value.item(), get_worker_info().id


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bootstrap-servers", metavar="HOST:PORT", help="default: a broker inside this process")
    parser.add_argument("--topic", default="numbers")
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--start-method", choices=multiprocessing.get_all_start_methods(), default="spawn")
    args = parser.parse_args()
    with ExitStack() as stack:
        servers = args.bootstrap_servers or stack.enter_context(EmbeddedKafka()).bootstrap_servers
        with KafkaSink(args.topic, servers) as sink:
            sink.send_batch(np.arange(args.samples))  # each sample is its own number
        message = sink.control_message
        print(f"published {message.topic}")
        chain = RangeParser(message).read_partitions(servers).decode_bytes("int64").transform_samples(with_worker)
        loader = DataLoader(chain, batch_size=500, num_workers=args.workers, multiprocessing_context=args.start_method)
        numbers, workers = (torch.cat(column) for column in zip(*loader, strict=True))
    for worker in range(args.workers):
        share = numbers[workers == worker]
        print(f"worker {worker} read {len(share)} samples, from {share.min()} to {share.max()}")
    if not torch.equal(numbers.sort().values, torch.arange(args.samples)):
        raise SystemExit("some samples are missing or came twice")
    print(f"all {args.samples} samples arrived, each exactly once")


if __name__ == "__main__":
    main()
