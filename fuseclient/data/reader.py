"""The way of read bytes: own dirty data first, then what is committed, from wherever its blocks are nearest.

A read is laid out in one step without waiting: dirty bytes are copied, holes become zeros, inline slices are cut out of
their map, and blocks are taken from memory or the page cache. If nothing is missing it is answered at once. Otherwise the
missing blocks are waited for; they are immutable, so whatever happens to the file meanwhile, the answer is what the file
held at one moment. A map that is not known is fetched first, and the read is laid out again.

An object that is missing means, most of the time, that the map is old (another client overwrote the data, and the objects
were deleted): maps are fetched anew, once. A second miss is EIO.
"""

from __future__ import annotations

import asyncio
import errno
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from fuseclient.data.block import SEGMENT_BYTES
from fuseclient.data.layout import block_pieces, chunk_pieces, extent_pieces
from fuseclient.data.memory import BlockRef
from fuseclient.data.object_store import ObjectMissing
from fuseclient.data.readahead import ReadAhead
from fuseclient.data.slices import CHUNK_BYTES, ZEROS
from fuseclient.errors import FsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from fuseclient.data.block_source import BlockSource
    from fuseclient.data.chunk_maps import ChunkMaps
    from fuseclient.data.dirty import DirtyFile, Run
    from fuseclient.data.readahead import Stream
    from fuseclient.data.settings import DataSettings

    Buffer = bytes | bytearray | memoryview

_ZEROS: Final = memoryview(bytes(1 << 20))
#: So many segments of one block, wanted by one read in pieces, make it worth fetching whole.
_PLACES_MAX: Final = 4

_log = structlog.get_logger(__name__)


class _Wanted(NamedTuple):
    """A part of a block that is not here yet."""

    ref: BlockRef
    start: int
    length: int


class _MapUnknown(Exception):
    """The map of a chunk has to be fetched first."""

    def __init__(self, chunk: int) -> None:
        super().__init__(chunk)
        self.chunk = chunk


