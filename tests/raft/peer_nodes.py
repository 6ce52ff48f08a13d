"""Nodes of a cluster reduced to their transport, on real loopback sockets, for the tests of peer_transport.py."""

from __future__ import annotations

import asyncio
import functools
import inspect
import random
import ssl
import time
import uuid
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from faulty_disk import FaultyDisk

from raft import membership as members
from raft.certificates import make_ca, make_client, make_node
from raft.identity import Identity
from raft.membership import Member, Membership
from raft.peer_book import PeerBook
from raft.peer_connection import ConnectionLimits
from raft.peer_dialer import DialTiming
from raft.peer_transport import HelloState, PeerLimits, PeerTransport, split_address
from raft.peer_wire import PREFIX, decode, framed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from pathlib import Path

    from raft.messages import Message
    from raft.tls import TlsFiles

CLUSTER = "5a2b0000-0000-4000-8000-000000000001"
DIRECTORY = "/node"
PATIENT = 10.0  # seconds until a condition that must come true is given up
QUICK = PeerLimits(
    connection=ConnectionLimits(handshake_s=5.0, linger_s=0.3),
    dialing=DialTiming(first_s=0.01, most_s=0.05, patience_s=0.05),
)


_alive: list[Node | Stranger] = []


async def _cleaned(test: Coroutine[Any, Any, None]) -> None:
    """A test that fails leaves sockets behind, and uvloop never closes while there are any."""
    try:
        await test
    finally:
        for one in _alive:
            await one.close()
        _alive.clear()


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Any:
    """Runs the test on asyncio's own event loop and on uvloop."""

    def run(*args: Any, loop_factory: Callable[[], asyncio.AbstractEventLoop], **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(_cleaned(test(*args, **kwargs)))

    functools.update_wrapper(run, test)
    del run.__dict__["__wrapped__"]
    added = inspect.Parameter("loop_factory", inspect.Parameter.KEYWORD_ONLY)
    signature = inspect.signature(test)
    run.__dict__["__signature__"] = signature.replace(parameters=[*signature.parameters.values(), added])
    factories = [asyncio.new_event_loop, uvloop.new_event_loop]
    return pytest.mark.parametrize("loop_factory", factories, ids=["asyncio", "uvloop"])(run)


def incarnation(name: str, disk: int = 1) -> str:
    return str(uuid.UUID(bytes=name.encode().ljust(15, b"\0") + bytes([disk])))


async def until(condition: Callable[[], Any], what: str = "the condition") -> None:
    deadline = time.monotonic() + PATIENT
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {PATIENT} s"
        await asyncio.sleep(0.002)


@dataclass
class Node:
    """`events` tells everything that the transport called back, in order."""

    name: str
    tls: TlsFiles | None = None
    limits: PeerLimits = QUICK
    cluster: str = CLUSTER
    number: int = 1  # of the disk
    disk: FaultyDisk = field(default_factory=FaultyDisk)
    membership: Membership = field(default_factory=Membership)
    state: HelloState = field(default_factory=lambda: HelloState(1, 0, 0))
    clock: Callable[[], float] = time.monotonic
    events: list[tuple[Any, ...]] = field(default_factory=list)
    address: str = ""

    async def start(self, listen: str = "127.0.0.1:0") -> Node:
        self.book = PeerBook.open(self.disk, DIRECTORY)
        self.transport = PeerTransport(
            identity=Identity(self.cluster, incarnation(self.name, self.number)),
            name=self.name,
            listen=listen,
            tls=self.tls,
            membership=lambda: self.membership,
            hello=lambda: self.state,
            book=self.book,
            on_message=self.on_message,
            on_connected=lambda name: self.events.append(("connected", name)),
            on_disconnected=lambda name: self.events.append(("disconnected", name)),
            on_refused=lambda *refusal: self.events.append(("refused", *refusal)),
            clock=self.clock,
            rng=random.Random(self.name),
            limits=self.limits,
        )
        self.address = await self.transport.start()
        _alive.append(self)
        return self

    async def close(self) -> None:
        await self.transport.close()

    def on_message(self, name: str, message: Message) -> None:
        self.events.append(("message", name, message))

    def messages(self) -> list[Any]:
        return [event[2] for event in self.events if event[0] == "message"]

    def count(self, kind: str) -> int:
        return sum(event[0] == kind for event in self.events)

    def refusals(self) -> list[tuple[str, str]]:
        return [(event[1], event[2]) for event in self.events if event[0] == "refused"]

    def is_connected(self, *names: str) -> bool:
        return self.transport.connected() == set(names)

    def member(self) -> Member:
        return Member(self.name, incarnation(self.name, self.number), self.address, "h:1", "h:2")

    def knows(self, nodes: Sequence[Node | Member], index: int = 1) -> None:
        found = tuple(sorted((node if isinstance(node, Member) else node.member() for node in nodes), key=lambda m: m.name))
        self.membership = members.Membership(found, index)
        self.transport.reconcile()

    async def restart(self, **changes: Any) -> Node:
        """The next start on the same disk, at the same address."""
        await self.transport.close()
        node = replace(self, events=[], disk=self.disk.killed(), **changes)
        return await node.start(self.address)


async def meet(*nodes: Node) -> None:
    """Start them, make them members of one cluster, wait until all are connected."""
    for node in nodes:
        await node.start()
    for node in nodes:
        node.knows(nodes)
    names = {node.name for node in nodes}
    await until(lambda: all(node.transport.connected() == names - {node.name} for node in nodes), "all nodes are connected")


async def close(*nodes: Node) -> None:
    for node in nodes:
        await node.close()


def certificates(directory: Path, *names: str, clock: Callable[[], float] = time.time) -> None:
    make_ca(directory, clock=clock)
    for name in names:
        make_node(directory, name, ["127.0.0.1"], clock=clock)
    make_client(directory, "admin", clock=clock)


class Stranger:
    """A plain socket, with or without TLS, that says what a test wants it to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        _alive.append(self)

    @classmethod
    async def connect(cls, address: str, context: ssl.SSLContext | None = None) -> Stranger:
        host, port = split_address(address)
        return cls(*await asyncio.open_connection(host, port, ssl=context))

    def write(self, data: bytes) -> None:
        self.writer.write(framed(data))

    def write_raw(self, data: bytes) -> None:
        self.writer.write(data)

    async def read(self) -> Any:
        """The next frame's value; EOFError (of asyncio) when there is none."""
        async with asyncio.timeout(PATIENT):
            (length,) = PREFIX.unpack(await self.reader.readexactly(PREFIX.size))
            return decode(await self.reader.readexactly(length))

    async def ended(self) -> None:
        """Returns when the other side has ended the connection; whatever still comes is dropped."""
        async with asyncio.timeout(PATIENT):
            while True:
                try:
                    if not await self.reader.read(1 << 16):
                        return
                except (ConnectionError, ssl.SSLError):
                    return

    async def close(self) -> None:
        self.writer.transport.abort()
        await asyncio.sleep(0)
