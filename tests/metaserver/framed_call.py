"""The framed stream in the clothes of a gRPC call, as far as stream_peer.py wears them, so that one suite fits both."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from stream_peer import Peer

from protos import meta_pb2
from protos.framing import MAGIC, SERVER_FRAME_BYTES_MAX, Deframer, framed

if TYPE_CHECKING:
    from collections.abc import Iterator

CODES = {code.value[0]: code for code in grpc.StatusCode}


class FramedCall:
    """One connection; made at the first write, as gRPC does."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._deframer = Deframer(SERVER_FRAME_BYTES_MAX)
        self._frames: list[bytes] = []
        self._end: asyncio.Future[meta_pb2.End] = asyncio.get_running_loop().create_future()
        self._opened: asyncio.Task[tuple[asyncio.StreamReader, asyncio.StreamWriter]] | None = None
        self._reading = asyncio.Lock()

    async def _streams(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._opened is None:
            self._opened = asyncio.create_task(asyncio.open_connection(self._host, self._port))
            (await self._opened)[1].write(MAGIC)
        return await self._opened

    async def write(self, frame: bytes) -> None:
        _, writer = await self._streams()
        writer.write(framed(frame))

    async def read(self) -> Any:
        """The next frame with something in it; EOF after an end, or without one."""
        reader, _ = await self._streams()
        async with self._reading:
            while True:
                while self._frames:
                    raw = self._frames.pop(0)
                    frame = meta_pb2.ServerFrame.FromString(raw)
                    if frame.HasField("end"):
                        assert frame == meta_pb2.ServerFrame(end=frame.end)  # alone
                        assert not self._frames  # and last
                        self._end.set_result(frame.end)
                        return grpc.aio.EOF
                    if raw:
                        return raw
                if self._end.done() or not (data := await self._receive(reader)):
                    if not self._end.done():
                        self._end.set_result(meta_pb2.End(code=14, detail="the connection is gone"))
                    return grpc.aio.EOF
                self._frames += self._deframer.feed(data)

    async def _receive(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.read(1 << 18)
        except ConnectionError:
            return b""

    async def _ended(self) -> meta_pb2.End:
        while not self._end.done():
            await self.read()
        return await self._end

    async def code(self) -> grpc.StatusCode:
        return CODES[(await self._ended()).code]

    async def details(self) -> str:
        return (await self._ended()).detail

    async def trailing_metadata(self) -> Iterator[tuple[str, str]]:
        end = await self._ended()
        told = {"keelfs-reason": end.reason, "keelfs-errno": str(end.errno or ""), "keelfs-leader": end.leader}
        return iter([(key, value) for key, value in told.items() if value])

    def cancel(self) -> None:
        if self._opened is not None and self._opened.done() and not self._opened.exception():
            self._opened.result()[1].transport.abort()

    async def close(self) -> None:
        """As a channel's."""
        self.cancel()


class FramedPeer(Peer):
    """A peer on the clients' port."""

    def __init__(self, address: str) -> None:
        self.call = FramedCall(address)
        self._channel = self.call  # type: ignore[assignment]
        self.attached = meta_pb2.Attached()
        self.notes = []
        self.order = []
        self._answers = {}
        self._changed = asyncio.Condition()
        self._reader = None
        self._next = 0
        self.seq = 0
