"""Which names a directory surely does not have, at two bytes a name: a Bloom filter that grows.

A directory with a million entries is too big to be kept by name, but whoever fills it asks before every creation whether the
name is free. "Not in the filter" is certain; "in the filter" means: ask. Names are only ever added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_BITS_PER_NAME: Final = 16
_FIRST_NAMES: Final = 1 << 16


class NameFilter:
    __slots__ = ("_layers", "_mask", "_room")

    def __init__(self, names: Iterable[bytes] = ()) -> None:
        expected = len(names) * 2 if isinstance(names, dict | set | list) else 0
        self._layers: list[tuple[bytearray, int]] = []
        self._grow(max(_FIRST_NAMES, expected))
        for name in names:
            self.add(name)

    def add(self, name: bytes) -> None:
        if not self._room:
            self._grow(2 * (self._mask + 1) // _BITS_PER_NAME)
        self._room -= 1
        bits, mask = self._layers[-1]
        first = hash(name)
        step = (first >> 32) | 1
        for at in (first, first + step, first + 2 * step, first + 3 * step):
            at &= mask
            bits[at >> 3] |= 1 << (at & 7)

    def __contains__(self, name: bytes) -> bool:
        first = hash(name)
        step = (first >> 32) | 1
        for bits, mask in self._layers:
            for at in (first, first + step, first + 2 * step, first + 3 * step):
                at &= mask
                if not bits[at >> 3] >> (at & 7) & 1:
                    break
            else:
                return True
        return False

    def _grow(self, names: int) -> None:
        self._room = 1 << (names - 1).bit_length()
        self._mask = self._room * _BITS_PER_NAME - 1
        self._layers.append((bytearray((self._mask + 1) >> 3), self._mask))
