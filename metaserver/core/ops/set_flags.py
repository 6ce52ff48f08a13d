"""set_flags: the flags of a regular file or a directory, as ioctl_iflags(2) sets them. Result: inode.

EOPNOTSUPP for a flag that is not one of immutable, append-only and nodump, and for other types; EPERM for who is not the
owner, and for who is not root when immutable or append-only changes. They can be changed also while they are set.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from metaserver.core import directory
from metaserver.core.context import load_for
from metaserver.core.entry import Result
from metaserver.core.errors import FsError
from metaserver.core.inode_flags import KNOWN, PRIVILEGED
from metaserver.core.permission import require_owner, require_root

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import SetFlags
    from metaserver.core.txn import WriteTxn


def apply(txn: WriteTxn, ctx: Context, op: SetFlags) -> Result:
    inode = load_for(txn, ctx, op.ino)
    if op.flags & ~KNOWN:
        raise FsError(errno.EOPNOTSUPP, f"inode flags {op.flags & ~KNOWN:#x} are not known")
    if not (inode.is_reg or inode.is_dir):
        raise FsError(errno.EOPNOTSUPP, "flags are for regular files and directories")
    require_owner(inode, op.cred)
    if (op.flags ^ inode.flags) & PRIVILEGED:
        require_root(op.cred, "making a file immutable or append-only, or ending that")
    inode = inode._replace(flags=op.flags, ctime_ns=ctx.now_ns, version=ctx.version)
    directory.store(txn, inode)
    return Result(0, "", inode)
