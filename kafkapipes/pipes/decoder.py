"""ByteDecoder, `.decode_bytes()`: `RecordBatch`es → `ArrayBatch`es."""

from collections.abc import Iterable, Iterator

from torch.utils.data import IterDataPipe, functional_datapipe

from kafkapipes.arrays import ArrayBatch
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
        on_error: what to do with a record of the wrong size: "raise", or "skip" and report it
        tombstone: the same for a record without a value
        null_key: the same for a record without a key, where `label_type` wants one

    Yields:
        ArrayBatch: values [B, n] and labels [B, m] in native byte order; never empty.

    Raises:
        DecodeError: names `topic:partition@offset`, the wanted and the found size.

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
    ) -> None:
        label = element_type(label_type, label_elements) if label_type else None
        self._decoder = RawDecoder(element_type(data_type, data_elements), label, on_error, tombstone, null_key)
        self._source = batches

    def __iter__(self) -> Iterator[ArrayBatch]:
        decoder = self._decoder
        for batch in self._source:
            batch = decoder.without_nulls(batch)
            decoder = decoder.sized_by(batch)
            arrays = decoder.decode(batch)
            if len(arrays):
                yield arrays

    def __repr__(self) -> str:
        return f"ByteDecoder({self._decoder})"
