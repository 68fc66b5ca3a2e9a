"""Where a stream stands, as a dictionary that fits JSON: made, checked, and put together from several readers. Pure.

A state names what it is of (ranges, topic ids, leader epochs, order, epoch), how that is shared out, and one position.
It is small: a few numbers and texts, whatever was read ahead. `check` is a digest of all the rest, so a state that was
torn or changed is refused, and so is one of another range, seed or topic.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from kafkapipes.blocks import Cut, Order, Share
from kafkapipes.errors import RangeError, StateError, TopicChangedError
from kafkapipes.options import shown
from kafkapipes.ranges import OffsetRange, format_ranges, parse_ranges

VERSION = 1
_MOVING = ("done", "missing")  # the rest stays as it is while one share is read


@dataclass(frozen=True)
class Log:
    """What a position in one range relies on: its log as it was when the epoch was planned.

    Attributes:
        start: first offset that could be read
        end: offset at which reading ends
        epoch: leader epoch; -1 where the cluster does not tell
        stable: offset up to which the log held records for good
    """

    start: int
    end: int
    epoch: int
    stable: int

    def __str__(self) -> str:
        return f"{self.start}:{self.end}:{self.epoch}:{self.stable}"


@dataclass(frozen=True)
class Checkpoint:
    """A position in a stream, and all that it depends on.

    Attributes:
        ranges: the ranges, with numbers for bounds
        topic_ids: topic → identity; "" where the cluster does not tell
        logs: of each range
        order: what the order depends on
        epoch: the epoch, as `set_epoch` had it
        cuts: how far others had come in this epoch before
        share: who stands here; None where all that `cuts` left is yet to be shared out
        done: items that this share has passed
        missing: how many of them held no record and have yet to be made up for, where ranks are to be equal
    """

    ranges: tuple[OffsetRange, ...]
    topic_ids: Mapping[str, str]
    logs: tuple[Log, ...]
    order: Order
    epoch: int
    cuts: tuple[Cut, ...] = ()
    share: Share | None = None
    done: int = 0
    missing: int = 0

    @property
    def readable(self) -> list[OffsetRange]:
        """Of each range, the offsets that are read: blocks are cut from these."""
        pairs = zip(self.ranges, self.logs, strict=True)
        return [replace(item, start=log.start, end=log.end) for item, log in pairs]

    @classmethod
    def from_state(cls, state: object) -> "Checkpoint":
        """The checkpoint in a state.

        Raises:
            StateError: it is no state, or of another version, or torn, or changed.
        """
        fields = check_whole(state, _MOVING)
        try:
            return cls(
                tuple(parse_ranges(fields["ranges"])) if fields["ranges"] else (),
                dict(fields["topic_ids"]),
                tuple(Log(*map(int, log.split(":"))) for log in fields["logs"].split(",") if log),
                Order(**fields["order"]),
                int(fields["epoch"]),
                tuple(Cut(tuple(tuple(map(int, rank)) for rank in cut)) for cut in fields["cuts"]),
                None if fields["share"] is None else Share(*map(int, fields["share"])),
                int(fields["done"]),
                int(fields["missing"]),
            )
        except (KeyError, TypeError, ValueError, RangeError) as exc:
            raise StateError(f"the state cannot be used: {type(exc).__name__}: {exc}; take another") from None

    def check_fits(self, other: "Checkpoint", declared: Sequence[OffsetRange]) -> None:
        """Raise unless this, from a state, is of the same topics, ranges and order as `other`, of a dataset.

        Args:
            declared: the ranges as they were given to the dataset; where they hold words, any number fits

        Raises:
            TopicChangedError: a topic was deleted and made anew since
            StateError: the state is of something else.
        """
        check_topics(self.topic_ids, other.topic_ids)
        if self.ranges != other.ranges and not _fit(self.ranges, declared):
            raise StateError(
                f"the state is of other ranges: it stands in {_named(self.ranges)}, wanted {_named(declared)}; resume "
                "with the dataset that it was taken from, or begin anew"
            )
        for name, wanted in asdict(self.order).items():
            found = getattr(other.order, name)
            if wanted != found:
                raise StateError(
                    f"the state is of another order: it was taken with {_SAYS[name]} {wanted!r}, the dataset has "
                    f"{found!r}; give the dataset the same, or begin the epoch anew"
                )

    def resumed_by(self, share: Share) -> "Checkpoint":
        """The checkpoint at which one reader goes on: the same where it was its own, else with its part of the rest.

        Raises:
            StateError: the state is of one of several readers, and this is another.
        """
        if self.share == share:
            return self
        if self.share is None:
            return replace(self, share=share)
        if self.share[1::2] == (1, 1):  # the only reader: nobody else has a part of this
            return replace(merged([self]), share=share)
        raise not_another(self.share, share)


class StateWriter:
    """Makes the states of one share: cheaply, since it is asked for one after every batch."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._fixed: dict[str, Any] = {
            "version": VERSION,
            "ranges": format_ranges(checkpoint.ranges),
            "topic_ids": dict(checkpoint.topic_ids),
            "logs": ",".join(map(str, checkpoint.logs)),
            "order": asdict(checkpoint.order),
            "epoch": checkpoint.epoch,
            "cuts": [[list(rank) for rank in cut.done] for cut in checkpoint.cuts],
            "share": None if checkpoint.share is None else list(checkpoint.share),
        }
        self._digest = digest_of(self._fixed)

    def state(self, done: int, missing: int) -> dict[str, Any]:
        """A state at a position; plain values, none of which changes later."""
        return sealed(self._fixed, self._digest, {"done": done, "missing": missing})


