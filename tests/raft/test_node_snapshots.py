"""Snapshots between nodes (Raft section 7): offered, pulled piece by piece, installed once. One node, the files are played."""

from __future__ import annotations

import errno

import pytest
from faulty_disk import Fault
from journal_harness import OPTIONS
from node_harness import TIMING, Lab, item, seats

from raft.messages import Append, AppendReply, SnapshotOffer, SnapshotPiece, SnapshotPull
from raft.node import SnapshotMeta
from raft.timing import Flow
from raft.upstream import FOLLOWER

CONTENT = bytes(range(250))
META = SnapshotMeta(100, 3, len(CONTENT), b"checksum")


# -- the leader ------------------------------------------------------------------------------------------------------------


def leader_of_a_late_log(flow: Flow | None = None) -> Lab:
    """Its log begins after entry 100; n3 says that it has 5 entries."""
    lab = Lab(3, 3, base=(100, 3), applied=100, flow=flow)
    term = lab.elect()
    lab.ack("n2")
    lab.receive("n3", AppendReply(term, False, 5, 0))
    lab.sent.clear()
    return lab


def test_who_is_behind_the_log_gets_a_snapshot() -> None:
    lab = leader_of_a_late_log()
    lab.pass_time(0.2)
    assert lab.snapshots.wanted > 0
    assert lab.all(SnapshotOffer) == []
    lab.snapshots.meta, lab.snapshots.content = META, CONTENT
    lab.pass_time(0.2)
    assert lab.all(SnapshotOffer) == [SnapshotOffer(lab.node.term, 100, 3, 250, b"checksum")]
    assert lab.all(SnapshotOffer, "n2") == []


def test_a_snapshot_of_before_the_log_is_of_no_use() -> None:
    lab = leader_of_a_late_log()
    lab.snapshots.meta = SnapshotMeta(99, 3, 10, b"old")
    lab.pass_time(0.2)
    assert lab.all(SnapshotOffer) == []
    assert lab.snapshots.wanted > 0


def test_heartbeats_go_on_while_a_snapshot_is_offered_and_fit_any_log() -> None:
    """What they say before the log begins is (0, 0): acknowledged up to what the follower knows to be committed."""
    lab = leader_of_a_late_log()
    lab.snapshots.meta = META
    lab.pass_time(1.0, lambda: lab.ack("n2"))
    beats = lab.all(Append, "n3")
    assert len(beats) >= 5
    assert {(beat.prev_index, beat.prev_term, beat.entries) for beat in beats} == {(0, 0, ())}
    lab.ack("n3", match=0)
    lab.pass_time(3.0, lambda: lab.ack("n3", match=0))  # it answers, so it counts for CheckQuorum
    assert lab.node.role != FOLLOWER
    assert lab.node.peers["n3"].next <= 100
    follower = Lab(1, 1, 1)
    assert follower.ask("n2", Append(4, 0, 0, 103, 7), AppendReply) == AppendReply(4, True, 0, 7)
    assert follower.node.commit_index == 0


def test_pieces_are_what_is_asked_for() -> None:
    lab = leader_of_a_late_log(Flow(snapshot_piece_bytes=100))
    lab.snapshots.meta, lab.snapshots.content = META, CONTENT
    term = lab.node.term
    for offset in (0, 100, 200, 50):
        piece = lab.ask("n3", SnapshotPull(term, 100, 3, offset), SnapshotPiece)
        assert piece == SnapshotPiece(term, 100, 3, offset, CONTENT[offset : offset + 100])


@pytest.mark.parametrize("pull", [(99, 3), (100, 2), (7, 7)])
def test_a_snapshot_that_is_not_here_any_more_is_answered_with_nothing(pull: tuple[int, int]) -> None:
    lab = leader_of_a_late_log()
    lab.snapshots.meta = META
    assert lab.ask("n3", SnapshotPull(lab.node.term, *pull, 0), SnapshotPiece).data == b""
    assert lab.receive("n3", SnapshotPull(lab.node.term - 1, 100, 3, 0)) == []
    assert lab.receive("n9", SnapshotPull(lab.node.term, 100, 3, 0)) == []


