"""The port for clients, with a service that the test leads: whoever connects, and however badly, is answered or cut off, in
bounded memory, and nobody else notices."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import grpc
import grpc.aio
import pytest

from metaserver.framed import FramedLimits, FramedListener
from metaserver.streams import DETACHED, STARTING, Ending, Stream
from protos import meta_pb2 as pb
from protos.framing import MAGIC, PING, Deframer, framed
from raft.certificates import make_ca, make_client, make_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from metaserver.service import MetaService

DEADLINE_S = 10.0
ATTACH = framed(pb.ClientFrame(attach=pb.Attach(volume="v")).SerializeToString())


class FakeService:
    """What FramedListener asks of MetaService. Answers every request with its id; `full` makes it busy."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.left = 0
        self.taken: list[bytes] = []
        self.full = False
        self.refusal: Ending | None = None
        self.gate: asyncio.Event | None = None
        self._relief = asyncio.Event()

    async def begin(self, raw: bytes) -> tuple[object, Stream] | Ending:
        if self.gate is not None:
            await self.gate.wait()
        if self.refusal is not None:
            return self.refusal
        assert pb.ClientFrame.FromString(raw).HasField("attach")
        stream = Stream()
        stream.frame.attached.session = len(self.streams) + 1
        stream.cut()
        self.streams.append(stream)
        return object(), stream

    def take(self, session: object, stream: Stream, raw: bytes) -> None:
        if stream.ending is not None:
            return
        self.taken.append(raw)
        frame = pb.ClientFrame.FromString(raw)
        for request in frame.requests:
            stream.frame.responses.add(id=request.id, data=request.setxattr.value)
        stream.wake()
        if frame.detach:
            stream.detaching = True
            stream.end(DETACHED)

    def busy(self, stream: Stream) -> bool:
        return self.full

    async def room(self, stream: Stream) -> None:
        self._relief.clear()
        await self._relief.wait()

    def relieve(self) -> None:
        self.full = False
        self._relief.set()

    def leave(self, session: object, stream: Stream) -> None:
        self.left += 1


