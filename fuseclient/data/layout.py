"""Pure arithmetic: where a byte of a file is. Bytes -> chunks -> extents of slices -> blocks -> object keys.

A file is cut into chunks of 64 MiB. What a chunk holds is told by its extents, each a piece of a slice. A slice's bytes are
cut, from its own byte 0, into blocks of the volume's block size; the last one is shorter. A block is one object. Nothing
here reads or writes anything, and every function is total: bad numbers are the caller's bug and raise ValueError.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from fuseclient.data.slices import CHUNK_BYTES, Extent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class ChunkPiece(NamedTuple):
    """`length` bytes at `pos` of a chunk."""

    chunk: int
    pos: int
    length: int


class ExtentPiece(NamedTuple):
    """`length` bytes at `pos` of a chunk: from byte `off` of `extent`'s slice, or a hole where extent is None."""

    pos: int
    length: int
    extent: Extent | None
    off: int


class BlockPiece(NamedTuple):
    """`length` bytes at `start` of block `number`, which holds `size` bytes in all."""

    number: int
    start: int
    length: int
    size: int


def chunk_pieces(offset: int, size: int) -> Iterator[ChunkPiece]:
    """The pieces of chunks that `size` bytes at `offset` of a file are made of, in order."""
    if offset < 0 or size < 0:
        raise ValueError(f"no such range: {size} bytes at {offset}")
    end = offset + size
    while offset < end:
        chunk, pos = divmod(offset, CHUNK_BYTES)
        length = min(CHUNK_BYTES - pos, end - offset)
        yield ChunkPiece(chunk, pos, length)
        offset += length


def extent_pieces(extents: Sequence[Extent], pos: int, length: int) -> Iterator[ExtentPiece]:
    """A chunk's range as pieces of its (sorted, disjoint) extents and of the holes between them, in order, no gaps."""
    end = pos + length
    at = max(bisect_right(extents, pos, key=_extent_pos) - 1, 0)
    while pos < end:
        extent = extents[at] if at < len(extents) else None
        if extent is None or extent.pos >= end:
            yield ExtentPiece(pos, end - pos, None, 0)
            return
        extent_end = extent.pos + extent.length
        at += 1
        if extent_end <= pos:
            continue
        if extent.pos > pos:
            yield ExtentPiece(pos, extent.pos - pos, None, 0)
            pos = extent.pos
        take = min(extent_end, end) - pos
        yield ExtentPiece(pos, take, extent, extent.off + pos - extent.pos)
        pos += take


def _extent_pos(extent: Extent) -> int:
    return extent.pos


def block_size(size: int, index: int, block_bytes: int) -> int:
    """Bytes in block `index` of a slice of `size` bytes."""
    length = min(block_bytes, size - index * block_bytes)
    if index < 0 or length <= 0:
        raise ValueError(f"a slice of {size} bytes has no block {index}")
    return length


def block_pieces(size: int, off: int, length: int, block_bytes: int) -> Iterator[BlockPiece]:
    """`length` bytes at `off` of a slice of `size` bytes, as pieces of its blocks."""
    if off < 0 or length < 0 or off + length > size:
        raise ValueError(f"no such range in a slice of {size} bytes: {length} at {off}")
    end = off + length
    while off < end:
        index, start = divmod(off, block_bytes)
        whole = min(block_bytes, size - index * block_bytes)
        take = min(whole - start, end - off)
        yield BlockPiece(index, start, take, whole)
        off += take


def object_key(volume: str, slice_id: int, index: int, size: int) -> str:
    """The name of the object that holds block `index` (`size` bytes of payload) of a slice."""
    return f"{volume}/chunks/{slice_id // 1_000_000}/{slice_id // 1000}/{slice_id}_{index}_{size}"


def object_keys(volume: str, slice_id: int, size: int, block_bytes: int) -> list[str]:
    """The names of all objects of a slice of `size` bytes."""
    return [
        object_key(volume, slice_id, index, min(block_bytes, size - index * block_bytes))
        for index in range(-(-size // block_bytes))
    ]
