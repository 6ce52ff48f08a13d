"""Whether all nodes of a cluster hold the same state: each digests it at one index, and the digests are compared.

The leader logs a marker; every node digests the state that it has right there, while later entries are applied. Rules:
- The digests are of the whole state and of the chain of changes. Equal states with different chains are a difference too.
- When they differ, the largest group of equal ones is taken for right and the rest is named. With a tie nobody is right.
- A node that does not answer says nothing about its state; it is named as well.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fuseclient.errors import ClientError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from protos import admin_pb2


class Node(Protocol):
    """The call that each node answers (admin_client.AdminClient)."""

    def digest(self, index: int, timeout_s: float) -> admin_pb2.DigestReply: ...


@dataclass(frozen=True, slots=True)
class NodeDigest:
    name: str
    admin: str
    voter: bool
    state: str  # hexadecimal; "" when there is none
    chain: str
    keys: int
    why: str = ""  # there is none
    differs: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    index: int
    nodes: tuple[NodeDigest, ...]

    @property
    def equal(self) -> bool:
        """Nobody who answered differs."""
        return not any(node.differs for node in self.nodes)

    @property
    def complete(self) -> bool:
        """Everybody answered."""
        return all(node.state for node in self.nodes)


def compare(
    members: Sequence[admin_pb2.MemberStatus],
    index: int,
    timeout_s: float,
    connect: Callable[[str], AbstractContextManager[Node]],
) -> Comparison:
    """The digests of these members at the marker `index`."""
    with ThreadPoolExecutor(max(len(members), 1), "digest") as pool:
        found = list(pool.map(lambda member: _ask(member, index, timeout_s, connect), members))
    return Comparison(index, tuple(judged(found)))


def _ask(
    member: admin_pb2.MemberStatus, index: int, timeout_s: float, connect: Callable[[str], AbstractContextManager[Node]]
) -> NodeDigest:
    try:
        with connect(member.admin) as node:
            reply = node.digest(index, timeout_s)
    except ClientError as error:
        return NodeDigest(member.name, member.admin, member.voter, "", "", 0, str(error))
    return NodeDigest(member.name, member.admin, member.voter, reply.state.hex(), reply.chain.hex(), reply.keys)


def judged(found: Sequence[NodeDigest]) -> list[NodeDigest]:
    """The same with `differs` set."""
    counts = Counter((node.state, node.chain, node.keys) for node in found if node.state)
    best = counts.most_common(2)
    right = best[0][0] if best and (len(best) == 1 or best[0][1] > best[1][1]) else None
    return [
        NodeDigest(
            node.name,
            node.admin,
            node.voter,
            node.state,
            node.chain,
            node.keys,
            node.why,
            bool(node.state) and (node.state, node.chain, node.keys) != right,
        )
        for node in found
    ]
