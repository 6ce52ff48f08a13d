"""The newest entries of the log, in memory: what followers that keep up and the state machine read.

A bound on the memory decides how many; the oldest leave first. Whatever is not here is in the log on the disk, so the tail may
forget anything at any time, and may hold entries that are not durable yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft.record import Entry, record_size

if TYPE_CHECKING:
    from collections.abc import Iterable

#: What an entry takes beside its payload: the tuple, two integers, the payload's own head.
_OVERHEAD = 200


class Tail:
    __slots__ = ("_bytes", "_bytes_max", "_entries", "_first", "_gone")

    def __init__(self, bytes_max: int, first: int) -> None:
        self._bytes_max = bytes_max
        self._entries: list[Entry] = []
        self._gone = 0  # how many at the front have left; removed in bulk, because removing from the front of a list is slow
        self._first = first
        self._bytes = 0

    @property
    def first(self) -> int:
        """The oldest entry here; when there is none, the index of the next one."""
        return self._first

    @property
    def size_bytes(self) -> int:
        """The memory taken, about."""
        return self._bytes

    def append(self, entries: Iterable[Entry]) -> None:
        """Entries that follow those that are here."""
        for entry in entries:
            self._entries.append(entry)
            self._bytes += len(entry.payload) + _OVERHEAD
        while self._bytes > self._bytes_max:
            self._bytes -= len(self._entries[self._gone].payload) + _OVERHEAD
            self._gone += 1
            self._first += 1
        self._shed()

    def read(self, first: int, last: int, bytes_max: int) -> tuple[Entry, ...]:
        """Entries `first`..`last`, which are here, as many as take `bytes_max` in a log but at least one."""
        shift = self._gone - self._first
        start, stop = first + shift, last + shift + 1
        entries, room = self._entries, bytes_max
        at = start
        while at < stop and (room := room - record_size(len(entries[at].payload))) >= 0:
            at += 1
        return tuple(entries[start : max(at, start + 1)])

    def truncate(self, index: int) -> None:
        """Forget what follows `index`."""
        keep = max(index + 1 - self._first, 0) + self._gone
        self._bytes -= sum(len(entry.payload) + _OVERHEAD for entry in self._entries[keep:])
        del self._entries[keep:]
        self._first = min(self._first, index + 1)
        self._shed()

    def _shed(self) -> None:
        """What is gone stays in the list only while it is a small part of it."""
        if self._gone * 4 > len(self._entries):
            del self._entries[: self._gone]
            self._gone = 0

    def clear(self, first: int) -> None:
        """Forget everything; `first` comes next."""
        self._entries, self._gone, self._first, self._bytes = [], 0, first, 0
