"""DeadLetterTopic: a `dead_letter` that sends each letter to a topic, and returns when all are stored."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from kafkapipes.dead_letters import DeadLetter
from kafkapipes.errors import ConfigError, DeliveryError
from kafkapipes.kafka.config import ClientConfig
from kafkapipes.kafka.failures import Complaints, describe, failure_of
from kafkapipes.kafka.offsets import LogReader
from kafkapipes.kafka.release import leave_to_parent
from kafkapipes.options import check_seconds
from kafkapipes.ranges import OffsetRange

HEADERS = ("topic", "partition", "offset", "reason", "error", "text")  # each as `kafkapipes.NAME`
_SLICE_S = 0.1  # Ctrl-C is seen between two calls of the client


class DeadLetterTopic:
    """Sends dead letters to a topic: what `dead_letter` of `ByteDecoder` and `TrainingKafkaDataset` may be.

    A call returns when every letter is acknowledged. A letter is a record with a null key, the letter's JSON as its
    value, and headers `kafkapipes.topic`, `.partition`, `.offset`, `.reason`, `.error` and `.text`. With
    `dead_letter_payload=True` key and value are those of the record that was left out. The producer is idempotent, and
    each process that reads makes its own: the object may be pickled and may cross a fork.

    Args:
        topic: a topic other than those that are read, on whatever cluster; where the cluster creates topics on first
            use, it is created
        bootstrap_servers: `"host:port"`, or several, as a list or separated by commas
        config: librdkafka properties; no secret is ever shown, a value may be a callable that fetches it
        connect_timeout_s: seconds in which the brokers must have named the topic's partitions, when this is made
        delivery_timeout_s: seconds after which a letter that is not acknowledged has failed

    Raises:
        ConfigError: an option cannot be used; or a letter comes from this very topic
        ConnectError, AuthError, AuthorizationError, TopicError: the topic cannot be used
        DeliveryError: a letter was not acknowledged; the read that it comes from ends

    >>> from kafkapipes.pipes.parser import RangeParser
    >>> from kafkapipes.testing import EmbeddedKafka
    >>> with EmbeddedKafka() as kafka:
    ...     kafka.fill("clicks", [(b"ab", b"0"), (b"abc", b"1")])
    ...     kafka.create_topic("left-out")
    ...     letters = DeadLetterTopic("left-out", kafka.bootstrap_servers)
    ...     reader = RangeParser("clicks:0:0:2").read_partitions(kafka.bootstrap_servers)
    ...     arrays = list(reader.decode_bytes("uint8", on_error="dead-letter", dead_letter=letters))
    ...     (stored,) = RangeParser("left-out:0:0:1").read_partitions(kafka.bootstrap_servers)
    >>> stored.values[0]
    b'{"topic": "clicks", "partition": 0, "offset": 1, "reason": "on_error", "error": "DecodeError", ...}'
    """

    def __init__(
        self,
        topic: str,
        bootstrap_servers: str | Sequence[str],
        *,
        config: Mapping[str, object] | None = None,
        connect_timeout_s: float = 30.0,
        delivery_timeout_s: float = 120.0,
    ) -> None:
        self._producer: Producer | None = None
        self._pid = os.getpid()
        self.topic = OffsetRange(topic, 0, 0, 0).topic  # which checks it
        check_seconds("connect_timeout_s", connect_timeout_s)
        check_seconds("delivery_timeout_s", delivery_timeout_s)
        self._client = ClientConfig(bootstrap_servers, "kafkapipes", config)
        if config is not None and "message.timeout.ms" in config:
            raise ConfigError("config holds message.timeout.ms: pass it as delivery_timeout_s")
        self._timeout_s = delivery_timeout_s
        with LogReader(self._client, connect_timeout_s, may_create=True) as reader:
            reader.partitions(topic)  # better now than at the first letter, an hour into a read

    def __call__(self, letters: Sequence[DeadLetter]) -> None:
        """Send letters, and wait until the brokers have acknowledged them all."""
        self.check_source({letter.topic for letter in letters})
        producer = self._own_producer()
        causes: list[str] = []  # of each letter that the brokers have answered for; '' for one that is stored

        def settle(error: KafkaError | None, message: Message) -> None:
            causes.append("" if error is None else describe(error))

        for letter in letters:
            self._send(producer, letter, settle)
        deadline = time.monotonic() + self._timeout_s + 5.0  # by then the client has given up each record
        while producer.flush(_SLICE_S) and time.monotonic() < deadline:
            pass
        if causes.count("") < len(letters):
            cause = next(filter(None, causes), f"no answer within {self._timeout_s:g} s")
            text = (
                f"wanted {len(letters)} dead letter(s) acknowledged by {self.topic}, found {causes.count('')}: "
                f"{cause}; the first letter was for {letters[0].coordinates}; read again, or set another policy"
            )
            raise DeliveryError(self._client.scrub(text))

    def check_source(self, topics: set[str]) -> None:
        """Raise a `ConfigError` if this topic is among those that are read."""
        if self.topic in topics:
            raise ConfigError(
                f"dead letters of topic {self.topic} would go to {self.topic} itself: a read of it would make records "
                "for the next; send them to another topic"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_producer": None}

    def __del__(self) -> None:
        self._leave_to_parent()

    def __repr__(self) -> str:
        return f"DeadLetterTopic({self.topic!r}, {self._client!r})"

    def _own_producer(self) -> Producer:
        """The producer of this process."""
        self._leave_to_parent()
        if self._producer is None:
            properties = Complaints(self._client).listening(self._client.producer())
            properties["message.timeout.ms"] = int(self._timeout_s * 1000)
            try:
                self._producer = Producer(properties)
            except (KafkaException, ValueError, TypeError) as exc:
                raise failure_of(exc, "the client configuration was refused", self._client) from None
        return self._producer

    def _leave_to_parent(self) -> None:
        """Put a producer that a fork has brought here where nothing uses or frees it."""
        if self._producer is not None and self._pid != os.getpid():
            leave_to_parent(self._producer)
            self._producer = None
        self._pid = os.getpid()

    def _send(self, producer: Producer, letter: DeadLetter, settle: Any) -> None:
        kept = letter.key is not None or letter.value is not None
        key, value = (letter.key, letter.value) if kept else (None, letter.to_json().encode())
        headers = [(f"kafkapipes.{name}", str(getattr(letter, name)).encode()) for name in HEADERS]
        while True:
            try:
                # The client takes a null value here, though its declared types do not say so.
                producer.produce(self.topic, value, key, headers=headers, on_delivery=settle)  # type: ignore[arg-type]
                break
            except BufferError:  # the client's queue is full: wait for acknowledgements
                producer.poll(_SLICE_S)
            except KafkaException as exc:
                producer.purge()
                producer.flush(_SLICE_S)
                text = f"the dead letter for {letter.coordinates} was refused: {exc.args[0].str()}"
                raise DeliveryError(self._client.scrub(text)) from None
        producer.poll(0)