def test_an_offer_is_not_repeated_while_it_is_pulled() -> None:
    """Every offer that is answered starts a stream of pieces."""
    lab = leader_of_a_late_log(Flow(snapshot_piece_bytes=10))
    lab.snapshots.meta, lab.snapshots.content = META, CONTENT
    lab.pass_time(0.2)
    assert len(lab.all(SnapshotOffer)) == 1
    lab.pass_time(3.0, lambda: lab.receive("n3", SnapshotPull(lab.node.term, 100, 3, 10)))
    assert len(lab.all(SnapshotOffer)) == 1
    lab.pass_time(1.3, lambda: lab.ack("n2", "n3", match=5))  # it pulls no more: something was lost
    assert len(lab.all(SnapshotOffer)) == 2


def test_after_the_snapshot_the_log_goes_on() -> None:
    lab = leader_of_a_late_log()
    lab.snapshots.meta, lab.snapshots.content = META, CONTENT
    lab.pass_time(0.2)
    lab.receive("n3", SnapshotPull(lab.node.term, 100, 3, 250))
    assert lab.node.peers["n3"].match == 100
    assert [entry.index for entry in lab.last(Append, "n3").entries] == [101, 102, 103]


def test_the_log_is_kept_for_who_is_being_given_a_snapshot() -> None:
    lab = Lab(3, options=OPTIONS, base=(100, 3), applied=100)
    term = lab.elect()
    lab.ack("n2")
    for number in range(60):
        lab.node.propose(b"x" * 30, number)
        lab.flush()
    lab.ack("n2")
    lab.apply_all()
    lab.receive("n3", AppendReply(term, False, 5, 0))
    lab.snapshots.meta = SnapshotMeta(110, term, 10, b"c")
    lab.pass_time(0.2)
    lab.node.trim(150)
    assert lab.journal.base_index <= 110
    lab.now += 100
    lab.node.trim(150)
    assert lab.journal.base_index > 110


# -- the follower ----------------------------------------------------------------------------------------------------------


def offered(lab: Lab, meta: SnapshotMeta = META, term: int = 4) -> list[SnapshotPull]:
    sent = lab.receive("n2", SnapshotOffer(term, meta.index, meta.term, meta.size, meta.checksum))
    return [message for name, message in sent if isinstance(message, SnapshotPull) and name == "n2"]


def piece(lab: Lab, offset: int, size: int = 100, meta: SnapshotMeta = META) -> list[SnapshotPull]:
    sent = lab.receive("n2", SnapshotPiece(4, meta.index, meta.term, offset, CONTENT[offset : offset + size]))
    return [message for _, message in sent if isinstance(message, SnapshotPull)]


def take(lab: Lab) -> None:
    """All of it comes; the installation has begun."""
    asked = offered(lab)
    while asked:
        asked = piece(lab, asked[0].offset)
    assert lab.snapshots.installs == [META]


def test_7_a_follower_pulls_piece_after_piece_and_installs_once() -> None:
    lab = Lab(1, 1)
    assert offered(lab) == [SnapshotPull(4, 100, 3, 0)]
    assert piece(lab, 0) == [SnapshotPull(4, 100, 3, 100)]
    assert piece(lab, 100) == [SnapshotPull(4, 100, 3, 200)]
    assert piece(lab, 200) == []
    assert lab.snapshots.installs == [META]
    assert lab.snapshots.incoming[META] == CONTENT
    assert offered(lab) == []  # it is busy
    assert piece(lab, 200) == []
    assert lab.snapshots.installs == [META]
    assert lab.node.commit_index == 0  # E21: a snapshot by itself commits nothing
    lab.node.installed(META, seats("n1 n2 n4"), b"digest")
    lab.flush()
    assert lab.last(SnapshotPull) == SnapshotPull(4, 100, 3, 250)
    assert (lab.node.commit_index, lab.node.handed_index, lab.journal.base_index, lab.journal.last_index) == (100,) * 4
    assert lab.node.members == lab.told.memberships[-1] == seats("n1 n2 n4")
    assert lab.node.agreement.newest == (100, b"digest")
    assert lab.told.indexes == []
    assert lab.ask("n2", Append(4, 100, 3, 101, 0, (item(101, 4),)), AppendReply).match == 101
    assert lab.told.indexes == [101]


