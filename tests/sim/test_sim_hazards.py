"""The hazards of stock pysyncobj, each on our node: the same schedules as in tests/sim/stock, and the good outcome.

The laws (laws.py) are checked in every one of them beside what the test asserts; `heal_and_settle` ends most: a write succeeds,
all members agree, and what clients saw has an explanation. docs/SIMULATOR.md lists the numbers.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from raft import membership as members
from raft.errors import NotLeader, OutcomeUnknown, Refused, ReplicationError
from raft.messages import Append, AppendReply, SnapshotPiece
from raft.upstream import LEADER
from tests.raft.faulty_disk import Fault
from tests.sim.cluster import Cluster
from tests.sim.kv import Op
from tests.sim.setting import DIRECTORY, Answer
from tests.sim.world import Violation, World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raft.messages import Message

ADD = Op("add", "n0", "1")
READ = Op("read", "n0")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def started(voters: int = 3, spares: int = 0, seed: int = 1, **classes: Any) -> Cluster:
    """A cluster that n1 leads and that has done something."""
    cluster = Cluster(World(seed, verbose=True), voters, spares, **classes)
    cluster.start()
    cluster.elect("n1")
    cluster.call(ADD)
    return cluster


def write_until_trimmed(cluster: Cluster, beyond: int) -> None:
    """Write until the leader's log begins after this index."""
    client = cluster.add_client()
    leader = cluster.wait_for_leader()
    for _ in range(400):
        if leader.journal.base_index > beyond:
            return
        cluster.call(Op("append", "list1", "x" * 40), client)
        if leader.machine.index % 10 == 0:
            leader.checkpoint_now()
    raise AssertionError("the log is never trimmed")


def test_e1_a_second_change_waits_for_the_first() -> None:
    """And learners count for nothing, so that a minority that adds nodes stays a minority."""
    cluster = started(3, spares=3)
    n1 = cluster.process("n1")
    cluster.network.partition(["n1", "n4", "n5", "n6"], ["n2", "n3"])
    for name in ("n4", "n5", "n6"):
        cluster.admin.change(lambda now, name=name: members.add(now, cluster[name].member), force=True)  # type: ignore[misc]
    answers = cluster.ask("n1", ADD)
    cluster.world.run_until(cluster.world.now + 6)
    assert len(n1.journal.membership.members) <= 4
    assert not [answer for answer in answers if not isinstance(answer, ReplicationError)]
    assert sum(isinstance(done, Refused) for done in cluster.admin.done) == 2
    assert cluster.call(Op("add", "n1", "1")).answer == 1, "the majority goes on"
    cluster.heal_and_settle()
    assert set(cluster.members().voters) == {"n1", "n2", "n3"}


def test_e2_an_acknowledgement_of_another_term_is_not_counted() -> None:
    cluster = started(5)
    late: list[AppendReply] = []

    def watch(sender: str, receiver: str, message: Message) -> bool:
        if (sender, receiver) == ("n2", "n1") and isinstance(message, AppendReply):
            late.append(message)
        return True

    cluster.network.partition(["n1", "n2"], ["n3", "n4", "n5"])
    cluster.network.watch = watch
    for seq in range(1, 6):
        cluster.ask("n1", ADD, 99, seq)
    cluster.world.run_until(cluster.world.now + 0.3)
    assert late[-1].match > cluster.process("n1").node.commit_index
    cluster.network.watch = lambda *_: True
    cluster.elect("n3")
    cluster.network.heal()
    cluster.call(ADD)
    cluster.elect("n1", 30)
    cluster.network.partition(["n1", "n4"], ["n2"], ["n3"], ["n5"])
    committed = cluster.process("n1").node.commit_index
    answers = cluster.ask("n1", ADD, 98)
    cluster.world.run_until(cluster.world.now + 0.1)
    for message in late:
        cluster.process("n1").on_message("n2", message)
    cluster.world.run_until(cluster.world.now + 0.1)
    assert cluster.process("n1").node.commit_index == committed
    assert not answers
    cluster.heal_and_settle()


