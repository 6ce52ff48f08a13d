"""Who leads: terms, votes, PreVote, leader stickiness, CheckQuorum, and the hand-over of leadership.

Raft (extended version) sections 5.1, 5.2, 5.4.1; thesis 3.10 (transfer), 6.2 (CheckQuorum), 9.6 (PreVote), 4.2.3 (stickiness).
Rules:
- A term or a vote is durable before anybody can learn of it (`set_term` returns when it is; answers leave in `flush`).
- A node that accepts a leader records its vote for it. So a disk that joins anew under an old name, in a term in which the old
  disk voted, can never elect a second leader of that term.
- Nobody raises a term before a majority said that it would vote (PreVote), and nobody says so while it hears from a leader: a
  node that comes back deposes nobody.
- A leader that has not heard from a majority for an election timeout stops leading: it could not commit anything, and its
  clients should ask elsewhere.

A layer of the node: replication.py stands on it, node.py completes it. Runs in flush() and tick(), on one thread, with the
clock and the random numbers that it was given.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Protocol

from raft.errors import LogCorrupt, NotLeader, Refused, ReplicationError
from raft.messages import PreVote, PreVoteReply, TimeoutNow, Vote, VoteReply
from raft.timing import steady
from raft.upstream import CANDIDATE, FOLLOWER, LEADER, ROLE_NAMES, Upstream

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from raft.journal import Journal
    from raft.membership import Membership
    from raft.messages import Message
    from raft.record import Entry
    from raft.timing import Timing

NEVER = float("inf")


class NodeEvents(Protocol):
    """What a node tells its owner, on the node's thread, from inside any of its inputs. None of these may call the node."""

    def committed(self, entries: Sequence[tuple[Entry, object | None]]) -> None:
        """Apply these, in this order; each entry comes once per process. With the token of the proposer on this node."""

    def rejected(self, token: object, error: ReplicationError) -> None:
        """What `token` stands for did not come about (NotLeader, Refused) or nobody knows (OutcomeUnknown)."""

    def read_ready(self, token: object, index: int) -> None:
        """A read that was asked for with `token` is linearizable on a state that has reached `index`."""

    def changed(self, token: object, membership: Membership) -> None:
        """A change of membership is committed."""

    def transferred(self, token: object, leader: str) -> None:
        """The transfer of leadership has ended, with this leader."""

    def role(self, role: str, leader: str | None, term: int) -> None:
        """This node's role, or the leader that it knows, is another one now."""

    def membership_changed(self, membership: Membership) -> None:
        """Another membership is in force (it may still be uncommitted)."""

    def halted(self, error: ReplicationError) -> None:
        """The node has stopped for good: its disk failed, or going on would break a promise."""


