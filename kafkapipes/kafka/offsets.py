"""Before a read: symbolic bounds → offsets, and every range checked against the log."""

import logging
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition, Uuid
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin import OffsetSpec as _OffsetSpec  # type: ignore[attr-defined]  # public, but not in an __all__

from kafkapipes.errors import (
    AuthError,
    ConnectError,
    DataLossError,
    KafkaPipesError,
    RangeError,
    TopicError,
)
from kafkapipes.kafka.config import ClientConfig, answer_ms
from kafkapipes.kafka.failures import SILENCE, Complaints, describe, failure, failure_of, interruptible
from kafkapipes.kafka.release import END_S, check_lookups, end_client
from kafkapipes.ranges import AtTime, Last, OffsetRange, Symbol
from kafkapipes.report import RangeReport, ReadReport

ON_DATA_LOSS = ("raise", "continue")
ON_SHORT = ("raise", "stop", "wait")
_SLICE_S = 0.8  # one blocking call of the client at the most: Ctrl-C is seen between two
_FIRST_SLICE_S = 0.01  # a client that connects meanwhile notices only in its next call
_CREATION_S = 5.0  # a topic that the cluster makes on first use is there by then
_IDENTITY_S = 10.0  # a cluster that has not told a topic's identity by then, but all else, does not tell it
OffsetSpec: Any = _OffsetSpec  # its methods carry no types
_NO_IDENTITY = str(Uuid(0, 0))  # of a topic in a cluster older than Kafka 2.8
_NO_SUCH_TIME = -1  # the broker's answer where no record is at or after a time
Partition = tuple[str, int]
Answer = TypeVar("Answer")

_log = logging.getLogger("kafkapipes")


@dataclass(frozen=True, slots=True)
class PartitionLog:
    """What the broker says of one partition's log.

    Attributes:
        low: first offset that is kept
        stable: last stable offset: below it no transaction is open
        high: high watermark: below it every record is replicated
        epoch: leader epoch at that time; no record below `stable` and `high` has a later one; -1 where unknown
        topic_id: identity of the topic; "" where unknown
    """

    low: int
    stable: int
    high: int
    epoch: int = -1
    topic_id: str = ""


@interruptible()
def plan_ranges(
    ranges: Iterable[OffsetRange],
    config: ClientConfig,
    *,
    connect_timeout_s: float = 30.0,
    on_data_loss: str = "raise",
    on_short: str = "raise",
) -> ReadReport:
    """Fresh accounts for `ranges`, bounds resolved once, each checked against its log.

    Raises:
        RangeError: a range has no end
        ConnectError, AuthError: no broker answered within `connect_timeout_s`, or it refused the credentials
        AuthorizationError, TopicError: the topic is denied, or it or the partition does not exist
        DataLossError: a range begins below the log, or ends above what it holds for good
    """
    wanted = list(ranges)
    for item in wanted:
        if item.end is Symbol.UNBOUNDED:
            raise RangeError(
                f"{item} has no end, wanted an offset, latest or @MS: a finite read needs to know where to stop"
            )
    if not wanted:
        return ReadReport([])
    with LogReader(config, connect_timeout_s) as reader:
        reader.ask_ahead(dict.fromkeys(item.topic for item in wanted))
        partitions = {topic: reader.partitions(topic) for topic in dict.fromkeys(item.topic for item in wanted)}
        topic_ids = {topic: reader.topic_id(topic) for topic in partitions}  # before the offsets, which it vouches for
        expanded = [piece for item in wanted for piece in expand(item, partitions[item.topic])]
        logs = reader.logs({(item.topic, int(item.partition)) for item in expanded})  # type: ignore[arg-type]  # expanded
        times = reader.offsets_at(expanded)
    accounts = []
    for item in expanded:
        log = logs[item.topic, int(item.partition)]  # type: ignore[arg-type]  # expanded
        log = replace(log, topic_id=topic_ids[item.topic])
        limit = log.stable if config.reads_committed else log.high
        accounts.append(settle(resolve(item, log.low, limit, times), log, limit, on_data_loss, on_short))
    return ReadReport(accounts)


def expand(item: OffsetRange, partitions: list[int]) -> list[OffsetRange]:
    """`*` as one range a partition, in order; a named partition is checked."""
    if item.partition is Symbol.ALL:
        return [replace(item, partition=partition) for partition in partitions]
    if item.partition not in partitions:
        raise TopicError(f"{item}: no partition {item.partition} in topic {item.topic}, it has {_listed(partitions)}")
    return [item]