def test_e3_an_old_append_cuts_nothing() -> None:
    cluster = started()
    seen: list[Append] = []

    def watch(sender: str, receiver: str, message: Message) -> bool:
        if (sender, receiver) == ("n1", "n2") and isinstance(message, Append) and message.entries:
            seen.append(message)
        return True

    cluster.network.watch = watch
    cluster.network.partition(["n1", "n2"], ["n3"])
    calls = [cluster.call(ADD) for _ in range(6)]
    n2 = cluster.process("n2")
    last = n2.journal.last_index
    for message in seen:
        n2.on_message("n1", message)
    cluster.world.run_until(cluster.world.now + 0.1)
    assert n2.journal.last_index == last
    cluster["n1"].crash("power")
    cluster.network.heal()
    cluster.elect("n2", 30)
    assert cluster.call(READ).answer == calls[-1].answer
    cluster.heal_and_settle()


def test_e3_a_pipelining_leader_sends_nothing_twice() -> None:
    cluster = started()
    sent: list[int] = []

    def watch(sender: str, receiver: str, message: Message) -> bool:
        if (sender, receiver) == ("n1", "n2") and isinstance(message, Append):
            sent.extend(entry.index for entry in message.entries)
        return True

    cluster.network.watch = watch
    for seq in range(1, 40):
        cluster.ask("n1", Op("append", "list0", "x" * 50), 99, seq)
        cluster.world.run_until(cluster.world.now + 0.0004)
    cluster.world.run_until(cluster.world.now + 1)
    assert len(sent) == len(set(sent)) >= 39
    cluster.heal_and_settle()


def test_e4_a_clean_restart_of_all_loses_nothing() -> None:
    cluster = started()
    write_until_trimmed(cluster, 5)
    before = cluster.call(READ).answer
    for name in cluster.seats:
        cluster[name].crash("kill")
    cluster.start()
    assert cluster.call(READ).answer == before
    cluster.heal_and_settle()


@pytest.mark.parametrize("how", ["power", "kill"])
def test_e5_e6_a_crash_at_any_step_of_checkpoint_and_trim(how: str) -> None:
    for step in range(1, 14):
        cluster = started(seed=step)
        client = cluster.add_client()
        for _ in range(30):
            cluster.call(Op("append", "list1", "x" * 40), client)
        n2 = cluster.process("n2")
        n2.seat.disk.plan(step, Fault.POWER)
        n2.checkpoint_now()
        for _ in range(4):
            cluster.call(Op("append", "list1", "y" * 40), client)
        cluster.world.run_until(cluster.world.now + 0.2)
        n2.seat.crash(how)
        cluster["n1"].crash("kill")
        cluster.world.run_until(cluster.world.now + 0.5)
        cluster["n1"].unplugged = True
        cluster["n2"].start()
        calls = cluster.call(Op("read", "list1"))
        assert isinstance(calls.answer, tuple)
        assert len(calls.answer) == 34
        cluster["n1"].unplugged = False
        cluster.heal_and_settle()


def test_e7_a_flipped_bit_in_the_log_keeps_the_node_down_until_it_is_added_anew() -> None:
    cluster = started()
    client = cluster.add_client()
    for _ in range(20):
        cluster.call(Op("append", "list1", "x" * 40), client)
    before = cluster.call(READ).answer
    seat = cluster["n2"]
    seat.crash("kill")
    path = min(path for path in seat.disk.names if path.endswith(".wal"))
    seat.disk.flip_bit(seat.rng, path, 4096 + 32, 4096 + 200)
    seat.damaged = "a bit of its log is flipped"
    seat.start()
    assert seat.process is None
    assert "damaged" in seat.refusal
    take_in_anew(cluster, "n2")
    assert cluster.call(READ).answer == before
    cluster.heal_and_settle()


def take_in_anew(cluster: Cluster, name: str) -> None:
    """What an operator does with a node that lost its disk."""
    seat = cluster[name]
    seat.replace_disk()
    seat.start()
    world = cluster.world

    def step(change: object, done: object) -> None:
        for _ in range(60):
            if done():  # type: ignore[operator]
                return
            cluster.admin.change(change)  # type: ignore[arg-type]
            world.run_until(world.now + 0.3)
        raise AssertionError(f"{name} is not taken in: {cluster.admin.done[-3:]}")

    step(lambda now: members.remove(now, name), lambda: name not in cluster.members())
    step(lambda now: members.add(now, seat.member), lambda: name in cluster.members())
    step(lambda now: members.promote(now, name), lambda: name in cluster.members().voters)


