"""What a running server says about itself."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from metaserver.core import reads
from protos import admin_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.core.txn import ReadTxn
    from metaserver.reign import Reign
    from raft.api import Replicator
    from raft.membership import Member

#: Entries of a queue counted for a status; a longer one is told as at least this.
_COUNT_MAX: Final = 100_000


class Files(Protocol):
    """The store's own figures."""

    def stat(self) -> Stat: ...


class Stat(Protocol):
    @property
    def used_bytes(self) -> int: ...


def version() -> str:
    """Of the installed distribution."""
    try:
        return importlib.metadata.version("keelfs")
    except importlib.metadata.PackageNotFoundError:
        return "0+source"


def rss_bytes() -> int:
    """Resident memory of this process."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def doomed_count(txn: ReadTxn, volume: int | None = None) -> int:
    """Slices that wait for deletion, of one volume or all."""
    count = 0
    for seen, slice_ in enumerate(reads.doomed(txn)):
        if seen >= _COUNT_MAX:
            break
        count += volume is None or slice_.volume == volume
    return count


def orphan_count(txn: ReadTxn) -> int:
    """Inodes without a name."""
    return sum(1 for _ in itertools.islice(reads.orphans(txn), _COUNT_MAX))


class Status:
    """Gathers a StatusReply. `clock` is monotonic seconds."""

    def __init__(
        self,
        *,
        txn: ReadTxn,
        files: Files,
        index_durable: Callable[[], int],
        replicator: Replicator,
        reign: Callable[[], Reign | None],
        leader: Callable[[], Member | None],
        clock: Callable[[], float],
        cluster_id: str,
        node_id: str,
        name: str = "",
    ) -> None:
        """`reign`: None while this node does not lead; then it knows nothing of what only the leader keeps."""
        self._txn = txn
        self._files = files
        self._index_durable = index_durable
        self._replicator = replicator
        self._reign = reign
        self._leader = leader
        self._clock = clock
        self._started_s = clock()
        self.cluster_id = cluster_id
        self.node_id = node_id
        self.name = name

    def reply(self) -> admin_pb2.StatusReply:
        """Everything, as of now."""
        log = self._replicator.status()
        reign, leader = self._reign(), self._leader()
        volumes = list(reads.volumes(self._txn))
        reason = reign.writes.space_short if reign is not None else None
        reply = admin_pb2.StatusReply(
            version=version(),
            cluster_id=self.cluster_id,
            node_id=self.node_id,
            name=self.name,
            role=log.role,
            leader=leader.name if leader is not None else "",
            term=log.term,
            index_last=log.index_last,
            index_committed=log.index_committed,
            index_applied=log.index_applied,
            index_checkpointed=self._index_durable(),
            log_first=log.log_first,
            wal_bytes=log.log_bytes,
            store_bytes=self._files.stat().used_bytes,
            uptime_ms=int((self._clock() - self._started_s) * 1000),
            orphans=reign.orphans.count if reign is not None else orphan_count(self._txn),
            slices_doomed=doomed_count(self._txn),
            read_only=reason is not None,
            read_only_reason=reason or "",
            rss_bytes=rss_bytes(),
            inodes=sum(reads.statfs(self._txn, volume.id).usage.inodes for volume in volumes if not volume.destroyed),
        )
        if reign is not None:
            self._add_sessions(reply, reign, {volume.id: volume.name for volume in volumes})
        return reply

    def _add_sessions(self, reply: admin_pb2.StatusReply, reign: Reign, names: dict[int, str]) -> None:
        for session in reign.sessions:
            reply.sessions.add(
                session=session.id,
                client=session.client,
                volume=names.get(session.volume, str(session.volume)),
                connected=session.stream is not None,
                silent_ms=int(reign.sessions.silent_s(session) * 1000),
                open_files=reign.holds.count_of_session(session.id),
                results_kept=reads.results_kept(self._txn, session.id),
            )
