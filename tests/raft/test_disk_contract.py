"""The fake disk earns its trust: what the real one promises, both do."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from faulty_disk import FaultyDisk

from raft.disk import RealDisk

if TYPE_CHECKING:
    from pathlib import Path

    from raft.disk import Disk


@pytest.fixture(params=[RealDisk, FaultyDisk])
def disk(request: pytest.FixtureRequest) -> Disk:
    made: Disk = request.param()
    return made


@pytest.fixture
def directory(disk: Disk, tmp_path: Path) -> str:
    path = str(tmp_path / "a" / "b")
    disk.make_directory(path)
    disk.make_directory(path)
    return path


def test_files_hold_what_was_written_and_zeros_between(disk: Disk, directory: str) -> None:
    fd = disk.open(f"{directory}/x", create=True)
    assert disk.size(fd) == 0
    assert disk.read(fd, 10, 0) == b""
    disk.allocate(fd, 5000)
    disk.write_durable(fd, b"abc", 4998)
    assert disk.size(fd) == 5001
    disk.allocate(fd, 100)
    assert disk.size(fd) == 5001
    assert disk.read(fd, 100, 4990) == bytes(8) + b"abc"
    disk.close(fd)


def test_names_can_be_listed_renamed_and_removed(disk: Disk, directory: str) -> None:
    disk.close(disk.open(f"{directory}/x", create=True))
    fd = disk.open(f"{directory}/y", create=True)
    disk.write_durable(fd, b"y", 0)
    assert sorted(disk.list(directory)) == ["x", "y"]
    disk.rename(f"{directory}/y", f"{directory}/x")
    assert disk.list(directory) == ["x"]
    again = disk.open(f"{directory}/x")
    assert disk.read(again, 9, 0) == b"y"
    disk.remove(f"{directory}/x")
    disk.sync_directory(directory)
    assert disk.list(directory) == []
    with pytest.raises(FileNotFoundError):
        disk.open(f"{directory}/x")
    assert disk.read(fd, 9, 0) == b"y"
    disk.close(fd)
    disk.close(again)


def test_a_directory_is_locked_until_the_handle_is_closed(disk: Disk, directory: str) -> None:
    fd = disk.lock(directory)
    with pytest.raises(OSError, match="in use by another process") as error:
        disk.lock(directory)
    assert error.value.errno == errno.EBUSY
    disk.close(fd)
    disk.close(disk.lock(directory))
