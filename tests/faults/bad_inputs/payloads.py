"""Payloads: the bytes of a record against the type and shape that were declared."""

import gzip
from dataclasses import dataclass

import numpy as np

from kafkapipes import (
    ByteDecoder,
    BytesColumn,
    DecodeError,
    OffsetRange,
    RangeParser,
    RangeReport,
    RecordBatch,
)
from kafkapipes.testing import EmbeddedKafka
from tests.faults.bad_inputs import MALICIOUS, BadInput


@dataclass(frozen=True)
class Payload:
    """One record, how it was declared, and what the error must say besides its coordinates."""

    name: str
    value: bytes | None
    declared: tuple[str, int | None]
    texts: tuple[str, ...]
    key: bytes | None = None
    label: tuple[str, int | None] | None = None
    shape: str = ""

    def decode(self, records):
        """All samples of some source of records, decoded as declared."""
        (data_type, elements), (label_type, labels) = self.declared, self.label or (None, None)
        arrays = ByteDecoder(records, data_type, label_type, data_elements=elements, label_elements=labels)
        return list(arrays.reshape_arrays(self.shape))

    def decode_alone(self):
        """Decode the record without Kafka."""
        account = RangeReport(OffsetRange("clicks", 0, 0, 1), 0, 1)
        columns = BytesColumn.from_list([self.key]), BytesColumn.from_list([self.value])
        return self.decode([RecordBatch(np.arange(1), *columns, account)])

    def decode_from(self, kafka: EmbeddedKafka):
        """Send the record to a fresh topic, and read it from there."""
        kafka.fill("clicks", [(self.value, self.key)])
        return self.decode(RangeParser("clicks:0:0:1").read_partitions(kafka.bootstrap_servers))


def size(wanted, found):
    return (f"wanted {wanted}", f"found {found} bytes")


