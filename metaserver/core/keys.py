"""The keyspace: every key that the state holds, in one table.

The first byte of a key says what it is. Numbers in keys are big-endian, so that the order of keys is the order of numbers
and what belongs together lies together. Values are made by codec.py. docs/KEYSPACE.md says the same in prose, and a test
compares the two.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from metaserver.core.errors import CorruptState


class Kind(NamedTuple):
    """One row of the table: what a prefix is called, what follows it in the key, what the value is."""

    prefix: bytes
    name: str
    key: str
    value: str


INODE: Final = b"I"
DENTRY: Final = b"E"
LISTING: Final = b"L"
CHUNK: Final = b"C"
INLINE: Final = b"B"
XATTR: Final = b"X"
SYMLINK: Final = b"Y"
LINK: Final = b"P"
ORPHAN: Final = b"O"
DOOMED: Final = b"D"
SLICE_REFS: Final = b"K"
SESSION: Final = b"S"
SESSION_ACKED: Final = b"A"
RESULT: Final = b"R"
LEASE: Final = b"G"
VOLUME: Final = b"V"
VOLUME_NAME: Final = b"W"
LEDGER: Final = b"U"
ACL: Final = b"Z"
ACL_NUMBER: Final = b"J"
COUNTER: Final = b"N"
META: Final = b"M"
LOCKS: Final = b"F"
LOCKED_BY: Final = b"H"
LOCK_WAIT: Final = b"Q"

TABLE: Final = (
    Kind(INODE, "inode", "ino u64", "the inode, without its number"),
    Kind(DENTRY, "entry by name", "parent u64, name 1..255", "kind of value and type u8, ino u64, cookie u32 or u64"),
    Kind(LISTING, "entry by cookie", "parent u64, cookie u64", "kind of value and type u8, ino u64, name"),
    Kind(CHUNK, "extents of a chunk", "ino u64, chunk u32", "version u8, 24 bytes per extent; never empty"),
    Kind(INLINE, "bytes of an inline slice", "slice u64", "the bytes"),
    Kind(XATTR, "extended attribute", "ino u64, name 1..255", "the bytes"),
    Kind(SYMLINK, "target of a symbolic link", "ino u64", "the bytes"),
    Kind(LINK, "names of a file in a directory", "ino u64, parent u64", "count u32; only while nlink > 1"),
    Kind(ORPHAN, "orphan", "ino u64", "version u8; nlink is 0"),
    Kind(DOOMED, "delete queue", "slice u64", "size, volume, time queued"),
    Kind(SLICE_REFS, "further owners of a slice", "slice u64", "how many, u64; absent = one owner"),
    Kind(SESSION, "session", "session u64", "volume, root, secret, client, time opened"),
    Kind(SESSION_ACKED, "what a session has acknowledged", "session u64", "acked seq u64, volume u32"),
    Kind(RESULT, "result of an operation", "session u64, seq u64", "the result"),
    Kind(LEASE, "inode numbers leased to a session", "session u64", "pairs of first and last, u64 each"),
    Kind(VOLUME, "volume", "volume u32", "name, root, settings, time created, state"),
    Kind(VOLUME_NAME, "volume by name", "name", "volume u32"),
    Kind(LEDGER, "usage and limits of a volume", "volume u32", "bytes, inodes; capacity bytes, inodes; inline bytes"),
    Kind(ACL, "access control list", "number u64", "version u8, uses u64, the list as its attribute has it"),
    Kind(ACL_NUMBER, "access control list by value", "SHA-256 of the list", "number u64"),
    Kind(COUNTER, "counter", "one byte", "the next number to give, u64"),
    Kind(META, "about the state itself", "name", "the format of the state; the time of the last entry, ns"),
    Kind(LOCKS, "locks of an inode", "ino u64, kind u8", "who holds which ranges, who waits in which order"),
    Kind(LOCKED_BY, "inode that a session locks", "session u64, ino u64, kind u8", "version u8"),
    Kind(LOCK_WAIT, "wait for a lock", "session u64, seq u64", "ino u64, kind u8, owner u64"),
)

#: Counters give every number once. Inode 1 is FUSE's name for a mount's root, so the first real inode is 2.
NEXT_INO: Final = b"Ni"
NEXT_SLICE: Final = b"Ns"
NEXT_SESSION: Final = b"Nc"
NEXT_VOLUME: Final = b"Nv"
NEXT_ACL: Final = b"Na"
FIRST_NUMBER: Final = {NEXT_INO: 2, NEXT_SLICE: 1, NEXT_SESSION: 1, NEXT_VOLUME: 1, NEXT_ACL: 1}

FORMAT: Final = b"Mformat"
TIME: Final = b"Mtime"  # of the last entry, ns

_ONE: Final = struct.Struct(">cQ").pack
_TWO: Final = struct.Struct(">cQQ").pack
_CHUNK: Final = struct.Struct(">cQI").pack
_VOLUME: Final = struct.Struct(">cI").pack
_LOCKS: Final = struct.Struct(">cQB").pack
_LOCKED_BY: Final = struct.Struct(">cQQB").pack
_U64: Final = struct.Struct(">Q")
_U32: Final = struct.Struct(">I")


def inode(ino: int) -> bytes:
    return _ONE(INODE, ino)


def dentry(parent: int, name: bytes) -> bytes:
    return _ONE(DENTRY, parent) + name


def listing(parent: int, cookie: int) -> bytes:
    return _TWO(LISTING, parent, cookie)


def listings(parent: int) -> bytes:
    return _ONE(LISTING, parent)


def dentries(parent: int) -> bytes:
    return _ONE(DENTRY, parent)


def chunk(ino: int, index: int) -> bytes:
    return _CHUNK(CHUNK, ino, index)


def chunks(ino: int) -> bytes:
    return _ONE(CHUNK, ino)


def inline(slice_id: int) -> bytes:
    return _ONE(INLINE, slice_id)


def xattr(ino: int, name: bytes) -> bytes:
    return _ONE(XATTR, ino) + name


def xattrs(ino: int) -> bytes:
    return _ONE(XATTR, ino)


def symlink(ino: int) -> bytes:
    return _ONE(SYMLINK, ino)


def link(ino: int, parent: int) -> bytes:
    return _TWO(LINK, ino, parent)


def links(ino: int) -> bytes:
    return _ONE(LINK, ino)


def orphan(ino: int) -> bytes:
    return _ONE(ORPHAN, ino)


def doomed(slice_id: int) -> bytes:
    return _ONE(DOOMED, slice_id)


def slice_refs(slice_id: int) -> bytes:
    return _ONE(SLICE_REFS, slice_id)


def session(number: int) -> bytes:
    return _ONE(SESSION, number)


def session_acked(number: int) -> bytes:
    return _ONE(SESSION_ACKED, number)


def result(number: int, seq: int) -> bytes:
    return _TWO(RESULT, number, seq)


def results(number: int) -> bytes:
    return _ONE(RESULT, number)


def lease(number: int) -> bytes:
    return _ONE(LEASE, number)


def volume(number: int) -> bytes:
    return _VOLUME(VOLUME, number)


def volume_name(name: str) -> bytes:
    return VOLUME_NAME + name.encode()


def ledger(number: int) -> bytes:
    return _VOLUME(LEDGER, number)


def acl(number: int) -> bytes:
    return _ONE(ACL, number)


def acl_number(digest: bytes) -> bytes:
    return ACL_NUMBER + digest


def locks(ino: int, kind: int) -> bytes:
    return _LOCKS(LOCKS, ino, kind)


def locked_by(session: int, ino: int, kind: int) -> bytes:
    return _LOCKED_BY(LOCKED_BY, session, ino, kind)


def locked_bys(session: int) -> bytes:
    return _ONE(LOCKED_BY, session)


def lock_wait(session: int, seq: int) -> bytes:
    return _TWO(LOCK_WAIT, session, seq)


def lock_waits(session: int) -> bytes:
    return _ONE(LOCK_WAIT, session)


def number_at(key: bytes, offset: int = 1) -> int:
    """The u64 at `offset` of a key: 1 = what follows the prefix, 9 = the second number."""
    part = key[offset : offset + 8]
    if len(part) != 8:
        raise CorruptState(f"key {key!r} is too short")
    number: int = _U64.unpack(part)[0]
    return number


def short_at(key: bytes, offset: int) -> int:
    """The u32 at `offset` of a key: 9 = a chunk's index, 1 = a volume's number."""
    part = key[offset : offset + 4]
    if len(part) != 4:
        raise CorruptState(f"key {key!r} is too short")
    number: int = _U32.unpack(part)[0]
    return number
