"""An executor whose jobs run when the test says so, and a clock that the test lets go: jobs in any order, no waiting."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class ManualThreads(Executor):
    def __init__(self) -> None:
        self.jobs: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        self.jobs.append((future, lambda: fn(*args, **kwargs)))
        return future

    def run(self, number: int = 0) -> None:
        """Run one of the waiting jobs."""
        future, job = self.jobs.pop(number)
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(job())
        except BaseException as error:
            future.set_exception(error)


class ManualClock:
    """Time passes only in `sleep` (at once) and `advance`."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.slept_s = 0.0
        self._timers: list[_Timer] = []

    def time(self) -> float:
        return self.now_s

    def call_later(self, delay_s: float, call: Callable[[], None], /) -> _Timer:
        timer = _Timer(self.now_s + delay_s, call)
        self._timers.append(timer)
        return timer

    async def sleep(self, delay_s: float, /) -> None:
        self.now_s += delay_s
        self.slept_s += delay_s
        await asyncio.sleep(0)

    def advance(self, by_s: float) -> None:
        """Let time pass; timers that are due run in their order."""
        end_s = self.now_s + by_s
        while due := sorted((timer for timer in self._timers if timer.at_s <= end_s), key=lambda timer: timer.at_s):
            self.now_s = due[0].at_s
            self._timers.remove(due[0])
            due[0].run()
        self.now_s = end_s


class _Timer:
    def __init__(self, at_s: float, call: Callable[[], None]) -> None:
        self.at_s = at_s
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self._call = None

    def run(self) -> None:
        if self._call is not None:
            self._call()


async def pump(work: Coroutine[Any, Any, T] | asyncio.Future[T], threads: ManualThreads) -> T:
    """Let `work` go on to its end, running jobs as they come."""
    task = asyncio.ensure_future(work)
    idle = 0
    while not task.done():
        await asyncio.sleep(0)
        if threads.jobs:
            threads.run()
            idle = 0
        idle += 1
        assert idle < 10_000, "nothing goes on any more"
    return task.result()
