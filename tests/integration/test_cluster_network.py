"""Networks that fail under a real cluster, each node in a network of its own (network_lab.py): partitions in all directions, a
link that comes and goes, lost packets. Programs on the mount see no error; no node answers with what is not true any more; a
node that comes back deposes nobody.

KEELFS_NETWORK_SEED repeats the faults of a run, though not their moments.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keelfs.embedded import VOLUME
from protos import admin_pb2, admin_pb2_grpc
from tests.fuse.cluster import wait_for
from tests.integration.crash_model import check, look
from tests.integration.direct_reader import DirectReader
from tests.integration.network_lab import CLIENT, Lab, NetworkCluster, why_not
from tests.integration.steady_writer import SteadyWriter
from tests.integration.test_crash_rounds import Load

if TYPE_CHECKING:
    from collections.abc import Iterator

GAP_S = 5.0  # of the promise, for the death of a leader; a partition must not be worse


@pytest.fixture(scope="module")
def network(scratch: Path) -> Iterator[NetworkCluster]:
    """Three nodes and a mount, shared by the tests of this module."""
    with made(Path(tempfile.mkdtemp(dir=scratch)), 3) as cluster:
        yield cluster


@pytest.fixture
def net(network: NetworkCluster) -> Iterator[NetworkCluster]:
    """The same, with nothing broken; afterwards all nodes have the same state."""
    network.mend()
    yield network
    network.mend()
    network.same_state()


class made:
    """A running cluster in a lab of its own, mounted at home/mnt."""

    def __init__(self, home: Path, count: int) -> None:
        if reason := why_not():
            pytest.skip(f"a network of the test's own {reason}")
        self._lab = Lab([f"n{number}" for number in range(1, count + 1)])
        self._cluster = NetworkCluster(home, self._lab, count)

    def __enter__(self) -> NetworkCluster:
        self._lab.__enter__()
        try:
            self._cluster.start()
            self._cluster.mount("mnt")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self._cluster

    def __exit__(self, *about: Any) -> None:
        try:
            self._cluster.__exit__(*about)
        finally:
            self._lab.remove()


def seeded() -> random.Random:
    seed = int(os.environ.get("KEELFS_NETWORK_SEED") or random.SystemRandom().randrange(10**6))
    print(f"KEELFS_NETWORK_SEED={seed}")
    return random.Random(seed)


def mountpoint(cluster: NetworkCluster) -> Path:
    return cluster.home / "mnt"


def others(cluster: NetworkCluster, name: str) -> list[str]:
    return [node for node in cluster.nodes if node != name]


def term(cluster: NetworkCluster) -> int:
    view = cluster.view()
    assert view is not None
    return view.term


def another_leads(cluster: NetworkCluster, old: str) -> str:
    """Wait for it; its name."""

    def look_again() -> bool:
        view = cluster.view()
        return view is not None and view.leader not in ("", old)

    wait_for(look_again, f"another leader than {old}")
    return cluster.leader()


def role(cluster: NetworkCluster, name: str) -> str:
    with cluster.connect(cluster.admin_of(name)) as node:
        return node.status().role


def comes_back(cluster: NetworkCluster, name: str) -> None:
    """A node that was away has everything, and has deposed nobody."""
    leader, before = cluster.leader(), term(cluster)
    cluster.lab.heal()
    cluster.healthy()
    cluster.same_state()
    assert (cluster.leader(), term(cluster)) == (leader, before), f"{name} came back and deposed {leader}"


def test_a_leader_that_is_cut_off_is_replaced_and_tells_nothing_old(net: NetworkCluster) -> None:
    old = net.leader()
    window = net.window(net.admin_of(old))
    with (
        SteadyWriter(mountpoint(net) / "cut-off") as writer,
        DirectReader(window, net.plan.client_tls, VOLUME, writer) as reader,
    ):
        reader.more(20)
        began = time.monotonic()
        net.lab.cut(old, others(net, old))
        another_leads(net, old)
        elected = time.monotonic()
        writer.more(50)
        wait_for(lambda: role(net, old) == "follower", "the old leader to step down")
        stepped_down = time.monotonic()
        wait_for(lambda: any(at > began for at, _ in reader.refusals), "the old leader to refuse")
        writer.more(50)
        gap = writer.longest_gap(began)
        comes_back(net, old)
        writer.more(50)
    print(f"elected after {elected - began:.2f} s, old one stepped down after {stepped_down - began:.2f} s, gap {gap:.2f} s")
    print("refusals of the old leader:", sorted({reason for _, reason in reader.refusals}))
    assert gap <= GAP_S


@pytest.mark.parametrize("deaf", [True, False], ids=["hears-nobody", "is-not-heard"])
def test_a_leader_whose_network_works_in_one_direction_is_replaced(net: NetworkCluster, deaf: bool) -> None:
    old = net.leader()
    with SteadyWriter(mountpoint(net) / f"one-way-{deaf}") as writer:
        writer.more(20)
        began = time.monotonic()
        for other in others(net, old):
            net.lab.sever(*((other, old) if deaf else (old, other)))
        another_leads(net, old)
        writer.more(100)
        gap = writer.longest_gap(began)
        comes_back(net, old)
    print(f"gap {gap:.2f} s")
    assert gap <= 2 * GAP_S  # the old leader has to notice by itself first, when all hear it


def test_a_follower_that_misses_only_the_leader_disturbs_nobody(net: NetworkCluster) -> None:
    leader = net.leader()
    away = others(net, leader)[0]
    before = term(net)
    with SteadyWriter(mountpoint(net) / "pairwise") as writer:
        writer.more(20)
        began = time.monotonic()
        net.lab.cut(leader, [away])
        wait_for(lambda: knows_no_leader(net, away), f"{away} to miss its leader")
        # It asks for votes at every timeout now; for several of them nothing may come of it.
        while time.monotonic() < began + 8:
            writer.more(20)
        assert writer.longest_gap(began) <= 1
        reason, seconds = barrier_at(net, away)
        assert reason in ("not-leader", "no-quorum")
        assert seconds <= 12
        print(f"a read at a follower that misses its leader: {reason} after {seconds:.2f} s")
        comes_back(net, away)
    assert term(net) == before


def knows_no_leader(cluster: NetworkCluster, name: str) -> bool:
    with cluster.connect(cluster.admin_of(name)) as node:
        return not node.status().leader


def barrier_at(cluster: NetworkCluster, name: str) -> tuple[str, float]:
    """Ask this node, and nobody else, for something that only a current state can tell: the refusal and how long it took."""
    credentials = grpc.ssl_channel_credentials(*cluster.plan.client_tls.read())
    with grpc.secure_channel(cluster.window(cluster.admin_of(name)), credentials) as channel:
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            admin_pb2_grpc.AdminStub(channel).ListVolumes(admin_pb2.ListVolumesRequest(), timeout=60)  # type: ignore[no-untyped-call]
        error: Any = caught.value
        return str(dict(error.trailing_metadata() or ()).get("keelfs-reason", error.code().name)), time.monotonic() - began


def test_a_node_that_nobody_reaches_answers_no_read(net: NetworkCluster) -> None:
    away = others(net, net.leader())[0]
    net.lab.cut(away, others(net, away))
    at_once = barrier_at(net, away)  # it believes still that there is a leader
    wait_for(lambda: knows_no_leader(net, away), f"{away} to miss its leader")
    later = barrier_at(net, away)
    print(f"refused: {at_once}, later {later}")
    for reason, seconds in (at_once, later):
        assert reason in ("not-leader", "no-quorum", "unavailable")
        assert seconds <= 12
    comes_back(net, away)


def test_a_client_that_misses_only_the_leader_waits_without_an_error(net: NetworkCluster) -> None:
    """The others cannot serve it: they send it to the leader. It is as if the leader were slow."""
    with SteadyWriter(mountpoint(net) / "client") as writer:
        writer.more(20)
        leader, before = net.leader(), term(net)
        net.lab.cut(CLIENT, [leader])
        began = time.monotonic()
        time.sleep(1)  # what was on the way has arrived
        done = len(writer.done)
        time.sleep(11)  # longer than a client takes to give up a silent stream, and shorter than a session lives
        writer.check()
        assert len(writer.done) == done, "somebody who does not lead has answered"
        assert (net.leader(), term(net)) == (leader, before)
        net.lab.heal()
        writer.more(50)
        print(f"away for 12 s, gap {writer.longest_gap(began):.2f} s")


def flap(cluster: NetworkCluster, load: Load, rng: random.Random, seconds: float) -> None:
    """Cut one node off, in one direction or both, again and again. How long is what is tested."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        name = rng.choice([cluster.leader(), *cluster.nodes])
        away = others(cluster, name)
        for other in away if rng.random() < 0.7 else away[:1]:
            links = rng.choice(([(name, other), (other, name)], [(name, other)], [(other, name)]))
            for link in links:
                cluster.lab.sever(*link)
        time.sleep(rng.choice((0.1, 0.5, 1.5, 4)) * rng.uniform(0.5, 1))
        cluster.lab.heal()
        time.sleep(rng.uniform(0.1, 1.5))
        assert load.process.poll() is None, f"the load noticed: {load.failures()}"


