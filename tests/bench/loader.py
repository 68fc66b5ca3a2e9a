"""How fast do batches come out of a dataset in memory, against torch's own ways from the same tensors?

`python -m tests.bench.loader` reads its samples from the embedded broker and runs each way for an epoch in turn, for
several rounds. The ratio of a round is the other's seconds over ours, so above 1 is faster.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, TensorDataset

from kafkapipes import TrainingKafkaDataset
from kafkapipes.loader import take
from kafkapipes.testing import EmbeddedKafka

BATCH = 256
_RECORDS = 5000  # in a partition: the embedded broker keeps 5 MB of each
Epoch = Callable[[], int]  # runs through all samples and returns how many there were


class Row(NamedTuple):
    """One comparison: how often the opponent's seconds are ours."""

    work: str
    opponent: str
    best: float  # their best round to our best round
    median: float  # of the rounds' ratios
    least: float
    most: float
    samples_per_second: float  # ours, best

    def __str__(self) -> str:
        spread = f"({self.least:.2f} to {self.most:.2f})"
        rate = f"{self.samples_per_second:>12,.0f}"
        return f"{self.work:<40} {self.opponent:<42} {self.best:>6.2f} {self.median:>7.2f} {spread:>17} {rate}"


class Transformed(Dataset):
    """What an expert writes around two tensors."""

    def __init__(self, values: torch.Tensor, labels: torch.Tensor, transform: Callable[[Any], Any]) -> None:
        self.values, self.labels, self.transform = values, labels, transform

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.transform(self.values[index]), self.labels[index]


class TransformedTensorDataset(TensorDataset):
    """A TensorDataset whose values go through a transform."""

    def __init__(self, *tensors: torch.Tensor, transform: Callable[[Any], Any]) -> None:
        super().__init__(*tensors)
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        value, label = super().__getitem__(index)
        return self.transform(value), label


def array_to_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image)[None].float() / 255


def tensor_to_tensor(image: torch.Tensor) -> torch.Tensor:
    return image[None].float() / 255


def array_to_array(image: np.ndarray) -> np.ndarray:
    return np.float32(image) / 255


def tensor_to_array(image: torch.Tensor) -> np.ndarray:
    return np.float32(image.numpy()) / 255


TRANSFORMS = {"torch": (array_to_tensor, tensor_to_tensor), "NumPy": (array_to_array, tensor_to_array)}


def measure(rounds: int = 9, what: str = "") -> Iterator[Row]:
    """All comparisons, or those whose name has `what` in it."""
    torch.manual_seed(0)
    images = make_dataset(60_000, np.dtype("uint8"), "28 28")
    points = make_dataset(200_000, np.dtype("float32"), "16")
    columns = {"28x28 uint8": images.values, "labels uint8": images.labels, "16 float32": points.values}
    for threads in sorted({torch.get_num_threads(), 1}, reverse=True):  # torch's own: they wait for each other
        torch.set_num_threads(threads)
        for name, dataset in (("28x28 uint8", images), ("16 float32", points)):
            work = f"loader, {name}, {threads} thread(s)"
            if what in work:
                yield from compare(work, ours(dataset), loaders(dataset), len(dataset), rounds)
        for name, column in columns.items():
            work = f"gather, {name}, {threads} thread(s)"
            if what in work:
                yield from compare(work, by_take(column), gathers(column), len(column), rounds)
    for workers in (0, 2):
        for kind, (for_array, for_tensor) in TRANSFORMS.items():
            work = f"samples, {kind} transform, {workers} workers"
            if what in work:
                images.transform = for_array
                opponents = datasets(images.values.clone(), images.labels.clone(), for_tensor, workers)
                yield from compare(work, loaded(images, workers), opponents, len(images), rounds)


