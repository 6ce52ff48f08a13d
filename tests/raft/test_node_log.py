"""The log, from leader to followers, and what is committed: Raft sections 5.3, 5.4.2, 8. One node, messages made by hand."""

from __future__ import annotations

import itertools
import random

import pytest
from faulty_disk import Fault
from journal_harness import OPTIONS
from node_harness import TIMING, Lab, digest, item

from raft.errors import LogCorrupt, OutcomeUnknown, Refused
from raft.messages import Append, AppendReply, Message
from raft.record import DATA, Entry, record_size
from raft.timing import Flow
from raft.upstream import FOLLOWER, LEADER


def log_of(lab: Lab) -> list[tuple[int, int]]:
    return [(entry.index, entry.term) for entry in lab.journal.entries(lab.journal.first_index, 1 << 20)]


# -- a follower's log (5.3) --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "message", "answer", "terms"),
    [
        # entries that continue the log, or overlap it
        ((1, 1), Append(2, 2, 1, 0, 0, (item(3, 2),)), (True, 3), [1, 1, 2]),
        ((1, 1), Append(2, 1, 1, 0, 0, (item(2, 1), item(3, 2))), (True, 3), [1, 1, 2]),
        ((), Append(1, 0, 0, 0, 0, (item(1, 1),)), (True, 1), [1]),
        # a heartbeat acknowledges what it was checked against, and no more
        ((1, 1, 1), Append(2, 2, 1, 0, 0), (True, 2), [1, 1, 1]),
        # nothing at prev
        ((1, 1), Append(2, 5, 2, 0, 0, (item(6, 2),)), (False, 2), [1, 1]),
        # another term at prev: back over the whole run of it
        ((1, 2, 2, 2), Append(4, 4, 3, 0, 0, (item(5, 4),)), (False, 1), [1, 2, 2, 2]),
        # a conflict after prev: what conflicts goes, and all that follows it
        ((1, 1, 2, 2), Append(3, 2, 1, 0, 0, (item(3, 3),)), (True, 3), [1, 1, 3]),
        ((1, 1, 2, 2), Append(3, 1, 1, 0, 0, (item(2, 1), item(3, 3), item(4, 3))), (True, 4), [1, 1, 3, 3]),
        # figure 7 (f): eleven entries of two terms that nobody else has
        ((1, 1, 1, 2, 2, 2, 3, 3, 3), Append(8, 3, 1, 0, 0, (item(4, 4), item(5, 4))), (True, 5), [1, 1, 1, 4, 4]),
    ],
)
def test_5_3_the_log_becomes_the_leaders(
    mine: tuple[int, ...], message: Append, answer: tuple[bool, int], terms: list[int]
) -> None:
    lab = Lab(*mine)
    reply = lab.ask("n2", message, AppendReply)
    assert (reply.term, reply.success, reply.match) == (message.term, *answer)
    assert lab.terms == terms
    lab.power_loss()
    assert lab.terms == terms  # durable when it was answered


def test_e3_what_matches_stays_although_an_older_message_comes_again() -> None:
    """Upstream cuts everything after prev; entries that were acknowledged go with it."""
    lab = Lab(1)
    first = lab.append(1, 1, 1)
    assert lab.ask("n2", first, AppendReply).match == 3
    assert lab.ask("n2", lab.append(3, 1, 1), AppendReply).match == 5
    assert lab.ask("n2", first, AppendReply) == AppendReply(1, True, 3, 0)
    assert lab.terms == [1] * 5
    for size in range(5):  # any part of it, in any order
        assert lab.ask("n2", lab.append(size, *[1] * (5 - size)), AppendReply).match == 5
    assert lab.terms == [1] * 5


@pytest.mark.parametrize("seed", range(20))
def test_5_3_followers_in_any_state_end_with_the_leaders_log(seed: int) -> None:
    """Figure 7: whatever is missing or too much. The leader goes by the answers alone."""
    rng = random.Random(seed)
    common = sorted(rng.choices(range(1, 4), k=rng.randrange(6)))
    mine = [*common, *sorted(rng.choices(range(max((*common, 1)), 7), k=rng.randrange(6)))]
    theirs = [*common, *sorted(rng.choices(range(max((*common, 1)), 7), k=rng.randrange(1, 8))), 8]
    while [*itertools.takewhile(lambda pair: pair[0] == pair[1], zip(mine, theirs, strict=False))][len(common) :]:
        mine = common  # of equal terms at an index the rest would have to be equal as well
    lab = Lab(*mine)
    log = [item(index, term) for index, term in enumerate(theirs, 1)]
    prev, rounds = len(log), 0
    while True:
        rounds += 1
        part = tuple(log[prev : prev + rng.randrange(1, 4)])
        reply = lab.ask("n2", Append(8, prev, theirs[prev - 1] if prev else 0, 0, 0, part), AppendReply)
        if not reply.success:
            assert reply.match < prev
            prev = reply.match
        elif reply.match == len(log):
            break
        else:
            prev = reply.match
    assert log_of(lab) == [(entry.index, entry.term) for entry in log]
    assert rounds <= len({*mine}) + len(log) + 2


