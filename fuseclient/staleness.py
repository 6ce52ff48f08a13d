"""Which answers an invalidation has overtaken.

A request is sent, an invalidation of the same thing comes in, then the answer is handled: what it says may be older than the
invalidation, and must not be kept. Who sends a request remembers `tick`; who handles its answer asks `hit`.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

K = TypeVar("K")

#: So many marks are told apart; with one more, all requests under way count as overtaken.
MARKS_MAX: Final = 4096


class Overtakes(Generic[K]):
    __slots__ = ("_floor", "_marked", "tick")

    def __init__(self) -> None:
        self.tick = 0
        self._floor = 0
        self._marked: dict[K, int] = {}

    def mark(self, key: K) -> None:
        """What was asked about `key` until now is out of date."""
        self.tick = tick = self.tick + 1
        if len(self._marked) >= MARKS_MAX:
            self._marked = {}
            self._floor = tick
        self._marked[key] = tick

    def mark_all(self) -> None:
        self.tick = self._floor = self.tick + 1
        self._marked = {}

    def hit(self, key: K, tick: int) -> bool:
        """Whether an answer about `key`, asked at `tick`, may be out of date."""
        if tick == self.tick:
            return False
        return tick < self._floor or self._marked.get(key, 0) > tick

    def quiet(self) -> None:
        """Nothing is being asked: there is nothing to tell apart."""
        if self._marked:
            self._marked = {}
