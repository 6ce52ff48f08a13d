"""The same Operations served through libfuse, for those who want that path: a thin adapter for pyfuse3 3.5.

The default driver is fuseclient/kernel; this one exists beside it and lacks, because pyfuse3 does:
- POSIX_ACL and DONT_MASK: ACLs are not shown (EOPNOTSUPP) and the kernel enforces the mode alone, whose group bits are a
  list's mask; what is made under a default ACL has it, but cut by the umask. `keelfs mount` says so on a volume with ACLs.
- RENAME flags are passed, but fallocate, SEEK_DATA/SEEK_HOLE, O_TMPFILE and locks across mounts are not there at all.
- HANDLE_KILLPRIV_V2: set-id bits are cleared by a setattr of the kernel's own, after a look at the attributes.
- O_TRUNC that is atomic with the open, the open file behind a getattr, cached listings, INTERRUPT.
- setxattr's CREATE and REPLACE, which pyfuse3 emulates with a getxattr before (two of them may race).
- A request costs about four times the CPU.

pyfuse3 keeps its session in module globals: one mount per process. Handles are numbered here, since pyfuse3 names a file by its
handle alone and Operations wants the inode as well.
"""

from __future__ import annotations

import asyncio
import errno
import inspect
import logging
import stat
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fuseclient.errors import ClientError, FsError
from fuseclient.kernel import protocol as p
from fuseclient.kernel.mount import MountError, MountOptions, check_mountpoint
from fuseclient.kernel.nodes import NodeTable
from fuseclient.operations import Caller, Changes

try:
    import pyfuse3
    import pyfuse3.asyncio
except ImportError as missing:
    raise ClientError(
        f"the pyfuse3 driver is not installed ({missing}); install it with: pip install 'keelfs[pyfuse3]' "
        "(it is built from source and needs gcc, pkg-config and libfuse3-dev), or use the default driver"
    ) from missing

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Sequence

    from fuseclient.attr import Attr
    from fuseclient.operations import Operations

log = logging.getLogger(__name__)

_NS: Final = 1_000_000_000
_FIELDS: Final = (
    ("update_mode", p.FATTR_MODE),
    ("update_uid", p.FATTR_UID),
    ("update_gid", p.FATTR_GID),
    ("update_size", p.FATTR_SIZE),
    ("update_atime", p.FATTR_ATIME),
    ("update_mtime", p.FATTR_MTIME),
    ("update_ctime", p.FATTR_CTIME),
)


class Handle(NamedTuple):
    ino: int
    fh: int


