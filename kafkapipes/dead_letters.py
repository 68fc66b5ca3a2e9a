"""Records that a read leaves out: by which policy, how many at the most, and what a dead letter says of each. Pure."""

import base64
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np

from kafkapipes.errors import ConfigError, DecodeError, DeliveryError, KafkaPipesError
from kafkapipes.options import check_choice, check_count, shown
from kafkapipes.records import RecordBatch

POLICIES = ("raise", "skip", "dead-letter")
REASONS = ("on_error", "tombstone", "null_key")
_MOST_SKIPPED = 2**63 - 1  # a partition holds no more


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What is said of one record that was left out.

    Attributes:
        topic, partition, offset: where the record lies
        reason: the policy that left it out: "on_error", "tombstone" or "null_key"
        error: the class of the error that `"raise"` would have raised
        text: what was wanted and what was found, in sizes and types, never in contents
        key, value: the bytes of the record; both None unless `dead_letter_payload=True`

    >>> letter = DeadLetter("clicks", 0, 5, "on_error", "DecodeError", "wanted 4 bytes, found 3 bytes")
    >>> letter.coordinates
    'clicks:0@5'
    >>> letter.to_json()
    '{"topic": "clicks", "partition": 0, "offset": 5, "reason": "on_error", "error": "DecodeError",
      "text": "wanted 4 bytes, found 3 bytes"}'
    """

    topic: str
    partition: int
    offset: int
    reason: str
    error: str
    text: str
    key: bytes | None = field(default=None, repr=False)
    value: bytes | None = field(default=None, repr=False)

    @property
    def coordinates(self) -> str:
        """`topic:partition@offset` of the record."""
        return f"{self.topic}:{self.partition}@{self.offset}"

    def to_json(self) -> str:
        """The letter as one JSON object; key and value, where there are any, in base64."""
        fields = asdict(self)
        for name in ("key", "value"):
            item = fields.pop(name)
            if item is not None:
                fields[name] = base64.b64encode(item).decode()
        return json.dumps(fields)


TakeLetters = Callable[[list[DeadLetter]], object]


@dataclass(frozen=True)
class RecordPolicies:
    """What to do with records that do not decode; the options of `ByteDecoder` of the same names.

    Raises:
        ConfigError: an option is none of its choices, or two do not go together.
    """

    on_error: str = "raise"
    tombstone: str = "raise"
    null_key: str = "raise"
    dead_letter: TakeLetters | None = field(default=None, repr=False)  # a partial may hold a secret
    dead_letter_payload: bool = False
    max_skipped: int | None = None

    def __post_init__(self) -> None:
        for name in REASONS:
            check_choice(name, getattr(self, name), POLICIES)
        if self.max_skipped is not None:
            check_count("max_skipped", self.max_skipped, _MOST_SKIPPED, least=0)
        if not isinstance(self.dead_letter_payload, bool):
            raise ConfigError(f"dead_letter_payload is {shown(self.dead_letter_payload)}, wanted True or False")
        wanting = [name for name in REASONS if getattr(self, name) == "dead-letter"]
        if self.dead_letter is None and (wanting or self.dead_letter_payload):
            named = f"{wanting[0]} is 'dead-letter'" if wanting else "dead_letter_payload is True"
            raise ConfigError(f"{named}, but there is no dead_letter: wanted a callable that takes a list of letters")
        if self.dead_letter is not None and not callable(self.dead_letter):
            raise ConfigError(f"dead_letter is a {type(self.dead_letter).__name__}, wanted a callable")
        if self.dead_letter is not None and not wanting:
            raise ConfigError(f"there is a dead_letter, but none of {', '.join(REASONS)} is 'dead-letter'")


class LeftOut:
    """The records that one read leaves out in this process: counted, and handed over batch by batch."""

    def __init__(self, policies: RecordPolicies) -> None:
        self._policies = policies
        self._letters: list[DeadLetter] = []
        self._count = 0
        self._first = self._last = ""

    def without(
        self, batch: RecordBatch, wrong: np.ndarray, policy: str, complaint: Callable[[int], str]
    ) -> RecordBatch:
        """The batch without the `wrong` rows (bool [B]), counted in its account.

        Args:
            complaint: row → what was wanted of that record and what was found, without its contents

        Raises:
            DecodeError: there is one, and the policy is "raise".
        """
        if not wrong.any():
            return batch
        rows = np.flatnonzero(wrong)
        choice, first = getattr(self._policies, policy), int(rows[0])
        if choice == "raise":
            mend = "correct the declared type or shape, or " if policy == "on_error" else ""
            where = batch.coordinates(first)
            raise DecodeError(f"at {where}: {complaint(first)}; {mend}set {policy}='skip' to leave such records out")
        if choice == "dead-letter":
            self._letters += [self._letter(batch, row, policy, complaint(row)) for row in rows.tolist()]
        batch.account.skip(policy, batch.offsets[rows].tolist())
        self._count += len(rows)
        self._first = self._first or batch.coordinates(first)
        self._last = f"{policy} at {batch.coordinates(int(rows[-1]))}"
        return batch.select(np.flatnonzero(~wrong))

    def settle(self) -> None:
        """Hand over the letters of a batch; then stop the read if it left out too many records.

        Raises:
            DeliveryError: `dead_letter` raised: its own error is named, and is the cause of this one
            DecodeError: more than `max_skipped` records were left out
        """
        letters, self._letters = sorted(self._letters, key=lambda letter: letter.offset), []
        if letters:
            self._hand_over(letters)
        most = self._policies.max_skipped
        if most is not None and self._count > most:
            raise DecodeError(
                f"wanted at most {most} record(s) left out, found {self._count} in this process, the first at "
                f"{self._first}, the last by {self._last}; correct the declared type or shape, or raise max_skipped"
            )

    def _hand_over(self, letters: list[DeadLetter]) -> None:
        assert self._policies.dead_letter is not None  # RecordPolicies has seen to it
        try:
            self._policies.dead_letter(letters)
        except KafkaPipesError:
            raise
        except Exception as exc:
            # Ours, since a worker's error must be one that its parent can build again: an exception of the Kafka client
            # cannot be, and would end the epoch without a word.
            raise DeliveryError(
                f"dead_letter raised {type(exc).__name__}: {exc}; wanted it to take {len(letters)} letter(s), "
                f"the first for {letters[0].coordinates}; the read ends here, so that no record is lost in silence"
            ) from exc

    def _letter(self, batch: RecordBatch, row: int, policy: str, text: str) -> DeadLetter:
        payload = (batch.keys[row], batch.values[row]) if self._policies.dead_letter_payload else (None, None)
        where = batch.topic, batch.partition, int(batch.offsets[row])
        return DeadLetter(*where, policy, DecodeError.__name__, text, *payload)
