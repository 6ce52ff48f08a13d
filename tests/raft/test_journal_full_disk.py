"""A node whose disk is really full: it can vote and forget old entries, which is how a cluster gets out of it."""

from __future__ import annotations

import contextlib
import copy
import errno
import os
import random
import subprocess
from typing import TYPE_CHECKING

import pytest
from faulty_disk import Fault, FaultyDisk, InlineHousekeeper, PowerLoss
from journal_harness import DIRECTORY, IDENTITY, OPTIONS, WAL, add, change, entry, fill, membership, opened

from raft.disk import RealDisk
from raft.errors import Refused, Stopped
from raft.hard_state import HardState, HardStateFile
from raft.journal import Journal
from raft.peer_book import PeerBook
from raft.reserve import Reserve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    mountpoint = tmp_path / "small"
    mountpoint.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "keelfs-test", str(mountpoint)], check=True)
    try:
        yield mountpoint
    finally:
        subprocess.run(["umount", "-l", str(mountpoint)], check=True)


def fill_up(directory: Path) -> None:
    with (directory / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for _ in range(1 << 20 >> 12):  # no more than the whole disk of these tests
            file.write(bytes(4096))


@pytest.mark.fuse
def test_a_node_on_a_full_disk_votes_and_trims(small_disk: Path) -> None:
    directory = small_disk / "node"
    journal = Journal.open(directory, OPTIONS, identity=IDENTITY, state_index=0, housekeeper=InlineHousekeeper())
    journal.save_vote(1, "n1")
    add(journal, change(1, 1, "n1"))
    with contextlib.suppress(Refused):
        for _ in range(30):
            fill(journal, 1)
            fill_up(small_disk)
    last = journal.last_index
    assert PeerBook.open(RealDisk(), str(directory)).start == 1
    fill_up(small_disk)
    with pytest.raises(OSError, match="No space left"):
        (directory / "more").write_bytes(b"x")
    for term in range(2, 40):
        journal.save_vote(term, "n2" if term % 2 else "")
    journal.trim(last)
    assert journal.base_index > 1
    journal.close()
    fill_up(small_disk)
    journal = Journal.open(directory, OPTIONS, identity=IDENTITY, state_index=last, housekeeper=InlineHousekeeper())
    assert PeerBook.open(RealDisk(), str(directory)).start == 2
    assert (journal.term, journal.voted_for, journal.last_index) == (39, "n2", last)
    assert journal.membership == membership("n1", index=1)
    journal.close()


@pytest.mark.fuse
def test_without_the_reserve_the_vote_could_not_be_saved(small_disk: Path) -> None:
    """What the file is there for."""
    disk, path = RealDisk(), str(small_disk)
    file = HardStateFile(disk, path)
    fill_up(small_disk)
    os.unlink(small_disk / "reserve")
    fill_up(small_disk)
    with pytest.raises(Stopped, match="No space left"):
        file.save(HardState(1, "n1"))


def test_the_space_is_taken_back_as_soon_as_there_is_some() -> None:
    disk = FaultyDisk()
    reserve = Reserve(disk, DIRECTORY)
    reserve.replace("file", b"one")
    disk.plan(1, Fault.NO_SPACE)
    reserve.replace("file", b"two")
    assert set(disk.list(DIRECTORY)) == {"file", "reserve"}
    assert bytes(disk.names[f"{DIRECTORY}/file"].cached) == b"two"
    disk.plan(1, Fault.NO_SPACE)
    reserve.replace("file", b"three")
    assert bytes(disk.names[f"{DIRECTORY}/file"].cached) == b"three"


def test_a_vote_is_saved_although_the_first_attempt_found_no_space() -> None:
    for at in range(1, 5):
        disk = FaultyDisk()
        journal = opened(disk)
        disk.plan(at, Fault.NO_SPACE)
        journal.save_vote(3, "n2")
        add(journal, entry(1, 3))
        journal = opened(disk.killed(), 1)
        assert (journal.term, journal.voted_for) == (3, "n2")


def test_a_vote_that_is_read_on_a_full_disk_is_settled_all_the_same() -> None:
    """The process was killed before the new name was durable. The next one cannot write, and yet power may fail after it."""

    class Full(FaultyDisk):
        def open(self, path: str, *, create: bool = False) -> int:
            if create:
                raise OSError(errno.ENOSPC, "no space left on device")
            return super().open(path)

        def write_durable(self, fd: int, data: bytes, offset: int) -> None:
            raise OSError(errno.ENOSPC, "no space left on device")

    for at in range(1, 8):
        disk = FaultyDisk()
        file = HardStateFile(disk, DIRECTORY)
        disk.plan(at, Fault.POWER)
        with contextlib.suppress(PowerLoss):
            file.save(HardState(5, "n2"))
        full = Full()
        full.names, full.history = dict(disk.names), [*map(dict, disk.history)]
        for names in (full.names, *full.history):
            names.pop(f"{DIRECTORY}/reserve", None)
        read = HardStateFile(full, DIRECTORY).state
        for seed in range(8):
            assert HardStateFile(copy.deepcopy(full).rebooted(random.Random(seed)), DIRECTORY).state == read, (at, seed)


def test_a_node_starts_without_space_for_a_reserve() -> None:
    disk = FaultyDisk()
    disk.plan(1, Fault.NO_SPACE)
    journal = opened(disk)
    journal.save_vote(1, "n1")
    assert "reserve" in disk.list(DIRECTORY)
    assert journal._options.wal is WAL
