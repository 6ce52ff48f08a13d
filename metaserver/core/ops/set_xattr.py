"""set_xattr: XATTR_CREATE refuses one that exists (EEXIST), XATTR_REPLACE one that does not (ENODATA). Result: inode."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from metaserver.core import acl, acl_change, directory, keys, xattrs
from metaserver.core.context import load_for
from metaserver.core.entry import XATTR_CREATE, XATTR_REPLACE, Result
from metaserver.core.errors import FsError
from metaserver.core.model import XATTR_LIST_MAX, XATTR_VALUE_MAX

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import SetXattr
    from metaserver.core.txn import WriteTxn


def apply(txn: WriteTxn, ctx: Context, op: SetXattr) -> Result:
    if op.flags & ~(XATTR_CREATE | XATTR_REPLACE):
        raise FsError(errno.EINVAL, f"setxattr flags {op.flags:#x}")
    space = xattrs.require_name(op.name)
    if len(op.value) > XATTR_VALUE_MAX:
        raise FsError(errno.E2BIG, f"an attribute has at most {XATTR_VALUE_MAX} bytes, not {len(op.value)}")
    inode = load_for(txn, ctx, op.ino)
    if op.name in acl.NAMES:
        return Result(0, "", acl_change.set_acl(txn, ctx, inode, op))
    xattrs.require_change(txn, inode, space, op.cred)
    key = keys.xattr(op.ino, op.name)
    exists = bool(inode.xattr_bytes) and txn.get(key) is not None
    if exists and op.flags & XATTR_CREATE:
        raise FsError(errno.EEXIST, "the attribute exists")
    if not exists and op.flags & XATTR_REPLACE:
        raise FsError(errno.ENODATA, "the attribute does not exist")
    listed = inode.xattr_bytes + (0 if exists else xattrs.listed(op.name))
    if listed > XATTR_LIST_MAX:
        raise FsError(errno.ENOSPC, f"the names of all attributes have at most {XATTR_LIST_MAX} bytes")
    inode = inode._replace(xattr_bytes=listed, ctime_ns=ctx.now_ns, version=ctx.version)
    txn.put(key, op.value)
    directory.store(txn, inode)
    return Result(0, "", inode)
