"""rename: plain, RENAME_NOREPLACE, RENAME_EXCHANGE. Result: inode (moved), parent, parent2 (when another), other, first
(the new cookie, when the entry comes from another directory).

Precedence is that of renameat2(2) in Linux: EINVAL flags, both directories, EXDEV, EBUSY for dots, ENOENT of the source,
EEXIST or ENOENT by the flags, EINVAL into the own subtree, ENOTEMPTY onto an ancestor, nothing to do when both names are
one file, then permissions, types, EMLINK and ENOTEMPTY.

An entry that stays in its directory keeps its cookie, so a listing under way sees it once; one that comes from elsewhere
gets a new one. An exchange leaves the cookies with the names.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, NamedTuple

from metaserver.core import directory
from metaserver.core.context import load_known
from metaserver.core.entry import RENAME_EXCHANGE, RENAME_NOREPLACE, Result
from metaserver.core.errors import CorruptState, FsError
from metaserver.core.model import LINK_MAX
from metaserver.core.naming import MAKE, RENAME, refuse_dots, require_name
from metaserver.core.permission import WRITE, require, require_removal

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import Rename
    from metaserver.core.model import Dentry, Inode
    from metaserver.core.txn import ReadTxn, WriteTxn

_DEPTH_MAX: Final = 1 << 20
_DIR: Final = 4


class _Move(NamedTuple):
    """What was found: the two directories (one object when they are the same), entries and inodes."""

    source: Inode
    target: Inode
    entry: Dentry
    inode: Inode
    there: Dentry | None
    victim: Inode | None


def apply(txn: WriteTxn, ctx: Context, op: Rename) -> Result:
    if op.flags not in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
        raise FsError(errno.EINVAL, f"rename flags {op.flags:#x}")
    move = _find(txn, ctx, op)
    source, target, _, inode, _, victim = move
    if victim is not None and victim.ino == inode.ino:
        other_directory = None if source is target else target
        return Result(0, "", inode, source, other_directory)
    exchange = op.flags == RENAME_EXCHANGE
    _require_permission(txn, move, exchange, op)
    _require_fit(txn, move, exchange)
    if exchange:
        return _exchange(txn, ctx, op, move)
    return _replace(txn, ctx, op, move)


def _find(txn: ReadTxn, ctx: Context, op: Rename) -> _Move:
    source = directory.enter(txn, ctx, op.parent, op.cred)
    target = source if op.parent2 == op.parent else directory.enter(txn, ctx._replace(volume=0), op.parent2, op.cred)
    if source.volume != target.volume:
        raise FsError(errno.EXDEV, "the directories are of different volumes")
    refuse_dots(op.name, RENAME)
    refuse_dots(op.name2, MAKE if op.flags == RENAME_NOREPLACE else RENAME)
    require_name(op.name, RENAME)
    entry = directory.find_existing(txn, op.parent, op.name)
    require_name(op.name2, RENAME)
    there = directory.find(txn, op.parent2, op.name2)
    if there is not None and op.flags == RENAME_NOREPLACE:
        raise FsError(errno.EEXIST, f"the new name exists in directory {op.parent2}")
    if there is None and op.flags == RENAME_EXCHANGE:
        raise FsError(errno.ENOENT, f"the new name does not exist in directory {op.parent2}")
    if source is not target:
        if entry.type == _DIR and _is_within(txn, target, entry.ino):
            raise FsError(errno.EINVAL, f"directory {target.ino} is inside directory {entry.ino}")
        if there is not None and there.type == _DIR and _is_within(txn, source, there.ino):
            number = errno.EINVAL if op.flags == RENAME_EXCHANGE else errno.ENOTEMPTY
            raise FsError(number, f"directory {source.ino} is inside directory {there.ino}")
    victim = None if there is None else load_known(txn, there.ino)
    return _Move(source, target, entry, load_known(txn, entry.ino), there, victim)


def _is_within(txn: ReadTxn, start: Inode, ancestor: int) -> bool:
    """Whether the directory `start` is `ancestor` or below it."""
    one = start
    for _ in range(_DEPTH_MAX):
        if one.ino == ancestor:
            return True
        if not one.parent:
            return False
        one = load_known(txn, one.parent)
    raise CorruptState(f"directory {start.ino} is its own ancestor")


def _require_permission(txn: ReadTxn, move: _Move, exchange: bool, op: Rename) -> None:
    """EACCES, EPERM, and the types where Linux looks at them: with the permission to remove what is replaced."""
    source, target, _, inode, _, victim = move
    cred = op.cred
    require_removal(txn, source, inode, cred)
    if victim is None:
        directory.require_writable(txn, target, cred)
    else:
        require_removal(txn, target, victim, cred)
        if not exchange and inode.is_dir and not victim.is_dir:
            raise FsError(errno.ENOTDIR, f"inode {victim.ino} is not a directory, inode {inode.ino} is")
        if not exchange and victim.is_dir and not inode.is_dir:
            raise FsError(errno.EISDIR, f"inode {victim.ino} is a directory, inode {inode.ino} is not")
    if source is not target:
        for moved in (inode, victim if exchange else None):
            if moved is not None and moved.is_dir:
                require(txn, moved, WRITE, cred)


def _require_fit(txn: ReadTxn, move: _Move, exchange: bool) -> None:
    source, target, _, inode, _, victim = move
    comes = inode.is_dir and not (victim is not None and victim.is_dir)
    if source is not target and comes and target.nlink >= LINK_MAX:
        raise FsError(errno.EMLINK, f"directory {target.ino} has {target.nlink} links")
    goes = exchange and victim is not None and victim.is_dir and not inode.is_dir
    if source is not target and goes and source.nlink >= LINK_MAX:
        raise FsError(errno.EMLINK, f"directory {source.ino} has {source.nlink} links")
    if not exchange and victim is not None and victim.is_dir and not directory.is_empty(txn, victim.ino):
        raise FsError(errno.ENOTEMPTY, f"directory {victim.ino}")


def _replace(txn: WriteTxn, ctx: Context, op: Rename, move: _Move) -> Result:
    source, target, entry, inode, there, victim = move
    same = source is target
    if victim is not None and there is not None:
        directory.delete_entry(txn, op.parent2, op.name2, there.cookie)
        if victim.is_dir:
            victim = directory.lose_directory(txn, ctx, victim)
        else:
            victim = directory.lose_name(txn, ctx, victim, op.parent2)
        directory.store(txn, victim)
    directory.delete_entry(txn, op.parent, op.name, entry.cookie)
    cookie = entry.cookie if same else target.next_cookie
    directory.put_entry(txn, op.parent2, op.name2, inode.ino, entry.type, cookie)
    inode = directory.move_name(txn, ctx, inode, op.parent, op.parent2)
    directory.store(txn, inode)
    lost = -1 if victim is not None and victim.is_dir else 0
    if same:
        source = directory.touched(source, ctx, subdirs=lost)
        directory.store(txn, source)
        return Result(0, "", inode, source, None, victim)
    moved = 1 if inode.is_dir else 0
    source = directory.touched(source, ctx, subdirs=-moved)
    target = directory.touched(target, ctx, subdirs=moved + lost, next_cookie=cookie + 1)
    directory.store(txn, source)
    directory.store(txn, target)
    return Result(0, "", inode, source, target, victim, first=cookie)


def _exchange(txn: WriteTxn, ctx: Context, op: Rename, move: _Move) -> Result:
    source, target, entry, inode, there, victim = move
    assert there is not None
    assert victim is not None
    directory.put_entry(txn, op.parent, op.name, victim.ino, there.type, entry.cookie)
    directory.put_entry(txn, op.parent2, op.name2, inode.ino, entry.type, there.cookie)
    inode = directory.move_name(txn, ctx, inode, op.parent, op.parent2)
    victim = directory.move_name(txn, ctx, victim, op.parent2, op.parent)
    directory.store(txn, inode)
    directory.store(txn, victim)
    if source is target:
        source = directory.touched(source, ctx)
        directory.store(txn, source)
        return Result(0, "", inode, source, None, victim)
    shift = int(inode.is_dir) - int(victim.is_dir)
    source = directory.touched(source, ctx, subdirs=-shift)
    target = directory.touched(target, ctx, subdirs=shift)
    directory.store(txn, source)
    directory.store(txn, target)
    return Result(0, "", inode, source, target, victim)
