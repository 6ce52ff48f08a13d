"""Questions to the state: pure functions over a ReadTxn. Nothing here writes, waits or looks at a clock.

Every function raises FsError where a system call would fail (ENOENT, ENOTDIR, ...) and CorruptState on damage. A `cred`
counts only when it enforces; the default asks without permission checks.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, NamedTuple

from metaserver.core import acl, acl_change, acl_store, codec, extents, keys, lock_table, usage, xattrs
from metaserver.core.context import load, load_known
from metaserver.core.directory import find, find_existing, link_counts
from metaserver.core.entry import ROOT, Cred
from metaserver.core.errors import CorruptState, FsError
from metaserver.core.inode_flags import APPEND, require_free, require_mutable
from metaserver.core.model import CHUNK_BYTES, NAME_MAX, Dentry, Extent, Ino, Inode, Session, Settings, Usage, Volume
from metaserver.core.naming import DOTS, MAKE, require_name, require_volume_name
from metaserver.core.permission import EXEC, READ, WRITE, allowed, require
from metaserver.core.slices import chunks_from

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metaserver.core.locks import Lock
    from metaserver.core.txn import ReadTxn

_ACCMODE: Final = (READ, WRITE, READ | WRITE, READ | WRITE)
#: Bits of open(2) that count here beside the access mode. The kernel sets _EXEC when a program is started.
_O_TRUNC: Final = 0o1000
_O_APPEND: Final = 0o2000
_EXEC: Final = 0o40
_DEPTH_MAX: Final = 1 << 20
_new: Final = tuple.__new__


#: A stream takes messages of 16 MiB; an extent takes about as many bytes there as in the store.
_ANSWER_BYTES_MAX: Final = 6 << 20
#: Together with inline bytes, of which there is always room for what a record takes of them (ranges.INLINE_CHUNK_MAX).
_INLINE_ANSWER_MAX: Final = 8 << 20


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
    of the inline slices among them. `covered` chunks from the first one on are told about; the rest is to be asked again."""

    inode: Inode
    chunks: dict[int, list[Extent]]
    inline: dict[int, bytes]
    covered: int


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
    return load(txn, ino)


def lookup(txn: ReadTxn, parent: int, name: bytes, cred: Cred = ROOT) -> Inode:
    """What `name` means in `parent`; "." and ".." are understood (".." of a volume's root is the root)."""
    if cred.enforce or name in DOTS or len(name) > NAME_MAX or not name:
        return _lookup_checked(txn, parent, name, cred)
    value = txn.get(keys.dentry(parent, name))
    if value is None:
        _require_directory(txn, parent)
        raise FsError(errno.ENOENT, f"no such name in directory {parent}")
    return load_known(txn, codec.decode_dentry(value)[0])


def _lookup_checked(txn: ReadTxn, parent: int, name: bytes, cred: Cred) -> Inode:
    """The long way, which also looks at the directory itself."""
    directory = _require_directory(txn, parent)
    require(txn, directory, EXEC, cred)
    if name == b".":
        return directory
    if name == b"..":
        return load_known(txn, directory.parent) if directory.parent else directory
    require_name(name, MAKE)
    return load_known(txn, find_existing(txn, parent, name).ino)


def _require_directory(txn: ReadTxn, ino: int) -> Inode:
    inode = load(txn, ino)
    if not inode.is_dir:
        raise FsError(errno.ENOTDIR, f"inode {ino}")
    return inode


def find_dentry(txn: ReadTxn, parent: int, name: bytes) -> Dentry | None:
    """The entry itself, without checks of any kind."""
    return find(txn, parent, name)


def readlink(txn: ReadTxn, ino: int) -> bytes:
    """The target of a symbolic link; EINVAL for anything else."""
    inode = load(txn, ino)
    if not inode.is_symlink:
        raise FsError(errno.EINVAL, f"inode {ino} is not a symbolic link")
    target = txn.get(keys.symlink(ino))
    if target is None:
        raise CorruptState(f"symbolic link {ino} has no target")
    return target


