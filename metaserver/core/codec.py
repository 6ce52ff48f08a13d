"""Values as bytes: fixed structs with a version, the same bytes for the same value on every machine.

Decoding checks length and version and raises CorruptState, so damage is never read as data. What carries no version byte
(symlink targets, attribute values, inline bytes) is the user's own bytes. The extents of a chunk are in extents.py.

The inode is the hottest value: 91 bytes (95 with extended attributes, 115 with ACLs or flags), its number only in the key, and
one field for what only one type of file has.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from metaserver.core.entry import Result
from metaserver.core.errors import CorruptState
from metaserver.core.model import Dentry, Ino, Inode, Session, Settings, Usage, Volume

VERSION: Final = 1
#: What the whole state is stamped with (keys.FORMAT); another number means another program wrote it.
FORMAT_VERSION: Final = 1
MARK: Final = b"\x01"
ORPHAN_MARK: Final = MARK
UNNAMED_MARK: Final = b"\x01\x01"  # it never had a name (O_TMPFILE), and may still get one

_TYPE: Final = 0o170000
_REG: Final = 0o100000
_DIR: Final = 0o040000

# version, mode, uid, gid, nlink, size, volume, parent, of the type, atime, mtime, ctime, btime, version, data_version
_INODE: Final = struct.Struct(">BHIIIQIQQqqqqQQ")
_INODE_XATTR: Final = struct.Struct(">BHIIIQIQQqqqqQQI")
_INODE_FULL: Final = struct.Struct(">BHIIIQIQQqqqqQQIQQI")
_INODE_BYTES: Final = _INODE.size
_INODE_XATTR_BYTES: Final = _INODE_XATTR.size
_INODE_FULL_BYTES: Final = _INODE_FULL.size
_RARE: Final = (0, 0, 0, 0)
_NOTHING_RARE: Final = [*_RARE]
_inode_pack: Final = _INODE.pack
_inode_unpack: Final = _INODE.unpack
_new: Final = tuple.__new__

_DENTRY_SHORT: Final = struct.Struct(">BQI")
_DENTRY_LONG: Final = struct.Struct(">BQQ")
_LISTING: Final = struct.Struct(">BQ")
#: The high half of an entry's first byte: 1 = the cookie has 4 bytes (or none: a listing), 2 = it has 8.
_SHORT: Final = 0x10
_LONG: Final = 0x20

_COUNTER: Final = struct.Struct(">BQ")
_COUNT: Final = struct.Struct(">BI")
_ACKED: Final = struct.Struct(">BQI")
_DOOMED: Final = struct.Struct(">BIIq")
_LEDGER: Final = struct.Struct(">BQQQQI")
#: Of a volume that has something switched off: bits of what.
_LEDGER_WITHOUT: Final = struct.Struct(">BQQQQIB")
_WITHOUT_ACL: Final = 1
_ACL: Final = struct.Struct(">BQ")
_PAIR: Final = struct.Struct(">QQ")
_LOCK_WAIT: Final = struct.Struct(">BQBQ")


class Doomed(NamedTuple):
    """What the delete queue keeps of a slice."""

    size: int
    volume: int
    queued_ns: int


class Acked(NamedTuple):
    """What an op needs to know of its session: results up to `seq` are forgotten; its inodes are those of `volume`."""

    seq: int
    volume: int


class Ledger(NamedTuple):
    """What a volume holds and what it may hold: one value, because every create needs both."""

    usage: Usage
    settings: Settings


class KeptAcl(NamedTuple):
    """An access control list and how many uses inodes make of it."""

    uses: int
    value: bytes


class LockWait(NamedTuple):
    """Where somebody waits for a lock, and for which of the session's owners."""

    ino: int
    kind: int
    owner: int


def _unpack(layout: struct.Struct, value: bytes, what: str) -> tuple[int, ...]:
    """The fields after the version byte."""
    if len(value) != layout.size or value[0] != VERSION:
        raise _corrupt(what, value)
    return layout.unpack(value)[1:]


