"""How clusters begin and end: `cluster up` in the foreground and again, restarts, and a single node that becomes three."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from keelfs.embedded import free_ports
from tests.fuse.cluster import DEADLINE_S, wait_for
from tests.keelfs.local_cluster import LocalCluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.keelfs.command_zygote import Zygote


@pytest.fixture
def one(home: Path, zygote: Zygote) -> Iterator[LocalCluster]:
    made = LocalCluster(home, zygote)
    try:
        yield made
    finally:
        made.end()


def test_in_the_foreground_until_ctrl_c_and_again(one: LocalCluster) -> None:
    (one.home / "started").touch()
    with open(one.home / "started", "wb") as log:
        up = subprocess.Popen(
            [sys.executable, "-m", "keelfs", "cluster", "up", "1", one.directory, "--restart"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=one.env | {"KEELFS_CONFIG": ""},
        )

    def told() -> str:
        return (one.home / "started").read_text()

    wait_for(lambda: "keel://" in told() or up.poll() is not None, "the word that it runs")
    assert one.health() == 0
    first = one.pid("n1")
    one.kill("n1")
    wait_for(lambda: "n1 runs again" in told(), "the restart")
    assert one.pid("n1") not in (first, None)
    one.await_health(0)
    up.send_signal(signal.SIGINT)
    assert up.wait(DEADLINE_S) == 130
    assert one.pid("n1") is None
    assert "Traceback" not in told()
    url = told().split("keel://", 1)[1].split()[0]
    assert one.up(1) == f"keel://{url}"
    one.ok("cluster", "down", one.directory)
    assert one.pid("n1") is None


def test_what_a_killed_up_leaves_is_ended_by_down(one: LocalCluster) -> None:
    one.up(1)
    supervisor = int((one.directory / "up.lock").read_text())
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: not os.path.exists(f"/proc/{supervisor}"), "its end")
    assert one.health() == 0
    one.refused(1, "an earlier start left n1", "cluster", "up", 1, one.directory)
    one.ok("cluster", "down", one.directory)
    assert one.pid("n1") is None
    one.refused(2, "a cluster of 1 nodes", "cluster", "up", 3, one.directory)


def test_a_single_node_becomes_a_cluster_of_three(one: LocalCluster) -> None:
    ports = free_ports(3, 3)
    address = [f"127.0.0.1:{port}" for port in ports]
    data = [one.home / name for name in ("single", "n2", "n3")]
    single = ("server", "-d", "--data", data[0], "--listen", address[0])
    url = f"keel://{address[0]}/home"
    one.ok(*single)
    one.ok("format", url, "--store", f"file://{one.home}/objects")
    one.mountpoint.mkdir()
    one.ok("mount", "-d", url, one.mountpoint)
    for number in range(20):
        (one.mountpoint / f"f{number}").write_bytes(os.urandom(10_000))
    before = {path.name: path.read_bytes() for path in one.mountpoint.iterdir()}
    one.ok("umount", one.mountpoint)
    init = ("cluster", "init", "--data", data[0], "--name", "n1", "--listen", address[0])
    one.refused(1, "a server runs on", *init)
    pid = int((data[0] / "state" / "keelfs.lock").read_text())
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), "the end of the single node")

    one.ok(*init)
    one.ok("server", "-d", "--data", data[0])
    for name, where, at in (("n2", data[1], address[1]), ("n3", data[2], address[2])):
        one.ok("cluster", "add", url, "--data", where, "--name", name, "--listen", at)
        one.ok("server", "-d", "--data", where)
        one.ok("cluster", "promote", name, url)
    found = json.loads(one.ok("cluster", "status", url, "--json"))
    assert [(node["name"], node["voter"]) for node in found["nodes"]] == [("n1", True), ("n2", True), ("n3", True)]
    assert json.loads(one.ok("cluster", "verify", url, "--json"))["complete"]

    os.kill(int((data[0] / "state" / "keelfs.lock").read_text()), signal.SIGKILL)
    one.ok("mount", "-d", f"keel://{address[1]},{address[2]}/home", one.mountpoint)
    assert {path.name: path.read_bytes() for path in one.mountpoint.iterdir()} == before
    (one.mountpoint / "new").write_text("without the first node")
    one.ok("umount", one.mountpoint)


def test_an_interrupted_up_is_completed(one: LocalCluster) -> None:
    """Killed when one node is there and the others are not."""
    up = subprocess.Popen(
        [sys.executable, "-m", "keelfs", "cluster", "up", "3", one.directory],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=one.env | {"KEELFS_CONFIG": ""},
    )
    wait_for(lambda: one.pid("n1") is not None, "the first node")
    up.kill()
    up.wait()
    one.run("cluster", "down", one.directory)  # the node may have ended already: nobody listens to its word that it is ready
    wait_for(lambda: one.pid("n1") is None, "its end")
    one.up(3)
    one.await_health(0)
    one.ok("cluster", "down", one.directory)
