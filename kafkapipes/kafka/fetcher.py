"""One range → `RecordBatch`es: fetches, and asks progress.py after every fetch whether the range is finished."""

import gc
import os
import time
from collections.abc import Iterator
from typing import cast

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from kafkapipes.errors import AuthError, CorruptDataError, TopicError
from kafkapipes.kafka.config import ClientConfig
from kafkapipes.kafka.failures import HARMLESS, TERMINAL, Complaints, failure, failure_of
from kafkapipes.progress import RangeProgress
from kafkapipes.records import BytesColumn, Headers, RecordBatch
from kafkapipes.report import RangeReport

POLL_S = 0.05  # consume() waits for all records asked for or for this long; Ctrl-C is seen between two calls
BATCH_BYTES = 2 * 2**20  # large records come in smaller batches: memory stays bounded, and a batch in the cache
FIRST_BATCH = 500  # records asked for before their size is known
_forked: list[Consumer] = []  # consumers inherited by a fork: using or freeing one there aborts the process


class Fetcher:
    """A consumer that reads ranges one after the other. A context manager, for one process."""

    def __init__(
        self, config: ClientConfig, *, batch_records: int, stall_timeout_s: float, timestamps: bool, headers: bool
    ) -> None:
        self._config = config
        self._batch_records = batch_records
        self._stall_timeout_s = stall_timeout_s
        self._timestamps = timestamps
        self._headers = headers
        self._complaints = Complaints(config)
        self._pid = os.getpid()
        self._assigned = 0  # ranges so far
        properties = self._complaints.listening(config.consumer())
        try:
            self._consumer = Consumer(properties)
        except (KafkaException, ValueError, TypeError) as exc:
            raise failure_of(exc, "the client configuration was refused", config) from None

    def __enter__(self) -> "Fetcher":
        return self

    def __exit__(self, *exc: object) -> None:
        if os.getpid() == self._pid:
            self._consumer.close()
        else:
            _forked.append(self._consumer)

    def fetch(self, account: RangeReport) -> Iterator[RecordBatch]:
        """The records of one range, in offset order; the account is kept as they come.

        Raises:
            StalledError, and what `failures.TERMINAL` names: the range could not be read to its end.
        """
        progress = RangeProgress(account, self._stall_timeout_s)
        if not progress.finished:
            yield from self._read(progress)

    def _read(self, progress: RangeProgress) -> Iterator[RecordBatch]:
        """The records of a range that is not finished yet, until it is."""
        item = progress.account.range
        topic, partition = item.topic, int(item.partition)  # type: ignore[arg-type]  # concrete
        self._complaints.clear()
        self._assigned += 1
        self._consumer.assign([TopicPartition(topic, partition, progress.position)])
        batch_records = min(FIRST_BATCH, self._batch_records)
        while not progress.finished:
            began = time.monotonic()
            batch = self._next_batch(min(batch_records, progress.wanted), progress)
            if batch is not None:
                batch_records = self._fitting(batch)
                yield batch
                progress.resume()
            elif not progress.finished:
                self._check_complaints(progress)
                if time.monotonic() - began < POLL_S / 10:
                    time.sleep(POLL_S / 10)  # a client that answers at once with nothing must not spin
        self._consumer.unassign()

    def _next_batch(self, records: int, progress: RangeProgress) -> RecordBatch | None:
        """Fetch once, without the garbage collector.

        It would look through thousands of new messages, in vain, several times a batch: half of the time of a read.
        """
        collecting = gc.isenabled()
        gc.disable()
        try:
            return self._batch(self._consumer.consume(records, POLL_S), progress)
        finally:
            if collecting:
                gc.enable()

    def _batch(self, messages: list[Message], progress: RangeProgress) -> RecordBatch | None:
        """The records among `messages` that belong to the range; what is not a record is acted upon."""
        end_of_log = None
        if any(map(Message.error, messages)):
            messages, end_of_log = self._split(messages, progress)
        batch = self._records(messages, progress) if messages else None
        if end_of_log is not None:  # only now: it stands behind the records that came with it
            progress.end_of_log(end_of_log)
        return batch

    def _records(self, messages: list[Message], progress: RangeProgress) -> RecordBatch | None:
        if self._assigned > 1:  # a fresh consumer has nothing else to deliver
            self._check_origin(messages, progress.account)
        offsets = np.fromiter(map(Message.offset, messages), np.int64, len(messages))
        count = progress.records(offsets)
        return self._columns(messages[:count], offsets[:count], progress.account) if count else None

    def _columns(self, messages: list[Message], offsets: np.ndarray, account: RangeReport) -> RecordBatch:
        keys = BytesColumn.from_list(list(map(Message.key, messages)))
        values = BytesColumn.from_list(list(map(Message.value, messages)))
        timestamps = headers = None
        if self._timestamps:
            stamps = (milliseconds for _, milliseconds in map(Message.timestamp, messages))
            timestamps = np.fromiter(stamps, np.int64, len(messages))
        if self._headers:
            # cast: what is fetched has lists with bytes; the declared dictionaries and str are for sending.
            headers = [list(cast(Headers, message.headers() or ())) for message in messages]
        return RecordBatch(offsets, keys, values, account, timestamps, headers)

    def _split(self, messages: list[Message], progress: RangeProgress) -> tuple[list[Message], int | None]:
        """The records, and the offset at which the broker says that the log ends, if it does."""
        records, end_of_log, item = [], None, progress.account.range
        for message in messages:
            error = message.error()
            if error is None:
                records.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                if (message.topic(), message.partition()) == (item.topic, item.partition):
                    end_of_log = message.offset()
            elif error.code() in TERMINAL:
                raise failure(error, self._where(progress), self._config)
            elif error.code() not in HARMLESS:
                self._complaints.note(error)
        return records, end_of_log

    def _check_origin(self, messages: list[Message], account: RangeReport) -> None:
        """Every record must come from the partition that was asked for: a stale one would count twice."""
        wanted = account.range
        if set(map(Message.partition, messages)) != {wanted.partition} or set(map(Message.topic, messages)) != {
            wanted.topic
        }:
            found = sorted({f"{message.topic()}:{message.partition()}" for message in messages})
            raise CorruptDataError(
                f"wanted records of {wanted} only, the client delivered records of {', '.join(found)}"
            )

    def _check_complaints(self, progress: RangeProgress) -> None:
        """Raise what the client only tells its callback and does not mend by itself, or a stall."""
        for kind in (AuthError, TopicError):
            error = self._complaints.find(kind)
            if error and error.code() != KafkaError._SSL:  # a handshake cut short by a restart is tried again
                raise failure(error, self._where(progress), self._config)
        progress.check_stall(self._config.scrub(self._complaints.last))

    def _fitting(self, batch: RecordBatch) -> int:
        """How many records to ask for next, by the size of those that came."""
        mean = max(1, (len(batch.values.buffer) + len(batch.keys.buffer)) // len(batch))
        return max(1, min(self._batch_records, BATCH_BYTES // mean))

    def _where(self, progress: RangeProgress) -> str:
        account = progress.account
        return f"reading {account.range} at {account.range.topic}:{account.range.partition}@{progress.position}"
