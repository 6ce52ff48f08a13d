"""From the files in a directory to the segments of a log, or to the reason why not.

What a power loss or a kill can leave behind is repaired; what it cannot is LogCorrupt:
- The last write may be torn: any part of it may be missing. It is cut at its first record that is not whole, and what
  landed after it is erased so that it can never come back.
- A record that is not whole although something later was written when it was already durable (a later segment, or a record
  whose `position` says so) was acknowledged: the log is corrupt.
- Segments that a newer one replaces, and spare files, are leftovers.
- What was read may be in the page cache only (a process killed inside a write, a sync that failed). The last write is
  therefore written once more before anything is built on it.
"""

from __future__ import annotations

import errno
import os
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from raft.errors import LogCorrupt
from raft.segment import FIRST_RECORD, Segment, SegmentHeader

if TYPE_CHECKING:
    from raft.disk import Disk
    from raft.record import Header

SEGMENT_SUFFIX = ".wal"
SPARE_SUFFIX = ".spare"

_ADVICE = "do not start on this log: restore it from a good copy, or rebuild this node's state and move the log away"


class Recovered(NamedTuple):
    segments: list[Segment]  # oldest first, open; empty for a new log
    leftovers: list[str]  # names that may be removed
    spares: list[str]
    sequence_last: int


def recover(disk: Disk, directory: str, owner: bytes) -> Recovered:
    """Open and verify the log. Raises LogCorrupt and OSError; then nothing stays open."""
    names = disk.list(directory)
    spares = sorted(name for name in names if name.endswith(SPARE_SUFFIX) and name.removesuffix(SPARE_SUFFIX).isdecimal())
    found: list[Segment] = []
    try:
        for name in names:
            if name.endswith(SEGMENT_SUFFIX):
                found.append(_open(disk, os.path.join(directory, name), owner))  # noqa: PERF401 (closed below after an error)
        found.sort(key=lambda segment: segment.header.sequence)
        live = _live(found)
        for segment, successor in pairwise(live):
            _recover_sealed(disk, segment, successor)
        if live:
            _recover_last(disk, live[-1])
    except BaseException:
        for segment in found:
            segment.close(disk)
        raise
    leftovers = [segment for segment in found if segment not in live]
    for segment in leftovers:
        segment.close(disk)
    sequence_last = found[-1].header.sequence if found else 0
    return Recovered(live, [os.path.basename(segment.path) for segment in leftovers], spares, sequence_last)


def _open(disk: Disk, path: str, owner: bytes) -> Segment:
    fd = disk.open(path)
    try:
        header = SegmentHeader.decode(disk.read(fd, FIRST_RECORD, 0), path)
        if header.owner != owner:
            raise LogCorrupt(f"{path}: belongs to another node ({header.owner.hex()}, this one is {owner.hex()}); {_ADVICE}")
        if header.name != os.path.basename(path):
            raise LogCorrupt(f"{path}: its header says that it is {header.name}; a file was renamed or copied over; {_ADVICE}")
        return Segment(path, fd, header, disk.size(fd))
    except BaseException:
        disk.close(fd)
        raise


def _live(by_sequence: list[Segment]) -> list[Segment]:
    """The segments that no later one replaces; their bases are strictly increasing."""
    live: list[Segment] = []
    for segment in by_sequence:
        while live and (segment.header.start or live[-1].header.base >= segment.header.base):
            live.pop()
        live.append(segment)
    return live


def _recover_sealed(disk: Disk, segment: Segment, successor: Segment) -> None:
    """All records before the successor's base were durable when that was made."""
    stop = successor.header.base
    segment.scan(disk, stop)
    if segment.index_last == stop - 1:
        return
    missing = segment.index_last + 1
    later = next(segment.records_after(disk, segment.end), None)
    if later is None:
        raise LogCorrupt(
            f"{segment.path}: offset {segment.end}: the log ends before index {missing} and goes on with {stop} in "
            f"{successor.path}: a segment is missing or damaged; {_ADVICE}"
        )
    raise LogCorrupt(_damage(segment, f"{successor.path} begins with {stop}"))


def _recover_last(disk: Disk, segment: Segment) -> None:
    last = segment.scan(disk, None)
    erase_to = segment.end
    for offset, header in segment.records_after(disk, segment.end):
        if header.durable > segment.index_last:
            raise LogCorrupt(_damage(segment, f"entry {header.index} at offset {offset} was written after it was durable"))
        erase_to = max(erase_to, offset + header.size)
    if erase_to > segment.end:
        disk.write_durable(segment.fd, bytes(erase_to - segment.end), segment.end)
    if last is not None:
        _settle(disk, segment, last)


def _settle(disk: Disk, segment: Segment, last: Header) -> None:
    """Write the last batch once more: reading it does not prove that it is on the disk."""
    start = segment.offsets[max(last.durable + 1 - segment.header.base, 0)]
    data = disk.read(segment.fd, segment.end - start, start)
    if len(data) != segment.end - start:
        raise OSError(errno.EIO, "the file changed while it was read", segment.path)
    disk.write_durable(segment.fd, data, start)


def _damage(segment: Segment, evidence: str) -> str:
    index = segment.index_last + 1
    return (
        f"{segment.path}: offset {segment.end}: the record of entry {index} is damaged although it was acknowledged "
        f"({evidence}); {_ADVICE}"
    )
