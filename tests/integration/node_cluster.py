"""A cluster of real node processes with certificates, a volume, and mounts; nodes can be killed, frozen, started again."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from typing import TYPE_CHECKING, Self

from fuseclient.errors import ClientError
from keelfs import cluster_view, local_plan, state_comparison
from keelfs.admin_client import AdminClient
from keelfs.cluster_up import LocalCluster
from keelfs.cluster_view import Level
from metaserver.core import invariants
from metaserver.store.layered import LayeredStore
from tests.fuse.cluster import DEADLINE_S, Process, keelfs, wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path
    from types import TracebackType

    from keelfs.cluster_view import ClusterView
    from keelfs.local_plan import LocalNode, LocalPlan

OPTIONS = ("--session-ttl", "20s", "--delete-delay", "0s")


class NodeCluster:
    """`nodes` are their processes by name, all running after `start`."""

    def __init__(self, home: Path, count: int = 3, options: Sequence[str] = OPTIONS, *, plan: LocalPlan | None = None) -> None:
        """`options`: of each node. `plan`: where the nodes are, if not all on this machine's loopback."""
        home.chmod(0o755)
        self.home = home
        self.options = tuple(options)
        self.plan = plan or local_plan.plan(home / "cluster", count)
        self.nodes: dict[str, Process] = {}
        self.mounts: dict[str, Process] = {}
        self.client_prefix: tuple[str, ...] = ()  # of the commands that mount

    @property
    def url(self) -> str:
        return self.plan.url

    def data(self, name: str) -> Path:
        return self.plan.directory / name

    def start(self) -> None:
        """Found the cluster, with its volume, and run the nodes."""
        with LocalCluster(self.plan, None, print) as made:
            made.start()
        for node in self.plan.nodes:
            self.nodes[node.name] = self.process(node)
        self.start_nodes(self.nodes)

    def process(self, node: LocalNode) -> Process:
        """That will run this node."""
        return Process(self.home / f"{node.name}.log", "server", "--data", self.plan.data(node), *self.options)

    def start_nodes(self, names: object) -> None:
        """All at once: a node alone waits for nobody, but two starts side by side are faster."""
        assert isinstance(names, dict | list | set | tuple)
        for name in names:
            self.nodes[name].start()

    def keelfs(self, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The command, as a client with a certificate."""
        return keelfs(*arguments, check=check, env={**os.environ, **self.plan.client_env})

    def connect(self, address: str) -> AbstractContextManager[AdminClient]:
        return contextlib.closing(AdminClient(address, timeout_s=5, tls=self.plan.client_tls))

    def view(self) -> ClusterView | None:
        """What every node says; None while none answers."""
        try:
            return cluster_view.look(self.plan.admin_addresses, self.connect)
        except ClientError:
            return None

    def leader(self) -> str:
        """By asking until somebody leads."""
        found: list[str] = []

        def look() -> bool:
            view = self.view()
            found[:] = [view.leader] if view is not None and view.leader else []
            return bool(found)

        wait_for(look, "a leader")
        return found[0]

    def pid_of(self, name: str) -> int:
        return self.nodes[name].pid

    def freeze(self, name: str) -> None:
        os.kill(self.pid_of(name), signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        os.kill(self.pid_of(name), signal.SIGCONT)

    def kill(self, *names: str) -> None:
        """SIGKILL, all at the same moment."""
        for name in names:
            os.kill(self.pid_of(name), signal.SIGKILL)
        for name in names:
            child = self.nodes[name].child
            assert child is not None
            child.wait(DEADLINE_S)

    def healthy(self) -> None:
        """Until every voter works."""

        def look() -> bool:
            view = self.view()
            return view is not None and cluster_view.judge(view).level is Level.OK

        wait_for(look, "a healthy cluster", 2 * DEADLINE_S)

    def verify(self) -> None:
        """All nodes have the same state; a failure says which have not."""
        self.healthy()
        done = self.keelfs("cluster", "verify", self.url, check=False)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"

    def same_state(self) -> int:
        """As `verify`, without a command of its own; the index that was compared."""
        self.healthy()
        leader = self.leader()
        with self.connect(self.admin_of(leader)) as node:
            index = node.mark_digest()
            members = node.members().members
        found = state_comparison.compare(members, index, DEADLINE_S, self.connect)
        assert found.complete, found
        assert found.equal, found
        return index

    def admin_of(self, name: str) -> str:
        return next(node.admin for node in self.plan.nodes if node.name == name)

    def mount(self, name: str, *options: str) -> Path:
        path = self.home / name
        path.mkdir(exist_ok=True)
        process = Process(
            self.home / f"{name}.log", "mount", self.url, path, *options, env=self.plan.client_env, prefix=self.client_prefix
        )
        process.start()
        self.mounts[name] = process
        return path

    def unmount(self, name: str) -> None:
        process = self.mounts.pop(name)
        keelfs("umount", self.home / name)
        assert process.child is not None
        assert process.child.wait(DEADLINE_S) == 0, (self.home / f"{name}.log").read_text()[-2000:]

    def log_has(self, name: str, pattern: str) -> bool:
        return re.search(pattern, (self.home / f"{name}.log").read_text()) is not None

    def stop(self) -> None:
        """All nodes, politely."""
        for process in self.nodes.values():
            if process.child is not None and process.child.poll() is None:
                process.child.send_signal(signal.SIGCONT)
                process.child.send_signal(signal.SIGTERM)
        for process in self.nodes.values():
            process.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for name in list(self.mounts):
            subprocess.run(["umount", "-l", str(self.home / name)], check=False, capture_output=True)
            self.mounts.pop(name).stop()
        self.stop()


def state_violations(data: Path) -> list[str]:
    """Of the invariants, in the state that a node has left on the disk."""
    store = LayeredStore.open(data / "state", create=False)
    try:
        return [str(violation) for violation in invariants.check(store)]
    finally:
        store.close()