def resolve(item: OffsetRange, low: int, end: int, times: dict[tuple[str, int, int], int]) -> OffsetRange:
    """The range with numbers for bounds.

    Args:
        low: first offset of the log
        end: offset at which the log ends for this reader
        times: (topic, partition, ms) → first offset at or after that time, -1 where there is none
    """

    def number(bound: object) -> int:
        if isinstance(bound, AtTime):
            found = times[item.topic, int(item.partition), bound.timestamp_ms]  # type: ignore[arg-type]  # expanded
            return end if found < 0 else found
        if isinstance(bound, Last):
            return max(low, end - bound.records)
        words = {Symbol.EARLIEST: low, Symbol.LATEST: end}
        return words[bound] if isinstance(bound, Symbol) else int(bound)  # type: ignore[call-overload]  # an int is left

    start, stop = number(item.start), number(item.end)
    if start > stop and not item.is_concrete:
        raise RangeError(f"{item} resolves to start {start} behind end {stop}; correct its bounds")
    return replace(item, start=start, end=stop)


def settle(item: OffsetRange, log: PartitionLog, limit: int, on_data_loss: str, on_short: str) -> RangeReport:
    """A fresh account of a concrete range, after a check against its log.

    Args:
        limit: offset at which the log ends for this reader: `log.stable` or `log.high`
    """
    start, end = int(item.start), int(item.end)  # type: ignore[arg-type]  # concrete
    where = f"{item.topic}:{item.partition}"
    if start < log.low and start < end and on_data_loss == "raise":
        raise DataLossError(
            f"{item} starts below the log: wanted offset {start}, the log of {where} begins at {log.low}, so "
            f"{min(log.low, end) - start} offset(s) are gone (retention or deletion); start at {where}@{log.low}, "
            "or set on_data_loss='continue'"
        )
    if end <= limit or start == end:
        return RangeReport(item, log.low, max(limit, end), log.topic_id, log.epoch, limit)
    if on_short == "raise" or (on_short == "wait" and start > log.high):
        raise DataLossError(_short_text(item, where, end, log))
    return RangeReport(item, log.low, limit if on_short == "stop" else end, log.topic_id, log.epoch, limit)


def _short_text(item: OffsetRange, where: str, end: int, log: PartitionLog) -> str:
    if end <= log.high:
        return (
            f"{item} ends in an open transaction: wanted records up to {end}, stable until {where}@{log.stable}, high "
            f"watermark {log.high}; wait for the transaction to end, or set on_short='wait' or 'stop'"
        )
    return (
        f"{item} ends behind the log: wanted records up to {end}, the high watermark is {where}@{log.high} "
        f"(last stable offset {log.stable}); end at latest, or set on_short='wait' or 'stop'"
    )


