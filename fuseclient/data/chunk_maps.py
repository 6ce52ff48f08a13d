"""The maps of a file's chunks, as of one version of its contents.

A map may be used as long as nothing is known to have changed. The rule that keeps own writes visible: when own runs are
committed and forgotten, `drop` is called in the same step, and an answer that was asked for before that is thrown away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fuseclient.data.slices import CHUNK_BYTES, ChunkMap

if TYPE_CHECKING:
    from collections.abc import Callable

    from fuseclient.attr import Attr
    from fuseclient.data.slices import SliceService

CHUNKS_MAX: Final = 64  # of one request
_CHUNKS_AT_ONCE: Final = 8
_KNOWN_MAX: Final = 4096
HOLE: Final = ChunkMap((), {})


class ChunkMaps:
    """`on_attr` is told of attributes that come with the maps."""

    def __init__(self, ino: int, version: int, service: SliceService, on_attr: Callable[[Attr], None]) -> None:
        self._ino = ino
        self._service = service
        self._on_attr = on_attr
        self._maps: dict[int, ChunkMap] = {}
        self._epoch = 0
        self.version = version

    def get(self, chunk: int) -> ChunkMap | None:
        return self._maps.get(chunk)

    def drop(self, version: int) -> None:
        """Forget all: the contents changed, and are those of `version` now."""
        self._maps.clear()
        self._epoch += 1
        self.version = version

    def prime(self, chunk: int, known: ChunkMap) -> None:
        """Take a map that came another way, as of `version`."""
        self._maps[chunk] = known

    async def next_chunk(self, chunk: int) -> int:
        """The first chunk from `chunk` on in which something is committed, or one beyond the end of the file."""
        while True:
            epoch = self._epoch
            found = await self._service.next_chunk(self._ino, chunk)
            if epoch == self._epoch:
                return found

    async def load(self, first: int, last: int, end: int) -> None:
        """Have the maps of chunks `first` to `last` of a file of `end` bytes, and of some that follow."""
        last = max(last, min(first + _CHUNKS_AT_ONCE, -(-end // CHUNK_BYTES)) - 1)
        while True:
            missing = next((chunk for chunk in range(first, last + 1) if chunk not in self._maps), None)
            if missing is None:
                return
            first_missing, count = missing, min(last - missing + 1, CHUNKS_MAX)
            epoch = self._epoch
            attr, maps = await self._service.read(self._ino, first_missing, count)
            if epoch != self._epoch:
                continue  # asked before something was committed or dropped
            self._on_attr(attr)  # calls drop() when the contents are newer than what we know
            if len(self._maps) + count > _KNOWN_MAX:
                self._maps.clear()
            for chunk in range(first_missing, first_missing + count):
                self._maps[chunk] = maps.get(chunk, HOLE)
