"""mkdir. Result: inode, parent. Of the mode only permissions and the sticky bit count; setgid comes from the parent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaserver.core import birth, directory
from metaserver.core.entry import Result
from metaserver.core.naming import MAKE

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import MkDir
    from metaserver.core.txn import WriteTxn


def apply(txn: WriteTxn, ctx: Context, op: MkDir) -> Result:
    parent = directory.enter(txn, ctx, op.parent, op.cred)
    directory.require_free(txn, parent, op.name, MAKE, op.cred)
    born = birth.prepare(txn, ctx, parent, op.name, 0o040000 | op.mode & 0o1777, op.cred, op.ino, umask=op.umask)
    birth.write(txn, ctx, born)
    return Result(0, "", born.inode, born.parent, first=born.cookie)
