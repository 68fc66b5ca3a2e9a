"""The types of _batches.c, which says what each does."""

import numpy as np

Buffer = bytes | bytearray | memoryview

ALL_ROWS: int
ALL_BYTES: int
NOT_PLAIN: int
DAMAGED: int

Cursor = tuple[int, int, int, int, int]

def parse(
    data: Buffer,
    cursor: Cursor,
    offsets: np.ndarray,
    epochs: np.ndarray,
    key_starts: np.ndarray,
    key_lengths: np.ndarray,
    value_starts: np.ndarray,
    value_lengths: np.ndarray,
    timestamps: np.ndarray | None,
    /,
) -> tuple[int, Cursor, int]: ...
def next_offset(data: Buffer, offset: int, /) -> int: ...
def gather(data: Buffer, starts: np.ndarray, lengths: np.ndarray, out: np.ndarray, /) -> None: ...
def receive(connection: int, buffer: bytearray, filled: int, size: int, timeout_ms: int, /) -> int: ...
def checksum(data: Buffer, by_table: bool = False, /) -> int: ...