def test_an_entry_is_durable_before_it_is_acknowledged() -> None:
    lab = Lab(1)
    lab.follow("n2", 1)
    answers = lab.receive("n2", lab.append(1, 1, 1), flush=False)
    assert answers == []
    assert lab.journal.durable_index == 1
    lab.flush()
    assert lab.journal.durable_index == 3
    assert lab.last(AppendReply, "n2").match == 3


def test_messages_of_a_batch_share_a_write_and_an_answer() -> None:
    lab = Lab(1)
    lab.follow("n2", 1)
    writes = len(lab.disk.writes)
    for prev in range(1, 6):
        lab.receive("n2", lab.append(prev, 1), flush=False)
    lab.flush()
    assert len(lab.disk.writes) == writes + 1
    assert [reply.match for reply in lab.all(AppendReply)] == [6]


def test_an_answer_to_one_leader_is_not_given_to_the_next() -> None:
    lab = Lab(1)
    lab.follow("n2", 1)
    lab.receive("n2", lab.append(1, 1, 1), flush=False)
    lab.receive("n3", Append(5, 1, 1, 0, 0, (item(2, 4),)), flush=False)
    lab.flush()
    assert lab.all(AppendReply, "n2") == []
    assert lab.all(AppendReply, "n3") == [AppendReply(5, True, 2, 0)]
    assert lab.terms == [1, 4]


# -- what is committed, on a follower ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("commit", "expected"), [(0, 0), (1, 1), (2, 2), (3, 3), (9, 3)])
def test_5_3_a_follower_commits_no_further_than_it_was_checked(commit: int, expected: int) -> None:
    """A heartbeat says that 3 is committed; entries 4 and 5 here may be another leader's."""
    lab = Lab(1, 1, 1, 1, 1)
    lab.receive("n2", Append(2, 3, 1, commit, 0))
    assert lab.node.commit_index == expected
    assert lab.told.indexes == list(range(1, expected + 1))


def test_a_follower_hands_nothing_over_that_is_not_durable_here() -> None:
    lab = Lab(1)
    lab.follow("n2", 1)
    lab.receive("n2", lab.append(1, 1, commit=2), flush=False)
    assert lab.told.indexes == []
    lab.disk.plan(1, Fault.NO_SPACE)
    lab.flush()
    assert lab.node.commit_index == 1
    assert lab.told.indexes == [1]
    lab.receive("n2", lab.append(1, 1, commit=2))
    assert lab.told.indexes == [1, 2]


def test_the_commit_index_never_goes_back() -> None:
    lab = Lab(1, 1, 1)
    lab.follow("n2", 1, commit=3)
    lab.receive("n2", Append(1, 3, 1, 1, 0))
    lab.receive("n3", Append(4, 1, 1, 0, 0))
    assert lab.node.commit_index == 3


@pytest.mark.parametrize("handed_over", [True, False])
def test_who_contradicts_what_is_committed_stops_the_node(handed_over: bool) -> None:
    lab = Lab(1, 1, 1)
    if handed_over:
        lab.follow("n2", 1, commit=2)
        lab.receive("n3", Append(5, 1, 1, 0, 0, (item(2, 4),)))
    else:  # in one batch: what is committed is known but not handed over yet
        lab.receive("n2", lab.heartbeat(1, 2), flush=False)
        lab.receive("n3", Append(5, 1, 1, 0, 0, (item(2, 4),)), flush=False)
        lab.flush()
    (error,) = lab.told.halts
    assert isinstance(error, LogCorrupt)
    assert "another entry 2" in str(error)
    assert lab.terms == [1, 1, 1]
    assert lab.receive("n3", lab.heartbeat(5)) == []


