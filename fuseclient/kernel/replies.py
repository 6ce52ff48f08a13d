"""Replies to the kernel: values to bytes. No I/O.

`Replies` holds one mount's lifetimes, packed once. The frequent replies are a few small pieces put together: the kernel's
struct fuse_attr is the head of our own attributes (protos/attr_layout.py) and is copied, never unpacked.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from fuseclient.kernel import protocol as p

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fuseclient.attr import Attr
    from fuseclient.operations import Buffer, DirItem, LockRange, Opened, StatFs

_HEADER = p.OUT_HEADER.pack
_OPEN = p.OPEN_OUT.pack
_DIRENT = p.DIRENT.pack
_ENTRY_START = struct.Struct("<IiQQ").pack  # the reply's header and the node id
_NO_ENTRY: Final = bytes(p.ENTRY_OUT_BYTES)
_PADDING: Final = tuple(bytes(-length % p.DIRENT_ALIGN) for length in range(p.DIRENT_ALIGN))
_DOTS: Final = frozenset((b".", b".."))
_ENTRY_BYTES: Final = p.OUT_HEADER_BYTES + p.ENTRY_OUT_BYTES
_ATTR_BYTES: Final = p.OUT_HEADER_BYTES + p.ATTR_OUT_HEAD.size + p.FUSE_ATTR.size
_CREATE_BYTES: Final = _ENTRY_BYTES + p.OPEN_OUT.size
_OPEN_BYTES: Final = p.OUT_HEADER_BYTES + p.OPEN_OUT.size
_STATX_MASK: Final = p.STATX_BASIC_STATS | p.STATX_BTIME
_ERRNO_MAX: Final = 511  # the kernel takes no larger one, and leaves the request hanging


class Listing(NamedTuple):
    """A READDIRPLUS reply's body, and the inodes of which the kernel now holds one more reference."""

    body: bytes
    referenced: list[int]


def split_seconds(seconds: float) -> tuple[int, int]:
    """Seconds and nanoseconds; a negative time is none."""
    nanoseconds = max(0, round(seconds * 1_000_000_000))
    return divmod(nanoseconds, 1_000_000_000)


def error(unique: int, code: int) -> bytes:
    """A refusal. A number that is no errno becomes EIO, since the kernel would ignore the reply."""
    if not 0 < code <= _ERRNO_MAX:
        code = errno.EIO
    return _HEADER(p.OUT_HEADER_BYTES, -code, unique)


def done(unique: int) -> bytes:
    """Success without a value."""
    return _HEADER(p.OUT_HEADER_BYTES, 0, unique)


def body(unique: int, value: bytes) -> bytes:
    """Success with bytes that are the whole answer: a link's target, an attribute's value, a packed struct."""
    return _HEADER(p.OUT_HEADER_BYTES + len(value), 0, unique) + value


def buffers(unique: int, pieces: Sequence[Buffer], size_max: int) -> list[Buffer]:
    """The answer to a READ, to be written from where it lies."""
    size = sum(map(len, pieces))
    if size > size_max:
        raise ValueError(f"{size} bytes answer a read of {size_max}")
    return [_HEADER(p.OUT_HEADER_BYTES + size, 0, unique), *pieces]


def opened(unique: int, file: Opened, extra_flags: int) -> bytes:
    return _HEADER(_OPEN_BYTES, 0, unique) + _OPEN(file.fh, _open_flags(file) | extra_flags, 0)


def written(unique: int, size: int) -> bytes:
    return body(unique, p.WRITE_OUT.pack(size))


def lock(unique: int, found: LockRange) -> bytes:
    return body(unique, p.LK_OUT.pack(found.first, found.last, found.type, found.pid))


def copied(unique: int, size: int) -> bytes:
    """The answer to COPY_FILE_RANGE_64; its predecessor is answered like a write."""
    return body(unique, p.COPY_FILE_RANGE_OUT.pack(size))


def length(unique: int, size: int) -> bytes:
    """How long an attribute is."""
    return body(unique, p.GETXATTR_OUT.pack(size))


def position(unique: int, offset: int) -> bytes:
    return body(unique, p.LSEEK_OUT.pack(offset))


def statfs(unique: int, s: StatFs) -> bytes:
    packed = p.STATFS_OUT.pack(
        s.blocks, s.blocks_free, s.blocks_free, s.files, s.files_free, s.block_bytes, s.name_max, s.block_bytes
    )
    return body(unique, packed)


