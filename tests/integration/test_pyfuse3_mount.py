"""`keelfs mount --driver pyfuse3`: the basics through libfuse, beside a mount with the default driver."""

from __future__ import annotations

import mmap
import os
import random
import signal
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fuse.cluster import DEADLINE_S, Cluster, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("pyfuse3", reason="pyfuse3 is not installed (extra keelfs[pyfuse3])")


@pytest.fixture(scope="module")
def pair(scratch: Path) -> Iterator[Cluster]:
    """One volume: 'lib' through pyfuse3, 'raw' through the default driver."""
    with Cluster(Path(tempfile.mkdtemp(dir=scratch))) as cluster:
        cluster.start_unmounted("--block-size", "256KiB")
        cluster.mount("lib", "--driver", "pyfuse3")
        cluster.mount("raw")
        yield cluster


@pytest.fixture
def lib(pair: Cluster, request: pytest.FixtureRequest) -> Path:
    made = pair.home / "lib" / str(request.node.name)
    made.mkdir()
    wait_for((pair.home / "raw" / made.name).exists, "the directory on the other mount")
    return made


@pytest.fixture
def raw(pair: Cluster, lib: Path) -> Path:
    """The same directory on the other mount."""
    return pair.home / "raw" / lib.name


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def test_files(lib: Path, raw: Path) -> None:
    data = bytearray(noise(1_500_000))
    (lib / "f").write_bytes(data)
    assert (lib / "f").read_bytes() == data
    with open(lib / "f", "r+b") as file:
        file.seek(700_000)
        file.write(b"changed")
        data[700_000:700_007] = b"changed"
    with open(lib / "f", "ab") as end:
        end.write(b"the end")
        os.fsync(end.fileno())
    data += b"the end"
    wait_for((raw / "f").exists, "the file on the other mount")
    assert (raw / "f").read_bytes() == data
    os.truncate(lib / "f", 300_001)
    assert (lib / "f").read_bytes() == data[:300_001]
    with open(lib / "f", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[5:10] = b"by mm"
        mapped.flush()
    assert (raw / "f").read_bytes() == data[:5] + b"by mm" + data[10:300_001]
    (lib / "f").write_bytes(b"short")
    assert (lib / "f").read_bytes() == (raw / "f").read_bytes() == b"short"


def test_names_and_attributes(lib: Path, raw: Path) -> None:
    (lib / "d/e").mkdir(parents=True)
    for number in range(500):
        (lib / f"d/e/{number:03}").touch()
    assert sorted(os.listdir(lib / "d/e")) == [f"{number:03}" for number in range(500)]
    os.rename(lib / "d/e/000", lib / "renamed")
    os.link(lib / "renamed", lib / "linked")
    os.symlink("renamed", lib / "link")
    assert os.readlink(lib / "link") == "renamed"
    assert (lib / "linked").stat().st_nlink == 2
    (lib / "renamed").chmod(0o640)
    os.utime(lib / "renamed", ns=(1_000_000_001, 2_000_000_002))
    os.chown(lib / "renamed", 7, 8)
    os.setxattr(lib / "renamed", "user.x", b"value")
    wait_for(lambda: (raw / "renamed").exists() and os.listxattr(raw / "renamed") == ["user.x"], "all that on the other mount")
    for path in (lib / "renamed", raw / "linked"):
        info = path.stat()
        assert stat.S_IMODE(info.st_mode) == 0o640
        assert (info.st_uid, info.st_gid, info.st_mtime_ns) == (7, 8, 2_000_000_002)
        assert os.getxattr(path, "user.x") == b"value"
    os.removexattr(lib / "renamed", "user.x")
    with pytest.raises(OSError, match="not empty"):
        (lib / "d").rmdir()
    with pytest.raises(FileExistsError):
        (lib / "d").mkdir()
    with pytest.raises(FileNotFoundError):
        (lib / "missing").stat()
    assert os.statvfs(lib).f_blocks > 0


def test_a_file_without_a_name(lib: Path) -> None:
    with open(lib / "f", "w+b") as unnamed:
        unnamed.write(noise(600_000))
        unnamed.flush()
        (lib / "f").unlink()
        unnamed.seek(0)
        assert unnamed.read() == noise(600_000)
    assert os.listdir(lib) == []


def test_close_to_open_with_the_other_driver(lib: Path, raw: Path) -> None:
    (lib / "f").touch()
    wait_for((raw / "f").exists, "the file on the other mount")
    with open(lib / "f", "rb"), open(raw / "f", "rb"):  # open on both sides all the while
        for turn in range(60):
            writer, reader = (lib, raw) if turn % 2 else (raw, lib)
            data = noise((1, 300_000, 5000)[turn % 3], turn)
            (writer / "f").write_bytes(data)
            assert (reader / "f").read_bytes() == data, turn


def test_the_end_stores_everything(pair: Cluster) -> None:
    """Last: by umount, and by SIGTERM."""
    (pair.home / "lib/last").write_bytes(noise(2_000_000, 1))
    pair.unmount("lib")
    assert (pair.home / "raw/last").read_bytes() == noise(2_000_000, 1)
    path = pair.mount("lib", "--driver", "pyfuse3")
    (path / "last2").write_bytes(noise(2_000_000, 2))
    process = pair.mounts.pop("lib")
    assert process.child is not None
    process.child.send_signal(signal.SIGTERM)
    assert process.child.wait(DEADLINE_S) == 0
    assert not os.path.ismount(path)
    assert (pair.home / "raw/last2").read_bytes() == noise(2_000_000, 2)
