"""The journal as the consensus code sees it: log, term and vote, members, and pysyncobj's view of them."""

from __future__ import annotations

import copy
import errno
import random
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from faulty_disk import Fault, FaultyDisk, InlineHousekeeper
from journal_harness import (
    DIRECTORY,
    IDENTITY,
    OPTIONS,
    add,
    change,
    contents,
    entry,
    fill,
    member,
    membership,
    opened,
    power_losses,
)
from pysyncobj.syncobj import _COMMAND_TYPE

from raft.base import BaseFile
from raft.errors import LogCorrupt, Refused, Stopped
from raft.identity import create
from raft.journal import _COMMAND_OF_KIND, Journal
from raft.membership import Membership, encode
from raft.record import DATA, MARKER, MEMBERSHIP, NOOP, Entry
from raft.reserve import Reserve
from raft.wal import Wal

if TYPE_CHECKING:
    from pathlib import Path


def with_term(disk: FaultyDisk, term: int = 1) -> Journal:
    journal = opened(disk)
    journal.save_vote(term, "")
    return journal


def trimmed(disk: FaultyDisk) -> Journal:
    """Entries 1 to 30, of which the first are gone; members were set by 3, 20 and 25."""
    journal = with_term(disk, 2)
    add(journal, entry(1), entry(2), change(3, 1, "n1"))
    fill(journal, 16)
    add(journal, change(20, 2, "n1", "n2"))
    fill(journal, 4)
    add(journal, change(25, 2, "n1", "n2", "n3"))
    fill(journal, 5)
    journal.trim(19)
    assert 3 < journal.base_index < 20
    return journal


# -- log ---------------------------------------------------------------------------------------------------------------------


def test_a_new_journal_is_empty() -> None:
    journal = opened(FaultyDisk())
    assert (journal.first_index, journal.last_index, journal.last_term, journal.durable_index) == (1, 0, 0, 0)
    assert (journal.base_index, journal.base_term, journal.term, journal.voted_for) == (0, 0, 0, "")
    assert journal.membership == journal.membership_at(0) == Membership()
    assert not journal.dirty
    assert journal.entries(1, 1000) == ()


def test_what_was_synced_is_there_again_with_its_kind(tmp_path: Path) -> None:
    """On the real file system."""
    journal = Journal.open(tmp_path, identity=IDENTITY, state_index=0)
    journal.save_vote(3, "n2")
    entries = [Entry(1, 1, b"a"), Entry(2, 2, b"", NOOP), change(3, 2, "n1"), Entry(4, 3, b"m", MARKER), Entry(5, 3, b"b")]
    journal.append(entries)
    assert journal.dirty
    assert journal.durable_index == 0
    journal.sync()
    assert not journal.dirty
    journal.append([Entry(6, 3, b"never synced")])
    journal.close()
    journal = Journal.open(tmp_path, identity=IDENTITY, state_index=5)
    assert contents(journal) == entries
    assert (journal.term, journal.voted_for, journal.last_term) == (3, "n2", 3)
    assert journal.membership == membership("n1", index=3)
    journal.close()


def test_entries_come_from_memory_while_they_are_recent_and_from_the_disk_when_not() -> None:
    disk = FaultyDisk()
    journal = with_term(disk)
    fill(journal, 40)
    expected = [entry(index) for index in range(1, 41)]
    reads: list[int] = []
    read, disk.read = disk.read, lambda fd, count, offset: reads.append(offset) or read(fd, count, offset)  # type: ignore[method-assign]
    tail = journal._tail.first
    assert 30 < tail < 40
    for first in range(1, 41):
        reads.clear()
        assert list(journal.entries(first, 1 << 20)) == expected[first - 1 :]
        assert list(journal.entries(first, 0)) == [expected[first - 1]]
        assert list(journal.entries(first, 1 << 20, 35)) == expected[first - 1 : 35]
        assert bool(reads) == (first < tail)
    reads.clear()
    assert [journal.term_at(index) for index in range(41)] == [0] + [1] * 40
    assert not reads


def test_reads_outside_of_the_log_are_refused() -> None:
    journal = trimmed(FaultyDisk())
    for index in (0, journal.base_index):
        with pytest.raises(ValueError, match="not in the log"):
            journal.entries(index, 10)
    for index in (journal.base_index - 1, 31):
        with pytest.raises(ValueError, match="the log has"):
            journal.term_at(index)
    assert journal.entries(31, 10) == ()
    assert journal.term_at(journal.base_index) == journal.base_term == 2


