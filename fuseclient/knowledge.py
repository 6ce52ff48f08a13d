"""All that a mount knows without asking, and how it learns: from answers, from its own changes, from notifications.

One object that the parts of the file system share (namespace.py, attributes.py, file_io.py, listings.py). It keeps the caches
consistent with each other and passes on to the kernel what the kernel has to forget. It asks nothing itself.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from fuseclient.attr_cache import LIMIT as ATTRS_MAX
from fuseclient.attr_cache import AttrCache
from fuseclient.attr_raw import data_version_of, nlink_of, parse, version_of
from fuseclient.dir_cache import HUGE, DirCache
from fuseclient.dir_cache import LIMIT as ENTRIES_MAX
from fuseclient.handles import Handles
from fuseclient.recent import Recent
from fuseclient.xattr_cache import AbsentXattrs

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from fuseclient.attr import Attr
    from fuseclient.data_api import DataPath
    from fuseclient.meta_api import MetaApi
    from fuseclient.open_files import OpenFile
    from fuseclient.operations import KernelCache
    from protos import meta_pb2 as pb

_PAGES_MAX: Final = 100_000
_TARGETS_MAX: Final = 20_000
_LISTINGS_MAX: Final = 20_000

_log = structlog.get_logger(__name__)


class Knowledge:
    def __init__(
        self,
        meta: MetaApi,
        data: DataPath,
        *,
        attrs_max: int = ATTRS_MAX,
        entries_max: int = ENTRIES_MAX,
        huge: int = HUGE,
    ) -> None:
        self.meta = meta
        self.data = data
        self.root = meta.root
        self.kernel: KernelCache | None = None
        self.on_lock_granted: Callable[[int], None] | None = None
        self.attrs = AttrCache(attrs_max)
        self.dirs = DirCache(entries_max, huge)
        self.files: dict[int, OpenFile] = {}
        self.handles = Handles()
        self.targets: Recent[int, bytes] = Recent(_TARGETS_MAX)
        self.xattrs = AbsentXattrs()
        #: inode -> data_version of the pages that the kernel may hold; what this mount writes keeps them right
        self.pages: Recent[int, int] = Recent(_PAGES_MAX)
        #: directory -> when the kernel began to keep its listing (`--dir-cache`)
        self.kept_listings: Recent[int, float] = Recent(_LISTINGS_MAX)
        self._tasks: set[asyncio.Task[object]] = set()
        data.on_commit = self.committed

    # answers

    def learn(self, raw: bytes, tick: int) -> Attr:
        """Attributes in the answer to a request sent at `tick`; gives the newest that are known."""
        attr = parse(raw)
        ino = attr.ino
        newest = self.attrs.put(ino, attr, tick)
        if self.files:
            file = self.files.get(ino)
            if file is not None:
                file.refresh(newest)
                if file.stale and self.attrs.fresh(ino, tick):
                    file.stale = False
        return newest

    def committed(self, attr: Attr) -> None:
        """A commit of this mount gave these attributes."""
        ino = attr.ino
        file = self.files.get(ino)
        if file is not None:
            file.version = max(file.version, version_of(attr))
            # What made the file stale may be newer than the commit.
            if not file.stale:
                self.attrs.put(ino, attr, self.attrs.tick)
        self._wrote(ino, attr)

    def resized(self, attr: Attr) -> None:
        """This mount changed the size or a range: the kernel has cut its pages itself."""
        self._wrote(attr.ino, attr)

    def _wrote(self, ino: int, attr: Attr) -> None:
        if self.pages.get(ino) is not None:
            self.pages.put(ino, data_version_of(attr))

    def unlinked(self, raw: bytes, tick: int) -> int:
        """An inode as the loss of a name left it; gives its number."""
        attr = parse(raw)
        ino = attr.ino
        file = self.files.get(ino)
        if nlink_of(attr) or file is not None:
            self.learn(raw, tick)
        else:
            self.attrs.forget(ino)
            self.xattrs.drop(ino)
            self.pages.drop(ino)
        if file is not None:
            file.gone = not nlink_of(attr)
        return ino

    # what others do

    def notified(self, notification: pb.Notification) -> None:
        what = notification.WhichOneof("what")
        if what == "inval_inode":
            self._changed(notification.inval_inode.ino, notification.inval_inode.data)
        elif what == "lock_granted" and self.on_lock_granted is not None:
            self.on_lock_granted(notification.lock_granted.seq)
        elif what == "inval_entry":
            entry = notification.inval_entry
            parent, name = entry.parent, entry.name
            self.dirs.doubt(parent, name)
            self.attrs.drop(parent)
            self.kept_listings.drop(parent)
            if self.kernel is not None:
                self.kernel.invalidate_entry(parent, name)

    def _changed(self, ino: int, data: bool) -> None:
        self.attrs.drop(ino)
        self.xattrs.drop(ino)
        file = self.files.get(ino)
        if file is not None:
            file.stale = True
        if data:
            self.pages.drop(ino)
        if self.kernel is not None:
            self.kernel.invalidate_inode(ino, data=data)

    def forget_all(self) -> None:
        """Notifications may have been missed. The pages' versions stay: the next open compares them with the truth."""
        self.attrs.clear()
        self.dirs.clear()
        self.xattrs.clear()
        self.kept_listings.clear()
        for file in self.files.values():
            file.stale = True
            if self.kernel is not None:
                self.kernel.invalidate_inode(file.ino, data=True)

    # work that nobody waits for

    def behind(self, work: Coroutine[object, object, object], what: str) -> asyncio.Task[object]:
        """Run `work` in the background; a failure is logged."""
        task: asyncio.Task[object] = asyncio.get_running_loop().create_task(self._logged(work, what))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _logged(self, work: Coroutine[object, object, object], what: str) -> object:
        try:
            return await work
        except asyncio.CancelledError:
            raise
        except Exception as error:
            _log.warning("work in the background failed", what=what, why=str(error) or type(error).__name__)
            return None

    async def settled(self) -> None:
        """Wait for all work in the background."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))
