"""A whole cluster as children of this process: what `keelfs cluster up` runs and `keelfs cluster down` ends.

Starting converges: whatever an earlier start that was interrupted has done is kept, the rest is done. Rules:
- A node that ends by itself is reported. It is started again only when that was asked for, so that what a dead node means can
  be seen; with backoff, so that one that cannot start does not fill the disk with its reasons.
- The end of the mount is not the end of the cluster.
- The end of this process is: mount first, then all nodes together. What SIGKILL leaves behind, `down` ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Self

from fuseclient.errors import ClientError
from keelfs import joining, local_plan
from keelfs.admin_client import AdminClient
from keelfs.background import spawn
from keelfs.embedded import VOLUME, interrupt, stop_child
from keelfs.exit_codes import ExitCode
from keelfs.formatting import create_volume
from keelfs.node_directory import found, is_node

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from types import TracebackType

    from keelfs.local_plan import LocalNode, LocalPlan

LEADER_S: Final = 30.0
JOIN_S: Final = 60.0
STOP_S: Final = 90.0
_POLL_S: Final = 0.1
_LOOK_S: Final = 1.0
_BACKOFF_S: Final = (1.0, 30.0)
_SETTLED_S: Final = 60.0  # a node that has run for so long is started again at once


class LocalCluster:
    """Owns the children; leaving the context stops them."""

    def __init__(self, plan: LocalPlan, mountpoint: Path | None, tell: Callable[[str], None], *, restart: bool = False) -> None:
        self.plan = plan
        self.mountpoint = mountpoint
        self._tell = tell
        self._restart = restart
        self._owns = False  # nothing ran in the directory before
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._mount: subprocess.Popen[bytes] | None = None
        self._started_at: dict[str, float] = {}
        self._delay_s: dict[str, float] = {}
        self._due_at: dict[str, float] = {}

    # --- starting

    def start(self) -> None:
        """Nodes, members, volume, mount. Raises ClientError."""
        plan = self.plan
        left = local_plan.running(plan)
        if left:
            names = ", ".join(f"{name} (process {pid})" for name, pid in left.items())
            raise ClientError(f"an earlier start left {names} running; end that with: keelfs cluster down {plan.directory}")
        self._owns = True
        local_plan.prepare(plan)
        known = [node for node in plan.nodes if is_node(plan.data(node))]
        if not known:
            found(plan.data(plan.nodes[0]), plan.settings(plan.nodes[0]))
            known = [plan.nodes[0]]
        self._start_nodes(known)
        client = AdminClient(plan.admin_addresses, tls=plan.client_tls)
        try:
            self._await_leader(client)
            self._complete(client, known)
            if VOLUME not in {volume.name for volume in client.volumes()}:
                create_volume(client, VOLUME, {"store": f"file://{plan.directory / 'objects'}"})
        finally:
            client.close()
        if self.mountpoint is not None:
            self._start_mount(self.mountpoint)

    def _start_nodes(self, nodes: Iterable[LocalNode]) -> None:
        """All at once: one alone may have to wait for the others. One that does not start is reported, if a majority does."""
        wanted = list(nodes)
        with ThreadPoolExecutor(len(wanted) or 1, "start") as pool:
            results = list(pool.map(self._try_node, wanted))
        failures = [error for error in results if error is not None]
        if failures and len(self._nodes) < len(self.plan.nodes) // 2 + 1:
            raise failures[0]

    def _try_node(self, node: LocalNode) -> ClientError | None:
        plan = self.plan
        try:
            child = spawn(["server", "--data", str(plan.data(node))], plan.log(node))
        except ClientError as error:
            self._tell(f"{node.name} does not start: {error}")
            return error
        self._nodes[node.name] = child
        self._started_at[node.name] = time.monotonic()
        return None

    def _await_leader(self, client: AdminClient) -> None:
        until = time.monotonic() + LEADER_S
        while not client.members().leader:
            if time.monotonic() > until:
                raise ClientError(
                    f"no node leads after {LEADER_S:g} s; see {self.plan.directory}/n*.log", exit_code=ExitCode.UNAVAILABLE
                )
            time.sleep(_POLL_S)

    def _complete(self, client: AdminClient, known: list[LocalNode]) -> None:
        """Whoever is no member yet becomes one, and every learner a voter."""
        plan = self.plan
        fresh = [node for node in plan.nodes if node not in known]
        members = client.members()
        for node in plan.nodes:
            if node in fresh or joining.find(members, node.name) is None:
                joining.add(client, plan.data(node), plan.settings(node))
        self._start_nodes(fresh)
        for node in plan.nodes:
            if node.name in self._nodes:
                joining.promote(client, node.name, JOIN_S)

    def _start_mount(self, mountpoint: Path) -> None:
        try:
            mountpoint.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ClientError(f"cannot make {error.filename}: {error.strerror}") from error
        arguments = ["mount", self.plan.url, str(mountpoint)]
        self._mount = spawn(arguments, self.plan.directory / "mount.log", self.plan.client_env)

    # --- running

    def run(self) -> int:
        """Until a signal, or until no node is left; the exit code. Nodes that were started by hand count."""
        while self._nodes or self._due_at or local_plan.running(self.plan):
            for name in self._await_end():
                self._ended(name)
            self._start_due()
        self._tell("no node is left")
        return ExitCode.FAILURE

    def _await_end(self) -> list[str]:
        """The children that have ended; sooner or later."""
        children = {**self._nodes, **({"": self._mount} if self._mount is not None else {})}
        timeout_s = None if self._nodes else _LOOK_S
        if self._due_at:
            timeout_s = max(min(self._due_at.values()) - time.monotonic(), 0.0)
        with contextlib.ExitStack() as stack:
            fds = {}
            for name, child in children.items():
                with contextlib.suppress(ProcessLookupError):  # reaped already: poll() will say so
                    fd = os.pidfd_open(child.pid)
                    stack.callback(os.close, fd)
                    fds[fd] = name
            if len(fds) == len(children):
                select.select(list(fds), [], [], timeout_s)
        return [name for name, child in children.items() if child.poll() is not None]

    def _ended(self, name: str) -> None:
        if not name:
            assert self._mount is not None
            code, self._mount = self._mount.returncode, None
            self._tell(f"the mount has ended{_how(code)}; the cluster goes on")
            return
        child = self._nodes.pop(name)
        alive = f"{len(local_plan.running(self.plan))} of {len(self.plan.nodes)} nodes run"
        if self._restart:
            lasted = time.monotonic() - self._started_at[name] > _SETTLED_S
            delay = _BACKOFF_S[0] if lasted else self._delay_s.get(name, _BACKOFF_S[0])
            self._delay_s[name] = min(delay * 2, _BACKOFF_S[1])
            self._due_at[name] = time.monotonic() + delay
            self._tell(f"{name} has ended{_how(child.returncode)}; {alive}. It is started again in {delay:g} s")
        else:
            data = self.plan.directory / name
            self._tell(f"{name} has ended{_how(child.returncode)}; {alive}. Start it with: keelfs server -d --data {data}")

    def _start_due(self) -> None:
        now = time.monotonic()
        for node in self.plan.nodes:
            if self._due_at.get(node.name, now + 1) <= now:
                del self._due_at[node.name]
                if self._try_node(node) is not None:
                    delay = self._delay_s[node.name]
                    self._delay_s[node.name] = min(delay * 2, _BACKOFF_S[1])
                    self._due_at[node.name] = time.monotonic() + delay
                else:
                    self._tell(f"{node.name} runs again")

    def pids(self) -> list[int]:
        """The processes of the nodes and of the mount, as Embedded tells them."""
        children = [*self._nodes.values(), *([self._mount] if self._mount is not None else [])]
        return [child.pid for child in children]

    # --- ending

    def stop(self) -> None:
        """The mount, then all nodes at once."""
        mount, self._mount = self._mount, None
        stop_child(mount)
        nodes, self._nodes = self._nodes, {}
        for child in nodes.values():
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        for child in nodes.values():
            stop_child(child)
        if self._owns:
            end(local_plan.running(self.plan).values())  # those that were started by hand

    def __enter__(self) -> Self:
        signal.signal(signal.SIGTERM, interrupt)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def down(directory: Path) -> list[str]:
    """End the cluster that runs in the directory, also what a killed `up` has left; what was ended. Raises ClientError."""
    plan = local_plan.load(directory)
    if plan is None:
        raise ClientError(f"{directory} holds no cluster of 'keelfs cluster up'", exit_code=ExitCode.USAGE)
    ended = []
    supervisor = local_plan.holder(directory / "up.lock")
    if supervisor is not None:
        end([supervisor])
        ended.append("the cluster")
    left = local_plan.running(plan)
    end(left.values())
    return [*ended, *left]


def end(pids: Iterable[int]) -> None:
    """SIGTERM to all of them, and wait. Raises ClientError when one does not end."""
    with contextlib.ExitStack() as stack:
        waiting = {}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                fd = os.pidfd_open(pid)
                stack.callback(os.close, fd)
                os.kill(pid, signal.SIGTERM)
                waiting[fd] = pid
        until = time.monotonic() + STOP_S
        while waiting:
            ready, _, _ = select.select(list(waiting), [], [], max(until - time.monotonic(), 0))
            if not ready:
                raise ClientError(f"process {next(iter(waiting.values()))} does not end; look at its log, or kill it")
            for fd in ready:
                del waiting[fd]


def _how(code: int) -> str:
    if code < 0:
        return f" (killed by {signal.Signals(-code).name})"
    return f" (exit code {code})" if code else ""
