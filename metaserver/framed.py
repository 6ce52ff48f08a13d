"""The port that clients use: TCP, with or without TLS, frames as protos/framing.py cuts them. gRPC's place is the admin port.

    data_received -> Deframer -> MetaService.take          in one call, no task and no wake-up per frame
    Stream.wake -> (once per loop iteration) _flush -> transport

Rules
 - Reading stops while the service is busy (`room`), writing while the client does not read; in between everything is bounded.
 - Whoever connects has a moment to say what it wants, in bounded memory: a connection is an *opening* until its session is
   attached, and when there are too many openings the oldest one gives way.
 - Every end is told: by a last frame that holds `end`, and to those who speak another protocol in a form that they show to
   people.
 - A connection that does not take its last bytes is cut after LINGER_S.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import grpc
import structlog

from metaserver import strangers, wire
from metaserver.streams import DETACHED, Ending, broken
from protos import meta_pb2
from protos.framing import CLIENT_FRAME_BYTES_MAX, MAGIC, PING, Deframer, FrameTooLong, NotOurs, framed

if TYPE_CHECKING:
    import ssl
    from collections.abc import Coroutine

    from metaserver.service import MetaService
    from metaserver.sessions import LiveSession
    from metaserver.streams import Stream

_log = structlog.get_logger(__name__)

LINGER_S: Final = 5.0
_ACCEPT_PAUSE_S: Final = 0.1  # after a failed accept: no descriptors are left, mostly
_WRITE_HIGH_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class FramedLimits:
    frame_bytes: int = CLIENT_FRAME_BYTES_MAX
    opening_s: float = 10.0  # from the connection to the first frame, and as long again for the TLS handshake before it
    openings: int = 512
    opening_bytes: int = 64 << 20  # of unfinished first frames, all openings together
    backlog: int = 512


class FramedListener:
    """Accepts connections. `start`, and `close` at the end in any case."""

    def __init__(self, service: MetaService, tls: ssl.SSLContext | None = None, limits: FramedLimits | None = None) -> None:
        self._service = service
        self._tls = tls
        self._limits = limits or FramedLimits()
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._openings: dict[socket.socket, None] = {}  # the oldest first
        self._opening_bytes = 0
        self._shaking: set[asyncio.Task[None]] = set()
        self._connections: set[_Connection] = set()
        self._all_gone: asyncio.Future[None] | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; the address in use. Port 0 takes a free one. Raises OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, where in dict.fromkeys(found):
            listening = socket.socket(family, socket.SOCK_STREAM)
            self._sockets.append(listening)
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
            listening.bind((where[0], port, *where[2:]))
            port = listening.getsockname()[1]
            listening.listen(self._limits.backlog)
        self._accepting = [loop.create_task(self._accept(one)) for one in self._sockets]
        return host, port

    async def close(self, grace_s: float) -> None:
        """Accept nothing more; give the streams, which the service has ended, `grace_s` to get rid of what is unsent."""
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        for listening in self._sockets:
            listening.close()
        for opening in tuple(self._openings):
            _cut(opening)
        if self._connections:
            self._all_gone = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._all_gone], timeout=grace_s)
        for connection in tuple(self._connections):
            connection.abort()
        await asyncio.gather(*self._shaking, return_exceptions=True)

    def counts(self) -> tuple[int, int, int]:
        """Openings, connections (openings whose TLS is done among them), and bytes that are held for openings."""
        return len(self._openings), len(self._connections), self._opening_bytes

    # connections

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError as error:
                _log.warning("a connection could not be accepted", reason=str(error))
                await asyncio.sleep(_ACCEPT_PAUSE_S)
                continue
            if len(self._openings) >= self._limits.openings:
                oldest = next(iter(self._openings))
                del self._openings[oldest]
                _cut(oldest)
            self._openings[accepted] = None
            task = loop.create_task(self._shake_hands(accepted))
            self._shaking.add(task)
            task.add_done_callback(self._shaking.discard)

    async def _shake_hands(self, accepted: socket.socket) -> None:
        """Hand the socket to a connection of its own, behind TLS if there is any."""
        accepted.setblocking(False)
        with contextlib.suppress(OSError):
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        opening = _Opening(self, accepted)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: _Connection(self._service, self._limits, opening),
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=self._limits.opening_s if self._tls is not None else None,
                ssl_shutdown_timeout=LINGER_S if self._tls is not None else None,
            )
        except OSError as error:  # TLS's own errors among them
            _log.info("a connection was not made", reason=str(error) or type(error).__name__)
            opening.over()
            accepted.close()

    def opened(self, connection: _Connection) -> None:
        self._connections.add(connection)

    def closed(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        if not self._connections and self._all_gone is not None and not self._all_gone.done():
            self._all_gone.set_result(None)

    def hold(self, size: int) -> bool:
        """Account for `size` more bytes of first frames (or fewer, when it is negative); False when it is too much."""
        self._opening_bytes += size
        return self._opening_bytes <= self._limits.opening_bytes

    def settled(self, accepted: socket.socket) -> None:
        self._openings.pop(accepted, None)


class _Opening:
    """A connection's place among those that are not attached yet."""

    def __init__(self, listener: FramedListener, accepted: socket.socket) -> None:
        self.listener = listener
        self._accepted: socket.socket | None = accepted
        self._held = 0

    def hold(self, size: int) -> bool:
        """`size` bytes of the first frame are there. False: too much."""
        grown, self._held = size - self._held, size
        return self.listener.hold(grown)

    def over(self) -> None:
        """It is attached, or gone."""
        accepted, self._accepted = self._accepted, None
        if accepted is not None:
            self.hold(0)
            self.listener.settled(accepted)


