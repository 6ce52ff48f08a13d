"""ioctl_iflags(2) from Python, for tests."""

from __future__ import annotations

import fcntl
import os
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

IMMUTABLE: Final = 0x10
APPEND: Final = 0x20
NODUMP: Final = 0x40
#: What ext4 has of its own (extents, inline data, index) and nobody sets.
OURS: Final = IMMUTABLE | APPEND | NODUMP

_GETFLAGS: Final = 0x80086601
_SETFLAGS: Final = 0x40086602
FSGETXATTR: Final = 0x801C581F
FSSETXATTR: Final = 0x401C5820


def get_flags(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return int.from_bytes(fcntl.ioctl(fd, _GETFLAGS, bytes(8))[:4], "little")
    finally:
        os.close(fd)


def set_flags(path: Path, flags: int) -> None:
    """The flags of OURS become these; the others stay."""
    old = get_flags(path)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.ioctl(fd, _SETFLAGS, struct.pack("<Q", old & ~OURS | flags))
    finally:
        os.close(fd)
