"""Streams without an end: how far each log was followed, and which offsets are whose. Pure.

A log without an end has no course: records come in the order in which they are written, partition by partition as they
arrive. Its offsets are parted into stripes, each of which belongs to one reader:

    partition 0   | stripe 0: reader 0 | stripe 1: reader 1 | stripe 2: reader 0 | ...
    partition 1   | stripe 0: reader 1 | stripe 1: reader 0 | ...

A position is one offset a partition: what of the own stripes lies below it was handed out. Readers stand at different
positions; what they have done together is everything below the lowest, and some stripes above (`taken`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kafkapipes.blocks import Share
from kafkapipes.checkpoints import VERSION, check_all_there, check_topics, check_whole, digest_of, not_another, sealed
from kafkapipes.errors import StateError

Partition = tuple[str, int]
Span = tuple[int, int]  # offsets from the first up to, and without, the second


@dataclass(frozen=True, slots=True)
class Followed:
    """How far the log of one partition was followed.

    Attributes:
        start: the offset at which it was begun
        position: the offset below which all own stripes were handed out
        epoch: leader epoch of the log when the position was reached; -1 where the cluster does not tell
        taken: above the position, what others had handed out before
    """

    start: int
    position: int
    epoch: int = -1
    taken: tuple[Span, ...] = ()

    def __str__(self) -> str:
        return " ".join([f"{self.start} {self.position} {self.epoch}", *(f"{one}-{two}" for one, two in self.taken)])


@dataclass(frozen=True)
class Stripes:
    """Which offsets of which partition are whose.

    >>> stripes = Stripes(10, Share(rank=0, world=1, worker=1, workers=2))
    >>> list(stripes.own(partition=0, start=5, end=45)), list(stripes.own(partition=1, start=5, end=45))
    ([(10, 20), (30, 40)], [(5, 10), (20, 30), (40, 45)])
    """

    size: int
    share: Share

    @property
    def readers(self) -> int:
        """How many readers there are."""
        return self.share.world * self.share.workers

    def own(self, partition: int, start: int, end: int, taken: Sequence[Span] = ()) -> Iterator[Span]:
        """The offsets from `start` to `end` that are this reader's, without those that were taken."""
        if self.readers == 1:
            yield from _without((start, end), taken)
            return
        reader = self.share.rank * self.share.workers + self.share.worker
        stripe = start // self.size
        stripe += (reader - stripe - partition) % self.readers
        while stripe * self.size < end:
            yield from _without((max(start, stripe * self.size), min(end, (stripe + 1) * self.size)), taken)
            stripe += self.readers


def together(readers: Mapping[Share, Mapping[Partition, Followed]], size: int) -> dict[Partition, Followed]:
    """How far all readers have come together; each may have met a partition that others have not yet.

    >>> one, two = Share(worker=0, workers=2), Share(worker=1, workers=2)
    >>> together({one: {("t", 0): Followed(0, 33)}, two: {("t", 0): Followed(0, 12)}}, size=10)
    {('t', 0): Followed(start=0, position=12, epoch=-1, taken=((20, 30),))}
    """
    found = {}
    for key in sorted({key for followed in readers.values() for key in followed}):
        known = [followed[key] for followed in readers.values() if key in followed]
        start = min(item.start for item in known)
        reached = {share: followed[key].position if key in followed else start for share, followed in readers.items()}
        base = min(reached.values())
        taken = [span for item in known for span in item.taken]
        for share, position in reached.items():
            taken += Stripes(size, share).own(key[1], base, position)
        position, rest = _settled(base, taken)
        found[key] = Followed(start, position, max(item.epoch for item in known), rest)
    return found


def passed(followed: Followed, position: int, epoch: int) -> Followed:
    """The same log, followed further; what was taken below is told no more."""
    taken = tuple(span for span in followed.taken if span[1] > position)
    return replace(followed, position=position, epoch=epoch, taken=taken)


def _without(span: Span, taken: Sequence[Span]) -> Iterator[Span]:
    start, end = span
    for first, behind in taken:
        if behind <= start or first >= end:
            continue
        if start < first:
            yield start, first
        start = max(start, behind)
    if start < end:
        yield start, end


def _settled(base: int, taken: Iterable[Span]) -> tuple[int, tuple[Span, ...]]:
    """The position below which nothing is left, and the spans above it, ascending and apart."""
    apart: list[Span] = []
    for start, end in sorted(taken):
        if end <= base:
            continue
        if start <= base:
            base = end
        elif apart and start <= apart[-1][1]:
            apart[-1] = (apart[-1][0], max(apart[-1][1], end))
        else:
            apart.append((start, end))
    return base, tuple(apart)


_MOVING = ("positions", "records")