class _Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self, service: MetaService, limits: FramedLimits, opening: _Opening) -> None:
        self._service = service
        self._limits = limits
        self._opening = opening
        self._loop = asyncio.get_running_loop()
        self._deframer = Deframer(limits.frame_bytes)
        self._transport: asyncio.Transport | None = None
        self._peer = ""
        self._http2: strangers.Http2 | None = None  # the client speaks gRPC
        self._session: LiveSession | None = None
        self._stream: Stream | None = None
        self._held: deque[bytes] = deque()  # frames that wait until there is room
        self._waiting: asyncio.Task[None] | None = None  # for the session, or for room
        self._flush_due = False
        self._blocked = False  # the client does not read
        self._ended = False
        self._timer: asyncio.TimerHandle | None = None

    # the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = made = cast("asyncio.Transport", transport)
        made.set_write_buffer_limits(_WRITE_HIGH_BYTES)
        self._peer = str(made.get_extra_info("peername"))
        self._opening.listener.opened(self)
        self._timer = self._loop.call_later(self._limits.opening_s, self._too_slow)

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        if self._http2 is not None:
            self._talk_http2(data)
            return
        try:
            frames = self._deframer.feed(data)
        except NotOurs as stranger:
            self._refuse_stranger(stranger.received)
            return
        except FrameTooLong as error:
            self._refuse(Ending(grpc.StatusCode.RESOURCE_EXHAUSTED, "bad-frame", str(error)))
            return
        stream = self._stream
        if stream is None or self._waiting is not None:
            self._queue(frames)
            return
        service, session = self._service, self._session
        assert session is not None
        assert self._transport is not None
        for at, frame in enumerate(frames):
            if not frame and not self._blocked:
                self._transport.write(PING)
            service.take(session, stream, frame)
            if service.busy(stream):
                self._held.extend(frames[at + 1 :])
                self._wait(self._until_room(stream))
                return

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        self._wake()

    def eof_received(self) -> bool:
        """The client sends no more. What it has asked for may still be on its way to it when it has said goodbye."""
        stream = self._stream
        return stream is not None and stream.detaching

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        self._opening.over()
        self._opening.listener.closed(self)
        if self._waiting is not None and self._session is not None:
            self._waiting.cancel()  # one that attaches goes on: what it has begun in the log must not be left half known
        self._leave()

    # frames

    def _queue(self, frames: list[bytes]) -> None:
        """Keep what came while it cannot be taken."""
        self._held.extend(frames)
        if self._waiting is None and self._held:
            if self._timer is not None:
                self._timer.cancel()
            self._wait(self._attach(self._held.popleft()))
        elif not self._opening.hold(self._deframer.held_bytes):
            self._end(Ending(grpc.StatusCode.RESOURCE_EXHAUSTED, "starting", "too many clients are connecting; try again"))

    def _wait(self, body: Coroutine[None, None, None]) -> None:
        assert self._transport is not None
        self._transport.pause_reading()
        self._waiting = self._loop.create_task(body)

    async def _attach(self, raw: bytes) -> None:
        begun = await self._service.begin(raw)
        self._waiting = None
        self._opening.over()
        if isinstance(begun, Ending):
            self._end(begun)
            return
        self._session, self._stream = begun
        if self._ended:
            self._leave()
            return
        self._stream.on_wake = self._wake
        assert self._transport is not None
        self._transport.write(MAGIC)
        self._flush()
        self._go_on()

    async def _until_room(self, stream: Stream) -> None:
        await self._service.room(stream)
        self._waiting = None
        self._go_on()

    def _go_on(self) -> None:
        """Take what was held, and read again."""
        session, stream, transport = self._session, self._stream, self._transport
        if self._ended or session is None or stream is None or transport is None:
            return
        while self._held:
            frame = self._held.popleft()
            if not frame and not self._blocked:
                transport.write(PING)
            self._service.take(session, stream, frame)
            if self._service.busy(stream):
                self._waiting = self._loop.create_task(self._until_room(stream))
                return
        transport.resume_reading()

    # sending

    def _wake(self) -> None:
        if self._blocked:
            if self._stream is not None and self._stream.ending is not None:
                self._linger()
        elif not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Send what the stream has gathered, and end when it ends."""
        self._flush_due = False
        stream, transport = self._stream, self._transport
        if self._ended or self._blocked or stream is None or transport is None:
            return
        for raw in stream.gather():
            transport.write(framed(raw))
        stream.relieve()
        if stream.ending is not None:
            self._end(stream.ending)

    def _refuse(self, ending: Ending) -> None:
        """Answer what is answered already, then end."""
        if self._stream is None:
            self._end(ending)
            return
        assert self._transport is not None
        self._transport.pause_reading()
        self._held.clear()
        self._stream.end(ending)

    def _end(self, ending: Ending) -> None:
        """Say why, and close."""
        if self._ended:
            return
        if ending.code is grpc.StatusCode.INVALID_ARGUMENT or ending.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            _log.warning("a client was refused", peer=self._peer, reason=ending.reason, detail=ending.detail)
        end = meta_pb2.End(
            code=ending.code.value[0],
            reason=ending.reason,
            detail=wire.printable(ending.detail),
            errno=ending.errno,
            leader=ending.leader,
        )
        greeting = b"" if self._stream is not None else MAGIC
        self._close(greeting + framed(meta_pb2.ServerFrame(end=end).SerializeToString()))

    def _refuse_stranger(self, received: bytes) -> None:
        """Somebody who speaks another protocol, answered in it as far as a person needs to understand."""
        _log.warning("not a KeelFS client", peer=self._peer, first=received[: len(MAGIC)].hex())
        if strangers.Http2.begins(received):
            self._http2 = strangers.Http2()
            self._talk_http2(received)
        elif (answer := strangers.http1(received)) is not None:
            self._close(answer)
        elif received.startswith(strangers.TLS_HANDSHAKE):
            self._close(b"")  # a client with TLS says "wrong version number" at anything else
        else:
            self._end(broken(strangers.HELLO))

    def _talk_http2(self, data: bytes) -> None:
        assert self._http2 is not None
        assert self._transport is not None
        answer, over = self._http2.feed(data)
        if over:
            self._close(answer)
        else:
            self._transport.write(answer)

    def _too_slow(self) -> None:
        self._end(Ending(grpc.StatusCode.UNAVAILABLE, "failed", f"nothing was asked for within {self._limits.opening_s:g} s"))

    def _close(self, last: bytes) -> None:
        transport = self._transport
        self._ended = True
        self._opening.over()
        self._leave()
        if transport is None:
            return
        if last:
            transport.write(last)
        transport.close()
        self._linger()

    def _linger(self) -> None:
        """What is unsent has this long to go out."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(LINGER_S, self.abort)

    def _leave(self) -> None:
        session, stream, self._stream = self._session, self._stream, None
        if session is None or stream is None:
            return
        stream.on_wake = _nothing
        stream.end(DETACHED)  # frees who waits for room in it
        self._service.leave(session, stream)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _nothing() -> None: ...


def _cut(accepted: socket.socket) -> None:
    """End a connection from below, whoever owns it by now."""
    with contextlib.suppress(OSError):
        accepted.shutdown(socket.SHUT_RDWR)
