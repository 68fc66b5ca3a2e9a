"""One range → `RecordBatch`es: fetches, and asks progress.py after every fetch whether the range is finished."""

import json
import os
import time
from collections.abc import Callable, Iterator

from confluent_kafka import KafkaError, KafkaException

from kafkapipes.errors import (
    AuthError,
    ConfigError,
    CorruptDataError,
    DataLossError,
    KafkaPipesError,
    TopicError,
    TruncationError,
)
from kafkapipes.kafka.client import Fetched, Word
from kafkapipes.kafka.config import ClientConfig, fetch_ms
from kafkapipes.kafka.direct import DirectClient, open_reader
from kafkapipes.kafka.failures import (
    ADVICE,
    HARMLESS,
    TERMINAL,
    Complaints,
    failure,
    failure_of,
    interruptible,
    was_cut_short,
)
from kafkapipes.kafka.offsets import LogReader, PartitionLog
from kafkapipes.kafka.release import end_client, leave_to_parent
from kafkapipes.kafka.watch import TopicWatch
from kafkapipes.progress import RangeProgress
from kafkapipes.records import Destination, RecordBatch
from kafkapipes.report import RangeReport

POLL_S = 0.05  # a client waits for all records asked for or for this long; Ctrl-C is seen between two calls
AWAY_S = 1.0  # between two looks for records: what is longer was no waiting, this process was stopped or had no turn
BATCH_BYTES = 2**22  # large records come in smaller batches: memory stays bounded
FIRST_BATCH = 500  # records asked for before their size is known
POSITION_LOST = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}  # the log has moved away


