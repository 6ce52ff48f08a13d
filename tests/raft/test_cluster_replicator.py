"""Three ClusterReplicators over loopback: threads, mailboxes, transport, journal and snapshots together, without faults of the
disk or the network (tests/sim has those)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from typing import TYPE_CHECKING

import pytest
from cluster_in_process import Cluster, until

from raft import membership as members
from raft.disk import RealDisk
from raft.errors import NotLeader, OutcomeUnknown, Refused, Stopped
from raft.snapshot_file import SnapshotReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path)
    await cluster.found(3)
    yield cluster
    await cluster.stop()


async def test_what_the_leader_acknowledged_is_applied_everywhere_in_one_order(cluster: Cluster) -> None:
    leader = cluster.leader()
    results = await asyncio.gather(*(leader.up.propose(b"%d" % number) for number in range(300)))
    assert results == list(range(1, 301))
    await cluster.even()
    for node in cluster.nodes.values():
        assert node.machine.items == [str(number) for number in range(300)]


async def test_a_follower_refuses_with_the_leaders_address(cluster: Cluster) -> None:
    follower = next(node for node in cluster.nodes.values() if node is not cluster.leader())
    with pytest.raises(NotLeader) as refused:
        await follower.up.propose(b"here")
    assert refused.value.hint == f"{cluster.leader().name}:7420"
    assert follower.up.leader() == cluster.leader().member


async def test_a_read_barrier_at_a_follower_waits_for_what_was_acknowledged_before(cluster: Cluster) -> None:
    follower = next(node for node in cluster.nodes.values() if node is not cluster.leader())
    for number in range(50):
        count = await cluster.propose(b"%d" % number)
        await follower.up.read_barrier()
        assert len(follower.machine.items) >= count


async def test_the_death_of_a_leader_loses_nothing_and_doubles_nothing(cluster: Cluster) -> None:
    for number in range(20):
        await cluster.propose(b"%d" % number)
    old = cluster.leader()
    await old.stop()
    assert old.leading == [True, False]
    for number in range(20, 40):
        await cluster.propose(b"%d" % number)
    await old.start()
    await cluster.even()
    assert old.machine.items == [str(number) for number in range(40)]


async def test_leadership_is_handed_over_and_nobody_else_is_asked(cluster: Cluster) -> None:
    old = cluster.leader()
    other = next(name for name in cluster.nodes if name != old.name)
    assert await old.up.transfer(other) == other
    await until(lambda: cluster.nodes[other].up.leading, "the other leads")
    assert not old.up.leading
    with pytest.raises(NotLeader):
        await old.up.transfer("")
    with pytest.raises(Refused, match="no voter that is reachable"):
        await cluster.leader().up.transfer("nobody")


async def test_all_nodes_stop_and_come_back(cluster: Cluster) -> None:
    for number in range(30):
        await cluster.propose(b"%d" % number)
    for node in cluster.nodes.values():
        await node.stop()
    for node in cluster.nodes.values():
        await node.start()
    assert await cluster.propose(b"again") == 31
    await cluster.even()


async def test_members_come_and_go_one_at_a_time_and_never_at_the_price_of_the_quorum(cluster: Cluster) -> None:
    leader = cluster.leader()
    others = [name for name in cluster.nodes if name != leader.name]
    with pytest.raises(Refused, match="no node 'n9'"):
        await leader.up.change(lambda now: members.remove(now, "n9"))
    await cluster.nodes[others[0]].stop()
    await until(lambda: not leader.up.progress()[others[0]].reachable, "the leader has noticed")
    with pytest.raises(Refused, match="it would stop"):
        await leader.up.change(lambda now: members.remove(now, others[1]))
    after = await leader.up.change(lambda now: members.remove(now, others[0]))
    assert after.voters == {leader.name, others[1]}
    assert await cluster.propose(b"with two") == 1


async def test_a_marker_is_seen_by_all_at_one_index(cluster: Cluster) -> None:
    index = await cluster.leader().up.propose_marker(b"look")
    await cluster.even()
    assert {tuple(node.machine.marks) for node in cluster.nodes.values()} == {((index, b"look"),)}


async def test_a_follower_that_lacks_more_than_the_log_has_gets_the_state_while_work_goes_on(cluster: Cluster) -> None:
    leader = cluster.leader()
    away = next(node for node in cluster.nodes.values() if node is not leader)
    await away.stop()
    payload = b"x" * 1000
    for _ in range(40):
        await asyncio.gather(*(leader.up.propose(payload) for _ in range(10)))
    for node in cluster.nodes.values():
        node.machine.index_durable = node.machine.index_applied
        if node.replicator is not None:
            node.replicator.trim(node.machine.index_applied)
    first = leader.up.status()
    await until(lambda: leader.up.status().log_first > 200, f"the log is trimmed: {first}")

    async def work() -> None:
        while True:
            await leader.up.propose(b"more")

    working = asyncio.create_task(work())
    away.machine.index_durable = -1  # it starts with nothing but its log
    await away.start()
    await until(lambda: away.machine.installed, "the snapshot is installed")
    await until(lambda: leader.machine.index_applied - away.machine.index_applied < 50, "the follower has caught up")
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working
    await cluster.even()
    await away.stop()
    away.machine.index_durable = away.machine.index_applied
    await away.start()
    assert await cluster.propose(b"last") == len(leader.machine.items)
    await cluster.even()


async def test_e_self_check_a_node_with_another_state_stops_and_says_where(cluster: Cluster) -> None:
    leader = cluster.leader()
    wrong = next(node for node in cluster.nodes.values() if node is not leader)
    wrong.machine.wrong_at = wrong.machine.index_applied + 5
    failed = wrong.up.failed
    for number in range(20):
        await cluster.propose(b"%d" % number)
    error = await asyncio.wait_for(failed, 30)
    assert "a majority has another state" in str(error)
    assert f"{wrong.machine.wrong_at}" <= str(error).rsplit(" ", 1)[1]
    assert await cluster.propose(b"the others go on") == 21
    with pytest.raises(Stopped):
        await wrong.up.read_barrier()


async def test_a_leader_with_another_state_is_the_one_that_stops(cluster: Cluster) -> None:
    leader = cluster.leader()
    leader.machine.wrong_at = leader.machine.index_applied + 3
    failed = leader.up.failed
    acknowledged = 0
    with contextlib.suppress(Stopped):  # it may find out before all of them are done
        for number in range(5):
            acknowledged = await cluster.propose(b"%d" % number)
    error = await asyncio.wait_for(failed, 30)
    assert "a majority has another state" in str(error)
    await leader.stop()
    assert await cluster.propose(b"under the next leader") > acknowledged


async def test_a_saved_snapshot_is_complete(cluster: Cluster) -> None:
    for number in range(10):
        await cluster.propose(b"%d" % number)
    follower = next(node for node in cluster.nodes.values() if node is not cluster.leader())
    await follower.up.read_barrier()
    path = await follower.up.save_snapshot()
    with SnapshotReader(RealDisk(), str(path)) as reader:
        assert reader.header.index == follower.machine.index_applied
        assert reader.header.membership.voters == {"n1", "n2", "n3"}
        assert b"9" in b"".join(reader.chunks())


async def test_proposals_beyond_the_queue_are_refused_and_the_others_answered(cluster: Cluster) -> None:
    leader = cluster.leader()
    payload = bytes(8 << 20)
    futures = [leader.up.propose(payload) for _ in range(12)]
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
    assert refused
    assert {refusal.errno for refusal in refused} == {errno.EAGAIN}
    assert [outcome for outcome in outcomes if isinstance(outcome, int)] == list(range(1, 13 - len(refused)))


async def test_without_a_majority_nothing_is_acknowledged_and_leadership_ends(cluster: Cluster) -> None:
    leader = cluster.leader()
    for node in cluster.nodes.values():
        if node is not leader:
            await node.stop()
    with pytest.raises((OutcomeUnknown, NotLeader)):  # Refused would say that it is certainly not logged
        await asyncio.wait_for(leader.up.propose(b"lost"), 30)
    await until(lambda: leader.leading == [True, False], "it has told its owner")


async def test_a_state_machine_that_is_overloaded_is_given_no_more_than_a_bounded_amount(cluster: Cluster) -> None:
    leader = cluster.leader()
    slow = next(node for node in cluster.nodes.values() if node is not leader)
    slow.machine.overloaded = True
    before = slow.machine.index_applied
    payload = bytes(1 << 20)
    for _ in range(6):
        await asyncio.gather(*(leader.up.propose(payload) for _ in range(4)))
    await until(lambda: slow.machine.index_applied - before >= 8, "what may be under way has been handed over")
    assert slow.machine.index_applied - before <= 10, "8 MiB are the bound"
    slow.machine.overloaded = False
    await cluster.even()


async def test_a_node_whose_state_machine_breaks_falls_silent_and_the_others_elect(cluster: Cluster) -> None:
    leader = cluster.leader()

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    leader.machine.apply = broken  # type: ignore[method-assign]
    with pytest.raises(Stopped, match="a defect"):
        await leader.up.propose(b"boom")
    assert "a defect" in str(await asyncio.wait_for(leader.up.failed, 30))
    await until(lambda: any(n.up.leading for n in cluster.nodes.values() if n is not leader), "another leads")


async def test_a_defect_on_the_raft_thread_stops_the_node(cluster: Cluster) -> None:
    leader = cluster.leader()

    def broken() -> None:
        raise ZeroDivisionError("a defect")

    leader.up._node._flush = broken  # type: ignore[method-assign]
    assert "a defect" in str(await asyncio.wait_for(leader.up.failed, 30))
    with pytest.raises(Stopped):
        await leader.up.propose(b"no more")
    await until(lambda: any(n.up.leading for n in cluster.nodes.values() if n is not leader), "another leads")