def under_load(cluster: NetworkCluster, name: str, faults: Any) -> None:
    """What was acknowledged while the network failed is there, as it was written, and nothing else."""
    rng = seeded()
    load = Load(mountpoint(cluster), cluster.home, f"{name}/{rng.randrange(10**6)}")
    try:
        load.wait_for_calls(20)
        faults(load, rng)
        cluster.lab.heal()
        load.wait_for_calls(50)
        load.stop()
        assert not load.failures()
    finally:
        cluster.lab.heal()
        load.abandon()
    print(f"{load.calls() // 2} calls")
    wrong = []
    for journal in sorted(load.journals.iterdir()):
        wrong += check(journal, look(load.folder / journal.name), lost=False)
    assert not wrong, "\n".join(wrong)


def flapping(cluster: NetworkCluster, seconds: float) -> None:
    under_load(cluster, "flap", lambda load, rng: flap(cluster, load, rng, seconds))


def losing(cluster: NetworkCluster, share: float, seconds: float) -> None:
    def lose(load: Load, rng: random.Random) -> None:
        cluster.lab.lose(share)
        time.sleep(seconds)
        assert load.process.poll() is None, f"the load noticed: {load.failures()}"

    under_load(cluster, "loss", lose)


def test_a_flapping_link_loses_nothing(net: NetworkCluster) -> None:
    flapping(net, 15)


def test_lost_packets_lose_nothing(net: NetworkCluster) -> None:
    losing(net, 0.15, 8)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_link_that_flaps_for_long_loses_nothing(net: NetworkCluster) -> None:
    for _ in range(10):
        flapping(net, 60)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_packets_lost_for_long_lose_nothing(net: NetworkCluster, share: float) -> None:
    losing(net, share, 120)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_five_nodes_in_a_ring_go_on_without_endless_elections(home: Path) -> None:
    """Each hears its two neighbours only: with the leader that is a majority, and the other two cannot have one."""
    with made(home, 5) as cluster, SteadyWriter(mountpoint(cluster) / "ring") as writer:
        cluster.healthy()
        names = list(cluster.nodes)
        before = term(cluster)
        for number, name in enumerate(names):
            neighbours = (names[number - 1], names[(number + 1) % len(names)])
            cluster.lab.cut(name, [other for other in others(cluster, name) if other not in neighbours])
        began = time.monotonic()
        while time.monotonic() < began + 30:
            writer.more(50)
        assert writer.longest_gap(began) <= GAP_S
        assert term(cluster) <= before + 3
        cluster.lab.heal()
        cluster.same_state()
