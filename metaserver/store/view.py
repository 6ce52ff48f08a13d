"""The state as of one index, to be read in another thread while it goes on changing.

A view is a read transaction on the disk and a copy of the changes that are not there yet. It is taken between two entries, so
it is the state of exactly one index, on every node the same. It may be taken while a checkpoint is being written: whether the
transaction sees that checkpoint or the one before, the changes on top are all that lie between, and putting a change on top of
itself changes nothing. Copying a dict of 20,000 keys takes 0.3 ms, of 200,000 (the bound) some 5 ms.

Until a view is closed no page that it sees is reused, so the file grows, and the copied values stay in memory. Whoever takes
one bounds its life.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Protocol

from metaserver.store.pacing import STRETCH_KEYS, rest, sorted_runs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metaserver.store.api import Pair
    from metaserver.store.overlay import Change


class Source(Protocol):
    """What lies below the changes."""

    def read(self, count: int) -> list[Pair]:
        """The next pairs, in order; none: that is all. Raises StoreError, also when it was closed."""

    def close(self) -> None:
        """Let go. Thread-safe, may be called again."""


class View:
    """`pairs` is for one thread and once; `close` for any."""

    def __init__(self, source: Source, changes: dict[bytes, bytes | None], index: int, digest: bytes) -> None:
        """`changes` is the view's own."""
        self._source = source
        self._changes = changes
        self.index = index
        self.digest = digest  # the chain's, at `index`

    def pairs(self) -> Iterator[Pair]:
        """Everything in key order. Rests now and then for the loop's sake (pacing.py). StoreError when closed meanwhile."""
        changes = self._changes
        upper = ((key, changes[key]) for key in chain.from_iterable(sorted_runs(changes)))
        yield from merge(upper, self._below())
        while changes:  # bit by bit, as Overlay.dissolve
            for _ in range(min(len(changes), STRETCH_KEYS)):
                changes.popitem()
            rest()

    def close(self) -> None:
        self._source.close()

    def _below(self) -> Iterator[Pair]:
        while pairs := self._source.read(STRETCH_KEYS):
            yield from pairs
            rest()


def merge(upper: Iterator[Change], lower: Iterator[Pair]) -> Iterator[Pair]:
    """`lower` with the changes of `upper` made; both in key order."""
    below = next(lower, None)
    for key, value in upper:
        while below is not None and below[0] < key:
            yield below
            below = next(lower, None)
        if below is not None and below[0] == key:
            below = next(lower, None)
        if value is not None:
            yield key, value
    if below is not None:
        yield below
        yield from lower
