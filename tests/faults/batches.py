"""Record batches as they lie on disk and travel in a Fetch response: found, damaged, and sealed again.

The layout is Kafka's of message format 2: base offset 8, length 4, leader epoch 4, magic 1, CRC-32C 4 of all that
follows, attributes 2, last offset delta 4, two timestamps of 8, producer id 8 and epoch 2, sequence 4, count 4.
"""

import struct
from collections.abc import Callable, Iterator

Damage = Callable[[bytearray], object]
_MAGIC, _CRC, _ATTRIBUTES, _PAYLOAD = 16, 17, 21, 61


def find(content: bytes) -> Iterator[tuple[int, int]]:
    """[start, end) of each whole batch in a file or a response, by its magic byte and its checksum."""
    at = 0
    while at + _PAYLOAD <= len(content):
        end = at + 12 + int.from_bytes(content[at + 8 : at + 12])
        if content[at + _MAGIC] == 2 and at + _PAYLOAD <= end <= len(content):
            (checksum,) = struct.unpack_from(">I", content, at + _CRC)
            if checksum == crc32c(content[at + _ATTRIBUTES : end]):
                yield at, end
                at = end
                continue
        at += 1


def base_offset(content: bytes, at: int) -> int:
    return int.from_bytes(content[at : at + 8])


def damaged(content: bytes, offset: int, damage: Damage) -> bytes:
    """The same bytes, with the batch that holds `offset` damaged, if it is there."""
    for start, end in find(content):
        (last_delta,) = struct.unpack_from(">i", content, start + _ATTRIBUTES + 2)
        if 0 <= offset - base_offset(content, start) <= last_delta:
            batch = bytearray(content[start:end])
            damage(batch)
            return content[:start] + bytes(batch) + content[end:]
    return content


def flip(batch: bytearray) -> None:
    """One bit of the first record's value, if the record is as the harness makes them. The checksum fits no more."""
    batch[_PAYLOAD + 30] ^= 1


def garble(batch: bytearray) -> None:
    """A payload of noise under a checksum that fits."""
    for at in range(_PAYLOAD, len(batch)):
        batch[at] ^= 0xA5
    seal(batch)


def codec(number: int) -> Damage:
    """A compression codec by its number; 5, 6 and 7 are none."""

    def set_codec(batch: bytearray) -> None:
        batch[_ATTRIBUTES + 1] = batch[_ATTRIBUTES + 1] & ~7 | number
        seal(batch)

    return set_codec


def magic(number: int) -> Damage:
    """A message format by its number, which the checksum does not cover."""

    def set_magic(batch: bytearray) -> None:
        batch[_MAGIC] = number

    return set_magic


def once(damage: Damage) -> Damage:
    """The same, to the first batch only."""
    left = iter([damage])
    return lambda batch: next(left, len)(batch)


def seal(batch: bytearray) -> None:
    """Write the checksum that fits."""
    struct.pack_into(">I", batch, _CRC, crc32c(batch[_ATTRIBUTES:]))


def crc32c(content: bytes) -> int:
    """The Castagnoli checksum, which zlib does not have."""
    checksum = 0xFFFFFFFF
    for byte in content:
        checksum = _TABLE[(checksum ^ byte) & 0xFF] ^ checksum >> 8
    return checksum ^ 0xFFFFFFFF


def _entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ 0x82F63B78 * (byte & 1)
    return byte


_TABLE = [_entry(byte) for byte in range(256)]
