"""symlink. Result: inode, parent. The target is any 1..4095 bytes without NUL; it need not exist."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from metaserver.core import birth, directory, keys
from metaserver.core.entry import Result
from metaserver.core.errors import FsError
from metaserver.core.model import SYMLINK_MAX
from metaserver.core.naming import MAKE

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import SymLink
    from metaserver.core.txn import WriteTxn


def apply(txn: WriteTxn, ctx: Context, op: SymLink) -> Result:
    if not op.target:
        raise FsError(errno.ENOENT, "the target is empty")
    if len(op.target) > SYMLINK_MAX:
        raise FsError(errno.ENAMETOOLONG, f"the target has {len(op.target)} bytes")
    if b"\0" in op.target:
        raise FsError(errno.EINVAL, "a target holds no NUL")
    parent = directory.enter(txn, ctx, op.parent, op.cred)
    directory.require_free(txn, parent, op.name, MAKE, op.cred)
    born = birth.prepare(txn, ctx, parent, op.name, 0o120777, op.cred, op.ino, size=len(op.target))
    birth.write(txn, ctx, born)
    txn.put(keys.symlink(born.inode.ino), op.target)
    return Result(0, "", born.inode, born.parent, first=born.cookie)
