"""Damaged files: a torn tail is cut to an exact prefix, damage to what was acknowledged is refused, nothing wrong is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import google_crc32c
import pytest
from faulty_disk import FaultyDisk, InlineHousekeeper, MemoryFile

from raft.errors import LogCorrupt
from raft.record import HEADER_SIZE, Entry, encode_batch
from raft.segment import FIRST_RECORD, SegmentHeader
from raft.wal import Wal, WalOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

DIRECTORY = "/wal"
OPTIONS = WalOptions(segment_bytes=FIRST_RECORD + 160, first_segment_bytes=FIRST_RECORD + 160)
ENTRIES = [Entry(index, 1, b"payload %02d" % index * (index % 4)) for index in range(1, 11)]


def opened(disk: FaultyDisk) -> Wal:
    return Wal.open(DIRECTORY, OPTIONS, disk=disk, housekeeper=InlineHousekeeper())


def log_of(batches: Iterable[list[Entry]]) -> FaultyDisk:
    disk = FaultyDisk()
    wal = opened(disk)
    for batch in batches:
        wal.append(batch)
        wal.sync()
    wal.close()
    return disk


def wal_files(disk: FaultyDisk) -> list[MemoryFile]:
    return [disk.names[path] for path in sorted(disk.names) if path.endswith(".wal")]


def copy(disk: FaultyDisk) -> FaultyDisk:
    twin = FaultyDisk()
    for path, file in disk.names.items():
        twin.names[path] = MemoryFile(bytearray(file.durable), bytearray(file.cached))
    return twin


def recovered(disk: FaultyDisk) -> list[Entry]:
    """What is in the log; and it can be continued, and opened once more."""
    wal = opened(disk)
    entries = wal.read(1, wal.last_index) if wal.last_index else []
    more = Entry(wal.last_index + 1, 2, b"after the repair")
    wal.append([more])
    wal.sync()
    wal.close()
    wal = opened(disk)
    assert wal.read(1, wal.last_index) == [*entries, more]
    wal.close()
    return entries


def test_the_log_used_here_has_several_segments() -> None:
    disk = log_of([entry] for entry in ENTRIES)
    assert len(wal_files(disk)) > 2
    assert recovered(disk) == ENTRIES


def test_a_flip_at_any_byte_is_refused_or_cuts_the_last_record() -> None:
    """One entry per sync: every record but the last was acknowledged before the next was written."""
    origin = log_of([entry] for entry in ENTRIES)
    last_at = FIRST_RECORD
    for number, file in enumerate(wal_files(origin)):
        used = bytes(file.cached).rstrip(b"\0")
        ends = number == len(wal_files(origin)) - 1
        if ends:
            last_at = used.rindex(ENTRIES[-1].payload) - HEADER_SIZE
        for at in range(len(file.cached)):
            disk = copy(origin)
            target = wal_files(disk)[number]
            for data in (target.cached, target.durable):
                data[at] ^= 1 << at % 8
            if at >= -(-len(used) // 8) * 8:
                assert recovered(disk) == ENTRIES, (number, at)
            elif ends and at >= last_at:
                assert recovered(disk) == ENTRIES[:-1], (number, at)
            else:
                with pytest.raises(LogCorrupt) as error:
                    opened(disk)
                assert ".wal" in str(error.value)
    assert last_at >= FIRST_RECORD


def test_a_flip_in_a_record_names_file_offset_and_index() -> None:
    origin = log_of([entry] for entry in ENTRIES)
    file = wal_files(origin)[0]
    file.cached[FIRST_RECORD + HEADER_SIZE] ^= 1
    with pytest.raises(LogCorrupt, match=rf"/wal/0+1-0+1\.wal: offset {FIRST_RECORD}: .*entry 1 .*restore"):
        opened(origin)


def test_cut_at_any_byte_of_the_last_segment_gives_a_prefix() -> None:
    origin = log_of([entry] for entry in ENTRIES)
    number = len(wal_files(origin)) - 1
    size = len(wal_files(origin)[number].cached)
    seen = set()
    for keep in range(size + 1):
        disk = copy(origin)
        target = wal_files(disk)[number]
        del target.cached[keep:]
        del target.durable[keep:]
        if keep < FIRST_RECORD:
            with pytest.raises(LogCorrupt):
                opened(disk)
            continue
        entries = recovered(disk)
        assert entries == ENTRIES[: len(entries)]
        seen.add(len(entries))
    assert max(seen) == len(ENTRIES)
    assert len(seen) > 1


def test_zeroed_from_any_byte_of_the_last_records_gives_a_prefix() -> None:
    """The file keeps its size: what a torn write into preallocated space looks like."""
    origin = log_of([[entry] for entry in ENTRIES[:4]] + [ENTRIES[4:]])
    number = len(wal_files(origin)) - 1
    used = len(bytes(wal_files(origin)[number].cached).rstrip(b"\0"))
    for start in range(FIRST_RECORD, used):
        disk = copy(origin)
        target = wal_files(disk)[number]
        for data in (target.cached, target.durable):
            data[start:] = bytes(len(data) - start)
        entries = recovered(disk)
        assert entries == ENTRIES[: len(entries)]
        assert len(entries) >= 4


def test_a_flip_in_the_middle_of_the_last_batch_cuts_there_and_nothing_after_it_comes_back() -> None:
    """The batch was one write: pages of it may have landed in any order, so later records of it prove nothing. After the cut
    an entry of the same size takes the damaged one's place, and the records behind it must stay gone."""
    first, batch = ENTRIES[:1], [Entry(index, 1, b"batch %d" % index) for index in range(2, 6)]
    origin = log_of([first, batch])
    file = wal_files(origin)[-1]
    third = bytes(file.cached).index(batch[1].payload)
    for data in (file.cached, file.durable):
        data[third] ^= 1
    wal = opened(origin)
    assert wal.read(1, wal.last_index) == [*first, batch[0]]
    replacement = Entry(3, 1, b"other 3")
    assert len(replacement.payload) == len(batch[1].payload)
    wal.append([replacement])
    wal.sync()
    wal.close()
    assert recovered(origin) == [*first, batch[0], replacement]