@pytest.mark.parametrize("damage", ["emptied", "gone", "older"])
def test_e8_a_vote_that_cannot_be_read_is_not_cast_again(damage: str) -> None:
    cluster = started()
    seat = cluster["n3"]
    old = bytes(seat.disk.names[f"{DIRECTORY}/hard_state"].cached)
    cluster.elect("n2", 30)
    cluster.call(ADD)
    cluster.world.run_until(cluster.world.now + 1)
    seat.crash("kill")
    if damage == "gone":
        del seat.disk.names[f"{DIRECTORY}/hard_state"]
    else:
        file = seat.disk.names[f"{DIRECTORY}/hard_state"]
        file.cached[:] = file.durable[:] = old if damage == "older" else b""
    seat.damaged = "its vote is gone"
    seat.start()
    assert seat.process is None
    assert "vote" in seat.refusal
    take_in_anew(cluster, "n3")
    cluster.heal_and_settle()


def test_e9_a_leader_commits_nothing_without_a_majority_whatever_it_remembers() -> None:
    cluster = started()
    for _ in range(5):
        cluster.call(ADD)
    cluster["n1"].crash("kill")
    cluster.network.isolate("n1")
    cluster["n1"].start()
    n1 = cluster.process("n1")
    applied = n1.machine.index
    n1.node._election_at = 0.0
    answers = cluster.ask("n1", ADD)
    cluster.world.run_until(cluster.world.now + 5)
    assert n1.node.role != LEADER
    assert n1.machine.index == applied
    assert [type(answer) for answer in answers] == [NotLeader]
    cluster.heal_and_settle()


def test_e10_an_emptied_disk_is_refused_until_it_is_added_anew() -> None:
    cluster = started()
    cluster.network.partition(["n1", "n2"], ["n3"])
    precious = cluster.call(ADD).answer
    cluster["n2"].crash("power")
    cluster["n2"].replace_disk()
    cluster["n2"].start()
    cluster["n1"].crash("power")
    cluster.network.heal()
    cluster.world.run_until(cluster.world.now + 10)
    assert cluster.leader() is None, "n3 and an empty n2 are no majority"
    assert cluster["n2"].refusal == "other-disk"
    cluster["n1"].start()
    assert cluster.call(READ).answer == precious
    cluster["n2"].crash("kill")
    take_in_anew(cluster, "n2")
    cluster.heal_and_settle()


def test_e10_an_old_image_of_a_disk_is_refused() -> None:
    cluster = started()
    seat = cluster["n2"]
    seat.crash("kill")
    image, stored = seat.disk.copy(), seat.stored
    seat.start()
    for _ in range(10):
        cluster.call(ADD)
    seat.crash("kill")
    seat.disk, seat.stored, seat.damaged = image, stored, "it is an old image"
    seat.start()
    cluster.world.run_until(cluster.world.now + 3)
    assert seat.refusal == "old-disk"
    seat.crash("kill")
    take_in_anew(cluster, "n2")
    cluster.heal_and_settle()


def test_e13_every_question_has_one_answer_and_every_command_one_effect() -> None:
    """A leader is cut off between taking a write and answering it; the client asks elsewhere, under the same number."""
    cluster = started()
    answers = cluster.ask("n1", ADD, 77, 1)
    cluster.world.run_until(cluster.world.now + 0.0012)
    cluster.network.isolate("n1")
    cluster.world.run_until(cluster.world.now + 6)
    assert len(answers) == 1
    assert isinstance(answers[0], OutcomeUnknown | int)
    again = cluster.ask(cluster.wait_for_leader().name, ADD, 77, 1)
    cluster.world.run_until(cluster.world.now + 1)
    assert again == [2]
    assert cluster.call(READ).answer == 2
    cluster.heal_and_settle()


def lagging(cluster: Cluster, name: str = "n3") -> None:
    """This node is off, and the others' logs begin after its end."""
    end = cluster.process(name).journal.last_index
    cluster[name].crash("kill")
    write_until_trimmed(cluster, end)


