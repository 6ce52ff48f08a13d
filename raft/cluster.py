"""The replicator of a cluster: a RaftNode on a thread of its own, and the event loop that proposes and applies.

    propose -> mailbox -> node: log, followers, one sync -> commit -> mailbox -> apply -> future

Implements api.Replicator and api.ClusterControl. Rules:
- The node, its journal and its connections are touched on the raft thread only; the state machine and the futures on the loop
  that ran `start` only. Between them go calls in two mailboxes, each in order.
- A proposal's future ends once: with what applying it gave, or with the error that says what is known of it. After a failure
  (`failed` is set) everything open and everything later ends with Stopped.
- `on_leading(True)` comes when the first entry of this node's own term has been applied here: then the state holds everything
  that was acknowledged before. `on_leading(False)` comes after all futures of that time have ended.

Not here: decisions about the log (node.py), files of snapshots (snapshots.py), who may connect (peer_transport.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import heapq
import itertools
import logging
import os
import random
import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from raft import quarantine
from raft.api import PeerProgress, ReplicatorStatus
from raft.base import FILE_NAME as BASE_NAME
from raft.disk import Disk, RealDisk
from raft.errors import LogCorrupt, NotLeader, Refused, ReplicationError, StateWrong, Stopped
from raft.identity import Identity, load_identity
from raft.journal import Journal, JournalOptions
from raft.node import RaftNode
from raft.peer_book import PeerBook
from raft.peer_transport import HelloState, PeerTransport
from raft.raft_thread import Mailbox, RaftThread
from raft.record import DATA, MARKER, NOOP, PAYLOAD_MAX
from raft.snapshots import Snapshots
from raft.timing import Flow, Timing
from raft.upstream import LEADER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from raft.api import StateMachine
    from raft.membership import Member, Membership
    from raft.messages import Message
    from raft.node import SnapshotMeta
    from raft.record import Entry
    from raft.tls import TlsFiles

log = logging.getLogger(__name__)
T = TypeVar("T")

_REPORT_ENTRIES: Final = 64  # applied entries of which the raft thread is told at the latest
_REPORT_BYTES: Final = 1 << 20
_BOOK_INTERVAL_S: Final = 1.0
_OVERLOAD_LOOK_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    name: str
    peer_listen: str  # host:port for other nodes
    tls: TlsFiles | None  # None: plaintext, which the caller allows on loopback or when told to
    timing: Timing = field(default_factory=Timing)
    flow: Flow = field(default_factory=Flow)
    journal: JournalOptions = field(default_factory=JournalOptions)
    queue_entries_max: int = 65536
    queue_bytes_max: int = 64 << 20
    batch_bytes_max: int = 4 << 20
    stop_s: float = 2.0  # for what was accepted before `stop`


class _Proposal(NamedTuple):
    payload: bytes
    hint: object | None
    future: asyncio.Future[Any]


class _Question(NamedTuple):
    """A change, a transfer, or a marker."""

    future: asyncio.Future[Any]


class _Barrier(NamedTuple):
    """Reads that share a confirmation."""

    futures: list[asyncio.Future[int]]


class ClusterReplicator:
    """`failed` resolves to the reason when it has stopped by itself."""

    failed: asyncio.Future[ReplicationError]
    identity: Identity

    def __init__(
        self,
        directory: str | os.PathLike[str],
        state: StateMachine,
        options: ClusterOptions,
        *,
        disk: Disk | None = None,
        new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
        rng: random.Random | None = None,
    ) -> None:
        self.on_leading: Callable[[bool], None] = lambda leading: None
        self.peer_address = ""
        self._directory = os.fspath(directory)
        self._state = state
        self._options = options
        self._disk = disk or RealDisk()
        self._new_loop = new_loop
        self._rng = rng or random.Random()
        self._stopped: str | None = "the replicator was not started"  # why nothing new is taken
        self._broken = False  # nothing is applied or answered any more
        self._open: set[asyncio.Future[Any]] = set()  # of everything that was asked and has no answer
        self._open_bytes = 0
        self._barrier: _Barrier | None = None
        self._waiting: list[tuple[int, int, asyncio.Future[int]]] = []  # a heap: reads that wait for an index
        self._order = itertools.count()
        self._role: tuple[str, str | None, int] = ("follower", None, 0)
        self._leading = False
        self._fresh: list[tuple[int, bytes]] = []  # applied, with the digests
        self._applied: deque[tuple[int, bytes]] = deque()  # of these, what the raft thread is to be told with its next flush
        self._reporting_later = False
        self._applied_bytes = 0
        self._membership: Membership
        self._node: RaftNode
        self._journal: Journal
        self._transport: PeerTransport
        self._book: PeerBook
        self._thread: RaftThread | None = None
        self._queue: deque[_Proposal] = deque()  # of the raft thread
        self._flush_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._book_at = 0.0

    # -- life ----------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Recover the log and join the others. Raises LogCorrupt, OSError (also for the peer port), ReplicationError."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        self.failed = loop.create_future()
        self._to_loop = Mailbox(loop)
        self._thread = thread = RaftThread(f"raft {self._options.name}", self._new_loop)
        self._to_raft = Mailbox(thread.loop, self._flush, self._bug)
        try:
            await thread.call(self._begin())
        except BaseException:
            with contextlib.suppress(Exception):
                await thread.call(self._end())
            thread.stop()
            raise
        self._stopped = None
        self._to_raft.post(self._on_timer)

    async def stop(self) -> None:
        """Finish what was accepted, as far as that can be soon, and close. What has no answer by then gets Stopped."""
        if self._thread is None:
            return
        reason = "the server is shutting down"
        self._stopped = self._stopped or reason
        if self._open:
            await asyncio.wait(list(self._open), timeout=self._options.stop_s)
        self._fail_all(reason)
        if hasattr(self, "_snapshots"):
            await self._snapshots.close()
        await self._thread.call(self._end())
        self._thread.stop()
        self._thread = None

    async def _begin(self) -> None:
        """On the raft thread."""
        disk, options = self._disk, self._options
        disk.make_directory(self._directory)
        quarantine.require_open(disk, self._directory)
        identity = load_identity(disk, self._directory)
        if identity is None:
            raise LogCorrupt(_no_identity(disk, self._directory))
        self.identity = identity
        self._journal = journal = Journal.open(
            self._directory, options.journal, disk=disk, identity=identity, state_index=self._state.index_applied
        )
        self._book = PeerBook.open(disk, self._directory)
        self._membership = journal.membership
        self._snapshots = Snapshots(disk, self._directory, self._state, identity, options.name, self._to_loop, self)
        self._transport = transport = PeerTransport(
            identity=identity,
            name=options.name,
            listen=options.peer_listen,
            tls=options.tls,
            membership=lambda: self._node.acquaintances,
            hello=lambda: _durable(journal),
            book=self._book,
            on_message=self._on_message,
            on_connected=self._on_connected,
            on_disconnected=self._on_disconnected,
            on_refused=self._on_refused,
            clock=time.monotonic,
            rng=self._rng,
        )
        self._node = RaftNode(
            options.name,
            journal,
            transport.send,
            time.monotonic,
            self._rng,
            self,
            self._snapshots,
            applied_index=self._state.index_applied,
            timing=options.timing,
            flow=options.flow,
        )
        self.peer_address = await transport.start()

    async def _end(self) -> None:
        """On the raft thread."""
        if self._timer is not None:
            self._timer.cancel()
        if hasattr(self, "_transport"):
            await self._transport.close()
        if hasattr(self, "_journal"):
            self._journal.close()

    # -- what callers use (the loop) -----------------------------------------------------------------------------------------

    def propose(self, payload: bytes, hint: object | None = None) -> asyncio.Future[Any]:
        future = self._ask()
        if future.done():
            return future
        options = self._options
        if len(payload) > PAYLOAD_MAX:
            return self._refuse(
                future, errno.EFBIG, f"an entry of {len(payload)} bytes is too large, the limit is {PAYLOAD_MAX}"
            )
        if len(self._open) > options.queue_entries_max or self._open_bytes + len(payload) > options.queue_bytes_max:
            return self._refuse(future, errno.EAGAIN, f"{len(self._open)} entries wait for the log; try again later")
        self._open_bytes += len(payload)
        proposal = _Proposal(payload, hint, future)
        self._to_raft.post(lambda: self._queue.append(proposal))
        return future

    async def read_barrier(self) -> int:
        future = self._ask()
        if not future.done():
            if self._barrier is None:
                self._barrier = _Barrier([])
                self._loop.call_soon(self._send_barrier)
            self._barrier.futures.append(future)
        index: int = await future
        return index

    def trim(self, index: int) -> None:
        if self._stopped is None:
            durable = min(index, self._state.index_durable)
            self._to_raft.post(lambda: self._node.trim(durable))

    def status(self) -> ReplicatorStatus:
        node, journal = self._node, self._journal
        role, leader, term = self._role
        if self._stopped is not None:
            role = "stopped"
        elif self._options.name not in self._membership.voters:
            role = "learner"
        return ReplicatorStatus(
            role=role,
            term=term,
            leader=leader,
            index_last=journal.last_index,
            index_committed=node.commit_index,
            index_applied=self._state.index_applied,
            log_first=journal.first_index,
            log_bytes=journal.size_bytes,
        )

    @property
    def space_low(self) -> bool:
        """As LocalReplicator.space_low."""
        return self._journal.space_low

    @property
    def membership(self) -> Membership:
        return self._membership

    @property
    def leading(self) -> bool:
        """As `on_leading` said last."""
        return self._leading

    def leader(self) -> Member | None:
        name = self._role[1]
        return None if name is None else self._membership.get(name)

    async def change(self, change: Callable[[Membership], Membership], *, force: bool = False) -> Membership:
        future = self._ask()
        if not future.done():
            self._to_raft.post(lambda: self._node.change(change, _Question(future), force=force))
        changed: Membership = await future
        return changed

    async def transfer(self, name: str) -> str:
        future = self._ask()
        if not future.done():
            self._to_raft.post(lambda: self._node.transfer(name, _Question(future)))
        leader: str = await future
        return leader

    async def propose_marker(self, payload: bytes) -> int:
        future = self._ask()
        if not future.done():
            self._to_raft.post(lambda: self._node.propose(payload, _Question(future), MARKER))
        index: int = await future
        return index

    def report_state(self, index: int, digest: bytes) -> None:
        if self._stopped is None:
            self._to_raft.post(lambda: self._node.report_state(index, digest))

    def state_reports(self, index: int) -> Mapping[str, bytes]:
        return self._node.state_reports.at(index)

    def progress(self) -> Mapping[str, PeerProgress]:
        connected = self._transport.connected()
        peers = dict(self._node.peers)
        return {
            member.name: PeerProgress(member.name in connected, peers[member.name].match if member.name in peers else 0)
            for member in self._membership.members
            if member.name != self._options.name
        }

    async def save_snapshot(self) -> Path:
        if self._stopped is not None:
            raise Stopped(self._stopped)
        return await self._snapshots.save()

    # -- futures -------------------------------------------------------------------------------------------------------------

    def _ask(self) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._stopped is not None:
            future.set_exception(Stopped(self._stopped))
        else:
            self._open.add(future)
            future.add_done_callback(self._open.discard)
        return future

    def _refuse(self, future: asyncio.Future[Any], number: int, reason: str) -> asyncio.Future[Any]:
        future.set_exception(Refused(number, reason))
        return future

    def _send_barrier(self) -> None:
        """One question for all reads that came in this turn of the loop; a later one must not share its answer."""
        barrier, self._barrier = self._barrier, None
        if barrier is not None and not self._broken:
            self._to_raft.post(lambda: self._node.read(barrier))

    def _reject(self, token: object, error: ReplicationError) -> None:
        if isinstance(token, _Barrier):
            for future in token.futures:
                _end_with(future, error)
            return
        assert isinstance(token, _Proposal | _Question)
        if isinstance(token, _Proposal):
            self._open_bytes -= len(token.payload)
        _end_with(token.future, error)

    def _answer(self, token: object, result: object) -> None:
        assert isinstance(token, _Question)
        if not token.future.done():
            token.future.set_result(result)

    def _fail_all(self, reason: str) -> None:
        self._stopped, self._broken = reason, True
        self._set_leading(False)
        for future in list(self._open):
            _end_with(future, Stopped(reason))
        self._waiting.clear()

    # -- applying (the loop) -------------------------------------------------------------------------------------------------

    def _apply(self, entries: Sequence[tuple[Entry, object | None]]) -> None:
        state = self._state
        for entry, token in entries:
            if self._broken:
                return
            try:
                result = self._apply_one(entry, token)
            except Exception as error:
                log.exception("applying entry %d failed; the node stops", entry.index)
                self._failed(Stopped(f"applying entry {entry.index} failed: {error!r}"))
                return
            self._fresh.append((entry.index, state.digest))
            self._applied_bytes += len(entry.payload)
            if isinstance(token, _Proposal):
                self._open_bytes -= len(token.payload)
            if isinstance(token, _Proposal | _Question) and not token.future.done():
                token.future.set_result(result)
        self._serve_reads()
        self._report()

    def _report(self) -> None:
        """Tell the node how far applying has come, at its next flush; while the state machine is overloaded, later: the node
        hands over a bounded amount beyond what it was told of."""
        if self._state.overloaded:
            if not self._reporting_later:
                self._reporting_later = True
                self._loop.call_later(_OVERLOAD_LOOK_S, self._report_later)
            return
        self._applied.extend(self._fresh)
        self._fresh.clear()
        if len(self._applied) >= _REPORT_ENTRIES or self._applied_bytes >= _REPORT_BYTES:
            self._applied_bytes = 0
            self._to_raft.post(_nothing)  # whose flush takes them

    def _report_later(self) -> None:
        self._reporting_later = False
        self._report()

    def _apply_one(self, entry: Entry, token: object | None) -> object:
        if entry.kind == DATA:
            hint = token.hint if isinstance(token, _Proposal) else None
            return self._state.apply(entry.index, entry.term, entry.payload, hint)
        if entry.kind == MARKER:
            self._state.mark(entry.index, entry.payload)
        else:
            self._state.skip(entry.index)
            if entry.kind == NOOP and self._role[0] == "leader" and entry.term == self._role[2]:
                self._set_leading(True)
        return entry.index

    def _serve_reads(self) -> None:
        waiting, applied = self._waiting, self._state.index_applied
        while waiting and waiting[0][0] <= applied:
            future = heapq.heappop(waiting)[2]
            if not future.done():
                future.set_result(applied)

    def _read_confirmed(self, token: object, index: int) -> None:
        assert isinstance(token, _Barrier)
        for future in token.futures:
            heapq.heappush(self._waiting, (index, next(self._order), future))
        self._serve_reads()

    def _role_changed(self, role: str, leader: str | None, term: int) -> None:
        before, self._role = self._role, (role, leader, term)
        if before[0] == "leader" and (role != "leader" or term != before[2]):
            self._set_leading(False)
        log.info("%s: %s in term %d, leader %s", self._options.name, role, term, leader or "unknown")

    def _set_leading(self, leading: bool) -> None:
        if leading != self._leading:
            self._leading = leading
            self.on_leading(leading)

    def _failed(self, error: ReplicationError) -> None:
        if not self._broken:
            self._fail_all(str(error))
            self._to_raft.post(lambda: self._node.halt(error))  # so that others elect at once
        if not self.failed.done():
            self.failed.set_result(error)

    def _membership_changed(self, membership: Membership) -> None:
        self._membership = membership

    # -- NodeEvents (the raft thread) ----------------------------------------------------------------------------------------

    def committed(self, entries: Sequence[tuple[Entry, object | None]]) -> None:
        self._to_loop.post(partial(self._apply, entries))

    def rejected(self, token: object, error: ReplicationError) -> None:
        self._to_loop.post(partial(self._reject, token, error))

    def read_ready(self, token: object, index: int) -> None:
        self._to_loop.post(partial(self._read_confirmed, token, index))

    def changed(self, token: object, membership: Membership) -> None:
        self._to_loop.post(partial(self._answer, token, membership))

    def transferred(self, token: object, leader: str) -> None:
        self._to_loop.post(partial(self._answer, token, leader))

    def role(self, role: str, leader: str | None, term: int) -> None:
        self._to_loop.post(partial(self._role_changed, role, leader, term))

    def membership_changed(self, membership: Membership) -> None:
        self._transport.reconcile()
        self._to_loop.post(partial(self._membership_changed, membership))

    def halted(self, error: ReplicationError) -> None:
        if isinstance(error, StateWrong):
            quarantine.close(self._disk, self._directory, str(error))
        self._to_loop.post(partial(self._failed, error))

    # -- the raft thread -----------------------------------------------------------------------------------------------------

    def _on_message(self, name: str, message: Message) -> None:
        self._contained(lambda: self._node.receive(name, message))
        self._flush_soon()

    def _on_connected(self, name: str) -> None:
        self._contained(lambda: self._node.connected(name))
        self._flush_soon()

    def _on_disconnected(self, name: str) -> None:
        self._contained(lambda: self._node.disconnected(name))
        self._on_timer()

    def _on_refused(self, name: str, reason: str, detail: str) -> None:
        log.warning("%s refuses this node (%s): %s", name, reason, detail)

    def _contained(self, step: Callable[[], None]) -> None:
        """What the node did not foresee is a bug, after which it may be half changed: it says nothing more."""
        try:
            step()
        except Exception as error:
            self._bug(error)

    def _bug(self, error: Exception) -> None:
        log.error("a defect stops the node", exc_info=error)
        self._node.halt(Stopped(f"the node failed: {error!r}"))

    def _flush_soon(self) -> None:
        """All messages that came together share a sync."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            assert self._thread is not None
            self._thread.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        self._contained(self._flush_node)

    def _flush_node(self) -> None:
        self._take_proposals()
        applied = self._applied
        while applied:
            self._node.applied(*applied.popleft())
        self._node.flush()

    def _take_proposals(self) -> None:
        """As many as one sync may take: between two, messages are read and heartbeats go out."""
        queue, size = self._queue, 0
        while queue and size < self._options.batch_bytes_max:
            proposal = queue.popleft()
            size += len(proposal.payload)
            self._node.propose(proposal.payload, proposal)
        if queue:
            self._flush_soon()

    def _on_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._contained(self._tick)

    def _tick(self) -> None:
        delay = self._node.tick()
        self._flush()
        self._keep_book()
        assert self._thread is not None
        self._timer = self._thread.loop.call_later(delay, self._on_timer)

    def _keep_book(self) -> None:
        """Note what each follower cannot have lost without having lost its disk."""
        now = time.monotonic()
        node = self._node
        if node.role != LEADER or now < self._book_at:
            return
        self._book_at = now + _BOOK_INTERVAL_S
        for name, peer in node.peers.items():
            index = min(peer.match, node.commit_index)
            if index > self._journal.base_index:
                self._book.note_committed(name, self._journal.term_at(index), index)

    # -- SnapshotOwner (the loop) --------------------------------------------------------------------------------------------

    async def _on_raft(self, step: Callable[[], T]) -> T:
        async def run() -> T:
            return step()

        if self._thread is None:
            raise Stopped("the node is shutting down")
        return await self._thread.call(run())

    async def place(self, index: int) -> tuple[int, Membership]:
        journal = self._journal
        return await self._on_raft(lambda: (journal.term_at(index), journal.membership_at(index)))

    async def prepare(self, snapshot: SnapshotMeta, membership: Membership) -> None:
        await self._on_raft(lambda: self._journal.prepare_reset(snapshot.index, snapshot.term, membership))

    async def cancel(self) -> None:
        await self._on_raft(self._journal.cancel_reset)

    def installed(self, snapshot: SnapshotMeta, membership: Membership, digest: bytes) -> None:
        self._fresh.clear()
        self._serve_reads()
        self._to_raft.post(lambda: self._node.installed(snapshot, membership, digest))

    def not_installed(self, reason: str) -> None:
        log.warning("a snapshot was not installed: %s", reason)
        self._to_raft.post(self._node.install_failed)

    def broken(self, error: ReplicationError) -> None:
        self._failed(error)


def _durable(journal: Journal) -> HelloState:
    index = journal.durable_index
    return HelloState(journal.term, index, journal.term_at(index))


def _no_identity(disk: Disk, directory: str) -> str:
    if BASE_NAME in disk.list(directory):
        return (
            f"{directory}: identity.json is missing, which says which node this is; restore that file, or remove this node "
            "from the cluster and add it anew, with an empty directory"
        )
    return f"{directory}: no node was prepared here; use 'keelfs cluster init' or 'keelfs cluster add'"


def _nothing() -> None:
    pass


def _end_with(future: asyncio.Future[Any], error: ReplicationError) -> None:
    """Each future gets an exception of its own: a shared one would collect the tracebacks of all who await it."""
    if future.done():
        return
    match error:
        case NotLeader():
            future.set_exception(NotLeader(error.hint))
        case Refused():
            future.set_exception(Refused(error.errno, error.reason))
        case Stopped():
            future.set_exception(Stopped(error.reason))
        case _:
            future.set_exception(type(error)(*error.args))
