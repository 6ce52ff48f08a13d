"""Digests of the whole state: who is outside of a majority, what the node makes of it, and a disk that stays closed."""

from __future__ import annotations

import pytest
from faulty_disk import FaultyDisk
from node_harness import Lab

from raft import quarantine
from raft.errors import LogCorrupt, StateWrong
from raft.messages import Diverged, StateReport
from raft.state_reports import KEPT, StateReports

THREE = frozenset({"n1", "n2", "n3"})


def reported(**digests: bytes) -> StateReports:
    reports = StateReports()
    for name, digest in digests.items():
        reports.report(name, 7, digest)
    return reports


@pytest.mark.parametrize(
    ("digests", "voters", "wrong"),
    [
        ({"n1": b"a"}, THREE, ""),
        ({"n1": b"a", "n2": b"b"}, THREE, ""),  # nobody can tell which
        ({"n1": b"a", "n2": b"b", "n3": b"c"}, THREE, ""),
        ({"n1": b"a", "n2": b"a"}, THREE, ""),
        ({"n1": b"a", "n2": b"a", "n3": b"b"}, THREE, "n3"),
        ({"n1": b"b", "n2": b"a", "n3": b"a"}, THREE, "n1"),
        ({"n1": b"a", "n2": b"a", "n4": b"b"}, THREE, "n4"),  # a learner can be wrong
        ({"n1": b"a", "n4": b"a", "n5": b"a", "n2": b"b"}, THREE, ""),  # and counts for nothing
        ({"n1": b"a", "n2": b"b"}, frozenset({"n1", "n2"}), ""),
        ({"n1": b"a"}, frozenset({"n1"}), ""),
    ],
)
def test_right_is_what_a_majority_of_the_voters_has(digests: dict[str, bytes], voters: frozenset[str], wrong: str) -> None:
    assert reported(**digests).judge(7, voters) == frozenset(wrong.split())


def test_only_the_newest_marks_are_kept_and_the_first_report_of_each_node() -> None:
    reports = StateReports()
    for index in range(1, 3 * KEPT):
        reports.report("n1", index, b"a")
        reports.report("n1", index, b"b")
    assert [index for index in range(3 * KEPT) if reports.at(index)] == list(range(2 * KEPT, 3 * KEPT))
    assert reports.at(2 * KEPT) == {"n1": b"a"}
    reports.forget("n1")
    assert reports.at(2 * KEPT) == {}


# -- the node --------------------------------------------------------------------------------------------------------------


def leader() -> Lab:
    lab = Lab(1)
    lab.lead()
    lab.apply_all()
    return lab


def test_a_follower_reports_to_its_leader() -> None:
    lab = Lab(1, 1)
    lab.follow("n2", 1, commit=2)
    lab.node.report_state(2, b"whole")
    assert lab.all(StateReport) == [StateReport(1, 2, b"whole")]
    assert [name for name, message in lab.sent if isinstance(message, StateReport)] == ["n2"]


def test_the_leader_stops_who_is_outside_of_the_majority_whoever_reports_first() -> None:
    lab = leader()
    lab.receive("n2", StateReport(lab.node.term, 2, b"wrong"))
    lab.receive("n3", StateReport(lab.node.term, 2, b"right"))
    assert lab.all(Diverged) == []
    lab.node.report_state(2, b"right")
    assert [(name, message) for name, message in lab.sent if isinstance(message, Diverged)] == [("n2", Diverged(2, 2))]
    assert not lab.told.halts


def test_a_leader_whose_own_state_is_wrong_stops() -> None:
    lab = leader()
    lab.node.report_state(2, b"wrong")
    lab.receive("n2", StateReport(lab.node.term, 2, b"right"))
    lab.receive("n3", StateReport(lab.node.term, 2, b"right"))
    (error,) = lab.told.halts
    assert isinstance(error, StateWrong)
    assert "entry 2" in str(error)


def test_reports_of_strangers_of_other_terms_and_of_what_is_not_committed_count_for_nothing() -> None:
    lab = leader()
    lab.node.report_state(2, b"right")
    lab.receive("n2", StateReport(lab.node.term - 1, 2, b"wrong"))
    lab.receive("n9", StateReport(lab.node.term, 2, b"wrong"))
    lab.receive("n3", StateReport(lab.node.term, 99, b"wrong"))
    assert lab.node.state_reports.at(2) == {"n1": b"right"}
    assert lab.node.state_reports.at(99) == {}


# -- the disk --------------------------------------------------------------------------------------------------------------


def test_a_closed_disk_says_why_and_what_to_do() -> None:
    disk = FaultyDisk()
    disk.make_directory("/node")
    quarantine.require_open(disk, "/node")
    quarantine.close(disk, "/node", "a majority has another state than this node at entry 7")
    with pytest.raises(
        LogCorrupt, match=r"/node/diverged says: .* at entry 7\. What is on this disk is wrong; remove this node"
    ):
        quarantine.require_open(disk, "/node")
