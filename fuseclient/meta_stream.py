"""One connection of a session: frames out, frames in. The border behind which sockets and TLS do not exist.

    data_received -> Deframer -> ServerFrame -> the receiver          in one call, no task and no wake-up per frame

A stream is attached when `open` returns. What arrives before `start` names a receiver is kept. It ends once, and whatever the
cause, the receiver is told by a StreamEnded. docs/WIRE.md describes what is on the wire.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import ssl
from typing import TYPE_CHECKING, Final, Protocol, cast

from google.protobuf.message import DecodeError

from fuseclient.errors import ClientError
from fuseclient.tls import names_a_node
from fuseclient.volume_url import Address, parse_address
from protos import meta_pb2 as pb
from protos.framing import MAGIC, PING, SERVER_FRAME_BYTES_MAX, Deframer, FrameTooLong, NotOurs, framed

if TYPE_CHECKING:
    from fuseclient.tls import Access

PROTOCOL: Final = 1
_WRITE_HIGH_BYTES: Final = 4 << 20
_TLS_ALERT: Final = b"\x15\x03"
_CLOSED: Final = "the server ended the connection"


class StreamEnd(enum.Enum):
    """Why there is no stream (any more), by what has to be done."""

    LOST = "lost"  # come back and take the session up again
    SESSION_OVER = "session over"  # attach anew
    REPLACED = "replaced"  # another process has the session
    NO_VOLUME = "no volume"
    DENIED = "denied"
    INCOMPATIBLE = "incompatible"  # the two sides do not speak the same protocol


_BY_REASON: Final = {
    "no-session": StreamEnd.SESSION_OVER,
    "session-expired": StreamEnd.SESSION_OVER,
    "bad-frame": StreamEnd.SESSION_OVER,  # our defect: sending the same again would end the same way
    "replaced": StreamEnd.REPLACED,
    "no-volume": StreamEnd.NO_VOLUME,
    "no-subdir": StreamEnd.NO_VOLUME,
    "not-a-directory": StreamEnd.NO_VOLUME,
    "wrong-secret": StreamEnd.DENIED,
    "protocol": StreamEnd.INCOMPATIBLE,
}
#: By gRPC's number, for an end without a reason that is known here.
_BY_CODE: Final = {
    3: StreamEnd.INCOMPATIBLE,  # INVALID_ARGUMENT
    5: StreamEnd.NO_VOLUME,  # NOT_FOUND
    7: StreamEnd.DENIED,  # PERMISSION_DENIED
    12: StreamEnd.INCOMPATIBLE,  # UNIMPLEMENTED
    16: StreamEnd.DENIED,  # UNAUTHENTICATED
}


class StreamEnded(Exception):
    """The stream has ended; `end` says what to make of it, the text is for people. `verdict`: the service said so itself, so it
    holds for the whole cluster and not for this connection only. `hint`: the node that leads, according to this one. `pending`:
    nothing was said, and the attach may still take effect."""

    def __init__(
        self, end: StreamEnd, text: str, *, verdict: bool = False, hint: Address | None = None, pending: bool = False
    ) -> None:
        super().__init__(text)
        self.end = end
        self.verdict = verdict
        self.hint = hint
        self.pending = pending


class Receiver(Protocol):
    """What happens on a stream."""

    def frame(self, frame: pb.ServerFrame) -> None: ...

    def writable(self) -> None:
        """There is room again: `MetaStream.writable` is true."""

    def ended(self, ended: StreamEnded) -> None:
        """Once, and nothing after it."""


class MetaStream(asyncio.Protocol):
    """An attached stream; made by `open`."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.writable = True
        self.received = 0  # frames so far, the server's answers to pings among them
        self._deframer = Deframer(SERVER_FRAME_BYTES_MAX)
        self._transport: asyncio.Transport | None = None
        self._receiver: Receiver | None = None
        self._early: list[pb.ServerFrame] = []
        self._ended: StreamEnded | None = None
        self._encrypted = False
        self._first: asyncio.Future[pb.Attached] = loop.create_future()
        self._gone: asyncio.Future[None] = loop.create_future()

    @classmethod
    async def open(
        cls, address: Address, attach: pb.Attach, timeout_s: float, access: Access
    ) -> tuple[MetaStream, pb.Attached]:
        """Connect and attach. Raises StreamEnded."""
        if (why := access.refusal(address)) is not None:
            raise StreamEnded(StreamEnd.DENIED, why)
        stream: MetaStream | None = None
        try:
            async with asyncio.timeout(timeout_s):
                stream = await cls._connect(address, access)
                stream.write(pb.ClientFrame(attach=attach).SerializeToString(), greeting=MAGIC)
                attached = await stream._first
            _check(attached)
        except TimeoutError:
            if stream is not None:
                stream.abort()
            raise StreamEnded(StreamEnd.LOST, f"no answer within {timeout_s:g} s", pending=True) from None
        except BaseException:
            if stream is not None:
                stream.abort()
            raise
        return stream, attached

    @classmethod
    async def _connect(cls, address: Address, access: Access) -> MetaStream:
        loop = asyncio.get_running_loop()
        try:
            transport, stream = await loop.create_connection(cls, address.host, address.port, ssl=access.tls)
        except TimeoutError:  # of the operating system, or of `open`
            raise
        except OSError as error:  # ssl.SSLError is one
            raise _not_connected(error) from None
        if access.tls is not None and not names_a_node(transport.get_extra_info("peercert")):
            transport.abort()
            raise StreamEnded(StreamEnd.DENIED, "its certificate is the cluster's, but not that of a node")
        return stream

    def start(self, receiver: Receiver) -> None:
        """From now on `receiver` is told of everything, beginning with what came already."""
        self._receiver = receiver
        early, self._early = self._early, []
        for frame in early:
            receiver.frame(frame)
        if self._ended is not None:
            receiver.ended(self._ended)

    def write(self, frame: bytes, greeting: bytes = b"") -> None:
        """Send a frame. It is taken in any case; wait while `writable` is false."""
        if self._transport is not None and self._ended is None:
            self._transport.write(greeting + framed(frame))

    def ping(self) -> None:
        """Make the server say something."""
        if self._transport is not None and self._ended is None:
            self._transport.write(PING)

    def end(self, ended: StreamEnded) -> None:
        """Give it up for this reason."""
        self._finish(ended)

    def abort(self) -> None:
        """Break it off without a word to anybody."""
        self._receiver = None
        self._finish(StreamEnded(StreamEnd.LOST, "the stream was given up"))

    async def close(self) -> None:
        """Break it off, and wait until the connection is gone."""
        self.abort()
        await self._gone

    def leave(self, last: bytes) -> None:
        """Send a last frame and close, without waiting for an answer."""
        self.write(last)
        self._receiver = None
        if self._transport is not None and self._ended is None:
            self._transport.close()

    # the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = made = cast("asyncio.Transport", transport)
        made.set_write_buffer_limits(_WRITE_HIGH_BYTES)
        self._encrypted = made.get_extra_info("ssl_object") is not None

    def data_received(self, data: bytes) -> None:
        if self._ended is not None:
            return
        try:
            for raw in self._deframer.feed(data):
                self.received += 1
                if raw:
                    self._take(pb.ServerFrame.FromString(raw))
        except NotOurs as stranger:
            self._finish(_not_ours(stranger.received))
        except (FrameTooLong, DecodeError) as error:
            self._finish(StreamEnded(StreamEnd.LOST, f"the server sent what cannot be understood: {error}"))

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if self._receiver is not None:
            self._receiver.writable()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._gone.done():
            self._gone.set_result(None)
        if isinstance(exc, ssl.SSLError):
            self._finish(_tls_failure(exc))
        elif isinstance(exc, OSError) and exc.strerror:
            self._finish(StreamEnded(StreamEnd.LOST, exc.strerror))
        elif self._first.done():
            self._finish(StreamEnded(StreamEnd.LOST, _CLOSED))
        elif self._encrypted:
            why = "without a word, as one does that does not accept this client's certificate (--tls-cert)"
            self._finish(StreamEnded(StreamEnd.DENIED, f"{_CLOSED} {why}"))
        else:
            self._finish(StreamEnded(StreamEnd.LOST, f"{_CLOSED} without a word; it may expect TLS (--tls-ca)"))

    def _take(self, frame: pb.ServerFrame) -> None:
        if self._ended is not None:
            return
        if not self._first.done():
            if frame.HasField("end"):
                self._finish(_told(frame.end))
            else:
                self._first.set_result(frame.attached)
        elif not frame.responses and frame.HasField("end"):
            self._finish(_told(frame.end))
        elif self._receiver is not None:
            self._receiver.frame(frame)
        else:
            self._early.append(frame)

    def _finish(self, ended: StreamEnded) -> None:
        if self._ended is not None:
            return
        self._ended = ended
        if self._transport is not None:
            self._transport.abort()
        elif not self._gone.done():
            self._gone.set_result(None)
        if not self._first.done():
            self._first.set_exception(ended)
            self._first.exception()  # seen: whoever waited may be gone
        if self._receiver is not None:
            self._receiver.ended(ended)


