"""Time as a parameter: what waits or measures takes a Clock, so that a test can be the one who lets time pass."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    def time(self) -> float:
        """Seconds since some fixed moment; never goes back."""

    def call_later(self, delay_s: float, call: Callable[[], None], /) -> Timer:
        """Run `call` on the event loop after `delay_s`."""

    async def sleep(self, delay_s: float, /) -> None: ...


class LoopClock:
    """The running event loop's own time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.time = self._loop.time

    def call_later(self, delay_s: float, call: Callable[[], None], /) -> Timer:
        return self._loop.call_later(delay_s, call)

    async def sleep(self, delay_s: float, /) -> None:
        await asyncio.sleep(delay_s)
