"""A network that a test owns: every node of a cluster, and a client, in a network namespace of its own, joined by a bridge in
one more. The addresses exist in these namespaces only; nothing of this reaches another network.

    machine (root namespace)       test, through `Window`s: ports of 127.0.0.1 that lead into the hub
    keelnet-<pid>-<n>-hub          the bridge; 10.213.0.254
    keelnet-<pid>-<n>-n1 ..        a node each; 10.213.0.1 ..
    keelnet-<pid>-<n>-client       mounts; 10.213.0.100

Faults are made where a packet arrives: what is cut vanishes on the way, and no sender is told. The hub, from which the test
looks at the nodes, is never cut off.

The names say which process made them. A lab that begins removes what dead processes have left, with whatever still runs there.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import re
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING, Final, Self

from fuseclient.volume_url import parse_address
from keelfs import joining
from keelfs.admin_client import AdminClient
from keelfs.embedded import VOLUME
from keelfs.formatting import create_volume
from keelfs.local_plan import LocalNode, LocalPlan
from keelfs.node_directory import found
from raft.certificates import make_ca, make_client, make_node
from tests.fuse.cluster import DEADLINE_S, Process, wait_for
from tests.integration.node_cluster import OPTIONS, NodeCluster
from tests.integration.tcp_proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path
    from types import TracebackType

PREFIX: Final = "keelnet"
CLIENT: Final = "client"
_NET: Final = "10.213.0."
_HUB: Final = 254
_CLIENT: Final = 100
_CLONE_NEWNET: Final = 0x40000000  # setns(2)
_NUMBERS: Final = itertools.count(1)


def run(*words: object) -> str:
    """A command that must succeed; what it said."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert done.returncode == 0, f"{' '.join(map(str, words))}: {done.stderr}"
    return done.stdout


def _chance(share: float) -> list[str]:
    return ["-m", "statistic", "--mode", "random", "--probability", str(share), "-j", "DROP"]


def why_not() -> str:
    """Why there can be no lab here; "" when there can."""
    missing = [command for command in ("ip", "iptables", "nsenter") if shutil.which(command) is None]
    if missing:
        return f"needs {', '.join(missing)} (.ci/setup dev installs them)"
    name = f"{PREFIX}-{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"needs network namespaces: {made.stderr.strip()}"
    try:
        for trial in (
            ["ip", "-n", name, "link", "add", "br0", "type", "bridge"],
            ["ip", "-n", name, "link", "add", "v0", "type", "veth", "peer", "name", "v1"],
            ["ip", "netns", "exec", name, "iptables", "-w", "-A", "INPUT", *_chance(0.5)],
        ):
            tried = subprocess.run(trial, capture_output=True, text=True, check=False)
            if tried.returncode:
                return f"needs bridges, veth and iptables in a network namespace: {tried.stderr.strip()}"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    return ""


def sweep() -> None:
    """Remove the labs of processes that are no more."""
    for line in run("ip", "netns", "list").splitlines():
        name = line.split()[0] if line else ""
        owner = re.fullmatch(rf"{PREFIX}-(\d+)-.*", name)
        if owner is not None and not os.path.exists(f"/proc/{owner[1]}"):
            _remove(name)


def _remove(namespace: str) -> None:
    """A namespace, and whatever runs in it: only a lab starts anything there."""
    pids = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False).stdout
    for pid in pids.split():
        if int(pid) != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)


