"""Inode flags as ioctl_iflags(2) and FS_IOC_FSGETXATTR have them: which ioctl asks what, and its answer. Pure translation.

The kernel turns these ioctls, and file_getattr(2), into a FUSE ioctl with buffers of a fixed size, after it has checked that
the caller owns the file and, where immutable or append-only changes, has CAP_LINUX_IMMUTABLE. Every other ioctl is ENOTTY.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Any, Final

from fuseclient.errors import FsError
from fuseclient.kernel import protocol as p
from fuseclient.operations import APPEND_FL, IMMUTABLE_FL, NODUMP_FL

if TYPE_CHECKING:
    from fuseclient.kernel.codec import Ioctl
    from fuseclient.operations import Caller, Operations

# A long or an int follows, as a 64-bit or a 32-bit program has it; what counts is 32 bits in either case.
_GETFLAGS: Final = (0x80086601, 0x80046601)
_SETFLAGS: Final = (0x40086602, 0x40046602)
_FSGETXATTR: Final = 0x801C581F
_FSSETXATTR: Final = 0x401C5820

_FLAGS: Final = struct.Struct("<I")
_FSXATTR: Final = struct.Struct("<IIIII8x")  # xflags extsize nextents projid cowextsize
#: FS_XFLAG_* -> FS_*_FL
_XFLAGS: Final = {0x08: IMMUTABLE_FL, 0x10: APPEND_FL, 0x80: NODUMP_FL}


def call(operations: Operations, ino: int, r: Ioctl, caller: Caller) -> Any:
    """The inode's flags, or the awaitable of them."""
    if r.cmd in _GETFLAGS or r.cmd == _FSGETXATTR:
        return operations.getflags(ino)
    if r.cmd in _SETFLAGS:
        return operations.setflags(ino, _unpack(_FLAGS, r.data)[0], caller)
    if r.cmd == _FSSETXATTR:
        return operations.setflags(ino, _wanted(r.data), caller)
    raise FsError(errno.ENOTTY)


def answer(r: Ioctl, flags: int) -> bytes:
    """The body of the reply."""
    if r.cmd == _FSGETXATTR:
        xflags = sum(xflag for xflag, flag in _XFLAGS.items() if flags & flag)
        out = _FSXATTR.pack(xflags, 0, 0, 0, 0)
    else:
        out = _FLAGS.pack(flags)
    return p.IOCTL_OUT.pack(0, 0, 0, 0) + out[: r.out_size].ljust(r.out_size, b"\0")


def _wanted(data: bytes) -> int:
    """The flags of a struct fsxattr; EOPNOTSUPP for what a KeelFS inode has not: other flags, extent sizes, projects."""
    xflags, extsize, _, projid, cowextsize = _unpack(_FSXATTR, data)
    if extsize or projid or cowextsize or xflags & ~sum(_XFLAGS):
        raise FsError(errno.EOPNOTSUPP)
    return sum(flag for xflag, flag in _XFLAGS.items() if xflags & xflag)


def _unpack(layout: struct.Struct, data: bytes) -> tuple[int, ...]:
    if len(data) < layout.size:
        raise FsError(errno.EINVAL)
    return layout.unpack_from(data)
