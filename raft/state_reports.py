"""Digests of the whole state at markers, as the nodes report them, and who is outside of a majority. Pure.

The chain of changes (agreement.py) finds a node that *computed* something else; it cannot see a value that changed by itself on
the disk. So now and then every node digests all of its state at a marker in the log, and reports that. Rules:
- Judged is at one index, among those that have reported there; right is what a strict majority of all voters has.
- Only the newest markers are kept, and only what members report: memory is bounded whatever is sent.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

KEPT: Final = 8


class StateReports:
    def __init__(self) -> None:
        self._marks: dict[int, dict[str, bytes]] = {}  # by index; what each node has there

    def report(self, name: str, index: int, digest: bytes) -> None:
        """What `name` has at the marker `index`. The first report counts: a state at an index never changes."""
        self._marks.setdefault(index, {}).setdefault(name, digest)
        while len(self._marks) > KEPT:
            del self._marks[min(self._marks)]

    def at(self, index: int) -> dict[str, bytes]:
        """What was reported, by name."""
        return dict(self._marks.get(index, {}))

    def forget(self, name: str) -> None:
        """Another disk answers to the name."""
        for reports in self._marks.values():
            reports.pop(name, None)

    def judge(self, index: int, voters: frozenset[str]) -> frozenset[str]:
        """Who differs from a majority; nobody as long as there is none that agrees."""
        reports = self._marks.get(index, {})
        votes = Counter(digest for name, digest in reports.items() if name in voters)
        right, count = votes.most_common(1)[0] if votes else (b"", 0)
        if count * 2 <= len(voters):
            return frozenset()
        return frozenset(name for name, digest in reports.items() if digest != right)
