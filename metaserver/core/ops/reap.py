"""reap: orphans that nobody holds open are removed, their slices released.

Result: count = inodes removed, first = inodes that lost `chunk_limit` chunks and wait for another Reap. An inode that got
a name, is gone, or never was an orphan is passed over: the leader's knowledge may be older than the state.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from metaserver.core import codec, death, directory, keys, usage
from metaserver.core.death import Toll
from metaserver.core.entry import Result
from metaserver.core.errors import FsError

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import Reap
    from metaserver.core.txn import WriteTxn


def apply(txn: WriteTxn, ctx: Context, op: Reap) -> Result:
    if op.chunk_limit < 1:
        raise FsError(errno.EINVAL, "chunk_limit is at least 1")
    tolls: dict[int, Toll] = {}
    waiting = 0
    for ino in op.inodes:
        value = txn.get(keys.inode(ino))
        if value is None or txn.get(keys.orphan(ino)) is None:
            continue
        inode = codec.decode_inode(ino, value)
        left, toll = death.shrink(txn, ctx, inode, op.chunk_limit)
        if left is not None:
            directory.store(txn, left)
            txn.put(keys.orphan(ino), codec.ORPHAN_MARK)  # what is half gone gets no name
            waiting += 1
        tolls[inode.volume] = tolls.get(inode.volume, Toll()).plus(toll)
    for volume, toll in tolls.items():
        usage.charge(txn, volume, usage.ledger(txn, volume), -toll.bytes, -toll.inodes)
    return Result(first=waiting, count=sum(toll.inodes for toll in tolls.values()))
