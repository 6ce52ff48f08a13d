"""Waiting until the state holds everything acknowledged so far: what a linearizable read does first in a cluster.

A confirmation (ReadIndex) costs a round to a majority, so that all who begin to wait in one turn of the loop share one, and who
comes while `ROUNDS_MAX` are under way shares the next. A waiter never joins a round that began before it: that round's index
may be older than an answer which the waiter has seen. A callback instead of a task per waiter, as in writes.py. No round
lasts longer than `wait_max_s`; those who waited for it are told NoQuorum.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from raft.errors import NotLeader, OutcomeUnknown, ReplicationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    #: Told None when the state is current, else why that cannot be known.
    Reached = Callable[[ReplicationError | None], None]

ROUNDS_MAX: Final = 4


class NoQuorum(OutcomeUnknown):
    """A majority did not answer in time. What was asked may or may not take effect."""


class Barrier:
    """One per reign (reign.py); everything on the loop. `on_fatal` is told of a bug in a callback."""

    def __init__(
        self, read_barrier: Callable[[], Awaitable[int]], on_fatal: Callable[[BaseException], None], *, wait_max_s: float
    ) -> None:
        self._read_barrier = read_barrier
        self._on_fatal = on_fatal
        self._wait_max_s = wait_max_s
        self._waiting: list[Reached] = []
        self._scheduled = False
        self._rounds: set[asyncio.Task[None]] = set()
        self._closed: ReplicationError | None = None

    @property
    def rounds(self) -> int:
        """How many are under way."""
        return len(self._rounds)

    def wait(self, reached: Reached) -> None:
        """Call `reached` once, later, when the state holds everything acknowledged before this call."""
        self._waiting.append(reached)
        self._schedule()

    async def reached(self) -> None:
        """The same for a task. Raises ReplicationError."""
        future: asyncio.Future[ReplicationError | None] = asyncio.get_running_loop().create_future()
        self.wait(lambda error: None if future.done() else future.set_result(error))
        error = await future
        if error is not None:
            raise error

    def close(self, error: ReplicationError) -> None:
        """Nothing can be confirmed any more: tell all who wait, and all who come."""
        self._closed = error
        for task in tuple(self._rounds):
            task.cancel()
        self._schedule()

    def _schedule(self) -> None:
        if self._waiting and not self._scheduled and (self._closed is not None or len(self._rounds) < ROUNDS_MAX):
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        self._scheduled = False
        if self._closed is None and len(self._rounds) >= ROUNDS_MAX:
            return  # the end of a round comes back here
        waiting, self._waiting = self._waiting, []
        if self._closed is not None:
            self._tell(waiting, self._closed)
            return
        task = asyncio.create_task(self._round(), name="read barrier")
        self._rounds.add(task)
        task.add_done_callback(partial(self._ended, waiting))

    async def _round(self) -> None:
        async with asyncio.timeout(self._wait_max_s):
            await self._read_barrier()

    def _ended(self, waiting: list[Reached], task: asyncio.Task[None]) -> None:
        """A round is over, one way or the other: perhaps the next one can begin."""
        self._rounds.discard(task)
        self._schedule()
        self._tell(waiting, self._outcome(task))

    def _outcome(self, task: asyncio.Task[None]) -> ReplicationError | None:
        if task.cancelled():
            return self._closed or NotLeader(None)
        error = task.exception()
        if error is None or isinstance(error, ReplicationError):
            return error
        if isinstance(error, TimeoutError):
            return NoQuorum(f"no majority of the cluster has answered for {self._wait_max_s:g} s")
        self._on_fatal(error)
        return OutcomeUnknown(f"the server failed: {error!r}")

    def _tell(self, waiting: list[Reached], error: ReplicationError | None) -> None:
        for reached in waiting:
            try:
                reached(error)
            except Exception as bug:
                self._on_fatal(bug)
