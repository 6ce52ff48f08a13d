"""Who deletes which objects: leases on the delete queue, in memory only.

The queue itself is state: slices that no file uses any more, each with the time when it got there. A client claims some of
its volume, deletes their objects and finishes them by an op in the log. A claim lapses after a while, so that what a client
had claimed that died is claimed by another; deleting objects twice is harmless. Slices wait `delay_s` before they are given
out, so that a reader that has just been told of them is not cut short. That time is measured by this node's monotonic clock:
the times in the queue are those of the log, which never run backwards but may have been stamped by a node whose clock was
wrong. So it is remembered how far the log had come when, and nothing is given out in the first `delay_s` of a reign.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from metaserver.core import entry as ops

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from metaserver.core.entry import Item, Result
    from metaserver.core.reads import Doomed
    from metaserver.sessions import LiveSession

CLAIM_LIMIT: Final = 1024
CLAIM_DEFAULT: Final = 256
CLAIM_S: Final = 60.0
#: Queue entries looked at for one claim or one announcement: the queue may be long, and this runs on the event loop.
SCAN_MAX: Final = 8192
#: How finely the log's progress is remembered: so many points in the time that slices wait.
_POINTS: Final = 16


class _Claim(NamedTuple):
    session: int
    lapses_s: float


class _Point(NamedTuple):
    """At `at_s` the log had come to `log_ns`: what is queued no later was queued by then."""

    at_s: float
    log_ns: int


class Deletes:
    """Leases. `doomed(after)` reads the queue; `clock` is monotonic seconds; `log_ns` the newest time in the log."""

    def __init__(
        self,
        doomed: Callable[[int], Iterator[Doomed]],
        clock: Callable[[], float],
        log_ns: Callable[[], int],
        *,
        delay_s: float,
    ) -> None:
        self._doomed = doomed
        self._clock = clock
        self._log_ns = log_ns
        self._delay_s = delay_s
        self._points = deque([_Point(clock(), log_ns())])
        self._claims: dict[int, _Claim] = {}
        self._turn: dict[int, int] = {}  # volume -> the session that was told last

    @property
    def claimed(self) -> int:
        return len(self._claims)

    def claim(self, session: int, volume: int, limit: int) -> list[Doomed]:
        """Slices for this session to delete, at most `limit` (0: the default)."""
        limit = min(limit, CLAIM_LIMIT) or CLAIM_DEFAULT
        lapses_s = self._clock() + CLAIM_S
        taken = self._due(volume, limit)
        for slice_ in taken:
            self._claims[slice_.slice] = _Claim(session, lapses_s)
        return taken

    def observe(self, items: Sequence[Item], results: Sequence[Result]) -> None:
        """Note how far the log has come; forget the claims on what was finished."""
        self._note()
        if not self._claims:
            return
        for item, result in zip(items, results, strict=True):
            if type(item.op) is ops.FinishDeletes and not result.errno:
                for slice_ in item.op.slices:
                    self._claims.pop(slice_, None)

    def drop_session(self, session: LiveSession) -> None:
        """What the session had claimed is free again."""
        for slice_ in [slice_ for slice_, claim in self._claims.items() if claim.session == session.id]:
            del self._claims[slice_]

    def announce(self, sessions: Iterable[LiveSession]) -> None:
        """Tell one connected session of each volume that has work for it."""
        by_volume: dict[int, list[LiveSession]] = {}
        for session in sessions:
            if session.stream is not None:
                by_volume.setdefault(session.volume, []).append(session)
        for volume, candidates in by_volume.items():
            due = len(self._due(volume, CLAIM_LIMIT))
            if not due:
                continue
            chosen = next((s for s in candidates if s.id > self._turn.get(volume, 0)), candidates[0])
            self._turn[volume] = chosen.id
            if chosen.stream is not None:
                chosen.stream.notify_deletes(due)

    def _due(self, volume: int, limit: int) -> list[Doomed]:
        """Slices of the volume that are old enough and not claimed."""
        now_s, before_ns = self._clock(), self._settled_ns()
        due: list[Doomed] = []
        for seen, slice_ in enumerate(self._doomed(0)):
            if len(due) >= limit or seen >= SCAN_MAX + len(self._claims):
                break
            if slice_.volume != volume or slice_.queued_ns > before_ns:
                continue
            claim = self._claims.get(slice_.slice)
            if claim is None or claim.lapses_s <= now_s:
                due.append(slice_)
        return due

    def _note(self) -> None:
        """Keep where the log is now. The newest point moves along until it is far enough from the one before: so a point may
        be told as later than it was, never as earlier."""
        points = self._points
        if len(points) > 1 and points[-1].at_s - points[-2].at_s < self._delay_s / _POINTS:
            points.pop()
        points.append(_Point(self._clock(), self._log_ns()))
        self._settled_ns()

    def _settled_ns(self) -> int:
        """What was queued up to this time of the log has waited for long enough."""
        points, before_s = self._points, self._clock() - self._delay_s
        while len(points) > 1 and points[1].at_s <= before_s:
            points.popleft()
        return points[0].log_ns if points[0].at_s <= before_s else -1