def merged(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """One checkpoint for all readers of an epoch, from which any number of others may go on.

    Raises:
        StateError: they are not of one epoch, or one is missing, or twice.
    """
    whole = replace(checkpoints[0], share=None, done=0, missing=0)
    if checkpoints == [whole]:
        return whole
    done: dict[Share, int] = {}
    readers = []
    for checkpoint in checkpoints:
        if checkpoint.share is None or replace(checkpoint, share=None, done=0, missing=0) != whole:
            raise StateError("the states are of several moments, epochs, orders or ranges; wanted those of one moment")
        readers.append(checkpoint.share)
        done[checkpoint.share] = checkpoint.done
    wanted = check_all_there(readers)
    ranks = [tuple(done[share] for share in wanted if share.rank == rank) for rank in range(wanted[0].world)]
    return replace(whole, cuts=(*whole.cuts, Cut(tuple(ranks))))


def states_in(found: object) -> list[dict[str, Any]]:
    """Our states within whatever a loader makes of them, such as the state of a StatefulDataLoader.

    Raises:
        StateError: the loader has gone on since it asked the workers.
    """
    if isinstance(found, Mapping):
        if "check" in found and "ranges" in found:
            return [dict(found)]
        if since := found.get("_steps_since_snapshot"):
            raise StateError(
                f"the loader's state is {since} step(s) ahead of those of its workers; take it after a multiple of "
                "snapshot_every_n_steps steps, or set that to 1"
            )
        return [state for item in found.values() for state in states_in(item)]
    if isinstance(found, list | tuple):
        return [state for item in found for state in states_in(item)]
    return []


_SAYS = {"block": "block_records", "batch": "batch_size", "window": "window_blocks", "seed": "the seed of the shuffle"}
_SAYS |= {"equal_ranks": "equal_ranks", "most": "max_records"}


def sealed(fixed: Mapping[str, Any], digest: bytes, moving: Mapping[str, Any]) -> dict[str, Any]:
    """A state: what stays, what moves, and a check of both. `digest` is `digest_of` what stays."""
    return {**fixed, **moving, "check": _check(digest, moving)}


def check_whole(state: object, moving: Sequence[str]) -> dict[str, Any]:
    """The fields of a state, after a look whether it is one, whole.

    Args:
        moving: the fields that are not in the digest of what stays

    Raises:
        StateError: it is no state, or of another version, or torn, or changed.
    """
    if not isinstance(state, Mapping) or "version" not in state:
        raise StateError(f"wanted a state of a stream, found {shown(state)}")
    if state["version"] != VERSION:
        raise StateError(
            f"the state is of version {shown(state['version'])}, this kafkapipes reads version {VERSION}; resume with "
            "the kafkapipes that has made it"
        )
    fixed = {name: value for name, value in state.items() if name not in (*moving, "check")}
    try:
        whole = state["check"] == _check(digest_of(fixed), {name: state[name] for name in moving})
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise StateError("the state is torn or was changed: its check does not fit; take an older one")
    return dict(state)


def digest_of(fixed: Mapping[str, Any]) -> bytes:
    """A digest of the fields that stay as they are."""
    return hashlib.sha256(_json(fixed)).digest()


def check_topics(wanted: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Raise a `TopicChangedError` if a topic of a state is another one by now."""
    for topic, topic_id in wanted.items():
        now = found.get(topic, topic_id)
        if "" not in (topic_id, now) and topic_id != now:
            raise TopicChangedError(
                f"topic {topic} was deleted and made anew since the state was taken: wanted the topic of id "
                f"{topic_id}, found {now}; its offsets name other records now, so begin anew"
            )


def check_all_there(readers: Sequence[Share]) -> list[Share]:
    """All readers of a stream, in order, after a look whether each is there, once.

    Raises:
        StateError: one is missing, or twice, or they are of different numbers.
    """
    for place, share in enumerate(readers):
        if share in readers[:place]:
            raise StateError(f"wanted one state of each reader, found two of {named(share)} among {len(readers)}")
    workers = {share.rank: share.workers for share in readers}
    world = readers[0].world
    ranks = [(rank, workers.get(rank, 1)) for rank in range(world)]
    wanted = [Share(rank, world, worker, count) for rank, count in ranks for worker in range(count)]
    if set(readers) != set(wanted):
        missing = next((share for share in wanted if share not in readers), None)
        lacks = "states of different numbers of workers or ranks" if missing is None else f"none of {named(missing)}"
        raise StateError(
            f"wanted the states of all {len(wanted)} readers at one moment, found {len(readers)}, and {lacks}"
        )
    return wanted


def not_another(share: Share, reader: Share) -> StateError:
    """The error where the state of one of several readers is loaded by another."""
    return StateError(
        f"the state is of {named(share)}, and this is {named(reader)}; put the states of all of them together by "
        "kafkapipes.merge_states, and load what it gives"
    )


def named(share: Share) -> str:
    """A reader, for messages."""
    return f"worker {share.worker} of {share.workers} of rank {share.rank} of {share.world}"


def _check(digest: bytes, moving: Mapping[str, Any]) -> str:
    return hashlib.sha256(digest + _json(moving)).hexdigest()[:16]


def _json(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _fit(ranges: Sequence[OffsetRange], declared: Sequence[OffsetRange]) -> bool:
    """Whether declared ranges may have been resolved to these: every number in them is the same, in the same order."""
    left = list(ranges)
    for item in declared:
        several = not isinstance(item.partition, int)
        taken = [left.pop(0)] if left and not several else []
        while several and left and left[0].topic == item.topic and _bounds_fit(left[0], item):
            taken.append(left.pop(0))
        if not taken or any(found.topic != item.topic or not _bounds_fit(found, item) for found in taken):
            return False
        if not several and taken[0].partition != item.partition:
            return False
    return not left


def _bounds_fit(found: OffsetRange, declared: OffsetRange) -> bool:
    pairs = ((found.start, declared.start), (found.end, declared.end))
    return all(number == word or not isinstance(word, int) for number, word in pairs)


def _named(ranges: Sequence[OffsetRange]) -> str:
    return f"{format_ranges(ranges[:5])}{', ...' if len(ranges) > 5 else ''}" if ranges else "no range"
