"""PartitionReader, `.read_partitions()`: `OffsetRange`s → `RecordBatch`es. Kafka is touched below here only."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, starmap
from typing import Any

from torch import distributed
from torch.utils.data import IterDataPipe, functional_datapipe

from kafkapipes.ahead import side_by_side
from kafkapipes.errors import ConfigError, RangeError
from kafkapipes.kafka.config import ClientConfig
from kafkapipes.kafka.fetcher import Fetcher
from kafkapipes.kafka.offsets import ON_DATA_LOSS, ON_SHORT, plan_ranges
from kafkapipes.options import check_choice, check_count, check_seconds, shown
from kafkapipes.ranges import OffsetRange
from kafkapipes.records import Destination, RecordBatch
from kafkapipes.report import Piece, ReadReport

MOST_READERS = 256  # of one read: more would be a mistake, each has its threads and connections
AHEAD = 2  # batches of each of several readers that wait to be taken
Collect = Callable[[list[list[Piece]]], Sequence[Destination]]


@functional_datapipe("read_partitions")
class PartitionReader(IterDataPipe[RecordBatch]):
    """Reads offset ranges from Kafka, whole, in order, as batches of byte columns.

    The ranges are planned once, before the first record is read: symbolic bounds become numbers and every range
    is checked against its log. DataLoader workers share the offsets: each record is read by one worker.

    Args:
        ranges: the ranges to read
        bootstrap_servers: `"host:port"`, or several, as a list or separated by commas
        group_id: passed on to the client; nothing is committed under it
        config: librdkafka properties; no secret is ever shown, a value may be a callable that fetches it, such as a
            `FromEnvironment`
        batch_records: the most records in a batch
        on_data_loss: what to do with offsets below the start of the log: "raise", or "continue" and report them
        on_short: what to do with offsets past the end of the log (or in an open transaction): "raise", "stop" at
            the end and report them, or "wait" for them up to `stall_timeout_s`
        connect_timeout_s: seconds in which the brokers must have answered everything that planning asks
        stall_timeout_s: seconds without any news from the broker after which the read is given up
        timestamps, headers: whether the batches carry these columns
        readers: consumers that read at the same time, in threads, each its part of the offsets

    Yields:
        RecordBatch: records of one range, ascending; never empty. With several readers the batches of their parts
            come as they are read, the very first one from the first part.

    Raises:
        KafkaPipesError: `plan_ranges` and `Fetcher.fetch` say which.

    >>> from kafkapipes.testing import EmbeddedKafka
    >>> from kafkapipes.pipes.parser import RangeParser
    >>> with EmbeddedKafka() as kafka:
    ...     kafka.fill("clicks", [(b"one", b"0"), (b"two", b"1")])
    ...     reader = RangeParser("clicks:0:earliest:latest").read_partitions(kafka.bootstrap_servers)
    ...     [list(batch.values) for batch in reader]
    [[b'one', b'two']]
    """

    def __init__(
        self,
        ranges: Iterable[OffsetRange],
        bootstrap_servers: str | Sequence[str],
        group_id: str = "kafkapipes",
        *,
        config: Mapping[str, object] | None = None,
        batch_records: int = 5000,
        on_data_loss: str = "raise",
        on_short: str = "raise",
        connect_timeout_s: float = 30.0,
        stall_timeout_s: float = 60.0,
        timestamps: bool = True,
        headers: bool = False,
        readers: int = 1,
    ) -> None:
        check_choice("on_data_loss", on_data_loss, ON_DATA_LOSS)
        check_choice("on_short", on_short, ON_SHORT)
        check_count("batch_records", batch_records, 1_000_000)  # librdkafka's bound on one call
        check_seconds("connect_timeout_s", connect_timeout_s)
        check_seconds("stall_timeout_s", stall_timeout_s)
        check_count("readers", readers, MOST_READERS)
        if not isinstance(ranges, Iterable):
            raise RangeError(f"wanted OffsetRanges, found {shown(ranges)}: parse a text by RangeParser")
        # Attribute names differ from the arguments': torch adds the repr of same-named ones to every error.
        self._source = ranges
        self._client = ClientConfig(bootstrap_servers, group_id, config)
        # Any: each value has the type of the argument that it is passed on to.
        self._planning: dict[str, Any] = {
            "connect_timeout_s": connect_timeout_s, "on_data_loss": on_data_loss, "on_short": on_short,
        }  # fmt: skip
        self._fetching: dict[str, Any] = {
            "batch_records": batch_records, "stall_timeout_s": stall_timeout_s, "on_data_loss": on_data_loss,
            "timestamps": timestamps, "headers": headers,
        }  # fmt: skip
        self._wanted: list[OffsetRange] | None = None
        self._plan: ReadReport | None = None
        self._share = (1, 0)
        self._readers = readers
        self._collect: Collect | None = None  # a dataset's own, while it collects what comes
        self.report = ReadReport([])

    def plan(self) -> ReadReport:
        """Resolve and check the ranges now, once; later reads, and all workers, keep to the result."""
        if self._plan is None:
            self._plan = plan_ranges(self._listed(), self._client, **self._planning)
            self.report = self._plan
        return self._plan

    def set_seed(self, seed: int) -> "PartitionReader":
        """Plan. DataLoader calls this in the parent, before any worker starts: nothing here is random.

        Raises:
            RangeError: several ranks would each resolve symbolic bounds on their own, at different moments.
        """
        if self._plan is None and _several_ranks() and not all(item.is_concrete for item in self._listed()):
            raise RangeError(
                "wanted concrete ranges, found symbolic ones on several ranks, which would resolve them at different "
                "moments and so lose or double records; resolve them once, format_ranges(reader.plan().ranges), and "
                "give every rank that text"
            )
        self.report = self.plan()  # with workers it stays so: each worker keeps the account of its share
        return self

    def apply_sharding(self, num_of_instances: int, instance_id: int, sharding_group: object = None) -> None:
        """Keep to the offsets of one of several workers (the protocol of DataLoader)."""
        self._share = (num_of_instances, instance_id)

    def __iter__(self) -> Iterator[RecordBatch]:
        if max(self._share[0], self._readers) > 1 and self._planning["on_short"] == "wait":
            raise ConfigError(
                "on_short is 'wait' with several workers or readers, wanted one: another's share may begin where the "
                "log does not reach yet; read with num_workers=0 or 1, and readers=1"
            )
        self.report = self.plan().share(*self._share)
        parts = self._parts()
        destinations = self._collect(parts) if self._collect else [None] * len(parts)
        reads = [partial(self._read, *part, len(parts)) for part in zip(parts, destinations, strict=True)]
        if len(reads) == 1:
            yield from reads[0](lambda: False)
            return
        try:
            yield from side_by_side(reads, AHEAD)
        finally:
            for piece in chain.from_iterable(parts):
                self.report[piece.place].merge(piece.account)

    def _parts(self) -> list[list[Piece]]:
        """What each reader reads."""
        every = range(self._readers)
        parts = [part for number in every if (part := self.report.pieces(self._readers, number))]
        return parts if len(parts) > 1 else [list(starmap(Piece, enumerate(self.report)))]

    def _read(
        self, part: list[Piece], destination: Destination | None, readers: int, given_up: Callable[[], bool]
    ) -> Iterator[RecordBatch]:
        """The records of one reader's part."""
        with Fetcher(
            self._client, **self._fetching, destination=destination, readers=readers, given_up=given_up
        ) as fetcher:
            for piece in part:
                yield from fetcher.fetch(piece.account)
            if not given_up():
                fetcher.confirm()

    def _listed(self) -> list[OffsetRange]:
        """The ranges asked for, taken from the source once: it may be good for one pass only."""
        if self._wanted is None:
            wanted = list(self._source)
            if strange := [item for item in wanted if not isinstance(item, OffsetRange)]:
                raise RangeError(f"wanted OffsetRanges, found {shown(strange[0])}: parse a text by RangeParser")
            self._wanted = wanted
        return self._wanted

    def __repr__(self) -> str:
        return f"PartitionReader({self._client!r}, {len(self._plan) if self._plan else 'un'}planned)"


def _several_ranks() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