UTF8 = "wanted UTF-8 text"
PAYLOADS = [
    Payload("no value", None, ("uint8", 4), ("wanted a value, found null (a tombstone)", "tombstone='skip'")),
    Payload("no value for a text", None, ("string", None), ("wanted a value, found null (a tombstone)",)),
    Payload("no value for bytes", None, ("bytes", None), ("wanted a value, found null (a tombstone)",)),
    Payload("no key", b"abcd", ("uint8", 4), ("wanted a key that holds the label, found null",), None, ("uint8", 1)),
    Payload("nothing for uint8", b"", ("uint8", 4), size("4 bytes (4 x uint8)", 0)),
    Payload("uint8 short by one", b"abc", ("uint8", 4), size("4 bytes (4 x uint8)", 3)),
    Payload("uint8 long by one", b"abcde", ("uint8", 4), size("4 bytes (4 x uint8)", 5)),
    Payload("uint8 twice as long", b"abcdefgh", ("uint8", 4), size("4 bytes (4 x uint8)", 8)),
    Payload("int16 short by one", bytes(7), ("int16", 4), size("8 bytes (4 x int16)", 7)),
    Payload("int16 long by one", bytes(9), ("int16", 4), size("8 bytes (4 x int16)", 9)),
    Payload("int16 half an element", bytes(1), ("int16", 1), size("2 bytes (1 x int16)", 1)),
    Payload("float32 short by one", bytes(7), ("float32", 2), size("8 bytes (2 x float32)", 7)),
    Payload("float32 long by one", bytes(9), ("float32", 2), size("8 bytes (2 x float32)", 9)),
    Payload("float32 sent as float64", bytes(16), ("float32", 2), size("8 bytes (2 x float32)", 16)),
    Payload("float64 sent as float32", bytes(8), ("float64", 2), size("16 bytes (2 x float64)", 8)),
    Payload("big-endian float32 short by one", bytes(3), (">f4", 1), size("4 bytes (1 x float32)", 3)),
    Payload("big-endian int32 long by one", bytes(5), (">i4", 1), size("4 bytes (1 x int32)", 5)),
    Payload("complex64 half an element", bytes(4), ("complex64", 1), size("8 bytes (1 x complex64)", 4)),
    Payload("complex128 short by one", bytes(15), ("complex128", 1), size("16 bytes (1 x complex128)", 15)),
    Payload("half short by one", bytes(3), ("half", 2), size("4 bytes (2 x float16)", 3)),
    Payload("int64 as text", b"42", ("int64", 1), size("8 bytes (1 x int64)", 2)),
    Payload("uint64 as text", b"18446744073709551615", ("uint64", 1), size("8 bytes (1 x uint64)", 20)),
    Payload("JSON for numbers", b"[1, 2, 3, 4]", ("uint8", 4), size("4 bytes (4 x uint8)", 12)),
    Payload("a nested JSON for numbers", b"[" * 10_000, ("float32", 4), size("16 bytes (4 x float32)", 10_000)),
    Payload("an Avro header for numbers", b"\0\0\0\0\1abcd", ("uint8", 4), size("4 bytes (4 x uint8)", 9)),
    Payload("a NumPy file for numbers", b"\x93NUMPY\1\0v\0", ("uint8", 4), size("4 bytes (4 x uint8)", 10)),
    Payload(
        "a gzip bomb for numbers", gzip.compress(bytes(10**6), mtime=0), ("uint8", 4), ("wanted 4 bytes (4 x uint8)",)
    ),
    Payload("a pickle for numbers", MALICIOUS, ("uint8", 4), ("wanted 4 bytes (4 x uint8)",)),
    Payload("a pickle for texts", MALICIOUS, ("string", None), (UTF8,)),
    Payload("a megabyte for one number", bytes(900_000), ("uint8", 1), size("1 bytes (1 x uint8)", 900_000)),
    Payload("a bool of 2", b"\2", ("bool", 1), ("wanted bool bytes 0 or 1",)),
    Payload("a bool of 255 among others", b"\0\1\xff\1", ("bool", 4), ("wanted bool bytes 0 or 1",)),
    Payload("a bool as text", b"true", ("bool", 4), ("wanted bool bytes 0 or 1",)),
    Payload("bools short by one", b"\0\1", ("bool", 3), size("3 bytes (3 x bool)", 2)),
    Payload("no element at all", b"", ("uint8", None), ("wanted a whole number of uint8 elements", "found 0 bytes")),
    Payload(
        "half an int16",
        b"a",
        ("int16", None),
        ("wanted a whole number of int16 elements (2 bytes each)", "found 1 bytes"),
    ),
    Payload(
        "a float64 and a half", bytes(12), ("float64", None), ("wanted a whole number of float64", "found 12 bytes")
    ),
    Payload("a label short by one", b"abcd", ("uint8", 4), size("4 bytes (1 x int32)", 3), b"abc", ("int32", 1)),
    Payload("a label long by one", b"abcd", ("uint8", 4), size("4 bytes (1 x int32)", 5), b"abcde", ("int32", 1)),
    Payload("an empty label", b"abcd", ("uint8", 4), size("1 bytes (1 x uint8)", 0), b"", ("uint8", 1)),
    Payload("a label as text", b"abcd", ("uint8", 4), size("8 bytes (1 x int64)", 1), b"7", ("int64", 1)),
    Payload(
        "a label of half an element", b"abcd", ("uint8", 4), ("wanted a whole number of int64",), b"7", ("int64", None)
    ),
    Payload(
        "a bool label of 3", b"abcd", ("uint8", 4), ("wanted a key (the label) that fits", "0 or 1"), b"\3", ("bool", 1)
    ),
    Payload("a pickle for a label", b"abcd", ("uint8", 4), ("wanted a key",), MALICIOUS, ("uint8", 1)),
    Payload("text that is Latin-1", "ä".encode("latin-1"), ("string", None), (UTF8, "found 1 bytes that are not")),
    Payload("text cut inside a character", "ä".encode()[:1], ("string", None), (UTF8, "found 1 bytes that are not")),
    Payload("text that begins inside one", "ä".encode()[1:], ("string", None), (UTF8, "found 1 bytes that are not")),
    Payload("text with a long zero", b"a\xc0\x80", ("string", None), (UTF8, "found 3 bytes that are not")),
    Payload("text with half a pair", b"\xed\xa0\x80", ("string", None), (UTF8, "found 3 bytes that are not")),
    Payload(
        "text past the last character", b"\xf4\x90\x80\x80", ("string", None), (UTF8, "found 4 bytes that are not")
    ),
    Payload("text that is UTF-16", "text".encode("utf-16"), ("string", None), (UTF8, "found 10 bytes that are not")),
    Payload("a label that is Latin-1", b"abcd", ("uint8", 4), (UTF8,), "ä".encode("latin-1"), ("string", None)),
    Payload(
        "a shape of other size",
        bytes(6),
        ("uint8", 6),
        ("wanted values of shape (2, 2) (4 elements), found 6",),
        shape="2 2",
    ),
    Payload(
        "a shape that does not divide",
        bytes(6),
        ("uint8", 6),
        ("shape (4, -1) (4 x any elements), found 6",),
        shape="4 -1",
    ),
    Payload(
        "a shape larger than the value", bytes(6), ("uint8", 6), ("wanted values of shape (7,)", "found 6"), shape="7"
    ),
    Payload(
        "a shape for text",
        b"text",
        ("string", None),
        ("found strings or bytes", "leave their shape empty"),
        shape="2 2",
    ),
    Payload(
        "a shape for bytes", b"text", ("bytes", None), ("found strings or bytes", "leave their shape empty"), shape="4"
    ),
]

PAYLOADS_ALONE = [
    BadInput(f"payload: {item.name}", item.decode_alone, DecodeError, ("clicks:0@0", *item.texts)) for item in PAYLOADS
]
