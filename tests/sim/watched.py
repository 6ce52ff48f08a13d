"""The real Journal, telling the laws what it puts on its disk; the log's own word for it, for the journal may be a mutant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raft.membership import Membership
    from raft.record import Entry
    from tests.sim.laws import Laws


class WatchedJournal(Journal):
    laws: Laws
    name: str

    def watch(self, laws: Laws, name: str) -> None:
        self.laws, self.name = laws, name
        terms = {index: self.term_at(index) for index in range(self.base_index, self.last_index + 1)}
        laws.reopened(name, self.base_index, self._wal.durable_index, terms)

    def append(self, entries: Sequence[Entry]) -> None:
        before = self.last_term
        super().append(entries)
        for entry in entries:
            self.laws.appended(self.name, before, entry)
            before = entry.term

    def sync(self) -> None:
        try:
            super().sync()
        finally:
            self.laws.truncated(self.name, self.last_index)
            self.laws.synced(self.name, self._wal.durable_index)

    def truncate_after(self, index: int) -> None:
        super().truncate_after(index)
        self.laws.truncated(self.name, index)

    def reset(self, index: int, term: int, membership: Membership) -> None:
        super().reset(index, term, membership)
        self.laws.truncated(self.name, self.last_index)
        self.laws.replaced(self.name, index, self._wal.durable_index)


def watched(journal_class: type[Journal]) -> type[WatchedJournal]:
    if journal_class is Journal:
        return WatchedJournal
    return type("WatchedMutant", (WatchedJournal, journal_class), {})
