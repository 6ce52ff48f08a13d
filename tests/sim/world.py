"""Simulated time: events in one order, random numbers from one seed, and a trace of all that happens.

Everything in a run happens in an event, and events happen in the order of (time, when they were planned). Whoever needs chance
takes a generator of its own by name, so that more faults in one place do not change the luck in another. The trace is what two
runs of one seed must have in common, byte for byte.

Not here: what the events do.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

EVENTS_MAX = 2_000_000


class Violation(AssertionError):
    """A promise was broken."""


@dataclass
class World:
    seed: int
    verbose: bool = False
    now: float = 0.0
    events_done: int = 0
    lines: list[str] = field(default_factory=list)  # the trace, if verbose; else only its hash is kept
    _queue: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _planned: int = 0

    def __post_init__(self) -> None:
        self._trace = blake2b(digest_size=16)

    def rng(self, name: str) -> random.Random:
        return random.Random(f"{self.seed}/{name}")

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        """Plan an event."""
        self._planned += 1
        heapq.heappush(self._queue, (self.now + seconds, self._planned, event))

    def run_until(self, time: float) -> None:
        queue = self._queue
        while queue and queue[0][0] <= time:
            self.now, _, event = heapq.heappop(queue)
            self.events_done += 1
            if self.events_done > EVENTS_MAX:
                raise Violation(f"{EVENTS_MAX} events in {self.now:.3f} simulated seconds: something runs in a circle")
            event()
        self.now = max(self.now, time)

    def run_while(self, condition: Callable[[], bool], limit_s: float, step_s: float = 0.05) -> bool:
        """Run until `condition` is False; False when it was still True after `limit_s`."""
        deadline = self.now + limit_s
        while condition():
            if self.now >= deadline:
                return False
            self.run_until(min(self.now + step_s, deadline))
        return True

    def trace(self, text: str) -> None:
        line = f"{self.now:10.6f} {text}"
        self._trace.update(line.encode())
        if self.verbose:
            self.lines.append(line)

    @property
    def trace_hash(self) -> str:
        return self._trace.hexdigest()
