"""Who belongs to a cluster: a value, the four changes that may be made to it, and its wire form.

Rules (Raft thesis, section 4.1):
- A change adds, promotes or removes one voter at most, so that any majority before it and any majority after it share a node.
- A node joins as a learner: it receives the log and counts for nothing until it is promoted.
- A *name* is a seat in the cluster (its certificates carry it). An *incarnation* is the disk that sits there: a node whose disk
  was lost or replaced has another one and is a stranger until the name is removed and added anew.

Pure. Who may change what when (one change at a time, only a leader with its no-op applied) is node.py's business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from protos import peer_pb2 as pb
from raft.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

MEMBERS_MAX: Final = 9
ADDRESS_MAX: Final = 256
NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", re.ASCII)
EINVAL: Final = 22
EBUSY: Final = 16


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    incarnation: str  # a UUID: the directory's node id (identity.py)
    peer: str  # host:port for other nodes
    client: str  # host:port for clients, what a leader hint says
    admin: str  # host:port for administration (gRPC)
    voter: bool = True


@dataclass(frozen=True, slots=True)
class Membership:
    """`members` are sorted by name. `index` is the log entry that set it, 0 for what a cluster began with."""

    members: tuple[Member, ...] = ()
    index: int = 0

    def __contains__(self, name: str) -> bool:
        return any(member.name == name for member in self.members)

    def get(self, name: str) -> Member | None:
        return next((member for member in self.members if member.name == name), None)

    @property
    def voters(self) -> frozenset[str]:
        return frozenset(member.name for member in self.members if member.voter)

    @property
    def quorum(self) -> int:
        """How many voters are a majority."""
        return len(self.voters) // 2 + 1


def initial(member: Member) -> Membership:
    """A cluster of one."""
    check(member)
    return Membership((replace(member, voter=True),))


def add(now: Membership, member: Member) -> Membership:
    """With a new learner. Raises Refused."""
    check(member)
    old = now.get(member.name)
    if old is not None:
        what = "already a member" if old.incarnation == member.incarnation else "the name of another disk; remove it first"
        raise Refused(EINVAL, f"node {member.name!r} is {what}")
    if any(member.incarnation == other.incarnation or member.peer == other.peer for other in now.members):
        raise Refused(EINVAL, f"the disk or the peer address of {member.name!r} belongs to another member")
    if len(now.members) >= MEMBERS_MAX:
        raise Refused(EINVAL, f"the cluster has {len(now.members)} members, which is the limit")
    return _with(now, (*now.members, replace(member, voter=False)))


def promote(now: Membership, name: str) -> Membership:
    """A learner becomes a voter. Raises Refused."""
    member = _member(now, name)
    if member.voter:
        raise Refused(EINVAL, f"node {name!r} is a voter already")
    return _with(now, tuple(replace(m, voter=True) if m is member else m for m in now.members))


def remove(now: Membership, name: str) -> Membership:
    """Without this node. Raises Refused; the last voter cannot leave."""
    member = _member(now, name)
    if now.voters == {name}:
        raise Refused(EINVAL, f"node {name!r} is the only voter; a cluster cannot be without one")
    return _with(now, tuple(m for m in now.members if m is not member))


def require_quorum(after: Membership, reachable: frozenset[str]) -> None:
    """Refuse a change after which fewer than a majority of voters are known to be reachable."""
    alive = len(after.voters & reachable)
    if alive < after.quorum:
        raise Refused(
            EBUSY,
            f"after this change the cluster would need {after.quorum} voters and can reach {alive}: it would stop. "
            "Bring the missing nodes back, or remove those that are lost first",
        )


def acquaintances(newest_first: Sequence[Membership]) -> Membership:
    """Everybody who is a member by one of these, as the newest one has them: whom to talk to while it is open which will count.

    A change that is in this node's log but not committed may never be. A node that had broken with whom it removes could not
    hear from them that it was not, nor elect one of them.
    """
    newest = newest_first[0]
    known = {member.name: member for membership in reversed(newest_first) for member in membership.members}
    return _with(newest, tuple(known.values()))


def encode(membership: Membership) -> bytes:
    """Deterministic."""
    members = [
        pb.Member(name=m.name, incarnation=m.incarnation, peer=m.peer, client=m.client, admin=m.admin, voter=m.voter)
        for m in membership.members
    ]
    return pb.Membership(members=members).SerializeToString(deterministic=True)


def decode(data: bytes, index: int) -> Membership:
    """Raises ValueError on anything that `encode` would not have written."""
    try:
        message = pb.Membership.FromString(data)
    except Exception as error:
        raise ValueError(f"not a membership: {error}") from error
    members = tuple(Member(m.name, m.incarnation, m.peer, m.client, m.admin, m.voter) for m in message.members)
    for member in members:
        try:
            check(member)
        except Refused as refused:
            raise ValueError(str(refused)) from refused
    return _with(Membership(index=index), members)


def check(member: Member) -> None:
    """Raises Refused for a name or an address that no member can have."""
    if not NAME.fullmatch(member.name):
        raise Refused(EINVAL, f"{member.name[:64]!r} is no node name: use up to 32 of a-z, 0-9 and '-'")
    for address in (member.peer, member.client, member.admin):
        if not 0 < len(address) <= ADDRESS_MAX or ":" not in address:
            raise Refused(EINVAL, f"{address[:64]!r} of node {member.name!r} is no host:port")


def _member(now: Membership, name: str) -> Member:
    member = now.get(name)
    if member is None:
        raise Refused(EINVAL, f"there is no node {name[:64]!r} in the cluster")
    return member


def _with(now: Membership, members: tuple[Member, ...]) -> Membership:
    return Membership(tuple(sorted(members, key=lambda member: member.name)), now.index)