def test_e14_a_damaged_snapshot_is_fetched_again_and_never_acknowledged() -> None:
    cluster = started()
    lagging(cluster)
    spoilt = 0

    def watch(sender: str, receiver: str, message: Message) -> bool:
        nonlocal spoilt
        if isinstance(message, SnapshotPiece) and message.data and not spoilt:
            spoilt += 1
            data = bytes([message.data[0] ^ 1]) + message.data[1:]
            cluster.process(receiver).on_message(
                sender, SnapshotPiece(message.term, message.index, message.index_term, message.offset, data)
            )
            return False
        return True

    cluster.network.watch = watch
    cluster["n3"].start()
    cluster.world.run_until(cluster.world.now + 5)
    assert spoilt == 1
    assert any("n3: the snapshot is damaged" in line for line in cluster.world.lines)
    cluster.heal_and_settle()
    assert cluster.process("n3").journal.base_index > 5


@pytest.mark.parametrize("how", ["power", "kill"])
def test_a_crash_at_any_step_of_an_installation(how: str) -> None:
    """The old state with the old log, or the new one with the new: the node starts, and catches up."""
    for step in range(1, 60, 3):
        cluster = started(seed=step)
        lagging(cluster)
        seat = cluster["n3"]
        seat.start()
        if how == "power":
            seat.disk.plan(step, Fault.POWER)
            cluster.world.run_until(cluster.world.now + 3)
        else:
            cluster.world.run_while(
                lambda seat=seat: seat.incoming is None or len(seat.incoming[1]) == 0,  # type: ignore[misc]
                5,
                0.001,
            )
            cluster.world.run_until(cluster.world.now + step * 0.003)
            seat.crash("kill")
            seat.start()
        cluster.heal_and_settle()


def test_a_full_disk_when_a_snapshot_was_installed() -> None:
    """Seed 118: the state was the snapshot's, the log could not follow, and the node went on as if it had."""
    cluster = started()
    lagging(cluster)
    seat = cluster["n3"]
    seat.start()
    before = cluster.process("n3").machine
    assert cluster.world.run_while(lambda: cluster.process("n3").machine is before, 5, 0.001)
    n3 = cluster.process("n3")
    seat.disk.full = True
    for path in [path for path in seat.disk.names if path.endswith((".spare", "/reserve"))]:
        del seat.disk.names[path]  # nothing was set aside either
    n3.journal._wal._pool._spare = None
    cluster.world.run_until(cluster.world.now + 2)
    assert n3.alive
    assert n3.journal.last_index < n3.machine.index, "the log could not follow"
    applied = n3.machine.index
    cluster.call(ADD)
    assert n3.machine.index == applied
    seat.disk.full = False
    cluster.heal_and_settle()
    assert n3.alive


def test_e16_a_full_disk_of_the_leader_never_lies_about_the_outcome() -> None:
    """Refused means that the entry is nowhere. What was sent before the disk refused it may still come about."""
    for step in range(12):
        cluster = started(seed=step)
        n1 = cluster.process("n1")
        n1.seat.disk.full = True
        answers: list[tuple[int, list[Answer]]] = [
            (seq, cluster.ask("n1", Op("append", "list0", str(seq)), 99 + seq)) for seq in range(12)
        ]
        cluster.world.run_until(cluster.world.now + 0.01 * step)
        n1.seat.crash("kill")
        n1.seat.unplugged = True
        cluster.world.run_until(cluster.world.now + 5)
        listed = cluster.call(Op("read", "list0")).answer
        assert isinstance(listed, tuple)
        for seq, (answer,) in ((seq, got) for seq, got in answers if got):
            if isinstance(answer, Refused | NotLeader):
                assert str(seq) not in listed
            elif isinstance(answer, int):
                assert str(seq) in listed
        n1.seat.unplugged = False
        cluster.heal_and_settle()


def test_e18_a_leader_that_is_cut_off_says_so_soon() -> None:
    cluster = started()
    n1 = cluster.process("n1")
    cluster.network.isolate("n1")
    answers = cluster.ask("n1", ADD)
    reads = cluster.ask("n1", READ)
    began = cluster.world.now
    assert cluster.world.run_while(lambda: not answers or not reads, 10, 0.01)
    assert cluster.world.now - began < 3.0
    assert isinstance(answers[0], OutcomeUnknown)
    assert isinstance(reads[0], ReplicationError)
    assert n1.node.role != LEADER
    cluster.heal_and_settle()


def test_e19_a_large_command_is_a_command() -> None:
    cluster = started()
    answers = cluster.ask("n1", ADD, padding=1 << 20)
    cluster.world.run_until(cluster.world.now + 1)
    assert answers == [2]
    cluster.heal_and_settle()


