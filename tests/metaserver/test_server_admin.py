"""The Admin service, health and reflection over real gRPC."""

from __future__ import annotations

import errno
import json

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from stream_peer import ino_of, serving

from metaserver.admin import object_keys
from metaserver.core.model import Extent
from metaserver.ports import ADMIN_SERVICE
from metaserver.service import SERVICE
from protos import admin_pb2, meta_pb2

pytestmark = pytest.mark.asyncio(loop_scope="session")
Code = grpc.StatusCode


async def refused(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    trailers = dict(caught.value.trailing_metadata())
    assert caught.value.details()
    return caught.value.code(), trailers["keelfs-reason"], int(trailers["keelfs-errno"])


async def test_volumes_are_made_shown_and_refused_twice(tmp_path):
    async with serving(tmp_path) as harness, harness.admin_stub() as stub:
        made = await stub.GetVolume(admin_pb2.GetVolumeRequest(name="vol"))
        assert json.loads(made.settings_json)["block_bytes"] == 4 << 20
        assert (made.inodes_used, made.bytes_used, made.destroyed) == (1, 0, False)
        await harness.make_volume("second")
        listed = await stub.ListVolumes(admin_pb2.ListVolumesRequest())
        assert [volume.name for volume in listed.volumes] == ["vol", "second"]
        uuids = {json.loads(volume.settings_json)["uuid"] for volume in listed.volumes}
        assert len(uuids) == 2
        assert all(len(uuid) == 32 for uuid in uuids)
        again = stub.CreateVolume(admin_pb2.CreateVolumeRequest(name="vol", settings_json='{"store":"file:///x"}'))
        assert await refused(again) == (Code.ALREADY_EXISTS, "refused", errno.EEXIST)
        bad = stub.CreateVolume(admin_pb2.CreateVolumeRequest(name="v", settings_json='{"store":"s3://a:b@c"}'))
        assert await refused(bad) == (Code.INVALID_ARGUMENT, "bad-settings", errno.EINVAL)
        none = stub.GetVolume(admin_pb2.GetVolumeRequest(name="none"))
        assert await refused(none) == (Code.NOT_FOUND, "no-volume", errno.ENOENT)


async def test_settings_that_can_be_changed(tmp_path):
    async with serving(tmp_path) as harness, harness.admin_stub() as stub:
        before = json.loads((await stub.GetVolume(admin_pb2.GetVolumeRequest(name="vol"))).settings_json)
        assert before["acl"] is True
        for acl in (False, True):
            changes = json.dumps({"acl": acl})
            changed = await stub.SetVolume(admin_pb2.SetVolumeRequest(name="vol", settings_json=changes))
            assert json.loads(changed.settings_json) == before | {"acl": acl}
        for bad in ('{"acl":1}', '{"block_bytes":65536}', "[]", "{"):
            refusal = stub.SetVolume(admin_pb2.SetVolumeRequest(name="vol", settings_json=bad))
            assert await refused(refusal) == (Code.INVALID_ARGUMENT, "refused", errno.EINVAL)
        none = stub.SetVolume(admin_pb2.SetVolumeRequest(name="none", settings_json="{}"))
        assert await refused(none) == (Code.NOT_FOUND, "no-volume", errno.ENOENT)


async def test_a_volume_in_use_is_destroyed_only_by_force(tmp_path):
    async with serving(tmp_path) as harness, harness.admin_stub() as stub:
        peer = await harness.peer()
        destroy = admin_pb2.DestroyVolumeRequest(name="vol")
        assert await refused(stub.DestroyVolume(destroy)) == (Code.FAILED_PRECONDITION, "in-use", errno.EBUSY)
        ino = ino_of(await peer.create(b"f"))
        first = (await peer.change(lease_ids=meta_pb2.LeaseIds(kind=2, count=1))).first
        piece = meta_pb2.NewSlice(chunk=0, pos=0, slice=first, size=4096, len=4096)
        assert not (await peer.change(commit_slices=meta_pb2.CommitSlices(ino=ino, slices=[piece]))).errno
        for n in range(1200):
            if n % 100 == 0:
                made = await peer.change(mkdir=meta_pb2.MkDir(parent=peer.root, name=b"d%d" % n, mode=0o755))
            await peer.create(b"f%d" % n, parent=ino_of(made))
        destroyed = await stub.DestroyVolume(admin_pb2.DestroyVolumeRequest(name="vol", force=True))
        assert destroyed.inodes >= 1213
        assert destroyed.slices == 1
        assert (await peer.ending())[:2] == (Code.ABORTED, "session-expired")
        assert not (await stub.ListVolumes(admin_pb2.ListVolumesRequest())).volumes
        status = await stub.Status(admin_pb2.StatusRequest())
        assert (status.slices_doomed, len(status.sessions)) == (0, 0)
        await harness.make_volume("vol")


async def test_a_volume_that_is_not_empty_is_kept(tmp_path):
    async with serving(tmp_path) as harness, harness.admin_stub() as stub:
        peer = await harness.peer()
        await peer.create(b"f")
        await peer.send(meta_pb2.ClientFrame(detach=True))
        assert (await peer.ending())[0] is Code.OK
        destroy = admin_pb2.DestroyVolumeRequest(name="vol")
        assert await refused(stub.DestroyVolume(destroy)) == (Code.FAILED_PRECONDITION, "not-empty", errno.ENOTEMPTY)


async def test_status_tells_sessions_and_indexes(tmp_path):
    async with serving(tmp_path) as harness, harness.admin_stub() as stub:
        peer = await harness.peer(client="host:/mnt:42")
        await peer.create(b"f")
        status = await stub.Status(admin_pb2.StatusRequest())
        assert (status.role, status.read_only, status.inodes) == ("single", False, 2)
        assert status.rss_bytes > 1 << 20
        assert status.cluster_id
        (session,) = status.sessions
        assert (session.client, session.volume, session.connected, session.open_files) == ("host:/mnt:42", "vol", True, 1)
        assert session.results_kept == 1
        done = await stub.Checkpoint(admin_pb2.CheckpointRequest())
        assert done.index == status.index_applied
        assert (await stub.Status(admin_pb2.StatusRequest())).index_checkpointed == done.index


async def test_inode_info_names_paths_and_objects(tmp_path):
    async with serving(tmp_path) as harness, harness.admin_stub() as stub:
        peer = await harness.peer()
        sub = ino_of(await peer.change(mkdir=meta_pb2.MkDir(parent=peer.root, name=b"d", mode=0o755)))
        ino = ino_of(await peer.create(b"f", parent=sub))
        first = (await peer.change(lease_ids=meta_pb2.LeaseIds(kind=2, count=2))).first
        pieces = [
            meta_pb2.NewSlice(chunk=3, pos=0, slice=first, size=5 << 20, len=5 << 20),
            meta_pb2.NewSlice(chunk=0, pos=8, slice=first + 1, size=2, len=2, data=b"hi"),
        ]
        await peer.change(commit_slices=meta_pb2.CommitSlices(ino=ino, slices=pieces))
        await peer.change(setxattr=meta_pb2.SetXattr(ino=ino, name=b"user.a", value=b"1"))
        info = await stub.InodeInfo(admin_pb2.InodeInfoRequest(volume="vol", path=b"/d/f"))
        assert info.attr[:8] == ino.to_bytes(8, "little")
        assert (list(info.paths), list(info.xattr_names), info.open_by) == ([b"/d/f"], [b"user.a"], 1)
        assert [chunk.index for chunk in info.chunks] == [0, 3]
        key = f"vol/chunks/0/0/{first}"
        assert (info.chunks[0].extents[0].inline, list(info.chunks[0].extents[0].objects)) == (True, [])
        assert list(info.chunks[1].extents[0].objects) == [f"{key}_0_{4 << 20}", f"{key}_1_{1 << 20}"]
        assert (await stub.InodeInfo(admin_pb2.InodeInfoRequest(ino=ino))).attr == info.attr
        missing = stub.InodeInfo(admin_pb2.InodeInfoRequest(volume="vol", path=b"no"))
        assert (await refused(missing))[0] is Code.NOT_FOUND


async def test_object_keys_are_those_of_the_blocks_that_an_extent_uses():
    whole = Extent(0, 9 << 20, 12_345_678, 0, 9 << 20, False)
    prefix = "v/chunks/12/12345/12345678"
    assert object_keys("v", whole, 4 << 20) == [f"{prefix}_0_{4 << 20}", f"{prefix}_1_{4 << 20}", f"{prefix}_2_{1 << 20}"]
    middle = Extent(0, 1, 12_345_678, 5 << 20, 9 << 20, False)
    assert object_keys("v", middle, 4 << 20) == [f"{prefix}_1_{4 << 20}"]


async def test_health_and_reflection_are_on_the_admin_port(tmp_path):
    async with serving(tmp_path) as harness, grpc.aio.insecure_channel(harness.admin) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE, ADMIN_SERVICE):
            reply = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        listing = reflection_pb2.ServerReflectionRequest(list_services="")
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([listing]))
        names = {one.name for reply in [await call.read()] for one in reply.list_services_response.service}
        assert {SERVICE, ADMIN_SERVICE} <= names
        call.cancel()
