"""The format of an object: a block's payload followed by a trailer that proves it, whole or by aligned ranges.

    payload      `payload_bytes` bytes
    table        u32 CRC32C (Castagnoli) of each 64 KiB segment of the payload, the last one shorter
    footer       FOOTER below; its last field is the CRC32C of the table and of the footer up to that field

Integers are little-endian. The trailer's length follows from the payload's (trailer_bytes), so a reader who knows the size
from the object's name can ask for the trailer and for some segments, and verify just those. `flags` is reserved for
compression and encryption: a reader refuses flags it does not know. Writing needs no copy of the payload: `encode` gives
parts. docs/OBJECTS.md describes the same for people.

This module is the format's only owner; it does no I/O.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

import google_crc32c

if TYPE_CHECKING:
    from collections.abc import Sequence

    Buffer = bytes | bytearray | memoryview

SEGMENT_BYTES: Final = 64 << 10
BLOCK_BYTES_MAX: Final = 64 << 20
VERSION: Final = 1
MAGIC: Final = b"KEELBLK\n"

#: magic, version, flags, log2 of the segment size, reserved, payload bytes, bytes before compression, CRC32C.
FOOTER: Final = struct.Struct("<8sBBBBIII")
_SEGMENT_LOG2: Final = 16
_CRC_BYTES: Final = 4

_crc32c = google_crc32c.value


class BlockCorrupt(Exception):
    """The bytes are not what was written: a failed checksum, or something that is no block at all."""


class Trailer(NamedTuple):
    payload_bytes: int
    crcs: tuple[int, ...]  # one per segment


def checksums_are_fast() -> bool:
    """Whether CRC32C is computed in C; the pure Python fallback is a thousand times slower."""
    return bool(google_crc32c.implementation == "c")


def segment_count(payload_bytes: int) -> int:
    return -(-payload_bytes // SEGMENT_BYTES)


def trailer_bytes(payload_bytes: int) -> int:
    """Length of the trailer of a payload."""
    return segment_count(payload_bytes) * _CRC_BYTES + FOOTER.size


def object_bytes(payload_bytes: int) -> int:
    """Length of the object of a payload."""
    return payload_bytes + trailer_bytes(payload_bytes)


def encode(payload: Buffer) -> tuple[Buffer, bytes]:
    """The parts of the object: the payload itself, and its trailer."""
    size = len(payload)
    if not 0 < size <= BLOCK_BYTES_MAX:
        raise ValueError(f"a block holds 1 to {BLOCK_BYTES_MAX} bytes, not {size}")
    # The checksum takes nothing but bytes objects. Copying a segment costs less than a quarter of its checksum, and spares
    # the copy of the whole block.
    with memoryview(payload) as view:
        crcs = [_crc32c(bytes(view[at : at + SEGMENT_BYTES])) for at in range(0, size, SEGMENT_BYTES)]
    table = struct.pack(f"<{len(crcs)}I", *crcs)
    head = FOOTER.pack(MAGIC, VERSION, 0, _SEGMENT_LOG2, 0, size, size, 0)[:-_CRC_BYTES]
    return payload, table + head + _crc32c(table + head).to_bytes(_CRC_BYTES, "little")


def parse_trailer(data: bytes, payload_bytes: int) -> Trailer:
    """The trailer of a payload whose size is known from the object's name."""
    if len(data) != trailer_bytes(payload_bytes):
        raise BlockCorrupt(f"the trailer is {len(data)} bytes long, not {trailer_bytes(payload_bytes)}")
    table_bytes = len(data) - FOOTER.size
    magic, version, flags, segment_log2, _, stored, raw, crc = FOOTER.unpack_from(data, table_bytes)
    if magic != MAGIC:
        raise BlockCorrupt("this is no block: the magic number is missing")
    if _crc32c(data[:-_CRC_BYTES]) != crc:
        raise BlockCorrupt("the trailer's checksum is wrong")
    if version != VERSION or flags or segment_log2 != _SEGMENT_LOG2:
        raise BlockCorrupt(f"written by a newer KeelFS: version {version}, flags {flags:#x}, segments 2**{segment_log2}")
    if stored != payload_bytes or raw != payload_bytes:
        raise BlockCorrupt(f"the payload is said to be {stored} bytes long, not {payload_bytes}")
    return Trailer(payload_bytes, struct.unpack_from(f"<{segment_count(payload_bytes)}I", data))


def split(data: bytes, payload_bytes: int) -> list[bytes]:
    """The verified segments of a whole object."""
    if len(data) != object_bytes(payload_bytes):
        raise BlockCorrupt(f"the object is {len(data)} bytes long, not {object_bytes(payload_bytes)}")
    return verify(parse_trailer(data[payload_bytes:], payload_bytes), 0, memoryview(data)[:payload_bytes])


def segment_range(first: int, count: int, payload_bytes: int) -> tuple[int, int]:
    """Offset and length of `count` segments from number `first` on."""
    start = first * SEGMENT_BYTES
    return start, min(start + count * SEGMENT_BYTES, payload_bytes) - start


def verify(trailer: Trailer, first: int, data: Buffer) -> list[bytes]:
    """The segments in `data`, which starts with segment `first` and ends with a segment's end; BlockCorrupt if one is bad."""
    crcs: Sequence[int] = trailer.crcs
    segments: list[bytes] = []
    number = first
    with memoryview(data) as view:
        for at in range(0, len(view), SEGMENT_BYTES):
            segment = bytes(view[at : at + SEGMENT_BYTES])
            if number >= len(crcs) or _crc32c(segment) != crcs[number]:
                raise BlockCorrupt(f"segment {number} does not match its checksum")
            segments.append(segment)
            number += 1
    return segments
