"""Ranges of a file that become something else: what fallocate and copy_range make of its chunk records.

A plan is a list of changes, at most one per record; planning decides and may refuse, `write` writes. Data never moves: extents
are cut, shifted and repeated. Everything is byte-exact; only what shifts a file has to come in multiples of UNIT.

Bounds of one op, beyond which it is refused with EFBIG: CHUNKS_MAX records, EXTENTS_MAX of a record, and for a shift PIECES_MAX
extents in all. Inline bytes of a record come in one answer, so a record takes no more of them than INLINE_CHUNK_MAX.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, NamedTuple

from metaserver.core import extents
from metaserver.core.errors import FsError
from metaserver.core.extents import EMPTY, Held, Spliced
from metaserver.core.model import CHUNK_BYTES, EXTENTS_MAX, FILE_SIZE_MAX, Extent
from metaserver.core.slices import chunks_from, put_chunk, release, share

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from metaserver.core.context import Context
    from metaserver.core.model import Inode
    from metaserver.core.txn import ReadTxn, WriteTxn

UNIT: Final = 4096
CHUNKS_MAX: Final = 1 << 14  # 1 TiB
PIECES_MAX: Final = 1 << 18
INLINE_CHUNK_MAX: Final = 1 << 20
LAST_CHUNK: Final = FILE_SIZE_MAX // CHUNK_BYTES - 1


class Change(NamedTuple):
    """What becomes of one record. `gained` and `freed`: slices that it did not hold before, and holds no more."""

    chunk: int
    value: bytes
    gained: list[Held]
    freed: list[Held]
    allocated: int


class Place(NamedTuple):
    """An extent, at a byte of a file; its own `pos` does not count."""

    at: int
    extent: Extent


def write(txn: WriteTxn, ctx: Context, inode: Inode, changes: Sequence[Change]) -> None:
    for change in changes:
        share(txn, change.gained)
    for change in changes:
        release(txn, ctx, inode.volume, change.freed)
        put_chunk(txn, inode.ino, change.chunk, change.value)


def allocate(txn: ReadTxn, inode: Inode, offset: int, length: int) -> list[Change]:
    """Holes become zeros."""
    return [
        _spliced(index, value, extents.fill(value, start, end))
        for index, value, start, end in _all_records(txn, inode, offset, length)
    ]


def zero(txn: ReadTxn, inode: Inode, offset: int, length: int) -> list[Change]:
    """Everything becomes zeros."""
    return [
        _spliced(index, value, extents.splice(value, extents.zeros(start, end - start)))
        for index, value, start, end in _all_records(txn, inode, offset, length)
    ]


def punch(txn: ReadTxn, inode: Inode, offset: int, length: int) -> list[Change]:
    """Everything becomes a hole. Only records that exist count."""
    records = _records(txn, inode, offset // CHUNK_BYTES, (offset + length - 1) // CHUNK_BYTES)
    changes = []
    for index, value in records:
        start, end = _inside(index, offset, offset + length)
        changes.append(_spliced(index, value, extents.replace(value, start, end, ())))
    return changes


def collapse(txn: ReadTxn, inode: Inode, offset: int, length: int) -> list[Change]:
    """The range goes, and what lies behind it moves up."""
    return _shift(txn, inode, offset, offset + length, -length)


def insert(txn: ReadTxn, inode: Inode, offset: int, length: int) -> list[Change]:
    """A hole comes to be, and what lies there moves back."""
    return _shift(txn, inode, offset, offset, length)


def places(txn: ReadTxn, inode: Inode, offset: int, length: int) -> list[Place]:
    """The extents of a range, in order."""
    found = []
    for index, value in chunks_from(txn, inode.ino, offset // CHUNK_BYTES, (offset + length - 1) // CHUNK_BYTES):
        start, end = _inside(index, offset, offset + length)
        found += [Place(index * CHUNK_BYTES + one.pos, one) for one in extents.within(value, start, end)]
    return found


def overlay(txn: ReadTxn, inode: Inode, offset: int, length: int, laid: Sequence[Place]) -> list[Change]:
    """The range becomes what `laid` says, and holes between. `laid` is in order, and of slices that have an owner."""
    rows: dict[int, list[Extent]] = {}
    for place in laid:
        _lay(rows, place)
    changes = []
    for index, value, start, end in _all_records(txn, inode, offset, length):
        row = rows.get(index, [])
        if row or value != EMPTY:
            change = _spliced(index, value, extents.replace(value, start, end, row), extents.distinct(row))
            changes.append(_shared(change, errno.EOPNOTSUPP))
    return changes


def _shift(txn: ReadTxn, inode: Inode, keep: int, start: int, by: int) -> list[Change]:
    """What lies before `keep` stays, what lies from `start` on moves by `by`, what is between goes."""
    records = dict(_records(txn, inode, keep // CHUNK_BYTES, LAST_CHUNK))
    if sum(extents.check(value) for value in records.values()) > PIECES_MAX:
        raise FsError(errno.EFBIG, f"more than {PIECES_MAX} pieces would have to be moved; copy the file")
    rows: dict[int, list[Extent]] = {index: [] for index in records}
    for index, value in records.items():
        base = index * CHUNK_BYTES
        for one in extents.decode(value):
            stays, moves = extents.clip(one, 0, keep - base), extents.clip(one, start - base, CHUNK_BYTES)
            if stays.length > 0:
                _lay(rows, Place(base + stays.pos, stays))
            if moves.length > 0:
                _lay(rows, Place(base + moves.pos + by, moves))
    if len(rows) > CHUNKS_MAX or max(rows, default=0) > LAST_CHUNK:
        raise FsError(errno.EFBIG, f"more than {CHUNKS_MAX} chunks would change, or the file would be too long")
    changes = []
    for index, row in rows.items():
        old, new = records.get(index, EMPTY), extents.encode(row)
        if old != new:
            freed = extents.unheld(new, extents.slices(old))
            allocated = sum(one.length for one in row) - extents.allocated(old)
            change = _spliced(index, old, Spliced(new, freed, allocated), extents.distinct(row))
            changes.append(_shared(change, errno.EFBIG))
    return changes


def _lay(rows: dict[int, list[Extent]], place: Place) -> None:
    """Add an extent to the rows of the chunks that it touches."""
    at, left = place
    while left.length:
        index, pos = divmod(at, CHUNK_BYTES)
        take = min(left.length, CHUNK_BYTES - pos)
        extents.append(rows.setdefault(index, []), left._replace(pos=pos, length=take))
        at += take
        left = extents.clip(left, left.pos + take, left.pos + left.length)


def _records(txn: ReadTxn, inode: Inode, first: int, last: int) -> list[tuple[int, bytes]]:
    """The records that exist; EFBIG when they are too many."""
    records = chunks_from(txn, inode.ino, first, last) if inode.allocated else []
    if len(records) > CHUNKS_MAX:
        raise FsError(errno.EFBIG, f"{len(records)} chunks would change; at most {CHUNKS_MAX} do at a time")
    return records


def _all_records(txn: ReadTxn, inode: Inode, offset: int, length: int) -> Iterator[tuple[int, bytes, int, int]]:
    """Every chunk of the range, with the range's start and end in it; one without a record is EMPTY."""
    first, last = offset // CHUNK_BYTES, (offset + length - 1) // CHUNK_BYTES
    if last - first >= CHUNKS_MAX:
        raise FsError(errno.EFBIG, f"{last - first + 1} chunks would change; at most {CHUNKS_MAX} do at a time")
    records = dict(_records(txn, inode, first, last))
    for index in range(first, last + 1):
        start, end = _inside(index, offset, offset + length)
        yield index, records.get(index, EMPTY), start, end


def _inside(index: int, offset: int, end: int) -> tuple[int, int]:
    """A range of the file as positions in a chunk that it touches."""
    base = index * CHUNK_BYTES
    return max(offset - base, 0), min(end - base, CHUNK_BYTES)


def _spliced(index: int, old: bytes, after: Spliced, laid: Sequence[Held] = ()) -> Change:
    if len(after.value) > len(old) and extents.check(after.value) > EXTENTS_MAX:
        raise FsError(errno.EFBIG, f"chunk {index} is in more than {EXTENTS_MAX} pieces; copy the file")
    return Change(index, after.value, extents.unheld(old, laid), after.freed, after.allocated)


def _shared(change: Change, refusal: int) -> Change:
    """Refused when the record would take more inline bytes than come in one answer."""
    gained = any(one.inline for one in change.gained)
    if gained and sum(one.size for one in extents.slices(change.value) if one.inline) > INLINE_CHUNK_MAX:
        raise FsError(refusal, f"chunk {change.chunk} would hold more than {INLINE_CHUNK_MAX} bytes in the metadata")
    return change
