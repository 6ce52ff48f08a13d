"""How a directory becomes a cluster's: the first node founds it, every other one is prepared to join. Offline, once.

Rules:
- The base file is written last; with it the directory is a cluster node's, and neither is done to it again. Until then both can
  be repeated after a crash.
- Founding keeps what a single node made: its state, its identity, and of its log what the state lacks. That is how a single
  node grows into a cluster. A log that the state holds completely is dropped: whoever joins gets the state then, and need not
  arrive at the same digests by applying entries that an older release applied here.
- Who joins brings nothing along: what an unknown directory holds has no place in the cluster's history.

Not here: how the cluster takes in the one that joins (membership.add, by an entry of the log).
"""

from __future__ import annotations

import errno
import os
import uuid
from typing import TYPE_CHECKING

from raft import identity as identities
from raft import membership as members
from raft.base import Base, BaseFile
from raft.errors import Refused
from raft.hard_state import HardState, HardStateFile
from raft.journal import WAL_NAME
from raft.matching import SINGLE_TERM
from raft.reserve import Reserve
from raft.wal import Wal, WalOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from raft.disk import Disk
    from raft.identity import Identity
    from raft.membership import Member, Membership
    from raft.spares import Housekeeper

STATE_NAME = "state"  # where the state machine keeps its own


def found_cluster(
    disk: Disk,
    directory: str,
    member: Member,
    *,
    state_index: int = 0,
    state_term: int = SINGLE_TERM,
    options: WalOptions | None = None,
    housekeeper: Housekeeper | None = None,
) -> Membership:
    """Make the directory the first node of a cluster that has this member alone; its membership.

    `state_index`: what the directory's state holds when it comes without a log (a restored snapshot, taken at `state_term`; a
    single node's log that was moved away). Raises Refused (EEXIST: there is a cluster already; EINVAL), LogCorrupt, Stopped,
    OSError (EBUSY: a server runs on it).
    """
    disk.make_directory(directory)
    lock_fd = disk.lock(directory)
    try:
        identity = identities.load_or_create(disk, directory)
        if member.incarnation != identity.node_id:
            raise Refused(errno.EINVAL, f"{directory} is the disk {identity.node_id}, not {member.incarnation}")
        membership = members.initial(member)
        reserve = Reserve(disk, directory)
        base = BaseFile(disk, directory, reserve)
        if base.exists:
            raise Refused(errno.EEXIST, f"{directory} belongs to a cluster already")
        wal = Wal.open(os.path.join(directory, WAL_NAME), options, disk=disk, owner=identity.owner, housekeeper=housekeeper)
        try:
            term = _prepare_log(wal, directory, state_index, state_term)
        finally:
            wal.close()
        # Whatever the log has of this term, this node wrote by itself: it has voted for itself.
        hard_state = HardStateFile(disk, directory, reserve=reserve)
        if hard_state.state.term <= term:
            hard_state.save(HardState(term, member.name))
        base.save(Base(membership))
        return membership
    finally:
        disk.close(lock_fd)


def _prepare_log(wal: Wal, directory: str, state_index: int, state_term: int) -> int:
    """The term of what the cluster begins with."""
    if wal.last_index == 0 and state_index:
        wal.reset(state_index, state_term)
    elif (
        wal.first_index <= wal.last_index == state_index
        and wal.term_at(state_index) == SINGLE_TERM
        and not wal.memberships_found
    ):
        wal.reset(state_index, SINGLE_TERM)
    term = wal.term_at(wal.last_index)
    prepared = wal.first_index > wal.last_index == state_index and term == state_term  # here or by an earlier attempt
    if wal.memberships_found or (term > SINGLE_TERM and not prepared):
        raise Refused(errno.EEXIST, f"{directory}: the log is that of a cluster's node")
    return max(term, SINGLE_TERM)


def join_cluster(disk: Disk, directory: str, cluster_id: str, new_uuid: Callable[[], uuid.UUID] = uuid.uuid4) -> Identity:
    """Prepare an empty directory to be a new node of this cluster; its identity, whose node id is the member's incarnation.

    May be repeated until the node is started. Raises Refused (EINVAL: no cluster id; EEXIST: the directory has a log, a state
    or another cluster's identity), LogCorrupt, Stopped, OSError (EBUSY: a server runs on it).
    """
    try:
        cluster_id = str(uuid.UUID(cluster_id))
    except ValueError:
        raise Refused(errno.EINVAL, f"{cluster_id[:64]!r} is no cluster id") from None
    disk.make_directory(directory)
    lock_fd = disk.lock(directory)
    try:
        identity = identities.load_identity(disk, directory)
        if identity is not None and identity.cluster_id != cluster_id:
            raise Refused(errno.EEXIST, f"{directory} belongs to cluster {identity.cluster_id}; take an empty directory")
        if _used(disk, directory):
            raise Refused(errno.EEXIST, f"{directory} has a log or a state; a node that joins begins with an empty directory")
        reserve = Reserve(disk, directory)
        base = BaseFile(disk, directory, reserve)
        if base.value != Base():
            raise Refused(errno.EEXIST, f"{directory} is a member of the cluster already")
        if identity is None:
            identity = identities.create(disk, directory, cluster_id, new_uuid)
        HardStateFile(disk, directory, must_exist=base.exists, reserve=reserve)
        if not base.exists:
            base.save(Base())
        return identity
    finally:
        disk.close(lock_fd)


def _used(disk: Disk, directory: str) -> bool:
    return not {WAL_NAME, STATE_NAME}.isdisjoint(disk.list(directory))
