"""Records → samples: by the format of a control message and the policies of a dataset. Pure (NumPy)."""

from dataclasses import dataclass

import numpy as np

from kafkapipes.arrays import ArrayBatch, Shape, elements_of, reshape
from kafkapipes.dead_letters import LeftOut, RecordPolicies
from kafkapipes.formats.raw import Numbers, RawDecoder, least_bytes, no_rows
from kafkapipes.ranges import OffsetRange
from kafkapipes.records import RecordBatch
from kafkapipes.report import RangeReport


@dataclass(frozen=True)
class Decoding:
    """How records become samples; those that do not fit are left out by the policies, or end the read."""

    decoder: RawDecoder
    data_shape: Shape | None
    label_shape: Shape | None
    policies: RecordPolicies

    def nothing(self) -> ArrayBatch:
        """No samples, of the type and shape that they would have."""
        data, label = self.decoder.data, self.decoder.label
        shape = () if elements_of(self.label_shape) in (None, 1) else self.label_shape
        labels = None if label is None else no_rows(label, shape)
        account = RangeReport(OffsetRange("none", 0, 0, 0), 0, 0)
        return ArrayBatch(no_rows(data, self.data_shape), labels, np.empty(0, np.int64), account)


class SampleDecoder:
    """Decodes the batches of one read: what the first record tells, and what was left out, holds for the rest."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding
        self._decoder = decoding.decoder
        self._left_out = LeftOut(decoding.policies)

    @property
    def row_bytes(self) -> tuple[int, int]:
        """The bytes of a value and of a label, as they come and in memory; 0 where it differs, or is not known yet."""
        kinds = self._decoder.data, self._decoder.label
        sizes = [least_bytes(kind) if isinstance(kind, Numbers) and kind.is_sized else 0 for kind in kinds]
        return sizes[0], sizes[1]

    def __call__(self, batch: RecordBatch) -> ArrayBatch:
        """The samples of a batch of records.

        Raises:
            DecodeError, DeliveryError: a policy says so.
        """
        batch = self._decoder.without_nulls(batch, self._left_out)
        self._decoder = self._decoder.sized_by(batch)
        samples = self._decoder.decode(batch, self._left_out)
        self._left_out.settle()
        return reshape(samples, self._decoding.data_shape, self._decoding.label_shape)
