"""Members: the value and its four changes (raft/membership.py), and one node that makes them (thesis 4)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from faulty_disk import Fault
from hypothesis import given
from hypothesis import strategies as st
from journal_harness import change, member
from node_harness import Lab, seats

from raft import membership as members
from raft.errors import NotLeader, OutcomeUnknown, Refused
from raft.membership import MEMBERS_MAX, Member, Membership
from raft.messages import Append, AppendReply, TimeoutNow
from raft.record import MEMBERSHIP
from raft.timing import Flow
from raft.upstream import FOLLOWER, LEADER

if TYPE_CHECKING:
    from collections.abc import Callable

# -- the value -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("voters", "quorum"), [("n1", 1), ("n1 n2", 2), ("n1 n2 n3", 2), ("n1 n2 n3 n4", 3), ("a b c d e", 3)])
def test_a_quorum_is_more_than_half(voters: str, quorum: int) -> None:
    assert seats(voters, "l1 l2 l3").quorum == quorum


def test_who_is_added_is_a_learner_whatever_it_says() -> None:
    after = members.add(seats("n1"), member("n2", 7, voter=True))
    assert after.voters == {"n1"}
    assert members.promote(after, "n2").voters == {"n1", "n2"}
    assert members.remove(members.promote(after, "n2"), "n1").voters == {"n2"}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: members.add(seats("n1 n2"), member("n2", 7)),
        lambda: members.add(seats("n1 n2"), member("n3", 101)),  # the disk of n2
        lambda: members.add(seats("n1"), Member("n2", "x", "n1:1", "b:1", "c:1")),  # the address of n1
        lambda: members.add(seats("n1"), Member("N2", "x", "a:1", "b:1", "c:1")),
        lambda: members.add(seats("n1"), Member("n2", "x", "a", "b:1", "c:1")),
        lambda: members.add(seats("n1"), Member("n2", "x", "a:1", "b:1", "c" * 300 + ":1")),
        lambda: members.add(seats(" ".join(f"n{number}" for number in range(MEMBERS_MAX))), member("x", 7)),
        lambda: members.promote(seats("n1"), "n1"),
        lambda: members.promote(seats("n1"), "n2"),
        lambda: members.remove(seats("n1", "n2"), "n1"),
        lambda: members.remove(seats("n1"), "n2"),
        lambda: members.initial(Member("", "x", "a:1", "b:1", "c:1")),
    ],
)
def test_changes_that_are_refused(wrong: Callable[[], Membership]) -> None:
    with pytest.raises(Refused):
        wrong()


@pytest.mark.parametrize("data", [b"\xff", members.encode(seats("n1")).replace(b"n1:1", b"n1-1")])
def test_what_is_no_membership_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (the text is the library's)
        members.decode(data, 1)


_SEATS = st.dictionaries(st.sampled_from("abcdefghi"), st.booleans(), min_size=1, max_size=9)


@given(_SEATS, st.sampled_from("abcdefghi"), st.sampled_from(["add", "promote", "remove"]))
def test_4_1_majorities_before_and_after_a_change_share_a_node(who: dict[str, bool], name: str, what: str) -> None:
    now = seats(" ".join(n for n, voter in who.items() if voter), " ".join(n for n, voter in who.items() if not voter))
    assert members.decode(members.encode(now), 0) == now
    try:
        after = {
            "add": partial(members.add, now, member(name, 999)),
            "promote": partial(members.promote, now, name),
            "remove": partial(members.remove, now, name),
        }[what]()
    except Refused:
        return
    assert len(now.voters ^ after.voters) <= 1
    together = len(now.voters | after.voters)
    assert not now.voters or now.quorum + after.quorum > together


# -- one node --------------------------------------------------------------------------------------------------------------


def add(name: str, number: int = 999) -> Callable[[Membership], Membership]:
    return lambda now: members.add(now, member(name, number))


def promote(name: str) -> Callable[[Membership], Membership]:
    return lambda now: members.promote(now, name)


def remove(name: str) -> Callable[[Membership], Membership]:
    return lambda now: members.remove(now, name)


def test_4_1_a_change_counts_as_soon_as_it_is_in_the_log() -> None:
    lab = Lab(1)
    lab.lead()
    lab.node.change(add("n4"), "change")
    lab.flush()
    assert "n4" in lab.node.members
    assert lab.told.memberships[-1] == lab.node.members
    assert "change" not in lab.told.results
    lab.ack("n2")
    assert lab.told.results["change"] == lab.node.members
    assert lab.told.answers["change"] == 1


def test_e1_one_change_at_a_time() -> None:
    lab = Lab(1)
    lab.lead()
    lab.node.change(add("n4"), "first")
    lab.node.change(add("n5", 998), "second")
    lab.flush()
    assert isinstance(lab.told.results["second"], Refused)
    assert "n5" not in lab.node.members
    lab.ack("n2")
    lab.node.change(add("n5", 998), "third")
    assert "n5" in lab.node.members


def test_4_1_erratum_no_change_before_an_entry_of_the_term_is_committed() -> None:
    """Ongaro's erratum: else two leaders can each commit a change that the other does not know of."""
    lab = Lab(1)
    lab.elect()
    lab.node.change(add("n4"), "early")
    assert isinstance(lab.told.results["early"], Refused)
    lab.ack("n2")
    lab.node.change(add("n4"), "later")
    assert "n4" in lab.node.members


