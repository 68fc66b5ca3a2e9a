"""The seam to the client that reads: what one call brought, as columns, and the client's words in between.

`Client` is what the fetcher asks for; `PythonClient` gives it by confluent_kafka's consumer, native.py by librdkafka
itself, direct.py by asking a broker.
"""

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from kafkapipes.records import BytesColumn, Destination, Headers, RecordBatch
from kafkapipes.report import RangeReport

NO_END = 2**63 - 1  # of what is assigned: no offset lies behind it


@dataclass(frozen=True, slots=True)
class Word:
    """What a client says among its records: an error, or that a log ends.

    Attributes:
        row: how many records of the same call came before it
        error: code and text
        topic, partition, offset: what it is about; None where it names none
        epoch: at the end of a log, the leader epoch of what stands before that offset, record or not; -1 where unknown
    """

    row: int
    error: KafkaError
    topic: str | None
    partition: int | None
    offset: int | None
    epoch: int = -1


class Fetched(Protocol):
    """What one call of a client brought.

    Attributes:
        offsets: int64 [B], of the records as they came
        words: what the client said, in the order in which it came
    """

    offsets: np.ndarray
    words: list[Word]

    def epoch(self, row: int) -> int:
        """The leader epoch of a record; -1 where unknown."""

    def origins(self, rows: int) -> set[tuple[str, int]]:
        """The (topic, partition) pairs that the first `rows` records come from, by their own word."""

    def batch(self, rows: int, account: RangeReport) -> RecordBatch:
        """The first `rows` records; once, as they leave the client."""


_MOST_MESSAGES = 5000  # at once: more objects are out of the processor's reach when they are looked at again


class Client(Protocol):
    """A consumer of one partition at a time, for one process and one thread at a time."""

    @property
    def name(self) -> str:
        """What the report calls it."""

    @property
    def next_offset(self) -> int:
        """Where it has come to in what is assigned, also without a record; -1 where only its statistics tell."""

    def assign(self, topic: str, partition: int, offset: int, end: int = NO_END) -> None:
        """Read this partition from `offset`, and no other; what is at `end` or behind it may be left out."""

    def seek(self, topic: str, partition: int, offset: int, epoch: int) -> None:
        """Go on at `offset`, once the broker has confirmed that it is one of leader epoch `epoch`."""

    def fetch(
        self, records: int, timeout_s: float, destination: Destination | None = None
    ) -> AbstractContextManager[Fetched]:
        """At most `records` records and words; those that have come when `timeout_s` has passed. Good in the block.

        Their bytes may be written to `destination`, where it has room for them.
        """

    def unassign(self) -> None:
        """Read nothing."""

    def close(self) -> None:
        """End the client and its threads."""


class PythonClient:
    """A client by `confluent_kafka.Consumer`: one object a record."""

    name = "python"
    next_offset = -1

    def __init__(self, consumer: Consumer, *, timestamps: bool, headers: bool) -> None:
        self._consumer = consumer
        self._timestamps = timestamps
        self._headers = headers

    def assign(self, topic: str, partition: int, offset: int, end: int = NO_END) -> None:
        """Read this partition from `offset`, and no other."""
        self._consumer.assign([TopicPartition(topic, partition, offset)])

    def seek(self, topic: str, partition: int, offset: int, epoch: int) -> None:
        """Go on at `offset`, once the broker has confirmed that it is one of leader epoch `epoch`."""
        self._consumer.seek(TopicPartition(topic, partition, offset, leader_epoch=epoch))

    @contextmanager
    def fetch(self, records: int, timeout_s: float, destination: Destination | None = None) -> Iterator[Fetched]:
        """At most `records` records and words; the garbage collector has a pause in the block.

        It would look through thousands of new messages, in vain, several times a batch: half of the time of a read.
        Columns are made of all bytes at once, so `destination` would cost a second copy and is not used.
        """
        collecting = gc.isenabled()
        gc.disable()
        try:
            messages = self._consumer.consume(min(records, _MOST_MESSAGES), timeout_s)
            yield _Messages(messages, self._timestamps, self._headers)
        finally:
            if collecting:
                gc.enable()

    def unassign(self) -> None:
        """Read nothing."""
        self._consumer.unassign()

    def close(self) -> None:
        """End the client and its threads."""
        self._consumer.close()


class _Messages:
    """Messages of confluent_kafka, as columns."""

    def __init__(self, messages: list[Message], timestamps: bool, headers: bool) -> None:
        self.words: list[Word] = []
        self._messages = self._records(messages) if any(map(Message.error, messages)) else messages
        self.offsets = np.fromiter(map(Message.offset, self._messages), np.int64, len(self._messages))
        self._timestamps = timestamps
        self._headers = headers

    def epoch(self, row: int) -> int:
        """The leader epoch of a record; -1 where unknown."""
        epoch = self._messages[row].leader_epoch()
        return -1 if epoch is None else epoch

    def origins(self, rows: int) -> set[tuple[str, int]]:
        """The (topic, partition) pairs that the first `rows` records come from."""
        messages = self._messages[:rows]
        return set(zip(map(Message.topic, messages), map(Message.partition, messages), strict=True))  # type: ignore[arg-type]  # set in every record

    def batch(self, rows: int, account: RangeReport) -> RecordBatch:
        """The first `rows` records."""
        messages = self._messages[:rows]
        keys = BytesColumn.from_list(list(map(Message.key, messages)))
        values = BytesColumn.from_list(list(map(Message.value, messages)))
        timestamps = headers = None
        if self._timestamps:
            stamps = (milliseconds for _, milliseconds in map(Message.timestamp, messages))
            timestamps = np.fromiter(stamps, np.int64, rows)
        if self._headers:
            # cast: what is fetched has lists with bytes; the declared dictionaries and str are for sending.
            headers = [list(cast(Headers, message.headers() or ())) for message in messages]
        return RecordBatch(self.offsets[:rows], keys, values, account, timestamps, headers)

    def _records(self, messages: list[Message]) -> list[Message]:
        """The messages that are records; the others become words. The value of such a one is the text of an error."""
        records = []
        for message in messages:
            if (error := message.error()) is None:
                records.append(message)
            else:
                self.words.append(Word(len(records), error, message.topic(), message.partition(), message.offset()))
        return records