class Adapter(pyfuse3.Operations):
    """pyfuse3's handlers in terms of Operations. Any failure but FsError is logged and becomes EIO: pyfuse3 would end."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, operations: Operations, ready: asyncio.Event) -> None:
        super().__init__()
        self.nodes = NodeTable(operations.root)
        self.requests: Counter[str] = Counter()
        self._operations = operations
        self._ready = ready
        self._handles: dict[int, Handle] = {}
        self._next_handle = 1

    def init(self) -> None:
        self._ready.set()

    # --- translation

    async def _ask(self, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        self.requests[name] += 1
        try:
            value = call(*arguments)
            return await value if inspect.isawaitable(value) else value
        except FsError as refusal:
            raise pyfuse3.FUSEError(refusal.errno) from None
        except Exception:
            log.exception("%s failed", name)
            raise pyfuse3.FUSEError(errno.EIO) from None

    def _ino(self, inode: int) -> int:
        return self._operations.root if inode == pyfuse3.ROOT_INODE else inode

    def nodeid(self, ino: int) -> int:
        return int(pyfuse3.ROOT_INODE) if ino == self._operations.root else ino

    def _attributes(self, attr: Attr) -> Any:
        f = attr.fields
        made = pyfuse3.EntryAttributes()
        made.st_ino = self.nodeid(f.ino)
        made.st_mode, made.st_nlink, made.st_uid, made.st_gid, made.st_rdev = f.mode, f.nlink, f.uid, f.gid, f.rdev
        made.st_size, made.st_blocks, made.st_blksize = f.size, f.blocks, f.blksize
        made.st_atime_ns = f.atime_s * _NS + f.atime_nsec
        made.st_mtime_ns = f.mtime_s * _NS + f.mtime_nsec
        made.st_ctime_ns = f.ctime_s * _NS + f.ctime_nsec
        made.generation = 0
        made.entry_timeout = self._operations.entry_ttl_s
        made.attr_timeout = self._operations.attr_ttl_s
        return made

    def _entry(self, attr: Attr) -> Any:
        self.nodes.add(attr.ino)
        return self._attributes(attr)

    def _open(self, ino: int, fh: int) -> int:
        number = self._next_handle
        self._next_handle += 1
        self._handles[number] = Handle(ino, fh)
        return number

    def _handle(self, number: int) -> Handle:
        found = self._handles.get(number)
        if found is None:
            raise pyfuse3.FUSEError(errno.EBADF)
        return found

    # --- names

    async def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> Any:
        attr = await self._ask("lookup", self._operations.lookup, self._ino(parent_inode), name, _caller(ctx))
        if attr is not None:
            return self._entry(attr)
        if not self._operations.negative_ttl_s:
            raise pyfuse3.FUSEError(errno.ENOENT)
        absent = pyfuse3.EntryAttributes()
        absent.st_ino = 0
        absent.entry_timeout = self._operations.negative_ttl_s
        return absent

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        gone = self.nodes.forget(inode_list)
        if gone:
            self._operations.forget(gone)

    async def create(self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Any) -> Any:
        arguments = (self._ino(parent_inode), name, mode, 0, flags, _caller(ctx))
        attr, file = await self._ask("create", self._operations.create, *arguments)
        return self._file(attr.ino, file), self._entry(attr)

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Any) -> Any:
        arguments = (self._ino(parent_inode), name, mode, 0, _caller(ctx))
        return self._entry(await self._ask("mkdir", self._operations.mkdir, *arguments))

    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: Any) -> Any:
        arguments = (self._ino(parent_inode), name, mode, 0, rdev, _caller(ctx))
        return self._entry(await self._ask("mknod", self._operations.mknod, *arguments))

    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: Any) -> Any:
        arguments = (self._ino(parent_inode), name, target, _caller(ctx))
        return self._entry(await self._ask("symlink", self._operations.symlink, *arguments))

    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Any) -> Any:
        arguments = (self._ino(inode), self._ino(new_parent_inode), new_name, _caller(ctx))
        return self._entry(await self._ask("link", self._operations.link, *arguments))

    async def unlink(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        await self._ask("unlink", self._operations.unlink, self._ino(parent_inode), name, _caller(ctx))

    async def rmdir(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        await self._ask("rmdir", self._operations.rmdir, self._ino(parent_inode), name, _caller(ctx))

    async def rename(
        self, parent_inode_old: int, name_old: bytes, parent_inode_new: int, name_new: bytes, flags: int, ctx: Any
    ) -> None:
        old, new = self._ino(parent_inode_old), self._ino(parent_inode_new)
        await self._ask("rename", self._operations.rename, old, name_old, new, name_new, flags, _caller(ctx))

    async def readlink(self, inode: int, ctx: Any) -> Any:
        return await self._ask("readlink", self._operations.readlink, self._ino(inode))

    # --- attributes

    async def getattr(self, inode: int, ctx: Any) -> Any:
        return self._attributes(await self._ask("getattr", self._operations.getattr, self._ino(inode), None))

    async def setattr(self, inode: int, attr: Any, fields: Any, fh: int | None, ctx: Any) -> Any:
        changes = Changes(
            valid=sum(bit for name, bit in _FIELDS if getattr(fields, name)),
            mode=attr.st_mode,
            uid=attr.st_uid,
            gid=attr.st_gid,
            size=attr.st_size,
            atime_ns=attr.st_atime_ns,
            mtime_ns=attr.st_mtime_ns,
            ctime_ns=attr.st_ctime_ns,
        )
        handle = None if fh is None else self._handle(fh).fh
        arguments = (self._ino(inode), changes, handle, _caller(ctx))
        return self._attributes(await self._ask("setattr", self._operations.setattr, *arguments))

    async def access(self, inode: int, mode: int, ctx: Any) -> bool:
        try:
            await self._ask("access", self._operations.access, self._ino(inode), mode, _caller(ctx))
        except pyfuse3.FUSEError as refusal:
            if refusal.errno == errno.EACCES:
                return False
            raise
        return True

    async def getxattr(self, inode: int, name: bytes, ctx: Any) -> Any:
        return await self._ask("getxattr", self._operations.getxattr, self._ino(inode), name, _caller(ctx))

    async def listxattr(self, inode: int, ctx: Any) -> list[bytes]:
        names: bytes = await self._ask("listxattr", self._operations.listxattr, self._ino(inode), _caller(ctx))
        return names.split(b"\0")[:-1]

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        await self._ask("setxattr", self._operations.setxattr, self._ino(inode), name, value, 0, _caller(ctx))

    async def removexattr(self, inode: int, name: bytes, ctx: Any) -> None:
        await self._ask("removexattr", self._operations.removexattr, self._ino(inode), name, _caller(ctx))

    async def statfs(self, ctx: Any) -> Any:
        s = await self._ask("statfs", self._operations.statfs, self._operations.root)
        made = pyfuse3.StatvfsData()
        made.f_bsize = made.f_frsize = s.block_bytes
        made.f_blocks, made.f_bfree, made.f_bavail = s.blocks, s.blocks_free, s.blocks_free
        made.f_files, made.f_ffree, made.f_favail = s.files, s.files_free, s.files_free
        made.f_namemax = s.name_max
        return made

    # --- files

    def _file(self, ino: int, file: Any) -> Any:
        return pyfuse3.FileInfo(fh=self._open(ino, file.fh), keep_cache=file.keep_cache, direct_io=file.direct_io)

    async def open(self, inode: int, flags: int, ctx: Any) -> Any:
        ino = self._ino(inode)
        return self._file(ino, await self._ask("open", self._operations.open, ino, flags, _caller(ctx)))

    async def read(self, fh: int, off: int, size: int) -> bytes:
        handle = self._handle(fh)
        return b"".join(await self._ask("read", self._operations.read, handle.ino, handle.fh, off, size))

    async def write(self, fh: int, off: int, buf: bytes) -> Any:
        handle = self._handle(fh)
        return await self._ask("write", self._operations.write, handle.ino, handle.fh, off, memoryview(buf), False)

    async def flush(self, fh: int) -> None:
        handle = self._handle(fh)
        await self._ask("flush", self._operations.flush, handle.ino, handle.fh, 0)

    async def fsync(self, fh: int, datasync: bool) -> None:
        handle = self._handle(fh)
        await self._ask("fsync", self._operations.fsync, handle.ino, handle.fh, bool(datasync))

    async def release(self, fh: int) -> None:
        handle = self._handle(fh)
        del self._handles[fh]
        await self._ask("release", self._operations.release, handle.ino, handle.fh)

    # --- directories

    async def opendir(self, inode: int, ctx: Any) -> int:
        ino = self._ino(inode)
        opened = await self._ask("opendir", self._operations.opendir, ino, _caller(ctx))
        return self._open(ino, opened.fh)

    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        handle = self._handle(fh)
        items = await self._ask("readdir", lambda: self._operations.readdir(handle.ino, handle.fh, start_id, plus=True))
        for item in items:
            dots = item.name in (b".", b"..")
            if item.attr is not None and not dots:
                attributes = self._attributes(item.attr)
            elif dots:
                attributes = pyfuse3.EntryAttributes()
                attributes.st_ino, attributes.st_mode = self.nodeid(item.ino), stat.S_IFDIR
            else:
                attributes = self._attributes(await self._ask("getattr", self._operations.getattr, item.ino, None))
            if not pyfuse3.readdir_reply(token, item.name, attributes, item.cookie):
                return
            if not dots:
                self.nodes.add(item.ino)

    async def releasedir(self, fh: int) -> None:
        handle = self._handle(fh)
        del self._handles[fh]
        await self._ask("releasedir", self._operations.releasedir, handle.ino, handle.fh)

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        handle = self._handle(fh)
        await self._ask("fsyncdir", self._operations.fsyncdir, handle.ino, handle.fh)


def _caller(ctx: Any) -> Caller:
    return Caller(ctx.uid, ctx.gid, ctx.pid)


def _nothing() -> None:
    """What comes after everything that was queued before."""


class Notifications:
    """KernelCache through libfuse. A thread sends them, since the kernel may hold one up until a request is answered."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fuse-notify")

    def invalidate_inode(self, ino: int, *, data: bool) -> None:
        if ino in self._adapter.nodes:
            nodeid = self._adapter.nodeid(ino)
            # Attributes need no lock, and must be gone before anything else is answered (fuseclient/kernel/notify.py).
            self._send(pyfuse3.invalidate_inode, nodeid, True)
            if data:
                self._submit(pyfuse3.invalidate_inode, nodeid, False)

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        if parent in self._adapter.nodes:
            self._submit(pyfuse3.invalidate_entry, self._adapter.nodeid(parent), name)

    def settled(self) -> Awaitable[None] | None:
        return asyncio.wrap_future(self._thread.submit(_nothing))

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _submit(self, call: Callable[..., None], *arguments: Any) -> None:
        self._thread.submit(self._send, call, *arguments)

    @staticmethod
    def _send(call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except OSError as failure:
            if failure.errno != errno.ENOENT:  # that it is not cached is what was wanted
                log.debug("the kernel refused a notification: %s", failure)


class Pyfuse3Driver:
    """One mount through libfuse: the same face as KernelDriver, except that it mounts by itself."""

    def __init__(self, mountpoint: str | os.PathLike[str], operations: Operations, options: MountOptions | None = None) -> None:
        """Mounts. MountError as fuseclient/kernel/mount.py has it."""
        chosen = options or MountOptions()
        self.path = check_mountpoint(mountpoint, chosen)
        self.ready = asyncio.Event()
        self._operations = operations
        self._adapter = Adapter(operations, self.ready)
        self._notifications = Notifications(self._adapter)
        pyfuse3.asyncio.enable()
        try:
            pyfuse3.init(self._adapter, self.path, _words(chosen))
        except RuntimeError as failure:
            raise MountError(f"cannot mount on {self.path} through libfuse: {failure}; libfuse said more on stderr") from None
        operations.attach_kernel(self._notifications)

    async def serve(self) -> None:
        """Serve until the mount is gone. Afterwards Operations has been told to forget every inode."""
        try:
            await _main()
        finally:
            self._notifications.close()
            await asyncio.to_thread(pyfuse3.close, unmount=True)
            gone = self._adapter.nodes.clear()
            if gone:
                self._operations.forget(gone)

    async def stop(self) -> None:
        """End `serve`, which unmounts."""
        pyfuse3.terminate()

    def stats(self) -> dict[str, int]:
        return {**self._adapter.requests, "nodes": len(self._adapter.nodes)}


def _main() -> Awaitable[None]:
    return pyfuse3.main()


def _words(options: MountOptions) -> set[str]:
    # No max_read: libfuse insists that its init callback names the same, and pyfuse3 has no way to.
    words = {f"fsname={options.fsname}", f"subtype={options.subtype}"}
    switches = (
        (options.default_permissions, "default_permissions"),
        (options.allow_other, "allow_other"),
        (options.read_only, "ro"),
        (options.noexec, "noexec"),
        (options.atime == "noatime", "noatime"),
        (not options.nosuid, "suid"),
        (not options.nodev, "dev"),
    )
    return words | {word for wanted, word in switches if wanted}