def test_a_change_that_makes_no_sense_is_refused_and_nothing_is_logged() -> None:
    lab = Lab(1)
    lab.lead()
    last = lab.journal.last_index
    lab.node.change(remove("n9"), "change")
    assert isinstance(lab.told.results["change"], Refused)
    assert lab.journal.last_index == last


def test_only_a_leader_changes_members() -> None:
    lab = Lab(1)
    lab.follow("n2", 1)
    lab.node.change(add("n4"), "change")
    error = lab.told.results["change"]
    assert isinstance(error, NotLeader)
    assert error.hint == "n2:2"


def test_a_new_member_is_told_from_the_beginning() -> None:
    lab = Lab(1)
    term = lab.lead()
    lab.node.change(add("n4"), "change")
    lab.node.connected("n4")
    lab.flush()
    asked = lab.last(Append, "n4")
    lab.receive("n4", AppendReply(term, False, 0, 0))
    assert asked.prev_index >= 2
    assert [entry.index for entry in lab.last(Append, "n4").entries] == [1, 2, 3]


def with_learner(flow: Flow | None = None) -> Lab:
    lab = Lab(1, learners="n4", flow=flow)
    lab.lead()
    return lab


def test_4_2_1_a_learner_that_lags_is_not_promoted() -> None:
    lab = with_learner(Flow(promote_lag=3))
    for number in range(4):
        lab.node.propose(b"x", number)
    lab.flush()
    lab.ack("n2")
    lab.node.change(promote("n4"), "early")
    assert isinstance(lab.told.results["early"], Refused)
    lab.ack("n4", match=lab.journal.last_index - 3)
    lab.node.change(promote("n4"), "later")
    assert "n4" in lab.node.members.voters


def test_4_1_the_new_majority_counts_at_once() -> None:
    lab = with_learner()
    lab.node.change(promote("n4"), "change")
    lab.flush()
    lab.ack("n2")
    assert "change" not in lab.told.results  # 2 of 4
    lab.ack("n4")
    assert lab.told.answers["change"] == 1


@pytest.mark.parametrize("force", [False, True])
def test_a_change_that_would_cost_the_quorum_is_refused_unless_forced(force: bool) -> None:
    lab = Lab(1)
    lab.lead()
    lab.node.disconnected("n3")
    lab.node.change(remove("n2"), "change", force=force)
    assert ("n2" in lab.node.members) is not force
    assert isinstance(lab.told.results.get("change"), Refused) is not force


