"""What the server asks of a store beyond the map itself: to know how far it has come.

`index_applied` is in memory and moves with every entry; `index_durable` is what survives a power loss without the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from metaserver.core.txn import WriteTxn
from metaserver.store.chain import DIGEST_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metaserver.store.view import View

KEY_MAX: Final = 511

#: Keys that start with this byte belong to the store (format, index). The core's prefixes are printable.
RESERVED_BYTE: Final = 0


Pair = tuple[bytes, bytes]


class Incoming(Protocol):
    """Another state on its way in, beside the one that is there. For a worker thread."""

    @property
    def adopted(self) -> bool:
        """It was put in the place of the old one. If `adopt` failed then, nobody knows which of them a restart finds."""

    def add(self, run: list[Pair], /) -> None:
        """Pairs in ascending order, behind those before. Raises StoreFull, StoreError."""

    def finish(self) -> None:
        """All is there, and durable. Raises StoreFull, StoreError."""

    def discard(self) -> None:
        """As if it had never been. Raises nothing; after `adopt` it does nothing."""


class Store(WriteTxn, Protocol):
    @property
    def index_applied(self) -> int:
        """The index of the last entry whose effects are in the map."""

    @property
    def index_durable(self) -> int:
        """The index up to which the map is on disk."""

    @property
    def digest(self) -> bytes:
        """The chain digest at `index_applied` (chain.py); durable together with the index."""

    def mark_applied(self, index: int, /) -> None:
        """The writes since the last call are those of the entries up to `index`: they go into the digest. Never goes back.

        Writes that are not marked do not become durable: they are what an entry left that could not be applied to its end.
        """

    def skip(self, index: int, /) -> None:
        """The entries up to `index` wrote nothing and are not in the digest. RuntimeError when something was written."""

    def view(self) -> View:
        """The state at `index_applied`, for another thread (view.py). To be closed. RuntimeError in the middle of an entry."""

    def receive(self, index: int, digest: bytes, /) -> Incoming:
        """Begin to take in the state of `index`. One at a time. Raises ValueError when the index would go back, StoreError."""

    def adopt(self, incoming: Incoming, /) -> None:
        """Become what `incoming`, which is finished, holds: all that is here is dropped, `index_applied` and `index_durable`
        are its index, and views end. A crash at any moment leaves one or the other. Bound methods stay valid, scans do not.

        Nothing else may be under way: no checkpoint, no entry. After StoreError `incoming.adopted` says whether it happened.
        """

    def snapshot_scan(self) -> Iterator[tuple[bytes, bytes]]:
        """Every pair in key order, as of the call, whatever is written meanwhile."""

    def close(self) -> None:
        """Let go of the files. What is not durable is only in the log."""


def check_key(key: bytes) -> None:
    """Refuse what the disk could not hold now, where the culprit is on the stack, and not at the next checkpoint."""
    if not 0 < len(key) <= KEY_MAX:
        raise ValueError(f"a key has 1..{KEY_MAX} bytes, not {len(key)}")
    if key[0] == RESERVED_BYTE:
        raise ValueError("keys that start with a zero byte belong to the store")


def check_applied(current: int, index: int) -> None:
    if index < current:
        raise ValueError(f"applied index goes back from {current} to {index}")


def check_digest(digest: bytes) -> None:
    if len(digest) != DIGEST_BYTES:
        raise ValueError(f"a digest has {DIGEST_BYTES} bytes, not {len(digest)}")