def readdir(txn: ReadTxn, ino: int, after: int, limit: int, attrs: bool = False, cred: Cred = ROOT) -> Page:
    """At most `limit` entries whose cookie is greater than `after`. Cookies start at model.FIRST_COOKIE; "." and ".."
    are not listed."""
    directory = _require_directory(txn, ino)
    require(txn, directory, READ, cred)
    if limit < 1:
        raise FsError(errno.EINVAL, "limit is at least 1")
    entries: list[DirEntry] = []
    pairs = txn.scan(keys.listings(ino), keys.listing(ino, after)) if after < 1 << 64 else iter(())
    for key, value in pairs:
        if len(entries) == limit:
            return Page(directory, entries, False)
        cookie = keys.number_at(key, 9)
        number, kind, name = codec.decode_listing(value)
        inode = load_known(txn, number) if attrs else None
        entries.append(_new(DirEntry, (name, cookie, _new(Dentry, (number, kind, cookie)), inode)))
    return Page(directory, entries, True)


def read_slices(txn: ReadTxn, ino: int, first_chunk: int, chunks: int) -> Slices:
    """The extents of `chunks` chunks from `first_chunk` on, inline bytes included; fewer chunks, but at least one, when that
    is more than _ANSWER_BYTES_MAX; more, when these and the following ones are all hole."""
    inode = load(txn, ino)
    if not inode.is_reg:
        raise FsError(errno.EISDIR if inode.is_dir else errno.EINVAL, f"inode {ino} is not a regular file")
    found: dict[int, list[Extent]] = {}
    inline: dict[int, bytes] = {}
    behind = (inode.size + CHUNK_BYTES - 1) // CHUNK_BYTES
    if not inode.allocated or chunks < 1:
        return Slices(inode, found, inline, max(chunks, behind - first_chunk))
    cost = 0
    last = min(first_chunk + chunks, behind) - 1
    for index, value in chunks_from(txn, ino, first_chunk, last):
        cost += len(value)
        if found and cost > _ANSWER_BYTES_MAX:
            return Slices(inode, found, inline, index - first_chunk)
        found[index] = decoded = extents.decode(value)
        for one in decoded:
            if one.inline and one.slice not in inline and cost <= _INLINE_ANSWER_MAX:
                inline[one.slice] = data = _inline_bytes(txn, one)
                cost += len(data)
    if not found and last + 1 < behind:
        following = next(iter(txn.scan(keys.chunks(ino), keys.chunk(ino, last))), None)
        chunks = (behind if following is None else keys.short_at(following[0], 9)) - first_chunk
    return Slices(inode, found, inline, chunks)


def _inline_bytes(txn: ReadTxn, extent: Extent) -> bytes:
    data = txn.get(keys.inline(extent.slice))
    if data is None or len(data) != extent.size:
        raise CorruptState(f"inline slice {extent.slice} has not its {extent.size} bytes")
    return data


def chunk_count(txn: ReadTxn, ino: int) -> int:
    """How many chunk records a file has (not how many its size spans)."""
    return sum(1 for _ in txn.scan(keys.chunks(ino)))


def getxattr(txn: ReadTxn, ino: int, name: bytes, cred: Cred = ROOT) -> bytes:
    """The value; ENODATA when there is none."""
    space = xattrs.require_name(name)
    inode = load(txn, ino)
    xattrs.require_sight(txn, inode, space, cred)
    if name in acl.NAMES:
        return _acl(txn, inode, name)
    value = txn.get(keys.xattr(ino, name)) if inode.xattr_bytes else None
    if value is None:
        raise FsError(errno.ENODATA, "the attribute does not exist")
    return value