def test_a_piece_that_comes_twice_does_not_double_the_stream() -> None:
    lab = Lab(1)
    offered(lab)
    assert len(piece(lab, 0)) == 1
    assert piece(lab, 0) == []
    assert len(piece(lab, 100)) == 1
    assert piece(lab, 100) == []
    assert lab.snapshots.installs == []


def test_a_transfer_that_broke_off_goes_on_where_it_was() -> None:
    lab = Lab(1)
    offered(lab)
    piece(lab, 0)
    assert offered(lab) == [SnapshotPull(4, 100, 3, 100)]


def test_another_snapshot_begins_anew() -> None:
    lab = Lab(1)
    offered(lab)
    piece(lab, 0)
    other = SnapshotMeta(200, 4, 50, b"other")
    assert offered(lab, other) == [SnapshotPull(4, 200, 4, 0)]
    assert piece(lab, 100) == []  # of the first
    assert lab.snapshots.installs == []


def test_a_snapshot_that_is_gone_is_waited_for_no_longer() -> None:
    lab = Lab(1)
    offered(lab)
    assert lab.receive("n2", SnapshotPiece(4, 100, 3, 0, b"")) == []
    assert piece(lab, 0) == []
    assert offered(lab) == [SnapshotPull(4, 100, 3, 0)]


@pytest.mark.parametrize("commit", [100, 101])
def test_who_has_it_all_says_so(commit: int) -> None:
    lab = Lab(*[3] * 101, applied=99)
    lab.follow("n2", 4, commit)
    assert offered(lab) == [SnapshotPull(4, 100, 3, 250)]
    assert lab.snapshots.incoming == {}
    assert lab.snapshots.installs == []


@pytest.mark.parametrize(
    ("term", "sender"),
    [(3, "n2"), (4, "n3")],
)
def test_offers_and_pieces_of_who_does_not_lead_are_ignored(term: int, sender: str) -> None:
    lab = Lab(1)
    lab.follow("n2", 4)
    if sender == "n2":
        assert lab.receive(sender, SnapshotOffer(term, 100, 3, 250, b"c")) == []
    offered(lab)
    assert lab.receive(sender, SnapshotPiece(term, 100, 3, 0, b"x")) == []
    assert lab.snapshots.incoming[META] == b""


def test_the_state_never_goes_back() -> None:
    """While the snapshot came in, another leader sent the entries: the log and the state have passed it."""
    lab = Lab(*[1] * 5)
    offered(lab)
    piece(lab, 0)
    entries = tuple(item(index, 3) for index in range(6, 121))
    lab.receive("n3", Append(5, 5, 1, 120, 0, entries))
    lab.apply_all()
    assert lab.node.handed_index == 120
    lab.receive("n3", SnapshotOffer(5, 100, 3, 250, b"checksum"))
    for offset in (100, 200):
        lab.receive("n3", SnapshotPiece(5, 100, 3, offset, CONTENT[offset : offset + 100]))
    assert lab.snapshots.installs == []
    assert lab.last(SnapshotPull, "n3") == SnapshotPull(5, 100, 3, 250)


def test_the_state_never_goes_back_although_the_leader_stays() -> None:
    lab = Lab(*[1] * 5)
    offered(lab)
    piece(lab, 0)
    piece(lab, 100)
    lab.receive("n2", Append(4, 5, 1, 120, 0, tuple(item(index, 3) for index in range(6, 121))))
    assert piece(lab, 200) == [SnapshotPull(4, 100, 3, 250)]
    assert lab.snapshots.installs == []


