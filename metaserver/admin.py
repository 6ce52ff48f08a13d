"""The Admin service: volumes, status, what an inode consists of. Calls for people and tools, none on a hot path.

What changes something is the leader's; what only reads is answered by every node of a cluster, from a state that holds
everything acknowledged before the call. What concerns the cluster itself is in cluster_admin.py. A refusal is raised inside and
becomes a gRPC status at one place (refusals.py).
"""

from __future__ import annotations

import contextlib
import errno
import uuid
from typing import TYPE_CHECKING, Final

import structlog

from metaserver import wire
from metaserver.core import entry as ops
from metaserver.core import reads
from metaserver.core.errors import FsError
from metaserver.core.model import CHUNK_BYTES
from metaserver.refusals import AdminError, answering, not_leader, streaming
from metaserver.settings import block_bytes, check_volume_name, fill
from metaserver.status import doomed_count
from protos import admin_pb2, admin_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from metaserver.cluster_admin import ClusterAdmin
    from metaserver.core.model import Extent, Inode, Volume
    from metaserver.core.txn import ReadTxn
    from metaserver.reign import Reign
    from metaserver.status import Status
    from raft.membership import Member

_log = structlog.get_logger(__name__)

DESTROY_STEP: Final = 1000
CHUNKS_SHOWN_MAX: Final = 4096
EXTENTS_SHOWN_MAX: Final = 20_000
PATHS_SHOWN_MAX: Final = 16


def _require(result: ops.Result, name: str) -> ops.Result:
    if result.errno:
        raise AdminError(result.errno, "refused", f"volume {name!r}: {result.detail or 'errno ' + str(result.errno)}")
    return result


async def _destroy_step(reign: Reign, volume: Volume) -> int:
    return _require(await reign.writes.call(ops.DestroyVolume(volume.id, DESTROY_STEP)), volume.name).count


