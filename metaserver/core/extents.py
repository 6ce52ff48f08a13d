"""The extents of one chunk, as the bytes that are stored: sorted, disjoint, 24 bytes each.

A commit lays one extent (or a hole) over the chunk: what it covers is cut, what is left of a cut extent stays. Only the
records that the new range touches are decoded; they are found by bisection. A slice that has no extent left here is freed: the
chunk owns it no more, and slices.py sees whether another one does.

The extents of a slice are not next to each other: small writes share a slice. What is left of a slice is found by searching
the records for its number. An extent of ZEROS is a range that is allocated and was never written; nobody owns it, and two that
touch become one, so that a file which is allocated bit by bit stays one extent.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from metaserver.core.errors import CorruptState
from metaserver.core.model import CHUNK_BYTES, ZEROS, Extent

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

VERSION: Final = 1
EMPTY: Final = b"\x01"

# pos, length, slice, off, size with the inline flag in its highest bit
_RECORD: Final = struct.Struct(">IIQII")
RECORD_BYTES: Final = _RECORD.size
_POS: Final = struct.Struct(">I")
_ID: Final = struct.Struct(">Q")
_ID_AT: Final = 8
_INLINE: Final = 1 << 31
#: So many slices are looked for one by one.
_FEW: Final = 8


class Held(NamedTuple):
    """A slice as a chunk knows it."""

    slice: int
    size: int
    inline: bool


class Spliced(NamedTuple):
    """What a change gives: the new value (EMPTY when nothing is left), the slices it freed, the change in bytes covered."""

    value: bytes
    freed: list[Held]
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
    return replace(value, extent.pos, extent.pos + extent.length, (extent,) if extent.slice else ())


def replace(value: bytes, start: int, end: int, laid: Sequence[Extent]) -> Spliced:
    """Let the range hold `laid` (sorted, disjoint, within it) and nothing else."""
    count = check(value)
    if laid and ZEROS in (laid[0].slice, laid[-1].slice):
        start, end, laid = _joined(value, count, start, end, laid)
    low = _first_ending_after(value, count, start)
    high = _first_from(value, count, end, low)
    left, cut, right, covered = _cut(value, low, high, start, end)
    middle = left + b"".join([_pack(one) for one in laid]) + right
    new = value[: 1 + low * RECORD_BYTES] + middle + value[1 + high * RECORD_BYTES :]
    freed = unheld(new, (Held(old.slice, old.size, old.inline) for old in cut if old.slice != ZEROS))
    return Spliced(new, freed, sum([one.length for one in laid]) - covered)


def fill(value: bytes, start: int, end: int) -> Spliced:
    """Lay zeros over the holes of a range."""
    laid: list[Extent] = []
    at = start
    for one in within(value, start, end):
        if one.pos > at:
            append(laid, zeros(at, one.pos - at))
        append(laid, one)
        at = one.pos + one.length
    if at < end:
        append(laid, zeros(at, end - at))
    return replace(value, start, end, laid)


def zeros(pos: int, length: int) -> Extent:
    """Allocated and never written."""
    return Extent(pos, length, ZEROS, 0, 0, False)


def within(value: bytes, start: int, end: int) -> list[Extent]:
    """The extents of a range, cut to it."""
    count = check(value)
    found = range(_first_ending_after(value, count, start), _first_from(value, count, end))
    return [clip(_at(value, index), start, end) for index in found]


def clip(one: Extent, start: int, end: int) -> Extent:
    """The part of an extent that is in the range; of length 0 or less when there is none."""
    skip = max(start - one.pos, 0)
    length = min(one.pos + one.length, end) - one.pos - skip
    return one._replace(pos=one.pos + skip, length=length, off=one.off + skip if one.slice != ZEROS else 0)


def append(row: list[Extent], one: Extent) -> None:
    """Add an extent that comes behind all in the row; what continues the last one becomes part of it."""
    if row:
        last = row[-1]
        following = 0 if one.slice == ZEROS else last.off + last.length
        if last.slice == one.slice and last.pos + last.length == one.pos and one.off == following:
            row[-1] = last._replace(length=last.length + one.length)
            return
    row.append(one)


def truncate(value: bytes, length: int) -> Spliced:
    """Cut off everything from byte `length` of the chunk."""
    return splice(value, Extent(length, CHUNK_BYTES - length, 0, 0, 0, False))


def slices(value: bytes) -> list[Held]:
    """Every slice of the chunk once, in the order of its first extent."""
    return distinct(decode(value))


def distinct(row: Iterable[Extent]) -> list[Held]:
    """Every slice of these extents once."""
    return list(dict.fromkeys(Held(one.slice, one.size, one.inline) for one in row if one.slice != ZEROS))


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
            off = old.off + skip if old.slice != ZEROS else 0
            right = _pack(old._replace(pos=end, length=old_end - end, off=off))
    return left, touched, right, covered


def _joined(value: bytes, count: int, start: int, end: int, laid: Sequence[Extent]) -> tuple[int, int, Sequence[Extent]]:
    """The range and what is laid there, grown by the zeros that it touches."""
    grown = list(laid)
    first, last = laid[0], laid[-1]
    if first.slice == ZEROS and first.pos == start and start:
        index = _first_ending_after(value, count, start - 1)
        near = _at(value, index) if index < count else first
        if near.slice == ZEROS and near.pos < start:
            grown[0] = first._replace(pos=near.pos, length=first.length + start - near.pos)
            start = near.pos
    if last.slice == ZEROS and last.pos + last.length == end:
        index = _first_ending_after(value, count, end)
        near = _at(value, index) if index < count else last
        if near.slice == ZEROS and near.pos <= end < near.pos + near.length:
            more = near.pos + near.length - end
            grown[-1] = grown[-1]._replace(length=grown[-1].length + more)
            end += more
    return start, end, grown


def unheld(value: bytes, slices: Iterable[Held]) -> list[Held]:
    """Those of `slices` that have no extent in the chunk, each once, in their order."""
    asked = list(dict.fromkeys(slices))
    if len(asked) > _FEW:
        there = {one.slice for one in decode(value)}
        return [one for one in asked if one.slice not in there]
    return [one for one in asked if not holds(value, one.slice)]


def holds(value: bytes, slice_id: int) -> bool:
    """Whether the chunk has an extent of the slice."""
    wanted = _ID.pack(slice_id)
    at = value.find(wanted)
    while at >= 0:
        if (at - 1) % RECORD_BYTES == _ID_AT:
            return True
        at = value.find(wanted, at + 1)
    return False
