"""`.as_stream()`: a chain of pipes taken apart, and put together as a stream.

StatefulDataLoader never asks a DataPipe for a state, and its restart would read all again from the beginning. So the
chain is not wrapped: what its pipes were told goes into a `StreamingKafkaDataset`, which seeks.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch.utils.data import IterDataPipe

from kafkapipes.arrays import Shape, elements_of
from kafkapipes.decoding import Decoding
from kafkapipes.errors import ConfigError
from kafkapipes.formats.raw import ElementType, Numbers, RawDecoder
from kafkapipes.options import shown
from kafkapipes.pipes.decoder import ByteDecoder
from kafkapipes.pipes.reader import PartitionReader
from kafkapipes.pipes.reshaper import Reshaper
from kafkapipes.pipes.transformer import Transformer
from kafkapipes.streaming import Source, StreamingKafkaDataset

_INSTEAD = {
    "ShufflerIterDataPipe": "leave it out, and give as_stream shuffle=True",
    "BatcherIterDataPipe": "leave it out, and give as_stream a batch_size",
    "CollatorIterDataPipe": "leave it out, and give as_stream a batch_size",
    "MapperIterDataPipe": "give transform_samples a transform, or as_stream a batch_size and a batch_transform",
    "ShardingFilterIterDataPipe": "leave it out: a stream shares itself out",
}  # torch's own pipes, and what does the same in a stream
_OWN = (
    "do its work in a transform of transform_samples, or on whole batches in a batch_transform of as_stream; or "
    "iterate the chain as it is, which after a restart is read again from its beginning"
)


def as_stream(
    chain: IterDataPipe[Any],
    *,
    shuffle: bool = False,
    seed: int = 0,
    batch_size: int | None = None,
    batch_transform: Callable[..., Any] | None = None,
    coordinates: bool = False,
    block_records: int | None = None,
    window_blocks: int = 4,
    prefetch_blocks: int = 2,
    rank: int | None = None,
    world_size: int | None = None,
    equal_ranks: str | None = None,
    max_records: int | None = None,
    idle_timeout_s: float | None = None,
    linger_s: float = 0.5,
    from_committed: bool = False,
) -> StreamingKafkaDataset:
    """The samples of a chain of pipes as a `StreamingKafkaDataset`: shuffled, shared out, resumed exactly.

    The method `.as_stream()` of every pipe is this function.

    Args:
        chain: `read_partitions`, `decode_bytes`, and `reshape_arrays` and `transform_samples` where wanted; between
            these there may be no other pipe. What yields the ranges may be any
        shuffle, seed, batch_size, batch_transform, coordinates, block_records, window_blocks, prefetch_blocks: as for
            `StreamingKafkaDataset`
        rank, world_size, equal_ranks, max_records, idle_timeout_s, linger_s, from_committed: the same

    Raises:
        ConfigError: a pipe of the chain is none of these, or an option cannot be used
        RangeError, KafkaPipesError: as for `StreamingKafkaDataset`

    >>> from kafkapipes import RangeParser
    >>> from kafkapipes.testing import EmbeddedKafka
    >>> with EmbeddedKafka() as kafka:
    ...     kafka.fill("clicks", [(bytes([number]), bytes([number])) for number in range(10)])
    ...     reader = RangeParser("clicks:0:0:10").read_partitions(kafka.bootstrap_servers)
    ...     stream = reader.decode_bytes("uint8", "uint8").as_stream(shuffle=True, batch_size=4)
    ...     [labels.tolist() for values, labels in stream]
    [[7, 8, 0, 2], [4, 5, 6, 9], [3, 1]]
    """
    return StreamingKafkaDataset._of(
        source_of(chain), shuffle=shuffle, seed=seed, batch_size=batch_size, batch_transform=batch_transform,
        coordinates=coordinates, block_records=block_records, window_blocks=window_blocks,
        prefetch_blocks=prefetch_blocks, rank=rank, world_size=world_size, equal_ranks=equal_ranks,
        max_records=max_records, idle_timeout_s=idle_timeout_s, linger_s=linger_s, from_committed=from_committed,
    )  # fmt: skip


IterDataPipe.register_function("as_stream", as_stream)


def source_of(chain: object) -> Source:
    """What the pipes of a chain were told.

    Raises:
        ConfigError: one of them is none of ours, or stands elsewhere; says which, and what to do
    """
    transform = label_transform = data_shape = label_shape = None
    pipe: Any = chain
    if type(pipe) is Transformer:
        transform, label_transform = pipe._on_value, pipe._on_label
        pipe = pipe._source
    while type(pipe) is Reshaper:  # of several, the last that gives a shape
        data_shape, label_shape = data_shape or pipe._value_shape, label_shape or pipe._key_shape
        pipe = pipe._source
    if type(pipe) is not ByteDecoder:
        raise _no_place_for(pipe)
    decoder, policies, reader = pipe._decoder, pipe._policies, pipe._source
    if type(reader) is not PartitionReader:
        raise _no_place_for(reader)
    decoder = RawDecoder(_sized(decoder.data, data_shape), decoder.label and _sized(decoder.label, label_shape))
    return Source(
        ranges=reader._listed() if reader._plan is None else reader._plan.ranges,  # what was resolved stays so
        client=reader._client,
        planning=reader._planning,
        fetching=reader._fetching,
        decoding=Decoding(decoder, data_shape, label_shape, policies),
        transform=transform,
        label_transform=label_transform,
    )


def _sized(kind: ElementType, shape: Shape | None) -> ElementType:
    """The type with the number of elements that a shape tells, where it has none."""
    if isinstance(kind, Numbers) and kind.elements is None:
        return replace(kind, elements=elements_of(shape))
    return kind


def _no_place_for(pipe: object) -> ConfigError:
    name = type(pipe).__name__ if isinstance(pipe, IterDataPipe) else shown(pipe)
    return ConfigError(
        "wanted a chain of read_partitions, decode_bytes, reshape_arrays and transform_samples, which can be shared "
        f"out and resumed by offset, found {name} in it; {_INSTEAD.get(name, _OWN)}"
    )
