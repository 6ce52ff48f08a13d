"""Do all replicas have the same state? Digests at indexes, and the verdict when they differ. Pure.

Every node digests its changes into a chain (api.StateMachine.digest); followers report theirs with their acknowledgements and
the leader compares. A chain that has differed once differs for ever, so that a report need not be at any particular index.
The verdict needs a majority: whoever is outside of a majority that agrees at one index is wrong; without one nobody is judged.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Final

KEPT: Final = 4096


@dataclass(frozen=True, slots=True)
class Verdict:
    index: int  # where the difference was seen first
    wrong: frozenset[str]


class Agreement:
    """One node's own digests by index, and what others reported and is not known to be the same. Bounded: the oldest go."""

    def __init__(self) -> None:
        self._own: OrderedDict[int, bytes] = OrderedDict()
        self._reports: dict[str, OrderedDict[int, bytes]] = {}
        self._agreed: dict[str, int] = {}  # the last index at which another's report was the same as ours

    @property
    def newest(self) -> tuple[int, bytes]:
        """This node's last index and digest; (0, b"") when there is none."""
        return next(reversed(self._own.items())) if self._own else (0, b"")

    def record(self, index: int, digest: bytes) -> None:
        """This node's state has `digest` at `index`."""
        self._own[index] = digest
        if len(self._own) > KEPT:
            self._own.popitem(last=False)

    def restart(self, index: int, digest: bytes) -> None:
        """This node has another state now, with nothing known before `index`."""
        self._own.clear()
        self._reports.clear()
        self._agreed.clear()
        self._own[index] = digest

    def forget(self, name: str) -> None:
        """Its reports count no more: another disk, or another state, answers to the name."""
        self._reports.pop(name, None)
        self._agreed.pop(name, None)

    def report(self, name: str, index: int, digest: bytes) -> int:
        """What `name` has; the first index at which it is known to have something else than this node, 0 when there is none."""
        reports = self._reports.setdefault(name, OrderedDict())
        reports[index] = digest
        if len(reports) > KEPT:
            reports.popitem(last=False)
        newest = self.newest[0]
        for at, other in list(reports.items()):
            own = self._own.get(at)
            if own is None and at > newest:
                continue  # this node is not there yet
            if own is not None and own != other:
                return at
            del reports[at]
            if own is not None:
                self._agreed[name] = max(at, self._agreed.get(name, 0))
        return 0

    def judge(self, me: str, index: int, voters: frozenset[str]) -> Verdict | None:
        """Who is wrong at `index`; None when no majority of `voters` is known to have the same there."""
        reports = {name: kept[index] for name, kept in self._reports.items() if index in kept}
        if index in self._own:
            later = [name for name, agreed in self._agreed.items() if agreed >= index]
            reports |= dict.fromkeys([me, *later], self._own[index])  # equal later is equal now
        votes = Counter(digest for name, digest in reports.items() if name in voters)
        if not votes:
            return None
        digest, count = votes.most_common(1)[0]
        if count * 2 <= len(voters):
            return None
        wrong = frozenset(name for name, other in reports.items() if other != digest)
        return Verdict(index, wrong) if wrong else None
