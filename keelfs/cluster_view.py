"""A cluster as all of its nodes tell it, and whether it is well.

Every member is asked by itself, at the same time, with a short deadline: what one node says about another is a rumour, and a
cluster that is not well is one whose nodes say different things. Rules:
- The members are those that the leader names. Without a leader they are those of the answer with the highest term.
- A node leads when it says so itself and nobody who answers says so in a higher term.
- Learners are shown and count for nothing, as in the cluster.

`look` asks; `judge` decides and is pure.
"""

from __future__ import annotations

import enum
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from fuseclient.errors import ClientError
from keelfs.exit_codes import ExitCode
from protos import admin_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager

LAG_MAX: Final = 10_000  # entries; about a second of heavy load
DEADLINE_S: Final = 3.0
_THREADS: Final = 16
_ROUNDS_MAX: Final = 3


class Node(Protocol):
    """What is asked of one node (admin_client.AdminClient)."""

    def status(self) -> admin_pb2.StatusReply: ...
    def members(self) -> admin_pb2.MembersReply: ...


@dataclass(frozen=True, slots=True)
class NodeView:
    """One member. Indexes are 0 and texts empty where it does not answer (`why`)."""

    name: str
    incarnation: str
    client: str
    admin: str
    peer: str
    voter: bool
    answers: bool
    why: str
    reachable: bool  # as the leader says; False without a leader
    lag: int | None  # entries that the leader does not know it to have; None without a leader
    role: str
    term: int
    leader: str
    index_applied: int
    index_committed: int
    index_last: int
    read_only: bool
    read_only_reason: str
    version: str
    node_id: str


@dataclass(frozen=True, slots=True)
class ClusterView:
    cluster_id: str
    leader: str  # "": none that answers
    term: int
    nodes: tuple[NodeView, ...]

    @property
    def voters(self) -> tuple[NodeView, ...]:
        return tuple(node for node in self.nodes if node.voter)

    @property
    def quorum(self) -> int:
        """How many voters must work together."""
        return len(self.voters) // 2 + 1

    @property
    def together(self) -> int:
        """Voters that the leader reaches, itself among them."""
        return sum(node.reachable for node in self.voters) if self.leader else 0


class Level(enum.Enum):
    """How a cluster is; the value is what people and programs read."""

    OK = "ok"
    DEGRADED = "degraded"
    DOWN = "down"

    @property
    def exit_code(self) -> ExitCode:
        return {Level.OK: ExitCode.OK, Level.DEGRADED: ExitCode.PARTIAL, Level.DOWN: ExitCode.UNAVAILABLE}[self]


class Verdict(NamedTuple):
    level: Level
    problems: tuple[str, ...]
    may_lose: int  # voters that may fail from now on without stopping the cluster


class _Answer(NamedTuple):
    address: str
    status: admin_pb2.StatusReply | None
    members: admin_pb2.MembersReply | None
    why: str = ""


def look(addresses: Sequence[str], connect: Callable[[str], AbstractContextManager[Node]]) -> ClusterView:
    """The cluster that these admin addresses belong to. Raises ClientError when none of them answers."""
    with ThreadPoolExecutor(_THREADS, "look") as pool:

        def ask(wanted: Iterable[str]) -> dict[str, _Answer]:
            return {answer.address: answer for answer in pool.map(lambda a: _ask(a, connect), dict.fromkeys(wanted))}

        answers = ask(addresses)
        known = _told(answers)
        if known is None:
            raise ClientError(_nobody(answers), exit_code=ExitCode.UNAVAILABLE)
        for _ in range(_ROUNDS_MAX):
            missing = {member.admin for member in known.members} - answers.keys()
            answers |= ask(sorted(missing))
            known = _told(answers) or known  # the leader may be among those who were asked last, and know of others
    return _view(known, answers)


def _ask(address: str, connect: Callable[[str], AbstractContextManager[Node]]) -> _Answer:
    try:
        with connect(address) as node:
            return _Answer(address, node.status(), node.members())
    except ClientError as error:
        return _Answer(address, None, None, str(error))


def _told(answers: dict[str, _Answer]) -> admin_pb2.MembersReply | None:
    """The reply that counts: the leader's, else that of the highest term. Of the cluster that the first answer belongs to."""
    replies = [reply for answer in answers.values() if (reply := answer.members) is not None]
    same = [reply for reply in replies if reply.cluster_id == replies[0].cluster_id]
    return max(same, key=lambda reply: (reply.term, reply.leader == reply.name, reply.name), default=None)


def _nobody(answers: dict[str, _Answer]) -> str:
    whys = dict.fromkeys(answer.why for answer in answers.values())
    return "; ".join(whys)


def _view(known: admin_pb2.MembersReply, answers: dict[str, _Answer]) -> ClusterView:
    leads = known.leader == known.name and bool(known.leader)
    nodes = sorted((_node(known.cluster_id, m, answers.get(m.admin), leads) for m in known.members), key=lambda node: node.name)
    return ClusterView(known.cluster_id, known.leader if leads else "", known.term, tuple(nodes))


def _node(cluster_id: str, member: admin_pb2.MemberStatus, answer: _Answer | None, led: bool) -> NodeView:
    status = admin_pb2.StatusReply()
    answers, why = False, answer.why if answer is not None else ""
    if answer is not None and answer.status is not None:
        if answers := answer.status.cluster_id == cluster_id:
            status = answer.status
        else:
            why = f"a node of the cluster {answer.status.cluster_id} answers there"
    return NodeView(
        name=member.name,
        incarnation=member.incarnation,
        client=member.client,
        admin=member.admin,
        peer=member.peer,
        voter=member.voter,
        answers=answers,
        why=why,
        reachable=led and member.reachable,
        lag=member.lag if led else None,
        role=status.role,
        term=status.term,
        leader=status.leader,
        index_applied=status.index_applied,
        index_committed=status.index_committed,
        index_last=status.index_last,
        read_only=status.read_only,
        read_only_reason=status.read_only_reason,
        version=status.version,
        node_id=status.node_id,
    )


def judge(view: ClusterView, lag_max: int = LAG_MAX) -> Verdict:
    """Whether the cluster takes writes, and what is wrong with it."""
    problems: list[str] = []
    if not view.leader:
        silent = sum(not node.answers for node in view.voters)
        problems.append(
            f"no node leads: {len(view.voters) - silent} of {len(view.voters)} voters answer, {view.quorum} are needed"
        )
    elif view.together < view.quorum:
        problems.append(
            f"the leader {view.leader} reaches {view.together} of {len(view.voters)} voters, {view.quorum} are needed"
        )
    down = bool(problems)
    for node in view.voters:
        problems += _problems(node, view, lag_max)
    level = Level.DOWN if down else Level.DEGRADED if problems else Level.OK
    return Verdict(level, tuple(problems), max(view.together - view.quorum, 0))


def _problems(node: NodeView, view: ClusterView, lag_max: int) -> list[str]:
    found = []
    if not node.answers:
        found.append(f"{node.name} does not answer at {node.admin}")
    elif node.node_id and node.node_id != node.incarnation:
        found.append(f"{node.name} at {node.admin} runs on another disk than the cluster's member: remove it and add it anew")
    if view.leader and not node.reachable:
        found.append(f"{node.name} is not connected to the leader {view.leader}")
    elif node.lag is not None and node.lag > lag_max:
        found.append(f"{node.name} is {node.lag} entries behind the leader")
    if node.read_only:
        found.append(f"{node.name} is read-only: {node.read_only_reason}")
    return found
