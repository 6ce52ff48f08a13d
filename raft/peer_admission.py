"""Who may talk to this node: the rules that a Hello is held against, in their order, and the words for a refusal.

The members that a node knows may be older than the truth: it was away, or it is new and replays the log. So a stranger is let
in when it goes by a *newer* membership than this node; the newer one knows who belongs (thesis, section 4.1: a server accepts a
leader that is not in its own configuration). One that goes by the same or an older membership and is not in ours was removed.

Pure, apart from what the PeerBook remembers. Who a certificate speaks for was settled before (peer_connection.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from raft.peer_book import Memory
from raft.peer_wire import PROTOCOL, Hello, Refusal

if TYPE_CHECKING:
    from raft.membership import Membership
    from raft.peer_book import PeerBook


class Reason:
    """The words of Refusal.reason; docs/PEERS.md says what to do about each."""

    PROTOCOL: Final = "protocol"  # it broke the protocol, or speaks another version
    CLUSTER: Final = "cluster"  # it belongs to another cluster
    CERTIFICATE: Final = "certificate"  # its certificate is not that of the node it claims to be
    NAME: Final = "name"  # it has this node's own name, or is not the node that was dialed
    NOT_MEMBER: Final = "not-member"  # it was removed, or never added
    OTHER_DISK: Final = "other-disk"  # the name is a member's, the disk is not
    OLD_DISK: Final = "old-disk"  # the disk is the member's as it once was


#: What a node that hears this word of itself will hear again until somebody does something: starting it again does not help.
LASTING: Final = frozenset((Reason.CLUSTER, Reason.OTHER_DISK, Reason.OLD_DISK))

_ADD_ANEW: Final = "remove the node from the cluster and add it again with an empty directory"


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What this node knows of a connection before the Hello."""

    cluster_id: str
    name: str  # this node's
    membership: Membership
    dialed: str | None  # whom this node called; None: it was called
    proven: str | None  # the node in the verified certificate; None: a connection without TLS


def judge(hello: Hello, here: Circumstances, book: PeerBook) -> Refusal | None:
    """None when the node may come in."""
    if hello.protocol != PROTOCOL:
        text = f"it speaks version {hello.protocol} of the peer protocol, this node {PROTOCOL}; run the same release on both"
        return Refusal(Reason.PROTOCOL, text)
    if hello.cluster_id != here.cluster_id:
        return Refusal(Reason.CLUSTER, f"it belongs to cluster {hello.cluster_id}, this node to {here.cluster_id}")
    if here.proven is not None and hello.name != here.proven:
        return Refusal(Reason.CERTIFICATE, f"it says that it is {hello.name}, its certificate is that of {here.proven}")
    if hello.name == here.name:
        return Refusal(Reason.NAME, f"it has this node's own name, {here.name}; give every node a name of its own")
    if here.dialed is not None and hello.name != here.dialed:
        return Refusal(Reason.NAME, f"at the peer address of {here.dialed} answers {hello.name}; correct the address")
    return _judge_membership(hello, here.membership) or _judge_disk(hello, book)


def belongs(name: str, incarnation: str, membership_index: int, membership: Membership) -> bool:
    """Whether a node that came in would still be let in as far as the members are concerned."""
    member = membership.get(name)
    if member is not None and member.incarnation == incarnation:
        return True
    return not membership.members or membership_index > membership.index


def _judge_membership(hello: Hello, membership: Membership) -> Refusal | None:
    if belongs(hello.name, hello.incarnation, hello.membership_index, membership):
        return None
    if hello.name in membership:
        text = f"the disk of {hello.name} is not the one that was a member: {_ADD_ANEW}"
        return Refusal(Reason.OTHER_DISK, text)
    return Refusal(Reason.NOT_MEMBER, f"{hello.name} is not a member of the cluster: it was removed, or not added yet")


def _judge_disk(hello: Hello, book: PeerBook) -> Refusal | None:
    why = book.objection(hello.name, memory_of(hello))
    if why is None:
        return None
    return Refusal(
        Reason.OLD_DISK, f"the disk of {hello.name} is an old copy: {why}. Bring the newest disk back, or {_ADD_ANEW}"
    )


def memory_of(hello: Hello) -> Memory:
    """The disk as it presents itself."""
    return Memory(hello.incarnation, hello.start, hello.start_nonce, hello.last_term, hello.last_index)
