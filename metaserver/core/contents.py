"""What a change of its contents does to a regular file beside its extents: size, times, allocation, privileges, usage.

`prepare` decides (and may refuse with ENOSPC), `write` only writes. The extents are their op's own.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple

from metaserver.core import directory, usage, xattrs
from metaserver.core.errors import FsError
from metaserver.core.permission import without_suid

if TYPE_CHECKING:
    from metaserver.core.codec import Ledger
    from metaserver.core.context import Context
    from metaserver.core.model import Inode
    from metaserver.core.txn import ReadTxn, WriteTxn


class Contents(NamedTuple):
    """A decided change: the inode as it will be, and what else `write` needs."""

    inode: Inode
    held: Ledger
    charged: int  # bytes that the volume holds more
    capability: bytes | None  # key of security.capability, when it goes


def require_regular(inode: Inode, otherwise: int = errno.EINVAL) -> None:
    """EISDIR for a directory, `otherwise` for anything else that has no contents."""
    if not inode.is_reg:
        raise FsError(errno.EISDIR if inode.is_dir else otherwise, f"inode {inode.ino} is not a regular file")


def prepare(
    txn: ReadTxn, ctx: Context, inode: Inode, held: Ledger, *, size: int, more: int, kill_priv: bool, mtime_ns: int = 0
) -> Contents:
    """Decide a change after which `more` bytes are allocated. `mtime_ns` 0: the entry's time."""
    allocated = inode.allocated + more
    charged = usage.charged(allocated) - usage.charged(inode.allocated)
    usage.require_bytes(held, charged)
    capability = xattrs.capability_key(txn, inode) if kill_priv else None
    changed = inode._replace(
        mode=without_suid(inode.mode) if kill_priv else inode.mode,
        size=size,
        allocated=allocated,
        mtime_ns=mtime_ns or ctx.now_ns,
        ctime_ns=ctx.now_ns,
        version=ctx.version,
        data_version=ctx.version,
        xattr_bytes=inode.xattr_bytes - (xattrs.listed(xattrs.CAPABILITY) if capability is not None else 0),
    )
    return Contents(changed, held, charged, capability)


def write(txn: WriteTxn, decided: Contents) -> None:
    inode, held, charged, capability = decided
    if capability is not None:
        txn.delete(capability)
    if charged:
        usage.charge(txn, inode.volume, held, charged, 0)
    directory.store(txn, inode)
