"""What each opcode asks of Operations, and how its answer goes back: one table.

A route is three functions: `decode` (codec.py), `call`, which translates a request into one call of Operations, and `encode`,
which packs what that call gave. `undo` takes back what the kernel would have owned, when the reply never reached it.
`leaves` says that a caller which is being killed need not wait for the end: the operation goes on and nobody sees its result.
That holds for what reads and for data on its way out. What changes the tree is waited for, or the directory's lock in the
kernel would be free while the change is still under way.

Node ids become inode numbers here, and nowhere else: the kernel's root is node 1, every other node id is its inode number.
"""

from __future__ import annotations

import enum
import errno
import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from fuseclient.errors import FsError
from fuseclient.kernel import codec, file_attributes, replies
from fuseclient.kernel import protocol as p
from fuseclient.kernel.callers import locks_open_file
from fuseclient.kernel.nodes import NodeTable
from fuseclient.kernel.protocol import Opcode
from fuseclient.operations import OPEN_KILL_PRIV, Changes, LockRange

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fuseclient.attr import Attr
    from fuseclient.operations import Buffer, Caller, DirItem, Opened, Operations, StatFs

Reply: TypeAlias = "bytes | list[Buffer]"


class Port:
    """One mount's side of the translation: whom to ask, how to answer, and what the kernel holds."""

    __slots__ = ("locking", "nodes", "operations", "replies", "root")

    def __init__(self, operations: Operations) -> None:
        self.operations = operations
        self.root = operations.root
        self.locking = False  # somebody has asked for a record lock
        self.nodes = NodeTable(operations.root)
        self.replies = replies.Replies(
            entry_ttl_s=operations.entry_ttl_s,
            attr_ttl_s=operations.attr_ttl_s,
            negative_ttl_s=operations.negative_ttl_s,
        )

    def ino(self, nodeid: int) -> int:
        return self.root if nodeid == p.ROOT_ID else nodeid

    def nodeid(self, ino: int) -> int:
        return p.ROOT_ID if ino == self.root else ino


Call: TypeAlias = "Callable[[Port, int, Any, Caller], Any]"
Encode: TypeAlias = "Callable[[Port, int, Any, Any], Reply]"
Undo: TypeAlias = "Callable[[Port, int, Any], None]"


class OnSignal(enum.Enum):
    """What becomes of a request whose caller gets a signal while it waits."""

    WAITS = enum.auto()
    LEAVES = enum.auto()  # when it is killed, it goes without the answer
    CANCELS = enum.auto()  # the operation is cancelled, and its end is the answer


class Route(NamedTuple):
    opcode: Opcode
    decode: codec.Decoder
    call: Call
    encode: Encode
    on_signal: OnSignal
    undo: Undo | None


# --- calls: names


def _lookup(port: Port, ino: int, r: codec.Named, caller: Caller) -> Any:
    if r.name == b".":  # a file handle that outlived its name (open_by_handle_at, NFS), also of what is no directory
        return port.operations.getattr(ino, None)
    return port.operations.lookup(ino, r.name, caller)


def _create(port: Port, ino: int, r: codec.Create, caller: Caller) -> Any:
    flags = r.flags | OPEN_KILL_PRIV if r.open_flags & p.OPEN_KILL_SUIDGID else r.flags
    return port.operations.create(ino, r.name, r.mode, r.umask, flags, caller)


def _tmpfile(port: Port, ino: int, r: codec.Create, caller: Caller) -> Any:
    return port.operations.tmpfile(ino, r.mode, r.umask, r.flags, caller)


def _mkdir(port: Port, ino: int, r: codec.Mkdir, caller: Caller) -> Any:
    return port.operations.mkdir(ino, r.name, r.mode, r.umask, caller)


def _mknod(port: Port, ino: int, r: codec.Mknod, caller: Caller) -> Any:
    return port.operations.mknod(ino, r.name, r.mode, r.umask, r.rdev, caller)


def _symlink(port: Port, ino: int, r: codec.Symlink, caller: Caller) -> Any:
    return port.operations.symlink(ino, r.name, r.target, caller)


