"""The regular files that are open on this mount, one OpenFile per inode, and what has to happen in order on each.

An OpenFile lives from the first open to the last release, and on while what was written is being stored behind. Reading never
waits for anything here. Writing, flushing and truncating take turns only while a truncation (or a new session) has the
file for itself: `exclusive`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from fuseclient.attr_raw import inode_flags_of, size_of, version_of, with_local_writes
from fuseclient.operations import APPEND_FL, IMMUTABLE_FL

if TYPE_CHECKING:
    from fuseclient.attr import Attr
    from fuseclient.data_api import FileData

_FIXED: Final = IMMUTABLE_FL | APPEND_FL


class OpenFile:
    __slots__ = (
        "_merged",
        "_turn",
        "data",
        "fixed",
        "gone",
        "holds",
        "ino",
        "killing",
        "losses",
        "opens",
        "stale",
        "unread",
        "version",
    )

    def __init__(self, ino: int, data: FileData, version: int) -> None:
        self.ino = ino
        self.data = data
        self.version = version  # of the attributes that `data` knows
        self.opens = 0  # handles, and calls that are about to make one
        self.holds = 0  # how often the server's hold was counted for us
        self.stale = False  # somebody else changed the file: ask before using it
        self.fixed = 0  # the flags among immutable and append-only that it has
        self.unread = False  # the next read counts for the access time
        self.gone = False  # no name is left; what is dirty at the last close is of no use to anybody
        self.killing = False  # a write that clears setuid and setgid is not committed yet
        self.losses = 0  # how often a session ended with writes that were not stored
        self._turn: asyncio.Lock | None = None
        self._merged: tuple[Attr, int, int, Attr] | None = None

    @property
    def exclusive(self) -> asyncio.Lock:
        """Held while nobody else may write, flush or truncate."""
        if self._turn is None:
            self._turn = asyncio.Lock()
        return self._turn

    @property
    def busy(self) -> bool:
        return self._turn is not None and self._turn.locked()

    def refresh(self, attr: Attr) -> None:
        """Newer attributes have come in."""
        version = version_of(attr)
        if version >= self.version:
            self.version = version
            self.fixed = inode_flags_of(attr) & _FIXED
            self.data.refresh(attr)

    def local(self, attr: Attr) -> Attr:
        """The attributes with what was written here and is not committed."""
        data = self.data
        if not data.dirty or not data.mtime_ns:
            return attr
        size, mtime_ns = data.size, data.mtime_ns
        merged = self._merged
        if merged is None or merged[0] is not attr or merged[1] != size or merged[2] != mtime_ns:
            known = size_of(attr)
            written = data.dirty_bytes if size > known else 0
            merged = (attr, size, mtime_ns, with_local_writes(attr, max(size, known), mtime_ns, self.killing, written))
            self._merged = merged
        return merged[3]
