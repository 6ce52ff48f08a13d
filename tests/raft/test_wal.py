"""The log as its users see it: what was synced is there again, cut, trimmed and reset as asked."""

from __future__ import annotations

import errno
import random
from typing import TYPE_CHECKING

import pytest
from faulty_disk import Fault, FaultyDisk, InlineHousekeeper, PowerLoss

from raft.disk import RealDisk
from raft.errors import LogCorrupt, Refused, Stopped
from raft.record import PAYLOAD_MAX, Entry, record_size
from raft.segment import FIRST_RECORD
from raft.wal import Wal, WalOptions

if TYPE_CHECKING:
    from pathlib import Path

DIRECTORY = "/wal"
SMALL = WalOptions(segment_bytes=FIRST_RECORD + 512, first_segment_bytes=FIRST_RECORD + 512)


def opened(disk: FaultyDisk, options: WalOptions = SMALL, owner: bytes = bytes(16)) -> Wal:
    return Wal.open(DIRECTORY, options, disk=disk, owner=owner, housekeeper=InlineHousekeeper())


def entry(index: int, term: int = 1, size: int = 40) -> Entry:
    return Entry(index, term, (b"%d/%d." % (index, term) * size)[:size])


def fill(wal: Wal, count: int, term: int = 1, size: int = 40) -> list[Entry]:
    """Append and sync one by one."""
    entries = [entry(index, term, size) for index in range(wal.last_index + 1, wal.last_index + 1 + count)]
    for each in entries:
        wal.append([each])
        wal.sync()
    return entries


def contents(wal: Wal) -> list[Entry]:
    return wal.read(wal.first_index, wal.last_index) if wal.last_index >= wal.first_index else []


def segments(disk: FaultyDisk) -> list[str]:
    return sorted(name for name in disk.list(DIRECTORY) if name.endswith(".wal"))


def test_a_new_log_is_empty() -> None:
    wal = opened(FaultyDisk())
    assert (wal.first_index, wal.last_index, wal.durable_index, wal.size_bytes) == (1, 0, 0, 0)
    assert wal.sync() == 0
    assert wal.term_at(0) == 0


