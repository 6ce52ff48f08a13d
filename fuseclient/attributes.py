"""Attributes: getattr, setattr, extended attributes, statfs.

What was written here and is not stored yet shows in the attributes, and nothing that a program sets is undone when it is
stored: a commit carries the time of the write, so it has to come before an utimens that came after the write.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from fuseclient.attr_raw import inode_flags_of, lacks_xattrs
from fuseclient.errors import FsError
from fuseclient.namespace import cred_of
from fuseclient.operations import APPEND_FL, IMMUTABLE_FL, NODUMP_FL, StatFs
from fuseclient.permission import CAP_LINUX_IMMUTABLE, CAP_SYS_ADMIN, is_capable
from protos import meta_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fuseclient.attr import Attr
    from fuseclient.file_io import FileIo
    from fuseclient.knowledge import Knowledge
    from fuseclient.open_files import OpenFile
    from fuseclient.operations import Caller, Changes

FATTR_MODE: Final = 1 << 0
FATTR_SIZE: Final = 1 << 3
FATTR_MTIME: Final = 1 << 5
FATTR_MTIME_NOW: Final = 1 << 8
FATTR_CTIME: Final = 1 << 10
FATTR_KILL_SUIDGID: Final = 1 << 11
#: FATTR_FH and FATTR_LOCKOWNER say something about the request, not about the file.
_SENT: Final = 0xFFF & ~(1 << 6 | 1 << 9)
_PRIVILEGED_FL: Final = IMMUTABLE_FL | APPEND_FL
_TIMES: Final = FATTR_MTIME | FATTR_MTIME_NOW | FATTR_CTIME

BLOCK_BYTES: Final = 4096
#: What a volume without a limit says it has: 1 PiB, and 2^32 files more than it has.
_UNLIMITED_BLOCKS: Final = (1 << 50) // BLOCK_BYTES
_UNLIMITED_FILES: Final = 1 << 32
_STATFS_S: Final = 1.0
_NAMESPACES: Final = (b"user.", b"trusted.", b"security.", b"system.")  # xattr(7)
_TRUSTED: Final = b"trusted."
_ACLS: Final = (b"system.posix_acl_access", b"system.posix_acl_default")
NAME_MAX: Final = 255


class Attributes:
    def __init__(self, known: Knowledge, io: FileIo, clock: Callable[[], float], acl: bool) -> None:
        self._known = known
        self._meta = known.meta
        self._attrs = known.attrs
        self._files = known.files
        self._io = io
        self._clock = clock
        self._acl = acl
        self._statfs: StatFs | None = None
        self._statfs_at_s = 0.0

    # attributes

    def getattr(self, ino: int, fh: int | None) -> Attr | Awaitable[Attr]:
        attr = self._attrs.get(ino)
        if attr is None:
            return self._getattr(ino)
        file = self._files.get(ino)
        return attr if file is None else file.local(attr)

    async def _getattr(self, ino: int) -> Attr:
        tick = self._attrs.tick
        response = await self._meta.read(pb.Request(getattr=pb.GetAttr(ino=ino)))
        attr = self._known.learn(response.attr, tick)
        file = self._files.get(ino)
        return attr if file is None else file.local(attr)

    async def setattr(self, ino: int, changes: Changes, fh: int | None, caller: Caller) -> Attr:
        """A change of nothing is a chown to nobody new, chown(path, -1, -1), or comes ahead of a write that says so itself. It
        takes setuid and setgid away, and the kernel leaves it to us that only the owner or root may do that."""
        valid = changes.valid & _SENT
        if not valid:
            attr = await self._getattr(ino)
            if caller.uid not in (0, attr.fields.uid):
                return attr
            valid = FATTR_KILL_SUIDGID
        change = pb.SetAttr(
            ino=ino,
            valid=valid,
            mode=changes.mode,
            uid=changes.uid,
            gid=changes.gid,
            size=changes.size if valid & FATTR_SIZE else 0,
            atime_ns=changes.atime_ns,
            mtime_ns=changes.mtime_ns,
            ctime_ns=changes.ctime_ns,
            cred=cred_of(caller),
        )
        file = self._files.get(ino)
        if file is None:
            attr = await self._send(change)
        elif valid & FATTR_SIZE:
            attr = await self._io.resize(file, change)
        elif file.data.dirty and (valid & _TIMES or (valid & FATTR_MODE and file.killing)):
            attr = await self._after_commit(file, pb.Request(setattr=change))
        else:
            attr = await self._send(change)
        return attr if file is None else file.local(attr)

    async def _send(self, change: pb.SetAttr) -> Attr:
        attr = await self._send_change(pb.Request(setattr=change))
        if change.valid & FATTR_SIZE:
            self._known.resized(attr)
        return attr

    async def _send_change(self, request: pb.Request) -> Attr:
        tick = self._attrs.tick
        response = await self._meta.change(request)
        return self._known.learn(response.attr, tick)

    async def _after_commit(self, file: OpenFile, request: pb.Request) -> Attr:
        """What was written before has to be stored before, lest its commit undo the change."""
        async with file.exclusive:
            attr = await file.data.flush()
            file.killing = False
            if attr is not None:
                self._known.committed(attr)
            return await self._send_change(request)

    # inode flags

    def getflags(self, ino: int) -> int | Awaitable[int]:
        attr = self._attrs.get(ino)
        return self._getflags(ino) if attr is None else inode_flags_of(attr)

    async def _getflags(self, ino: int) -> int:
        return inode_flags_of(await self._getattr(ino))

    async def setflags(self, ino: int, flags: int, caller: Caller) -> int:
        if flags & ~(_PRIVILEGED_FL | NODUMP_FL):
            raise FsError(errno.EOPNOTSUPP)
        if (flags ^ await self._getflags(ino)) & _PRIVILEGED_FL and not is_capable(caller, CAP_LINUX_IMMUTABLE):
            raise FsError(errno.EPERM)
        change = pb.Request(set_flags=pb.SetFlags(ino=ino, flags=flags, cred=cred_of(caller)))
        file = self._files.get(ino)
        if file is None or not file.data.dirty:
            return inode_flags_of(await self._send_change(change))
        # What was written before belongs to the file, also to one that takes no more.
        return inode_flags_of(await self._after_commit(file, change))

    def access(self, ino: int, mask: int, caller: Caller) -> Awaitable[None] | None:
        """The kernel decides by mode, owner and ACL (default_permissions)."""
        return None

    # extended attributes

    def getxattr(self, ino: int, name: bytes, caller: Caller) -> bytes | Awaitable[bytes]:
        if name in _ACLS and not self._acl:
            raise FsError(errno.EOPNOTSUPP)
        attr = self._attrs.get(ino)
        if (attr is not None and lacks_xattrs(attr)) or self._known.xattrs.knows(ino, name):
            raise FsError(errno.ENODATA if name.startswith(_NAMESPACES) else errno.EOPNOTSUPP)
        return self._getxattr(ino, name, caller)

    async def _getxattr(self, ino: int, name: bytes, caller: Caller) -> bytes:
        tick = self._attrs.tick
        request = pb.Request(getxattr=pb.GetXattr(ino=ino, name=name, cred=cred_of(caller)))
        try:
            response = await self._meta.read(request)
        except FsError as error:
            if error.errno == errno.EOPNOTSUPP and name in _ACLS:
                # Switched off since we mounted. Our kernel still asks for every permission, and would refuse with the answer.
                raise FsError(errno.ENODATA) from error
            if error.errno == errno.ENODATA and self._attrs.fresh(ino, tick):
                self._known.xattrs.note(ino, name)
            raise
        return bytes(response.data)

    def listxattr(self, ino: int, caller: Caller) -> bytes | Awaitable[bytes]:
        attr = self._attrs.get(ino)
        return b"" if attr is not None and lacks_xattrs(attr) else self._listxattr(ino, caller)

    async def _listxattr(self, ino: int, caller: Caller) -> bytes:
        response = await self._meta.read(pb.Request(listxattr=pb.ListXattr(ino=ino)))
        names = bytes(response.data)
        if _TRUSTED not in names or is_capable(caller, CAP_SYS_ADMIN):
            return names
        return b"".join(name + b"\0" for name in names.split(b"\0") if name and not name.startswith(_TRUSTED))

    async def setxattr(self, ino: int, name: bytes, value: bytes, flags: int, caller: Caller, kill_sgid: bool = False) -> None:
        if name in _ACLS and not self._acl:
            raise FsError(errno.EOPNOTSUPP)  # an ACL that nobody enforces is better not stored
        cred = cred_of(caller)
        change = pb.SetXattr(ino=ino, name=name, value=value, flags=flags, cred=cred, clear_setgid=kill_sgid)
        await self._change_xattr(ino, pb.Request(setxattr=change))

    async def removexattr(self, ino: int, name: bytes, caller: Caller) -> None:
        if name in _ACLS and not self._acl:
            raise FsError(errno.EOPNOTSUPP)
        change = pb.RemoveXattr(ino=ino, name=name, cred=cred_of(caller))
        await self._change_xattr(ino, pb.Request(removexattr=change))

    async def _change_xattr(self, ino: int, request: pb.Request) -> None:
        tick = self._attrs.tick
        try:
            response = await self._meta.change(request)
        finally:
            self._known.xattrs.drop(ino)
        if response.attr:
            self._known.learn(response.attr, tick)
        else:
            self._attrs.drop(ino)

    # the volume

    def statfs(self, ino: int) -> StatFs | Awaitable[StatFs]:
        if self._statfs is not None and self._clock() - self._statfs_at_s < _STATFS_S:
            return self._statfs
        return self._ask_statfs(ino)

    async def _ask_statfs(self, ino: int) -> StatFs:
        response = await self._meta.read(pb.Request(statfs=pb.StatFs(ino=ino)))
        found = response.statfs
        used = -(-found.bytes_used // BLOCK_BYTES)
        blocks = found.bytes_total // BLOCK_BYTES if found.bytes_total else max(_UNLIMITED_BLOCKS, 2 * used)
        files = found.inodes_total or found.inodes_used + _UNLIMITED_FILES
        self._statfs_at_s = self._clock()
        self._statfs = StatFs(BLOCK_BYTES, blocks, max(0, blocks - used), files, max(0, files - found.inodes_used), NAME_MAX)
        return self._statfs
