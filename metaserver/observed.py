"""The state machine with its audience: whoever must know what an entry did hears of it as it is applied.

While this node leads, what it keeps in memory about sessions, open files and caches (reign.py) must follow the state exactly.
So the tables learn from the entries themselves, in index order and inside `apply`, before anybody is answered, and not from
the proposals: one whose proposer was told that its fate is unknown may still be applied. On a follower nobody listens.
An exception of an audience is one of `apply`: the replicator stops, because the tables cannot be trusted any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaserver import wire
from metaserver.applier import Proposal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from metaserver.applier import Applier
    from metaserver.core.entry import Item, Result
    from raft.api import Capture

    Observer = Callable[[Sequence[Item], Sequence[Result]], None]


class ObservedState:
    """raft.api.StateMachine: an Applier, and who listens. `on_applied` is called after each entry, `on_marked` after
    each marker, on every node."""

    def __init__(self, applier: Applier, on_applied: Callable[[], None] = lambda: None) -> None:
        self._applier = applier
        self._on_applied = on_applied
        self.observers: tuple[Observer, ...] = ()
        self.on_marked: Callable[[int, bytes], None] = lambda index, payload: None

    @property
    def index_applied(self) -> int:
        return self._applier.index_applied

    @property
    def index_durable(self) -> int:
        return self._applier.index_durable

    @property
    def digest(self) -> bytes:
        return self._applier.digest

    @property
    def overloaded(self) -> bool:
        return self._applier.overloaded

    def apply(self, index: int, term: int, payload: bytes, hint: object | None) -> Sequence[Result]:
        """Apply one committed entry, tell the observers; its results, in the order of its items."""
        results = self._applier.apply(index, term, payload, hint)
        if self.observers:
            items = hint.items if isinstance(hint, Proposal) else wire.decode_entry(index, payload).items
            for observer in self.observers:
                observer(items, results)
        self._on_applied()
        return results

    def skip(self, index: int) -> None:
        self._applier.skip(index)

    def mark(self, index: int, payload: bytes) -> None:
        self._applier.mark(index, payload)
        self.on_marked(index, payload)

    async def capture(self) -> Capture:
        return await self._applier.capture()

    async def install(self, index: int, digest: bytes, chunks: Iterator[bytes]) -> None:
        await self._applier.install(index, digest, chunks)