class Fetcher:
    """A consumer that reads ranges one after the other. A context manager, for one process.

    Args:
        destination: where the bytes of records are written, if it has room for them
        readers: how many fetchers read side by side, and share the memory for what is fetched ahead
        given_up: asked now and then whether nobody wants the records any more: the read ends then
        piece_bytes: about how many bytes are read from one place before another; None: ranges as a whole
    """

    def __init__(
        self,
        config: ClientConfig,
        *,
        batch_records: int,
        stall_timeout_s: float,
        timestamps: bool,
        headers: bool,
        on_data_loss: str = "raise",
        destination: Destination | None = None,
        readers: int = 1,
        given_up: Callable[[], bool] = lambda: False,
        piece_bytes: int | None = None,
    ) -> None:
        self._given_up = given_up
        self._config = config
        self._batch_records = batch_records
        self._stall_timeout_s = stall_timeout_s
        self._on_data_loss = on_data_loss
        self._destination = destination
        self._complaints = Complaints(config)
        self._pid = os.getpid()
        self._assigned = 0  # assignments so far
        self._standing = ""  # what the client's statistics say of itself
        self._fitting = ("", 0)  # the topic that was read last, and how many of its records to ask for at once
        self._last_word: Word | None = None  # of the client, to act upon once the records before it are handed out
        patience = {"socket.timeout.ms": fetch_ms(stall_timeout_s)}
        properties = self._complaints.listening({**patience, **config.consumer(readers, piece_bytes)})
        # Its own word on how far it has come, where no record shows that; several within a stall's time.
        properties.setdefault("statistics.interval.ms", max(100, min(5000, int(stall_timeout_s * 250))))
        try:
            self._client = open_reader(config, properties, self._complaints, timestamps=timestamps, headers=headers)
        except (KafkaException, ValueError, TypeError) as exc:
            raise failure_of(exc, "the client configuration was refused", config) from None
        glance = self._client.topic_id if isinstance(self._client, DirectClient) else None
        self._watch = TopicWatch(config, stall_timeout_s, glance)

    def __enter__(self) -> "Fetcher":
        return self

    @interruptible()
    def __exit__(self, *exc: object) -> None:
        if os.getpid() == self._pid:
            self._watch.close()
            end_client(self._client.close)
        else:
            leave_to_parent(self._client, self._watch)

    @interruptible()
    def confirm(self) -> None:
        """Make sure, after the last range, that the topics are still those that were planned.

        Raises:
            TopicChangedError, TopicError, StalledError: they are not, or no broker says so.
        """
        try:
            self._watch.confirm()
        except KafkaException as exc:
            raise failure_of(exc, "asking once more for the topics that were read", self._config) from None

    def fetch(self, account: RangeReport) -> Iterator[RecordBatch]:
        """The records of one range, in offset order; the account is kept as they come.

        Raises:
            StalledError, and what `failures.TERMINAL` names: the range could not be read to its end.
        """
        account.client = self._client.name
        progress = RangeProgress(account, self._stall_timeout_s)
        if progress.finished:
            return
        try:
            with interruptible():
                yield from self._read(progress)
        except KafkaException as exc:  # it cannot cross from a worker to its parent, where the epoch would just end
            raise failure_of(exc, self._where(progress), self._config) from None

    def _read(self, progress: RangeProgress) -> Iterator[RecordBatch]:
        """The records of a range that is not finished yet, until it is."""
        account = progress.account
        self._complaints.clear()
        self._assign(progress)
        topic, batch_records = self._fitting
        if topic != account.range.topic:
            batch_records = min(FIRST_BATCH, self._batch_records)
        looked = time.monotonic()
        while not progress.finished and not self._given_up():
            began = time.monotonic()
            self._watch.tick(account.range.topic, account.topic_id, self._where(progress))
            batch = self._next_batch(min(batch_records, progress.wanted), progress)
            self._complaints.check_callbacks(self._where(progress))
            if batch is not None:
                batch_records = self._records_fitting(batch)
                self._fitting = account.range.topic, batch_records
                yield batch
                self._check_process(progress)
                progress.resume()
                looked = time.monotonic()
            if self._last_word is not None:  # only now: it stands behind the records that came with it
                last_word, self._last_word = self._last_word, None
                self._act_on(last_word, progress)
            if batch is None and not progress.finished:
                progress.absent(max(0.0, time.monotonic() - looked - AWAY_S))
                looked = time.monotonic()
                self._check_complaints(progress)
                if time.monotonic() - began < POLL_S / 10:
                    time.sleep(POLL_S / 10)  # a client that answers at once with nothing must not spin
        if progress.in_doubt and progress.finished:
            self._confirm_log(progress)
        self._client.unassign()
        account.client = self._client.name  # it may have handed over

    def _confirm_log(self, progress: RangeProgress) -> None:
        """Have the broker compare epochs (KIP-320): up to the end of what was read, is it the log that was planned?

        A consumer that is sent to an offset of a known epoch is told if that epoch ends below it by now.
        """
        account = progress.account
        item, epoch = account.range, account.epoch
        progress.resume()
        # seek, since an assignment would ask only a client that does not know the leader yet
        self._client.seek(item.topic, int(item.partition), progress.promised, epoch)  # type: ignore[arg-type]  # concrete
        while True:
            with self._client.fetch(1, POLL_S) as fetched:
                records, last_word = self._heed(fetched, progress)
            error = None if last_word is None else last_word.error
            if records or (error is not None and error.code() == KafkaError._PARTITION_EOF):
                return
            if error is not None:
                if error.code() in POSITION_LOST and self._log_now(progress).low > progress.promised:
                    return  # retention took it meanwhile: all was read before
                raise failure(error, self._where(progress), self._config)
            self._check_complaints(progress)

    def _assign(self, progress: RangeProgress) -> None:
        item = progress.account.range
        self._assigned += 1
        self._complaints.statistics = self._standing = ""  # they are of an assignment before
        self._last_word = None
        self._client.assign(item.topic, int(item.partition), progress.position, progress.account.end)  # type: ignore[arg-type]  # concrete

    def _next_batch(self, records: int, progress: RangeProgress) -> RecordBatch | None:
        """Fetch once: the records that belong to the range; what is not a record is noted."""
        with self._client.fetch(records, POLL_S, self._destination) as fetched:
            rows, self._last_word = self._heed(fetched, progress)
            batch = self._records(fetched, rows, progress) if rows else None
            if batch is not None and self._destination is not None:
                self._destination.came(len(batch))
            return batch

    def _records(self, fetched: Fetched, rows: int, progress: RangeProgress) -> RecordBatch | None:
        if self._assigned > 1:  # a fresh consumer has nothing else to deliver
            self._check_origin(fetched.origins(rows), progress.account)
        count = progress.records(fetched.offsets[:rows], fetched.epoch)
        return fetched.batch(count, progress.account) if count else None

    def _heed(self, fetched: Fetched, progress: RangeProgress) -> tuple[int, Word | None]:
        """How many records count, and the client's last word behind them: the end of the log, or of this read."""
        last, item = None, progress.account.range
        for word in fetched.words:
            code = word.error.code()
            if code in POSITION_LOST or code == KafkaError._PARTITION_EOF:
                if (word.topic, word.partition) == (item.topic, item.partition):
                    last = word
            elif code in TERMINAL and word.topic is not None:
                return word.row, word  # the others are about the group, which a range does not need
            elif code not in HARMLESS:
                self._complaints.note(word.error)
        return len(fetched.offsets), last

    def _act_on(self, word: Word, progress: RangeProgress) -> None:
        error = word.error
        if progress.finished:
            return
        if error.code() == KafkaError._PARTITION_EOF:
            progress.end_of_log(int(word.offset), word.epoch)  # type: ignore[arg-type]  # always set
            return
        if error.code() not in POSITION_LOST:
            raise failure(error, self._where(progress), self._config)
        log = self._log_now(progress)
        if progress.position < log.low and self._on_data_loss == "continue":
            progress.overtaken(log.low)
            if not progress.finished:
                self._assign(progress)
            return
        raise self._position_lost(error, log, progress)

    def _position_lost(self, error: KafkaError, log: PartitionLog, progress: RangeProgress) -> KafkaPipesError:
        """Why the broker does not know the position: the log begins behind it, or ends before it."""
        where, position = self._where(progress), progress.position
        if position < log.low:
            return DataLossError(
                f"{where}: the log begins at {log.low} by now, so {min(log.low, progress.account.end) - position} "
                "offset(s) were taken by retention or a deletion while they were read; narrow the range, or set "
                "on_data_loss='continue'"
            )
        if position > log.high:
            return self._cut_back(log.high, progress)
        return failure(error, where, self._config)

    def _log_now(self, progress: RangeProgress) -> PartitionLog:
        item = progress.account.range
        key = item.topic, int(item.partition)  # type: ignore[arg-type]  # concrete
        with LogReader(self._config, self._stall_timeout_s) as reader:
            return reader.logs({key})[key]

    def _check_process(self, progress: RangeProgress) -> None:
        """A consumer that a fork has brought here would deliver what it had fetched there: every record twice."""
        if os.getpid() != self._pid:
            raise KafkaPipesError(
                f"{self._where(progress)}: wanted to go on in process {os.getpid()}, but the read was begun in process "
                f"{self._pid}, and no consumer survives a fork; begin a read in this process"
            )

    def _check_origin(self, origins: set[tuple[str, int]], account: RangeReport) -> None:
        """Every record must come from the partition that was asked for: a stale one would count twice."""
        wanted = account.range
        if origins != {(wanted.topic, wanted.partition)}:
            found = sorted(f"{topic}:{partition}" for topic, partition in origins)
            raise CorruptDataError(
                f"wanted records of {wanted} only, the client delivered records of {', '.join(found)}"
            )

    def _check_complaints(self, progress: RangeProgress) -> None:
        """Raise what the client only tells its callback and does not mend by itself, or a stall."""
        for kind in (AuthError, TopicError):
            error = self._complaints.find(kind)
            if error and not was_cut_short(error):
                raise failure(error, self._where(progress), self._config)
        if too_large := self._complaints.too_large:
            raise ConfigError(self._config.scrub(f"{self._where(progress)}: {too_large}; raise that property"))
        if progress.ends_at is not None:
            self._check_truncated(progress)
        if self._complaints.statistics:
            position, self._standing = _standing(self._complaints.statistics, progress.account)
            progress.fetched_to(position)
            self._complaints.statistics = ""
        progress.fetched_to(self._client.next_offset)
        progress.check_stall(self._config.scrub(self._complaints.last), self._config.scrub(self._standing))

    def _check_truncated(self, progress: RangeProgress) -> None:
        """A log that ends below what it held when planned was cut, or its new leader does not know better yet.

        Such a leader refuses to name its end (KIP-207), so an answer is final.
        """
        log = self._log_now(progress)
        limit = log.stable if self._config.reads_committed else log.high
        if limit < progress.account.stable:
            raise self._cut_back(limit, progress)
        progress.ends_at = None

    def _cut_back(self, limit: int, progress: RangeProgress) -> TruncationError:
        return TruncationError(
            f"{self._where(progress)}: the log ends at {limit} by now, it held records up to "
            f"{progress.account.stable} when the read was planned; {ADVICE[TruncationError]}"
        )

    def _records_fitting(self, batch: RecordBatch) -> int:
        """How many records to ask for next, by the size of those that came."""
        mean = max(1, (len(batch.values.buffer) + len(batch.keys.buffer)) // len(batch))
        return max(1, min(self._batch_records, BATCH_BYTES // mean))

    def _where(self, progress: RangeProgress) -> str:
        account = progress.account
        return f"reading {account.range} at {account.range.topic}:{account.range.partition}@{progress.position}"


def _standing(statistics: str, account: RangeReport) -> tuple[int, str]:
    """The offset that a client asks for next, -1 where unknown, and how it stands, by its statistics.

    The fields are those of librdkafka's STATISTICS.md.
    """
    found = json.loads(statistics)
    topic = found.get("topics", {}).get(account.range.topic, {})
    partition = topic.get("partitions", {}).get(str(account.range.partition), {})
    position = int(partition.get("next_offset", -1))
    brokers = [f"{broker['name']} {broker['state']}" for broker in found.get("brokers", {}).values()]
    leader, state = partition.get("leader", -1), partition.get("fetch_state", "unknown")
    return position, f"leader {leader}, fetch state {state}, next offset {position}, brokers {', '.join(brokers)}"