class Elections(Upstream):
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
    ) -> None:
        self.timing = timing
        self.events = events
        self.stopped: ReplicationError | None = None
        self._clock = steady(clock)
        self._rng = rng
        self._votes: set[str] = set()
        self._asking = 0  # the term of the PreVote round under way, 0 = none
        self._heard_leader_at = -NEVER
        self._replies: list[tuple[str, Message]] = []  # leave when what they promise is durable
        self._transfer_to: str | None = None
        self._transfer_token: object | None = None
        self._transfer_until = NEVER
        self._told: tuple[str, str | None, int] | None = None
        super().__init__(name, journal, send, applied_index)
        # A node that starts does not know whether there is a leader: it waits a full timeout, alone it need not.
        self._election_at = self._clock() + (0.0 if self._alone else self._election_timeout())

    # -- small questions -----------------------------------------------------------------------------------------------------

    @property
    def members(self) -> Membership:
        """The membership in force: the newest in the log, committed or not (thesis 4.1)."""
        return self.journal.membership

    @property
    def is_voter(self) -> bool:
        return self.name in self.members.voters

    @property
    def _alone(self) -> bool:
        return self.members.voters == {self.name}

    @property
    def _others(self) -> list[str]:
        return [member.name for member in self.members.members if member.name != self.name]

    def _other_voters(self) -> list[str]:
        return [member.name for member in self.members.members if member.voter and member.name != self.name]

    def _election_timeout(self) -> float:
        return self._rng.uniform(self.timing.election_min_s, self.timing.election_max_s)

    def _hears_leader(self) -> bool:
        """A leader is known to have been alive within the shortest election timeout, so nobody else need lead."""
        if self.role == LEADER:
            return True
        return self.leader is not None and self._clock() - self._heard_leader_at < self.timing.election_min_s

    def _is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Section 5.4.1: the other's log holds at least as much as this one."""
        return (last_term, last_index) >= (self.journal.last_term, self.journal.last_index)

    # -- changes of role -----------------------------------------------------------------------------------------------------

    def _follow(self, term: int, leader: str | None) -> None:
        """Become a follower in `term`, of `leader` if it is known. Ends whatever this node led or sought."""
        was_leader = self.role == LEADER
        if term > self.term:
            self.set_term(term, leader or "")
        elif leader is not None and not self.voted_for:
            self.set_term(term, leader)
        self.role = FOLLOWER
        self._asking = 0
        self._votes.clear()
        self._election_at = self._clock() + self._election_timeout()
        if leader is not None:
            self._heard_leader_at = self._clock()
            self._transfer_is_over(leader)
        self.leader = leader
        if was_leader:
            self._leadership_lost()

    def _heard(self, leader: str) -> None:
        """A sign of life from the leader of this term."""
        if self.leader not in (None, leader) or self.role == LEADER:
            raise LogCorrupt(f"two leaders in term {self.term}: {self.leader or self.name} and {leader}")
        if self.role != FOLLOWER or self.leader is None:
            self._follow(self.term, leader)
        self._heard_leader_at = now = self._clock()
        self._election_at = now + self._election_timeout()
        self._asking = 0

    def _leadership_lost(self) -> None:
        raise NotImplementedError

    def _tell_role(self) -> None:
        now = (ROLE_NAMES[self.role], self.leader, self.term)
        if now != self._told:
            self._told = now
            self.events.role(*now)

    # -- becoming leader -----------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        """PreVote: would a majority vote for this node? Late votes of an election that came to nothing count no more."""
        self.role = FOLLOWER
        self.leader = None
        self._asking = self.term + 1
        self._votes = {self.name}
        self._election_at = self._clock() + self._election_timeout()
        question = PreVote(self._asking, self.journal.last_index, self.journal.last_term)
        for voter in self._other_voters():
            self.send(voter, question)
        self._count_answers()

    def _count_answers(self) -> None:
        if self._asking and self._is_majority(self._votes):
            self._run()

    def _run(self, *, transfer: bool = False) -> None:
        """Start an election (section 5.2)."""
        self._asking = 0
        self.leader = None
        self.set_term(self.term + 1, self.name)
        self.role = CANDIDATE
        self._votes = {self.name}
        self._election_at = self._clock() + self._election_timeout()
        request = Vote(self.term, self.journal.last_index, self.journal.last_term, transfer)
        for voter in self._other_voters():
            self.send(voter, request)
        self._count_votes()

    def _count_votes(self) -> None:
        if self.role == CANDIDATE and self._is_majority(self._votes):
            self._become_leader()

    def _is_majority(self, names: set[str]) -> bool:
        return len(self.members.voters & names) >= self.members.quorum

    def _on_pre_vote(self, sender: str, message: PreVote) -> None:
        granted = (
            message.term > self.term and not self._hears_leader() and self._is_up_to_date(message.last_index, message.last_term)
        )
        self.send(sender, PreVoteReply(message.term if granted else self.term, granted))

    def _on_pre_vote_reply(self, sender: str, message: PreVoteReply) -> None:
        if message.granted:
            if self._asking and message.term == self._asking:
                self._votes.add(sender)
                self._count_answers()
        elif message.term > self.term:
            self._follow(message.term, None)

    def _on_vote(self, sender: str, message: Vote) -> None:
        if message.term > self.term and self._hears_leader() and not message.transfer:
            return  # stickiness: also if a term was raised without asking
        granted = (
            message.term >= self.term
            and (message.term > self.term or self.voted_for in ("", sender))
            and self._is_up_to_date(message.last_index, message.last_term)
        )
        if message.term > self.term:
            self._step_to(message.term, sender if granted else "")
        elif granted and not self.voted_for:
            self.set_term(self.term, sender)
        if granted:
            self._election_at = self._clock() + self._election_timeout()
        self._replies.append((sender, VoteReply(self.term, granted)))

    def _step_to(self, term: int, voted_for: str) -> None:
        """As _follow, with the vote that goes with the new term in the same durable write."""
        self.set_term(term, voted_for)
        self._follow(term, None)

    def _on_vote_reply(self, sender: str, message: VoteReply) -> None:
        if message.term > self.term:
            self._follow(message.term, None)
        elif message.term == self.term and message.granted and self.role == CANDIDATE:
            self._votes.add(sender)
            self._count_votes()

    # -- handing leadership over ---------------------------------------------------------------------------------------------

    def _on_timeout_now(self, sender: str, message: TimeoutNow) -> None:
        if message.term == self.term and sender == self.leader and self.is_voter:
            self._run(transfer=True)

    def _transfer_is_over(self, leader: str) -> None:
        """Somebody leads: what the transfer came to."""
        token, self._transfer_token = self._transfer_token, None
        self._transfer_to, self._transfer_until = None, NEVER
        if token is not None:
            self.events.transferred(token, leader)

    def _transfer_failed(self, reason: str) -> None:
        token, self._transfer_token = self._transfer_token, None
        self._transfer_to, self._transfer_until = None, NEVER
        if token is not None:
            self.events.rejected(token, Refused(errno.EBUSY, reason))

    # -- time ----------------------------------------------------------------------------------------------------------------

    def _tick_elections(self, now: float) -> float:
        """When this is to be called again."""
        if self._transfer_to is not None and now >= self._transfer_until:
            self._transfer_failed(f"node {self._transfer_to!r} did not take over in time")
        if self.role == LEADER:
            return self._transfer_until
        if not self.is_voter:
            return self._transfer_until
        if now >= self._election_at:
            self._ask()
        return min(self._election_at, self._transfer_until)

    def disconnected(self, name: str) -> None:
        super().disconnected(name)
        if self.role == LEADER or name != self.leader:
            return
        # Its process has probably ended. Ask early, and tell others that ask that no leader is heard.
        self._heard_leader_at = -NEVER
        soon = self._clock() + self._rng.uniform(self.timing.broken_min_s, self.timing.broken_max_s)
        self._election_at = min(self._election_at, soon)

    def not_leader(self) -> NotLeader:
        """Why a proposal is not taken; the hint is the leader's address for clients."""
        leader = self.leader
        member = None if leader in (None, self.name) else self.members.get(leader or "")
        return NotLeader(None if member is None else member.client)
