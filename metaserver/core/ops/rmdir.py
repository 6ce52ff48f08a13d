"""rmdir: an empty directory loses its name. Result: inode as left (an orphan with nlink 0 until Reap), parent."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from metaserver.core import directory
from metaserver.core.context import load_known
from metaserver.core.entry import Result
from metaserver.core.errors import FsError
from metaserver.core.naming import RMDIR, require_name
from metaserver.core.permission import require_removal

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import RmDir
    from metaserver.core.txn import WriteTxn


def apply(txn: WriteTxn, ctx: Context, op: RmDir) -> Result:
    parent = directory.enter(txn, ctx, op.parent, op.cred)
    require_name(op.name, RMDIR)
    entry = directory.find_existing(txn, op.parent, op.name)
    inode = load_known(txn, entry.ino)
    require_removal(txn, parent, inode, op.cred)
    if not inode.is_dir:
        raise FsError(errno.ENOTDIR, f"inode {inode.ino}")
    if not directory.is_empty(txn, inode.ino):
        raise FsError(errno.ENOTEMPTY, f"directory {inode.ino}")
    directory.delete_entry(txn, op.parent, op.name, entry.cookie)
    inode = directory.lose_directory(txn, ctx, inode)
    parent = directory.touched(parent, ctx, subdirs=-1)
    directory.store(txn, inode)
    directory.store(txn, parent)
    return Result(0, "", inode, parent)
