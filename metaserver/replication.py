"""Which replicator a data directory needs, and what a node does with the state apart from applying entries to it.

A directory that was founded as a cluster's or prepared to join one (raft/founding.py) needs a cluster replicator; any other is
a single node's. Nothing here turns the one into the other.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple, Protocol

from metaserver.config import EXIT_CONFIG, ServerError
from metaserver.refusals import AdminError
from raft.api import ClusterControl, Replicator
from raft.base import FILE_NAME as BASE_NAME
from raft.local import LocalReplicator

if TYPE_CHECKING:
    import asyncio

    from metaserver.applier import Applier
    from metaserver.cluster_admin import Snapshot, StateDigest
    from metaserver.config import ServerConfig
    from raft.api import StateMachine
    from raft.errors import ReplicationError
    from raft.identity import Identity


class NodeReplicator(Replicator, Protocol):
    """What both replicators have beside raft.api."""

    identity: Identity
    failed: asyncio.Future[ReplicationError]

    @property
    def space_low(self) -> bool: ...


class ClusterNode(NodeReplicator, ClusterControl, Protocol):
    """A replicator of several nodes."""


class Replication(NamedTuple):
    """`cluster` is the same object as `replicator`, or None on a single node."""

    replicator: NodeReplicator
    cluster: ClusterControl | None


def replication_for(config: ServerConfig, state: StateMachine) -> Replication:
    """The replicator for the config's data directory, not started. Raises ServerError."""
    directory = config.data_dir
    if not (directory / BASE_NAME).exists():
        if config.peer_listen is not None:
            raise ServerError(
                f"--peer-listen is for a cluster's node, and {directory} is none yet: make it one with `keelfs cluster init` "
                "or `keelfs cluster add`",
                EXIT_CONFIG,
            )
        return Replication(LocalReplicator(directory, state), None)
    if config.peer_listen is None or not config.name:
        raise ServerError(
            f"{directory} belongs to a cluster's node: give its name and its address for the others, --name and --peer-listen",
            EXIT_CONFIG,
        )
    return _cluster(config, state, config.name, config.peer_listen)


def _cluster(config: ServerConfig, state: StateMachine, name: str, peer_listen: str) -> Replication:
    from raft.cluster import ClusterOptions, ClusterReplicator  # a single node needs nothing of it

    node = ClusterReplicator(config.data_dir, state, ClusterOptions(name=name, peer_listen=peer_listen, tls=config.tls))
    return Replication(node, node)


class NodeState:
    """Implements cluster_admin.Local."""

    def __init__(self, applier: Applier, cluster: ClusterControl | None) -> None:
        self._applier = applier
        self._cluster = cluster

    async def mark(self) -> int:
        if self._cluster is not None:
            return await self._cluster.propose_marker(os.urandom(16))
        index = self._applier.index_applied
        self._applier.mark(index, b"")
        return index

    async def digest(self, index: int) -> StateDigest:
        return await self._applier.state_digest(index)

    async def save(self) -> Snapshot:
        raise AdminError(errno.EOPNOTSUPP, "not-yet", "snapshots cannot be saved yet")