def _link(port: Port, ino: int, r: codec.Link, caller: Caller) -> Any:
    return port.operations.link(port.ino(r.oldnodeid), ino, r.name, caller)


def _unlink(port: Port, ino: int, r: codec.Named, caller: Caller) -> Any:
    return port.operations.unlink(ino, r.name, caller)


def _rmdir(port: Port, ino: int, r: codec.Named, caller: Caller) -> Any:
    return port.operations.rmdir(ino, r.name, caller)


def _rename(port: Port, ino: int, r: codec.Rename, caller: Caller) -> Any:
    return port.operations.rename(ino, r.name, port.ino(r.newdir), r.newname, r.flags, caller)


def _readlink(port: Port, ino: int, r: codec.Empty, caller: Caller) -> Any:
    return port.operations.readlink(ino)


# --- calls: attributes

_COUNT_MAX: Final = 1 << 31  # a multiple of the page size
_NOT_A_CHANGE: Final = ~(p.FATTR_FH | p.FATTR_LOCKOWNER)


def _getattr(port: Port, ino: int, r: codec.GetAttr, caller: Caller) -> Any:
    return port.operations.getattr(ino, r.fh if r.getattr_flags & p.GETATTR_FH else None)


def signed_ns(seconds: int, nanoseconds: int) -> int:
    """The kernel sends seconds as unsigned; times before 1970 are above 2**63."""
    if seconds >= 1 << 63:
        seconds -= 1 << 64
    return seconds * 1_000_000_000 + nanoseconds


def _setattr(port: Port, ino: int, r: codec.SetAttr, caller: Caller) -> Any:
    changes = Changes(
        valid=r.valid & _NOT_A_CHANGE,
        mode=r.mode,
        uid=r.uid,
        gid=r.gid,
        size=r.size,
        atime_ns=signed_ns(r.atime, r.atime_nsec),
        mtime_ns=signed_ns(r.mtime, r.mtime_nsec),
        ctime_ns=signed_ns(r.ctime, r.ctime_nsec),
    )
    return port.operations.setattr(ino, changes, r.fh if r.valid & p.FATTR_FH else None, caller)


def _statx(port: Port, ino: int, r: codec.Statx, caller: Caller) -> Any:
    return port.operations.getattr(ino, r.fh if r.getattr_flags & p.GETATTR_FH else None)


def _ioctl(port: Port, ino: int, r: codec.Ioctl, caller: Caller) -> Any:
    return file_attributes.call(port.operations, ino, r, caller)


def _access(port: Port, ino: int, r: codec.Access, caller: Caller) -> Any:
    return port.operations.access(ino, r.mask, caller)


def _getxattr(port: Port, ino: int, r: codec.GetXattr, caller: Caller) -> Any:
    return port.operations.getxattr(ino, r.name, caller)


def _listxattr(port: Port, ino: int, r: codec.ListXattr, caller: Caller) -> Any:
    return port.operations.listxattr(ino, caller)


def _setxattr(port: Port, ino: int, r: codec.SetXattr, caller: Caller) -> Any:
    kill_sgid = bool(r.setxattr_flags & p.SETXATTR_ACL_KILL_SGID)
    return port.operations.setxattr(ino, r.name, r.value, r.flags, caller, kill_sgid)


def _removexattr(port: Port, ino: int, r: codec.Named, caller: Caller) -> Any:
    return port.operations.removexattr(ino, r.name, caller)


def _statfs(port: Port, ino: int, r: codec.Empty, caller: Caller) -> Any:
    return port.operations.statfs(ino)


# --- calls: files and directories


def _open(port: Port, ino: int, r: codec.Open, caller: Caller) -> Any:
    flags = r.flags | OPEN_KILL_PRIV if r.open_flags & p.OPEN_KILL_SUIDGID else r.flags
    return port.operations.open(ino, flags, caller)


def _read(port: Port, ino: int, r: codec.Read, caller: Caller) -> Any:
    return port.operations.read(ino, r.fh, r.offset, r.size)


