"""Hazards E4 to E9 of stock pysyncobj, as they were found there, on this journal (docs/RAFT.md lists them all)."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from faulty_disk import Fault, FaultyDisk, MemoryFile, PowerLoss
from journal_harness import DIRECTORY, OPTIONS, add, change, contents, entry, fill, membership, opened, power_losses

from raft.errors import LogCorrupt

if TYPE_CHECKING:
    from raft.journal import Journal


def node(disk: FaultyDisk, entries: int) -> Journal:
    """A journal with that many entries, one sync each, the third of which sets the members."""
    journal = opened(disk)
    journal.save_vote(2, "n1")
    add(journal, entry(1), entry(2), change(3, 1, "n1", "n2"))
    fill(journal, entries - 3)
    return journal


def expected(first: int, last: int) -> list[object]:
    return [entry(index, 2) for index in range(first, last + 1)]


def wal_files(disk: FaultyDisk) -> list[MemoryFile]:
    return [disk.names[path] for path in sorted(disk.names) if path.endswith(".wal")]


def test_e4_a_clean_restart_after_compaction_loses_nothing() -> None:
    """Stock: with a journal file and no dump file, compaction trims the file, and 200 acknowledged entries are 0."""
    disk = FaultyDisk()
    journal = node(disk, 200)
    journal.trim(150)
    journal.close()
    journal = opened(disk, 150)
    assert 100 < journal.base_index <= 150
    assert contents(journal) == expected(journal.first_index, 200)
    assert journal.membership == membership("n1", "n2", index=3)


def test_e4_a_log_that_lacks_what_the_state_needs_is_refused() -> None:
    disk = FaultyDisk()
    journal = node(disk, 200)
    journal.trim(150)
    journal.close()
    with pytest.raises(LogCorrupt, match="those between are missing"):
        opened(disk, 50)


def test_e5_a_state_ahead_of_the_log_never_clears_the_log() -> None:
    """Stock: acknowledged to 101, dump and journal differ after a crash, the journal is cleared and the log ends at 51."""
    disk = FaultyDisk()
    node(disk, 51).close()
    before = {path: bytes(file.cached) for path, file in disk.names.items() if path.endswith(".wal")}
    with pytest.raises(LogCorrupt, match="lost acknowledged writes, or the log is an old copy"):
        opened(disk, 101)
    assert {path: bytes(file.cached) for path, file in disk.names.items() if path.endswith(".wal")} == before
    assert contents(opened(disk, 51))[-1] == entry(51, 2)


def test_e5_a_state_behind_the_log_replays_the_rest() -> None:
    disk = FaultyDisk()
    node(disk, 101).close()
    journal = opened(disk, 51)
    assert list(journal.entries(52, 1 << 20)) == expected(52, 101)


def test_e6_a_kill_during_compaction_loses_nothing() -> None:
    """Stock: 28 of 30 kills lost entries, because the file is cleared and written again."""

    def make() -> FaultyDisk:
        disk = FaultyDisk()
        journal = opened(disk, options=replace(OPTIONS, retain_bytes=1 << 20))
        journal.save_vote(2, "n1")
        add(journal, entry(1), entry(2), change(3, 1, "n1", "n2"))
        fill(journal, 37)
        journal.close()
        return disk

    def compact(disk: FaultyDisk) -> None:
        opened(disk, 30).trim(30)

    bases = set()
    for what, disk in power_losses(make, compact):
        journal = opened(disk, 30)
        assert contents(journal)[-10:] == expected(31, 40), what
        assert journal.membership == membership("n1", "n2", index=3), what
        bases.add(journal.base_index)
    assert len(bases) > 1


@pytest.mark.parametrize("start", [0, 4096 - 512, 4096])
def test_e7_a_zeroed_sector_of_an_acknowledged_entry_is_refused(start: int) -> None:
    """Stock: a zeroed page crashes the constructor, a half-written record opens silently."""
    disk = FaultyDisk()
    node(disk, 30).close()
    for data in (wal_files(disk)[0].cached, wal_files(disk)[0].durable):
        data[start : start + 512] = bytes(512)
    with pytest.raises(LogCorrupt, match=r"\.wal: offset"):
        opened(disk, 20)


def test_e7_no_flipped_bit_is_read_as_an_entry() -> None:
    """Stock: opens silently. Here: refused, or (in the last record, where it looks like a write that did not finish) cut; and
    when the state already holds that record, refused all the same."""
    origin = FaultyDisk()
    node(origin, 12).close()
    written = [entry(1), entry(2), change(3, 1, "n1", "n2"), *expected(4, 12)]
    cut = 0
    for number, file in enumerate(wal_files(origin)):
        for at in range(0, len(bytes(file.cached).rstrip(b"\0")), 7):
            disk = copy.deepcopy(origin)
            for data in (wal_files(disk)[number].cached, wal_files(disk)[number].durable):
                data[at] ^= 1 << at % 8
            with pytest.raises(LogCorrupt):
                opened(copy.deepcopy(disk), 12)
            try:
                journal = opened(disk, 5)
            except LogCorrupt:
                continue
            assert contents(journal) == written[:-1]
            cut += 1
    assert cut > 5


def test_e7_a_torn_batch_is_cut_to_a_prefix_that_was_never_acknowledged() -> None:
    for seed in range(60):
        disk = FaultyDisk()
        journal = node(disk, 10)
        batch = [entry(index, 2, 300) for index in range(11, 17)]
        journal.append(batch)
        disk.plan(1, Fault.POWER)
        with pytest.raises(PowerLoss):
            journal.sync()
        journal = opened(disk.rebooted(random.Random(seed)), 10)
        found = list(journal.entries(11, 1 << 20))
        assert found == batch[: len(found)], seed


def test_e8_a_vote_is_never_cast_twice() -> None:
    """Stock: the file of term and vote is renamed without fsync; emptied by a power loss, it makes a second vote in term 7."""

    def make() -> FaultyDisk:
        disk = FaultyDisk()
        journal = opened(disk)
        journal.save_vote(7, "")
        journal.close()
        return disk

    answered: list[str] = []

    def vote(disk: FaultyDisk) -> None:
        answered.clear()
        journal = opened(disk)
        journal.save_vote(7, "n2")
        answered.append("n2")
        journal.save_vote(8, "n3")
        answered.append("n3")
        fill(journal, 1)

    for what, disk in power_losses(make, vote):
        journal = opened(disk)
        if answered == ["n2"]:
            assert (journal.term, journal.voted_for) in ((7, "n2"), (8, "n3")), what
        elif answered:
            assert (journal.term, journal.voted_for) == (8, "n3"), what
        with pytest.raises(ValueError, match="take back"):
            journal.save_vote(journal.term if journal.voted_for else 6, "n1")


@pytest.mark.parametrize("damage", ["empty", "missing", "flipped", "old"])
def test_e8_a_lost_or_damaged_vote_keeps_the_node_down(damage: str) -> None:
    """Stock: an unreadable file becomes term 0 without a vote, silently."""
    disk = FaultyDisk()
    journal = opened(disk)
    journal.save_vote(1, "n2")
    old = bytes(disk.names[f"{DIRECTORY}/hard_state"].cached)
    journal.save_vote(2, "n1")
    fill(journal, 20)
    journal.close()
    file = disk.names[f"{DIRECTORY}/hard_state"]
    if damage == "empty":
        file.cached.clear()
    elif damage == "missing":
        del disk.names[f"{DIRECTORY}/hard_state"]
    elif damage == "flipped":
        file.cached[8] ^= 1
    else:
        file.cached[:] = old
    with pytest.raises(LogCorrupt, match="vote"):
        opened(disk, 20)


def test_e9_no_commit_index_is_believed_beyond_what_the_log_has() -> None:
    """Stock: a commit index of 100 beside a log of 3 makes a new leader acknowledge without any replication."""
    disk = FaultyDisk()
    journal = node(disk, 10)
    journal.setRaftCommitIndex(100)
    journal.onOneSecondTimer()
    assert journal.getRaftCommitIndex() == 0
    journal.close()
    journal = opened(disk, 3)
    assert journal.getRaftCommitIndex() == 0
    journal.trim(10)
    assert journal.getRaftCommitIndex() == journal.base_index == 5
    journal.reset(50, 2, membership("n1", index=3))
    assert journal.getRaftCommitIndex() == 50


def test_e9_entries_that_are_not_durable_are_not_counted() -> None:
    disk = FaultyDisk()
    journal = node(disk, 10)
    journal.append([entry(11, 2)])
    assert (journal.last_index, journal.durable_index) == (11, 10)
    assert opened(disk.killed(), 10).last_index == 10
