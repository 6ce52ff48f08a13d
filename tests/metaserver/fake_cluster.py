"""A cluster in one process, without any consensus: one log that the test owns, and servers that believe it.

The test says who leads (`lead`), whether a majority answers (`quorum`), and what becomes of proposals that had no answer when
the leader changed. Every node has a state of its own, to which each entry is applied in order.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

from stream_peer import Harness

from metaserver.config import ServerConfig
from metaserver.replication import Replication
from metaserver.server import Server
from raft import membership
from raft.api import PeerProgress, ReplicatorStatus
from raft.errors import NotLeader, OutcomeUnknown, Refused
from raft.membership import Member, Membership

if TYPE_CHECKING:
    from pathlib import Path

CLUSTER_ID = "c0000000-0000-0000-0000-000000000000"


class FakeLog:
    """What all nodes share."""

    def __init__(self) -> None:
        self.nodes: dict[str, FakeReplicator] = {}
        self.entries: list[bytes] = []
        self.leader: str | None = None
        self.term = 0
        self.quorum = True
        self.pending: list[tuple[FakeReplicator, bytes, object, asyncio.Future]] = []
        self.waiting: list[asyncio.Future] = []  # barriers without a majority
        self.membership = Membership()

    def lead(self, name: str | None, *, keep: bool = False) -> None:
        """Another leader, or none. `keep`: what had no answer is in the new leader's log, so it takes effect."""
        old, self.leader = self.leader, None
        pending, self.pending = self.pending, []
        for _, _, _, future in pending:
            if not future.done():
                future.set_exception(OutcomeUnknown("the leader changed"))
        self._end_barriers(NotLeader(None))
        if old is not None:
            self.nodes[old].on_leading(False)
        if keep:
            for _, payload, _, _ in pending:
                self.append(None, payload, None)
        self.term += 1
        self.leader = name
        if name is not None:
            self.nodes[name].on_leading(True)

    def append(self, proposer: FakeReplicator | None, payload: bytes, hint: object) -> object:
        """Commit an entry: every node applies it. What it gave its proposer."""
        self.entries.append(payload)
        index, answer = len(self.entries), None
        for node in self.nodes.values():
            result = node.state.apply(index, self.term, payload, hint if node is proposer else None)
            if node is proposer:
                answer = result
        return answer

    def heal(self) -> None:
        """A majority answers again."""
        self.quorum = True
        pending, self.pending = self.pending, []
        for node, payload, hint, future in pending:
            result = self.append(node, payload, hint)
            if not future.done():
                future.set_result(result)
        self._end_barriers(None)

    def _end_barriers(self, error: Exception | None) -> None:
        waiting, self.waiting = self.waiting, []
        for future in waiting:
            if future.done():
                continue
            if error is None:
                future.set_result(len(self.entries))
            else:
                future.set_exception(error)


class FakeReplicator:
    """Replicator and ClusterControl of one node."""

    def __init__(self, log: FakeLog, name: str, state, directory: Path) -> None:
        self.log = log
        self.name = name
        self.state = state
        self.directory = directory
        self.on_leading = lambda leading: None
        self.failed = asyncio.get_running_loop().create_future()
        self.identity = SimpleNamespace(cluster_id=CLUSTER_ID, node_id=f"{name}-disk")
        self.space_low = False
        self.barriers = 0
        self.transfers_to: str | None = None
        log.nodes[name] = self

    async def start(self) -> None: ...

    async def stop(self) -> None:
        self.log.nodes.pop(self.name, None)

    def trim(self, index) -> None: ...

    def propose(self, payload, hint=None):
        future = asyncio.get_running_loop().create_future()
        if self.log.leader != self.name:
            future.set_exception(NotLeader(self.log.leader))
        elif self.log.quorum:
            future.set_result(self.log.append(self, payload, hint))
        else:
            self.log.pending.append((self, payload, hint, future))
        return future

    async def read_barrier(self) -> int:
        self.barriers += 1
        if self.log.leader is None:
            raise NotLeader(None)
        if not self.log.quorum:
            future = asyncio.get_running_loop().create_future()
            self.log.waiting.append(future)
            return await future
        await asyncio.sleep(0)
        return len(self.log.entries)

    def status(self) -> ReplicatorStatus:
        role = "leader" if self.log.leader == self.name else "follower"
        last = len(self.log.entries)
        return ReplicatorStatus(role, self.log.term, self.log.leader, last, last, self.state.index_applied, 1, 0)

    # --- ClusterControl ---

    @property
    def membership(self) -> Membership:
        return self.log.membership

    def leader(self) -> Member | None:
        return self.log.membership.get(self.log.leader) if self.log.leader is not None else None

    async def change(self, change, *, force=False):
        if self.log.leader != self.name:
            raise NotLeader(self.log.leader)
        after = change(self.log.membership)
        if not force:
            membership.require_quorum(after, frozenset(self.log.nodes))
        self.log.membership = after
        return after

    async def transfer(self, name):
        to = name or self.transfers_to
        if to is None:
            await asyncio.get_running_loop().create_future()  # nobody takes over
        if to not in self.log.nodes:
            raise Refused(22, f"there is no node {to!r}")
        self.log.lead(to)
        return to

    async def propose_marker(self, payload):
        self.log.entries.append(payload)
        index = len(self.log.entries)
        for node in self.log.nodes.values():
            node.state.mark(index, payload)
        return index

    def progress(self):
        last = len(self.log.entries)
        return {name: PeerProgress(True, last) for name in self.log.nodes if name != self.name}

    async def save_snapshot(self):
        raise Refused(16, "no snapshots here")


class FakeCluster:
    """Servers on one FakeLog, by name."""

    def __init__(self) -> None:
        self.log = FakeLog()
        self.harnesses: dict[str, Harness] = {}

    def __getitem__(self, name: str) -> Harness:
        return self.harnesses[name]

    def node(self, name: str) -> FakeReplicator:
        return self.log.nodes[name]

    def reign(self, name: str):
        return self.harnesses[name].server._leadership.reign

    @property
    def digests(self) -> set[bytes]:
        return {node.state.digest for node in self.log.nodes.values()}


@asynccontextmanager
async def cluster(directory: Path, names=("n1", "n2"), *, leader="n1", volume=True, **config):
    """Servers `names`, of which `leader` leads, with a volume "vol"."""
    made = FakeCluster()
    servers = []
    try:
        for name in names:

            def replication(config, state, name=name):
                node = FakeReplicator(made.log, name, state, config.data_dir)
                return Replication(node, node)

            options = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "stop_grace_s": 1.0, "transfer_s": 0.1} | config
            server = Server(ServerConfig(data_dir=directory / name, name=name, **options), make_replication=replication)
            servers.append(server)
            ready = await server.start()
            made.harnesses[name] = Harness(server, ready.listen, ready.admin)
        members = [
            Member(name, f"{name}-disk", f"127.0.0.1:{port}", made[name].listen, made[name].admin)
            for port, name in enumerate(names, 1)
        ]
        made.log.membership = Membership(tuple(members))
        if leader is not None:
            made.log.lead(leader)
            if volume:
                await made[leader].make_volume()
        yield made
    finally:
        for harness in made.harnesses.values():
            await harness.close_peers()
        for server in servers:
            await server.stop()
