"""How long a cluster waits for what, in seconds of a monotonic clock.

Rules: broadcast time << election timeout << time between failures (Raft, section 5.6). A heartbeat must fit into the shortest
election timeout several times. A broken connection to the leader is a hint, not a verdict: it only starts the asking
(PreVote) sooner, which changes nothing while a leader is alive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def steady(clock: Callable[[], float]) -> Callable[[], float]:
    """The same clock, but when it is set back it goes on from where it was, so that no deadline moves away."""
    last, behind = clock(), 0.0

    def now() -> float:
        nonlocal last, behind
        read = clock()
        if read < last:
            behind += last - read
        last = read
        return read + behind

    return now


@dataclass(frozen=True, slots=True)
class Timing:
    heartbeat_s: float = 0.15
    election_min_s: float = 1.0
    election_max_s: float = 2.0
    #: After the connection to the leader broke.
    broken_min_s: float = 0.05
    broken_max_s: float = 0.25
    #: A transfer of leadership that has not come about by then is given up, and proposals are taken again.
    transfer_s: float = 1.0
    #: A read index that a follower asked for.
    read_s: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.heartbeat_s * 3 <= self.election_min_s < self.election_max_s:
            raise ValueError("an election timeout must be at least three heartbeats, and have room to vary")


@dataclass(frozen=True, slots=True)
class Flow:
    """How much may be under way to one follower, and to the state machine."""

    append_bytes: int = 1 << 20  # entries of one message; a single larger entry goes alone
    inflight_bytes: int = 8 << 20
    inflight_messages: int = 64
    handed_bytes: int = 8 << 20
    handed_entries: int = 4096
    #: A learner may be promoted when it lacks no more entries than this.
    promote_lag: int = 1024
    snapshot_piece_bytes: int = 1 << 20
