"""Extended attributes: names, namespaces and who may touch them, as xattr(7) has it.

`user.` lives on regular files and directories only, on a sticky directory for its owner; `trusted.` is root's; `security.`
and `system.` are kept as bytes (the kernel gives them meaning). An inode knows the length of its list
(`Inode.xattr_bytes`), so that a limit is checked and an inode without any is removed without a scan. ACLs count there too,
but are no attributes otherwise (acl_change.py).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from metaserver.core import keys
from metaserver.core.errors import FsError
from metaserver.core.inode_flags import require_free
from metaserver.core.model import XATTR_NAME_MAX
from metaserver.core.permission import READ, S_ISVTX, WRITE, is_owner, require, require_owner, require_root

if TYPE_CHECKING:
    from metaserver.core.entry import Cred
    from metaserver.core.model import Inode
    from metaserver.core.txn import ReadTxn

USER: Final = b"user."
TRUSTED: Final = b"trusted."
SECURITY: Final = b"security."
SYSTEM: Final = b"system."
CAPABILITY: Final = b"security.capability"


def require_name(name: bytes) -> bytes:
    """The namespace: ERANGE for a length that is none, EOPNOTSUPP for an unknown namespace, EINVAL for nothing behind it."""
    if not 0 < len(name) <= XATTR_NAME_MAX:
        raise FsError(errno.ERANGE, f"an attribute's name has 1 to {XATTR_NAME_MAX} bytes, not {len(name)}")
    for space in (USER, SECURITY, SYSTEM, TRUSTED):
        if name.startswith(space):
            if len(name) == len(space) or b"\0" in name:
                raise FsError(errno.EINVAL, "an attribute's name has no NUL and something behind its namespace")
            return space
    raise FsError(errno.EOPNOTSUPP, "an attribute's namespace is user, trusted, security or system")


def require_change(txn: ReadTxn, inode: Inode, space: bytes, cred: Cred) -> None:
    """EPERM or EACCES when `cred` may not set or remove attributes of this namespace, or when the inode's flags forbid it."""
    if inode.flags:
        require_free(inode)
    if space == USER:
        if not (inode.is_reg or inode.is_dir):
            raise FsError(errno.EPERM, "user attributes are for regular files and directories")
        if cred.enforce and inode.is_dir and inode.mode & S_ISVTX and not is_owner(inode, cred):
            raise FsError(errno.EPERM, f"directory {inode.ino} is sticky and belongs to uid {inode.uid}")
        require(txn, inode, WRITE, cred)
    elif space == SYSTEM:
        require_owner(inode, cred)
    else:
        require_root(cred, f"{space.decode()}* attributes")


def require_sight(txn: ReadTxn, inode: Inode, space: bytes, cred: Cred) -> None:
    """ENODATA for what `cred` may not know of, EACCES for what it may not read."""
    if space == USER:
        if not (inode.is_reg or inode.is_dir):
            raise FsError(errno.ENODATA, "user attributes are for regular files and directories")
        require(txn, inode, READ, cred)
    elif space == TRUSTED and cred.enforce and cred.uid != 0:
        raise FsError(errno.ENODATA, "trusted attributes are root's")


def capability_key(txn: ReadTxn, inode: Inode) -> bytes | None:
    """The key of the file capabilities that a write or a change of owner takes away; None when there are none."""
    if not inode.xattr_bytes:
        return None
    key = keys.xattr(inode.ino, CAPABILITY)
    return key if txn.get(key) is not None else None


def listed(name: bytes) -> int:
    """What a name takes in the list."""
    return len(name) + 1
