"""Says the same thing once a minute at most, whoever causes it how often: a log must not be a way to fill a disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

INTERVAL_S: Final = 60.0
KEYS_MAX: Final = 256


class Notices:
    def __init__(self, clock: Callable[[], float], interval_s: float = INTERVAL_S) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._silent_until: dict[Hashable, float] = {}  # what was said longest ago comes first

    def due(self, *what: Hashable) -> bool:
        """Whether it is time to say it (again). Of more than 256 different things, those said longest ago are forgotten."""
        now = self._clock()
        if now < self._silent_until.get(what, now):
            return False
        self._silent_until.pop(what, None)
        self._silent_until[what] = now + self._interval_s
        if len(self._silent_until) > KEYS_MAX:
            del self._silent_until[next(iter(self._silent_until))]
        return True
