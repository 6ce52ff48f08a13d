"""One file of the log: its header, its records, and where they are.

A segment is a file of fixed, preallocated size: a 4096-byte header page that is written once, then records with consecutive
indexes from `base`. The name is `<base>-<sequence>.wal`. Rules:
- `sequence` grows with every segment ever made in a log, so names and tags are never used twice.
- A segment replaces everything from `base` on in segments with a lower sequence. Cutting a suffix is therefore one new
  segment, durable or absent, never a half-finished rewrite.
- A segment with `start` set replaces everything: the log begins there.
- When a segment is made, everything before its base is durable.

Not here: which segments make up the log (recovery.py), when one is made (wal.py).
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import google_crc32c

from raft.errors import LogCorrupt
from raft.record import ALIGNMENT, Entry, Header, header_at, payload_at, run_of_records

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raft.disk import Disk

FIRST_RECORD = 4096
OWNER_SIZE = 16
VERSION = 1

_MAGIC = b"KEELWAL\n"
_FLAG_START = 1
_FIELDS = struct.Struct("<8sII16sQQQ")  # magic, version, flags, owner, sequence, base, previous term
_CRC = struct.Struct("<I")  # the last word of the page, over the rest of it
_IDENTITY = struct.Struct("<16sQQ")
_WINDOW = 1 << 20
_NO_LIMIT = 1 << 62


@dataclass(frozen=True)
class SegmentHeader:
    owner: bytes  # the node whose log this is
    sequence: int
    base: int  # index of the first record, whether it has been written yet or not
    term_before: int  # term of the entry before `base`
    start: bool  # the log begins here whatever lies before

    @cached_property
    def tag(self) -> int:
        """What opens this segment's records and seeds their CRC; never 0, so zeros are never a record."""
        return google_crc32c.value(_IDENTITY.pack(self.owner, self.sequence, self.base)) or 1

    @property
    def name(self) -> str:
        return f"{self.base:020d}-{self.sequence:010d}.wal"

    def encode(self) -> bytes:
        flags = _FLAG_START if self.start else 0
        fields = _FIELDS.pack(_MAGIC, VERSION, flags, self.owner, self.sequence, self.base, self.term_before)
        page = fields.ljust(FIRST_RECORD - _CRC.size, b"\0")
        return page + _CRC.pack(google_crc32c.value(page))

    @classmethod
    def decode(cls, page: bytes, path: str) -> SegmentHeader:
        if len(page) < FIRST_RECORD:
            raise LogCorrupt(f"{path}: shorter than a segment's header; restore the file or the node from a good copy")
        magic, version, flags, owner, sequence, base, term_before = _FIELDS.unpack_from(page)
        if magic != _MAGIC or _CRC.unpack_from(page, FIRST_RECORD - _CRC.size)[0] != google_crc32c.value(page[: -_CRC.size]):
            raise LogCorrupt(
                f"{path}: offset 0: the segment's header is damaged; restore the file or the node from a good copy"
            )
        if version != VERSION or flags & ~_FLAG_START:
            raise LogCorrupt(f"{path}: format version {version}, this program reads version {VERSION}; use a newer one")
        return cls(owner, sequence, base, term_before, bool(flags & _FLAG_START))


class Segment:
    """An open segment and the offsets of its records. Owns the handle until `close`."""

    __slots__ = ("end", "fd", "header", "memberships_found", "offsets", "path", "size", "tag", "term_last", "terms_found")

    def __init__(self, path: str, fd: int, header: SegmentHeader, size: int) -> None:
        self.path = path
        self.fd = fd
        self.header = header
        self.size = size
        self.tag = header.tag
        self.offsets = array("Q")
        self.end = FIRST_RECORD  # where the next record goes
        self.term_last = header.term_before
        # As of `scan`, for whoever opens the log: where entries of kind MEMBERSHIP are, and where which term begins.
        self.memberships_found: list[int] = []
        self.terms_found: list[tuple[int, int]] = []

    @property
    def index_last(self) -> int:
        return self.header.base + len(self.offsets) - 1

    def scan(self, disk: Disk, stop: int | None) -> Header | None:
        """Find the records up to the first that is not one, or up to index `stop`. Returns the last one's header."""
        expected, at, last = self.header.base, FIRST_RECORD, None
        while stop is None or expected < stop:
            count_max = _NO_LIMIT if stop is None else stop - expected
            window = disk.read(self.fd, _WINDOW, at)
            run = run_of_records(window, self.tag, expected, count_max, self.term_last)
            if run.last is None:
                header = header_at(window, 0, self.tag)
                if header is None or header.size <= len(window):
                    break
                window = disk.read(self.fd, header.size, at)
                run = run_of_records(window, self.tag, expected, 1, self.term_last)
                if run.last is None:
                    break
            self.offsets.extend([at + offset for offset in run.offsets])
            self.terms_found += run.terms
            self.memberships_found += run.memberships
            last, self.term_last = run.last, run.last.term
            at += run.end
            expected += len(run.offsets)
        self.end = at
        return last

    def records_after(self, disk: Disk, start: int) -> Iterator[tuple[int, Header]]:
        """Whole records of this segment anywhere from offset `start` on, in the order of the file."""
        needle = self.tag.to_bytes(4, "little")
        for window_at in range(start, self.size, _WINDOW):
            window = disk.read(self.fd, _WINDOW + len(needle) - 1, window_at)
            found = window.find(needle)
            while found >= 0:
                at = window_at + found
                if at % ALIGNMENT == 0 and (header := self._whole_record(disk, at)) is not None:
                    yield at, header
                found = window.find(needle, found + 1)

    def _whole_record(self, disk: Disk, at: int) -> Header | None:
        head = disk.read(self.fd, ALIGNMENT * 4, at)
        header = header_at(head, 0, self.tag)
        if header is None or at + header.size > self.size:
            return None
        return None if payload_at(disk.read(self.fd, header.size, at), 0, self.tag, header) is None else header

    def read(self, disk: Disk, first: int, last: int, bytes_max: int, least: int = 1) -> list[Entry]:
        """Entries `first`..`last` of this segment, as many as fit in `bytes_max` but at least `least`."""
        base = self.header.base
        low, high = first - base, last - base + 1
        start = self.offsets[low]
        if self._offset(high) - start > bytes_max:
            high = max(bisect_right(self.offsets, start + bytes_max, low, high) - 1, low + least)
        stop = self._offset(high)
        data = disk.read(self.fd, stop - start, start)
        return [self._entry(data, self.offsets[i] - start, base + i) for i in range(low, high)]

    def _offset(self, number: int) -> int:
        return self.offsets[number] if number < len(self.offsets) else self.end

    def _entry(self, data: bytes, at: int, index: int) -> Entry:
        header = header_at(data, at, self.tag)
        payload = None if header is None or header.index != index else payload_at(data, at, self.tag, header)
        if header is None or payload is None:
            where = self.offsets[index - self.header.base]
            raise LogCorrupt(f"{self.path}: offset {where}: entry {index} no longer matches its checksum; the disk is failing")
        return Entry(index, header.term, payload, header.kind)

    def term_of(self, disk: Disk, index: int) -> int:
        return self.read(disk, index, index, 0)[0].term

    def cut(self, index: int, term: int) -> None:
        """Forget the records after `index`, whose term is `term`; a newer segment replaces them on disk."""
        keep = index - self.header.base + 1
        self.end = self._offset(keep)
        del self.offsets[keep:]
        self.term_last = term

    def close(self, disk: Disk) -> None:
        disk.close(self.fd)
