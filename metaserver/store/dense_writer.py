"""Putting sorted keys into LMDB so that its pages come out full.

LMDB splits a full page in half, except when the new key goes behind the page's last one: then the old page stays full. Files
are made in sequence, but in the middle of the map (behind the last name of a directory, before the first of the next), so
that nearly every page would stay half empty for good. Where many new keys go into one gap between two old ones, this takes
the old keys that follow on the same page out of the way first, and puts them back behind the new ones. Which those are, the
file says, as of the last commit; what this transaction did since can make the answer wrong, which costs density and nothing
else. Measured: 328 bytes per file without, 212 with it (docs/decisions/0001-overlay-over-lmdb.md).

Works inside one write transaction of lmdb_store.py, which also translates its errors.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    import lmdb

    from metaserver.store.page_walk import PageFile

#: So many new keys in one gap are worth moving up to a page of old ones.
_GAP_KEYS: Final = 16

#: Below a quarter LMDB begins to refill a page from its neighbours, key by key. So a page that would have less than this part
#: left gets some new keys first.
_LEAST_PART_LEFT: Final = 0.3

#: A value that could lie on pages of its own; it is not moved.
_BIG_VALUE_BYTES: Final = 1500

Pair = tuple[bytes, bytes]


class DenseWriter:
    """`write` takes runs of keys, each run and all of them together in ascending order; then `finish`."""

    def __init__(self, txn: lmdb.Transaction[bytes], committed: PageFile, changes: Mapping[bytes, bytes | None]) -> None:
        self._txn = txn
        self._committed = committed
        self._cursor = txn.cursor()
        self._changes = changes
        #: Old keys that are out of the way: not in the tree now, and greater than every key written so far.
        self._held: list[Pair] = []
        self._padded = b""  # the last follower whose page got new keys first

    def write(self, run: list[bytes]) -> None:
        if self._held and run[-1] >= self._held[0][0]:
            self.finish()
        pairs = self._delete_and_list(run)
        at = 0
        while at < len(pairs):
            end = self._next_stretch(pairs, at)
            self._cursor.putmulti(pairs[at:end] if end - at < len(pairs) else pairs)
            at = end

    def finish(self) -> None:
        """Put back what was moved out of the way."""
        if self._held:
            self._cursor.putmulti(self._held)
            self._held = []

    def _delete_and_list(self, run: list[bytes]) -> list[Pair]:
        """Deletions come first: what they free can take what comes after."""
        pairs: list[Pair] = []
        for key in run:
            value = self._changes[key]
            if value is None:
                self._txn.delete(key)
            else:
                pairs.append((key, value))
        return pairs

    def _next_stretch(self, pairs: list[Pair], at: int) -> int:
        """Up to where the pairs from `at` on can be put with the tree as it is now."""
        if self._held and pairs[at][0] >= self._held[0][0]:
            self.finish()
        if self._held:
            return bisect_left(pairs, self._held[0][0], lo=at, key=_key_of)
        probe = at + _GAP_KEYS
        if probe > len(pairs):
            return len(pairs)
        if not self._cursor.set_range(pairs[at][0]):
            return len(pairs)  # behind everything: dense by itself
        follower = self._cursor.key()
        if follower <= pairs[probe - 1][0]:
            return probe
        self._hold(follower)
        return bisect_left(pairs, follower, lo=at, key=_key_of)

    def _hold(self, follower: bytes) -> None:
        """Take out the pairs from `follower`, where the cursor is, to the end of its page."""
        leaf = self._committed.leaf_around(follower)
        at = bisect_left(leaf.keys, follower)
        if at in (0, len(leaf.keys)):
            return  # it begins a page: the new keys go to the end of the one before
        left = sum(leaf.node_bytes[:at])
        if left < _LEAST_PART_LEFT * self._committed.page_bytes and self._padded != follower:
            self._padded = follower
            return
        last = leaf.keys[-1]
        for pair in islice(self._cursor.iternext(), len(leaf.keys) - at):
            if pair[0] > last or len(pair[1]) > _BIG_VALUE_BYTES:
                break
            self._held.append(pair)
        self._cursor.set_range(follower)
        for _ in self._held:
            self._cursor.delete()


def _key_of(pair: Pair) -> bytes:
    return pair[0]
