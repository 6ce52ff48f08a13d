"""The terms of the log's entries, in memory: where each one begins.

A term lasts for thousands of entries, so the few places where it changes answer for every entry, without the disk. This
includes the entry before the first, whose term a leader must name when it sends the first one.
"""

from __future__ import annotations

from bisect import bisect_right


class Terms:
    """Terms never decrease with the index; who appends sees to it."""

    __slots__ = ("_starts", "_terms")

    def __init__(self, base_index: int, base_term: int) -> None:
        self._starts = [base_index]  # never empty; the first one begins at or before the base
        self._terms = [base_term]

    @property
    def last(self) -> int:
        return self._terms[-1]

    def append(self, index: int, term: int) -> None:
        if term != self._terms[-1]:
            self._starts.append(index)
            self._terms.append(term)

    def at(self, index: int) -> int:
        """The term of an entry that the log has, or of its base."""
        return self._terms[bisect_right(self._starts, index) - 1]

    def start(self, index: int) -> int:
        """The first entry known to have the term that entry `index` has."""
        return self._starts[bisect_right(self._starts, index) - 1]

    def truncate(self, index: int) -> None:
        """The log ends with `index`."""
        keep = bisect_right(self._starts, index)
        del self._starts[keep:], self._terms[keep:]

    def trim(self, base_index: int) -> None:
        """The log begins after `base_index`."""
        drop = bisect_right(self._starts, base_index) - 1
        del self._starts[:drop], self._terms[:drop]
        self._starts[0] = max(self._starts[0], base_index)

    def reset(self, base_index: int, base_term: int) -> None:
        self._starts[:] = [base_index]
        self._terms[:] = [base_term]
