"""Disks that were wiped, put back as they once were, or changed by themselves, under real nodes with a client at work: each is
refused with a reason or repaired, the cluster goes on, and nothing that was acknowledged is lost.

docs/OPERATING.md has the exit codes. The tests share a cluster; n3 is the node that is hurt, and each test heals it."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keelfs import node_directory
from keelfs.cluster_view import Level, judge
from raft.disk import RealDisk
from raft.identity import load_identity
from raft.record import Entry, encode_batch
from raft.recovery import recover
from tests.fuse.cluster import wait_for
from tests.integration import cluster_bench as bench
from tests.integration.cluster_bench import Log, Worker, refused_start, replace, require_equal
from tests.integration.node_cluster import OPTIONS, NodeCluster
from tests.keelfs.command_zygote import Zygote

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(600)

#: A log that is soon shorter than an absence.
SMALL = ("--log-segment", str(256 << 10), "--log-retain", "0", "--verify-interval", "0s")


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as running:
        yield running


@pytest.fixture(scope="module")
def running(scratch: Path) -> Iterator[NodeCluster]:
    with NodeCluster(Path(tempfile.mkdtemp(dir=scratch)), options=(*OPTIONS, *SMALL)) as cluster:
        cluster.start()
        yield cluster


@pytest.fixture
def damaged(running: NodeCluster) -> NodeCluster:
    """The cluster, in which all is well, and whose leader is not n3."""
    view = running.view()
    if view is None or judge(view).level is not Level.OK:  # a test before has failed
        running.stop()
        running.start_nodes(("n1", "n2"))
        replace(running, "n3")
    with bench.admin(running) as client:
        if client.members().leader == "n3":
            client.transfer("n1")
    return running


def flip(path: Path, offset: int) -> None:
    """One bit."""
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


# -- disks that are not the member's any more --------------------------------------------------------------------------------


def test_a_wiped_node_is_refused_until_it_is_removed_and_added(damaged: NodeCluster) -> None:
    """Its name is the member's, its disk is not: with its vote the cluster could lose what the old disk had acknowledged."""
    cluster, data = damaged, damaged.data("n3")
    with Worker(cluster, "wiped") as worker:
        cluster.nodes["n3"].stop()
        cluster_id = load_identity(RealDisk(), str(data)).cluster_id  # type: ignore[union-attr]  # it has one
        shutil.rmtree(data)
        node_directory.join(data, cluster.plan.settings(bench.node(cluster, "n3")), cluster_id)
        log = Log(cluster, "n3")
        cluster.nodes["n3"].start()
        log.says(r"the disk of n3 is not the one that was a member: remove the node from the cluster and add it again")
        worker.goes_on()
        view = cluster.view()
        assert view is not None
        (n3,) = [node for node in view.nodes if node.name == "n3"]
        assert not n3.reachable
        assert n3.node_id != n3.incarnation  # which is what `keelfs cluster status` tells people
        replace(cluster, "n3")


@pytest.mark.parametrize("starts", [1, 2], ids=["started as often", "started less often"])
def test_an_old_image_of_a_disk_is_refused(damaged: NodeCluster, starts: int) -> None:
    cluster, data = damaged, damaged.data("n3")
    image = cluster.home / "image"
    with Worker(cluster, f"image{starts}-") as worker:
        cluster.nodes["n3"].stop()
        shutil.copytree(data, image)
        for _ in range(starts):
            log = Log(cluster, "n3")
            cluster.nodes["n3"].start()
            log.says("connected to node n1")
            log.says("connected to node n2")
            worker.goes_on()
            cluster.nodes["n3"].stop()
        shutil.rmtree(data)
        image.rename(data)
        log = Log(cluster, "n3")
        cluster.nodes["n3"].start()
        why = "another copy of it was started as often" if starts == 1 else r"it counts \d+ starts, and \d+ were seen"
        log.says(f"the disk of n3 is an old copy: {why}.*Bring the newest disk back, or remove the node")
        worker.goes_on()
        replace(cluster, "n3")


# -- the log -----------------------------------------------------------------------------------------------------------------


def records(cluster: NodeCluster, name: str) -> list[tuple[Path, int, int]]:
    """Where the log's records are: file, start, end. The node must not run."""
    disk, data = RealDisk(), cluster.data(name)
    identity = load_identity(disk, str(data))
    assert identity is not None
    found = recover(disk, str(data / "wal"), identity.owner)
    places = []
    for segment in found.segments:
        starts = [*segment.offsets, segment.end]
        places += [(Path(segment.path), starts[i], starts[i + 1]) for i in range(len(segment.offsets))]
        segment.close(disk)
    return places


