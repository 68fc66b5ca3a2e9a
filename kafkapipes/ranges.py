"""Offset ranges and their text form, both ways. Pure: no Kafka, no arrays.

Grammar: `topic:partition:start:end`, comma-separated, END EXCLUSIVE.
  partition   a number | `*` (every partition of the topic)
  start       an offset | `earliest` | `-N` (N offsets before the end of the log) | `@MS` (a time)
  end         an offset | `latest` | `@MS` | empty or `*` (no end)
A time `@MS` stands for the first record at or after that many milliseconds since 1970-01-01 UTC.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from kafkapipes.errors import RangeError
from kafkapipes.options import shown

MAX_OFFSET = 2**63 - 1  # offsets are int64 in the protocol
MAX_PARTITION = 2**31 - 1  # partitions are int32
MAX_RANGES = 100_000  # in one text: no dataset has more, and each is asked about before the first record is read
# Kafka's own rule for topic names (org.apache.kafka.common.internals.Topic): it excludes `:` and `,`.
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_BLANKS = " \t"

GRAMMAR = (
    "a range is topic:partition:start:end, end exclusive; partition: a number or *; "
    "start: an offset, earliest, -N or @MS; end: an offset, latest, @MS, or empty or * for no end"
)


class Symbol(Enum):
    """A word in a range that only a broker can turn into a number."""

    EARLIEST = "earliest"
    LATEST = "latest"
    ALL = "*"
    UNBOUNDED = ""

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Last:
    """A start `records` offsets before the end of the log, gaps counted: `-N` in a range text."""

    records: int

    def __post_init__(self) -> None:
        _check_integer("the N of -N", self.records, 1, MAX_OFFSET)

    def __str__(self) -> str:
        return f"-{self.records}"


@dataclass(frozen=True, slots=True)
class AtTime:
    """The first record at or after a time in milliseconds since the epoch: `@MS` in a range text."""

    timestamp_ms: int

    def __post_init__(self) -> None:
        _check_integer("the MS of @MS", self.timestamp_ms, 0, MAX_OFFSET)

    def __str__(self) -> str:
        return f"@{self.timestamp_ms}"


Start = int | Symbol | Last | AtTime
End = int | Symbol | AtTime


@dataclass(frozen=True, slots=True)
class OffsetRange:
    """The records of one partition from `start` up to, and without, `end`.

    `len()` is `end - start`, the most records that it can hold; a symbolic range has no length yet.

    >>> clicks = OffsetRange("clicks", 0, 100, 250)
    >>> len(clicks), str(clicks)
    (150, 'clicks:0:100:250')

    Raises:
        RangeError: a field does not follow the grammar, or `start` lies behind `end`.
    """

    topic: str
    partition: int | Symbol
    start: Start
    end: End

    def __post_init__(self) -> None:
        _check_topic(self.topic)
        if self.partition is not Symbol.ALL:
            _check_integer("the partition", self.partition, 0, MAX_PARTITION)
        if not (self.start is Symbol.EARLIEST or isinstance(self.start, Last | AtTime)):
            _check_integer("the start", self.start, 0, MAX_OFFSET)
        if not (self.end is Symbol.LATEST or self.end is Symbol.UNBOUNDED or isinstance(self.end, AtTime)):
            _check_integer("the end", self.end, 0, MAX_OFFSET)
        if isinstance(self.start, int) and isinstance(self.end, int) and self.start > self.end:
            raise RangeError(f"start {self.start} lies behind end {self.end}: a range runs from start up to end")

    @property
    def is_concrete(self) -> bool:
        """Whether partition, start and end are all numbers."""
        return all(isinstance(field, int) for field in (self.partition, self.start, self.end))

    def __len__(self) -> int:
        if not (isinstance(self.start, int) and isinstance(self.end, int) and self.is_concrete):
            raise TypeError(f"{self} has no length before its bounds are resolved against a broker")
        return self.end - self.start

    def __bool__(self) -> bool:
        return True  # an empty range is still a range

    def __str__(self) -> str:
        return f"{self.topic}:{_field_text(self.partition)}:{_field_text(self.start)}:{_field_text(self.end)}"


def parse_ranges(text: str) -> list[OffsetRange]:
    """The ranges that a text names, in the order written.

    >>> parse_ranges("clicks:0:0:100, clicks:1:earliest:latest")
    [OffsetRange(topic='clicks', partition=0, start=0, end=100),
     OffsetRange(topic='clicks', partition=1, start=EARLIEST, end=LATEST)]

    Raises:
        RangeError: names the part, the text and the rule that was broken; or there are more than 100,000 ranges.
    """
    if not isinstance(text, str):
        raise RangeError(f"a range text is a str, found {type(text).__name__} {shown(text)}; {GRAMMAR}")
    if (count := text.count(",") + 1) > MAX_RANGES:
        raise RangeError(f"wanted at most {MAX_RANGES} ranges in a text, found {count}; give several texts")
    return [_parse_part(part, text) for part in text.split(",")]


def format_ranges(ranges: Iterable[OffsetRange]) -> str:
    """The text of `ranges`, which `parse_ranges` turns back into them.

    >>> format_ranges([OffsetRange("clicks", 0, 0, 100), OffsetRange("views", 3, 7, 9)])
    'clicks:0:0:100,views:3:7:9'
    """
    return ",".join(str(item) for item in ranges)


def share_ranges(ranges: Sequence[OffsetRange], instances: int, instance: int) -> list[tuple[int, OffsetRange]]:
    """The part of concrete `ranges`, laid end to end, that falls to one of `instances` workers.

    Shares are cut by offsets, inside a range too, and differ in size by one at most. An empty range goes to
    the first worker, so that every range has an owner.

    Args:
        ranges: ranges whose bounds are numbers
        instances: number of workers
        instance: which of them, from 0

    Returns:
        (index into `ranges`, the piece of that range), in order.

    >>> clicks = parse_ranges("clicks:0:0:10,clicks:1:0:10")
    >>> [str(piece) for _, piece in share_ranges(clicks, 4, 1)]
    ['clicks:0:5:10']
    """
    total = sum(len(item) for item in ranges)
    low, high = total * instance // instances, total * (instance + 1) // instances
    shares, begin = [], 0
    for index, item in enumerate(ranges):
        first, last = max(low - begin, 0), min(high - begin, len(item))
        if first < last or (len(item) == 0 and instance == 0):
            shares.append((index, _cut(item, first, last) if len(item) else item))
        begin += len(item)
    return shares


def _parse_part(part: str, text: str) -> OffsetRange:
    try:
        if (colons := part.count(":")) != 3:
            raise RangeError(f"has {colons + 1} field(s) between colons, wanted 4")
        topic, partition, start, end = (field.strip(_BLANKS) for field in part.split(":"))
        return OffsetRange(topic, _parse_partition(partition), _parse_start(start), _parse_end(end))
    except RangeError as exc:
        part = part.strip(_BLANKS)
        where = f"part {shown(part)}" + (f" of {shown(text)}" if part != text else "")
        raise RangeError(f"{where}: {exc}; {GRAMMAR}") from None


def _parse_partition(field: str) -> int | Symbol:
    return Symbol.ALL if field == "*" else _parse_integer("the partition", field)


def _parse_start(field: str) -> Start:
    if field == "earliest":
        return Symbol.EARLIEST
    if field.startswith("-"):
        return Last(_parse_integer("the N of -N", field[1:]))
    if field.startswith("@"):
        return AtTime(_parse_integer("the MS of @MS", field[1:]))
    return _parse_integer("the start", field)


def _parse_end(field: str) -> End:
    if field == "latest":
        return Symbol.LATEST
    if field in ("", "*"):
        return Symbol.UNBOUNDED
    if field.startswith("@"):
        return AtTime(_parse_integer("the MS of @MS", field[1:]))
    return _parse_integer("the end", field)


def _parse_integer(name: str, field: str) -> int:
    # str.isdigit alone accepts other scripts' digits, and int() accepts underscores and signs.
    # 20 digits hold any int64; a longer text is refused before int() pays for it.
    if not (field.isascii() and field.isdigit() and len(field) <= 20):
        raise RangeError(f"{name} is {shown(field)}, wanted digits 0-9 or a word that is allowed there")
    return int(field)


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RangeError(f"{name} is {shown(value)}, wanted a whole number from {low} to {high}")


def _check_topic(topic: object) -> None:
    if not isinstance(topic, str) or not _TOPIC.fullmatch(topic) or topic in (".", ".."):
        raise RangeError(f"the topic is {shown(topic)}, wanted 1 to 249 of a-z A-Z 0-9 . _ - and not . or ..")


def _field_text(field: object) -> str:
    return str(field.value) if isinstance(field, Symbol) else str(field)


def _cut(source: OffsetRange, first: int, last: int) -> OffsetRange:
    if not isinstance(source.start, int):
        raise TypeError(f"{source} cannot be cut before its bounds are resolved against a broker")
    return replace(source, start=source.start + first, end=source.start + last)
