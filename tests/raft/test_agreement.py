"""Who is wrong when states differ: raft/agreement.py, and what the node makes of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from journal_harness import member
from node_harness import Lab, digest

from raft import membership as members
from raft.agreement import DIFFERING_KEPT, KEPT, Agreement, Verdict
from raft.errors import Diverged as DivergedError
from raft.messages import AppendReply, Diverged

THREE = frozenset({"n1", "n2", "n3"})
FIVE = frozenset({"n1", "n2", "n3", "n4", "n5"})


def right(index: int) -> bytes:
    return b"right %d" % index


def wrong(index: int) -> bytes:
    return b"wrong %d" % index


def at(newest: int) -> Agreement:
    """This node is right, up to here."""
    agreement = Agreement()
    for index in range(1, newest + 1):
        agreement.record(index, right(index))
    return agreement


def test_equal_is_equal() -> None:
    agreement = at(20)
    assert agreement.newest == (20, right(20))
    for index in (3, 7, 20):
        assert agreement.report("n2", index, right(index)) == 0
    assert agreement.judge("n1", THREE) is None


def test_one_who_differs_is_wrong_when_another_is_known_to_agree() -> None:
    agreement = at(20)
    assert agreement.report("n2", 10, wrong(10)) == 10
    assert agreement.judge("n1", THREE) is None  # one against one
    agreement.report("n3", 5, right(5))
    assert agreement.judge("n1", THREE) is None  # it may have differed since
    agreement.report("n3", 15, right(15))  # equal later is equal then
    assert agreement.judge("n1", THREE) == Verdict(10, frozenset({"n2"}))


def test_this_node_is_wrong_when_the_others_agree() -> None:
    agreement = at(20)
    agreement.report("n2", 10, wrong(10))
    agreement.report("n3", 10, wrong(10))
    assert agreement.judge("n1", THREE) == Verdict(10, frozenset({"n1"}))


def test_this_node_is_wrong_also_when_the_others_first_spoke_of_different_indexes() -> None:
    agreement = at(20)
    for index in (8, 11, 14):
        agreement.report("n2", index, wrong(index))
    for index in (9, 12, 14):
        assert agreement.report("n3", index, wrong(index)) == 9
    assert agreement.judge("n1", THREE) == Verdict(8, frozenset({"n1"}))


def test_three_different_states_have_no_majority() -> None:
    agreement = at(20)
    agreement.report("n2", 10, b"a")
    agreement.report("n3", 10, b"b")
    assert agreement.judge("n1", THREE) is None


@pytest.mark.parametrize(
    ("reports", "voters", "expected"),
    [
        ({"n2": wrong, "n3": right, "n4": right}, FIVE, {"n2"}),
        ({"n2": wrong, "n3": wrong, "n4": right}, FIVE, None),
        ({"n2": wrong, "n3": wrong, "n4": right, "n5": right}, FIVE, {"n2", "n3"}),
        ({"n2": wrong, "n3": wrong, "n4": wrong, "n5": right}, FIVE, {"n1", "n5"}),
        ({"n2": wrong}, frozenset({"n1", "n2"}), None),
        ({"n9": wrong, "n2": right}, THREE, {"n9"}),  # a learner is judged, and judges nobody
        ({"n8": wrong, "n9": wrong}, THREE, None),
        ({"n9": wrong}, frozenset({"n1"}), {"n9"}),
        ({"n9": wrong}, frozenset({"n2"}), None),
    ],
)
def test_a_majority_of_voters_decides(reports: dict[str, object], voters: frozenset[str], expected: set[str] | None) -> None:
    agreement = at(20)
    for name, what in reports.items():
        agreement.report(name, 10, what(10))  # type: ignore[operator]
    verdict = agreement.judge("n1", voters)
    assert (None if verdict is None else set(verdict.wrong)) == expected


def test_reports_from_the_future_wait() -> None:
    agreement = at(5)
    assert agreement.report("n2", 8, wrong(8)) == 0
    assert agreement.report("n2", 9, wrong(9)) == 0
    for index in (6, 7, 8):
        agreement.record(index, right(index))
    assert agreement.report("n2", 10, wrong(10)) == 8


def test_what_is_forgotten_counts_no_more() -> None:
    agreement = at(20)
    agreement.report("n2", 10, wrong(10))
    agreement.report("n3", 15, right(15))
    agreement.forget("n3")
    assert agreement.judge("n1", THREE) is None
    agreement.report("n3", 15, right(15))
    agreement.forget("n2")
    assert agreement.judge("n1", THREE) is None


def test_a_new_state_begins_anew() -> None:
    agreement = at(20)
    agreement.report("n2", 10, wrong(10))
    agreement.restart(50, right(50))
    assert agreement.newest == (50, right(50))
    assert agreement.report("n2", 20, wrong(20)) == 0  # nothing is known here of before
    assert agreement.report("n2", 50, right(50)) == 0


def test_memory_is_bounded() -> None:
    agreement = at(KEPT * 2)
    assert agreement.report("n2", 1, wrong(1)) == 0  # too old to compare
    for index in range(KEPT * 2 + 1, KEPT * 4):
        agreement.report("n2", index, right(index))
    for index in range(KEPT + 1, KEPT * 2):
        agreement.report("n3", index, wrong(index))
    sizes = [len(agreement._own), len(agreement._reported["n2"].ahead), len(agreement._reported["n3"].differing)]
    assert sizes == [KEPT, KEPT, DIFFERING_KEPT]


@given(
    st.dictionaries(st.sampled_from(["n2", "n3", "n4", "n5"]), st.integers(1, 40), max_size=2),
    st.lists(st.tuples(st.sampled_from(["n2", "n3", "n4", "n5"]), st.integers(1, 40)), max_size=80),
)
def test_a_majority_that_is_right_is_never_judged(broken: dict[str, int], reports: list[tuple[str, int]]) -> None:
    """Two of five at most go wrong, each at some index and for ever."""
    agreement = at(30)
    for name, index in reports:
        is_wrong = index >= broken.get(name, 1000)
        agreement.report(name, index, b"%s %d" % (name.encode(), index) if is_wrong else right(index))
        verdict = agreement.judge("n1", FIVE)
        assert verdict is None or verdict.wrong <= broken.keys()


# -- the node --------------------------------------------------------------------------------------------------------------


def leader() -> Lab:
    lab = Lab(1)
    lab.lead()
    lab.apply_all()
    return lab


def report(lab: Lab, name: str, index: int, what: bytes) -> None:
    lab.receive(name, AppendReply(lab.node.term, True, lab.journal.last_index, 0, index, what))


def test_a_follower_reports_its_newest_digest_with_every_acknowledgement() -> None:
    lab = Lab(1, 1)
    lab.follow("n2", 1, commit=2)
    assert lab.ask("n2", lab.heartbeat(1), AppendReply).point == 0
    lab.apply_all()
    reply = lab.ask("n2", lab.heartbeat(1), AppendReply)
    assert (reply.point, reply.digest) == (2, digest(2))


def test_the_leader_stops_who_is_wrong() -> None:
    lab = leader()
    report(lab, "n2", 2, b"another")
    assert lab.all(Diverged) == []
    report(lab, "n3", 2, digest(2))
    report(lab, "n2", 2, b"another")
    assert [(name, message) for name, message in lab.sent if isinstance(message, Diverged)] == [("n2", Diverged(2, 2))]
    assert not lab.told.halts


def test_a_leader_that_is_wrong_stops_itself() -> None:
    lab = leader()
    report(lab, "n2", 2, b"another")
    report(lab, "n3", 2, b"another")
    (error,) = lab.told.halts
    assert isinstance(error, DivergedError)
    assert "entry 2" in str(error)


def test_a_follower_believes_its_leader_only() -> None:
    lab = Lab(1)
    lab.follow("n2", 4)
    lab.receive("n3", Diverged(4, 1))
    lab.receive("n2", Diverged(3, 1))
    assert not lab.told.halts
    lab.receive("n2", Diverged(4, 1))
    assert isinstance(lab.told.halts[0], DivergedError)


def test_what_is_not_committed_has_no_digest() -> None:
    lab = leader()
    report(lab, "n2", 1 << 60, b"another")
    report(lab, "n3", 0, b"another")
    assert lab.node.agreement._reported == {}


def test_another_disk_under_the_name_begins_with_a_clean_record() -> None:
    lab = leader()
    report(lab, "n2", 2, b"another")
    for change in (lambda now: members.remove(now, "n2"), lambda now: members.add(now, member("n2", 999))):
        lab.node.change(change, change)
        lab.flush()
        lab.ack("n3")
        assert lab.told.answers[change] == 1
    report(lab, "n3", 2, digest(2))
    report(lab, "n2", 2, digest(2))
    assert lab.all(Diverged) == []
