"""Keeps calling one other node while there is no connection to it.

- The node whose name sorts lower calls at once, the other one only after some patience: it has to when the lower one does not
  know it yet (a new node knows nobody) or cannot reach it.
- Attempts that fail come at doubling distances with jitter, so that nodes which lost each other together do not call together.

One task. `attempt` makes one call and returns when its outcome is known.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DialTiming:
    first_s: float = 0.05
    most_s: float = 2.0
    patience_s: float = 0.5


class PeerDialer:
    def __init__(
        self, attempt: Callable[[], Awaitable[None]], timing: DialTiming, rng: random.Random, *, patient: bool, connected: bool
    ) -> None:
        """`patient`: the other node's name sorts lower. Needs a running loop."""
        self._attempt = attempt
        self._timing = timing
        self._rng = rng
        self._patience = timing.patience_s if patient else 0.0
        self._alone = asyncio.Event()
        if not connected:
            self._alone.set()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def connected(self) -> None:
        self._alone.clear()

    def disconnected(self) -> None:
        self._alone.set()

    def stop(self) -> None:
        self._task.cancel()

    async def stopped(self) -> None:
        """After `stop`: the task is gone."""
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        timing, rng = self._timing, self._rng
        while True:
            await self._alone.wait()
            await asyncio.sleep(self._patience * rng.uniform(1.0, 1.5))
            delay = timing.first_s
            while self._alone.is_set():
                try:
                    await self._attempt()
                except Exception:  # ours; a node that calls nobody any more would be worse
                    log.exception("an attempt to reach another node failed")
                if self._alone.is_set():
                    await asyncio.sleep(delay * rng.uniform(0.5, 1.0))
                    delay = min(2 * delay, timing.most_s)
