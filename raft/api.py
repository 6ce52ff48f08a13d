"""The two protocols between a replicated log and what it drives.

Everything above `raft/` proposes bytes and gets back what its own state machine answered; everything inside `raft/` moves
bytes and indexes. The single-node replicator (local.py) and the cluster node implement the same Replicator, so the service
cannot tell one from the other.

All methods of a Replicator are called on the event loop that ran `start`. StateMachine methods are called by the replicator
on that loop too, one at a time, in index order, each index exactly once per process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio


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


@dataclass(frozen=True, slots=True)
class ReplicatorStatus:
    role: str  # "leader", "follower", "single", "stopped"
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
        """A snapshot for people and metrics."""