def _write(port: Port, ino: int, r: codec.Write, caller: Caller) -> Any:
    # Releasing the window makes whoever kept it fail, rather than read the next request.
    with r.data as data:
        return port.operations.write(ino, r.fh, r.offset, data, bool(r.write_flags & p.WRITE_KILL_SUIDGID))


def _flush(port: Port, ino: int, r: codec.Flush, caller: Caller) -> Any:
    return port.operations.flush(ino, r.fh, r.lock_owner)


def _fsync(port: Port, ino: int, r: codec.Fsync, caller: Caller) -> Any:
    return port.operations.fsync(ino, r.fh, bool(r.fsync_flags & p.FSYNC_FDATASYNC))


def _release(port: Port, ino: int, r: codec.Release, caller: Caller) -> Any:
    port.operations.release(ino, r.fh)


def _lseek(port: Port, ino: int, r: codec.Lseek, caller: Caller) -> Any:
    return port.operations.lseek(ino, r.fh, r.offset, r.whence)


def _fallocate(port: Port, ino: int, r: codec.Fallocate, caller: Caller) -> Any:
    return port.operations.fallocate(ino, r.fh, r.offset, r.length, r.mode, caller)


def _copy_file_range(port: Port, ino: int, r: codec.CopyFileRange, caller: Caller) -> Any:
    target = port.ino(r.nodeid_out)
    return port.operations.copy_range(ino, r.fh, r.offset, target, r.fh_out, r.offset_out, r.length, caller)


def _copy_file_range_32(port: Port, ino: int, r: codec.CopyFileRange, caller: Caller) -> Any:
    """The reply has 32 bits for the count."""
    return _copy_file_range(port, ino, r._replace(length=min(r.length, _COUNT_MAX)), caller)


LOCK_RECORD: Final = 0
LOCK_FLOCK: Final = 1


def _range(port: Port, r: codec.Lk) -> LockRange:
    kind = LOCK_FLOCK if r.lk_flags & p.LK_FLOCK else LOCK_RECORD
    port.locking = port.locking or kind == LOCK_RECORD
    return LockRange(r.owner, kind, r.type, r.start, r.end, r.pid)


def _getlk(port: Port, ino: int, r: codec.Lk, caller: Caller) -> Any:
    return port.operations.getlk(ino, r.fh, _range(port, r))


def _setlk(port: Port, ino: int, r: codec.Lk, caller: Caller) -> Any:
    return port.operations.setlk(ino, r.fh, _range(port, r), wait=False)


async def _setlkw(port: Port, ino: int, r: codec.Lk, caller: Caller) -> None:
    lock = _range(port, r)
    if lock.kind == LOCK_RECORD and await locks_open_file(caller.pid):
        lock = lock._replace(pid=0)
    waiting = port.operations.setlk(ino, r.fh, lock, wait=True)
    if waiting is not None:
        await waiting


def _opendir(port: Port, ino: int, r: codec.Open, caller: Caller) -> Any:
    return port.operations.opendir(ino, caller)


def _readdir(port: Port, ino: int, r: codec.Read, caller: Caller) -> Any:
    return port.operations.readdir(ino, r.fh, r.offset, plus=False)


def _readdirplus(port: Port, ino: int, r: codec.Read, caller: Caller) -> Any:
    return port.operations.readdir(ino, r.fh, r.offset, plus=True)


def _releasedir(port: Port, ino: int, r: codec.Release, caller: Caller) -> Any:
    port.operations.releasedir(ino, r.fh)


def _fsyncdir(port: Port, ino: int, r: codec.Fsync, caller: Caller) -> Any:
    return port.operations.fsyncdir(ino, r.fh)


# --- answers


def _done(port: Port, unique: int, r: Any, value: None) -> Reply:
    return replies.done(unique)


def _entry(port: Port, unique: int, r: Any, attr: Attr) -> Reply:
    ino = attr.ino
    if ino == port.root:
        return port.replies.entry(unique, p.ROOT_ID, attr)
    port.nodes.add(ino)
    return port.replies.entry(unique, ino, attr)