def test_e20_a_node_that_was_away_deposes_nobody() -> None:
    cluster = started()
    term = cluster.process("n1").node.term
    cluster.network.isolate("n3")
    cluster.world.run_until(cluster.world.now + 20)
    cluster.network.heal()
    for _ in range(10):
        cluster.call(ADD)
    assert cluster.process("n1").node.role == LEADER
    assert {process.node.term for process in cluster.running()} == {term}
    cluster.heal_and_settle()


def test_e20_a_node_that_hears_half_of_the_cluster_deposes_nobody() -> None:
    """n3 hears n2, but not the leader: it asks again and again, and is told that there is one."""
    cluster = started()
    term = cluster.process("n1").node.term
    cluster.network.cut = {("n1", "n3"), ("n3", "n1")}
    cluster.world.run_until(cluster.world.now + 20)
    assert cluster.process("n1").node.role == LEADER
    assert {process.node.term for process in cluster.running()} == {term}
    cluster.heal_and_settle()


def test_e21_a_snapshot_commits_nothing_that_it_does_not_hold() -> None:
    cluster = started()
    answers = ghosts(cluster)
    cluster.heal_and_settle()
    assert all(isinstance(answer, OutcomeUnknown) for (answer,) in answers)
    assert cluster.call(Op("read", "list0")).answer == ()


def ghosts(cluster: Cluster) -> list[list[Answer]]:
    """Writes of a leader that was cut off; what becomes of them when it is given a snapshot of the next one."""
    n1 = cluster.process("n1")
    cluster.network.isolate("n1")
    answers = [cluster.ask("n1", Op("append", "list0", f"ghost {i}"), 90 + i) for i in range(3)]
    cluster.world.run_until(cluster.world.now + 0.2)
    end = n1.journal.last_index
    cluster.elect("n2", 30)
    write_until_trimmed(cluster, end)
    cluster.heal()
    assert cluster.world.run_while(lambda: n1.journal.base_index <= end, 20)
    return answers


def test_e22_entries_of_the_logs_own_do_not_shift_the_others() -> None:
    """No-ops and memberships have indexes too; the state machine asserts that it sees each index once."""
    cluster = started(3, spares=1)
    cluster.admin.change(lambda now: members.add(now, cluster["n4"].member))
    cluster.elect("n2", 30)
    cluster.elect("n3", 30)
    assert cluster.call(ADD).answer == 2
    for name in cluster.seats:
        cluster[name].crash("kill")
    cluster.start()
    assert cluster.call(ADD).answer == 3
    cluster.heal_and_settle()


def test_reads_are_not_answered_by_a_leader_of_the_past() -> None:
    cluster = started()
    cluster.network.isolate("n1")
    cluster.elect("n2", 30)
    new = cluster.call(ADD).answer
    reads = cluster.ask("n1", READ)
    cluster.world.run_until(cluster.world.now + 5)
    assert [type(answer) for answer in reads] == [NotLeader]
    cluster.heal_and_settle()
    follower = next(process for process in cluster.running() if process.node.role != LEADER)
    answers = cluster.ask(follower.name, READ)
    cluster.world.run_until(cluster.world.now + 1)
    assert isinstance(new, int)
    assert answers == [new + 1]  # and that of settle


def test_figure_8_an_entry_of_an_older_term_is_not_committed_by_counting() -> None:
    """Section 5.4.2: n1 writes on two nodes, n5 elsewhere; n1 leads again and spreads its old entry; n5 still may win."""
    cluster = started(5)
    figure_8(cluster)
    cluster.heal_and_settle()


