"""The replicated log's StateMachine: one log entry becomes one step of the core's machine in the store.

The proposer's decoded items come along as the hint, so that the usual case decodes nothing. An exception passes through:
the replicator stops on it, because a state that cannot be explained must not be built upon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from metaserver import wire
from metaserver.core import machine
from metaserver.core.entry import Entry, Item, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from metaserver.core.txn import WriteTxn
    from metaserver.store.api import Store


class Proposal(NamedTuple):
    """The hint that goes with a proposed payload: what it decodes to."""

    now_ns: int
    items: tuple[Item, ...]


class Applier:
    """raft.api.StateMachine over a store."""

    def __init__(self, store: Store, apply: Callable[[WriteTxn, Entry], Sequence[Result]] = machine.apply) -> None:
        self._store = store
        self._apply = apply
        self.last_now_ns = 0  # the time of the last entry applied by this process

    @property
    def index_applied(self) -> int:
        return self._store.index_applied

    @property
    def index_durable(self) -> int:
        return self._store.index_durable

    def apply(self, index: int, term: int, payload: bytes, hint: object | None) -> Sequence[Result]:
        """Apply one committed entry; its results, in the order of its items."""
        entry = Entry(index, *hint) if isinstance(hint, Proposal) else wire.decode_entry(index, payload)
        results = self._apply(self._store, entry)
        self._store.mark_applied(index)
        self.last_now_ns = entry.now_ns
        return results
