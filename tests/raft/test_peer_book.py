"""What a node remembers of others' disks: an old copy is noticed, a good disk never is, and the file survives what disks do."""

from __future__ import annotations

import random

import pytest
from faulty_disk import Fault, FaultyDisk, PowerLoss

from raft.errors import LogCorrupt
from raft.peer_book import FILE_NAME, PEERS_MAX, Memory, PeerBook

DIRECTORY = "/node"
DISK = "0b7b2a54-5a2b-4a10-8f6c-6f2a0d3a7a11"
OTHER = "0b7b2a54-5a2b-4a10-8f6c-6f2a0d3a7a12"
ONE, TWO = bytes(16), bytes([1] * 16)


def opened(disk: FaultyDisk) -> PeerBook:
    return PeerBook.open(disk, DIRECTORY)


def disk_at(start: int, nonce: bytes = ONE, term: int = 0, index: int = 0, incarnation: str = DISK) -> Memory:
    return Memory(incarnation, start, nonce, term, index)


def test_every_start_is_counted_and_has_a_nonce_of_its_own() -> None:
    disk = FaultyDisk()
    books = []
    for _ in range(3):
        books.append(opened(disk))
        disk = disk.killed()
    assert [book.start for book in books] == [1, 2, 3]
    assert len({book.nonce for book in books}) == 3


@pytest.mark.parametrize(
    ("presented", "says"),
    [
        (disk_at(5, ONE, 4, 90), None),  # the same start, another connection
        (disk_at(6, TWO, 4, 90), None),  # the next start
        (disk_at(6, TWO, 5, 91), None),
        (disk_at(4, ONE, 4, 90), "counts 4 starts, and 5"),
        (disk_at(5, TWO, 4, 90), "another copy"),
        (disk_at(6, TWO, 4, 89), "ends with entry 89 of term 4, and it had acknowledged entry 90 of term 4"),
        (disk_at(6, TWO, 3, 95), "ends with entry 95 of term 3"),  # longer, but of a time before that entry
        (disk_at(1, TWO, 0, 0, OTHER), None),  # another disk is not an old one; whether it may come is another question
    ],
)
def test_an_old_copy_is_told_from_a_disk_that_went_on(presented: Memory, says: str | None) -> None:
    book = opened(FaultyDisk())
    assert book.objection("n2", presented) is None
    book.met("n2", disk_at(5))
    book.note_committed("n2", 4, 90)
    book.note_committed("n2", 4, 80)
    found = book.objection("n2", presented)
    assert (found is None) if says is None else (found is not None and says in found)


def test_a_new_disk_under_the_name_starts_with_a_clean_page() -> None:
    book = opened(FaultyDisk())
    book.met("n2", disk_at(5))
    book.note_committed("n2", 4, 90)
    book.met("n2", disk_at(1, TWO, incarnation=OTHER))
    assert book.get("n2") == Memory(OTHER, 1, TWO)


def test_a_start_is_saved_at_once_and_progress_by_save() -> None:
    disk = FaultyDisk()
    book = opened(disk)
    book.met("n2", disk_at(5))
    assert opened(disk.killed()).get("n2") == Memory(DISK, 5, ONE)
    for index in range(1, 100):
        before = len(disk.writes)
        book.note_committed("n2", 4, index)
        book.met("n2", disk_at(5))  # a reconnect changes nothing
        assert len(disk.writes) == before
    book.save()
    assert opened(disk.killed()).get("n2") == Memory(DISK, 5, ONE, 4, 99)
    before = len(disk.writes)
    book.save()
    assert len(disk.writes) == before


def test_a_disk_that_fails_costs_no_connection(caplog: pytest.LogCaptureFixture) -> None:
    disk = FaultyDisk()
    book = opened(disk)
    disk.plan(2, Fault.SYNC_FAILS)
    book.met("n2", disk_at(5))
    assert "could not be saved" in caplog.text
    assert book.objection("n2", disk_at(4)) is not None
    book.save()  # it is tried again
    assert opened(disk.killed()).get("n2") == Memory(DISK, 5, ONE)


def test_on_a_full_disk_the_reserve_is_used(caplog: pytest.LogCaptureFixture) -> None:
    disk = FaultyDisk()
    book = opened(disk)
    disk.plan(2, Fault.NO_SPACE)
    book.met("n2", disk_at(5))
    assert "could not be saved" not in caplog.text
    assert opened(disk.killed()).get("n2") == Memory(DISK, 5, ONE)


@pytest.mark.parametrize("seed", range(60))
def test_a_start_that_was_counted_is_never_counted_again(seed: int) -> None:
    rng = random.Random(seed)
    disk, counted = FaultyDisk(), 0
    for _ in range(10):
        disk.plan(rng.randint(1, 12), rng.choice((Fault.POWER, Fault.NO_SPACE)), rng.random())
        try:
            book = opened(disk)
            assert book.start > counted
            counted = book.start
            book.met("n2", disk_at(counted))
        except (PowerLoss, OSError):
            pass
        disk = disk.rebooted(rng) if rng.random() < 0.6 else disk.killed()
    assert opened(disk).start > counted


def test_a_file_that_cannot_be_read_keeps_the_node_down() -> None:
    disk = FaultyDisk()
    opened(disk).met("n2", disk_at(5))
    file = disk.names[f"{DIRECTORY}/{FILE_NAME}"]
    whole = bytes(file.cached)
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :]):
            file.cached[:] = damaged
            with pytest.raises(LogCorrupt, match="old copy"):
                opened(disk)
    file.cached[:] = whole
    assert opened(disk).start == 2


def test_the_book_does_not_grow_with_every_name_there_ever_was() -> None:
    book = opened(FaultyDisk())
    for number in range(2 * PEERS_MAX):
        book.met(f"n{number}", disk_at(1))
        book.met("n0", disk_at(1))
    assert book.get("n0") is not None
    assert book.get("n1") is None
    assert book.get(f"n{2 * PEERS_MAX - 1}") is not None
