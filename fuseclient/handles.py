"""File handles: the numbers that the kernel knows open files and directories by.

A number holds what is needed to make the handle again from it and the inode, so that another process can take a live mount
over: the low byte is the open flags that matter here (`_FLAGS`), the rest is a counter.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fuseclient.directory import Directory
    from fuseclient.open_files import OpenFile

_ACCMODE: Final = 3
_APPEND: Final = 4
_SYNC: Final = 8
_DIRECT: Final = 16
_FLAGS: Final = ((os.O_APPEND, _APPEND), (os.O_SYNC, _SYNC), (os.O_DSYNC, _SYNC), (os.O_DIRECT, _DIRECT))
_FLAG_BITS: Final = 8


def flags_of(fh: int) -> int:
    """The open(2) flags that a file's handle was opened with, as far as they matter."""
    flags = fh & _ACCMODE
    for flag, bit in _FLAGS:
        if fh & bit:
            flags |= flag
    return flags


class Handle:
    """An open file. `losses`: how many of its file's losses have been reported through this handle. `fenced`: a lock that was
    taken through it is lost, so nothing may be written."""

    __slots__ = ("append", "fenced", "file", "losses", "sync", "writable")

    def __init__(self, file: OpenFile, flags: int) -> None:
        self.file = file
        self.append = bool(flags & os.O_APPEND)
        self.sync = bool(flags & (os.O_SYNC | os.O_DSYNC))
        self.writable = flags & os.O_ACCMODE != os.O_RDONLY
        self.losses = file.losses
        self.fenced = False


class DirHandle:
    """An open directory: how much its reader takes at a time, and its own listing when the directory is too big to keep."""

    __slots__ = ("batch", "expected", "ino", "window")

    def __init__(self, ino: int) -> None:
        self.ino = ino
        self.batch = 64
        self.expected = 0  # the cookie of the last entry that was handed out
        self.window: Directory | None = None


class Handles:
    def __init__(self, first: int = 1) -> None:
        self._next = first
        self.files: dict[int, Handle] = {}
        self.dirs: dict[int, DirHandle] = {}

    def open_file(self, file: OpenFile, flags: int) -> int:
        fh = self._next << _FLAG_BITS | (flags & _ACCMODE)
        for flag, bit in _FLAGS:
            if flags & flag == flag:
                fh |= bit
        self._next += 1
        self.files[fh] = Handle(file, flags)
        return fh

    def open_dir(self, ino: int) -> int:
        fh = self._next << _FLAG_BITS
        self._next += 1
        self.dirs[fh] = DirHandle(ino)
        return fh