@dataclass(frozen=True)
class LiveCheckpoint:
    """How far a stream without an end was followed, and what that depends on.

    Attributes:
        ranges: the ranges as they were given
        topic_ids: topic → identity; "" where the cluster does not tell
        stripe: offsets of a stripe
        followed: partition → how far
        share: who stands here; None where all that is left is yet to be shared out
        before: records that others had handed out before
        records: records that this share has handed out
    """

    ranges: str
    topic_ids: Mapping[str, str]
    stripe: int
    followed: Mapping[Partition, Followed]
    share: Share | None = None
    before: int = 0
    records: int = 0

    @classmethod
    def from_state(cls, state: object) -> "LiveCheckpoint":
        """The checkpoint in a state.

        Raises:
            StateError: it is no such state, or of another version, or torn, or changed.
        """
        fields = check_whole(state, _MOVING)
        try:
            return cls(
                str(fields["ranges"]),
                dict(fields["topic_ids"]),
                int(fields["stripe"]),
                {_key(name): _followed(text) for name, text in fields["positions"].items()},
                None if fields["share"] is None else Share(*map(int, fields["share"])),
                int(fields["before"]),
                int(fields["records"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise StateError(f"the state cannot be used: {type(exc).__name__}: {exc}; take another") from None

    def check_fits(self, other: "LiveCheckpoint") -> None:
        """Raise unless this, from a state, is of the same topics, ranges and stripes as `other`, of a dataset.

        Raises:
            TopicChangedError: a topic was deleted and made anew since
            StateError: the state is of something else.
        """
        check_topics(self.topic_ids, other.topic_ids)
        if self.ranges != other.ranges:
            raise StateError(
                f"the state is of other ranges: it follows {self.ranges}, wanted {other.ranges}; resume with the "
                "dataset that it was taken from, or begin anew"
            )
        if self.stripe != other.stripe:
            raise StateError(
                f"the state is of stripes of {self.stripe} offsets, the dataset has {other.stripe}; give the "
                "dataset the same batch_size and block_records, or begin anew"
            )

    def resumed_by(self, share: Share) -> "LiveCheckpoint":
        """The checkpoint at which one reader goes on: its own, or its part of what all have left.

        Raises:
            StateError: the state is of one of several readers, and this is another.
        """
        if self.share == share:
            return self
        if self.share is None or self.share.world * self.share.workers == 1:
            return replace(live_merged([self]), share=share)
        raise not_another(self.share, share)


class LiveStateWriter:
    """Makes the states of one share."""

    def __init__(self, checkpoint: LiveCheckpoint) -> None:
        self._fixed: dict[str, Any] = {
            "version": VERSION,
            "ranges": checkpoint.ranges,
            "topic_ids": dict(checkpoint.topic_ids),
            "stripe": checkpoint.stripe,
            "share": None if checkpoint.share is None else list(checkpoint.share),
            "before": checkpoint.before,
        }
        self._digest = digest_of(self._fixed)

    def state(self, followed: Mapping[Partition, Followed], records: int) -> dict[str, Any]:
        """A state at a position; plain values, none of which changes later."""
        positions = {f"{topic}:{partition}": str(item) for (topic, partition), item in followed.items()}
        return sealed(self._fixed, self._digest, {"positions": positions, "records": records})


def live_merged(checkpoints: Sequence[LiveCheckpoint]) -> LiveCheckpoint:
    """One checkpoint for all readers of a stream, from which any number of others may go on.

    Raises:
        StateError: they are not of one stream, or one is missing, or twice.
    """
    first = checkpoints[0]
    if len(checkpoints) == 1 and first.share is None:
        return first
    readers: dict[Share, Mapping[Partition, Followed]] = {}
    for checkpoint in checkpoints:
        alike = replace(first, followed=checkpoint.followed, share=checkpoint.share, records=checkpoint.records)
        if checkpoint.share is None or checkpoint != alike:
            raise StateError("the states are of several streams or moments; wanted those of one stream at one moment")
        readers[checkpoint.share] = checkpoint.followed
    check_all_there([checkpoint.share for checkpoint in checkpoints if checkpoint.share is not None])
    records = first.before + sum(checkpoint.records for checkpoint in checkpoints)
    return replace(first, followed=together(readers, first.stripe), share=None, before=records, records=0)


def _key(name: str) -> Partition:
    topic, _, partition = name.rpartition(":")
    return topic, int(partition)


def _followed(text: str) -> Followed:
    start, position, epoch, *taken = text.split(" ")
    spans = tuple((int(first), int(behind)) for first, _, behind in (span.partition("-") for span in taken))
    return Followed(int(start), int(position), int(epoch), spans)
