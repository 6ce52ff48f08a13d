"""What the state machine asks of a store: an ordered map from bytes to bytes.

`apply` gets a WriteTxn, queries get a ReadTxn. Keys are 1..511 bytes (LMDB's limit). The implementations and their
contract suite are in metaserver/store and tests/contracts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator


class ReadTxn(Protocol):
    def get(self, key: bytes, /) -> bytes | None:
        """The value under `key`, or None."""

    def scan(self, prefix: bytes, /, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Pairs whose key starts with `prefix`, in key order; with `after`, only keys greater than it.

        `prefix` is at least one byte. The iterator sees the state as of the call; a write while it is open is an error
        of the caller (collect first, then write).
        """


class WriteTxn(ReadTxn, Protocol):
    def put(self, key: bytes, value: bytes, /) -> None:
        """Set `key` to `value`."""

    def delete(self, key: bytes, /) -> None:
        """Remove `key`; no error when it is not there."""
