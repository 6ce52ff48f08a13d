"""The operations of the state machine, what carries them, and what they give.

An Entry is what one log index holds: items in the order of application, and the one time at which all of them happen.
An op is a frozen dataclass that mirrors its message in protos/meta.proto or protos/raft.proto (metaserver/wire.py is the
only translator). Names, targets and values are bytes exactly as the client sent them; nothing here is validated yet:
bounds and rules are checked by the op's own module in `ops/`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from metaserver.core.model import Ino, Inode


class SetAttrValid(enum.IntFlag):
    """Which fields of a SetAttr count. The values are those of FATTR_* in include/uapi/linux/fuse.h where they exist."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    CTIME = 1 << 10
    KILL_SUIDGID = 1 << 11


RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
XATTR_CREATE: Final = 1
XATTR_REPLACE: Final = 2
LEASE_INODES: Final = 1
LEASE_SLICES: Final = 2
LOCK_RECORD: Final = 0
LOCK_FLOCK: Final = 1


@dataclass(frozen=True, slots=True)
class Cred:
    """Who asks. With `enforce` permissions are checked here and `groups` must be complete; without, the caller's kernel
    has checked already (default_permissions) and uid and gid only say who owns what is created."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    enforce: bool = False


ROOT: Final = Cred(0, 0)


@dataclass(frozen=True, slots=True)
class Create:
    """A regular file. When the name exists and `exclusive` is not set, the existing file is the result (`existed`)."""

    parent: Ino
    name: bytes
    mode: int
    umask: int
    exclusive: bool
    cred: Cred
    ino: int = 0  # 0 = from the counter; else from a range leased to the session


@dataclass(frozen=True, slots=True)
class MkDir:
    parent: Ino
    name: bytes
    mode: int
    umask: int
    cred: Cred
    ino: int = 0


@dataclass(frozen=True, slots=True)
class MkNod:
    """Any type that mknod(2) makes: regular, FIFO, socket, character and block device. `mode` holds the type."""

    parent: Ino
    name: bytes
    mode: int
    umask: int
    rdev: int
    cred: Cred
    ino: int = 0


@dataclass(frozen=True, slots=True)
class SymLink:
    parent: Ino
    name: bytes
    target: bytes
    cred: Cred
    ino: int = 0


@dataclass(frozen=True, slots=True)
class Link:
    ino: Ino
    parent: Ino
    name: bytes
    cred: Cred


@dataclass(frozen=True, slots=True)
class Unlink:
    parent: Ino
    name: bytes
    cred: Cred


@dataclass(frozen=True, slots=True)
class RmDir:
    parent: Ino
    name: bytes
    cred: Cred


@dataclass(frozen=True, slots=True)
class Rename:
    parent: Ino
    name: bytes
    parent2: Ino
    name2: bytes
    flags: int
    cred: Cred


@dataclass(frozen=True, slots=True)
class SetAttr:
    ino: Ino
    valid: int  # SetAttrValid bits
    mode: int
    uid: int
    gid: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    cred: Cred


@dataclass(frozen=True, slots=True)
class NewSlice:
    chunk: int
    pos: int
    slice: int  # 0 = make a hole
    size: int
    off: int
    length: int
    data: bytes = b""  # inline contents; empty = the slice is in objects


@dataclass(frozen=True, slots=True)
class CommitSlices:
    ino: Ino
    slices: tuple[NewSlice, ...]
    mtime_ns: int  # 0 = the entry's time
    kill_priv: bool


@dataclass(frozen=True, slots=True)
class SetXattr:
    ino: Ino
    name: bytes
    value: bytes
    flags: int
    cred: Cred
    clear_setgid: bool = False  # an access ACL set by who may not keep the setgid bit


@dataclass(frozen=True, slots=True)
class RemoveXattr:
    ino: Ino
    name: bytes
    cred: Cred


@dataclass(frozen=True, slots=True)
class LeaseIds:
    kind: int  # LEASE_INODES or LEASE_SLICES
    count: int


@dataclass(frozen=True, slots=True)
class FinishDeletes:
    """The objects of these slices are gone: forget the slices."""

    slices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SetLock:
    """Take, change or give up the range first..last (inclusive). With `wait` a lock that is refused queues under the seq."""

    ino: Ino
    owner: int
    kind: int  # LOCK_RECORD or LOCK_FLOCK
    type: int  # F_RDLCK, F_WRLCK, F_UNLCK
    first: int
    last: int
    pid: int
    wait: bool = False


@dataclass(frozen=True, slots=True)
class CancelLock:
    """Give up waiting for the SetLock of this seq."""

    seq: int


@dataclass(frozen=True, slots=True)
class Fallocate:
    ino: Ino
    mode: int  # FALLOC_FL_*
    offset: int
    length: int
    kill_priv: bool = False


@dataclass(frozen=True, slots=True)
class CopyRange:
    """Let a range of `ino2` share the slices of a range of `ino`."""

    ino: Ino
    offset: int
    ino2: Ino
    offset2: int
    length: int
    kill_priv: bool = False


@dataclass(frozen=True, slots=True)
class TmpFile:
    """A regular file without a name, for O_TMPFILE; `parent` says where it would be."""

    parent: Ino
    mode: int
    umask: int
    cred: Cred
    ino: int = 0


@dataclass(frozen=True, slots=True)
class SetFlags:
    ino: Ino
    flags: int  # FS_*_FL of ioctl_iflags(2)
    cred: Cred


@dataclass(frozen=True, slots=True)
class NoteReads:
    """These inodes were read, the last of them at this time."""

    inodes: tuple[Ino, ...]
    atime_ns: int


@dataclass(frozen=True, slots=True)
class OpenSession:
    volume: int
    root: Ino
    secret: bytes
    client: str


@dataclass(frozen=True, slots=True)
class CloseSession:
    session: int
    expired: bool


@dataclass(frozen=True, slots=True)
class CreateVolume:
    name: str
    settings_json: str
    uid: int
    gid: int
    mode: int


@dataclass(frozen=True, slots=True)
class DestroyVolume:
    """Take apart a volume, at most `limit` inodes an entry, deepest first. Repeated until `count` of the result is 0."""

    volume: int
    limit: int


@dataclass(frozen=True, slots=True)
class SetVolume:
    volume: int
    settings_json: str  # those that change


@dataclass(frozen=True, slots=True)
class Reap:
    """Remove orphans (no name left) that no session holds open, as the leader knows. One that has more than `chunk_limit`
    chunks loses that many and stays; one that got a name again or is gone is passed over."""

    inodes: tuple[Ino, ...]
    chunk_limit: int


Op = (
    Create
    | MkDir
    | MkNod
    | SymLink
    | Link
    | Unlink
    | RmDir
    | Rename
    | SetAttr
    | CommitSlices
    | SetXattr
    | RemoveXattr
    | LeaseIds
    | FinishDeletes
    | SetLock
    | CancelLock
    | Fallocate
    | CopyRange
    | TmpFile
    | SetFlags
    | NoteReads
    | OpenSession
    | CloseSession
    | CreateVolume
    | DestroyVolume
    | SetVolume
    | Reap
)


@dataclass(frozen=True, slots=True)
class Item:
    """One op and who sent it. session 0 is the service itself; seq 0 is not deduplicated."""

    session: int
    seq: int
    acked_seq: int
    op: Op


@dataclass(frozen=True, slots=True)
class Entry:
    """What one log index holds. `now_ns` was stamped by the proposer and is the time of every item."""

    index: int
    now_ns: int
    items: tuple[Item, ...]


#: Locks that came to those who waited: (session, seq) of the SetLock that asked for each.
Granted = tuple[tuple[int, int], ...]


class Result(NamedTuple):
    """What an op gives. On `errno` != 0 nothing else but `detail` is set. Which fields an op fills is said in its module.

    inode     the inode that the op is about, as the op left it
    parent    the directory of the (first) name, as the op left it
    parent2   rename: the target directory, when it is another one
    other     rename: the inode that was replaced or exchanged, as the op left it
    existed   create: the file was there before
    first, count   lease: the numbers first .. first + count - 1; elsewhere as documented by the op
    granted   locks that became others': for the leader, which tells them. Not the author's answer, so it is not kept with it
    """

    errno: int = 0
    detail: str = ""
    inode: Inode | None = None
    parent: Inode | None = None
    parent2: Inode | None = None
    other: Inode | None = None
    existed: bool = False
    first: int = 0
    count: int = 0  # type: ignore[assignment]  # hides tuple.count, which nobody calls on a result
    granted: Granted = ()


DONE: Final = Result()
