"""The log, from leader to followers, and what is committed. Raft sections 5.3 and 5.4, thesis 4 (membership).

Rules:
- A follower keeps entries that match and cuts only behind a real conflict; never at or below its commit index, for that
  would be another history: it stops instead.
- Every answer carries its term and is counted for that term only. An acknowledgement says how far the logs are known to be
  equal *and* durable; it leaves after the sync.
- The leader sends first and syncs then, so that its disk and the followers' work side by side; it counts itself only up to what
  its own sync made durable.
- Only an entry of the leader's own term is committed by counting (figure 8); those before it come with it.
- The commit index moves by messages that were checked against the log, never by a snapshot or from disk.
- When the leader's own log cannot take what it has sent already (a full disk), the indexes must not be used again in this term:
  it stops leading.

A layer of the node, on elections.py. node.py adds what is asked from outside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft.elections import Elections
from raft.errors import LogCorrupt, OutcomeUnknown, Refused
from raft.messages import Append, AppendReply
from raft.progress import Progress
from raft.record import DATA, MEMBERSHIP, NOOP, Entry, record_size
from raft.upstream import FOLLOWER, LEADER

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from raft.elections import NodeEvents
    from raft.journal import Journal
    from raft.messages import Message
    from raft.timing import Flow, Timing


class Replication(Elections):
    def __init__(
        self,
        name: str,
        journal: Journal,
        send: Callable[[str, Message], bool],
        clock: Callable[[], float],
        rng: random.Random,
        timing: Timing,
        events: NodeEvents,
        applied_index: int,
        flow: Flow,
    ) -> None:
        self.flow = flow
        self.peers: dict[str, Progress] = {}  # of a leader: everybody else
        self.noop_index = 0  # of a leader: the first entry of its term
        self.round = 0  # of a leader: the newest confirmation round
        self._heard_round = (0, 0)  # of a follower: term, and the newest round that it heard of in it
        self._learned = 0  # of a follower: what the leader says is committed, as far as it was checked against this log
        self._tokens: dict[int, object] = {}  # of a leader: who waits for which entry
        self._reply: AppendReply | None = None  # of a follower: leaves after the sync
        self._told_membership = journal.membership
        super().__init__(name, journal, send, clock, rng, timing, events, applied_index)

    # -- leading -------------------------------------------------------------------------------------------------------------

    def _become_leader(self) -> None:
        now = self._clock()
        self._transfer_failed("the node that was to take over was not elected")
        self.role = LEADER
        self.leader = self.name
        self.round = 0
        self.peers = {name: Progress(self.journal.last_index + 1, now) for name in self._others}
        self._tokens = {}
        self.noop_index = self.journal.last_index + 1
        self._append_own(b"", NOOP)

    def _append_own(self, payload: bytes, kind: int = DATA) -> int:
        """The next entry of this leader's term; its index."""
        index = self.journal.last_index + 1
        self.journal.append((Entry(index, self.term, payload, kind),))
        if kind == MEMBERSHIP:
            self._membership_moved()
        return index

    def _leadership_lost(self) -> None:
        """Everybody who waits learns that nobody knows; exactly once, since nothing is remembered."""
        tokens, self._tokens = self._tokens, {}
        self.peers = {}
        self.noop_index = 0
        for token in tokens.values():
            self.events.rejected(
                token, OutcomeUnknown("this node leads no longer; the entry may be committed by the next leader")
            )

    def _membership_moved(self) -> None:
        """The log has another membership in force."""
        membership = self.journal.membership
        if membership == self._told_membership:
            return
        self._told_membership = membership
        if self.role == LEADER:
            now = self._clock()
            for name in set(self.peers) - set(self._others):
                del self.peers[name]
            for name in self._others:
                if name not in self.peers:
                    self.peers[name] = Progress(self.journal.last_index + 1, now)
        self.events.membership_changed(membership)

    def _check_quorum(self, now: float) -> None:
        """Thesis 6.2. A voter counts as reached for an election timeout after its last answer."""
        horizon = now - self.timing.election_max_s
        if not self._is_majority({name for name, peer in self.peers.items() if peer.heard_at >= horizon} | {self.name}):
            self._follow(self.term, None)

    # -- sending -------------------------------------------------------------------------------------------------------------

    def _send_appends(self) -> None:
        """To everybody who lacks something: entries, a round to confirm, or a sign of life."""
        now = self._clock()
        for name, peer in self.peers.items():
            if not self.is_connected(name):
                continue
            if peer.next > self.journal.base_index:
                while peer.next <= self.journal.last_index and peer.may_send(self.flow, now):
                    if not self._send_entries(name, peer, now):
                        break
            else:
                self._offer_snapshot(name, peer, now)
            if now - peer.sent_at >= self.timing.heartbeat_s or peer.round_sent < self.round:
                self._send_sign(name, peer, now)

    def _send_entries(self, name: str, peer: Progress, now: float) -> bool:
        prev = peer.next - 1
        entries = self.journal.entries(peer.next, self.flow.append_bytes)
        message = Append(self.term, prev, self.journal.term_at(prev), self.commit_index, self.round, entries)
        if not self.send(name, message):
            return False  # its queue is full: these are the next ones to send still
        peer.sent(entries[-1].index, sum(record_size(len(entry.payload)) for entry in entries))
        peer.told(now, self.round, self.commit_index)
        return True

    def _send_sign(self, name: str, peer: Progress, now: float) -> None:
        """A heartbeat: also how a lost message or answer is noticed, since it must fit after everything sent."""
        prev = peer.next - 1
        if prev < self.journal.base_index:
            prev = 0
        term = self.journal.term_at(prev) if prev else 0
        self.send(name, Append(self.term, prev, term, self.commit_index, self.round))
        peer.told(now, self.round, self.commit_index)

    # -- a follower's side ---------------------------------------------------------------------------------------------------

    def _on_append(self, sender: str, message: Append) -> None:
        if message.term < self.term:
            self._replies.append((sender, AppendReply(self.term, False, self.journal.last_index, 0)))
            return
        if message.term > self.term:
            self._follow(message.term, sender)
        self._heard(sender)
        term, newest = self._heard_round
        self._heard_round = (self.term, max(newest, message.round) if term == self.term else message.round)
        match = self._take(message)
        if match is None:
            self._reply = AppendReply(self.term, False, self._hint(message.prev_index), self._heard_round[1])
            return
        self._reply = AppendReply(self.term, True, match, self._heard_round[1])
        self._learned = max(self._learned, min(message.commit, match))

    def _take(self, message: Append) -> int | None:
        """Make the log continue as the leader's; up to where they are equal now, None if they do not meet before `entries`."""
        journal = self.journal
        prev, base = message.prev_index, journal.base_index
        entries = message.entries
        if prev < base:  # what the base stands for is committed, hence the same at the leader, and durable
            if any(entry.index == base and entry.term != journal.base_term for entry in entries):
                self._require_uncommitted(base)
            entries = tuple(entry for entry in entries if entry.index > base)
            prev = base
        elif prev > journal.last_index:
            return None
        elif journal.term_at(prev) != message.prev_term:
            self._require_uncommitted(prev)
            return None
        new = self._first_new(entries)
        if new < len(entries):
            fresh = entries[new:]
            if fresh[0].index <= journal.last_index:
                self._cut_conflict(fresh[0])
            try:
                journal.append(fresh)
            except Refused:
                return fresh[0].index - 1
            if any(entry.kind == MEMBERSHIP for entry in fresh):
                self._membership_moved()
        return prev + len(entries)

    def _first_new(self, entries: tuple[Entry, ...]) -> int:
        """The position of the first entry that the log does not have."""
        journal = self.journal
        last = journal.last_index
        for position, entry in enumerate(entries):
            if entry.index > last or journal.term_at(entry.index) != entry.term:
                return position
        return len(entries)

    def _cut_conflict(self, entry: Entry) -> None:
        self._require_uncommitted(entry.index)
        self.journal.truncate_after(entry.index - 1)
        self._membership_moved()

    def _require_uncommitted(self, index: int) -> None:
        """The leader has another entry at `index`."""
        if index <= max(self.commit_index, self._learned):
            raise LogCorrupt(
                f"the leader of term {self.term} has another entry {index} than this node, which knows that its own is "
                "committed: one of the two has lost or changed what it acknowledged"
            )

    def _hint(self, prev: int) -> int:
        """Where the leader should try: before the whole run of entries of the term that does not fit (end of section 5.3)."""
        journal = self.journal
        if prev > journal.last_index:
            return journal.last_index
        floor = max(journal.base_index, self.commit_index)
        if prev <= floor:
            return floor
        return max(journal.term_start(prev) - 1, floor)

    # -- the leader's side of answers ----------------------------------------------------------------------------------------

    def _on_append_reply(self, sender: str, message: AppendReply) -> None:
        if message.term > self.term:
            self._follow(message.term, None)
            return
        peer = self.peers.get(sender)
        if self.role != LEADER or message.term != self.term or peer is None:
            return
        peer.heard_at = self._clock()
        peer.round = max(peer.round, min(message.round, self.round))
        if message.success:
            if message.match > self.journal.last_index:
                return  # it acknowledges what was never sent: not ours to count
            peer.acknowledged(message.match)
        elif message.match < peer.next - 1:
            peer.refused(message.match, self._clock() + self.timing.heartbeat_s)
        self._compare(sender, message)

    def _advance_commit(self) -> None:
        """Section 5.3 and 5.4.2. The leader counts itself only while it is a voter, up to what its sync made durable."""
        matches = sorted(
            self.journal.durable_index if name == self.name else self.peers[name].match
            for name in self.members.voters
            if name == self.name or name in self.peers
        )
        if len(matches) < self.members.quorum:
            return
        index = matches[len(matches) - self.members.quorum]
        if index > self.commit_index and self.journal.term_at(index) == self.term:
            self.commit_index = index

    # -- one durable write for all -------------------------------------------------------------------------------------------

    def _sync(self) -> None:
        """Make the log durable. A full disk takes the entries back: nothing of them may have been promised."""
        journal = self.journal
        if journal.dirty:
            try:
                journal.sync()
            except Refused:
                self._taken_back()
        self._learned = min(self._learned, journal.durable_index)
        if self.role != LEADER:
            self.commit_index = max(self.commit_index, self._learned)

    def _taken_back(self) -> None:
        """The disk is full, and what was appended since the last sync is not in the log any more."""
        last = self.journal.last_index
        if self.role != FOLLOWER or self._asking:
            # A leader has sent these entries, a candidate has told voters how long its log is: neither is true any more.
            self._follow(self.term, None)
        if self._reply is not None and self._reply.match > last:
            self._reply = AppendReply(self._reply.term, False, last, self._reply.round)
        self._membership_moved()

    def _offer_snapshot(self, name: str, peer: Progress, now: float) -> None:
        raise NotImplementedError

    def _compare(self, sender: str, message: AppendReply) -> None:
        raise NotImplementedError
