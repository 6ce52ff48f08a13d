"""The nodes compare their states by themselves: when a marker is logged, who reports, what is said."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from metaserver.self_verification import JITTER, MARKER, SelfVerification
from raft.api import PeerProgress
from raft.errors import NotLeader

pytestmark = pytest.mark.asyncio(loop_scope="session")

VOTERS = frozenset({"n1", "n2", "n3"})


@dataclass
class Cluster:
    """ClusterControl, as far as it is asked."""

    voters: frozenset[str] = VOTERS
    reachable: frozenset[str] = VOTERS
    refusing: bool = False
    markers: list[bytes] = field(default_factory=list)
    reported: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def membership(self):
        return SimpleNamespace(voters=self.voters)

    def progress(self):
        return {name: PeerProgress(name in self.reachable, 0) for name in self.voters - {"n1"}}

    async def propose_marker(self, payload):
        if self.refusing:
            raise NotLeader(None)
        self.markers.append(payload)
        return len(self.markers)

    def report_state(self, index, digest):
        self.reported.append((index, digest))

    def state_reports(self, index):
        return dict.fromkeys(self.voters, b"same")


class Applier:
    async def state_digest(self, index):
        if index > 100:
            raise LookupError("too long ago")
        return SimpleNamespace(state=b"digest of %d" % index)


def made(cluster, leads=lambda: True, interval_s=0.001):
    return SelfVerification(Applier(), cluster, "n1", leads, random.Random(1), interval_s)


async def run_for(verification, condition, rounds=400):
    """Whether `condition` came true while it ran."""
    task = asyncio.create_task(verification.run())
    for _ in range(rounds):
        if condition():
            break
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return condition()


async def test_a_leader_logs_a_marker_again_and_again():
    cluster = Cluster()
    assert await run_for(made(cluster), lambda: len(cluster.markers) >= 3)
    assert set(cluster.markers) == {MARKER}


async def test_a_refusal_is_tried_again():
    cluster = Cluster(refusing=True)
    verification = made(cluster)
    assert not await run_for(verification, lambda: cluster.markers, rounds=20)
    cluster.refusing = False
    assert await run_for(verification, lambda: cluster.markers)


@pytest.mark.parametrize(
    ("cluster", "leads"),
    [
        (Cluster(), False),
        (Cluster(reachable=frozenset()), True),
        (Cluster(voters=frozenset({"n1"})), True),
    ],
    ids=["a follower", "nobody in reach", "nobody else"],
)
async def test_nothing_is_logged_by_a_node_that_has_nobody_to_ask(cluster, leads):
    assert not await run_for(made(cluster, lambda: leads), lambda: cluster.markers, rounds=30)


async def test_every_node_reports_what_it_digests_at_its_own_markers_only():
    cluster = Cluster()
    verification = made(cluster)
    for index, payload in ((7, MARKER), (8, b""), (101, MARKER), (9, MARKER)):
        verification.marked(index, payload)
    await asyncio.gather(*verification._reporting)
    assert sorted(cluster.reported) == [(7, b"digest of 7"), (9, b"digest of 9")]
    await verification.close()


async def test_the_nodes_do_not_do_it_at_the_same_moment(monkeypatch):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 50:
            raise asyncio.CancelledError

    verification = made(Cluster(voters=frozenset({"n1"})), interval_s=100.0)
    monkeypatch.setattr("metaserver.self_verification.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await verification.run()
    assert 100 * (1 - JITTER) <= min(slept) < 90
    assert 110 < max(slept) <= 100 * (1 + JITTER)
