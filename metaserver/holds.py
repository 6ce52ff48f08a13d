"""Which sessions hold which inode open. In memory only: clients say it again when they come back after a restart.

A hold is a fact, not a count: a session holds an inode or it does not (docs/WIRE.md says when it may let go).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Holds:
    """`on_free(ino)` is called when the last hold of an inode goes."""

    def __init__(self, on_free: Callable[[int], None]) -> None:
        self._on_free = on_free
        self._by_session: dict[int, set[int]] = {}
        #: inode -> its only holder, or the set of them: nearly every open file has one.
        self._holders: dict[int, int | set[int]] = {}

    def held(self, ino: int) -> bool:
        return ino in self._holders

    def count_of_inode(self, ino: int) -> int:
        holder = self._holders.get(ino)
        if holder is None:
            return 0
        return len(holder) if isinstance(holder, set) else 1

    def count_of_session(self, session: int) -> int:
        return len(self._by_session.get(session, ()))

    def add(self, session: int, ino: int) -> None:
        mine = self._by_session.get(session)
        if mine is None:
            mine = self._by_session[session] = set()
        elif ino in mine:
            return
        mine.add(ino)
        holder = self._holders.get(ino)
        if holder is None:
            self._holders[ino] = session
        elif isinstance(holder, set):
            holder.add(session)
        else:
            self._holders[ino] = {holder, session}

    def release(self, session: int, inodes: Iterable[int]) -> None:
        """Drop these holds; what is not held is passed over."""
        mine = self._by_session.get(session)
        if mine is None:
            return
        for ino in inodes:
            if ino in mine:
                mine.remove(ino)
                self._free(session, ino)

    def replace(self, session: int, inodes: Iterable[int]) -> None:
        """The session holds exactly these, as it says when it is taken up again."""
        now = set(inodes)
        self.release(session, self._by_session.get(session, set()) - now)
        for ino in now:
            self.add(session, ino)

    def drop_session(self, session: int) -> None:
        for ino in self._by_session.pop(session, ()):
            self._free(session, ino)

    def _free(self, session: int, ino: int) -> None:
        holder = self._holders[ino]
        if isinstance(holder, set):
            holder.discard(session)
            if holder:
                return
        del self._holders[ino]
        self._on_free(ino)
