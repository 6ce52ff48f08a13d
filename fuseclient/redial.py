"""Which address a client tries next, how long it waits before it does, and when it doubts the one it has. Pure: no clock, no
sockets.

The first attempt after a loss is immediate, since another node may lead already; then the waits grow slowly, so that an outage
of a few tenths of a second is over for the client when it is over, up to a cap. Each is shortened at random by up to a half, so
that a cluster's clients do not come back in step.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Sequence

    from fuseclient.volume_url import Address

FIRST_WAIT_S: Final = 0.05
LONGEST_WAIT_S: Final = 1.0
GROWTH: Final = 1.25  # so a client notices the end of an outage within a quarter of what it lasted
LEARNED_MAX: Final = 64
TRIES_PER_ROUND: Final = 2  # of one address: a second one when another node names it as the leader meanwhile
HINTS_PER_ROUND: Final = 8

TICK_S: Final = 0.5
STALL_TICKS: Final = 2  # a request that waits this long makes one ask the other nodes
PROBES_DENSE_TICKS: Final = 20  # every tick at first, while an election may be going on
PROBES_SPARSE_TICKS: Final = 10
PING_TICKS: Final = 10
LOST_TICKS: Final = 20


class Backoff:
    """Successive waits between attempts. `at_once`: the first attempt does not wait."""

    def __init__(
        self,
        rng: random.Random,
        first_s: float = FIRST_WAIT_S,
        longest_s: float = LONGEST_WAIT_S,
        *,
        growth: float = 2.0,
        at_once: bool = True,
    ) -> None:
        self._rng = rng
        self._first_s = first_s
        self._longest_s = longest_s
        self._growth = growth
        self._fresh = -1 if at_once else 0
        self._step = self._fresh

    def next(self) -> float:
        """Seconds to wait before the attempt that comes now."""
        step, self._step = self._step, self._step + 1
        if step < 0:
            return 0.0
        longest: float = min(self._longest_s, self._first_s * self._growth ** min(step, 100))
        return longest * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """It worked: start again from the beginning."""
        self._step = self._fresh


class Endpoints:
    """The cluster's addresses, the one to try first in front. Those of the URL stay, whatever the cluster says of itself."""

    def __init__(self, named: Sequence[Address]) -> None:
        self._named = tuple(named)
        self._order = list(named)

    @property
    def all(self) -> tuple[Address, ...]:
        """In the order in which to try them."""
        return tuple(self._order)

    def learn(self, addresses: Iterable[Address]) -> None:
        """The cluster's own list: its nodes, and no others but those that the URL names."""
        learned = list(dict.fromkeys(addresses))[:LEARNED_MAX]
        wanted = dict.fromkeys([*learned, *self._named])
        kept = [address for address in self._order if address in wanted]
        self._order = [*kept, *(address for address in wanted if address not in kept)]

    def prefer(self, address: Address) -> None:
        """It has worked."""
        if address in self._order:
            self._order.remove(address)
        self._order.insert(0, address)

    def demote(self, address: Address) -> None:
        """It has not worked: the others come first."""
        if address in self._order:
            self._order.remove(address)
            self._order.append(address)


class Round:
    """One search through the cluster: every address once; one that is named as the leader sooner, and once more."""

    def __init__(self, addresses: Iterable[Address]) -> None:
        self._line = deque(dict.fromkeys(addresses))
        self._tries: dict[Address, int] = {}
        self._under_way: set[Address] = set()
        self._hints = 0

    def __bool__(self) -> bool:
        return bool(self._line)

    def next(self) -> Address:
        """The address to try now."""
        address = self._line.popleft()
        self._tries[address] = self._tries.get(address, 0) + 1
        self._under_way.add(address)
        return address

    def failed(self, address: Address, hint: Address | None) -> None:
        """It does not serve; it may have said who does."""
        self._under_way.discard(address)
        if hint is None or hint in self._under_way or self._hints >= HINTS_PER_ROUND:
            return
        if self._tries.get(hint, 0) >= TRIES_PER_ROUND:
            return
        self._hints += 1
        if hint in self._line:
            self._line.remove(hint)
        self._line.appendleft(hint)


class Doubt(enum.Flag):
    """What to do about a stream on which something is missing."""

    NONE = 0
    PING = enum.auto()  # make the peer show that it lives
    PROBE = enum.auto()  # ask the other nodes whether one of them leads
    LOST = enum.auto()


class Pulse:
    """Judges a stream by what comes, every TICK_S. It counts ticks, not time, so that a client that was stopped itself does
    not blame the server."""

    def __init__(self) -> None:
        self._received = 0
        self._answered = 0
        self._silent = 0
        self._stalled = 0

    def tick(self, received: int, answered: int, *, waiting: bool) -> Doubt:
        """`received` frames and `answered` requests so far on this stream; `waiting`: something has been sent and is not
        answered."""
        self._silent = self._silent + 1 if received == self._received else 0
        self._stalled = self._stalled + 1 if waiting and answered == self._answered else 0
        self._received, self._answered = received, answered
        if self._silent >= LOST_TICKS:
            return Doubt.LOST
        doubt = Doubt.PING if self._silent == PING_TICKS else Doubt.NONE
        stalled = self._stalled - STALL_TICKS
        if stalled >= 0 and (stalled < PROBES_DENSE_TICKS or stalled % PROBES_SPARSE_TICKS == 0):
            doubt |= Doubt.PROBE
        return doubt
