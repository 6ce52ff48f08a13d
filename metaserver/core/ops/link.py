"""link: one more name for a file of any type but a directory. Result: inode, parent.

Precedence: ENOENT of the inode, then of the directory's lookup, EEXIST, EXDEV, EACCES, EPERM for a directory, ENOENT for
an orphan whose last name went (nobody gives it a new one; a file that never had one gets its first), EMLINK. One that is
immutable or append-only gets no other name.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from metaserver.core import codec, directory, keys
from metaserver.core.context import load_for
from metaserver.core.entry import Result
from metaserver.core.errors import FsError
from metaserver.core.inode_flags import require_free
from metaserver.core.model import LINK_MAX
from metaserver.core.naming import MAKE, require_name

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import Link
    from metaserver.core.txn import WriteTxn


def apply(txn: WriteTxn, ctx: Context, op: Link) -> Result:
    inode = load_for(txn, ctx._replace(volume=0), op.ino)
    parent = directory.enter(txn, ctx, op.parent, op.cred)
    require_name(op.name, MAKE)
    if txn.get(keys.dentry(op.parent, op.name)) is not None:
        raise FsError(errno.EEXIST, f"the name exists in directory {op.parent}")
    if inode.volume != parent.volume:
        raise FsError(errno.EXDEV, f"inode {op.ino} is of another volume")
    directory.require_writable(txn, parent, op.cred)
    require_free(inode)
    if inode.is_dir:
        raise FsError(errno.EPERM, "a directory has one name")
    if not inode.nlink and txn.get(keys.orphan(op.ino)) != codec.UNNAMED_MARK:
        raise FsError(errno.ENOENT, f"inode {op.ino} has no name any more")
    if inode.nlink >= LINK_MAX:
        raise FsError(errno.EMLINK, f"inode {op.ino} has {inode.nlink} names")
    cookie = parent.next_cookie
    parent = directory.touched(parent, ctx, next_cookie=cookie + 1)
    inode = directory.gain_name(txn, ctx, inode, op.parent)
    directory.put_entry(txn, op.parent, op.name, inode.ino, inode.mode >> 12, cookie)
    directory.store(txn, inode)
    directory.store(txn, parent)
    return Result(0, "", inode, parent, first=cookie)
