"""The configuration of the Kafka clients: safe defaults, the user's overrides, and no secret ever shown.

Property names are librdkafka's (its CONFIGURATION.md).
"""

import logging
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kafkapipes.errors import ConfigError
from kafkapipes.kafka.addresses import is_loopback, joined_servers
from kafkapipes.kafka.secrets import LEFT_OUT, HiddenValues, Mask, check_text, fetch, is_scalar

# A range is data, not a subscription: nothing is committed, nothing is skipped, every stored batch is checked.
SAFE_CONSUMER: dict[str, object] = {
    "check.crcs": True,  # off by default, and then a flipped bit is delivered as good
    "isolation.level": "read_committed",
    "allow.auto.create.topics": False,
    "socket.keepalive.enable": True,
    "topic.metadata.refresh.interval.ms": 5_000,  # after which another leader is found, where the old one hangs
    "fetch.queue.backoff.ms": 1,  # 1000 by default: each new range would wait for it; at 0 a full queue takes a core
    "fetch.wait.max.ms": 3,  # 500 by default: the end of a log, and the range after it, would wait for it
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
    "auto.commit.", "offset.store.", "on_commit", "coordinator.query.", "max.partition.fetch.bytes",
    "consume.callback.",
)  # fmt: skip
_CLEAR_MECHANISMS = ("plain", "oauthbearer")  # they send the password, or a token as good as one
_CALLBACKS = ("error_cb", "oauth_cb", "stats_cb", "throttle_cb", "on_commit")  # called by the client, not for a value
_LEAST_PIECE, _MOST_PIECE = 2**16, 2**24  # bytes
_PROPERTY = re.compile(r"[A-Za-z0-9._-]{1,100}")

client_logger = logging.getLogger("kafkapipes.client")  # librdkafka's own log lines go here,
client_logger.addHandler(logging.NullHandler())  # and nowhere else unless the application asks for them


def fetching_pieces(piece_bytes: int) -> dict[str, object]:
    """Properties of a reader that is sent from place to place: what it has fetched behind a piece is thrown away.

    One answer holds a piece and what its records take beside their bytes. The next is asked for when hardly any record
    is left: it would be for nothing, and the next piece would have to wait for it.
    """
    piece = min(max(piece_bytes, _LEAST_PIECE), _MOST_PIECE)
    return {
        "max.partition.fetch.bytes": piece * 9 // 8,
        "queued.max.messages.kbytes": piece // 1024,
        "queued.min.messages": 300,
    }


class SecurityWarning(UserWarning):
    """A client property gives away a password, or lets somebody else pose as the broker.

    >>> import warnings
    >>> warnings.filterwarnings("ignore", category=SecurityWarning)  # or "error", to refuse such properties
    """


