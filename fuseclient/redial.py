"""Which address a client tries next, and how long it waits before it does. Pure: no clock, no sockets.

The first attempt after a loss is immediate, since a server that restarts is often there already; then the wait doubles up
to a cap, each time shortened at random by up to a half, so that a cluster's clients do not come back in step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from fuseclient.volume_url import Address

FIRST_WAIT_S: Final = 0.05
LONGEST_WAIT_S: Final = 2.0


class Backoff:
    """Successive waits between attempts. `at_once`: the first attempt does not wait."""

    def __init__(
        self,
        rng: random.Random,
        first_s: float = FIRST_WAIT_S,
        longest_s: float = LONGEST_WAIT_S,
        *,
        at_once: bool = True,
    ) -> None:
        self._rng = rng
        self._first_s = first_s
        self._longest_s = longest_s
        self._fresh = -1 if at_once else 0
        self._doublings = self._fresh

    def next(self) -> float:
        """Seconds to wait before the attempt that comes now."""
        doublings, self._doublings = self._doublings, self._doublings + 1
        if doublings < 0:
            return 0.0
        longest: float = min(self._longest_s, self._first_s * 2.0 ** min(doublings, 30))
        return longest * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """It worked: start again from the beginning."""
        self._doublings = self._fresh


class Endpoints:
    """The cluster's addresses and the one in use. A hint at the leader (`prefer`) is taken before the next in turn."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = list(addresses)
        self._at = 0

    @property
    def current(self) -> Address:
        return self._addresses[self._at]

    @property
    def all(self) -> tuple[Address, ...]:
        return tuple(self._addresses)

    def advance(self) -> None:
        self._at = (self._at + 1) % len(self._addresses)

    def prefer(self, address: Address) -> None:
        """Try this one next, whether the URL named it or not."""
        if address not in self._addresses:
            self._addresses.append(address)
        self._at = self._addresses.index(address)
