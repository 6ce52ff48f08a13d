"""A cluster whose nodes answer administrative calls from memory: what the commands' logic is tested against."""

from __future__ import annotations

import contextlib
import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fuseclient.errors import ClientError
from protos import admin_pb2
from raft import membership
from raft.errors import Refused
from raft.membership import Member, Membership

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLUSTER = "11111111-1111-1111-1111-111111111111"


def uuid_of(name: str) -> str:
    return f"00000000-0000-0000-0000-0000000000{name[1:]:>02}"


def member(name: str, voter: bool = True) -> Member:
    port = 100 * int(name[1:])
    return Member(name, uuid_of(name), f"h:{port + 2}", f"h:{port}", f"h:{port + 1}", voter)


def admin_of(name: str) -> str:
    return member(name).admin


@dataclass
class FakeCluster:
    """`leader` "" = none. Nodes in `silent` do not answer, those in `cut` are not connected to the leader."""

    membership: Membership
    leader: str = "n1"
    term: int = 3
    last: int = 50_000
    lags: dict[str, int] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    read_only: dict[str, str] = field(default_factory=dict)
    stale: dict[str, tuple[str, int]] = field(default_factory=dict)  # who they take for the leader, and in which term
    clusters: dict[str, str] = field(default_factory=dict)
    disks: dict[str, str] = field(default_factory=dict)
    digests: dict[str, bytes] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    refuse: Callable[[str], None] = lambda call: None

    @contextlib.contextmanager
    def connect(self, address: str) -> Iterator[FakeNode]:
        name = next(m.name for m in self.membership.members if m.admin == address)
        yield FakeNode(self, name)

    @classmethod
    def of(cls, *names: str, learners: tuple[str, ...] = (), leader: str = "n1") -> FakeCluster:
        members = [member(name) for name in names] + [member(name, voter=False) for name in learners]
        return cls(Membership(tuple(members)), leader)


class FakeNode:
    def __init__(self, cluster: FakeCluster, name: str) -> None:
        self._cluster = cluster
        self._name = name

    def _answer(self, call: str) -> tuple[str, int]:
        """Who leads in which term, as this node believes."""
        cluster = self._cluster
        cluster.calls.append(f"{self._name} {call}")
        if self._name in cluster.silent:
            raise ClientError(f"no server answers on {admin_of(self._name)}", exit_code=11)
        cluster.refuse(call)
        return cluster.stale.get(self._name, (cluster.leader, cluster.term))

    def status(self) -> admin_pb2.StatusReply:
        cluster, name = self._cluster, self._name
        leader, term = self._answer("status")
        return admin_pb2.StatusReply(
            version="1",
            cluster_id=cluster.clusters.get(name, CLUSTER),
            node_id=cluster.disks.get(name, uuid_of(name)),
            name=name,
            role="leader" if leader == name else "follower",
            term=term,
            leader=leader,
            index_applied=cluster.last - cluster.lags.get(name, 0),
            index_last=cluster.last,
            read_only=name in cluster.read_only,
            read_only_reason=cluster.read_only.get(name, ""),
        )

    def members(self) -> admin_pb2.MembersReply:
        cluster = self._cluster
        leader, term = self._answer("members")
        cluster_id = cluster.clusters.get(self._name, CLUSTER)
        reply = admin_pb2.MembersReply(cluster_id=cluster_id, leader=leader, term=term, name=self._name)
        for m in cluster.membership.members:
            lag = cluster.lags.get(m.name, 0)
            reply.members.add(
                name=m.name,
                incarnation=m.incarnation,
                peer=m.peer,
                client=m.client,
                admin=m.admin,
                voter=m.voter,
                reachable=m.name not in cluster.silent | cluster.cut,
                match_index=cluster.last - lag,
                lag=lag if leader == self._name else 0,
            )
        return reply

    def add_member(self, name: str, incarnation: str, peer: str, client: str, admin: str) -> admin_pb2.MembersReply:
        return self._change("add", lambda now: membership.add(now, Member(name, incarnation, peer, client, admin, False)))

    def promote_member(self, name: str) -> admin_pb2.MembersReply:
        return self._change("promote", lambda now: membership.promote(now, name))

    def digest(self, index: int, timeout_s: float) -> admin_pb2.DigestReply:
        self._answer("digest")
        state = self._cluster.digests.get(self._name, b"same")
        return admin_pb2.DigestReply(index=index, state=state, chain=b"chain", keys=7)

    def _change(self, call: str, change: Callable[[Membership], Membership]) -> admin_pb2.MembersReply:
        self._answer(call)
        try:
            self._cluster.membership = change(self._cluster.membership)
        except Refused as refused:
            raise ClientError(str(refused), exit_code=2, errno=refused.errno) from refused
        return self.members()


def refusal(number: int, *, times: int, of: str) -> Callable[[str], None]:
    """Refuse this call so often."""
    left = times

    def refuse(call: str) -> None:
        nonlocal left
        if call == of and left:
            left -= 1
            raise ClientError(errno.errorcode[number], errno=number)

    return refuse
