"""The Meta service: the door through which streams come, open while this node leads.

Two transports bring frames as bytes, and send what the stream has gathered: framed.py, which clients use, and gRPC's
Meta.Session (`session`, at the end of the class). Both do the same: `begin` with the first frame, `take` with each that
follows, `room` while the service is `busy`, and `leave` when the stream has ended. What frames mean is the business of
conversations.py; a stream stays with the conversations that it began with, whatever becomes of this node meanwhile.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import grpc
import structlog

from metaserver import wire
from metaserver.streams import DETACHED, FAILED, Ending

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.conversations import Conversations
    from metaserver.sessions import LiveSession
    from metaserver.streams import Stream

    Context = grpc.aio.ServicerContext[bytes, bytes]

_log = structlog.get_logger(__name__)

SERVICE: Final = "keelfs.meta.v1.Meta"

#: gRPC's own limit stands a little above ours, so that a frame just beyond ours gets our message.
GRPC_OPTIONS: Final = (
    ("grpc.max_receive_message_length", wire.FRAME_BYTES_MAX + (64 << 10)),
    ("grpc.max_send_message_length", -1),
    ("grpc.http2.max_ping_strikes", 0),  # an idle client pings every few seconds, to notice soon that we are gone
    ("grpc.so_reuseport", 0),  # else a second server would share the port instead of being told that it is taken
)


class MetaService:
    """Serves Meta.Session. `current` gives who talks to clients now, or why nobody does."""

    def __init__(self, current: Callable[[], Conversations | Ending], on_fatal: Callable[[BaseException], None]) -> None:
        self._current = current
        self._on_fatal = on_fatal

    def handler(self) -> grpc.GenericRpcHandler:
        """For grpc.aio.Server.add_generic_rpc_handlers: bytes in, bytes out."""
        method: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(self.session)
        return grpc.method_handlers_generic_handler(SERVICE, {"Session": method})

    # --- one stream, whatever brings its frames ---

    async def begin(self, raw: bytes) -> tuple[LiveSession, Stream] | Ending:
        """Attach with the first frame: the session and its new stream, which holds `attached` already, or why there is none."""
        current = self._current()
        return current if isinstance(current, Ending) else await current.begin(raw)

    def take(self, session: LiveSession, stream: Stream, raw: bytes) -> None:
        """One more frame. What is wrong with it ends the stream."""
        assert stream.home is not None
        stream.home.take(session, stream, raw)

    def busy(self, stream: Stream) -> bool:
        """Whether `room` would wait: the next frame should not be taken yet."""
        assert stream.home is not None
        return stream.home.busy(stream)

    async def room(self, stream: Stream) -> None:
        """Return when there is room for what comes, or the stream ends."""
        assert stream.home is not None
        await stream.home.room(stream)

    def leave(self, session: LiveSession, stream: Stream) -> None:
        """The stream has ended, one way or the other. The session lives on until its time is over."""
        assert stream.home is not None
        stream.home.leave(session, stream)

    # --- gRPC's stream ---

    async def session(self, _requests: object, context: Context) -> None:
        """The handler of Meta.Session."""
        try:
            ending = await self._serve(context)
        except (grpc.aio.BaseError, grpc.RpcError) as error:
            _log.debug("a stream broke", peer=context.peer(), error=str(error))
            return
        if ending.code is grpc.StatusCode.OK:
            return
        trailers = [("keelfs-reason", ending.reason)]
        if ending.errno:
            trailers.append(("keelfs-errno", str(ending.errno)))
        if ending.leader:
            trailers.append(("keelfs-leader", ending.leader))
        if ending.code is grpc.StatusCode.INVALID_ARGUMENT:
            _log.warning("a client broke the protocol", peer=context.peer(), detail=ending.detail)
        await context.abort(ending.code, wire.printable(ending.detail), tuple(trailers))

    async def _serve(self, context: Context) -> Ending:
        raw = await _read(context)
        if raw is None:
            current = self._current()
            return current if isinstance(current, Ending) else DETACHED
        begun = await self.begin(raw)
        if isinstance(begun, Ending):
            return begun
        session, stream = begun
        reader = asyncio.create_task(self._read_all(context, session, stream), name=f"session {session.id}")
        try:
            return await stream.send_all(context.write)
        finally:
            reader.cancel()
            self.leave(session, stream)

    async def _read_all(self, context: Context, session: LiveSession, stream: Stream) -> None:
        """Take frames until the stream ends, one way or the other."""
        try:
            while stream.ending is None:
                raw = await _read(context)
                if raw is None:
                    if not stream.detaching:
                        stream.end(DETACHED)
                    return
                self.take(session, stream, raw)
                if self.busy(stream):
                    await self.room(stream)
        except (grpc.aio.BaseError, grpc.RpcError) as error:
            stream.end(Ending(grpc.StatusCode.UNAVAILABLE, "failed", str(error)))
        except Exception as error:
            self._on_fatal(error)
            stream.end(FAILED)


async def _read(context: Context) -> bytes | None:
    """The next frame; None when the client sends no more."""
    raw: object = await context.read()
    return raw if isinstance(raw, bytes) else None