def listxattr(txn: ReadTxn, ino: int) -> list[bytes]:
    """The names, in byte order."""
    inode = load(txn, ino)
    if not inode.xattr_bytes:
        return []
    names = [key[9:] for key, _ in txn.scan(keys.xattrs(ino))]
    lists = [name for name in acl.NAMES if acl_change.number_of(inode, name)]
    return sorted(names + lists) if lists and usage.ledger(txn, inode.volume).settings.acl else names


def _acl(txn: ReadTxn, inode: Inode, name: bytes) -> bytes:
    acl_change.require_support(txn, inode)
    number = acl_change.number_of(inode, name)
    if not number:
        raise FsError(errno.ENODATA, "the inode has no such ACL")
    return acl_store.kept(txn, number).value


def access(txn: ReadTxn, ino: int, mask: int, cred: Cred) -> Inode:
    """access(2): EACCES unless `cred` has all of `mask` (R_OK 4, W_OK 2, X_OK 1). Checks also when cred does not enforce."""
    inode = load(txn, ino)
    if mask & ~7:
        raise FsError(errno.EINVAL, f"access mask {mask:#x}")
    if not allowed(txn, inode, mask, cred):
        raise FsError(errno.EACCES, f"inode {ino}: mode {inode.mode & 0o7777:o} refuses uid {cred.uid} access {mask}")
    return inode


def open_check(txn: ReadTxn, ino: int, flags: int, cred: Cred = ROOT) -> Inode:
    """The inode, if open(2) with these flags may open it: EISDIR for writing a directory, ELOOP for a symbolic link, EPERM
    where the inode's flags forbid it, EACCES when enforcing."""
    inode = load(txn, ino)
    mask = EXEC if flags & _EXEC else _ACCMODE[flags & 3]
    if inode.is_symlink:
        raise FsError(errno.ELOOP, f"inode {ino} is a symbolic link")
    if inode.is_dir and mask & WRITE:
        raise FsError(errno.EISDIR, f"inode {ino}")
    if inode.flags and mask & WRITE:
        _require_flags(inode, flags)
    require(txn, inode, mask, cred)
    return inode


def _require_flags(inode: Inode, flags: int) -> None:
    """What is immutable is opened for reading only, what is append-only for writing at the end only."""
    require_mutable(inode)
    if inode.flags & APPEND and (not flags & _O_APPEND or flags & _O_TRUNC):
        require_free(inode)


def resolve(txn: ReadTxn, start: int, path: bytes) -> Inode:
    """Walk a relative path from `start`; symbolic links are not followed (ENOTDIR in the middle of a path)."""
    inode = load(txn, start)
    for part in path.split(b"/"):
        if part:
            inode = lookup(txn, inode.ino, part)
    return inode


def link_parents(txn: ReadTxn, inode: Inode) -> dict[int, int]:
    """The directories that hold entries of this inode -> how many each; empty for roots and orphans."""
    if inode.parent:
        return {inode.parent: 1}
    return link_counts(txn, inode.ino) if inode.nlink > 1 and not inode.is_dir else {}


def paths(txn: ReadTxn, ino: int, limit: int = 16) -> list[bytes]:
    """At most `limit` paths of the inode from its volume's root, each starting with "/"; empty for an orphan."""
    inode = load(txn, ino)
    if not inode.nlink:
        return []
    if inode.is_dir:
        return [_directory_path(txn, inode) or b"/"]
    found: list[bytes] = []
    for parent in sorted(link_parents(txn, inode)):
        base = _directory_path(txn, load_known(txn, parent))
        found += [base + b"/" + name for name in _names_of(txn, parent, ino, limit - len(found))]
        if len(found) >= limit:
            break
    return found


def _directory_path(txn: ReadTxn, directory: Inode) -> bytes:
    """The path of a directory from the root, which itself is empty."""
    parts: list[bytes] = []
    one = directory
    while one.parent:
        names = _names_of(txn, one.parent, one.ino, 1)
        if not names or len(parts) > _DEPTH_MAX:
            raise CorruptState(f"directory {one.ino} has no name in its parent {one.parent}")
        parts.append(names[0])
        one = load_known(txn, one.parent)
    return b"".join(b"/" + part for part in reversed(parts))


