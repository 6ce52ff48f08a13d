"""The metadata client among several nodes: who is asked, in which order, and that a session lives through changes of leader.

The nodes are fakes with one state (fake_meta_service.State), so a change that was applied twice would show.
"""

from __future__ import annotations

import asyncio
import random
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import pytest
from fake_meta_service import FakeMeta, State, Stream, attr, until

from fuseclient.errors import ClientError, FsError
from fuseclient.meta_client import MetaClient, Timeouts
from fuseclient.redial import LOST_TICKS, PING_TICKS, STALL_TICKS, Doubt, Endpoints, Pulse, Round
from fuseclient.volume_url import Address, VolumeUrl, parse_address
from protos import meta_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

QUICK = Timeouts(attach_s=5.0, close_s=0.5, stagger_s=0.1)
A, B, C, D = (Address(name) for name in "abcd")


@pytest.fixture
async def nodes() -> AsyncIterator[list[FakeMeta]]:
    """Three of them; the first one leads, the others do not know it."""
    state = State()
    nodes = [FakeMeta(state) for _ in range(3)]
    for node in nodes:
        await node.start()
        node.follow()
    nodes[0].lead()
    yield nodes
    for node in nodes:
        await node.stop()


@pytest.fixture
def black_hole() -> Iterator[Address]:
    """An address that takes connections in, if at all, and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        yield Address("127.0.0.1", listening.getsockname()[1])


def url_of(*nodes: FakeMeta | Address) -> VolumeUrl:
    return VolumeUrl(tuple(n if isinstance(n, Address) else parse_address(n.address) for n in nodes), "data")


@asynccontextmanager
async def connected(*nodes: FakeMeta | Address, timeouts: Timeouts = QUICK) -> AsyncIterator[MetaClient]:
    client = await MetaClient.connect(url_of(*nodes), "test", rng=random.Random(1), timeouts=timeouts)
    try:
        yield client
    finally:
        await client.close()


def mkdir(name: bytes = b"d") -> pb.Request:
    return pb.Request(mkdir=pb.MkDir(parent=1, name=name))


def silent(stream: Stream, request: pb.Request) -> None:
    """An `answer` that gives none."""


def move_leadership(nodes: list[FakeMeta], old: int, new: int, *, hint: bool) -> None:
    """`old` follows from now on, and ends its streams as a node does that is deposed."""
    leader = nodes[new].address if hint else ""
    nodes[new].lead()
    nodes[old].follow(leader)
    for stream in nodes[old].streams:
        stream.end(grpc.StatusCode.UNAVAILABLE, "not-leader", leader)


# --- connecting ---


async def test_connecting_follows_the_hint_of_a_node_that_does_not_lead(nodes: list[FakeMeta]) -> None:
    nodes[2].follow(nodes[0].address)
    async with connected(nodes[2], nodes[1]) as client:  # the URL does not even name the leader
        await client.change(mkdir())
    assert (len(nodes[2].attaches), len(nodes[1].attaches), len(nodes[0].attaches)) == (1, 0, 1)


async def test_connecting_without_a_hint_asks_everybody(nodes: list[FakeMeta]) -> None:
    async with connected(nodes[1], nodes[2], nodes[0]) as client:
        await client.change(mkdir())
    assert [len(node.attaches) for node in nodes] == [1, 1, 1]


async def test_hints_in_a_circle_come_to_an_end(nodes: list[FakeMeta]) -> None:
    nodes[0].follow(nodes[1].address)
    nodes[1].follow(nodes[2].address)
    nodes[2].follow(nodes[0].address)
    with pytest.raises(ClientError, match="not-leader") as refused:
        await asyncio.wait_for(MetaClient.connect(url_of(*nodes), "test", timeouts=QUICK), 10)
    assert refused.value.exit_code == 11
    assert all(1 <= len(node.attaches) <= 2 for node in nodes)


async def test_hints_to_ever_new_addresses_come_to_an_end(nodes: list[FakeMeta]) -> None:
    """A node that invents leaders costs a bounded number of attempts."""
    lies = (f"127.0.0.1:{port}" for port in range(1, 1000))
    nodes[0].refuse_attach = lambda attach: (grpc.StatusCode.UNAVAILABLE, "not-leader", next(lies))  # type: ignore[return-value]
    with pytest.raises(ClientError, match="Is the server running"):
        await asyncio.wait_for(MetaClient.connect(url_of(nodes[0]), "test", timeouts=QUICK), 10)
    assert len(nodes[0].attaches) == 1
    assert next(lies) == "127.0.0.1:2"


@pytest.mark.parametrize("hint", ["not an address", "host:99999", "x" * 5000, "\n", "192.0.2.1:7420"])
async def test_a_hint_that_cannot_be_followed_does_no_harm(nodes: list[FakeMeta], hint: str) -> None:
    """The last one is another machine, to which nothing may go in plain text."""
    nodes[1].follow(hint)
    async with connected(nodes[1], nodes[0]) as client:
        await client.change(mkdir())


async def test_an_address_that_swallows_everything_costs_little(nodes: list[FakeMeta], black_hole: Address) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with connected(black_hole, nodes[1], nodes[0]) as client:
        assert loop.time() - began < 2.0  # and not the 5 s of an attempt
        await client.change(mkdir())


async def test_a_verdict_is_the_same_everywhere_and_ends_the_search(nodes: list[FakeMeta]) -> None:
    nodes[0].refuse_attach = lambda attach: (grpc.StatusCode.NOT_FOUND, "no-volume")
    with pytest.raises(ClientError, match="no-volume") as refused:
        await MetaClient.connect(url_of(nodes[0], nodes[1]), "test", timeouts=QUICK)
    assert refused.value.exit_code == 10
    assert not nodes[1].attaches


async def test_plain_text_to_another_machine_is_refused() -> None:
    with pytest.raises(ClientError, match="--tls-ca") as refused:
        await MetaClient.connect(VolumeUrl.parse("keel://192.0.2.1/v"), "test", timeouts=QUICK)
    assert refused.value.exit_code == 12


# --- the leader changes ---


@pytest.mark.parametrize("hint", [True, False])
async def test_a_session_moves_to_the_new_leader_with_everything_unanswered(nodes: list[FakeMeta], hint: bool) -> None:
    async with connected(*nodes) as client:
        resets: list[str] = []
        client.on_reset = resets.append
        await client.change(mkdir(b"before"))
        client.hold(77)

        def apply_without_answer(stream: Stream, request: pb.Request) -> None:
            nodes[0].apply(stream, request)

        nodes[0].answer = apply_without_answer
        futures = [client.change(mkdir(b"%d" % n)) for n in range(4)]
        await until(lambda: len(nodes[0].live.requests) == 5)
        move_leadership(nodes, 0, 2, hint=hint)
        await asyncio.gather(*futures)
        assert resets == ["lost", "reconnected"]
        attach = nodes[2].live.attach
        assert (attach.session, attach.secret, list(attach.open_inodes)) == (1, b"secret-1", [77])
        assert [(r.seq, r.mkdir.name) for r in nodes[2].live.requests] == [(2, b"0"), (3, b"1"), (4, b"2"), (5, b"3")]
        assert [name for _, _, name in nodes[0].applied] == [b"before", b"0", b"1", b"2", b"3"]
        if hint:
            assert not nodes[1].attaches


async def test_the_death_of_the_leader_is_over_when_another_one_leads(nodes: list[FakeMeta]) -> None:
    """An outage of 0.3 s is not seen as one of two seconds."""
    loop = asyncio.get_running_loop()
    async with connected(*nodes) as client:
        await client.change(mkdir(b"a"))
        died = loop.time()
        await nodes[0].stop()
        future = client.change(mkdir(b"b"))
        loop.call_later(0.3, nodes[1].lead)
        await future
        assert loop.time() - died < 1.5
        assert [name for _, _, name in nodes[1].applied] == [b"a", b"b"]


async def test_many_changes_of_leader_under_load_apply_every_change_once(nodes: list[FakeMeta]) -> None:
    rng = random.Random(7)
    print("seed 7")
    leader = 0
    async with connected(*nodes) as client:
        for node in nodes:
            node.addresses = [other.address for other in nodes]

        async def work(worker: int) -> None:
            for n in range(60):
                await client.change(mkdir(b"%d-%d" % (worker, n)))

        async def disturb() -> None:
            nonlocal leader
            while (before := len(nodes[0].applied)) < 450:
                await until(lambda before=before: len(nodes[0].applied) > before + 20)  # type: ignore[misc]
                new = rng.choice([n for n in range(3) if n != leader])
                move_leadership(nodes, leader, new, hint=rng.random() < 0.5)
                leader = new

        disturbing = asyncio.create_task(disturb())
        await asyncio.gather(*(work(n) for n in range(8)))
        await disturbing
        names = [name for _, _, name in nodes[0].applied]
        assert len(names) == len(set(names)) == 480
        assert client.reconnects > 5
        assert client.session_id == 1


async def test_nodes_that_the_cluster_names_are_found_when_those_of_the_url_are_gone(nodes: list[FakeMeta]) -> None:
    nodes[0].addresses = [node.address for node in nodes]
    async with connected(nodes[0]) as client:
        await client.change(mkdir(b"a"))
        await nodes[0].stop()
        nodes[1].lead()
        await client.change(mkdir(b"b"))
        assert len(nodes[1].streams) == 1


async def test_new_members_are_learnt_while_connected(nodes: list[FakeMeta]) -> None:
    async with connected(nodes[0]) as client:
        members = pb.Members(addresses=[nodes[0].address, nodes[2].address, "192.0.2.7:7420", "nonsense:"])
        nodes[0].live.send(notifications=[pb.Notification(members=members)])
        nodes[2].lead()
        await client.read(pb.Request(getattr=pb.GetAttr(ino=3)))
        await nodes[0].stop()
        assert (await client.read(pb.Request(getattr=pb.GetAttr(ino=4)))).attr == attr(4)
        assert len(nodes[2].streams) == 1


async def test_a_node_with_another_protocol_does_not_end_a_session(nodes: list[FakeMeta]) -> None:
    """One address of three leads to something else by now; the session lives where the cluster is."""

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await reader.read(1)
        writer.close()

    async with connected(*nodes) as client:
        client.hold(5)
        await client.change(mkdir(b"a"))
        port = nodes[0].port
        await nodes[0].stop()
        stranger = await asyncio.start_server(babble, "127.0.0.1", port)
        future = client.change(mkdir(b"b"))
        await asyncio.sleep(0)
        nodes[1].lead()
        await future
        assert client.held() == {5: 1}
        assert client.session_id == 1
        stranger.close()


# --- a leader that is frozen ---


async def test_a_frozen_leader_is_left_for_one_that_leads(nodes: list[FakeMeta]) -> None:
    loop = asyncio.get_running_loop()
    async with connected(*nodes) as client:
        resets: list[str] = []
        client.on_reset = resets.append
        await client.change(mkdir(b"a"))
        nodes[0].frozen = True
        nodes[1].lead()
        began = loop.time()
        await client.change(mkdir(b"b"))
        assert loop.time() - began < 4.0  # and not the ten seconds of a silent line
        assert resets == ["lost", "reconnected"]
        await until(lambda: nodes[0].live.broken)  # nothing of ours stays in its queues
        nodes[0].wake()
        await client.change(mkdir(b"c"))
        assert [name for _, _, name in nodes[1].applied] == [b"a", b"b", b"c"]


async def test_a_slow_leader_that_still_leads_is_not_left(nodes: list[FakeMeta]) -> None:
    for follower in nodes[1:]:
        follower.follow(nodes[0].address)
    async with connected(*nodes) as client:
        await client.change(mkdir(b"a"))
        nodes[0].answer = silent
        future = client.change(mkdir(b"b"))
        await until(lambda: nodes[1].attaches and nodes[2].attaches, "the others are asked")
        stream = nodes[0].live
        stream.send(nodes[0].apply(stream, stream.requests[-1]))
        await future
        assert client.reconnects == 0
        assert len(nodes[0].attaches) == 1


async def test_an_idle_client_asks_nobody(nodes: list[FakeMeta]) -> None:
    async with connected(*nodes) as client:
        await client.change(mkdir())
        pulse = Pulse()
        assert all(pulse.tick(1, 1, waiting=False) is Doubt.NONE for _ in range(PING_TICKS))
        assert not nodes[1].attaches


async def test_what_was_opened_while_others_were_asked_is_held_at_the_new_leader(nodes: list[FakeMeta]) -> None:
    """The attach that asked the others was written before; a file that is open now would be reaped with it."""
    async with connected(*nodes) as client:
        await client.change(mkdir(b"a"))
        nodes[0].answer = silent
        nodes[1].frozen = True  # takes the attach, and does not answer yet
        nodes[1].lead()
        waiting = client.change(mkdir(b"b"))
        await until(lambda: nodes[1].thaw, "the other node is asked")
        stream = nodes[0].live
        opened = client.read(pb.Request(open=pb.Open(ino=9)))
        await until(lambda: len(stream.requests) == 3)
        stream.send(pb.Response(id=stream.requests[-1].id, attr=attr(9)))
        await opened
        nodes[1].wake()
        await waiting
        assert list(nodes[1].live.attach.open_inodes) == [9]


async def test_one_node_under_two_names_is_no_other_process(nodes: list[FakeMeta]) -> None:
    """The broken-off attempt at the other name took effect in between and replaced the stream that won."""
    async with connected(nodes[0], timeouts=Timeouts(attach_s=0.2, stagger_s=0.05, close_s=0.5)) as client:
        nodes[0].frozen = True
        nodes[0].live.cut()
        await until(lambda: len(nodes[0].thaw) >= 1, "an attempt that has no answer")
        await until(lambda: len(nodes[0].thaw) >= 2, "and one after it")
        nodes[0].wake()
        await until(lambda: client.connected)
        nodes[0].live.end(grpc.StatusCode.ABORTED, "replaced")
        await client.change(mkdir())
        assert client.session_id == 1


async def test_a_session_that_is_over_is_over_wherever_it_is_said(nodes: list[FakeMeta]) -> None:
    async with connected(*nodes) as client:
        nodes[0].answer = silent
        future = client.change(mkdir(b"lost"))
        await until(lambda: nodes[0].live.requests)
        nodes[1].refuse_attach = lambda attach: (grpc.StatusCode.NOT_FOUND, "no-session") if attach.session else None
        nodes[0].follow()
        nodes[0].live.end(grpc.StatusCode.UNAVAILABLE, "not-leader")
        with pytest.raises(FsError, match="EIO"):
            await future
        await client.change(mkdir(b"new"))
        assert client.session_id == 2


# --- the rules alone ---


def test_a_round_asks_each_once_and_the_hinted_one_sooner() -> None:
    turn = Round([A, B, C])
    assert turn.next() == A
    turn.failed(A, C)
    assert turn.next() == C
    turn.failed(C, None)
    assert turn.next() == B
    turn.failed(B, A)  # it may lead by now
    assert turn.next() == A
    turn.failed(A, B)
    assert turn.next() == B
    turn.failed(B, A)  # twice is enough
    assert not turn


def test_a_hint_at_one_that_is_being_asked_changes_nothing() -> None:
    turn = Round([A, B])
    turn.next()
    turn.next()
    turn.failed(B, A)
    assert not turn
    turn.failed(A, D)
    assert turn.next() == D


def test_endpoints_put_what_works_first_and_keep_what_the_url_names() -> None:
    endpoints = Endpoints([A, B])
    endpoints.prefer(B)
    assert endpoints.all == (B, A)
    endpoints.learn([C, B])
    assert endpoints.all == (B, A, C)
    endpoints.demote(B)
    assert endpoints.all == (A, C, B)
    endpoints.learn([D])
    assert endpoints.all == (A, B, D)
    endpoints.prefer(C)  # by a hint
    assert endpoints.all == (C, A, B, D)
    endpoints.learn([Address("n", port) for port in range(1, 2000)])
    assert len(endpoints.all) < 100


def test_a_pulse_pings_a_silent_line_and_gives_it_up() -> None:
    pulse = Pulse()
    pulse.tick(1, 0, waiting=False)
    doubts = [pulse.tick(1, 0, waiting=False) for _ in range(LOST_TICKS)]
    assert doubts.index(Doubt.PING) == PING_TICKS - 1
    assert doubts[-1] is Doubt.LOST
    assert doubts.count(Doubt.NONE) == LOST_TICKS - 2
    pulse.tick(2, 0, waiting=False)
    assert pulse.tick(2, 0, waiting=False) is Doubt.NONE


def test_a_pulse_doubts_a_line_on_which_notifications_come_but_no_answers() -> None:
    pulse = Pulse()
    doubts = [pulse.tick(n, 0, waiting=True) for n in range(1, 60)]
    assert doubts[: STALL_TICKS - 1] == [Doubt.NONE] * (STALL_TICKS - 1)
    assert doubts[STALL_TICKS - 1] is Doubt.PROBE
    assert Doubt.LOST not in doubts
    assert 20 < doubts.count(Doubt.PROBE) < 30
    assert pulse.tick(60, 1, waiting=True) is Doubt.NONE