def figure_8(cluster: Cluster) -> None:
    old: list[Answer] = []
    cluster.network.partition(["n1", "n2"], ["n3", "n4", "n5"])
    old = cluster.ask("n1", Op("append", "list0", "of the first"), 90)
    cluster.world.run_until(cluster.world.now + 0.1)
    cluster["n1"].crash("power")
    # n5 is elected by n3 and n4, and takes a write that it can give to nobody.
    cluster.network.watch = lambda sender, _, message: not (isinstance(message, Append) and sender == "n5")
    cluster.elect("n5", 30)
    cluster.ask("n5", Op("append", "list0", "of the fifth"), 91)
    cluster.world.run_until(cluster.world.now + 0.1)
    cluster["n5"].crash("power")
    # n1 is elected again, and gives its old entry to n3, so that three of five have it. But nothing of its own term.
    cluster["n1"].start()
    cluster.network.partition(["n1", "n2", "n3"], ["n4"], ["n5"])

    def only_old_entries(sender: str, receiver: str, message: Message) -> bool:
        if not isinstance(message, Append) or not any(entry.term == message.term for entry in message.entries):
            return True
        old_ones = tuple(entry for entry in message.entries if entry.term < message.term)
        if old_ones:
            cluster.process(receiver).on_message(sender, replace(message, entries=old_ones))
        return False

    cluster.network.watch = only_old_entries
    cluster.elect("n1", 30)
    cluster.world.run_until(cluster.world.now + 0.5)
    assert cluster.laws.shadows["n3"].holds(3, 1), "three of five have the old entry"
    cluster["n1"].crash("power")
    # n5 wins with n4 and n3 (its last term is later), and overwrites it.
    cluster.network.watch = lambda *_: True
    cluster.network.partition(["n5", "n4", "n3"], ["n2"], ["n1"])
    cluster["n5"].start()
    cluster.elect("n5", 30)
    cluster.call(ADD)
    assert not [answer for answer in old if isinstance(answer, int)]


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
@pytest.mark.parametrize("name", ["n1", "n2"])
def test_a_clock_that_jumps_an_hour_does_no_harm(name: str, jump: float) -> None:
    """n1 leads. The others may elect another one, and go on within seconds."""
    cluster = started()
    cluster[name].clock_offset += jump
    began = cluster.world.now
    for _ in range(5):
        cluster.call(ADD)
    assert cluster.world.now - began < 8.0
    cluster.heal_and_settle()


def test_clocks_that_are_all_set_back_an_hour_stop_nobody() -> None:
    """Seed 10716: the leader sent no heartbeat and no snapshot until its clock had caught up with itself."""
    cluster = started()
    for seat in cluster.seats.values():
        seat.clock_offset -= 3600
    cluster.call(ADD)
    leader = cluster.wait_for_leader()
    cluster[leader.name].crash("kill")
    began = cluster.world.now
    cluster.call(ADD)
    assert cluster.world.now - began < 8.0
    cluster.heal_and_settle()


def test_reads_without_end_do_not_keep_a_follower_from_its_snapshot() -> None:
    """Seed 10716: an offer waited for a silence of the length of a heartbeat, and every read sent something."""
    cluster = started()
    lagging(cluster)
    cluster["n3"].start()
    reader = cluster.add_client()
    for _ in range(400):
        cluster.call(READ, reader)
        if cluster.process("n3").journal.base_index > 5:
            break
    assert cluster.process("n3").journal.base_index > 5
    cluster.heal_and_settle()


def test_a_removal_that_was_never_committed_cuts_nobody_off() -> None:
    """n1, cut off, has logged that n3 is out; n3 is elected by n2. n1 must still let n3 in, or it never learns better.

    Seed 5218: it refused the others' leader as "not-member" for ever.
    """
    cluster = started()
    cluster.network.isolate("n1")
    cluster.admin.change(lambda now: members.remove(now, "n3"), force=True)
    cluster.world.run_until(cluster.world.now + 0.01)
    assert "n3" not in cluster.process("n1").journal.membership
    cluster.elect("n3", 30)
    cluster.call(ADD)
    cluster.network.heal()
    cluster["n2"].crash("kill")
    cluster["n2"].unplugged = True
    assert cluster.call(ADD).answer == 3, "n3 and n1 are a majority"
    cluster["n2"].unplugged = False
    cluster.heal_and_settle()


def test_a_transfer_hands_leadership_over_without_losing_a_write() -> None:
    cluster = started()
    client = cluster.add_client(0.02)
    cluster.world.run_until(cluster.world.now + 1)
    cluster.admin.transfer("n3")
    cluster.world.run_until(cluster.world.now + 2)
    assert cluster.admin.done == ["n3"]
    assert cluster.process("n3").node.role == LEADER
    assert len(client.history) > 20
    cluster.heal_and_settle()


def test_a_node_without_reason_to_stop_is_a_violation() -> None:
    """What makes the other tests mean something: damage that nobody caused does not go by unnoticed."""
    cluster = started()
    seat = cluster["n2"]
    seat.crash("kill")
    seat.disk.names[f"{DIRECTORY}/hard_state"].cached[:] = b""
    with pytest.raises(Violation):
        seat.start()