class Raw:
    """A connection that sends what it is told, and takes apart what comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._deframer = Deframer(16 << 20)
        self._frames: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def next(self) -> pb.ServerFrame | None:
        """The next frame that is not empty; None at the end of the connection."""
        while not self._frames:
            try:
                data = await asyncio.wait_for(self.reader.read(1 << 16), DEADLINE_S)
            except ConnectionError:
                return None
            if not data:
                return None
            self._frames += self._deframer.feed(data)
        return pb.ServerFrame.FromString(self._frames.pop(0))

    async def all(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(), DEADLINE_S)

    async def end(self) -> pb.End:
        """How the server ends it; asserts that it closes then."""
        frame = await self.next()
        while frame is not None and not frame.HasField("end"):
            frame = await self.next()
        assert frame is not None, "the connection ended without a word"
        assert await self.next() is None
        return frame.end


class Port:
    """A listener and its address."""

    def __init__(self, service: FakeService, listener: FramedListener, address: tuple[str, int]) -> None:
        self.service = service
        self.listener = listener
        self.host, self.port = address
        self._raws: list[Raw] = []

    async def raw(self, data: bytes = b"", tls: ssl.SSLContext | None = None) -> Raw:
        raw = Raw(*await asyncio.open_connection(self.host, self.port, ssl=tls, limit=1 << 24))
        self._raws.append(raw)
        raw.send(data)
        return raw

    async def attached(self) -> Raw:
        raw = await self.raw(MAGIC + ATTACH)
        frame = await raw.next()
        assert frame is not None
        assert frame.attached.session
        return raw

    async def close(self) -> None:
        await self.listener.close(0.2)
        for raw in self._raws:
            raw.writer.close()


@asynccontextmanager
async def listening(limits: FramedLimits | None = None, tls: ssl.SSLContext | None = None) -> AsyncIterator[Port]:
    service = FakeService()
    listener = FramedListener(cast("MetaService", service), tls, limits)
    port = Port(service, listener, await listener.start("127.0.0.1", 0))
    try:
        yield port
    finally:
        service.relieve()
        await port.close()


async def until(condition: Callable[[], object], what: str) -> None:
    deadline_s = asyncio.get_running_loop().time() + DEADLINE_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline_s, f"it did not come to pass: {what}"
        await asyncio.sleep(0.002)


def ask(*numbers: int, data: bytes = b"") -> bytes:
    requests = [pb.Request(id=number, setxattr=pb.SetXattr(value=data)) for number in numbers]
    return framed(pb.ClientFrame(requests=requests).SerializeToString())


# --- a stream ---


async def test_frames_in_pieces_of_every_size() -> None:
    async with listening() as port:
        stream = MAGIC + ATTACH + ask(1) + PING + ask(2, 3) + ask(4, data=bytes(300_000))
        for size in (1, 3, 7, 100_000):
            raw = await port.raw()
            for at in range(0, min(len(stream), 400 * size), size):
                raw.send(stream[at : at + size])
                await raw.writer.drain()
                if size < 100:
                    await asyncio.sleep(0)
            if size == 1:  # the beginning is enough
                assert (await raw.next()) is not None
                continue
            raw.send(stream[min(len(stream), 400 * size) :])
            seen: list[int] = []
            frame = await raw.next()
            assert frame is not None
            while seen != [1, 2, 3, 4]:
                frame = await raw.next()
                assert frame is not None
                seen += [response.id for response in frame.responses]


async def test_answers_of_one_turn_share_a_frame() -> None:
    async with listening() as port:
        raw = await port.attached()
        raw.send(ask(1) + ask(2) + ask(3))
        frame = await raw.next()
        assert frame is not None
        assert [response.id for response in frame.responses] == [1, 2, 3]


async def test_a_ping_is_answered_and_counts_as_a_sign_of_life() -> None:
    async with listening() as port:
        raw = await port.attached()
        raw.send(PING)
        assert await asyncio.wait_for(raw.reader.readexactly(4), DEADLINE_S) == PING
        assert port.service.taken == [b""]


async def test_a_refused_attach_says_everything() -> None:
    async with listening() as port:
        port.service.refusal = Ending(grpc.StatusCode.UNAVAILABLE, "not-leader", "ask n2", 11, "10.0.0.2:7420")
        end = await (await port.raw(MAGIC + ATTACH)).end()
        assert (end.code, end.reason, end.detail, end.errno, end.leader) == (14, "not-leader", "ask n2", 11, "10.0.0.2:7420")


async def test_what_was_answered_leaves_before_the_end() -> None:
    async with listening() as port:
        raw = await port.attached()
        (stream,) = port.service.streams
        stream.frame.responses.add(id=7)
        stream.end(STARTING)
        frame = await raw.next()
        assert frame is not None
        assert [response.id for response in frame.responses] == [7]
        assert (await raw.end()).reason == "starting"
        assert port.service.left == 1


async def test_goodbye() -> None:
    async with listening() as port:
        raw = await port.attached()
        raw.send(framed(pb.ClientFrame(detach=True).SerializeToString()))
        raw.writer.write_eof()
        end = await raw.end()
        assert (end.code, end.reason) == (0, "")


async def test_frames_sent_before_the_answer_to_attach_are_kept_in_order() -> None:
    async with listening() as port:
        port.service.gate = asyncio.Event()
        raw = await port.raw(MAGIC + ATTACH + ask(1) + ask(2))
        raw.send(ask(3))
        await asyncio.sleep(0)
        port.service.gate.set()
        await raw.next()
        seen: list[int] = []
        while len(seen) < 3:
            frame = await raw.next()
            assert frame is not None
            seen += [response.id for response in frame.responses]
        assert seen == [1, 2, 3]


async def test_a_client_that_leaves_while_it_attaches_leaves_no_stream_behind() -> None:
    async with listening() as port:
        port.service.gate = asyncio.Event()
        raw = await port.raw(MAGIC + ATTACH)
        await until(lambda: port.listener.counts()[1] == 1, "the connection")
        raw.writer.transport.abort()
        port.service.gate.set()
        await until(lambda: port.service.left == 1, "the stream is let go")


# --- holding back ---


async def test_while_the_service_is_busy_nothing_more_is_read() -> None:
    async with listening() as port:
        raw = await port.attached()
        port.service.full = True
        chunk = ask(9, data=bytes(1 << 20))
        for _ in range(64):
            raw.send(chunk)
        await until(lambda: port.service.taken, "the first frame")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(raw.writer.drain(), 0.3)  # the sockets' buffers are full
        assert len(port.service.taken) == 1
        port.service.relieve()
        await until(lambda: len(port.service.taken) == 64, "all frames")


async def test_a_client_that_does_not_read_is_not_written_to_without_end() -> None:
    async with listening() as port:
        raw = await port.attached()
        raw.reader._transport.pause_reading()  # type: ignore[attr-defined]
        (stream,) = port.service.streams
        answered = 0
        while stream.backlog_bytes < 4 << 20:
            stream.frame.responses.add(id=1, data=bytes(1 << 20))
            stream.account(1 << 20)
            stream.wake()
            answered += 1
            await asyncio.sleep(0)
            assert answered < 200, "everything was taken"
        raw.reader._transport.resume_reading()  # type: ignore[attr-defined]
        seen = 0
        while seen < answered:
            frame = await raw.next()
            assert frame is not None
            seen += len(frame.responses)


async def test_a_client_that_does_not_read_its_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaserver.framed.LINGER_S", 0.1)
    async with listening() as port:
        raw = await port.attached()
        raw.reader._transport.pause_reading()  # type: ignore[attr-defined]
        (stream,) = port.service.streams
        while stream.backlog_bytes < 4 << 20:
            stream.frame.responses.add(id=1, data=bytes(1 << 20))
            stream.account(1 << 20)
            stream.wake()
            await asyncio.sleep(0)
        stream.end(STARTING)
        await until(lambda: port.listener.counts()[1] == 0, "the connection is cut")


# --- bad callers ---


@pytest.mark.parametrize(
    "garbage",
    [
        b"hello, is this the metadata server?\n",
        b"\0" * 100,
        b"\xff" * 100_000,
        MAGIC[:-1] + b"2",
        b"K",
        MAGIC + b"\xff\xff\xff\xff",
        MAGIC + (1 << 30).to_bytes(4, "big") + b"x" * 1000,
    ],
)
async def test_garbage_is_answered_and_the_connection_closed(garbage: bytes) -> None:
    async with listening(FramedLimits(opening_s=0.3)) as port:
        good = await port.attached()
        end = await (await port.raw(garbage)).end()
        assert end.reason in ("bad-frame", "failed")
        assert end.detail
        good.send(ask(5))
        assert (await good.next()) is not None


@pytest.mark.parametrize("size", [(8 << 20) + 1, 1 << 30, 0xFFFFFFFF])
async def test_a_length_beyond_the_limit_ends_a_stream_before_anything_is_allocated(size: int) -> None:
    async with listening() as port:
        raw = await port.attached()
        raw.send(ask(1) + size.to_bytes(4, "big") + b"the beginning")
        frame = await raw.next()
        assert frame is not None
        assert frame.responses or frame.HasField("end")
        end = frame.end if frame.HasField("end") else await raw.end()
        assert (end.code, end.reason) == (8, "bad-frame")
        assert "8388608" in end.detail


async def test_the_largest_frame_is_taken() -> None:
    async with listening() as port:
        raw = await port.attached()
        filler = bytes((8 << 20) - len(ask(1, data=bytes(7 << 20))) + (7 << 20) + 4)
        frame = ask(1, data=filler)
        assert len(frame) == (8 << 20) + 4
        raw.send(frame)
        answer = await raw.next()
        assert answer is not None
        assert answer.responses[0].data == filler


async def test_a_grpc_client_is_told_where_grpc_is_spoken() -> None:
    async with listening() as port:
        channel = grpc.aio.insecure_channel(f"{port.host}:{port.port}")
        call: Any = channel.unary_unary("/keelfs.admin.v1.Admin/Status")
        with pytest.raises(grpc.aio.AioRpcError, match="admin port") as refused:
            await call(b"", timeout=DEADLINE_S)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        await channel.close()


@pytest.mark.parametrize("size", [1, 5, 30, 10_000])
async def test_what_only_begins_like_grpc_is_cut_off_in_time(size: int) -> None:
    babble = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + (b"\0\xff\xff\4" + bytes(65540)) * 4
    async with listening(FramedLimits(opening_s=0.2)) as port:
        raw = await port.raw()
        for at in range(0, min(len(babble), 40 * size), size):
            raw.send(babble[at : at + size])
            await asyncio.sleep(0)
        await until(lambda: port.listener.counts() == (0, 0, 0), "the end of it")


async def test_a_web_browser_is_told_too() -> None:
    async with listening() as port:
        answer = await (await port.raw(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")).all()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"admin port" in answer


async def test_tls_to_a_port_in_plain_text_is_closed_at_once() -> None:
    async with listening() as port:
        context = ssl.create_default_context()
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await port.raw(tls=context)


@pytest.mark.parametrize("sent", [b"", MAGIC[:3], MAGIC, MAGIC + ATTACH[:-1], MAGIC + b"\0\0"])
async def test_a_half_open_connection_is_given_up(sent: bytes) -> None:
    async with listening(FramedLimits(opening_s=0.1)) as port:
        end = await (await port.raw(sent)).end()
        assert (end.code, end.reason) == (14, "failed")
        await until(lambda: port.listener.counts() == (0, 0, 0), "everything is given back")


async def test_an_attached_stream_is_not_given_up() -> None:
    async with listening(FramedLimits(opening_s=0.05)) as port:
        raw = await port.attached()
        await asyncio.sleep(0.15)  # longer than an opening may take
        raw.send(ask(1))
        assert (await raw.next()) is not None


async def test_too_many_openings_push_the_oldest_out() -> None:
    async with listening(FramedLimits(openings=3)) as port:
        idle = [await port.raw(MAGIC) for _ in range(3)]
        await until(lambda: port.listener.counts()[0] == 3, "three openings")
        await port.attached()
        assert await idle[0].next() is None
        for other in idle[1:]:
            other.send(ATTACH)
            assert (await other.next()) is not None


async def test_first_frames_together_have_a_bound() -> None:
    async with listening(FramedLimits(opening_bytes=1 << 20)) as port:
        length = (4 << 20).to_bytes(4, "big")
        patient = [await port.raw(MAGIC + length + bytes(400_000)) for _ in range(2)]
        await until(lambda: port.listener.counts()[2] > 800_000, "their bytes")
        end = await (await port.raw(MAGIC + length + bytes(400_000))).end()
        assert end.code == 8
        await port.attached()
        for raw in patient:
            raw.writer.transport.abort()
        await until(lambda: port.listener.counts()[2] == 0, "their bytes are given back")


async def test_a_port_that_is_taken() -> None:
    async with listening() as port:
        other = FramedListener(cast("MetaService", FakeService()))
        with pytest.raises(OSError, match="in use"):
            await other.start(port.host, port.port)
        await other.close(0.0)


async def test_a_name_is_listened_on_at_all_its_addresses() -> None:
    listener = FramedListener(cast("MetaService", FakeService()))
    host, port = await listener.start("localhost", 0)
    assert (host, port > 0) == ("localhost", True)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    await listener.close(0.0)


async def test_close_ends_everything_in_its_time() -> None:
    async with listening() as port:
        attached = await port.attached()
        await port.raw(MAGIC)
        await until(lambda: port.listener.counts()[:2] == (1, 2), "an opening and a stream")
        (stream,) = port.service.streams
        stream.end(STARTING)
        await asyncio.wait_for(port.listener.close(5.0), 2.0)
        assert (await attached.end()).reason == "starting"
        assert port.listener.counts() == (0, 0, 0)
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((port.host, port.port))


# --- TLS ---


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    make_ca(directory)
    make_node(directory, "n1", ["127.0.0.1"])
    make_client(directory, "c1")
    return directory


def contexts(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(directory / "n1.crt", directory / "n1.key")
    server.load_verify_locations(directory / "ca.crt")
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_cert_chain(directory / "c1.crt", directory / "c1.key")
    client.load_verify_locations(directory / "ca.crt")
    return server, client


async def test_a_stream_behind_tls(certificates: Path) -> None:
    server, client = contexts(certificates)
    async with listening(tls=server) as port:
        raw = await port.raw(MAGIC + ATTACH + ask(1), tls=client)
        assert (await raw.next()) is not None
        answer = await raw.next()
        assert answer is not None
        assert answer.responses[0].id == 1
        raw.send(framed(pb.ClientFrame(detach=True).SerializeToString()))
        assert (await raw.end()).code == 0


async def test_tls_openings_are_bounded_in_time_and_number(certificates: Path) -> None:
    server, client = contexts(certificates)
    async with listening(FramedLimits(opening_s=0.2, openings=3), tls=server) as port:
        silent = [await port.raw() for _ in range(3)]
        await until(lambda: port.listener.counts()[0] == 3, "three openings")
        raw = await port.raw(MAGIC + ATTACH, tls=client)
        assert (await raw.next()) is not None
        for one in silent:
            assert await one.all() == b""
        plain = await port.raw(MAGIC + ATTACH)
        answer = await plain.all()
        assert not answer.startswith(MAGIC)
        await until(lambda: port.listener.counts()[0] == 0, "no openings are left")