def directory(items: Sequence[DirItem], size_max: int) -> bytes:
    """As many entries as fit into a READDIR."""
    pieces: list[bytes] = []
    left = size_max
    for name, ino, kind, cookie, _ in items:
        padding = _PADDING[len(name) & 7]
        left -= 24 + len(name) + len(padding)
        if left < 0:
            break
        pieces.append(_DIRENT(ino, cookie, len(name), kind) + name + padding)
    return b"".join(pieces)


def _open_flags(file: Opened) -> int:
    flags = 0
    if file.keep_cache:
        flags = p.FOPEN_KEEP_CACHE
    if file.cache_dir:
        flags |= p.FOPEN_CACHE_DIR
    if file.direct_io:
        flags |= p.FOPEN_DIRECT_IO | p.FOPEN_PARALLEL_DIRECT_WRITES
    return flags


class Replies:
    """The replies that tell the kernel how long it may believe them."""

    def __init__(self, *, entry_ttl_s: float, attr_ttl_s: float, negative_ttl_s: float) -> None:
        entry, entry_nsec = split_seconds(entry_ttl_s)
        attr, attr_nsec = split_seconds(attr_ttl_s)
        negative, negative_nsec = split_seconds(negative_ttl_s)
        # what follows the node id: no generation (inode numbers are never used again), then the lifetimes
        self._entry_rest: bytes = p.ENTRY_OUT_HEAD.pack(0, 0, entry, attr, entry_nsec, attr_nsec)[8:]
        self._attr_head: bytes = p.ATTR_OUT_HEAD.pack(attr, attr_nsec)
        self._statx_head: bytes = p.STATX_OUT_HEAD.pack(attr, attr_nsec)
        self._negative_rest: bytes = p.ENTRY_OUT_HEAD.pack(0, 0, negative, 0, negative_nsec, 0)[8:] + bytes(p.FUSE_ATTR.size)
        self._remembers_absence = bool(negative or negative_nsec)

    def entry(self, unique: int, nodeid: int, attr: Attr) -> bytes:
        return _ENTRY_START(_ENTRY_BYTES, 0, unique, nodeid) + self._entry_rest + attr.raw[:88]

    def absent(self, unique: int) -> bytes:
        """There is no such name, and the kernel may remember that."""
        if not self._remembers_absence:
            return error(unique, errno.ENOENT)
        return _ENTRY_START(_ENTRY_BYTES, 0, unique, 0) + self._negative_rest

    def attr(self, unique: int, attr: Attr) -> bytes:
        return _HEADER(_ATTR_BYTES, 0, unique) + self._attr_head + attr.raw[:88]

    def statx(self, unique: int, attr: Attr) -> bytes:
        """The kernel takes the basic attributes and btime, and nothing else (7.39 to 7.45): inode flags do not get through."""
        f = attr.fields
        btime, btime_nsec = divmod(f.btime_ns, 1_000_000_000)
        times = (f.atime_s, f.atime_nsec, btime, btime_nsec, f.ctime_s, f.ctime_nsec, f.mtime_s, f.mtime_nsec)
        device = (f.rdev >> 8 & 0xFFF, f.rdev & 0xFF | f.rdev >> 12 & 0xFFF00)
        who = (f.nlink, f.uid, f.gid, f.mode & 0xFFFF)
        packed = p.STATX.pack(_STATX_MASK, f.blksize, 0, *who, f.ino, f.size, f.blocks, 0, *times, *device, 0, 0)
        return body(unique, self._statx_head + packed)

    def created(self, unique: int, nodeid: int, attr: Attr, file: Opened) -> bytes:
        entry = _ENTRY_START(_CREATE_BYTES, 0, unique, nodeid) + self._entry_rest + attr.raw[:88]
        return entry + _OPEN(file.fh, _open_flags(file), 0)

    def directory_plus(self, items: Sequence[DirItem], size_max: int) -> Listing:
        """As many entries as fit into a READDIRPLUS.

        An entry without attributes, "." and ".." carry the node id 0: the kernel lists them and takes no reference.
        """
        pieces: list[bytes] = []
        referenced: list[int] = []
        rest = self._entry_rest
        left = size_max
        for name, ino, kind, cookie, attr in items:
            padding = _PADDING[len(name) & 7]
            left -= 152 + len(name) + len(padding)
            if left < 0:
                break
            if attr is None or name in _DOTS:
                pieces.append(_NO_ENTRY + _DIRENT(ino, cookie, len(name), kind) + name + padding)
            else:
                raw = attr.raw
                pieces.append(raw[:8] + rest + raw[:88] + _DIRENT(ino, cookie, len(name), kind) + name + padding)
                referenced.append(ino)
        return Listing(b"".join(pieces), referenced)
