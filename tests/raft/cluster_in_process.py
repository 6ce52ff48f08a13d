"""Clusters of ClusterReplicators in one process, over loopback, with a state machine that is a list."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import socket
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from raft import membership as members
from raft.cluster import ClusterOptions, ClusterReplicator
from raft.disk import RealDisk
from raft.errors import NotLeader, Refused, ReplicationError
from raft.founding import found_cluster, join_cluster
from raft.identity import load_identity, load_or_create
from raft.journal import JournalOptions
from raft.membership import Member
from raft.timing import Timing
from raft.wal import WalOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: Small files, and nothing kept beyond what the state lacks, so that snapshots happen.
JOURNAL = JournalOptions(wal=WalOptions(segment_bytes=64 << 10, first_segment_bytes=16 << 10), retain_bytes=0)
TIMING = Timing(heartbeat_s=0.05, election_min_s=0.6, election_max_s=1.2)


async def until(condition: Callable[[], object], what: str, deadline_s: float = 30.0) -> None:
    try:
        async with asyncio.timeout(deadline_s):
            while not condition():  # noqa: ASYNC110  # any condition, of any thread
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {deadline_s:g} s: {what}") from None


class ListCapture:
    def __init__(self, index: int, digest: bytes, data: bytes) -> None:
        self.index, self.digest, self._data = index, digest, data

    def chunks(self) -> Iterator[bytes]:
        for at in range(0, len(self._data), 1000):
            yield self._data[at : at + 1000]

    def close(self) -> None:
        pass


class ListMachine:
    """Appends payloads. It is durable when told so. `wrong_at`: an entry that it digests otherwise than others do."""

    def __init__(self) -> None:
        self.index_applied = self.index_durable = 0
        self.digest = bytes(16)
        self.items: list[str] = []
        self.marks: list[tuple[int, bytes]] = []
        self.installed = 0
        self.wrong_at: int | None = None
        self.overloaded = False

    def apply(self, index: int, term: int, payload: bytes, hint: object | None) -> Any:
        assert index == self.index_applied + 1
        self.index_applied = index
        self.items.append(payload.decode())
        seen = b"something else" if index == self.wrong_at else payload
        self.digest = blake2b(self.digest + seen, digest_size=16).digest()
        return len(self.items)

    def skip(self, index: int) -> None:
        assert index == self.index_applied + 1
        self.index_applied = index

    def mark(self, index: int, payload: bytes) -> None:
        self.skip(index)
        self.marks.append((index, payload))

    async def capture(self) -> ListCapture:
        return ListCapture(self.index_applied, self.digest, json.dumps(self.items).encode())

    async def install(self, index: int, digest: bytes, chunks: Iterator[bytes]) -> None:
        data = await asyncio.to_thread(lambda: b"".join(chunks))
        self.items = json.loads(data)
        self.index_applied = self.index_durable = index
        self.digest = digest
        self.installed += 1


class Node:
    """One directory, and whatever runs on it."""

    def __init__(self, name: str, path: Path, peer: str) -> None:
        self.name, self.path, self.peer = name, path, peer
        self.machine = ListMachine()
        self.leading: list[bool] = []
        self.replicator: ClusterReplicator | None = None

    @property
    def up(self) -> ClusterReplicator:
        assert self.replicator is not None
        return self.replicator

    @property
    def member(self) -> Member:
        identity = load_identity(RealDisk(), str(self.path))
        assert identity is not None
        return Member(self.name, identity.node_id, self.peer, f"{self.name}:7420", f"{self.name}:7421")

    async def start(self) -> None:
        """With the state that is durable in the machine: all or nothing of it."""
        if self.machine.index_durable != self.machine.index_applied:
            self.machine = ListMachine()
        options = ClusterOptions(self.name, self.peer, None, timing=TIMING, journal=JOURNAL)
        self.replicator = ClusterReplicator(self.path, self.machine, options)
        self.replicator.on_leading = self.leading.append
        await self.replicator.start()

    async def stop(self) -> None:
        replicator, self.replicator = self.replicator, None
        if replicator is not None:
            await replicator.stop()


class Cluster:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.nodes: dict[str, Node] = {}

    def new(self, name: str) -> Node:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            peer = f"127.0.0.1:{probe.getsockname()[1]}"
        path = self.root / name
        path.mkdir()
        node = self.nodes[name] = Node(name, path, peer)
        return node

    async def found(self, count: int) -> None:
        first = self.new("n1")
        identity = load_or_create(RealDisk(), str(first.path))
        found_cluster(RealDisk(), str(first.path), first.member, options=JOURNAL.wal)
        await first.start()
        await until(lambda: first.up.leading, "the first node leads")
        for number in range(2, count + 1):
            node = self.new(f"n{number}")
            join_cluster(RealDisk(), str(node.path), identity.cluster_id)
            await node.start()
            await self.add(node)

    async def add(self, node: Node) -> None:
        await self.leader().up.change(lambda now: members.add(now, node.member))
        async with asyncio.timeout(30):
            while True:
                try:
                    await self.leader().up.change(lambda now: members.promote(now, node.name))
                    return
                except Refused as refused:
                    if refused.errno not in (errno.EBUSY, errno.EAGAIN):
                        raise
                    await asyncio.sleep(0.02)

    def leader(self) -> Node:
        return next(node for node in self.nodes.values() if node.replicator is not None and node.replicator.leading)

    async def elect(self) -> Node:
        await until(lambda: any(n.replicator is not None and n.replicator.leading for n in self.nodes.values()), "a leader")
        return self.leader()

    async def propose(self, payload: bytes) -> int:
        """By whoever leads, until it is certain; the payloads are all different, so a double shows."""
        async with asyncio.timeout(30):
            while True:
                node = await self.elect()
                with contextlib.suppress(NotLeader):
                    result: int = await node.up.propose(payload)
                    return result
                await asyncio.sleep(0.01)

    async def even(self) -> None:
        """Until all that run have applied the same."""
        running = [node for node in self.nodes.values() if node.replicator is not None]
        await until(
            lambda: len({(n.machine.index_applied, n.machine.digest) for n in running}) == 1,
            "all nodes have applied the same",
        )

    async def stop(self) -> None:
        for node in self.nodes.values():
            with contextlib.suppress(ReplicationError):
                await node.stop()
