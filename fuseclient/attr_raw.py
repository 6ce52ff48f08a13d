"""Single fields of an attribute's bytes (protos/attr_layout.py), read or replaced without decoding the rest.

Most attributes only pass through a client; what it has to know of them is a field or two.
"""

from __future__ import annotations

import errno
import stat
import struct
from typing import Final

from fuseclient.attr import Attr
from fuseclient.errors import FsError
from protos.attr_layout import ATTR_BYTES, NO_XATTRS

NS: Final = 1_000_000_000

_U64: Final = struct.Struct("<Q")
_U32: Final = struct.Struct("<I")
_I64: Final = struct.Struct("<q")
_u64_at: Final = _U64.unpack_from
_u32_at: Final = _U32.unpack_from
_TIMES: Final = struct.Struct("<qqqIII")
_SIZE: Final = 8
_BLOCKS: Final = 16
_ATIME_S: Final = 24
_ATIME_NSEC: Final = 48
_CTIME_S: Final = 40
_MTIME_S: Final = 32
_MTIME_NSEC: Final = 52
_CTIME_NSEC: Final = 56
_MODE: Final = 60
_NLINK: Final = 64
_PARENT: Final = 96
_VERSION: Final = 104
_DATA_VERSION: Final = 112
_FLAGS: Final = 120
_INODE_FLAGS: Final = 124


def parse(raw: bytes) -> Attr:
    """Attributes off the wire; EIO when they are none."""
    if len(raw) < ATTR_BYTES:
        raise FsError(errno.EIO, f"the metadata service sent {len(raw)} bytes of attributes")
    return Attr(raw)


def version_of(attr: Attr) -> int:
    version: int = _u64_at(attr.raw, _VERSION)[0]
    return version


def data_version_of(attr: Attr) -> int:
    version: int = _u64_at(attr.raw, _DATA_VERSION)[0]
    return version


def size_of(attr: Attr) -> int:
    size: int = _u64_at(attr.raw, _SIZE)[0]
    return size


def parent_of(attr: Attr) -> int:
    ino: int = _u64_at(attr.raw, _PARENT)[0]
    return ino


def nlink_of(attr: Attr) -> int:
    nlink: int = _u32_at(attr.raw, _NLINK)[0]
    return nlink


def mode_of(attr: Attr) -> int:
    mode: int = _u32_at(attr.raw, _MODE)[0]
    return mode


def type_of(attr: Attr) -> int:
    """As a listing names it: st_mode >> 12."""
    return mode_of(attr) >> 12


def inode_flags_of(attr: Attr) -> int:
    flags: int = _u32_at(attr.raw, _INODE_FLAGS)[0]
    return flags


def lacks_xattrs(attr: Attr) -> bool:
    """Whether it is known that the inode has no extended attribute at all."""
    flags: int = _u32_at(attr.raw, _FLAGS)[0]
    return bool(flags & NO_XATTRS)


def times_of(attr: Attr) -> tuple[int, int, int]:
    """atime, mtime, ctime in nanoseconds."""
    atime, mtime, ctime, atime_nsec, mtime_nsec, ctime_nsec = _TIMES.unpack_from(attr.raw, _ATIME_S)
    return atime * NS + atime_nsec, mtime * NS + mtime_nsec, ctime * NS + ctime_nsec


def with_atime(attr: Attr, atime_ns: int) -> Attr:
    """The attributes after a read that the metadata service has not heard of yet."""
    raw = bytearray(attr.raw)
    seconds, nanoseconds = divmod(atime_ns, NS)
    _I64.pack_into(raw, _ATIME_S, seconds)
    _U32.pack_into(raw, _ATIME_NSEC, nanoseconds)
    return Attr(bytes(raw))


def without_privilege(mode: int) -> int:
    """What a write by somebody unprivileged leaves of a mode."""
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode


def with_local_writes(attr: Attr, size: int, mtime_ns: int, kill_priv: bool, written: int) -> Attr:
    """The attributes of a file that this mount has written to but not committed yet.

    st_blocks is a guess that errs upwards, by no more than the `written` bytes: programs take a file with size and no blocks
    for a hole from end to end.
    """
    raw = bytearray(attr.raw)
    committed = size_of(attr)
    blocks: int = _u64_at(raw, _BLOCKS)[0]
    if size > committed:
        _U64.pack_into(raw, _SIZE, size)
        blocks += (min(size - committed, written) + 511) >> 9
    _U64.pack_into(raw, _BLOCKS, max(blocks, 8))
    seconds, nanoseconds = divmod(mtime_ns, NS)
    _I64.pack_into(raw, _MTIME_S, seconds)
    _U32.pack_into(raw, _MTIME_NSEC, nanoseconds)
    changed = (_I64.unpack_from(raw, _CTIME_S)[0], _u32_at(raw, _CTIME_NSEC)[0])
    if (seconds, nanoseconds) > changed:
        _I64.pack_into(raw, _CTIME_S, seconds)
        _U32.pack_into(raw, _CTIME_NSEC, nanoseconds)
    if kill_priv:
        _U32.pack_into(raw, _MODE, without_privilege(mode_of(attr)))
    return Attr(bytes(raw))
