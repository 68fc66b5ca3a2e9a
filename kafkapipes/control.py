"""Control messages: the Kafka-ML dictionary (or its JSON) that names a dataset's ranges and how to decode them. Pure.

Field names are Kafka-ML's own (github.com/ertis-research/kafka-ml, datasources/sink.py). `topic` holds range
text; only `topic` and `input_config` are required.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import accumulate
from typing import Any, NoReturn

from kafkapipes.errors import ConfigError, ControlMessageError, RangeError
from kafkapipes.formats import FORMATS
from kafkapipes.formats.raw import RawFormat
from kafkapipes.options import shown
from kafkapipes.ranges import OffsetRange, parse_ranges

MAX_JSON_BYTES = 1_000_000  # about what a Kafka record holds by default; a larger text is no control message
MAX_DEPTH = 16  # Kafka-ML nests two deep; far below where Python's recursion ends
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"?')  # one that does not end too: looking for its end again and again is slow


@dataclass(frozen=True)
class ControlMessage:
    """Where a dataset lies in Kafka and how its records decode.

    Attributes:
        topic: range text, `topic:partition:start:end,...`
        input_config: the fields of the format; for RAW data_type, label_type, data_reshape, label_reshape
        input_format: the name of the format; RAW where none is given
        description: what the dataset is, in words
        dataset_restrictions: as in Kafka-ML, carried along
        validation_rate: part of the samples meant for validation, from 0 up to, and without, 1
        test_rate: the same for testing
        total_msg: number of records that the sender counted
        incremental: as in Kafka-ML, carried along
        unsupervised_topic: as in Kafka-ML, carried along
        deployment: added by Kafka-ML's database
        time: added by Kafka-ML's database

    >>> layout = {"data_type": "uint8", "label_type": "uint8", "data_reshape": "28 28"}
    >>> message = ControlMessage("mnist:0:0:70000", layout)
    >>> message.ranges
    [OffsetRange(topic='mnist', partition=0, start=0, end=70000)]
    >>> ControlMessage.from_json(message.to_json()) == message
    True

    Raises:
        ControlMessageError: a field makes no sense, or the format is not supported.
    """

    topic: str
    input_config: Mapping[str, object]
    input_format: str = "RAW"
    description: str = ""
    dataset_restrictions: object = field(default_factory=dict)
    validation_rate: float = 0.0
    test_rate: float = 0.0
    total_msg: int | None = None
    incremental: bool = False
    unsupervised_topic: str | None = None
    deployment: object = None
    time: object = None

    def __post_init__(self) -> None:
        if not isinstance(self.input_format, str) or self.input_format not in FORMATS:
            raise ControlMessageError(
                f"the control message has input_format {shown(self.input_format)}; supported: {', '.join(FORMATS)}"
            )
        self._check_numbers()
        self._check_texts()
        if not isinstance(self.input_config, Mapping):
            raise ControlMessageError(
                f"input_config is {shown(self.input_config)}, wanted a dictionary of the format's fields"
            )
        for name in ("input_config", "dataset_restrictions", "deployment", "time"):
            _check_json(name, getattr(self, name))
        try:
            object.__setattr__(self, "input_config", dict(self.input_config))
            _ = self.ranges, self.format
        except (RangeError, ConfigError) as exc:
            raise ControlMessageError(f"the control message cannot be used: {exc}") from exc

    @property
    def ranges(self) -> list[OffsetRange]:
        """The ranges that `topic` names, in the order written."""
        return parse_ranges(self.topic)

    @property
    def format(self) -> RawFormat:
        """How the records decode."""
        return FORMATS[self.input_format].from_config(self.input_config)

    @classmethod
    def from_dict(cls, message: Mapping[str, object]) -> "ControlMessage":
        """The control message in a dictionary.

        Raises:
            ControlMessageError: a field is missing, unknown, or makes no sense; the text lists what is known.
        """
        if not isinstance(message, Mapping):
            raise ControlMessageError(f"wanted a control message as a dictionary, found {type(message).__name__}")
        known = [item.name for item in fields(cls)]
        if missing := [name for name in ("topic", "input_config") if message.get(name) is None]:
            raise ControlMessageError(
                f"the control message has no {' and no '.join(missing)}; it has {shown(list(message))}"
            )
        if unknown := [name for name in message if name not in known]:
            raise ControlMessageError(
                f"the control message has unknown fields {shown(unknown)}; known: {', '.join(known)}"
            )
        # Any: __post_init__ checks the types.
        given: dict[str, Any] = {name: value for name, value in message.items() if value is not None}
        if isinstance(given["input_config"], str):  # Kafka-ML's REST API stores it as JSON text
            given["input_config"] = _load_json(given["input_config"])
        return cls(**given)

    @classmethod
    def from_json(cls, text: str | bytes) -> "ControlMessage":
        """The control message in a JSON text, as on Kafka-ML's control topic.

        The JSON is read strictly: at most 1,000,000 characters, or bytes of UTF-8, and 16 levels, no field twice, no
        NaN or Infinity.

        Raises:
            ControlMessageError: not such JSON, or not a control message.
        """
        return cls.from_dict(_load_json(text))

    def to_dict(self) -> dict[str, object]:
        """The Kafka-ML dictionary; what only Kafka-ML's database adds is left out where it is not set."""
        pairs = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in pairs.items() if name not in ("deployment", "time") or value is not None}

    def to_json(self) -> str:
        """The JSON text for a control topic."""
        return json.dumps(self.to_dict())

    def _check_numbers(self) -> None:
        for name in ("validation_rate", "test_rate"):
            rate = getattr(self, name)
            if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
                raise ControlMessageError(f"{name} is {shown(rate)}, wanted a number from 0 up to, and without, 1")
        count = self.total_msg
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < 2**63):
            raise ControlMessageError(f"total_msg is {shown(count)}, wanted a whole number of records, or null")
        if not isinstance(self.incremental, bool):
            raise ControlMessageError(f"incremental is {shown(self.incremental)}, wanted true or false")

    def _check_texts(self) -> None:
        if not isinstance(self.description, str):
            raise ControlMessageError(f"description is {shown(self.description)}, wanted a text")
        if not isinstance(self.unsupervised_topic, str | None):
            raise ControlMessageError(f"unsupervised_topic is {shown(self.unsupervised_topic)}, wanted a text, or null")
        for name in ("description", "unsupervised_topic"):
            _check_json(name, getattr(self, name))


