"""The sessions that are open: who they are, when they were last heard, and how they begin and end.

The state (core/ops) is the authority on which sessions exist; this table adds what need not survive the process: the live
stream, the time of the last sign of life, the acknowledged seq. A session ends by an op in the log, so that nothing it
sends later can land. When this node begins to lead, every session of the state has a full time-to-live to come back. The table
follows the entries as they are applied (`observe`), so that it is right also when whoever asked for one is not there any more.
"""

from __future__ import annotations

import hmac
import secrets
from typing import TYPE_CHECKING, Final

import grpc
import structlog

from metaserver.core import entry as ops
from metaserver.streams import DETACHED, EXPIRED, REPLACED, Ending
from raft.errors import ReplicationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from metaserver.core.entry import Item, Result
    from metaserver.core.model import Ino, Session
    from metaserver.streams import Stream
    from metaserver.writes import Writes

_log = structlog.get_logger(__name__)

SECRET_BYTES: Final = 32
CLIENT_CHARS_MAX: Final = 1024


class AttachRefused(Exception):
    """The stream cannot be attached; `ending` is what the client is told."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.detail)
        self.ending = ending


class LiveSession:
    """One open session."""

    __slots__ = ("acked_seq", "awaited", "client", "closing", "heard_s", "id", "root", "secret", "stream", "volume")

    def __init__(self, record: Session, heard_s: float, *, awaited: bool) -> None:
        self.id = record.session
        self.volume = record.volume
        self.root = record.root
        self.secret = record.secret
        self.client = record.client
        self.acked_seq = record.acked_seq
        self.heard_s = heard_s
        self.awaited = awaited  # open since before this node leads and not yet back
        self.closing = False
        self.stream: Stream | None = None


class Sessions:
    """The table. `clock` is monotonic seconds. `on_closed(session)` is called when one has ended; `on_all_back` once, when
    no session from before the reign is awaited any more."""

    def __init__(
        self,
        writes: Writes,
        record_of: Callable[[int], Session | None],
        clock: Callable[[], float],
        *,
        ttl_s: float,
        sessions_max: int,
        make_secret: Callable[[], bytes] = lambda: secrets.token_bytes(SECRET_BYTES),
    ) -> None:
        self._writes = writes
        self._record_of = record_of
        self._clock = clock
        self._sessions_max = sessions_max
        self._make_secret = make_secret
        self._live: dict[int, LiveSession] = {}
        self._opening = 0
        self._awaited = 0
        self.ttl_s = ttl_s
        self.on_closed: list[Callable[[LiveSession], None]] = []
        self.on_all_back: list[Callable[[], None]] = []

    def load(self, records: Iterable[Session]) -> None:
        """The sessions in the state when this node begins to lead; if there are none, all are back."""
        now = self._clock()
        for record in records:
            self._live[record.session] = LiveSession(record, now, awaited=True)
        self._awaited = len(self._live)
        if not self._awaited:
            self._all_back()

    def __iter__(self) -> Iterator[LiveSession]:
        return iter(self._live.values())

    def __len__(self) -> int:
        return len(self._live)

    def get(self, number: int) -> LiveSession | None:
        return self._live.get(number)

    def silent_s(self, session: LiveSession) -> float:
        return self._clock() - session.heard_s

    def heard(self, session: LiveSession) -> None:
        """A sign of life."""
        session.heard_s = self._clock()

    async def open(self, volume: int, root: Ino, client: str) -> LiveSession:
        """A new session, logged. Raises AttachRefused, ReplicationError."""
        if len(self._live) + self._opening >= self._sessions_max:
            detail = f"{self._sessions_max} sessions are open, which is the limit"
            raise AttachRefused(Ending(grpc.StatusCode.RESOURCE_EXHAUSTED, "too-many-sessions", detail))
        secret = self._make_secret()
        self._opening += 1
        try:
            result = await self._writes.call(ops.OpenSession(volume, root, secret, client[:CLIENT_CHARS_MAX]))
        finally:
            self._opening -= 1
        if result.errno:
            code = grpc.StatusCode.FAILED_PRECONDITION
            raise AttachRefused(Ending(code, "no-volume", result.detail or "the session was refused", result.errno))
        live = self._live.get(result.first)
        if live is None:
            raise AttachRefused(Ending(grpc.StatusCode.ABORTED, "session-expired", "the session was closed at once"))
        return live

    def observe(self, items: Sequence[Item], results: Sequence[Result]) -> None:
        """Learn from an applied entry which sessions began and ended."""
        for item, result in zip(items, results, strict=True):
            kind = type(item.op)
            if kind is ops.OpenSession and not result.errno:
                self._opened(result.first)
            elif kind is ops.CloseSession and not result.errno:
                assert isinstance(item.op, ops.CloseSession)
                session = self._live.get(item.op.session)
                if session is not None:
                    self._closed(session, expired=item.op.expired)

    def _opened(self, number: int) -> None:
        record = self._record_of(number)
        if record is None or number in self._live:
            return  # closed by the same entry
        self._live[number] = LiveSession(record, self._clock(), awaited=False)
        _log.info("session opened", session=number, volume=record.volume, client=record.client)

    def resume(self, number: int, secret: bytes, volume: int) -> LiveSession:
        """Take a session up again. Raises AttachRefused."""
        live = self._live.get(number)
        if live is None or live.closing or live.volume != volume:
            detail = f"session {number} is not open on this volume: it has expired, was closed, or never was"
            raise AttachRefused(Ending(grpc.StatusCode.NOT_FOUND, "no-session", detail))
        if not hmac.compare_digest(live.secret, secret):
            detail = f"the secret is not that of session {number}"
            raise AttachRefused(Ending(grpc.StatusCode.PERMISSION_DENIED, "wrong-secret", detail))
        self.heard(live)
        return live

    def connect(self, session: LiveSession, stream: Stream) -> None:
        """Make `stream` the session's live one; an older one ends. Call it when the session's holds are known."""
        if session.stream is not None:
            session.stream.end(REPLACED)
        session.stream = stream
        self.heard(session)
        self._is_back(session)

    def disconnect(self, session: LiveSession, stream: Stream) -> None:
        """`stream` is gone. The session lives on until its time is over."""
        if session.stream is stream:
            session.stream = None

    async def close(self, session: LiveSession, *, expired: bool) -> None:
        """End a session, logged. Raises ReplicationError: then it is still open."""
        if session.closing:
            return
        session.closing = True
        try:
            result = await self._writes.call(ops.CloseSession(session.id, expired))
        except ReplicationError:
            session.closing = False
            raise
        if result.errno and self._record_of(session.id) is not None:
            session.closing = False
            _log.error("a session could not be closed", session=session.id, errno=result.errno, detail=result.detail)
        elif session.id in self._live:  # closed before, by an entry from before this table
            self._closed(session, expired=expired)

    def forgive(self, seconds: float) -> None:
        """Nobody could be heard for so long, since this process was stopped or the machine was: it counts against nobody."""
        now = self._clock()
        for session in self._live.values():
            session.heard_s = min(session.heard_s + seconds, now)

    async def sweep(self) -> None:
        """Expire the sessions that were silent for too long."""
        overdue_s = self._clock() - self.ttl_s
        for session in [live for live in self._live.values() if live.heard_s < overdue_s]:
            if session.heard_s >= overdue_s or session.closing:
                continue  # heard again while another one was being closed
            try:
                await self.close(session, expired=True)
            except ReplicationError as error:
                _log.warning("an expired session cannot be closed yet", session=session.id, reason=str(error))
                return

    def _closed(self, session: LiveSession, *, expired: bool) -> None:
        self._live.pop(session.id, None)
        if session.stream is not None:
            if expired:
                session.stream.notify_expired(EXPIRED.detail)
            session.stream.end(EXPIRED if expired else DETACHED)
            session.stream = None
        for hook in self.on_closed:
            hook(session)
        self._is_back(session)
        _log.info("session expired" if expired else "session closed", session=session.id, client=session.client)

    def _is_back(self, session: LiveSession) -> None:
        if session.awaited:
            session.awaited = False
            self._awaited -= 1
            if not self._awaited:
                self._all_back()

    def _all_back(self) -> None:
        for hook in self.on_all_back:
            hook()
