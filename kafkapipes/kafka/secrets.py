"""What must not be shown: values from elsewhere, properties that hide their values, texts with secrets masked. Pure."""

import json
import os
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from multiprocessing import context
from urllib.parse import quote, quote_plus

from kafkapipes.errors import ConfigError

LEFT_OUT = "<left out when pickled>"
_SECRET_WORDS = ("password", "secret", "token", "username", "jaas", "oauth", "key.pem", "key.location", "assertion")
# Properties that name things: their values may stand in a text, unless the client quotes them as refused.
_NAMING = ("client.id", "client.rack", "debug", "group.instance.id")
# Words that say nothing about a secret, so error texts may keep them.
_PLAIN_WORDS = {
    "plaintext", "ssl", "sasl_plaintext", "sasl_ssl",
    "plain", "scram-sha-256", "scram-sha-512", "oauthbearer", "gssapi",
    "true", "false", "none", "error", "earliest", "latest", "read_committed", "read_uncommitted",
    "gzip", "snappy", "lz4", "zstd", "all", "any", "https", "default", "classic", "consumer", "range", "roundrobin",
    "rebootstrap", "lazy", "sort", "probe",
}  # fmt: skip
_SHORT = 2  # characters: a shorter secret cannot be masked without masking half of the text
_LONG = 64  # a value of this length is no name or word, wherever it stands
_START = 16  # characters of a value that give it away: the client cuts long texts off


@dataclass(frozen=True, slots=True)
class FromEnvironment:
    """A client property's value: the environment variable of this name, read when and where a client is made.

    No object of kafkapipes, and no pickle of one, holds the value. Workers of a DataLoader inherit the environment.

    >>> FromEnvironment("KAFKA_PASSWORD")
    FromEnvironment(variable='KAFKA_PASSWORD')

    Raises:
        ConfigError: the name is none; when called, the variable is not set, or empty.
    """

    variable: str

    def __post_init__(self) -> None:
        if not isinstance(self.variable, str) or not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", self.variable):
            # What was found may be the secret itself.
            raise ConfigError("wanted the name of an environment variable: letters, digits and _, no digit first")

    def __call__(self) -> str:
        """The value of the variable now."""
        found = os.environ.get(self.variable)
        if not found:
            state = "not set" if found is None else "empty"
            raise ConfigError(f"the environment variable {self.variable} is {state}; set it for this process")
        return found


def fetch(name: str, value: object) -> object:
    """The value of a property: the value itself, or what its callable returns.

    Raises:
        ConfigError: the callable raised, or returned what no property can be. Its own text is not repeated.
    """
    if not callable(value):
        return value
    try:
        found = value()
    except Exception as exc:
        # A provider's text may hold anything; FromEnvironment's is ours.
        reason = str(exc) if isinstance(value, FromEnvironment) else f"its callable raised {type(exc).__name__}"
    else:
        reason = "" if is_scalar(found) else f"its callable returned {type(found).__name__}, wanted a text or number"
    if reason:  # raised out here, or the provider's exception would go along as the context
        raise ConfigError(f"the property {name} has no value: {reason}")
    if isinstance(found, str):
        check_text(f"the value fetched for the property {name}", found)
    return found


def is_scalar(value: object) -> bool:
    """Whether a value is a text, or a number that 64 bits hold."""
    return isinstance(value, str) or (isinstance(value, int | float) and -(2**63) <= value < 2**63)


def check_text(name: str, text: str) -> None:
    """Raise unless the client's C library can hold a text; the error does not show it."""
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise ConfigError(f"{name} holds a character that UTF-8 or C cannot hold")


