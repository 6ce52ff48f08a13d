"""The bytes of one log record, without I/O. docs/WAL.md draws them.

A record is a 32-byte header, the payload, and zeros up to a multiple of 8. Rules:
- `tag` belongs to the segment (segment.py derives it from what makes the segment unique). It opens every record and seeds its
  CRC, so what an earlier life of a recycled file left behind is never taken for a record of this one.
- The CRC32C covers the header after it and the payload; the padding must be zero. There is no bit that may flip unnoticed.
- `position` counts from the last index that was durable when the record was written (1 = the next one after it). So a record
  says which records before it had been synced, and recovery can tell a torn batch (pages of one unfinished write land in any
  order) from damage to something that was acknowledged.
- `kind` says whose entry it is: the state machine's, or one of the cluster's own. A kind that is not known is damage.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

import google_crc32c

if TYPE_CHECKING:
    from collections.abc import Sequence

PAYLOAD_MAX = 16 << 20
HEADER_SIZE = 32
ALIGNMENT = 8
POSITION_MAX = (1 << 24) - 1

DATA: Final = 1  # a command for the state machine; the only kind that a single node writes
NOOP: Final = 2  # a new leader's first entry: with it, what earlier terms left is committed (Raft, section 5.4.2)
MEMBERSHIP: Final = 3  # the members from here on, as membership.encode wrote them
MARKER: Final = 4  # a point at which every node digests its state
KINDS: Final = frozenset((DATA, NOOP, MEMBERSHIP, MARKER))

_KIND_SHIFT = 24  # the kind is the high byte of the word that also holds the position
_PREFIX = struct.Struct("<II")  # tag, crc
_BODY = struct.Struct("<IIQQ")  # payload length, kind and position, index, term
_HEADER = struct.Struct("<IIIIQQ")
_PADDING = tuple(bytes(n) for n in range(ALIGNMENT))
_extend = google_crc32c.extend


class Entry(NamedTuple):
    """What the log holds under one index."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    term: int
    payload: bytes
    kind: int = DATA


class Header(NamedTuple):
    """A record's header whose shape is right; only `payload_at` proves that it is one."""

    crc: int
    length: int
    position: int
    index: int  # type: ignore[assignment]  # as in Entry
    term: int
    kind: int

    @property
    def size(self) -> int:
        return record_size(self.length)

    @property
    def durable(self) -> int:
        """The last index that was known to be durable when this record was written."""
        return self.index - self.position


class Run(NamedTuple):
    """Whole records with consecutive indexes, one after the other."""

    offsets: list[int]
    end: int  # where the next one would begin
    last: Header | None
    terms: list[tuple[int, int]]  # (index, term) wherever the term is not that of the entry before
    memberships: list[int]  # the indexes of MEMBERSHIP entries


def record_size(length: int) -> int:
    """Bytes that a record with `length` bytes of payload takes in the file."""
    return HEADER_SIZE + length + (-length & 7)


def encode_batch(tag: int, entries: Sequence[Entry], durable: int) -> tuple[bytes, list[int]]:
    """The records of entries that are written together after `durable`, and where each begins."""
    parts: list[bytes] = []
    offsets: list[int] = []
    at = 0
    for index, term, payload, kind in entries:
        length = len(payload)
        padding = _PADDING[-length & 7]
        body = _BODY.pack(length, kind << _KIND_SHIFT | (index - durable), index, term)
        parts += (_PREFIX.pack(tag, _extend(_extend(tag, body), payload)), body, payload, padding)
        offsets.append(at)
        at += HEADER_SIZE + length + len(padding)
    return b"".join(parts), offsets


def header_at(buffer: bytes, at: int, tag: int) -> Header | None:
    """The header that begins at `at`, None where there cannot be one."""
    if len(buffer) - at < HEADER_SIZE:
        return None
    found, crc, length, word, index, term = _HEADER.unpack_from(buffer, at)
    position, kind = word & POSITION_MAX, word >> _KIND_SHIFT
    if found != tag or length > PAYLOAD_MAX or kind not in KINDS or not 0 < position <= index:
        return None
    return Header(crc, length, position, index, term, kind)


def payload_at(buffer: bytes, at: int, tag: int, header: Header) -> bytes | None:
    """The payload of the record at `at`, None when the record is incomplete or damaged."""
    start = at + HEADER_SIZE
    stop = start + header.length
    end = at + header.size
    if len(buffer) < end or _extend(tag, buffer[at + _PREFIX.size : stop]) != header.crc:
        return None
    return buffer[start:stop] if buffer[stop:end] == _PADDING[end - stop] else None


def run_of_records(buffer: bytes, tag: int, index: int, count_max: int, term: int) -> Run:
    """The records from the buffer's begin on, the first of which has this index and follows one of this term.

    The same checks as `header_at` and `payload_at`, in one loop: a node reads its whole log when it starts.
    """
    offsets: list[int] = []
    terms: list[tuple[int, int]] = []
    memberships: list[int] = []
    at, expected, size, last = 0, index, len(buffer), (0, 0, 0, 0, 0)
    while at + HEADER_SIZE <= size and len(offsets) < count_max:
        found, crc, length, word, number, its_term = _HEADER.unpack_from(buffer, at)
        stop = at + HEADER_SIZE + length
        end = stop + (-length & 7)
        if found != tag or number != expected or end > size or length > PAYLOAD_MAX:
            break
        if not 0 < word & POSITION_MAX <= number or (kind := word >> _KIND_SHIFT) not in KINDS:
            break
        if _extend(tag, buffer[at + 8 : stop]) != crc or buffer[stop:end] != _PADDING[end - stop]:
            break
        if its_term != term:
            term = its_term
            terms.append((number, term))
        if kind == MEMBERSHIP:
            memberships.append(number)
        last = (crc, length, word & POSITION_MAX, number, kind)
        offsets.append(at)
        at = end
        expected += 1
    crc, length, position, number, kind = last
    return Run(offsets, at, Header(crc, length, position, number, term, kind) if offsets else None, terms, memberships)
