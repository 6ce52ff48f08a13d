"""unlink: a name of anything but a directory goes. Result: inode as left (nlink 0 = an orphan now), parent.

Data stays until Reap: somebody may have the file open.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from metaserver.core import directory
from metaserver.core.context import load_known
from metaserver.core.entry import Result
from metaserver.core.errors import FsError
from metaserver.core.naming import UNLINK, require_name
from metaserver.core.permission import require_removal

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import Unlink
    from metaserver.core.txn import WriteTxn


def apply(txn: WriteTxn, ctx: Context, op: Unlink) -> Result:
    name = op.name
    parent = directory.enter(txn, ctx, op.parent, op.cred)
    require_name(name, UNLINK)
    entry = directory.find_existing(txn, op.parent, name)
    inode = load_known(txn, entry.ino)
    require_removal(txn, parent, inode, op.cred)
    if inode.is_dir:
        raise FsError(errno.EISDIR, f"inode {entry.ino}")
    directory.delete_entry(txn, op.parent, name, entry.cookie)
    inode = directory.lose_name(txn, ctx, inode, op.parent)
    parent = directory.touched(parent, ctx)
    directory.store(txn, inode)
    directory.store(txn, parent)
    return Result(0, "", inode, parent)
