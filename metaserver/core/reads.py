"""Questions to the state: pure functions over a ReadTxn. Nothing here writes, waits or looks at a clock.

Every function raises FsError where a system call would fail (ENOENT, ENOTDIR, ...) and CorruptState on damage. A `cred`
counts only when it enforces; the default asks without permission checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from metaserver.core.entry import ROOT, Cred
from metaserver.core.model import Dentry, Extent, Ino, Inode, Session, Settings, Usage, Volume

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metaserver.core.txn import ReadTxn


class DirEntry(NamedTuple):
    """One line of a listing. `inode` only when asked for."""

    name: bytes
    cookie: int
    dentry: Dentry
    inode: Inode | None


class Page(NamedTuple):
    """A part of a listing in cookie order. `eof`: nothing follows the last entry."""

    directory: Inode
    entries: list[DirEntry]
    eof: bool


class Slices(NamedTuple):
    """What a file's bytes are made of: chunk index -> its extents (chunks that are all hole are absent), and the bytes
    of the inline slices among them."""

    inode: Inode
    chunks: dict[int, list[Extent]]
    inline: dict[int, bytes]


class Doomed(NamedTuple):
    """A slice whose objects are to be deleted."""

    slice: int
    size: int
    volume: int
    queued_ns: int


class StatFs(NamedTuple):
    usage: Usage
    settings: Settings


def getattr(txn: ReadTxn, ino: int) -> Inode:
    """The inode; ENOENT when it is gone."""
    raise NotImplementedError


def lookup(txn: ReadTxn, parent: int, name: bytes, cred: Cred = ROOT) -> Inode:
    """What `name` means in `parent`; "." and ".." are understood (".." of a volume's root is the root)."""
    raise NotImplementedError


def find_dentry(txn: ReadTxn, parent: int, name: bytes) -> Dentry | None:
    """The entry itself, without checks of any kind."""
    raise NotImplementedError


def readlink(txn: ReadTxn, ino: int) -> bytes:
    """The target of a symbolic link; EINVAL for anything else."""
    raise NotImplementedError


def readdir(txn: ReadTxn, ino: int, after: int, limit: int, attrs: bool = False, cred: Cred = ROOT) -> Page:
    """At most `limit` entries whose cookie is greater than `after`. Cookies start at model.FIRST_COOKIE; "." and ".."
    are not listed."""
    raise NotImplementedError


def read_slices(txn: ReadTxn, ino: int, first_chunk: int, chunks: int) -> Slices:
    """The extents of `chunks` chunks from `first_chunk` on, inline bytes included."""
    raise NotImplementedError


def chunk_count(txn: ReadTxn, ino: int) -> int:
    """How many chunk records a file has (not how many its size spans)."""
    raise NotImplementedError


def getxattr(txn: ReadTxn, ino: int, name: bytes, cred: Cred = ROOT) -> bytes:
    """The value; ENODATA when there is none."""
    raise NotImplementedError


def listxattr(txn: ReadTxn, ino: int) -> list[bytes]:
    """The names, in byte order."""
    raise NotImplementedError


def access(txn: ReadTxn, ino: int, mask: int, cred: Cred) -> Inode:
    """access(2): EACCES unless `cred` has all of `mask` (R_OK 4, W_OK 2, X_OK 1). Checks also when cred does not enforce."""
    raise NotImplementedError


def open_check(txn: ReadTxn, ino: int, flags: int, cred: Cred = ROOT) -> Inode:
    """The inode, if open(2) with these O_ACCMODE bits may open it: EISDIR for writing a directory, ELOOP for a symbolic
    link, EACCES when enforcing."""
    raise NotImplementedError


def resolve(txn: ReadTxn, start: int, path: bytes) -> Inode:
    """Walk a relative path from `start`; symbolic links are not followed (ENOTDIR in the middle of a path)."""
    raise NotImplementedError


def link_parents(txn: ReadTxn, inode: Inode) -> dict[int, int]:
    """The directories that hold entries of this inode -> how many each; empty for roots and orphans."""
    raise NotImplementedError


def paths(txn: ReadTxn, ino: int, limit: int = 16) -> list[bytes]:
    """At most `limit` paths of the inode from its volume's root, each starting with "/"; empty for an orphan."""
    raise NotImplementedError


def statfs(txn: ReadTxn, volume: int) -> StatFs:
    """Usage and limits of a volume."""
    raise NotImplementedError


def volume(txn: ReadTxn, volume_id: int) -> Volume:
    """By number; ENOENT."""
    raise NotImplementedError


def volume_by_name(txn: ReadTxn, name: str) -> Volume:
    """By name; ENOENT. A volume that is being destroyed is still found (`destroyed`)."""
    raise NotImplementedError


def volumes(txn: ReadTxn) -> Iterator[Volume]:
    """All volumes, by number."""
    raise NotImplementedError


def session(txn: ReadTxn, number: int) -> Session | None:
    """A session that is open, or None."""
    raise NotImplementedError


def sessions(txn: ReadTxn) -> Iterator[Session]:
    """All open sessions, by number."""
    raise NotImplementedError


def results_kept(txn: ReadTxn, number: int) -> int:
    """How many unacknowledged results are kept for a session."""
    raise NotImplementedError


def orphans(txn: ReadTxn, after: int = 0) -> Iterator[Ino]:
    """Inodes without a name that wait for Reap, in order, greater than `after`."""
    raise NotImplementedError


def doomed(txn: ReadTxn, after: int = 0) -> Iterator[Doomed]:
    """The delete queue in slice order, slices greater than `after`."""
    raise NotImplementedError
