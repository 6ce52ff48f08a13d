"""A toy file system on a real mount, served by a thread of the test's own process.

A test that blocks in the kernel cannot be ended by a timeout of Python's, so a watchdog aborts the FUSE connection: every
system call on the mount then fails at once. One thing must not be done here: touch a memory map of a file on the mount. A page
fault keeps the interpreter's lock, so the server could never answer it. Maps are for child processes.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from toy_filesystem import ToyFilesystem

from fuseclient.kernel.loop import KernelDriver
from fuseclient.kernel.mount import Mount, MountOptions, mount
from fuseclient.kernel.negotiation import DriverOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

WATCHDOG_S = 60.0
DEADLINE_S = 10.0


def wait_until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Wait for a condition, looking every few milliseconds; fail with `what` when it does not come."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {deadline_s} s"
        time.sleep(0.002)


class LiveMount:
    """A served mount. `path` is used from the test's thread, the rest lives on the server's loop."""

    def __init__(
        self, path: Path, toy: ToyFilesystem, options: DriverOptions, mount_options: MountOptions, uvloop: bool
    ) -> None:
        self.path = path
        self.toy = toy
        self.driver: KernelDriver | None = None
        self.mounted: Mount = mount(path, mount_options)
        self.failure: BaseException | None = None
        self._options = options
        self._uvloop = uvloop
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._watchdog = threading.Timer(WATCHDOG_S, self.abort)
        self._watchdog.daemon = True
        self._watchdog.start()
        self._thread.start()
        assert self._up.wait(DEADLINE_S), "INIT was not answered"

    def _serve(self) -> None:
        async def main() -> None:
            self.loop = asyncio.get_running_loop()
            self.driver = KernelDriver(self.mounted.fd, self.toy, self._options, unmount=self.mounted.unmount)
            serving = asyncio.ensure_future(self.driver.serve())
            await self.driver.ready.wait()
            self.mounted.set_read_ahead()
            self._up.set()
            await serving

        try:
            if self._uvloop:
                import uvloop

                uvloop.run(main())
            else:
                asyncio.run(main())
        except BaseException as failure:
            self.failure = failure

    def stats(self) -> dict[str, int]:
        assert self.driver is not None
        return self.driver.stats()

    def on_loop(self, call: Callable[[], Any]) -> Any:
        async def run() -> Any:
            return call()

        return self.await_on_loop(run())

    def await_on_loop(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(DEADLINE_S)

    def abort(self) -> None:
        """End the connection from outside. The control file system may not be mounted, so it gets a place of its own."""
        assert self.mounted.device is not None
        with tempfile.TemporaryDirectory() as control:
            subprocess.run(["mount", "-t", "fusectl", "none", control], check=True)
            try:
                (Path(control) / self.mounted.device.split(":")[1] / "abort").write_text("1")
            finally:
                subprocess.run(["umount", control], check=True)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.toy.unhang) if self._thread.is_alive() else None
        self.mounted.unmount()
        self._thread.join(2)
        if self._thread.is_alive():  # a failed test left a file open
            self.abort()
            self._thread.join(DEADLINE_S)
        self._watchdog.cancel()
        self.mounted.close()
        assert not self._thread.is_alive(), "the driver did not end with the mount"
        if self.failure is not None:
            raise self.failure


def need_fuse() -> None:
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and /dev/fuse")


@pytest.fixture
def live(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., LiveMount]]:
    """Makes served mounts; every one is unmounted at the end."""
    need_fuse()
    made: list[LiveMount] = []

    def make(
        *,
        ttl_s: float = 1.0,
        options: DriverOptions | None = None,
        uvloop: bool = False,
        mount_options: MountOptions | None = None,
    ) -> LiveMount:
        path = tmp_path / f"mnt{len(made)}"
        path.mkdir()
        toy = ToyFilesystem(ttl_s=ttl_s)
        made.append(LiveMount(path, toy, options or DriverOptions(), mount_options or MountOptions(), uvloop))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def mnt(live: Callable[..., LiveMount]) -> LiveMount:
    return live()
