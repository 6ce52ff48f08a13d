"""Who leads: Raft sections 5.1, 5.2, 5.4.1; thesis 3.10, 4.2.3, 6.2, 9.6. One node, messages made by hand."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
from faulty_disk import Fault
from journal_harness import opened
from node_harness import TIMING, Lab, item, pre_vote_request, replies, vote_request

from raft.errors import NotLeader, OutcomeUnknown, Refused
from raft.hard_state import VOTE_UNKNOWN
from raft.messages import Append, AppendReply, Message, PreVote, PreVoteReply, TimeoutNow, Vote, VoteReply
from raft.node import TERM_LEAP_MAX
from raft.record import NOOP, Entry
from raft.upstream import CANDIDATE, FOLLOWER, LEADER


def saved(lab: Lab) -> tuple[int, str]:
    """Term and vote as the disk has them."""
    journal = opened(lab.disk.killed(), 0)
    state = journal.term, journal.voted_for
    journal.close()
    return state


# -- terms (5.1) -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [FOLLOWER, CANDIDATE, LEADER])
@pytest.mark.parametrize(
    "message",
    [
        Append(7, 0, 0, 0, 0),
        AppendReply(7, False, 0, 0),
        VoteReply(7, False),
        PreVoteReply(7, False),
        Vote(7, 9, 6, True),
    ],
    ids=lambda message: type(message).__name__,
)
def test_5_1_whoever_sees_a_newer_term_takes_it_and_follows(role: int, message: Message) -> None:
    lab = Lab(1, 1)
    if role == LEADER:
        lab.lead()
    elif role == CANDIDATE:
        lab.pass_time(2.1)
        lab.receive("n2", PreVoteReply(2, True))
    assert lab.node.role == role
    lab.receive("n3", message)
    assert (lab.node.role, lab.node.term) == (FOLLOWER, 7)
    assert saved(lab)[0] == 7
    assert not lab.told.halts


def test_5_1_messages_of_an_old_term_change_nothing() -> None:
    lab = Lab(1, 2, term=5)
    lab.follow("n2", 5)
    before = (lab.node.term, lab.node.voted_for, lab.node.leader, lab.terms)
    assert lab.ask("n3", Append(4, 2, 2, 2, 0, (item(3, 4),)), AppendReply) == AppendReply(5, False, 2, 0)
    assert lab.ask("n3", Vote(4, 9, 9), VoteReply) == VoteReply(5, False)
    lab.receive("n3", VoteReply(4, True))
    lab.receive("n3", TimeoutNow(4))
    assert (lab.node.term, lab.node.voted_for, lab.node.leader, lab.terms) == before
    assert lab.node.commit_index == 0


def test_a_term_that_no_cluster_can_have_reached_is_ignored() -> None:
    lab = Lab(1)
    assert lab.receive("n2", Append(TERM_LEAP_MAX + 2, 0, 0, 0, 0)) == []
    assert lab.node.term == 1
    lab.receive("n2", Append(TERM_LEAP_MAX + 1, 1, 1, 0, 0))
    assert lab.node.term == TERM_LEAP_MAX + 1


def test_two_leaders_in_one_term_stop_the_node() -> None:
    """Election safety (figure 3): seeing it broken is the last moment to do no harm."""
    lab = Lab(1, term=3)
    lab.follow("n2", 3)
    lab.receive("n3", lab.heartbeat(3))
    assert "two leaders" in str(lab.told.halts[0])
    assert lab.receive("n2", lab.heartbeat(3)) == []


# -- votes (5.2, 5.4.1) ----------------------------------------------------------------------------------------------------


def test_5_2_one_vote_per_term_also_after_a_restart() -> None:
    lab = Lab(1, 1)
    assert lab.ask("n2", vote_request(lab, 2), VoteReply) == VoteReply(2, True)
    assert lab.ask("n3", vote_request(lab, 2), VoteReply) == VoteReply(2, False)
    assert lab.ask("n2", vote_request(lab, 2), VoteReply) == VoteReply(2, True)  # its answer was lost
    lab.power_loss()
    assert lab.ask("n3", vote_request(lab, 2), VoteReply) == VoteReply(2, False)
    assert lab.ask("n2", vote_request(lab, 2), VoteReply) == VoteReply(2, True)


def test_5_2_a_candidate_has_its_own_vote_also_after_a_restart() -> None:
    lab = Lab(1, 1)
    lab.pass_time(2.1)
    lab.receive("n2", PreVoteReply(2, True))
    assert lab.node.role == CANDIDATE
    lab.power_loss()
    assert lab.node.voted_for == "n1"
    assert lab.ask("n3", vote_request(lab, 2), VoteReply) == VoteReply(2, False)


def test_a_vote_is_on_the_disk_before_it_is_answered() -> None:
    lab = Lab(1, 1)
    seen = []
    send = lab._send

    def watching(name: str, message: Message) -> bool:
        seen.append((message, saved(lab)))
        return send(name, message)

    lab.node._SyncObj__transport._send = watching
    lab.receive("n2", vote_request(lab, 4))
    assert seen == [(VoteReply(4, True), (4, "n2"))]


def test_a_vote_that_could_not_be_saved_is_not_answered() -> None:
    lab = Lab(1, 1)
    lab.disk.plan(1, Fault.SYNC_FAILS)
    assert lab.receive("n2", vote_request(lab, 4)) == []
    assert len(lab.told.halts) == 1
    assert lab.receive("n2", vote_request(lab, 4)) == []


def test_memory_knows_no_term_that_the_disk_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the next request of that term would find the vote in memory and be answered without any write."""
    lab = Lab(1, 1)

    def full(term: int, voted_for: str) -> None:
        raise Refused(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(lab.journal, "save_vote", full)
        assert lab.receive("n2", vote_request(lab, 4)) == []
        assert (lab.node.term, lab.node.voted_for) == (1, "")
        assert lab.receive("n2", vote_request(lab, 4)) == []
    assert lab.ask("n2", vote_request(lab, 4), VoteReply) == VoteReply(4, True)
    assert saved(lab) == (4, "n2")


@pytest.mark.parametrize(
    ("mine", "last", "last_term", "granted"),
    [
        ((1, 1), 2, 1, True),
        ((1, 1), 3, 1, True),
        ((1, 1), 1, 1, False),  # shorter
        ((1, 1, 1), 1, 2, True),  # shorter but newer
        ((1, 2), 9, 1, False),  # longer but older
        ((1, 2), 2, 2, True),
        ((), 0, 0, True),
    ],
)
def test_5_4_1_only_a_log_that_holds_as_much_gets_the_vote(
    mine: tuple[int, ...], last: int, last_term: int, granted: bool
) -> None:
    lab = Lab(*mine)
    asked = pre_vote_request(lab, 5, last=last, last_term=last_term)
    assert lab.ask("n2", asked, PreVoteReply).granted is granted
    assert lab.node.term == max(mine, default=0)
    assert lab.ask("n2", vote_request(lab, 5, last=last, last_term=last_term), VoteReply) == VoteReply(5, granted)
    assert lab.node.voted_for == ("n2" if granted else "")


def test_who_refuses_a_vote_in_a_new_term_can_still_give_it_to_another() -> None:
    lab = Lab(1, 2)
    assert not lab.ask("n2", vote_request(lab, 5, last=1), VoteReply).granted
    assert lab.ask("n3", vote_request(lab, 5), VoteReply).granted


def test_a_vote_of_which_only_the_term_is_known_goes_to_nobody() -> None:
    """A single node's log becomes a cluster's: whom it would have voted for in term 1 is nobody's guess."""
    lab = Lab(1, 1, term=1, vote=VOTE_UNKNOWN)
    assert lab.ask("n2", vote_request(lab, 1), VoteReply) == VoteReply(1, False)
    lab.follow("n3", 1)
    assert not lab.told.halts
    assert saved(lab) == (1, VOTE_UNKNOWN)


def test_whom_a_node_follows_has_its_vote() -> None:
    """So that a new disk under this name, in a term in which the old one voted, cannot elect another leader."""
    lab = Lab()
    lab.follow("n2", 3)
    assert saved(lab) == (3, "n2")
    lab.pass_time(1.2)  # n2 is silent
    assert not lab.ask("n3", vote_request(lab, 3), VoteReply).granted


def test_5_2_no_majority_no_leader() -> None:
    lab = Lab(1, voters="n1 n2 n3 n4 n5")
    lab.pass_time(2.1)
    lab.receive("n2", PreVoteReply(2, True))
    assert lab.node.role == FOLLOWER
    lab.receive("n2", PreVoteReply(2, True))  # a doubled message is one vote (hazard: upstream counts messages)
    assert lab.node.role == FOLLOWER
    lab.receive("n3", PreVoteReply(2, True))
    assert lab.node.role == CANDIDATE
    lab.receive("n2", VoteReply(2, True))
    lab.receive("n2", VoteReply(2, True))
    lab.receive("n9", VoteReply(2, True))  # a stranger
    assert lab.node.role == CANDIDATE
    lab.receive("n3", VoteReply(2, True))
    assert lab.node.role == LEADER


def test_5_2_a_vote_for_an_earlier_term_does_not_count() -> None:
    lab = Lab(1)
    lab.pass_time(2.1)
    lab.receive("n2", PreVoteReply(2, True))
    lab.pass_time(2.1)
    lab.receive("n2", PreVoteReply(3, True))
    assert (lab.node.role, lab.node.term) == (CANDIDATE, 3)
    lab.receive("n2", VoteReply(2, True))
    assert lab.node.role == CANDIDATE


def test_learners_votes_do_not_count_and_learners_never_ask() -> None:
    lab = Lab(1, voters="n1 n2 n3", learners="n4 n5")
    lab.pass_time(2.1)
    assert {name for name, _ in lab.sent} == {"n2", "n3"}
    for name in ("n4", "n5"):
        lab.receive(name, PreVoteReply(2, True))
    assert lab.node.role == FOLLOWER
    learner = Lab(1, voters="n2 n3", learners="n1")
    assert learner.pass_time(5) == []
    assert learner.ask("n2", vote_request(learner, 2), VoteReply).granted  # it may be a voter in a log that it does not have


def test_alone_a_node_leads_at_once() -> None:
    lab = Lab(1, 1, voters="n1")
    lab.node.tick()
    lab.flush()
    assert (lab.node.role, lab.node.term, lab.terms, lab.node.commit_index) == (LEADER, 2, [1, 1, 2], 3)
    assert saved(lab) == (2, "n1")


def test_5_4_2_a_new_leader_begins_with_an_entry_of_its_term_and_tells_everybody_at_once() -> None:
    lab = Lab(1, 1)
    term = lab.elect()
    (noop,) = lab.journal.entries(3, 100)
    assert (noop.kind, noop.term) == (NOOP, term)
    for name in ("n2", "n3"):
        assert lab.last(Append, name).entries == (noop,)
    assert lab.told.roles[-1] == ("leader", "n1", term)


def test_a_candidate_that_hears_of_a_leader_of_its_term_follows() -> None:
    lab = Lab(1)
    lab.pass_time(2.1)
    lab.receive("n2", PreVoteReply(2, True))
    assert lab.node.role == CANDIDATE
    lab.follow("n3", 2)
    assert lab.node.role == FOLLOWER
    lab.receive("n2", VoteReply(2, True))
    assert lab.node.role == FOLLOWER


def test_5_2_elections_are_spread_over_the_timeouts() -> None:
    at = []
    for seed in range(20):
        lab = Lab(1, seed=seed)
        start = lab.now
        lab.pass_time(2.1, lambda lab=lab, start=start: at.append(lab.now - start) if lab.sent and not at_once(lab) else None)
    firsts = sorted({round(each, 2) for each in at})
    assert firsts[0] >= TIMING.election_min_s
    assert len(firsts) > 10


def at_once(lab: Lab) -> bool:
    return len(lab.all(PreVote)) > 2


# -- PreVote, stickiness (thesis 9.6, 4.2.3) -------------------------------------------------------------------------------


def test_9_6_asking_changes_no_term_on_either_side() -> None:
    lab = Lab(1, 1)
    lab.pass_time(2.1)
    assert lab.last(PreVote) == PreVote(2, 2, 1)
    assert saved(lab) == (1, "")
    other = Lab(1, 1)
    assert other.ask("n2", PreVote(2, 2, 1), PreVoteReply) == PreVoteReply(2, True)
    assert other.ask("n3", PreVote(2, 2, 1), PreVoteReply) == PreVoteReply(2, True)  # no promise
    assert saved(other) == (1, "")


def test_9_6_a_node_that_hears_a_leader_would_not_vote_for_another() -> None:
    """E20: a node that comes back deposes nobody."""
    lab = Lab(1, 1)
    lab.follow("n2", 1)
    assert lab.ask("n3", pre_vote_request(lab, 2), PreVoteReply) == PreVoteReply(1, False)
    lab.pass_time(TIMING.election_min_s - 0.1)
    assert not lab.ask("n3", pre_vote_request(lab, 2), PreVoteReply).granted
    lab.pass_time(0.15)
    assert lab.ask("n3", pre_vote_request(lab, 2), PreVoteReply).granted


def test_9_6_a_leader_would_not_vote_for_another() -> None:
    lab = Lab(1, 1)
    lab.lead()
    assert not lab.ask("n3", pre_vote_request(lab, 9), PreVoteReply).granted
    assert lab.receive("n3", vote_request(lab, 9)) == []
    assert lab.node.role == LEADER


def test_9_6_who_is_behind_in_terms_learns_that_and_asks_again() -> None:
    lab = Lab(1, 1)
    lab.pass_time(2.1)
    lab.receive("n2", PreVoteReply(6, False))
    assert (lab.node.term, lab.node.role) == (6, FOLLOWER)
    lab.pass_time(2.1)
    assert lab.last(PreVote).term == 7


def test_9_6_answers_to_an_older_question_do_not_count() -> None:
    lab = Lab(1, 1)
    lab.pass_time(2.1)
    lab.follow("n2", 1)
    lab.receive("n3", PreVoteReply(2, True))
    assert (lab.node.term, lab.node.role) == (1, FOLLOWER)


def test_4_2_3_a_vote_request_that_nobody_asked_for_is_not_even_answered() -> None:
    lab = Lab(1, 1)
    lab.follow("n2", 1)
    assert lab.receive("n3", vote_request(lab, 9)) == []
    assert saved(lab) == (1, "n2")
    assert lab.ask("n3", vote_request(lab, 9, transfer=True), VoteReply).granted


def test_a_broken_connection_to_the_leader_is_a_hint() -> None:
    lab = Lab(1, 1)
    lab.follow("n2", 1)
    lab.node.disconnected("n3")
    lab.pass_time(0.3)
    assert lab.all(PreVote) == []
    lab.node.disconnected("n2")
    assert lab.ask("n3", pre_vote_request(lab, 2), PreVoteReply).granted
    lab.pass_time(0.3)
    assert lab.last(PreVote, "n3").term == 2
    assert lab.node.term == 1
    lab.follow("n2", 1)  # it was only the connection
    lab.pass_time(0.9)
    assert lab.node.term == 1


# -- CheckQuorum (thesis 6.2) ----------------------------------------------------------------------------------------------


def test_6_2_a_leader_that_reaches_no_majority_stops_leading() -> None:
    lab = Lab(1, voters="n1 n2 n3 n4 n5")
    lab.lead()
    lab.node.propose(b"x", "token")
    lab.pass_time(1.9)
    assert lab.node.role == LEADER
    lab.pass_time(0.2)
    assert (lab.node.role, lab.node.leader) == (FOLLOWER, None)
    assert isinstance(lab.told.results["token"], OutcomeUnknown)
    lab.node.propose(b"y", "later")
    assert isinstance(lab.told.results["later"], NotLeader)


@pytest.mark.parametrize("heard", [("n2", "n3"), ("n4", "n5")])
def test_6_2_a_majority_that_answers_is_enough(heard: tuple[str, ...]) -> None:
    lab = Lab(1, voters="n1 n2 n3 n4 n5")
    lab.lead()
    lab.pass_time(6, lambda: lab.ack(*heard))
    assert lab.node.role == LEADER


def test_6_2_learners_are_no_quorum() -> None:
    lab = Lab(1, learners="n4 n5")
    lab.lead()
    lab.pass_time(2.2, lambda: lab.ack("n4", "n5"))
    assert lab.node.role == FOLLOWER


def test_own_stalls_count_against_nobody() -> None:
    lab = Lab(1)
    lab.lead()
    lab.now += 30
    lab.node.tick()
    assert lab.node.role == LEADER
    lab.pass_time(2.2)
    assert lab.node.role == FOLLOWER


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_clock_that_jumps_does_no_harm(jump: float) -> None:
    lab = Lab(1, 1)
    lab.follow("n2", 1)
    lab.now += jump
    lab.pass_time(0.1)
    lab.follow("n2", 1)
    lab.pass_time(0.9)
    assert lab.all(PreVote) == []
    lab.pass_time(3.0)
    assert lab.all(PreVote) != []


# -- handing leadership over (thesis 3.10) ---------------------------------------------------------------------------------


def test_3_10_a_transfer_waits_until_the_other_has_everything() -> None:
    lab = Lab(1)
    term = lab.lead()
    lab.node.propose(b"x", "write")
    lab.flush()
    lab.node.transfer("n2", "transfer")
    lab.flush()
    assert lab.all(TimeoutNow) == []
    lab.node.propose(b"y", "meanwhile")
    assert isinstance(lab.told.results["meanwhile"], NotLeader)
    lab.ack("n2")
    assert lab.last(TimeoutNow, "n2") == TimeoutNow(term)
    assert lab.told.answers["write"] == 1  # it was committed and handed over first: nobody is left in doubt
    lab.receive("n2", Vote(term + 1, 3, term, True))
    lab.follow("n2", term + 1)
    assert lab.told.results["transfer"] == "n2"


def test_3_10_nobody_is_told_to_take_over_while_a_proposal_here_has_no_answer() -> None:
    """Five nodes: that the other has everything does not mean that it is committed. Its proposer would get OutcomeUnknown."""
    lab = Lab(1, voters="n1 n2 n3 n4 n5")
    lab.lead()
    lab.node.propose(b"x", "write")
    lab.flush()
    lab.node.transfer("n2", "transfer")
    lab.ack("n2")
    assert lab.all(TimeoutNow) == []
    lab.ack("n3")
    assert len(lab.all(TimeoutNow, "n2")) == 1
    assert lab.told.answers["write"] == 1


def test_3_10_a_transfer_that_does_not_come_about_is_given_up() -> None:
    lab = Lab(1)
    lab.lead()
    lab.node.transfer("n2", "transfer")
    lab.pass_time(0.9, lambda: lab.ack("n2", "n3"))
    assert "transfer" not in lab.told.results
    lab.pass_time(0.2, lambda: lab.ack("n2", "n3"))
    assert isinstance(lab.told.results["transfer"], Refused)
    lab.node.propose(b"x", "write")
    lab.flush()
    lab.ack("n2")
    assert lab.told.answers["write"] == 1
    assert lab.told.answers["transfer"] == 1


def test_3_10_a_transfer_without_a_token_is_given_up_too() -> None:
    lab = Lab(1)
    lab.lead()
    lab.node.transfer("n2", None)
    lab.pass_time(1.1, lambda: lab.ack("n2", "n3"))
    lab.node.propose(b"x", "write")
    lab.flush()
    lab.ack("n2")
    assert isinstance(lab.told.results["write"], Entry)


def test_3_10_a_transfer_has_failed_when_this_node_is_elected_again() -> None:
    lab = Lab(1)
    term = lab.lead()
    lab.node.transfer("n2", "transfer")
    lab.receive("n2", Vote(term + 1, 0, 0, True))
    assert lab.node.role == FOLLOWER
    lab.node._election_at = lab.now
    lab.elect()
    assert isinstance(lab.told.results["transfer"], Refused)
    lab.node.propose(b"x", "write")
    assert "write" not in lab.told.results


@pytest.mark.parametrize("name", ["n1", "n4", "n5", "n9"])
def test_3_10_only_a_voter_that_is_reachable_can_take_over(name: str) -> None:
    lab = Lab(1, voters="n1 n2 n3 n5", learners="n4")
    lab.lead()
    lab.node.disconnected("n5")
    lab.node.transfer(name, "transfer")
    assert isinstance(lab.told.results["transfer"], Refused)


def test_3_10_without_a_name_whose_log_is_longest_takes_over() -> None:
    lab = Lab(1)
    lab.lead()
    lab.node.propose(b"x", "write")
    lab.flush()
    lab.ack("n3")
    lab.node.transfer("", "transfer")
    lab.flush()
    assert [name for name, message in lab.sent if isinstance(message, TimeoutNow)] == ["n3"]


def test_3_10_who_is_told_to_take_over_asks_for_votes_at_once() -> None:
    lab = Lab(1, 1)
    lab.follow("n2", 1)
    lab.receive("n3", TimeoutNow(1))  # no leader
    assert lab.node.role == FOLLOWER
    lab.receive("n2", TimeoutNow(1))
    assert lab.node.role == CANDIDATE
    assert lab.last(Vote, "n3") == Vote(2, 2, 1, transfer=True)
    learner = Lab(1, voters="n2 n3", learners="n1")
    learner.follow("n2", 1)
    learner.receive("n2", TimeoutNow(1))
    assert learner.node.role == FOLLOWER


# -- the log that a candidate claims ---------------------------------------------------------------------------------------


def test_a_candidate_whose_disk_takes_entries_back_stands_down() -> None:
    """It has told voters how long its log is. Elected on that, it would overwrite what they hold committed."""
    lab = Lab(1, 1)
    lab.follow("n2", 1)
    lab.disk.plan(1 + _changes_of_an_election(), Fault.NO_SPACE)
    lab.receive("n2", lab.append(2, 1), flush=False)
    lab.receive("n2", TimeoutNow(1), flush=False)
    assert lab.last(Vote, "n3") == Vote(2, 3, 1, transfer=True)
    lab.flush()
    assert lab.journal.last_index == 2
    assert not lab.told.halts
    lab.receive("n2", VoteReply(2, True))
    lab.receive("n3", VoteReply(2, True))
    assert lab.node.role == FOLLOWER


def _changes_of_an_election() -> int:
    """Changes to the disk that saving a term takes."""
    lab = Lab(1, 1)
    lab.follow("n2", 1)
    for changes in range(1, 20):
        probe = Lab(1, 1)
        probe.follow("n2", 1)
        probe.disk.plan(changes, Fault.SYNC_FAILS)
        probe.receive("n2", TimeoutNow(1), flush=False)
        if not probe.told.halts:
            return changes - 1
    raise AssertionError


def test_a_new_leader_has_no_vote_to_spare_and_no_old_answers() -> None:
    """What came for an earlier reign finds nothing."""
    lab = Lab(1)
    term = lab.lead()
    lab.receive("n2", replace(lab.heartbeat(term + 1), prev_index=0, prev_term=0))
    lab.node._election_at = lab.now
    lab.pass_time(1.1)
    lab.elect()
    assert not lab.node._tokens
    assert all(peer.match == 0 for peer in lab.node.peers.values())
    assert replies(lab.receive("n2", AppendReply(term, True, lab.journal.last_index, 9)), Append) == []
    assert lab.node.peers["n2"].match == 0