def _corrupt(what: str, value: bytes) -> CorruptState:
    return CorruptState(f"{what}: {len(value)} bytes that start with {value[:16].hex()}")


# --- inode ------------------------------------------------------------------------------------------------------------


def encode_inode(inode: Inode) -> bytes:
    """At most one of rdev, allocated, next_cookie is not 0; the type says which one is kept. What few files have comes last
    and only where there is some: the length of the attributes' names, then ACLs and flags."""
    (_, mode, uid, gid, nlink, size, volume, parent, rdev, allocated, cookie, at, mt, ct, bt, version, data, *rare) = inode
    own = allocated or cookie or rdev
    fixed = (VERSION, mode, uid, gid, nlink, size, volume, parent, own, at, mt, ct, bt, version, data)
    if rare == _NOTHING_RARE:
        return _inode_pack(*fixed)
    xattrs, acl, default_acl, flags = rare
    if acl or default_acl or flags:
        return _INODE_FULL.pack(*fixed, xattrs, acl, default_acl, flags)
    return _INODE_XATTR.pack(*fixed, xattrs)


def decode_inode(ino: int, value: bytes) -> Inode:
    rare: tuple[int, ...] = _RARE
    if len(value) == _INODE_BYTES:
        first, mode, uid, gid, nlink, size, volume, parent, own, at, mt, ct, bt, version, data = _inode_unpack(value)
    elif len(value) in (_INODE_XATTR_BYTES, _INODE_FULL_BYTES):
        layout = _INODE_XATTR if len(value) == _INODE_XATTR_BYTES else _INODE_FULL
        first, mode, uid, gid, nlink, size, volume, parent, own, at, mt, ct, bt, version, data, *found = layout.unpack(value)
        rare = (*found, 0, 0, 0)[: len(_RARE)]
    else:
        raise _corrupt(f"inode {ino}", value)
    if first != VERSION:
        raise _corrupt(f"inode {ino}", value)
    kind = mode & _TYPE
    if kind == _REG:
        return _new(Inode, (ino, mode, uid, gid, nlink, size, volume, parent, 0, own, 0, at, mt, ct, bt, version, data, *rare))
    if kind == _DIR:
        return _new(Inode, (ino, mode, uid, gid, nlink, size, volume, parent, 0, 0, own, at, mt, ct, bt, version, data, *rare))
    return _new(Inode, (ino, mode, uid, gid, nlink, size, volume, parent, own, 0, 0, at, mt, ct, bt, version, data, *rare))


# --- entries ----------------------------------------------------------------------------------------------------------


def encode_dentry(ino: int, kind: int, cookie: int) -> bytes:
    if cookie <= 0xFFFFFFFF:
        return _DENTRY_SHORT.pack(_SHORT | kind, ino, cookie)
    return _DENTRY_LONG.pack(_LONG | kind, ino, cookie)


def decode_dentry(value: bytes) -> Dentry:
    if len(value) == _DENTRY_SHORT.size:
        first, ino, cookie = _DENTRY_SHORT.unpack(value)
        if first & 0xF0 == _SHORT:
            return _new(Dentry, (ino, first & 15, cookie))
    elif len(value) == _DENTRY_LONG.size:
        first, ino, cookie = _DENTRY_LONG.unpack(value)
        if first & 0xF0 == _LONG:
            return _new(Dentry, (ino, first & 15, cookie))
    raise _corrupt("entry", value)


def encode_listing(ino: int, kind: int, name: bytes) -> bytes:
    return _LISTING.pack(_SHORT | kind, ino) + name


def decode_listing(value: bytes) -> tuple[Ino, int, bytes]:
    """Number, type, name."""
    if len(value) <= _LISTING.size or value[0] & 0xF0 != _SHORT:
        raise _corrupt("listing", value)
    first, ino = _LISTING.unpack_from(value)
    return ino, first & 15, value[9:]


