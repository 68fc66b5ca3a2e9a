"""StreamingKafkaDataset: ranges larger than memory, in any number of workers and ranks, resumed where they stopped."""

import copy
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import distributed
from torch.utils.data import IterableDataset, get_worker_info

from kafkapipes.arrays import elements_of
from kafkapipes.blocks import EQUAL_RANKS, LANES, Order, Share
from kafkapipes.bounded import BoundedStream
from kafkapipes.checkpoints import Checkpoint, Log, StateWriter, merged, states_in
from kafkapipes.control import ControlMessage, as_control_message
from kafkapipes.dataset import check_fits_torch
from kafkapipes.dead_letters import RecordPolicies, TakeLetters
from kafkapipes.decoding import Decoding
from kafkapipes.errors import ConfigError, DataLossError, RangeError, StateError
from kafkapipes.following import Followed, LiveCheckpoint, LiveStateWriter, Stripes, live_merged
from kafkapipes.formats.raw import Numbers, RawDecoder, element_type, least_bytes
from kafkapipes.kafka.config import ClientConfig
from kafkapipes.kafka.dead_letter_topic import DeadLetterTopic
from kafkapipes.kafka.fetcher import Fetcher
from kafkapipes.kafka.follower import Following
from kafkapipes.kafka.group import GroupOffsets
from kafkapipes.kafka.offsets import ON_DATA_LOSS, ON_SHORT, plan_ranges
from kafkapipes.kafka.release import leave_to_parent
from kafkapipes.live import LiveStream
from kafkapipes.making import Making
from kafkapipes.options import check_choice, check_count, check_seconds, shown
from kafkapipes.pipes.transformer import Sample, Transform
from kafkapipes.ranges import OffsetRange, Symbol, format_ranges
from kafkapipes.report import ReadReport
from kafkapipes.shared import SharedNumber
from kafkapipes.stream import Pass, State, StreamIterator

BLOCK_BYTES = 2**22  # of a block, where the size of a sample is declared: it takes longer to read than to find
BLOCK_RECORDS = 65_536  # of a block at the most
STRETCH_BYTES = 2**22  # to read at one place, in order, at the least: what is less one reader reads alone
STRETCH_OFFSETS = 100_000  # the same, where a sample is small
UNDECLARED_BYTES = 1024  # of a sample, where its size is not declared: a guess
STRIPE = 256  # offsets of a log without an end that are one reader's, where batches do not tell


@dataclass(frozen=True)
class Source:
    """What a stream reads, and how its records become samples.

    Attributes:
        ranges: as they were written
        client: where they lie
        planning: options of `plan_ranges`
        fetching: options of `Fetcher`
        decoding: records → columns
        transform, label_transform: called with each value and each label
    """

    ranges: Sequence[OffsetRange]
    client: ClientConfig
    planning: Mapping[str, Any]
    fetching: Mapping[str, Any]
    decoding: Decoding
    transform: Transform | None = None
    label_transform: Transform | None = None


