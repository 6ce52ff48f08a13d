"""A journal on a disk in memory, with the state machine that belongs to it, small enough that a few entries fill a segment."""

from __future__ import annotations

import copy
import random
import uuid
from typing import TYPE_CHECKING

from faulty_disk import Fault, FaultyDisk, InlineHousekeeper, PowerLoss

from raft import membership as members
from raft.identity import Identity
from raft.journal import Journal, JournalOptions
from raft.membership import Member, Membership
from raft.record import DATA, MEMBERSHIP, Entry
from raft.segment import FIRST_RECORD
from raft.wal import WalOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DIRECTORY = "/node"
IDENTITY = Identity(str(uuid.UUID(int=1)), str(uuid.UUID(int=2)))
WAL = WalOptions(segment_bytes=FIRST_RECORD + 512, first_segment_bytes=FIRST_RECORD + 512)
OPTIONS = JournalOptions(wal=WAL, tail_bytes=2000, retain_bytes=0)


def opened(disk: FaultyDisk, state_index: int = 0, options: JournalOptions = OPTIONS, identity: Identity = IDENTITY) -> Journal:
    return Journal.open(
        DIRECTORY, options, disk=disk, identity=identity, state_index=state_index, housekeeper=InlineHousekeeper()
    )


def member(name: str, number: int = 7, *, voter: bool = True) -> Member:
    return Member(name, str(uuid.UUID(int=number)), f"{name}:1", f"{name}:2", f"{name}:3", voter)


def membership(*names: str, index: int = 0) -> Membership:
    return Membership(tuple(member(name, number) for number, name in enumerate(names)), index)


def entry(index: int, term: int = 1, size: int = 40) -> Entry:
    return Entry(index, term, (b"%d/%d." % (index, term) * size)[:size], DATA)


def change(index: int, term: int, *names: str) -> Entry:
    """An entry that sets the members."""
    return Entry(index, term, members.encode(membership(*names)), MEMBERSHIP)


def add(journal: Journal, *entries: Entry) -> None:
    """Append and sync one by one."""
    for each in entries:
        journal.append([each])
        journal.sync()


def fill(journal: Journal, count: int, size: int = 40) -> None:
    for _ in range(count):
        add(journal, entry(journal.last_index + 1, journal.term, size))


def contents(journal: Journal) -> list[Entry]:
    found: list[Entry] = []
    while more := journal.entries(journal.first_index + len(found), 1000):
        found += more
    return found


def power_losses(make: Callable[[], FaultyDisk], run: Callable[[FaultyDisk], object]) -> Iterator[tuple[str, FaultyDisk]]:
    """Run once for every change that `run` makes to the disk, each time losing power there; the disk as it may come up again,
    several for each, and one as a killed process leaves it."""
    at = 0
    while True:
        at += 1
        disk = make()
        disk.plan(at, Fault.POWER)
        try:
            run(disk)
        except PowerLoss:
            for seed in range(6):
                yield f"power loss at change {at}, reboot {seed}", copy.deepcopy(disk).rebooted(random.Random(seed))
            yield f"killed at change {at}", disk.killed()
        else:
            assert at > 1, "nothing was written"
            return
