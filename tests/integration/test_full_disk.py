"""Disks that are full: the server's, the store's, and the volume's own limit. ENOSPC, nothing lost, and it goes on again."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.fuse.cluster import Cluster, wait_for
from tests.integration.offline import violations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 1 << 20


@contextmanager
def small_disk(path: Path, size_mib: int, kind: str = "tmpfs") -> Iterator[Path]:
    """A file system of its own, of this size: in memory, or an ext4 in a file beside it."""
    path.mkdir()
    if kind == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=0700", "keelfs-test", path], check=True)
    elif shutil.which("mkfs.ext4") is None or not os.path.exists("/dev/loop-control"):
        pytest.skip("needs mkfs.ext4 and loop devices")
    else:
        image = path.with_suffix(".image")
        with open(image, "xb") as file:
            file.truncate(size_mib * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def free_bytes(path: Path) -> int:
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize


def fill(disk: Path, leave: int) -> None:
    """Take all of the disk but `leave` bytes."""
    with open(disk / "ballast", "ab", buffering=0) as ballast, suppress(OSError):
        while (more := free_bytes(disk) - leave) > 0:
            ballast.write(bytes(min(more, MIB)))


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def refused(call: Callable[[], object]) -> int:
    """The errno of a call that must fail."""
    try:
        call()
    except OSError as error:
        return error.errno or 0
    pytest.fail("it was not refused")


def write_and_sync(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        # What could not be stored is told by close as well; here fsync has told it.
        with suppress(OSError):
            os.close(fd)


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_the_server_s_disk_is_full(home: Path, kind: str) -> None:
    with small_disk(home / "meta", 300, kind) as disk, Cluster(home) as cluster:
        cluster.start()
        top = cluster.mountpoint
        for number in range(60):
            (top / f"f{number:02}").write_bytes(noise(number * 300, number))

        fill(disk, leave=40 * MIB)
        wait_for(lambda: cluster.status()["read_only"], "the server to notice that space is short")
        assert "nearly full" in cluster.status()["read_only_reason"]
        assert refused(lambda: (top / "new").touch()) == errno.ENOSPC
        assert refused(lambda: (top / "newdir").mkdir()) == errno.ENOSPC
        assert refused(lambda: os.symlink("x", top / "newlink")) == errno.ENOSPC
        assert refused(lambda: write_and_sync(top / "f10", b"more")) == errno.ENOSPC
        assert refused(lambda: write_and_sync(top / "f11", noise(2 * MIB))) == errno.ENOSPC
        assert (top / "f12").read_bytes() == noise(12 * 300, 12)
        (top / "f00").unlink()
        os.rename(top / "f01", top / "f02")
        (top / "f03").chmod(0o600)

        # Not a byte left, and the server crashes as well.
        fill(disk, leave=0)
        for number in range(20, 30):
            (top / f"f{number}").unlink()
        cluster.server.kill()
        cluster.server.start()
        for number in range(30, 40):
            (top / f"f{number}").unlink()
        assert refused(lambda: (top / "new").touch()) == errno.ENOSPC

        (disk / "ballast").unlink()
        wait_for(lambda: not cluster.status()["read_only"], "the server to notice that there is space again")
        (top / "new").write_bytes(noise(3 * MIB, 1))
        (top / "newdir").mkdir()
        write_and_sync(top / "f10", b"more")
        cluster.unmount("mnt")
        cluster.server.kill()
        assert violations(disk) == []
        cluster.server.start()
        cluster.mount("mnt")
        gone = {"f00", "f01", *(f"f{number}" for number in range(20, 40))}
        assert set(os.listdir(top)) == {f"f{number:02}" for number in range(60)} - gone | {"new", "newdir"}
        assert (top / "new").read_bytes() == noise(3 * MIB, 1)
        assert (top / "f10").read_bytes() == b"more" + noise(3000, 10)[4:]
        assert (top / "f02").read_bytes() == noise(300, 1)
        for number in (*range(12, 20), *range(40, 60)):
            assert (top / f"f{number}").read_bytes() == noise(number * 300, number)


def test_the_store_s_disk_is_full(home: Path) -> None:
    with small_disk(home / "objects", 24) as disk, Cluster(home) as cluster:
        cluster.start()
        top = cluster.mountpoint
        (top / "kept").write_bytes(noise(8 * MIB, 1))
        (top / "victim").write_bytes(noise(8 * MIB, 2))
        (top / "growing").write_bytes(noise(2 * MIB, 3))

        assert refused(lambda: write_and_sync(top / "big", noise(16 * MIB, 4))) == errno.ENOSPC
        assert refused(lambda: (top / "big2").write_bytes(noise(16 * MIB, 4))) == errno.ENOSPC
        with open(top / "growing", "ab", buffering=0) as file:

            def grow() -> None:
                file.write(noise(12 * MIB, 5))
                os.fsync(file.fileno())

            # As soon as the mount knows that it does not fit: at a write, at the latest at fsync.
            assert refused(grow) == errno.ENOSPC
            # What was there before is there still, and what was written can be read until it is given up.
            assert (top / "growing").read_bytes()[: 2 * MIB] == noise(2 * MIB, 3)
            assert refused(file.close) == errno.ENOSPC
        assert (top / "growing").read_bytes()[: 2 * MIB] == noise(2 * MIB, 3)
        assert (top / "kept").read_bytes() == noise(8 * MIB, 1)
        (top / "small").write_bytes(b"kept in the metadata")

        for name in ("victim", "big", "big2"):
            (top / name).unlink()
        wait_for(lambda: free_bytes(disk) > 9 * MIB, "the objects of deleted files to go")
        write_and_sync(top / "again", noise(7 * MIB, 6))
        cluster.unmount("mnt")
        cluster.mount("mnt")
        assert (top / "again").read_bytes() == noise(7 * MIB, 6)
        assert (top / "kept").read_bytes() == noise(8 * MIB, 1)
        assert (top / "growing").read_bytes()[: 2 * MIB] == noise(2 * MIB, 3)
        assert (top / "small").read_bytes() == b"kept in the metadata"


def test_room_that_comes_back_while_a_file_is_open_saves_what_was_written(home: Path) -> None:
    with small_disk(home / "objects", 24) as disk, Cluster(home) as cluster:
        cluster.start()
        fill(disk, leave=2 * MIB)
        with open(cluster.mountpoint / "f", "wb", buffering=0) as file:
            file.write(noise(6 * MIB))
            assert refused(lambda: os.fsync(file.fileno())) == errno.ENOSPC
            (disk / "ballast").unlink()
            os.fsync(file.fileno())
        cluster.unmount("mnt")
        cluster.mount("mnt")
        assert (cluster.mountpoint / "f").read_bytes() == noise(6 * MIB)


def test_the_volume_s_own_limits(home: Path) -> None:
    with Cluster(home) as cluster:
        cluster.start_unmounted("--capacity", "8MiB", "--inodes", "20")
        top = cluster.mount("mnt")
        assert os.statvfs(top).f_blocks * os.statvfs(top).f_frsize == 8 * MIB
        (top / "kept").write_bytes(noise(5 * MIB))
        assert refused(lambda: write_and_sync(top / "big", noise(4 * MIB))) == errno.ENOSPC
        (top / "big").unlink()
        assert (top / "kept").read_bytes() == noise(5 * MIB)
        for number in range(18):
            (top / f"f{number}").touch()
        assert refused(lambda: (top / "one too many").touch()) == errno.ENOSPC
        (top / "f0").unlink()
        wait_for(lambda: os.statvfs(top).f_ffree == 1, "the inode to be given back")
        (top / "the last").touch()
