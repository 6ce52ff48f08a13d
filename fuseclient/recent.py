"""A bounded map that forgets what was not used for long, at the cost of a plain dict.

Two generations: what is used moves to the young one; when that is full it becomes the old one, and the old one is let go.
So between `limit // 2` and `limit` of the most recent entries are kept.
"""

from __future__ import annotations

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    __slots__ = ("_half", "_old", "_young")

    def __init__(self, limit: int) -> None:
        self._half = max(1, limit // 2)
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._young) + sum(key not in self._young for key in self._old)

    def get(self, key: K) -> V | None:
        value = self._young.get(key)
        if value is None and self._old:
            value = self._old.pop(key, None)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        young = self._young
        young[key] = value
        if len(young) >= self._half:
            self._old = young
            self._young = {}

    def drop(self, key: K) -> None:
        self._young.pop(key, None)
        if self._old:
            self._old.pop(key, None)

    def clear(self) -> None:
        self._young = {}
        self._old = {}
