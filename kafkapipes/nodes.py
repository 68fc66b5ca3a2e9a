"""KafkaNode: a stream as the source of a torchdata.nodes pipeline.

Imported by those who use it only: torchdata.nodes takes its time.
"""

from contextlib import suppress
from typing import Any

from torch.utils.data import IterableDataset
from torchdata.nodes import BaseNode

from kafkapipes.stream import State, StreamIterator


class KafkaNode(BaseNode):  # type: ignore[misc]  # torchdata has no types that mypy finds
    """The items of a `StreamingKafkaDataset` as a node of torchdata.nodes, exact at every step.

    Nodes behind it may read ahead: a state says where the pipeline's last item stands, not where this node does. As
    everywhere, `dataset.set_epoch` chooses the epoch of the next reset, and a state is followed into its own.

    Args:
        dataset: the stream; its iterators are made in whichever thread resets this node

    >>> from torchdata.nodes import Loader, ParallelMapper, Prefetcher
    >>> from kafkapipes import StreamingKafkaDataset
    >>> from kafkapipes.testing import EmbeddedKafka
    >>> kafka = EmbeddedKafka()
    >>> kafka.fill("clicks", [(bytes([number]), None) for number in range(10)])
    >>> message = {"topic": "clicks:0:0:10", "input_config": {"data_type": "uint8"}}
    >>> def pipeline():
    ...     stream = StreamingKafkaDataset(message, kafka.bootstrap_servers, "readers", batch_size=4)
    ...     doubled = ParallelMapper(KafkaNode(stream), lambda batch: batch * 2, num_workers=2, method="thread")
    ...     return Loader(Prefetcher(doubled, prefetch_factor=2))
    >>> loader = pipeline()
    >>> batches = iter(loader)
    >>> next(batches).flatten().tolist()
    [0, 2, 4, 6]
    >>> again = pipeline()
    >>> again.load_state_dict(loader.state_dict())
    >>> [batch.flatten().tolist() for batch in again]
    [[8, 10, 12, 14], [16, 18]]
    >>> [batch.flatten().tolist() for batch in batches]
    [[8, 10, 12, 14], [16, 18]]
    >>> kafka.close()
    """

    def __init__(self, dataset: IterableDataset[Any]) -> None:
        super().__init__()
        self._dataset = dataset
        self._items: StreamIterator | None = None

    def reset(self, initial_state: State | None = None) -> None:
        """Begin the dataset's epoch, or go on where a state of `get_state` stands.

        Raises:
            StateError, TopicChangedError, TruncationError: the state does not fit.
        """
        super().reset(initial_state)
        self._close()
        items: StreamIterator = iter(self._dataset)  # type: ignore[assignment]  # so it is for a stream
        if initial_state is not None:
            items.load_state_dict(initial_state)
        self._items = items

    def next(self) -> Any:
        """The next sample or batch."""
        assert self._items is not None  # reset
        return next(self._items)

    def get_state(self) -> State:
        """Where this stands, behind the last item that `next` gave."""
        assert self._items is not None  # reset
        return self._items.state_dict()

    def _close(self) -> None:
        if self._items is not None:
            # Another thread may still wait for an item; whoever holds the iterator last ends what reads ahead.
            with suppress(ValueError):
                self._items.close()
            self._items = None

    def __repr__(self) -> str:
        return f"KafkaNode({self._dataset!r})"
