"""One RaftNode on a disk in memory, with everybody else played by the test: messages made by hand, a clock that the test moves.

`Lab` is the node "n1" of a cluster that the test describes: members, term, vote, and the terms of the log's entries. What the
node sends lands in `sent`, what it tells its owner in `told`. An input is followed by one flush unless the test holds it back.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from faulty_disk import FaultyDisk
from journal_harness import member, opened

from raft.base import Base
from raft.journal import JournalOptions
from raft.membership import Membership
from raft.messages import Append, AppendReply, Message, PreVote, PreVoteReply, Vote, VoteReply
from raft.node import RaftNode, SnapshotMeta
from raft.record import DATA, Entry
from raft.timing import Flow, Timing
from raft.upstream import LEADER
from raft.wal import WalOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from raft.errors import ReplicationError

M = TypeVar("M")
TIMING = Timing()
#: No new segment in the middle of a test, and little in memory, so that the disk is read.
ROOMY = JournalOptions(wal=WalOptions(1 << 15, 1 << 15), tail_bytes=2000, retain_bytes=0)


@dataclass
class Told:
    """NodeEvents that remembers. `answers` counts what came back for each token."""

    committed_entries: list[Entry] = field(default_factory=list)
    results: dict[object, object] = field(default_factory=dict)  # by token: what it came to
    answers: Counter[object] = field(default_factory=Counter)
    roles: list[tuple[str, str | None, int]] = field(default_factory=list)
    memberships: list[Membership] = field(default_factory=list)
    halts: list[ReplicationError] = field(default_factory=list)

    def _answer(self, token: object, result: object) -> None:
        self.results[token] = result
        self.answers[token] += 1

    def committed(self, entries: Sequence[tuple[Entry, object | None]]) -> None:
        for entry, token in entries:
            self.committed_entries.append(entry)
            if token is not None:
                self._answer(token, entry)

    def rejected(self, token: object, error: ReplicationError) -> None:
        self._answer(token, error)

    def read_ready(self, token: object, index: int) -> None:
        self._answer(token, index)

    def changed(self, token: object, membership: Membership) -> None:
        self._answer(token, membership)

    def transferred(self, token: object, leader: str) -> None:
        self._answer(token, leader)

    def role(self, role: str, leader: str | None, term: int) -> None:
        self.roles.append((role, leader, term))

    def membership_changed(self, membership: Membership) -> None:
        self.memberships.append(membership)

    def halted(self, error: ReplicationError) -> None:
        self.halts.append(error)

    @property
    def indexes(self) -> list[int]:
        return [entry.index for entry in self.committed_entries]


@dataclass
class Snapshots:
    """SnapshotPort without files: `content` is served; what comes in is put together in `incoming`."""

    meta: SnapshotMeta | None = None
    content: bytes = b""
    incoming: dict[SnapshotMeta, bytes] = field(default_factory=dict)
    installs: list[SnapshotMeta] = field(default_factory=list)
    wanted: int = 0
    fails: OSError | None = None  # what `receive` and `write` raise

    def newest(self) -> SnapshotMeta | None:
        return self.meta

    def want(self) -> None:
        self.wanted += 1

    def read(self, snapshot: SnapshotMeta, offset: int, count: int) -> bytes:
        return self.content[offset : offset + count]

    def receive(self, snapshot: SnapshotMeta) -> int:
        if self.fails:
            raise self.fails
        return len(self.incoming.setdefault(snapshot, b""))

    def write(self, snapshot: SnapshotMeta, offset: int, data: bytes) -> int:
        if self.fails:
            raise self.fails
        if offset == len(self.incoming[snapshot]):
            self.incoming[snapshot] += data
        return len(self.incoming[snapshot])

    def install(self, snapshot: SnapshotMeta) -> None:
        self.installs.append(snapshot)


class Lab:
    def __init__(
        self,
        *terms: int,
        voters: str = "n1 n2 n3",
        learners: str = "",
        term: int = 0,
        vote: str = "",
        applied: int = 0,
        base: tuple[int, int] | None = None,
        flow: Flow | None = None,
        seed: int = 1,
        options: JournalOptions = ROOMY,
    ) -> None:
        """`terms`: of the log's entries from 1 (or after `base`: index and term) on; `term` is at least the last of these."""
        self.disk = FaultyDisk()
        self.flow = flow
        self.options = options
        self.rng = random.Random(seed)
        self.now = 1000.0
        self.silent: set[str] = set()  # nothing can be sent to these
        journal = opened(self.disk, 0, options)
        journal._base.save(Base(seats(voters, learners)))
        journal.close()
        journal = opened(self.disk, 0, options)
        journal.save_vote(max((*terms, term)), vote)
        if base:
            journal.reset(*base, journal.membership)
        start = base[0] if base else 0
        journal.append([item(start + place, each) for place, each in enumerate(terms, 1)])
        journal.sync()
        journal.close()
        self.start(applied or start)

    def start(self, applied: int) -> None:
        """A process on this disk, whose state holds the entries up to `applied`."""
        self.sent: list[tuple[str, Message]] = []
        self.told = Told()
        self.snapshots = Snapshots()
        self.journal = opened(self.disk, applied, self.options)
        self.node = RaftNode(
            "n1",
            self.journal,
            self._send,
            lambda: self.now,
            self.rng,
            self.told,
            self.snapshots,
            applied_index=applied,
            timing=TIMING,
            flow=self.flow,
        )
        self.others = [each.name for each in self.journal.membership.members if each.name != "n1"]
        for name in self.others:
            self.node.connected(name)

    def restart(self, applied: int | None = None) -> None:
        """The process is killed and another one started."""
        self.disk = self.disk.killed()
        self.start(self.node.handed_index if applied is None else applied)

    def power_loss(self) -> None:
        self.disk = self.disk.rebooted(self.rng)
        self.start(0)

    def _send(self, name: str, message: Message) -> bool:
        if name in self.silent:
            return False
        self.sent.append((name, message))
        return True

    # -- inputs --------------------------------------------------------------------------------------------------------------

    def receive(self, sender: str, message: Message, *, flush: bool = True) -> list[tuple[str, Message]]:
        """The node's messages from then on."""
        before = len(self.sent)
        self.node.receive(sender, message)
        if flush:
            self.node.flush()
        return self.sent[before:]

    def flush(self) -> list[tuple[str, Message]]:
        before = len(self.sent)
        self.node.flush()
        return self.sent[before:]

    def ask(self, sender: str, message: Message, kind: type[M]) -> M:
        """The one answer of this kind that the sender gets."""
        answers = [answer for name, answer in self.receive(sender, message) if name == sender and isinstance(answer, kind)]
        assert len(answers) == 1, answers
        return answers[0]

    def pass_time(self, seconds: float, each: Callable[[], None] = lambda: None) -> list[tuple[str, Message]]:
        """Tick and flush as the clock goes on; what was sent meanwhile."""
        before, end = len(self.sent), self.now + seconds
        while self.now < end:
            self.now = min(self.now + 0.05, end)
            self.node.tick()
            each()
            self.node.flush()
        return self.sent[before:]

    def apply_all(self) -> None:
        """The state machine applies what was handed over."""
        for index in range(self.node._applied_index + 1, self.node.handed_index + 1):
            self.node.applied(index, digest(index))
        self.node.flush()

    # -- situations ----------------------------------------------------------------------------------------------------------

    def elect(self) -> int:
        """Time passes until the node asks for votes, and all others give theirs; the term that it leads."""
        self.pass_time(0.0)
        for _ in range(100):
            if self.node._asking or self.node.role == LEADER:
                break
            self.pass_time(0.05)
        for name in self.others:
            self.receive(name, PreVoteReply(self.node.term + (1 if self.node._asking else 0), True))
        for name in self.others:
            self.receive(name, VoteReply(self.node.term, True))
        assert self.node.role == LEADER
        return self.node.term

    def lead(self) -> int:
        """As `elect`, and everybody has the log: all of it is committed. Then nothing is in `sent`."""
        term = self.elect()
        self.ack(*self.others)
        assert self.node.commit_index == self.journal.last_index
        self.sent.clear()
        return term

    def follow(self, leader: str = "n2", term: int | None = None, commit: int = 0) -> None:
        """Hear a heartbeat that fits the end of the log."""
        journal = self.journal
        self.receive(leader, self.heartbeat(term, commit))
        assert (self.node.leader, journal.term) == (leader, term or journal.term)
        self.sent.clear()

    def heartbeat(self, term: int | None = None, commit: int = 0, round_: int = 0) -> Append:
        journal = self.journal
        return Append(term or journal.term, journal.last_index, journal.last_term, commit, round_)

    def append(self, prev: int, *terms: int, term: int | None = None, commit: int = 0, prev_term: int | None = None) -> Append:
        """Entries after `prev`, whose term is that of this node's log unless it is given."""
        before = self.journal.term_at(prev) if prev_term is None else prev_term
        entries = tuple(item(prev + place, each) for place, each in enumerate(terms, 1))
        return Append(term or self.journal.term, prev, before, commit, 0, entries)

    def ack(self, *names: str, match: int | None = None, round_: int | None = None) -> None:
        """These have everything that the node has (or `match`)."""
        node = self.node
        for name in names:
            upto = self.journal.last_index if match is None else match
            self.receive(name, AppendReply(node.term, True, upto, node.round if round_ is None else round_))

    # -- looking -------------------------------------------------------------------------------------------------------------

    def last(self, kind: type[M], to: str | None = None) -> M:
        """The newest message of this kind (to `to`)."""
        return self.all(kind, to)[-1]

    def all(self, kind: type[M], to: str | None = None) -> list[M]:
        return [message for name, message in self.sent if isinstance(message, kind) and to in (None, name)]

    @property
    def terms(self) -> list[int]:
        """Of the log's entries."""
        return [self.journal.term_at(index) for index in range(self.journal.first_index, self.journal.last_index + 1)]


def seats(voters: str, learners: str = "") -> Membership:
    """ "n1 n2": each on a disk of its own."""
    names = voters.split() + learners.split()
    listed = [member(name, 100 + number, voter=name in voters.split()) for number, name in enumerate(sorted(names))]
    return Membership(tuple(listed))


def item(index: int, term: int, size: int = 8) -> Entry:
    return Entry(index, term, (b"%d/%d." % (index, term) * size)[:size], DATA)


def digest(index: int) -> bytes:
    return b"digest %9d" % index


def replies(messages: Sequence[tuple[str, Any]], kind: type[M]) -> list[M]:
    return [message for _, message in messages if isinstance(message, kind)]


def vote_request(lab: Lab, term: int, *, last: int | None = None, last_term: int | None = None, transfer: bool = False) -> Vote:
    """By a candidate whose log ends as the lab's unless told otherwise."""
    journal = lab.journal
    return Vote(
        term, journal.last_index if last is None else last, journal.last_term if last_term is None else last_term, transfer
    )


def pre_vote_request(lab: Lab, term: int, *, last: int | None = None, last_term: int | None = None) -> PreVote:
    asked = vote_request(lab, term, last=last, last_term=last_term)
    return PreVote(asked.term, asked.last_index, asked.last_term)
