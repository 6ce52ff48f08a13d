"""The twin of the real store without a disk: for the tests of everything above it, and for simulation.

It keeps the same promises (tests/contracts/test_txn.py holds both to them) and one more: it notices when somebody writes
while a scan is open, which the real one leaves to the caller.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import TYPE_CHECKING

from metaserver.store.api import KEY_MAX, RESERVED_BYTE, check_applied, check_digest, check_key
from metaserver.store.chain import DELETED, NO_DIGEST, fold
from metaserver.store.errors import StoreClosed
from metaserver.store.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metaserver.store.api import Incoming, Pair


class MemoryStore:
    """Implements api.Store. Nothing in it is ever durable, though a state that it adopted says so."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []
        self._writes = 0
        self._index_applied = 0
        self._index_durable = 0
        self._digest = NO_DIGEST
        self._trace: list[bytes] = []

    @property
    def index_applied(self) -> int:
        return self._index_applied

    @property
    def index_durable(self) -> int:
        return self._index_durable

    @property
    def digest(self) -> bytes:
        return self._digest

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
        self._trace += (key, value)
        self._writes += 1

    def delete(self, key: bytes) -> None:
        check_key(key)
        if key in self._values:
            del self._values[key]
            del self._keys[bisect_left(self._keys, key)]
        self._trace += (DELETED, key)
        self._writes += 1

    def mark_applied(self, index: int) -> None:
        check_applied(self._index_applied, index)
        self._digest = fold(self._digest, index, self._trace)
        self._trace.clear()
        self._index_applied = index

    def skip(self, index: int) -> None:
        check_applied(self._index_applied, index)
        self._require_whole()
        self._index_applied = index

    def view(self) -> View:
        self._require_whole()
        return View(_Pairs(sorted(self._values.items())), {}, self._index_applied, self._digest)

    def receive(self, index: int, digest: bytes) -> IncomingPairs:
        check_applied(self._index_applied, index)
        check_digest(digest)
        return IncomingPairs(index, digest)

    def adopt(self, incoming: Incoming) -> None:
        if not isinstance(incoming, IncomingPairs):
            raise TypeError(f"not made by `receive`: {incoming!r}")
        if not incoming.finished:
            raise RuntimeError("the incoming state is not finished")
        check_applied(self._index_applied, incoming.index)
        self._values = incoming.values
        self._keys = sorted(incoming.values)
        self._trace.clear()
        self._writes += 1
        self._index_applied = self._index_durable = incoming.index
        self._digest = incoming.digest
        incoming.adopted = True

    def snapshot_scan(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(sorted(self._values.items()))

    def close(self) -> None:
        """There is nothing to let go of."""

    def _require_whole(self) -> None:
        if self._trace:
            raise RuntimeError(f"the entry after {self._index_applied} was applied in part")

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


class _Pairs:
    """A view.Source."""

    def __init__(self, pairs: list[Pair]) -> None:
        self._pairs: list[Pair] | None = pairs
        self._at = 0

    def read(self, count: int) -> list[Pair]:
        if self._pairs is None:
            raise StoreClosed("the view of the state was closed")
        self._at += count
        return self._pairs[self._at - count : self._at]

    def close(self) -> None:
        self._pairs = None


class IncomingPairs:
    """Implements api.Incoming."""

    def __init__(self, index: int, digest: bytes) -> None:
        self.index = index
        self.digest = digest
        self.values: dict[bytes, bytes] = {}
        self.finished = self.adopted = False

    def add(self, run: list[Pair]) -> None:
        self.values.update(run)

    def finish(self) -> None:
        self.finished = True

    def discard(self) -> None:
        self.finished = False
