"""set_lock: an owner of the session takes, changes or gives up a range of an inode.

Result: inode as it is when the lock is granted, so that the client sees what the holder before it wrote; count = 1 when it
is not granted but queued under (session, seq); granted: who got what was given up. EAGAIN when somebody is in the way and
`wait` is not set, EDEADLK when waiting would never end (record locks; flock waits for ever, as on Linux), ENOLCK beyond
the bounds of one inode, EINVAL for a range or a type that is none.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from metaserver.core import lock_table, locks
from metaserver.core.context import load_for
from metaserver.core.entry import LOCK_FLOCK, LOCK_RECORD, Result
from metaserver.core.errors import FsError
from metaserver.core.locks import F_UNLCK, LAST, Lock

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import SetLock
    from metaserver.core.txn import WriteTxn


def apply(txn: WriteTxn, ctx: Context, op: SetLock) -> Result:
    if not ctx.session or (op.wait and not ctx.seq):
        raise FsError(errno.EINVAL, "a lock belongs to a session, and whoever waits needs a seq")
    wanted = requested(ctx.session, op.owner, op.kind, op.type, op.first, op.last, op.pid)
    inode = load_for(txn, ctx, op.ino)
    if not inode.is_reg:
        raise FsError(errno.EINVAL, f"inode {op.ino} is no regular file: its locks are the kernel's own")
    before = lock_table.load(txn, op.ino, op.kind)
    blockers = before.blockers(wanted)
    if not blockers:
        after = before.set(wanted)
        if len(after.held) > max(locks.HELD_MAX, len(before.held)):
            raise FsError(errno.ENOLCK, f"{locks.HELD_MAX} locks are held on inode {op.ino}")
        granted = () if after == before else lock_table.store(txn, op.ino, op.kind, before, after)
        return Result(granted=granted) if op.type == F_UNLCK else Result(inode=inode, granted=granted)
    if not op.wait:
        raise FsError(errno.EAGAIN, f"owner {blockers[0].owner} of session {blockers[0].session} is in the way")
    if op.kind == LOCK_RECORD and lock_table.deadlock(txn, op.kind, wanted, blockers):
        raise FsError(errno.EDEADLK, f"owner {op.owner} would wait for itself")
    if len(before.waiters) >= locks.WAITERS_MAX:
        raise FsError(errno.ENOLCK, f"{locks.WAITERS_MAX} wait for a lock on inode {op.ino}")
    lock_table.store(txn, op.ino, op.kind, before, before.queue(ctx.seq, wanted))
    return Result(count=1)


def requested(session: int, owner: int, kind: int, type_: int, first: int, last: int, pid: int) -> Lock:
    """What a client asks for, as a lock. A flock is always the whole file. EINVAL when it makes no sense."""
    if kind == LOCK_FLOCK:
        first, last = 0, LAST
    if kind not in (LOCK_RECORD, LOCK_FLOCK) or not 0 <= type_ <= F_UNLCK or not 0 <= first <= last <= LAST:
        raise FsError(errno.EINVAL, f"no lock: kind {kind}, type {type_}, range {first}..{last}")
    if not (0 <= owner < 1 << 64 and 0 <= pid < 1 << 32):
        raise FsError(errno.EINVAL, f"owner {owner}, process {pid}")
    return Lock(session, owner, type_, first, last, pid)
