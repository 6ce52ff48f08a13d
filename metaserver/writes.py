"""The way into the log: ops are stamped, gathered into entries, proposed, and their results handed back.

Rules
 - One entry is under way at a time. What arrives meanwhile forms the next one, up to its bounds: this is what shares the cost
   of a sync among all who wait.
 - Time enters here, once per entry, and never runs backwards.
 - Order: ops enter the log in the order of `submit`. What the service does behind the users' backs (`call` with `rides`) costs
   no entry of its own where it can be helped: it goes first in the next one, or alone when none comes for a moment.
 - A callback instead of a task per op: at tens of thousands of ops a second a task costs more than the op.
 - While space is short, ops that consume it are refused with ENOSPC and the others (which free it) go through.
 - An op that may have taken effect already, because it is sent again, is never answered with a refusal: its kept result is.
 - One object per reign (reign.py): after `end` nothing is proposed any more, whatever was planned.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from metaserver import wire
from metaserver.applier import Proposal
from metaserver.core import entry as ops
from metaserver.core.entry import Item, Result
from raft.errors import NotLeader, OutcomeUnknown, Refused, ReplicationError, Stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from protos import meta_pb2
    from raft.api import Replicator

    #: What an op's proposer is told: its result, or why there is none (the op may or may not take effect).
    Done = Callable[[Result | ReplicationError], None]

CONSUMING: Final = frozenset(
    {
        ops.Create,
        ops.MkDir,
        ops.MkNod,
        ops.SymLink,
        ops.Link,
        ops.CommitSlices,
        ops.Fallocate,
        ops.CopyRange,
        ops.TmpFile,
        ops.SetXattr,
        ops.Fallocate,
        ops.CopyRange,
        ops.TmpFile,
        ops.CreateVolume,
    }
)

RIDE_S: Final = 0.02


class _Waiting(NamedTuple):
    item: Item
    request: meta_pb2.Request | None
    done: Done


def _nobody(_: Result | ReplicationError) -> None:
    """Who is told of an op after its proposer was told that its fate is not known."""


class Writes:
    """Owns the queue in front of the replicator."""

    def __init__(
        self,
        replicator: Replicator,
        clock_ns: Callable[[], int],
        *,
        entry_items: int = 1024,
        entry_bytes: int = 4 << 20,
        queue_items: int = 16384,
        on_fatal: Callable[[BaseException], None] | None = None,
        kept_result: Callable[[int, int], Result | None] = lambda session, seq: None,
        clock: Callable[[], float] = time.monotonic,
        ride_s: float = RIDE_S,
    ) -> None:
        """`on_fatal`: told of a bug in here, after which nothing more is logged. `kept_result(session, seq)`:
        what the state remembers of an op. `clock` is monotonic seconds. `ride_s`: for how long what rides waits."""
        self._replicator = replicator
        self._clock_ns = clock_ns
        self._entry_items = entry_items
        self._entry_bytes = entry_bytes
        self._queue_items = queue_items
        self._on_fatal = on_fatal
        self._kept_result = kept_result
        self._clock = clock
        self._ride_s = ride_s
        self._now_ns = 0
        self._proposed_s = 0.0  # when the entry under way was proposed
        self._queue: deque[_Waiting] = deque()
        self._riders: list[_Waiting] = []
        self._under_way: list[_Waiting] = []
        self._scheduled = False
        self._waiters: list[asyncio.Future[None]] = []
        self._short: str | None = None
        self._stopping = False
        self._ended = False

    @property
    def queued(self) -> int:
        """Ops that were submitted and have no result yet."""
        return len(self._queue) + len(self._riders) + len(self._under_way)

    @property
    def now_ns(self) -> int:
        """The time of the newest entry: nothing in the log is later."""
        return self._now_ns

    @property
    def stalled_s(self) -> float:
        """For how long the entry under way has had no result."""
        return self._clock() - self._proposed_s if self._under_way else 0.0

    @property
    def space_short(self) -> str | None:
        """Why consuming ops are refused; None while they are not."""
        return self._short

    def set_space_short(self, reason: str | None) -> None:
        """Refuse consuming ops with ENOSPC for `reason`, or no longer."""
        self._short = reason

    def not_before(self, now_ns: int) -> None:
        """No entry is stamped with an earlier time: what the log holds already."""
        self._now_ns = max(self._now_ns, now_ns)

    def submit(self, item: Item, request: meta_pb2.Request | None, done: Done) -> None:
        """Log and apply one op; `done` is called once, at the earliest in this call (a refusal). `request` is the client's
        message that `item.op` was decoded from, None for the service's own ops."""
        if self._stopping:
            done(NotLeader(None) if self._ended else Stopped("the server is stopping"))
            return
        if self._short is not None and type(item.op) in CONSUMING and not self._is_again(item):
            done(Result(errno=errno.ENOSPC, detail=self._short))
            return
        self._queue.append(_Waiting(item, request, done))
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and not self._under_way:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._propose)

    def _ride(self, item: Item, done: Done) -> None:
        if self._stopping or self._queue:
            self.submit(item, None, done)
            return
        if not self._riders:
            asyncio.get_running_loop().call_later(self._ride_s, self._set_off)
        self._riders.append(_Waiting(item, None, done))

    def _set_off(self) -> None:
        """Whoever rides has waited long enough, or must not wait."""
        if self._riders:
            self._queue.extendleft(reversed(self._riders))
            self._riders.clear()
            self._schedule()

    async def call(self, op: ops.Op, *, rides: bool = False) -> Result:
        """Carry out one of the service's own ops; one that `rides` waits a moment for an entry to join. Raises
        ReplicationError when its fate is not known or it was not logged."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def done(outcome: Result | ReplicationError) -> None:
            if future.done():
                return  # the caller was cancelled
            if isinstance(outcome, Result):
                future.set_result(outcome)
            else:
                future.set_exception(outcome)

        item = Item(0, 0, 0, op)
        if rides:
            self._ride(item, done)
        else:
            self.submit(item, None, done)
        return await future

    @property
    def full(self) -> bool:
        """The queue is so long that no more should be taken."""
        return len(self._queue) >= self._queue_items

    async def room(self) -> None:
        """Wait until the queue is short enough to take more."""
        while self.full:
            await self._turn()

    async def stop(self) -> None:
        """Take nothing new; return when everything that was taken has been answered."""
        self._stopping = True
        self._set_off()
        while self.queued:
            await self._turn()

    def end(self, error: ReplicationError) -> None:
        """This node leads no longer: tell all who wait, and propose nothing any more. What is under way may still land."""
        self._stopping = self._ended = True
        self.give_up(error)
        self._under_way = []

    def give_up(self, error: ReplicationError) -> None:
        """Nobody is to wait any longer: tell them that the fate of their ops is not known. The entry under way stays so
        until it lands."""
        waiting = [*self._under_way, *self._riders, *self._queue]
        self._under_way = [one._replace(done=_nobody) for one in self._under_way]
        self._riders.clear()
        self._queue.clear()
        self._proposed_s = self._clock()
        for one in waiting:
            one.done(error)
        self._free_waiters()

    def _is_again(self, item: Item) -> bool:
        """The op was sent before and took effect, or may still: the state machine must answer it, with its first result."""
        session, seq = item.session, item.seq
        if not session:
            return False
        return self._kept_result(session, seq) is not None or any(
            one.item.seq == seq and one.item.session == session for one in (*self._under_way, *self._queue)
        )

    async def _turn(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _gather(self) -> list[_Waiting]:
        """The next entry's ops: at least one, then as many as its bounds allow."""
        queue, size = self._queue, 0
        taken, self._riders = self._riders, []
        while queue and len(taken) < self._entry_items:
            request = queue[0].request
            size += 64 if request is None else request.ByteSize()
            if taken and size > self._entry_bytes:
                break
            taken.append(queue.popleft())
        return taken

    def _propose(self) -> None:
        self._scheduled = False
        if self._ended or self._under_way:
            return
        batch = self._under_way = self._gather()
        if not batch:
            return
        try:
            self._log(batch)
        except Exception as error:
            self._break(error, batch)

    def _log(self, batch: list[_Waiting]) -> None:
        self._now_ns = now_ns = max(self._now_ns, self._clock_ns())
        self._proposed_s = self._clock()
        payload = wire.encode_payload(now_ns, batch)
        hint = Proposal(now_ns, tuple([waiting.item for waiting in batch]))
        self._replicator.propose(payload, hint).add_done_callback(self._landed)

    def _landed(self, future: asyncio.Future[Sequence[Result]]) -> None:
        if self._ended:
            if not future.cancelled():
                future.exception()  # looked at; whoever waited was told already
            return
        batch, self._under_way = self._under_way, []
        # The next entry is on its way to the disk while this one's answers are written. It is not applied within the call, so
        # what its observers queue (invalidations) leaves after these answers.
        if self._queue:
            self._propose()
        for waiting, outcome in zip(batch, self._outcomes(batch, future), strict=True):
            waiting.done(outcome)
        self._free_waiters()

    def _outcomes(self, batch: list[_Waiting], future: asyncio.Future[Sequence[Result]]) -> Sequence[Result | ReplicationError]:
        """What each op of an entry is told."""
        try:
            return future.result()
        except Refused as refused:
            told = Result(errno=refused.errno, detail=refused.reason)
            return [self._kept(waiting.item) or told for waiting in batch]
        except ReplicationError as error:
            return [error] * len(batch)
        except asyncio.CancelledError:
            return [OutcomeUnknown("the log was stopped")] * len(batch)

    def _kept(self, item: Item) -> Result | None:
        """What a refused op was answered, or would have been, when it was sent before. No other entry is under way."""
        return self._kept_result(item.session, item.seq) if item.session and item.seq else None

    def _break(self, error: Exception, batch: list[_Waiting]) -> None:
        """A bug: nothing that follows can be trusted."""
        waiting = [*batch, *self._riders, *self._queue]
        self._stopping = True
        self._under_way = []
        self._riders.clear()
        self._queue.clear()
        stopped = Stopped(f"the server failed: {error!r}")
        for one in waiting:
            one.done(stopped)
        self._free_waiters()
        if self._on_fatal is None:
            raise error
        self._on_fatal(error)

    def _free_waiters(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
