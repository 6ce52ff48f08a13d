"""One gRPC stream of a session: frames out, frames in. The border behind which gRPC's exceptions do not exist.

A stream has a channel of its own, closed with it, so that a new attempt never waits for the back-off of an old connection.
A peer that is silent is found out by HTTP/2 pings, within PING_EVERY_MS + PING_ANSWER_MS.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from typing import TYPE_CHECKING, Final, cast

import grpc
import grpc.aio

from protos import meta_pb2 as pb

if TYPE_CHECKING:
    from fuseclient.volume_url import Address

METHOD: Final = f"/{pb.DESCRIPTOR.services_by_name['Meta'].full_name}/Session"
PROTOCOL: Final = 1
RECEIVE_BYTES_MAX: Final = 16 << 20
SEND_BYTES_MAX: Final = 8 << 20
PING_EVERY_MS: Final = 5_000
PING_ANSWER_MS: Final = 5_000
REASON_KEY: Final = "keelfs-reason"

#: gRPC channel arguments.
OPTIONS: Final[dict[str, int]] = {
    "grpc.keepalive_time_ms": PING_EVERY_MS,
    "grpc.keepalive_timeout_ms": PING_ANSWER_MS,
    "grpc.http2.ping_timeout_ms": PING_ANSWER_MS,  # a minute by default, and the one that ends the connection
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.http2.max_pings_without_data": 0,
    "grpc.http2.bdp_probe": 0,  # it pings along with data
    "grpc.max_send_message_length": SEND_BYTES_MAX,
    "grpc.max_receive_message_length": RECEIVE_BYTES_MAX,
    "grpc.use_local_subchannel_pool": 1,
    "grpc.enable_http_proxy": 0,
    "grpc.enable_retries": 0,
    "grpc.service_config_disable_resolution": 1,
}


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
_BY_STATUS: Final = {
    grpc.StatusCode.NOT_FOUND: StreamEnd.NO_VOLUME,
    grpc.StatusCode.PERMISSION_DENIED: StreamEnd.DENIED,
    grpc.StatusCode.UNAUTHENTICATED: StreamEnd.DENIED,
    grpc.StatusCode.INVALID_ARGUMENT: StreamEnd.INCOMPATIBLE,
    grpc.StatusCode.UNIMPLEMENTED: StreamEnd.INCOMPATIBLE,
}


#: What gRPC says when a stream ends while something is being written to it: the status that the peer sent is lost.
_STATUS_LOST: Final = grpc.StatusCode.INTERNAL
_OPEN_TRIES: Final = 3


class StreamEnded(Exception):
    """The stream has ended; `end` says what to make of it, the text is for people. `vague`: the peer may have said more."""

    def __init__(self, end: StreamEnd, text: str, *, vague: bool = False) -> None:
        super().__init__(text)
        self.end = end
        self.vague = vague


class MetaStream:
    """An attached stream. `write` and `read` may be under way at the same time, each once."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        # Frames are written as bytes that session.py has put together, so the stub's serializer is left out.
        self._call: grpc.aio.StreamStreamCall[bytes, pb.ServerFrame] = channel.stream_stream(
            METHOD, request_serializer=None, response_deserializer=pb.ServerFrame.FromString
        )()
        self._aborted = False

    @classmethod
    async def open(cls, address: Address, attach: pb.Attach, timeout_s: float) -> tuple[MetaStream, pb.Attached]:
        """Connect and attach. Raises StreamEnded."""
        tries = _OPEN_TRIES
        while True:
            tries -= 1
            try:
                return await cls._open(address, attach, timeout_s)
            except StreamEnded as ended:
                if not ended.vague or not tries:
                    raise

    @classmethod
    async def _open(cls, address: Address, attach: pb.Attach, timeout_s: float) -> tuple[MetaStream, pb.Attached]:
        stream = cls(grpc.aio.insecure_channel(str(address), options=tuple(OPTIONS.items())))
        try:
            async with asyncio.timeout(timeout_s):
                await stream.write(pb.ClientFrame(attach=attach).SerializeToString())
                attached = (await stream.read()).attached
            _check(attached)
        except TimeoutError:
            await stream.close()
            raise StreamEnded(StreamEnd.LOST, f"no answer within {timeout_s:g} s") from None
        except BaseException:
            await stream.close()
            raise
        return stream, attached

    async def write(self, frame: bytes) -> None:
        """Hand over one frame; returns when the transport took it. Raises StreamEnded."""
        try:
            await self._call.write(frame)
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from None
        except asyncio.InvalidStateError:
            raise StreamEnded(StreamEnd.LOST, "the stream is closed") from None

    async def read(self) -> pb.ServerFrame:
        """The next frame. Raises StreamEnded."""
        try:
            frame = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._aborted and task is not None and not task.cancelling():
                raise StreamEnded(StreamEnd.LOST, "the stream could not be written to") from None
            raise
        if frame is grpc.aio.EOF:
            raise StreamEnded(StreamEnd.LOST, "the server ended the stream")
        return cast("pb.ServerFrame", frame)

    async def done_writing(self) -> None:
        """Nothing more will be written; the server then ends the stream."""
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._call.done_writing()

    def abort(self) -> None:
        """End it now: whoever reads sees StreamEnded."""
        self._aborted = True
        self._call.cancel()

    async def close(self) -> None:
        self._call.cancel()
        await self._channel.close()


def _check(attached: pb.Attached) -> None:
    if attached.protocol != PROTOCOL or not attached.session or not attached.root:
        raise StreamEnded(
            StreamEnd.INCOMPATIBLE, f"its first answer is protocol {attached.protocol}, this client speaks {PROTOCOL}"
        )


def _translated(error: grpc.aio.AioRpcError) -> StreamEnded:
    reason = ""
    for key, value in error.trailing_metadata() or ():
        if key == REASON_KEY:
            reason = value if isinstance(value, str) else value.decode(errors="replace")
    end = _BY_REASON.get(reason)
    if end is None:
        end = StreamEnd.LOST if reason else _BY_STATUS.get(error.code(), StreamEnd.LOST)
    detail = error.details() or error.code().name
    return StreamEnded(end, f"{detail} ({reason})" if reason else detail, vague=not reason and error.code() is _STATUS_LOST)
