"""The administrative calls about a cluster, on a leader, on a follower and on a single node."""

from __future__ import annotations

import asyncio
import errno
import uuid

import grpc
import pytest
from fake_cluster import CLUSTER_ID, cluster
from stream_peer import serving

from protos import admin_pb2
from raft.disk import RealDisk
from raft.snapshot_file import SnapshotReader

pytestmark = pytest.mark.asyncio(loop_scope="session")
Code = grpc.StatusCode


async def refused(call):
    """Code, reason, errno and leader hint of a refusal."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    trailers = dict(caught.value.trailing_metadata())
    assert caught.value.details()
    return caught.value.code(), trailers["keelfs-reason"], int(trailers["keelfs-errno"]), trailers.get("keelfs-leader")


def learner(name="n3", port=3):
    address = f"127.0.0.1:{port}"
    return admin_pb2.AddMemberRequest(
        name=name, incarnation=str(uuid.uuid5(uuid.NAMESPACE_DNS, name)), peer=address, client=address, admin=address
    )


# --- a cluster ------------------------------------------------------------------------------------------------------


async def test_members_as_each_node_sees_them(tmp_path):
    async with cluster(tmp_path) as nodes:
        for name, lag_known in (("n1", True), ("n2", False)):
            async with nodes[name].admin_stub() as stub:
                reply = await stub.Members(admin_pb2.MembersRequest())
            assert (reply.cluster_id, reply.leader, reply.name) == (CLUSTER_ID, "n1", name)
            assert [member.name for member in reply.members] == ["n1", "n2"]
            assert all(member.reachable and member.voter for member in reply.members)
            assert [member.client for member in reply.members] == [nodes["n1"].listen, nodes["n2"].listen]
            if lag_known:
                assert {member.match_index for member in reply.members} == {len(nodes.log.entries)}
                assert {member.lag for member in reply.members} == {0}


async def test_a_member_is_added_promoted_and_removed(tmp_path):
    async with cluster(tmp_path) as nodes, nodes["n1"].admin_stub() as stub:
        added = await stub.AddMember(learner())
        assert [(m.name, m.voter, m.reachable) for m in added.members] == [
            ("n1", True, True),
            ("n2", True, True),
            ("n3", False, False),
        ]
        assert (await refused(stub.AddMember(learner())))[:3] == (Code.INVALID_ARGUMENT, "refused", errno.EINVAL)
        assert (await stub.PromoteMember(admin_pb2.MemberRequest(name="n3"))).members[2].voter
        removed = await stub.RemoveMember(admin_pb2.MemberRequest(name="n3"))
        assert [m.name for m in removed.members] == ["n1", "n2"]
        nobody = admin_pb2.AddMemberRequest(name="n4", incarnation="x" * 100_000, peer="h:1", client="h:2", admin="h:3")
        assert (await refused(stub.AddMember(nobody)))[:2] == (Code.INVALID_ARGUMENT, "bad-incarnation")
        unknown = stub.RemoveMember(admin_pb2.MemberRequest(name="n9"))
        assert (await refused(unknown))[:2] == (Code.INVALID_ARGUMENT, "refused")


async def test_a_change_that_would_stop_the_cluster_needs_force(tmp_path):
    async with cluster(tmp_path, ("n1",)) as nodes, nodes["n1"].admin_stub() as stub:
        await stub.AddMember(learner())
        lost = admin_pb2.MemberRequest(name="n3")
        assert (await refused(stub.PromoteMember(lost)))[:3] == (Code.FAILED_PRECONDITION, "refused", errno.EBUSY)
        assert (await stub.PromoteMember(admin_pb2.MemberRequest(name="n3", force=True))).members[1].voter


async def test_a_follower_refuses_what_is_the_leaders_with_its_admin_address(tmp_path):
    async with cluster(tmp_path) as nodes, nodes["n2"].admin_stub() as stub:
        calls = [
            stub.CreateVolume(admin_pb2.CreateVolumeRequest(name="x")),
            stub.DestroyVolume(admin_pb2.DestroyVolumeRequest(name="vol")),
            stub.AddMember(learner()),
            stub.PromoteMember(admin_pb2.MemberRequest(name="n2")),
            stub.RemoveMember(admin_pb2.MemberRequest(name="n2")),
            stub.TransferLeadership(admin_pb2.MemberRequest(name="n2")),
            stub.MarkDigest(admin_pb2.MarkDigestRequest()),
        ]
        for call in calls:
            assert await refused(call) == (Code.UNAVAILABLE, "not-leader", errno.EAGAIN, nodes["n1"].admin)
        nodes.log.lead(None)
        assert (await refused(stub.AddMember(learner())))[3] == ""


async def test_a_follower_reads_after_asking_the_leader(tmp_path):
    async with cluster(tmp_path) as nodes, nodes["n2"].admin_stub() as stub:
        before = nodes.node("n2").barriers
        assert [volume.name for volume in (await stub.ListVolumes(admin_pb2.ListVolumesRequest())).volumes] == ["vol"]
        assert (await stub.GetVolume(admin_pb2.GetVolumeRequest(name="vol"))).name == "vol"
        assert (await stub.InodeInfo(admin_pb2.InodeInfoRequest(volume="vol", path=b"/"))).attr
        assert nodes.node("n2").barriers == before + 3
        status = await stub.Status(admin_pb2.StatusRequest())
        assert (status.name, status.role, status.leader) == ("n2", "follower", "n1")
        assert status.index_applied == status.index_committed == status.index_last == len(nodes.log.entries)


async def test_leadership_is_handed_over_on_request(tmp_path):
    async with cluster(tmp_path) as nodes, nodes["n1"].admin_stub() as stub:
        assert (await stub.TransferLeadership(admin_pb2.MemberRequest(name="n2"))).leader == "n2"
        assert nodes.reign("n1") is None
        assert nodes.reign("n2") is not None


async def test_all_nodes_have_the_digest_of_a_marker(tmp_path):
    async with cluster(tmp_path) as nodes:
        async with nodes["n1"].admin_stub() as stub:
            index = (await stub.MarkDigest(admin_pb2.MarkDigestRequest())).index
        replies = []
        for name in ("n1", "n2"):
            async with nodes[name].admin_stub() as stub:
                replies.append(await stub.Digest(admin_pb2.DigestRequest(index=index, timeout_ms=5000)))
        assert replies[0] == replies[1]
        assert replies[0].index == index
        assert replies[0].keys > 0
        async with nodes["n2"].admin_stub() as stub:
            later = stub.Digest(admin_pb2.DigestRequest(index=index + 100, timeout_ms=50))
            assert (await refused(later))[:2] == (Code.DEADLINE_EXCEEDED, "no-digest")
            earlier = stub.Digest(admin_pb2.DigestRequest(index=index - 1, timeout_ms=5000))
            assert (await refused(earlier))[:2] == (Code.NOT_FOUND, "no-digest")


# --- a single node --------------------------------------------------------------------------------------------------


async def test_a_single_node_shows_itself_and_has_no_members_to_change(tmp_path):
    async with serving(tmp_path) as harness, harness.admin_stub() as stub:
        reply = await stub.Members(admin_pb2.MembersRequest())
        (one,) = reply.members
        assert (one.client, one.admin, one.reachable, one.lag) == (harness.listen, harness.admin, True, 0)
        assert reply.leader == reply.name == one.name
        for call in (stub.AddMember(learner()), stub.TransferLeadership(admin_pb2.MemberRequest())):
            assert (await refused(call))[:2] == (Code.FAILED_PRECONDITION, "not-a-cluster")
        index = (await stub.MarkDigest(admin_pb2.MarkDigestRequest())).index
        digest = await stub.Digest(admin_pb2.DigestRequest(index=index, timeout_ms=5000))
        assert (digest.index, len(digest.chain)) == (index, 16)


async def test_a_single_node_gives_a_snapshot_that_can_be_read(tmp_path):
    async with serving(tmp_path / "data") as harness, harness.admin_stub() as stub:
        pieces = [piece async for piece in stub.SaveSnapshot(admin_pb2.SaveSnapshotRequest())]
        applied = (await stub.Status(admin_pb2.StatusRequest())).index_applied
        assert not list((tmp_path / "data" / "snapshots").glob("*")) if (tmp_path / "data" / "snapshots").exists() else True
    data = b"".join(piece.data for piece in pieces)
    assert {piece.size for piece in pieces} == {len(data)}
    assert {piece.index for piece in pieces} == {applied}
    file = tmp_path / "saved"
    file.write_bytes(data)
    with SnapshotReader(RealDisk(), str(file)) as reader:
        assert reader.header.index == applied
        assert sum(map(len, reader.chunks())) > 0


async def test_one_snapshot_is_saved_at_a_time_and_leaving_frees_it(tmp_path):
    async with serving(tmp_path) as harness, harness.admin_stub() as stub:
        saving = harness.server._ports._admin._cluster._saving
        async with saving:
            call = stub.SaveSnapshot(admin_pb2.SaveSnapshotRequest())
            assert (await refused(call.read()))[:2] == (Code.FAILED_PRECONDITION, "busy")
        for _ in range(3):
            call = stub.SaveSnapshot(admin_pb2.SaveSnapshotRequest())
            await call.read()
            call.cancel()
            async with asyncio.timeout(10), saving:  # free again, whatever the caller has seen
                pass
