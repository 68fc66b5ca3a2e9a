"""RangeParser, `.parse_ranges()`: range texts and control messages → `OffsetRange`s."""

from collections.abc import Iterable, Iterator, Mapping

from torch.utils.data import IterDataPipe, functional_datapipe

from kafkapipes.control import ControlMessage, as_control_message
from kafkapipes.errors import RangeError
from kafkapipes.options import shown
from kafkapipes.ranges import OffsetRange, parse_ranges

Source = str | Mapping[str, object] | ControlMessage | OffsetRange


@functional_datapipe("parse_ranges")
class RangeParser(IterDataPipe[OffsetRange]):
    """Yields the offset ranges that a source names, in the order written.

    Args:
        source: a range text, a control message (or its dictionary), an `OffsetRange`, or an iterable of these

    Yields:
        OffsetRange: as written; symbolic bounds are resolved by the reader.

    Raises:
        RangeError: a text breaks the grammar; at construction for a single source, else when it is reached.
        ControlMessageError: a control message makes no sense.

    >>> [len(item) for item in RangeParser("clicks:0:0:100,clicks:1:50:60")]
    [100, 10]
    """

    def __init__(self, source: Source | Iterable[Source]) -> None:
        self._sources: Iterable[Source]
        if isinstance(source, str | Mapping | ControlMessage | OffsetRange):
            self._sources = _ranges_of(source)  # parsed now: a mistake shows where it is written
        elif isinstance(source, Iterable):
            self._sources = source
        else:
            raise RangeError(f"wanted ranges as text, a control message or an iterable of them, found {shown(source)}")

    def __iter__(self) -> Iterator[OffsetRange]:
        for item in self._sources:
            yield from _ranges_of(item)


def _ranges_of(source: Source) -> list[OffsetRange]:
    if isinstance(source, OffsetRange):
        return [source]
    if isinstance(source, str):
        return parse_ranges(source)
    if isinstance(source, ControlMessage | Mapping):
        return as_control_message(source).ranges
    raise RangeError(f"wanted a range text, a control message or an OffsetRange, found {type(source).__name__}")
