"""Client and server that lose each other without anybody crashing: a cut line, a frozen client, a frozen server.

The time-to-live of a session is 4 s here. Whoever is away for less loses nothing. A client that was away for longer has lost
what was not stored, says so once, and goes on; nothing that it sends late can land. A server that was away itself must not
blame its clients.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fuseclient.volume_url import parse_address
from keelfs.admin_client import admin
from keelfs.target import admin_address
from tests.fuse.cluster import Cluster, Process, wait_for
from tests.integration.tcp_proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TTL_S = 4.0


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@contextmanager
def short_sessions(home: Path) -> Iterator[Cluster]:
    """A volume whose sessions end soon; mounted as 'mnt'. `delete_delay` is long, so that objects stay to be looked at."""
    with Cluster(home, "", None, "--session-ttl", f"{TTL_S:g}s") as cluster:
        cluster.start()
        yield cluster


@contextmanager
def through_a_proxy(cluster: Cluster) -> Iterator[tuple[Path, Proxy]]:
    """One more mount, 'far', over a line that can be cut."""
    port = int(cluster.address.rpartition(":")[2])
    with Proxy(port) as proxy:
        path = cluster.home / "far"
        path.mkdir()
        url = f"keel://127.0.0.1:{proxy.port}/{Cluster.VOLUME}"
        process = Process(cluster.home / "far.log", "mount", url, path)
        process.start()
        cluster.mounts["far"] = process
        yield path, proxy
        cluster.unmount("far")


def sessions(cluster: Cluster) -> list[int]:
    """The sessions that are open. Asked without a new process: one begins by closing what it has inherited, and the close of a
    file with unstored writes waits for the very server that is cut off."""
    with admin(admin_address(parse_address(cluster.address))) as client:
        return [session.session for session in client.status().sessions]


def errno_of(call: Callable[[], object]) -> int:
    """0 when it succeeds."""
    try:
        call()
    except OSError as error:
        return error.errno or -1
    return 0


def freeze(process: Process, seconds: float) -> None:
    """Stop it for a while. The time is what is tested: nothing else tells that it has passed."""
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGCONT)


def test_a_short_cut_is_not_noticed(home: Path) -> None:
    with short_sessions(home) as cluster, through_a_proxy(cluster) as (far, proxy):
        done: list[str] = []

        def then(what: str, call: Callable[[], object]) -> None:
            call()
            done.append(what)

        with open(far / "f", "wb", buffering=0) as file:
            file.write(noise(100_000, 1))
            (far / "gone").write_bytes(b"unlinked while it is open")
            with open(far / "gone", "rb") as gone:
                (far / "gone").unlink()
                proxy.off()
                calls = {
                    "fsync": lambda: os.fsync(file.fileno()),
                    "mkdir": lambda: os.mkdir(far / "d"),
                    "rename": lambda: os.rename(far / "d0", far / "d1"),
                }
                threads = [threading.Thread(target=then, args=call) for call in calls.items()]
                (cluster.mountpoint / "d0").mkdir()
                for thread in threads:
                    thread.start()
                threads[0].join(TTL_S / 3)
                assert not done
                proxy.on()
                for thread in threads:
                    thread.join(60)
                assert sorted(done) == ["fsync", "mkdir", "rename"]
                assert gone.read() == b"unlinked while it is open"
        assert (cluster.mountpoint / "f").read_bytes() == noise(100_000, 1)
        assert sorted(os.listdir(cluster.mountpoint)) == ["d", "d1", "f"]


def test_after_a_long_cut_the_session_is_over_and_a_new_one_begins(home: Path) -> None:
    with short_sessions(home) as cluster, through_a_proxy(cluster) as (far, proxy):
        (far / "kept").write_bytes(b"kept")
        fd = os.open(far / "f", os.O_CREAT | os.O_WRONLY)
        os.write(fd, b"durable")
        os.fsync(fd)
        os.write(fd, b" and lost")
        proxy.off()
        wait_for(lambda: len(sessions(cluster)) == 1, "the session to end")
        # Somebody else may use the name now; what the old session sends late must not land there.
        (cluster.mountpoint / "f").write_bytes(b"somebody else's")
        proxy.on()
        assert errno_of(lambda: os.fsync(fd)) == errno.EIO, "writes were lost and nobody was told"
        assert errno_of(lambda: os.close(fd)) in (0, errno.EIO)
        assert (cluster.mountpoint / "f").read_bytes() == b"somebody else's"
        # And it goes on.
        assert (far / "kept").read_bytes() == b"kept"
        assert (far / "f").read_bytes() == b"somebody else's"
        (far / "new").write_bytes(noise(300_000, 2))
        wait_for((cluster.mountpoint / "new").exists, "the new file")
        assert (cluster.mountpoint / "new").read_bytes() == noise(300_000, 2)


def test_a_frozen_client_comes_back_and_cannot_do_late_harm(home: Path) -> None:
    with short_sessions(home) as cluster:
        frozen = cluster.mount("frozen")
        fd = os.open(frozen / "f", os.O_CREAT | os.O_RDWR)
        os.write(fd, b"durable")
        os.fsync(fd)
        os.write(fd, b" and lost")
        unnamed = os.open(frozen / "unnamed", os.O_CREAT | os.O_RDWR)
        os.write(unnamed, noise(3_000_000))
        os.fsync(unnamed)
        os.unlink(frozen / "unnamed")
        freeze(cluster.mounts["frozen"], 2 * TTL_S)
        assert (cluster.mountpoint / "f").read_bytes() == b"durable"
        # The call under way when the session ends may fail as well as the one after it.
        told = [errno_of(lambda: os.fsync(fd)) for _ in range(3)]
        assert told in ([errno.EIO, 0, 0], [errno.EIO, errno.EIO, 0])
        os.close(fd)
        got: list[bytes] = []
        failed = errno_of(lambda: got.append(os.pread(unnamed, 100, 0)))
        assert failed in (errno.EIO, errno.ESTALE, errno.ENOENT) or got == [noise(3_000_000)[:100]]
        os.close(unnamed)
        assert (frozen / "f").read_bytes() == b"durable"
        (frozen / "f").write_bytes(b"again")
        assert (cluster.mountpoint / "f").read_bytes() == b"again"
        wait_for(lambda: cluster.status()["orphans"] == 0, "what only the dead session held to go")


def test_a_server_that_was_frozen_does_not_blame_its_clients(home: Path) -> None:
    with short_sessions(home) as cluster:
        with open(cluster.mountpoint / "f", "wb", buffering=0) as file:
            file.write(noise(100_000))
            before = sessions(cluster)
            freeze(cluster.server, 3 * TTL_S)
            os.fsync(file.fileno())
        assert sessions(cluster) == before
        assert (cluster.mountpoint / "f").read_bytes() == noise(100_000)
