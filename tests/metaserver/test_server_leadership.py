"""Two servers and a log: who is served when, exactly once across a change of leader, and that nothing waits for ever."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from fake_cluster import cluster
from grpc_health.v1 import health_pb2, health_pb2_grpc
from instant_log import settle
from stream_peer import ino_of

from metaserver.ports import ADMIN_SERVICE
from metaserver.service import SERVICE
from protos import admin_pb2, meta_pb2

pytestmark = pytest.mark.asyncio(loop_scope="session")
Code = grpc.StatusCode


async def trailers_of(peer):
    await asyncio.wait_for(peer.call.code(), 10)
    return dict(await peer.call.trailing_metadata())


async def knock(harness, **attach):
    """How an attach ends that is refused."""
    stranger = harness.stranger()
    await stranger.send(meta_pb2.ClientFrame(attach=meta_pb2.Attach(volume="vol", protocol=1, **attach)))
    return await stranger.ending(), await trailers_of(stranger)


async def again(harness, peer, **fields):
    """The session at another node."""
    back = await harness.peer(session=peer.attached.session, secret=peer.attached.secret, **fields)
    back.seq = peer.seq
    return back


async def settle_for(condition):
    """Wait for what depends on sockets or on real time."""
    deadline = asyncio.get_running_loop().time() + 10
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "never came true"
        await asyncio.sleep(0.001)


# --- who is served --------------------------------------------------------------------------------------------------


async def test_a_follower_refuses_and_says_who_leads(tmp_path):
    async with cluster(tmp_path) as nodes:
        told, trailers = await knock(nodes["n2"])
        assert told[:2] == (Code.UNAVAILABLE, "not-leader")
        assert trailers["keelfs-leader"] == nodes["n1"].listen
        assert "'n1'" in told[2]


async def test_without_a_leader_the_hint_is_empty(tmp_path):
    async with cluster(tmp_path, leader=None) as nodes:
        told, trailers = await knock(nodes["n1"])
        assert told[:2] == (Code.UNAVAILABLE, "not-leader")
        assert "keelfs-leader" not in trailers


async def test_attached_and_notifications_tell_where_the_nodes_are(tmp_path):
    async with cluster(tmp_path) as nodes:
        peer = await nodes["n1"].peer()
        assert list(peer.attached.addresses) == [nodes["n1"].listen, nodes["n2"].listen]
        async with nodes["n1"].admin_stub() as stub:
            await stub.RemoveMember(admin_pb2.MemberRequest(name="n2", force=True))
        nodes.reign("n1").tell_members()
        nodes.reign("n1").tell_members()  # nothing new
        await peer.until(lambda: any(note.HasField("members") for note in peer.notes))
        assert [list(note.members.addresses) for note in peer.notes] == [[nodes["n1"].listen]]


async def test_health_says_who_serves_clients(tmp_path):
    async def serving(harness):
        async with grpc.aio.insecure_channel(harness.admin) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            replies = [await stub.Check(health_pb2.HealthCheckRequest(service=one)) for one in ("", SERVICE, ADMIN_SERVICE)]
        return [reply.status == health_pb2.HealthCheckResponse.SERVING for reply in replies]

    async with cluster(tmp_path, leader=None) as nodes:
        assert await serving(nodes["n1"]) == [False, False, False]
        for leader, other in (("n1", "n2"), ("n2", "n1")):
            nodes.log.lead(leader)
            for name, expected in ((leader, [True, True, True]), (other, [False, False, True])):
                deadline = asyncio.get_running_loop().time() + 10
                while (told := await serving(nodes[name])) != expected:
                    assert asyncio.get_running_loop().time() < deadline, told


# --- across a change of leader --------------------------------------------------------------------------------------


async def test_streams_of_a_leader_that_was_end_and_the_session_goes_on(tmp_path):
    async with cluster(tmp_path) as nodes:
        peer = await nodes["n1"].peer()
        ino = ino_of(await peer.create(b"f"))
        nodes.log.lead("n2")
        assert (await peer.ending())[:2] == (Code.UNAVAILABLE, "not-leader")
        back = await again(nodes["n2"], peer, open_inodes=[ino])
        assert back.attached.resumed
        assert ino_of(await back.lookup(b"f")) == ino
        assert not (await back.create(b"g")).errno
        assert len(nodes.digests) == 1


async def test_what_is_sent_again_has_its_first_result(tmp_path):
    async with cluster(tmp_path) as nodes:
        peer = await nodes["n1"].peer()
        create = meta_pb2.Create(parent=peer.root, name=b"f", mode=0o644, exclusive=True)
        first = await peer.change(create=create)
        nodes.log.lead("n2")
        back = await again(nodes["n2"], peer)
        assert ino_of(await back.change(seq=peer.seq, create=create)) == ino_of(first)


@pytest.mark.parametrize("keep", [True, False])
async def test_an_op_of_unknown_fate_ends_the_stream_and_happens_once(tmp_path, keep):
    async with cluster(tmp_path) as nodes:
        peer = await nodes["n1"].peer()
        nodes.log.quorum = False
        create = meta_pb2.Create(parent=peer.root, name=b"f", mode=0o644, exclusive=True)
        request = meta_pb2.Request(id=7, seq=1, create=create)
        await peer.send(meta_pb2.ClientFrame(requests=[request]))
        await settle_for(lambda: nodes.log.pending)
        nodes.log.quorum = True
        nodes.log.lead("n2", keep=keep)
        assert (await peer.ending())[:2] == (Code.UNAVAILABLE, "not-leader")
        assert not peer._answers
        back = await again(nodes["n2"], peer)
        made = await back.change(seq=1, create=create)
        assert ino_of(await back.lookup(b"f")) == ino_of(made)
        page = await back.read(readdir=meta_pb2.ReadDir(ino=back.root))
        assert [entry.name for entry in page.entries] == [b"f"]


async def test_the_same_node_leads_again_and_what_was_in_its_log_counts(tmp_path):
    async with cluster(tmp_path) as nodes:
        peer = await nodes["n1"].peer()
        nodes.log.quorum = False
        create = meta_pb2.Create(parent=peer.root, name=b"f", mode=0o644, exclusive=True)
        await peer.send(meta_pb2.ClientFrame(requests=[meta_pb2.Request(id=7, seq=1, create=create)]))
        await settle_for(lambda: nodes.log.pending)
        nodes.log.quorum = True
        nodes.log.lead("n1", keep=True)
        back = await again(nodes["n1"], peer)
        assert not (await back.change(seq=1, create=create)).errno


async def test_quick_changes_leave_one_working_reign(tmp_path):
    async with cluster(tmp_path) as nodes:
        peer = await nodes["n1"].peer()
        ino = ino_of(await peer.create(b"f"))
        server = nodes["n1"].server
        for _ in range(5):
            nodes.log.lead("n1")
            nodes.log.lead("n2")
        nodes.log.lead("n1")
        assert server._leadership.reigns == 7
        assert (await peer.ending())[:2] == (Code.UNAVAILABLE, "not-leader")
        back = await again(nodes["n1"], peer, open_inodes=[ino])
        assert not (await back.create(b"g")).errno
        await settle_for(lambda: all(reign.is_stopped for reign in server._leadership._past))
        nodes.log.lead("n2")
        assert len(server._leadership._past) == 1  # the stopped ones are forgotten
        assert not server._state.observers


async def test_an_attach_that_waits_while_leadership_goes_is_refused(tmp_path):
    async with cluster(tmp_path) as nodes:
        nodes.log.quorum = False
        stranger = nodes["n1"].stranger()
        await stranger.send(meta_pb2.ClientFrame(attach=meta_pb2.Attach(volume="vol", protocol=1)))
        await settle_for(lambda: nodes.log.waiting)
        nodes.log.quorum = True
        nodes.log.lead("n2")
        assert (await stranger.ending())[:2] == (Code.UNAVAILABLE, "not-leader")


async def test_sessions_have_a_full_ttl_at_the_new_leader_and_orphans_wait_for_them(tmp_path):
    async with cluster(tmp_path, session_ttl_s=1.0) as nodes:
        first, second = await nodes["n1"].peer(), await nodes["n1"].peer()
        ino = ino_of(await first.create(b"f"))
        nodes.log.lead("n2")
        reign = nodes.reign("n2")
        assert {session.id for session in reign.sessions} == {first.attached.session, second.attached.session}
        back = await again(nodes["n2"], first, open_inodes=[ino])
        assert not (await back.unlink(b"f")).errno
        assert reign.orphans.count == 1
        assert not (await back.read(getattr=meta_pb2.GetAttr(ino=ino))).errno
        async with asyncio.timeout(10):
            while len(reign.sessions) == 2:  # the second one never comes back
                await back.send(meta_pb2.ClientFrame())
                await asyncio.sleep(0.02)
        assert not (await back.read(getattr=meta_pb2.GetAttr(ino=ino))).errno  # held
        await back.send(meta_pb2.ClientFrame(released=[ino]))
        await settle_for(lambda: reign.orphans.count == 0)


async def test_a_session_that_was_closed_by_the_old_leader_is_not_known_to_the_new_one(tmp_path):
    async with cluster(tmp_path) as nodes:
        peer = await nodes["n1"].peer()
        await peer.send(meta_pb2.ClientFrame(detach=True))
        assert (await peer.ending())[0] is Code.OK
        nodes.log.lead("n2")
        told, _ = await knock(nodes["n2"], session=peer.attached.session, secret=peer.attached.secret)
        assert told[:2] == (Code.NOT_FOUND, "no-session")


async def test_late_callbacks_of_an_old_reign_do_not_touch_the_new_one(tmp_path):
    async with cluster(tmp_path) as nodes:
        peer = await nodes["n1"].peer()
        old = nodes.reign("n1")
        (stream,) = old.conversations._streams
        session = old.sessions.get(peer.attached.session)
        nodes.log.lead("n2")
        nodes.log.lead("n1")
        new = nodes.reign("n1")
        back = await again(nodes["n1"], peer)
        getattr_ = meta_pb2.Request(id=1, getattr=meta_pb2.GetAttr(ino=back.root))
        nodes["n1"].server._meta.take(session, stream, meta_pb2.ClientFrame(requests=[getattr_]).SerializeToString())
        nodes["n1"].server._meta.leave(session, stream)
        old.conversations.close(stream.ending)
        assert new.sessions.get(session.id).stream is not None
        assert len(new.conversations) == 1
        assert not (await back.create(b"f")).errno


# --- reads ----------------------------------------------------------------------------------------------------------


async def test_the_reads_of_a_frame_share_a_barrier(tmp_path):
    async with cluster(tmp_path) as nodes:
        peer = await nodes["n1"].peer()
        before = nodes.node("n1").barriers
        reads = [meta_pb2.Request(getattr=meta_pb2.GetAttr(ino=peer.root)) for _ in range(100)]
        answers = await peer.ask(reads)
        assert not any(answer.errno for answer in answers)
        assert nodes.node("n1").barriers == before + 1


async def test_a_read_after_an_answered_change_sees_it(tmp_path):
    async with cluster(tmp_path) as nodes:
        peer = await nodes["n1"].peer()
        for number in range(30):
            ino = ino_of(await peer.create(b"f%d" % number))
            assert ino_of(await peer.lookup(b"f%d" % number)) == ino


async def test_an_open_that_waits_when_its_stream_goes_holds_nothing(tmp_path):
    async with cluster(tmp_path) as nodes:
        peer = await nodes["n1"].peer()
        ino = ino_of(await peer.create(b"f"))
        await peer.send(meta_pb2.ClientFrame(released=[ino]))
        nodes.log.quorum = False
        await peer.send(meta_pb2.ClientFrame(requests=[meta_pb2.Request(id=99, open=meta_pb2.Open(ino=ino))]))
        await settle_for(lambda: nodes.log.waiting)
        reign = nodes.reign("n1")
        await peer.close()
        await settle_for(lambda: not len(reign.conversations))
        nodes.log.heal()
        await settle(lambda: not reign.barrier.rounds)
        assert not reign.holds.held(ino)


# --- nothing waits for ever -----------------------------------------------------------------------------------------


async def test_reads_without_a_majority_end_the_stream_in_time(tmp_path):
    async with cluster(tmp_path, wait_max_s=0.3) as nodes:
        peer = await nodes["n1"].peer()
        nodes.log.quorum = False
        await peer.send(meta_pb2.ClientFrame(requests=[meta_pb2.Request(id=1, getattr=meta_pb2.GetAttr(ino=peer.root))]))
        assert (await peer.ending())[:2] == (Code.UNAVAILABLE, "no-quorum")
        told, _ = await knock(nodes["n1"])
        assert told[:2] == (Code.UNAVAILABLE, "no-quorum")
        nodes.log.heal()
        assert not (await (await again(nodes["n1"], peer)).create(b"f")).errno


async def test_changes_without_a_majority_end_the_stream_in_time_and_happen_once(tmp_path):
    async with cluster(tmp_path, wait_max_s=0.3) as nodes:
        peer = await nodes["n1"].peer()
        nodes.log.quorum = False
        create = meta_pb2.Create(parent=peer.root, name=b"f", mode=0o644, exclusive=True)
        await peer.send(meta_pb2.ClientFrame(requests=[meta_pb2.Request(id=1, seq=1, create=create)]))
        assert (await peer.ending())[:2] == (Code.UNAVAILABLE, "no-quorum")
        assert not peer._answers
        nodes.log.heal()
        back = await again(nodes["n1"], peer)
        ino = ino_of(await back.lookup(b"f"))
        assert ino_of(await back.change(seq=1, create=create)) == ino
        assert nodes.reign("n1").holds.held(ino)  # the table followed the entry although nobody waited for it


async def test_a_session_whose_opener_gave_up_is_in_the_table_and_expires(tmp_path):
    async with cluster(tmp_path, wait_max_s=0.3, session_ttl_s=0.5) as nodes:
        reign = nodes.reign("n1")
        stranger = nodes["n1"].stranger()
        await stranger.send(meta_pb2.ClientFrame(attach=meta_pb2.Attach(volume="vol", protocol=1)))
        nodes.log.quorum = True
        await settle_for(lambda: len(reign.sessions))
        nodes.log.quorum = False
        other = nodes["n1"].stranger()
        opening = asyncio.ensure_future(reign.sessions.open(1, 2, "nobody waits"))
        await settle_for(lambda: nodes.log.pending)
        opening.cancel()
        nodes.log.heal()
        await settle_for(lambda: len(reign.sessions) == 2)
        await settle_for(lambda: len(reign.sessions) == 0)
        await other.close()


async def test_admin_calls_without_a_majority_end_in_time(tmp_path):
    async with cluster(tmp_path, wait_max_s=0.3) as nodes, nodes["n1"].admin_stub() as stub:
        nodes.log.quorum = False
        for call in (stub.GetVolume(admin_pb2.GetVolumeRequest(name="vol")), nodes["n1"].make_volume("other")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is Code.UNAVAILABLE
            assert dict(caught.value.trailing_metadata())["keelfs-reason"] == "no-quorum"


# --- the end --------------------------------------------------------------------------------------------------------


async def test_a_leader_that_stops_hands_over_first(tmp_path):
    async with cluster(tmp_path) as nodes:
        nodes.node("n1").transfers_to = "n2"
        peer = await nodes["n1"].peer()
        await nodes["n1"].server.stop()
        assert nodes.log.leader == "n2"
        code, reason, _ = await peer.ending()
        assert (code, reason) == (Code.UNAVAILABLE, "not-leader")
        back = await again(nodes["n2"], peer)
        assert not (await back.create(b"f")).errno


async def test_a_leader_whom_nobody_relieves_stops_all_the_same(tmp_path):
    async with cluster(tmp_path) as nodes:
        peer = await nodes["n1"].peer()
        async with asyncio.timeout(10):
            await nodes["n1"].server.stop()
        assert (await peer.ending())[1] == "stopping"
