"""remove_xattr: ENODATA when there is none. Result: inode."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from metaserver.core import acl, acl_change, directory, keys, xattrs
from metaserver.core.context import load_for
from metaserver.core.entry import Result
from metaserver.core.errors import FsError

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import RemoveXattr
    from metaserver.core.txn import WriteTxn


def apply(txn: WriteTxn, ctx: Context, op: RemoveXattr) -> Result:
    space = xattrs.require_name(op.name)
    inode = load_for(txn, ctx, op.ino)
    if op.name in acl.NAMES:
        return Result(0, "", acl_change.remove_acl(txn, ctx, inode, op.name, op.cred))
    xattrs.require_change(txn, inode, space, op.cred)
    key = keys.xattr(op.ino, op.name)
    if txn.get(key) is None:
        raise FsError(errno.ENODATA, "the attribute does not exist")
    listed = inode.xattr_bytes - xattrs.listed(op.name)
    inode = inode._replace(xattr_bytes=listed, ctime_ns=ctx.now_ns, version=ctx.version)
    txn.delete(key)
    directory.store(txn, inode)
    return Result(0, "", inode)