def test_an_entry_that_does_not_belong_there_is_refused_and_leaves_nothing() -> None:
    journal = with_term(FaultyDisk(), 2)
    add(journal, entry(1, 2))
    for wrong in (entry(3, 2), entry(2, 1), entry(2, 3), Entry(2, 2, b"\xff\xff", MEMBERSHIP), Entry(2, 2, b"", 9)):
        with pytest.raises(ValueError):  # noqa: PT011 (each says it in its own words)
            journal.append([wrong])
    with pytest.raises(Refused):
        journal.append([entry(2, 2), Entry(3, 2, bytes((16 << 20) + 1))])
    assert not journal.dirty
    add(journal, entry(2, 2))
    assert contents(journal) == [entry(1, 2), entry(2, 2)]


def test_a_full_disk_takes_back_everything_that_was_appended() -> None:
    disk = FaultyDisk()
    journal = with_term(disk, 2)
    add(journal, change(1, 1, "n1"))
    journal.append([entry(2, 2), change(3, 2, "n1", "n2"), entry(4, 2)])
    assert journal.membership == membership("n1", "n2", index=3)
    disk.plan(1, Fault.NO_SPACE)
    with pytest.raises(Refused) as refused:
        journal.sync()
    assert refused.value.errno == errno.ENOSPC
    assert (journal.last_index, journal.last_term, journal.durable_index) == (1, 1, 1)
    assert journal.membership == membership("n1", index=1)
    assert not journal.dirty
    add(journal, entry(2, 2))
    assert contents(journal) == contents(opened(disk.killed())) == [change(1, 1, "n1"), entry(2, 2)]


def test_a_failed_sync_stops_the_journal() -> None:
    disk = FaultyDisk()
    journal = with_term(disk)
    journal.append([entry(1)])
    disk.plan(1, Fault.SYNC_FAILS)
    for _ in range(2):
        with pytest.raises(Stopped):
            journal.sync()
    with pytest.raises(Stopped):
        journal.append([entry(2)])


def test_cutting_a_conflict_brings_back_term_and_members() -> None:
    disk = FaultyDisk()
    journal = with_term(disk, 3)
    add(journal, change(1, 1, "n1"), entry(2, 2), change(3, 2, "n1", "n2"), entry(4, 3))
    journal.append([change(5, 3, "n1", "n2", "n3")])
    assert journal.membership_at(4) == membership("n1", "n2", index=3)
    journal.truncate_after(4)
    assert (journal.last_index, journal.last_term, journal.membership.index) == (4, 3, 3)
    journal.truncate_after(2)
    assert (journal.last_index, journal.last_term, journal.durable_index) == (2, 2, 2)
    assert journal.membership == membership("n1", index=1)
    reopened = opened(disk.killed())
    assert (reopened.last_index, reopened.membership) == (2, membership("n1", index=1))
    journal.truncate_after(0)
    assert (journal.last_index, journal.last_term, journal.membership) == (0, 0, Membership())
    with pytest.raises(ValueError, match="cannot cut"):
        journal.truncate_after(1)


def test_nothing_below_the_base_can_be_cut() -> None:
    journal = trimmed(FaultyDisk())
    with pytest.raises(ValueError, match="cannot cut"):
        journal.truncate_after(journal.base_index - 1)
    base, term = journal.base_index, journal.base_term
    journal.truncate_after(base)
    assert (journal.last_index, journal.last_term) == (base, term)
    assert journal.membership == membership("n1", index=3)


def test_a_term_begins_where_its_first_entry_is() -> None:
    """What a follower tells a leader whose entries do not fit: the leader skips the whole term."""
    disk = FaultyDisk()
    journal = with_term(disk, 9)
    for index, term in enumerate([1, 1, 1, 4, 4, 9], 1):
        add(journal, entry(index, term))
    for each in (journal, opened(disk.killed())):
        assert [each.term_start(index) for index in range(7)] == [0, 1, 1, 1, 4, 4, 6]
        assert [each.term_at(index) for index in range(7)] == [0, 1, 1, 1, 4, 4, 9]


# -- trimming ----------------------------------------------------------------------------------------------------------------


