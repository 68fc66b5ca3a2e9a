"""The configuration of the Kafka clients: safe defaults, the user's overrides, and no secret ever shown.

Property names are librdkafka's (its CONFIGURATION.md).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import context
from typing import Any

from kafkapipes.errors import ConfigError

# A range is data, not a subscription: nothing is committed, nothing is skipped, every stored batch is checked.
SAFE_CONSUMER: dict[str, object] = {
    "check.crcs": True,  # off by default, and then a flipped bit is delivered as good
    "isolation.level": "read_committed",
    "allow.auto.create.topics": False,
    "socket.keepalive.enable": True,
    "topic.metadata.refresh.interval.ms": 10_000,
    "fetch.queue.backoff.ms": 0,  # 1000 by default: each new range would wait for it
    "fetch.wait.max.ms": 20,  # 500 by default: the end of a log, and a new range, would wait for it
    "fetch.max.bytes": 16_777_216,  # with the next, the bound on memory that is fetched ahead
    "queued.max.messages.kbytes": 32_768,
    "queued.min.messages": 100_000,
    "max.poll.interval.ms": 86_400_000,  # a slow training step is no fault of an assigned consumer
}
# Without these a range could end early, or a group move, in silence.
FORCED_CONSUMER: dict[str, object] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
}
# Without these a retry could double or reorder records, or one that failed go unnoticed.
FORCED_PRODUCER: dict[str, object] = {"enable.idempotence": True, "delivery.report.only.error": False}
# Besides, by default, asking for a topic that does not exist would create it.
SAFE_ADMIN: dict[str, object] = {
    "socket.keepalive.enable": True,
    "reconnect.backoff.ms": 20,  # a first connection is put off by half of it: 50 ms by default
}
SAFE_PRODUCER: dict[str, object] = {
    "linger.ms": 20,
    "compression.type": "none",
    "queue.buffering.max.kbytes": 131_072,
    "socket.keepalive.enable": True,
}
OWN_PROPERTIES = ("bootstrap.servers", "group.id")  # arguments, not properties
# Properties that only a consumer knows: another client would warn about each of them.
_CONSUMER_ONLY = (
    "auto.offset.reset", "enable.partition.eof", "check.crcs", "isolation.level", "fetch.", "queued.", "max.poll.",
    "group.", "session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy", "enable.auto.",
    "auto.commit.", "offset.store.", "coordinator.query.", "max.partition.fetch.bytes", "consume.callback.",
)  # fmt: skip
_CALLBACK_KEYS = ("error_cb", "oauth_cb", "stats_cb", "throttle_cb", "on_commit", "logger")
# Words that say nothing about a secret, so error texts may keep them.
_PLAIN_WORDS = {
    "plaintext", "ssl", "sasl_plaintext", "sasl_ssl",
    "plain", "scram-sha-256", "scram-sha-512", "oauthbearer", "gssapi",
    "true", "false", "none", "error", "earliest", "latest", "read_committed", "read_uncommitted",
    "gzip", "snappy", "lz4", "zstd", "all", "https",
}  # fmt: skip
_SECRET_WORDS = ("password", "secret", "token", "username", "jaas", "oauth", "key.pem", "key.location", "assertion")
_LEFT_OUT = "<left out when pickled>"

client_logger = logging.getLogger("kafkapipes.client")  # librdkafka's own log lines go here,
client_logger.addHandler(logging.NullHandler())  # and nowhere else unless the application asks for them


class ClientConfig:
    """The user's client properties. Its repr names them and hides every value.

    A value may be a callable without arguments: it is called in the process that makes the client, so that a
    password need never be part of this object. Pickled, the values are left out, except into a process that
    multiprocessing is starting at that moment, such as a DataLoader's worker.

    >>> ClientConfig("broker:9092", "kafkapipes", {"sasl.password": "hunter2"})
    ClientConfig('broker:9092', properties: sasl.password; values hidden)
    """

    def __init__(
        self, servers: str | Sequence[str], group_id: str, properties: Mapping[str, object] | None = None
    ) -> None:
        self.servers = _server_text(servers)
        self.group_id = _checked_group(group_id)
        self._properties = _checked_properties(properties or {})
        self._secrets: set[str] = set()
        self._others: set[str] = set()
        self._note_values(self._properties)
        self._check_forced(FORCED_CONSUMER)

    def consumer(self) -> dict[str, object]:
        """The properties of a range reader."""
        own = {"bootstrap.servers": self.servers, "group.id": self.group_id}
        return {**SAFE_CONSUMER, **self._resolved(), **FORCED_CONSUMER, **own}

    def admin(self, may_create: bool = False) -> dict[str, object]:
        """The properties of the client that asks about topics: the same, without what only a consumer knows."""
        return self._without_consumer_properties({**SAFE_ADMIN, "allow.auto.create.topics": may_create})

    def producer(self) -> dict[str, object]:
        """The properties of a sink."""
        self._check_forced(FORCED_PRODUCER)
        return self._without_consumer_properties({**SAFE_PRODUCER, **FORCED_PRODUCER})

    @property
    def reads_committed(self) -> bool:
        """Whether records of open and aborted transactions are held back."""
        level = _call_provider("isolation.level", self._properties.get("isolation.level", "read_committed"))
        return str(level).lower() == "read_committed"  # the client does not mind the case either

    @property
    def error_callback(self) -> Callable[[object], object] | None:
        """The user's own `error_cb`: ours passes every error on to it."""
        return self._properties.get("error_cb")  # type: ignore[return-value]  # the client checks what it is given

    @property
    def logger(self) -> Any:
        """Where the client's log lines go: the user's own `logger`, or `kafkapipes.client`."""
        return self._properties.get("logger", client_logger)

    def scrub(self, text: str) -> str:
        """`text` without the values of the user's properties, and with control characters escaped.

        A secret is masked wherever it stands. Another value is masked in quotes, as the client repeats what it
        refuses: a secret may have been put into the wrong property.
        """
        for value in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(value, "***")
        for value in self._others:
            text = text.replace(f'"{value}"', '"***"').replace(f"`{value}`", "`***`")
        return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)

    def __repr__(self) -> str:
        names = ", ".join(sorted(self._properties)) or "none"
        return f"ClientConfig({self.servers!r}, properties: {names}; values hidden)"

    def __reduce__(self) -> tuple[object, ...]:
        # The same rule by which multiprocessing guards its own authentication key.
        spawning = context.get_spawning_popen() is not None
        kept = {
            key: value if spawning or callable(value) else _LEFT_OUT
            for key, value in self._properties.items()
            if spawning or key != "logger"  # no value to miss: the lines go to our own logger again
        }
        return type(self), (self.servers, self.group_id, kept)

    def _resolved(self) -> dict[str, object]:
        if gone := sorted(key for key, value in self._properties.items() if value == _LEFT_OUT):
            raise ConfigError(
                f"the values of {', '.join(gone)} were left out when this object was pickled; give a callable that "
                "fetches the value, such as functools.partial(os.getenv, 'NAME'), or pass the config again"
            )
        resolved = {key: _call_provider(key, value) for key, value in self._properties.items()}
        self._note_values(resolved)
        return resolved

    def _without_consumer_properties(self, defaults: dict[str, object]) -> dict[str, object]:
        common = {key: value for key, value in self._resolved().items() if not key.startswith(_CONSUMER_ONLY)}
        return {**defaults, **common, "bootstrap.servers": self.servers}

    def _note_values(self, properties: Mapping[str, object]) -> None:
        """Remember what `scrub` has to mask: what was typed, and what a callable fetched when a client was made."""
        for key, value in properties.items():
            if isinstance(value, str | int) and not isinstance(value, bool) and value != _LEFT_OUT:
                secret = any(word in key for word in _SECRET_WORDS)
                if len(str(value)) > 2 and (secret or str(value).lower() not in _PLAIN_WORDS):
                    (self._secrets if secret else self._others).add(str(value))

    def _check_forced(self, forced: Mapping[str, object]) -> None:
        for key, value in forced.items():
            found = self._properties.get(key, value)
            if found != _LEFT_OUT and str(found).lower() != str(value).lower():
                raise ConfigError(
                    f"config sets {key}, wanted {value!r}: records could be lost or doubled in silence; leave it out"
                )


