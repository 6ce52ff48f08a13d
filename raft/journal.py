"""The durable memory of a cluster node: the log, term and vote, the members. Also pysyncobj's Journal, in terms of these.

Over the write-ahead log (wal.py), the hard state (hard_state.py) and the base file (base.py). Used by one thread. Rules:
- Nothing is said to anybody that a power loss could take back: `save_vote` is durable on return, entries are durable after
  `sync`. An entry of a term is accepted only when that term is saved, so a log never knows more than the hard state.
- A term never goes back, and a vote within it never changes.
- The newest membership in the log counts, committed or not (Raft thesis, section 4.1); cutting the log brings back the one
  before. Before the log loses the entry that set it, the base file has it.
- No commit index is ever stored: what is committed is learned from a leader, or by being one (hazard E9).
- What the state machine holds durably may leave the log, but the last `retain_bytes` stay, so that a follower that was away for
  a while needs no snapshot.

Not here: which entries to accept or to cut (replication.py), what belongs together at a start (matching.py).
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, overload

from pysyncobj.journal import Journal as PySyncObjJournal

from raft import membership as members
from raft.base import Base, BaseFile, Installation
from raft.disk import Disk, RealDisk
from raft.errors import LogCorrupt, Refused, Stopped
from raft.hard_state import HardState, HardStateFile
from raft.identity import Identity, load_identity
from raft.matching import Found, match
from raft.record import DATA, MARKER, MEMBERSHIP, NOOP, Entry
from raft.reserve import Reserve
from raft.tail import Tail
from raft.terms import Terms
from raft.wal import Wal, WalOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raft.membership import Membership
    from raft.spares import Housekeeper

WAL_NAME = "wal"
#: The first byte of pysyncobj's commands; 4 is ours. Its version command (3) has no place here.
_COMMAND_OF_KIND = {DATA: b"\0", NOOP: b"\1", MEMBERSHIP: b"\2", MARKER: b"\4"}
_KIND_OF_COMMAND = {command[0]: kind for kind, command in _COMMAND_OF_KIND.items()}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JournalOptions:
    wal: WalOptions = field(default_factory=WalOptions)
    tail_bytes: int = 32 << 20  # of memory for the newest entries
    retain_bytes: int = 128 << 20  # of entries that stay in the log although the state holds them


class Journal(PySyncObjJournal):  # type: ignore[misc]  # pysyncobj has no types
    def __init__(self, directory: str, options: JournalOptions, disk: Disk, lock_fd: int) -> None:
        """Use `Journal.open`."""
        self._directory = directory
        self._options = options
        self._disk = disk
        self._lock_fd = lock_fd
        self._wal: Wal
        self._hard_state: HardStateFile
        self._base: BaseFile
        self._tail: Tail
        self._terms: Terms
        self._last = 0
        # By index, never empty: the one in force at the base (or a newer one that the base file has), then those of the log.
        self._memberships: list[Membership] = []

    # -- life ----------------------------------------------------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        options: JournalOptions | None = None,
        *,
        disk: Disk | None = None,
        identity: Identity,
        state_index: int,
        housekeeper: Housekeeper | None = None,
    ) -> Journal:
        """Lock, recover, and complete what a crash interrupted. The state durably holds all entries up to `state_index`.

        Raises LogCorrupt when the parts do not belong together, Stopped or Refused when a repair fails, and OSError (EBUSY when
        another process has the directory).
        """
        disk = disk or RealDisk()
        path = os.fspath(directory)
        disk.make_directory(path)
        journal = cls(path, options or JournalOptions(), disk, disk.lock(path))
        try:
            journal._load(identity, state_index, housekeeper)
        except BaseException:
            disk.close(journal._lock_fd)
            raise
        return journal

    def _load(self, identity: Identity, state_index: int, housekeeper: Housekeeper | None) -> None:
        disk, path = self._disk, self._directory
        if load_identity(disk, path) not in (None, identity):
            raise LogCorrupt(f"{path}: identity.json is not that of node {identity.node_id}; it changed during the start")
        reserve = Reserve(disk, path)
        self._base = BaseFile(disk, path, reserve)
        self._hard_state = HardStateFile(disk, path, must_exist=self._base.exists, reserve=reserve)
        self._wal = wal = Wal.open(
            os.path.join(path, WAL_NAME), self._options.wal, disk=disk, owner=identity.owner, housekeeper=housekeeper
        )
        try:
            self._terms = _terms(wal, path)
            self._repair(state_index)
            self._last = wal.last_index
            self._tail = Tail(self._options.tail_bytes, self._last + 1)
            self._memberships = self._read_memberships()
        except BaseException:
            wal.close()
            raise

    def _repair(self, state_index: int) -> None:
        wal, base = self._wal, self._base.value if self._base.exists else None
        pending = base.pending if base else None
        known = pending is not None and wal.first_index - 1 <= pending.index <= wal.last_index
        repair = match(
            Found(
                self._directory,
                state_index,
                wal.first_index,
                wal.last_index,
                self._terms.last,
                self._hard_state.state,
                base,
                self._terms.at(pending.index) if pending and known else None,
            )
        )
        if repair.reset:
            wal.reset(*repair.reset)
            self._terms.reset(*repair.reset)
        if repair.base:
            self._base.save(repair.base)
        if repair.hard_state:
            self._hard_state.save(repair.hard_state)

    def _read_memberships(self) -> list[Membership]:
        wal, stored = self._wal, self._base.value.membership
        found = [stored]
        for index in wal.memberships_found:
            if max(stored.index, self.base_index) < index <= wal.last_index:
                (entry,) = wal.read(index, index)
                try:
                    found.append(members.decode(entry.payload, index))
                except ValueError as error:
                    raise LogCorrupt(f"{self._directory}: the members in entry {index} cannot be read: {error}") from error
        return found

    def close(self) -> None:
        """Release files and locks. What was appended but not synced is lost. May be called again."""
        self._wal.close()
        if self._lock_fd >= 0:
            self._disk.close(self._lock_fd)
            self._lock_fd = -1

    # -- term and vote -------------------------------------------------------------------------------------------------------

    @property
    def term(self) -> int:
        return self._hard_state.state.term

    @property
    def voted_for(self) -> str:
        """Who got this node's vote in `term`: a name, "" for nobody yet, or VOTE_UNKNOWN, with which nobody gets it."""
        return self._hard_state.state.voted_for

    def save_vote(self, term: int, voted_for: str) -> None:
        """Durable on return. Raises Stopped; ValueError for what would break a promise."""
        now = self._hard_state.state
        if term < now.term or (term == now.term and now.voted_for not in ("", voted_for)):
            raise ValueError(f"term {term} with a vote for {voted_for!r} would take back {now}")
        if self._lock_fd < 0:
            raise Stopped("the journal is closed")
        if (term, voted_for) != now:
            self._hard_state.save(HardState(term, voted_for))

    # -- the log -------------------------------------------------------------------------------------------------------------

    @property
    def first_index(self) -> int:
        """The oldest entry in the log; `last_index + 1` when it is empty."""
        return self._wal.first_index

    @property
    def last_index(self) -> int:
        """The last entry appended, durable or not; of an empty log the base."""
        return self._last

    @property
    def last_term(self) -> int:
        return self._terms.last

    @property
    def durable_index(self) -> int:
        return self._wal.durable_index

    @property
    def dirty(self) -> bool:
        """Something waits for `sync`."""
        return self._last > self._wal.durable_index

    @property
    def base_index(self) -> int:
        """The entry before the first: the log does not have it, but knows its term."""
        return self._wal.first_index - 1

    @property
    def base_term(self) -> int:
        return self._terms.at(self.base_index)

    @property
    def size_bytes(self) -> int:
        return self._wal.size_bytes

    @property
    def space_low(self) -> bool:
        """As Wal.space_low: refuse what is not needed to free space."""
        return self._wal.space_low

    def reserve(self) -> None:
        self._wal.reserve()

    def append(self, entries: Sequence[Entry]) -> None:
        """Take entries that continue the log, all or none; `sync` makes them durable. Raises Refused, Stopped.

        ValueError: they do not continue it, or are of a term that was not saved, or a membership among them is none.
        """
        highest, term, changes = self.term, self._terms.last, []
        for entry in entries:
            if not term <= entry.term <= highest:
                raise ValueError(f"entry {entry.index} of term {entry.term} after one of term {term}, in term {highest}")
            term = entry.term
            if entry.kind == MEMBERSHIP:
                changes.append(members.decode(entry.payload, entry.index))
        self._wal.append(entries)
        self._tail.append(entries)
        for entry in entries:
            self._terms.append(entry.index, entry.term)
        self._memberships += changes
        self._last = self._wal.last_index

    def sync(self) -> None:
        """Make everything appended durable. Refused(ENOSPC): what was not is gone, `last_index` is `durable_index` again.
        Stopped: nothing can be said of it, and the journal is of no use until it is opened anew."""
        try:
            self._wal.sync()
        except Refused:
            self._cut(self._wal.last_index)
            raise

    def term_at(self, index: int) -> int:
        """The term of an entry or of the base, from memory. Raises ValueError for others."""
        if not self.base_index <= index <= self._last:
            raise ValueError(f"the log has {self.base_index} to {self._last}, not {index}")
        return self._terms.at(index)

    def term_start(self, index: int) -> int:
        """The first of the entries before `index` that have its term, as far back as the base. Raises ValueError."""
        self.term_at(index)
        return max(self._terms.start(index), self.base_index)

    def entries(self, first: int, bytes_max: int, last: int | None = None) -> tuple[Entry, ...]:
        """Entries `first`..`last` (or to the end), as many as take `bytes_max` in a log but at least one. Empty if there is
        none yet. From memory when they are recent; else raises LogCorrupt, OSError. ValueError: not in the log any more."""
        last = self._last if last is None else min(last, self._last)
        if first <= self.base_index:
            raise ValueError(f"entry {first} is not in the log, which begins with {self.first_index}")
        if first > last:
            return ()
        if first >= self._tail.first:
            return self._tail.read(first, last, bytes_max)
        return tuple(self._wal.read(first, last, bytes_max))

    def truncate_after(self, index: int) -> None:
        """Remove all entries after `index`, which a leader contradicts; durable on return. Raises Refused, Stopped (all or
        nothing), and ValueError for what is committed for certain: the base, and the members in the base file."""
        if not max(self.base_index, self._memberships[0].index) <= index <= self._last:
            raise ValueError(f"cannot cut after {index}: the log has {self.first_index} to {self._last}")
        if index < self._last:
            self._wal.truncate_suffix(index)
            self._cut(index)

    def trim(self, index: int) -> None:
        """The state durably holds everything up to `index`, which is committed: drop what is older than the retained tail.
        O(number of segments). Raises Stopped."""
        point = self._wal.trim_point(min(index, self.durable_index), self._options.retain_bytes)
        if point <= self.base_index:
            return
        membership = self.membership_at(point) if self._memberships[0].index <= point else self._memberships[0]
        if membership != self._base.value.membership:
            try:
                self._base.save(replace(self._base.value, membership=membership))
            except Refused as error:
                log.warning("the log was not trimmed to %d: %s", point, error)
                return
        self._wal.trim(point)
        self._terms.trim(point)
        while len(self._memberships) > 1 and self._memberships[1].index <= point:
            del self._memberships[0]

    # -- members, snapshots --------------------------------------------------------------------------------------------------

    @property
    def membership(self) -> Membership:
        """The newest in the log, committed or not; else the stored one."""
        return self._memberships[-1]

    def membership_at(self, index: int) -> Membership:
        """What is in force once entry `index` is applied. Raises ValueError for an index that is too old to know."""
        for membership in reversed(self._memberships):
            if membership.index <= index:
                return membership
        raise ValueError(f"the members at entry {index} are no longer known, those at {self._memberships[0].index} are")

    def prepare_reset(self, index: int, term: int, membership: Membership) -> None:
        """The state is about to be replaced by a snapshot of this place: must return before StateMachine.install begins, so
        that a crash at any moment can be told from damage. Durable on return. Raises Refused, Stopped."""
        if not (index >= 1 and term <= self.term and membership.index <= index):
            raise ValueError(f"a snapshot at {index} of term {term} with members of {membership.index}, in term {self.term}")
        if index < max(self.base_index, self._memberships[0].index):
            raise ValueError(f"a snapshot at {index} is older than the log, which begins with {self.first_index}")
        self._base.save(replace(self._base.value, pending=Installation(index, term, membership)))

    def cancel_reset(self) -> None:
        """The snapshot was not installed and the old state stays. Raises Refused, Stopped."""
        if self._base.value.pending is not None:
            self._base.save(replace(self._base.value, pending=None))

    def reset(self, index: int, term: int, membership: Membership) -> None:
        """The state is the snapshot's now: the log continues after it. Durable on return.

        When the log has that very entry, the ones that follow it stay (Raft, section 7): they may have been acknowledged.
        Raises Refused (call again: until then the journal is as before, while the state is not) and Stopped.
        """
        if self._base.value.pending != Installation(index, term, membership):
            self.prepare_reset(index, term, membership)
        agrees = self.base_index <= index <= self.durable_index and self._terms.at(index) == term
        if not agrees:
            self._wal.reset(index, term)
            self._terms.reset(index, term)
            self._tail.clear(index + 1)
            self._last = index
        later = [each for each in self._memberships if each.index > index] if agrees else []
        self._base.save(Base(membership))
        self._memberships = [membership, *later]

    def _cut(self, index: int) -> None:
        self._tail.truncate(index)
        self._terms.truncate(index)
        while self._memberships[-1].index > index and len(self._memberships) > 1:
            del self._memberships[-1]
        self._last = index

    # -- pysyncobj's interface -----------------------------------------------------------------------------------------------
    # Positions count from the base, which stands first as a no-op, so that the log is never empty. Commands are bytes that
    # begin with their type.

    def __len__(self) -> int:
        return self._last - self.base_index + 1

    @overload
    def __getitem__(self, item: int) -> tuple[bytes, int, int]: ...
    @overload
    def __getitem__(self, item: slice) -> list[tuple[bytes, int, int]]: ...
    def __getitem__(self, item: int | slice) -> tuple[bytes, int, int] | list[tuple[bytes, int, int]]:
        places = range(len(self))[item]
        if isinstance(places, int):
            return self._item(places)
        return [self._item(place) for place in places]

    def _item(self, place: int) -> tuple[bytes, int, int]:
        index = self.base_index + place
        if not place:
            return _COMMAND_OF_KIND[NOOP], index, self.base_term
        (entry,) = self.entries(index, 0, index)
        return _COMMAND_OF_KIND[entry.kind] + entry.payload, index, entry.term

    def add(self, command: bytes, idx: int, term: int) -> None:
        """As `append`: not durable before `sync`."""
        kind = _KIND_OF_COMMAND.get(command[0]) if command else None
        if kind is None:
            raise ValueError(f"no command of pysyncobj's that has a place in the log: {command[:16]!r}")
        self.append((Entry(idx, term, command[1:], kind),))

    def clear(self) -> None:
        """All that is not the base. There is no way to have less: see `reset`."""
        self.truncate_after(self.base_index)

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """The entries from this position on, which is not the base's."""
        self.truncate_after(self.base_index + entryFrom - 1)

    def deleteEntriesTo(self, entryTo: int) -> None:
        """The entries before this position may go; the log may keep some."""
        self.trim(self.base_index + entryTo)

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Nothing: after a crash the log may end before it, and acknowledging up to it would be a lie (hazard E9)."""

    def getRaftCommitIndex(self) -> int:
        """What is committed for certain without asking anybody: the base."""
        return self.base_index

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        self.save_vote(term, votedForNodeId or "")

    def getCurrentTerm(self) -> int:
        return self.term

    def getVotedForNodeId(self) -> str | None:
        return self.voted_for or None

    def onOneSecondTimer(self) -> None:
        if self.space_low:
            self.reserve()

    def _destroy(self) -> None:
        self.close()


def _terms(wal: Wal, directory: str) -> Terms:
    terms = Terms(wal.first_index - 1, wal.term_at(wal.first_index - 1))
    for index, term in wal.terms_found:
        if term < terms.last:
            raise LogCorrupt(
                f"{directory}: entry {index} has term {term} after term {terms.last}: a single node went on with a cluster "
                "node's log. Remove this node from the cluster and add it anew, with an empty directory"
            )
        terms.append(index, term)
    return terms
