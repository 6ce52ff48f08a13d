"""Linearizable reads without a log entry (Raft section 8; thesis 6.4). Which reads wait for which confirmation. Pure.

A leader notes its commit index, then makes sure by a round of heartbeats that it still leads: a read may be served by any state
that has reached that index. All reads that wait share a round. Before the leader has committed an entry of its own term it does
not know how far its predecessors had committed, so reads wait for that too.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

ROUNDS_MAX: Final = 4  # under way at a time; what comes meanwhile shares the next one


@dataclass(frozen=True, slots=True)
class Round:
    number: int
    index: int
    tokens: list[object]


class Reads:
    """The reads of one leadership."""

    def __init__(self) -> None:
        self.waiting: list[object] = []
        self._rounds: deque[Round] = deque()

    @property
    def wants_round(self) -> bool:
        return bool(self.waiting) and len(self._rounds) < ROUNDS_MAX

    @property
    def unconfirmed(self) -> bool:
        return bool(self._rounds)

    def begin(self, number: int, commit_index: int) -> None:
        """Everything that waits goes into confirmation round `number`."""
        self._rounds.append(Round(number, commit_index, self.waiting))
        self.waiting = []

    def confirmed(self, number: int) -> list[Round]:
        """A majority has answered round `number`: what may be served, oldest first."""
        done = []
        while self._rounds and self._rounds[0].number <= number:
            done.append(self._rounds.popleft())
        return done

    def drop(self) -> list[object]:
        """Nothing more is confirmed: everybody who still waits."""
        tokens = [token for round_ in self._rounds for token in round_.tokens] + self.waiting
        self._rounds.clear()
        self.waiting = []
        return tokens
