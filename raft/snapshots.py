"""The snapshots of a node: made when a follower needs one, served piece by piece, taken in and installed.

One directory, `snapshots`: the newest complete snapshot, and at most one that is coming in. Rules:
- Nothing is made unless it is wanted: the log is trimmed when the state is durable, not when there is a snapshot.
- Making and checking a file, and replacing the state, happen in worker threads; `newest`, `read`, `receive` and `write` are the
  raft thread's and do one small file operation each.
- An installation is prepared in the journal first (Journal.prepare_reset), so that a crash in the middle can be told from
  damage. ValueError and OSError from the state machine mean that the old state stays; anything else stops the node, because
  nobody knows which state there is.

Not here: the file's format (snapshot_file.py), when to offer or to take one (node.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from raft.errors import ReplicationError, Stopped
from raft.node import SnapshotMeta
from raft.snapshot_file import (
    IncomingSnapshot,
    SnapshotCancelled,
    SnapshotDamaged,
    SnapshotHeader,
    SnapshotReader,
    file_name,
    sweep,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from raft.api import StateMachine
    from raft.disk import Disk
    from raft.identity import Identity
    from raft.membership import Membership
    from raft.raft_thread import Mailbox

log = logging.getLogger(__name__)

DIRECTORY: Final = "snapshots"
SAVE_PREFIX: Final = "save-"  # a directory for each one that is made to be taken away


class SnapshotOwner(Protocol):
    """What the replicator does for its snapshots; all of it is called on the loop."""

    async def place(self, index: int) -> tuple[int, Membership]:
        """The term of an applied entry, and the members in force there."""

    async def prepare(self, snapshot: SnapshotMeta, membership: Membership) -> None:
        """Note durably that the state is about to be replaced. Raises ValueError, ReplicationError."""

    async def cancel(self) -> None:
        """It was not. Raises ReplicationError."""

    def installed(self, snapshot: SnapshotMeta, membership: Membership, digest: bytes) -> None:
        """The state is the snapshot's."""

    def not_installed(self, reason: str) -> None:
        """The state is the old one."""

    def broken(self, error: ReplicationError) -> None:
        """Nobody knows which state there is."""


