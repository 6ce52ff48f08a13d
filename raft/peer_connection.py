"""One connection to another node: TLS, frames, the handshake, and its end. docs/PEERS.md draws the states.

    SECURING -> GREETING -> WELCOMING -> OPEN -> CLOSED
        \\___________\\___________\\_________\\-> LINGERING -^

- SECURING: TLS, where there is any. GREETING: our Hello is out, theirs is awaited. WELCOMING: theirs is accepted, their Welcome
  is awaited. OPEN: messages pass. LINGERING: we have said why we end it, and wait a moment so that they can read it: a socket
  closed with unread data in it takes its last words along.
- Whatever arrives before OPEN is at most 4 KiB long, and OPEN must be reached within the handshake's time.
- What is sent leaves at once, in order: the caller may block in a sync of its log right after it. What the network does not
  take waits in the transport, up to a limit beyond which the connection ends: consensus sends again what matters.
- The owner is told of everything; after `lost`, of nothing more. It is not called from inside `send`.

It does not know who is a member, nor about other connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, cast

from raft.peer_admission import Reason
from raft.peer_wire import (
    FRAME_BYTES_MAX,
    FrameSplitter,
    Hello,
    Ping,
    Pong,
    Refusal,
    Welcome,
    WireError,
    decode,
    encode,
    framed,
)
from raft.tls_session import TlsFailed, TlsSession

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from raft.messages import Message
    from raft.peer_wire import Control

LINGER_BYTES_MAX: Final = 64 << 10


class State(enum.Enum):
    SECURING = "securing"
    GREETING = "greeting"
    WELCOMING = "welcoming"
    OPEN = "open"
    LINGERING = "lingering"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    queue_bytes_max: int = 64 << 20  # what waits to be sent
    handshake_s: float = 5.0
    linger_s: float = 1.0


class Owner(Protocol):
    """What a connection asks and tells (peer_transport.py)."""

    def made(self, connection: PeerConnection) -> None:
        """There is a socket now."""

    def hello(self) -> Hello:
        """What this node says of itself, as of now."""

    def judge(self, connection: PeerConnection, hello: Hello) -> Refusal | None:
        """Whether that node may come in. It may, if None: from here on the connection has a `hello`."""

    def next_serial(self) -> int:
        """Larger than every one before."""

    def opened(self, connection: PeerConnection) -> None:
        """Messages may pass."""

    def message(self, connection: PeerConnection, message: Message) -> None: ...

    def refused(self, connection: PeerConnection, refusal: Refusal) -> None:
        """The other side does not want us."""

    def lost(self, connection: PeerConnection) -> None:
        """It is over; `why` says why. Exactly once for every connection that was made."""


class PeerConnection(asyncio.Protocol):
    """Made for one socket. `dialed` is whom we called, None when we were called."""

    def __init__(
        self,
        owner: Owner,
        *,
        name: str,
        dialed: str | None,
        context: ssl.SSLContext | None,
        limits: ConnectionLimits,
        clock: Callable[[], float],
    ) -> None:
        self.state = State.SECURING
        self.dialed = dialed
        self.proven: str | None = None  # the node in the verified certificate
        self.secure = context is not None
        self.hello: Hello | None = None  # theirs, once accepted
        self.serial = 0  # what the lower name gave this connection
        self.why = "the other side closed it"
        self.faulted = False  # it ended because the other side is not as it should be
        self.address = "?"
        self.heard_at = clock()
        self.pinged_at = clock()
        self.bytes_in = 0
        self.bytes_out = 0
        self._owner = owner
        self._name = name
        self._limits = limits
        self._clock = clock
        self._tls = TlsSession(context, server_side=dialed is None) if context is not None else None
        self._splitter = FrameSplitter()
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._unread = 0  # bytes taken while lingering
        self._deaf = False  # the stream can no longer be understood

    @property
    def peer(self) -> str | None:
        """The other node, as far as it is known: accepted, proven, or called."""
        return self.hello.name if self.hello is not None else self.proven or self.dialed

    # -- what the owner does -----------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> bool:
        """A frame of `encode`. False when it was dropped: not open, or the queue is full, which ends the connection."""
        transport = self._transport
        if self.state is not State.OPEN or transport is None or transport.is_closing():
            return False
        if transport.get_write_buffer_size() + len(data) > self._limits.queue_bytes_max:
            self.abort(f"{transport.get_write_buffer_size()} bytes wait to be sent and are not taken")
            return False
        return self._write(data)

    def ping(self, number: int) -> None:
        self.pinged_at = self._clock()
        self.send(encode(Ping(number)))

    def abort(self, why: str) -> None:
        """End it at once; what waits to be sent is dropped."""
        if self.state is not State.CLOSED:
            self.state, self.why = State.CLOSED, why
        if self._transport is not None:
            self._transport.abort()

    def close(self, why: str) -> None:
        """End it when what waits has been sent, a moment later at most."""
        if self.state is not State.CLOSED:
            self.state, self.why = State.CLOSED, why
        self._half_close()

    # -- asyncio.Protocol --------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self.state is State.CLOSED:  # given up while it was being made
            self._owner.made(self)
            self._transport.abort()
            return
        self.address = _address_of(self._transport)
        line = self._transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._set_deadline(self._limits.handshake_s, self._too_slow)
        self.heard_at = self._clock()
        self._owner.made(self)
        if self._transport.is_closing():
            return
        if self._tls is None:
            self._greet()
        elif self.dialed is not None:
            self._tls.start()
            self._flush_tls()

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._clock()
        self.bytes_in += len(data)
        if self.state is State.CLOSED:
            return
        if self.state is State.LINGERING:
            self._unread += len(data)
            if self._unread > LINGER_BYTES_MAX:
                self.abort(self.why)
            if self._deaf:
                return
        try:
            self._receive(data)
        except TlsFailed as failed:
            self._flush_tls()
            self._linger(str(failed), deaf=True)
        except WireError as error:
            self.refuse(Refusal(Reason.PROTOCOL, str(error)), deaf=True)

    def eof_received(self) -> None:
        """The default is what is wanted: what waits is sent, and the connection closed."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        if exc is not None and self.state not in (State.CLOSED, State.LINGERING):
            self.why = f"the connection broke: {exc}"
        self.state = State.CLOSED
        self._owner.lost(self)

    # -- receiving ---------------------------------------------------------------------------------------------------------

    def _receive(self, data: bytes) -> None:
        if self._tls is not None:
            data = self._tls.receive(data)
            self._flush_tls()
            if self.state is State.SECURING and self._tls.established and not self._prove():
                return
        if data:
            splitter = self._splitter
            splitter.feed(data)
            while self.state is not State.CLOSED and not self._deaf and (raw := splitter.take()) is not None:
                self._frame(decode(raw))
        if self._tls is not None and self._tls.ended:
            self.close(self.why)  # it may wait for us before it closes

    def _prove(self) -> bool:
        """TLS is established: whose certificate is it?"""
        assert self._tls is not None
        who = self._tls.principal()
        if who is None or who.kind != "node":
            text = f"its certificate is that of {who}, not of a node" if who else "its certificate names no node of a cluster"
            self.refuse(Refusal(Reason.CERTIFICATE, text), deaf=True)
            return False
        self.proven = who.name
        self._greet()
        return True

    def _greet(self) -> None:
        self.state = State.GREETING
        self._write(encode(self._owner.hello()))

    def _frame(self, frame: Message | Control) -> None:
        if isinstance(frame, Refusal):
            self._heard_refusal(frame)
        elif self.state is State.OPEN:
            if isinstance(frame, Ping):
                self.send(encode(Pong(frame.id)))
            elif isinstance(frame, Hello | Welcome):
                raise WireError("a second handshake on one connection")
            elif not isinstance(frame, Pong):
                self._owner.message(self, frame)
        elif self.state is State.GREETING and isinstance(frame, Hello):
            self._heard_hello(frame)
        elif self.state is State.WELCOMING and isinstance(frame, Welcome):
            self._heard_welcome(frame)
        elif self.state is not State.LINGERING:
            raise WireError(f"{type(frame).__name__} in the middle of the handshake")

    def _heard_hello(self, hello: Hello) -> None:
        refusal = self._owner.judge(self, hello)
        if refusal is not None:
            self.refuse(refusal)
            return
        self.hello = hello
        self.state = State.WELCOMING
        if hello.name < self._name:
            self._write(encode(Welcome(self._owner.next_serial())))

    def _heard_welcome(self, welcome: Welcome) -> None:
        assert self.hello is not None
        if self.hello.name < self._name:
            self.serial = welcome.serial
        else:
            self.serial = self._owner.next_serial()
            self._write(encode(Welcome(self.serial)))
        self._open()

    def _open(self) -> None:
        self._cancel_deadline()
        self.state = State.OPEN
        self._splitter.limit = FRAME_BYTES_MAX
        self._owner.opened(self)

    def _heard_refusal(self, refusal: Refusal) -> None:
        """They end it. When both refuse, both hear why."""
        if self.state is not State.LINGERING:
            self.close(f"it refused this node: {refusal.detail}")
        self._owner.refused(self, refusal)

    # -- ending ------------------------------------------------------------------------------------------------------------

    def refuse(self, refusal: Refusal, *, deaf: bool = False) -> None:
        """Say why and end it."""
        if self.state in (State.CLOSED, State.LINGERING):
            self.abort(self.why)
            return
        if self._tls is None or self._tls.established:
            self._write(encode(refusal))
        self._linger(refusal.detail, deaf=deaf)

    def _linger(self, why: str, *, deaf: bool) -> None:
        if self.state in (State.CLOSED, State.LINGERING):
            self.abort(self.why)
            return
        self.state, self.why, self._deaf, self.faulted = State.LINGERING, why, deaf, True
        self._half_close()

    def _half_close(self) -> None:
        """The other side reads to the end of what was sent, and closes; if it does not, a moment later we do."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._set_deadline(self._limits.linger_s, transport.abort)
        with contextlib.suppress(OSError):  # it broke already
            transport.write_eof()

    def _too_slow(self) -> None:
        step = "TLS" if self.state is State.SECURING else "the handshake"
        self.faulted = True
        self.abort(f"{step} was not complete within {self._limits.handshake_s:g} s")

    def _set_deadline(self, seconds: float, action: Callable[[], None]) -> None:
        self._cancel_deadline()
        self._deadline = asyncio.get_running_loop().call_later(seconds, action)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()

    # -- sending -----------------------------------------------------------------------------------------------------------

    def _write(self, data: bytes) -> bool:
        transport = self._transport
        assert transport is not None
        if transport.is_closing():
            return False
        data = framed(data)
        if self._tls is not None:
            try:
                data = self._tls.send(data)
            except TlsFailed as failed:
                self.abort(str(failed))
                return False
        self.bytes_out += len(data)
        transport.write(data)
        return True

    def _flush_tls(self) -> None:
        assert self._tls is not None
        transport = self._transport
        if self.state in (State.LINGERING, State.CLOSED) or transport is None or transport.is_closing():
            return
        if data := self._tls.take():
            self.bytes_out += len(data)
            transport.write(data)
            if transport.get_write_buffer_size() > self._limits.queue_bytes_max:
                self.abort("it asks for TLS messages and does not take them")


def _address_of(transport: asyncio.Transport) -> str:
    name = transport.get_extra_info("peername")
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) and len(name) >= 2 else "?"
