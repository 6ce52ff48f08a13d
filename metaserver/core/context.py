"""What an op may know beside its own fields, and the few looks at the state that nearly every op takes.

Rules
 - `volume` fences: for a session, inodes of other volumes do not exist; 0 = the service, which sees all. (Not ESTALE:
   that is what machine.py answers to a session that is not open.)
 - An inode that is gone is ENOENT, also as a parent: a removed directory that somebody still stands in holds no names.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple

from metaserver.core.codec import decode_inode
from metaserver.core.errors import CorruptState, FsError
from metaserver.core.keys import inode as inode_key

if TYPE_CHECKING:
    from metaserver.core.model import Inode
    from metaserver.core.txn import ReadTxn


class Context(NamedTuple):
    """`version` is the index of the log entry; it becomes the version of what the entry changes. `seq` is the item's."""

    version: int
    now_ns: int
    session: int
    volume: int
    seq: int = 0


def load(txn: ReadTxn, ino: int) -> Inode:
    """The inode; ENOENT when it is gone."""
    value = txn.get(inode_key(ino))
    if value is None:
        raise FsError(errno.ENOENT, f"inode {ino} is gone")
    return decode_inode(ino, value)


def load_known(txn: ReadTxn, ino: int) -> Inode:
    """An inode that the state itself refers to: its absence is damage."""
    value = txn.get(inode_key(ino))
    if value is None:
        raise CorruptState(f"inode {ino} is referred to and missing")
    return decode_inode(ino, value)


def load_for(txn: ReadTxn, ctx: Context, ino: int) -> Inode:
    """The inode that an op names, if its session may name it."""
    value = txn.get(inode_key(ino)) if 0 <= ino < 1 << 64 else None
    if value is None:
        raise FsError(errno.ENOENT, f"inode {ino} is gone")
    inode = decode_inode(ino, value)
    if ctx.volume and inode[6] != ctx.volume:
        raise FsError(errno.ENOENT, f"inode {ino} is not of the session's volume")
    return inode