class AdminService(admin_pb2_grpc.AdminServicer):
    """Implements protos/admin.proto."""

    def __init__(
        self,
        *,
        txn: ReadTxn,
        reign: Callable[[], Reign | None],
        leader: Callable[[], Member | None],
        cluster: ClusterAdmin,
        status: Callable[[], Status | None],
        checkpoint: Callable[[], Awaitable[int]],
        current: Callable[[], Awaitable[None]],
    ) -> None:
        """`status` gives None until the state is recovered. `current` waits until the state holds everything acknowledged."""
        self._txn = txn
        self._reign_now = reign
        self._leader = leader
        self._cluster = cluster
        self._status = status
        self._checkpoint = checkpoint
        self._current = current

    def require_ready(self) -> Status:
        """Refuse calls while the state is being recovered."""
        status = self._status()
        if status is None:
            raise AdminError(errno.EAGAIN, "starting", "the server is still reading its log; try again")
        return status

    def leader_admin(self) -> str:
        """The leader's admin address, "" when it is not known."""
        leader = self._leader()
        return leader.admin if leader is not None else ""

    def _reign(self) -> Reign:
        """What only the leader has. Raises AdminError."""
        reign = self._reign_now()
        if reign is None:
            raise not_leader(self.leader_admin())
        return reign

    # --- volumes ---

    @answering
    async def CreateVolume(self, request: admin_pb2.CreateVolumeRequest, context: object) -> admin_pb2.Volume:
        reign = self._reign()
        name = check_volume_name(request.name)
        # Made here and not by the state machine, to which nothing may be random.
        settings = fill(request.settings_json, uuid.uuid4().hex)
        made = ops.CreateVolume(name, settings, request.uid, request.gid, request.mode or 0o755)
        _require(await reign.writes.call(made), name)
        _log.info("volume created", volume=name)
        return self._volume(self._find(name))

    @answering
    async def ListVolumes(self, request: admin_pb2.ListVolumesRequest, context: object) -> admin_pb2.ListVolumesReply:
        await self._current()
        return admin_pb2.ListVolumesReply(volumes=[self._volume(volume) for volume in list(reads.volumes(self._txn))])

    @answering
    async def GetVolume(self, request: admin_pb2.GetVolumeRequest, context: object) -> admin_pb2.Volume:
        await self._current()
        return self._volume(self._find(request.name))

    @answering
    async def DestroyVolume(self, request: admin_pb2.DestroyVolumeRequest, context: object) -> admin_pb2.DestroyVolumeReply:
        reign = self._reign()
        await self._current()
        volume = self._find(request.name)
        attached = [session for session in reign.sessions if session.volume == volume.id]
        if not request.force and not volume.destroyed:
            self._require_unused(volume, len(attached))
        inodes = await _destroy_step(reign, volume)  # marks it, so that nobody attaches any more
        removed = inodes
        for session in attached:
            await reign.sessions.close(session, expired=True)
        while inodes:
            inodes = await _destroy_step(reign, volume)
            removed += inodes
        slices = await self._forget_slices(reign, volume)
        _log.info("volume destroyed", volume=volume.name, inodes=removed, slices=slices)
        return admin_pb2.DestroyVolumeReply(inodes=removed, slices=slices)

    @answering
    async def SetVolume(self, request: admin_pb2.SetVolumeRequest, context: object) -> admin_pb2.Volume:
        reign = self._reign()
        await self._current()
        volume = self._find(request.name)
        _require(await reign.writes.call(ops.SetVolume(volume.id, request.settings_json)), volume.name)
        _log.info("volume settings changed", volume=volume.name, changes=request.settings_json)
        return self._volume(self._find(request.name))

    async def _forget_slices(self, reign: Reign, volume: Volume) -> int:
        """Take the slices of a volume that is gone off the delete queue: no session can attach to it and work them off. All
        their objects lie below `<volume>/` in its store, and whoever destroys a volume removes that."""
        gone = [slice_.slice for slice_ in reads.doomed(self._txn) if slice_.volume == volume.id]
        for start in range(0, len(gone), wire.FINISHED_MAX):
            part = tuple(gone[start : start + wire.FINISHED_MAX])
            _require(await reign.writes.call(ops.FinishDeletes(part)), volume.name)
        return len(gone)

    def _require_unused(self, volume: Volume, attached: int) -> None:
        if attached:
            raise AdminError(
                errno.EBUSY, "in-use", f"volume {volume.name!r} is in use by {attached} sessions; unmount it, or use force"
            )
        inodes = reads.statfs(self._txn, volume.id).usage.inodes
        if inodes > 1:  # the root itself
            message = f"volume {volume.name!r} is not empty ({inodes - 1} inodes); empty it, or use force"
            raise AdminError(errno.ENOTEMPTY, "not-empty", message)

    def _find(self, name: str) -> Volume:
        try:
            return reads.volume_by_name(self._txn, name)
        except FsError as error:
            raise AdminError(errno.ENOENT, "no-volume", f"there is no volume {name[:80]!r} here") from error

    def _volume(self, volume: Volume) -> admin_pb2.Volume:
        usage = None if volume.destroyed else reads.statfs(self._txn, volume.id).usage
        return admin_pb2.Volume(
            name=volume.name,
            id=volume.id,
            root=volume.root,
            settings_json=volume.settings_json,
            bytes_used=usage.bytes if usage else 0,
            inodes_used=usage.inodes if usage else 0,
            created_ns=volume.created_ns,
            slices_doomed=doomed_count(self._txn, volume.id),
            destroyed=volume.destroyed,
        )

    # --- the server ---

    @answering
    async def Status(self, request: admin_pb2.StatusRequest, context: object) -> admin_pb2.StatusReply:
        return self.require_ready().reply()

    @answering
    async def Checkpoint(self, request: admin_pb2.CheckpointRequest, context: object) -> admin_pb2.CheckpointReply:
        return admin_pb2.CheckpointReply(index=await self._checkpoint())

    # --- the cluster ---

    @answering
    async def Members(self, request: admin_pb2.MembersRequest, context: object) -> admin_pb2.MembersReply:
        return self._cluster.members()

    @answering
    async def AddMember(self, request: admin_pb2.AddMemberRequest, context: object) -> admin_pb2.MembersReply:
        self._reign()
        return await self._cluster.add(request)

    @answering
    async def PromoteMember(self, request: admin_pb2.MemberRequest, context: object) -> admin_pb2.MembersReply:
        self._reign()
        return await self._cluster.promote(request)

    @answering
    async def RemoveMember(self, request: admin_pb2.MemberRequest, context: object) -> admin_pb2.MembersReply:
        self._reign()
        return await self._cluster.remove(request)

    @answering
    async def TransferLeadership(self, request: admin_pb2.MemberRequest, context: object) -> admin_pb2.MembersReply:
        self._reign()
        return await self._cluster.transfer(request)

    @answering
    async def MarkDigest(self, request: admin_pb2.MarkDigestRequest, context: object) -> admin_pb2.MarkDigestReply:
        self._reign()
        return await self._cluster.mark()

    @answering
    async def Digest(self, request: admin_pb2.DigestRequest, context: object) -> admin_pb2.DigestReply:
        return await self._cluster.digest(request)

    @streaming
    async def SaveSnapshot(
        self, request: admin_pb2.SaveSnapshotRequest, context: object
    ) -> AsyncGenerator[admin_pb2.SnapshotPiece, None]:
        async with contextlib.aclosing(self._cluster.save()) as pieces:  # frees the file as soon as the caller leaves
            async for piece in pieces:
                yield piece

    # --- inodes ---

    @answering
    async def InodeInfo(self, request: admin_pb2.InodeInfoRequest, context: object) -> admin_pb2.InodeInfoReply:
        await self._current()
        reign = self._reign_now()
        inode = self._inode(request)
        volume = reads.volume(self._txn, inode.volume)
        reply = admin_pb2.InodeInfoReply(
            attr=wire.encode_attr(inode),
            paths=reads.paths(self._txn, inode.ino, PATHS_SHOWN_MAX),
            xattr_names=reads.listxattr(self._txn, inode.ino),
            open_by=reign.holds.count_of_inode(inode.ino) if reign is not None else 0,
        )
        if inode.is_symlink:
            reply.symlink = reads.readlink(self._txn, inode.ino)
        elif inode.is_reg:
            self._add_chunks(reply, inode, volume)
        return reply

    def _inode(self, request: admin_pb2.InodeInfoRequest) -> Inode:
        if len(request.path) > wire.PATH_BYTES_MAX:
            raise AdminError(errno.ENAMETOOLONG, "bad-path", f"the path is longer than {wire.PATH_BYTES_MAX} bytes")
        if request.ino:
            volume = self._find(request.volume).id if request.volume else 0
            inode = reads.getattr(self._txn, request.ino)
            if volume not in (0, inode.volume):
                message = f"inode {request.ino} is not of volume {request.volume!r}"
                raise AdminError(errno.ENOENT, "other-volume", message)
            return inode
        root = self._find(request.volume).root
        path = request.path.strip(b"/")
        return reads.resolve(self._txn, root, path) if path else reads.getattr(self._txn, root)

    def _add_chunks(self, reply: admin_pb2.InodeInfoReply, inode: Inode, volume: Volume) -> None:
        """The chunks that have extents, up to what a person can read."""
        size = block_bytes(volume.settings_json)
        spanned = -(-inode.size // CHUNK_BYTES)
        shown = extents = first = 0
        while first < spanned:
            part = reads.read_slices(self._txn, inode.ino, first, min(64, spanned - first))
            for index, found in sorted(part.chunks.items()):
                shown += 1
                extents += len(found)
                if shown > CHUNKS_SHOWN_MAX or extents > EXTENTS_SHOWN_MAX:
                    reply.truncated = True
                    return
                chunk = reply.chunks.add(index=index)
                for e in found:
                    objects = [] if e.inline else object_keys(volume.name, e, size)
                    chunk.extents.add(
                        pos=e.pos, len=e.length, slice=e.slice, off=e.off, size=e.size, inline=e.inline, objects=objects
                    )
            first += part.covered
            if first >= 64 * CHUNKS_SHOWN_MAX:  # a file that is nearly all hole
                reply.truncated = first < spanned
                return


def object_keys(volume: str, extent: Extent, block: int) -> list[str]:
    """The objects that hold an extent's bytes (ARCHITECTURE.md, Object data)."""
    number = extent.slice
    prefix = f"{volume}/chunks/{number // 1_000_000}/{number // 1000}/{number}"
    first, last = extent.off // block, (extent.off + extent.length - 1) // block
    return [f"{prefix}_{index}_{min(block, extent.size - index * block)}" for index in range(first, last + 1)]
