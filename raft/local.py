"""The replicator of a single node: a log, group commit, apply.

Proposals queue while a sync is under way and share the next one. A batch goes queue -> log (one durable write) -> apply in
index order on the loop -> futures in the same order; an answer therefore means durable and applied. Rules:
- One sync at a time, on the loop or in the writer thread as the policy says; both end in `_finished`. While the thread
  syncs the next batch, the loop applies the last one.
- Refused means that the entry is not in the log. Anything that leaves doubt (a failed disk, an exception from apply) stops the
  replicator: every future that is open, and every later call, gets Stopped, and `failed` is set so that the process can exit.
- A proposer that cancels its future does not take back its entry.

Not here: what is in a payload; when to trim (the owner of the state machine says so).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import queue
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from raft.api import ReplicatorStatus
from raft.disk import Disk, RealDisk
from raft.errors import LogCorrupt, Refused, ReplicationError, Stopped
from raft.identity import Identity, load_or_create
from raft.record import DATA, MARKER, PAYLOAD_MAX, Entry, record_size
from raft.sync_policy import AdaptivePolicy, SyncPolicy
from raft.wal import Wal, WalOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from raft.api import StateMachine
    from raft.spares import Housekeeper

TERM = 1
log = logging.getLogger(__name__)
_RESERVE_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class LocalOptions:
    wal: WalOptions = field(default_factory=WalOptions)
    queue_entries_max: int = 65536
    queue_bytes_max: int = 64 << 20
    batch_entries_max: int = 8192
    batch_bytes_max: int = 4 << 20
    replay_bytes: int = 4 << 20


class _Proposal(NamedTuple):
    payload: bytes
    hint: object | None
    future: asyncio.Future[Any]


@dataclass(slots=True)
class LocalCounters:
    """For metrics; they only grow."""

    entries: int = 0
    bytes: int = 0
    syncs_inline: int = 0
    syncs_thread: int = 0
    sync_seconds: float = 0.0
    refused: int = 0


class _WriterThread:
    """Runs jobs in order; a thread of our own, because an executor's futures cost as much as a sync on a fast disk."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="wal-writer", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


