"""Beside a read: is each topic still the one that was planned? Asked now and then, and at the end."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from kafkapipes.errors import StalledError, TopicChangedError
from kafkapipes.kafka.config import ClientConfig, answer_ms
from kafkapipes.kafka.failures import ADVICE, SILENCE, TERMINAL, Complaints, failure_of
from kafkapipes.kafka.offsets import ask_topic_id, topic_id_of
from kafkapipes.kafka.release import END_S, check_lookups, end_client

CHECK_S = 5.0  # between two questions during a read
DOUBT_S = 1.0  # a topic was deleted if two answers, so far apart, do not know it: one broker may lag behind
_REQUEST_S = 5.0
_SLICE_S = 0.2  # Ctrl-C is seen between two waits


class TopicWatch:
    """Asks for the identity of topics while they are read. For one process.

    Without it a consumer goes on, at its old offset, in a topic that was deleted and made anew.

    Args:
        glance: tells the identity of a topic without a client of librdkafka, "" where it cannot. It is believed only
            where it tells the one that was planned; else a client of librdkafka is asked, from then on
    """

    def __init__(self, config: ClientConfig, timeout_s: float, glance: Callable[[str], str] | None = None) -> None:
        self._config = config
        self._glance = glance
        self._timeout_s = timeout_s
        self._complaints = Complaints(config)
        self._admin: AdminClient | None = None
        self._planned: dict[str, str] = {}  # topic → identity
        self._asked: tuple[str, Future[Any]] | None = None
        self._next = 0.0
        self._unknown_since: dict[str, float] = {}

    def tick(self, topic: str, topic_id: str, where: str = "") -> None:
        """Ask, and look whether an answer has come, without waiting for it; a topic without identity is let be.

        Args:
            where: the place in this topic that the reader has come to, for errors

        Raises:
            TopicChangedError, TopicError: the topic was made anew, or deleted
            AuthorizationError: it may not be seen any more
        """
        if not topic_id:
            return
        self._planned[topic] = topic_id
        if self._asked is None:
            if time.monotonic() >= self._next:
                self._asked = topic, self._ask(topic)
        elif self._asked[1].done():
            (asked, answer), self._asked = self._asked, None
            passed = self._judge(asked, answer, where if asked == topic else "")
            self._next = time.monotonic() + (CHECK_S if passed else DOUBT_S)

    def confirm(self) -> None:
        """Ask once more for every topic that was read, and wait for the answers.

        Raises:
            TopicChangedError, TopicError: a topic was made anew, or deleted
            StalledError: no answer came
        """
        for topic in self._planned:
            deadline = time.monotonic() + self._timeout_s
            while True:
                asked = self._ask(topic)
                while not asked.done():
                    wait([asked], _SLICE_S)
                    if time.monotonic() > deadline:
                        raise self._unconfirmed(topic)
                if self._judge(topic, asked):
                    break
                time.sleep(_SLICE_S)
                if time.monotonic() > deadline:
                    raise self._unconfirmed(topic)

    def close(self, wait_s: float = END_S) -> None:
        """End the client that asks. Left to the garbage collector, it could be torn down amid a call of its own."""
        self._asked = None
        if self._admin is not None:
            last_reference, self._admin = [self._admin], None
            end_client(last_reference.clear, wait_s)

    def _judge(self, topic: str, asked: "Future[Any]", where: str = "") -> bool:
        """Whether an answer says that the topic is the one that was planned; False where it says nothing."""
        planned = self._planned[topic]
        if self._glance is not None:
            if asked.result(0) == planned:
                return True
            self._glance = self._asked = None
            return False
        try:
            found = topic_id_of(asked)
        except KafkaException as exc:
            code = exc.args[0].code()
            if code == KafkaError.UNKNOWN_TOPIC_OR_PART:
                now = time.monotonic()
                if now - self._unknown_since.setdefault(topic, now) < DOUBT_S:
                    return False
            elif code not in TERMINAL:
                self.close(wait_s=0)  # it would ask the same broker again; a new one learns who answers by now
                return False
            raise failure_of(exc, where or f"topic {topic} while it was read", self._config) from None
        self._unknown_since.pop(topic, None)
        if found not in ("", planned):
            raise TopicChangedError(
                f"topic {topic} was deleted and made anew while it was read: wanted the topic of id {planned}, found "
                f"{found}; {ADVICE[TopicChangedError]}, so drop what was read and plan again"
            )
        return True

    def _ask(self, topic: str) -> "Future[Any]":
        if self._glance is not None:
            return _in_background(self._glance, topic)
        if self._admin is None:
            check_lookups()
            patience = {"socket.timeout.ms": answer_ms(self._timeout_s)}
            self._admin = AdminClient(self._complaints.listening({**patience, **self._config.admin()}))
        return ask_topic_id(self._admin, topic, min(_REQUEST_S, answer_ms(self._timeout_s) / 1000))

    def _unconfirmed(self, topic: str) -> StalledError:
        if self._admin is not None:
            self._admin.poll(0)  # only now does the client say why
        return StalledError(
            self._config.scrub(
                f"topic {topic} was read to the end, but no broker confirmed within {self._timeout_s:g} s that it is "
                f"still the topic that was planned; last word of the client: {self._complaints.last or SILENCE}; check "
                "the broker, or raise stall_timeout_s"
            )
        )


def _in_background(glance: Callable[[str], str], topic: str) -> "Future[Any]":
    """What a glance tells, "" where it fails. Nothing waits for its thread, not even the end of the process."""
    answer: Future[Any] = Future()

    def run() -> None:
        try:
            answer.set_result(glance(topic))
        except Exception:
            answer.set_result("")

    try:
        threading.Thread(target=run, name="kafkapipes-watch", daemon=True).start()
    except RuntimeError:  # no thread is to be had
        answer.set_result("")
    return answer
