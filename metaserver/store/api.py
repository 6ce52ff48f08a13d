"""What the server asks of a store beyond the map itself: to know how far it has come.

`index_applied` is in memory and moves with every entry; `index_durable` is what survives a power loss without the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from metaserver.core.txn import WriteTxn

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY_MAX: Final = 511

#: Keys that start with this byte belong to the store (format, index). The core's prefixes are printable.
RESERVED_BYTE: Final = 0


class Store(WriteTxn, Protocol):
    @property
    def index_applied(self) -> int:
        """The index of the last entry whose effects are in the map."""

    @property
    def index_durable(self) -> int:
        """The index up to which the map is on disk."""

    def mark_applied(self, index: int, /) -> None:
        """The writes since the last call are those of the entries up to `index`. Never goes back.

        Writes that are not marked do not become durable: they are what an entry left that could not be applied to its end.
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
