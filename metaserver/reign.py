"""What exists only while this node leads: sessions, open files, caches, leases, the queue of writes, and the tasks on them.

All of it is kept in memory by the leader alone and begins anew with every reign, from the state as it is then, as at a start:
sessions have a full time-to-live to come back with what they hold open, and until they have nothing is reaped. A reign is
begun and ended in one step of the loop each; whatever belongs to one that has ended finds its own old tables, and nobody to
propose to. A single node has one reign, from start to end.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import grpc
import structlog

from metaserver import space
from metaserver.barrier import Barrier, NoQuorum
from metaserver.conversations import Conversations
from metaserver.core import machine, reads
from metaserver.core.errors import FsError
from metaserver.deletes import Deletes
from metaserver.holds import Holds
from metaserver.interest import Interest
from metaserver.orphans import Orphans
from metaserver.queries import Queries
from metaserver.sessions import Sessions
from metaserver.streams import Ending
from metaserver.writes import Writes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from metaserver.config import ServerConfig
    from metaserver.conversations import Pressure
    from metaserver.core.txn import ReadTxn
    from metaserver.observed import Observer
    from raft.api import Replicator
    from raft.errors import ReplicationError

_log = structlog.get_logger(__name__)

_DELETES_INTERVAL_S: Final = 2.0
_MEMBERS_INTERVAL_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Realm:
    """What outlives a reign. `clock` is monotonic seconds, `clock_ns` the time of day."""

    config: ServerConfig
    store: ReadTxn
    replicator: Replicator
    pressure: Pressure
    clock: Callable[[], float]
    on_fatal: Callable[[BaseException], None]
    in_cluster: bool = False  # then reads need a barrier, and waiting an end
    clock_ns: Callable[[], int] = time.time_ns
    store_full: Callable[[], str] = lambda: ""
    log_low: Callable[[], bool] = lambda: False
    leader: Callable[[], str] = lambda: ""  # where clients find the leader, as far as it is known
    addresses: Callable[[], Sequence[str]] = lambda: ()  # where clients find the nodes


class Reign:
    """The leader's parts, wired. `begin` once, `end` once; both at once and without waiting for anything."""

    def __init__(self, realm: Realm, *, log_ns: int) -> None:
        """`log_ns`: the newest time that is known to be in the log."""
        config, store = realm.config, realm.store
        self._realm = realm
        self._told_addresses = tuple(realm.addresses())
        self._tasks: list[asyncio.Task[None]] = []
        self.barrier: Barrier | None = None
        if realm.in_cluster:
            self.barrier = Barrier(realm.replicator.read_barrier, realm.on_fatal, wait_max_s=config.wait_max_s)
        self.writes = Writes(
            realm.replicator,
            realm.clock_ns,
            entry_items=config.entry_items,
            entry_bytes=config.entry_bytes,
            queue_items=config.queue_items,
            on_fatal=realm.on_fatal,
            kept_result=lambda session, seq: machine.find_result(store, session, seq),
            clock=realm.clock,
        )
        self.writes.not_before(max(log_ns, realm.clock_ns()))
        self.orphans = Orphans(self.writes, lambda ino: self.holds.held(ino), self._is_orphan)
        self.holds = Holds(self.orphans.freed)
        self.sessions = Sessions(
            self.writes,
            lambda number: reads.session(store, number),
            realm.clock,
            ttl_s=config.session_ttl_s,
            sessions_max=config.sessions_max,
        )
        self.interest = Interest(config.watches_per_stream)
        self.deletes = Deletes(
            lambda after: reads.doomed(store, after), realm.clock, lambda: self.writes.now_ns, delay_s=config.delete_delay_s
        )
        self.conversations = self._make_conversations()
        self._space = space.SpaceWatch(
            free=lambda: space.free_bytes(config.data_dir),
            reserve_bytes=config.reserve_bytes,
            store_full=realm.store_full,
            log_low=realm.log_low,
            report=self.writes.set_space_short,
        )
        self.sessions.on_all_back.append(self.orphans.end_grace)
        self.sessions.on_closed += [lambda session: self.holds.drop_session(session.id), self.deletes.drop_session]

    def _make_conversations(self) -> Conversations:
        realm = self._realm
        return Conversations(
            txn=realm.store,
            writes=self.writes,
            sessions=self.sessions,
            holds=self.holds,
            interest=self.interest,
            queries=Queries(realm.store, self.interest, self.holds, self.orphans, self.deletes),
            pressure=realm.pressure,
            on_fatal=realm.on_fatal,
            in_flight_max=realm.config.in_flight_max,
            barrier=self.barrier,
            leader=realm.leader,
            addresses=realm.addresses,
        )

    @property
    def observers(self) -> tuple[Observer, ...]:
        """Who is to hear of every applied entry, in this order."""
        return (
            self.sessions.observe,
            self.conversations.observe,  # holds before orphans: one that is held must not be reaped
            self.orphans.observe,
            self.deletes.observe,
            self.interest.observe,
        )

    # --- life ---

    def begin(self) -> None:
        """Load the tables from the state, start the tasks."""
        realm = self._realm
        self.orphans.load(reads.orphans(realm.store))
        self.sessions.load(list(reads.sessions(realm.store)))
        ttl_s = realm.config.session_ttl_s
        self._start(self.orphans.run, "reaper")
        self._start(lambda: self._expire_sessions(min(max(ttl_s / 8, 0.05), 5.0)), "expiry")
        self._start(lambda: self._every(_DELETES_INTERVAL_S, lambda: self.deletes.announce(self.sessions)), "deletes")
        self._start(lambda: self._every(space.INTERVAL_S, self._space.look), "space")
        if realm.in_cluster:
            self._start(lambda: self._every(min(realm.config.wait_max_s / 8, 1.0), self.give_up_stalled), "stalls")
            self._start(lambda: self._every(_MEMBERS_INTERVAL_S, self.tell_members), "members")
        self._space.look()

    def end(self, ending: Ending, error: ReplicationError) -> None:
        """Streams end with `ending`, whoever waits is told `error`, the tasks stop."""
        for task in self._tasks:
            task.cancel()
        self.conversations.close(ending)
        self.writes.end(error)
        if self.barrier is not None:
            self.barrier.close(error)

    @property
    def is_stopped(self) -> bool:
        """No task runs any more."""
        return all(task.done() for task in self._tasks)

    async def stopped(self) -> None:
        """Return when no task runs any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- what runs beside ---

    def give_up_stalled(self) -> None:
        """When an entry has had no answer for too long, let nobody wait for it any longer."""
        limit_s = self._realm.config.wait_max_s
        if self.writes.stalled_s < limit_s:
            return
        reason = f"the cluster has not taken an entry for {limit_s:g} s"
        _log.warning("streams end because the log does not answer", waiting=self.writes.queued, seconds=limit_s)
        self.conversations.end_streams(Ending(grpc.StatusCode.UNAVAILABLE, "no-quorum", reason))
        self.writes.give_up(NoQuorum(reason))

    def tell_members(self) -> None:
        """Tell clients where the nodes are, when that has changed."""
        addresses = tuple(self._realm.addresses())
        if addresses != self._told_addresses:
            self._told_addresses = addresses
            self.conversations.announce_members()

    def _start(self, body: Callable[[], Awaitable[None]], name: str) -> None:
        async def guarded() -> None:
            try:
                await body()
            except Exception as error:
                self._realm.on_fatal(error)

        self._tasks.append(asyncio.create_task(guarded(), name=name))

    async def _every(self, interval_s: float, step: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(interval_s)
            step()

    async def _expire_sessions(self, interval_s: float) -> None:
        clock = self._realm.clock
        while True:
            before_s = clock()
            await asyncio.sleep(interval_s)
            late_s = clock() - before_s - interval_s
            if late_s > interval_s:
                _log.warning(
                    "the server itself was stopped, or short of CPU; sessions get that time back", seconds=round(late_s, 1)
                )
                self.sessions.forgive(late_s)
            await self.sessions.sweep()

    def _is_orphan(self, ino: int) -> bool:
        try:
            return reads.getattr(self._realm.store, ino).nlink == 0
        except FsError:
            return False
