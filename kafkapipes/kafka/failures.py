"""librdkafka's error codes → our errors, in one table. Classified by code; a text is only passed on."""

import logging
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from kafkapipes.errors import (
    AuthError,
    AuthorizationError,
    ConfigError,
    ConnectError,
    CorruptDataError,
    DataLossError,
    KafkaPipesError,
    TopicChangedError,
    TopicError,
    TruncationError,
)
from kafkapipes.kafka.config import ClientConfig

INCONSISTENT_TOPIC_ID = 103  # the protocol's number: the client's oldest version that we allow has no name for it

# Errors that end a read. What is not here is either harmless or mended by librdkafka's own retries, and then
# only the stall timeout decides.
TERMINAL: dict[int, type[KafkaPipesError]] = {
    KafkaError._AUTHENTICATION: AuthError,
    KafkaError.SASL_AUTHENTICATION_FAILED: AuthError,
    KafkaError.UNSUPPORTED_SASL_MECHANISM: AuthError,
    KafkaError.ILLEGAL_SASL_STATE: AuthError,
    KafkaError._SSL: AuthError,
    KafkaError.TOPIC_AUTHORIZATION_FAILED: AuthorizationError,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: AuthorizationError,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: AuthorizationError,
    KafkaError._UNKNOWN_TOPIC: TopicError,
    KafkaError._UNKNOWN_PARTITION: TopicError,
    KafkaError.UNKNOWN_TOPIC_OR_PART: TopicError,
    KafkaError.TOPIC_EXCEPTION: TopicError,
    KafkaError.UNKNOWN_TOPIC_ID: TopicChangedError,
    INCONSISTENT_TOPIC_ID: TopicChangedError,
    KafkaError._AUTO_OFFSET_RESET: DataLossError,
    KafkaError.OFFSET_OUT_OF_RANGE: DataLossError,
    KafkaError._LOG_TRUNCATION: TruncationError,
    KafkaError._BAD_MSG: CorruptDataError,
    KafkaError.INVALID_MSG: CorruptDataError,
    KafkaError._BAD_COMPRESSION: CorruptDataError,
    KafkaError._NOT_IMPLEMENTED: CorruptDataError,
    KafkaError._INVALID_ARG: ConfigError,
    KafkaError._CONFLICT: ConfigError,
}
# Range mode needs no group: a group that may not be joined is no reason to stop.
HARMLESS = {KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError._PARTITION_EOF}
_TELLING = ("FAIL", "REQTMOUT")  # kinds of log lines that say why: a connection failed, an answer did not come
# The cause where the client has no complaint, as of a black hole, or of a name that is still being looked up.
SILENCE = "nothing is refused and nothing answers (firewall, hung broker or DNS)"
LOG_LINES = 20  # of the client, above the level of debugging, that are passed on
LOG_S = 10.0  # in this many seconds
ADVICE: dict[type[KafkaPipesError], str] = {
    AuthError: "check credentials, sasl.mechanism, security.protocol and certificates",
    AuthorizationError: "the principal needs READ and DESCRIBE on the topic (WRITE for a sink)",
    TopicError: "check the topic's name and partition",
    TopicChangedError: "the topic was made anew: its offsets name other records now",
    DataLossError: "the log no longer holds this offset; narrow the range, or start at earliest",
    TruncationError: "the log was cut back: read the range again from its start",
    CorruptDataError: (
        "the stored batch is damaged, of an unknown kind, or unpacks (zstd) to more than receive.message.max.bytes; "
        "restore it, raise that property, or read around it"
    ),
    ConfigError: "correct the property",
    ConnectError: "check bootstrap_servers, the network and security.protocol",
}


def failure(error: KafkaError, where: str, config: ClientConfig) -> KafkaPipesError:
    """Our error for one of librdkafka's; `where` says what was being done, and at which coordinates."""
    kind = TERMINAL.get(error.code(), KafkaPipesError)
    if error.code() == KafkaError._AUTO_OFFSET_RESET and "truncation" in error.str().lower():
        kind = TruncationError  # one code, two meanings: only the text tells them apart
    advice = ADVICE.get(kind, "see the client's message")
    return kind(config.scrub(f"{where}: {describe(error)}; {advice}"))


