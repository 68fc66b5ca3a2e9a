"""How does a pipe of my own get into the chain, between two of kafkapipes?

Run `python examples/custom_pipe.py`: one own pipe drops digits by label, another scales the rest, a batch at a time.
"""

import argparse
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.utils.data import IterDataPipe, functional_datapipe

from kafkapipes import KafkaSink, RangeParser
from kafkapipes.testing import EmbeddedKafka


@functional_datapipe("keep_labels")
class LabelFilter(IterDataPipe):
    """Keeps the rows whose label is wanted; the others are counted in the reader's report."""

    def __init__(self, batches, wanted):
        self._source = batches
        self._labels = wanted

    def __iter__(self):
        for batch in self._source:
            keep = np.isin(batch.scalar_labels, self._labels)
            batch.account.skip("label not wanted", batch.offsets[~keep])
            if keep.any():
                yield batch.select(np.flatnonzero(keep))


@functional_datapipe("scale_values")
class Scaler(IterDataPipe):
    """Values as float32, multiplied by a factor: one operation for thousands of rows."""

    def __init__(self, batches, factor):
        self._source = batches
        self._scale = np.float32(factor)

    def __iter__(self):
        for batch in self._source:
            yield replace(batch, values=batch.values * self._scale)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bootstrap-servers", metavar="HOST:PORT", help="default: a broker inside this process")
    parser.add_argument("--topic", default="digits")
    parser.add_argument("--labels", type=int, nargs="+", default=[0, 1, 2], help="the digits to keep")
    args = parser.parse_args()
    torch.manual_seed(0)  # the order of .shuffle() follows from it
    digits = load_digits()
    with ExitStack() as stack:
        servers = args.bootstrap_servers or stack.enter_context(EmbeddedKafka()).bootstrap_servers
        with KafkaSink(args.topic, servers) as sink:
            sink.send_batch(digits.images.astype("uint8"), digits.target.astype("uint8"))
        reader = RangeParser(sink.control_message).read_partitions(servers)
        samples = (
            reader.decode_bytes("uint8", "uint8")
            .keep_labels(args.labels)
            .scale_values(1 / 16)
            .reshape_arrays("8 8")
            .transform_samples(label_transform=int)
        )
        batches = list(samples.shuffle().batch(64).collate())
    print(reader.report)
    images, labels = map(torch.cat, zip(*batches, strict=True))
    print(f"{len(batches)} batches: {images.dtype} {list(images.shape)} from {images.min()} to {images.max()}")
    for label in labels.unique():
        print(f"label {label}: {(labels == label).sum()} samples")


if __name__ == "__main__":
    main()
