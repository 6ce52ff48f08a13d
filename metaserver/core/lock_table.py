"""The locks in the state: one set per inode and kind, an index by session, and one by wait.

Every change goes through `store`, which keeps the three alike (I25) and grants to those who wait what has become free. The
index makes the end of a session cost what the session held, and not a look at every lock there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaserver.core import codec, keys
from metaserver.core.entry import LOCK_FLOCK, LOCK_RECORD
from metaserver.core.locks import Lock, LockSet, Owner, closes_a_circle, decode, encode

if TYPE_CHECKING:
    from metaserver.core.entry import Granted
    from metaserver.core.txn import ReadTxn, WriteTxn

NO_LOCKS = LockSet()


def load(txn: ReadTxn, ino: int, kind: int) -> LockSet:
    value = txn.get(keys.locks(ino, kind))
    return NO_LOCKS if value is None else decode(value)


def store(txn: WriteTxn, ino: int, kind: int, before: LockSet, after: LockSet) -> Granted:
    """Put `after` in the place of `before`, after granting what is free; who was granted, as (session, seq)."""
    after, granted = after.granted()
    if after.held:
        txn.put(keys.locks(ino, kind), encode(after))
    else:
        txn.delete(keys.locks(ino, kind))
    sessions_before, sessions = _sessions(before), _sessions(after)
    for session in sorted(sessions - sessions_before):
        txn.put(keys.locked_by(session, ino, kind), codec.MARK)
    for session in sorted(sessions_before - sessions):
        txn.delete(keys.locked_by(session, ino, kind))
    waits_before = {(one.lock.session, one.seq): one.lock for one in before.waiters}
    waits = {(one.lock.session, one.seq): one.lock for one in after.waiters}
    for (session, seq), lock in waits.items():
        if (session, seq) not in waits_before:
            txn.put(keys.lock_wait(session, seq), codec.encode_lock_wait(codec.LockWait(ino, kind, lock.owner)))
    for session, seq in waits_before.keys() - waits.keys():
        txn.delete(keys.lock_wait(session, seq))
    return tuple([(one.lock.session, one.seq) for one in granted])


def _sessions(locks: LockSet) -> set[int]:
    return {lock.session for lock in locks.held} | {one.lock.session for one in locks.waiters}


def wait(txn: ReadTxn, session: int, seq: int) -> codec.LockWait | None:
    """What the session waits for under that seq; None when it does not (any more)."""
    value = txn.get(keys.lock_wait(session, seq))
    return None if value is None else codec.decode_lock_wait(value)


def deadlock(txn: ReadTxn, kind: int, wanted: Lock, blockers: list[Lock]) -> bool:
    """Whether `wanted`, if it waited for `blockers`, would wait for itself. An owner that is no process does not count."""

    def waits_of(owner: Owner) -> list[list[Lock]]:
        found = []
        for _, value in txn.scan(keys.lock_waits(owner.session)):
            ino, of_kind, number = codec.decode_lock_wait(value)
            if number == owner.number and of_kind == kind:
                locks = load(txn, ino, kind)
                waiting = [one.lock for one in locks.waiters if one.lock.who == owner and one.lock.pid]
                found += [locks.blockers(lock) for lock in waiting]
        return found

    return bool(wanted.pid) and closes_a_circle(wanted.who, blockers, waits_of)


def drop_session(txn: WriteTxn, session: int) -> Granted:
    """The session holds nothing any more and waits for nothing; who was granted what it held."""
    granted: list[tuple[int, int]] = []
    for key in [key for key, _ in txn.scan(keys.locked_bys(session))]:
        ino, kind = keys.number_at(key, 9), key[17]
        locks = load(txn, ino, kind)
        granted += store(txn, ino, kind, locks, locks.without(session))
    return tuple(granted)


def drop_inode(txn: WriteTxn, ino: int) -> None:
    """The inode is removed. Nobody has it open, so nobody waits; a lock of it is one whose end is still on its way."""
    for kind in (LOCK_RECORD, LOCK_FLOCK):
        locks = load(txn, ino, kind)
        if locks.held:
            store(txn, ino, kind, locks, NO_LOCKS)