class Snapshots:
    """Implements node.SnapshotPort."""

    def __init__(
        self,
        disk: Disk,
        directory: str,
        state: StateMachine,
        identity: Identity,
        name: str,
        loop: Mailbox,
        owner: SnapshotOwner,
    ) -> None:
        """`loop`: the mailbox of the event loop on which the state machine lives. Raises OSError."""
        self._disk = disk
        self._directory = os.path.join(directory, DIRECTORY)
        self._state = state
        self._identity = identity
        self._name = name
        self._loop = loop
        self._owner = owner
        self._newest: tuple[SnapshotMeta, str] | None = None
        self._incoming: tuple[SnapshotMeta, IncomingSnapshot] | None = None
        self._wanted = False
        self._closing = False
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        disk.make_directory(self._directory)
        sweep(disk, self._directory, frozenset())
        for name in disk.list(self._directory):
            if name.startswith(SAVE_PREFIX):
                sweep(disk, os.path.join(self._directory, name), frozenset())

    # -- the raft thread -----------------------------------------------------------------------------------------------------

    def newest(self) -> SnapshotMeta | None:
        newest = self._newest
        return None if newest is None else newest[0]

    def want(self) -> None:
        if not self._wanted:
            self._wanted = True
            self._loop.post(lambda: self._start(self._make()))

    def read(self, snapshot: SnapshotMeta, offset: int, count: int) -> bytes:
        newest = self._newest
        if newest is None or newest[0] != snapshot:
            return b""
        try:
            fd = self._disk.open(newest[1])
            try:
                data = self._disk.read(fd, min(count, snapshot.size - offset), offset)
            finally:
                self._disk.close(fd)
        except OSError as error:
            log.warning("a snapshot cannot be read: %s", error)
            self._newest = None
            return b""
        if offset + len(data) >= snapshot.size:
            self._loop.post(lambda: self._start(self._check_newest(*newest)))
        return data

    def receive(self, snapshot: SnapshotMeta) -> int:
        if self._incoming is None or self._incoming[0] != snapshot:
            self._drop_incoming()
            incoming = IncomingSnapshot(
                self._disk,
                self._directory,
                index=snapshot.index,
                term=snapshot.term,
                size=snapshot.size,
                checksum=snapshot.checksum,
            )
            self._incoming = (snapshot, incoming)
        return self._incoming[1].offset

    def write(self, snapshot: SnapshotMeta, offset: int, data: bytes) -> int:
        if self._incoming is None or self._incoming[0] != snapshot:
            return self.receive(snapshot)
        return self._incoming[1].write(offset, data)

    def install(self, snapshot: SnapshotMeta) -> None:
        assert self._incoming is not None
        (_, incoming), self._incoming = self._incoming, None
        self._loop.post(lambda: self._start(self._install(snapshot, incoming)))

    def _drop_incoming(self) -> None:
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            incoming[1].close()

    # -- the loop ------------------------------------------------------------------------------------------------------------

    async def save(self) -> Path:
        """A snapshot of the state as of now, in a file that the caller removes. Raises OSError, ReplicationError."""
        directory = os.path.join(self._directory, f"{SAVE_PREFIX}{next(self._numbers)}")
        self._disk.make_directory(directory)
        return Path((await self._write(directory))[1])

    async def close(self) -> None:
        """End what is under way."""
        self._closing = True
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._drop_incoming()

    def _start(self, body: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(body)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self, directory: str) -> tuple[SnapshotMeta, str]:
        capture = await self._state.capture()
        try:
            term, membership = await self._owner.place(capture.index)
            creator = f"node {self._name}"
            header = SnapshotHeader(
                self._identity.cluster_id, capture.index, term, membership, capture.digest, creator, time.time_ns()
            )
            path = os.path.join(directory, file_name(capture.index, term))
            info = await asyncio.to_thread(write, self._disk, path, header, capture.chunks(), lambda: self._closing)
        finally:
            capture.close()
        return SnapshotMeta(info.index, info.term, info.size, info.checksum), info.path

    async def _make(self) -> None:
        try:
            self._replace(*await self._write(self._directory))
        except (OSError, ValueError, ReplicationError, SnapshotCancelled) as error:
            log.warning("no snapshot for a follower that needs one: %s", error)
        finally:
            self._wanted = False

    def _replace(self, meta: SnapshotMeta, path: str) -> None:
        old, self._newest = self._newest, (meta, path)
        if old is not None and old[1] != path:
            with contextlib.suppress(OSError):
                self._disk.remove(old[1])

    async def _check_newest(self, meta: SnapshotMeta, path: str) -> None:
        """Somebody has got all of it. If it went bad here, that was for nothing, and would be for ever: away with it."""
        try:
            await asyncio.to_thread(_check_file, self._disk, path, meta.checksum)
        except (OSError, SnapshotDamaged) as error:
            if self._newest == (meta, path):
                log.warning("a snapshot went bad on the disk, another one will be made: %s", error)
                self._newest = None
                with contextlib.suppress(OSError):
                    self._disk.remove(path)

    async def _install(self, snapshot: SnapshotMeta, incoming: IncomingSnapshot) -> None:
        owner = self._owner
        prepared = False
        try:
            info = await asyncio.to_thread(incoming.complete)
            with SnapshotReader(self._disk, info.path) as reader:
                header = reader.header
                self._check(info.path, snapshot, header)
                await owner.prepare(snapshot, header.membership)
                prepared = True
                await self._state.install(snapshot.index, header.digest, reader.chunks())
        except (OSError, ValueError, ReplicationError) as error:
            await self._give_up(incoming, str(error), prepared=prepared)
            return
        except Exception as error:
            log.exception("a snapshot broke off while it was installed")
            owner.broken(Stopped(f"a snapshot broke off while it was installed: {error!r}"))
            return
        self._replace(snapshot, info.path)
        owner.installed(snapshot, header.membership, header.digest)

    async def _give_up(self, incoming: IncomingSnapshot, reason: str, *, prepared: bool) -> None:
        with contextlib.suppress(OSError):
            incoming.discard()
        try:
            if prepared:
                await self._owner.cancel()
        except ReplicationError as error:
            self._owner.broken(error)
            return
        self._owner.not_installed(reason)

    def _check(self, path: str, snapshot: SnapshotMeta, header: SnapshotHeader) -> None:
        if (header.index, header.term, header.cluster_id) != (snapshot.index, snapshot.term, self._identity.cluster_id):
            raise SnapshotDamaged(path, 0, f"a snapshot of entry {header.index} of cluster {header.cluster_id} begins")


def _check_file(disk: Disk, path: str, checksum: bytes) -> None:
    """For a worker thread. Raises SnapshotDamaged, OSError."""
    with SnapshotReader(disk, path) as reader:
        if reader.verify() != checksum:
            raise SnapshotDamaged(path, 0, "another snapshot begins")
