"""The lines between nodes, on real loopback sockets: order, limits, loss, replacement. With and without TLS."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from peer_nodes import CLUSTER, PATIENT, QUICK, Node, Stranger, certificates, close, incarnation, meet, on_both_loops, until

from raft import messages as m
from raft import peer_wire as wire
from raft.peer_connection import ConnectionLimits
from raft.peer_transport import join_address, split_address
from raft.record import Entry
from raft.tls import TlsFiles

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Files = dict[str, TlsFiles | None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory: Path = tmp_path_factory.mktemp("certs")
    certificates(directory, "n1", "n2", "n3")
    return directory


@pytest.fixture(params=["plain", "tls"])
def files(request: pytest.FixtureRequest, made: Path) -> Files:
    return {n: TlsFiles.of(made, n) if request.param == "tls" else None for n in ("n1", "n2", "n3")}


def append(number: int, size: int = 100) -> m.Append:
    return m.Append(1, number, 1, 0, 0, (Entry(number + 1, 1, bytes(size)),))


def hello(name: str, start: int = 1, **changes: Any) -> wire.Hello:
    usual = wire.Hello(CLUSTER, name, incarnation(name), start, bytes(16), 1, 0, 0, 1)
    return replace(usual, **changes)


async def greet(stranger: Stranger, mine: wire.Hello, serial: int = 1) -> None:
    """A whole handshake of a fake node."""
    stranger.write(wire.encode(mine))
    theirs = await stranger.read()
    assert isinstance(theirs, wire.Hello)
    if mine.name > theirs.name:
        stranger.write(wire.encode(wire.Welcome(1)))
        assert isinstance(await stranger.read(), wire.Welcome)
    else:
        assert isinstance(await stranger.read(), wire.Welcome)
        stranger.write(wire.encode(wire.Welcome(serial)))


@on_both_loops
async def test_three_nodes_find_each_other_and_pass_messages(files: Files) -> None:
    nodes = [Node(name, files[name]) for name in ("n1", "n2", "n3")]
    await meet(*nodes)
    for node in nodes:
        for other in nodes:
            if node is not other:
                assert node.transport.send(other.name, m.TimeoutNow(ord(node.name[1])))
    await until(lambda: all(len(node.messages()) == 2 for node in nodes))
    for node in nodes:
        assert {(e[1], e[2].term) for e in node.events if e[0] == "message"} == {
            (other.name, ord(other.name[1])) for other in nodes if other is not node
        }
        assert not node.transport.send("n9", m.TimeoutNow(1))
    before = list(nodes[0].events)
    await close(*nodes)
    assert nodes[0].events == before  # nobody is called back by close


@on_both_loops
async def test_order_holds_under_load_in_both_directions(files: Files) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    a, b = Node("n1", files["n1"]), Node("n2", files["n2"])
    await meet(a, b)
    sent: dict[str, list[Any]] = {"n1": [], "n2": []}
    for number in range(600):
        for node, other in ((a, "n2"), (b, "n1")):
            message = append(number, rng.choice((0, 10, 1000, 30000, 400000 if number % 100 == 0 else 5)))
            assert node.transport.send(other, message)
            sent[node.name].append(message)
        if number % 50 == 0:
            await asyncio.sleep(0)
    await until(lambda: len(a.messages()) == len(b.messages()) == 600, "everything has arrived")
    assert (b.messages(), a.messages()) == (sent["n1"], sent["n2"])
    assert a.count("connected") == b.count("connected") == 1
    await close(a, b)


@on_both_loops
async def test_the_largest_message_passes(files: Files) -> None:
    a, b = Node("n1", files["n1"]), Node("n2", files["n2"])
    await meet(a, b)
    largest = append(5, 16 << 20)
    assert a.transport.send("n2", largest)
    assert a.transport.send("n2", m.TimeoutNow(2))
    await until(lambda: len(b.messages()) == 2)
    assert b.messages() == [largest, m.TimeoutNow(2)]
    await close(a, b)


@on_both_loops
async def test_what_is_sent_leaves_before_the_caller_blocks(made: Path, files: Files) -> None:
    """The leader sends and then syncs its log on this very thread: the followers' syncs must run meanwhile."""
    node = await Node("n1", files["n1"]).start()
    node.knows([node, Node("n2", address="127.0.0.1:1").member()])
    arrived = threading.Event()

    def other_side() -> None:
        host, port = split_address(node.address)
        with contextlib.ExitStack() as stack:
            line: socket.socket = stack.enter_context(socket.create_connection((host, port)))
            if files["n2"] is not None:
                line = stack.enter_context(plain_client_context(made, "n2").wrap_socket(line))
            file = stack.enter_context(line.makefile("rwb"))

            def read() -> Any:
                (length,) = wire.PREFIX.unpack(file.read(4))
                return wire.decode(file.read(length))

            file.write(wire.framed(wire.encode(hello("n2"))) + wire.framed(wire.encode(wire.Welcome(1))))
            file.flush()
            assert [type(read()) for _ in range(2)] == [wire.Hello, wire.Welcome]
            for _ in range(3):
                read()
            arrived.set()
            closing.wait(PATIENT)

    closing = threading.Event()
    thread = threading.Thread(target=other_side)
    thread.start()
    await until(lambda: node.is_connected("n2"))
    for number in range(3):
        assert node.transport.send("n2", append(number, 20000))
    assert arrived.wait(PATIENT), "the loop stands still, and nothing has left"
    closing.set()
    thread.join()
    await close(node)


