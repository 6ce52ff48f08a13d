"""The extents of one chunk, as the bytes that are stored: sorted, disjoint, 24 bytes each.

A commit lays one extent (or a hole) over the chunk: what it covers is cut, what is left of a cut extent stays. Only the
records that the new range touches are decoded; they are found by bisection. A slice that has no extent left is freed.

Rule: all extents of a slice are in one chunk, but not next to each other: small writes share a slice. What is left of a slice
is found by searching the records for its number.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from metaserver.core.errors import CorruptState
from metaserver.core.model import CHUNK_BYTES, Extent

if TYPE_CHECKING:
    from collections.abc import Iterable

VERSION: Final = 1
EMPTY: Final = b"\x01"

# pos, length, slice, off, size with the inline flag in its highest bit
_RECORD: Final = struct.Struct(">IIQII")
RECORD_BYTES: Final = _RECORD.size
_POS: Final = struct.Struct(">I")
_ID: Final = struct.Struct(">Q")
_ID_AT: Final = 8
_INLINE: Final = 1 << 31


class Freed(NamedTuple):
    """A slice without extents."""

    slice: int
    size: int
    inline: bool


class Spliced(NamedTuple):
    """What a change gives: the new value (EMPTY when nothing is left), the slices it freed, the change in bytes covered."""

    value: bytes
    freed: list[Freed]
    allocated: int


def check(value: bytes) -> int:
    """The number of extents; CorruptState when the bytes cannot be extents."""
    if len(value) % RECORD_BYTES != 1 or value[0] != VERSION:
        raise CorruptState(f"extents: {len(value)} bytes that start with {value[:16].hex()}")
    return len(value) // RECORD_BYTES


def encode(extents: list[Extent]) -> bytes:
    return EMPTY + b"".join([_pack(extent) for extent in extents])


def decode(value: bytes) -> list[Extent]:
    check(value)
    found = []
    for pos, length, slice_id, off, size in _RECORD.iter_unpack(memoryview(value)[1:]):
        found.append(Extent(pos, length, slice_id, off, size & ~_INLINE, size >= _INLINE))
    return found


def splice(value: bytes, extent: Extent) -> Spliced:
    """Lay `extent` over the chunk; slice 0 makes a hole of its range."""
    count = check(value)
    start, end = extent.pos, extent.pos + extent.length
    low = _first_ending_after(value, count, start)
    high = _first_from(value, count, end, low)
    left, cut, right, covered = _cut(value, low, high, start, end)
    middle = left + (_pack(extent) if extent.slice else b"") + right
    new = value[: 1 + low * RECORD_BYTES] + middle + value[1 + high * RECORD_BYTES :]
    freed = still_free(new, (Freed(old.slice, old.size, old.inline) for old in cut))
    return Spliced(new, freed, (extent.length if extent.slice else 0) - covered)


def truncate(value: bytes, length: int) -> Spliced:
    """Cut off everything from byte `length` of the chunk."""
    return splice(value, Extent(length, CHUNK_BYTES - length, 0, 0, 0, False))


def slices(value: bytes) -> list[Freed]:
    """Every slice of the chunk once, in the order of its first extent."""
    return list(dict.fromkeys(Freed(one.slice, one.size, one.inline) for one in decode(value)))


def allocated(value: bytes) -> int:
    """The bytes that extents cover."""
    return sum(one.length for one in decode(value))


def _pack(extent: Extent) -> bytes:
    size = extent.size | _INLINE if extent.inline else extent.size
    return _RECORD.pack(extent.pos, extent.length, extent.slice, extent.off, size)


def _at(value: bytes, index: int) -> Extent:
    pos, length, slice_id, off, size = _RECORD.unpack_from(value, 1 + index * RECORD_BYTES)
    return Extent(pos, length, slice_id, off, size & ~_INLINE, size >= _INLINE)


def _first_from(value: bytes, count: int, pos: int, low: int = 0) -> int:
    """The index of the first extent that starts at or after `pos`."""
    high = count
    while low < high:
        middle = (low + high) >> 1
        if _POS.unpack_from(value, 1 + middle * RECORD_BYTES)[0] < pos:
            low = middle + 1
        else:
            high = middle
    return low


def _first_ending_after(value: bytes, count: int, pos: int) -> int:
    """The index of the first extent that ends after `pos`."""
    index = _first_from(value, count, pos)
    if index:
        before = _at(value, index - 1)
        if before.pos + before.length > pos:
            return index - 1
    return index


def _cut(value: bytes, low: int, high: int, start: int, end: int) -> tuple[bytes, list[Extent], bytes, int]:
    """What is left of extents low..high before `start` and after `end`, the extents themselves, and the bytes cut out."""
    left = right = b""
    touched = []
    covered = 0
    for index in range(low, high):
        old = _at(value, index)
        touched.append(old)
        old_end = old.pos + old.length
        covered += min(old_end, end) - max(old.pos, start)
        if old.pos < start:
            left = _pack(old._replace(length=start - old.pos))
        if old_end > end:
            skip = end - old.pos
            right = _pack(old._replace(pos=end, length=old_end - end, off=old.off + skip))
    return left, touched, right, covered


def still_free(value: bytes, slices: Iterable[Freed]) -> list[Freed]:
    """Those of `slices` that have no extent in the chunk, each once, in their order."""
    return [one for one in dict.fromkeys(slices) if not holds(value, one.slice)]


def holds(value: bytes, slice_id: int) -> bool:
    """Whether the chunk has an extent of the slice."""
    wanted = _ID.pack(slice_id)
    at = value.find(wanted)
    while at >= 0:
        if (at - 1) % RECORD_BYTES == _ID_AT:
            return True
        at = value.find(wanted, at + 1)
    return False
