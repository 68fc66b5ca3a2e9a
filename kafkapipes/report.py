"""The account of a read: what each range asked for, what came, and what is missing and why. Pure.

For every range: requested = delivered + gaps + aged_out + unwritten + skipped.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, overload

from kafkapipes.ranges import OffsetRange, share_ranges

MAX_COORDINATES = 10  # skipped records named in full per range and reason; the rest are counted


@dataclass(slots=True)
class RangeReport:
    """The account of one concrete range.

    Attributes:
        range: the range with its bounds resolved to numbers
        low: first offset that the log still holds
        high: first offset that the log does not hold yet
        topic_id: the topic's identity when the read was planned; "" where the cluster does not tell
        epoch: leader epoch of the log when the read was planned; -1 where the cluster does not tell
        stable: offset up to which the log held records for good when the read was planned
        received: records that arrived from the broker
        overtaken: offsets that retention or a deletion took while the range was read
        skipped: reason → number of records that arrived and were left out
        skipped_at: reason → coordinates `topic:partition@offset` of the first records left out for it
        seconds: time from the first fetch to the end of the range; of parts read side by side, the longest
        finished: whether the range was read to its end
        covered: offsets of the pieces that were read, where it is read in pieces
        client: the client that read it, such as "direct" or "direct, then native"; "" before
    """

    range: OffsetRange
    low: int
    high: int
    topic_id: str = ""
    epoch: int = -1
    stable: int = 0
    received: int = 0
    overtaken: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    skipped_at: dict[str, list[str]] = field(default_factory=dict)
    seconds: float = 0.0
    finished: bool = False
    covered: int = 0
    client: str = ""

    @property
    def start(self) -> int:
        """The first offset that can be read."""
        first, last = self._bounds()
        return min(max(first, self.low), last)

    @property
    def end(self) -> int:
        """The offset at which reading ends."""
        first, last = self._bounds()
        return max(min(last, self.high), min(max(first, self.low), last))

    @property
    def requested(self) -> int:
        """Offsets that the range names."""
        return len(self.range)

    @property
    def aged_out(self) -> int:
        """Offsets below the start of the log: retention or a deletion took them, before the read or during it."""
        return self.start - self._bounds()[0] + self.overtaken

    @property
    def unwritten(self) -> int:
        """Offsets at or past the end of the log."""
        return self._bounds()[1] - self.end

    @property
    def delivered(self) -> int:
        """Records handed on: received and not skipped."""
        return self.received - sum(self.skipped.values())

    @property
    def gaps(self) -> int:
        """Offsets inside the log that hold no record: compacted, a transaction marker, or aborted.

        Known once the range is finished; 0 before.
        """
        return self.end - self.start - self.received - self.overtaken if self.finished else 0

    @property
    def rate(self) -> float:
        """Records received a second; 0 before the first."""
        return self.received / self.seconds if self.seconds else 0.0

    def part(self, piece: OffsetRange) -> "RangeReport":
        """A fresh account for a piece of the range, on the same log."""
        return RangeReport(piece, self.low, self.high, self.topic_id, self.epoch, self.stable)

    def add(self, part: "RangeReport", offsets: int) -> None:
        """Take over the counts of a piece of which so many more offsets were read; all covered, it is finished."""
        self.received, part.received = self.received + part.received, 0
        self.overtaken, part.overtaken = self.overtaken + part.overtaken, 0
        for reason, count in part.skipped.items():
            self.skipped[reason] = self.skipped.get(reason, 0) + count
            named = self.skipped_at.setdefault(reason, [])
            named += part.skipped_at[reason][: MAX_COORDINATES - len(named)]
        part.skipped, part.skipped_at = {}, {}
        self.covered += offsets
        self.finished = self.covered >= self.end - self.start

    def merge(self, part: "RangeReport") -> None:
        """Take over the account of a piece that was read beside others, once."""
        self.add(part, part.end - part.start if part.finished else 0)
        self.seconds, self.client = max(self.seconds, part.seconds), part.client or self.client

    def skip(self, reason: str, offsets: Iterable[int]) -> None:
        """Count records that are left out for `reason`."""
        for offset in offsets:
            self.skipped[reason] = self.skipped.get(reason, 0) + 1
            named = self.skipped_at.setdefault(reason, [])
            if len(named) < MAX_COORDINATES:
                named.append(f"{self.range.topic}:{self.range.partition}@{offset}")

    def to_dict(self) -> dict[str, object]:
        """The account as plain values, fit for JSON."""
        numbers = {name: getattr(self, name) for name in ("requested", "delivered", *_REASONS)}
        return {
            "range": str(self.range),
            **numbers,
            "skipped": dict(self.skipped),
            "skipped_at": {reason: list(named) for reason, named in self.skipped_at.items()},
            "seconds": round(self.seconds, 3),
            "rate": round(self.rate),
            "topic_id": self.topic_id,
            "finished": self.finished,
            "client": self.client,
        }

    def __str__(self) -> str:
        parts = [f"{self.delivered} of {self.requested} delivered"]
        parts += [f"{getattr(self, reason)} {reason.replace('_', ' ')}" for reason in _REASONS if getattr(self, reason)]
        parts += [
            f"{count} skipped ({reason}, first at {self.skipped_at[reason][0]})"
            for reason, count in self.skipped.items()
        ]
        parts += [
            f"{self.seconds:.2f} s ({self.rate:,.0f} records/s)" if self.finished else "not finished in this process"
        ]
        return f"{self.range}: {', '.join(parts)}"

    def _bounds(self) -> tuple[int, int]:
        start, end = self.range.start, self.range.end
        if not (isinstance(start, int) and isinstance(end, int)):
            raise TypeError(f"a report needs a concrete range, found {self.range}")
        return start, end


class Piece(NamedTuple):
    """A piece of one of the ranges of a report.

    Attributes:
        place: which range, from 0
        account: the account of the piece
    """

    place: int
    account: RangeReport


_REASONS = ("gaps", "aged_out", "unwritten")


class ReadReport(Sequence[RangeReport]):
    """The accounts of all ranges of a read, in the order written; `print` it or take `to_dict()`.

    >>> from kafkapipes.ranges import OffsetRange
    >>> report = ReadReport([RangeReport(OffsetRange("clicks", 0, 5, 10), low=7, high=100)])
    >>> report.requested, report[0].aged_out
    (5, 2)
    """

    def __init__(self, accounts: Iterable[RangeReport]) -> None:
        self._accounts = tuple(accounts)

    @overload
    def __getitem__(self, index: int) -> RangeReport: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[RangeReport, ...]: ...
    def __getitem__(self, index: int | slice) -> RangeReport | tuple[RangeReport, ...]:
        return self._accounts[index]

    def __len__(self) -> int:
        return len(self._accounts)

    def __iter__(self) -> Iterator[RangeReport]:
        return iter(self._accounts)

    @property
    def ranges(self) -> list[OffsetRange]:
        """The ranges, with their bounds resolved to numbers."""
        return [account.range for account in self]

    @property
    def requested(self) -> int:
        """Offsets that the ranges name."""
        return sum(account.requested for account in self)

    @property
    def readable(self) -> int:
        """Offsets that can be read, the most records that can come: where the log begins or ends none stand beyond."""
        return sum(account.end - account.start for account in self)

    @property
    def delivered(self) -> int:
        """Records handed on."""
        return sum(account.delivered for account in self)

    def share(self, instances: int, instance: int) -> "ReadReport":
        """Fresh accounts for the part that falls to one of `instances` workers."""
        return ReadReport(account for _, account in self.pieces(instances, instance))

    def pieces(self, parts: int, number: int) -> list["Piece"]:
        """One of so many parts of as many offsets each, one behind the other: fresh accounts of pieces of ranges."""
        shares = share_ranges(self.ranges, parts, number)
        return [Piece(place, self[place].part(piece)) for place, piece in shares]

    def to_dict(self) -> dict[str, object]:
        """The accounts as plain values, fit for JSON."""
        totals = {"requested": self.requested, "delivered": self.delivered}
        return {**totals, "ranges": [account.to_dict() for account in self]}

    def __str__(self) -> str:
        total = f"{self.delivered} of {self.requested} delivered from {len(self)} range(s)"
        return "\n".join([total, *(f"  {account}" for account in self)])

    def __repr__(self) -> str:
        return f"ReadReport({self.delivered} of {self.requested} delivered, {len(self)} range(s))"
