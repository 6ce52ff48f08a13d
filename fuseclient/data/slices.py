"""What the data path asks of the metadata service, and what they exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fuseclient.attr import Attr

CHUNK_BYTES: Final = 64 << 20
#: Inline slices end within this many times `inline_bytes` from the start of a file; others are refused.
INLINE_REACH: Final = 16


#: The slice of an extent that is allocated and was never written: it reads as zeros and has no objects.
ZEROS: Final = 2**64 - 1


class Extent(NamedTuple):
    """`length` bytes at `pos` of a chunk, from byte `off` of a slice. Extents are sorted and disjoint; gaps are holes."""

    pos: int
    length: int
    slice: int
    off: int
    size: int  # bytes the whole slice holds
    inline: bool


class ChunkMap(NamedTuple):
    """Where the bytes of one chunk are. `inline` holds the contents of its inline slices."""

    extents: tuple[Extent, ...]
    inline: dict[int, bytes]


class NewSlice(NamedTuple):
    """A slice to commit; see meta.proto's NewSlice."""

    chunk: int
    pos: int
    slice: int
    size: int
    off: int
    length: int
    data: bytes


class SliceService(Protocol):
    """Implemented on the metadata client by fuseclient/slice_service.py; failures are FsError."""

    async def new_slice_id(self) -> int:
        """A number never used before; from a range leased in advance, so it seldom waits."""

    async def commit(self, ino: int, slices: Sequence[NewSlice], mtime_ns: int, kill_priv: bool) -> Attr:
        """Make the slices part of the file, durably, in this order. Their objects are durable already."""

    async def read(self, ino: int, first_chunk: int, chunks: int) -> tuple[Attr, dict[int, ChunkMap]]:
        """The maps of `chunks` (1..64) chunks from `first_chunk`; a chunk that is all hole is absent."""

    async def next_chunk(self, ino: int, chunk: int) -> int:
        """The first chunk from `chunk` on that is not all hole, or one beyond the end of the file."""