def test_a_flipped_bit_among_acknowledged_entries_keeps_the_node_down(damaged: NodeCluster, zygote: Zygote) -> None:
    cluster = damaged
    with Worker(cluster, "wal") as worker:
        worker.goes_on(60)
        cluster.kill("n3")
        places = records(cluster, "n3")
        assert len(places) > 40
        path, start, end = places[-30]
        flip(path, (start + end) // 2)
        said = refused_start(zygote, cluster, "n3")
        assert f"{path}: offset {start}: the record of entry" in said
        assert "is damaged although it was acknowledged" in said
        worker.goes_on()
        replace(cluster, "n3")


def test_a_torn_end_of_the_log_is_cut_and_the_node_catches_up(damaged: NodeCluster) -> None:
    """What a power loss in the middle of a write leaves: nobody was told of it."""
    cluster = damaged
    with Worker(cluster, "torn") as worker:
        cluster.kill("n3")
        path, _, end = records(cluster, "n3")[-1]
        disk = RealDisk()
        identity = load_identity(disk, str(cluster.data("n3")))
        assert identity is not None
        (segment,) = [s for s in recover(disk, str(path.parent), identity.owner).segments if Path(s.path) == path]
        entry = Entry(segment.index_last + 1, segment.term_last, b"never acknowledged" * 100)
        data, _ = encode_batch(segment.tag, [entry], segment.index_last)
        with path.open("r+b") as file:
            file.seek(end)
            file.write(data)
        flip(path, end + len(data) // 2)
        cluster.nodes["n3"].start()
        worker.goes_on()


def test_the_last_entry_is_missed_by_the_state_that_holds_it(damaged: NodeCluster, zygote: Zygote) -> None:
    """A damaged end cannot be told from a torn one, so it is cut; but then the log ends before the state. (When the state has
    not come so far, the other nodes know that the entry was acknowledged: tests/raft/test_peer_book.py.)"""
    cluster = damaged
    bench.checkpoint(cluster, "n3")
    cluster.nodes["n3"].stop()
    path, start, end = records(cluster, "n3")[-1]
    flip(path, (start + end) // 2)
    said = refused_start(zygote, cluster, "n3")
    assert re.search(r"the state holds entries up to \d+, the log ends with \d+ although it was synced first", said), said
    replace(cluster, "n3")
    require_equal(cluster)


# -- snapshots ---------------------------------------------------------------------------------------------------------------


def need_a_snapshot(cluster: NodeCluster, name: str) -> None:
    """n3 is stopped; what happens now is more than the logs of the others keep."""
    bench.run(bench.add_bulk(cluster, name.encode(), 256, os.urandom(60 << 10)))
    last = bench.index_of(cluster, cluster.leader())
    for other in ("n1", "n2"):
        wait_for(lambda other=other: bench.index_of(cluster, other) >= last, f"{other} has caught up")  # type: ignore[misc]
        bench.checkpoint(cluster, other)


def in_the_middle(cluster: NodeCluster) -> Path:
    """n3 is frozen while a part of the snapshot is there; the part."""
    folder = cluster.data("n3") / "snapshots"
    found: list[Path] = []

    def look() -> bool:
        with os.scandir(folder) as entries:
            found[:] = [Path(entry.path) for entry in entries if entry.name.endswith(".part")]
        return bool(found) and found[0].stat().st_size >= 3 << 20

    wait_for(lambda: folder.exists() and look(), "a part of a snapshot")
    cluster.freeze("n3")
    return found[0]


@pytest.mark.parametrize("then", ["goes on", "is killed"])
def test_a_flipped_bit_in_what_came_of_a_snapshot_is_found_and_it_is_taken_again(damaged: NodeCluster, then: str) -> None:
    cluster = damaged
    cluster.nodes["n3"].stop()
    with Worker(cluster, f"part {then} ") as worker:
        need_a_snapshot(cluster, f"bulk {then}")
        log = Log(cluster, "n3")
        cluster.nodes["n3"].start()
        part = in_the_middle(cluster)
        flip(part, 1 << 20)
        if then == "is killed":
            cluster.kill("n3")
            assert part.exists()
            cluster.nodes["n3"].start()
        else:
            cluster.thaw("n3")
        log.says(r"a snapshot was not installed: .*the chunk is damaged at byte")
        worker.goes_on()
        cluster.healthy()


def test_a_snapshot_that_went_bad_on_the_leaders_disk_is_made_again(damaged: NodeCluster) -> None:
    cluster = damaged
    cluster.nodes["n3"].stop()
    with Worker(cluster, "bad snapshot") as worker:
        need_a_snapshot(cluster, "bulk at the leader")
        leader = cluster.leader()
        log, follower = Log(cluster, leader), Log(cluster, "n3")
        cluster.nodes["n3"].start()
        in_the_middle(cluster)
        (snapshot,) = (cluster.data(leader) / "snapshots").glob("*.snapshot")
        flip(snapshot, snapshot.stat().st_size - (1 << 20))
        cluster.thaw("n3")
        follower.says("a snapshot was not installed")
        log.says("a snapshot went bad on the disk, another one will be made: .*the chunk is damaged at byte")
        worker.goes_on()
        cluster.healthy()


# -- the state ---------------------------------------------------------------------------------------------------------------


def change_a_value(cluster: NodeCluster) -> None:
    """In n3's database, which it has closed: a value is another one, and its page is as good as before."""
    secret = os.urandom(20).hex().encode()
    bench.run(bench.add_bulk(cluster, b"with a value " + secret[:8], 1, secret))
    last = bench.index_of(cluster, cluster.leader())
    wait_for(lambda: bench.index_of(cluster, "n3") >= last, "n3 has caught up")
    bench.checkpoint(cluster, "n3")
    cluster.nodes["n3"].stop()
    path = cluster.data("n3") / "state" / "data.mdb"
    at = path.read_bytes().find(secret)
    assert at > 0
    while at >= 0:  # pages that are free have it too, maybe
        flip(path, at)
        at = path.read_bytes().find(secret)


def test_a_value_that_changed_by_itself_is_found_and_the_node_named(damaged: NodeCluster) -> None:
    cluster = damaged
    with Worker(cluster, "value") as worker:
        change_a_value(cluster)
        cluster.nodes["n3"].start()
        cluster.healthy()
        done = cluster.keelfs("cluster", "verify", cluster.url, check=False)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "the states differ: n3. Remove such a node and add it anew" in " ".join(done.stdout.split())
        worker.goes_on()
        replace(cluster, "n3")


def test_the_cluster_finds_it_by_itself_and_the_node_stops_for_good(damaged: NodeCluster, zygote: Zygote) -> None:
    cluster = damaged
    before = {name: process.arguments for name, process in cluster.nodes.items()}
    with Worker(cluster, "self") as worker:
        change_a_value(cluster)
        log = Log(cluster, "n3")
        for name in ("n1", "n2"):
            cluster.nodes[name].stop()
            cluster.nodes[name].arguments = [*before[name], "--verify-interval", "1s"]
            cluster.nodes[name].start()
            worker.goes_on()
        leader = Log(cluster, cluster.leader())
        leader.says("the nodes hold the same state")  # two of them: the third is away
        cluster.nodes["n3"].start()
        child = cluster.nodes["n3"].child
        assert child is not None
        assert child.wait(60) == 5
        log.says("this node must not go on: a majority has another state than this node at entry")
        assert "Traceback" not in log.text
        said = refused_start(zygote, cluster, "n3")
        assert "What is on this disk is wrong; remove this node from the cluster and add it anew" in said
        worker.goes_on()
        for name in ("n1", "n2"):
            cluster.nodes[name].arguments = before[name]
        replace(cluster, "n3")


# -- the small files -----------------------------------------------------------------------------------------------------------


def missing(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flipped(path: Path) -> None:
    flip(path, path.stat().st_size // 2)


REFUSALS = [
    ("hard_state", (missing, cut, empty, flipped), "the term and the vote cannot be read|hard_state: the file is missing"),
    ("base", (cut, empty, flipped), "base: the cluster's members cannot be read"),
    ("base", (missing,), "base is missing, which says who the members of this node's cluster are"),
    ("peers", (cut, empty, flipped), "peers: cannot be read .* counts this node's starts"),
    ("identity.json", (cut, empty, flipped), "identity"),
    ("identity.json", (missing,), "identity.json is missing, which says which node this is"),
]


def test_a_node_whose_small_files_are_hurt_does_not_start_and_says_which(damaged: NodeCluster, zygote: Zygote) -> None:
    cluster, data = damaged, damaged.data("n3")
    with Worker(cluster, "files") as worker:
        cluster.nodes["n3"].stop()
        for file, hurts, expected in REFUSALS:
            good = (data / file).read_bytes()
            for hurt in hurts:
                hurt(data / file)
                said = refused_start(zygote, cluster, "n3")
                assert str(data) in said, (file, hurt.__name__, said)
                assert re.search(expected, said), (file, hurt.__name__, said)
                (data / file).write_bytes(good)
                (data / file).chmod(0o600)
        worker.goes_on()
        cluster.nodes["n3"].start()  # nothing was changed by all that
        cluster.healthy()


def test_a_node_that_forgot_how_often_it_was_started_is_taken_for_an_old_copy(damaged: NodeCluster) -> None:
    cluster = damaged
    cluster.nodes["n3"].stop()
    (cluster.data("n3") / "peers").unlink()
    log = Log(cluster, "n3")
    cluster.nodes["n3"].start()
    log.says(r"the disk of n3 is an old copy: it counts 1 starts, and \d+ were seen")
    replace(cluster, "n3")
