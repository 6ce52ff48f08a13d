"""A server and a mount as children of this process: what `keelfs up` and `keelfs demo` run.

Layout of the directory: `meta/` the server's log and store, `objects/` the data, `server.log`, `mount.log`, `address` the
server's address, kept so that the volume's URL stays the same from one start to the next.
"""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Final, Self

from fuseclient.errors import ClientError
from fuseclient.volume_url import parse_address
from keelfs.admin_client import admin
from keelfs.background import spawn
from keelfs.formatting import create_volume
from keelfs.target import admin_address

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType, TracebackType

VOLUME: Final = "main"
_STOP_TIMEOUT_S: Final = 60.0
_PORT_MIN, _PORT_MAX = 10_000, 32_000


def free_port_pair() -> int:
    """A port on loopback such that it and the next one are free now."""
    return free_ports(1, 2)[0]


def free_ports(count: int, run: int) -> list[int]:
    """Ports on loopback, each the first of `run` neighbours that are free now, none of them in two runs.

    They lie below those that the kernel gives to outgoing connections, which could take them between two starts.
    """
    draw = random.SystemRandom()
    found: list[int] = []
    with contextlib.ExitStack() as held:
        for _ in range(1000):
            port = draw.randrange(_PORT_MIN, _PORT_MAX - run)
            with contextlib.ExitStack() as these, contextlib.suppress(OSError):
                for number in range(port, port + run):
                    these.enter_context(socket.socket()).bind(("127.0.0.1", number))
                held.enter_context(these.pop_all())
                found.append(port)
                if len(found) == count:
                    return found
    raise ClientError(f"there are not {count} times {run} neighbouring ports free on 127.0.0.1")


class Embedded:
    """Owns the two children; leaving the context unmounts and stops them."""

    def __init__(self, directory: Path, mountpoint: Path) -> None:
        self.directory = directory
        self.mountpoint = mountpoint
        self.address = ""
        self._server: subprocess.Popen[bytes] | None = None
        self._mount: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The volume's URL."""
        return f"keel://{self.address}/{VOLUME}"

    def start(self) -> None:
        """Server, volume, mount. Raises ClientError with what is wrong."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.mountpoint.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ClientError(f"cannot make {error.filename}: {error.strerror}") from error
        self.start_server()
        with admin(admin_address(parse_address(self.address))) as client:
            if VOLUME not in {volume.name for volume in client.volumes()}:
                create_volume(client, VOLUME, {"store": f"file://{self.directory / 'objects'}"})
        self.start_mount()

    def start_server(self) -> None:
        """The metadata server, on the address it had before where there was one."""
        kept = self.directory / "address"
        with contextlib.suppress(FileNotFoundError):
            self.address = kept.read_text().strip()
        if not self.address:
            self.address = f"127.0.0.1:{free_port_pair()}"
            kept.write_text(self.address + "\n")
        arguments = ["server", "--data", str(self.directory / "meta"), "--listen", self.address]
        self._server = spawn(arguments, self.directory / "server.log")

    def start_mount(self) -> None:
        """The mount; the server must answer."""
        self._mount = spawn(["mount", self.url, str(self.mountpoint)], self.directory / "mount.log")

    def unmount(self) -> None:
        """End the mount after everything written is stored."""
        child, self._mount = self._mount, None
        stop_child(child)

    def stop_server(self) -> None:
        child, self._server = self._server, None
        stop_child(child)

    def stop(self) -> None:
        """Both; the volume stays."""
        self.unmount()
        self.stop_server()

    def pids(self) -> list[int]:
        """The processes of the server and of the mount."""
        return [child.pid for child in (self._server, self._mount) if child is not None]

    def wait(self) -> int:
        """Until the mount ends; its exit code."""
        assert self._mount is not None
        return self._mount.wait()

    def __enter__(self) -> Self:
        # A polite end of this process must reach the children too.
        signal.signal(signal.SIGTERM, interrupt)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def interrupt(_signal: int, _frame: FrameType | None) -> None:
    """A signal handler: end as after Ctrl-C."""
    raise KeyboardInterrupt


def stop_child(child: subprocess.Popen[bytes] | None) -> None:
    """SIGTERM, and after a minute SIGKILL; returns when it has ended."""
    if child is None or child.poll() is not None:
        return
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
