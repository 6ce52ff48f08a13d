"""The base file: what goes in comes out, and a file that is damaged anywhere is refused."""

from __future__ import annotations

import contextlib
import copy
import random
import uuid

import pytest
from faulty_disk import Fault, FaultyDisk, PowerLoss
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_harness import DIRECTORY, membership

from raft.base import FILE_NAME, Base, BaseFile, Installation
from raft.errors import LogCorrupt, Refused, Stopped
from raft.membership import ADDRESS_MAX, MEMBERS_MAX, Member, Membership
from raft.reserve import Reserve

PATH = f"{DIRECTORY}/{FILE_NAME}"
INDEXES = st.integers(0, 2**63)
FULL = Base(membership("n1", index=4), Installation(90, 3, membership("n1", "n2", index=80)))


def opened(disk: FaultyDisk) -> BaseFile:
    return BaseFile(disk, DIRECTORY, Reserve(disk, DIRECTORY))


def members_of() -> st.SearchStrategy[Membership]:
    names = st.lists(st.sampled_from(["a", "b-1", "c" * 32, "n9"]), unique=True).map(sorted)
    return st.builds(
        lambda names, index, voter: Membership(
            tuple(Member(name, str(uuid.uuid5(uuid.NAMESPACE_DNS, name)), "h:1", "h:2", "h:3", voter) for name in names), index
        ),
        names,
        INDEXES,
        st.booleans(),
    )


@settings(deadline=None)
@given(members_of(), st.none() | st.builds(Installation, st.integers(1, 2**63), INDEXES, members_of()))
def test_what_was_saved_is_read_again(now: Membership, pending: Installation | None) -> None:
    disk = FaultyDisk()
    opened(disk).save(Base(now, pending))
    assert opened(disk.killed()).value == Base(now, pending)


def test_the_largest_membership_fits() -> None:
    disk = FaultyDisk()
    address = "h" * (ADDRESS_MAX - 2) + ":1"
    most = Membership(
        tuple(Member(f"n{n}" + "x" * 30, str(uuid.UUID(int=n)), address, address, address) for n in range(MEMBERS_MAX)), 7
    )
    opened(disk).save(Base(most, Installation(9, 9, most)))
    assert opened(disk.killed()).value == Base(most, Installation(9, 9, most))


def test_there_is_none_in_a_directory_that_is_no_clusters() -> None:
    disk = FaultyDisk()
    file = opened(disk)
    assert (file.exists, file.value) == (False, Base())
    assert PATH not in disk.names
    file.save(Base())
    assert opened(disk).exists


def test_damage_anywhere_is_refused() -> None:
    disk = FaultyDisk()
    opened(disk).save(FULL)
    whole = bytes(disk.names[PATH].cached)
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :]):
            disk.names[PATH].cached[:] = damaged
            with pytest.raises(LogCorrupt, match="add it anew"):
                opened(disk)
    for damaged in (whole + b"\0", whole + whole, whole + bytes(1 << 20)):
        disk.names[PATH].cached[:] = damaged
        with pytest.raises(LogCorrupt, match="cannot be read"):
            opened(disk)
    disk.names[PATH].cached[:] = whole
    assert opened(disk).value == FULL


def test_what_was_read_stays_after_a_kill_and_a_power_loss() -> None:
    """Entries are trimmed because the file has what they say, so it must not go back to what it was."""
    later = Base(membership("n1", "n2", index=20))
    seen = set()
    for at in range(1, 5):
        disk = FaultyDisk()
        file = opened(disk)
        file.save(FULL)
        disk.plan(at, Fault.POWER)
        with contextlib.suppress(PowerLoss):
            file.save(later)
        killed = disk.killed()
        read = opened(killed).value
        seen.add(read.membership.index)
        for seed in range(8):
            assert opened(copy.deepcopy(killed).rebooted(random.Random(seed))).value == read, (at, seed)
    assert seen == {4, 20}


def test_members_without_space_are_refused_and_tried_again() -> None:
    disk = FaultyDisk()
    file = opened(disk)
    disk.remove(f"{DIRECTORY}/reserve")
    disk.plan(2, Fault.NO_SPACE)
    with pytest.raises(Refused):
        file.save(FULL)
    assert file.value == Base()
    file.save(FULL)
    assert file.value == opened(disk.killed()).value == FULL


def test_after_another_failure_nothing_is_saved_any_more() -> None:
    disk = FaultyDisk()
    file = opened(disk)
    disk.plan(2, Fault.SYNC_FAILS)
    for _ in range(2):
        with pytest.raises(Stopped):
            file.save(FULL)
    assert file.value == Base()
