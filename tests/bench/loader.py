"""How fast do batches come out of a dataset in memory, against torch's own ways from the same tensors?

Samples are read from the embedded broker; an epoch of each way is a run, in this process.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, TensorDataset

from kafkapipes import TrainingKafkaDataset
from kafkapipes.loader import take
from kafkapipes.testing import EmbeddedKafka
from tests.bench.measure import OURS, Run, Session, Work, timed

BATCH = 256
_RECORDS = 5000  # in a partition: the embedded broker keeps 5 MB of each
SAMPLES_LOADER, BARE_LOOP, TRANSFORMED = "DataLoader(TensorDataset)", "loop of tensor[perm[i:i+256]]", "TensorDataset"
Epoch = Callable[[], int]  # runs through all samples and returns how many there were


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


def works(session: Session) -> Iterator[Work]:
    """Batches, what gathers them, and single samples with a transform through a DataLoader."""
    torch.manual_seed(0)
    fewer = 4 if session.quick else 1
    images = make_dataset(60_000 // fewer, np.dtype("uint8"), "28 28")
    points = make_dataset(200_000 // fewer, np.dtype("float32"), "16")
    columns = {"28x28 uint8": images.values, "labels uint8": images.labels, "16 float32": points.values}
    wanted = {"28x28 uint8": {SAMPLES_LOADER: 5.0, BARE_LOOP: 0.7}, "16 float32": {}}
    for threads in sorted({torch.get_num_threads(), 1}, reverse=True):  # torch's own: they wait for each other
        for name, dataset in (("28x28 uint8", images), ("16 float32", points)):
            ways = {OURS: ours(dataset), **loaders(dataset)}
            yield Work("loader", f"loader, {name}, {_threads(threads)}", _runs(ways, threads), wanted[name])
        for name, column in columns.items():
            ways = {OURS: by_take(column), **gathers(column)}
            yield Work("loader", f"gather, {name}, {_threads(threads)}", _runs(ways, threads))
    for workers in (0, 2):
        for kind, (for_array, for_tensor) in TRANSFORMS.items():
            opponents = datasets(images.values.clone(), images.labels.clone(), for_tensor, workers)
            ways = {OURS: loaded(images, workers, for_array), **opponents}
            name = f"samples, {kind} transform, {workers} workers"
            yield Work("loader", name, _runs(ways), {TRANSFORMED: 1.0} if workers else {})


def _threads(threads: int) -> str:
    return f"{threads} torch thread{'s' if threads > 1 else ''}"


def _runs(ways: dict[str, Epoch], threads: int = 0) -> dict[str, Run]:
    """Each way as a run, with so many threads of torch's."""

    def with_threads(epoch: Epoch) -> Run:
        def run() -> dict[str, Any]:
            before = torch.get_num_threads()
            torch.set_num_threads(threads or before)
            try:
                return timed(epoch)()
            finally:
                torch.set_num_threads(before)

        return run

    return {name: with_threads(epoch) for name, epoch in ways.items()}


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
        SAMPLES_LOADER: lambda: sum(len(labels) for _, labels in samples),
        "the same, BatchSampler and batch_size=None": lambda: sum(len(labels) for _, labels in batches),
        BARE_LOOP: lambda: sum(len(labels) for _, labels in bare(*tensors)),
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
        TRANSFORMED: loaded(TransformedTensorDataset(values, labels, transform=transform), workers),
        "two tensors": loaded(Transformed(values, labels, transform), workers),
    }


def loaded(dataset: Dataset, workers: int, transform: Any = None) -> Epoch:
    def epoch() -> int:
        if transform is not None:
            dataset.transform = transform
        loader = DataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=workers)
        return sum(len(labels) for _, labels in loader)

    return epoch
