"""Do all replicas have the same state? Digests at indexes, and the verdict when they differ. Pure.

Every node digests its changes into a chain (api.StateMachine.digest); followers report theirs with their acknowledgements and
the leader compares. A chain that has differed once differs for ever, so that a report need not be at any particular index; but
who is wrong is decided at one index of which a majority is known: whoever is outside of a majority that agrees there. Without
one nobody is judged.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

KEPT: Final = 4096
DIFFERING_KEPT: Final = 256  # of one node that differs: others must have reported at the same index to tell who is wrong


@dataclass(frozen=True, slots=True)
class Verdict:
    index: int  # where the difference was seen first
    wrong: frozenset[str]


@dataclass(slots=True)
class _Reported:
    """What one other node has said."""

    ahead: deque[tuple[int, bytes]] = field(default_factory=lambda: deque(maxlen=KEPT))  # this node is not there yet
    agreed: int = 0  # the last index at which it had the same as this node
    first: int = 0  # the first index at which it had something else, 0 = none
    differing: OrderedDict[int, tuple[bytes, bytes]] = field(default_factory=OrderedDict)  # index: its digest, this node's


class Agreement:
    """One node's own digests by index, and what others reported. Bounded: the oldest go."""

    def __init__(self) -> None:
        self._own: OrderedDict[int, bytes] = OrderedDict()
        self._reported: dict[str, _Reported] = {}

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
        self._reported.clear()
        self._own[index] = digest

    def forget(self, name: str) -> None:
        """Its reports count no more: another disk, or another state, answers to the name."""
        self._reported.pop(name, None)

    def report(self, name: str, index: int, digest: bytes) -> int:
        """What `name` has; the first index at which it is known to have something else than this node, 0 when there is none."""
        reported = self._reported.setdefault(name, _Reported())
        ahead = reported.ahead
        if not ahead or ahead[-1] != (index, digest):
            ahead.append((index, digest))
        newest = self.newest[0]
        while ahead and ahead[0][0] <= newest:
            at, other = ahead.popleft()
            own = self._own.get(at)
            if own == other:
                reported.agreed = max(at, reported.agreed)
            elif own is not None:
                reported.first = reported.first or at
                reported.differing[at] = (other, own)
                if len(reported.differing) > DIFFERING_KEPT:
                    reported.differing.popitem(last=False)
        return reported.first

    def judge(self, me: str, voters: frozenset[str]) -> Verdict | None:
        """Who is wrong; None when at no index a majority of `voters` is known to have the same."""
        for index in sorted({at for reported in self._reported.values() for at in reported.differing}, reverse=True):
            digests = self._digests(me, index)
            votes = Counter(other for name, other in digests.items() if name in voters)
            digest, count = votes.most_common(1)[0] if votes else (b"", 0)
            wrong = frozenset(name for name, other in digests.items() if other != digest)
            if count * 2 > len(voters) and wrong:
                seen = [self._reported[name].first for name in digests if name in self._reported]
                return Verdict(min(first for first in seen if first), wrong)
        return None

    def _digests(self, me: str, index: int) -> dict[str, bytes]:
        """Of everybody of whom it is known, at an index at which somebody differs from this node."""
        digests: dict[str, bytes] = {}
        for name, reported in self._reported.items():
            if index in reported.differing:
                digests[name], digests[me] = reported.differing[index]
        for name, reported in self._reported.items():
            if reported.agreed >= index:
                digests[name] = digests[me]  # equal later is equal now
        return digests