class Reader:
    """Of one file. `sizes` gives the file's size as this mount sees it, and the part of it that is committed."""

    def __init__(
        self,
        ino: int,
        settings: DataSettings,
        source: BlockSource,
        maps: ChunkMaps,
        dirty: DirtyFile,
        sizes: Callable[[], tuple[int, int]],
    ) -> None:
        self._ino = ino
        self._block_bytes = settings.block_bytes
        self._source = source
        self._maps = maps
        self._dirty = dirty
        self._sizes = sizes
        window = min(settings.readahead_bytes, settings.cached_bytes_max // 2) // settings.block_bytes
        self._ahead = ReadAhead(settings.block_bytes, window)

    def read(self, offset: int, size: int) -> Sequence[Buffer] | Awaitable[Sequence[Buffer]]:
        """See FileData.read."""
        end, committed = self._sizes()
        size = min(size, end - offset)
        if size <= 0:
            return ()
        stream = self._ahead.note(offset, size)
        parts: list[Buffer | _Wanted] | None
        try:
            parts = self._lay_out(offset, size, committed)
        except _MapUnknown:
            parts = None
        if parts is None or any(type(part) is _Wanted for part in parts):
            return self._wait(offset, size, stream, parts)
        if stream is not None and stream.active:
            self._prefetch(stream)
        return parts  # type: ignore[return-value]  # nothing is wanted any more

    async def _wait(
        self, offset: int, size: int, stream: Stream | None, parts: list[Buffer | _Wanted] | None
    ) -> Sequence[Buffer]:
        tried_again = False
        while True:
            if parts is None:
                end, committed = self._sizes()
                size = min(size, end - offset)
                if size <= 0:
                    return ()
                try:
                    parts = self._lay_out(offset, size, committed)
                except _MapUnknown as unknown:
                    await self._maps.load(unknown.chunk, (offset + size - 1) // CHUNK_BYTES, committed)
                    continue
            if stream is not None:
                stream.active = True
                self._prefetch(stream)
            try:
                return await self._fill(parts, whole=stream is not None)
            except ObjectMissing as missing:
                if tried_again:
                    _log.error("an object that a file refers to is missing", ino=self._ino, key=missing.key)
                    raise FsError(errno.EIO, str(missing)) from missing
                tried_again = True
                parts = None
                self._maps.drop(self._maps.version)

    async def _fill(self, parts: list[Buffer | _Wanted], *, whole: bool) -> list[Buffer]:
        """Put bytes where they are wanted."""
        wanted = [part for part in parts if isinstance(part, _Wanted)]
        if len(wanted) == 1:
            found = [await self._source.read(*wanted[0], whole=whole)]
        else:
            # Of small pieces all over a block that they share, the round trips would cost more than the whole of it.
            places = Counter(ref for ref, _ in {(one.ref, one.start // SEGMENT_BYTES) for one in wanted})
            reads = [self._source.read(*one, whole=whole or places[one.ref] >= _PLACES_MAX) for one in wanted]
            found = list(await asyncio.gather(*reads))
        come = iter(found)
        filled: list[Buffer] = []
        for part in parts:
            if isinstance(part, _Wanted):
                filled += next(come)
            else:
                filled.append(part)
        return filled

    def _lay_out(self, offset: int, size: int, committed: int) -> list[Buffer | _Wanted]:
        """The range as bytes and as what is still wanted. Raises _MapUnknown."""
        parts: list[Buffer | _Wanted] = []
        for chunk, pos, length in chunk_pieces(offset, size):
            visible = committed - chunk * CHUNK_BYTES
            if not self._dirty.touches(chunk):
                self._committed(parts, chunk, pos, length, visible)
                continue
            for at, amount, run in self._dirty.pieces(chunk, pos, length):
                if run is None:
                    self._committed(parts, chunk, at, amount, visible)
                else:
                    self._of_run(parts, run, at - run.pos, amount)
        return parts

    def _committed(self, parts: list[Buffer | _Wanted], chunk: int, pos: int, length: int, visible: int) -> None:
        """Append what is committed of a chunk's range; nothing counts from `visible` on."""
        inside = min(length, visible - pos)
        if inside < length:
            if inside > 0:
                self._committed(parts, chunk, pos, inside, visible)
            _zeros(parts, length - max(inside, 0))
            return
        known = self._maps.get(chunk)
        if known is None:
            raise _MapUnknown(chunk)
        for _, amount, extent, off in extent_pieces(known.extents, pos, length):
            if extent is None or extent.slice == ZEROS:
                _zeros(parts, amount)
            elif extent.inline:
                data = known.inline.get(extent.slice, b"")
                if len(data) < off + amount:
                    raise FsError(errno.EIO, f"inline slice {extent.slice} has {len(data)} bytes of {off + amount}")
                parts.append(memoryview(data)[off : off + amount])
            else:
                self._of_slice(parts, extent.slice, extent.size, off, amount)

    def _of_slice(self, parts: list[Buffer | _Wanted], slice_id: int, size: int, off: int, length: int) -> None:
        for number, start, amount, whole in block_pieces(size, off, length, self._block_bytes):
            ref = BlockRef(slice_id, number, whole)
            here = self._source.read_now(ref, start, amount)
            if here is None:
                parts.append(_Wanted(ref, start, amount))
            else:
                parts += here

    def _of_run(self, parts: list[Buffer | _Wanted], run: Run, off: int, length: int) -> None:
        """Dirty bytes: copied, since the next write may change them; or from the store, where they are uploaded already."""
        for number, start, amount, _ in block_pieces(run.length, off, length, self._block_bytes):
            block = run.blocks[number]
            if block is None:
                carrier = run.carrier
                self._of_slice(parts, carrier.slice, carrier.size, run.off + number * self._block_bytes + start, amount)
            else:
                with memoryview(block) as view:
                    parts.append(bytes(view[start : start + amount]))

    def _prefetch(self, stream: Stream) -> None:
        end = self._sizes()[1]
        ahead = self._ahead.extend(stream, end)
        if ahead is None:
            return
        for chunk, pos, length in chunk_pieces(*ahead):
            known = self._maps.get(chunk)
            if known is None:
                return  # its first read fetches the map, and this goes on
            for _, amount, extent, off in extent_pieces(known.extents, pos, length):
                if extent is None or extent.inline or extent.slice == ZEROS:
                    continue
                for number, _, _, whole in block_pieces(extent.size, off, amount, self._block_bytes):
                    self._source.prefetch(BlockRef(extent.slice, number, whole))


def _zeros(parts: list[Buffer | _Wanted], length: int) -> None:
    while length > 0:
        take = min(length, len(_ZEROS))
        parts.append(_ZEROS[:take])
        length -= take
