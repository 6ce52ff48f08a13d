"""Calls on the contents of files, on a real mount and on a local ext4 side by side: same results, sizes, blocks and bytes.

Where ext4 counts whole pages and KeelFS bytes, the calls are made on whole pages.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.fuse.cluster import wait_for
from tests.fuse.file_calls import (
    COLLAPSE_RANGE,
    INSERT_RANGE,
    KEEP_SIZE,
    PUNCH_HOLE,
    UNSHARE_RANGE,
    ZERO_RANGE,
    fallocate,
    name_file,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.fuse.cluster import Cluster

PAGE = 4096


def outcome(call: Callable[[], object]) -> object:
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def both(here: Path, home: Path, call: Callable[[Path], object]) -> object:
    """The same on the mount and locally; what both gave."""
    ours, local = call(here), call(home)
    assert ours == local
    return ours


def file_of(folder: Path, name: str, pages: int) -> int:
    """A file whose every page has its own byte, stored."""
    fd = os.open(folder / name, os.O_CREAT | os.O_RDWR)
    os.pwrite(fd, b"".join(bytes([65 + n % 26]) * PAGE for n in range(pages)), 0)
    os.fsync(fd)
    return fd


@pytest.mark.parametrize(
    "calls",
    [
        [(0, 0, 4)],
        [(0, 2, 8)],
        [(KEEP_SIZE, 2, 8)],
        [(KEEP_SIZE, 100, 8)],
        [(PUNCH_HOLE | KEEP_SIZE, 1, 2)],
        [(PUNCH_HOLE | KEEP_SIZE, 0, 4), (0, 1, 2)],
        [(PUNCH_HOLE | KEEP_SIZE, 3, 100)],
        [(ZERO_RANGE, 1, 2)],
        [(ZERO_RANGE, 2, 8)],
        [(ZERO_RANGE | KEEP_SIZE, 2, 8)],
        [(0, 0, 100), (PUNCH_HOLE | KEEP_SIZE, 10, 50), (ZERO_RANGE, 20, 10)],
    ],
)
def test_ranges_like_ext4(here: Path, home: Path, calls: list[tuple[int, int, int]]) -> None:
    def run(folder: Path) -> object:
        fd = file_of(folder, "f", 4)
        for mode, page, pages in calls:
            fallocate(fd, mode, page * PAGE, pages * PAGE)
        os.fsync(fd)
        found = os.fstat(fd)
        holes = outcome(lambda: os.lseek(fd, 0, os.SEEK_HOLE)), outcome(lambda: os.lseek(fd, PAGE, os.SEEK_DATA))
        told = (found.st_size, found.st_blocks, holes, os.pread(fd, found.st_size + 1, 0))
        os.close(fd)
        return told, (folder / "f").read_bytes()

    both(here, home, run)


@pytest.mark.parametrize(
    ("mode", "offset", "length"),
    [(0, -1, 1), (0, 0, 0), (0, 0, -1), (PUNCH_HOLE, 0, 1), (PUNCH_HOLE | ZERO_RANGE | KEEP_SIZE, 0, 1), (128, 0, 1)],
)
def test_what_is_refused_like_ext4(here: Path, home: Path, mode: int, offset: int, length: int) -> None:
    def run(folder: Path) -> object:
        fd = file_of(folder, "f", 4)
        refusal = outcome(lambda: fallocate(fd, mode, offset, length))
        os.close(fd)
        return refusal

    assert both(here, home, run) in ("EINVAL", "ENOTSUP")


def test_what_is_refused_otherwise(here: Path) -> None:
    """The kernel's FUSE lets no shift of a file through; beyond the largest file is EFBIG."""
    fd = file_of(here, "f", 4)
    for mode in (COLLAPSE_RANGE, INSERT_RANGE, UNSHARE_RANGE):
        assert outcome(lambda mode=mode: fallocate(fd, mode, 0, PAGE)) == "ENOTSUP"
    assert outcome(lambda: fallocate(fd, 0, 2**57, 1)) == "EFBIG"
    assert outcome(lambda: fallocate(fd, 0, 0, 2**41)) == "EFBIG"
    os.close(fd)
    fd = os.open(here / "f", os.O_RDONLY)
    assert outcome(lambda: fallocate(fd, 0, 0, 1)) == "EBADF"
    os.close(fd)


def test_a_range_takes_set_ids_from_who_is_not_root(here: Path) -> None:
    path = here / "f"
    path.write_bytes(bytes(2 * PAGE))
    path.chmod(0o6777)
    script = f"fallocate -l 100 {path}"
    here.chmod(0o777)
    subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "bash", "-c", script], check=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777


