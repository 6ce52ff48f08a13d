"""A cluster from the command line, with real processes: watched, hurt, repaired, backed up, taken down. One cluster for all
tests; each leaves it well."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keelfs.embedded import free_ports
from tests.fuse.cluster import wait_for
from tests.keelfs.local_cluster import LocalCluster

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.keelfs.command_zygote import Zygote


@pytest.fixture(scope="module")
def running(scratch: Path, zygote: Zygote) -> Iterator[LocalCluster]:
    """Three nodes and a mount."""
    one = LocalCluster(Path(tempfile.mkdtemp(dir=scratch)), zygote)
    try:
        url = one.up(3, "--mount", one.mountpoint)
        assert url.startswith("keel://127.0.0.1:")
        assert os.path.ismount(one.mountpoint)
        yield one
    finally:
        one.end()


@pytest.fixture
def well(running: LocalCluster) -> LocalCluster:
    """The same, and it is well."""
    running.await_health(0)
    return running


def test_every_node_is_seen(well: LocalCluster) -> None:
    found = well.status()
    assert [(node["name"], node["voter"], node["answers"], node["reachable"]) for node in found["nodes"]] == [
        (name, True, True, True) for name in ("n1", "n2", "n3")
    ]
    assert (found["health"], found["quorum"], found["may_lose"], found["problems"]) == ("ok", 2, 1, [])
    assert sorted(node["role"] for node in found["nodes"]) == ["follower", "follower", "leader"]
    assert len({node["node_id"] for node in found["nodes"]}) == 3
    health = well.json("cluster", "health")
    assert set(found) - set(health) == {"nodes"}
    assert health["health"] == "ok"
    text = well.ok("cluster", "status", well.mountpoint)
    assert all(f"\n{name} " in text for name in ("n1", "n2", "n3"))
    assert "3 of 3 voters work together, 1 more may fail" in well.ok("cluster", "health")


def test_one_node_speaks_for_itself(well: LocalCluster) -> None:
    node = next(node for node in well.status()["nodes"] if node["role"] == "follower")
    found = well.json("status", node["client"])
    assert (found["name"], found["role"], found["leader"]) == (node["name"], "follower", well.leader())
    text = well.ok("status", node["client"])
    assert "name " in text
    assert "voter" in text


def test_the_states_are_equal_while_files_are_written(well: LocalCluster) -> None:
    for number in range(50):
        (well.mountpoint / f"file{number}").write_bytes(bytes([number]) * number)
    found = well.json("cluster", "verify")
    assert (found["equal"], found["complete"]) == (True, True)
    assert len({node["state"] for node in found["nodes"]}) == 1
    assert found["nodes"][0]["keys"] > 100
    assert "the same at every node" in well.ok("cluster", "verify")


def test_leadership_is_handed_over(well: LocalCluster) -> None:
    first = well.leader()
    well.ok("cluster", "transfer")
    second = well.leader()
    assert second != first
    third = next(name for name in ("n1", "n2", "n3") if name not in (first, second))
    well.ok("cluster", "transfer", "--to", third)
    assert well.leader() == third
    (well.mountpoint / "afterwards").write_text("written")
    well.refused(1, "no voter that is reachable", "cluster", "transfer", "--to", "n9")


def test_a_leader_is_killed(well: LocalCluster) -> None:
    leader = well.leader()
    well.kill(leader)
    (well.mountpoint / "meanwhile").write_text("written")  # it waits, and no error reaches it
    assert (well.mountpoint / "meanwhile").read_text() == "written"
    assert well.health() == 3
    facts = well.json("cluster", "health")
    assert (facts["health"], facts["may_lose"]) == ("degraded", 0)
    assert any(f"{leader} does not answer" in problem for problem in facts["problems"])
    verified = well.run("cluster", "verify", "--json")
    assert verified.returncode == 3
    assert json.loads(verified.stdout)["equal"]
    others = [name for name in ("n1", "n2", "n3") if name != leader]
    well.refused(1, "it would stop", "cluster", "remove", others[0])
    wait_for(lambda: f"{leader} has ended (killed by SIGKILL); 2 of 3 nodes run" in well.log(), "the report")
    well.ok("server", "-d", "--data", well.data(leader))
    well.await_health(0)
    assert well.json("cluster", "verify")["equal"]


def test_a_lost_disk_is_replaced(well: LocalCluster) -> None:
    lost = next(node for node in well.status()["nodes"] if node["role"] == "follower")
    name, data = lost["name"], well.data(lost["name"])
    well.kill(name)
    shutil.rmtree(data)
    place = ("--data", data, "--name", name, "--listen", lost["client"], "--certs", well.directory / "certs")
    any_node = next(node["client"] for node in well.status()["nodes"] if node["answers"])
    well.refused(2, "remove it first", "cluster", "add", any_node, *place)
    assert list(data.iterdir()) == []
    well.ok("cluster", "remove", name)
    well.ok("cluster", "add", any_node, *place)
    assert [node["voter"] for node in well.status()["nodes"] if node["name"] == name] == [False]
    well.refused(11, "is it started?", "cluster", "promote", name, "--timeout", "0s")
    well.ok("server", "-d", "--data", data)
    well.ok("cluster", "promote", name)
    well.await_health(0)
    assert well.json("cluster", "verify")["complete"]
    new = next(node for node in well.status()["nodes"] if node["name"] == name)
    assert new["incarnation"] != lost["incarnation"]


def test_a_snapshot_is_saved_and_restored(well: LocalCluster) -> None:
    (well.mountpoint / "kept").write_text("small files live in the metadata")
    file, data = well.home / "backup", well.home / "restored"
    saved = well.json("cluster", "snapshot", "save", file)
    shown = well.json("cluster", "snapshot", "show", file)
    assert (shown["checksum"], shown["index"], shown["size"]) == (saved["checksum"], saved["index"], os.stat(file).st_size)
    assert [member["name"] for member in shown["members"]] == ["n1", "n2", "n3"]
    well.refused(1, "exists", "cluster", "snapshot", "save", file)
    well.ok("cluster", "snapshot", "save", "--force", file)
    assert "checksum" in well.ok("cluster", "snapshot", "show", file)

    address = f"127.0.0.1:{free_ports(1, 3)[0]}"
    place = ("--data", data, "--name", "r1", "--listen", address, "--certs", well.directory / "certs")
    well.ok("certs", "node", "r1", "--host", "127.0.0.1", "--dir", well.directory / "certs")
    well.ok("cluster", "snapshot", "restore", file, *place)
    well.refused(1, "belongs to a cluster's node already", "cluster", "snapshot", "restore", file, *place)
    well.ok("server", "-d", "--data", data)
    try:
        restored = well.json("cluster", "status", address)
        assert (restored["health"], restored["leader"]) == ("ok", "r1")
        assert restored["cluster_id"] != shown["cluster_id"]
        (path,) = well.json("info", "/kept", "--url", f"keel://{address}/main")["paths"]
        assert path == "/kept"
        assert well.run("cluster", "verify", address).returncode == 0
    finally:
        pid = int((data / "state" / "keelfs.lock").read_text())
        os.kill(pid, 15)
        wait_for(lambda: not os.path.exists(f"/proc/{pid}"), "the end of the restored node")


def test_what_is_refused(well: LocalCluster) -> None:
    certs = ("--certs", well.directory / "certs")
    new = ("--data", well.home / "new", "--listen", f"127.0.0.1:{free_ports(1, 3)[0]}")
    any_node = well.status()["nodes"][0]["client"]
    well.refused(1, "runs the cluster", "cluster", "up", 3, well.directory)
    well.refused(1, "runs the cluster", "cluster", "up", "-d", 3, well.directory)
    well.refused(1, "already", "cluster", "init", "--data", well.data("n1"), "--name", "n1", "--listen", "127.0.0.1:1", *certs)
    well.refused(2, "is no node name", "cluster", "init", *new, "--name", "N_1")
    well.refused(2, "reachable from other machines", "cluster", "init", *new, "--name", "n1", "--peer", "10.0.0.1:7422")
    well.refused(2, "n9.crt", "cluster", "add", any_node, *new, "--name", "n9", *certs)
    well.refused(2, "there is no node 'n9'", "cluster", "remove", "n9")
    well.refused(2, "there is no node 'n9'", "cluster", "promote", "n9")
    well.refused(1, "a server runs on", "cluster", "recover", "--data", well.data("n1"), "--yes-i-accept-data-loss")
    well.refused(11, "no server answers", "cluster", "health", "127.0.0.1:9")
    well.refused(2, "no such file", "cluster", "snapshot", "show", well.home / "missing")
    well.refused(2, "holds no cluster", "cluster", "down", well.home)
    well.ok("cluster", "promote", "n2")  # it is a voter, which is what was asked for
    assert not (well.home / "new").exists()


def test_the_loss_of_a_majority(well: LocalCluster) -> None:
    """The last one: nothing is left of the cluster that the others use."""
    (well.mountpoint / "last").write_text("acknowledged")
    well.ok("umount", well.mountpoint)
    wait_for(lambda: "the mount has ended; the cluster goes on" in well.log(), "the report")
    well.ok("cluster", "down", well.directory)
    assert all(well.pid(name) is None for name in ("n1", "n2", "n3"))
    well.refused(1, "no cluster runs", "cluster", "down", well.directory)

    survivor = well.data("n2")
    done = well.run("cluster", "recover", "--data", survivor)
    assert done.returncode == 2
    assert "last index" in done.stdout
    assert "nothing was changed" in done.stderr
    well.ok("cluster", "recover", "--data", survivor, "--yes-i-accept-data-loss")
    for name in ("n1", "n3"):
        shutil.rmtree(well.data(name))
    well.ok("server", "-d", "--data", survivor)
    address = json.loads((survivor / "node.json").read_text())["listen"]
    found = well.json("cluster", "status", address)
    assert [node["name"] for node in found["nodes"]] == ["n2"]
    assert found["leader"] == "n2"
    well.ok("mount", "-d", f"keel://{address}/main", well.mountpoint)
    assert (well.mountpoint / "last").read_text() == "acknowledged"
    (well.mountpoint / "new").write_text("goes on")
    well.ok("umount", well.mountpoint)
