"""Starting and breaking real KeelFS processes: what the tests in this folder and in tests/integration stand on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Self

from keelfs.embedded import free_port_pair

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType

DEADLINE_S = 60.0


def wait_for(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Poll until it holds; the test fails with `what` when it never does."""
    until = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < until, f"waited {deadline_s} s for: {what}"
        time.sleep(0.01)


def keelfs(*arguments: object, check: bool = True, **kwargs: object) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would."""
    command = [sys.executable, "-m", "keelfs", *map(str, arguments)]
    done: subprocess.CompletedProcess[str] = subprocess.run(  # type: ignore[call-overload]
        command, capture_output=True, text=True, timeout=120, **kwargs
    )
    assert not check or done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done


class Process:
    """One long-running `keelfs` command, ready when `start` returns. `prefix`: words in front of it, of a program that ends by
    running the rest in its own place."""

    def __init__(self, log: Path, *arguments: object, env: dict[str, str] | None = None, prefix: Sequence[object] = ()) -> None:
        self.prefix = [str(word) for word in prefix]
        self.arguments = [str(argument) for argument in arguments]
        self.log = log
        self.env = {**os.environ, **(env or {})}
        self.child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        read_end, write_end = os.pipe()
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "keelfs", *self.arguments, "--ready-fd", str(write_end)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[write_end],
                env=self.env,
                start_new_session=True,
            )
        os.close(write_end)
        with os.fdopen(read_end, "rb") as pipe:
            answer = pipe.read()
        assert answer == b"ready\n", f"{self.arguments[0]}: {answer!r}\n{self.log.read_text()[-2000:]}"

    @property
    def pid(self) -> int:
        assert self.child is not None
        return self.child.pid

    def kill(self) -> None:
        """SIGKILL: what a crash looks like to everybody else."""
        assert self.child is not None
        self.child.kill()
        if self.arguments[0] == "mount":
            # A thread that is telling the kernel to drop pages waits for their locks, and a page that is being read waits for
            # this process: it cannot die before the connection is aborted, which a forced unmount does.
            subprocess.run(["umount", "-f", self.arguments[2]], check=False, capture_output=True)
        self.child.wait(DEADLINE_S)

    def stop(self) -> int:
        """SIGTERM and wait; the exit code."""
        if self.child is None:
            return 0
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"{self.arguments[0]} did not stop\n{self.log.read_text()[-2000:]}") from None
        return self.child.returncode


class Cluster:
    """One server, one volume, any number of mounts, all below one folder."""

    VOLUME = "test"

    def __init__(self, home: Path, store: str = "", env: dict[str, str] | None = None, *server_options: str) -> None:
        self.home = home
        home.chmod(0o755)  # other users walk through it in the permission tests
        self.store = store or f"file://{home}/objects"
        self.env = env
        self.address = f"127.0.0.1:{free_port_pair()}"
        self.url = f"keel://{self.address}/{self.VOLUME}"
        options = ("--session-ttl", "10s", "--delete-delay", "0s", *server_options)
        self.server = Process(home / "server.log", "server", "--data", home / "meta", "--listen", self.address, *options)
        self.mounts: dict[str, Process] = {}

    @property
    def mountpoint(self) -> Path:
        """Of the mount that `start` makes."""
        return self.home / "mnt"

    def start(self, *mount_options: str) -> None:
        """Server, volume, one mount."""
        self.start_unmounted()
        self.mount("mnt", *mount_options)

    def start_unmounted(self, *format_options: str) -> None:
        """Server and volume."""
        self.server.start()
        keelfs("format", self.url, "--store", self.store, *format_options, env={**os.environ, **(self.env or {})})

    def status(self) -> dict[str, Any]:
        """What `keelfs status --json` says."""
        found: dict[str, Any] = json.loads(keelfs("status", self.address, "--json").stdout)
        return found

    def mount(self, name: str, *options: str, url: str = "") -> Path:
        """One more mount, on home/name; the path. `url`: another way to the same volume."""
        path = self.home / name
        path.mkdir(exist_ok=True)
        cache = ("--cache-dir", str(self.home / f"{name}.cache"))
        process = Process(self.home / f"{name}.log", "mount", url or self.url, path, *cache, *options, env=self.env)
        process.start()
        self.mounts[name] = process
        return path

    def unmount(self, name: str) -> None:
        """Cleanly, waiting for the last upload."""
        process = self.mounts[name]
        keelfs("umount", self.home / name)
        del self.mounts[name]
        assert process.child is not None
        assert process.child.wait(DEADLINE_S) == 0, (self.home / f"{name}.log").read_text()[-2000:]

    def kill_mount(self, name: str) -> None:
        """The client crashes; the dead mountpoint is taken away."""
        self.mounts.pop(name).kill()
        subprocess.run(["umount", "-l", str(self.home / name)], check=False, capture_output=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for name in list(self.mounts):
            process = self.mounts.pop(name)
            subprocess.run(["umount", "-l", str(self.home / name)], check=False, capture_output=True)
            process.stop()
        self.server.stop()
