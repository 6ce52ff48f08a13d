"""An object store in memory that can be made to fail: the honest twin of the real ones (it passes their contract suite)."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from fuseclient.data.object_store import ObjectInfo, ObjectMissing, ObjectStoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class MemoryStore:
    """`fail_puts` and `fail_gets` hold errors to raise, one a call, before anything is done."""

    url = "memory:"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.fail_puts: list[ObjectStoreError] = []
        self.fail_gets: list[ObjectStoreError] = []
        self.gets: list[tuple[str, int, int | None]] = []
        self.puts = 0
        self._lock = threading.Lock()

    def put(self, key: str, parts: Iterable[bytes | bytearray | memoryview]) -> None:
        _check(key)
        with self._lock:
            if self.fail_puts:
                raise self.fail_puts.pop(0)
            self.puts += 1
            self.objects[key] = b"".join(parts)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        _check(key)
        if offset < 0 or (length is not None and length < 0):
            raise ValueError("no such range")
        with self._lock:
            self.gets.append((key, offset, length))
            if self.fail_gets:
                raise self.fail_gets.pop(0)
            data = self._object(key)
            return data[offset:] if length is None else data[offset : offset + length]

    def size(self, key: str) -> int:
        return len(self._object(key))

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            _check(key)
            self.objects.pop(key, None)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return iter([ObjectInfo(key, len(data), 0.0) for key, data in sorted(self.objects.items()) if key.startswith(prefix)])

    def probe(self) -> None:
        pass

    def close(self) -> None:
        pass

    def damage(self, key: str, at: int) -> None:
        """Flip a bit."""
        data = bytearray(self.objects[key])
        data[at] ^= 1
        self.objects[key] = bytes(data)

    def _object(self, key: str) -> bytes:
        if key not in self.objects:
            raise ObjectMissing(key)
        return self.objects[key]


def _check(key: str) -> None:
    if not key or key.startswith("/") or any(part in ("", ".", "..") for part in key.split("/")):
        raise ValueError(f"not an object key: {key!r}")