def _call_provider(key: str, value: object) -> object:
    if key in _CALLBACK_KEYS or not callable(value):
        return value
    found = value()
    if not isinstance(found, str | int | float | bool):
        raise ConfigError(
            f"the callable for the property {key} returned {type(found).__name__}, wanted a text or number"
        )
    return found


def _server_text(servers: str | Sequence[str]) -> str:
    listed = [servers] if isinstance(servers, str) else list(servers) if isinstance(servers, list | tuple) else []
    if not listed or not all(isinstance(item, str) and item.strip() for item in listed):
        raise ConfigError(f"bootstrap_servers is {servers!r}, wanted 'host:port' or a list of them")
    text = ",".join(item.strip() for item in listed)
    _check_text("bootstrap_servers", text)
    return text


def _checked_group(group_id: object) -> str:
    # The client aborts the whole process on a group that is blank or no UTF-8.
    if not isinstance(group_id, str) or not group_id.strip():
        raise ConfigError(f"group_id is {group_id!r}, wanted a name; nothing is committed under it")
    _check_text("group_id", group_id)
    return group_id


def _check_text(name: str, text: str, show: bool = True) -> None:
    """Raise unless the client's C library can hold a text."""
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise ConfigError(f"{name} {f'is {text!r}' if show else 'holds a character'} that UTF-8 or C cannot hold")


def _checked_properties(properties: Mapping[str, object]) -> dict[str, object]:
    if not isinstance(properties, Mapping) or not all(isinstance(key, str) for key in properties):
        raise ConfigError("config is not a dictionary from property names to values")
    if own := [key for key in OWN_PROPERTIES if key in properties]:
        raise ConfigError(f"config holds {', '.join(own)}: pass it as an argument (bootstrap_servers, group_id)")
    if "default.topic.config" in properties:
        raise ConfigError(
            "config holds default.topic.config, which could turn safe settings off: name its properties directly"
        )
    if not callable(getattr(properties.get("logger", client_logger), "log", None)):
        raise ConfigError("config holds a logger without a method log(level, template, *parts)")
    for key, value in properties.items():
        if isinstance(value, str):
            _check_text(f"the property {key}", value, show=False)
        elif not isinstance(value, int | float) and not callable(value) and key != "logger":
            raise ConfigError(f"the property {key} is a {type(value).__name__}, wanted a text, a number or a callable")
    return dict(properties)