def test_a_copy_moves_no_data(cluster: Cluster, here: Path) -> None:
    size = 9 << 20
    source, target = os.open(here / "a", os.O_CREAT | os.O_RDWR), os.open(here / "b", os.O_CREAT | os.O_RDWR)
    data = os.urandom(size)
    os.pwrite(source, data, 0)
    os.fsync(source)
    before = objects(cluster)
    assert os.copy_file_range(source, target, size, 0, 1000) == size
    os.fsync(target)
    assert not objects(cluster) - before
    assert os.pread(target, size, 1000) == data
    assert os.fstat(target).st_size == size + 1000
    os.unlink(here / "a")
    os.close(source)
    os.pwrite(target, b"!", 5)
    os.fsync(target)
    assert os.pread(target, size, 1000) == data
    os.close(target)


def objects(cluster: Cluster) -> set[str]:
    root = cluster.home / "objects"
    return {str(path.relative_to(root)) for path in root.rglob("*_*_*") if path.is_file()}


def test_objects_go_with_their_last_owner(cluster: Cluster, here: Path) -> None:
    data = os.urandom(3 << 20)
    before = objects(cluster)
    (here / "a").write_bytes(data)
    made = objects(cluster) - before
    assert made
    subprocess.run(["cp", "--reflink=auto", here / "a", here / "b"], check=True)
    os.unlink(here / "a")
    (here / "tick").write_bytes(b"")
    assert (here / "b").read_bytes() == data
    os.unlink(here / "b")
    wait_for(lambda: not objects(cluster) & made, "the objects are deleted")


@pytest.mark.parametrize(
    ("offset", "offset2", "length"),
    [(0, 0, 100), (10, 0, 10**6), (4 * PAGE, 0, 10), (10**6, 0, 10), (0, 10**6, 100), (PAGE, 0, 2 * PAGE)],
)
def test_copies_like_ext4(here: Path, home: Path, offset: int, offset2: int, length: int) -> None:
    def run(folder: Path) -> object:
        source, target = file_of(folder, "a", 4), file_of(folder, "b", 2)
        os.pwrite(source, b"not stored yet", 20)
        count = outcome(lambda: os.copy_file_range(source, target, length, offset, offset2))
        same = outcome(lambda: os.copy_file_range(source, source, PAGE, 0, 100))
        os.close(source)
        os.close(target)
        return count, same, (folder / "a").read_bytes(), (folder / "b").read_bytes()

    both(here, home, run)


def test_where_data_and_holes_are(here: Path, home: Path) -> None:
    """Also before anything is stored."""

    def run(folder: Path) -> object:
        fd = os.open(folder / "f", os.O_CREAT | os.O_RDWR)
        os.pwrite(fd, b"x" * PAGE, 10 * PAGE)
        os.pwrite(fd, b"y" * PAGE, (1 << 36) + PAGE)
        marks: list[object] = []
        for _ in range(2):
            for at in (0, 10 * PAGE, 11 * PAGE, 1 << 36, (1 << 36) + PAGE, (1 << 36) + 2 * PAGE):
                marks += [
                    outcome(lambda at=at: os.lseek(fd, at, os.SEEK_DATA)),
                    outcome(lambda at=at: os.lseek(fd, at, os.SEEK_HOLE)),
                ]
            os.fsync(fd)
        marks.append(os.fstat(fd).st_blocks)
        os.close(fd)
        return marks

    both(here, home, run)


def test_the_largest_file(here: Path) -> None:
    fd = os.open(here / "f", os.O_CREAT | os.O_RDWR)
    end = 2**57
    assert os.pwrite(fd, b"end", end - 3) == 3
    assert os.fstat(fd).st_blocks <= 16
    assert os.lseek(fd, 0, os.SEEK_DATA) == end - 3
    os.fsync(fd)
    assert os.lseek(fd, 1, os.SEEK_DATA) == end - 3
    assert os.pread(fd, 10, end - 5) == b"\0\0end"
    assert outcome(lambda: os.pwrite(fd, b"x", end)) == "EFBIG"
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, end)
    assert (os.fstat(fd).st_size, os.fstat(fd).st_blocks) == (end, 0)
    os.close(fd)


def test_files_without_a_name(here: Path, home: Path) -> None:
    def run(folder: Path) -> object:
        fd = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o640)
        os.write(fd, b"hello")
        told: list[object] = [os.fstat(fd).st_nlink, stat.filemode(os.fstat(fd).st_mode), os.listdir(folder)]
        name_file(fd, folder / "name")
        told += [os.fstat(fd).st_nlink, os.listdir(folder), (folder / "name").read_bytes()]
        os.close(fd)
        told.append((folder / "name").read_bytes())
        fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_EXCL)
        told += [outcome(lambda: name_file(fd, folder / "other")), outcome(lambda: name_file(fd, folder / "name"))]
        os.close(fd)
        told.append(outcome(lambda: os.open(folder, os.O_TMPFILE | os.O_RDONLY)))
        return told

    both(here, home, run)


