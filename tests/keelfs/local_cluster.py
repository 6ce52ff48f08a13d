"""A cluster of `keelfs cluster up` and what tests do to it, through the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from keelfs import local_plan
from tests.fuse.cluster import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.keelfs.command_zygote import Zygote


class LocalCluster:
    """All of it lies in `home`."""

    def __init__(self, home: Path, zygote: Zygote) -> None:
        self.home = home
        self.directory = home / "c"
        self.mountpoint = home / "mnt"
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("KEELFS_")},
            "KEELFS_CONFIG": str(self.directory / "keelfs.toml"),
        }
        self._zygote = zygote

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """A command that is to reach this cluster."""
        env = self.env if (self.directory / "keelfs.toml").exists() else {**self.env, "KEELFS_CONFIG": ""}
        done = self._zygote.run(*arguments, env=env)
        assert "Traceback" not in done.stderr, done.stderr
        assert "this is a bug" not in done.stderr, done.stderr
        return done

    def ok(self, *arguments: object) -> str:
        """What a command that must succeed writes to stdout."""
        done = self.run(*arguments)
        assert done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stdout}{done.stderr}{self.logs()}"
        return done.stdout

    def refused(self, code: int, says: str, *arguments: object) -> None:
        """A command that must fail, with this exit code and word."""
        done = self.run(*arguments)
        message = " ".join(done.stderr.split())
        assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{message}"
        assert says in message

    def json(self, *arguments: object) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)

    def up(self, count: int, *options: object) -> str:
        """Started in the background; its URL."""
        return self.ok("cluster", "up", "-d", count, self.directory, *options).strip()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json("cluster", "status")
        return found

    def health(self) -> int:
        """The exit code."""
        return self.run("cluster", "health").returncode

    def await_health(self, code: int) -> None:
        wait_for(lambda: self.health() == code, f"health {code}")

    def leader(self) -> str:
        """Its name; waits for one."""
        wait_for(lambda: self.status()["leader"], "a leader")
        return str(self.status()["leader"])

    def data(self, name: str) -> Path:
        return self.directory / name

    def kill(self, name: str) -> None:
        """SIGKILL for one node."""
        pid = self.pid(name)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: self.pid(name) is None, f"the end of {name}")

    def pid(self, name: str) -> int | None:
        return local_plan.holder(self.data(name) / "state" / "keelfs.lock")

    def log(self) -> str:
        return (self.directory / "up.log").read_text()

    def logs(self) -> str:
        return "".join(f"\n--- {path}\n{path.read_text()[-1500:]}" for path in sorted(self.home.rglob("*.log")))

    def end(self) -> None:
        """Nothing is left, whatever happened."""
        subprocess.run(["umount", "-l", self.mountpoint], check=False, capture_output=True)
        locks = [self.directory / "up.lock", *self.home.rglob("keelfs.lock")]
        for lock in locks:
            pid = local_plan.holder(lock)
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        wait_for(lambda: all(local_plan.holder(lock) is None for lock in locks), "the end of all")
