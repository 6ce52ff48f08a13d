"""What a leader knows of one follower's log, and how much may be on its way there. One leadership long.

    probe       where the logs meet is not known: one message at a time
    replicate   it is known: entries follow each other without waiting, up to the flow's bounds
    snapshot    the log here begins after the follower's end: it is being given the state

Rules: `match` only grows (section 5.3: what a follower acknowledged in this term stays there), `match < next`. A lost message
shows when a later one does not fit: the follower says so and the leader goes back, to `match` at most. After a connection
broke the leader asks at the end of its own log, not at `match`: of a follower that it has not heard in this term it knows
nothing, and from the answer it knows all, so that nothing is sent twice and no snapshot to one that only blinked.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raft.timing import Flow

NEVER = float("-inf")


class Progress:
    """`match`: the last entry known to be durable there and equal to ours. `next`: the first one to send."""

    __slots__ = (
        "commit_told",
        "heard_at",
        "held_until",
        "inflight",
        "inflight_bytes",
        "match",
        "next",
        "offered",
        "probed",
        "probing",
        "round",
        "round_sent",
        "sent_at",
    )

    def __init__(self, next_index: int, now: float) -> None:
        self.match = 0
        self.next = next_index
        self.probing = True
        self.round = 0  # the newest confirmation round that it answered
        self.round_sent = 0  # the newest that it was told
        self.heard_at = now
        self.sent_at = NEVER
        self.commit_told = 0
        self.inflight: deque[tuple[int, int]] = deque()  # (last index, bytes) of messages with entries that have no answer
        self.inflight_bytes = 0
        self.offered: tuple[int, float] | None = None  # the snapshot it is being given, and when it last asked for a piece
        self.probed = 0  # the first entry of the probe that has not succeeded, 0 = none was sent
        self.held_until = NEVER  # no entries before then: it could not take them (a full disk)

    def may_send(self, flow: Flow, now: float) -> bool:
        """There is room for more entries on the way."""
        if self.probing:
            return not self.inflight and now >= self.held_until
        return len(self.inflight) < flow.inflight_messages and self.inflight_bytes < flow.inflight_bytes

    def sent(self, last: int, size: int) -> None:
        """Entries up to `last` are on their way."""
        self.probed = self.next if self.probing else 0
        self.inflight.append((last, size))
        self.inflight_bytes += size
        self.next = last + 1

    def told(self, now: float, round_: int, commit: int) -> None:
        """A message with the current round and commit index is on its way."""
        self.sent_at = now
        self.round_sent = round_
        self.commit_told = commit

    def acknowledged(self, match: int) -> None:
        """The logs are equal up to `match`."""
        if match > self.match:
            self.match = match
        if self.next <= self.match:
            self.next = self.match + 1
        inflight = self.inflight
        while inflight and inflight[0][0] <= match:
            self.inflight_bytes -= inflight.popleft()[1]
        self.probing = False
        self.probed = 0
        if self.offered is not None and match >= self.offered[0]:
            self.offered = None

    def refused(self, hint: int, again_at: float) -> None:
        """What was sent did not fit; the follower suggests to go on after `hint`. If that is what it was just asked to take, it
        cannot take it now, and is asked again at `again_at`."""
        probed = self.probed
        self.restart(min(hint, self.next - 2))
        if self.next == probed:
            self.held_until = again_at

    def restart(self, after: int) -> None:
        """Whatever was on its way is lost, or of no use: find out anew, from after `after`."""
        self.next = max(after, self.match) + 1
        self.probing = True
        self.probed = 0
        self.inflight.clear()
        self.inflight_bytes = 0
