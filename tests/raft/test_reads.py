"""Linearizable reads without a log entry (thesis 6.4): raft/reads.py, and one node that asks or is asked."""

from __future__ import annotations

import pytest
from node_harness import TIMING, Lab

from raft.errors import NotLeader
from raft.messages import Append, AppendReply, ReadIndex, ReadIndexReply
from raft.reads import ROUNDS_MAX, Reads

# -- rounds ----------------------------------------------------------------------------------------------------------------


def test_what_waits_shares_a_round_and_what_comes_later_the_next() -> None:
    reads = Reads()
    reads.waiting += ["a", "b"]
    reads.begin(1, 10)
    reads.waiting.append("c")
    reads.begin(2, 12)
    assert [(each.tokens, each.index) for each in reads.confirmed(1)] == [(["a", "b"], 10)]
    assert reads.confirmed(1) == []
    assert [each.tokens for each in reads.confirmed(7)] == [["c"]]
    assert not reads.unconfirmed


def test_rounds_under_way_are_bounded() -> None:
    reads = Reads()
    number = 0
    for _ in range(20):
        reads.waiting.append("a")
        if reads.wants_round:
            number += 1
            reads.begin(number, 1)
    assert number == ROUNDS_MAX
    assert len(reads.waiting) == 20 - ROUNDS_MAX
    reads.confirmed(1)
    assert reads.wants_round


def test_all_that_waits_is_dropped_at_once() -> None:
    reads = Reads()
    reads.waiting.append("a")
    reads.begin(1, 1)
    reads.waiting.append("b")
    assert reads.drop() == ["a", "b"]
    assert reads.drop() == []
    assert reads.confirmed(9) == []


# -- at the leader ---------------------------------------------------------------------------------------------------------


def test_6_4_a_read_waits_for_a_round_that_began_after_it() -> None:
    lab = Lab(1)
    lab.lead()
    lab.node.read("read")
    lab.receive("n2", AppendReply(lab.node.term, True, 2, lab.node.round))  # of before
    assert "read" not in lab.told.results
    assert lab.last(Append, "n2").round == lab.node.round  # it went out at once, not with the next heartbeat
    lab.ack("n2", round_=lab.node.round - 1)
    assert "read" not in lab.told.results
    lab.ack("n2")
    assert lab.told.results["read"] == 2


def test_6_4_a_round_needs_a_majority_of_voters() -> None:
    lab = Lab(1, voters="n1 n2 n3 n4 n5", learners="n6")
    lab.lead()
    lab.node.read("read")
    lab.flush()
    lab.ack("n2", "n6")
    lab.ack("n2")
    assert "read" not in lab.told.results
    lab.receive("n3", AppendReply(lab.node.term - 1, True, 2, lab.node.round))
    lab.receive("n9", AppendReply(lab.node.term, True, 2, lab.node.round))
    assert "read" not in lab.told.results
    lab.receive("n5", AppendReply(lab.node.term, False, 0, lab.node.round))  # it follows, whatever its log is like
    assert lab.told.results["read"] == 2


def test_6_4_a_round_that_a_follower_cannot_have_heard_of_is_none() -> None:
    lab = Lab(1)
    lab.lead()
    lab.receive("n2", AppendReply(lab.node.term, True, 2, 1 << 40))
    lab.node.read("read")
    lab.flush()
    assert "read" not in lab.told.results


def test_6_4_no_read_before_an_entry_of_the_leaders_own_term_is_committed() -> None:
    lab = Lab(1, 1)
    term = lab.elect()
    lab.node.read("read")
    lab.flush()
    lab.receive("n2", AppendReply(term, True, 2, 5))
    assert "read" not in lab.told.results
    lab.ack("n2")  # that commits it, and the round begins in the same flush
    lab.ack("n3")
    assert lab.told.results["read"] == 3


def test_6_4_the_index_is_what_was_committed_when_the_round_began() -> None:
    lab = Lab(1)
    term = lab.lead()
    lab.node.propose(b"x", "write")
    lab.flush()
    lab.receive("n2", AppendReply(term, True, 3, 0), flush=False)
    lab.node.read("read")  # the write is committed already, though it was not looked at
    lab.flush()
    lab.ack("n3")
    assert lab.told.results["read"] == 3


def test_6_4_who_leads_no_longer_rejects_its_reads_once() -> None:
    lab = Lab(1)
    term = lab.lead()
    lab.node.read("in a round")
    lab.flush()
    lab.node.read("waiting")
    lab.receive("n3", ReadIndex(term, 77), flush=False)
    lab.receive("n2", Append(term + 1, 0, 0, 0, 0))
    assert all(isinstance(lab.told.results[token], NotLeader) for token in ("in a round", "waiting"))
    assert lab.last(ReadIndexReply, "n3").index == 0
    lab.receive("n3", AppendReply(term, True, 2, 9))
    assert set(lab.told.answers.values()) == {1}