def test_the_newest_bytes_stay_in_the_log_whatever_the_state_holds() -> None:
    journal = opened(FaultyDisk(), options=replace(OPTIONS, retain_bytes=3000))
    journal.save_vote(1, "")
    for _ in range(200):
        fill(journal, 1)
        journal.trim(journal.last_index)
        assert journal.size_bytes >= min(journal.last_index * 72, 3000)
        assert journal.size_bytes < 3000 + 2 * 512
    assert 100 < journal.base_index < 200
    assert contents(journal) == [entry(index) for index in range(journal.first_index, 201)]


def test_what_the_state_does_not_hold_is_not_trimmed() -> None:
    journal = with_term(FaultyDisk())
    fill(journal, 60)
    for index in (0, 3, 17, 40, 1000):
        journal.trim(index)
        assert journal.base_index <= index
    assert journal.last_index == 60


def test_members_survive_the_entry_that_set_them() -> None:
    disk = FaultyDisk()
    journal = trimmed(disk)
    for each in (journal, opened(disk.killed(), 24)):
        assert each.membership == membership("n1", "n2", "n3", index=25)
        assert each.membership_at(24) == membership("n1", "n2", index=20)
        assert each.membership_at(19) == each.membership_at(each.base_index) == membership("n1", index=3)
        with pytest.raises(ValueError, match="no longer known"):
            each.membership_at(2)


def test_without_space_for_the_members_nothing_is_trimmed() -> None:
    disk = FaultyDisk()
    journal = with_term(disk)
    add(journal, change(1, 1, "n1"))
    fill(journal, 20)
    disk.remove(f"{DIRECTORY}/reserve")  # somebody did
    journal.trim(0)
    disk.plan(1, Fault.NO_SPACE)
    journal.trim(20)
    assert journal.base_index == 0
    journal.trim(20)
    assert journal.base_index > 10
    assert opened(disk.killed(), 20).membership == membership("n1", index=1)


def test_members_that_cannot_be_saved_for_another_reason_stop_the_journal() -> None:
    disk = FaultyDisk()
    journal = with_term(disk)
    add(journal, change(1, 1, "n1"))
    fill(journal, 20)
    disk.plan(2, Fault.SYNC_FAILS)
    for _ in range(2):
        with pytest.raises(Stopped):
            journal.trim(20)
    assert journal.base_index == 0


# -- term and vote -----------------------------------------------------------------------------------------------------------


def test_a_vote_is_durable_before_save_vote_returns() -> None:
    disk = FaultyDisk()
    journal = opened(disk)
    journal.save_vote(3, "n2")
    assert (journal.term, journal.voted_for) == (3, "n2")
    for seed in range(5):
        assert opened(disk.rebooted(random.Random(seed))).voted_for == "n2"


def test_a_promise_is_never_taken_back() -> None:
    journal = opened(FaultyDisk())
    journal.save_vote(3, "")
    journal.save_vote(3, "n2")
    for term, vote in ((3, "n1"), (3, ""), (2, ""), (2, "n2")):
        with pytest.raises(ValueError, match="take back"):
            journal.save_vote(term, vote)
    journal.save_vote(4, "n1")


def test_saving_what_is_saved_writes_nothing() -> None:
    disk = FaultyDisk()
    journal = opened(disk)
    journal.save_vote(3, "n2")
    writes = len(disk.writes)
    journal.save_vote(3, "n2")
    assert len(disk.writes) == writes


# -- opening and closing -----------------------------------------------------------------------------------------------------


def test_one_journal_at_a_time_and_closing_gives_everything_back() -> None:
    disk = FaultyDisk()
    journal = with_term(disk)
    with pytest.raises(OSError, match="in use"):
        opened(disk)
    journal.close()
    journal.close()
    for call in (lambda: journal.append([entry(1)]), journal.sync, lambda: journal.save_vote(5, "")):
        with pytest.raises(Stopped):
            call()
    opened(disk).close()


def test_a_start_that_fails_leaves_nothing_open() -> None:
    disk = FaultyDisk()
    journal = with_term(disk)
    fill(journal, 3)
    journal.close()
    for _ in range(2):
        with pytest.raises(LogCorrupt):
            opened(disk, 9)
    assert not disk._handles
    assert not disk._locks
    assert opened(disk, 3).last_index == 3


