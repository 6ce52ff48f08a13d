"""One node of a cluster: everything that may be asked of it, on top of elections.py and replication.py.

Inputs are `receive`, `connected`, `disconnected`, `propose`, `change`, `read`, `transfer`, `applied`, `trim`, the snapshot
calls, and `tick`; after any number of them comes one `flush`, which sends, makes the log durable with one write, answers,
commits and hands over. All on one thread. What the node wants done goes out through `send`, NodeEvents and SnapshotPort; it
reads no clock and draws no number but those it was given, so that a simulator can own time, network and disk.

A token stands for one question; it comes back exactly once, in one of NodeEvents' methods. After `events.halted` nothing is
answered any more: the owner fails what is open.

Snapshots are files made and installed elsewhere (SnapshotPort). They are offered and pulled here, and never move the commit
index by themselves: installing one is possible only for a state that a leader vouched for, and then the log begins after it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from raft import membership as members
from raft.agreement import Agreement
from raft.elections import NEVER
from raft.errors import Diverged as DivergedError
from raft.errors import NotLeader, OutcomeUnknown, Refused, ReplicationError, StateWrong, Stopped
from raft.messages import (
    Append,
    AppendReply,
    Diverged,
    PreVote,
    PreVoteReply,
    ReadIndex,
    ReadIndexReply,
    SnapshotOffer,
    SnapshotPiece,
    SnapshotPull,
    StateReport,
    TimeoutNow,
    Vote,
    VoteReply,
)
from raft.reads import Reads
from raft.record import DATA, MEMBERSHIP, record_size
from raft.replication import Replication
from raft.state_reports import StateReports
from raft.timing import Flow, Timing
from raft.upstream import LEADER

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from raft.elections import NodeEvents
    from raft.journal import Journal
    from raft.membership import Membership
    from raft.messages import Message
    from raft.progress import Progress

EAGAIN: Final = 11
EBUSY: Final = 16
#: No cluster has that many elections while a node is away: whoever says so is broken, and terms would run out.
TERM_LEAP_MAX: Final = 1 << 32

_OFFER_HOLDS_S: Final = 60.0  # how long the log is kept for a follower that has stopped pulling its snapshot


@dataclass(frozen=True, slots=True)
class SnapshotMeta:
    """A snapshot file, by what peers must agree on. `checksum` is of the whole file."""

    index: int
    term: int
    size: int
    checksum: bytes


class SnapshotPort(Protocol):
    """Snapshot files, for the node's thread: nothing here may block for long."""

    def newest(self) -> SnapshotMeta | None:
        """The newest complete one that is at hand."""

    def want(self) -> None:
        """Make a new one, unless one is being made."""

    def read(self, snapshot: SnapshotMeta, offset: int, count: int) -> bytes:
        """A piece; b"" when the file is gone."""

    def receive(self, snapshot: SnapshotMeta) -> int:
        """Take this one in; the offset from which pieces are missing (all of it may be here already)."""

    def write(self, snapshot: SnapshotMeta, offset: int, data: bytes) -> int:
        """A piece has come; the offset of the next one. Raises OSError."""

    def install(self, snapshot: SnapshotMeta) -> None:
        """All pieces are here: check them and replace the state, in the background. Ends with `RaftNode.installed`."""


