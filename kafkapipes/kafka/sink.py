"""KafkaSink: samples → topic, and the control message that announces exactly these records."""

import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from kafkapipes.arrays import parse_shape
from kafkapipes.control import ControlMessage
from kafkapipes.errors import ConfigError, DeliveryError
from kafkapipes.formats.raw import ElementType, Numbers, as_array, element_type, encode, kind_of, type_name
from kafkapipes.kafka.config import ClientConfig
from kafkapipes.kafka.failures import Complaints, describe, failure_of
from kafkapipes.kafka.offsets import LogReader
from kafkapipes.kafka.release import leave_to_parent
from kafkapipes.options import check_seconds, shown
from kafkapipes.ranges import OffsetRange, format_ranges

STRETCH = 65_536  # records that go to one partition before the next has its turn
_SLICE_S = 0.1  # Ctrl-C is seen between two calls of the client


@dataclass(slots=True)
class _Stretch:
    """Consecutive records sent to one partition, and the offsets [start, end) at which they came to lie."""

    partition: int
    sent: int = 0
    settled: int = 0
    runs: list[tuple[int, int]] = field(default_factory=list)

    def acknowledged(self, offset: int) -> None:
        start, end = self.runs[-1] if self.runs else (offset, offset)
        if offset == end and self.runs:
            self.runs[-1] = (start, offset + 1)
        else:  # another producer wrote in between, or this is the first record
            self.runs.append((offset, offset + 1))


