"""Every error that kafkapipes raises, and nothing else.

KafkaPipesError
├── RangeError            a range text or a range makes no sense          (also a ValueError)
├── ControlMessageError   a control message lacks or garbles a field      (also a ValueError)
├── ConfigError           an option or a client property cannot be used   (also a ValueError)
├── StateError            a state to resume from is torn, or of something else (also a ValueError)
├── DecodeError           the bytes of a record are not what was declared (also a ValueError)
├── ConnectError          no broker could be reached in time
├── AuthError             a broker was reached and refused the credentials, protocol or certificate
├── AuthorizationError    the credentials are good, but the topic is not theirs to read or write
├── TopicError            the topic or the partition does not exist
├── TopicChangedError     the topic was deleted and made anew
├── DataLossError         the log does not hold, or not yet for good, what the range names
├── CorruptDataError      a stored batch fails its checksum or cannot be unpacked
├── TruncationError       the log was cut back below what was already read
├── StalledError          nothing arrived for too long                    (also a TimeoutError)
├── MemoryLimitError      what is read does not fit into memory           (also a MemoryError)
└── DeliveryError         a record that was sent was not acknowledged

Each is built from one string that says what was wanted, what was found, where (`topic:partition@offset`)
and what to do: a DataLoader rebuilds a worker's error from its text alone.
"""


class KafkaPipesError(Exception):
    """The base of all errors of kafkapipes: catch it to catch them all."""


class RangeError(KafkaPipesError, ValueError):
    """A range text or an offset range does not follow the grammar `topic:partition:start:end`."""


class ControlMessageError(KafkaPipesError, ValueError):
    """A control message lacks a field, or a field makes no sense."""


class ConfigError(KafkaPipesError, ValueError):
    """An option, or a property of the Kafka client, has a value that cannot be used."""


class StateError(KafkaPipesError, ValueError):
    """A state to resume from is torn, of another version, or of another range, order or reader."""


class DecodeError(KafkaPipesError, ValueError):
    """The bytes of a record are not what the declared dtype and shape need."""


class ConnectError(KafkaPipesError):
    """No broker could be reached within `connect_timeout_s`."""


class AuthError(KafkaPipesError):
    """A broker was reached, but refused the credentials, the mechanism or the certificate."""


class AuthorizationError(KafkaPipesError):
    """The credentials are valid, but may not read (or write) the topic."""


class TopicError(KafkaPipesError):
    """The topic, or the partition, does not exist."""


class TopicChangedError(KafkaPipesError):
    """The topic was deleted and created again: the same offsets now name other records."""


class DataLossError(KafkaPipesError):
    """The log no longer holds, or does not yet hold for good, records that the range names."""


class CorruptDataError(KafkaPipesError):
    """A batch of records fails its checksum, or cannot be decompressed or parsed."""


class TruncationError(KafkaPipesError):
    """The log was truncated below the position of this read: records may have been replaced."""


class StalledError(KafkaPipesError, TimeoutError):
    """Nothing arrived from the broker for `stall_timeout_s`."""


class MemoryLimitError(KafkaPipesError, MemoryError):
    """What a read collects exceeds `max_bytes`, or the memory of this machine."""


class DeliveryError(KafkaPipesError):
    """A record that was sent was not acknowledged by the broker."""