# --- numbers ----------------------------------------------------------------------------------------------------------


def encode_counter(number: int) -> bytes:
    return _COUNTER.pack(VERSION, number)


def decode_counter(value: bytes) -> int:
    return _unpack(_COUNTER, value, "counter")[0]


def encode_count(count: int) -> bytes:
    return _COUNT.pack(VERSION, count)


def decode_count(value: bytes) -> int:
    return _unpack(_COUNT, value, "count")[0]


def encode_acked(seq: int, volume: int) -> bytes:
    return _ACKED.pack(VERSION, seq, volume)


def decode_acked(value: bytes) -> Acked:
    return Acked._make(_unpack(_ACKED, value, "acknowledged seq"))


def encode_doomed(size: int, volume: int, queued_ns: int) -> bytes:
    return _DOOMED.pack(VERSION, size, volume, queued_ns)


def decode_doomed(value: bytes) -> Doomed:
    return Doomed._make(_unpack(_DOOMED, value, "delete queue"))


def encode_ledger(ledger: Ledger) -> bytes:
    usage, settings = ledger
    if settings.acl:
        return _LEDGER.pack(VERSION, usage.bytes, usage.inodes, *settings[:3])
    return _LEDGER_WITHOUT.pack(VERSION, usage.bytes, usage.inodes, *settings[:3], _WITHOUT_ACL)


def decode_ledger(value: bytes) -> Ledger:
    if len(value) == _LEDGER.size:
        used, inodes, capacity, capacity_inodes, inline = _unpack(_LEDGER, value, "ledger")
        return Ledger(Usage(used, inodes), Settings(capacity, capacity_inodes, inline))
    used, inodes, capacity, capacity_inodes, inline, without = _unpack(_LEDGER_WITHOUT, value, "ledger")
    if without != _WITHOUT_ACL:
        raise _corrupt("ledger", value)
    return Ledger(Usage(used, inodes), Settings(capacity, capacity_inodes, inline, acl=False))


def encode_acl(uses: int, value: bytes) -> bytes:
    return _ACL.pack(VERSION, uses) + value


def decode_acl(value: bytes) -> KeptAcl:
    if len(value) <= _ACL.size or value[0] != VERSION:
        raise _corrupt("access control list", value)
    return KeptAcl(_ACL.unpack_from(value)[1], value[_ACL.size :])


def encode_ranges(ranges: list[tuple[int, int]]) -> bytes:
    """First and last of each range, in the order given."""
    return bytes((VERSION,)) + b"".join([_PAIR.pack(*one) for one in ranges])


def decode_ranges(value: bytes) -> list[tuple[int, int]]:
    if len(value) % _PAIR.size != 1 or value[0] != VERSION:
        raise _corrupt("lease", value)
    return list(_PAIR.iter_unpack(memoryview(value)[1:]))


def encode_lock_wait(wait: LockWait) -> bytes:
    return _LOCK_WAIT.pack(VERSION, *wait)


def decode_lock_wait(value: bytes) -> LockWait:
    return LockWait._make(_unpack(_LOCK_WAIT, value, "wait for a lock"))


# --- records with text ------------------------------------------------------------------------------------------------


_SESSION: Final = struct.Struct(">BIQqHH")
_VOLUME: Final = struct.Struct(">BBQqHI")


def encode_session(session: Session) -> bytes:
    """Without its number (the key) and acked_seq (a key of its own)."""
    client = session.client.encode()
    head = _SESSION.pack(VERSION, session.volume, session.root, session.opened_ns, len(session.secret), len(client))
    return head + session.secret + client


def decode_session(number: int, value: bytes, acked_seq: int) -> Session:
    (volume, root, opened_ns), (secret, client) = _with_tails(_SESSION, value, f"session {number}")
    return Session(number, volume, Ino(root), secret, _text(client), opened_ns, acked_seq)


