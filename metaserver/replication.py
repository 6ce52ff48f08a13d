"""Which replicator a data directory needs, and what a node does with the state apart from applying entries to it.

A directory that was founded as a cluster's or prepared to join one (raft/founding.py) needs a cluster replicator; any other is
a single node's. Nothing here turns the one into the other.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import uvloop

from metaserver.cluster_admin import Snapshot
from metaserver.config import EXIT_CONFIG, EXIT_CORRUPT, ServerError
from raft.api import ClusterControl, Replicator
from raft.base import FILE_NAME as BASE_NAME
from raft.disk import RealDisk
from raft.local import LocalReplicator
from raft.matching import SINGLE_TERM
from raft.membership import Membership
from raft.snapshot_file import SnapshotHeader, SnapshotReader, file_name, sweep, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from metaserver.applier import Applier
    from metaserver.cluster_admin import StateDigest
    from metaserver.config import ServerConfig
    from raft.api import StateMachine
    from raft.errors import ReplicationError
    from raft.identity import Identity


BOOK_NAME: Final = "peers"  # raft.peer_book.FILE_NAME, whose import a single node need not pay for
SNAPSHOTS_NAME: Final = "snapshots"  # in the data directory, where a cluster's node has its own too


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
        if (directory / BOOK_NAME).exists():  # which a node of a cluster makes when it starts
            raise ServerError(
                f"{directory / BASE_NAME} is missing, which says who the members of this node's cluster are; remove the node "
                "from the cluster and add it anew, with an empty directory",
                EXIT_CORRUPT,
            )
        if config.peer_listen is not None:
            raise ServerError(
                f"--peer is for a cluster's node, and {directory} is none yet: make it one with `keelfs cluster init` "
                "or `keelfs cluster add`",
                EXIT_CONFIG,
            )
        return Replication(LocalReplicator(directory, state), None)
    if config.peer_listen is None or not config.name:
        raise ServerError(
            f"{directory} belongs to a cluster's node: give its name and its address for the others, --name and --peer",
            EXIT_CONFIG,
        )
    return _cluster(config, state, config.name, config.peer_listen)


def _cluster(config: ServerConfig, state: StateMachine, name: str, peer_listen: str) -> Replication:
    from raft.cluster import ClusterOptions, ClusterReplicator  # a single node needs nothing of it
    from raft.journal import JournalOptions
    from raft.wal import WalOptions

    journal = JournalOptions(WalOptions(segment_bytes=config.log_segment_bytes), retain_bytes=config.log_retain_bytes)
    options = ClusterOptions(name=name, peer_listen=peer_listen, tls=config.tls, journal=journal)
    node = ClusterReplicator(config.data_dir, state, options, new_loop=uvloop.new_event_loop)
    return Replication(node, node)


class NodeState:
    """Implements cluster_admin.Local."""

    def __init__(
        self,
        directory: Path,
        applier: Applier,
        cluster: ClusterControl | None,
        identity: Callable[[], Identity],
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._directory = directory
        self._applier = applier
        self._cluster = cluster
        self._identity = identity
        self._clock_ns = clock_ns
        self._disk = RealDisk()

    async def mark(self) -> int:
        if self._cluster is not None:
            return await self._cluster.propose_marker(b"")
        index = self._applier.index_applied
        self._applier.mark(index, b"")
        return index

    async def digest(self, index: int) -> StateDigest:
        return await self._applier.state_digest(index)

    async def save(self) -> Snapshot:
        path = await self._cluster.save_snapshot() if self._cluster is not None else await self._save_alone()
        return Snapshot(path, await asyncio.to_thread(self._index_of, path))

    async def _save_alone(self) -> Path:
        """As a cluster that was founded on this directory would save it, without members."""
        directory = self._directory / SNAPSHOTS_NAME
        self._disk.make_directory(str(directory))
        sweep(self._disk, str(directory), frozenset())  # of a process that died; one is made at a time
        capture = await self._applier.capture()
        try:
            header = SnapshotHeader(
                self._identity().cluster_id,
                capture.index,
                SINGLE_TERM if capture.index else 0,
                Membership(),
                capture.digest,
                "single node",
                self._clock_ns(),
            )
            path = directory / file_name(header.index, header.term)
            await asyncio.to_thread(write, self._disk, str(path), header, capture.chunks())
        finally:
            capture.close()
        return path

    def _index_of(self, path: Path) -> int:
        with SnapshotReader(self._disk, str(path)) as reader:
            return reader.header.index