def _looked_up(port: Port, unique: int, r: Any, attr: Attr | None) -> Reply:
    return port.replies.absent(unique) if attr is None else _entry(port, unique, r, attr)


def _created(port: Port, unique: int, r: Any, value: tuple[Attr, Opened]) -> Reply:
    attr, file = value
    reply = port.replies.created(unique, port.nodeid(attr.ino), attr, file)
    port.nodes.add(attr.ino)
    return reply


def _attr(port: Port, unique: int, r: Any, attr: Attr) -> Reply:
    return port.replies.attr(unique, attr)


def _extended(port: Port, unique: int, r: Any, attr: Attr) -> Reply:
    return port.replies.statx(unique, attr)


def _inode_flags(port: Port, unique: int, r: codec.Ioctl, flags: int) -> Reply:
    return replies.body(unique, file_attributes.answer(r, flags))


def _bytes(port: Port, unique: int, r: Any, value: bytes) -> Reply:
    return replies.body(unique, value)


def _sized(port: Port, unique: int, r: codec.GetXattr | codec.ListXattr, value: bytes) -> Reply:
    """A caller that gave no room wants the length; one that gave too little gets ERANGE."""
    if r.size == 0:
        return replies.length(unique, len(value))
    if len(value) > r.size:
        raise FsError(errno.ERANGE)
    return replies.body(unique, value)


def _stats(port: Port, unique: int, r: Any, value: StatFs) -> Reply:
    return replies.statfs(unique, value)


def _opened(port: Port, unique: int, r: codec.Open, file: Opened) -> Reply:
    # A file that is open for reading only has nothing to flush, so its close needs no request; unless somebody here uses record
    # locks, which any close of the file by their owner gives up.
    no_flush = p.FOPEN_NOFLUSH if r.flags & os.O_ACCMODE == os.O_RDONLY and not port.locking else 0
    return replies.opened(unique, file, no_flush)


def _opened_dir(port: Port, unique: int, r: Any, file: Opened) -> Reply:
    return replies.opened(unique, file, 0)


def _data(port: Port, unique: int, r: codec.Read, pieces: Sequence[Buffer]) -> Reply:
    return replies.buffers(unique, pieces, r.size)


def _written(port: Port, unique: int, r: codec.Write, size: int) -> Reply:
    return replies.written(unique, size)


def _copied(port: Port, unique: int, r: codec.CopyFileRange, size: int) -> Reply:
    return replies.copied(unique, size)


def _position(port: Port, unique: int, r: Any, offset: int) -> Reply:
    return replies.position(unique, offset)


def _lock(port: Port, unique: int, r: codec.Lk, found: LockRange) -> Reply:
    return replies.lock(unique, found)


def _listing(port: Port, unique: int, r: codec.Read, items: Sequence[DirItem]) -> Reply:
    return replies.body(unique, replies.directory(items, r.size))


def _listing_plus(port: Port, unique: int, r: codec.Read, items: Sequence[DirItem]) -> Reply:
    listing = port.replies.directory_plus(items, r.size)
    port.nodes.add_all(listing.referenced)
    return replies.body(unique, listing.body)


# --- what the kernel never learnt of


def _forget_entry(port: Port, ino: int, attr: Attr | None) -> None:
    if attr is not None:
        gone = port.nodes.forget([(attr.ino, 1)])
        if gone:
            port.operations.forget(gone)


def _close(port: Port, ino: int, file: Opened) -> None:
    port.operations.release(ino, file.fh)


def _close_dir(port: Port, ino: int, file: Opened) -> None:
    port.operations.releasedir(ino, file.fh)


def _close_created(port: Port, ino: int, value: tuple[Attr, Opened]) -> None:
    attr, file = value
    port.operations.release(attr.ino, file.fh)
    _forget_entry(port, ino, attr)


_WAITS: Final = OnSignal.WAITS
_LEAVES: Final = OnSignal.LEAVES
_CANCELS: Final = OnSignal.CANCELS