def failure_of(exc: Exception, where: str, config: ClientConfig) -> KafkaPipesError:
    """Our error for an exception of the client."""
    if isinstance(exc, KafkaException) and exc.args and isinstance(exc.args[0], KafkaError):
        return failure(exc.args[0], where, config)
    return ConfigError(config.scrub(f"{where}: {exc}; {ADVICE[ConfigError]}"))


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C inside comes out as Ctrl-C.

    Where it comes amid a call of the client that does not look for it, or while a client is freed, Python makes a
    SystemError of it.
    """
    try:
        yield
    except SystemError as exc:
        cause: BaseException = exc
        while isinstance(cause, SystemError) and cause.__cause__ is not None:
            cause = cause.__cause__
        raise cause from None


def was_cut_short(error: KafkaError) -> bool:
    """Whether a handshake ended with its connection, as a broker's restart ends it: the client tries again."""
    cut = any(word in error.str().lower() for word in ("transport failure", "timed out"))  # no code tells
    return bool(error.code() == KafkaError._SSL or (error.code() == KafkaError._AUTHENTICATION and cut))


def describe(error: KafkaError) -> str:
    """The name and text of an error."""
    return f"{error.name()}: {error.str()}"


class Complaints:
    """What a client says of its connections: errors to its error callback, and to its logger the reasons for them.

    Both are called inside poll and consume, where an exception would destroy fetched records: they only note, and
    pass on to the user's own.
    """

    def __init__(self, config: ClientConfig) -> None:
        self._config = config
        self._recent: deque[KafkaError] = deque(maxlen=32)
        self._last_failure = ""
        self.statistics = ""
        self._told_statistics: object = None
        self._raised = ""
        self._logged_since = -LOG_S
        self._logged = self._unlogged = 0

    def listening(self, properties: dict[str, object]) -> dict[str, Any]:
        """Client properties, with these ears put in."""
        self._told_statistics = properties.get("stats_cb")
        return {**properties, "error_cb": self.note, "stats_cb": self.note_statistics, "logger": self}

    def note(self, error: KafkaError) -> None:
        """Keep an error; the oldest make room."""
        self._recent.append(error)
        self._pass_on("error_cb", self._config.error_callback, error)

    def note_statistics(self, statistics: str) -> None:
        """Keep the client's last statistics, a JSON text."""
        self.statistics = statistics
        self._pass_on("stats_cb", self._told_statistics, statistics)

    def _pass_on(self, name: str, told: object, what: object) -> None:
        """Call the user's own callback. Raised in here, its error would hang the client when it is closed."""
        try:
            if callable(told):
                told(what)
        except Exception as exc:
            self._raised = self._raised or f"the {name} of config raised {type(exc).__name__}: {exc}"

    def check_callbacks(self, where: str) -> None:
        """Raise what a callback of the user's has raised."""
        if self._raised:
            raise ConfigError(self._config.scrub(f"{where}: {self._raised}; a callback must not raise"))

    def log(self, level: int, template: str, *parts: str) -> None:
        """A line of the client's log, as (facility, client, text): the client masks passwords in it, we the rest.

        A broker that cannot be reached makes a hundred lines a second: beyond a few they are only counted.
        """
        line = self._config.scrub(template % parts)
        if parts[0] in _TELLING:
            self._last_failure = line.partition("]: ")[2]
        now = time.monotonic()
        if now - self._logged_since >= LOG_S:
            line = f"{line} ({self._unlogged} lines before this one were left out)" if self._unlogged else line
            self._logged_since, self._logged, self._unlogged = now, 0, 0
        if self._logged >= LOG_LINES and level > logging.DEBUG:
            self._unlogged += 1
            return
        self._logged += 1
        with suppress(Exception):  # raised in here it would leave the client waiting for ever
            self._config.logger.log(level, "%s", line)

    def clear(self) -> None:
        """Forget all."""
        self.statistics = ""
        self._recent.clear()
        self._last_failure = ""

    def find(self, kind: type[KafkaPipesError]) -> KafkaError | None:
        """The latest complaint of one kind."""
        return next((error for error in reversed(self._recent) if TERMINAL.get(error.code()) is kind), None)

    @property
    def too_large(self) -> str:
        """The complaint that a response is larger than a property allows, which no retry mends; or ''."""
        # One code, two meanings: only the text tells a large response from a garbled one.
        found = (error for error in self._recent if error.code() == KafkaError._BAD_MSG)
        return next((describe(error) for error in found if "receive.message.max.bytes" in error.str()), "")

    @property
    def last(self) -> str:
        """The text of the most telling complaint, or ''."""
        telling = [error for error in self._recent if error.code() != KafkaError._ALL_BROKERS_DOWN]
        if telling:
            return describe(telling[-1])
        # Some failures reach the callback as "all brokers down" only, and the log with their reason.
        return self._last_failure or (describe(self._recent[-1]) if self._recent else "")
