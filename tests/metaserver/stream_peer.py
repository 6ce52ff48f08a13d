"""A client for tests that speaks frames, no more: what it sends and what it gets are in plain sight."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc

from metaserver.config import ServerConfig
from metaserver.server import Server
from protos import admin_pb2, admin_pb2_grpc, meta_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

DEADLINE_S = 10.0


def channel(address: str, credentials: grpc.ChannelCredentials | None, options: Any = ()) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, credentials, options=options)


class Peer:
    """One stream."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        options = [("grpc.max_receive_message_length", 16 << 20), ("grpc.max_send_message_length", -1)]
        self._channel = channel(address, credentials, options)
        self.call: Any = self._channel.stream_stream("/keelfs.meta.v1.Meta/Session")()
        self.attached = meta_pb2.Attached()
        self.notes: list[meta_pb2.Notification] = []
        self.order: list[str] = []  # what came, in order: "r<id>" and "n"
        self._answers: dict[int, meta_pb2.Response] = {}
        self._changed = asyncio.Condition()
        self._reader: asyncio.Task[None] | None = None
        self._next = 0
        self.seq = 0

    async def attach(self, volume: str = "vol", **fields: Any) -> Peer:
        fields = {"protocol": 1, "client": "test"} | fields
        await self.send(meta_pb2.ClientFrame(attach=meta_pb2.Attach(volume=volume, **fields)))
        raw = await asyncio.wait_for(self.call.read(), DEADLINE_S)
        if raw is grpc.aio.EOF:
            raise AssertionError(await self.ending())
        self.attached = meta_pb2.ServerFrame.FromString(raw).attached
        self._reader = asyncio.create_task(self._read())
        return self

    @property
    def root(self) -> int:
        return self.attached.root

    async def _read(self) -> None:
        try:
            while (raw := await self.call.read()) is not grpc.aio.EOF:
                frame = meta_pb2.ServerFrame.FromString(raw)
                async with self._changed:
                    for response in frame.responses:
                        self._answers[response.id] = response
                        self.order.append(f"r{response.id}")
                    self.notes.extend(frame.notifications)
                    self.order.extend("n" for _ in frame.notifications)
                    self._changed.notify_all()
        except grpc.aio.AioRpcError:
            pass

    async def send(self, frame: meta_pb2.ClientFrame) -> None:
        await self.call.write(frame.SerializeToString())

    async def until(self, condition: Callable[[], Any]) -> None:
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(condition), DEADLINE_S)

    async def read(self, **op: Any) -> meta_pb2.Response:
        return (await self.ask([meta_pb2.Request(**op)]))[0]

    async def change(self, *, seq: int | None = None, **op: Any) -> meta_pb2.Response:
        if seq is None:
            self.seq += 1
            seq = self.seq
        return (await self.ask([meta_pb2.Request(seq=seq, **op)]))[0]

    async def ask(self, requests: list[meta_pb2.Request], **frame: Any) -> list[meta_pb2.Response]:
        ids = []
        for request in requests:
            self._next += 1
            request.id = self._next
            ids.append(request.id)
        await self.send(meta_pb2.ClientFrame(requests=requests, **frame))
        await self.until(lambda: all(number in self._answers for number in ids))
        return [self._answers.pop(number) for number in ids]

    async def create(self, name: bytes, parent: int | None = None, **fields: Any) -> meta_pb2.Response:
        made = meta_pb2.Create(parent=parent or self.root, name=name, mode=0o644, **fields)
        return await self.change(create=made)

    async def unlink(self, name: bytes, parent: int | None = None) -> meta_pb2.Response:
        return await self.change(unlink=meta_pb2.Unlink(parent=parent or self.root, name=name))

    async def lookup(self, name: bytes, parent: int | None = None) -> meta_pb2.Response:
        return await self.read(lookup=meta_pb2.Lookup(parent=parent or self.root, name=name))

    async def ending(self) -> tuple[grpc.StatusCode, str, str]:
        """How the stream ended: code, keelfs-reason, detail."""
        code = await asyncio.wait_for(self.call.code(), DEADLINE_S)
        trailers = dict(await self.call.trailing_metadata() or ())
        return code, str(trailers.get("keelfs-reason", "")), await self.call.details()

    async def close(self) -> None:
        """Break the stream, as a crash of the client does."""
        self.call.cancel()
        if self._reader is not None:
            self._reader.cancel()
        await self._channel.close()


def ino_of(response: meta_pb2.Response) -> int:
    assert not response.errno, response
    return int.from_bytes(response.attr[:8], "little")


class Harness:
    """A server in this process."""

    def __init__(self, server: Server, listen: str, admin: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        self.server = server
        self.credentials = credentials
        self.listen = listen
        self.admin = admin
        self._peers: list[Peer] = []

    async def peer(self, **attach: Any) -> Peer:
        return await self.stranger().attach(**attach)

    def stranger(self) -> Peer:
        """A stream that has not attached."""
        peer = Peer(self.admin, self.credentials)
        self._peers.append(peer)
        return peer

    @asynccontextmanager
    async def admin_stub(self) -> AsyncIterator[Any]:
        async with channel(self.admin, self.credentials) as opened:
            yield admin_pb2_grpc.AdminStub(opened)

    async def make_volume(self, name: str = "vol", **settings: Any) -> admin_pb2.Volume:
        text = json.dumps({"store": "file:///tmp/nowhere"} | settings)
        async with self.admin_stub() as stub:
            made = await stub.CreateVolume(admin_pb2.CreateVolumeRequest(name=name, settings_json=text))
        assert isinstance(made, admin_pb2.Volume)
        return made

    async def close_peers(self) -> None:
        for peer in self._peers:
            await peer.close()


@asynccontextmanager
async def serving(directory: Path, *, volume: bool = True, **config: Any) -> AsyncIterator[Harness]:
    """A running server on `directory`, with a volume "vol"."""
    addresses = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"}
    server = Server(ServerConfig(data_dir=directory, stop_grace_s=1.0, **(addresses | config)))
    harness = None
    try:
        ready = await server.start()
        harness = Harness(server, ready.listen, ready.admin)
        if volume:
            await harness.make_volume()
        yield harness
    finally:
        if harness is not None:
            await harness.close_peers()
        await server.stop()