_TABLE: Final[tuple[tuple[Opcode, Call, Encode, OnSignal, Undo | None], ...]] = (
    (Opcode.LOOKUP, _lookup, _looked_up, _LEAVES, _forget_entry),
    (Opcode.GETATTR, _getattr, _attr, _LEAVES, None),
    (Opcode.SETATTR, _setattr, _attr, _WAITS, None),
    (Opcode.READLINK, _readlink, _bytes, _LEAVES, None),
    (Opcode.SYMLINK, _symlink, _entry, _WAITS, _forget_entry),
    (Opcode.MKNOD, _mknod, _entry, _WAITS, _forget_entry),
    (Opcode.MKDIR, _mkdir, _entry, _WAITS, _forget_entry),
    (Opcode.UNLINK, _unlink, _done, _WAITS, None),
    (Opcode.RMDIR, _rmdir, _done, _WAITS, None),
    (Opcode.RENAME, _rename, _done, _WAITS, None),
    (Opcode.RENAME2, _rename, _done, _WAITS, None),
    (Opcode.LINK, _link, _entry, _WAITS, _forget_entry),
    (Opcode.OPEN, _open, _opened, _WAITS, _close),
    (Opcode.READ, _read, _data, _LEAVES, None),
    (Opcode.WRITE, _write, _written, _LEAVES, None),
    (Opcode.STATFS, _statfs, _stats, _LEAVES, None),
    (Opcode.RELEASE, _release, _done, _WAITS, None),
    (Opcode.FSYNC, _fsync, _done, _LEAVES, None),
    (Opcode.SETXATTR, _setxattr, _done, _WAITS, None),
    (Opcode.GETXATTR, _getxattr, _sized, _LEAVES, None),
    (Opcode.LISTXATTR, _listxattr, _sized, _LEAVES, None),
    (Opcode.REMOVEXATTR, _removexattr, _done, _WAITS, None),
    (Opcode.FLUSH, _flush, _done, _LEAVES, None),
    (Opcode.OPENDIR, _opendir, _opened_dir, _WAITS, _close_dir),
    (Opcode.READDIR, _readdir, _listing, _LEAVES, None),
    (Opcode.READDIRPLUS, _readdirplus, _listing_plus, _LEAVES, None),
    (Opcode.RELEASEDIR, _releasedir, _done, _WAITS, None),
    (Opcode.FSYNCDIR, _fsyncdir, _done, _LEAVES, None),
    (Opcode.ACCESS, _access, _done, _LEAVES, None),
    (Opcode.CREATE, _create, _created, _WAITS, _close_created),
    (Opcode.FALLOCATE, _fallocate, _done, _WAITS, None),
    (Opcode.LSEEK, _lseek, _position, _LEAVES, None),
    (Opcode.IOCTL, _ioctl, _inode_flags, _WAITS, None),
    (Opcode.STATX, _statx, _extended, _LEAVES, None),
    (Opcode.GETLK, _getlk, _lock, _LEAVES, None),
    (Opcode.SETLK, _setlk, _done, _WAITS, None),
    (Opcode.SETLKW, _setlkw, _done, _CANCELS, None),
    (Opcode.COPY_FILE_RANGE, _copy_file_range_32, _written, _WAITS, None),
    (Opcode.COPY_FILE_RANGE_64, _copy_file_range, _copied, _WAITS, None),
    (Opcode.TMPFILE, _tmpfile, _created, _WAITS, _close_created),
)

#: What is refused without asking anybody. ENOSYS makes the kernel stop asking.
REFUSED: Final[dict[int, int]] = {
    Opcode.POLL: errno.ENOSYS,
    Opcode.BMAP: errno.ENOSYS,
    Opcode.SETUPMAPPING: errno.ENOSYS,
    Opcode.REMOVEMAPPING: errno.ENOSYS,
    Opcode.SYNCFS: errno.ENOSYS,
}


def routes(flags: int) -> dict[int, Route]:
    """The table under the negotiated capabilities."""
    decoders = codec.decoders(flags)
    return {row[0]: Route(row[0], decoders[row[0]], *row[1:]) for row in _TABLE}
