"""Who may do what: mode bits, ACLs, ownership and the sticky bit, as Linux decides them without capabilities.

Every function takes a Cred and says nothing when it does not enforce: then the caller's kernel has checked already. uid 0
stands for all capabilities; like CAP_DAC_OVERRIDE it may execute only what somebody may execute, and search any directory.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from metaserver.core import acl, acl_store, usage
from metaserver.core.errors import FsError
from metaserver.core.inode_flags import APPEND, require_free, require_mutable

if TYPE_CHECKING:
    from metaserver.core.entry import Cred
    from metaserver.core.model import Inode
    from metaserver.core.txn import ReadTxn

READ: Final = 4
WRITE: Final = 2
EXEC: Final = 1

S_ISUID: Final = 0o4000
S_ISGID: Final = 0o2000
S_ISVTX: Final = 0o1000
_ANY_EXEC: Final = 0o111
_GROUP_EXEC: Final = 0o010
_GROUP_BITS: Final = 0o070


def in_group(cred: Cred, gid: int) -> bool:
    return cred.gid == gid or gid in cred.groups


def is_owner(inode: Inode, cred: Cred) -> bool:
    """The owner, or root."""
    return cred.uid in (0, inode.uid)


def allowed(txn: ReadTxn, inode: Inode, mask: int, cred: Cred) -> bool:
    """Whether mode and ACL grant all of `mask`, whether or not the cred enforces."""
    mode = inode.mode
    if cred.uid == 0:
        return not mask & EXEC or inode.is_dir or bool(mode & _ANY_EXEC)
    if cred.uid == inode.uid:
        return (mode >> 6) & mask == mask
    # As Linux: with an empty mask the list is not looked at, and whom it names is one of the others.
    if inode.acl and mode & _GROUP_BITS and usage.ledger(txn, inode.volume).settings.acl:
        found = acl_store.load(txn, inode.acl)
        return acl.permits(found, mask, cred.uid, inode.gid, lambda gid: in_group(cred, gid))
    if in_group(cred, inode.gid):
        return (mode >> 3) & mask == mask
    return mode & mask == mask


def require(txn: ReadTxn, inode: Inode, mask: int, cred: Cred) -> None:
    """EACCES unless mode and ACL grant all of `mask`."""
    if cred.enforce and not allowed(txn, inode, mask, cred):
        raise FsError(errno.EACCES, f"inode {inode.ino}: mode {inode.mode & 0o7777:o} refuses uid {cred.uid} access {mask}")


def require_owner(inode: Inode, cred: Cred) -> None:
    """EPERM unless the owner or root."""
    if cred.enforce and not is_owner(inode, cred):
        raise FsError(errno.EPERM, f"inode {inode.ino} belongs to uid {inode.uid}, not {cred.uid}")


def require_root(cred: Cred, what: str) -> None:
    if cred.enforce and cred.uid != 0:
        raise FsError(errno.EPERM, f"{what} needs root")


def require_removal(txn: ReadTxn, directory: Inode, victim: Inode, cred: Cred) -> None:
    """A name may be taken from a directory by who may write there; from a sticky one only by the owner of either; from one
    that is append-only, or of what is immutable or append-only, by nobody."""
    if directory.flags or victim.flags:
        require_mutable(directory)
        require(txn, directory, WRITE | EXEC, cred)
        if directory.flags & APPEND:
            require_free(directory)
        require_free(victim)
    if not cred.enforce:
        return
    require(txn, directory, WRITE | EXEC, cred)
    if directory.mode & S_ISVTX and cred.uid not in (0, victim.uid, directory.uid):
        raise FsError(errno.EPERM, f"directory {directory.ino} is sticky and inode {victim.ino} is another's")


def keeps_setgid(gid: int, cred: Cred) -> bool:
    """Whether the caller may set the setgid bit of something that has group `gid`."""
    return not cred.enforce or cred.uid == 0 or in_group(cred, gid)


def without_suid(mode: int) -> int:
    """What writing to a file, or giving it away, leaves of its mode. Setgid without group-execute means mandatory locking
    and stays."""
    mode &= ~S_ISUID
    return mode & ~S_ISGID if mode & _GROUP_EXEC else mode