class StreamingKafkaDataset(IterableDataset[Sample]):
    """The records that a control message names, as a stream: nothing is held but what is being handed out.

    Iterating gives samples `(value, label)` as `TrainingKafkaDataset` does, or with `batch_size` whole batches: a
    tensor [B, *shape] of values and one [B] or [B, *label_shape] of labels (lists of str or bytes for strings). Where
    there is no `label_type`, the value or values alone. For a DataLoader over batches: `batch_size=None`.

    The ranges are resolved when this is made. Workers of a DataLoader and ranks share the offsets, each record is for
    one of them. The order depends on `seed`, the epoch and the options, and batches come in the same sequence for any
    number of workers. A batch holds the records of `batch_size` places in that order: offsets without a record make
    it smaller. One that would be empty is left out; with several workers it comes, with no rows, so that the others
    keep their turns.

    `iter()` gives a `StreamIterator`, which has `state_dict` and `load_state_dict`; a StatefulDataLoader calls them.

    Args:
        control_message: a `ControlMessage`, its dictionary, or its JSON text
        bootstrap_servers: `"host:port"`, or several, as a list or separated by commas
        group_id: passed on to the client; nothing is committed under it but by `commit`
        transform: called with each value
        label_transform: called with each label
        shuffle: blocks of offsets in random order, and the records of several blocks mixed
        seed: of the shuffle; with the epoch it decides the order
        batch_size: records a batch; None gives samples
        batch_transform: called with values and labels of each batch (or the values alone)
        coordinates: whether each sample comes with a third part, (topic, partition, offset), and each batch with what
            collating makes of these: a list of topics, and int64 tensors [B] of partitions and offsets
        batch_records: the most records fetched at once
        block_records: offsets a block; None: about 4 MiB of them, and of a small range a part
        window_blocks: blocks whose records are mixed with one another; 12 times as many are held
        prefetch_blocks: blocks that are read ahead, at the least; a shuffle reads what it holds, once more, ahead
        rank, world_size: which of how many processes this is; None: as torch.distributed, or RANK and WORLD_SIZE in
            the environment, have it when iterating begins
        equal_ranks: "drop" leaves out fewer than `world_size` offsets, "pad" repeats as many, and where offsets hold
            no record others come again, so that every rank has as many items; None does neither
        max_records: the most offsets of an epoch, the first in its order; of ranges without an end the most records
        idle_timeout_s: seconds without a new record after which a stream without an end is over; None: never
        linger_s: seconds without a new record after which such a stream hands out a batch that is not full
        from_committed: whether such a stream begins, in each partition, where `commit` or others have committed for
            `group_id`, if anywhere
        config: librdkafka properties; no secret is ever shown, a value may be a callable that fetches it
        on_data_loss, on_short, connect_timeout_s, stall_timeout_s: as for `PartitionReader`
        on_error, tombstone, null_key, dead_letter, dead_letter_payload, max_skipped: as for `ByteDecoder`

    Raises:
        ControlMessageError, RangeError, ConfigError: before any connection is made
        KafkaPipesError: what went wrong at the broker; `kafkapipes.errors` lists the classes

    >>> import numpy as np
    >>> from kafkapipes.testing import EmbeddedKafka
    >>> with EmbeddedKafka() as kafka:
    ...     kafka.fill("clicks", [(np.float32([number, 0]).tobytes(), bytes([number])) for number in range(10)])
    ...     message = {"topic": "clicks:0:0:10", "input_config": {"data_type": "float32", "label_type": "uint8"}}
    ...     stream = StreamingKafkaDataset(message, kafka.bootstrap_servers, "readers", shuffle=True, batch_size=4)
    ...     [labels.tolist() for values, labels in stream]
    [[7, 8, 0, 2], [4, 5, 6, 9], [3, 1]]
    """

    def __init__(
        self,
        control_message: ControlMessage | Mapping[str, object] | str,
        bootstrap_servers: str | Sequence[str],
        group_id: str,
        transform: Transform | None = None,
        label_transform: Transform | None = None,
        *,
        shuffle: bool = False,
        seed: int = 0,
        batch_size: int | None = None,
        batch_transform: Callable[..., Any] | None = None,
        coordinates: bool = False,
        batch_records: int = 40_000,
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
        config: Mapping[str, object] | None = None,
        on_data_loss: str = "raise",
        on_short: str = "raise",
        on_error: str = "raise",
        tombstone: str = "raise",
        null_key: str = "raise",
        dead_letter: TakeLetters | None = None,
        dead_letter_payload: bool = False,
        max_skipped: int | None = None,
        connect_timeout_s: float = 30.0,
        stall_timeout_s: float = 60.0,
    ) -> None:
        message = as_control_message(control_message)
        layout = message.format
        check_count("batch_records", batch_records, 1_000_000)  # librdkafka's bound on one call
        check_choice("on_data_loss", on_data_loss, ON_DATA_LOSS)
        check_choice("on_short", on_short, ON_SHORT)
        for name, seconds in (("connect_timeout_s", connect_timeout_s), ("stall_timeout_s", stall_timeout_s)):
            check_seconds(name, seconds)
        data = element_type(layout.data_type, elements_of(layout.data_shape))
        label = None if layout.label_type is None else element_type(layout.label_type, elements_of(layout.label_shape))
        policies = RecordPolicies(on_error, tombstone, null_key, dead_letter, dead_letter_payload, max_skipped)
        source = Source(
            ranges=message.ranges,
            client=ClientConfig(bootstrap_servers, group_id, config),
            planning={"connect_timeout_s": connect_timeout_s, "on_data_loss": on_data_loss, "on_short": on_short},
            fetching={
                "batch_records": batch_records, "stall_timeout_s": stall_timeout_s, "timestamps": False,
                "headers": False, "on_data_loss": on_data_loss,
            },
            decoding=Decoding(RawDecoder(data, label), layout.data_shape, layout.label_shape, policies),
            transform=transform,
            label_transform=label_transform,
        )  # fmt: skip
        self._set_up(
            source, shuffle=shuffle, seed=seed, batch_size=batch_size, batch_transform=batch_transform,
            coordinates=coordinates, block_records=block_records, window_blocks=window_blocks,
            prefetch_blocks=prefetch_blocks, rank=rank, world_size=world_size, equal_ranks=equal_ranks,
            max_records=max_records, idle_timeout_s=idle_timeout_s, linger_s=linger_s, from_committed=from_committed,
        )  # fmt: skip

    @classmethod
    def _of(cls, source: "Source", **options: Any) -> "StreamingKafkaDataset":
        """The stream of what a chain of pipes reads; all options are wanted."""
        stream = cls.__new__(cls)
        stream._set_up(source, **options)
        return stream

    def _set_up(
        self,
        source: "Source",
        *,
        shuffle: bool,
        seed: int,
        batch_size: int | None,
        batch_transform: Callable[..., Any] | None,
        coordinates: bool,
        block_records: int | None,
        window_blocks: int,
        prefetch_blocks: int,
        rank: int | None,
        world_size: int | None,
        equal_ranks: str | None,
        max_records: int | None,
        idle_timeout_s: float | None,
        linger_s: float,
        from_committed: bool,
    ) -> None:
        self._declared, self._decoding, self._client = list(source.ranges), source.decoding, source.client
        self._is_live = any(item.end is Symbol.UNBOUNDED for item in self._declared)
        for name, value in (("batch_size", batch_size), ("block_records", block_records), ("max_records", max_records)):
            if value is not None:
                check_count(name, value, 2**62)
        check_count("window_blocks", window_blocks, 2**20)
        check_count("prefetch_blocks", prefetch_blocks, 2**20, least=0)
        check_count("seed", seed, 2**63 - 1, least=0)
        check_seconds("linger_s", linger_s)
        _check_rank(rank, world_size)
        if equal_ranks is not None:
            check_choice("equal_ranks", equal_ranks, EQUAL_RANKS)
        if idle_timeout_s is not None:
            check_seconds("idle_timeout_s", idle_timeout_s)
        _check_end(self._is_live, shuffle, equal_ranks, idle_timeout_s, from_committed)
        if batch_size is None and batch_transform is not None:
            raise ConfigError("there is a batch_transform, but no batch_size; wanted both, or transform")
        if isinstance(source.decoding.policies.dead_letter, DeadLetterTopic):
            source.decoding.policies.dead_letter.check_source({item.topic for item in self._declared})
        if batch_size is not None:
            for kind in (source.decoding.decoder.data, source.decoding.decoder.label):
                check_fits_torch(kind.dtype.name if isinstance(kind, Numbers) else None)
        self._making = Making(source.transform, source.label_transform, batch_transform, bool(coordinates))
        self._fetching = {**source.fetching, "timestamps": False, "headers": False}
        self._waits = source.planning["on_short"] == "wait"
        self._planned, self._loss = _plan(self._declared, self._client, **source.planning)
        self._any_block = block_records is None
        block = block_records or _block_for(self._decoding.decoder, self._planned, window_blocks if shuffle else None)
        block = 1 if self._waits else block  # what is in a block that is not there yet would wait for the rest of it
        self._order = Order(block, batch_size, window_blocks, seed if shuffle else None, equal_ranks, max_records)
        self._stripe = block_records or batch_size or STRIPE
        self._prefetch = prefetch_blocks * block
        self._sample_bytes = _sample_bytes(self._decoding.decoder)
        is_long = self._prefetch >= min(STRETCH_OFFSETS, -(-STRETCH_BYTES // self._sample_bytes))
        self._stretch = self._prefetch if is_long and not self._waits and not shuffle else 0
        self._ends_live: dict[str, Any] = {
            "linger_s": linger_s,
            "idle_timeout_s": idle_timeout_s,
            "max_records": max_records,
        }
        self._own_rank = None if rank is None or world_size is None else (rank, world_size)
        self._parents_rank: tuple[int, int] | None = None
        self._epoch, self._stops = SharedNumber(0), SharedNumber(0)
        self._rest: Checkpoint | LiveCheckpoint | None = None
        self._latest: Pass | None = None
        self._group: tuple[int, GroupOffsets] | None = None
        self._committed: dict[tuple[str, int], int] = {}
        if from_committed:
            self._committed = self._group_offsets().committed({_partition(account.range) for account in self._planned})
            self._group = None  # before any fork

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the iterators to come: with the seed it decides their order. Workers that live on see it.

        Raises:
            ConfigError: it is no number from 0, or this is the rest of another epoch.
        """
        check_count("epoch", epoch, 2**63 - 1, least=0)
        if isinstance(self._rest, Checkpoint) and epoch != self._rest.epoch:
            raise ConfigError(
                f"this is the rest of epoch {self._rest.epoch}, wanted {epoch}; iterate the dataset that it is of"
            )
        self._epoch.value = epoch

    @property
    def epoch(self) -> int:
        """The epoch of the next iterator."""
        return self._epoch.value

    def stop(self) -> None:
        """End all iterators of now, in workers too, before their next item; those begun later go on.

        Their states stay good. May be called in any thread, as by a signal's handler.
        """
        self._stops.value += 1

    @property
    def ranges(self) -> list[OffsetRange]:
        """The ranges in the order written, with numbers for bounds; those without an end as far as the log went."""
        return list(self._rest.ranges) if isinstance(self._rest, Checkpoint) else self._planned.ranges

    @property
    def report(self) -> ReadReport:
        """Per range what was requested, delivered and missing: by the latest iterator of this process, or the plan."""
        return self._planned if self._latest is None else self._latest.report

    def commit(self, states: object) -> None:
        """Commit to the group `group_id` what was handed out, of ranges without an end: lag shows, and a start goes on.

        Of each partition the offset is committed below which everything was handed out by all readers: never what was
        only read ahead. Call it when what was handed out has had its effect, such as a step of training. A dataset
        with `from_committed=True` begins there: what was handed out since comes again.

        Args:
            states: where all readers stand, as for `rest`

        Raises:
            StateError: they are not whole, or of something else
            ConfigError: every range has an end
            AuthorizationError, StalledError: the group may not be written, or no broker answers
            KafkaPipesError: consumers have joined the group
        """
        if not self._is_live:
            raise ConfigError("wanted ranges without an end to commit for, found that each has one: keep a state")
        whole = self._live_stream(Share()).checked(LiveCheckpoint.from_state(merge_states(states)))
        self._group_offsets().commit({key: followed.position for key, followed in whole.followed.items()})

    def rest(self, states: object) -> "StreamingKafkaDataset":
        """What is left of an epoch, for any number of workers and ranks: each record of it once.

        Args:
            states: where all readers of the epoch stood at one moment: what their `state_dict()` gave, or that of the
                StatefulDataLoader of each rank, in a list or alone, or what `merge_states` made of these

        Returns:
            A dataset of that epoch's rest; for the epochs to come go on with this one.

        Raises:
            StateError: they are not whole, or of something else
        """
        state = merge_states(states)
        rest = copy.copy(self)
        if self._is_live:
            rest._rest = self._live_stream(Share()).checked(LiveCheckpoint.from_state(state))
        else:
            rest._rest = self._bounded_stream(Share()).checked(Checkpoint.from_state(state))
            rest._epoch = SharedNumber(rest._rest.epoch)
        rest._latest = None
        return rest

    def __iter__(self) -> StreamIterator:
        share = self._share()
        self._check_shared(share)
        return StreamIterator(self._live_stream(share) if self._is_live else self._bounded_stream(share))

    def __len__(self) -> int:
        """Items of an epoch, all workers together, known only with `equal_ranks`.

        Raises:
            TypeError: it is not known before all is read, since offsets may hold no record
        """
        if self._order.equal_ranks is None:
            raise TypeError("a stream has no length before it is read: offsets may hold no record; set equal_ranks")
        share, start = self._share(), self._bounded_stream(self._share()).start
        course = start.order.course(sum(map(len, start.readable)), start.epoch, start.cuts)
        return start.order.deal(course, start.epoch, share).items

    def __bool__(self) -> bool:
        return True  # whatever its length

    def __getstate__(self) -> dict[str, Any]:
        rank = _rank_in_torch() or self._parents_rank  # in a process that is not forked nobody knows it
        return {**self.__dict__, "_latest": None, "_group": None, "_parents_rank": rank}

    def __repr__(self) -> str:
        unit = "samples" if self._order.batch is None else f"batches of {self._order.batch}"
        return f"StreamingKafkaDataset({unit} from {len(self._declared)} range(s), epoch {self.epoch})"

    def _share(self) -> Share:
        worker = get_worker_info()
        rank = self._own_rank or _rank_in_torch() or self._parents_rank or _rank_in_environment() or (0, 1)
        return Share(*rank) if worker is None else Share(*rank, worker.id, worker.num_workers)

    def _check_shared(self, share: Share) -> None:
        fixed = all(isinstance(item.start, int) if self._is_live else item.is_concrete for item in self._declared)
        if share.world > 1 and self._rest is None and not fixed:
            raise RangeError(
                "wanted concrete ranges, found symbolic ones on several ranks, which have resolved them at different "
                "moments and so would lose or double records; resolve them once, format_ranges(dataset.ranges), and "
                "give every rank that text (without an end, where it has none)"
            )
        several = share.world * share.workers > 1 or self._order.seed is not None
        if self._waits and several and not self._is_live and not self._loss:
            raise ConfigError(
                "on_short is 'wait', wanted one reader that goes through the ranges in their order: another block may "
                "begin where the log does not reach yet; read with one rank, num_workers=0 or 1, and no shuffle"
            )

    def _group_offsets(self) -> GroupOffsets:
        """The client of this process that commits."""
        if self._group is not None and self._group[0] != os.getpid():
            leave_to_parent(self._group)
            self._group = None
        if self._group is None:
            self._group = os.getpid(), GroupOffsets(self._client, self._fetching["stall_timeout_s"])
        return self._group[1]

    def _note(self, latest: Pass) -> None:
        self._latest = latest

    def _stopped(self) -> Callable[[], bool]:
        """What tells an iterator that is begun now whether it is to end."""
        stops, before = self._stops, self._stops.value
        return lambda: stops.value != before

    def _bounded_stream(self, share: Share) -> BoundedStream:
        topic_ids = {account.range.topic: account.topic_id for account in self._planned}
        stretch = self._stretch if share.workers == 1 else 0
        piece = stretch if self._order.seed is None else self._order.block
        logs = tuple(Log(account.start, account.end, account.epoch, account.stable) for account in self._planned)
        start = Checkpoint(tuple(self._planned.ranges), topic_ids, logs, self._order, self.epoch)
        return BoundedStream(
            start=replace(self._rest if isinstance(self._rest, Checkpoint) else start, share=share),
            declared=self._declared,
            stable={_partition(account.range): account.stable for account in self._planned},
            loss="" if self._rest else self._loss,
            any_block=self._any_block,
            connect=partial(Fetcher, self._client, **self._fetching, piece_bytes=piece * self._sample_bytes or None),
            decoding=self._decoding,
            making=self._making,
            prefetch=self._prefetch,
            stretch=stretch,
            stopped=self._stopped(),
            note=self._note,
        )

    def _live_stream(self, share: Share) -> LiveStream:
        accounts = {_partition(account.range): account for account in self._planned}
        topic_ids = {account.range.topic: account.topic_id for account in self._planned}
        begun = {
            key: Followed(first, first, account.epoch)
            for key, account in accounts.items()
            for first in [self._committed.get(key, account.start)]
        }
        start = LiveCheckpoint(format_ranges(self._declared), topic_ids, self._stripe, begun)
        unbounded = [item for item in self._declared if item.end is Symbol.UNBOUNDED]
        growing = frozenset(item.topic for item in unbounded if item.partition is Symbol.ALL)
        endless = {(item.topic, item.partition) for item in unbounded}
        ends = {key: account.end for key, account in accounts.items() if key[0] not in growing and key not in endless}
        following = Following(
            self._client, self._fetching, self._fetching["stall_timeout_s"], Stripes(self._stripe, share), topic_ids,
            growing, ends,
        )  # fmt: skip
        return LiveStream(
            start=replace(self._rest if isinstance(self._rest, LiveCheckpoint) else start, share=share),
            following=following,
            loss="" if self._rest else self._loss,
            decoding=self._decoding,
            making=self._making,
            batch_size=self._order.batch,
            prefetch=self._prefetch,
            stopped=self._stopped(),
            note=self._note,
            **self._ends_live,
        )


def merge_states(states: object) -> State:
    """One state of all readers of an epoch, from which any number of workers and ranks may go on.

    Args:
        states: the states of all of them at one moment, in lists or within whatever loaders have made of them

    Raises:
        StateError: one is missing, or there are two of one reader, or they are of different epochs

    >>> merge_states([])
    Traceback (most recent call last):
    ...
    kafkapipes.errors.StateError: wanted the states of a stream's readers, found none in []
    """
    found = states_in(states)
    if not found:
        raise StateError(f"wanted the states of a stream's readers, found none in {shown(states)}")
    if any("positions" in state for state in found):
        whole = live_merged([LiveCheckpoint.from_state(state) for state in found])
        return LiveStateWriter(whole).state(whole.followed, whole.records)
    return StateWriter(merged([Checkpoint.from_state(state) for state in found])).state(0, 0)


def _plan(
    ranges: Sequence[OffsetRange], client: ClientConfig, connect_timeout_s: float, on_data_loss: str, on_short: str
) -> tuple[ReadReport, str]:
    """The accounts of the ranges, and why they cannot be read from the beginning; a state may stand behind that."""
    ended = [replace(item, end=Symbol.LATEST) if item.end is Symbol.UNBOUNDED else item for item in ranges]
    planned = partial(plan_ranges, ended, client, connect_timeout_s=connect_timeout_s)
    try:
        plan, loss = planned(on_data_loss=on_data_loss, on_short=on_short), ""
    except DataLossError as exc:
        plan, loss = planned(on_data_loss="continue", on_short="stop"), str(exc)
    partitions = Counter(_partition(account.range) for account in plan)
    if ended != list(ranges) and (twice := [key for key, times in partitions.items() if times > 1]):
        (topic, partition), times = twice[0], partitions[twice[0]]
        raise RangeError(
            f"wanted each partition once where a range has no end, found {topic}:{partition} {times} times"
        )
    return plan, loss


def _partition(item: OffsetRange) -> tuple[str, int]:
    return item.topic, int(item.partition)  # type: ignore[arg-type]  # concrete


def _block_for(decoder: RawDecoder, plan: ReadReport, window_blocks: int | None) -> int:
    """Offsets a block: about BLOCK_BYTES; for a shuffle few enough that each of the windows has blocks to mix."""
    block = max(1, min(BLOCK_BYTES // _sample_bytes(decoder), BLOCK_RECORDS))
    if window_blocks is None:
        return block
    total = sum(account.end - account.start for account in plan)
    return max(1, min(block, -(-total // (LANES * window_blocks))))


def _sample_bytes(decoder: RawDecoder) -> int:
    """About how large a sample is; a label whose size is not declared is taken for a single number."""
    if not getattr(decoder.data, "elements", None):
        return UNDECLARED_BYTES
    return sum(least_bytes(kind) for kind in (decoder.data, decoder.label) if kind is not None)


def _check_end(
    is_live: bool, shuffle: bool, equal_ranks: str | None, idle_timeout_s: float | None, from_committed: bool
) -> None:
    """Raise unless the options suit ranges that have, or have not, an end."""
    for name, given in (("idle_timeout_s", idle_timeout_s is not None), ("from_committed", from_committed)):
        if given and not is_live:
            raise ConfigError(f"there is {name}, but every range has an end; leave it out")
    if is_live and shuffle:
        raise ConfigError(
            "shuffle is True, but a range has no end, so there is no order of all its records; give it one"
        )
    if is_live and equal_ranks is not None:
        raise ConfigError("there are equal_ranks, but a range has no end, and so no number of records; leave it out")


def _check_rank(rank: int | None, world_size: int | None) -> None:
    if (rank is None) != (world_size is None):
        raise ConfigError(f"rank is {shown(rank)} and world_size {shown(world_size)}, wanted both or neither")
    if rank is not None and world_size is not None:
        check_count("world_size", world_size, 2**20)
        check_count("rank", rank, world_size - 1, least=0)


def _rank_in_torch() -> tuple[int, int] | None:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return None


def _rank_in_environment() -> tuple[int, int] | None:
    """What torchrun and its likes set, also where nobody has initialised torch.distributed."""
    rank, world = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    if rank.isdecimal() and world.isdecimal() and int(rank) < int(world):
        return int(rank), int(world)
    return None