def test_who_contradicts_the_entry_before_the_log_stops_the_node() -> None:
    lab = Lab(3, base=(10, 2))
    lab.receive("n2", Append(4, 9, 2, 0, 0, (item(10, 4), item(11, 4))))
    assert isinstance(lab.told.halts[0], LogCorrupt)
    assert lab.terms == [3]


def test_entries_before_the_log_are_taken_for_granted() -> None:
    """They are committed and in the state: any leader has the same."""
    lab = Lab(3, base=(10, 2))
    assert lab.ask(
        "n2", Append(4, 7, 2, 0, 0, (item(8, 2), item(9, 2), item(10, 2), item(11, 3), item(12, 4))), AppendReply
    ) == (AppendReply(4, True, 12, 0))
    assert lab.ask("n2", Append(4, 3, 1, 0, 0, (item(4, 1),)), AppendReply).match == 10
    assert lab.ask("n2", Append(4, 0, 0, 0, 0), AppendReply).match == 10
    assert lab.terms == [3, 4]


# -- a follower's full disk --------------------------------------------------------------------------------------------------


def test_a_follower_with_a_full_disk_acknowledges_what_it_had() -> None:
    lab = Lab(1, 1)
    lab.follow("n2", 1)
    lab.disk.plan(1, Fault.NO_SPACE)
    assert lab.ask("n2", lab.append(2, 1, 1), AppendReply) == AppendReply(1, False, 2, 0)
    assert lab.terms == [1, 1]
    assert lab.node.role == FOLLOWER
    assert not lab.told.halts
    assert lab.ask("n2", lab.append(2, 1, 1), AppendReply) == AppendReply(1, True, 4, 0)


def test_a_follower_without_space_to_cut_stays_as_it_is() -> None:
    lab = Lab(1, 2, 2)
    lab.follow("n2", 2)
    lab.receive("n3", Append(5, 1, 1, 0, 0))
    lab.disk.plan(1, Fault.NO_SPACE)
    lab.receive("n3", lab.append(1, 5, term=5))
    assert lab.terms == [1, 2, 2]
    assert lab.ask("n3", lab.append(1, 5, term=5), AppendReply) == AppendReply(5, True, 2, 0)
    assert lab.terms == [1, 5]


def test_a_failed_write_stops_the_node_and_nothing_is_answered() -> None:
    lab = Lab(1)
    lab.follow("n2", 1)
    lab.disk.plan(1, Fault.SYNC_FAILS)
    assert lab.receive("n2", lab.append(1, 1)) == []
    assert len(lab.told.halts) == 1
    lab.node.propose(b"x", "late")
    lab.node.read("read")
    lab.node.transfer("n2", "transfer")
    lab.node.change(lambda now: now, "change")
    assert all(lab.told.results[token] is lab.node.stopped for token in ("late", "read", "transfer", "change"))
    assert lab.node.tick() > 1000


def test_what_cannot_follow_the_log_stops_the_node() -> None:
    """The transport lets no such message pass; if one came, the leader's log would break Raft's rules."""
    lab = Lab(1, 1)
    lab.receive("n2", Append(2, 2, 1, 0, 0, (item(3, 9),)))
    assert len(lab.told.halts) == 1


# -- a leader's log ----------------------------------------------------------------------------------------------------------


def test_5_3_entries_go_to_everybody_and_are_committed_by_a_majority() -> None:
    lab = Lab(1, voters="n1 n2 n3 n4 n5")
    term = lab.lead()
    lab.node.propose(b"x", "token")
    lab.flush()
    for name in lab.others:
        assert lab.last(Append, name) == Append(term, 2, term, 2, 0, (Entry(3, term, b"x", DATA),))
    lab.ack("n2")
    assert lab.node.commit_index == 2
    lab.ack("n2")
    assert lab.node.commit_index == 2  # one node, however often it says so
    lab.ack("n5")
    assert lab.node.commit_index == 3
    assert lab.told.results["token"] == Entry(3, term, b"x", DATA)
    assert lab.told.indexes == [1, 2, 3]


def test_a_leader_sends_before_it_writes_and_counts_itself_after() -> None:
    lab = Lab(1)
    lab.lead()
    seen = []
    send = lab._send

    def watching(name: str, message: Message) -> bool:
        seen.append(lab.journal.durable_index)
        return send(name, message)

    lab.node._SyncObj__transport._send = watching
    lab.node.propose(b"x", "token")
    lab.flush()
    assert seen == [2, 2]
    assert lab.journal.durable_index == 3