def as_control_message(message: "ControlMessage | Mapping[str, object] | str") -> ControlMessage:
    """A control message from any of the forms that are accepted: itself, its dictionary, its JSON text."""
    if isinstance(message, ControlMessage):
        return message
    return ControlMessage.from_json(message) if isinstance(message, str) else ControlMessage.from_dict(message)


def _load_json(text: str | bytes) -> dict[str, object]:
    text = _decoded(text)
    brackets = re.findall(r"[\[\]{}]", _STRING.sub("", text))
    depth = max(accumulate(1 if bracket in "[{" else -1 for bracket in brackets), default=0)
    if depth > MAX_DEPTH:  # before the parser recurses
        raise ControlMessageError(f"wanted JSON of at most {MAX_DEPTH} levels, found {depth}")
    try:
        loaded = json.loads(text, object_pairs_hook=_fields_once, parse_constant=_refuse_constant)
    except ControlMessageError:
        raise
    except ValueError as exc:
        raise ControlMessageError(f"wanted a control message as JSON, found text that is not: {exc}") from None
    if not isinstance(loaded, dict):
        raise ControlMessageError(f"wanted a JSON object, found {type(loaded).__name__}")
    return loaded


def _decoded(text: str | bytes) -> str:
    if not isinstance(text, str | bytes):
        raise ControlMessageError(f"wanted a control message as JSON in a str or bytes, found {type(text).__name__}")
    if len(text) > MAX_JSON_BYTES:
        raise ControlMessageError(f"wanted at most {MAX_JSON_BYTES} bytes of JSON, found {len(text)}")
    try:
        return text.decode() if isinstance(text, bytes) else text
    except UnicodeDecodeError as exc:
        raise ControlMessageError(
            f"wanted a control message as JSON in UTF-8, found bytes that are not: {exc}"
        ) from None


def _fields_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]
        raise ControlMessageError(f"wanted each field once, found {shown(twice)} more than once")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ControlMessageError(f"wanted JSON, found {name}, which is a number in JavaScript only")


def _check_json(name: str, value: object, depth: int = 1) -> None:
    """Raise unless a field holds what JSON can, and every reader of it: 64-bit numbers, UTF-8 text, few levels."""
    rule = f"wanted what JSON holds, in at most {MAX_DEPTH} levels: texts, 64-bit numbers, lists and dictionaries"
    if isinstance(value, str):
        fits = not any("\ud800" <= char <= "\udfff" for char in value)
    elif isinstance(value, int | float):
        fits = -(2**63) <= value < 2**63  # not so for NaN and the infinities
    elif isinstance(value, Mapping):
        fits = depth <= MAX_DEPTH and all(isinstance(key, str) for key in value)
    else:
        fits = value is None or (isinstance(value, list | tuple) and depth <= MAX_DEPTH)
    if not fits:
        raise ControlMessageError(f"{name} holds {shown(value)}, {rule}")
    if isinstance(value, Mapping | list | tuple):
        for item in [*value, *value.values()] if isinstance(value, Mapping) else value:
            _check_json(name, item, depth + 1)
