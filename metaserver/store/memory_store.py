"""The twin of the real store without a disk: for the tests of everything above it, and for simulation.

It keeps the same promises (tests/contracts/test_txn.py holds both to them) and one more: it notices when somebody writes
while a scan is open, which the real one leaves to the caller.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import TYPE_CHECKING

from metaserver.store.api import KEY_MAX, RESERVED_BYTE, check_applied, check_key

if TYPE_CHECKING:
    from collections.abc import Iterator


class MemoryStore:
    """Implements api.Store. Nothing in it is ever durable."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []
        self._writes = 0
        self._index_applied = 0

    @property
    def index_applied(self) -> int:
        return self._index_applied

    @property
    def index_durable(self) -> int:
        return 0

    def get(self, key: bytes) -> bytes | None:
        if not 0 < len(key) <= KEY_MAX:
            check_key(key)
        return self._values.get(key)

    def scan(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        if not prefix or prefix[0] == RESERVED_BYTE or len(prefix) > KEY_MAX:
            raise ValueError(f"cannot scan for the prefix {prefix[:20]!r}")
        start = bisect_right(self._keys, after) if after >= prefix else bisect_left(self._keys, prefix)
        return self._walk(prefix, start, self._writes)

    def put(self, key: bytes, value: bytes) -> None:
        if key not in self._values:
            check_key(key)
            insort(self._keys, key)
        self._values[key] = value
        self._writes += 1

    def delete(self, key: bytes) -> None:
        check_key(key)
        if key in self._values:
            del self._values[key]
            del self._keys[bisect_left(self._keys, key)]
        self._writes += 1

    def mark_applied(self, index: int) -> None:
        check_applied(self._index_applied, index)
        self._index_applied = index

    def snapshot_scan(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(sorted(self._values.items()))

    def close(self) -> None:
        """There is nothing to let go of."""

    def _walk(self, prefix: bytes, start: int, writes: int) -> Iterator[tuple[bytes, bytes]]:
        for at in range(start, len(self._keys)):
            if self._writes != writes:
                raise RuntimeError("the store was written to during a scan")
            key = self._keys[at]
            if not key.startswith(prefix):
                return
            yield key, self._values[key]
        if self._writes != writes:
            raise RuntimeError("the store was written to during a scan")
