"""A metadata service for tests of the client: real gRPC on a loopback port, and everything else decided by the test.

It keeps the one promise that the client leans on, results by (session, seq), and records what it saw. `answer` decides what a
request gets: a Response, or None to keep it waiting until the test calls `Stream.send`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from protos import meta_pb2 as pb
from protos import meta_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable

TTL_MS = 30_000
ROOT = 2
SETTINGS = '{"store": "file:///objects", "block_bytes": 1048576, "inline_bytes": 2048, "color": "red"}'


class Stream:
    """One stream as the server sees it."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self.attach = pb.Attach()
        self.frames: list[pb.ClientFrame] = []
        self.ending: asyncio.Future[tuple[grpc.StatusCode, str]] = asyncio.get_running_loop().create_future()

    @property
    def requests(self) -> list[pb.Request]:
        return [request for frame in self.frames for request in frame.requests]

    @property
    def released(self) -> list[int]:
        return [ino for frame in self.frames for ino in frame.released]

    async def send(self, *responses: pb.Response, notifications: list[pb.Notification] | None = None) -> None:
        await self.context.write(pb.ServerFrame(responses=responses, notifications=notifications))

    def end(self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE, reason: str = "") -> None:
        """End the stream with this status."""
        if not self.ending.done():
            self.ending.set_result((code, reason))


class FakeMeta(meta_pb2_grpc.MetaServicer):
    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.refuse_attach: Callable[[pb.Attach], tuple[grpc.StatusCode, str] | None] = lambda attach: None
        self.answer: Callable[[Stream, pb.Request], pb.Response | None] = self.apply
        self.sessions = 0
        self.root = ROOT
        self.volume_id = 9
        self.ttl_ms = TTL_MS
        self.results: dict[tuple[int, int], pb.Response] = {}
        self.applied: list[tuple[int, int, bytes]] = []  # (session, seq, name) in the order of application
        self.port = 0
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self._server = grpc.aio.server()
        meta_pb2_grpc.add_MetaServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        """As a crash: streams break off. `start` takes the same port again."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(None)

    @property
    def live(self) -> Stream:
        """The newest stream."""
        return self.streams[-1]

    def apply(self, stream: Stream, request: pb.Request) -> pb.Response:
        """A change is applied once; its result is given again when it is asked again."""
        key = (stream.attach.session, request.seq)
        if not request.seq:
            return pb.Response(id=request.id, attr=attr(request.getattr.ino))
        if key not in self.results:
            self.applied.append((*key, request.mkdir.name))
            self.results[key] = pb.Response(attr=attr(len(self.applied)))
        response = pb.Response()
        response.CopyFrom(self.results[key])
        response.id = request.id
        return response

    async def Session(self, request_iterator: Any, context: Any) -> None:
        stream = Stream(context)
        first = await context.read()
        stream.attach = first.attach
        refusal = self.refuse_attach(first.attach)
        if refusal is not None:
            await context.abort(refusal[0], "refused", (("keelfs-reason", refusal[1]),))
        resumed = bool(first.attach.session)
        if not resumed:
            self.sessions += 1
            stream.attach.session = self.sessions
        self.streams.append(stream)
        attached = pb.Attached(
            session=stream.attach.session,
            secret=b"secret-%d" % stream.attach.session,
            root=self.root,
            settings_json=SETTINGS,
            ttl_ms=self.ttl_ms,
            resumed=resumed,
            protocol=1,
            volume_id=self.volume_id,
        )
        await context.write(pb.ServerFrame(attached=attached))
        reading = asyncio.create_task(self._read(stream))
        await asyncio.wait([reading, stream.ending], return_when=asyncio.FIRST_COMPLETED)
        reading.cancel()
        if stream.ending.done():
            code, reason = stream.ending.result()
            await context.abort(code, "ended by the test", (("keelfs-reason", reason),) if reason else ())

    async def _read(self, stream: Stream) -> None:
        while True:
            frame = await stream.context.read()
            if frame is grpc.aio.EOF:
                return
            stream.frames.append(frame)
            answers = [self.answer(stream, request) for request in frame.requests]
            found = [answer for answer in answers if answer is not None]
            if found:
                await stream.send(*found)


def attr(ino: int) -> bytes:
    return ino.to_bytes(8, "little") + bytes(120)


async def until(condition: Callable[[], object], what: str = "", timeout_s: float = 10.0) -> None:
    """Let the loop run until `condition()` holds."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"it did not come to pass: {what or condition}")
        await asyncio.sleep(0.002)