def test_a_file_without_a_name_goes_when_it_is_closed(cluster: Cluster, here: Path) -> None:
    before = objects(cluster)
    fd = os.open(here, os.O_TMPFILE | os.O_RDWR)
    os.write(fd, os.urandom(5 << 20))
    os.fsync(fd)
    made = objects(cluster) - before
    assert made
    os.close(fd)
    (here / "tick").write_bytes(b"")
    wait_for(lambda: not objects(cluster) & made, "the file is reaped and its objects are deleted")


@pytest.fixture(scope="module")
def second(cluster: Cluster) -> Iterator[Path]:
    path = cluster.mount("second")
    yield path
    cluster.unmount("second")


def test_what_one_mount_changes_the_other_sees(cluster: Cluster, here: Path, second: Path) -> None:
    """Its kernel's pages go, though the file stays open and nothing is written there."""
    there = second / here.relative_to(cluster.mountpoint) / "f"
    fd = file_of(here, "f", 4)
    other = os.open(there, os.O_RDONLY)
    assert os.pread(other, 1, PAGE) == b"B"
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, PAGE, PAGE)
    wait_for(lambda: os.pread(other, 1, PAGE) == b"\0", "the hole is seen")
    assert os.copy_file_range(fd, fd, PAGE, 0, PAGE) == PAGE
    wait_for(lambda: os.pread(other, 1, PAGE) == b"A", "the copy is seen")
    os.close(fd)
    os.close(other)


def test_appends_of_two_mounts_lose_nothing(cluster: Cluster, here: Path, second: Path) -> None:
    there = second / here.relative_to(cluster.mountpoint)
    here_log = os.open(here / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.fsync(here_log)
    other_log = os.open(there / "log", os.O_WRONLY | os.O_APPEND)
    reader = os.open(here / "log", os.O_RDONLY)
    written = b""
    for n in range(20):
        fd, path = ((here_log, here), (other_log, there))[n % 2]
        end = len(written)
        wait_for(lambda path=path, end=end: (path / "log").stat().st_size == end, "the end of the file is known")
        line = b"line %d\n" % n
        os.write(fd, line)
        os.fsync(fd)
        written += line
    content = written
    wait_for(lambda: os.pread(reader, 1000, 0) == content, "every line, once")
    for fd in (here_log, other_log, reader):
        os.close(fd)


@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC])
def test_a_synchronous_write_is_seen_elsewhere_when_it_returns(cluster: Cluster, here: Path, second: Path, flag: int) -> None:
    there = second / here.relative_to(cluster.mountpoint) / "f"
    fd = os.open(here / "f", os.O_CREAT | os.O_WRONLY | flag)
    for n in range(5):
        os.pwrite(fd, b"%d" % n, 0)
        assert there.read_bytes() == b"%d" % n
    os.close(fd)


def test_direct_io(here: Path) -> None:
    fd = os.open(here / "f", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    with mmap.mmap(-1, 4 * PAGE) as buffer:
        buffer[:] = b"d" * 4 * PAGE
        assert os.pwritev(fd, [buffer], PAGE) == 4 * PAGE
        with mmap.mmap(-1, 4 * PAGE) as back:
            assert os.preadv(fd, [back], 0) == 4 * PAGE
            assert back[:PAGE] == bytes(PAGE)
            assert back[PAGE:] == b"d" * 3 * PAGE
    assert (here / "f").read_bytes() == bytes(PAGE) + b"d" * 4 * PAGE
    os.close(fd)


def test_mappings(cluster: Cluster, here: Path, second: Path) -> None:
    """A shared one is stored by msync, a private one never; what write(2) does is seen in both until a page is written to."""
    there = second / here.relative_to(cluster.mountpoint) / "f"
    fd = file_of(here, "f", 3)
    with mmap.mmap(fd, 3 * PAGE) as shared, mmap.mmap(fd, 3 * PAGE, flags=mmap.MAP_PRIVATE) as private:
        shared[0:5] = b"shard"
        private[PAGE : PAGE + 5] = b"priva"
        os.pwrite(fd, b"write", 2 * PAGE)
        assert (shared[2 * PAGE : 2 * PAGE + 5], private[2 * PAGE : 2 * PAGE + 5]) == (b"write", b"write")
        assert os.pread(fd, 5, 0) == b"shard"
        shared.flush()
        os.fsync(fd)
        content = there.read_bytes()
        assert (content[:5], content[PAGE : PAGE + 5], content[2 * PAGE : 2 * PAGE + 5]) == (b"shard", b"BBBBB", b"write")
        fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, PAGE)
        assert shared[0:5] == bytes(5)
    os.close(fd)


def test_truncations_beside_writes(here: Path) -> None:
    """Nothing that was cut off comes back, whatever was under way."""
    fd = os.open(here / "f", os.O_CREAT | os.O_RDWR)
    for n in range(30):
        os.pwrite(fd, b"x" * 300_000, 0)
        os.ftruncate(fd, 1000 * n)
        os.ftruncate(fd, 300_000)
        content = os.pread(fd, 300_000, 0)
        assert content == b"x" * (1000 * n) + bytes(300_000 - 1000 * n)
    os.close(fd)
