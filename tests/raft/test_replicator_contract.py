"""What every Replicator promises, whichever is behind the name. A cluster of three has test_cluster_replicator.py besides."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from typing import TYPE_CHECKING, Any

import pytest

from raft.cluster import ClusterOptions, ClusterReplicator
from raft.disk import RealDisk
from raft.errors import NotLeader, Refused, Stopped
from raft.founding import found_cluster
from raft.identity import load_or_create
from raft.local import LocalReplicator
from raft.membership import Member
from raft.record import PAYLOAD_MAX
from raft.sync_policy import AdaptivePolicy, FixedPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from raft.api import Replicator, StateMachine

    Make = Callable[[Path, StateMachine], Replicator]


def cluster_of_one(path: Path, state: StateMachine) -> Replicator:
    disk = RealDisk()
    disk.make_directory(str(path))
    identity = load_or_create(disk, str(path))
    with contextlib.suppress(Refused):  # it was founded by an earlier start
        found_cluster(disk, str(path), Member("n1", identity.node_id, "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"))
    return ClusterReplicator(path, state, ClusterOptions("n1", "127.0.0.1:0", None))


async def ready(replicator: Replicator) -> None:
    """Until it takes proposals and has replayed its log."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(NotLeader):
                await replicator.read_barrier()
                return
            await asyncio.sleep(0.01)


REPLICATORS: dict[str, Make] = {
    "local-inline": lambda path, state: LocalReplicator(path, state, policy=FixedPolicy(inline=True)),
    "local-thread": lambda path, state: LocalReplicator(path, state, policy=FixedPolicy(inline=False)),
    "local-adaptive": lambda path, state: LocalReplicator(path, state, policy=AdaptivePolicy()),
    "cluster-of-one": cluster_of_one,
}


class Recorder:
    """Remembers what was applied; `b"boom"` raises."""

    def __init__(self, index_applied: int = 0) -> None:
        self.index_applied = index_applied
        self.index_durable = index_applied
        self.applied: list[tuple[int, bytes, object]] = []
        self.digest = bytes(16)
        self.overloaded = False

    def skip(self, index: int) -> None:
        self.index_applied = index

    def mark(self, index: int, payload: bytes) -> None:
        self.index_applied = index

    async def capture(self) -> Any:
        raise OSError("there are no snapshots in these tests")

    async def install(self, index: int, digest: bytes, chunks: object) -> None:
        raise OSError("there are no snapshots in these tests")

    def apply(self, index: int, term: int, payload: bytes, hint: object | None) -> Any:
        assert index > self.index_applied
        assert term >= 1
        if payload == b"boom":
            raise ZeroDivisionError("boom")
        self.index_applied = index
        self.applied.append((index, payload, hint))
        return (index, payload)


class Node:
    """A replicator that can be restarted on the same directory, with the state that survived."""

    def __init__(self, make: Make, path: Path) -> None:
        self.make, self.path = make, path
        self.state = Recorder()
        self.replicator = make(path, self.state)

    async def restart(self, index_applied: int = 0) -> None:
        await self.replicator.stop()
        self.state = Recorder(index_applied)
        self.replicator = self.make(self.path, self.state)
        await self.replicator.start()
        await ready(self.replicator)


@pytest.fixture(params=REPLICATORS)
async def node(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(REPLICATORS[request.param], tmp_path / "raft")
    await node.replicator.start()
    await ready(node.replicator)
    yield node
    await node.replicator.stop()


async def test_the_answer_is_what_apply_returned_for_that_entry(node: Node) -> None:
    hint = object()
    index, payload = await node.replicator.propose(b"one", hint)
    assert payload == b"one"
    assert node.state.applied[-1] == (index, b"one", hint)
    assert node.replicator.status().index_applied == index


async def test_proposals_are_applied_and_answered_in_the_order_of_the_calls(node: Node) -> None:
    answered: list[bytes] = []
    futures = []
    for number in range(500):
        future = node.replicator.propose(b"%d" % number)
        future.add_done_callback(lambda done: answered.append(done.result()[1]))
        futures.append(future)
        if number % 50 == 0:
            await asyncio.sleep(0)
    await asyncio.gather(*futures)
    expected = [b"%d" % number for number in range(500)]
    assert [payload for _, payload, _ in node.state.applied] == expected
    assert answered == expected
    indexes = [index for index, _, _ in node.state.applied]
    assert indexes == sorted(set(indexes))


async def test_a_restart_replays_what_follows_the_state_without_hints(node: Node) -> None:
    indexes = [(await node.replicator.propose(b"%d" % number, "hint"))[0] for number in range(10)]
    await node.restart(index_applied=indexes[3])
    assert node.state.applied == [(index, b"%d" % number, None) for number, index in enumerate(indexes)][4:]
    index, _ = await node.replicator.propose(b"next")
    assert index > indexes[-1]


async def test_a_read_barrier_reaches_everything_acknowledged(node: Node) -> None:
    index, _ = await node.replicator.propose(b"one")
    assert await node.replicator.read_barrier() >= index
    assert node.state.index_applied >= index


async def test_an_entry_that_is_too_large_is_refused_and_leaves_nothing(node: Node) -> None:
    before = node.replicator.status().index_last
    with pytest.raises(Refused) as refused:
        await node.replicator.propose(bytes(PAYLOAD_MAX + 1))
    assert refused.value.errno == errno.EFBIG
    assert node.replicator.status().index_last == before
    largest = bytes(PAYLOAD_MAX)
    assert (await node.replicator.propose(largest))[1] == largest


async def test_a_cancelled_proposal_is_still_applied_and_hurts_nobody(node: Node) -> None:
    futures = [node.replicator.propose(b"%d" % number) for number in range(3)]
    futures[1].cancel()
    assert (await futures[2])[1] == b"2"
    assert [payload for _, payload, _ in node.state.applied] == [b"0", b"1", b"2"]


async def test_stop_finishes_what_was_accepted_and_takes_no_more(node: Node) -> None:
    futures = [node.replicator.propose(b"%d" % number) for number in range(100)]
    await node.replicator.stop()
    assert [future.result()[1] for future in futures] == [b"%d" % number for number in range(100)]
    with pytest.raises(Stopped):
        await node.replicator.propose(b"late")
    with pytest.raises(Stopped):
        await node.replicator.read_barrier()
    assert node.replicator.status().role == "stopped"
    await node.restart()
    assert len(node.state.applied) == 100


async def test_an_exception_from_apply_stops_everything(node: Node) -> None:
    first = node.replicator.propose(b"fine")
    rest = [node.replicator.propose(payload) for payload in (b"boom", b"after", b"later")]
    assert (await first)[1] == b"fine"
    for future in rest:
        with pytest.raises(Stopped, match="boom"):
            await future
    with pytest.raises(Stopped):
        await node.replicator.propose(b"more")
    with pytest.raises(Stopped):
        await node.replicator.read_barrier()
    assert [payload for _, payload, _ in node.state.applied] == [b"fine"]
    assert node.replicator.status().role == "stopped"


async def test_trimming_keeps_what_is_not_durable_in_the_state(node: Node) -> None:
    indexes = [(await node.replicator.propose(b"%d" % number))[0] for number in range(10)]
    node.state.index_durable = indexes[4]
    node.replicator.trim(indexes[9])
    await node.restart(index_applied=indexes[4])
    assert [index for index, _, _ in node.state.applied] == indexes[5:]
