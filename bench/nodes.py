"""Metadata nodes without a mount, for the engine's benchmarks: one alone, or three that replicate over mutual TLS."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Protocol

from bench.programs import BenchError
from fuseclient.errors import ClientError
from fuseclient.volume_url import parse_address
from keelfs import local_plan
from keelfs.admin_client import AdminClient
from keelfs.cluster_up import LocalCluster
from keelfs.formatting import create_volume

if TYPE_CHECKING:
    from pathlib import Path

    from fuseclient.tls import TlsFiles

LEADER = "leader"


class Nodes(Protocol):
    """What a load needs to know of them. `start` and `stop` may be called again; everything is gone after `stop`."""

    name: str
    tls: TlsFiles | None  # what clients show

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def address(self) -> str:
        """Where the leader serves clients."""

    def pids(self) -> dict[str, int]:
        """Processes by role: "leader", and the others by their names."""

    def peer_ports(self) -> list[int]:
        """Ports over which nodes talk to each other."""

    def admin(self) -> AdminClient:
        """Of the leader; the caller closes it."""


def make_volume(nodes: Nodes, name: str, store: Path) -> None:
    """A volume for a load. Raises BenchError."""
    client = nodes.admin()
    try:
        create_volume(client, name, {"store": f"file://{store}"})
    except ClientError as error:
        raise BenchError(str(error)) from error
    finally:
        client.close()


class OneNode:
    """A server on a fresh directory, on loopback without TLS."""

    name = "keelfs1"
    tls: TlsFiles | None = None

    def __init__(self, home: Path, profile: Path | None = None) -> None:
        """`profile`: where a cProfile of the server is written at its end."""
        self._home = home / "keelfs1"
        self._profile = profile
        self._process: subprocess.Popen[bytes] | None = None
        self._listen = self._admin = ""

    def start(self) -> None:
        self._home.mkdir(parents=True)
        read_fd, write_fd = os.pipe()
        runner = ["-m", "cProfile", "-o", str(self._profile)] if self._profile else []
        command = [sys.executable, *runner, "-m", "metaserver.server", "--data", str(self._home / "meta")]
        command += ["--ready-fd", str(write_fd), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        with open(self._home / "server.log", "ab") as log:
            self._process = subprocess.Popen(command, pass_fds=(write_fd,), stderr=log, stdin=subprocess.DEVNULL)
        os.close(write_fd)
        with open(read_fd, encoding="ascii") as ready:
            words = ready.readline().split()
        if not words:
            raise BenchError(f"the server did not start: {(self._home / 'server.log').read_text()[-500:]}")
        self._listen, self._admin = words[1], words[2]

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait(30)
        shutil.rmtree(self._home, ignore_errors=True)

    def address(self) -> str:
        return self._listen

    def pids(self) -> dict[str, int]:
        assert self._process is not None
        return {LEADER: self._process.pid}

    def peer_ports(self) -> list[int]:
        return []

    def admin(self) -> AdminClient:
        return AdminClient(self._admin)


class ThreeNodes:
    """What `keelfs cluster up 3` runs, on a fresh directory: three nodes on loopback, mutual TLS everywhere."""

    name = "keelfs3"

    def __init__(self, home: Path, mountpoint: Path | None = None) -> None:
        self._home = home / ("keelfs3-mounted" if mountpoint else "keelfs3")
        self._mountpoint = mountpoint
        self._cluster: LocalCluster | None = None
        self._plan: local_plan.LocalPlan | None = None
        self.tls: TlsFiles | None = None

    def start(self) -> None:
        try:
            self._plan = local_plan.plan(self._home, 3)
            self._cluster = LocalCluster(self._plan, self._mountpoint, lambda line: print(line, file=sys.stderr))
            self._cluster.start()
        except ClientError as error:
            raise BenchError(str(error)) from error
        self.tls = self._plan.client_tls

    def stop(self) -> None:
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.stop()
        shutil.rmtree(self._home, ignore_errors=True)

    def address(self) -> str:
        return next(node.listen for node in self._found().nodes if node.name == self._leader())

    def pids(self) -> dict[str, int]:
        plan, leader = self._found(), self._leader()
        return {LEADER if name == leader else name: pid for name, pid in local_plan.running(plan).items()}

    def all_pids(self) -> list[int]:
        """With the mount's."""
        assert self._cluster is not None
        return self._cluster.pids()

    def peer_ports(self) -> list[int]:
        return [parse_address(node.peer).port for node in self._found().nodes]

    def admin(self) -> AdminClient:
        leader = self._leader()
        return AdminClient([node.admin for node in self._found().nodes if node.name == leader], tls=self.tls)

    def _found(self) -> local_plan.LocalPlan:
        assert self._plan is not None
        return self._plan

    def _leader(self) -> str:
        client = AdminClient(self._found().admin_addresses, tls=self.tls)
        try:
            leader = client.members().leader
        except ClientError as error:
            raise BenchError(str(error)) from error
        finally:
            client.close()
        if not leader:
            raise BenchError("no node leads; the machine is too busy for a measurement")
        return leader
