"""The offsets that a consumer group has committed: read, and set to what was acknowledged. Nobody joins the group."""

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from kafkapipes.errors import AuthorizationError, KafkaPipesError, StalledError
from kafkapipes.kafka.config import ClientConfig, answer_ms
from kafkapipes.kafka.failures import SILENCE, Complaints, describe, failure, failure_of
from kafkapipes.kafka.release import leave_to_parent

Partition = tuple[str, int]
_SLICE_S = 0.2  # Ctrl-C is seen between two waits
_PAUSE_S = 0.1  # between two tries
# While the coordinator is elected or moves these pass, and a connection that broke is made again.
_PASSING = {
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR,
    KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._TIMED_OUT_QUEUE, KafkaError._ALL_BROKERS_DOWN,
    KafkaError._WAIT_COORD, KafkaError.REQUEST_TIMED_OUT, KafkaError.NETWORK_EXCEPTION, KafkaError._RESOLVE,
}  # fmt: skip
_HAS_MEMBERS = {KafkaError.UNKNOWN_MEMBER_ID, KafkaError.REBALANCE_IN_PROGRESS, KafkaError.ILLEGAL_GENERATION}


class GroupOffsets:
    """The committed offsets of one group. For one process.

    Args:
        config: whose `group_id` names the group
        timeout_s: seconds in which a question must be answered
    """

    def __init__(self, config: ClientConfig, timeout_s: float) -> None:
        self._config = config
        self._timeout_s = timeout_s
        self._pid = os.getpid()
        self._complaints = Complaints(config)
        properties = self._complaints.listening({"socket.timeout.ms": answer_ms(timeout_s), **config.admin()})
        try:
            self._admin = AdminClient(properties)
        except (KafkaException, ValueError, TypeError) as exc:
            raise failure_of(exc, "the client configuration was refused", config) from None

    def __del__(self) -> None:
        if os.getpid() != self.__dict__.get("_pid", os.getpid()):
            leave_to_parent(self.__dict__.get("_admin"))

    def committed(self, partitions: set[Partition]) -> dict[Partition, int]:
        """The committed offset of each partition that has one.

        Raises:
            AuthorizationError, StalledError: the group may not be read, or no broker answers
        """
        wanted = [TopicPartition(*key) for key in sorted(partitions)]
        found = self._ask(self._admin.list_consumer_group_offsets, wanted, "asking what was committed")
        return {(item.topic, item.partition): item.offset for item in found if item.offset >= 0}

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Set the committed offset of each partition: the next one to be read.

        Raises:
            AuthorizationError, StalledError: the group may not be written, or no broker answers
            KafkaPipesError: consumers have joined the group, which then is theirs
        """
        wanted = [TopicPartition(*key, offset) for key, offset in sorted(offsets.items())]
        if wanted:
            self._ask(self._admin.alter_consumer_group_offsets, wanted, "committing")

    def _ask(self, question: Callable[..., Any], partitions: list[TopicPartition], doing: str) -> list[TopicPartition]:
        where, deadline = f"{doing} in group {self._config.group_id}", time.monotonic() + self._timeout_s
        last = ""
        while (left_s := deadline - time.monotonic()) > 0:
            request = [ConsumerGroupTopicPartitions(self._config.group_id, partitions)]
            timeout_s = max(0.1, min(left_s, answer_ms(self._timeout_s) / 1000))
            (asked,) = question(request, request_timeout=timeout_s).values()
            try:
                found: list[TopicPartition] = self._await(asked, deadline).topic_partitions
                for item in found:
                    if item.error is not None:
                        raise KafkaException(item.error)
                return found
            except KafkaException as exc:
                error = exc.args[0]
                if error.code() not in _PASSING:
                    raise self._refused(error, where) from None
                last = describe(error)
            time.sleep(_PAUSE_S)
        self._admin.poll(0)  # only now does the client say why
        raise StalledError(
            self._config.scrub(
                f"{where}: no answer within {self._timeout_s:g} s; {self._complaints.last or last or SILENCE}; check "
                "the broker, or raise stall_timeout_s"
            )
        )

    def _await(self, asked: "Future[Any]", deadline: float) -> Any:
        while not wait([asked], _SLICE_S).done:
            if time.monotonic() > deadline + _SLICE_S:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return asked.result(0)

    def _refused(self, error: KafkaError, where: str) -> KafkaPipesError:
        text = f"{where}: {describe(error)}; "
        if error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            return AuthorizationError(self._config.scrub(text + "the principal needs READ on the group"))
        if error.code() in _HAS_MEMBERS:
            text += "consumers have joined this group, and it is theirs to commit; take a group_id of your own"
            return KafkaPipesError(self._config.scrub(text))
        return failure(error, where, self._config)