class LocalReplicator:
    """Implements raft.api.Replicator on one directory. `failed` resolves to the reason when it has stopped by itself."""

    failed: asyncio.Future[ReplicationError]
    identity: Identity

    def __init__(
        self,
        directory: str | os.PathLike[str],
        state: StateMachine,
        options: LocalOptions | None = None,
        *,
        disk: Disk | None = None,
        policy: SyncPolicy | None = None,
        housekeeper: Housekeeper | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.counters = LocalCounters()
        self._directory = os.fspath(directory)
        self._state = state
        self._options = options or LocalOptions()
        self._disk = disk or RealDisk()
        self._policy = policy or AdaptivePolicy()
        self._housekeeper = housekeeper
        self._clock = clock
        self._queue: deque[_Proposal] = deque()
        self._queue_bytes = 0
        self._inflight: list[_Proposal] = []
        self._inflight_first = 0  # the index of the first of them
        self._scheduled = False
        self._stopped: str | None = "the replicator was not started"
        self._failed = False
        self._drained: asyncio.Future[None] | None = None
        self._reserve_at = 0.0
        self._lock_fd = -1
        self._wal: Wal | None = None
        self._writer: _WriterThread | None = None

    # -- life ----------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.failed = self._loop.create_future()
        try:
            self._wal = wal = await asyncio.to_thread(self._open)
            self._match_state(wal)
            await self._replay(wal)
        except BaseException:
            self._close()
            raise
        self._writer = _WriterThread()
        self._stopped = None

    async def stop(self) -> None:
        if self._stopped is None:
            self._stopped = "the server is shutting down"
        if self._queue or self._inflight:
            self._drained = self._loop.create_future()
            await self._drained
        self._close()

    def _open(self) -> Wal:
        self._disk.make_directory(self._directory)
        self._lock_fd = self._disk.lock(self._directory)
        self.identity = load_or_create(self._disk, self._directory)
        return Wal.open(
            os.path.join(self._directory, "wal"),
            self._options.wal,
            disk=self._disk,
            owner=self.identity.owner,
            housekeeper=self._housekeeper,
        )

    def _match_state(self, wal: Wal) -> None:
        """The log must hold what follows the state; a new log continues after whatever the state holds."""
        applied = self._state.index_applied
        if wal.last_index == 0 and applied:
            wal.reset(applied, TERM)
        elif wal.first_index > applied + 1:
            raise LogCorrupt(
                f"{self._directory}: the state holds entries up to {applied}, the log begins with {wal.first_index}: those "
                "between are missing. Restore a state and a log that belong together"
            )
        elif wal.last_index < applied:
            raise LogCorrupt(
                f"{self._directory}: the state holds entries up to {applied}, the log ends with {wal.last_index} although it "
                "was synced first: the disk lost acknowledged writes, or the log is an old copy. Restore the log; to go on "
                "with the state alone, move the wal directory away"
            )

    async def _replay(self, wal: Wal) -> None:
        last = wal.last_index
        while (first := self._state.index_applied + 1) <= last:
            for entry in wal.read(first, last, self._options.replay_bytes):
                self._replay_entry(entry)
            if self._state.index_applied < first:
                raise RuntimeError(f"the state machine did not advance when entry {first} was applied")
            await asyncio.sleep(0)

    def _replay_entry(self, entry: Entry) -> None:
        """A log that was a cluster node's has entries that are not the state machine's."""
        if entry.kind == DATA:
            self._state.apply(entry.index, entry.term, entry.payload, None)
        elif entry.kind == MARKER:
            self._state.mark(entry.index, entry.payload)
        else:
            self._state.skip(entry.index)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._wal is not None:
            self._wal.close()
        if self._lock_fd >= 0:
            self._disk.close(self._lock_fd)
            self._lock_fd = -1

    # -- what callers use ----------------------------------------------------------------------------------------------------

    def propose(self, payload: bytes, hint: object | None = None) -> asyncio.Future[Any]:
        if self._stopped is not None:
            return self._failed_future(Stopped(self._stopped))
        options = self._options
        size = record_size(len(payload))
        if len(payload) > PAYLOAD_MAX:
            return self._refuse(errno.EFBIG, f"an entry of {len(payload)} bytes is too large, the limit is {PAYLOAD_MAX}")
        if len(self._queue) >= options.queue_entries_max or (
            self._queue and self._queue_bytes + size > options.queue_bytes_max
        ):
            return self._refuse(errno.EAGAIN, f"{len(self._queue)} entries wait for the log; try again later")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.append(_Proposal(payload, hint, future))
        self._queue_bytes += size
        if not self._scheduled and not self._inflight:
            self._scheduled = True
            self._loop.call_soon(self._flush)
        return future

    async def read_barrier(self) -> int:
        """Entries are applied before they are acknowledged, so the state is always there already."""
        if self._stopped is not None:
            raise Stopped(self._stopped)
        return self._state.index_applied

    def trim(self, index: int) -> None:
        if self._stopped is None and self._wal is not None:
            self._wal.trim(min(index, self._state.index_durable))

    def status(self) -> ReplicatorStatus:
        wal = self._wal
        return ReplicatorStatus(
            role="single" if self._stopped is None else "stopped",
            term=TERM,
            leader=self.identity.node_id if self._stopped is None else None,
            index_last=wal.last_index if wal else 0,
            index_committed=wal.durable_index if wal else 0,
            index_applied=self._state.index_applied,
            log_first=wal.first_index if wal else 0,
            log_bytes=wal.size_bytes if wal else 0,
        )

    @property
    def space_low(self) -> bool:
        """The disk has no room for the next log segment. What is left is for deletions: refuse what needs space."""
        return self._wal is not None and self._wal.space_low

    # -- one batch -----------------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Start the next sync, unless one is under way or nothing waits."""
        self._scheduled = False
        if self._queue and not self._inflight:
            batch, size = self._take_batch()
            self._start_sync(batch, inline=self._policy.inline(size))

    def _start_sync(self, batch: list[_Proposal], *, inline: bool) -> None:
        wal, writer = self._wal, self._writer
        assert wal is not None
        assert writer is not None
        first = wal.last_index + 1
        self._inflight, self._inflight_first = batch, first
        try:
            wal.append([(index, TERM, proposal.payload) for index, proposal in enumerate(batch, first)])
        except ReplicationError as error:
            self._finished(error, 0.0)
            return
        if inline:
            self.counters.syncs_inline += 1
            self._finished(*self._sync(wal))
        else:
            self.counters.syncs_thread += 1
            writer.submit(self._sync_in_thread)
        if wal.space_low and (now := self._clock()) >= self._reserve_at:
            self._reserve_at = now + _RESERVE_INTERVAL_S
            wal.reserve()

    def _take_batch(self) -> tuple[list[_Proposal], int]:
        waiting, room = self._queue, self._options.batch_bytes_max
        batch: list[_Proposal] = []
        size = 0
        while waiting and len(batch) < self._options.batch_entries_max:
            more = record_size(len(waiting[0].payload))
            if batch and size + more > room:
                break
            batch.append(waiting.popleft())
            size += more
        self._queue_bytes -= size
        self.counters.entries += len(batch)
        self.counters.bytes += size
        return batch, size

    def _sync(self, wal: Wal) -> tuple[Exception | None, float]:
        started = self._clock()
        error: Exception | None = None
        try:
            wal.sync()
        except Exception as raised:
            error = raised
        return error, self._clock() - started

    def _sync_in_thread(self) -> None:
        assert self._wal is not None
        outcome = self._sync(self._wal)
        with contextlib.suppress(RuntimeError):  # the loop was closed without stop(): nobody waits any more
            self._loop.call_soon_threadsafe(self._finished, *outcome)

    def _finished(self, error: Exception | None, seconds: float) -> None:
        """A sync has ended: see to the next one, answer its batch."""
        batch, self._inflight = self._inflight, []
        if self._failed:
            self._fail("", batch)
        elif error is None:
            self._policy.observe(seconds)
            self.counters.sync_seconds += seconds
            first = self._inflight_first
            self._start_next_in_thread()
            self._apply(first, batch)
        elif isinstance(error, Refused):
            self.counters.refused += len(batch)
            _reject(batch, error)
        else:
            self._fail(str(error), batch)
        if self._inflight:
            return
        if self._queue and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)
        elif not self._queue and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _start_next_in_thread(self) -> None:
        """The disk need not wait until the last batch is applied, unless the loop itself is to run the sync."""
        if self._queue and not self._policy.inline(min(self._queue_bytes, self._options.batch_bytes_max)):
            batch, _ = self._take_batch()
            self._start_sync(batch, inline=False)

    def _apply(self, first: int, batch: list[_Proposal]) -> None:
        apply = self._state.apply
        for index, (payload, hint, future) in enumerate(batch, first):
            try:
                result = apply(index, TERM, payload, hint)
            except Exception as error:
                log.exception("applying entry %d failed; the replicator stops", index)
                self._fail(f"applying entry {index} failed: {error!r}", batch[index - first :])
                return
            if not future.done():
                future.set_result(result)

    def _fail(self, reason: str, batch: list[_Proposal]) -> None:
        """Fail-stop: nothing that follows can be trusted to be in order."""
        if not self._failed:
            self._failed, self._stopped = True, reason
        stopped = Stopped(self._stopped or reason)
        waiting = [*batch, *self._inflight, *self._queue]
        self._queue.clear()
        self._queue_bytes = 0
        _reject(waiting, stopped)
        if not self.failed.done():
            self.failed.set_result(stopped)

    def _refuse(self, number: int, reason: str) -> asyncio.Future[Any]:
        self.counters.refused += 1
        return self._failed_future(Refused(number, reason))

    def _failed_future(self, error: ReplicationError) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_exception(error)
        return future


def _reject(batch: list[_Proposal], error: Refused | Stopped) -> None:
    """Each future gets an exception of its own: a shared one would collect the tracebacks of all who await it."""
    for proposal in batch:
        if not proposal.future.done():
            own = Refused(error.errno, error.reason) if isinstance(error, Refused) else Stopped(error.reason)
            proposal.future.set_exception(own)
