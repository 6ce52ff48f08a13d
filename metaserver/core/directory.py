"""Entries of directories: finding them, and keeping both of their keys, `parent` and nlink true.

An entry is two keys: by name, for lookups, and by cookie, for listings. A file that has one name knows its directory
(`Inode.parent`); one with several has a count per directory instead (keys.LINK) and parent 0.

Functions that write return the inodes they changed without storing them: the op stores each inode once.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from metaserver.core import codec, keys
from metaserver.core.context import load_for
from metaserver.core.errors import CorruptState, FsError
from metaserver.core.inode_flags import require_mutable
from metaserver.core.naming import require_name
from metaserver.core.permission import EXEC, WRITE, require

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import Cred
    from metaserver.core.model import Dentry, Inode
    from metaserver.core.txn import ReadTxn, WriteTxn


def enter(txn: ReadTxn, ctx: Context, ino: int, cred: Cred) -> Inode:
    """The directory in which an op names something: ENOENT, ENOTDIR, EACCES without search permission."""
    inode = load_for(txn, ctx, ino)
    if inode[1] & 0o170000 != 0o040000:
        raise FsError(errno.ENOTDIR, f"inode {ino}")
    if cred.enforce:
        require(txn, inode, EXEC, cred)
    return inode


def find(txn: ReadTxn, parent: int, name: bytes) -> Dentry | None:
    value = txn.get(keys.dentry(parent, name))
    return None if value is None else codec.decode_dentry(value)


def find_existing(txn: ReadTxn, parent: int, name: bytes) -> Dentry:
    value = txn.get(keys.dentry(parent, name))
    if value is None:
        raise FsError(errno.ENOENT, f"no such name in directory {parent}")
    return codec.decode_dentry(value)


def require_free(txn: ReadTxn, parent: Inode, name: bytes, dots: tuple[int, int], cred: Cred) -> None:
    """`name` may be made in `parent`: the name is one, nothing has it (EEXIST), the directory still lives and may be
    written."""
    require_name(name, dots)
    if txn.get(keys.dentry(parent.ino, name)) is not None:
        raise FsError(errno.EEXIST, f"the name exists in directory {parent.ino}")
    require_writable(txn, parent, cred)


def require_writable(txn: ReadTxn, parent: Inode, cred: Cred) -> None:
    """ENOENT in a directory that was removed, EPERM in an immutable one, EACCES without write permission."""
    if not parent[4]:
        raise FsError(errno.ENOENT, f"directory {parent.ino} was removed")
    if parent[20]:
        require_mutable(parent)
    if cred.enforce:
        require(txn, parent, WRITE | EXEC, cred)


def is_empty(txn: ReadTxn, ino: int) -> bool:
    return next(iter(txn.scan(keys.listings(ino))), None) is None


def put_entry(txn: WriteTxn, parent: int, name: bytes, ino: int, kind: int, cookie: int) -> None:
    """Both keys of an entry."""
    txn.put(keys.dentry(parent, name), codec.encode_dentry(ino, kind, cookie))
    txn.put(keys.listing(parent, cookie), codec.encode_listing(ino, kind, name))


def delete_entry(txn: WriteTxn, parent: int, name: bytes, cookie: int) -> None:
    txn.delete(keys.dentry(parent, name))
    txn.delete(keys.listing(parent, cookie))


def touched(directory: Inode, ctx: Context, *, subdirs: int = 0, next_cookie: int = 0) -> Inode:
    """The directory after its entries changed: times, version, and what is said."""
    (ino, mode, uid, gid, nlink, size, volume, parent, _, _, cookie, atime, _, _, btime, _, data_version, *rare) = directory
    index, now, _, _, _ = ctx
    fields = (
        *(ino, mode, uid, gid, nlink + subdirs, size, volume, parent, 0, 0, next_cookie or cookie),
        *(atime, now, now, btime, index, data_version, *rare),
    )
    return tuple.__new__(type(directory), fields)


def store(txn: WriteTxn, inode: Inode) -> None:
    txn.put(keys.inode(inode[0]), codec.encode_inode(inode))


def gain_name(txn: WriteTxn, ctx: Context, inode: Inode, parent: int) -> Inode:
    """A non-directory after it got one more name, in `parent`; its link keys are kept."""
    if not inode.nlink:
        txn.delete(keys.orphan(inode.ino))
        return inode._replace(nlink=1, parent=parent, ctime_ns=ctx.now_ns, version=ctx.version)
    if inode.nlink == 1:
        _count_link(txn, inode.ino, inode.parent, 1)
    _count_link(txn, inode.ino, parent, 1)
    return inode._replace(nlink=inode.nlink + 1, parent=0, ctime_ns=ctx.now_ns, version=ctx.version)


def lose_name(txn: WriteTxn, ctx: Context, inode: Inode, parent: int) -> Inode:
    """A non-directory after it lost a name in `parent`; without any it is an orphan, and its data stays."""
    nlink = inode.nlink - 1
    if nlink < 0:
        raise CorruptState(f"inode {inode.ino} loses more names than it has")
    own_parent = 0
    if nlink == 0:
        txn.put(keys.orphan(inode.ino), codec.ORPHAN_MARK)
    elif nlink == 1:
        own_parent = _last_parent(txn, inode.ino, parent)
    else:
        _count_link(txn, inode.ino, parent, -1)
    return inode._replace(nlink=nlink, parent=own_parent, ctime_ns=ctx.now_ns, version=ctx.version)


def lose_directory(txn: WriteTxn, ctx: Context, inode: Inode) -> Inode:
    """An empty directory after it lost its name."""
    txn.put(keys.orphan(inode.ino), codec.ORPHAN_MARK)
    return inode._replace(nlink=0, parent=0, ctime_ns=ctx.now_ns, version=ctx.version)


def move_name(txn: WriteTxn, ctx: Context, inode: Inode, source: int, target: int) -> Inode:
    """An inode of any type after one of its names moved from one directory to another, which may be the same."""
    if source == target:
        return inode._replace(ctime_ns=ctx.now_ns, version=ctx.version)
    parent = target
    if inode.nlink > 1 and not inode.is_dir:
        _count_link(txn, inode.ino, source, -1)
        _count_link(txn, inode.ino, target, 1)
        parent = 0
    return inode._replace(parent=parent, ctime_ns=ctx.now_ns, version=ctx.version)


def link_counts(txn: ReadTxn, ino: int) -> dict[int, int]:
    """The directories that hold the several names of a file -> how many each."""
    return {keys.number_at(key, 9): codec.decode_count(value) for key, value in txn.scan(keys.links(ino))}


def _count_link(txn: WriteTxn, ino: int, parent: int, change: int) -> None:
    key = keys.link(ino, parent)
    value = txn.get(key)
    count = change + (codec.decode_count(value) if value is not None else 0)
    if count > 0:
        txn.put(key, codec.encode_count(count))
    elif count == 0 and value is not None:
        txn.delete(key)
    else:
        raise CorruptState(f"inode {ino} has no name in directory {parent}")


def _last_parent(txn: WriteTxn, ino: int, lost: int) -> int:
    """The directory of the one name that is left after one in `lost` went; the link keys go, as one name needs none."""
    counts = link_counts(txn, ino)
    counts[lost] = counts.get(lost, 0) - 1
    left = [parent for parent, count in counts.items() if count > 0]
    if len(left) != 1 or counts[left[0]] != 1 or counts[lost] < 0:
        raise CorruptState(f"inode {ino} has 2 names but is counted in {counts}")
    for parent in counts:
        txn.delete(keys.link(ino, parent))
    return left[0]