def test_what_was_handed_over_is_applied_before_the_state_is_replaced() -> None:
    lab = Lab(*[1] * 5)
    lab.follow("n2", 4, commit=5)
    asked = offered(lab)
    while asked:
        asked = piece(lab, asked[0].offset)
    assert lab.snapshots.installs == []
    # The next offer must not be answered as if it were installed: the leader would take its word for it and never offer again.
    assert offered(lab) == []
    lab.apply_all()
    assert offered(lab) == []
    assert lab.snapshots.installs == [META]


def test_while_it_is_installed_nothing_is_handed_over_and_entries_are_taken() -> None:
    lab = Lab(*[1] * 5)
    take(lab)
    lab.receive("n2", Append(4, 5, 1, 120, 0, tuple(item(index, 3) for index in range(6, 121))))
    assert lab.node.commit_index == 120
    assert lab.told.indexes == []
    lab.node.installed(META, seats("n1 n2 n3"), b"digest")
    lab.flush()
    assert lab.told.indexes == list(range(101, 121))  # what follows the snapshot stayed in the log
    assert lab.journal.last_index == 120


def test_entries_of_the_same_batch_stay_if_they_follow_the_snapshot() -> None:
    """They are acknowledged in the flush that comes; what is acknowledged must be there."""
    lab = Lab(*[1] * 5)
    take(lab)
    lab.receive("n2", Append(4, 5, 1, 0, 0, tuple(item(index, 3) for index in range(6, 121))), flush=False)
    lab.node.installed(META, seats("n1 n2 n3"), b"digest")
    lab.flush()
    assert lab.last(AppendReply).match == 120 == lab.journal.durable_index


def test_entries_of_the_same_batch_that_contradict_the_snapshot_are_not_acknowledged() -> None:
    """No leader that offers this snapshot sends them; but an acknowledgement is never of what is not there."""
    lab = Lab(*[1] * 5)
    take(lab)
    lab.receive("n2", Append(4, 5, 1, 0, 0, tuple(item(index, 2) for index in range(6, 121))), flush=False)
    lab.node.installed(META, seats("n1 n2 n3"), b"digest")
    lab.flush()
    assert all(reply.match <= lab.journal.durable_index for reply in lab.all(AppendReply))


def test_an_installation_that_failed_leaves_things_as_they_were() -> None:
    lab = Lab(*[1] * 5)
    take(lab)
    lab.node.install_failed()
    lab.receive("n2", lab.heartbeat(4, 5))
    assert lab.told.indexes == [1, 2, 3, 4, 5]
    assert offered(lab) == [] or lab.snapshots.installs == [META, META]


def test_a_full_disk_while_the_log_is_to_follow_the_snapshot() -> None:
    """The state is the snapshot's: nothing of the old log may be handed over until the log follows it."""
    lab = Lab(*[1] * 5)
    take(lab)
    lab.disk.plan(1, Fault.NO_SPACE)
    lab.node.installed(META, seats("n1 n2 n3"), b"digest")
    lab.receive("n2", lab.heartbeat(4, 5))
    lab.flush()
    assert lab.node.handed_index == 100
    assert lab.told.indexes == []
    assert lab.last(SnapshotPull) == SnapshotPull(4, 100, 3, 250)


def test_no_space_for_a_snapshot_does_not_stop_the_node() -> None:
    lab = Lab(1)
    lab.snapshots.fails = OSError(errno.ENOSPC, "full")
    assert offered(lab) == []
    assert not lab.told.halts
    lab.snapshots.fails = None
    assert offered(lab) == [SnapshotPull(4, 100, 3, 0)]
    lab.snapshots.fails = OSError(errno.ENOSPC, "full")
    assert piece(lab, 0) == []
    assert not lab.told.halts
    lab.snapshots.fails = None
    lab.pass_time(TIMING.heartbeat_s)
    assert offered(lab) == [SnapshotPull(4, 100, 3, 0)]