def plain_client_context(directory: Path, name: str | None, ca: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations((ca or directory) / "ca.crt")
    if name is not None:
        context.load_cert_chain(directory / f"{name}.crt", directory / f"{name}.key")
    return context


@on_both_loops
async def test_a_lost_connection_comes_back(files: Files) -> None:
    a, b = Node("n1", files["n1"]), Node("n2", files["n2"])
    await meet(a, b)
    again = await b.restart()
    await until(lambda: a.count("connected") == 2 and again.is_connected("n1"))
    assert [e[0] for e in a.events] == ["connected", "disconnected", "connected"]
    assert again.book.start == 2
    assert a.transport.send("n2", m.TimeoutNow(5))
    await until(lambda: again.messages() == [m.TimeoutNow(5)])
    await close(a, again)


@on_both_loops
async def test_the_higher_name_calls_when_the_lower_does_not_know_it(files: Files) -> None:
    """A new node knows nobody: whoever knows it has to call, whatever its name."""
    new, old = await Node("n1", files["n1"]).start(), await Node("n2", files["n2"]).start()
    old.knows([old, new], index=7)
    await until(lambda: new.is_connected("n2") and old.is_connected("n1"))
    new.knows([old], index=3)  # it replays an old membership, without itself
    assert new.is_connected("n2")
    new.knows([old, new], index=7)
    assert old.transport.send("n1", m.TimeoutNow(1))
    await until(lambda: new.messages())
    assert new.count("disconnected") == 0
    await close(new, old)


@on_both_loops
async def test_a_node_that_was_away_lets_in_who_knows_newer_members(files: Files) -> None:
    away, new = await Node("n1", files["n1"]).start(), await Node("n3", files["n3"]).start()
    away.knows([away, Node("n2", address="127.0.0.1:1").member()], index=5)
    new.knows([away, new], index=9)
    await until(lambda: away.is_connected("n3") and new.is_connected("n1"))
    await close(away, new)


@on_both_loops
async def test_crossing_calls_leave_one_connection_that_both_know(files: Files) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    eager = replace(QUICK, dialing=replace(QUICK.dialing, patience_s=0.0))
    for _ in range(15):
        a, b = Node("n1", files["n1"], eager), Node("n2", files["n2"], eager)
        await meet(a, b)
        await until(lambda a=a, b=b: len(a.transport._all) == len(b.transport._all) == 1, "one connection is left")
        assert a.is_connected("n2")
        assert b.is_connected("n1")
        assert a.transport.send("n2", m.TimeoutNow(1))
        assert b.transport.send("n1", m.TimeoutNow(2))
        await until(lambda a=a, b=b: a.messages() and b.messages())
        await close(a, b)


@on_both_loops
async def test_a_new_connection_takes_the_place_of_a_forgotten_one_only_after_its_handshake() -> None:
    node = await Node("n2").start()
    node.knows([node, Node("n1", address="127.0.0.1:1").member()])
    first = await Stranger.connect(node.address)
    await greet(first, hello("n1"), serial=1)
    await until(lambda: node.is_connected("n1"))
    second = await Stranger.connect(node.address)
    second.write(wire.encode(hello("n1")))
    assert isinstance(await second.read(), wire.Hello)
    assert isinstance(await second.read(), wire.Welcome)
    first.write(wire.encode(m.TimeoutNow(1)))
    await until(lambda: node.messages() == [m.TimeoutNow(1)])  # the old one is still in use
    assert node.count("disconnected") == 0
    second.write(wire.encode(wire.Welcome(2)))
    await first.ended()
    await until(lambda: node.count("connected") == 2)
    second.write(wire.encode(m.TimeoutNow(2)))
    await until(lambda: len(node.messages()) == 2)
    assert [e[0] for e in node.events] == ["connected", "message", "disconnected", "connected", "message"]
    late = await Stranger.connect(node.address)
    await greet(late, hello("n1"), serial=1)  # its Welcome is older than that of the one in use
    await late.ended()
    assert node.is_connected("n1")
    assert node.count("connected") == 2
    for stranger in (first, second, late):
        await stranger.close()
    await close(node)


@on_both_loops
async def test_a_reader_that_stands_still_bounds_what_waits(files: Files) -> None:
    limits = replace(QUICK, connection=replace(QUICK.connection, queue_bytes_max=4 << 20))
    a, b = Node("n1", files["n1"], limits), Node("n2", files["n2"])
    await meet(a, b)
    line = b.transport._open["n1"]
    assert line._transport is not None
    line._transport.pause_reading()
    taken = 0
    while a.transport.send("n2", append(taken, 100_000)):
        taken += 1
        assert taken < 1000, "nothing bounds the queue"
    assert taken >= 30
    assert not a.transport.send("n2", m.TimeoutNow(1))  # neither does anything overtake what was dropped
    assert a.count("disconnected") == 0  # not from inside send
    await until(lambda: a.count("disconnected") == 1)
    await until(lambda: a.count("connected") == 2)
    numbers = [message.prev_index for message in b.messages()]
    assert numbers == list(range(len(numbers)))
    await close(a, b)


@on_both_loops
async def test_a_silent_peer_is_given_up_and_a_slow_one_is_not() -> None:
    limits = replace(QUICK, ping_s=0.1, silence_s=0.4)
    node = await Node("n1", limits=limits).start()
    node.knows([node, *(Node(n, address="127.0.0.1:1").member() for n in ("n2", "n3"))])
    dead, alive = await Stranger.connect(node.address), await Stranger.connect(node.address)
    await greet(dead, hello("n2"))
    await greet(alive, hello("n3"))
    await until(lambda: node.is_connected("n2", "n3"))

    async def answer() -> None:
        while True:
            ping = await alive.read()
            assert isinstance(ping, wire.Ping)
            alive.write(wire.encode(wire.Pong(ping.id)))

    answering = asyncio.ensure_future(answer())
    await until(lambda: node.is_connected("n3"))
    line = node.transport._open["n3"]
    quiet_from = line.bytes_in
    await until(lambda: line.bytes_in > quiet_from + 100)  # it lives on for many times the silence
    assert node.events.count(("disconnected", "n3")) == 0
    answering.cancel()
    await asyncio.gather(answering, return_exceptions=True)
    await dead.close()
    await alive.close()
    await close(node)


@on_both_loops
async def test_a_node_that_stood_still_itself_gives_nobody_up() -> None:
    """After SIGSTOP, or a sync of seconds, timers run before what has arrived is read."""
    now = [100.0]
    node = await Node("n1", clock=lambda: now[0]).start()
    node.knows([node, Node("n2", address="127.0.0.1:1").member()])
    peer = await Stranger.connect(node.address)
    await greet(peer, hello("n2"))
    await until(lambda: node.is_connected("n2"))
    now[0] += 60
    node.transport._tick()
    assert node.transport.send("n2", m.TimeoutNow(1))
    for _ in range(7):
        now[0] += 0.5
        node.transport._tick()
    await until(lambda: not node.transport.connected())
    await peer.close()
    await close(node)


@on_both_loops
async def test_pings_are_answered_and_their_flood_is_bounded() -> None:
    node = await Node("n1", limits=replace(QUICK, connection=replace(QUICK.connection, queue_bytes_max=1 << 16))).start()
    node.knows([node, Node("n2", address="127.0.0.1:1").member()])
    peer = await Stranger.connect(node.address)
    await greet(peer, hello("n2"))
    peer.write(wire.encode(wire.Ping(7)))
    assert await peer.read() == wire.Pong(7)
    flood = wire.framed(wire.encode(wire.Ping(wire.NUMBER_MAX))) * 500

    async def pour() -> None:
        while True:
            peer.write_raw(flood)
            await peer.writer.drain()

    line = node.transport._open["n2"]
    assert line._transport is not None
    line._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.reader._transport.pause_reading()  # type: ignore[attr-defined]  # it asks and never reads the answers
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(PATIENT):
            await pour()
    await until(lambda: not node.transport.connected())
    await peer.close()
    await close(node)


@on_both_loops
async def test_a_removed_node_is_dropped_and_hears_why(files: Files) -> None:
    a, b = Node("n1", files["n1"]), Node("n2", files["n2"])
    await meet(a, b)
    a.knows([a], index=4)
    await until(lambda: ("n1", "not-member") in b.refusals())
    await until(lambda: not a.transport.connected() and not b.transport.connected())
    assert b.transport.refused_by["n1"].reason == "not-member"
    a.knows([a, b], index=5)
    await until(lambda: a.is_connected("n2") and b.is_connected("n1"))
    assert b.transport.refused_by == {}
    await close(a, b)


@on_both_loops
async def test_close_sends_what_waits(files: Files) -> None:
    a, b = Node("n1", files["n1"]), Node("n2", files["n2"])
    await meet(a, b)
    for number in range(40):
        assert a.transport.send("n2", append(number, 100_000))
    await a.transport.close()
    await until(lambda: len(b.messages()) == 40)
    await close(b)


@on_both_loops
async def test_last_words_arrive_although_the_other_side_keeps_talking() -> None:
    """A socket that is closed with unread data in it is reset, and what it had sent is lost."""
    a, b = Node("n1"), Node("n2")
    await meet(a, b)
    line = a.transport._open["n2"]
    assert line._transport is not None
    line._transport.pause_reading()
    for number in range(20):
        assert b.transport.send("n1", append(number, 50_000))
    for number in range(10):
        assert a.transport.send("n2", append(number, 50_000))
    line._transport.resume_reading()
    await a.transport.close()
    await until(lambda: not b.transport.connected())
    assert len(b.messages()) == 10
    await close(b)


@on_both_loops
async def test_close_returns_although_nobody_reads() -> None:
    a, b = Node("n1"), Node("n2")
    await meet(a, b)
    line = b.transport._open["n1"]
    assert line._transport is not None
    line._transport.pause_reading()
    for number in range(300):
        a.transport.send("n2", append(number, 100_000))
    async with asyncio.timeout(PATIENT):
        await a.transport.close()
    await close(b)


@on_both_loops
async def test_a_member_that_cannot_be_reached_is_called_again_and_again(free_port: int) -> None:
    node = await Node("n1").start()
    later = Node("n2", address=f"127.0.0.1:{free_port}")
    broken = replace(later.member(), name="n3", incarnation=incarnation("n3"), peer="nowhere:http")
    node.knows([node, later.member(), broken])
    await asyncio.sleep(0)
    later = await later.start(later.address)
    later.knows([node, later])
    await until(lambda: node.is_connected("n2"))
    await close(node, later)


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def test_addresses() -> None:
    assert split_address("[::1]:7000") == ("::1", 7000)
    assert split_address(":7000") == ("", 7000)
    assert join_address("::1", 7000) == "[::1]:7000"
    assert join_address("10.0.0.1", 7000) == "10.0.0.1:7000"
    for wrong in ("", "host", "host:", "host:port", "host:65536", "host:-1", "host:٣"):
        with pytest.raises(ValueError, match="host:port"):
            split_address(wrong)


def test_limits_are_what_the_documents_say() -> None:
    assert ConnectionLimits() == ConnectionLimits(64 << 20, 5.0, 1.0)
    check: Callable[..., Any] = type(QUICK)
    assert (check().strangers_max, check().ping_s, check().silence_s) == (64, 1.0, 3.0)
