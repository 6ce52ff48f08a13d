"""Locks and their queues survive kill -9 of the leader of three nodes, and whoever waits is granted by the next one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.fuse.lock_stage import Actor
from tests.integration.node_cluster import NodeCluster

if TYPE_CHECKING:
    from pathlib import Path


def test_locks_and_waits_survive_the_loss_of_leaders(home: Path) -> None:
    with NodeCluster(home) as cluster:
        cluster.start()
        ways = [cluster.mount("one"), cluster.mount("two")]
        (ways[0] / "f").write_bytes(b"0")
        actors = [Actor() for _ in range(3)]
        try:
            for number, actor in enumerate(actors):
                assert actor.do("open", "f", str(ways[number % 2] / "f"), os.O_RDWR) == "ok"
            holder, first, second = actors
            assert holder.do("set", "f", "w", 0, 0) == "ok"
            assert first.start_waiting("set", "f", "w", 0, 0, "w") == "waits"
            assert second.start_waiting("set", "f", "w", 0, 0, "w") == "waits"
            _lose_leader(cluster)
            assert holder.do("set", "f", "w", 5, 5) == "ok", "what is held is held"
            assert not first.answered()
            assert not second.answered()
            assert holder.do("write", "f", "1", 0) == 1
            holder.tell("set", "f", "u", 0, 0)
            _lose_leader(cluster)
            assert holder.answer(60) == "ok"
            assert first.answer(60) == "ok"
            assert first.do("read", "f", 1, 0) == "1"
            assert not second.answered(), "first come, first served"
            first.kill()
            assert second.answer(60) == "ok"
        finally:
            for actor in actors:
                actor.kill()
        for name in ("one", "two"):
            cluster.unmount(name)
        cluster.verify()


def _lose_leader(cluster: NodeCluster) -> None:
    leader = cluster.leader()
    cluster.kill(leader)
    cluster.nodes[leader].start()
    cluster.healthy()
