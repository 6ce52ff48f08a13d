"""Snapshot files: every bit counts, a crash leaves a whole file or none, and what was received is not asked for twice."""

from __future__ import annotations

import errno
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from faulty_disk import Fault, FaultyDisk, PowerLoss

from raft.disk import RealDisk
from raft.membership import Member, Membership
from raft.snapshot_file import (
    CHUNK_MAX,
    FILE_MAX,
    PIECE_MAX,
    IncomingSnapshot,
    SnapshotCancelled,
    SnapshotDamaged,
    SnapshotHeader,
    SnapshotInfo,
    SnapshotReader,
    file_name,
    sweep,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from raft.disk import Disk

MEMBERS = tuple(
    Member(f"n{n}", f"00000000-0000-4000-8000-00000000000{n}", f"10.0.0.{n}:1", f"10.0.0.{n}:2", f"10.0.0.{n}:3", n < 3)
    for n in (1, 2, 3)
)
HEADER = SnapshotHeader("c" * 36, 1000, 7, Membership(MEMBERS, 12), b"d" * 16, "n1", 1_700_000_000_000_000_000)
CHUNKS = [b"first", b"x" * 3000, b"third" * 40]
DIRECTORY = "/snapshots"
PATH = f"{DIRECTORY}/{file_name(1000, 7)}"


def read_all(disk: Disk, path: str) -> tuple[SnapshotHeader, list[bytes], bytes]:
    with SnapshotReader(disk, path) as reader:
        return reader.header, list(reader.chunks()), reader.checksum


def bytes_of(disk: FaultyDisk, path: str) -> bytes:
    return bytes(disk.names[path].cached)


def holding(data: bytes) -> FaultyDisk:
    """A disk with a file of these bytes."""
    disk = FaultyDisk()
    disk.write_durable(disk.open(PATH, create=True), data, 0)
    return disk


@pytest.fixture(scope="module")
def snapshot() -> bytes:
    disk = FaultyDisk()
    write(disk, PATH, HEADER, CHUNKS)
    return bytes_of(disk, PATH)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    disk = RealDisk()
    big = [bytes([n]) * CHUNK_MAX for n in range(5)]
    info = write(disk, str(tmp_path / "a.snapshot"), HEADER, [*CHUNKS, *big])
    assert read_all(disk, info.path) == (HEADER, [*CHUNKS, *big], info.checksum)
    assert (info.index, info.term, info.size) == (1000, 7, (tmp_path / "a.snapshot").stat().st_size)
    assert [path.name for path in tmp_path.iterdir()] == ["a.snapshot"]


def test_a_state_without_chunks_and_a_cluster_without_members() -> None:
    disk = FaultyDisk()
    header = replace(HEADER, membership=Membership(), digest=b"", cluster_id="", creator="")
    info = write(disk, PATH, header, [])
    assert read_all(disk, PATH) == (header, [], info.checksum)


def test_every_flipped_bit_is_noticed(snapshot: bytes) -> None:
    for at in range(len(snapshot)):
        for bit in {at % 8, 7} if at < 400 else {at % 8}:
            damaged = bytearray(snapshot)
            damaged[at] ^= 1 << bit
            with pytest.raises(SnapshotDamaged) as error:
                read_all(holding(bytes(damaged)), PATH)
            assert 0 <= error.value.offset <= len(snapshot)


def test_a_chunk_is_not_given_out_before_it_is_known_to_be_intact(snapshot: bytes) -> None:
    at = snapshot.index(b"x" * 3000) + 1500
    damaged = snapshot[:at] + b"y" + snapshot[at + 1 :]
    given: list[bytes] = []
    with SnapshotReader(holding(damaged), PATH) as reader, pytest.raises(SnapshotDamaged, match="chunk is damaged"):
        given.extend(reader.chunks())
    assert given == [b"first"]


def test_a_cut_or_longer_file_is_noticed(snapshot: bytes) -> None:
    for size in range(len(snapshot)):
        with pytest.raises(SnapshotDamaged):
            read_all(holding(snapshot[:size]), PATH)
    for more in (b"\0", snapshot):
        with pytest.raises(SnapshotDamaged, match="more than a snapshot"):
            read_all(holding(snapshot + more), PATH)


def test_chunks_that_are_missing_doubled_or_moved_are_noticed(snapshot: bytes) -> None:
    starts = [snapshot.index(chunk) - 16 for chunk in CHUNKS]
    ends = [start + 16 + len(chunk) for start, chunk in zip(starts, CHUNKS, strict=True)]
    head, tail = snapshot[: starts[0]], snapshot[ends[-1] :]
    pieces = [snapshot[start:end] for start, end in zip(starts, ends, strict=True)]
    assert head + b"".join(pieces) + tail == snapshot
    for order in ([0, 1], [1, 2], [0, 0, 1, 2], [1, 0, 2], [0, 2, 1], []):
        with pytest.raises(SnapshotDamaged):
            read_all(holding(head + b"".join(pieces[n] for n in order) + tail), PATH)


@pytest.mark.parametrize("seed", range(40))
def test_random_bytes_are_no_snapshot(snapshot: bytes, seed: int) -> None:
    rng = random.Random(seed)
    data = rng.choice([rng.randbytes(rng.randrange(5000)), snapshot[: rng.randrange(200)] + rng.randbytes(3000)])
    with pytest.raises(SnapshotDamaged):
        read_all(holding(data), PATH)


def test_a_header_that_claims_too_much_is_refused_before_anything_is_read(snapshot: bytes) -> None:
    with pytest.raises(SnapshotDamaged, match="no snapshot begins"):
        read_all(holding(snapshot[:12] + b"\xff\xff\xff\xff" + snapshot[16:]), PATH)


def test_what_no_file_may_have_is_not_written() -> None:
    for header, chunks in (
        (HEADER, [b""]),
        (HEADER, [b"a", bytes(CHUNK_MAX + 1)]),
        (replace(HEADER, creator="n" * 300), []),
        (replace(HEADER, digest=bytes(65)), []),
    ):
        disk = FaultyDisk()
        with pytest.raises(ValueError, match="bytes"):
            write(disk, PATH, header, chunks)
        assert disk.names == {}


def test_a_cancelled_or_failing_snapshot_leaves_nothing() -> None:
    disk = FaultyDisk()
    asked: list[int] = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) == 3

    with pytest.raises(SnapshotCancelled):
        write(disk, PATH, HEADER, CHUNKS, cancelled)

    def failing() -> Iterator[bytes]:
        yield b"one"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write(disk, PATH, HEADER, failing())
    assert disk.names == {}
    assert disk._handles == {}


