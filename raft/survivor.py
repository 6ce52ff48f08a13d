"""When a majority of a cluster is lost for good: one survivor's directory becomes a cluster of one. Offline, and dangerous.

What the survivor has is the new truth. Entries that were acknowledged and that it never received are lost; entries that it has
and that were never acknowledged take effect. Rules:
- The cluster gets another id first. The other old nodes, should they come back, are a cluster of their own that this one does
  not hear and that does not hear it: both could otherwise elect a leader. They must be wiped and added anew.
- Then a membership of this node alone goes to the end of its log, in a term in which it has voted for itself. That is what the
  node would have found if the others had been removed; everything after that is Raft as usual.
- A crash in between leaves a node that can elect nobody; doing it again completes it.

Not here: which survivor is the best. `look` says what that depends on: the log that ends with the highest term, and of those
the longest.
"""

from __future__ import annotations

import errno
import json
import os
import uuid
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from raft import identity as identities
from raft import membership as members
from raft import quarantine
from raft.atomic_file import replace as replace_file
from raft.errors import Refused
from raft.journal import Journal
from raft.record import MEMBERSHIP, Entry

if TYPE_CHECKING:
    from collections.abc import Callable

    from raft.disk import Disk
    from raft.identity import Identity
    from raft.membership import Membership


@dataclass(frozen=True, slots=True)
class Survivor:
    """What a directory has left."""

    identity: Identity
    membership: Membership  # the newest that it knows
    name: str  # its own in there
    term: int
    first_index: int
    last_index: int
    last_term: int
    state_index: int

    @property
    def rank(self) -> tuple[int, int]:
        """The survivor with the highest one has the most."""
        return self.last_term, self.last_index


def look(disk: Disk, directory: str, state_index: int) -> Survivor:
    """What there is. Raises Refused (EINVAL: no member of a cluster), LogCorrupt, Stopped, OSError (EBUSY: it runs)."""
    identity = _identity(disk, directory)
    journal = Journal.open(directory, disk=disk, identity=identity, state_index=state_index)
    try:
        return _describe(journal, identity, directory, state_index)
    finally:
        journal.close()


def make_alone(
    disk: Disk, directory: str, state_index: int, new_uuid: Callable[[], uuid.UUID] = uuid.uuid4
) -> tuple[Survivor, Survivor]:
    """Make it a cluster of one; what it was and what it is. Errors as `look`, and Refused(ENOSPC)."""
    was = look(disk, directory, state_index)
    fresh = replace(was.identity, cluster_id=str(new_uuid()))
    replace_file(disk, directory, identities.FILE_NAME, json.dumps(asdict(fresh), indent=1).encode() + b"\n")
    journal = Journal.open(directory, disk=disk, identity=fresh, state_index=state_index)
    try:
        own = journal.membership.get(was.name)
        assert own is not None
        term = journal.term + 1
        journal.save_vote(term, was.name)
        index = journal.last_index + 1
        journal.append([Entry(index, term, members.encode(members.initial(own)), MEMBERSHIP)])
        journal.sync()
        return was, _describe(journal, fresh, directory, state_index)
    finally:
        journal.close()


def _identity(disk: Disk, directory: str) -> Identity:
    identity = identities.load_identity(disk, directory) if os.path.isdir(directory) else None
    if identity is None:
        raise Refused(errno.EINVAL, f"{directory} is no node's data directory")
    quarantine.require_open(disk, directory)
    return identity


def _describe(journal: Journal, identity: Identity, directory: str, state_index: int) -> Survivor:
    membership = journal.membership
    own = next((member for member in membership.members if member.incarnation == identity.node_id), None)
    if own is None:
        raise Refused(errno.EINVAL, f"{directory} belongs to no member of its cluster: it was never added, or it was removed")
    return Survivor(
        identity=identity,
        membership=membership,
        name=own.name,
        term=journal.term,
        first_index=journal.first_index,
        last_index=journal.last_index,
        last_term=journal.last_term,
        state_index=state_index,
    )
