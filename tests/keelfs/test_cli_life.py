"""From the first command to the last: `up`, `demo`, mounts in the background, endings that lose nothing."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fuse.cluster import DEADLINE_S, Cluster, keelfs, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator


def processes(*words: str) -> list[int]:
    """The KeelFS processes whose command lines hold these words."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = Path(f"/proc/{entry.name}/cmdline").read_bytes().decode("utf-8", "replace")
            except OSError:
                continue  # it has ended meanwhile
            if "keelfs" in command and all(word in command for word in words):
                found.append(int(entry.name))
    return found


@pytest.fixture
def up(home: Path) -> Iterator[tuple[Path, Path]]:
    """Where `keelfs up` is told to work; ended afterwards whatever happens."""
    directory, mountpoint = home / "state", home / "mnt"
    yield directory, mountpoint
    subprocess.run(["umount", "-l", mountpoint], check=False, capture_output=True)
    for pid in processes("up", str(directory)):
        os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not processes(str(home)), "the end of `keelfs up`")


def test_up_in_the_background_and_again(up: tuple[Path, Path]) -> None:
    directory, mountpoint = up
    data = random.Random(1).randbytes(10_000_000)
    keelfs("up", "-d", directory, mountpoint)
    (mountpoint / "f").write_bytes(data)
    # A second one for the same place is refused, and does no harm.
    again = keelfs("up", directory, mountpoint, check=False)
    assert again.returncode != 0
    assert "Traceback" not in again.stderr
    assert (mountpoint / "f").read_bytes() == data
    keelfs("umount", mountpoint)
    wait_for(lambda: not processes(str(directory)), "the server to end with its mount")

    keelfs("up", "-d", directory, mountpoint)
    assert (mountpoint / "f").read_bytes() == data
    (pid,) = processes("up", str(directory), "--ready-fd")
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not processes(str(directory)), "the end after SIGTERM")
    assert not os.path.ismount(mountpoint)


def test_up_in_the_foreground_until_ctrl_c(up: tuple[Path, Path], home: Path) -> None:
    directory, mountpoint = up
    with open(home / "log", "wb") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", "keelfs", "up", directory, mountpoint], stdin=subprocess.DEVNULL, stderr=log, stdout=log
        )
    wait_for(lambda: os.path.ismount(mountpoint) or running.poll() is not None, "the mount")
    wait_for(lambda: "Ctrl-C ends it" in (home / "log").read_text(), "the word that it is ready")
    (mountpoint / "f").write_text("written")
    running.send_signal(signal.SIGINT)
    assert running.wait(DEADLINE_S) == 130
    assert not os.path.ismount(mountpoint)
    assert not processes(str(directory))
    assert "Traceback" not in (home / "log").read_text()


def test_up_says_what_is_wrong(up: tuple[Path, Path], home: Path) -> None:
    directory, mountpoint = up
    mountpoint.mkdir()
    (mountpoint / "something").touch()
    for background in ((), ("-d",)):
        done = keelfs("up", *background, directory, mountpoint, check=False)
        assert done.returncode == 1
        assert "not empty" in done.stderr
        assert "Traceback" not in done.stderr
        wait_for(lambda: not processes(str(directory)), "the server to end")
    (home / "file").touch()
    done = keelfs("up", home / "file", home / "other", check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


def test_a_mount_in_the_background_is_ready_when_the_command_returns(cluster: Cluster, home: Path) -> None:
    (cluster.mountpoint / "seen").write_text("at once")
    path = home / "mnt"
    path.mkdir()
    for _ in range(3):
        done = keelfs("mount", "-d", cluster.url, path, "--cache-dir", home / "cache")
        assert (path / "seen").read_text() == "at once"
        assert done.stdout == ""
        assert str(path) in done.stderr
        keelfs("umount", path)
        assert os.listdir(path) == []
        # It waited for the process as well: nothing is left that could still be storing.
        assert not processes("mount", str(path))


def test_a_server_in_the_background_is_ready_when_the_command_returns(home: Path) -> None:
    from keelfs.embedded import free_port_pair

    address = f"127.0.0.1:{free_port_pair()}"
    keelfs("server", "-d", "--data", home / "meta", "--listen", address)
    try:
        assert keelfs("status", address).returncode == 0
    finally:
        (pid,) = processes("server", str(home / "meta"))
        os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not processes("server", str(home / "meta")), "the end of the server")
    assert "Traceback" not in (home / "meta/server.log").read_text()


