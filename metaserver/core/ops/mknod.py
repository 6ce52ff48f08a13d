"""mknod: regular files, FIFOs, sockets, devices. Result: inode, parent.

A type of 0 is a regular file; a directory is EPERM, anything else EINVAL; devices are root's when enforcing.
"""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING, Final

from metaserver.core import birth, directory
from metaserver.core.entry import Result
from metaserver.core.errors import FsError
from metaserver.core.naming import MAKE
from metaserver.core.permission import require_root

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import MkNod
    from metaserver.core.txn import WriteTxn

_DEVICES: Final = (stat.S_IFCHR, stat.S_IFBLK)
_OTHERS: Final = (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK)


def apply(txn: WriteTxn, ctx: Context, op: MkNod) -> Result:
    kind = stat.S_IFMT(op.mode) or stat.S_IFREG
    if kind == stat.S_IFDIR:
        raise FsError(errno.EPERM, "mknod makes no directories")
    if kind not in _DEVICES and kind not in _OTHERS:
        raise FsError(errno.EINVAL, f"mode {op.mode:o} names no type that mknod makes")
    parent = directory.enter(txn, ctx, op.parent, op.cred)
    directory.require_free(txn, parent, op.name, MAKE, op.cred)
    if kind in _DEVICES:
        require_root(op.cred, "a device")
    mode = kind | op.mode & 0o7777
    rdev = op.rdev if kind in _DEVICES else 0
    born = birth.prepare(txn, ctx, parent, op.name, mode, op.cred, op.ino, umask=op.umask, rdev=rdev)
    birth.write(txn, ctx, born)
    return Result(0, "", born.inode, born.parent, first=born.cookie)