def big_chunks() -> list[bytes]:
    return [bytes([n]) * 700_000 for n in range(5)]


def test_a_full_or_broken_disk_is_an_error_and_leaves_nothing() -> None:
    for fault in (Fault.NO_SPACE, Fault.SYNC_FAILS):
        change = 0
        while True:
            change += 1
            disk = FaultyDisk()
            disk.plan(change, fault)
            try:
                write(disk, PATH, HEADER, big_chunks())
                break
            except OSError as error:
                met = error.errno
            assert (met in (errno.ENOSPC, errno.EIO), disk.names, disk._handles) == (True, {}, {})
        assert change > 6


def test_a_power_loss_at_any_moment_leaves_a_whole_snapshot_or_none() -> None:
    old = write(FaultyDisk(), PATH, replace(HEADER, created_ns=1), CHUNKS)
    for change in range(1, 12):
        for seed in range(10):
            disk = FaultyDisk()
            write(disk, PATH, replace(HEADER, created_ns=1), CHUNKS)
            disk.plan(change, Fault.POWER)
            try:
                info = write(disk, PATH, HEADER, big_chunks())
            except PowerLoss:
                info = None
            after = disk.rebooted(random.Random(seed))
            checksum = read_all(after, PATH)[2]
            assert checksum == info.checksum if info else checksum, f"change {change}, seed {seed}"
            assert info or checksum == old.checksum or len(read_all(after, PATH)[1]) == 5
            sweep(after, DIRECTORY, frozenset({file_name(1000, 7)}))
            assert list(after.names) == [PATH]


