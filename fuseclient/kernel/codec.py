"""Requests read from /dev/fuse: bytes to typed values. No I/O, no state.

`decoders(flags)` gives, for the negotiated capabilities, one function per opcode that takes the frame (header included), where
its body ends, and returns the request. Whatever the bytes are, a decoder returns a request or raises ProtocolError: every
length is checked before it is used, and every name ends with its NUL. Names are checked for form only; which names are too
long or forbidden is the file system's to say.

Bodies may be longer than their layout (a newer kernel appends fields), never shorter. Opcodes that have no decoder here are
those that the driver refuses or handles without a body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from fuseclient.kernel import protocol as p
from fuseclient.kernel.protocol import InitFlag, Opcode

if TYPE_CHECKING:
    import struct
    from collections.abc import Callable

Frame: TypeAlias = memoryview
Decoder: TypeAlias = "Callable[[Frame, int], Any]"

_START: Final = p.IN_HEADER_BYTES
_new: Any = tuple.__new__  # half the cost of a NamedTuple's own constructor; the number of fields is checked once, below


class ProtocolError(Exception):
    """Bytes that are no request, or not the request that their header names."""


class Header(NamedTuple):
    length: int
    opcode: int
    unique: int
    nodeid: int
    uid: int
    gid: int
    pid: int
    extension_units: int


class Empty(NamedTuple):
    """A request that says all in its header: READLINK, STATFS."""


class Named(NamedTuple):
    """LOOKUP, UNLINK, RMDIR, REMOVEXATTR."""

    name: bytes


class Init(NamedTuple):
    major: int
    minor: int
    max_readahead: int
    flags: int  # both halves


class Forget(NamedTuple):
    nlookup: int


class GetAttr(NamedTuple):
    getattr_flags: int
    fh: int


class SetAttr(NamedTuple):
    valid: int
    fh: int
    size: int
    lock_owner: int
    atime: int
    mtime: int
    ctime: int
    atime_nsec: int
    mtime_nsec: int
    ctime_nsec: int
    mode: int
    uid: int
    gid: int


class Symlink(NamedTuple):
    name: bytes
    target: bytes


class Mknod(NamedTuple):
    mode: int
    rdev: int
    umask: int
    name: bytes


class Mkdir(NamedTuple):
    mode: int
    umask: int
    name: bytes


class Rename(NamedTuple):
    newdir: int
    flags: int
    name: bytes
    newname: bytes


class Link(NamedTuple):
    oldnodeid: int
    name: bytes


class Open(NamedTuple):
    """OPEN, OPENDIR."""

    flags: int
    open_flags: int


class Create(NamedTuple):
    flags: int
    mode: int
    umask: int
    open_flags: int
    name: bytes


class Read(NamedTuple):
    """READ, READDIR, READDIRPLUS; for the last two, `offset` is a cookie."""

    fh: int
    offset: int
    size: int
    read_flags: int
    lock_owner: int
    flags: int


class Write(NamedTuple):
    """`data` is a window into the frame."""

    fh: int
    offset: int
    size: int
    write_flags: int
    lock_owner: int
    flags: int
    data: memoryview


class Release(NamedTuple):
    """RELEASE, RELEASEDIR."""

    fh: int
    flags: int
    release_flags: int
    lock_owner: int


class Fsync(NamedTuple):
    """FSYNC, FSYNCDIR."""

    fh: int
    fsync_flags: int


class SetXattr(NamedTuple):
    flags: int
    setxattr_flags: int
    name: bytes
    value: bytes


class GetXattr(NamedTuple):
    """`size` 0 asks for the length only."""

    size: int
    name: bytes


class ListXattr(NamedTuple):
    size: int


class Flush(NamedTuple):
    fh: int
    lock_owner: int


class Lk(NamedTuple):
    """GETLK, SETLK, SETLKW. `end` is the last byte of the range."""

    fh: int
    owner: int
    start: int
    end: int
    type: int
    pid: int
    lk_flags: int


class Access(NamedTuple):
    mask: int


class Interrupt(NamedTuple):
    unique: int


class Fallocate(NamedTuple):
    fh: int
    offset: int
    length: int
    mode: int


class CopyFileRange(NamedTuple):
    """COPY_FILE_RANGE and its successor, which differ in the reply."""

    fh: int
    offset: int
    nodeid_out: int
    fh_out: int
    offset_out: int
    length: int


class Lseek(NamedTuple):
    fh: int
    offset: int
    whence: int


class Ioctl(NamedTuple):
    """`data`: what the caller hands in. The answer has exactly `out_size` bytes."""

    fh: int
    flags: int
    cmd: int
    arg: int
    in_size: int
    out_size: int
    data: bytes


class Statx(NamedTuple):
    getattr_flags: int
    fh: int
    sx_flags: int
    sx_mask: int


def header(frame: Frame, size: int) -> Header:
    """The header of a frame of which `size` bytes were read."""
    if size < _START:
        raise ProtocolError(f"a request of {size} bytes is shorter than its header")
    found = Header._make(p.IN_HEADER.unpack_from(frame))
    if found.length != size:
        raise ProtocolError(f"a request says that it has {found.length} bytes, {size} were read")
    return found


def body_end(length: int, extension_units: int) -> int:
    """Where the body ends and the extensions, of which none is negotiated, begin."""
    end = length - extension_units * p.EXTENSION_UNIT_BYTES
    if end < _START:
        raise ProtocolError("the extensions are longer than the request")
    return end


def _strings(frame: Frame, start: int, end: int, count: int) -> list[bytes]:
    """Exactly `count` strings, each with its NUL, fill the rest of the body."""
    parts = bytes(frame[start:end]).split(b"\0")
    if len(parts) != count + 1 or parts[-1]:
        raise ProtocolError(f"expected {count} strings that end with NUL")
    return parts[:count]


def _short(kind: str, end: int, least: int) -> ProtocolError:
    return ProtocolError(f"{kind} of {end} bytes, at least {least} are needed")


def _fixed(request: Any, layout: struct.Struct) -> Decoder:
    """A request that is its layout."""
    least = _START + layout.size
    unpack = layout.unpack_from
    assert len(request._fields) == len(unpack(bytes(layout.size)))

    def decode(frame: Frame, end: int) -> Any:
        if end < least:
            raise _short(request.__name__, end, least)
        return _new(request, unpack(frame, _START))

    return decode


def _fixed_and_name(request: Any, layout: struct.Struct) -> Decoder:
    """A layout, then one name."""
    start = _START + layout.size
    unpack = layout.unpack_from
    assert len(request._fields) == len(unpack(bytes(layout.size))) + 1

    def decode(frame: Frame, end: int) -> Any:
        if end <= start:
            raise _short(request.__name__, end, start + 1)
        name = frame[start:end].tobytes()
        if name.find(0) != end - start - 1:
            raise ProtocolError(f"{request.__name__}: the name does not end with the only NUL")
        return _new(request, (*unpack(frame, _START), name[:-1]))

    return decode


def _named(frame: Frame, end: int) -> Named:
    name = frame[_START:end].tobytes()
    if name.find(0) != end - _START - 1 or not name:
        raise ProtocolError("the name does not end with the only NUL")
    found: Named = _new(Named, (name[:-1],))
    return found


def _empty(frame: Frame, end: int) -> Empty:
    return Empty()


def _init(frame: Frame, end: int) -> Init:
    least = _START + p.INIT_IN.size
    if end < least:
        raise _short("Init", end, least)
    major, minor, max_readahead, flags = p.INIT_IN.unpack_from(frame, _START)
    if flags & InitFlag.INIT_EXT and end >= least + p.INIT_IN_EXT.size:
        flags |= p.INIT_IN_EXT.unpack_from(frame, least)[0] << 32
    return Init(major, minor, max_readahead, flags)


def _symlink(frame: Frame, end: int) -> Symlink:
    name, target = _strings(frame, _START, end, 2)
    return Symlink(name, target)


def _rename(layout: struct.Struct) -> Decoder:
    start = _START + layout.size

    def decode(frame: Frame, end: int) -> Rename:
        if end < start:
            raise _short("Rename", end, start)
        newdir, flags = (*layout.unpack_from(frame, _START), 0)[:2]
        name, newname = _strings(frame, start, end, 2)
        return Rename(newdir, flags, name, newname)

    return decode


def _write(frame: Frame, end: int) -> Write:
    start = _START + p.WRITE_IN.size
    if end < start:
        raise _short("Write", end, start)
    fh, offset, size, write_flags, lock_owner, flags = p.WRITE_IN.unpack_from(frame, _START)
    if size != end - start:
        raise ProtocolError(f"a write of {size} bytes carries {end - start}")
    return Write(fh, offset, size, write_flags, lock_owner, flags, frame[start:end])


def _setxattr(layout: struct.Struct) -> Decoder:
    start = _START + layout.size

    def decode(frame: Frame, end: int) -> SetXattr:
        if end < start:
            raise _short("SetXattr", end, start)
        size, flags, setxattr_flags = (*layout.unpack_from(frame, _START), 0)[:3]
        name, nul, value = bytes(frame[start:end]).partition(b"\0")
        if not nul or len(value) != size:
            raise ProtocolError(f"an attribute of {size} bytes carries {len(value)}")
        return SetXattr(flags, setxattr_flags, name, value)

    return decode


def _ioctl(frame: Frame, end: int) -> Ioctl:
    start = _START + p.IOCTL_IN.size
    if end < start:
        raise _short("Ioctl", end, start)
    fields = p.IOCTL_IN.unpack_from(frame, _START)
    request = Ioctl._make((*fields, bytes(frame[start:end])))
    if request.in_size != len(request.data):
        raise ProtocolError(f"an ioctl of {request.in_size} bytes carries {len(request.data)}")
    return request


_DECODERS: Final[dict[Opcode, Decoder]] = {
    Opcode.LOOKUP: _named,
    Opcode.FORGET: _fixed(Forget, p.FORGET_IN),
    Opcode.GETATTR: _fixed(GetAttr, p.GETATTR_IN),
    Opcode.SETATTR: _fixed(SetAttr, p.SETATTR_IN),
    Opcode.READLINK: _empty,
    Opcode.SYMLINK: _symlink,
    Opcode.MKNOD: _fixed_and_name(Mknod, p.MKNOD_IN),
    Opcode.MKDIR: _fixed_and_name(Mkdir, p.MKDIR_IN),
    Opcode.UNLINK: _named,
    Opcode.RMDIR: _named,
    Opcode.RENAME: _rename(p.RENAME_IN),
    Opcode.RENAME2: _rename(p.RENAME2_IN),
    Opcode.LINK: _fixed_and_name(Link, p.LINK_IN),
    Opcode.OPEN: _fixed(Open, p.OPEN_IN),
    Opcode.READ: _fixed(Read, p.READ_IN),
    Opcode.WRITE: _write,
    Opcode.STATFS: _empty,
    Opcode.RELEASE: _fixed(Release, p.RELEASE_IN),
    Opcode.FSYNC: _fixed(Fsync, p.FSYNC_IN),
    Opcode.SETXATTR: _setxattr(p.SETXATTR_IN),
    Opcode.GETXATTR: _fixed_and_name(GetXattr, p.GETXATTR_IN),
    Opcode.LISTXATTR: _fixed(ListXattr, p.GETXATTR_IN),
    Opcode.REMOVEXATTR: _named,
    Opcode.FLUSH: _fixed(Flush, p.FLUSH_IN),
    Opcode.INIT: _init,
    Opcode.OPENDIR: _fixed(Open, p.OPEN_IN),
    Opcode.READDIR: _fixed(Read, p.READ_IN),
    Opcode.READDIRPLUS: _fixed(Read, p.READ_IN),
    Opcode.RELEASEDIR: _fixed(Release, p.RELEASE_IN),
    Opcode.FSYNCDIR: _fixed(Fsync, p.FSYNC_IN),
    Opcode.GETLK: _fixed(Lk, p.LK_IN),
    Opcode.SETLK: _fixed(Lk, p.LK_IN),
    Opcode.SETLKW: _fixed(Lk, p.LK_IN),
    Opcode.ACCESS: _fixed(Access, p.ACCESS_IN),
    Opcode.CREATE: _fixed_and_name(Create, p.CREATE_IN),
    Opcode.INTERRUPT: _fixed(Interrupt, p.INTERRUPT_IN),
    Opcode.FALLOCATE: _fixed(Fallocate, p.FALLOCATE_IN),
    Opcode.LSEEK: _fixed(Lseek, p.LSEEK_IN),
    Opcode.IOCTL: _ioctl,
    Opcode.STATX: _fixed(Statx, p.STATX_IN),
    Opcode.COPY_FILE_RANGE: _fixed(CopyFileRange, p.COPY_FILE_RANGE_IN),
    Opcode.COPY_FILE_RANGE_64: _fixed(CopyFileRange, p.COPY_FILE_RANGE_IN),
    Opcode.TMPFILE: _fixed_and_name(Create, p.CREATE_IN),
}


def decoders(flags: int) -> dict[Opcode, Decoder]:
    """The decoders under the negotiated capabilities."""
    if flags & InitFlag.SETXATTR_EXT:
        return {**_DECODERS, Opcode.SETXATTR: _setxattr(p.SETXATTR_IN_EXT)}
    return dict(_DECODERS)


def batch_forget(frame: Frame, end: int) -> list[tuple[int, int]]:
    """The (nodeid, nlookup) pairs of a BATCH_FORGET, which dropping the kernel's caches sends by the hundred thousand."""
    start = _START + p.BATCH_FORGET_IN.size
    if end < start:
        raise _short("BatchForget", end, start)
    (count,) = p.BATCH_FORGET_IN.unpack_from(frame, _START)
    stop = start + count * p.FORGET_ONE.size
    if stop > end:
        raise ProtocolError(f"a forget of {count} nodes does not fit into {end} bytes")
    return list(p.FORGET_ONE.iter_unpack(frame[start:stop]))
