"""What must hold in every moment of a run, checked as it happens. Raft's five properties (figure 3), and ours.

    election safety        one leader per term
    log matching           equal (index, term) means equal entries and equal predecessors
    leader completeness    what was committed in an earlier term is in the log of every leader
    state-machine safety   one entry per index, the same digest everywhere after it
    durability             what is committed is on the disks of a majority of voters, synced, at that moment
    exactly once           a command takes effect at one index
    acknowledgements       what a client was told is what the command did

Log matching is checked by induction: every (index, term) that is ever appended anywhere has one content and one term before it.
Durability is checked against what the simulated disks would give back, not against what the nodes believe.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.sim.world import Violation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raft.journal import Journal
    from raft.membership import Membership
    from raft.record import Entry
    from tests.sim.kv import Command, Value


@dataclass(slots=True)
class Shadow:
    """What is on one node's disk, for good: kept beside the node, through its crashes."""

    terms: dict[int, int] = field(default_factory=dict)
    base: int = 0  # everything up to here is in the state, or was
    durable: int = 0

    def holds(self, index: int, term: int) -> bool:
        return index <= self.base or (index <= self.durable and self.terms.get(index) == term)


@dataclass
class Laws:
    leaders: dict[int, str] = field(default_factory=dict)  # by term
    entries: dict[tuple[int, int], tuple[int, int, bytes]] = field(default_factory=dict)  # term before, kind, payload
    committed: dict[int, Entry] = field(default_factory=dict)
    committed_in: list[tuple[int, int]] = field(default_factory=list)  # (index, the term that committed it), in time's order
    digests: dict[int, bytes] = field(default_factory=dict)
    effects: dict[tuple[int, int], tuple[int, Value]] = field(default_factory=dict)  # of (session, seq): index and answer
    shadows: dict[str, Shadow] = field(default_factory=dict)
    lost: list[tuple[str, Shadow]] = field(default_factory=list)  # of disks that are no more

    # -- logs ----------------------------------------------------------------------------------------------------------------

    def appended(self, name: str, term_before: int, entry: Entry) -> None:
        content = (term_before, entry.kind, entry.payload)
        known = self.entries.setdefault((entry.index, entry.term), content)
        if known != content:
            raise Violation(f"log matching: {name} has another entry {entry.index} of term {entry.term} than others had")
        self.shadows[name].terms[entry.index] = entry.term

    def truncated(self, name: str, index: int) -> None:
        shadow = self.shadows[name]
        for gone in [i for i in shadow.terms if i > index]:
            del shadow.terms[gone]
        shadow.durable = min(shadow.durable, index)

    def synced(self, name: str, index: int) -> None:
        self.shadows[name].durable = index

    def reopened(self, name: str, base: int, last: int, terms: dict[int, int]) -> None:
        """A node has read its disk."""
        self.shadows[name] = Shadow(terms, base, last)

    def replaced(self, name: str, index: int, durable: int) -> None:
        """The log continues after a snapshot of `index`, or contained it."""
        shadow = self.shadows[name]
        shadow.base, shadow.durable = max(shadow.base, index), durable

    def crashed(self, name: str) -> None:
        shadow = self.shadows[name]
        shadow.terms = {index: term for index, term in shadow.terms.items() if index <= shadow.durable}

    def new_disk(self, name: str) -> None:
        """What was on the old one counted while it was there."""
        if name in self.shadows:
            self.lost.append((name, self.shadows[name]))
        self.shadows[name] = Shadow()

    # -- leaders -------------------------------------------------------------------------------------------------------------

    def leads(self, name: str, term: int, journal: Journal) -> None:
        if self.leaders.setdefault(term, name) != name:
            raise Violation(f"election safety: {self.leaders[term]} and {name} lead in term {term}")
        must = max((index for index, committed_in in self.committed_in if committed_in < term), default=0)
        if must <= journal.base_index:
            return
        if must > journal.last_index or journal.term_at(must) != self.committed[must].term:
            raise Violation(
                f"leader completeness: {name} leads in term {term} without entry {must} of term {self.committed[must].term}, "
                "which was committed before"
            )

    # -- commits and states --------------------------------------------------------------------------------------------------

    def commits(self, name: str, term: int, in_force: Sequence[Membership], entry: Entry) -> None:
        """`in_force`: the memberships by one of which it must be committed."""
        known = self.committed.get(entry.index)
        if known is not None:
            if known != entry:
                raise Violation(
                    f"state-machine safety: {name} has entry {entry.index} of term {entry.term} committed, others that of "
                    f"term {known.term}"
                )
            return
        if not any(self._is_safe(entry, membership) for membership in in_force):
            everybody = sorted({voter for membership in in_force for voter in membership.voters})
            raise Violation(
                f"durability: {name} commits entry {entry.index} of term {entry.term}, which of {everybody} only "
                f"{[voter for voter in everybody if self._has(voter, entry)]} have on their disks"
            )
        self.committed[entry.index] = entry
        self.committed_in.append((entry.index, term))

    def _is_safe(self, entry: Entry, membership: Membership) -> bool:
        return sum(self._has(voter, entry) for voter in membership.voters) >= membership.quorum

    def _has(self, voter: str, entry: Entry) -> bool:
        shadows = [self.shadows[voter]] if voter in self.shadows else []
        shadows += [shadow for name, shadow in self.lost if name == voter]
        return any(shadow.holds(entry.index, entry.term) for shadow in shadows)

    def applies(self, name: str, index: int, digest: bytes, effect: Command | None, answer: Value | None) -> None:
        if self.digests.setdefault(index, digest) != digest:
            raise Violation(f"state-machine safety: {name} has another state after entry {index} than others")
        if effect is not None and answer is not None:
            done = self.effects.setdefault((effect.session, effect.seq), (index, answer))
            if done != (index, answer):
                raise Violation(
                    f"exactly once: command {effect.seq} of session {effect.session} took effect at {done[0]} and at {index}"
                )

    def acknowledged(self, command: Command, answer: Value) -> None:
        done = self.effects.get((command.session, command.seq))
        if done is None or done[1] != answer:
            raise Violation(
                f"acknowledgements: command {command.seq} of session {command.session} was answered with {answer!r}, what it "
                f"did is {done}"
            )
