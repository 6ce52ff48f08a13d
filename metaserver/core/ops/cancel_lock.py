"""cancel_lock: the session gives up waiting for a lock. Result: count = 1 when there is no such wait: it was granted before.

Then the lock is held, and it is the client's to keep or to give back; it cannot be given back here, since what the owner
held of the range before is not known any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaserver.core import lock_table
from metaserver.core.entry import Result

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import CancelLock
    from metaserver.core.txn import WriteTxn


def apply(txn: WriteTxn, ctx: Context, op: CancelLock) -> Result:
    waiting = lock_table.wait(txn, ctx.session, op.seq) if 0 <= op.seq < 1 << 64 else None
    if waiting is None:
        return Result(count=1)
    locks = lock_table.load(txn, waiting.ino, waiting.kind)
    lock_table.store(txn, waiting.ino, waiting.kind, locks, locks.cancel(ctx.session, op.seq))
    return Result()
