"""create: a regular file, and what open(O_CREAT) finds when the name exists.

Result: inode, parent, existed, first (the entry's cookie). An existing directory is EISDIR, an existing symbolic link ELOOP
(whoever follows links does so before); an existing file of any other type is the result.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from metaserver.core import birth, directory
from metaserver.core.context import load_known
from metaserver.core.entry import Result
from metaserver.core.errors import FsError
from metaserver.core.naming import OPEN, require_name

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import Create
    from metaserver.core.model import Dentry, Inode
    from metaserver.core.txn import ReadTxn, WriteTxn


def apply(txn: WriteTxn, ctx: Context, op: Create) -> Result:
    cred, name = op.cred, op.name
    parent = directory.enter(txn, ctx, op.parent, cred)
    require_name(name, OPEN)
    entry = directory.find(txn, op.parent, name)
    if entry is not None:
        return _existing(txn, parent, entry, op.exclusive)
    directory.require_writable(txn, parent, cred)
    born = birth.prepare(txn, ctx, parent, name, 0o100000 | op.mode & 0o7777, cred, op.ino, umask=op.umask)
    birth.write(txn, ctx, born)
    return Result(0, "", born.inode, born.parent, first=born.cookie)


def _existing(txn: ReadTxn, parent: Inode, entry: Dentry, exclusive: bool) -> Result:
    if exclusive:
        raise FsError(errno.EEXIST, f"the name exists in directory {parent.ino}")
    inode = load_known(txn, entry.ino)
    if inode.is_dir:
        raise FsError(errno.EISDIR, f"inode {inode.ino}")
    if inode.is_symlink:
        raise FsError(errno.ELOOP, f"inode {inode.ino} is a symbolic link")
    return Result(inode=inode, parent=parent, existed=True, first=entry.cookie)
