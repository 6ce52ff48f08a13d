"""What nodes of a cluster say to each other, as values. peer_wire.py turns them into bytes and back.

Every message carries the sender's term (Raft, figure 2); answers repeat what identifies the question, so that a late, doubled
or reordered answer is recognised. `Pre*` are the rounds of PreVote (thesis, section 9.6). Snapshots are pulled: the leader
offers, the follower asks for one piece after the other and so decides speed, order and where to resume.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raft.record import Entry


@dataclass(frozen=True, slots=True)
class PreVote:
    """Would you vote for me in `term`? Changes nothing at either side."""

    term: int
    last_index: int
    last_term: int


@dataclass(frozen=True, slots=True)
class PreVoteReply:
    """`term` repeats the question's when granted, else it is the sender's."""

    term: int
    granted: bool


@dataclass(frozen=True, slots=True)
class Vote:
    """`transfer`: the leader itself asked for this election, so nobody need protect it."""

    term: int
    last_index: int
    last_term: int
    transfer: bool = False


@dataclass(frozen=True, slots=True)
class VoteReply:
    term: int
    granted: bool


@dataclass(frozen=True, slots=True)
class Append:
    """Entries after (`prev_index`, `prev_term`); none is a heartbeat. `round` numbers the leader's confirmations (reads)."""

    term: int
    prev_index: int
    prev_term: int
    commit: int
    round: int
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class AppendReply:
    """`success`: the log equals the leader's up to `match`, durably. Else `match` is where the leader may try again from.

    `round` is the newest that this node heard of from the leader of `term`. (`point`, `digest`): the state's digest at an
    index, for comparison; 0 when there is none to tell.
    """

    term: int
    success: bool
    match: int
    round: int
    point: int = 0
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class TimeoutNow:
    """Leadership transfer (thesis, section 3.10): start an election at once."""

    term: int


@dataclass(frozen=True, slots=True)
class ReadIndex:
    """A follower asks for an index that its state must reach before it serves a read; `id` is the asker's."""

    term: int
    id: int


@dataclass(frozen=True, slots=True)
class ReadIndexReply:
    """`index` 0: the sender cannot tell (it leads no longer, or cannot reach a majority)."""

    term: int
    id: int
    index: int


@dataclass(frozen=True, slots=True)
class SnapshotOffer:
    """The log no longer reaches back to where you are: take this state. `size` and `checksum` are of the file."""

    term: int
    index: int
    index_term: int
    size: int
    checksum: bytes


@dataclass(frozen=True, slots=True)
class SnapshotPull:
    """Send the piece at `offset` of the snapshot of (`index`, `index_term`). `offset` == size: it is installed."""

    term: int
    index: int
    index_term: int
    offset: int


@dataclass(frozen=True, slots=True)
class SnapshotPiece:
    """Bytes of the file. Empty: that snapshot is not here any more; wait for another offer."""

    term: int
    index: int
    index_term: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Diverged:
    """A majority has another state than you at `index`: stop."""

    term: int
    index: int


@dataclass(frozen=True, slots=True)
class StateReport:
    """My whole state has this digest at the marker `index`."""

    term: int
    index: int
    digest: bytes


Message = (
    PreVote
    | PreVoteReply
    | Vote
    | VoteReply
    | Append
    | AppendReply
    | TimeoutNow
    | ReadIndex
    | ReadIndexReply
    | SnapshotOffer
    | SnapshotPull
    | SnapshotPiece
    | Diverged
    | StateReport
)
