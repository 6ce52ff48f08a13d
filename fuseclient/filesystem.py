"""The file system of a mount: what drivers call (operations.py), assembled from its parts.

    namespace.py    names: lookup, create, mkdir, link, unlink, rename, readlink
    listings.py     directories: readdir, prefetch
    attributes.py   getattr, setattr, extended attributes, statfs
    file_io.py      open files: open, read, write, flush, release
    locks.py        locks between mounts, and what flush and release do about them
    knowledge.py    the caches they share, and how notifications and answers change them

Methods of the parts stand here as they are, without a call in between: this is the path of every request.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fuseclient.access_times import RELATIME, AccessTimes
from fuseclient.attr_cache import LIMIT as ATTRS_MAX
from fuseclient.attributes import Attributes
from fuseclient.dir_cache import HUGE
from fuseclient.dir_cache import LIMIT as ENTRIES_MAX
from fuseclient.file_io import FileIo
from fuseclient.knowledge import Knowledge
from fuseclient.listings import PAGE_ENTRIES, Listings
from fuseclient.locks import Locks
from fuseclient.meta_api import EXPIRED
from fuseclient.namespace import Namespace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from fuseclient.data_api import DataPath
    from fuseclient.meta_api import MetaApi
    from fuseclient.operations import KernelCache


@dataclass(frozen=True, slots=True)
class Options:
    """Seconds for which the kernel, or an open, may trust what it was told; access times; bounds of the caches."""

    entry_ttl_s: float = 1.0
    attr_ttl_s: float = 1.0
    negative_ttl_s: float = 1.0
    dir_cache_s: float = 0.0
    open_cache_s: float = 0.0
    atime: str = RELATIME
    attrs_max: int = ATTRS_MAX
    entries_max: int = ENTRIES_MAX
    huge_directory: int = HUGE
    page_entries: int = PAGE_ENTRIES
    acl: bool = False  # POSIX ACLs: the volume has them on, and the driver makes the kernel enforce them


DEFAULTS: Final = Options()


class FileSystem:
    """Implements Operations. Made on the event loop that all calls come on."""

    def __init__(
        self, meta: MetaApi, data: DataPath, options: Options = DEFAULTS, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.root = meta.root
        self.acl = options.acl
        self.entry_ttl_s = options.entry_ttl_s
        self.attr_ttl_s = options.attr_ttl_s
        self.negative_ttl_s = options.negative_ttl_s
        self._data = data
        known = self.known = Knowledge(
            meta, data, attrs_max=options.attrs_max, entries_max=options.entries_max, huge=options.huge_directory
        )
        times = self._times = AccessTimes(known, options.atime)
        listings = Listings(known, times, clock, options.page_entries, options.dir_cache_s)
        names = Namespace(known, listings)
        files = self._files = FileIo(known, names, times, clock, options.open_cache_s)
        locks = self._locks = Locks(known, files)
        attributes = Attributes(known, files, clock, options.acl)
        meta.on_notification = known.notified
        meta.on_reset = self._reset

        self.lookup = names.lookup
        self.mkdir = names.mkdir
        self.mknod = names.mknod
        self.symlink = names.symlink
        self.link = names.link
        self.unlink = names.unlink
        self.rmdir = names.rmdir
        self.rename = names.rename
        self.readlink = names.readlink

        self.getattr = attributes.getattr
        self.setattr = attributes.setattr
        self.access = attributes.access
        self.getxattr = attributes.getxattr
        self.listxattr = attributes.listxattr
        self.setxattr = attributes.setxattr
        self.removexattr = attributes.removexattr
        self.getflags = attributes.getflags
        self.setflags = attributes.setflags
        self.statfs = attributes.statfs

        self.create = files.create
        self.tmpfile = files.tmpfile
        self.open = files.open
        self.read = files.read
        self.write = files.write
        self.flush = locks.flush
        self.fsync = files.fsync
        self.release = locks.release
        self.getlk = locks.getlk
        self.setlk = locks.setlk
        self.lseek = files.lseek
        self.fallocate = files.fallocate
        self.copy_range = files.copy_range

        self.opendir = listings.opendir
        self.readdir = listings.readdir
        self.releasedir = listings.releasedir

    def attach_kernel(self, cache: KernelCache) -> None:
        self.known.kernel = cache

    def forget(self, inodes: Sequence[int]) -> None:
        """The kernel let go of these inodes and of their pages."""
        for ino in inodes:
            self.known.pages.drop(ino)

    def fsyncdir(self, ino: int, fh: int) -> Awaitable[None] | None:
        """Every change of a directory was durable when it returned."""
        return None

    async def close(self) -> None:
        """Store what is dirty and finish what is under way."""
        self._times.close()
        await self.known.settled()
        await self._data.close()
        await self.known.settled()

    def _reset(self, reason: str) -> None:
        self.known.forget_all()
        if reason == EXPIRED:
            self._locks.session_ended()
            self._files.session_ended()
        else:
            self._locks.stream_lost()