def test_another_nodes_directory_is_refused() -> None:
    disk = FaultyDisk()
    other = create(disk, DIRECTORY, IDENTITY.cluster_id, lambda: uuid.UUID(int=99))
    with pytest.raises(LogCorrupt, match="identity"):
        opened(disk)
    opened(disk, identity=other).close()


def test_members_that_cannot_be_read_keep_the_node_down() -> None:
    disk = FaultyDisk()
    wal = Wal.open(f"{DIRECTORY}/wal", OPTIONS.wal, disk=disk, owner=IDENTITY.owner, housekeeper=InlineHousekeeper())
    wal.append([entry(1), Entry(2, 1, b"\xff\xff", MEMBERSHIP)])
    wal.sync()
    wal.close()
    with pytest.raises(LogCorrupt, match="members in entry 2"):
        opened(disk)


# -- snapshots ---------------------------------------------------------------------------------------------------------------


def test_after_a_snapshot_the_log_continues_behind_it() -> None:
    disk = FaultyDisk()
    journal = with_term(disk, 5)
    add(journal, change(1, 1, "n1"), entry(2), change(3, 1, "n9"))
    snapshot = (100, 4, membership("n1", "n2", index=60))
    journal.prepare_reset(*snapshot)
    assert (journal.last_index, journal.membership.index) == (3, 3)
    journal.reset(*snapshot)
    for each in (journal, opened(disk.killed(), 100)):
        assert (each.first_index, each.last_index, each.durable_index) == (101, 100, 100)
        assert (each.base_index, each.base_term, each.last_term) == (100, 4, 4)
        assert each.membership == each.membership_at(100) == membership("n1", "n2", index=60)
    add(journal, entry(101, 5), change(102, 5, "n1"))
    assert contents(journal) == [entry(101, 5), change(102, 5, "n1")]
    assert opened(disk.killed(), 100).membership == membership("n1", index=102)


def test_a_snapshot_that_the_log_agrees_with_removes_nothing_that_was_acknowledged() -> None:
    """Raft, section 7: it may be late, while the entries behind it were counted on."""
    disk = FaultyDisk()
    journal = with_term(disk, 2)
    add(journal, change(1, 1, "n1"), entry(2), entry(3, 2), change(4, 2, "n1", "n2"), entry(5, 2))
    for index in (3, 5):
        term, then = journal.term_at(index), journal.membership_at(index)
        journal.prepare_reset(index, term, then)
        journal.reset(index, term, then)
        for each in (journal, opened(disk.killed(), index)):
            assert (each.last_index, each.durable_index) == (5, 5)
            assert each.membership == membership("n1", "n2", index=4)
            assert each.membership_at(index) == then


def test_a_snapshot_does_not_rest_on_entries_that_are_not_durable() -> None:
    disk = FaultyDisk()
    journal = with_term(disk)
    add(journal, change(1, 1, "n1"))
    journal.append([entry(2), entry(3)])
    journal.reset(3, 1, membership("n1", index=1))
    assert (journal.base_index, journal.last_index, journal.durable_index) == (3, 3, 3)
    assert opened(disk.killed(), 3).last_index == 3


def test_a_snapshot_that_the_log_contradicts_replaces_it() -> None:
    disk = FaultyDisk()
    journal = with_term(disk, 3)
    add(journal, change(1, 1, "n1"), entry(2), entry(3, 2), change(4, 2, "n1", "n2"), entry(5, 2))
    journal.reset(4, 3, membership("n1", index=1))
    assert (journal.first_index, journal.last_index, journal.last_term) == (5, 4, 3)
    assert journal.membership == membership("n1", index=1)
    with pytest.raises(ValueError, match="cannot cut"):
        journal.truncate_after(3)


def test_a_snapshot_is_at_a_possible_place() -> None:
    journal = trimmed(FaultyDisk())
    for index, term, then in (
        (0, 0, Membership()),
        (40, 9, Membership()),
        (40, 2, membership("n1", index=41)),
        (2, 1, Membership()),
    ):
        with pytest.raises(ValueError, match="snapshot"):
            journal.prepare_reset(index, term, then)