class LogReader:
    """Asks the brokers about topics and logs, within one deadline. A context manager."""

    def __init__(self, config: ClientConfig, connect_timeout_s: float, *, may_create: bool = False) -> None:
        self._config = config
        self._create_until = time.monotonic() + (_CREATION_S if may_create else 0)
        self._timeout_s = connect_timeout_s
        self._deadline = time.monotonic() + connect_timeout_s
        self._complaints = Complaints(config)
        self._asked: dict[str, Future[Any]] = {}  # ahead, for identities of topics
        self._known: set[str] = set()  # topics whose leaders the client has asked for
        patience = {"socket.timeout.ms": answer_ms(connect_timeout_s)}
        properties = self._complaints.listening({**patience, **config.admin(may_create)})
        check_lookups()
        try:
            self._admin: AdminClient | None = AdminClient(properties)
        except (KafkaException, ValueError, TypeError) as exc:
            raise failure_of(exc, "the client configuration was refused", config) from None

    def __enter__(self) -> "LogReader":
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, *_: object) -> None:
        self._client().poll(0)  # what it has logged meanwhile is passed on
        last_reference, self._admin = [self._admin], None
        if exc is not None:
            traceback.clear_frames(exc.__traceback__)  # the calls that it left hold the client as well
        # After a plan that succeeded the client and its threads end here, before any fork.
        end_client(last_reference.clear, END_S if exc is None else 0)

    def ask_ahead(self, topics: Iterable[str]) -> None:
        """Ask for the identities of topics, without waiting.

        It makes the client connect at once. Asked for anything else first, it lets some time pass between its
        connection to a bootstrap server and that to a broker, which may be the same.
        """
        timeout_s = min(answer_ms(_IDENTITY_S), answer_ms(self._timeout_s)) / 1000
        self._asked = {topic: ask_topic_id(self._client(), topic, timeout_s) for topic in topics}

    def partitions(self, topic: str) -> list[int]:
        """The partitions of a topic, ascending."""
        metadata = self._metadata(topic).topics[topic]
        if metadata.error is not None:
            where = f"topic {topic}"
            raise failure(metadata.error, where, self._config)
        return sorted(metadata.partitions)

    def topic_id(self, topic: str) -> str:
        """The identity of a topic, which another topic of the same name would not have; "" where none is told."""

        early = self._asked.pop(topic, None)
        asked: list[Future[Any]] = []

        def ask(timeout_s: float) -> str | None:
            if not asked:
                self._client().list_topics(topic, timeout=timeout_s)  # who answers by now
                asked.append(ask_topic_id(self._client(), topic, answer_ms(_IDENTITY_S) / 1000))
            if not wait(asked, timeout_s).done:
                return None
            return topic_id_of(asked.pop())

        until = min(self._deadline, time.monotonic() + _IDENTITY_S)
        metadata = self._metadata(topic)
        if early is not None and early.done() and early.exception() is None:
            return topic_id_of(early)
        with suppress(ConnectError):  # all else was answered
            if metadata.controller_id in metadata.brokers:  # who answers this question
                return self._retry(ask, f"asking for the identity of topic {topic}", until)
        _log.warning("no broker tells the identity of topic %s: made anew while it is read, it is not noticed", topic)
        return ""

    def logs(self, partitions: set[Partition]) -> dict[Partition, PartitionLog]:
        """Log start, last stable offset, high watermark and leader epoch of each partition."""
        committed, uncommitted = IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED
        low = self._offsets(partitions, OffsetSpec.earliest(), uncommitted)
        stable = self._offsets(partitions, OffsetSpec.latest(), committed)
        high = self._offsets(partitions, OffsetSpec.latest(), uncommitted)
        return {
            key: PartitionLog(
                low[key].offset,
                stable[key].offset,
                high[key].offset,
                max(_epoch(stable[key]), _epoch(high[key])),  # two leaders may have answered
            )
            for key in partitions
        }

    def ends(self, partitions: set[Partition]) -> dict[Partition, tuple[int, int]]:
        """Where each log ends for this reader by now, and its leader epoch; within a new deadline."""
        self._deadline = time.monotonic() + self._timeout_s
        committed = self._config.reads_committed
        level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        found = self._offsets(partitions, OffsetSpec.latest(), level)
        return {key: (int(answer.offset), _epoch(answer)) for key, answer in found.items()}

    def offsets_at(self, ranges: list[OffsetRange]) -> dict[tuple[str, int, int], int]:
        """(topic, partition, ms) → first offset at or after that time, for every `@MS` in `ranges`."""
        wanted: dict[int, set[Partition]] = {}
        for item in ranges:
            for bound in (item.start, item.end):
                if isinstance(bound, AtTime):
                    key = item.topic, int(item.partition)  # type: ignore[arg-type]  # expanded
                    wanted.setdefault(bound.timestamp_ms, set()).add(key)
        found = {}
        for milliseconds, partitions in wanted.items():
            spec = OffsetSpec.for_timestamp(milliseconds)
            level = IsolationLevel.READ_COMMITTED if self._config.reads_committed else IsolationLevel.READ_UNCOMMITTED
            for (topic, partition), answer in self._offsets(partitions, spec, level, lowest=_NO_SUCH_TIME).items():
                found[topic, partition, milliseconds] = answer.offset
        return found

    def _metadata(self, topic: str) -> Any:
        """The metadata of one topic; a leader that is being elected is waited for."""

        def ask(timeout_s: float) -> Any:
            found = self._client().list_topics(topic, timeout=timeout_s)
            self._known.add(topic)
            error = found.topics[topic].error
            code = None if error is None else error.code()
            being_made = code == KafkaError.UNKNOWN_TOPIC_OR_PART and time.monotonic() < self._create_until
            return None if being_made or code in _PASSING else found

        return self._retry(ask, f"asking for topic {topic}")

    def _offsets(
        self, partitions: set[Partition], spec: Any, level: IsolationLevel, lowest: int = 0
    ) -> dict[Partition, Any]:
        """The answer for each partition; asked again where the connection broke or the leader moved.

        A broken connection may look like an answer, with an offset below `lowest` (librdkafka's OFFSET_INVALID).
        """
        answers: dict[Partition, Any] = {}
        asked: dict[Partition, Future[Any]] = {}
        # Topics whose leader may be another by now, for which the client looks only if told to; and those whose leader
        # it does not know yet: it would look by itself, but now and then after a pause of some seconds.
        unanswered = {topic for topic, _ in partitions} - self._known

        def ask(timeout_s: float) -> dict[Partition, Any] | None:
            for topic in list(unanswered):
                self._client().list_topics(topic, timeout=timeout_s)
                self._known.add(topic)
                unanswered.discard(topic)
            if missing := partitions - answers.keys() - asked.keys():
                request = {TopicPartition(topic, partition): spec for topic, partition in missing}
                left_s = min(max(self._deadline - time.monotonic(), 0.1), answer_ms(self._timeout_s) / 1000)
                futures = self._client().list_offsets(request, isolation_level=level, request_timeout=left_s)
                asked.update({(key.topic, key.partition): future for key, future in futures.items()})
            until = time.monotonic() + timeout_s
            for key in list(asked):
                try:
                    answer = asked[key].result(max(0.0, until - time.monotonic()))
                except TimeoutError:
                    continue
                except KafkaException:
                    del asked[key]
                    unanswered.add(key[0])
                    raise
                del asked[key]
                if answer.offset >= lowest:
                    answers[key] = answer
                else:
                    unanswered.add(key[0])
            return answers if len(answers) == len(partitions) else None

        names = sorted(f"{topic}:{partition}" for topic, partition in partitions)
        return self._retry(ask, f"asking for the offsets of {', '.join(names[:5])}{', ...' if names[5:] else ''}")

    def _retry(self, ask: Callable[[float], Answer | None], where: str, until: float | None = None) -> Answer:
        """Ask in short slices until an answer comes, a lasting error shows, or the deadline passes."""
        slice_s, last, deadline = _FIRST_SLICE_S, "", until or self._deadline
        while True:
            began, lasting = time.monotonic(), None
            if began >= deadline:
                raise self._unreachable(where, last)
            try:
                answer = ask(min(deadline - began, slice_s))
            except KafkaException as exc:
                answer, code = None, exc.args[0].code()
                lasting = None if code in _RETRIED else failure_of(exc, where, self._config)
                last = last if code in _UNANSWERED else describe(exc.args[0])
            if lasting is not None:  # raised out here, without a context that holds the client
                raise lasting
            if answer is not None:
                return answer
            self._client().poll(0)  # only now does the client say why
            self._complaints.check_callbacks(where)
            if denied := self._complaints.find(AuthError):
                raise failure(denied, where, self._config) from None
            time.sleep(max(0.0, min(began + slice_s, deadline) - time.monotonic()))
            slice_s = min(2 * slice_s, _SLICE_S)

    def _unreachable(self, where: str, last: str) -> KafkaPipesError:
        cause = self._complaints.last or last or SILENCE
        return ConnectError(
            self._config.scrub(
                f"{where}: no answer from {self._config.servers} within {self._timeout_s:g} s; {cause}; check "
                "bootstrap_servers, the network and security.protocol, or raise connect_timeout_s"
            )
        )

    def _client(self) -> AdminClient:
        if self._admin is None:
            raise RuntimeError("this LogReader is closed")
        return self._admin


