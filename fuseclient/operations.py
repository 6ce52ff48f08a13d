"""The interface between a FUSE driver and the file system: what a kernel may ask, without any kernel's format.

Drivers (fuseclient/kernel, the pyfuse3 adapter) translate requests into these calls and the answers back; FileSystem
(filesystem.py) implements them. A method answers at once where it can, since a task for every request would cost more than
the request, and gives an awaitable where it must wait: Answer[T]. Refusals are FsError, raised at once or by the awaitable.

Inode numbers here are KeelFS's own. The driver maps the kernel's FUSE_ROOT_ID to `root`, keeps the kernel's reference
counts, and calls `forget` when one falls to zero. All methods are called on the event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from fuseclient.attr import Attr

T = TypeVar("T")
Answer = "Awaitable[T] | T"  # a documentation name; annotations spell it out

Buffer = bytes | bytearray | memoryview

#: Set in the flags of `open` and `create`, beside O_TRUNC, when the truncation clears the set-id bits. No O_* flag uses it.
OPEN_KILL_PRIV: Final = 1 << 31


#: Inode flags, as ioctl_iflags(2) has them.
IMMUTABLE_FL: Final = 0x10
APPEND_FL: Final = 0x20
NODUMP_FL: Final = 0x40


class Caller(NamedTuple):
    """The process behind a request, as its kernel names it. `enforce`: the kernel has not checked what it may (squash.py)."""

    uid: int
    gid: int
    pid: int
    enforce: bool = False


class Opened(NamedTuple):
    """An open file or directory. `fh` can be rebuilt from the inode number and flags by another process."""

    fh: int
    keep_cache: bool = False  # the kernel's pages of it are still right
    direct_io: bool = False
    cache_dir: bool = False  # the kernel may keep the listing


class DirItem(NamedTuple):
    """One entry of a listing. `attr` is set where it is known (readdirplus). `cookie` resumes after this entry."""

    name: bytes
    ino: int
    type: int  # st_mode >> 12
    cookie: int
    attr: Attr | None


class Changes(NamedTuple):
    """What a setattr changes: `valid` holds the bits of FATTR_* (include/uapi/linux/fuse.h), as in meta.proto's SetAttr."""

    valid: int
    mode: int
    uid: int
    gid: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


class StatFs(NamedTuple):
    block_bytes: int
    blocks: int
    blocks_free: int
    files: int
    files_free: int
    name_max: int


class LockRange(NamedTuple):
    """A lock that is asked for, or that is in the way. `owner`: the kernel's number for who never conflicts with itself."""

    owner: int
    kind: int  # 0 record lock, 1 flock
    type: int  # F_RDLCK, F_WRLCK, F_UNLCK
    first: int
    last: int  # inclusive; 2^63-1 is the end of every file
    pid: int  # 0: no process


class KernelCache(Protocol):
    """What the file system asks of the driver: drop what the kernel keeps. Never blocks; unknown inodes are ignored."""

    def invalidate_inode(self, ino: int, *, data: bool) -> None:
        """Attributes, and with `data` the pages too."""

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        """The name in that directory, and what is cached of its listing."""

    def settled(self) -> Awaitable[None] | None:
        """Done when the kernel has dropped what it was told to drop until now; None: it has."""