def test_a_cancelled_snapshot_leaves_no_trace() -> None:
    disk = FaultyDisk()
    journal = with_term(disk, 3)
    journal.cancel_reset()
    assert not journal._base.exists
    add(journal, change(1, 1, "n1"))
    journal.prepare_reset(50, 2, membership("n2", index=40))
    journal.cancel_reset()
    fill(journal, 49)
    journal.close()
    wal = [path for path in disk.names if "/wal/" in path]
    for path in wal:
        del disk.names[path]
    with pytest.raises(LogCorrupt):  # the state is where the snapshot would have been, but it came there by the log
        opened(disk, 50)


def test_a_reset_without_space_can_be_repeated() -> None:
    for at in range(1, 12):
        disk = FaultyDisk()
        journal = with_term(disk, 3)
        add(journal, change(1, 1, "n1"))
        snapshot = (50, 2, membership("n2", index=40))
        journal.prepare_reset(*snapshot)
        disk.plan(at, Fault.NO_SPACE)
        try:
            journal.reset(*snapshot)
        except Refused:
            journal.reset(*snapshot)
        except Stopped:
            journal.close()
            journal = opened(disk, 50)
        assert (journal.base_index, journal.base_term, journal.membership) == snapshot
        assert (opened(disk.killed(), 50).membership) == snapshot[2]


# -- power losses ------------------------------------------------------------------------------------------------------------


def test_power_may_fail_at_any_change_while_a_snapshot_is_installed() -> None:
    """Until `install` returns the old state is there and must find the old members and the old log; from then on the new."""
    old, new = membership("n1", index=2), membership("n1", "n2", index=60)
    state = 0

    def make() -> FaultyDisk:
        nonlocal state
        disk = FaultyDisk()
        journal = with_term(disk, 5)
        add(journal, entry(1), change(2, 1, "n1"), entry(3, 4))
        journal.close()
        state = 3
        return disk

    def install(disk: FaultyDisk) -> None:
        nonlocal state
        journal = opened(disk, state)
        journal.prepare_reset(100, 4, new)
        state = 100
        journal.reset(100, 4, new)
        add(journal, entry(101, 5))

    seen = set()
    for what, disk in power_losses(make, install):
        journal = opened(disk, state)
        if state == 3:
            assert (contents(journal), journal.membership) == ([entry(1), change(2, 1, "n1"), entry(3, 4)], old), what
        else:
            assert (journal.base_index, journal.base_term, journal.membership) == (100, 4, new), what
            assert contents(journal) in ([], [entry(101, 5)]), what
        assert journal._base.value.pending is None
        fill(journal, 1)
        journal.close()
        assert opened(disk, state).membership == journal.membership
        seen.add((state, journal.last_index))
    assert {state for state, _ in seen} == {3, 100}


def test_a_reset_that_was_not_prepared_is_safe_once_it_is_on_record() -> None:
    """The caller should have prepared it; from the first durable step on it makes no difference."""

    def make() -> FaultyDisk:
        disk = FaultyDisk()
        journal = with_term(disk, 5)
        add(journal, entry(1), change(2, 1, "n1"))
        journal.close()
        return disk

    completed = 0
    for what, disk in power_losses(make, lambda disk: opened(disk, 2).reset(100, 4, membership("n2", index=9))):
        base = BaseFile(copy.deepcopy(disk), DIRECTORY, Reserve(FaultyDisk(), DIRECTORY))
        if base.value.pending is not None:
            journal = opened(disk, 100)
            assert (journal.base_index, journal.last_index, journal.membership.index) == (100, 100, 9), what
            completed += 1
    assert completed


def test_power_may_fail_at_any_change_while_the_log_is_trimmed() -> None:
    def trim(disk: FaultyDisk) -> None:
        journal = opened(disk, 24)
        journal.trim(10)
        journal.trim(24)
        journal.trim(30)

    def make() -> FaultyDisk:
        disk = FaultyDisk()
        journal = opened(disk, options=replace(OPTIONS, retain_bytes=1 << 20))
        journal.save_vote(2, "")
        add(journal, entry(1), entry(2), change(3, 1, "n1"))
        fill(journal, 16)
        add(journal, change(20, 2, "n1", "n2"))
        fill(journal, 9)
        journal.trim(30)
        assert journal.base_index == 0
        journal.close()
        return disk

    bases, guarded = set(), 0
    for what, disk in power_losses(make, trim):
        journal = opened(disk, 24)
        bases.add(journal.base_index)
        assert journal.last_index == 29, what
        assert contents(journal)[-5:] == [entry(index, 2) for index in range(25, 30)], what
        assert journal.membership == journal.membership_at(24) == membership("n1", "n2", index=20), what
        if journal.base_index < 20 and journal._base.value.membership.index < 20:
            assert journal.membership_at(19) == membership("n1", index=3), what
        elif journal.base_index < 19:
            with pytest.raises(ValueError, match="cannot cut"):  # the members of 20 were stored because it is committed
                journal.truncate_after(19)
            guarded += 1
    assert len(bases) > 2
    assert guarded


