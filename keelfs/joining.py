"""A new node joins: prepared here, taken in as a learner by the leader, made a voter when it has what the others have.

Every step may be repeated: whoever gives the same command again after a crash or a timeout goes on where it ended.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING, Final, Protocol

from fuseclient.errors import ClientError
from keelfs.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from keelfs.node_settings import NodeSettings
    from protos import admin_pb2

CLOSE: Final = 1000  # entries that a learner may lack when it is proposed for promotion; the leader has the last word
UNHEARD_OF_S: Final = 2.0  # for so long a node that was just added may be unknown to the one that answers
_POLL_S: Final = 0.2
_LATER: Final = (errno.EAGAIN, errno.EBUSY)


class Leader(Protocol):
    """The calls that the leader answers (admin_client.AdminClient)."""

    def members(self) -> admin_pb2.MembersReply: ...
    def add_member(self, name: str, incarnation: str, peer: str, client: str, admin: str) -> admin_pb2.MembersReply: ...
    def promote_member(self, name: str) -> admin_pb2.MembersReply: ...


def add(leader: Leader, directory: Path, made: NodeSettings) -> None:
    """Prepare the directory and have the cluster take the node in, unless that was done before. Raises ClientError.

    When the cluster refuses, the directory is as it was; when its answer is lost, it stays prepared for another attempt.
    """
    from keelfs import node_directory  # with all of a server's parts, which waiting for a node needs not

    cluster = leader.members()
    fresh = not node_directory.is_node(directory)
    identity = node_directory.join(directory, made, cluster.cluster_id)
    known = find(cluster, made.name)
    if known is not None and known.incarnation == identity.node_id:
        return
    try:
        leader.add_member(made.name, identity.node_id, made.told_peer, made.told_client, made.told_admin)
    except ClientError as error:
        if error.exit_code == ExitCode.UNAVAILABLE:
            raise ClientError(
                f"{error} Whether node {made.name} was added is not known; give the same command again.",
                exit_code=error.exit_code,
            ) from error
        if fresh:
            node_directory.forget(directory)
        raise


def promote(
    leader: Leader,
    name: str,
    timeout_s: float,
    tell: Callable[[str], None] = lambda text: None,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Make a learner a voter, as soon as it has caught up. Raises ClientError; exit code UNAVAILABLE when the time is over."""
    until = clock() + timeout_s
    heard_of = clock() + UNHEARD_OF_S
    told = ""
    while True:
        reply = leader.members()
        member = find(reply, name)
        if member is None:
            # Whichever node answers says what it knows. One that has just been started may not have heard of itself yet.
            if clock() < heard_of:
                sleep(_POLL_S)
                continue
            raise ClientError(f"there is no node {name!r} in the cluster", exit_code=ExitCode.USAGE)
        if member.voter:
            return
        waits = f"node {name} is not connected; is it started?"
        if member.reachable:
            waits = f"node {name} lacks {member.lag} entries"
            if member.lag <= CLOSE:
                try:
                    leader.promote_member(name)
                    return
                except ClientError as error:
                    if error.errno not in _LATER and error.exit_code != ExitCode.UNAVAILABLE:
                        raise
                    waits = str(error)
        if clock() >= until:
            raise ClientError(
                f"node {name} was not promoted within {timeout_s:g} s: {waits}. It stays a learner; try again later",
                exit_code=ExitCode.UNAVAILABLE,
            )
        kind = waits.split(" lacks ")[0]
        if kind != told:
            told = kind
            tell(f"waiting: {waits}")
        sleep(_POLL_S)


def find(cluster: admin_pb2.MembersReply, name: str) -> admin_pb2.MemberStatus | None:
    """The member of this name."""
    return next((member for member in cluster.members if member.name == name), None)