def test_followers_learn_of_a_commit_with_the_next_entries() -> None:
    """Acknowledgements and proposals that come together: the entries that go out say what the acknowledgements committed."""
    lab = Lab(1)
    term = lab.lead()
    lab.node.propose(b"x", "token")
    lab.flush()
    lab.receive("n2", AppendReply(term, True, 3, 0), flush=False)
    lab.node.propose(b"y", "next")
    lab.flush()
    assert lab.last(Append, "n3").commit == 3


def test_e2_an_acknowledgement_of_another_term_does_not_count() -> None:
    lab = Lab(1)
    term = lab.lead()
    lab.node.propose(b"x", "token")
    lab.flush()
    for name in lab.others:
        lab.receive(name, AppendReply(term - 1, True, 3, 0))
    assert lab.node.commit_index == 2
    assert lab.node.peers["n2"].match == 2


def test_figure_8_entries_of_earlier_terms_are_committed_with_one_of_this_term() -> None:
    lab = Lab(1, 2, 2)
    term = lab.elect()
    lab.ack("n2", match=3)
    lab.ack("n3", match=3)
    assert lab.node.commit_index == 0  # on all nodes, and yet another leader could still replace it
    lab.ack("n2", match=4)
    assert lab.node.commit_index == 4
    assert [entry.term for entry in lab.told.committed_entries] == [1, 2, 2, term]


@pytest.mark.parametrize(
    "reply",
    [
        AppendReply(2, True, 99, 0),  # what was never sent
        AppendReply(2, True, 0, 0),
        AppendReply(2, False, 99, 0),
    ],
)
def test_answers_that_cannot_be_are_of_no_use(reply: AppendReply) -> None:
    lab = Lab(1)
    term = lab.lead()
    assert term == 2
    lab.node.propose(b"x", "token")
    lab.flush()
    lab.receive("n2", reply)
    lab.receive("n9", AppendReply(2, True, 3, 0))  # no member
    assert lab.node.commit_index == 2
    assert lab.node.peers["n2"].match == 2
    assert lab.node.peers["n2"].next == 4
    assert not lab.told.halts


def test_learners_do_not_count() -> None:
    lab = Lab(1, learners="n4 n5")
    lab.lead()
    lab.node.propose(b"x", "token")
    lab.flush()
    lab.ack("n4", "n5")
    assert lab.node.commit_index == 2
    assert lab.node.peers["n4"].match == 3
    lab.ack("n3")
    assert lab.node.commit_index == 3


def test_a_leader_that_loses_its_place_leaves_everybody_in_doubt_once() -> None:
    lab = Lab(1)
    lab.lead()
    for number in range(5):
        lab.node.propose(b"x", number)
    lab.flush()
    lab.receive("n3", Append(9, 0, 0, 0, 0))
    assert all(isinstance(lab.told.results[number], OutcomeUnknown) for number in range(5))
    lab.receive("n3", Append(9, 2, lab.terms[1], 7, 0, tuple(item(index, 9) for index in range(3, 8))))
    assert lab.told.indexes == [1, 2, 3, 4, 5, 6, 7]
    assert all(count == 1 for count in lab.told.answers.values())


def test_a_leader_with_a_full_disk_stops_leading_because_others_may_have_the_entry() -> None:
    lab = Lab(1)
    lab.lead()
    lab.disk.plan(1, Fault.NO_SPACE)
    lab.node.propose(b"x", "token")
    lab.flush()
    assert lab.last(Append, "n2").entries[0].payload == b"x"
    assert (lab.node.role, lab.node.leader, lab.journal.last_index) == (FOLLOWER, None, 2)
    assert isinstance(lab.told.results["token"], OutcomeUnknown)
    lab.ack("n2", "n3", match=3)
    assert lab.node.commit_index == 2
    assert not lab.told.halts


def test_a_leader_whose_write_fails_answers_nobody_and_halts() -> None:
    lab = Lab(1)
    lab.lead()
    lab.disk.plan(1, Fault.SYNC_FAILS)
    lab.node.propose(b"x", "token")
    lab.flush()
    assert len(lab.told.halts) == 1
    assert "token" not in lab.told.results  # its owner fails what is open


def test_a_proposal_on_a_journal_that_is_closed_comes_back() -> None:
    lab = Lab(1)
    lab.lead()
    lab.journal.close()
    lab.node.propose(b"x", "write")
    assert lab.told.answers["write"] == 1
    assert len(lab.told.halts) == 1
    lab.node.change(lambda now: now, "change")
    assert lab.told.answers["change"] == 1