class Lab:
    """Hosts by their names, with one address each."""

    def __init__(self, nodes: Sequence[str]) -> None:
        self._base = f"{PREFIX}-{os.getpid()}-{next(_NUMBERS)}-"
        self.address = {name: f"{_NET}{number}" for number, name in enumerate(nodes, 1)}
        self.address[CLIENT] = f"{_NET}{_CLIENT}"

    def namespace(self, host: str) -> str:
        return f"{self._base}{host}"

    def prefix(self, host: str) -> tuple[str, ...]:
        """In front of a command that is to run there. (`ip netns exec` would hide its mounts from everybody else.)"""
        return ("nsenter", f"--net=/run/netns/{self.namespace(host)}", "--")

    def enter(self) -> None:
        """The calling thread's sockets are the hub's from now on."""
        with open(f"/run/netns/{self.namespace('hub')}", "rb") as file:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(file.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    def __enter__(self) -> Self:
        sweep()
        try:
            self._make()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.remove()

    def _make(self) -> None:
        hub = self.namespace("hub")
        run("ip", "netns", "add", hub)
        run("ip", "-n", hub, "link", "add", "br0", "type", "bridge", "forward_delay", 0)
        run("ip", "-n", hub, "addr", "add", f"{_NET}{_HUB}/24", "dev", "br0")
        run("ip", "-n", hub, "link", "set", "br0", "up")
        for host, address in self.address.items():
            own = self.namespace(host)
            run("ip", "netns", "add", own)
            run("ip", "link", "add", "eth0", "netns", own, "type", "veth", "peer", "name", host, "netns", hub)
            run("ip", "-n", hub, "link", "set", host, "master", "br0", "up")
            run("ip", "-n", own, "addr", "add", f"{address}/24", "dev", "eth0")
            run("ip", "-n", own, "link", "set", "eth0", "up")
            run("ip", "-n", own, "link", "set", "lo", "up")

    def remove(self) -> None:
        for host in (*self.address, "hub"):
            _remove(self.namespace(host))

    # faults

    def sever(self, source: str, target: str) -> None:
        """Nothing from `source` arrives at `target`; the other direction works."""
        self._filter(target, "-A", "INPUT", "-s", self.address[source], "-j", "DROP")

    def cut(self, one: str, others: Iterable[str]) -> None:
        """Nothing passes between `one` and any of the others."""
        for other in others:
            self.sever(one, other)
            self.sever(other, one)

    def lose(self, share: float) -> None:
        """This share of all packets of all hosts vanishes."""
        for host in self.address:
            self._filter(host, "-A", "INPUT", *_chance(share))

    def heal(self) -> None:
        """Everything arrives again."""
        for host in self.address:
            self._filter(host, "-F", "INPUT")

    def _filter(self, host: str, *words: object) -> None:
        run("nsenter", f"--net=/run/netns/{self.namespace(host)}", "--", "iptables", "-w", *words)


class NetworkCluster(NodeCluster):
    """Its nodes run on the hosts of a lab, its mounts on the lab's client. The test reaches the admin ports through windows."""

    def __init__(self, home: Path, lab: Lab, count: int = 3, options: Sequence[str] = OPTIONS) -> None:
        self.lab = lab
        nodes = []
        for number in range(1, count + 1):
            address = lab.address[f"n{number}"]
            nodes.append(LocalNode(f"n{number}", *(f"{address}:{port}" for port in (7420, 7421, 7422))))
        super().__init__(home, count, options, plan=LocalPlan(home / "cluster", tuple(nodes)))
        self.client_prefix = lab.prefix(CLIENT)
        self._windows: dict[str, Proxy] = {}
        self._clients: dict[str, AdminClient] = {}

    def process(self, node: LocalNode) -> Process:
        made = super().process(node)
        made.prefix = list(self.lab.prefix(node.name))
        return made

    def window(self, address: str) -> str:
        """Where this process reaches an address of the lab."""
        if address not in self._windows:
            target = parse_address(address)
            self._windows[address] = Proxy(target.port, target.host, self.lab.enter)
        return f"127.0.0.1:{self._windows[address].port}"

    def connect(self, address: str) -> AbstractContextManager[AdminClient]:
        """One connection for all calls: each is a TLS handshake on two machines that are one."""
        if address not in self._clients:
            self._clients[address] = AdminClient(self.window(address), timeout_s=5, tls=self.plan.client_tls)
        return contextlib.nullcontext(self._clients[address])

    def start(self) -> None:
        """Found the cluster with its volume, as `keelfs cluster up` does, and run the nodes."""
        plan = self.plan
        make_ca(plan.certs)
        for node in plan.nodes:
            make_node(plan.certs, node.name, [self.lab.address[node.name], "127.0.0.1"])
            self.nodes[node.name] = self.process(node)
        make_client(plan.certs, "admin")
        first, *rest = plan.nodes
        found(plan.data(first), plan.settings(first))
        self.nodes[first.name].start()
        with self.connect(first.admin) as leader:
            wait_for(lambda: leader.members().leader, "the first node to lead")
            for node in rest:
                joining.add(leader, plan.data(node), plan.settings(node))
                self.nodes[node.name].start()
                joining.promote(leader, node.name, DEADLINE_S)
            create_volume(leader, VOLUME, {"store": f"file://{plan.directory / 'objects'}"})

    def mend(self) -> None:
        """Whatever a test has done: everything works again."""
        self.lab.heal()
        for process in self.nodes.values():
            if process.child is None or process.child.poll() is not None:
                process.start()
            else:
                process.child.send_signal(signal.SIGCONT)
        self.healthy()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.lab.heal()
        super().__exit__(kind, value, trace)
        for client in self._clients.values():
            client.close()
        for window in self._windows.values():
            window.off()