def test_a_single_node_confirms_itself() -> None:
    lab = Lab(1, voters="n1")
    lab.node.tick()
    lab.flush()
    lab.node.read("read")
    lab.flush()
    assert lab.told.results["read"] == 2


def test_a_round_goes_out_to_who_is_being_given_a_snapshot_too() -> None:
    """Of three nodes one is down and one takes a snapshot: its confirmation is the one that counts."""
    lab = Lab(1, 1, base=(100, 1), applied=100)
    term = lab.elect()
    lab.ack("n2")
    lab.receive("n3", AppendReply(term, False, 5, 0))
    assert lab.node.peers["n3"].next == 6
    lab.sent.clear()
    lab.node.read("read")
    lab.flush()
    assert lab.last(Append, "n3") == Append(term, 0, 0, 103, lab.node.round)
    lab.ack("n3", match=5)
    assert lab.told.results["read"] == 103


# -- at a follower ---------------------------------------------------------------------------------------------------------


def test_6_4_a_follower_asks_its_leader() -> None:
    lab = Lab(1)
    lab.follow("n2", 1)
    lab.node.read("read")
    asked = lab.last(ReadIndex, "n2")
    lab.receive("n2", ReadIndexReply(1, asked.id + 1, 9))
    assert "read" not in lab.told.results
    lab.receive("n2", ReadIndexReply(1, asked.id, 9))
    assert lab.told.results["read"] == 9
    lab.receive("n2", ReadIndexReply(1, asked.id, 9))
    assert lab.told.answers["read"] == 1


def test_6_4_an_answer_to_the_process_before_is_none_to_this_one() -> None:
    """The leader may have confirmed it for a question of before a write that this process's reader knows of."""
    lab = Lab(1)
    lab.follow("n2", 1)
    ids = []
    for _ in range(20):
        lab.node.read("read")
        ids.append(lab.last(ReadIndex, "n2").id)
        lab.restart()
        lab.follow("n2", 1)
    assert len(set(ids)) == 20
    assert max(ids) < 1 << 62


@pytest.mark.parametrize(
    "how", ["no leader", "not connected", "it does not know", "it breaks off", "too late", "another leads"]
)
def test_a_read_that_a_follower_cannot_serve_is_rejected_once(how: str) -> None:
    lab = Lab(1)
    if how != "no leader":
        lab.follow("n2", 1)
    if how == "not connected":
        lab.node.disconnected("n2")
    lab.node.read("read")
    if how == "it does not know":
        lab.receive("n2", ReadIndexReply(1, lab.last(ReadIndex).id, 0))
    elif how == "it breaks off":
        lab.node.disconnected("n2")
    elif how == "too late":
        lab.pass_time(TIMING.read_s - 0.1, lambda: lab.receive("n2", lab.heartbeat(1), flush=False))
        assert "read" not in lab.told.results
        lab.pass_time(0.2)
    elif how == "another leads":
        lab.receive("n3", lab.heartbeat(5))
        lab.pass_time(TIMING.heartbeat_s)
    assert isinstance(lab.told.results["read"], NotLeader)
    lab.pass_time(5)
    for asked in lab.all(ReadIndex):
        lab.receive("n2", ReadIndexReply(1, asked.id, 9))
    assert lab.told.answers["read"] == 1


def test_a_leader_answers_a_follower_after_a_round_and_tells_it_the_commit_index() -> None:
    lab = Lab(1)
    term = lab.lead()
    lab.node.propose(b"x", "write")
    lab.flush()
    lab.ack("n2")
    lab.ack("n3", match=3)
    lab.sent.clear()
    lab.receive("n3", ReadIndex(term, 77))
    assert lab.all(ReadIndexReply) == []
    lab.ack("n2")
    assert lab.last(ReadIndexReply, "n3") == ReadIndexReply(term, 77, 3)
    assert lab.last(Append, "n3").commit == 3


def test_a_leader_tells_a_follower_that_cannot_know_the_commit_index_at_once() -> None:
    """It would wait for the next heartbeat with an index in its hands that it cannot reach."""
    lab = Lab(1)
    term = lab.lead()
    lab.receive("n3", ReadIndex(term, 77), flush=False)
    lab.flush()
    lab.node.propose(b"x", "write")
    lab.flush()
    lab.receive("n2", AppendReply(term, True, 3, 0))  # the write is committed: n3 has it and was not told
    lab.receive("n3", ReadIndex(term, 78))
    lab.sent.clear()
    lab.node.peers["n3"].commit_told = 2
    lab.ack("n2")
    assert [type(message) for name, message in lab.sent if name == "n3"][-2:] == [ReadIndexReply, Append]


def test_who_does_not_lead_says_so() -> None:
    lab = Lab(1)
    lab.follow("n2", 1)
    assert lab.ask("n3", ReadIndex(1, 5), ReadIndexReply) == ReadIndexReply(1, 5, 0)
