"""Stock pysyncobj loses or invents acknowledgements on healthy disks: the schedules of RAFT_HAZARDS, each with its bad outcome.

These tests document upstream; a test that fails says that upstream has changed. docs/SIMULATOR.md lists the numbers.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pysyncobj.pickle
import pytest
from pysyncobj import FAIL_REASON
from pysyncobj.node import Node

from tests.sim.stock.stock_cluster import SUCCESS, Answers, Clock, Cluster, Network, StockNode, collect, take_over_time

if TYPE_CHECKING:
    from pathlib import Path

NO_OP = b"\x01"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return take_over_time(monkeypatch)


def started(clock: Clock, names: str = "ABC", **options: Any) -> Cluster:
    """A cluster that A leads."""
    cluster = Cluster(clock, names, **options)
    cluster.elect("A")
    cluster.run()
    return cluster


def test_e1_two_leaders_acknowledge_after_unfinished_membership_changes(clock: Clock) -> None:
    cluster = started(clock, dynamicMembershipChange=True)
    network, a, b = cluster.network, cluster["A"], cluster["B"]
    network.partition("ADEF", "BC")
    for name in "DEF":
        cluster.nodes[name] = StockNode(network, name, ["A"], dynamicMembershipChange=True)
        a.addNodeToCluster(Node(name))
    a.doTick(0)
    assert a.raftCommitIndex < a.last() - 2, "three changes are in the log, none is committed"

    acked: dict[str, Answers] = {"A": [], "B": []}
    a.put("of the minority", callback=collect(acked["A"]))
    cluster.run(40, "ADEF")
    cluster.elect("B", "BC")
    b.put("of the majority", callback=collect(acked["B"]))
    cluster.run(10, "BC")

    assert acked == {"A": [("of the minority", SUCCESS)], "B": [("of the majority", SUCCESS)]}
    assert a.values == ["of the minority"]
    assert b.values == ["of the majority"]


def test_e2_an_acknowledgement_of_an_old_term_commits_in_a_new_one(clock: Clock) -> None:
    cluster = started(clock, "ABCDE")
    network, a = cluster.network, cluster["A"]
    network.partition("AB", "CDE")
    network.hold = lambda envelope: envelope[:2] == ("B", "A") and envelope[2]["type"] == "next_node_idx"
    for i in range(5):
        a.put(f"old {i}")
    cluster.run(6, "AB")
    network.hold = lambda _: False
    late = [message for _, _, message in network.held if message["success"]][-1]

    network.partition()
    cluster.elect("C")  # which overwrites what A and B have
    cluster.run()
    cluster.elect("A")
    cluster.run()
    network.partition("AD", "B", "C", "E")
    acked: Answers = []
    for i in range(3):
        a.put(f"new {i}", callback=collect(acked))
    cluster.run(4, "AD")
    assert not acked, "two of five are no majority"

    network.give("B", "A", late)
    cluster.run(4, "AD")
    assert [reason for _, reason in acked] == [SUCCESS] * 3
    assert cluster["B"].last() < a.last(), "B never had what was acknowledged on its behalf"


def test_e3_an_old_append_cuts_off_entries_that_were_acknowledged(clock: Clock) -> None:
    cluster = started(clock)
    network, a, b = cluster.network, cluster["A"], cluster["B"]
    network.partition("AB", "C")
    seen: list[dict[str, Any]] = []

    def watch(envelope: tuple[str, str, dict[str, Any]]) -> bool:
        if envelope[:2] == ("A", "B") and envelope[2].get("entries"):
            seen.append(envelope[2])
        return False

    network.hold = watch
    acked: Answers = []
    a.put("first", callback=collect(acked))
    cluster.run(4, "AB")
    for i in range(5):
        a.put(f"later {i}", callback=collect(acked))
    cluster.run(6, "AB")
    assert len(acked) == 6
    before = b.last()

    network.give("A", "B", seen[0])
    assert b.last() == before - 5, "the log matched, and was cut all the same"

    network.partition("BC", "A")
    cluster.elect("B", "BC")
    cluster.run(6, "BC")
    assert [value for value, _ in acked if value not in cluster["C"].values] == [f"later {i}" for i in range(5)]


def test_e3_a_pipelining_leader_sends_again_what_is_under_way(clock: Clock) -> None:
    """Why E3 needs no faulty network: every acknowledgement moves nextIndex back to what it acknowledges."""
    cluster = started(clock)
    network, a = cluster.network, cluster["A"]
    network.partition("AB", "C")
    sent: list[int] = []

    def watch(envelope: tuple[str, str, dict[str, Any]]) -> bool:
        if envelope[:2] == ("A", "B"):
            sent.extend(index for _, index, _ in envelope[2].get("entries", ()))
        return envelope[:2] == ("B", "A")  # acknowledgements take their time

    network.hold = watch
    for value in "xyz":
        a.put(value)
        cluster.run(2, "A")
    assert len(sent) == 3
    first = next(message for _, _, message in network.held if message["next_node_idx"] == sent[0] + 1)
    network.give("B", "A", first)
    cluster.run(1, "A")
    assert sent[3:] == sent[1:3]


def test_e10_a_node_with_an_emptied_disk_votes_away_what_it_acknowledged(clock: Clock) -> None:
    cluster = started(clock)
    network = cluster.network
    network.partition("AB", "C")
    acked: Answers = []
    cluster["A"].put("precious", callback=collect(acked))
    cluster.run(6, "AB")
    assert acked == [("precious", SUCCESS)]

    cluster.nodes["B"] = StockNode(network, "B", "AC")  # the same name, nothing else
    network.partition("BC", "A")
    for _ in range(2):  # the first term is that in which C voted already
        cluster["C"].campaign()
        network.deliver()
    cluster.run(6, "BC")
    assert cluster["C"].leads()
    assert cluster["C"].values == cluster["B"].values == []


def test_e11_an_exception_in_the_state_machine_is_applied_for_ever(clock: Clock) -> None:
    cluster = started(clock)
    answers: Answers = []
    cluster["A"].poison(callback=collect(answers))
    cluster["A"].put("behind it", callback=collect(answers))
    raised = 0
    for _ in range(20):
        clock.now += 0.001
        for node in cluster.nodes.values():
            try:
                node.doTick(0)
            except ValueError:
                raised += 1
        cluster.network.deliver()
    assert raised > 10
    assert len(cluster["A"].values) > 10, "its side effect happened again and again"
    assert not answers


def test_e13_leader_changed_is_said_of_a_write_that_is_committed(clock: Clock) -> None:
    cluster = started(clock)
    network = cluster.network
    answers: Answers = []
    cluster["B"].put("once?", callback=collect(answers))
    network.hold = lambda envelope: envelope[2]["type"] == "apply_command_response"
    network.partition("AC", "B")
    network.cut.discard(("B", "A"))
    cluster["B"].doTick(0)
    network.deliver()
    cluster.run(6, "AC")
    network.partition("BC", "A")
    network.hold = lambda _: False
    cluster.elect("C", "BC")
    cluster.run(8, "BC")
    assert answers == [(None, FAIL_REASON.LEADER_CHANGED)]  # documented as "without command commit"
    assert cluster["B"].values == ["once?"]


def test_e13_a_forwarded_write_that_is_lost_is_never_answered(clock: Clock) -> None:
    cluster = started(clock)
    network = cluster.network
    answers: Answers = []
    network.cut = {("B", "A")}
    cluster["B"].put("lost", callback=collect(answers))
    cluster["B"].doTick(0)
    network.deliver()
    network.cut = set()
    clock.now += 3600
    cluster.run(30)
    assert not answers


def test_e14_a_snapshot_that_cannot_be_loaded_is_acknowledged(clock: Clock, tmp_path: Path) -> None:
    network = Network(clock)
    node = StockNode(network, "F", "A", fullDumpFile=str(tmp_path / "dump"))
    entries = [(NO_OP, index, 1) for index in range(2, 8)]
    append = {"type": "append_entries", "term": 1, "commit_index": 1, "prevLogIdx": 1, "prevLogTerm": 0, "entries": entries}
    network.give("A", "F", append)
    network.queue.clear()
    for piece in ((b"no snapshot at all", True, False), (b"", False, True)):
        network.give("A", "F", {"type": "append_entries", "term": 2, "commit_index": 500, "serialized": piece})
    assert [message["success"] for _, _, message in network.queue] == [True]
    assert node.raftLastApplied == 1
    assert node.raftCommitIndex == 7, "and entries of term 1 are committed on the word of a leader that never saw them"


def test_e18_a_leader_that_is_cut_off_never_answers(clock: Clock) -> None:
    cluster = started(clock, leaderFallbackTimeout=30.0)
    cluster.network.partition("A", "BC")
    answers: Answers = []
    cluster["A"].put("x", callback=collect(answers))
    for _ in range(29):
        clock.now += 1
        cluster.run(1, "A")
    assert cluster["A"].leads(), "for 30 seconds by default, while others are elected after one"
    clock.now += 3600
    cluster.run(3, "A")
    assert not cluster["A"].leads()
    assert not answers


def test_e20_a_node_that_was_away_deposes_the_leader(clock: Clock) -> None:
    cluster = started(clock)
    cluster.network.partition("AB", "C")
    for _ in range(5):
        cluster["C"].campaign()
        cluster.network.deliver()
    cluster.network.partition()
    cluster["C"].campaign()
    cluster.network.deliver()
    assert not cluster["A"].leads()


def test_e21_pieces_of_a_snapshot_commit_what_the_snapshot_does_not_hold(clock: Clock) -> None:
    """Healthy disks, FIFO connections, nothing doubled: a partition, a compaction, and writes are acknowledged and gone."""
    cluster = started(clock, logCompactionBatchSize=256, logCompactionMinEntries=30)
    network, a, b = cluster.network, cluster["A"], cluster["B"]
    a.put("base")
    cluster.run(8)
    network.partition("A", "BC")
    acked: Answers = []
    for i in range(3):
        a.put(f"ghost {i}", callback=collect(acked))
    cluster.run(4, "A")
    cluster.elect("B", "BC")
    rng = random.Random(21)
    for _ in range(100):
        b.put(f"real {rng.getrandbits(300)}")
        cluster.run(1, "BC")
    cluster.run(10, "BC")
    assert b.log()[0][0] > 3, "B has compacted its log"

    network.partition()
    for _ in range(60):  # ticks and pieces of the snapshot take turns
        clock.now += 0.0006
        for node in cluster.nodes.values():
            node.doTick(0)
        network.deliver(6)
    cluster.run(60)
    assert acked == [(f"ghost {i}", SUCCESS) for i in range(3)]
    assert not [value for node in cluster.nodes.values() for value in node.values if value.startswith("ghost")]


def test_e22_an_entry_of_an_unknown_version_makes_others_apply_twice(clock: Clock) -> None:
    cluster = Cluster(clock, "A")
    a = cluster["A"]
    a.campaign()
    cluster.run(3)
    a.put("a")
    a._applyCommand(pysyncobj.pickle.dumps(99), None, 3)
    a.put("b")
    a.put("c")
    cluster.run(8)
    assert a.values == ["a", "b", "c", "c"]


def test_reads_are_answered_by_a_leader_of_the_past(clock: Clock) -> None:
    """Upstream has no read at all but looking at the object, wherever one is."""
    cluster = started(clock, leaderFallbackTimeout=30.0)
    cluster.network.partition("A", "BC")
    cluster.elect("B", "BC")
    cluster["B"].put("new")
    clock.now += 10
    cluster.run(6)
    assert cluster["B"].values == ["new"]
    assert cluster["A"].leads()
    assert cluster["A"].values == []