# -- receiving ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large() -> tuple[SnapshotInfo, bytes]:
    disk = FaultyDisk()
    info = write(disk, PATH, HEADER, big_chunks())
    return info, bytes_of(disk, PATH)


def incoming(disk: Disk, info: SnapshotInfo, directory: str = DIRECTORY) -> IncomingSnapshot:
    return IncomingSnapshot(disk, directory, index=info.index, term=info.term, size=info.size, checksum=info.checksum)


def receive(taking: IncomingSnapshot, data: bytes, piece: int, stop: int = FILE_MAX) -> None:
    while not taking.whole and taking.offset < stop:
        at = taking.offset
        assert taking.write(at, data[at : at + piece]) > at


@pytest.mark.parametrize("piece", [7000, PIECE_MAX])
def test_what_is_received_is_the_file(tmp_path: Path, large: tuple[SnapshotInfo, bytes], piece: int) -> None:
    info, data = large
    taking = incoming(RealDisk(), info, str(tmp_path))
    with pytest.raises(ValueError, match="are here"):
        taking.complete()
    receive(taking, data, piece)
    got = taking.complete()
    assert got == replace(info, path=str(tmp_path / file_name(1000, 7)))
    assert read_all(RealDisk(), got.path) == (HEADER, big_chunks(), info.checksum)
    assert [path.name for path in tmp_path.iterdir()] == [file_name(1000, 7)]
    with pytest.raises(OSError, match="completed"):
        taking.write(0, b"x")
    taking.discard()
    assert list(tmp_path.iterdir()) == []


def test_only_the_next_piece_is_taken(large: tuple[SnapshotInfo, bytes]) -> None:
    info, data = large
    taking = incoming(FaultyDisk(), info)
    assert taking.write(100, data[100:200]) == 0
    assert taking.write(0, data[:100]) == 100
    assert taking.write(0, b"?" * 100) == 100
    assert taking.write(100, b"") == 100
    for offset, piece in ((100, bytes(PIECE_MAX + 1)), (info.size - 1, b"ab")):
        with pytest.raises(ValueError, match="a piece of"):
            taking.write(offset, piece)
    receive(taking, data, PIECE_MAX)
    assert taking.write(taking.offset, b"") == info.size
    assert taking.complete().checksum == info.checksum


def test_an_offer_of_what_no_file_can_be_is_refused(large: tuple[SnapshotInfo, bytes]) -> None:
    info, _ = large
    for bad in (
        replace(info, size=10),
        replace(info, size=FILE_MAX + 1),
        replace(info, checksum=b"short"),
        replace(info, index=-1),
    ):
        disk = FaultyDisk()
        with pytest.raises(ValueError, match="no snapshot has"):
            incoming(disk, bad)
        assert disk.names == {}


def test_a_restart_resumes_and_another_offer_discards(large: tuple[SnapshotInfo, bytes]) -> None:
    info, data = large
    disk = FaultyDisk()
    taking = incoming(disk, info)
    receive(taking, data, 300_000, stop=2 << 20)
    had = taking.offset
    taking.close()
    disk = disk.killed()
    taking = incoming(disk, info)
    assert had - PIECE_MAX <= taking.offset < had
    receive(taking, data, PIECE_MAX)
    taking.close()
    other = replace(info, checksum=b"o" * 32)
    taking = incoming(disk, other)
    assert taking.offset == 0
    assert len(disk.names) == 1
    taking.discard()
    assert disk.names == {}