class HiddenValues(Mapping[str, object]):
    """Properties. Their repr names them and hides every value; a copy is the object itself.

    Pickled, the values are left out, and so is a logger, except into a process that multiprocessing is starting at
    that moment, such as a DataLoader's worker. Callables are kept.

    >>> HiddenValues({"sasl.password": "hunter2", "client.id": "me"})
    <client.id, sasl.password; values hidden>
    """

    __slots__ = ("_values",)  # and so nothing for vars()

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> object:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<{', '.join(sorted(self)) or 'no properties'}; values hidden>"

    def __copy__(self) -> "HiddenValues":
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> "HiddenValues":
        return self

    def __reduce__(self) -> tuple[object, ...]:
        # The same rule by which multiprocessing guards its own authentication key.
        if context.get_spawning_popen() is not None:
            return type(self), (self._values,)
        # A logger is no value to miss: the lines go to our own logger again.
        kept: dict[str, object] = {name: LEFT_OUT for name in self if name != "logger"}
        kept.update((name, value) for name, value in self.items() if callable(value) and name != "logger")
        return type(self), (kept,)


class Mask:
    """Takes the values of properties out of texts. Its repr hides them; it is pickled without them.

    >>> mask = Mask({"sasl.password": "hunter2", "client.id": "me-too"})
    >>> mask.scrub("hunter2 is refused for me-too, who sent aHVudGVyMg==")
    '*** is refused for me-too, who sent ***g=='
    """

    __slots__ = ("_quoted", "_secrets")

    def __init__(self, properties: Mapping[str, object] | None = None) -> None:
        self._secrets: set[str] = set()  # masked wherever they stand
        self._quoted: set[str] = set()  # masked where the client quotes them as refused
        self.add(properties or {})

    def add(self, properties: Mapping[str, object]) -> None:
        """Remember values: those that were typed, and later those that callables fetched."""
        for name, value in properties.items():
            if isinstance(value, str | int) and not isinstance(value, bool) and value != LEFT_OUT:
                self._add(name, str(value), isinstance(value, str) and not value.isdecimal())

    def scrub(self, text: str) -> str:
        """`text` without what must not be shown, and with control characters escaped."""
        longest_first = sorted(self._secrets, key=len, reverse=True)
        for secret in longest_first:
            text = text.replace(secret, "***")
        for secret in longest_first:
            text = _without_start(text, secret)
        for value in self._quoted:
            text = text.replace(f'"{value}"', '"***"').replace(f"`{value}`", "`***`")
        return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)

    def __repr__(self) -> str:
        return f"<Mask of {len(self._secrets) + len(self._quoted)} texts>"

    def __copy__(self) -> "Mask":
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> "Mask":
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return Mask, ()  # values that were left out need no mask, and ClientConfig makes one for the others

    def _add(self, name: str, value: str, is_word: bool) -> None:
        if any(part in name for part in _SECRET_WORDS):
            (self._secrets if len(value) > _SHORT else self._quoted).update(_spellings(value))
        elif value.lower() in _PLAIN_WORDS or not value:
            pass
        elif len(value) > _LONG or (is_word and name not in _NAMING and len(value) > _SHORT):
            self._secrets.add(value)  # a secret may have been put into the wrong property
        else:
            self._quoted.add(value)


def _without_start(text: str, secret: str) -> str:
    """`text` with each place masked where a long secret begins and is cut off."""
    start, at = secret[:_START], 0
    while len(secret) > _START and (at := text.find(start, at)) >= 0:
        same = takewhile(lambda pair: pair[0] == pair[1], zip(text[at:], secret, strict=False))
        text = f"{text[:at]}***{text[at + sum(1 for _ in same) :]}"
        at += len("***")
    return text


def _spellings(value: str) -> set[str]:
    """A secret as it may stand in a text: as it is, in JSON, in a URL or form, and within base64."""
    spelt = {value, json.dumps(value)[1:-1], quote(value), quote(value, safe=""), quote_plus(value)}
    return spelt | {code for shift in range(3) for code in _within_base64(value.encode(), shift)}


def _within_base64(value: bytes, shift: int) -> set[str]:
    """The characters that depend on nothing but `value` where base64 holds it behind 3n + `shift` other bytes."""
    code = b64encode(bytes(shift) + value).decode()
    stable = code[(0, 2, 3)[shift] : (shift + len(value)) * 4 // 3]
    # Few characters say little, and would be masked by chance.
    return {stable, stable.replace("+", "-").replace("/", "_")} if len(stable) >= 8 else set()