class KafkaSink:
    """Publishes samples to a topic and knows where they lie: value as the record's value, label as its key.

    The producer is idempotent, so a retry neither doubles nor reorders. Records go to one partition for
    65,536 records, then to the next; the ranges of the control message, read in the order written, give the samples
    in the order sent, and hold no record of another writer. A context manager: leaving it waits for every
    acknowledgement.

    Args:
        topic: the topic; where the cluster creates topics on first use, it is created
        bootstrap_servers: `"host:port"`, or several, as a list or separated by commas
        data_type, label_type: types as for `ByteDecoder`; None takes those of the first sample
        partition: send to this partition only
        description: carried in the control message
        config: librdkafka properties; no secret is ever shown
        connect_timeout_s: seconds in which the brokers must have named the topic's partitions
        delivery_timeout_s: seconds after which a record that is not acknowledged has failed

    Raises:
        ConfigError: a sample is not like the first one, or not of the declared type
        ConnectError, AuthError, AuthorizationError, TopicError: the topic cannot be used
        DeliveryError: a record was not acknowledged; raised by the next call, at the latest when the sink closes

    >>> import numpy as np
    >>> from kafkapipes.testing import EmbeddedKafka
    >>> with EmbeddedKafka() as kafka:
    ...     kafka.create_topic("digits")
    ...     with KafkaSink("digits", kafka.bootstrap_servers) as sink:
    ...         sink.send_batch(np.zeros((100, 8, 8), np.uint8), np.zeros(100, np.uint8))
    >>> sink.control_message.topic, sink.control_message.input_config["data_reshape"]
    ('digits:0:0:100', '8 8')
    """

    def __init__(
        self,
        topic: str,
        bootstrap_servers: str | Sequence[str],
        *,
        data_type: str | None = None,
        label_type: str | None = None,
        partition: int | None = None,
        description: str = "",
        config: Mapping[str, object] | None = None,
        connect_timeout_s: float = 30.0,
        delivery_timeout_s: float = 120.0,
    ) -> None:
        self.topic = OffsetRange(topic, 0, 0, 0).topic  # which checks it
        check_seconds("connect_timeout_s", connect_timeout_s)
        check_seconds("delivery_timeout_s", delivery_timeout_s)
        if not isinstance(description, str):
            raise ConfigError(f"description is {shown(description)}, wanted a text")
        self._client = ClientConfig(bootstrap_servers, "kafkapipes", config)
        if config is not None and "message.timeout.ms" in config:
            raise ConfigError("config holds message.timeout.ms: pass it as delivery_timeout_s")
        self._description = description
        names = (data_type, label_type)
        self._kinds: list[ElementType | None] = [element_type(name) if name else None for name in names]
        self._shapes: list[tuple[int, ...] | None] = [None, None]
        self._labelled: bool | None = None
        with LogReader(self._client, connect_timeout_s, may_create=True) as reader:
            existing = reader.partitions(topic)
        if partition is not None and not (type(partition) is int and partition in existing):
            raise ConfigError(f"partition is {shown(partition)}, wanted one of topic {topic}: {existing}")
        self._partitions = existing if partition is None else [partition]
        self._timeout_s = delivery_timeout_s
        properties = Complaints(self._client).listening(self._client.producer())
        properties["message.timeout.ms"] = int(delivery_timeout_s * 1000)
        try:
            self._producer = Producer(properties)
        except (KafkaException, ValueError, TypeError) as exc:
            raise failure_of(exc, "the client configuration was refused", self._client) from None
        self._stretches: list[_Stretch] = []
        self._unsettled: dict[int, deque[_Stretch]] = {number: deque() for number in self._partitions}
        self._failed = 0
        self._first_failure = ""
        self._closed = False
        self._pid = os.getpid()

    def send(self, value: Any, label: Any = None) -> None:
        """Publish one sample: an array, a number, a str or bytes; without a label the key is null."""
        self._check_usable()
        if self._labelled not in (None, label is not None):
            raise ConfigError(f"{self._name(0)}: either all samples have a label or none has")
        encoded = self._encode(0, value)
        key = None if label is None else self._encode(1, label)
        self._labelled = label is not None
        stretch = self._stretch()
        while True:
            try:
                self._producer.produce(self.topic, encoded, key, stretch.partition, on_delivery=self._settle)
                break
            except BufferError:  # the client's queue is full: wait for acknowledgements
                self._producer.poll(_SLICE_S)
            except KafkaException as exc:
                raise DeliveryError(self._client.scrub(f"{self._name(0)} was refused: {exc.args[0].str()}")) from None
        stretch.sent += 1
        self._producer.poll(0)

    def send_batch(self, values: Any, labels: Any = None) -> None:
        """Publish many samples: values [B, *shape] and labels [B] or [B, *shape], or lists of the same length."""
        values, labels = _rows(values), None if labels is None else _rows(labels)
        if labels is not None and len(labels) != len(values):
            raise ConfigError(f"wanted a label for each value, found {len(values)} values and {len(labels)} labels")
        for row in range(len(values)):
            self.send(values[row], None if labels is None else labels[row])

    def flush(self) -> None:
        """Wait until every record sent so far is acknowledged."""
        self._check_process()
        deadline = time.monotonic() + self._timeout_s + 5.0  # by then the client has given up each record
        while self._producer.flush(_SLICE_S) and time.monotonic() < deadline:
            pass
        if waiting := len(self._producer):
            raise DeliveryError(
                f"{waiting} record(s) for {self.topic} were not acknowledged within {self._timeout_s:g} s"
            )
        self._check_failures()

    def close(self) -> None:
        """Flush, and end the sink; nothing can be sent afterwards. In a fork nothing: the sink is its parent's."""
        if not self._closed and os.getpid() == self._pid:
            self._closed = True
            self.flush()

    @property
    def control_message(self) -> ControlMessage:
        """Where the acknowledged records lie and how they decode; ask after `flush` or when the sink is closed."""
        self._check_failures()
        sent, settled = sum(item.sent for item in self._stretches), sum(item.settled for item in self._stretches)
        if sent != settled:
            raise DeliveryError(
                f"{sent - settled} of {sent} record(s) are not acknowledged yet: call flush() or close() first"
            )
        if not sent:
            raise DeliveryError(f"no record was sent to {self.topic}, so there is no range to announce")
        data_kind, label_kind = self._kinds
        config = {
            "data_type": _name_of(data_kind), "label_type": _name_of(label_kind) if self._labelled else None,
            "data_reshape": _shape_text(data_kind, self._shapes[0]) or "1",
            "label_reshape": _shape_text(label_kind, self._shapes[1]) if self._labelled else "",
        }  # fmt: skip
        if not isinstance(data_kind, Numbers):
            config["data_reshape"] = ""
        return ControlMessage(format_ranges(self._ranges()), config, description=self._description, total_msg=sent)

    def __enter__(self) -> "KafkaSink":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or os.getpid() != self._pid:
            self.close()
        else:  # the block failed: what waits is dropped, and the block's own error is the one to see
            self._closed = True
            self._producer.purge()
            self._producer.flush(_SLICE_S)

    def __del__(self) -> None:
        if os.getpid() != self.__dict__.get("_pid", os.getpid()):
            leave_to_parent(self._producer)

    def __repr__(self) -> str:
        return f"KafkaSink({self.topic!r}, {sum(item.sent for item in self._stretches)} sent)"

    def _encode(self, place: int, item: Any) -> bytes:
        """The bytes of a value (place 0) or a label (1). The first one tells type and shape, the others must agree."""
        try:
            if not isinstance(item, str | bytes | bytearray | memoryview):
                item = as_array(item)
            kind = self._kinds[place] or kind_of(item)
            encoded = encode(item, kind)
        except ConfigError as exc:
            raise ConfigError(f"{self._name(place)}: {exc}") from None
        shape = item.shape if isinstance(item, np.ndarray) else ()
        parse_shape(shape or None)  # what cannot be announced is not sent
        wanted = self._shapes[place]
        if wanted not in (None, shape):
            raise ConfigError(f"{self._name(place)} has shape {shape}, wanted {wanted} as the first one has")
        self._kinds[place], self._shapes[place] = kind, shape
        return encoded

    def _stretch(self) -> _Stretch:
        """Where the next record goes."""
        if not self._stretches or self._stretches[-1].sent == STRETCH:
            stretch = _Stretch(self._partitions[len(self._stretches) % len(self._partitions)])
            self._stretches.append(stretch)
            self._unsettled[stretch.partition].append(stretch)
        return self._stretches[-1]

    def _settle(self, error: KafkaError | None, message: Message) -> None:
        """A delivery report. An idempotent producer's come in the order sent, partition by partition."""
        waiting = self._unsettled[int(message.partition())]  # type: ignore[arg-type]  # always set
        while waiting[0].settled == STRETCH:
            waiting.popleft()
        offset = message.offset()
        if error is None and offset is not None:
            waiting[0].acknowledged(int(offset))
        else:  # a retry that the broker had already stored is acknowledged without a place
            self._failed += 1
            cause = "acknowledged without an offset" if error is None else self._client.scrub(describe(error))
            self._first_failure = self._first_failure or cause
        waiting[0].settled += 1  # last: what Ctrl-C interrupts in here stays unacknowledged

    def _ranges(self) -> list[OffsetRange]:
        """The runs of all stretches in the order sent, neighbours that touch joined."""
        joined: list[OffsetRange] = []
        for stretch in self._stretches:
            for start, end in stretch.runs:
                last = joined[-1] if joined else None
                if last and (last.partition, last.end) == (stretch.partition, start):
                    joined[-1] = OffsetRange(self.topic, stretch.partition, last.start, end)
                else:
                    joined.append(OffsetRange(self.topic, stretch.partition, start, end))
        return joined

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise DeliveryError(
                f"the sink for {self.topic} was opened in process {self._pid}, and no client survives a fork; open one "
                f"in process {os.getpid()}"
            )

    def _check_usable(self) -> None:
        self._check_process()
        if self._closed:
            raise DeliveryError(f"the sink for {self.topic} is closed; open a new one")
        self._check_failures()

    def _check_failures(self) -> None:
        if self._failed:
            raise DeliveryError(
                f"{self._failed} record(s) for {self.topic} were not acknowledged, first cause {self._first_failure}; "
                "the records that were have no control message: send all again"
            )

    def _name(self, place: int) -> str:
        return f"{('value', 'label')[place]} {sum(item.sent for item in self._stretches)} for {self.topic}"


def _rows(items: Any) -> Any:
    """Rows that can be taken by index: lists as they are, anything else as an array."""
    if isinstance(items, list | tuple):
        return items
    if isinstance(items, str | bytes) or np.ndim(as_array(items)) == 0:
        raise ConfigError(f"wanted many samples, found {type(items).__name__}: send() takes a single one")
    return as_array(items)


def _name_of(kind: Any) -> str | None:
    return type_name(kind) if kind else None


def _shape_text(kind: Any, shape: tuple[int, ...] | None) -> str:
    return " ".join(map(str, shape or ())) if isinstance(kind, Numbers) else ""