def test_a_missing_segment_is_refused() -> None:
    """In the middle. A missing end is only missed by the state: test_local_replicator.py."""
    disk = log_of([entry] for entry in ENTRIES)
    del disk.names[sorted(path for path in disk.names if path.endswith(".wal"))[1]]
    with pytest.raises(LogCorrupt, match="a segment is missing"):
        opened(disk)


def test_a_renamed_segment_is_refused() -> None:
    disk = log_of([entry] for entry in ENTRIES)
    path = min(path for path in disk.names if path.endswith(".wal"))
    disk.names[path.replace("01-", "03-")] = disk.names.pop(path)
    with pytest.raises(LogCorrupt, match="renamed"):
        opened(disk)


def test_a_newer_format_is_named_as_such() -> None:
    header = SegmentHeader(bytes(16), 1, 1, 0, False)
    page = bytearray(header.encode())
    assert SegmentHeader.decode(bytes(page), "x") == header
    page[8] = 9
    page[-4:] = google_crc32c.value(bytes(page[:-4])).to_bytes(4, "little")
    with pytest.raises(LogCorrupt, match="format version 9"):
        SegmentHeader.decode(bytes(page), "x")


def test_damage_after_opening_is_found_when_read() -> None:
    disk = log_of([ENTRIES[:3]])
    wal = opened(disk)
    wal_files(disk)[0].cached[FIRST_RECORD + 40] ^= 1
    with pytest.raises(LogCorrupt, match="no longer matches"):
        wal.read(1, 3)


def test_a_record_in_a_payload_is_not_taken_for_one() -> None:
    """A payload may hold the bytes of a whole record, of this very segment, and be torn so that only they are whole."""
    tag = SegmentHeader(bytes(16), 1, 1, 0, False).tag
    forged, _ = encode_batch(tag, [Entry(9, 1, b"never proposed")], 8)
    disk = log_of([[Entry(1, 1, b"first")], [Entry(2, 1, forged)]])
    assert recovered(copy(disk)) == [Entry(1, 1, b"first"), Entry(2, 1, forged)]
    file = wal_files(disk)[0]
    at = bytes(file.cached).index(forged)
    file.cached[at - 16] ^= 1
    with pytest.raises(LogCorrupt):  # refused rather than believed
        opened(disk)