def test_umount_stores_what_nobody_has_fsynced(cluster: Cluster) -> None:
    path = cluster.mount("late")
    data = random.Random(2).randbytes(40_000_000)
    # A process that is killed never closes its file in order.
    pid = os.fork()
    if pid == 0:
        fd = os.open(path / "f", os.O_CREAT | os.O_WRONLY)
        os.write(fd, data)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    cluster.unmount("late")
    assert (cluster.mountpoint / "f").read_bytes() == data


def test_sigterm_to_a_mount_stores_everything_too(cluster: Cluster) -> None:
    path = cluster.mount("terminated")
    data = random.Random(3).randbytes(5_000_000)
    fd = os.open(path / "g", os.O_CREAT | os.O_WRONLY)
    os.write(fd, data)
    process = cluster.mounts.pop("terminated")
    assert process.child is not None
    process.child.send_signal(signal.SIGTERM)
    assert process.child.wait(DEADLINE_S) == 0
    assert not os.path.ismount(path)
    with suppress(OSError):  # the mount has gone away under it
        os.close(fd)
    assert (cluster.mountpoint / "g").read_bytes() == data


def test_read_only_and_a_subdirectory(cluster: Cluster) -> None:
    (cluster.mountpoint / "sub/dir").mkdir(parents=True)
    (cluster.mountpoint / "sub/dir/f").write_text("below")
    path = cluster.home / "ro"
    path.mkdir()
    keelfs("mount", "-d", f"{cluster.url}/sub", path, "--read-only")
    assert (path / "dir/f").read_text() == "below"
    with pytest.raises(OSError, match="Read-only"):
        (path / "dir/g").touch()
    keelfs("umount", path)


def test_a_lazy_umount_lets_programs_finish(cluster: Cluster) -> None:
    path = cluster.mount("lazy")
    with open(path / "h", "wb", buffering=0) as file:
        file.write(b"before")
        keelfs("umount", "--lazy", path)
        assert not os.path.ismount(path)
        file.write(b" and after")
        os.fsync(file.fileno())
    process = cluster.mounts.pop("lazy")
    assert process.child is not None
    assert process.child.wait(DEADLINE_S) == 0
    assert (cluster.mountpoint / "h").read_bytes() == b"before and after"


def test_destroying_a_volume_removes_its_objects(cluster: Cluster, home: Path) -> None:
    url, path = f"keel://{cluster.address}/doomed", home / "mnt"
    path.mkdir()
    keelfs("format", url, "--store", f"file://{home}/objects")
    keelfs("mount", "-d", url, path)
    for number in range(5):
        (path / f"f{number}").write_bytes(random.Random(number).randbytes(5_000_000))
    keelfs("umount", path)
    done = keelfs("volume", "destroy", url, "--yes", check=False)
    assert done.returncode == 1
    assert "not empty" in done.stderr
    keelfs("volume", "destroy", url, "--yes", "--force")
    assert [path for path in (home / "objects").rglob("*") if path.is_file()] == []


def test_the_demonstration_runs_to_its_end(home: Path) -> None:
    done = keelfs("demo", "--dir", home / "demo")
    assert "Everything is as it was written." in done.stdout
    assert not os.path.ismount(home / "demo/mnt")
    assert not processes(str(home / "demo"))
    shutil.rmtree(home / "demo")
