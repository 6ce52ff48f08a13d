"""A metadata service for tests of the client: the framed stream on a loopback port, and everything else decided by the test.

It keeps the one promise that the client leans on, results by (session, seq), and records what it saw. `answer` decides what a
request gets: a Response, or None to keep it waiting until the test calls `Stream.send`. Several of them with one `State` are a
cluster, whose leader is the one that does not refuse.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import grpc

from protos import meta_pb2 as pb
from protos.framing import CLIENT_FRAME_BYTES_MAX, MAGIC, PING, Deframer, framed

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

TTL_MS = 30_000
ROOT = 2
SETTINGS = '{"store": "file:///objects", "block_bytes": 1048576, "inline_bytes": 2048, "color": "red"}'


class Refusal(NamedTuple):
    code: grpc.StatusCode
    reason: str
    leader: str = ""


class State:
    """What a cluster has in common."""

    def __init__(self) -> None:
        self.sessions = 0
        self.results: dict[tuple[int, int], pb.Response] = {}
        self.applied: list[tuple[int, int, bytes]] = []  # (session, seq, name) in the order of application


class Stream(asyncio.Protocol):
    """One connection as the server sees it."""

    def __init__(self, service: FakeMeta) -> None:
        self.service = service
        self.attach = pb.Attach()
        self.frames: list[pb.ClientFrame] = []
        self.pings = 0
        self.over = False
        self.broken = False  # the client has gone
        self._deframer = Deframer(CLIENT_FRAME_BYTES_MAX)
        self._transport: asyncio.Transport

    @property
    def requests(self) -> list[pb.Request]:
        return [request for frame in self.frames for request in frame.requests]

    @property
    def released(self) -> list[int]:
        return [ino for frame in self.frames for ino in frame.released]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.service.connections.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.over = self.broken = True

    def data_received(self, data: bytes) -> None:
        if self.service.frozen:
            self.service.thaw.append(lambda: self.data_received(data))
            return
        for raw in self._deframer.feed(data):
            frame = pb.ClientFrame.FromString(raw)
            if not raw:
                self.pings += 1
                self._transport.write(PING)
            elif frame.HasField("attach"):
                self._attach(frame.attach)
            else:
                self.frames.append(frame)
                found = [answer for request in frame.requests if (answer := self.service.answer(self, request)) is not None]
                if found:
                    self.send(*found)
                if frame.detach:
                    self.end(grpc.StatusCode.OK)

    def _attach(self, attach: pb.Attach) -> None:
        service = self.service
        self.attach = attach
        service.attaches.append(attach)
        refusal = service.refuse_attach(attach)
        if refusal is not None:
            self._transport.write(MAGIC)
            self.end(*refusal)
            return
        resumed = bool(attach.session)
        if not resumed:
            service.state.sessions += 1
            attach.session = service.state.sessions
        service.streams.append(self)
        attached = pb.Attached(
            session=attach.session,
            secret=b"secret-%d" % attach.session,
            root=service.root,
            settings_json=SETTINGS,
            ttl_ms=service.ttl_ms,
            resumed=resumed,
            protocol=1,
            volume_id=service.volume_id,
            addresses=service.addresses,
        )
        self._transport.write(MAGIC)
        self.write(pb.ServerFrame(attached=attached))

    def write(self, frame: pb.ServerFrame) -> None:
        if not self.over:
            self._transport.write(framed(frame.SerializeToString()))

    def send(self, *responses: pb.Response, notifications: list[pb.Notification] | None = None) -> None:
        self.write(pb.ServerFrame(responses=responses, notifications=notifications))

    def send_raw(self, data: bytes) -> None:
        self._transport.write(data)

    def end(self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE, reason: str = "", leader: str = "") -> None:
        """End the stream with this status."""
        if self.over:
            return
        end = pb.End(code=code.value[0], reason=reason, detail="ended by the test" if code.value[0] else "", leader=leader)
        self.write(pb.ServerFrame(end=end))
        self.over = True
        self._transport.close()

    def cut(self) -> None:
        """Break the connection without a word."""
        self._transport.abort()


class FakeMeta:
    def __init__(self, state: State | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.state = state or State()
        self.streams: list[Stream] = []  # attached ones
        self.connections: list[Stream] = []
        self.attaches: list[pb.Attach] = []  # also those that were refused
        self.refuse_attach: Callable[[pb.Attach], Refusal | tuple[grpc.StatusCode, str] | None] = lambda attach: None
        self.answer: Callable[[Stream, pb.Request], pb.Response | None] = self.apply
        self.root = ROOT
        self.volume_id = 9
        self.ttl_ms = TTL_MS
        self.addresses: list[str] = []
        self.frozen = False  # accepts, and does not look at what comes until `wake`
        self.thaw: list[Callable[[], None]] = []
        self.port = 0
        self._tls = tls
        self._server: asyncio.Server | None = None

    @property
    def applied(self) -> list[tuple[int, int, bytes]]:
        return self.state.applied

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Stream(self), "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """As a crash: streams break off. `start` takes the same port again."""
        if self._server is not None:
            server, self._server = self._server, None
            server.close()
            for connection in self.connections:
                connection.cut()
            await server.wait_closed()

    def wake(self) -> None:
        self.frozen = False
        thaw, self.thaw = self.thaw, []
        for step in thaw:
            step()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def live(self) -> Stream:
        """The newest stream."""
        return self.streams[-1]

    def follow(self, leader: str = "") -> None:
        """Be a node that does not lead."""
        self.refuse_attach = lambda attach: Refusal(grpc.StatusCode.UNAVAILABLE, "not-leader", leader)

    def lead(self) -> None:
        self.refuse_attach = lambda attach: None

    def apply(self, stream: Stream, request: pb.Request) -> pb.Response:
        """A change is applied once; its result is given again when it is asked again."""
        key = (stream.attach.session, request.seq)
        if not request.seq:
            return pb.Response(id=request.id, attr=attr(request.getattr.ino))
        results = self.state.results
        if key not in results:
            self.applied.append((*key, request.mkdir.name))
            results[key] = pb.Response(attr=attr(len(self.applied)))
        response = pb.Response()
        response.CopyFrom(results[key])
        response.id = request.id
        return response


def attr(ino: int) -> bytes:
    return ino.to_bytes(8, "little") + bytes(120)


async def until(condition: Callable[[], object], what: str = "", timeout_s: float = 10.0) -> None:
    """Let the loop run until `condition()` holds."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"it did not come to pass: {what or condition}")
        await asyncio.sleep(0.002)