def test_what_was_synced_is_there_again(tmp_path: Path) -> None:
    """On the real file system, over several segments, with payloads of all alignments and empty ones."""
    options = WalOptions(segment_bytes=FIRST_RECORD + 4096, first_segment_bytes=FIRST_RECORD + 2048)
    wal = Wal.open(tmp_path / "wal", options)
    entries = [entry(i, 1 + i // 50, i % 97) for i in range(1, 301)]
    for start in range(0, 300, 7):
        wal.append(entries[start : start + 7])
        wal.sync()
    wal.append([entry(301)])
    wal.close()
    wal = Wal.open(tmp_path / "wal", options)
    assert contents(wal) == entries
    assert wal.durable_index == 300
    assert wal.size_bytes == sum(record_size(len(each.payload)) for each in entries)
    wal.close()


def test_unsynced_entries_can_be_read_but_do_not_survive() -> None:
    disk = FaultyDisk()
    wal = opened(disk)
    first = fill(wal, 3)
    more = [entry(4), entry(5)]
    wal.append(more)
    assert contents(wal) == [*first, *more]
    assert (wal.last_index, wal.durable_index, wal.term_at(5)) == (5, 3, 1)
    wal.close()
    assert contents(opened(disk)) == first


def test_read_stops_at_the_bytes_asked_for_but_gives_at_least_one() -> None:
    wal = opened(FaultyDisk())
    fill(wal, 30)
    one = record_size(40)
    for first in range(1, 31):
        assert [each.index for each in wal.read(first, 30, 0)] == [first]
        assert [each.index for each in wal.read(first, 30, 3 * one)] == list(range(first, min(first + 3, 31)))
        assert [each.index for each in wal.read(first, 30, 4 * one - 1)] == list(range(first, min(first + 3, 31)))
    with pytest.raises(ValueError, match="not in the log"):
        wal.read(0, 3)
    with pytest.raises(ValueError, match="not in the log"):
        wal.read(30, 31)


def test_entries_must_continue_the_log() -> None:
    wal = opened(FaultyDisk())
    with pytest.raises(ValueError, match="does not continue"):
        wal.append([entry(2)])
    with pytest.raises(Refused) as refused:
        wal.append([Entry(1, 1, bytes(PAYLOAD_MAX + 1))])
    assert refused.value.errno == errno.EFBIG
    assert wal.last_index == 0


def test_the_largest_entry_fits_whatever_the_segment_size() -> None:
    disk = FaultyDisk()
    wal = opened(disk)
    fill(wal, 1)
    big = Entry(2, 1, bytes(range(256)) * (PAYLOAD_MAX // 256))
    wal.append([big])
    wal.sync()
    after = fill(wal, 1)
    wal.close()
    wal = opened(disk)
    assert wal.read(2, 3) == [big, *after]


def test_trim_removes_whole_segments_and_recycles_one() -> None:
    disk = FaultyDisk()
    wal = opened(disk)
    entries = fill(wal, 40)
    names = segments(disk)
    assert len(names) > 4
    wal.trim(20)
    assert 1 < wal.first_index <= 21
    assert contents(wal) == entries[wal.first_index - 1 :]
    before = wal.first_index
    wal.trim(3)
    assert wal.first_index == before
    wal.trim(1000)
    assert len(segments(disk)) == 1
    assert wal.last_index == 40
    more = fill(wal, 40)
    first = wal.first_index
    wal.close()
    wal = opened(disk)
    assert contents(wal) == [*entries, *more][first - 1 :]


def test_a_trimmed_segment_is_used_again_and_its_old_records_are_not_seen() -> None:
    """The log goes round the same two files, whose tails are full of records of an earlier life."""
    disk = FaultyDisk()
    size = 8 * FIRST_RECORD
    wal = opened(disk, WalOptions(segment_bytes=size, first_segment_bytes=size))
    for _ in range(150):
        fill(wal, 1, size=1000)
        wal.trim(wal.last_index)
        first, last = wal.first_index, wal.last_index
        again = opened(disk.killed())
        assert (again.first_index, again.last_index) == (first, last)
        assert contents(again) == [entry(index, 1, 1000) for index in range(first, last + 1)]
    assert len(disk.names) <= 2
    assert max(int(name.removesuffix(".spare")) for name in disk.list(DIRECTORY) if name.endswith(".spare")) > 2
    assert sum(1 for _, at, count in disk.writes if at == 0 and count == size) == 2, "two files were ever filled with zeros"


def test_a_recycled_file_does_not_bring_back_what_was_cut() -> None:
    """The file of a cut segment comes back in the same place: its records have the right indexes and sizes, at the right
    offsets, and only their tags tell that they are of another life."""
    disk = FaultyDisk()
    wal = opened(disk)
    fill(wal, 6)
    old = next(file for path, file in disk.names.items() if path.endswith(".wal"))
    for term in (2, 3, 4, 5):
        wal.truncate_suffix(0)
        assert contents(opened(disk.killed())) == []
        kept = fill(wal, 2, term=term)
        assert contents(opened(disk.killed())) == kept
        fill(wal, 4, term=term)
    assert any(file is old for file in disk.names.values()), "the first file is still in use"


def test_a_segment_made_by_a_process_that_died_is_durable_before_it_is_used() -> None:
    """The process dies between giving the new segment its name and making that durable. The next one sees the name in the
    cache, and acknowledges entries in the segment; then the power goes."""
    disk = FaultyDisk()
    wal = opened(disk)
    fill(wal, 6)
    disk.plan(3, Fault.POWER)  # header, name, directory
    with pytest.raises(PowerLoss):
        wal.truncate_suffix(4)
    disk = disk.killed()
    wal = opened(disk)
    kept = [*contents(wal), *fill(wal, 1, term=2)]
    assert len(kept) == 5
    for seed in range(10):
        copy = disk.killed()
        assert contents(opened(copy.rebooted(random.Random(seed)))) == kept


@pytest.mark.parametrize("cut", range(21))
def test_truncate_suffix_forgets_what_follows_for_good(cut: int) -> None:
    disk = FaultyDisk()
    wal = opened(disk)
    kept = fill(wal, 20)[:cut]
    wal.truncate_suffix(cut)
    assert (wal.last_index, wal.durable_index) == (cut, cut)
    assert contents(wal) == kept
    wal.close()
    wal = opened(disk)
    assert contents(wal) == kept
    new = fill(wal, 3, term=2)  # the same sizes as the old ones: only the tag tells them apart
    wal.close()
    wal = opened(disk)
    assert contents(wal) == [*kept, *new]
    assert wal.term_at(cut) == (1 if cut else 0)


def test_truncate_suffix_of_unsynced_entries_touches_no_disk() -> None:
    disk = FaultyDisk()
    wal = opened(disk)
    kept = fill(wal, 2)
    wal.append([entry(3), entry(4), entry(5)])
    writes = len(disk.writes)
    wal.truncate_suffix(3)
    assert contents(wal) == [*kept, entry(3)]
    assert len(disk.writes) == writes
    wal.sync()
    wal.truncate_suffix(3)
    assert len(segments(disk)) == 1


def test_reset_continues_after_an_index_from_elsewhere() -> None:
    disk = FaultyDisk()
    wal = opened(disk)
    fill(wal, 20)
    wal.reset(1000, 7)
    assert (wal.first_index, wal.last_index, wal.term_at(1000)) == (1001, 1000, 7)
    new = fill(wal, 20, term=8)
    wal.close()
    wal = opened(disk)
    assert contents(wal) == new
    assert wal.term_at(1000) == 7


def test_a_second_process_is_turned_away(tmp_path: Path) -> None:
    wal = Wal.open(tmp_path / "wal", SMALL)
    with pytest.raises(OSError, match="in use by another process") as error:
        Wal.open(tmp_path / "wal", SMALL)
    assert error.value.errno == errno.EBUSY
    wal.close()
    Wal.open(tmp_path / "wal", SMALL).close()


def test_the_log_of_another_node_is_refused() -> None:
    disk = FaultyDisk()
    opened(disk, owner=b"a" * 16).close()
    with pytest.raises(LogCorrupt, match="another node"):
        opened(disk, owner=b"b" * 16)
    opened(disk, owner=b"a" * 16).close()


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_a_full_disk_refuses_leaves_nothing_and_goes_on_when_there_is_space(part: float) -> None:
    disk = FaultyDisk()
    wal = opened(disk)
    kept = fill(wal, 2)
    disk.plan(1, Fault.NO_SPACE, part)
    wal.append([entry(3), entry(4)])
    with pytest.raises(Refused) as refused:
        wal.sync()
    assert refused.value.errno == errno.ENOSPC
    assert (wal.last_index, wal.durable_index) == (2, 2)
    assert contents(opened(disk.killed())) == kept
    new = fill(wal, 3, term=2)
    wal.close()
    assert contents(opened(disk)) == [*kept, *new]


def test_no_space_for_a_segment_refuses_and_says_so_before() -> None:
    """Allocation fails: the current segment and the spare still take entries, then the log refuses."""
    disk = FaultyDisk()
    wal = opened(disk)
    kept = fill(wal, 6)

    def no_room(fd: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    allocate, disk.allocate = disk.allocate, no_room  # type: ignore[method-assign]
    warned_at = 0
    with pytest.raises(Refused):  # noqa: PT012 (which of them is refused depends on the format)
        for _ in range(1000):
            kept += fill(wal, 1)
            warned_at = warned_at or (wal.space_low and len(kept)) or 0
    assert 6 < warned_at < len(kept) - 3
    assert (wal.last_index, wal.durable_index) == (len(kept), len(kept))
    disk.allocate = allocate  # type: ignore[method-assign]
    wal.reserve()
    kept += fill(wal, 10)
    wal.close()
    assert contents(opened(disk)) == kept


def test_a_failed_sync_stops_the_log_and_is_never_tried_again() -> None:
    disk = FaultyDisk()
    wal = opened(disk)
    kept = fill(wal, 2)
    disk.plan(1, Fault.SYNC_FAILS)
    wal.append([entry(3)])
    with pytest.raises(Stopped):
        wal.sync()
    writes = len(disk.writes)
    for call in (wal.sync, lambda: wal.append([entry(4)]), lambda: wal.truncate_suffix(1)):
        with pytest.raises(Stopped):
            call()
    assert len(disk.writes) == writes
    wal.close()
    assert contents(opened(disk)) in (kept, [*kept, entry(3)])


def test_an_entry_that_was_only_in_the_page_cache_is_made_durable_before_it_is_believed() -> None:
    """A sync fails, the process restarts and reads the entry from the cache; then the power goes."""
    disk = FaultyDisk()
    wal = opened(disk)
    fill(wal, 2)
    disk.plan(1, Fault.SYNC_FAILS)
    wal.append([entry(3)])
    with pytest.raises(Stopped):
        wal.sync()
    disk = disk.killed()
    wal = opened(disk)
    believed = contents(wal)
    file = next(file for path, file in disk.names.items() if path.endswith(".wal"))
    assert file.durable == file.cached
    assert believed == [entry(1), entry(2), entry(3)]


def test_without_rwf_dsync_the_write_is_followed_by_fdatasync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    synced: list[int] = []
    monkeypatch.setattr("os.pwritev", unsupported)
    monkeypatch.setattr("os.fdatasync", synced.append)
    disk = RealDisk()
    fd = disk.open(str(tmp_path / "file"), create=True)
    disk.write_durable(fd, b"hello", 3)
    disk.write_durable(fd, b"again", 8)
    assert synced == [fd, fd]
    assert disk.read(fd, 100, 0) == b"\0\0\0helloagain"
    disk.close(fd)


def test_the_spare_is_filled_with_zeros_ahead_of_its_use() -> None:
    disk = FaultyDisk()
    size = 16 * FIRST_RECORD
    wal = opened(disk, WalOptions(segment_bytes=size, first_segment_bytes=size))
    fill(wal, 1)
    assert len(disk.names) == 1
    fill(wal, 4, size=4000)
    spare = next(path for path in disk.names if path.endswith(".spare"))
    assert sum(count for path, _, count in disk.writes if path == spare) == size