def make_dataset(samples: int, dtype: np.dtype, shape: str) -> TrainingKafkaDataset:
    elements = int(np.prod([int(number) for number in shape.split()]))
    rng = np.random.default_rng(0)
    with EmbeddedKafka() as kafka:
        kafka.create_topic("bench", partitions=samples // _RECORDS)
        for partition in range(samples // _RECORDS):
            rows = rng.integers(0, 256, (_RECORDS, elements)).astype(dtype)
            kafka.fill("bench", [(row.tobytes(), bytes([number % 10])) for number, row in enumerate(rows)], partition)
        config = {"data_type": dtype.name, "label_type": "uint8", "data_reshape": shape}
        message = {"topic": "bench:*:earliest:latest", "input_config": config}
        return TrainingKafkaDataset(message, kafka.bootstrap_servers, "bench")


def ours(dataset: TrainingKafkaDataset) -> Epoch:
    loader = dataset.loader(batch_size=BATCH, shuffle=True)
    return lambda: sum(len(labels) for _, labels in loader)


def loaders(dataset: TrainingKafkaDataset) -> dict[str, Epoch]:
    tensors = dataset.values.clone(), dataset.labels.clone()
    samples = DataLoader(TensorDataset(*tensors), batch_size=BATCH, shuffle=True)
    batches = DataLoader(
        TensorDataset(*tensors), batch_size=None, sampler=BatchSampler(RandomSampler(dataset), BATCH, drop_last=False)
    )
    return {
        "DataLoader(TensorDataset)": lambda: sum(len(labels) for _, labels in samples),
        "the same, BatchSampler and batch_size=None": lambda: sum(len(labels) for _, labels in batches),
        "loop of tensor[perm[i:i+256]]": lambda: sum(len(labels) for _, labels in bare(*tensors)),
        "loop of index_select": lambda: sum(len(labels) for _, labels in bare_select(*tensors)),
    }


def bare(values: torch.Tensor, labels: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    order = torch.randperm(len(values))
    for first in range(0, len(values), BATCH):
        rows = order[first : first + BATCH]
        yield values[rows], labels[rows]


def bare_select(values: torch.Tensor, labels: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    order = torch.randperm(len(values))
    for first in range(0, len(values), BATCH):
        rows = order[first : first + BATCH]
        yield values.index_select(0, rows), labels.index_select(0, rows)


def by_take(column: torch.Tensor) -> Epoch:
    orders = torch.randperm(len(column)).numpy()
    parts = [orders[first : first + BATCH] for first in range(0, len(column), BATCH)]
    return lambda: sum(len(torch.from_numpy(take(column, rows))) for rows in parts)


def gathers(column: torch.Tensor) -> dict[str, Epoch]:
    parts = torch.randperm(len(column)).split(BATCH)
    return {
        "index_select": lambda: sum(len(column.index_select(0, rows)) for rows in parts),
        "tensor[rows]": lambda: sum(len(column[rows]) for rows in parts),
    }


def datasets(values: torch.Tensor, labels: torch.Tensor, transform: Any, workers: int) -> dict[str, Epoch]:
    return {
        "transform on a TensorDataset": loaded(TransformedTensorDataset(values, labels, transform=transform), workers),
        "transform on two tensors": loaded(Transformed(values, labels, transform), workers),
    }


def loaded(dataset: Dataset, workers: int) -> Epoch:
    return lambda: sum(
        len(labels) for _, labels in DataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=workers)
    )


def compare(work: str, mine: Epoch, opponents: dict[str, Epoch], samples: int, rounds: int) -> Iterator[Row]:
    """One row an opponent; each round runs every way once, ours first in one round and last in the next."""
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", *opponents)}
    ways = list({"ours": mine, **opponents}.items())
    for _ in range(rounds):
        for name, epoch in ways:
            began = time.perf_counter()
            count = epoch()
            seconds[name].append(time.perf_counter() - began)
            assert count == samples
        ways.reverse()
    for name in opponents:
        ratios = [theirs / own for theirs, own in zip(seconds[name], seconds["ours"], strict=True)]
        best = min(seconds[name]) / min(seconds["ours"])
        median, rate = statistics.median(ratios), samples / min(seconds["ours"])
        yield Row(work, name, best, median, min(ratios), max(ratios), rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--what", default="", help="only the rows whose name has this in it")
    args = parser.parse_args()
    print(f"{'work':<40} {'opponent':<42} {'best':>6} {'median':>7} {'spread':>17} {'ours, 1/s':>12}")
    for row in measure(args.rounds, args.what):
        print(row, flush=True)


if __name__ == "__main__":
    main()
