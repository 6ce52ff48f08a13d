"""A SliceService in memory: one byte-exact model of the metadata service's extent maps, and faults on demand."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from fuseclient.attr import Attr, AttrFields
from fuseclient.data.slices import CHUNK_BYTES, INLINE_REACH, ChunkMap, Extent, NewSlice
from fuseclient.errors import FsError

if TYPE_CHECKING:
    from collections.abc import Sequence

INO = 77


class FakeSlices:
    """Files by inode; unknown inodes are empty files."""

    def __init__(self, inline_bytes: int = 512) -> None:
        self.inline_bytes = inline_bytes
        self.version = 1
        self.next_slice = 1000
        self.sizes: dict[int, int] = {}
        self.versions: dict[int, int] = {}
        self.mtimes: dict[int, int] = {}
        self.maps: dict[tuple[int, int], list[Extent]] = {}
        self.inline: dict[int, bytes] = {}
        self.commits: list[tuple[int, list[NewSlice], bool]] = []
        self.committed: set[int] = set()
        self.reads = 0
        self.refuse: int = 0  # errno of the next commit
        self.gate: object | None = None

    def attr(self, ino: int = INO) -> Attr:
        mtime_s, mtime_ns = divmod(self.mtimes.get(ino, 0), 10**9)
        return Attr.of(
            AttrFields(
                ino=ino,
                size=self.sizes.get(ino, 0),
                blocks=0,
                atime_s=0,
                mtime_s=mtime_s,
                ctime_s=0,
                atime_nsec=0,
                mtime_nsec=mtime_ns,
                ctime_nsec=0,
                mode=0o100644,
                nlink=1,
                uid=0,
                gid=0,
                rdev=0,
                blksize=4096,
                fuse_flags=0,
                btime_ns=0,
                parent=1,
                version=self.versions.get(ino, 1),
                data_version=self.versions.get(ino, 1),
                flags=0,
                inode_flags=0,
            )
        )

    def set_size(self, ino: int, size: int) -> Attr:
        """What the metadata service does on a SetAttr of the size."""
        if size < self.sizes.get(ino, 0):
            for of_ino, chunk in [key for key in self.maps if key[0] == ino]:
                keep = max(size - chunk * CHUNK_BYTES, 0)
                if keep < CHUNK_BYTES:
                    self._lay(of_ino, NewSlice(chunk, keep, 0, 0, 0, CHUNK_BYTES - keep, b""))
        self.sizes[ino] = size
        self._changed(ino)
        return self.attr(ino)

    async def new_slice_id(self) -> int:
        self.next_slice += 1
        return self.next_slice

    async def commit(self, ino: int, slices: Sequence[NewSlice], mtime_ns: int, kill_priv: bool) -> Attr:
        if self.refuse:
            refused, self.refuse = self.refuse, 0
            raise FsError(refused)
        seen = {one.slice for one in slices}
        assert not seen & self.committed, "a slice may be gone between two commits"
        assert len({(one.slice, one.chunk, one.size) for one in slices}) == len(seen)
        assert len({one.slice for one in slices if one.data}) == sum(bool(one.data) for one in slices)
        assert len(slices) <= 1024
        self.committed |= seen
        assert sum(len(one.data) for one in slices) <= 64 << 10
        for one in slices:
            assert one.length > 0
            assert one.off + one.length <= one.size <= CHUNK_BYTES
            assert one.pos + one.length <= CHUNK_BYTES
            assert not one.data or len(one.data) == one.size <= self.inline_bytes
            assert not one.data or (not one.chunk and one.pos + one.length <= INLINE_REACH * self.inline_bytes)
            if one.data:
                self.inline[one.slice] = one.data
            self._lay(ino, one)
            end = one.chunk * CHUNK_BYTES + one.pos + one.length
            self.sizes[ino] = max(self.sizes.get(ino, 0), end)
        self.mtimes[ino] = mtime_ns
        self.commits.append((ino, list(slices), kill_priv))
        self._changed(ino)
        return self.attr(ino)

    async def read(self, ino: int, first_chunk: int, chunks: int) -> tuple[Attr, dict[int, ChunkMap]]:
        if not 1 <= chunks <= 64:
            raise FsError(errno.EINVAL)
        self.reads += 1
        found = {}
        for chunk in range(first_chunk, first_chunk + chunks):
            extents = self.maps.get((ino, chunk))
            if extents:
                inline = {one.slice: self.inline[one.slice] for one in extents if one.inline}
                found[chunk] = ChunkMap(tuple(extents), inline)
        return self.attr(ino), found

    async def next_chunk(self, ino: int, chunk: int) -> int:
        return min((at for of, at in self.maps if of == ino and at >= chunk and self.maps[of, at]), default=1 << 31)

    def live(self) -> dict[int, int]:
        """Slices that some extent refers to and that are in objects, and their sizes."""
        return {one.slice: one.size for extents in self.maps.values() for one in extents if not one.inline}

    def _changed(self, ino: int) -> None:
        self.version += 1
        self.versions[ino] = self.version

    def _lay(self, ino: int, new: NewSlice) -> None:
        start, end = new.pos, new.pos + new.length
        kept: list[Extent] = []
        for old in self.maps.get((ino, new.chunk), []):
            old_end = old.pos + old.length
            if old.pos < start:
                kept.append(old._replace(length=min(old_end, start) - old.pos))
            if old_end > end:
                pos = max(old.pos, end)
                kept.append(old._replace(pos=pos, length=old_end - pos, off=old.off + pos - old.pos))
        if new.slice:
            kept.append(Extent(start, new.length, new.slice, new.off, new.size, bool(new.data)))
        self.maps[ino, new.chunk] = sorted(kept)