# While a topic is created or a leader elected these pass; a connection that fails is tried again too.
_PASSING = {
    KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.REPLICA_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH, KafkaError.UNKNOWN_LEADER_EPOCH, KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.KAFKA_STORAGE_ERROR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError._NOENT,
}  # fmt: skip
_UNANSWERED = {KafkaError._TRANSPORT, KafkaError._TIMED_OUT}  # of a question: no more than that no answer came
_RETRIED = _PASSING | _UNANSWERED | {
    KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE,
    KafkaError._WAIT_COORD, KafkaError.REQUEST_TIMED_OUT, KafkaError._TIMED_OUT_QUEUE, KafkaError.NETWORK_EXCEPTION,
}  # fmt: skip


def ask_topic_id(admin: AdminClient, topic: str, timeout_s: float) -> "Future[Any]":
    """Ask for a topic's description, without waiting."""
    asked: Future[Any] = admin.describe_topics(TopicCollection([topic]), request_timeout=timeout_s)[topic]
    return asked


def topic_id_of(answered: "Future[Any]") -> str:
    """The topic's identity in an answer that has come; "" where the cluster has no identities.

    Raises:
        KafkaException: the answer is an error
    """
    try:
        found = str(answered.result(0).topic_id)
    except KafkaException as exc:
        if exc.args[0].code() == KafkaError._UNSUPPORTED_FEATURE:
            return ""
        raise
    return "" if found == _NO_IDENTITY else found


def _epoch(answer: Any) -> int:
    return -1 if answer.leader_epoch is None else int(answer.leader_epoch)


def _listed(partitions: list[int]) -> str:
    return f"{len(partitions)}: {', '.join(map(str, partitions[:20]))}{', ...' if len(partitions) > 20 else ''}"
