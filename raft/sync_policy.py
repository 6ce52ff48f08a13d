"""Where a sync runs: on the event loop, or in a thread beside it.

On the loop it saves two thread switches, a large part of what a sync costs on a fast disk; but nothing else runs meanwhile.
So it is right while syncs are short, and wrong as soon as the disk is slow.

Pure decisions: the caller measures and tells. No clock, no I/O here.
"""

from __future__ import annotations

from typing import Protocol


class SyncPolicy(Protocol):
    def inline(self, batch_bytes: int) -> bool:
        """Run the next sync, of so many bytes, on the loop?"""

    def observe(self, seconds: float) -> None:
        """A sync took so long, wherever it ran."""


class FixedPolicy:
    """Always the same answer: for tests, and for who knows the disk."""

    def __init__(self, *, inline: bool) -> None:
        self._inline = inline

    def inline(self, batch_bytes: int) -> bool:
        return self._inline

    def observe(self, seconds: float) -> None:
        pass


class AdaptivePolicy:
    """Inline while the moving average of recent syncs is short; starts in the thread, until the disk has shown itself.

    Two thresholds keep it from flapping. Large batches never run on the loop: their time goes with their size.
    """

    def __init__(
        self,
        *,
        enter_seconds: float = 0.0007,
        leave_seconds: float = 0.001,
        weight: float = 0.1,
        inline_bytes_max: int = 256 << 10,
    ) -> None:
        if not 0 < enter_seconds <= leave_seconds or not 0 < weight <= 1:
            raise ValueError("thresholds must be positive and in order, the weight between 0 and 1")
        self._enter = enter_seconds
        self._leave = leave_seconds
        self._weight = weight
        self._inline_bytes_max = inline_bytes_max
        self._inline = False
        self.average_seconds = 2 * leave_seconds

    def inline(self, batch_bytes: int) -> bool:
        return self._inline and batch_bytes <= self._inline_bytes_max

    def observe(self, seconds: float) -> None:
        self.average_seconds += self._weight * (seconds - self.average_seconds)
        self._inline = self.average_seconds < (self._leave if self._inline else self._enter)
