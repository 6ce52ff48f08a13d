"""lease_ids: numbers for inodes or slices, to be used by the session later. Result: first, count.

A leased inode number is written down, because an op names it again and it must be used once. A slice number is not: that
it was given is enough. What is not used is lost; there are enough.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from metaserver.core import birth, codec, keys
from metaserver.core.entry import LEASE_INODES, LEASE_SLICES, Result
from metaserver.core.errors import FsError

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import LeaseIds
    from metaserver.core.txn import WriteTxn

COUNT_MAX: Final = 1 << 20
_COUNTERS: Final = {LEASE_INODES: keys.NEXT_INO, LEASE_SLICES: keys.NEXT_SLICE}


def apply(txn: WriteTxn, ctx: Context, op: LeaseIds) -> Result:
    counter = _COUNTERS.get(op.kind)
    if counter is None or not 0 < op.count <= COUNT_MAX:
        raise FsError(errno.EINVAL, f"lease of {op.count} numbers of kind {op.kind}")
    first = birth.counter(txn, counter)
    if op.kind == LEASE_INODES:
        value = txn.get(keys.lease(ctx.session))
        ranges = [] if value is None else codec.decode_ranges(value)
        ranges.append((first, first + op.count - 1))
        birth.put_lease(txn, ctx.session, ranges[-birth.RANGES_MAX :])
    txn.put(counter, codec.encode_counter(first + op.count))
    return Result(first=first, count=op.count)
