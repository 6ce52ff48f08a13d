"""Which inodes the kernel holds, and how many references of each.

Every reply that hands the kernel an entry adds one; FORGET takes back as many as the kernel says. The root is always held
and never counted. Inode numbers here are the file system's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class NodeTable:
    __slots__ = ("_counts", "root")

    def __init__(self, root: int) -> None:
        self.root = root
        self._counts: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def __contains__(self, ino: int) -> bool:
        return ino in self._counts or ino == self.root

    def count(self, ino: int) -> int:
        return self._counts.get(ino, 0)

    def add(self, ino: int) -> None:
        if ino != self.root:
            self._counts[ino] = self._counts.get(ino, 0) + 1

    def add_all(self, inodes: Iterable[int]) -> None:
        counts = self._counts
        root = self.root
        for ino in inodes:
            if ino != root:
                counts[ino] = counts.get(ino, 0) + 1

    def forget(self, forgotten: Iterable[tuple[int, int]]) -> list[int]:
        """Take (inode, references) pairs back; gives the inodes that the kernel holds no more.

        Takes what is there when the kernel gives back more than it got: a table that a crash or a takeover left behind must
        not keep an inode for ever.
        """
        counts = self._counts
        gone: list[int] = []
        for ino, references in forgotten:
            left = counts.get(ino, 0) - references
            if left > 0:
                counts[ino] = left
            elif counts.pop(ino, None) is not None:
                gone.append(ino)
        return gone

    def clear(self) -> list[int]:
        """The mount is gone, and every reference with it."""
        gone = list(self._counts)
        self._counts.clear()
        return gone
