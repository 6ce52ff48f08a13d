"""System calls on files that Python's os module does not have, or not in full."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

KEEP_SIZE: Final = 1
PUNCH_HOLE: Final = 2
COLLAPSE_RANGE: Final = 8
ZERO_RANGE: Final = 16
INSERT_RANGE: Final = 32
UNSHARE_RANGE: Final = 64

_AT_FDCWD: Final = -100
_AT_SYMLINK_FOLLOW: Final = 0x400
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2); OSError."""
    _check(_libc.fallocate(fd, mode, offset, length))


def name_file(fd: int, path: Path) -> None:
    """linkat(2) by way of /proc/self/fd: a name for an open file."""
    _check(_libc.linkat(_AT_FDCWD, b"/proc/self/fd/%d" % fd, _AT_FDCWD, os.fsencode(path), _AT_SYMLINK_FOLLOW))


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
