"""Inode flags: immutable, append-only, nodump, and what the first two forbid, as ioctl_iflags(2) and ext4 have it.

The kernel of a FUSE mount does not know them, so they are checked here for everybody, also where `cred` does not enforce:
they bind root. Whoever may not even write in a directory hears EACCES, except that immutable (EPERM) comes before it, as in
Linux. An open file that becomes immutable takes no more writes; one that becomes append-only may be written by who had it
open before.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from metaserver.core.errors import FsError

if TYPE_CHECKING:
    from metaserver.core.model import Inode

IMMUTABLE: Final = 0x10  # FS_IMMUTABLE_FL
APPEND: Final = 0x20  # FS_APPEND_FL
NODUMP: Final = 0x40  # FS_NODUMP_FL
KNOWN: Final = IMMUTABLE | APPEND | NODUMP
#: Changed by root only (CAP_LINUX_IMMUTABLE).
PRIVILEGED: Final = IMMUTABLE | APPEND
#: A new inode has these of its directory's.
INHERITED: Final = NODUMP


def require_mutable(inode: Inode) -> None:
    """EPERM for what is immutable: its contents, and a directory's entries."""
    if inode.flags & IMMUTABLE:
        raise FsError(errno.EPERM, f"inode {inode.ino} is immutable")


def require_free(inode: Inode) -> None:
    """EPERM for what is immutable or append-only: its size downwards, mode, owner, times, extended attributes and names."""
    if inode.flags & PRIVILEGED:
        raise FsError(errno.EPERM, f"inode {inode.ino} is {'immutable' if inode.flags & IMMUTABLE else 'append-only'}")
