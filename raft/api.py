"""The two protocols between a replicated log and what it drives.

Everything above `raft/` proposes bytes and gets back what its own state machine answered; everything inside `raft/` moves
bytes and indexes. The single-node replicator (local.py) and the cluster node implement the same Replicator, so the service
cannot tell one from the other.

All methods of a Replicator are called on the event loop that ran `start`. StateMachine methods are called by the replicator
on that loop too, one at a time, in index order, each index exactly once per process. Only `Capture.chunks` and the iterator
given to `install` run in another thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from raft.membership import Member, Membership


class Capture(Protocol):
    """The state as of one index, while newer entries are applied: what a snapshot is written from."""

    @property
    def index(self) -> int: ...

    @property
    def digest(self) -> bytes:
        """The state machine's `digest` at `index`."""

    def chunks(self) -> Iterator[bytes]:
        """The state in pieces of about 256 KiB, the same bytes for the same state. For a worker thread; once."""

    def close(self) -> None:
        """Let go of the state. Thread-safe, may be called again."""


class StateMachine(Protocol):
    @property
    def index_applied(self) -> int:
        """The last index whose effects are in the state; replay starts after it."""

    @property
    def index_durable(self) -> int:
        """The last index whose effects survive a power loss without the log; the log may be trimmed up to here."""

    def apply(self, index: int, term: int, payload: bytes, hint: object | None) -> Any:
        """Apply one committed entry and return what its proposer gets.

        `hint` is what was given to `propose` on this node (the decoded payload), None on replay and on other nodes. An
        exception is fail-stop: the replicator stops, and every later call raises Stopped.
        """

    def skip(self, index: int) -> None:
        """An entry of the log's own (a new leader's no-op, a membership): only the index moves, and the digest does not."""

    def mark(self, index: int, payload: bytes) -> None:
        """A marker (`propose_marker`): digest the whole state as of `index`, beside what follows."""

    @property
    def digest(self) -> bytes:
        """A digest of every change up to `index_applied`; equal on all replicas at the same index. 16 bytes."""

    @property
    def overloaded(self) -> bool:
        """More was applied than should wait in memory: whoever can hold back should, for a while."""

    async def capture(self) -> Capture:
        """The state as of some index that is applied now or later, for a snapshot. Raises OSError, StoreError."""

    async def install(self, index: int, digest: bytes, chunks: Iterator[bytes]) -> None:
        """Replace the state by the one of `Capture.chunks`, taken at `index`. A crash at any moment leaves the old state or the
        new one. On return `index_applied == index_durable == index`. ValueError: the chunks are not a state; the old one stays.
        Nothing is applied meanwhile; `chunks` is read in a worker thread.
        """


@dataclass(frozen=True, slots=True)
class ReplicatorStatus:
    role: str  # "leader", "follower", "candidate", "learner", "single", "stopped"
    term: int
    leader: str | None
    index_last: int  # last index in the log
    index_committed: int
    index_applied: int
    log_first: int  # first index still in the log
    log_bytes: int


class Replicator(Protocol):
    async def start(self) -> None:
        """Recover: open the log, cut a torn tail, replay into the state machine. Raises LogCorrupt, OSError."""

    async def stop(self) -> None:
        """Finish what was accepted, sync, close. Later proposals raise Stopped."""

    def propose(self, payload: bytes, hint: object | None = None) -> asyncio.Future[Any]:
        """Log `payload`, make it durable on a majority, apply it; the future gives StateMachine.apply's answer.

        Proposals are applied in the order of the calls. The future raises NotLeader, Refused (both: certainly without
        effect) or OutcomeUnknown.
        """

    async def read_barrier(self) -> int:
        """Wait until the state holds everything acknowledged before the call; the index reached. Raises as propose."""

    def trim(self, index: int) -> None:
        """Entries up to `index` are no longer needed for recovery: they may be removed, now or later."""

    def status(self) -> ReplicatorStatus:
        """For people and metrics."""


class ClusterControl(Protocol):
    """What a replicator of several nodes offers beyond Replicator. Called on the loop; refusals are those of `propose`."""

    #: Called on the loop with True when this node leads and its state holds everything acknowledged before, with False as soon
    #: as it may lead no longer (its futures have failed by then). A single node calls it with True once.
    on_leading: Callable[[bool], None]

    @property
    def membership(self) -> Membership: ...

    def leader(self) -> Member | None:
        """Who leads, as far as this node knows."""

    async def change(self, change: Callable[[Membership], Membership], *, force: bool = False) -> Membership:
        """Make one of membership.py's changes; returns when it is committed. Refused while another one is under way, when a
        learner is too far behind to be promoted, or when the cluster would lose its quorum (unless `force`)."""

    async def transfer(self, name: str) -> str:
        """Hand leadership to `name` ("" = the best follower); returns who leads. Refused when it does not come about."""

    async def propose_marker(self, payload: bytes) -> int:
        """Log a marker for StateMachine.mark; its index."""

    def report_state(self, index: int, digest: bytes) -> None:
        """This node's whole state has this digest at the marker `index`. Who differs from a majority of the voters stops, for
        good."""

    def state_reports(self, index: int) -> Mapping[str, bytes]:
        """What was reported for the marker `index` while this node leads, by name."""

    def progress(self) -> Mapping[str, PeerProgress]:
        """The other members as this node sees them, by name."""

    async def save_snapshot(self) -> Path:
        """A file with the state as of now (snapshot_file.py); the caller removes it."""


@dataclass(frozen=True, slots=True)
class PeerProgress:
    reachable: bool
    match_index: int  # 0 unless this node leads
