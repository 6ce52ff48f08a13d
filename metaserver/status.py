"""What a running server says about itself."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from metaserver.core import reads
from protos import admin_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.core.txn import ReadTxn
    from metaserver.holds import Holds
    from metaserver.orphans import Orphans
    from metaserver.sessions import Sessions
    from metaserver.writes import Writes
    from raft.api import Replicator

#: Queue entries counted for a status; a longer queue is told as at least this.
_DOOMED_COUNT_MAX: Final = 100_000


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
        if seen >= _DOOMED_COUNT_MAX:
            break
        count += volume is None or slice_.volume == volume
    return count


class Status:
    """Gathers a StatusReply. `clock` is monotonic seconds."""

    def __init__(
        self,
        *,
        txn: ReadTxn,
        files: Files,
        index_durable: Callable[[], int],
        replicator: Replicator,
        writes: Writes,
        sessions: Sessions,
        holds: Holds,
        orphans: Orphans,
        clock: Callable[[], float],
        cluster_id: str,
        node_id: str,
    ) -> None:
        self._txn = txn
        self._files = files
        self._index_durable = index_durable
        self._replicator = replicator
        self._writes = writes
        self._sessions = sessions
        self._holds = holds
        self._orphans = orphans
        self._clock = clock
        self._started_s = clock()
        self._cluster_id = cluster_id
        self._node_id = node_id

    def reply(self) -> admin_pb2.StatusReply:
        """Everything, as of now."""
        log = self._replicator.status()
        volumes = list(reads.volumes(self._txn))
        names = {volume.id: volume.name for volume in volumes}
        reason = self._writes.space_short
        reply = admin_pb2.StatusReply(
            version=version(),
            cluster_id=self._cluster_id,
            node_id=self._node_id,
            role=log.role,
            term=log.term,
            index_applied=log.index_applied,
            index_checkpointed=self._index_durable(),
            wal_bytes=log.log_bytes,
            store_bytes=self._files.stat().used_bytes,
            uptime_ms=int((self._clock() - self._started_s) * 1000),
            orphans=self._orphans.count,
            slices_doomed=doomed_count(self._txn),
            read_only=reason is not None,
            read_only_reason=reason or "",
            rss_bytes=rss_bytes(),
            inodes=sum(reads.statfs(self._txn, volume.id).usage.inodes for volume in volumes if not volume.destroyed),
        )
        for session in self._sessions:
            reply.sessions.add(
                session=session.id,
                client=session.client,
                volume=names.get(session.volume, str(session.volume)),
                connected=session.stream is not None,
                silent_ms=int(self._sessions.silent_s(session) * 1000),
                open_files=self._holds.count_of_session(session.id),
                results_kept=reads.results_kept(self._txn, session.id),
            )
        return reply
