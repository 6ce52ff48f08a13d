"""Which combinations of state, log, base file and hard state a node starts on, and which it refuses: one table."""

from __future__ import annotations

from dataclasses import replace

import pytest
from journal_harness import membership

from raft.base import Base, Installation
from raft.errors import LogCorrupt
from raft.hard_state import VOTE_UNKNOWN, HardState
from raft.matching import Found, Repair, match

OLD, NEW = membership("n1", index=2), membership("n1", "n2", index=60)
FRESH = Found("/node", 0, 1, 0, 0, HardState(), None)
NODE = Found("/node", 10, 5, 20, 7, HardState(9, "n2"), Base(OLD))
INSTALLING = replace(NODE, base=Base(OLD, Installation(100, 8, NEW)))


def test_what_belongs_together_needs_no_repair() -> None:
    for found in (
        FRESH,
        NODE,
        replace(NODE, state_index=4),  # all that the log has is still to be applied
        replace(NODE, state_index=20),
        replace(NODE, base=None),  # never trimmed an entry that sets members
        replace(NODE, hard_state=HardState(7, "")),
        replace(FRESH, base=Base(OLD), hard_state=HardState(1, "n1")),
    ):
        assert match(found) == Repair()


def test_a_single_nodes_state_without_a_log_is_gone_on_with() -> None:
    assert match(replace(FRESH, state_index=50)) == Repair((50, 1), None, HardState(1, VOTE_UNKNOWN))


def test_a_single_nodes_log_gives_its_term_to_the_hard_state() -> None:
    found = replace(FRESH, state_index=5, last=9, last_term=1)
    assert match(found) == Repair(hard_state=HardState(1, VOTE_UNKNOWN))


@pytest.mark.parametrize("pending_term", [None, 7])
def test_an_installed_snapshot_is_completed(pending_term: int | None) -> None:
    """The log ends before it, or contradicts it."""
    last = 20 if pending_term is None else 120
    found = replace(INSTALLING, state_index=100, last=last, pending_term=pending_term)
    assert match(found) == Repair((100, 8), Base(NEW))


def test_an_installed_snapshot_that_the_log_agrees_with_leaves_the_log_alone() -> None:
    found = replace(INSTALLING, state_index=100, last=120, pending_term=8)
    assert match(found) == Repair(None, Base(NEW))


@pytest.mark.parametrize("state_index", [10, 20])
def test_a_snapshot_that_was_not_installed_is_forgotten(state_index: int) -> None:
    assert match(replace(INSTALLING, state_index=state_index)) == Repair(None, Base(OLD))


def test_a_snapshot_that_the_state_went_past_by_the_log_is_forgotten() -> None:
    assert match(replace(INSTALLING, state_index=101, last=120, pending_term=8)) == Repair(None, Base(OLD))


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (replace(NODE, state_index=3), "begins with 5: those between are missing"),
        (replace(NODE, state_index=21), "an old copy"),
        (replace(INSTALLING, state_index=99), "an old copy"),
        (replace(INSTALLING, state_index=101), "an old copy"),
        (replace(INSTALLING, state_index=3), "those between are missing"),
        # A cluster node's log that was moved away: it acknowledged entries that it does not have any more.
        (replace(FRESH, state_index=50, base=Base(OLD), hard_state=HardState(1, "n1")), "an old copy"),
        (replace(FRESH, state_index=50, hard_state=HardState(1, "")), "an old copy"),
        # A hard state that is not this log's.
        (replace(NODE, hard_state=HardState(6, "n2")), "votes may be forgotten"),
        (replace(NODE, base=None, hard_state=HardState()), "votes may be forgotten"),
        (replace(NODE, last_term=1, hard_state=HardState()), "votes may be forgotten"),
        (replace(INSTALLING, state_index=100, hard_state=HardState(7, "n2")), "votes may be forgotten"),
    ],
)
def test_everything_else_is_refused_with_the_reason(found: Found, why: str) -> None:
    with pytest.raises(LogCorrupt, match=why):
        match(found)
