"""Whether what a directory holds belongs together: the state, the log, the base file, term and vote. And what to put right.

A power loss at any moment leaves one of a few combinations; `match` names what completes or undoes the step that it
interrupted. Every other combination means that a disk lost what it had acknowledged, or that somebody put files together
that were not copied together. A node that went on from there could vote twice, or help to commit what contradicts what it had
acknowledged, so it is refused, and nothing on the disk is changed.

Pure. The steps are in journal.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from raft.base import Base
from raft.errors import LogCorrupt
from raft.hard_state import VOTE_UNKNOWN, HardState

SINGLE_TERM = 1  # a single node writes all its entries in this term, and has no use for a hard state (local.py)
_ADVICE = "Remove this node from the cluster and add it anew, with an empty directory"


@dataclass(frozen=True, slots=True)
class Found:
    directory: str  # for messages
    state_index: int  # the state holds every entry up to here
    first: int  # of the log; last + 1 when it is empty
    last: int
    last_term: int  # of the entry before `first` when it is empty
    hard_state: HardState
    base: Base | None
    pending_term: int | None = None  # the term that the log has at the index of base.pending, None when it does not say


@dataclass(frozen=True, slots=True)
class Repair:
    """In this order."""

    reset: tuple[int, int] | None = None  # the log continues after this index and term
    base: Base | None = None  # replace it by this
    hard_state: HardState | None = None  # save this


def match(found: Found) -> Repair:
    """Raises LogCorrupt."""
    applied = found.state_index
    reset, base = _reset(found), _base(found)
    last, last_term = reset or (found.last, found.last_term)
    if found.first > applied + 1:
        raise LogCorrupt(
            f"{found.directory}: the state holds entries up to {applied}, the log begins with {found.first}: those between are "
            f"missing. {_ADVICE}"
        )
    if last < applied:
        raise LogCorrupt(
            f"{found.directory}: the state holds entries up to {applied}, the log ends with {last} although it was "
            f"synced first: the disk lost acknowledged writes, or the log is an old copy. {_ADVICE}"
        )
    return Repair(reset, base, _hard_state(found, last_term))


def _reset(found: Found) -> tuple[int, int] | None:
    base = found.base
    if base is None:
        # A single node's state whose log was moved away, which is how one goes on with the state alone.
        if found.last == 0 and found.state_index and found.hard_state == HardState():
            return found.state_index, SINGLE_TERM
        return None
    pending = base.pending
    if pending is None or pending.index != found.state_index or pending.term == found.pending_term:
        return None  # not installed; or the log agrees with the snapshot, so that what follows in it is as good as before
    return pending.index, pending.term


def _base(found: Found) -> Base | None:
    """Without the installation: it is complete, or it never came to be."""
    base = found.base
    if base is None or base.pending is None:
        return None
    return Base(base.pending.membership if base.pending.index == found.state_index else base.membership)


def _hard_state(found: Found, last_term: int) -> HardState | None:
    """A term is saved before the log has an entry of it, save in a single node's log."""
    if last_term <= found.hard_state.term:
        return None
    if found.base is None and last_term == SINGLE_TERM:
        return HardState(SINGLE_TERM, VOTE_UNKNOWN)
    raise LogCorrupt(
        f"{found.directory}: the log has an entry of term {last_term}, but the last term that was saved with a vote is "
        f"{found.hard_state.term}: that file is an old copy or a new one, and votes may be forgotten. {_ADVICE}"
    )
