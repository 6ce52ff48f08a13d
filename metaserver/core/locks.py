"""The locks of one inode and kind: who holds which ranges, and who waits. Pure values; lock_table.py keeps them in the state.

Rules
 - A range is first..last, inclusive, at most 0..LAST. An owner is (session, number); it never conflicts with itself.
 - What an owner sets replaces what it held of that range: locks are split, cut and joined to the byte, so that an owner's
   locks are disjoint and two that touch differ in their type.
 - Two owners conflict where their ranges meet and one of the types is F_WRLCK. Only what is held blocks: a request that no held
   lock blocks is granted at once, also past others that wait, as Linux does.
 - Who waits is looked at in the order of arrival each time something was given up, again until nobody more is granted: a
   grant may itself give something up (a write lock that becomes a read lock).
 - Nobody waits whom no held lock blocks (I26).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from metaserver.core.errors import CorruptState

if TYPE_CHECKING:
    from collections.abc import Callable

F_RDLCK: Final = 0
F_WRLCK: Final = 1
F_UNLCK: Final = 2
LAST: Final = 2**63 - 1
#: Bounds of one inode and kind; beyond them, ENOLCK. A set is one value of the state.
HELD_MAX: Final = 2048
WAITERS_MAX: Final = 1024

_VERSION: Final = 1
_HEAD: Final = struct.Struct(">BHH")  # version, held, waiters
_LOCK: Final = struct.Struct(">QQBQQI")
_WAITER: Final = struct.Struct(">QQBQQIQ")


class Owner(NamedTuple):
    session: int
    number: int


class Lock(NamedTuple):
    """A range that is held, or that is wanted. `pid` 0: the owner is no process (an open file description)."""

    session: int
    owner: int
    type: int  # F_RDLCK or F_WRLCK; in a request also F_UNLCK
    first: int
    last: int
    pid: int

    @property
    def who(self) -> Owner:
        return Owner(self.session, self.owner)

    def blocks(self, wanted: Lock) -> bool:
        return (
            self.first <= wanted.last
            and wanted.first <= self.last
            and F_WRLCK in (self.type, wanted.type)
            and (self.owner != wanted.owner or self.session != wanted.session)
        )


class Waiter(NamedTuple):
    """A lock that will be granted, under the seq of the request that asked for it."""

    seq: int
    lock: Lock


class LockSet(NamedTuple):
    """`held` is sorted by range, `waiters` by arrival."""

    held: tuple[Lock, ...] = ()
    waiters: tuple[Waiter, ...] = ()

    def blockers(self, wanted: Lock) -> list[Lock]:
        """Who is in the way of `wanted`, lowest range first."""
        if wanted.type == F_UNLCK:
            return []
        return [lock for lock in self.held if lock.blocks(wanted)]

    def set(self, wanted: Lock) -> LockSet:
        """`wanted` is taken, changed or (F_UNLCK) given up by its owner. Nothing may block it."""
        return self._replace(held=_replaced(self.held, wanted))

    def queue(self, seq: int, wanted: Lock) -> LockSet:
        return self._replace(waiters=(*self.waiters, Waiter(seq, wanted)))

    def cancel(self, session: int, seq: int) -> LockSet:
        """The waiter is gone. Nobody waits for a waiter, so nobody is granted by that."""
        return self._replace(waiters=tuple([one for one in self.waiters if (one.lock.session, one.seq) != (session, seq)]))

    def without(self, session: int) -> LockSet:
        """Neither locks nor waiters of the session."""
        held = tuple([lock for lock in self.held if lock.session != session])
        return LockSet(held, tuple([one for one in self.waiters if one.lock.session != session]))

    def concerns(self, session: int) -> bool:
        """The session holds something here, or waits."""
        return any(lock.session == session for lock in self.held) or any(one.lock.session == session for one in self.waiters)

    def granted(self) -> tuple[LockSet, list[Waiter]]:
        """Whoever may be granted now has its lock; and who these are, in that order."""
        now, done = self, []
        while (found := next((one for one in now.waiters if not now.blockers(one.lock)), None)) is not None:
            done.append(found)
            now = LockSet(_replaced(now.held, found.lock), tuple([one for one in now.waiters if one is not found]))
        return now, done


def _replaced(held: tuple[Lock, ...], wanted: Lock) -> tuple[Lock, ...]:
    """`held` where the owner of `wanted` has that type, or nothing, in that range."""
    first, last = wanted.first, wanted.last
    kept: list[Lock] = []
    for lock in held:
        if lock.owner != wanted.owner or lock.session != wanted.session:
            kept.append(lock)
        elif lock.type == wanted.type and lock.first <= wanted.last + 1 and wanted.first <= lock.last + 1:
            first, last = min(first, lock.first), max(last, lock.last)  # it touches: one lock
        else:
            if lock.first < wanted.first:
                kept.append(lock._replace(last=min(lock.last, wanted.first - 1)))
            if lock.last > wanted.last:
                kept.append(lock._replace(first=max(lock.first, wanted.last + 1)))
    if wanted.type != F_UNLCK:
        kept.append(wanted._replace(first=first, last=last))
    return tuple(sorted(kept, key=_by_range))


def _by_range(lock: Lock) -> tuple[int, int, int, int]:
    return lock.first, lock.last, lock.session, lock.owner


def closes_a_circle(
    who: Owner, blockers: list[Lock], waits_of: Callable[[Owner], list[list[Lock]]], owners_max: int = 1000
) -> bool:
    """Whether those who block `who` wait, in the end, for `who`. `waits_of` gives, for each wait of an owner, what blocks it.
    Beyond `owners_max` owners the search is given up: rather a deadlock that is not found than one that is none."""
    seen: set[Owner] = set()
    ahead = [lock.who for lock in blockers]
    while ahead and len(seen) < owners_max:
        owner = ahead.pop()
        if owner == who:
            return True
        if owner not in seen:
            seen.add(owner)
            ahead += [lock.who for wait in waits_of(owner) for lock in wait]
    return False


# --- as bytes ---------------------------------------------------------------------------------------------------------


def encode(locks: LockSet) -> bytes:
    head = _HEAD.pack(_VERSION, len(locks.held), len(locks.waiters))
    held = [_LOCK.pack(*lock) for lock in locks.held]
    return b"".join([head, *held, *[_WAITER.pack(*one.lock, one.seq) for one in locks.waiters]])


def decode(value: bytes) -> LockSet:
    if len(value) < _HEAD.size or value[0] != _VERSION:
        raise CorruptState(f"locks: {len(value)} bytes that start with {value[:16].hex()}")
    _, held, waiters = _HEAD.unpack_from(value)
    middle = _HEAD.size + held * _LOCK.size
    if len(value) != middle + waiters * _WAITER.size or not held:
        raise CorruptState(f"locks: {len(value)} bytes for {held} locks and {waiters} waiters")
    view = memoryview(value)
    found = [Lock(*fields) for fields in _LOCK.iter_unpack(view[_HEAD.size : middle])]
    waiting = [Waiter(fields[-1], Lock(*fields[:-1])) for fields in _WAITER.iter_unpack(view[middle:])]
    return LockSet(tuple(found), tuple(waiting))
