"""How an inode ceases to be: everything that belongs to it goes, its slices are released. Only for inodes without names.

The ledger is the caller's, who may remove many inodes of one volume.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from metaserver.core import acl_store, extents, keys, lock_table, usage
from metaserver.core.slices import release

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.model import Inode
    from metaserver.core.txn import WriteTxn


class Toll(NamedTuple):
    """What a removal took: from the ledger, and slices that went to the delete queue."""

    bytes: int = 0
    inodes: int = 0
    slices: int = 0

    def plus(self, other: Toll) -> Toll:
        return Toll(self.bytes + other.bytes, self.inodes + other.inodes, self.slices + other.slices)


def remove(txn: WriteTxn, ctx: Context, inode: Inode) -> Toll:
    """Delete the inode and all that is its own."""
    queued = 0
    if inode.allocated:
        queued = _drop(txn, ctx, inode, list(txn.scan(keys.chunks(inode.ino))))
    if inode.xattr_bytes:
        for key in [key for key, _ in txn.scan(keys.xattrs(inode.ino))]:
            txn.delete(key)
        acl_store.disuse_all(txn, inode)
    if inode.is_symlink:
        txn.delete(keys.symlink(inode.ino))
    if inode.is_reg:
        lock_table.drop_inode(txn, inode.ino)
    txn.delete(keys.orphan(inode.ino))
    txn.delete(keys.inode(inode.ino))
    return Toll(usage.charged(inode.allocated), 1, queued)


def shrink(txn: WriteTxn, ctx: Context, inode: Inode, chunk_limit: int) -> tuple[Inode | None, Toll]:
    """Remove the inode if it has at most `chunk_limit` chunks; else take that many from its end and keep it."""
    if not inode.allocated:
        return None, remove(txn, ctx, inode)
    pairs = list(txn.scan(keys.chunks(inode.ino)))
    if len(pairs) <= chunk_limit:
        return None, remove(txn, ctx, inode)
    taken = pairs[len(pairs) - chunk_limit :]
    queued = _drop(txn, ctx, inode, taken)
    allocated = inode.allocated - sum(extents.allocated(value) for _, value in taken)
    left = inode._replace(allocated=allocated, version=ctx.version, data_version=ctx.version)
    return left, Toll(usage.charged(inode.allocated) - usage.charged(allocated), 0, queued)


def _drop(txn: WriteTxn, ctx: Context, inode: Inode, pairs: list[tuple[bytes, bytes]]) -> int:
    queued = 0
    for key, value in pairs:
        queued += release(txn, ctx, inode.volume, extents.slices(value))
        txn.delete(key)
    return queued
