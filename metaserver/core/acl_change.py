"""Changing an inode's access control lists: who may, what becomes of the mode, and what is written.

Setting an access list sets the permission bits too, and one that says no more than they do is not kept. Taking one away
leaves the bits as they are (so do local file systems; `setfacl -b` sets a plain list instead), and it is no error when there
is none. A default list is kept as it is given. An empty one is none. Flags CREATE and REPLACE mean nothing here: Linux drops
them too.

The refusals come in the order of Linux: bytes that are no list, the inode's flags, no ACLs here, a default for what is no
directory, not the owner, a list that is not good.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from metaserver.core import acl, acl_store, directory, usage, xattrs
from metaserver.core.errors import FsError
from metaserver.core.inode_flags import require_free
from metaserver.core.model import XATTR_LIST_MAX
from metaserver.core.permission import S_ISGID, keeps_setgid, require_owner

if TYPE_CHECKING:
    from metaserver.core.acl import Acl
    from metaserver.core.context import Context
    from metaserver.core.entry import Cred, SetXattr
    from metaserver.core.model import Inode
    from metaserver.core.txn import ReadTxn, WriteTxn


def require_support(txn: ReadTxn, inode: Inode) -> None:
    """EOPNOTSUPP for what has no lists."""
    if inode.is_symlink:
        raise FsError(errno.EOPNOTSUPP, "a symbolic link has no ACL")
    if not usage.ledger(txn, inode.volume).settings.acl:
        raise FsError(errno.EOPNOTSUPP, "the volume has ACLs off")


def set_acl(txn: WriteTxn, ctx: Context, inode: Inode, op: SetXattr) -> Inode:
    """The inode after one of its lists was set, stored."""
    wanted = acl.decode(op.value) if op.value else ()
    require_free(inode)
    require_support(txn, inode)
    if op.name == acl.DEFAULT and wanted and not inode.is_dir:
        raise FsError(errno.EACCES, f"inode {inode.ino} is not a directory: it has no default ACL")
    require_owner(inode, op.cred)
    if not wanted:
        return _removed(txn, ctx, inode, op.name)
    acl.require_valid(wanted)
    if op.name == acl.DEFAULT:
        return _replace(txn, ctx, inode, op.name, wanted, inode.mode)
    mode = inode.mode & ~0o777 | acl.mode_bits(wanted)
    if op.clear_setgid or not keeps_setgid(inode.gid, op.cred):
        mode &= ~S_ISGID
    return _replace(txn, ctx, inode, op.name, wanted if acl.says_more(wanted) else None, mode)


def remove_acl(txn: WriteTxn, ctx: Context, inode: Inode, name: bytes, cred: Cred) -> Inode:
    """The inode after one of its lists was taken away, stored; no error when it has none."""
    require_free(inode)
    require_support(txn, inode)
    require_owner(inode, cred)
    return _removed(txn, ctx, inode, name)


def number_of(inode: Inode, name: bytes) -> int:
    return inode.acl if name == acl.ACCESS else inode.default_acl


def _removed(txn: WriteTxn, ctx: Context, inode: Inode, name: bytes) -> Inode:
    return _replace(txn, ctx, inode, name, None, inode.mode) if number_of(inode, name) else inode


def _replace(txn: WriteTxn, ctx: Context, inode: Inode, name: bytes, new: Acl | None, mode: int) -> Inode:
    before = number_of(inode, name)
    listed = inode.xattr_bytes + ((new is not None) - bool(before)) * xattrs.listed(name)
    if listed > XATTR_LIST_MAX:
        raise FsError(errno.ENOSPC, f"the names of all attributes have at most {XATTR_LIST_MAX} bytes")
    number = acl_store.use(txn, acl.encode(new)) if new is not None else 0
    if before:
        acl_store.disuse(txn, before)
    changed = inode._replace(mode=mode, xattr_bytes=listed, ctime_ns=ctx.now_ns, version=ctx.version)
    changed = changed._replace(acl=number) if name == acl.ACCESS else changed._replace(default_acl=number)
    directory.store(txn, changed)
    return changed
