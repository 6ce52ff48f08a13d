"""A node that stands still, or is away for long: the others go on as if nothing was, and it comes back."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import pytest

from tests.fuse.cluster import wait_for
from tests.integration.cluster_bench import Worker, connect, index_of, mkdir, run
from tests.integration.node_cluster import NodeCluster
from tests.integration.steady_writer import SteadyWriter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fuseclient.meta_client import MetaClient

#: Of an acknowledged change: what the loss of a follower may add to the time of the slowest hundredth.
P99_RATIO: Final = 1.5
ROUNDS, CHANGES = 4, 300


def test_a_leader_that_stands_still_is_left(home: Path) -> None:
    """SIGSTOP: its connections stay open, and nothing says that it is gone. No error reaches the program."""
    with NodeCluster(home) as cluster:
        cluster.start()
        cluster.leader()  # a mount gives up where nobody leads
        with SteadyWriter(cluster.mount("mnt") / "work") as writer:
            writer.more(20)
            frozen = cluster.leader()
            cluster.freeze(frozen)
            stopped_at = time.monotonic()
            writer.more(50)
            assert writer.longest_gap(stopped_at) <= 5
            cluster.thaw(frozen)
            writer.more(50)
        assert cluster.leader() != frozen
        cluster.verify()


async def p99(client: MetaClient, prefix: str) -> float:
    """Of so many changes, one after the other."""
    took = []
    for number in range(CHANGES):
        started = time.perf_counter()
        await client.change(mkdir(client.root, f"{prefix}.{number}".encode()))
        took.append(time.perf_counter() - started)
    return sorted(took)[CHANGES * 99 // 100]


async def with_and_without(cluster: NodeCluster, take: Callable[[], None], give: Callable[[], None]) -> tuple[float, float]:
    """The p99 with all nodes and without one. Each is the best of the rounds, which take turns: what else the machine does only
    adds to a figure, and never to both alike."""
    client = await connect(cluster)
    whole, less = [], []
    for number in range(ROUNDS):
        whole.append(await p99(client, f"whole{number}"))
        await asyncio.to_thread(take)
        less.append(await p99(client, f"less{number}"))
        await asyncio.to_thread(give)
    await client.close()
    return min(whole), min(less)


@pytest.mark.parametrize("dead", [False, True], ids=["frozen", "dead"])
def test_a_lost_follower_does_not_slow_the_leader(home: Path, dead: bool) -> None:
    with NodeCluster(home) as cluster:
        cluster.start()
        leader = cluster.leader()
        follower = next(name for name in cluster.nodes if name != leader)

        def take() -> None:
            (cluster.kill if dead else cluster.freeze)(follower)

        def give() -> None:
            if dead:
                cluster.nodes[follower].start()
            else:
                cluster.thaw(follower)
            cluster.healthy()

        whole, less = run(with_and_without(cluster, take, give))
        print(f"p99 of a change: {whole * 1e3:.2f} ms with three nodes, {less * 1e3:.2f} ms with two")
        assert cluster.leader() == leader
        assert less <= P99_RATIO * whole


def away(home: Path, entries: int) -> None:
    """A follower misses so many entries and comes back while the load goes on."""
    with NodeCluster(home) as cluster:
        cluster.start()
        follower = next(name for name in cluster.nodes if name != cluster.leader())
        with Worker(cluster) as worker:
            worker.goes_on()
            cluster.kill(follower)
            run(fill(cluster, entries))
            goal = index_of(cluster, cluster.leader())
            cluster.nodes[follower].start()
            started = time.monotonic()
            wait_for(lambda: index_of(cluster, follower) >= goal, "the follower to catch up", 600)
            print(f"{entries} entries behind, caught up after {time.monotonic() - started:.1f} s")
            worker.goes_on()


async def fill(cluster: NodeCluster, entries: int) -> None:
    """So many entries, one change each."""
    client = await connect(cluster)
    for number in range(entries):
        await client.change(mkdir(client.root, b"fill.%d" % number))
    await client.close()


def test_a_follower_catches_up_under_load(home: Path) -> None:
    away(home, 1_000)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_follower_that_was_away_for_a_hundred_thousand_entries_catches_up(home: Path) -> None:
    away(home, 100_000)
