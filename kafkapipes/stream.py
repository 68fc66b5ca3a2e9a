"""StreamIterator: one reader's way through a stream, which knows where it stands."""

from collections.abc import Iterator
from typing import Any, Protocol

from kafkapipes.report import ReadReport

State = dict[str, Any]


class Pass(Protocol):
    """A way through a stream.

    Attributes:
        report: per range what was requested, delivered and missing
        epoch: which epoch it is
        done: items that were passed
    """

    @property
    def report(self) -> ReadReport: ...  # noqa: D102
    @property
    def epoch(self) -> int: ...  # noqa: D102
    @property
    def done(self) -> int: ...  # noqa: D102

    def __next__(self) -> Any: ...

    def state(self) -> State:
        """Where it stands, behind the last item."""

    def close(self) -> None:
        """End it."""


class Stream(Protocol):
    """What a dataset gives one of its readers."""

    def begin(self) -> Pass:
        """A pass from the beginning."""

    def resume(self, state: State) -> Pass:
        """A pass from where a state stands."""


class StreamIterator(Iterator[Any]):
    """What `iter(StreamingKafkaDataset(...))` gives: samples or batches, and the state behind the last one.

    Nothing is connected to before the first item is asked for.

    >>> from kafkapipes import StreamingKafkaDataset
    >>> from kafkapipes.testing import EmbeddedKafka
    >>> kafka = EmbeddedKafka()
    >>> kafka.fill("clicks", [(bytes([number]), None) for number in range(10)])
    >>> message = {"topic": "clicks:0:0:10", "input_config": {"data_type": "uint8"}}
    >>> stream = StreamingKafkaDataset(message, kafka.bootstrap_servers, "readers", batch_size=4)
    >>> batches = iter(stream)
    >>> next(batches).flatten().tolist()
    [0, 1, 2, 3]
    >>> state = batches.state_dict()  # plain values: save it as JSON, or within any checkpoint
    >>> again = iter(stream)
    >>> again.load_state_dict(state)
    >>> [batch.flatten().tolist() for batch in again]
    [[4, 5, 6, 7], [8, 9]]
    >>> batches.close()
    >>> kafka.close()
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._pass = stream.begin()  # apart from this, which ends it when nobody refers to it any more

    def __next__(self) -> Any:
        return next(self._pass)

    def state_dict(self) -> State:
        """Where this stands, behind the last item that was handed out: what was read ahead does not count.

        A new dictionary each time, of plain values, some hundred bytes and the ranges; it fits JSON.
        """
        return self._pass.state()

    def load_state_dict(self, state: State) -> None:
        """Go on where a state stands: that of the same reader, of the only one, or of all (`merge_states`).

        The next item is found by its offset, wherever it lies: nothing before it is read again, but what a shuffle
        mixes with it.

        Raises:
            StateError: the state is torn, or of other ranges, another order, or another reader
            TopicChangedError: a topic was deleted and made anew since
            TruncationError: a log has become shorter since
        """
        resumed = self._stream.resume(state)
        self._pass.close()
        self._pass = resumed

    def close(self) -> None:
        """End what reads ahead; to go on, begin another iterator and load the state of this one."""
        self._pass.close()

    @property
    def epoch(self) -> int:
        """The epoch that this passes through."""
        return self._pass.epoch

    @property
    def report(self) -> ReadReport:
        """Per range what was requested, delivered and missing, as far as this iterator has read."""
        return self._pass.report

    def __del__(self) -> None:
        if hasattr(self, "_pass"):
            self._pass.close()

    def __repr__(self) -> str:
        return f"StreamIterator(epoch {self.epoch}, {self._pass.done} item(s) passed)"
