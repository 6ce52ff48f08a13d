"""The contents of one file, as data_api.FileData asks: a writer, a reader and the maps, and the one size they agree on.

The size is the end of what is committed (`_committed`, from the newest attributes) or of what is dirty, whichever is
further. Attributes older than what is known (by data_version) change nothing. After `truncate` the size stays as it was cut
until the file system, which tells the metadata service, comes back with `refresh`, whether that succeeded or not.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from fuseclient.data.chunk_maps import ChunkMaps
from fuseclient.data.layout import extent_pieces
from fuseclient.data.reader import Reader
from fuseclient.data.slices import CHUNK_BYTES, ZEROS, ChunkMap
from fuseclient.data.writer import Writer, WriterHooks
from fuseclient.errors import FsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from fuseclient.attr import Attr
    from fuseclient.data.block_source import BlockSource
    from fuseclient.data.memory import WriteBudget
    from fuseclient.data.settings import DataSettings
    from fuseclient.data.slices import Extent, SliceService
    from fuseclient.data.uploader import Uploader
    from fuseclient.operations import Buffer

FILE_SIZE_MAX = 2**57
_CHUNKS_MAX = FILE_SIZE_MAX // CHUNK_BYTES


class FileHooks:
    """What a file tells the data path about itself."""

    def __init__(
        self,
        dirtied: Callable[[StoredFile], None],
        pressed: Callable[[], None],
        committed: Callable[[Attr], None],
        closed: Callable[[StoredFile], None],
    ) -> None:
        self.dirtied = dirtied
        self.pressed = pressed
        self.committed = committed
        self.closed = closed


class StoredFile:
    """FileData on an object store and the metadata service."""

    def __init__(
        self,
        attr: Attr,
        settings: DataSettings,
        service: SliceService,
        source: BlockSource,
        uploader: Uploader,
        budget: WriteBudget,
        now_ns: Callable[[], int],
        hooks: FileHooks,
    ) -> None:
        fields = attr.fields
        self.ino = fields.ino
        self._committed = fields.size
        self._hooks = hooks
        self._primable = True
        self._resizing = False  # truncated here; the metadata service does not know yet
        self._maps = ChunkMaps(self.ino, fields.data_version, service, self._newer)
        told = WriterHooks(lambda: hooks.dirtied(self), hooks.pressed, self._committed_now)
        self._writer = Writer(self.ino, settings, service, uploader, budget, now_ns, told)
        self._reader = Reader(self.ino, settings, source, self._maps, self._writer.dirty, self._sizes)

    @property
    def size(self) -> int:
        return max(self._committed, self._writer.dirty.end)

    @property
    def dirty(self) -> bool:
        return bool(self._writer.dirty)

    @property
    def dirty_bytes(self) -> int:
        return sum(run.use for run in self._writer.dirty.all_runs())

    @property
    def mtime_ns(self) -> int:
        return self._writer.mtime_ns

    def write(self, offset: int, data: memoryview, kill_priv: bool) -> Awaitable[None] | None:
        if offset < 0 or offset + len(data) > FILE_SIZE_MAX:
            raise FsError(errno.EFBIG, f"a file ends at {FILE_SIZE_MAX} bytes at the latest")
        return self._writer.write(offset, data, kill_priv)

    def read(self, offset: int, size: int) -> Sequence[Buffer] | Awaitable[Sequence[Buffer]]:
        return self._reader.read(offset, size)

    async def flush(self) -> Attr | None:
        return await self._writer.flush()

    async def truncate(self, size: int) -> None:
        await self._writer.cut(size)
        self._committed = size
        self._resizing = True

    def refresh(self, attr: Attr) -> None:
        fields = attr.fields
        self._primable = fields.data_version >= self._maps.version
        if not self._primable:
            return  # an answer that was overtaken
        self._resizing = False
        self._committed = fields.size
        if fields.data_version != self._maps.version:
            self._maps.drop(fields.data_version)

    def prime(self, extents: Sequence[Extent], inline: Mapping[int, bytes]) -> None:
        if self._primable:
            self._maps.prime(0, ChunkMap(tuple(extents), dict(inline)))

    def seek(self, offset: int, whence: int) -> int | Awaitable[int]:
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise FsError(errno.EINVAL, "only SEEK_DATA and SEEK_HOLE are asked of a file's contents")
        if not 0 <= offset < self.size:
            raise FsError(errno.ENXIO, "beyond the end of the file")
        return self._seek(offset, want_data=whence == os.SEEK_DATA)

    def forsake(self) -> None:
        self._writer.forsake()

    def close(self) -> Awaitable[None] | None:
        self._hooks.closed(self)
        return self._writer.abandon() if self._writer.dirty else None

    async def _seek(self, offset: int, *, want_data: bool) -> int:
        while offset < self.size:
            chunk, pos = divmod(offset, CHUNK_BYTES)
            if chunk * CHUNK_BYTES < self._committed and self._maps.get(chunk) is None:
                await self._maps.load(chunk, chunk + 63, self._committed)
                continue  # anything may have changed
            size = self.size
            for at, is_data in self._kinds(chunk, pos, min(CHUNK_BYTES, size - chunk * CHUNK_BYTES)):
                if is_data == want_data:
                    return chunk * CHUNK_BYTES + at
            chunk += 1
            if want_data and self._maps.get(chunk) is None:
                chunk = await self._next_chunk(chunk)
            offset = chunk * CHUNK_BYTES
        if want_data:
            raise FsError(errno.ENXIO, "no data up to the end of the file")
        return self.size  # every file ends with a hole

    async def _next_chunk(self, chunk: int) -> int:
        """The first chunk from `chunk` on that may hold data: a sparse file is empty for longer than anybody could walk."""
        committed = await self._maps.next_chunk(chunk) if chunk * CHUNK_BYTES < self._committed else _CHUNKS_MAX
        return min(committed, self._writer.dirty.next_chunk(chunk, _CHUNKS_MAX))

    def _kinds(self, chunk: int, pos: int, end: int) -> Iterator[tuple[int, bool]]:
        """Where in a chunk something begins, and whether it is data. What was never written is none, allocated or not."""
        known = self._maps.get(chunk)
        visible = self._committed - chunk * CHUNK_BYTES
        for at, length, run in self._writer.dirty.pieces(chunk, pos, end - pos):
            if run is not None:
                yield at, True
                continue
            for start, _, extent, _ in extent_pieces(known.extents if known else (), at, length):
                yield start, extent is not None and extent.slice != ZEROS and start < visible

    def _sizes(self) -> tuple[int, int]:
        committed = self._committed
        return max(committed, self._writer.dirty.end), committed

    def _newer(self, attr: Attr) -> None:
        """Attributes that came with maps: only newer ones say something, the maps are stored by the caller."""
        fields = attr.fields
        if fields.data_version > self._maps.version:
            self._resize(fields.size)
            self._maps.drop(fields.data_version)

    def _resize(self, size: int) -> None:
        """Take a size that came with other news; between a truncate and the refresh that ends it, it is the one from before."""
        if not self._resizing:
            self._committed = size

    def _committed_now(self, attr: Attr) -> None:
        fields = attr.fields
        if fields.data_version >= self._maps.version:
            self._resize(fields.size)
            self._maps.drop(fields.data_version)
        else:
            self._maps.drop(self._maps.version)  # a newer version is known already; the maps were fetched before the commit
        self._hooks.committed(attr)
