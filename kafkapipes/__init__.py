"""kafkapipes: Kafka offset ranges as PyTorch datasets.

The pipes: range text → RangeParser → PartitionReader → ByteDecoder → Reshaper → Transformer → samples.
TrainingKafkaDataset is these five, run once into memory; KafkaSink writes what they read.
"""

from kafkapipes.arrays import ArrayBatch, TextColumn
from kafkapipes.chain import as_stream
from kafkapipes.control import ControlMessage
from kafkapipes.dataset import BytesTensor, TrainingKafkaDataset
from kafkapipes.dead_letters import DeadLetter
from kafkapipes.errors import (
    AuthError,
    AuthorizationError,
    ConfigError,
    ConnectError,
    ControlMessageError,
    CorruptDataError,
    DataLossError,
    DecodeError,
    DeliveryError,
    KafkaPipesError,
    MemoryLimitError,
    RangeError,
    StalledError,
    StateError,
    TopicChangedError,
    TopicError,
    TruncationError,
)
from kafkapipes.kafka.config import SecurityWarning
from kafkapipes.kafka.dead_letter_topic import DeadLetterTopic
from kafkapipes.kafka.secrets import FromEnvironment
from kafkapipes.kafka.sink import KafkaSink
from kafkapipes.loader import TensorLoader
from kafkapipes.pipes.decoder import ByteDecoder
from kafkapipes.pipes.parser import RangeParser
from kafkapipes.pipes.reader import PartitionReader
from kafkapipes.pipes.reshaper import Reshaper
from kafkapipes.pipes.transformer import Transformer
from kafkapipes.ranges import AtTime, Last, OffsetRange, Symbol, format_ranges, parse_ranges
from kafkapipes.records import BytesColumn, RecordBatch
from kafkapipes.report import RangeReport, ReadReport
from kafkapipes.stream import StreamIterator
from kafkapipes.streaming import StreamingKafkaDataset, merge_states

__all__ = [
    "ArrayBatch", "AtTime", "AuthError", "AuthorizationError", "ByteDecoder", "BytesColumn", "BytesTensor",
    "ConfigError", "ConnectError", "ControlMessage", "ControlMessageError", "CorruptDataError", "DataLossError",
    "DeadLetter", "DeadLetterTopic", "DecodeError", "DeliveryError", "FromEnvironment", "KafkaPipesError", "KafkaSink",
    "Last", "MemoryLimitError", "OffsetRange", "PartitionReader", "RangeError", "RangeParser", "RangeReport",
    "ReadReport", "RecordBatch", "Reshaper", "SecurityWarning", "StalledError", "StateError", "StreamIterator",
    "StreamingKafkaDataset", "Symbol", "TensorLoader", "TextColumn", "TopicChangedError", "TopicError",
    "TrainingKafkaDataset", "Transformer", "TruncationError", "as_stream", "format_ranges", "merge_states",
    "parse_ranges",
]  # fmt: skip
