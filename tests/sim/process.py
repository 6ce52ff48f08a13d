"""One life of a simulated node, with the real RaftNode and the real Journal in it.

Around the node it does what raft/cluster.py does, in simulated events instead of threads: inputs wait in an inbox and are
followed by one flush; committed entries are applied some time later; snapshots are made and installed in the background; the
log is trimmed to what the state holds durably. An event that meets a PowerLoss of the disk is the end of the process.

Implements NodeEvents and SnapshotPort towards the node.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, cast

from raft import membership as members
from raft.errors import ReplicationError, Stopped
from raft.identity import Identity
from raft.messages import Append, AppendReply
from raft.node import SnapshotMeta
from raft.peer_admission import Circumstances, belongs, judge, memory_of
from raft.peer_book import PeerBook
from raft.peer_wire import Hello
from raft.record import DATA
from tests.raft.faulty_disk import InlineHousekeeper, PowerLoss
from tests.sim import kv
from tests.sim.setting import CLUSTER_ID, DIRECTORY, Attempt, Change
from tests.sim.watched import watched
from tests.sim.world import Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from raft.membership import Membership
    from raft.messages import Message
    from raft.record import Entry
    from tests.sim.seat import Seat

TICK_MAX_S = 0.5  # a timer never sleeps longer, whatever the clock says
NEVER = float("inf")
_SNAPSHOT_HEAD = struct.Struct("<QI")  # of a snapshot's membership: index, length


class Process:
    def __init__(self, seat: Seat) -> None:
        """Raises what Journal.open raises, and PowerLoss."""
        self.seat = seat
        self.setting = setting = seat.setting
        self.world = world = setting.world
        self.laws = setting.laws
        self.name, self.incarnation = seat.name, seat.incarnation
        self.alive, self.paused = True, False
        self.failure: ReplicationError | None = None
        self.rng = world.rng(f"{seat.name} at {world.now}")
        stored = seat.stored[1]
        self.machine = setting.machine_class.load(stored) if stored else setting.machine_class()
        self.journal = watched(setting.journal_class).open(
            DIRECTORY,
            setting.tuning.journal,
            disk=seat.disk,
            identity=Identity(CLUSTER_ID, seat.incarnation),
            state_index=self.machine.index,
            housekeeper=InlineHousekeeper(),
        )
        self.book = PeerBook.open(seat.disk, DIRECTORY, random=self.rng.randbytes)
        self.journal.watch(self.laws, self.name)
        self._inbox: list[Callable[[], None]] = []
        self._stepping = False
        self._tick_at = NEVER
        self._to_apply: list[tuple[Entry, Attempt | None]] = []
        self._applying = False
        self._readers: list[tuple[int, Attempt]] = []
        self._capturing = False
        self.node = setting.node_class(
            self.name,
            self.journal,
            self._send,
            lambda: world.now + seat.clock_offset,
            self.rng,
            self,
            self,
            applied_index=self.machine.index,
            timing=setting.tuning.timing,
            flow=setting.tuning.flow,
        )

    def begin(self) -> None:
        self.setting.network.up(self)
        self._plan_checkpoint()
        self._wake()

    def die(self, *, silently: bool) -> None:
        """`silently`: the machine is gone too, so nobody closes its connections."""
        self.alive = False
        self.setting.network.down(self, silently=silently)

    def pause(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        self.paused = True
        self.world.trace(f"{self.name}: stopped for {seconds:.3f} s")
        self.world.after(seconds, self.resume)

    def resume(self) -> None:
        if self.alive and self.paused:
            self.paused = False
            self.world.trace(f"{self.name}: continues")
            self._wake()

    # -- the node's thread ---------------------------------------------------------------------------------------------------

    def post(self, job: Callable[[], None]) -> None:
        """An input for the node, to be followed by a flush."""
        self._inbox.append(job)
        self._wake()

    def _wake(self) -> None:
        if not self._stepping and self.alive and not self.paused:
            self._stepping = True
            self.world.after(self.rng.random() * 0.0003, self._step)

    def _step(self) -> None:
        self._stepping = False
        if not self.alive or self.paused:
            return
        jobs, self._inbox = self._inbox, []
        try:
            for job in jobs:
                job()
            self._plan_tick(self.node.tick())
            self.node.flush()
        except PowerLoss:
            self.seat.crash("power")
            self.seat.restart_after(self.rng.uniform(0.1, 1.0))
            return
        if self.failure is not None:
            self._exit()

    def _exit(self) -> None:
        """Fail-stop: started again, as by systemd, unless that is no use."""
        error = self.failure
        self.world.trace(f"{self.name}: fails: {error}")
        if not isinstance(error, Stopped) and not self.seat.damaged:
            raise Violation(f"{self.name} stops although nobody damaged anything: {error!r}")
        self.seat.crash("kill")
        if isinstance(error, Stopped):
            self.seat.restart_after(self.rng.uniform(0.2, 1.0))
        else:
            self.seat.refusal = str(error)

    def _plan_tick(self, seconds: float) -> None:
        at = self.world.now + min(seconds, TICK_MAX_S)
        if at < self._tick_at:
            self._tick_at = at
            self.world.after(at - self.world.now, lambda: self._tick(at))

    def _tick(self, at: float) -> None:
        if at == self._tick_at:
            self._tick_at = NEVER
            self._wake()

    # -- the network ----------------------------------------------------------------------------------------------------------

    def admits(self, other: Process) -> bool:
        """The handshake, by the real rules."""
        journal = other.journal
        hello = Hello(
            CLUSTER_ID,
            other.name,
            other.incarnation,
            other.book.start,
            other.book.nonce,
            journal.term,
            journal.durable_index,
            journal.last_term,
            journal.membership.index,
        )
        here = Circumstances(CLUSTER_ID, self.name, self.node.acquaintances, other.name, other.name)
        refusal = judge(hello, here, self.book)
        if refusal is not None:
            self.world.trace(f"{self.name}: refuses {other.name}: {refusal.reason}")
            other.seat.refusal = refusal.reason
            return False
        self.book.met(other.name, memory_of(hello))
        return True

    def still_admits(self, other: Process) -> bool:
        return belongs(other.name, other.incarnation, other.journal.membership.index, self.node.acquaintances)

    def on_connected(self, name: str) -> None:
        self.post(lambda: self.node.connected(name))

    def on_disconnected(self, name: str) -> None:
        self.post(lambda: self.node.disconnected(name))

    def on_message(self, sender: str, message: Message) -> None:
        self.post(lambda: self.node.receive(sender, message))

    def _send(self, name: str, message: Message) -> bool:
        sent = self.setting.network.send(self, name, message)
        self.world.trace(f"{self.name} > {name} {_brief(message)}{'' if sent else ' (not sent)'}")
        return sent

    # -- questions -----------------------------------------------------------------------------------------------------------

    def ask(self, attempt: Attempt) -> None:
        """A command or a read of a client."""
        command = attempt.command
        if command is None:
            self.post(lambda: self.node.read(attempt))
        else:
            self.post(lambda: self.node.propose(kv.encode(command), attempt))

    def change(self, change: Change, attempt: Attempt, *, force: bool = False) -> None:
        self.post(lambda: self.node.change(change, attempt, force=force))

    def transfer(self, name: str, attempt: Attempt) -> None:
        self.post(lambda: self.node.transfer(name, attempt))

    # -- NodeEvents ----------------------------------------------------------------------------------------------------------

    def committed(self, entries: Sequence[tuple[Entry, object | None]]) -> None:
        in_force = (self.journal.membership, self.journal.membership_at(entries[0][0].index))
        for entry, token in entries:
            self.laws.commits(self.name, self.node.term, in_force, entry)
            self._to_apply.append((entry, cast("Attempt | None", token)))
        if not self._applying:
            self._applying = True
            self.world.after(self.rng.random() * self.setting.tuning.apply_s, self._apply)

    def rejected(self, token: object, error: ReplicationError) -> None:
        self._answer(token, error)

    def read_ready(self, token: object, index: int) -> None:
        self._readers.append((index, cast("Attempt", token)))
        self.world.after(0.0, self._serve_readers)

    def changed(self, token: object, membership: Membership) -> None:
        self._answer(token, "changed")

    def transferred(self, token: object, leader: str) -> None:
        self._answer(token, leader)

    def role(self, role: str, leader: str | None, term: int) -> None:
        self.world.trace(f"{self.name}: {role} in term {term}, leader {leader}")
        if role == "leader":
            self.laws.leads(self.name, term, self.journal)

    def membership_changed(self, membership: Membership) -> None:
        names = " ".join(f"{m.name}{'' if m.voter else '(learner)'}" for m in membership.members)
        self.world.trace(f"{self.name}: members of entry {membership.index}: {names}")

    def halted(self, error: ReplicationError) -> None:
        self.failure = error

    def _answer(self, token: object, what: Any) -> None:
        cast("Attempt", token).answer(what)

    # -- the state machine ---------------------------------------------------------------------------------------------------

    def _apply(self) -> None:
        self._applying = False
        if not self.alive:
            return
        if self.paused:
            self._applying = True
            self.world.after(0.05, self._apply)
            return
        batch, self._to_apply = self._to_apply, []
        done: list[tuple[int, bytes]] = []
        for entry, attempt in batch:
            answer, effect = None, None
            if entry.kind == DATA:
                answer, effect = self.machine.apply(entry.index, entry.payload)
            else:
                self.machine.skip(entry.index)
            self.laws.applies(self.name, entry.index, self.machine.digest, effect, answer)
            done.append((entry.index, self.machine.digest))
            if attempt is not None and answer is not None:
                attempt.answer(answer)
        self.post(lambda: self._tell_applied(done))
        self._serve_readers()

    def _tell_applied(self, done: list[tuple[int, bytes]]) -> None:
        for index, digest in done:
            self.node.applied(index, digest)

    def _serve_readers(self) -> None:
        if not self.alive or self.paused:
            return
        waiting, self._readers = self._readers, []
        for index, attempt in waiting:
            if index > self.machine.index:
                self._readers.append((index, attempt))
            else:
                assert attempt.op is not None
                attempt.answer(self.machine.read(attempt.op.key))

    def _plan_checkpoint(self) -> None:
        self.world.after(self.rng.random() * 2 * self.setting.tuning.checkpoint_s, self._checkpoint)

    def _checkpoint(self) -> None:
        if self.alive:
            self.checkpoint_now()
            self._plan_checkpoint()

    def checkpoint_now(self) -> None:
        """Write the state, sync it a little later, and let the log go that it replaces."""
        dump, index = self.machine.dump(), self.machine.index
        self.seat.stored = (self.seat.stored[0], dump)

        def synced() -> None:
            if self.alive and self.seat.stored[1] == dump:
                self.seat.stored = (dump, dump)
                self.post(lambda: self.node.trim(index))

        self.world.after(self.rng.random() * 0.05, synced)

    # -- SnapshotPort --------------------------------------------------------------------------------------------------------

    def newest(self) -> SnapshotMeta | None:
        return None if self.seat.snapshot is None else self.seat.snapshot[0]

    def want(self) -> None:
        if not self._capturing:
            self._capturing = True
            self.world.after(self.rng.random() * self.setting.tuning.background_s, lambda: self.post(self._capture))

    def _capture(self) -> None:
        self._capturing = False
        index = self.machine.index
        if not self.journal.base_index <= index <= self.journal.last_index or not index:
            return  # nothing yet, or the state is being replaced
        membership = self.journal.membership_at(index)
        encoded = members.encode(membership)
        data = _SNAPSHOT_HEAD.pack(membership.index, len(encoded)) + encoded + self.machine.dump()
        meta = SnapshotMeta(index, self.journal.term_at(index), len(data), _checksum(data))
        self.seat.snapshot = (meta, data)
        self.world.trace(f"{self.name}: has a snapshot of {index}")

    def read(self, snapshot: SnapshotMeta, offset: int, count: int) -> bytes:
        if self.seat.snapshot is None or self.seat.snapshot[0] != snapshot:
            return b""
        return self.seat.snapshot[1][offset : offset + count]

    def receive(self, snapshot: SnapshotMeta) -> int:
        if self.seat.incoming is None or self.seat.incoming[0] != snapshot:
            self.seat.incoming = (snapshot, b"")
        return len(self.seat.incoming[1])

    def write(self, snapshot: SnapshotMeta, offset: int, data: bytes) -> int:
        if self.seat.disk.full:
            raise OSError(28, "no space left on device")
        at = self.receive(snapshot)
        if offset != at:
            return at
        assert self.seat.incoming is not None
        self.seat.incoming = (snapshot, self.seat.incoming[1] + data)
        return at + len(data)

    def install(self, snapshot: SnapshotMeta) -> None:
        self.world.trace(f"{self.name}: installs a snapshot of {snapshot.index}")
        self.world.after(
            self.rng.random() * self.setting.tuning.background_s, lambda: self.post(lambda: self._prepare(snapshot))
        )

    def _prepare(self, snapshot: SnapshotMeta) -> None:
        """Checked, and announced to the journal; then the state is replaced, away from the node's thread."""
        assert self.seat.incoming is not None
        data = self.seat.incoming[1]
        if _checksum(data) != snapshot.checksum:
            self.world.trace(f"{self.name}: the snapshot is damaged")
            self.seat.incoming = None
            self.node.install_failed()
            return
        set_at, length = _SNAPSHOT_HEAD.unpack_from(data)
        start = _SNAPSHOT_HEAD.size
        membership = members.decode(data[start : start + length], set_at)
        try:
            self.journal.prepare_reset(snapshot.index, snapshot.term, membership)
        except ReplicationError as error:
            self.world.trace(f"{self.name}: the snapshot cannot be installed: {error}")
            if isinstance(error, Stopped):
                self.failure = error
            self.node.install_failed()
            return
        dump = data[start + length :]
        self.world.after(
            self.rng.random() * self.setting.tuning.background_s, lambda: self._replace(snapshot, membership, dump)
        )

    def _replace(self, snapshot: SnapshotMeta, membership: Membership, dump: bytes) -> None:
        if not self.alive:
            return
        assert self.seat.incoming is not None
        self.seat.stored = (dump, dump)
        self.seat.snapshot, self.seat.incoming = self.seat.incoming, None
        self.machine = self.setting.machine_class.load(dump)
        if self.machine.index != snapshot.index or self.laws.digests.get(snapshot.index) != self.machine.digest:
            raise Violation(f"{self.name} was given a state of {snapshot.index} that nobody had there")
        digest = self.machine.digest
        delay = self.rng.random() * self.setting.tuning.background_s
        self.world.after(delay, lambda: self.post(lambda: self.node.installed(snapshot, membership, digest)))
        self._serve_readers()


def _checksum(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()


def _brief(message: Message) -> str:
    kind = type(message).__name__
    if isinstance(message, Append):
        m = message
        return f"{kind} t{m.term} after {m.prev_index}/{m.prev_term} +{len(m.entries)} commit {m.commit} round {m.round}"
    if isinstance(message, AppendReply):
        return f"{kind} t{message.term} {'match' if message.success else 'from'} {message.match} round {message.round}"
    return f"{kind} t{message.term}"