def _check(attached: pb.Attached) -> None:
    if attached.protocol != PROTOCOL or not attached.session or not attached.root:
        raise StreamEnded(
            StreamEnd.INCOMPATIBLE, f"its first answer is protocol {attached.protocol}, this client speaks {PROTOCOL}"
        )


def _told(end: pb.End) -> StreamEnded:
    """What the server's last frame means."""
    what = _BY_REASON.get(end.reason)
    if what is None:
        what = StreamEnd.LOST if end.reason else _BY_CODE.get(end.code, StreamEnd.LOST)
    detail = end.detail or _CLOSED
    hint = None
    if end.leader:
        try:
            hint = parse_address(end.leader)
        except ClientError:
            detail = f"{detail} (it names {end.leader[:80]!r} as the leader, which is not an address)"
    return StreamEnded(what, f"{detail} ({end.reason})" if end.reason else detail, verdict=True, hint=hint)


def _not_connected(error: OSError) -> StreamEnded:
    if isinstance(error, ssl.SSLError):
        return _tls_failure(error)
    if isinstance(error, socket.gaierror):
        return StreamEnded(StreamEnd.LOST, f"its name cannot be resolved: {error.strerror}")
    return StreamEnded(StreamEnd.LOST, (error.strerror or str(error) or _CLOSED))


def _tls_failure(error: ssl.SSLError) -> StreamEnded:
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message
        return StreamEnded(StreamEnd.DENIED, f"its certificate is not one of this cluster (--tls-ca): {why}")
    reason = (error.reason or str(error)).lower().replace("_", " ")
    if "alert" in reason:
        return StreamEnded(StreamEnd.DENIED, f"it does not accept this client's certificate (--tls-cert): {reason}")
    return StreamEnded(StreamEnd.LOST, f"it does not speak TLS ({reason}): leave --tls-ca away, or let the server use TLS")


def _not_ours(received: bytes) -> StreamEnded:
    if received.startswith(_TLS_ALERT):
        return StreamEnded(StreamEnd.LOST, "it expects TLS: give --tls-ca (and --tls-cert, --tls-key)")
    shown = received[: 2 * len(MAGIC)]
    return StreamEnded(StreamEnd.INCOMPATIBLE, f"what answers there is not the client port of a KeelFS server ({shown!r})")
