"""Open files: open, create, read, write, flush, release.

- Opening always asks the metadata service, which gives the newest attributes and, for a small file, everything needed to read
  it. Also when the file is open here and nobody has reported a change: the report may be on its way, and whoever opens a file
  after another mount closed it must find what was written.
- Written data is stored by flush (close(2)), fsync, O_SYNC, or when the data path's buffer fills; an error of it is reported
  by the next flush or fsync. `release` never waits: what is dirty then is stored behind.
- The kernel keeps its pages over an open when the file's data_version is the one that they were filled from.
- When the session ends with writes that are not stored, they are lost: each handle that could write reports EIO once.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

from fuseclient.attr_raw import data_version_of, lacks_xattrs, mode_of, size_of, version_of
from fuseclient.data.slices import CHUNK_BYTES, Extent
from fuseclient.errors import FsError
from fuseclient.handles import Handle, flags_of
from fuseclient.namespace import cred_of
from fuseclient.open_files import OpenFile
from fuseclient.operations import IMMUTABLE_FL, OPEN_KILL_PRIV, Caller, Opened
from fuseclient.permission import enforced_cred, flags_allow, may_open, wanted_by
from fuseclient.recent import Recent
from protos import meta_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fuseclient.access_times import AccessTimes
    from fuseclient.attr import Attr
    from fuseclient.knowledge import Knowledge
    from fuseclient.namespace import Namespace
    from fuseclient.operations import Buffer

FILE_SIZE_MAX: Final = 2**57
FATTR_SIZE: Final = 1 << 3
FATTR_KILL_SUIDGID: Final = 1 << 11
_FMODE_EXEC: Final = 0o40  # a program is started: the kernel's word beside the flags of open(2)
_FLAGS_SENT: Final = os.O_ACCMODE | os.O_APPEND | os.O_TRUNC | _FMODE_EXEC
_ASKED_MAX: Final = 100_000
_SYSTEM: Final = Caller(0, 0, 0)


class FileIo:
    def __init__(
        self,
        known: Knowledge,
        names: Namespace,
        times: AccessTimes,
        clock: Callable[[], float] = time.monotonic,
        open_cache_s: float = 0.0,
    ) -> None:
        self._known = known
        self._times = times
        self._clock = clock
        self._open_cache_s = open_cache_s
        self._asked: Recent[int, float] = Recent(_ASKED_MAX)  # when a file was last opened at the server
        self._meta = known.meta
        self._attrs = known.attrs
        self._files = known.files
        self._handles = known.handles
        self._names = names

    # open and close

    async def create(self, parent: int, name: bytes, mode: int, umask: int, flags: int, caller: Caller) -> tuple[Attr, Opened]:
        attr, response = await self._names.create(parent, name, mode, umask, bool(flags & os.O_EXCL), caller)
        file = self._opening(attr)
        file.holds += 1
        try:
            if response.existed:
                await self._require_open(attr, flags, caller)
                if flags & os.O_TRUNC:
                    attr = await self._cut(file, flags, caller)
        except BaseException:
            self._closed(file)
            raise
        return file.local(attr), self._opened(file, flags, attr)

    async def _require_open(self, attr: Attr, flags: int, caller: Caller) -> None:
        """The kernel took the name for free and checked nothing but the directory."""
        if not stat.S_ISREG(mode_of(attr)):
            raise FsError(errno.EACCES)
        if not lacks_xattrs(attr):
            asking = pb.Access(ino=attr.ino, mask=wanted_by(flags), cred=enforced_cred(caller))
            await self._meta.read(pb.Request(access=asking))
        elif not may_open(attr, flags, caller):
            raise FsError(errno.EACCES)
        if not flags_allow(attr, flags):
            raise FsError(errno.EPERM)

    async def tmpfile(self, parent: int, mode: int, umask: int, flags: int, caller: Caller) -> tuple[Attr, Opened]:
        """Create a file without a name; what is dirty at its last close is of use only if it got one."""
        tick = self._attrs.tick
        making = pb.TmpFile(parent=parent, mode=mode, umask=umask, cred=cred_of(caller))
        response = await self._meta.change(pb.Request(tmpfile=making))
        attr = self._known.learn(response.attr, tick)
        file = self._opening(attr)
        file.holds += 1
        file.gone = True
        return attr, self._opened(file, flags, attr)

    async def open(self, ino: int, flags: int, caller: Caller) -> Opened:
        if self._open_cache_s and not caller.enforce and flags & (os.O_ACCMODE | os.O_TRUNC) == os.O_RDONLY:
            attr, asked = self._attrs.get(ino), self._asked.get(ino)
            if attr is not None and asked is not None and self._clock() - asked < self._open_cache_s:
                return self._open_on_trust(attr, flags)
        file, attr = await self._ask_open(ino, flags, caller)
        try:
            if flags & os.O_TRUNC:
                attr = await self._cut(file, flags, caller)
        except BaseException:
            self._closed(file)
            raise
        return self._opened(file, flags, attr)

    def _open_on_trust(self, attr: Attr, flags: int) -> Opened:
        """Without waiting for the server, which learns behind that the file is held open."""
        file = self._opening(attr)
        file.refresh(attr)
        if not file.holds:
            file.opens += 1
            self._known.behind(self._hold(file), f"holding inode {file.ino} open")
        return self._opened(file, flags, attr)

    async def _hold(self, file: OpenFile) -> None:
        try:
            tick = self._attrs.tick
            response = await self._meta.read(pb.Request(open=pb.Open(ino=file.ino, cred=cred_of(_SYSTEM))))
            file.holds += 1
            self._known.learn(response.attr, tick)
        except FsError:
            file.stale = True  # it is gone; the next read says so
            raise
        finally:
            self._closed(file)

    async def _ask_open(self, ino: int, flags: int, caller: Caller) -> tuple[OpenFile, Attr]:
        """Open at the server. The file counts one more opening, which the caller makes a handle of or takes back."""
        tick = self._attrs.tick
        known = self._attrs.get(ino)
        reads = flags & os.O_ACCMODE != os.O_WRONLY and not flags & os.O_TRUNC
        wanted = reads and (known is None or 0 < size_of(known) <= CHUNK_BYTES)
        asking = pb.Open(ino=ino, flags=flags & _FLAGS_SENT, want_slices=wanted, cred=cred_of(caller))
        response = await self._meta.read(pb.Request(open=asking))
        attr = self._known.learn(response.attr, tick)
        file = self._opening(attr)
        file.holds += 1
        file.refresh(attr)
        if self._open_cache_s:
            self._asked.put(ino, self._clock())
        if wanted and not file.data.dirty and attr.raw == response.attr and file.version == version_of(attr):
            extents = [Extent(e.pos, e.len, e.slice, e.off, e.size, e.inline) for e in response.extents if e.chunk == 0]
            file.data.prime(extents, {inline.slice: inline.data for inline in response.inline_data})
        return file, attr

    def _opening(self, attr: Attr) -> OpenFile:
        """The file of these attributes, with one opening more."""
        ino = attr.ino
        file = self._files.get(ino)
        if file is None:
            file = self._files[ino] = OpenFile(ino, self._known.data.file(attr), version_of(attr))
        file.opens += 1
        return file

    def _opened(self, file: OpenFile, flags: int, attr: Attr) -> Opened:
        ino = file.ino
        version = data_version_of(attr)
        keep = self._known.pages.get(ino) == version
        if not keep:
            self._known.pages.put(ino, version)
        times = self._times
        if times.counted and flags & os.O_ACCMODE != os.O_WRONLY and not flags & os.O_NOATIME and times.due(attr):
            if keep and size_of(attr):
                times.note(ino)
            else:
                file.unread = True
        return Opened(self._handles.open_file(file, flags), keep_cache=keep, direct_io=bool(flags & os.O_DIRECT))

    def release(self, ino: int, fh: int) -> None:
        handle = self._handles.files.pop(fh, None)
        if handle is not None:
            self._closed(handle.file)

    def _closed(self, file: OpenFile) -> None:
        file.opens -= 1
        if file.opens:
            return
        if file.busy or (file.data.dirty and not file.gone):
            self._known.behind(self._store_behind(file), f"storing what was written to inode {file.ino}")
        else:
            self._drop(file)

    async def _store_behind(self, file: OpenFile) -> None:
        try:
            await self._flush(file)
        finally:
            if not file.opens and self._files.get(file.ino) is file:
                self._drop(file)

    def _drop(self, file: OpenFile) -> None:
        del self._files[file.ino]
        for _ in range(file.holds):
            self._meta.release(file.ino)
        closing = file.data.close()
        if closing is not None:
            self._known.behind(_awaited(closing), f"closing inode {file.ino}")

    async def handle(self, ino: int, fh: int) -> Handle:
        """The handle of a number that another process gave out: opened again."""
        file, _ = await self._ask_open(ino, flags_of(fh), _SYSTEM)
        made = self._handles.files.get(fh)
        if made is not None:  # another request was faster
            self._closed(file)
            return made
        made = self._handles.files[fh] = Handle(file, flags_of(fh))
        return made

    # reading

    def read(self, ino: int, fh: int, offset: int, size: int) -> Sequence[Buffer] | Awaitable[Sequence[Buffer]]:
        file = self._files.get(ino)
        if file is None or file.stale:
            return self._read(ino, fh, offset, size)
        if file.unread:
            self._first_read(file)
        return file.data.read(offset, size)

    def _first_read(self, file: OpenFile) -> None:
        file.unread = False
        self._times.note(file.ino)

    async def _read(self, ino: int, fh: int, offset: int, size: int) -> Sequence[Buffer]:
        file = await self._current(ino, fh)
        if file.unread:
            self._first_read(file)
        found = file.data.read(offset, size)
        return await found if isinstance(found, Awaitable) else found

    async def _current(self, ino: int, fh: int) -> OpenFile:
        """The file with attributes that are true now, after others have changed it or its handle came from elsewhere."""
        file = self._files.get(ino)
        if file is None:
            file = (self._handles.files.get(fh) or await self.handle(ino, fh)).file
        if file.stale:
            async with file.exclusive:
                if file.stale:
                    await self._refresh(file)
        return file

    async def _refresh(self, file: OpenFile) -> None:
        tick = self._attrs.tick
        response = await self._meta.read(pb.Request(getattr=pb.GetAttr(ino=file.ino)))
        file.stale = False
        self._known.learn(response.attr, tick)
        if not self._attrs.fresh(file.ino, tick):
            file.stale = True

    # writing

    def write(self, ino: int, fh: int, offset: int, data: memoryview, kill_priv: bool) -> int | Awaitable[int]:
        handle = self._handles.files.get(fh)
        if handle is None or handle.sync or handle.file.stale or handle.file.busy or handle.file.fixed:
            return self._write_slowly(ino, fh, offset, bytes(data), kill_priv)
        waiting = self._put(handle, offset, data, kill_priv)
        return len(data) if waiting is None else _counted(waiting, len(data))

    def _put(self, handle: Handle, offset: int, data: memoryview, kill_priv: bool) -> Awaitable[None] | None:
        file = handle.file
        if handle.append:
            offset = file.data.size  # the kernel's idea of the end may be older than ours
        if offset + len(data) > FILE_SIZE_MAX:
            raise FsError(errno.EFBIG)
        if kill_priv:
            file.killing = True
        return file.data.write(offset, data, kill_priv)

    async def _write_slowly(self, ino: int, fh: int, offset: int, data: bytes, kill_priv: bool) -> int:
        handle = self._handles.files.get(fh) or await self.handle(ino, fh)
        if handle.fenced:
            raise FsError(errno.EIO, "a lock that was taken through this handle was lost with the session")
        file = await self._current(ino, fh)
        if file.fixed & IMMUTABLE_FL:
            raise FsError(errno.EPERM)
        async with file.exclusive:
            waiting = self._put(handle, offset, memoryview(data), kill_priv)
        if waiting is not None:
            await waiting
        if handle.sync:
            await self._flush(file, handle)
        return len(data)

    def flush(self, ino: int, fh: int, lock_owner: int) -> Awaitable[None] | None:
        handle = self._handles.files.get(fh)
        if handle is None or not handle.writable:
            return None
        file = handle.file
        if handle.losses == file.losses and (not file.data.dirty or file.gone):
            return None
        return self._flush(file, handle)

    def fsync(self, ino: int, fh: int, datasync: bool) -> Awaitable[None] | None:
        handle = self._handles.files.get(fh)
        if handle is None:
            return None
        file = handle.file
        if handle.losses == file.losses and not file.data.dirty:
            return None
        return self._flush(file, handle)

    async def _flush(self, file: OpenFile, handle: Handle | None = None) -> None:
        """Store what was written until now."""
        if file.busy:
            async with file.exclusive:
                pass
        if handle is not None and handle.losses != file.losses:
            handle.losses = file.losses
            if handle.writable:
                raise FsError(errno.EIO, "the session ended before what was written could be stored")
        killing, file.killing = file.killing, False
        try:
            attr = await file.data.flush()
        except BaseException:
            file.killing = file.killing or killing
            raise
        if attr is not None:
            self._known.committed(attr)

    # size

    async def _cut(self, file: OpenFile, flags: int, caller: Caller) -> Attr:
        """O_TRUNC."""
        valid = FATTR_SIZE | FATTR_KILL_SUIDGID if flags & OPEN_KILL_PRIV else FATTR_SIZE
        return await self.resize(file, pb.SetAttr(ino=file.ino, valid=valid, size=0, cred=cred_of(caller)))

    async def resize(self, file: OpenFile, change: pb.SetAttr) -> Attr:
        """A SetAttr with a size. Shrinking, which is not refused, forgets what lies beyond first, so that it need not be
        stored; the rest is stored before, so that no later commit sets back the times."""
        async with file.exclusive:
            if file.fixed and file.stale:
                await self._refresh(file)
            if file.fixed:  # before anything is forgotten: this one would be refused
                raise FsError(errno.EPERM)
            if change.size < file.data.size:
                await file.data.truncate(change.size)
            attr, _ = await self._change(file, pb.Request(setattr=change))
            return attr

    # ranges

    def fallocate(self, ino: int, fh: int, offset: int, length: int, mode: int, caller: Caller) -> Awaitable[None]:
        """The kernel drops its own pages of what becomes zeros or a hole."""
        change = pb.Fallocate(ino=ino, mode=mode, offset=offset, length=length, kill_priv=caller.uid != 0)
        return self._fallocate(ino, fh, pb.Request(fallocate=change))

    async def _fallocate(self, ino: int, fh: int, change: pb.Request) -> None:
        file = await self._current(ino, fh)
        async with file.exclusive:
            await self._change(file, change)

    async def copy_range(
        self, ino: int, fh: int, offset: int, ino2: int, fh2: int, offset2: int, length: int, caller: Caller
    ) -> int:
        """What is dirty in either file is stored first: slices are shared, and there has to be something to share."""
        source, target = await self._current(ino, fh), await self._current(ino2, fh2)
        if source is not target:
            await self._flush(source)
        killing = caller.uid != 0
        change = pb.CopyRange(ino=ino, offset=offset, ino2=ino2, offset2=offset2, length=length, kill_priv=killing)
        async with target.exclusive:
            _, response = await self._change(target, pb.Request(copy_range=change))
        return response.count

    async def _change(self, file: OpenFile, change: pb.Request) -> tuple[Attr, pb.Response]:
        """A change of a file's contents that the metadata service makes, by whoever has the file for himself. What was written
        before is stored before: it is to be under the change, and no later commit may set back the times."""
        if file.data.dirty:
            stored = await file.data.flush()
            file.killing = False
            if stored is not None:
                self._known.committed(stored)
        tick = self._attrs.tick
        try:
            response = await self._meta.change(change)
        except BaseException:
            file.stale = True
            raise
        attr = self._known.learn(response.attr, tick)
        self._known.resized(attr)
        return attr, response

    # the rest

    def lseek(self, ino: int, fh: int, offset: int, whence: int) -> int | Awaitable[int]:
        file = self._files.get(ino)
        if file is None or file.stale:
            return self._lseek(ino, fh, offset, whence)
        return file.data.seek(offset, whence)

    async def _lseek(self, ino: int, fh: int, offset: int, whence: int) -> int:
        file = await self._current(ino, fh)
        found = file.data.seek(offset, whence)
        return found if isinstance(found, int) else await found

    # a session that has ended

    def fence(self, fh: int) -> None:
        """Write nothing through this handle any more. `sync` leads its writes to where that is looked at."""
        handle = self._handles.files.get(fh)
        if handle is not None:
            handle.fenced = handle.sync = True

    def session_ended(self) -> None:
        """Nothing is held open any more; open again what is open here, and give up what was not stored. At once: a flush that
        goes on now would commit it under the next session, over what others have written since."""
        for file in self._files.values():
            file.holds = 0
            file.stale = True
            lost = file.data.dirty and bool(file.data.mtime_ns)
            if lost:
                file.losses += 1
                file.killing = False
                file.data.forsake()
            self._known.behind(self._revive(file, lost), f"opening inode {file.ino} again")

    async def _revive(self, file: OpenFile, lost: bool) -> None:
        async with file.exclusive:
            tick = self._attrs.tick
            response = await self._meta.read(pb.Request(open=pb.Open(ino=file.ino, cred=cred_of(_SYSTEM))))
            file.holds += 1
            attr = self._known.learn(response.attr, tick)
            if lost:
                closing = file.data.close()
                if closing is not None:
                    await closing
                file.data = self._known.data.file(attr)
                file.version = version_of(attr)


async def _awaited(waiting: Awaitable[None]) -> None:
    await waiting


async def _counted(waiting: Awaitable[None], count: int) -> int:
    await waiting
    return count