def test_an_entry_that_is_too_large_is_refused() -> None:
    lab = Lab(1)
    lab.lead()
    lab.node.propose(bytes((16 << 20) + 1), "large")
    assert isinstance(lab.told.results["large"], Refused)
    assert lab.node.role == LEADER


# -- how much is under way ---------------------------------------------------------------------------------------------------


def lead_with(flow: Flow) -> Lab:
    lab = Lab(1, flow=flow)
    lab.lead()
    return lab


def test_flow_messages_and_bytes_under_way_are_bounded() -> None:
    size = record_size(100)
    lab = lead_with(Flow(append_bytes=2 * size, inflight_messages=3, inflight_bytes=100 * size))
    for number in range(20):
        lab.node.propose(bytes(100), number)
    lab.flush()
    assert [len(append.entries) for append in lab.all(Append, "n2")] == [2, 2, 2]
    lab.ack("n2", match=4)
    assert [len(append.entries) for append in lab.all(Append, "n2")] == [2, 2, 2, 2]
    lab = lead_with(Flow(append_bytes=2 * size, inflight_messages=100, inflight_bytes=3 * size))
    for number in range(20):
        lab.node.propose(bytes(100), number)
    lab.flush()
    assert [len(append.entries) for append in lab.all(Append, "n2")] == [2, 2]


def test_flow_an_entry_larger_than_a_message_goes_alone() -> None:
    """E19: upstream cannot send a command of 64 KiB."""
    lab = lead_with(Flow(append_bytes=1000))
    for size in (10, 200_000, 10):
        lab.node.propose(bytes(size), size)
    lab.flush()
    assert [[len(entry.payload) for entry in append.entries] for append in lab.all(Append, "n2")] == [[10], [200_000], [10]]