def test_power_lost_at_any_moment_of_receiving_costs_one_piece(large: tuple[SnapshotInfo, bytes]) -> None:
    info, data = large
    for seed in range(30):
        rng = random.Random(seed)
        disk = FaultyDisk()
        durable = 0
        for _ in range(30):
            disk.plan(rng.randrange(1, 9), Fault.POWER)
            try:
                taking = incoming(disk, info)
                assert taking.offset >= durable - PIECE_MAX, f"seed {seed}"
                while not taking.whole:
                    at = taking.offset
                    taking.write(at, data[at : at + rng.choice([PIECE_MAX, 400_000])])
                    durable = taking.offset
                got = taking.complete()
                break
            except PowerLoss:
                disk = disk.rebooted(rng)
                if f"{DIRECTORY}/{file_name(1000, 7)}" in disk.names:
                    got = replace(info, checksum=read_all(disk, PATH)[2])
                    break
                if not disk.names:
                    durable = 0  # the name was not durable yet
        assert got.checksum == info.checksum, f"seed {seed}"
        assert read_all(disk, PATH)[1] == big_chunks()


def test_a_received_file_that_is_damaged_is_dropped(large: tuple[SnapshotInfo, bytes]) -> None:
    info, data = large
    rng = random.Random(3)
    for at in (0, 10, 50, info.size - 40, info.size - 1, *(rng.randrange(info.size) for _ in range(5))):
        disk = FaultyDisk()
        taking = incoming(disk, info)
        receive(taking, data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :], PIECE_MAX)
        with pytest.raises(SnapshotDamaged):
            taking.complete()
        assert disk.names == {}
        assert disk._handles == {}


def test_another_intact_snapshot_is_not_taken_for_the_offered_one(large: tuple[SnapshotInfo, bytes]) -> None:
    info, _ = large
    for header in (replace(HEADER, created_ns=2), replace(HEADER, index=1001)):
        disk = FaultyDisk()
        other = write(disk, PATH, header, big_chunks())
        data = bytes_of(disk, PATH)
        taking = IncomingSnapshot(
            disk,
            DIRECTORY,
            index=1000,
            term=7,
            size=other.size,
            checksum=info.checksum if header.index == 1000 else other.checksum,
        )
        receive(taking, data, PIECE_MAX)
        with pytest.raises(SnapshotDamaged, match=r"not the one|another index"):
            taking.complete()


def test_a_full_disk_while_receiving_is_an_error_after_which_it_goes_on(large: tuple[SnapshotInfo, bytes]) -> None:
    info, data = large
    disk = FaultyDisk()
    taking = incoming(disk, info)
    receive(taking, data, PIECE_MAX, stop=PIECE_MAX)
    disk.plan(1, Fault.NO_SPACE, part=0.3)
    with pytest.raises(OSError, match="no space"):
        taking.write(PIECE_MAX, data[PIECE_MAX : 2 * PIECE_MAX])
    assert taking.offset == PIECE_MAX
    receive(taking, data, PIECE_MAX)
    assert taking.complete().checksum == info.checksum


def test_sweep_removes_what_is_not_kept_and_nothing_else(large: tuple[SnapshotInfo, bytes]) -> None:
    info, _ = large
    disk = FaultyDisk()
    write(disk, PATH, HEADER, CHUNKS)
    write(disk, f"{DIRECTORY}/{file_name(1200, 7)}", HEADER, CHUNKS)
    for name in (f"{file_name(1300, 7)}.new", "notes.txt", "000.log"):
        disk.close(disk.open(f"{DIRECTORY}/{name}", create=True))
    taking = incoming(disk, info)
    taking.close()
    sweep(disk, DIRECTORY, frozenset({file_name(1200, 7)}))
    left = sorted(path.removeprefix(f"{DIRECTORY}/") for path in disk.names)
    assert left == sorted([file_name(1200, 7), "notes.txt", "000.log", f"{1000:020d}-{7:020d}-{info.checksum.hex()}.part"])
