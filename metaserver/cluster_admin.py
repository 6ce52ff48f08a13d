"""The administrative calls about the cluster: members, leadership, digests, backups.

What may be changed when is decided below (raft/membership.py, ClusterControl); here it is asked for and told. On a single node
there are no members to change, but its digest and its snapshot are those that a cluster grown from it would have.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from metaserver.refusals import AdminError
from protos import admin_pb2
from raft import membership
from raft.api import PeerProgress

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from raft.api import ClusterControl, Replicator
    from raft.membership import Member, Membership

_log = structlog.get_logger(__name__)

PIECE_BYTES: Final = 1 << 20
DIGEST_WAIT_DEFAULT_S: Final = 30.0
DIGEST_WAIT_MAX_S: Final = 600.0

_UNKNOWN: Final = PeerProgress(reachable=False, match_index=0)


class StateDigest(Protocol):
    """The digest of the whole state at one index."""

    @property
    def index(self) -> int: ...
    @property
    def state(self) -> bytes: ...
    @property
    def chain(self) -> bytes: ...
    @property
    def keys(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A file with the state as of `index`; whoever gets it removes it."""

    path: Path
    index: int


class Local(Protocol):
    """What this node does by itself, in a cluster or not."""

    async def mark(self) -> int:
        """Have the state digested at an index (on every node); the index."""

    async def digest(self, index: int) -> StateDigest:
        """The digest that was taken at `index`, when there is one; waits for it."""

    async def save(self) -> Snapshot:
        """Raises OSError, StoreError."""


class ClusterAdmin:
    """Answers for AdminService, which has checked that this node may. `single` is how a node without a cluster shows itself."""

    def __init__(
        self,
        *,
        cluster: ClusterControl | None,
        replicator: Replicator,
        local: Local,
        cluster_id: Callable[[], str],
        name: str,
        single: Callable[[], Member],
    ) -> None:
        self._cluster = cluster
        self._replicator = replicator
        self._local = local
        self._cluster_id = cluster_id
        self._name = name
        self._single = single
        self._saving = asyncio.Lock()

    # --- members ---

    def members(self) -> admin_pb2.MembersReply:
        """Everybody, as this node sees them."""
        log, cluster = self._replicator.status(), self._cluster
        name, cluster_id = self._name, self._cluster_id()
        if cluster is None:
            one = self._single()
            reply = admin_pb2.MembersReply(cluster_id=cluster_id, leader=one.name, term=log.term, name=one.name)
            self._add(reply, one, None, log.index_last, log.index_last)
            return reply
        leader = cluster.leader()
        leads = leader is not None and leader.name == name
        reply = admin_pb2.MembersReply(
            cluster_id=cluster_id, leader=leader.name if leader is not None else "", term=log.term, name=name
        )
        progress = cluster.progress()
        for member in cluster.membership.members:
            own = member.name == name
            self._add(
                reply, member, None if own else progress.get(member.name, _UNKNOWN), log.index_last, log.index_last * leads
            )
        return reply

    def _add(
        self, reply: admin_pb2.MembersReply, member: Member, progress: PeerProgress | None, own_index: int, last: int
    ) -> None:
        """`progress` None: this node itself. `last`: what a match is compared with, 0 when this node does not lead."""
        match = own_index if progress is None else progress.match_index
        reply.members.add(
            name=member.name,
            incarnation=member.incarnation,
            peer=member.peer,
            client=member.client,
            admin=member.admin,
            voter=member.voter,
            reachable=progress is None or progress.reachable,
            match_index=match,
            lag=max(last - match, 0) if last else 0,
        )

    async def add(self, request: admin_pb2.AddMemberRequest) -> admin_pb2.MembersReply:
        """A new learner."""
        try:
            incarnation = str(uuid.UUID(request.incarnation))
        except ValueError:
            raise AdminError(
                errno.EINVAL, "bad-incarnation", "a node's incarnation is the UUID that `keelfs cluster add` gave its directory"
            ) from None
        member = membership.Member(request.name, incarnation, request.peer, request.client, request.admin, voter=False)
        return await self._change("added", member.name, lambda now: membership.add(now, member), force=False)

    async def promote(self, request: admin_pb2.MemberRequest) -> admin_pb2.MembersReply:
        """A learner becomes a voter."""
        return await self._change("promoted", request.name, lambda now: membership.promote(now, request.name), request.force)

    async def remove(self, request: admin_pb2.MemberRequest) -> admin_pb2.MembersReply:
        """Without this node."""
        return await self._change("removed", request.name, lambda now: membership.remove(now, request.name), request.force)

    async def _change(
        self, what: str, name: str, change: Callable[[Membership], Membership], force: bool
    ) -> admin_pb2.MembersReply:
        await self._require_cluster().change(change, force=force)
        _log.info(f"a node was {what}", node=name[:64], forced=force)
        return self.members()

    async def transfer(self, request: admin_pb2.MemberRequest) -> admin_pb2.MembersReply:
        """Another node leads."""
        name = await self._require_cluster().transfer(request.name)
        _log.info("leadership was handed over", to=name)
        return self.members()

    def _require_cluster(self) -> ClusterControl:
        if self._cluster is None:
            raise AdminError(
                errno.EOPNOTSUPP,
                "not-a-cluster",
                "this node runs alone; stop it and make a cluster of it first, with `keelfs cluster init`",
            )
        return self._cluster

    # --- the state ---

    async def mark(self) -> admin_pb2.MarkDigestReply:
        """Log a marker."""
        return admin_pb2.MarkDigestReply(index=await self._local.mark())

    async def digest(self, request: admin_pb2.DigestRequest) -> admin_pb2.DigestReply:
        """The digest at a marker, as soon as it is there."""
        wait_s = min(request.timeout_ms / 1000, DIGEST_WAIT_MAX_S) or DIGEST_WAIT_DEFAULT_S
        try:
            async with asyncio.timeout(wait_s):
                digest = await self._local.digest(request.index)
        except TimeoutError as error:
            applied = self._replicator.status().index_applied
            message = f"there is no digest of index {request.index} after {wait_s:g} s; this node has applied {applied}"
            raise AdminError(errno.ETIMEDOUT, "no-digest", message) from error
        except LookupError as error:
            message = f"this node has no digest of index {request.index}: {error}"
            raise AdminError(errno.ENOENT, "no-digest", message) from error
        return admin_pb2.DigestReply(index=digest.index, state=digest.state, chain=digest.chain, keys=digest.keys)

    async def save(self) -> AsyncGenerator[admin_pb2.SnapshotPiece, None]:
        """A backup, piece by piece. One at a time: each needs the disk space of a whole state."""
        if self._saving.locked():
            raise AdminError(errno.EBUSY, "busy", "another snapshot of this node is being saved; try again when it is done")
        async with self._saving:
            snapshot = await self._local.save()
            try:
                file = await asyncio.to_thread(snapshot.path.open, "rb")
            finally:
                with contextlib.suppress(OSError):
                    snapshot.path.unlink()  # the open file stays; nothing is left behind when this process dies
                    snapshot.path.parent.rmdir()  # unless something else is in it
            with file:
                size = os.fstat(file.fileno()).st_size
                sent = 0
                while data := await asyncio.to_thread(file.read, PIECE_BYTES):
                    sent += len(data)
                    yield admin_pb2.SnapshotPiece(index=snapshot.index, size=size, data=data)
                _log.info("a snapshot was saved", index=snapshot.index, bytes=sent)
