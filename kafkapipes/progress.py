"""When is a range finished, and when has it stalled? Pure: it is told what a fetch brought, and answers.

A range is finished when our own position reaches its end: by a record at or past the end, or by the
broker's word that the log ends at or past it. Waiting for record `end - 1` would hang: that offset may hold
a transaction marker or may have been compacted away, and then it is never delivered.
"""

import time
from collections.abc import Callable

import numpy as np

from kafkapipes.errors import CorruptDataError, StalledError, TruncationError
from kafkapipes.report import RangeReport


class RangeProgress:
    """The position of one read between the readable start and end of its range."""

    def __init__(
        self, account: RangeReport, stall_timeout_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.account = account
        self.position = account.start
        self.ends_at: int | None = None  # where the broker said that the log ends, below what it held when planned
        self._fetched_to = self._vouched_to = account.start
        self._stall_timeout_s = stall_timeout_s
        self._clock = clock
        self._begun = self._last_news = clock()
        self._settle()

    @property
    def finished(self) -> bool:
        """Whether the position has reached the end of the range."""
        return self.account.finished

    @property
    def wanted(self) -> int:
        """The most records that the range can still hold."""
        return self.account.end - self.position

    @property
    def promised(self) -> int:
        """The offset up to which the log held the range for good when the read was planned."""
        return min(self.account.end, self.account.stable)

    @property
    def in_doubt(self) -> bool:
        """Whether no record proves that the log is up to its promised end the one that was planned.

        Other records may stand there after the log was cut back, none of which is ever delivered: aborted ones.
        """
        return self.account.epoch >= 0 and self._vouched_to < self.promised

    def records(self, offsets: np.ndarray, epoch_at: Callable[[int], int] = lambda row: -1) -> int:
        """Take note of records that arrived; how many of them, from the first, belong to the range.

        Args:
            offsets: int64 [B], the offsets of the records as fetched
            epoch_at: row → leader epoch of that record, -1 where unknown; along a log it never falls

        Raises:
            CorruptDataError: an offset is not above the one before.
            TruncationError: a record that the log held when the read was planned was written since.
        """
        if len(offsets) == 0:
            return 0
        self._last_news = self._clock()
        self.ends_at = None
        self._check_ascending(offsets)
        self._check_epoch(offsets, epoch_at)
        count = int(np.searchsorted(offsets, self.account.end))
        self.position = int(offsets[-1]) + 1
        self.account.received += count
        self._settle()
        return count

    def end_of_log(self, offset: int, epoch: int = -1) -> None:
        """Take note that the broker has nothing, at present, from `offset` on, or nothing that belongs to the range.

        Args:
            epoch: leader epoch of what stands before it, be it a record or not; -1 where unknown
        """
        self._last_news = self._clock()
        if 0 <= epoch <= self.account.epoch:
            self._vouched_to = max(self._vouched_to, offset)
        self.position = max(self.position, offset)
        self.ends_at = offset if offset < min(self.account.end, self.account.stable) else None
        self._settle()

    def overtaken(self, low: int) -> None:
        """Take note that retention or a deletion took the offsets from the position up to `low`."""
        self._last_news = self._clock()
        low = min(low, self.account.end)
        self.account.overtaken += low - self.position
        self.position = self._vouched_to = low
        self._settle()

    def fetched_to(self, offset: int) -> None:
        """Take note of the offset that the client asks for next: it moves over aborted records, of which none comes."""
        if offset > max(self._fetched_to, self.position):
            self._fetched_to = offset
            self._last_news = self._clock()

    def resume(self) -> None:
        """Take note that the caller asks for more: its own time between two batches is no silence of the broker."""
        self._last_news = self._clock()

    def absent(self, seconds: float) -> None:
        """Take note that this process did not run for so long, as one that is stopped: no silence of the broker."""
        self._last_news += seconds

    def check_stall(self, cause: str, standing: str = "") -> None:
        """Raise when nothing has arrived for `stall_timeout_s`.

        Args:
            cause: the client's last complaint, or ""
            standing: what it says of itself, or ""
        """
        silent_s = self._clock() - self._last_news
        if silent_s > self._stall_timeout_s:
            raise StalledError(
                f"wanted {self.account.range} up to offset {self.account.end}, but nothing arrived for "
                f"{silent_s:.1f} s at {self._coordinates(self.position)}"
                + (f"; last word of the client: {cause}" if cause else "")
                + (f"; it says of itself: {standing}" if standing else "")
                + f"; check the broker, or raise stall_timeout_s (now {self._stall_timeout_s:g})"
            )

    def _check_ascending(self, offsets: np.ndarray) -> None:
        if offsets[0] < self.position or not (offsets[1:] > offsets[:-1]).all():
            raise CorruptDataError(
                f"wanted offsets that ascend from {self._coordinates(self.position)}, found {int(offsets[0])} to "
                f"{int(offsets[-1])} out of order; the read is stopped so that no record counts twice"
            )

    def _check_epoch(self, offsets: np.ndarray, epoch_at: Callable[[int], int]) -> None:
        """A record below the end of the log as planned cannot bear a later epoch than the log had then.

        Leader epochs and truncation: Kafka's KIP-101 and KIP-320.
        """
        planned, row = self.account.epoch, len(offsets) - 1
        if planned < 0:
            return
        if epoch_at(row) > planned:  # the last one may have been written since, and says nothing of those before
            row = int(np.searchsorted(offsets, self.account.stable)) - 1
        if row < 0:
            return
        if (epoch := epoch_at(row)) > planned:
            raise TruncationError(
                f"wanted {self.account.range} as it was planned, under leader epoch {planned}, found a record of epoch "
                f"{epoch} at {self._coordinates(int(offsets[row]))}: the log was cut back and written anew; read the "
                "range again from its start"
            )
        self._vouched_to = int(offsets[row]) + 1

    def _settle(self) -> None:
        self.account.seconds = self._clock() - self._begun
        self.account.finished = self.position >= self.account.end

    def _coordinates(self, offset: int) -> str:
        return f"{self.account.range.topic}:{self.account.range.partition}@{offset}"
