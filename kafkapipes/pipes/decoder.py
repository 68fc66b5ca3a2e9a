"""ByteDecoder, `.decode_bytes()`: `RecordBatch`es → `ArrayBatch`es."""

from collections.abc import Iterable, Iterator

from torch.utils.data import IterDataPipe, functional_datapipe

from kafkapipes.arrays import ArrayBatch
from kafkapipes.dead_letters import LeftOut, RecordPolicies, TakeLetters
from kafkapipes.formats.raw import RawDecoder, element_type
from kafkapipes.records import RecordBatch


@functional_datapipe("decode_bytes")
class ByteDecoder(IterDataPipe[ArrayBatch]):
    """Decodes the value of each record as the input and its key as the label, a whole batch at a time.

    Args:
        batches: batches of records
        data_type: a NumPy bool or number, byte order allowed (`">f4"`), or "string" (UTF-8), or "bytes"
        label_type: the same for the key; None where there are no labels
        data_elements: elements per value; None takes those of the first record for all (in each DataLoader worker)
        label_elements: the same for labels
        on_error: what to do with a record of the wrong size: "raise", or "skip" and report it, or "dead-letter":
            the same, and hand a `DeadLetter` to `dead_letter`
        tombstone: the same for a record without a value
        null_key: the same for a record without a key, where `label_type` wants one
        dead_letter: called with the list of `DeadLetter`s of a batch that has some, in the process that reads:
            `letters.extend`, a function of yours, or a `DeadLetterTopic`; what it raises ends the read
        dead_letter_payload: whether the letters carry the record's key and value
        max_skipped: the most records that one read may leave out (in each DataLoader worker); None sets no limit

    Yields:
        ArrayBatch: values [B, n] and labels [B, m] in native byte order; never empty.

    Raises:
        DecodeError: names `topic:partition@offset`, the wanted and the found size; or more than `max_skipped`
            records were left out.
        DeliveryError: `dead_letter` raised.

    >>> from kafkapipes.testing import EmbeddedKafka
    >>> from kafkapipes.pipes.parser import RangeParser
    >>> with EmbeddedKafka() as kafka:
    ...     kafka.fill("clicks", [(bytes([1, 2]), b"0"), (bytes([3, 4]), b"1")])
    ...     reader = RangeParser("clicks:0:0:2").read_partitions(kafka.bootstrap_servers)
    ...     [batch.values.tolist() for batch in reader.decode_bytes("uint8")]
    [[[1, 2], [3, 4]]]
    """

    def __init__(
        self,
        batches: Iterable[RecordBatch],
        data_type: str,
        label_type: str | None = None,
        *,
        data_elements: int | None = None,
        label_elements: int | None = None,
        on_error: str = "raise",
        tombstone: str = "raise",
        null_key: str = "raise",
        dead_letter: TakeLetters | None = None,
        dead_letter_payload: bool = False,
        max_skipped: int | None = None,
    ) -> None:
        label = element_type(label_type, label_elements) if label_type else None
        self._decoder = RawDecoder(element_type(data_type, data_elements), label)
        self._policies = RecordPolicies(on_error, tombstone, null_key, dead_letter, dead_letter_payload, max_skipped)
        self._source = batches

    def __iter__(self) -> Iterator[ArrayBatch]:
        decoder, left_out = self._decoder, LeftOut(self._policies)
        for batch in self._source:
            batch = decoder.without_nulls(batch, left_out)
            decoder = decoder.sized_by(batch)
            arrays = decoder.decode(batch, left_out)
            left_out.settle()
            if len(arrays):
                yield arrays

    def __repr__(self) -> str:
        return f"ByteDecoder({self._decoder}, {self._policies})"