class Operations(Protocol):
    """See the module's text. Every `-> A | Awaitable[A]` is an Answer."""

    root: int
    entry_ttl_s: float
    attr_ttl_s: float
    negative_ttl_s: float

    def attach_kernel(self, cache: KernelCache) -> None: ...

    # names. lookup gives None when there is no such name and the kernel may remember that.
    def lookup(self, parent: int, name: bytes, caller: Caller) -> Attr | Awaitable[Attr | None] | None: ...
    def forget(self, inodes: Sequence[int]) -> None: ...
    def create(
        self, parent: int, name: bytes, mode: int, umask: int, flags: int, caller: Caller
    ) -> Awaitable[tuple[Attr, Opened]]: ...
    def tmpfile(self, parent: int, mode: int, umask: int, flags: int, caller: Caller) -> Awaitable[tuple[Attr, Opened]]:
        """O_TMPFILE: create and open a file without a name."""

    def mkdir(self, parent: int, name: bytes, mode: int, umask: int, caller: Caller) -> Awaitable[Attr]: ...
    def mknod(self, parent: int, name: bytes, mode: int, umask: int, rdev: int, caller: Caller) -> Awaitable[Attr]: ...
    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Awaitable[Attr]: ...
    def link(self, ino: int, parent: int, name: bytes, caller: Caller) -> Awaitable[Attr]: ...
    def unlink(self, parent: int, name: bytes, caller: Caller) -> Awaitable[None]: ...
    def rmdir(self, parent: int, name: bytes, caller: Caller) -> Awaitable[None]: ...
    def rename(self, parent: int, name: bytes, parent2: int, name2: bytes, flags: int, caller: Caller) -> Awaitable[None]: ...
    def readlink(self, ino: int) -> bytes | Awaitable[bytes]: ...

    # attributes. `fh` is the open file that the call came through, or None.
    def getattr(self, ino: int, fh: int | None) -> Attr | Awaitable[Attr]: ...
    def setattr(self, ino: int, changes: Changes, fh: int | None, caller: Caller) -> Awaitable[Attr]: ...
    def access(self, ino: int, mask: int, caller: Caller) -> Awaitable[None] | None: ...
    def getxattr(self, ino: int, name: bytes, caller: Caller) -> bytes | Awaitable[bytes]: ...
    def listxattr(self, ino: int, caller: Caller) -> bytes | Awaitable[bytes]:
        """Names, each ended by NUL; `trusted.` ones are for who has CAP_SYS_ADMIN."""

    def setxattr(
        self, ino: int, name: bytes, value: bytes, flags: int, caller: Caller, kill_sgid: bool = False
    ) -> Awaitable[None]:
        """`kill_sgid`: an access ACL is set by who may not keep the setgid bit."""

    def removexattr(self, ino: int, name: bytes, caller: Caller) -> Awaitable[None]: ...
    def getflags(self, ino: int) -> int | Awaitable[int]: ...
    def setflags(self, ino: int, flags: int, caller: Caller) -> Awaitable[int]: ...
    def statfs(self, ino: int) -> StatFs | Awaitable[StatFs]: ...

    # files
    def open(self, ino: int, flags: int, caller: Caller) -> Opened | Awaitable[Opened]: ...
    def read(self, ino: int, fh: int, offset: int, size: int) -> Sequence[Buffer] | Awaitable[Sequence[Buffer]]: ...
    def write(self, ino: int, fh: int, offset: int, data: memoryview, kill_priv: bool) -> int | Awaitable[int]:
        """`data` is valid only until this call returns: copied before anything is awaited."""

    def flush(self, ino: int, fh: int, lock_owner: int) -> Awaitable[None] | None: ...
    def fsync(self, ino: int, fh: int, datasync: bool) -> Awaitable[None] | None: ...
    def release(self, ino: int, fh: int) -> None:
        """Never fails and never waits: what is left to do happens behind."""

    def lseek(self, ino: int, fh: int, offset: int, whence: int) -> int | Awaitable[int]:
        """SEEK_DATA and SEEK_HOLE only."""

    def fallocate(self, ino: int, fh: int, offset: int, length: int, mode: int, caller: Caller) -> Awaitable[None] | None: ...
    def copy_range(
        self, ino: int, fh: int, offset: int, ino2: int, fh2: int, offset2: int, length: int, caller: Caller
    ) -> Awaitable[int]:
        """From `ino` to `ino2`, within one mount; how many bytes. EOPNOTSUPP: the kernel copies them itself."""

    # locks. Refusals: EAGAIN (not `wait`), EDEADLK, ENOLCK. A wait that is cancelled ends with EINTR, or with the lock.
    def getlk(self, ino: int, fh: int, lock: LockRange) -> Awaitable[LockRange]:
        """Who is in the way; the same with F_UNLCK when nobody is."""

    def setlk(self, ino: int, fh: int, lock: LockRange, *, wait: bool) -> Awaitable[None] | None: ...

    # directories. A listing starts after `cookie`; "." and ".." are entries with the cookies 1 and 2.
    def opendir(self, ino: int, caller: Caller) -> Opened | Awaitable[Opened]: ...
    def readdir(self, ino: int, fh: int, cookie: int, *, plus: bool) -> Sequence[DirItem] | Awaitable[Sequence[DirItem]]:
        """Some entries after `cookie`, at least one unless the end is reached; the driver takes as many as fit."""

    def releasedir(self, ino: int, fh: int) -> None: ...
    def fsyncdir(self, ino: int, fh: int) -> Awaitable[None] | None: ...