class ClientConfig:
    """The user's client properties. Its repr names them and hides every value, and so does what `vars` shows of it.

    A value may be a callable without arguments, such as a `FromEnvironment`: it is called in the process that makes
    the client, so that a password need never be part of this object. Pickled, the values are left out, except into a
    process that multiprocessing is starting at that moment, such as a DataLoader's worker.

    >>> ClientConfig("broker:9092", "kafkapipes", {"sasl.password": "hunter2"})
    ClientConfig('broker:9092', properties: sasl.password; values hidden)
    """

    def __init__(
        self, servers: str | Sequence[str], group_id: str, properties: Mapping[str, object] | None = None
    ) -> None:
        self.servers = joined_servers(servers)
        self.group_id = _checked_group(group_id)
        self._properties = HiddenValues(_checked_properties({} if properties is None else properties))
        self._mask = Mask(self._properties)
        self._warned: set[str] = set()
        self._check_forced(FORCED_CONSUMER)
        self._warn(self._properties)

    def consumer(self, readers: int = 1, piece_bytes: int | None = None) -> dict[str, object]:
        """The properties of a range reader.

        Args:
            readers: how many such read side by side, and share the bound on memory
            piece_bytes: about how much it reads from one place before it is sent to another; None: whole ranges
        """
        own = {"bootstrap.servers": self.servers, "group.id": self.group_id}
        queued = "queued.max.messages.kbytes"
        shared = {queued: int(str(SAFE_CONSUMER[queued])) // readers}
        pieces = {} if piece_bytes is None else fetching_pieces(piece_bytes)
        return {**SAFE_CONSUMER, **shared, **pieces, **self._resolved(), **FORCED_CONSUMER, **own}

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
        level = fetch("isolation.level", self._properties.get("isolation.level", "read_committed"))
        return str(level).lower() == "read_committed"  # the client does not mind the case either

    @property
    def names(self) -> frozenset[str]:
        """Of the properties that the user has set."""
        return frozenset(self._properties)

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

        A secret is masked wherever it stands, also cut off, in JSON, in a URL or in base64; so is a text that is no
        known word, since a secret may have been put into the wrong property. A number, or the value of a property
        that names something (`client.id`), is masked in quotes, as the client repeats what it refuses.
        """
        return self._mask.scrub(text)

    def __repr__(self) -> str:
        names = ", ".join(sorted(self._properties)) or "none"
        return f"ClientConfig({self.servers!r}, properties: {names}; values hidden)"

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._mask = Mask(self._properties)

    def _resolved(self) -> dict[str, object]:
        if gone := sorted(name for name, value in self._properties.items() if value == LEFT_OUT):
            raise ConfigError(
                f"the values of {', '.join(gone)} were left out when this object was pickled; give a provider such as "
                "FromEnvironment('NAME'), or pass the config again"
            )
        resolved = {
            name: value if name in _CALLBACKS or name == "logger" else fetch(name, value)
            for name, value in self._properties.items()
        }
        self._mask.add(resolved)
        self._warn(resolved)
        return resolved

    def _without_consumer_properties(self, defaults: dict[str, object]) -> dict[str, object]:
        common = {key: value for key, value in self._resolved().items() if not key.startswith(_CONSUMER_ONLY)}
        return {**defaults, **common, "bootstrap.servers": self.servers}

    def _warn(self, properties: Mapping[str, object]) -> None:
        """Warn of what is insecure, of each thing once; a worker's copy has been warned of already."""
        for text in insecurities(self.servers, properties):
            if text not in self._warned:
                self._warned.add(text)
                warnings.warn(text, SecurityWarning, stacklevel=2)

    def _check_forced(self, forced: Mapping[str, object]) -> None:
        for key, value in forced.items():
            found = self._properties.get(key, value)
            if found != LEFT_OUT and str(found).lower() != str(value).lower():
                raise ConfigError(
                    f"config sets {key}, wanted {value!r}: records could be lost or doubled in silence; leave it out"
                )


def answer_ms(timeout_s: float) -> int:
    """Milliseconds in which a question must be answered, so that `timeout_s` suffices to ask another broker too.

    A broker that hangs is not noticed by anything else: by default the client waits for 60 s.
    """
    return round(min(max(250 * timeout_s, 1000), 10_000))


def fetch_ms(timeout_s: float) -> int:
    """The same for a fetch, whose answer may be 4 MiB on a slow link: within `timeout_s` another can be had."""
    return round(min(max(500 * timeout_s, 1100), 60_000))


def insecurities(servers: str, properties: Mapping[str, object]) -> list[str]:
    """What a client with these properties would do that a user should know of, each in a sentence.

    >>> insecurities("broker:9092", {"ssl.endpoint.identification.algorithm": "none"})
    ["ssl.endpoint.identification.algorithm is 'none': whoever has any certificate of the same authority can pose as
     the broker; leave it out"]
    """
    words = {name: str(value).lower() for name, value in properties.items() if is_scalar(value)}
    mechanism = words.get("sasl.mechanism") or words.get("sasl.mechanisms")
    remote = [server for server in servers.split(",") if not is_loopback(server)]
    found = []
    if words.get("security.protocol") == "sasl_plaintext" and mechanism in _CLEAR_MECHANISMS and remote:
        found.append(
            f"security.protocol is SASL_PLAINTEXT and sasl.mechanism {mechanism.upper()}: the password or token goes "
            f"to {remote[0]} in clear, for everybody in between to read; use SASL_SSL"
        )
    if words.get("enable.ssl.certificate.verification") in ("false", "f", "0"):
        found.append(
            "enable.ssl.certificate.verification is off: whoever stands in between can pose as the broker; leave it "
            "on, and name the authority of the broker's certificate in ssl.ca.location"
        )
    if words.get("ssl.endpoint.identification.algorithm") == "none":
        found.append(
            "ssl.endpoint.identification.algorithm is 'none': whoever has any certificate of the same authority can "
            "pose as the broker; leave it out"
        )
    return found


def _checked_group(group_id: object) -> str:
    # The client aborts the whole process on a group that is blank or no UTF-8.
    wanted = "wanted a name of at most 249 characters; nothing is committed under it"
    if not isinstance(group_id, str):
        raise ConfigError(f"group_id is a {type(group_id).__name__}, {wanted}")
    check_text("group_id", group_id)
    if not group_id.strip() or len(group_id) > 249:
        raise ConfigError(f"group_id has {len(group_id)} characters, {len(group_id.strip())} without blanks, {wanted}")
    return group_id


def _checked_properties(properties: Mapping[str, object]) -> dict[str, object]:
    if not isinstance(properties, Mapping):
        raise ConfigError(f"config is a {type(properties).__name__}, wanted a dictionary from property names to values")
    if strange := [key for key in properties if not isinstance(key, str) or not _PROPERTY.fullmatch(key)]:
        raise ConfigError(
            f"config has {len(strange)} key(s) that are no property names: wanted a dictionary from librdkafka's "
            "names, such as 'sasl.password', to values"
        )
    if own := [key for key in OWN_PROPERTIES if key in properties]:
        raise ConfigError(f"config holds {', '.join(own)}: pass it as an argument (bootstrap_servers, group_id)")
    if "default.topic.config" in properties:
        raise ConfigError(
            "config holds default.topic.config, which could turn safe settings off: name its properties directly"
        )
    for key, value in properties.items():
        _check_property(key, value)
    return dict(properties)


def _check_property(key: str, value: object) -> None:
    if key == "logger":
        if not callable(getattr(value, "log", None)):
            raise ConfigError(
                f"config holds a logger that is a {type(value).__name__}, wanted a method log(level, ...)"
            )
    elif key in _CALLBACKS:
        if not callable(value):
            raise ConfigError(f"the property {key} is a {type(value).__name__}, wanted a callable; leave it out")
    elif isinstance(value, str):
        check_text(f"the property {key}", value)
    elif not is_scalar(value) and not callable(value):
        raise ConfigError(
            f"the property {key} is a {type(value).__name__}, wanted a text, a number of 64 bits or a callable"
        )
