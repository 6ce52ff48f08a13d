"""Locks: ranges beside a table of bytes, queues, deadlocks, and what sessions leave behind."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from core_world import World
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from metaserver.core import entry as e
from metaserver.core import invariants, keys, lock_table, locks, reads
from metaserver.core.entry import LOCK_FLOCK, LOCK_RECORD, ROOT, Item, Result
from metaserver.core.errors import CorruptState
from metaserver.core.locks import F_RDLCK, F_UNLCK, F_WRLCK, LAST, Lock, LockSet, Owner

if TYPE_CHECKING:
    from collections.abc import Sequence

#: A universe of bytes small enough to list: some at the start, some at the end of what a range may name.
BYTES = [*range(6), *range(LAST - 5, LAST + 1)]
TYPES = st.sampled_from([F_RDLCK, F_WRLCK, F_UNLCK])
POINTS = st.integers(0, len(BYTES) - 1)
OWNERS = [Owner(1, 1), Owner(1, 2), Owner(2, 1)]


class NaiveLocks:
    """owner -> byte -> type, and nothing cleverer."""

    def __init__(self) -> None:
        self.held: dict[Owner, dict[int, int]] = {owner: {} for owner in OWNERS}

    def blocks(self, owner: Owner, type_: int, wanted: Sequence[int]) -> bool:
        others = [types for other, types in self.held.items() if other != owner]
        return type_ != F_UNLCK and any(F_WRLCK in (type_, types[byte]) for types in others for byte in wanted if byte in types)

    def set(self, owner: Owner, type_: int, wanted: Sequence[int]) -> None:
        for byte in wanted:
            self.held[owner].pop(byte, None)
            if type_ != F_UNLCK:
                self.held[owner][byte] = type_


@settings(max_examples=400)
@given(st.lists(st.tuples(st.sampled_from(OWNERS), TYPES, POINTS, POINTS), max_size=30))
def test_ranges_are_what_a_table_of_bytes_says(calls: list[tuple[Owner, int, int, int]]) -> None:
    naive, mine = NaiveLocks(), LockSet()
    for owner, type_, one, other in calls:
        low, high = sorted((one, other))
        wanted = Lock(*owner, type_, BYTES[low], BYTES[high], 1)
        blocked = naive.blocks(owner, type_, BYTES[low : high + 1])
        blockers = mine.blockers(wanted)
        assert bool(blockers) == blocked
        if blocked:
            assert blockers == sorted(blockers, key=lambda lock: lock.first)
            continue
        naive.set(owner, type_, BYTES[low : high + 1])
        mine = mine.set(wanted)
        found = {
            owner: {
                byte: lock.type for lock in mine.held if lock.who == owner for byte in BYTES if lock.first <= byte <= lock.last
            }
            for owner in OWNERS
        }
        assert found == naive.held
        assert locks.decode(locks.encode(mine)) == mine if mine.held else True


def owned(*ranges: tuple[int, int, int], owner: int = 1) -> tuple[Lock, ...]:
    return tuple([Lock(1, owner, type_, first, last, 9) for type_, first, last in ranges])


@pytest.mark.parametrize(
    ("held", "wanted", "left"),
    [
        ([(F_WRLCK, 0, 9)], (F_UNLCK, 4, 4), [(F_WRLCK, 0, 3), (F_WRLCK, 5, 9)]),
        ([(F_WRLCK, 0, LAST)], (F_UNLCK, LAST, LAST), [(F_WRLCK, 0, LAST - 1)]),
        ([(F_WRLCK, 0, LAST)], (F_UNLCK, 0, 0), [(F_WRLCK, 1, LAST)]),
        ([(F_RDLCK, 0, 4), (F_RDLCK, 6, 9)], (F_RDLCK, 5, 5), [(F_RDLCK, 0, 9)]),
        ([(F_RDLCK, 0, 4)], (F_WRLCK, 5, 9), [(F_RDLCK, 0, 4), (F_WRLCK, 5, 9)]),
        ([(F_RDLCK, 0, 9)], (F_WRLCK, 3, 5), [(F_RDLCK, 0, 2), (F_WRLCK, 3, 5), (F_RDLCK, 6, 9)]),
        ([(F_RDLCK, 0, 2), (F_WRLCK, 3, 5), (F_RDLCK, 6, 9)], (F_RDLCK, 3, 5), [(F_RDLCK, 0, 9)]),
        ([(F_RDLCK, LAST - 1, LAST - 1)], (F_RDLCK, LAST, LAST), [(F_RDLCK, LAST - 1, LAST)]),
        ([(F_WRLCK, 5, 9)], (F_UNLCK, 0, LAST), []),
        ([(F_WRLCK, 5, 9)], (F_UNLCK, 0, 4), [(F_WRLCK, 5, 9)]),
    ],
)
def test_an_owners_ranges_are_split_and_joined(
    held: list[tuple[int, int, int]], wanted: tuple[int, int, int], left: list[tuple[int, int, int]]
) -> None:
    (request,) = owned(wanted)
    assert LockSet(owned(*held)).set(request).held == owned(*left)


@pytest.mark.parametrize("value", [b"", b"\x01\x00", b"\x02\0\x01\0\0", b"\x01\0\x01\0\0", b"\x01\0\0\0\0"])
def test_damaged_locks_are_noticed(value: bytes) -> None:
    with pytest.raises(CorruptState):
        locks.decode(value)


# --- in the state


class Room(World):
    """A file, and sessions that lock it."""

    def __init__(self) -> None:
        super().__init__()
        self.file = self.serve(e.Create(self.root, b"f", 0o644, 0, True, ROOT)).inode.ino  # type: ignore[union-attr]
        self.other = self.serve(e.Create(self.root, b"g", 0o644, 0, True, ROOT)).inode.ino  # type: ignore[union-attr]
        self.seqs: dict[int, int] = {}

    def ask(self, session: int, op: e.Op) -> tuple[int, Result]:
        """The seq that it was sent under, and its result; every invariant holds afterwards."""
        seq = self.seqs[session] = self.seqs.get(session, 0) + 1
        (result,) = self.apply(Item(session, seq, 0, op))
        assert invariants.check(self.txn) == []
        return seq, result

    def lock(
        self,
        session: int,
        owner: int,
        type_: int = F_WRLCK,
        first: int = 0,
        last: int = LAST,
        *,
        ino: int = 0,
        kind: int = LOCK_RECORD,
        wait: bool = False,
        pid: int = 77,
    ) -> tuple[int, Result]:
        return self.ask(session, e.SetLock(ino or self.file, owner, kind, type_, first, last, pid, wait))  # type: ignore[arg-type]


def test_a_lock_is_refused_while_another_owner_has_it() -> None:
    room = Room()
    second = room.open_session()
    _, taken = room.lock(room.session, 1)
    assert (taken.errno, taken.count) == (0, 0)
    assert taken.inode is not None
    assert taken.inode.ino == room.file
    assert room.lock(room.session, 2)[1].errno == errno.EAGAIN
    assert room.lock(second, 1)[1].errno == errno.EAGAIN, "the same number of another session is another owner"
    assert room.lock(room.session, 1, F_RDLCK)[1].errno == 0
    assert room.lock(second, 1, F_RDLCK)[1].errno == 0


def test_record_locks_and_flock_do_not_meet() -> None:
    room = Room()
    room.lock(room.session, 1)
    assert room.lock(room.session, 2, kind=LOCK_FLOCK)[1].errno == 0
    assert room.lock(room.session, 3, kind=LOCK_FLOCK)[1].errno == errno.EAGAIN


@pytest.mark.parametrize(
    "op",
    [
        e.SetLock(0, 1, 2, F_WRLCK, 0, 0, 0),  # type: ignore[arg-type]
        e.SetLock(0, 1, LOCK_RECORD, 3, 0, 0, 0),  # type: ignore[arg-type]
        e.SetLock(0, 1, LOCK_RECORD, F_WRLCK, 1, 0, 0),  # type: ignore[arg-type]
        e.SetLock(0, 1, LOCK_RECORD, F_WRLCK, 0, LAST + 1, 0),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_lock_is_refused(op: e.SetLock) -> None:
    room = Room()
    assert room.ask(room.session, e.SetLock(room.file, op.owner, op.kind, op.type, op.first, op.last, op.pid))[1].errno == (
        errno.EINVAL
    )
    assert room.ask(room.session, e.SetLock(room.root, 1, LOCK_RECORD, F_WRLCK, 0, 0, 0))[1].errno == errno.EINVAL
    assert room.serve(e.SetLock(room.file, 1, LOCK_RECORD, F_WRLCK, 0, 0, 0)).errno == errno.EINVAL
    assert room.do(e.SetLock(room.file, 1, LOCK_RECORD, F_WRLCK, 0, 0, 0, wait=True)).errno == errno.EINVAL


def test_who_waits_is_granted_in_the_order_of_arrival() -> None:
    room = Room()
    second = room.open_session()
    room.lock(room.session, 1)
    waits = [(second, 1), (room.session, 2), (second, 3)]
    seqs = []
    for session, owner in waits:
        seq, result = room.lock(session, owner, wait=True)
        assert (result.errno, result.count, result.inode) == (0, 1, None)
        assert reads.waits_for_lock(room.txn, session, seq)
        seqs.append((session, seq))
    holder = (room.session, 1)
    for (session, owner), granted in zip(waits, seqs, strict=True):
        assert room.lock(*holder, F_UNLCK)[1].granted == (granted,)
        assert not reads.waits_for_lock(room.txn, *granted)
        holder = (session, owner)
    assert room.lock(*holder, F_UNLCK)[1].granted == ()


def test_readers_are_granted_together_and_pass_a_writer_that_waits() -> None:
    room = Room()
    room.lock(room.session, 1)
    reader, _ = room.lock(room.session, 2, F_RDLCK, wait=True)
    writer, _ = room.lock(room.session, 3, F_WRLCK, wait=True)
    late, _ = room.lock(room.session, 4, F_RDLCK, wait=True)
    assert room.lock(room.session, 1, F_UNLCK)[1].granted == ((1, reader), (1, late))
    assert room.lock(room.session, 5, F_RDLCK)[1].errno == 0, "only what is held is in the way, as on Linux"
    for owner in (2, 4):
        assert room.lock(room.session, owner, F_UNLCK)[1].granted == ()
    assert room.lock(room.session, 5, F_UNLCK)[1].granted == ((1, writer),)


def test_a_downgrade_and_a_part_given_up_grant() -> None:
    room = Room()
    room.lock(room.session, 1, F_WRLCK, 0, 99)
    high, _ = room.lock(room.session, 2, F_WRLCK, 90, 95, wait=True)
    low, _ = room.lock(room.session, 3, F_RDLCK, 0, 5, wait=True)
    assert room.lock(room.session, 1, F_UNLCK, 90, 94)[1].granted == ()
    assert room.lock(room.session, 1, F_UNLCK, 95, 99)[1].granted == ((1, high),)
    assert room.lock(room.session, 1, F_RDLCK, 0, 9)[1].granted == ((1, low),)


def test_a_grant_that_gives_something_up_grants_again() -> None:
    """Owner 2 holds a write lock on 0..4 and waits to read 0..9: its grant turns the write lock into a read lock."""
    room = Room()
    room.lock(room.session, 2, F_WRLCK, 0, 4)
    room.lock(room.session, 1, F_WRLCK, 5, 9)
    reader, _ = room.lock(room.session, 3, F_RDLCK, 0, 4, wait=True)
    downgrade, _ = room.lock(room.session, 2, F_RDLCK, 0, 9, wait=True)
    assert room.lock(room.session, 1, F_UNLCK)[1].granted == ((1, downgrade), (1, reader))


def test_a_wait_that_is_given_up_leaves_nothing() -> None:
    room = Room()
    room.lock(room.session, 1)
    seq, _ = room.lock(room.session, 2, wait=True)
    assert room.ask(room.session, e.CancelLock(seq))[1].count == 0
    assert room.lock(room.session, 1, F_UNLCK)[1].granted == ()
    assert lock_table.load(room.txn, room.file, LOCK_RECORD) == LockSet()
    assert room.ask(room.session, e.CancelLock(seq))[1].count == 1


def test_giving_up_comes_too_late_after_the_grant() -> None:
    room = Room()
    room.lock(room.session, 1)
    seq, _ = room.lock(room.session, 2, wait=True)
    room.lock(room.session, 1, F_UNLCK)
    assert room.ask(room.session, e.CancelLock(seq))[1].count == 1
    assert room.lock(room.session, 1)[1].errno == errno.EAGAIN, "the lock is held, and for its owner to give back"


def test_a_session_cannot_give_up_anothers_wait() -> None:
    room = Room()
    second = room.open_session()
    room.lock(room.session, 1)
    seq, _ = room.lock(room.session, 2, wait=True)
    room.ask(second, e.CancelLock(seq))
    assert room.lock(room.session, 1, F_UNLCK)[1].granted == ((room.session, seq),)


@pytest.mark.parametrize("expired", [False, True])
def test_the_end_of_a_session_frees_its_locks_and_its_places(expired: bool) -> None:
    room = Room()
    second = room.open_session()
    third = room.open_session()
    room.lock(second, 1)
    room.lock(second, 1, ino=room.other, kind=LOCK_FLOCK)
    gone, _ = room.lock(second, 2, wait=True)
    first, _ = room.lock(room.session, 1, wait=True)
    flock, _ = room.lock(third, 1, ino=room.other, kind=LOCK_FLOCK, wait=True)
    result = room.serve(e.CloseSession(second, expired))
    assert set(result.granted) == {(room.session, first), (third, flock)}
    assert invariants.check(room.txn) == []
    assert not reads.waits_for_lock(room.txn, second, gone)


def test_a_write_of_an_expired_session_cannot_land_after_another_got_its_lock() -> None:
    room = Room()
    second = room.open_session()
    room.lock(second, 1)
    waiting, _ = room.lock(room.session, 1, wait=True)
    slices = room.serve(e.LeaseIds(e.LEASE_SLICES, 10)).first
    commit = e.CommitSlices(room.file, (e.NewSlice(0, 0, slices, 4, 0, 4, b"late"),), 0, False)  # type: ignore[arg-type]
    closing, late = Item(0, 0, 0, e.CloseSession(second, True)), Item(second, 9, 0, commit)
    results = room.apply(closing, late)
    assert results[0].granted == ((room.session, waiting),)
    assert results[1].errno == errno.ESTALE
    assert reads.getattr(room.txn, room.file).size == 0
    assert room.lock(second, 1)[1].errno == errno.ESTALE


def test_a_request_sent_again_gets_its_first_answer_and_grants_nobody_twice() -> None:
    room = Room()
    room.lock(room.session, 1)
    waiting = Item(room.session, 50, 0, e.SetLock(room.file, 2, LOCK_RECORD, F_WRLCK, 0, 9, 1, wait=True))  # type: ignore[arg-type]
    unlock = Item(room.session, 51, 0, e.SetLock(room.file, 1, LOCK_RECORD, F_UNLCK, 0, LAST, 1))  # type: ignore[arg-type]
    assert room.apply(waiting)[0].count == 1
    assert room.apply(waiting)[0].count == 1
    assert room.apply(unlock)[0].granted == ((room.session, 50),)
    before = dict(room.txn.data)
    assert room.apply(unlock)[0].granted == ()
    assert room.apply(waiting)[0].count == 1, "whoever asks again learns the rest by LockWait"
    assert {key: value for key, value in room.txn.data.items() if key != keys.TIME} == {
        key: value for key, value in before.items() if key != keys.TIME
    }


def test_locks_go_with_a_file_that_is_reaped() -> None:
    room = Room()
    room.lock(room.session, 1)
    room.lock(room.session, 2, wait=True)
    room.serve(e.Unlink(room.root, b"f", ROOT))
    assert room.serve(e.Reap((room.file,), 10)).count == 1
    assert invariants.check(room.txn) == []


def test_locks_go_with_a_volume_that_is_destroyed() -> None:
    room = Room()
    second = room.open_session()
    room.lock(room.session, 1)
    room.lock(second, 2, wait=True)
    while room.serve(e.DestroyVolume(room.volume, 10)).count:
        assert invariants.check(room.txn) == []
    assert invariants.check(room.txn) == []


def test_the_locks_of_a_file_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "HELD_MAX", 3)
    monkeypatch.setattr(locks, "WAITERS_MAX", 2)
    room = Room()
    for at in (0, 10, 20):
        assert room.lock(room.session, 1, F_WRLCK, at, at + 5)[1].errno == 0
    assert room.lock(room.session, 1, F_WRLCK, 30, 35)[1].errno == errno.ENOLCK
    assert room.lock(room.session, 1, F_UNLCK, 2, 2)[1].errno == errno.ENOLCK
    assert room.lock(room.session, 1, F_UNLCK, 0, 5)[1].errno == 0
    for owner in (2, 3):
        assert room.lock(room.session, owner, wait=True)[1].count == 1
    assert room.lock(room.session, 4, wait=True)[1].errno == errno.ENOLCK


def test_who_is_in_the_way() -> None:
    room = Room()
    room.lock(room.session, 1, F_WRLCK, 10, 19, pid=1234)
    room.lock(room.session, 1, F_RDLCK, 30, 39, pid=1234)
    ask = Lock(room.session, 2, F_RDLCK, 0, LAST, 0)
    assert reads.lock_in_the_way(room.txn, room.file, LOCK_RECORD, ask) == Lock(room.session, 1, F_WRLCK, 10, 19, 1234)
    assert reads.lock_in_the_way(room.txn, room.file, LOCK_RECORD, ask._replace(first=20)) is None
    assert reads.lock_in_the_way(room.txn, room.file, LOCK_RECORD, ask._replace(owner=1, type=F_WRLCK)) is None
    assert reads.lock_in_the_way(room.txn, room.file, LOCK_FLOCK, ask) is None


# --- deadlocks


def test_two_that_would_wait_for_each_other() -> None:
    room = Room()
    second = room.open_session()
    room.lock(room.session, 1, ino=room.file)
    room.lock(second, 1, ino=room.other)
    assert room.lock(room.session, 1, ino=room.other, wait=True)[1].count == 1
    assert room.lock(second, 1, ino=room.file, wait=True)[1].errno == errno.EDEADLK
    assert room.lock(second, 1, F_RDLCK, ino=room.file)[1].errno == errno.EAGAIN, "without waiting there is no deadlock"


def test_a_ring_of_many_on_one_file() -> None:
    room = Room()
    for owner in range(8):
        room.lock(room.session, owner, F_WRLCK, owner, owner)
    for owner in range(7):
        assert room.lock(room.session, owner, F_WRLCK, owner + 1, owner + 1, wait=True)[1].count == 1
    assert room.lock(room.session, 7, F_RDLCK, 0, 0, wait=True)[1].errno == errno.EDEADLK


def test_two_readers_that_both_want_to_write() -> None:
    room = Room()
    for owner in (1, 2):
        room.lock(room.session, owner, F_RDLCK)
    assert room.lock(room.session, 1, F_WRLCK, wait=True)[1].count == 1
    assert room.lock(room.session, 2, F_WRLCK, wait=True)[1].errno == errno.EDEADLK


def test_a_chain_that_ends_is_no_deadlock() -> None:
    room = Room()
    for owner in range(5):
        room.lock(room.session, owner, F_WRLCK, owner, owner)
    for owner in range(4):
        assert room.lock(room.session, owner, F_WRLCK, owner + 1, owner + 1, wait=True)[1].count == 1
    assert room.lock(room.session, 9, F_WRLCK, 0, 0, wait=True)[1].count == 1


def test_the_same_number_in_two_sessions_is_no_deadlock() -> None:
    room = Room()
    second = room.open_session()
    third = room.open_session()
    room.lock(room.session, 1, ino=room.file)
    room.lock(second, 1, ino=room.other)
    assert room.lock(third, 1, ino=room.file, wait=True)[1].count == 1
    assert room.lock(room.session, 1, ino=room.other, wait=True)[1].count == 1


@pytest.mark.parametrize(("kind", "pid"), [(LOCK_FLOCK, 77), (LOCK_RECORD, 0)])
def test_open_files_may_wait_for_each_other(kind: int, pid: int) -> None:
    """Any process that has them open can give their locks up, so nobody can tell that it is a deadlock."""
    room = Room()
    room.lock(room.session, 1, ino=room.file, kind=kind, pid=pid)
    room.lock(room.session, 2, ino=room.other, kind=kind, pid=pid)
    assert room.lock(room.session, 1, ino=room.other, kind=kind, wait=True, pid=pid)[1].count == 1
    assert room.lock(room.session, 2, ino=room.file, kind=kind, wait=True, pid=pid)[1].count == 1


def test_a_circle_through_an_open_file_is_no_deadlock() -> None:
    room = Room()
    room.lock(room.session, 1, ino=room.file)
    room.lock(room.session, 2, ino=room.other, pid=0)
    assert room.lock(room.session, 2, ino=room.file, wait=True, pid=0)[1].count == 1
    assert room.lock(room.session, 1, ino=room.other, wait=True)[1].count == 1


@settings(max_examples=300)
@given(st.dictionaries(st.integers(0, 5), st.lists(st.integers(0, 5), max_size=3), max_size=6), st.integers(0, 5))
def test_circles_are_what_a_closure_says(graph: dict[int, list[int]], start: int) -> None:
    reached: set[int] = set()
    ahead = list(graph.get(start, []))
    while ahead:
        node = ahead.pop()
        if node not in reached:
            reached.add(node)
            ahead += graph.get(node, [])

    def blockers(node: int) -> list[Lock]:
        return [Lock(1, other, F_WRLCK, 0, 0, 1) for other in graph.get(node, [])]

    found = locks.closes_a_circle(Owner(1, start), blockers(start), lambda owner: [blockers(owner.number)])
    assert found == (start in reached)


# --- the state beside the naive table, with queues and sessions


class LocksBesideTable(RuleBasedStateMachine):
    """A naive model of holders and queues; after each call the core holds the same locks and the same waiters."""

    @initialize()
    def start(self) -> None:
        self.room = Room()
        self.sessions = [self.room.session, self.room.open_session()]
        self.held: dict[Owner, dict[int, int]] = {}
        self.waiting: list[tuple[int, Owner, int, list[int]]] = []

    def blocked(self, owner: Owner, type_: int, wanted: list[int]) -> bool:
        return type_ != F_UNLCK and any(
            F_WRLCK in (type_, types[byte])
            for other, types in self.held.items()
            if other != owner
            for byte in wanted
            if byte in types
        )

    def put(self, owner: Owner, type_: int, wanted: list[int]) -> None:
        mine = self.held.setdefault(owner, {})
        for byte in wanted:
            mine.pop(byte, None)
            if type_ != F_UNLCK:
                mine[byte] = type_

    def grant(self) -> tuple[tuple[int, int], ...]:
        granted = []
        while True:
            free = [one for one in self.waiting if not self.blocked(*one[1:])]
            if not free:
                return tuple(granted)
            seq, owner, type_, wanted = free[0]
            self.waiting.remove(free[0])
            self.put(owner, type_, wanted)
            granted.append((owner.session, seq))

    @rule(who=st.integers(0, 1), number=st.integers(1, 3), type_=TYPES, one=POINTS, other=POINTS, wait=st.booleans())
    def set_lock(self, who: int, number: int, type_: int, one: int, other: int, wait: bool) -> None:
        owner = Owner(self.sessions[who], number)
        low, high = sorted((one, other))
        wanted = BYTES[low : high + 1]
        seq, result = self.room.lock(*owner, type_, wanted[0], wanted[-1], wait=wait, pid=0)
        if not self.blocked(owner, type_, wanted):
            self.put(owner, type_, wanted)
            assert (result.errno, result.count, result.granted) == (0, 0, self.grant())
        elif wait:
            self.waiting.append((seq, owner, type_, wanted))
            assert (result.errno, result.count) == (0, 1)
        else:
            assert result.errno == errno.EAGAIN

    @rule(which=st.integers(0, 5))
    def cancel(self, which: int) -> None:
        if self.waiting:
            seq, owner, _, _ = self.waiting.pop(which % len(self.waiting))
            assert self.room.ask(owner.session, e.CancelLock(seq))[1].count == 0

    @rule(who=st.integers(0, 1))
    def end_session(self, who: int) -> None:
        gone = self.sessions[who]
        self.held = {owner: types for owner, types in self.held.items() if owner.session != gone}
        self.waiting = [one for one in self.waiting if one[1].session != gone]
        assert self.room.serve(e.CloseSession(gone, True)).granted == self.grant()
        self.sessions[who] = self.room.open_session()

    @invariant()
    def same(self) -> None:
        found = lock_table.load(self.room.txn, self.room.file, LOCK_RECORD)
        table: dict[Owner, dict[int, int]] = {}
        for lock in found.held:
            table.setdefault(lock.who, {}).update({byte: lock.type for byte in BYTES if lock.first <= byte <= lock.last})
        assert table == {owner: types for owner, types in self.held.items() if types}
        assert [(one.seq, one.lock.who) for one in found.waiters] == [one[:2] for one in self.waiting]
        assert invariants.check(self.room.txn) == []


TestLocksBesideTable = LocksBesideTable.TestCase
TestLocksBesideTable.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