def test_a_dead_node_can_be_removed() -> None:
    lab = Lab(1)
    lab.lead()
    lab.node.disconnected("n3")
    lab.node.change(remove("n3"), "change")
    lab.flush()
    lab.ack("n2")
    assert lab.told.answers["change"] == 1
    assert lab.node.members.voters == {"n1", "n2"}


def test_a_node_that_is_connected_but_silent_is_not_reachable() -> None:
    lab = Lab(1)
    lab.lead()
    lab.pass_time(2.5, lambda: lab.ack("n2"))
    lab.node.change(remove("n2"), "change")
    assert isinstance(lab.told.results["change"], Refused)


def test_4_2_2_a_leader_that_removes_itself_leads_until_that_is_committed() -> None:
    lab = Lab(1)
    term = lab.lead()
    lab.node.change(remove("n1"), "change")
    lab.flush()
    assert lab.node.role == LEADER
    lab.ack("n2")
    assert lab.node.role == LEADER  # itself does not count: n2 and n3 are both needed
    lab.ack("n3")
    assert lab.told.results["change"] == seats_without("n1", lab)
    assert lab.node.role == FOLLOWER
    assert lab.all(TimeoutNow) == [TimeoutNow(term)]  # so that nobody waits for a timeout
    assert lab.pass_time(5.0) == []


def seats_without(name: str, lab: Lab) -> Membership:
    left = tuple(each for each in seats("n1 n2 n3").members if each.name != name)
    return Membership(left, lab.node.members.index)


def test_who_was_removed_is_not_counted_any_more() -> None:
    lab = Lab(1)
    lab.lead()
    lab.node.change(remove("n3"), "change")
    lab.flush()
    lab.ack("n3")
    assert "change" not in lab.told.results
    assert "n3" not in lab.node.peers
    lab.ack("n2")
    assert lab.told.answers["change"] == 1


def test_a_leader_that_loses_its_place_leaves_the_change_in_doubt() -> None:
    lab = Lab(1)
    lab.lead()
    lab.node.change(add("n4"), "change")
    lab.flush()
    lab.receive("n3", Append(9, 0, 0, 0, 0))
    assert isinstance(lab.told.results["change"], OutcomeUnknown)
    assert lab.told.answers["change"] == 1


def test_4_1_a_follower_uses_what_is_in_its_log_and_the_one_before_when_that_is_cut() -> None:
    lab = Lab(1)
    lab.receive("n2", Append(2, 1, 1, 0, 0, (change(2, 2, "n1", "n2", "n3", "n4"),)))
    assert "n4" in lab.node.members
    lab.restart(0)
    assert "n4" in lab.node.members  # E1: upstream forgets at a restart what is in its log but not committed
    lab.receive("n3", lab.append(1, 3, term=3))
    assert "n4" not in lab.node.members
    assert lab.told.memberships[-1] == lab.node.members
    lab.restart(0)
    assert "n4" not in lab.node.members


def test_a_change_that_a_full_disk_took_back_is_not_in_force() -> None:
    lab = Lab(1)
    lab.lead()
    lab.disk.plan(1, Fault.NO_SPACE)
    lab.node.change(add("n4"), "change")
    lab.flush()
    assert "n4" not in lab.node.members
    assert lab.told.memberships[-1] == lab.node.members
    assert isinstance(lab.told.results["change"], OutcomeUnknown)
    assert lab.node.role == FOLLOWER


def test_a_change_survives_the_trimming_of_its_entry() -> None:
    lab = Lab(1)
    lab.lead()
    lab.node.change(add("n4"), "change")
    lab.flush()
    (entry,) = lab.journal.entries(3, 1)
    assert entry.kind == MEMBERSHIP
    lab.ack("n2")
    lab.apply_all()
    lab.journal.reset(3, lab.node.term, lab.node.members)
    lab.restart(3)
    assert "n4" in lab.node.members
