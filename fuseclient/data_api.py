"""What the file system asks of the data path (fuseclient/data/), so that it can be tested without an object store.

One FileData exists per inode that has an open file, whatever the number of its handles, and lives until `close`. All calls are
made on the event loop. The file system sees to it that `truncate` runs alone: no write, flush or truncate of the same file
is called while it is under way. Reads, writes and flushes may overlap in any other way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from fuseclient.attr import Attr
    from fuseclient.data.slices import Extent
    from fuseclient.operations import Buffer


class FileData(Protocol):
    @property
    def size(self) -> int:
        """The end of the file as this mount sees it: unflushed writes count."""

    @property
    def dirty(self) -> bool:
        """Something written is not committed yet, or an error of a background upload has not been reported yet."""

    @property
    def dirty_bytes(self) -> int:
        """How many bytes are written and not committed."""

    @property
    def mtime_ns(self) -> int:
        """When this mount last wrote; 0 = never."""

    def write(self, offset: int, data: memoryview, kill_priv: bool) -> Awaitable[None] | None:
        """`data` is copied before this returns; an awaitable means that the buffer is full and the writer has to wait."""

    def read(self, offset: int, size: int) -> Sequence[Buffer] | Awaitable[Sequence[Buffer]]:
        """Up to `size` bytes, fewer only at `self.size`; own writes are seen at once. FsError(EIO) rather than wrong bytes."""

    def flush(self) -> Awaitable[Attr | None]:
        """Upload and commit all that was dirty at the call; the attributes of the last commit. Raises FsError; an error of
        a background upload is reported by one flush."""

    def truncate(self, size: int) -> Awaitable[None]:
        """Forget what is buffered or cached beyond `size`, wait for uploads and commits under way, let `self.size` be `size`.
        Nothing is told to the metadata service: the file system sends the SetAttr."""

    def refresh(self, attr: Attr) -> None:
        """Newer attributes: chunk maps are dropped when data_version is not that of this file's own last commit."""

    def prime(self, extents: Sequence[Extent], inline: Mapping[int, bytes]) -> None:
        """The map of chunk 0, as Open delivered it together with the attributes of the last `refresh` (or of `file`)."""

    def seek(self, offset: int, whence: int) -> int | Awaitable[int]:
        """SEEK_DATA and SEEK_HOLE, exact: what is allocated and was never written is a hole, as on ext4. FsError(ENXIO)."""

    def forsake(self) -> None:
        """The session ended under which the dirty bytes were written: others may have used the file since, so none of these
        may ever be committed, not even by a flush that is under way. They can be read until `close`; every flush fails."""

    def close(self) -> Awaitable[None] | None:
        """Nobody uses the file any more; it is clean, or what is dirty is given up. None when there is nothing to wait for."""


class DataPath(Protocol):
    #: Called on the event loop with the attributes that each commit gives, before whoever waits for the commit goes on.
    on_commit: Callable[[Attr], None] | None

    def file(self, attr: Attr) -> FileData:
        """The contents of a regular file, as of these attributes."""

    async def close(self) -> None:
        """Flush every file and stop."""
