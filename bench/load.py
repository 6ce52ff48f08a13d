"""A client that costs little: one session on the framed stream, requests made before the clock starts, no task per request.

What is measured is the server; a load generator that needs as much CPU as the server would measure itself on a small machine
(h2load, which drives etcd, is written in C and sends one prepared body). Rules:
- `in_flight` requests wait at any time: as many new ones are sent, in one frame, as a read brought answers.
- It behaves as a mount does: answered results are acknowledged, created files are released.
- An errno, and the end of the stream, end the benchmark.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from bench.programs import BenchError
from protos import meta_pb2 as pb
from protos.framing import MAGIC, PING, SERVER_FRAME_BYTES_MAX, Deframer, framed

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

_REQUESTS_TAG = 0x12  # ClientFrame.requests: field 2, length-delimited
_INO_BYTES = 8  # attributes begin with the inode's number, little-endian (protos/attr_layout.py)


def mkdir(parent: int, name: bytes) -> pb.Request:
    return pb.Request(mkdir=pb.MkDir(parent=parent, name=name, mode=0o755))


def create(parent: int, number: int) -> pb.Request:
    return pb.Request(create=pb.Create(parent=parent, name=b"file-%08d" % number, mode=0o644, exclusive=True))


def lookup(parent: int, number: int) -> pb.Request:
    return pb.Request(lookup=pb.Lookup(parent=parent, name=b"file-%08d" % number))


def unlink(parent: int, number: int) -> pb.Request:
    return pb.Request(unlink=pb.Unlink(parent=parent, name=b"file-%08d" % number))


class Op(NamedTuple):
    """A kind of request."""

    request: Callable[[int, int], pb.Request]  # of a directory and a number
    change: bool
    holds: bool  # the session holds the inode until it is released


OPS = {"create": Op(create, True, True), "lookup": Op(lookup, False, False), "unlink": Op(unlink, True, False)}


class Session(asyncio.Protocol):
    """One session of one volume. `attach`, then one `run` at a time, `close`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._deframer = Deframer(SERVER_FRAME_BYTES_MAX)
        self._transport: asyncio.Transport | None = None
        self._attached: asyncio.Future[pb.Attached] = self._loop.create_future()
        self._pong: asyncio.Future[None] | None = None
        self._next_id = 1
        self._run: _Run | None = None
        self._failure: str | None = None
        self.root = 0

    @classmethod
    async def attach(cls, address: str, volume: str, tls: ssl.SSLContext | None) -> Session:
        """Raises BenchError, OSError."""
        host, _, port = address.rpartition(":")
        transport, session = await asyncio.get_running_loop().create_connection(cls, host, int(port), ssl=tls)
        session._transport = transport
        frame = pb.ClientFrame(attach=pb.Attach(volume=volume, client="bench", protocol=1))
        transport.write(MAGIC + framed(frame.SerializeToString()))
        session.root = (await session._attached).root
        return session

    async def ask(self, request: pb.Request, *, change: bool) -> pb.Response:
        """One request alone."""
        answered = await self.run([request], change=change, in_flight=1)
        assert answered.last is not None
        return answered.last

    async def run(self, requests: Sequence[pb.Request], *, change: bool, in_flight: int, holds: bool = False) -> Answered:
        """All of them, and when. Their ids (and seqs) are set here. Raises BenchError."""
        self._require()
        first = self._next_id
        self._next_id += len(requests)
        pieces = []
        for number, request in enumerate(requests, first):
            request.id = number
            if change:
                request.seq = number
            raw = request.SerializeToString()
            pieces.append(bytes([_REQUESTS_TAG]) + _varint(len(raw)) + raw)
        self._run = run = _Run(pieces, first, holds, self._loop.create_future())
        started, cpu = time.perf_counter(), time.process_time()
        self._send(run, in_flight)
        await run.done
        self._run = None
        return Answered(run.latencies, time.perf_counter() - started, time.process_time() - cpu, run.last)

    async def ping(self) -> float:
        """Seconds until an empty frame is answered: one round trip of the stream and nothing else."""
        self._require()
        assert self._transport is not None
        self._pong = self._loop.create_future()
        started = time.perf_counter()
        self._transport.write(PING)
        await self._pong
        return time.perf_counter() - started

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _send(self, run: _Run, count: int) -> None:
        """The next requests, as one frame: messages of protobuf may be concatenated."""
        pieces, released = run.take(count, time.perf_counter())
        if not pieces and not released:
            return
        tail = pb.ClientFrame(acked_seq=run.acked, released=released).SerializeToString()
        assert self._transport is not None
        self._transport.write(framed(b"".join([*pieces, tail])))

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        answered = 0
        for raw in self._deframer.feed(data):
            if not raw:
                if self._pong is not None and not self._pong.done():
                    self._pong.set_result(None)
                continue
            frame = pb.ServerFrame.FromString(raw)
            if frame.HasField("end"):
                self._fail(f"the server ended the stream: {frame.end.reason} {frame.end.detail}")
                return
            if frame.HasField("attached"):
                self._attached.set_result(frame.attached)
            for response in frame.responses:
                answered += 1
                if response.errno:
                    self._fail(f"a request failed: {os.strerror(response.errno)} {response.detail}")
                    return
                assert self._run is not None
                self._run.answer(response, now)
        if answered and self._run is not None:
            self._send(self._run, answered)
            self._run.finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection is lost: {exc or 'closed by the server'}")

    def _require(self) -> None:
        if self._failure is not None:
            raise BenchError(self._failure)

    def _fail(self, why: str) -> None:
        self._failure = self._failure or why
        for future in (self._attached, self._pong, self._run.done if self._run is not None else None):
            if future is not None and not future.done():
                future.set_exception(BenchError(why))
                return


class Answered(NamedTuple):
    """Seconds of each request, in the order of answers; of all together; of this process's CPU; the last response."""

    latencies: list[float]
    seconds: float
    cpu_s: float
    last: pb.Response | None


class _Run:
    """The requests of one run: which are sent, which answered."""

    def __init__(self, pieces: list[bytes], first: int, holds: bool, done: asyncio.Future[None]) -> None:
        self._pieces = pieces
        self._first = first
        self._holds = holds
        self._sent_at: list[float] = []
        self._is_answered = bytearray(len(pieces))
        self._released: list[int] = []
        self.acked = first - 1  # every request up to here is answered
        self.latencies: list[float] = []
        self.last: pb.Response | None = None
        self.done = done

    def take(self, count: int, now: float) -> tuple[list[bytes], list[int]]:
        """The next requests to send, and inodes that are not held any more."""
        sent = len(self._sent_at)
        pieces = self._pieces[sent : sent + count]
        self._sent_at += [now] * len(pieces)
        released, self._released = self._released, []
        return pieces, released

    def answer(self, response: pb.Response, now: float) -> None:
        at = response.id - self._first
        self.latencies.append(now - self._sent_at[at])
        self._is_answered[at] = 1
        unanswered = self._is_answered.find(0, self.acked + 1 - self._first)
        self.acked = self._first + (unanswered if unanswered >= 0 else len(self._pieces)) - 1
        if self._holds:
            self._released.append(int.from_bytes(response.attr[:_INO_BYTES], "little"))
        self.last = response

    def finish(self) -> None:
        if len(self.latencies) == len(self._pieces) and not self.done.done():
            self.done.set_result(None)


def _varint(value: int) -> bytes:
    """Protobuf's base-128 encoding."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