def test_power_may_fail_at_any_change_while_a_conflict_is_cut() -> None:
    before = [change(1, 1, "n1"), *(entry(index) for index in range(2, 9)), change(9, 1, "n2"), entry(10)]

    def make() -> FaultyDisk:
        disk = FaultyDisk()
        journal = with_term(disk, 2)
        add(journal, *before)
        journal.close()
        return disk

    def cut(disk: FaultyDisk) -> None:
        opened(disk, 4).truncate_after(4)

    lengths = set()
    for what, disk in power_losses(make, cut):
        journal = opened(disk, 4)
        lengths.add(journal.last_index)
        assert contents(journal) == before[: journal.last_index], what
        assert journal.membership == (membership("n2", index=9) if journal.last_index == 10 else membership("n1", index=1))
    assert lengths == {4, 10}


# -- pysyncobj ---------------------------------------------------------------------------------------------------------------


def test_commands_begin_with_the_types_of_pysyncobj() -> None:
    assert _COMMAND_OF_KIND[DATA][0] == _COMMAND_TYPE.REGULAR
    assert _COMMAND_OF_KIND[NOOP][0] == _COMMAND_TYPE.NO_OP
    assert _COMMAND_OF_KIND[MEMBERSHIP][0] == _COMMAND_TYPE.MEMBERSHIP
    known = {value for name, value in vars(_COMMAND_TYPE).items() if not name.startswith("_")}
    assert _COMMAND_OF_KIND[MARKER][0] not in known


def test_pysyncobj_sees_the_base_as_the_first_item() -> None:
    journal = with_term(FaultyDisk(), 2)
    assert len(journal) == 1
    assert journal[0] == journal[-1] == (b"\1", 0, 0)
    change_1 = change(4, 2, "n1")
    for command, index in ((b"\0one", 1), (b"\1", 2), (b"\4mark", 3), (b"\2" + change_1.payload, 4)):
        journal.add(command, index, 2)
    assert journal.dirty
    journal.sync()
    assert len(journal) == 5
    assert journal[1] == (b"\0one", 1, 2)
    assert journal[1:] == [journal[1], (b"\1", 2, 2), (b"\4mark", 3, 2), (b"\2" + change_1.payload, 4, 2)]
    assert journal[-1][1] == 4
    assert journal.membership.index == 4
    assert encode(journal.membership) == change_1.payload
    with pytest.raises(IndexError):
        journal[5]
    journal.deleteEntriesFrom(3)
    assert journal.last_index == 2
    with pytest.raises(ValueError, match="cannot cut"):
        journal.deleteEntriesFrom(0)
    journal.clear()
    assert (len(journal), journal[0]) == (1, (b"\1", 0, 0))
    for command in (b"", b"\3version", b"\x80pickle"):
        with pytest.raises(ValueError, match="no command"):
            journal.add(command, 1, 2)


def test_pysyncobj_positions_follow_the_base() -> None:
    journal = trimmed(FaultyDisk())
    base = journal.base_index
    assert journal[0] == (b"\1", base, 2)
    assert journal[1][1] == base + 1
    journal.deleteEntriesTo(25 - base)
    assert base < journal.base_index <= 25
    assert journal[0][1] == journal.base_index == journal.getRaftCommitIndex()
    assert len(journal) == 31 - journal.base_index
    journal.setCurrentTerm(3, None)
    assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) == (3, None)
    journal.setCurrentTerm(3, "n1")
    assert journal.getVotedForNodeId() == "n1"
    journal.onOneSecondTimer()
    journal._destroy()
    with pytest.raises(Stopped):
        journal.sync()


def test_members_are_named_by_their_seat() -> None:
    assert member("n1").name in membership("n1", "n2")