class RaftNode(Replication):
    def __init__(
        self,
        name: str,
        journal: Journal,
        send: Callable[[str, Message], bool],
        clock: Callable[[], float],
        rng: random.Random,
        events: NodeEvents,
        snapshots: SnapshotPort,
        *,
        applied_index: int,
        timing: Timing | None = None,
        flow: Flow | None = None,
    ) -> None:
        self.agreement = Agreement()
        self.state_reports = StateReports()
        self._snapshots = snapshots
        self._reads = Reads()
        self._change_token: tuple[int, object] | None = None  # the entry of the change under way, and who asked
        self._asked: dict[int, _Asked] = {}  # reads that a leader was asked about
        self._asked_last = rng.getrandbits(48)  # an answer to an earlier process here must not fit a question of this one
        self._transfer_told = False
        self._incoming: SnapshotMeta | None = None
        self._pulled_at = 0  # the piece of it that was asked for last
        self._installing = False
        self._told_settled = True
        self._offer_at: dict[str, float] = {}  # not before then: a snapshot that cannot be made is not tried with every message
        self._settling: tuple[SnapshotMeta, Membership, bytes] | None = None  # installed, and the journal does not know yet
        self._applied_index = applied_index
        self._ticked_at = clock()
        self._handed_bytes: dict[int, int] = {}
        self._handed_total = 0
        super().__init__(name, journal, send, clock, rng, timing or Timing(), events, applied_index, flow or Flow())

    # -- inputs --------------------------------------------------------------------------------------------------------------

    def receive(self, sender: str, message: Message) -> None:
        """A message of a peer whose identity was checked (peer_transport.py)."""
        if message.term > self.term + TERM_LEAP_MAX:
            return
        self._guard(lambda: _HANDLERS[type(message)](self, sender, message))

    def connected(self, name: str) -> None:
        super().connected(name)
        self._restart(name)

    def disconnected(self, name: str) -> None:
        super().disconnected(name)
        self._restart(name)
        if name == self.leader:
            self._fail_asked()

    def propose(self, payload: bytes, token: object, kind: int = DATA) -> None:
        """Log `payload`; ends in `committed` with the token, or in `rejected`."""
        if (refusal := self._refusal()) is not None:
            self.events.rejected(token, refusal)
            return
        try:
            self._tokens[self._append_own(payload, kind)] = token
        except ReplicationError as error:
            self._not_logged(token, error)

    def change(self, change: Callable[[Membership], Membership], token: object, *, force: bool = False) -> None:
        """Make one of membership.py's changes; ends in `changed` or `rejected`."""
        if (refusal := self._refusal()) is not None:
            self.events.rejected(token, refusal)
            return
        try:
            self._require_settled()
            after = change(self.members)
            self._require_safe(after, force=force)
            index = self._append_own(members.encode(after), MEMBERSHIP)
        except ReplicationError as error:
            self._not_logged(token, error)
            return
        self._change_token = (index, token)

    def _not_logged(self, token: object, error: ReplicationError) -> None:
        self.events.rejected(token, error)
        if not isinstance(error, Refused):
            self._stop(error)  # the journal has failed

    def read(self, token: object) -> None:
        """When may a read be served? Ends in `read_ready` or `rejected`."""
        if self.stopped is not None:
            self.events.rejected(token, self.stopped)
        elif self.role == LEADER:
            self._reads.waiting.append(token)
        elif self.leader is not None and self.is_connected(self.leader):
            self._asked_last += 1
            self._asked[self._asked_last] = _Asked(token, self._clock() + self.timing.read_s, self.leader)
            self.send(self.leader, ReadIndex(self.term, self._asked_last))
        else:
            self.events.rejected(token, self.not_leader())

    def transfer(self, name: str, token: object) -> None:
        """Hand leadership to `name`, "" = the voter whose log is longest; ends in `transferred` or `rejected`."""
        if (refusal := self._refusal()) is not None:
            self.events.rejected(token, refusal)
            return
        name = name or self._best_voter()
        if name not in self._other_voters() or not self.is_connected(name):
            self.events.rejected(token, Refused(EBUSY, f"node {name!r} cannot take over: it is no voter that is reachable"))
            return
        self._transfer_to, self._transfer_token = name, token
        self._transfer_until = self._clock() + self.timing.transfer_s
        self._transfer_told = False
        self._continue_transfer()

    def applied(self, index: int, digest: bytes) -> None:
        """The state machine has applied the entry `index`; its digest is known from then on."""
        self._applied_index = index
        self._handed_total -= self._handed_bytes.pop(index, 0)
        self.agreement.record(index, digest)

    def trim(self, index: int) -> None:
        """The state is durable up to `index`: the log before may go, but for what followers are about to need."""
        now = self._clock()
        for peer in self.peers.values():
            if peer.offered is not None and now - peer.offered[1] < _OFFER_HOLDS_S:
                index = min(index, peer.offered[0])
        if index > self.journal.base_index:
            self._guard(lambda: self.journal.trim(min(index, self.handed_index)))

    def tick(self) -> float:
        """Do what is due by the clock; seconds until something may be due again."""
        if self.stopped is not None:
            return 3600.0
        now = self._clock()
        due = now + self.timing.heartbeat_s

        def look() -> None:
            nonlocal due
            self._excuse(now)
            if self.role == LEADER:
                self._check_quorum(now)
            due = min(due, self._tick_elections(now))

        self._guard(look)
        self._expire_asked(now)
        return max(due - now, 0.0)

    def _excuse(self, now: float) -> None:
        """This node itself was stopped, or its clock jumped: nobody else was silent so long. What has come is read first.

        Only patience is at stake here: no promise rests on how long anything takes.
        """
        gap, self._ticked_at = now - self._ticked_at, now
        if 0 <= gap <= 3 * self.timing.heartbeat_s:
            return
        for peer in self.peers.values():
            peer.heard_at = now
            peer.sent_at = min(peer.sent_at, now)
        if gap < 0:
            self._heard_leader_at = min(self._heard_leader_at, now)
            self._election_at = now + self._election_timeout()
        elif self._election_at < now + self.timing.heartbeat_s:
            self._election_at = now + self._rng.uniform(1, 2) * self.timing.heartbeat_s
        if self._transfer_until < NEVER:
            self._transfer_until = now + self.timing.transfer_s

    def flush(self) -> None:
        """Send, make durable, answer, commit, hand over. Call it after each batch of inputs."""
        self._guard(self._flush)

    def _flush(self) -> None:
        with contextlib.suppress(Refused):
            self._settle_snapshot()
        if self.role == LEADER:
            self._count()  # what others have acknowledged, so that this flush tells them what is committed
            if self._reads.wants_round and self.commit_index >= self.noop_index:
                self.round += 1
                self._reads.begin(self.round, self.commit_index)
            self._send_appends()
        self._sync()
        self._send_replies()
        if self.role == LEADER:
            self._count()  # this node too
            self._settle_change()
        self._tell_role()  # before what this role has committed
        self._tell_acquaintances()
        self._hand_over()
        if self.role == LEADER and self._transfer_to is not None:
            self._continue_transfer()

    @property
    def acquaintances(self) -> Membership:
        """Whom to let in and whom to call: the members, and those who are as long as an uncommitted change is not committed."""
        newest_first = [self.members]
        while newest_first[-1].index > self.commit_index:
            try:
                newest_first.append(self.journal.membership_at(newest_first[-1].index - 1))
            except ValueError:  # the one before is not known any more; so it was committed
                break
        return members.acquaintances(newest_first)

    def _tell_acquaintances(self) -> None:
        """A change is committed: those who are gone for good need not be listened to any more."""
        settled = self.members.index <= self.commit_index
        if settled and not self._told_settled:
            self.events.membership_changed(self.members)
        self._told_settled = settled

    def _count(self) -> None:
        self._advance_commit()
        self._confirm_reads()

    def _guard(self, step: Callable[[], Any]) -> None:
        """Run a step. A refusal of the disk undoes the step alone; anything that cannot be explained stops the node."""
        if self.stopped is not None:
            return
        try:
            step()
        except Refused:
            return  # no space for a term, a vote or a cut: the sender will ask again
        except ReplicationError as error:
            self._stop(error)
        except OSError as error:
            self._stop(Stopped(f"the log cannot be read: {error}"))
        except ValueError as error:
            self._stop(DivergedError(f"what the leader sent cannot follow this node's log: {error}"))

    def halt(self, error: ReplicationError) -> None:
        """Stop for good, from outside: nothing more is sent, so that the others soon elect without this node."""
        if self.stopped is None:
            self._stop(error)

    def _stop(self, error: ReplicationError) -> None:
        self.stopped = error
        self.events.halted(error)

    # -- leading -------------------------------------------------------------------------------------------------------------

    def _refusal(self) -> ReplicationError | None:
        """Why nothing can be logged here now."""
        if self.stopped is not None:
            return self.stopped
        if self.role != LEADER:
            return self.not_leader()
        if self._transfer_to is not None:
            return NotLeader(None)
        return None

    def _leadership_lost(self) -> None:
        super()._leadership_lost()
        if self._change_token is not None:
            token, self._change_token = self._change_token[1], None
            self.events.rejected(token, OutcomeUnknown("this node leads no longer; the next leader may commit the change"))
        for token in self._reads.drop():
            self._reject_read(token)

    def _restart(self, name: str) -> None:
        """What was on its way to this peer, or back, is lost."""
        peer = self.peers.get(name)
        if peer is not None:
            peer.restart(self.journal.last_index)
            peer.sent_at = -NEVER  # it is asked at once

    def _membership_moved(self) -> None:
        before = self._told_membership
        super()._membership_moved()
        for old in before.members:
            now = self.members.get(old.name)
            if now is None or now.incarnation != old.incarnation:
                self.agreement.forget(old.name)
                self.state_reports.forget(old.name)

    def _require_settled(self) -> None:
        """Thesis 4.1, and its erratum: no change before an entry of this term is committed, and one at a time."""
        if self.commit_index < max(self.noop_index, self.members.index):
            raise Refused(EAGAIN, "another change of the membership is not committed yet; try again")

    def _require_safe(self, after: Membership, *, force: bool) -> None:
        """Refuse what would cost the quorum, and a voter that is too far behind to be one."""
        for name in after.voters - self.members.voters:
            peer = self.peers.get(name)
            lag = self.journal.last_index - (peer.match if peer else 0)
            if lag > self.flow.promote_lag:
                raise Refused(EBUSY, f"node {name!r} lacks {lag} entries; wait until it has caught up")
        if not force:
            horizon = self._clock() - self.timing.election_max_s
            heard = {name for name, peer in self.peers.items() if peer.heard_at > horizon and self.is_connected(name)}
            members.require_quorum(after, frozenset(heard | {self.name}))

    def _settle_change(self) -> None:
        if self._change_token is not None and self.commit_index >= self._change_token[0]:
            token, self._change_token = self._change_token[1], None
            self.events.changed(token, self.members)
        if self.name not in self.members and self.commit_index >= self.members.index:
            heir = self._best_voter()
            if heir:
                self.send(heir, TimeoutNow(self.term))
            self._follow(self.term, None)  # thesis 4.2.2: a leader that has removed itself

    def _best_voter(self) -> str:
        """Who can take over soonest; "" when no other voter is connected."""
        able = {name: self.peers[name].match for name in self._other_voters() if name in self.peers and self.is_connected(name)}
        return max(able, key=lambda name: able[name], default="")

    def _continue_transfer(self) -> None:
        """Thesis 3.10: nothing new is taken; as soon as the other has everything it is told to start an election. Not before
        all that was proposed here is answered: nobody need be left in doubt."""
        to = self._transfer_to
        peer = self.peers.get(to or "")
        if to is None or peer is None or self._transfer_told or self._tokens or self._change_token is not None:
            return
        if peer.match == self.journal.last_index:
            self._transfer_told = self.send(to, TimeoutNow(self.term))

    # -- reads ---------------------------------------------------------------------------------------------------------------

    def _confirm_reads(self) -> None:
        if not self._reads.unconfirmed:
            return
        rounds = sorted(
            (self.round if name == self.name else self.peers[name].round if name in self.peers else 0)
            for name in self.members.voters
        )
        for done in self._reads.confirmed(rounds[len(rounds) - self.members.quorum]):
            for token in done.tokens:
                self._serve_read(token, done.index)

    def _serve_read(self, token: object, index: int) -> None:
        if not isinstance(token, _Remote):
            self.events.read_ready(token, index)
            return
        self.send(token.sender, ReadIndexReply(self.term, token.id, index))
        peer = self.peers.get(token.sender)
        if peer is not None and peer.commit_told < index:
            self._send_sign(token.sender, peer, self._clock())  # it must learn of the commit before it can serve the read

    def _reject_read(self, token: object) -> None:
        if isinstance(token, _Remote):
            self.send(token.sender, ReadIndexReply(self.term, token.id, 0))
        else:
            self.events.rejected(token, self.not_leader())

    def _on_read_index(self, sender: str, message: ReadIndex) -> None:
        if self.role == LEADER:
            self._reads.waiting.append(_Remote(sender, message.id))
        else:
            self.send(sender, ReadIndexReply(self.term, message.id, 0))

    def _on_read_index_reply(self, sender: str, message: ReadIndexReply) -> None:
        asked = self._asked.pop(message.id, None)
        if asked is None:
            return
        if message.index:
            self.events.read_ready(asked.token, message.index)
        else:
            self.events.rejected(asked.token, self.not_leader())

    def _fail_asked(self) -> None:
        asked, self._asked = self._asked, {}
        for each in asked.values():
            self.events.rejected(each.token, self.not_leader())

    def _expire_asked(self, now: float) -> None:
        """Whom it was asked of has not answered in time, or leads no longer: another one does."""
        for number in [n for n, each in self._asked.items() if each.until <= now or self.leader not in (each.leader, None)]:
            self.events.rejected(self._asked.pop(number).token, self.not_leader())

    # -- handing over --------------------------------------------------------------------------------------------------------

    def _hand_over(self) -> None:
        """Committed and durable here, in order, as much as may be under way to the state machine."""
        journal, flow = self.journal, self.flow
        last = min(self.commit_index, journal.durable_index)
        while not self._installing and self.handed_index < last:
            room = flow.handed_bytes - self._handed_total
            count = flow.handed_entries - len(self._handed_bytes)
            if room <= 0 or count <= 0:
                return
            stop = min(last, self.handed_index + count)
            entries = journal.entries(self.handed_index + 1, min(room, flow.append_bytes), stop)
            handed = []
            for entry in entries:
                size = record_size(len(entry.payload))
                self._handed_bytes[entry.index] = size
                self._handed_total += size
                handed.append((entry, self._tokens.pop(entry.index, None)))
            self.handed_index = entries[-1].index
            self.events.committed(handed)

    def _send_replies(self) -> None:
        replies, self._replies = self._replies, []
        for name, reply in replies:
            self.send(name, reply)
        answer, self._reply = self._reply, None
        if answer is not None and self.leader is not None and answer.term == self.term:
            point, digest = self.agreement.newest
            self.send(self.leader, AppendReply(answer.term, answer.success, answer.match, answer.round, point, digest))

    # -- agreement -----------------------------------------------------------------------------------------------------------

    def _compare(self, sender: str, message: AppendReply) -> None:
        if not 0 < message.point <= self.commit_index:
            return
        if not self.agreement.report(sender, message.point, message.digest):
            return
        verdict = self.agreement.judge(self.name, self.members.voters)
        if verdict is None:
            return
        for name in sorted(verdict.wrong - {self.name}):
            self.send(name, Diverged(self.term, verdict.index))
            self.agreement.forget(name)
        if self.name in verdict.wrong:
            self._stop(_state_wrong(verdict.index))

    def _on_diverged(self, sender: str, message: Diverged) -> None:
        if sender == self.leader and message.term == self.term:
            self._stop(_state_wrong(message.index))

    def report_state(self, index: int, digest: bytes) -> None:
        """This node's whole state has this digest at the marker `index`."""
        if self.role == LEADER:
            self._judge_states(self.name, index, digest)
        elif self.leader is not None and self.stopped is None:
            self.send(self.leader, StateReport(self.term, index, digest))

    def _on_state_report(self, sender: str, message: StateReport) -> None:
        if self.role == LEADER and message.term == self.term and sender in self.members and message.index <= self.commit_index:
            self._judge_states(sender, message.index, message.digest)

    def _judge_states(self, name: str, index: int, digest: bytes) -> None:
        self.state_reports.report(name, index, digest)
        wrong = self.state_reports.judge(index, self.members.voters)
        for other in sorted(wrong - {self.name}):
            self.send(other, Diverged(self.term, index))
        if self.name in wrong:
            self._stop(_state_wrong(index))

    # -- snapshots: the leader's side ----------------------------------------------------------------------------------------

    def _offer_snapshot(self, name: str, peer: Progress, now: float) -> None:
        if now < self._offer_at.get(name, now):
            return
        self._offer_at[name] = now + self.timing.heartbeat_s
        newest = self._snapshots.newest()
        if newest is None or newest.index < self.journal.base_index:
            self._snapshots.want()
            return
        if peer.offered is not None and peer.offered[0] == newest.index and now - peer.offered[1] < self.timing.election_min_s:
            return  # it is pulling: a second offer would start a second stream of pieces
        peer.offered = (newest.index, now)
        self.send(name, SnapshotOffer(self.term, newest.index, newest.term, newest.size, newest.checksum))

    def _on_snapshot_pull(self, sender: str, message: SnapshotPull) -> None:
        peer = self.peers.get(sender)
        if self.role != LEADER or message.term != self.term or peer is None:
            return
        now = self._clock()
        peer.heard_at = now
        newest = self._snapshots.newest()
        if newest is None or (newest.index, newest.term) != (message.index, message.index_term):
            self.send(sender, SnapshotPiece(self.term, message.index, message.index_term, message.offset, b""))
            return
        if message.offset >= newest.size:
            self.agreement.forget(sender)
            peer.acknowledged(newest.index)
            return
        peer.offered = (newest.index, now)
        data = self._snapshots.read(newest, message.offset, self.flow.snapshot_piece_bytes)
        self.send(sender, SnapshotPiece(self.term, newest.index, newest.term, message.offset, data))

    # -- snapshots: the follower's side --------------------------------------------------------------------------------------

    def _on_snapshot_offer(self, sender: str, message: SnapshotOffer) -> None:
        if message.term < self.term or self._installing:
            return
        if message.term > self.term:
            self._follow(message.term, sender)
        self._heard(sender)
        offered = SnapshotMeta(message.index, message.index_term, message.size, message.checksum)
        if offered.index <= self.commit_index:
            self._pull(offered, offered.size)  # this node has it all
            return
        try:
            self._incoming = offered
            self._take_piece(offered, self._snapshots.receive(offered))
        except OSError:
            self._incoming = None  # no space, most likely: the leader offers again

    def _on_snapshot_piece(self, sender: str, message: SnapshotPiece) -> None:
        incoming = self._incoming
        if message.term != self.term or sender != self.leader or incoming is None or self._installing:
            return
        if (message.index, message.index_term) != (incoming.index, incoming.term):
            return
        self._heard(sender)
        if message.offset != self._pulled_at:
            return  # it came twice: who asks again for what follows would double the stream
        if not message.data:
            self._incoming = None
            return
        try:
            self._take_piece(incoming, self._snapshots.write(incoming, message.offset, message.data))
        except OSError:
            self._incoming = None  # no space, most likely: the leader offers again

    def _take_piece(self, incoming: SnapshotMeta, offset: int) -> None:
        """The file is here up to `offset`."""
        if incoming.index <= self.commit_index:
            self._incoming = None
            self._pull(incoming, incoming.size)  # the log has come this far meanwhile: the state must not go back
            return
        if offset < incoming.size:
            self._pulled_at = offset
            self._pull(incoming, offset)
            return
        if self.handed_index != self._applied_index:
            return  # what was handed over is still being applied; the next offer comes soon
        self._installing = True
        self._snapshots.install(incoming)

    def _pull(self, snapshot: SnapshotMeta, offset: int) -> None:
        if self.leader is not None:
            self.send(self.leader, SnapshotPull(self.term, snapshot.index, snapshot.term, offset))

    def installed(self, snapshot: SnapshotMeta, membership: Membership, digest: bytes) -> None:
        """The state is the snapshot's now, durably: the log continues after it, as soon as the disk has room for that."""
        self._settling = (snapshot, membership, digest)
        self._guard(self._settle_snapshot)

    def _settle_snapshot(self) -> None:
        """Refused: the journal is as before, and nothing is handed over, until this succeeds in a later flush."""
        if self._settling is None:
            return
        snapshot, membership, digest = self._settling
        self._sync()  # so that what is about to be acknowledged stays if it follows the snapshot
        self.journal.reset(snapshot.index, snapshot.term, membership)
        self._settling = None
        if self._reply is not None and self._reply.match > self.journal.last_index:
            self._reply = None  # of entries that are not there any more
        self.commit_index = max(self.commit_index, snapshot.index)
        self.handed_index = self._applied_index = snapshot.index
        self._handed_bytes.clear()
        self._handed_total = 0
        self._membership_moved()
        self._installing, self._incoming = False, None
        self.agreement.restart(snapshot.index, digest)
        self._pull(snapshot, snapshot.size)

    def install_failed(self) -> None:
        """The snapshot was damaged or there was no room; the old state is in place."""
        self._installing, self._incoming = False, None


def _state_wrong(index: int) -> StateWrong:
    return StateWrong(f"a majority has another state than this node at entry {index}")


class _Asked(NamedTuple):
    """A read that waits for a leader's answer."""

    token: object
    until: float
    leader: str


class _Remote(NamedTuple):
    """A follower's read, as a token of its leader."""

    sender: str
    id: int


_HANDLERS: Final[dict[type, Callable[[RaftNode, str, Any], None]]] = {
    Append: RaftNode._on_append,
    AppendReply: RaftNode._on_append_reply,
    Vote: RaftNode._on_vote,
    VoteReply: RaftNode._on_vote_reply,
    PreVote: RaftNode._on_pre_vote,
    PreVoteReply: RaftNode._on_pre_vote_reply,
    TimeoutNow: RaftNode._on_timeout_now,
    ReadIndex: RaftNode._on_read_index,
    ReadIndexReply: RaftNode._on_read_index_reply,
    SnapshotOffer: RaftNode._on_snapshot_offer,
    SnapshotPull: RaftNode._on_snapshot_pull,
    SnapshotPiece: RaftNode._on_snapshot_piece,
    Diverged: RaftNode._on_diverged,
    StateReport: RaftNode._on_state_report,
}