def encode_volume(volume: Volume) -> bytes:
    name, settings = volume.name.encode(), volume.settings_json.encode()
    head = _VOLUME.pack(VERSION, volume.destroyed, volume.root, volume.created_ns, len(name), len(settings))
    return head + name + settings


def decode_volume(number: int, value: bytes) -> Volume:
    (destroyed, root, created_ns), (name, settings) = _with_tails(_VOLUME, value, f"volume {number}")
    return Volume(number, _text(name), Ino(root), _text(settings), created_ns, bool(destroyed))


def _with_tails(layout: struct.Struct, value: bytes, what: str) -> tuple[tuple[int, ...], tuple[bytes, bytes]]:
    """The fields between the version byte and the two lengths that end the struct, and what the lengths measure."""
    if len(value) < layout.size or value[0] != VERSION:
        raise _corrupt(what, value)
    *fields, first, second = layout.unpack_from(value)
    start = layout.size
    if len(value) != start + first + second:
        raise _corrupt(what, value)
    return tuple(fields[1:]), (value[start : start + first], value[start + first :])


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise CorruptState(f"text that is not UTF-8: {raw[:32]!r}") from error


# --- result -----------------------------------------------------------------------------------------------------------

# A result is its presence mask and then what is present, in this order. An inode is its number, a length, and its value.
_HEAD: Final = struct.Struct(">BH")
_ERROR: Final = struct.Struct(">IH")
_INO: Final = struct.Struct(">QB")
_NUMBERS: Final = struct.Struct(">QQ")
_INODE_FIELDS: Final = (1, 2, 4, 8)
_HAS_ERROR: Final = 16
_HAS_NUMBERS: Final = 32
_EXISTED: Final = 64
_MASK_MAX: Final = 127
_ino_pack: Final = _INO.pack


def encode_result(result: Result) -> bytes:
    errno, detail, inode, parent, parent2, other, existed, first, count, _ = result
    if errno:
        text = detail.encode("utf-8", "replace")[:1024]
        return _HEAD.pack(VERSION, _HAS_ERROR) + _ERROR.pack(errno, len(text)) + text
    mask = _EXISTED if existed else 0
    body = b""
    bit = 1
    for one in (inode, parent, parent2, other):
        if one is not None:
            value = encode_inode(one)
            body += _ino_pack(one[0], len(value)) + value
            mask |= bit
        bit <<= 1
    if first or count:
        mask |= _HAS_NUMBERS
        body += _NUMBERS.pack(first, count)
    return _HEAD.pack(VERSION, mask) + body


def decode_result(value: bytes) -> Result:
    try:
        return _decode_result(value)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise _corrupt("result", value) from error


def _decode_result(value: bytes) -> Result:
    version, mask = _HEAD.unpack_from(value)
    at = _HEAD.size
    if version != VERSION or mask > _MASK_MAX:
        raise _corrupt("result", value)
    if mask & _HAS_ERROR:
        errno, length = _ERROR.unpack_from(value, at)
        at += _ERROR.size
        if len(value) != at + length:
            raise _corrupt("result", value)
        return Result(errno, value[at:].decode("utf-8", "replace"))
    inodes: list[Inode | None] = []
    for bit in _INODE_FIELDS:
        if not mask & bit:
            inodes.append(None)
            continue
        ino, length = _INO.unpack_from(value, at)
        at += _INO.size
        inodes.append(decode_inode(ino, value[at : at + length]))
        at += length
    first = count = 0
    if mask & _HAS_NUMBERS:
        first, count = _NUMBERS.unpack_from(value, at)
        at += _NUMBERS.size
    if at != len(value):
        raise _corrupt("result", value)
    inode, parent, parent2, other = inodes
    return Result(0, "", inode, parent, parent2, other, bool(mask & _EXISTED), first, count)