def test_flow_what_was_sent_is_not_sent_again() -> None:
    """E3: upstream goes back with every acknowledgement, and a pipeline sends everything twice."""
    lab = lead_with(Flow(append_bytes=record_size(8)))
    for number in range(20):
        lab.node.propose(bytes(8), number)
        lab.flush()
        if number % 3 == 0:
            lab.ack("n2", match=3 + number // 2)
    sent = [entry.index for append in lab.all(Append, "n2") for entry in append.entries]
    assert sent == list(range(3, 23))


def test_flow_without_an_answer_one_message_at_a_time() -> None:
    lab = Lab(1, flow=Flow(append_bytes=record_size(8)))
    lab.elect()
    lab.sent.clear()
    for number in range(5):
        lab.node.propose(bytes(8), number)
        lab.flush()
    assert lab.all(Append, "n3") == []
    lab.ack("n3", match=2)
    assert len(lab.all(Append, "n3")) == 5


def test_flow_a_lost_message_is_noticed_by_the_next_heartbeat() -> None:
    lab = lead_with(Flow())
    lab.node.propose(b"x", "token")
    lab.flush()
    lab.sent.clear()
    lab.pass_time(TIMING.heartbeat_s + 0.05)
    beat = lab.last(Append, "n2")
    assert (beat.prev_index, beat.entries) == (3, ())
    lab.receive("n2", AppendReply(lab.node.term, False, 2, 0))
    assert [entry.index for entry in lab.last(Append, "n2").entries] == [3]


def test_flow_a_message_that_could_not_be_handed_over_is_the_next_to_send() -> None:
    lab = lead_with(Flow(append_bytes=record_size(8)))
    for number in range(4):
        lab.node.propose(bytes(8), number)
    lab.silent = {"n2"}
    lab.flush()
    lab.silent = set()
    lab.flush()
    assert [entry.index for append in lab.all(Append, "n2") for entry in append.entries] == [3, 4, 5, 6]


def test_flow_nothing_goes_to_who_is_not_connected_and_all_of_it_when_it_is_back() -> None:
    lab = lead_with(Flow())
    lab.node.disconnected("n2")
    lab.node.propose(b"x", "token")
    lab.flush()
    assert lab.all(Append, "n2") == []
    lab.node.connected("n2")
    lab.flush()
    (beat,) = lab.all(Append, "n2")  # first where its log ends
    assert (beat.prev_index, beat.entries) == (3, ())
    lab.receive("n2", AppendReply(lab.node.term, False, 2, 0))
    assert [entry.index for entry in lab.last(Append, "n2").entries] == [3]


def test_a_follower_that_comes_back_under_a_new_leader_gets_what_it_lacks_and_no_more() -> None:
    """The new leader knows nothing of it (match 0). Going back to the log's beginning would send everything again, or a
    snapshot when the log begins later."""
    lab = Lab(*[1] * 30, base=(100, 1), applied=100)
    lab.node.disconnected("n3")
    term = lab.elect()
    lab.ack("n2")
    lab.sent.clear()
    lab.node.connected("n3")
    lab.flush()
    assert lab.last(Append, "n3").prev_index == 131
    lab.receive("n3", AppendReply(term, False, 125, 0))
    assert [entry.index for entry in lab.last(Append, "n3").entries] == list(range(126, 132))
    assert lab.snapshots.wanted == 0


def test_a_follower_that_cannot_take_entries_is_asked_again_with_the_heartbeats() -> None:
    """A full disk there must not become a loop of messages and refusals as fast as the network is."""
    lab = lead_with(Flow())
    lab.node.propose(b"x", "token")
    lab.flush()
    refusal = AppendReply(lab.node.term, False, 2, 0)
    lab.sent.clear()
    for _ in range(50):
        lab.receive("n2", refusal)
    assert len(lab.all(Append, "n2")) == 1
    lab.pass_time(1.0, lambda: lab.receive("n2", refusal))
    assert 2 <= len([each for each in lab.all(Append, "n2") if each.entries]) <= 8
    lab.pass_time(0.2)
    lab.receive("n2", AppendReply(lab.node.term, True, 3, 0))
    assert lab.told.answers["token"] == 1


def test_flow_the_state_machine_is_given_no_more_than_it_can_hold() -> None:
    lab = Lab(1, flow=Flow(handed_entries=3, handed_bytes=1 << 20))
    lab.lead()
    lab.apply_all()
    for number in range(10):
        lab.node.propose(b"x", number)
    lab.flush()
    lab.ack("n2")
    assert lab.told.indexes == [1, 2, 3, 4, 5]
    lab.node.applied(3, digest(3))
    lab.flush()
    assert lab.told.indexes[-1] == 6
    lab = Lab(1, flow=Flow(handed_entries=1000, handed_bytes=record_size(100) * 2))
    lab.lead()
    lab.apply_all()
    for number in range(10):
        lab.node.propose(bytes(100), number)
    lab.flush()
    lab.ack("n2")
    assert lab.told.indexes == [1, 2, 3, 4]


# -- heartbeats --------------------------------------------------------------------------------------------------------------


def test_5_2_a_leader_that_has_nothing_to_say_says_so() -> None:
    lab = Lab(1)
    lab.lead()
    lab.pass_time(1.0, lambda: lab.ack("n2", "n3"))
    beats = lab.all(Append, "n2")
    assert 5 <= len(beats) <= 7
    assert all(beat == Append(2, 2, 2, 2, 0) for beat in beats)


def test_a_new_process_waits_for_a_whole_timeout() -> None:
    lab = Lab(1, 1)
    lab.restart()
    assert lab.pass_time(0.95) == []
    assert lab.node.tick() <= TIMING.heartbeat_s


# -- restarts ----------------------------------------------------------------------------------------------------------------


def test_e9_a_restart_knows_only_what_the_state_holds_to_be_committed() -> None:
    lab = Lab(1, 1, 1, 1)
    lab.follow("n2", 1, commit=4)
    lab.apply_all()
    lab.restart(2)
    assert lab.node.commit_index == 2
    assert lab.flush() == []
    assert lab.told.indexes == []
    lab.receive("n2", lab.heartbeat(1, 3))
    assert lab.told.indexes == [3]


def test_an_acknowledged_entry_survives_a_power_loss() -> None:
    lab = Lab(1, options=OPTIONS)
    for prev in range(1, 40):
        assert lab.ask("n2", lab.append(prev, 1), AppendReply).match == prev + 1
    lab.power_loss()
    assert lab.journal.last_index == 40


def test_trimming_keeps_what_is_not_handed_over() -> None:
    lab = Lab(1, options=OPTIONS)  # a few entries fill a segment
    lab.follow("n2", 1)
    for prev in range(1, 60):
        lab.receive("n2", lab.append(prev, 1))
    lab.node.trim(60)
    assert lab.journal.base_index == 0
    lab.receive("n2", lab.heartbeat(1, 60))
    assert lab.told.indexes == list(range(1, 61))
    lab.node.trim(10**9)
    assert 0 < lab.journal.base_index <= 60
    assert not lab.told.halts