def _names_of(txn: ReadTxn, parent: int, ino: int, limit: int) -> list[bytes]:
    """At most `limit` names of an inode in a directory: a walk over the directory, for people who ask."""
    found = []
    for _, value in txn.scan(keys.listings(parent)):
        number, _, name = codec.decode_listing(value)
        if number == ino:
            found.append(name)
            if len(found) == limit:
                break
    return found


def statfs(txn: ReadTxn, volume: int) -> StatFs:
    """Usage and limits of a volume."""
    value = txn.get(keys.ledger(volume))
    if value is None:
        raise FsError(errno.ENOENT, f"volume {volume} does not exist")
    held = codec.decode_ledger(value)
    return StatFs(held.usage, held.settings)


def volume(txn: ReadTxn, volume_id: int) -> Volume:
    """By number; ENOENT."""
    value = txn.get(keys.volume(volume_id)) if volume_id < 1 << 32 else None
    if value is None:
        raise FsError(errno.ENOENT, f"volume {volume_id} does not exist")
    return codec.decode_volume(volume_id, value)


def volume_by_name(txn: ReadTxn, name: str) -> Volume:
    """By name; ENOENT. A volume that is being destroyed is still found (`destroyed`)."""
    require_volume_name(name)
    value = txn.get(keys.volume_name(name))
    if value is None:
        raise FsError(errno.ENOENT, f"volume {name} does not exist")
    return volume(txn, codec.decode_count(value))


def volumes(txn: ReadTxn) -> Iterator[Volume]:
    """All volumes, by number."""
    for key, value in txn.scan(keys.VOLUME):
        yield codec.decode_volume(keys.short_at(key, 1), value)


def session(txn: ReadTxn, number: int) -> Session | None:
    """A session that is open, or None."""
    value = txn.get(keys.session(number))
    if value is None:
        return None
    acked = txn.get(keys.session_acked(number))
    if acked is None:
        raise CorruptState(f"session {number} has no acknowledged seq")
    return codec.decode_session(number, value, codec.decode_acked(acked).seq)


def sessions(txn: ReadTxn) -> Iterator[Session]:
    """All open sessions, by number."""
    for key, _ in txn.scan(keys.SESSION):
        one = session(txn, keys.number_at(key))
        if one is not None:
            yield one


def results_kept(txn: ReadTxn, number: int) -> int:
    """How many unacknowledged results are kept for a session."""
    return sum(1 for _ in txn.scan(keys.results(number)))


def orphans(txn: ReadTxn, after: int = 0) -> Iterator[Ino]:
    """Inodes without a name that wait for Reap, in order, greater than `after`."""
    for key, _ in txn.scan(keys.ORPHAN, keys.orphan(after)):
        yield Ino(keys.number_at(key))


def doomed(txn: ReadTxn, after: int = 0) -> Iterator[Doomed]:
    """The delete queue in slice order, slices greater than `after`."""
    for key, value in txn.scan(keys.DOOMED, keys.doomed(after)):
        yield Doomed(keys.number_at(key), *codec.decode_doomed(value))


def lock_in_the_way(txn: ReadTxn, ino: int, kind: int, wanted: Lock) -> Lock | None:
    """The lowest lock that blocks `wanted`, as fcntl(F_GETLK) asks; None: it would be granted."""
    blockers = lock_table.load(txn, ino, kind).blockers(wanted)
    return blockers[0] if blockers else None


def waits_for_lock(txn: ReadTxn, session: int, seq: int) -> bool:
    """Whether the SetLock of that seq is still queued; else it was granted, or given up."""
    return lock_table.wait(txn, session, seq) is not None
