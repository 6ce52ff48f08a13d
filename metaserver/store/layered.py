"""The layers as one map: hot changes, over frozen changes, over what is on disk.

Owns the moves between them, which checkpointer.py drives:

    freeze          loop thread    hot becomes frozen, and is empty again
    write_frozen    worker thread  frozen and its index go to disk in one transaction; readers notice nothing
    checkpointed    loop thread    what is on disk is read from disk; frozen is dropped
    refreeze        loop thread    after write_frozen failed: newer changes join the frozen ones for the next attempt
    adopt           loop thread    another state takes the place of all three

A change is in one of the layers at every moment, so a failure between two moves loses nothing in memory, and after a crash
the log brings back everything behind `index_durable`. Writes that no `mark_applied` followed are of an entry whose application
broke off: they are never frozen, or the disk would hold a part of an entry under the index before it. The chain digest moves
with the index and goes down with it. Everything but `write_frozen` belongs to one thread; a `view` may be read in another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaserver.store.api import KEY_MAX, RESERVED_BYTE, check_applied, check_digest
from metaserver.store.chain import fold
from metaserver.store.incoming import IncomingFile
from metaserver.store.lmdb_store import MAP_BYTES, LmdbStore
from metaserver.store.overlay import ABSENT, Overlay
from metaserver.store.view import View, merge

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from metaserver.store.api import Incoming
    from metaserver.store.lmdb_store import StoreStat


class LayeredStore:
    """Implements api.Store, and so the core's WriteTxn. `put` and `delete` are the hot layer's own methods."""

    def __init__(self, disk: LmdbStore) -> None:
        self._disk = disk
        self._hot = Overlay()
        self._frozen: Overlay | None = None
        self._index_applied = self._index_frozen = disk.index
        self._digest = self._digest_frozen = disk.digest
        self.put = self._hot.put
        self.delete = self._hot.delete

    @classmethod
    def open(cls, directory: Path, *, map_bytes: int = MAP_BYTES, create: bool = True) -> LayeredStore:
        """As LmdbStore.open."""
        return cls(LmdbStore.open(directory, map_bytes=map_bytes, create=create))

    @property
    def index_applied(self) -> int:
        return self._index_applied

    @property
    def index_durable(self) -> int:
        return self._disk.index

    @property
    def digest(self) -> bytes:
        return self._digest

    @property
    def dirty_keys(self) -> int:
        """Keys in memory that are not known to be on disk."""
        frozen = self._frozen
        return len(self._hot.changes) + (len(frozen.changes) if frozen is not None else 0)

    @property
    def dirty_bytes(self) -> int:
        """About what they hold of memory."""
        return self._hot.memory_bytes + (self._frozen.memory_bytes if self._frozen is not None else 0)

    @property
    def hot_keys(self) -> int:
        return len(self._hot.changes)

    @property
    def hot_bytes(self) -> int:
        return self._hot.memory_bytes

    @property
    def is_frozen(self) -> bool:
        return self._frozen is not None

    @property
    def is_clean(self) -> bool:
        """A checkpoint now would change nothing."""
        return self._frozen is None and not self._hot.changes and self._index_applied == self._disk.index

    def get(self, key: bytes) -> bytes | None:
        value = self._hot.changes.get(key, ABSENT)
        if value is ABSENT and self._frozen is not None:
            value = self._frozen.changes.get(key, ABSENT)
        if value is ABSENT:
            return self._disk.get(key)
        return value  # type: ignore[return-value]  # ABSENT is the only value of its type

    def scan(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        if not prefix or prefix[0] == RESERVED_BYTE or len(prefix) > KEY_MAX:
            raise ValueError(f"cannot scan for the prefix {prefix[:20]!r}")
        merged = self._disk.scan(prefix, after)
        for layer in (self._frozen, self._hot):
            changes = layer.scan(prefix, after) if layer is not None else None
            if changes is not None:
                merged = merge(changes, merged)
        return merged

    def mark_applied(self, index: int) -> None:
        check_applied(self._index_applied, index)
        trace = self._hot.trace
        self._digest = fold(self._digest, index, trace)
        trace.clear()
        self._index_applied = index

    def skip(self, index: int) -> None:
        check_applied(self._index_applied, index)
        self._require_whole()
        self._index_applied = index

    def view(self) -> View:
        self._require_whole()
        hot, frozen = self._hot.changes, self._frozen
        changes = {**frozen.changes, **hot} if frozen is not None else dict(hot)
        return View(self._disk.reader(), changes, self._index_applied, self._digest)

    def receive(self, index: int, digest: bytes) -> IncomingFile:
        check_applied(self._index_applied, index)
        check_digest(digest)
        return self._disk.receive(index, digest)

    def adopt(self, incoming: Incoming) -> None:
        if not isinstance(incoming, IncomingFile):
            raise TypeError(f"not made by `receive`: {incoming!r}")
        check_applied(self._index_applied, incoming.index)
        self._disk.adopt(incoming)
        self._hot.detach()
        self._frozen = None
        self._index_applied = self._index_frozen = self._disk.index
        self._digest = self._digest_frozen = self._disk.digest

    def freeze(self) -> None:
        """Raises RuntimeError when an entry was applied in part."""
        if self._frozen is not None:
            raise RuntimeError("there is a frozen layer already")
        self._frozen = self._take_hot()

    def refreeze(self) -> None:
        """Join newer changes to the frozen ones. Only between two attempts of write_frozen, never during one."""
        if self._frozen is None:
            raise RuntimeError("there is no frozen layer")
        self._frozen.absorb(self._take_hot())

    def write_frozen(self) -> None:
        """Blocks until the frozen layer is durable. For the worker thread. Raises StoreError; on StoreFull try again."""
        if self._frozen is None:
            raise RuntimeError("there is no frozen layer")
        self._disk.write(self._frozen.changes, self._index_frozen, self._digest_frozen)

    def checkpointed(self) -> Overlay:
        """write_frozen has returned: read from disk from now on. The dropped layer is returned because freeing many keys at
        once takes long enough to be felt (see Overlay.dissolve)."""
        if self._frozen is None:
            raise RuntimeError("there is no frozen layer")
        self._disk.renew()
        dropped, self._frozen = self._frozen, None
        return dropped

    def snapshot_scan(self) -> Iterator[tuple[bytes, bytes]]:
        merged = self._disk.snapshot()
        for layer in (self._frozen, self._hot):
            if layer is not None and layer.changes:
                merged = merge(iter(sorted(layer.changes.items())), merged)
        return merged

    def grow(self, map_bytes: int) -> None:
        """As LmdbStore.grow."""
        self._disk.grow(map_bytes)

    def copy(self, directory: Path) -> None:
        """As LmdbStore.copy: the last checkpoint, nothing newer."""
        self._disk.copy(directory)

    def stat(self) -> StoreStat:
        """Of what is on disk."""
        return self._disk.stat()

    def close(self) -> None:
        self._disk.close()

    def _take_hot(self) -> Overlay:
        self._require_whole()
        self._index_frozen = self._index_applied
        self._digest_frozen = self._digest
        return self._hot.detach()

    def _require_whole(self) -> None:
        if self._hot.trace:
            raise RuntimeError(f"the entry after {self._index_applied} was applied in part")
