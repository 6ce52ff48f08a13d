"""fsx for KeelFS: random calls on one file, every byte compared with a model in memory, on a real mount.

The calls are those that touch a file's contents: read, write, mmap, truncate, fallocate (allocate, punch, zero),
copy_file_range, fsync, seek. With two mounts each call is made on either of them, between an open and a close: what one closed
the other opens.
COLLAPSE_RANGE and INSERT_RANGE never get past the kernel's FUSE; tests/core/test_core_ranges.py has them.

The seed is printed; `KEELFS_FSX_SEED` sets it.
"""

from __future__ import annotations

import mmap
import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.fuse.cluster import wait_for
from tests.fuse.file_calls import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, fallocate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fuse.cluster import Cluster

ROOM = 300_000
AWAY = 64 << 20  # added to every offset of half of the runs, less half the room: the calls lie around a chunk's end


class Fsx:
    """One file. `open` gives a descriptor, as new as the test wants it."""

    def __init__(self, paths: list[Path], seed: int, base: int, *, reopen: bool) -> None:
        self.random = random.Random(seed)
        self.paths = paths
        self.base = base
        self.reopen = reopen
        self.model = bytearray()  # from `base` on
        self.fds: dict[Path, int] = {}
        self.did: list[str] = []
        os.close(os.open(paths[0], os.O_CREAT | os.O_EXCL | os.O_RDWR))
        if base:
            os.truncate(paths[0], base)

    def run(self, count: int) -> None:
        for _ in range(count):
            path = self.random.choice(self.paths)
            fd = self.fds.get(path)
            if fd is None:
                fd = self.fds[path] = os.open(path, os.O_RDWR)
            call = self.random.choice(self.calls)
            call(self, fd)
            assert os.fstat(fd).st_size == self.base + len(self.model), self.story()
            if self.reopen:
                os.close(self.fds.pop(path))
        for path in self.paths:
            with open(path, "rb") as file:
                file.seek(self.base)
                assert file.read() == self.model, self.story()
        for fd in self.fds.values():
            os.close(fd)

    def story(self) -> str:
        return "the last calls were " + "; ".join(self.did[-12:])

    def span(self, room: int = ROOM) -> tuple[int, int]:
        """An offset and a length, at times whole pages."""
        offset = self.random.randrange(room)
        length = self.random.choice((1, 100, 4096, 10_000, 70_000, self.random.randrange(1, 50_000)))
        if self.random.random() < 0.3:
            offset &= -4096
        return offset, min(length, room - offset)

    def note(self, *what: object) -> None:
        self.did.append(" ".join(map(str, what)))
        del self.did[:-50]

    def put(self, offset: int, data: bytes) -> None:
        self.grow(offset + len(data))
        self.model[offset : offset + len(data)] = data

    def grow(self, size: int) -> None:
        self.model += bytes(max(0, size - len(self.model)))

    # --- calls --------------------------------------------------------------------------------------------------------

    def read(self, fd: int) -> None:
        offset, length = self.span()
        self.note("read", offset, length)
        assert os.pread(fd, length, self.base + offset) == self.model[offset : offset + length], self.story()

    def write(self, fd: int) -> None:
        offset, length = self.span()
        self.note("write", offset, length)
        data = self.random.randbytes(length)
        assert os.pwrite(fd, data, self.base + offset) == length
        self.put(offset, data)

    def truncate(self, fd: int) -> None:
        size = self.random.randrange(ROOM)
        self.note("truncate", size)
        os.ftruncate(fd, self.base + size)
        del self.model[size:]
        self.grow(size)

    def allocate(self, fd: int) -> None:
        offset, length = self.span()
        keep = self.random.random() < 0.5
        self.note("allocate", offset, length, "keep" if keep else "")
        fallocate(fd, KEEP_SIZE if keep else 0, self.base + offset, length)
        if not keep:
            self.grow(offset + length)

    def punch(self, fd: int) -> None:
        offset, length = self.span()
        self.note("punch", offset, length)
        fallocate(fd, PUNCH_HOLE | KEEP_SIZE, self.base + offset, length)
        self.clear(offset, length)

    def zero(self, fd: int) -> None:
        offset, length = self.span()
        keep = self.random.random() < 0.5
        self.note("zero", offset, length, "keep" if keep else "")
        fallocate(fd, ZERO_RANGE | (KEEP_SIZE if keep else 0), self.base + offset, length)
        if not keep:
            self.grow(offset + length)
        self.clear(offset, length)

    def clear(self, offset: int, length: int) -> None:
        end = min(offset + length, len(self.model))
        if offset < end:
            self.model[offset:end] = bytes(end - offset)

    def copy(self, fd: int) -> None:
        offset, length = self.span()
        target = self.random.randrange(ROOM - length)
        length = min(length, len(self.model) - offset)
        if length < 1 or abs(offset - target) < length:
            return
        self.note("copy", offset, length, "to", target)
        # This call alone believes the size that the kernel remembers, which what another mount did reaches a moment later.
        wait_for(lambda: os.fstat(fd).st_size == self.base + len(self.model), "the kernel knows the size")
        assert os.copy_file_range(fd, fd, length, self.base + offset, self.base + target) == length
        self.put(target, bytes(self.model[offset : offset + length]))

    def map_write(self, fd: int) -> None:
        offset, length = self.span(max(len(self.model), 1))
        if not length or offset + length > len(self.model):
            return
        self.note("mmap write", offset, length)
        data = self.random.randbytes(length)
        with self.mapped(fd, offset, length) as (view, at):
            view[at : at + length] = data
            view.flush()
        self.put(offset, data)

    def map_read(self, fd: int) -> None:
        offset, length = self.span(max(len(self.model), 1))
        if not length or offset + length > len(self.model):
            return
        self.note("mmap read", offset, length)
        with self.mapped(fd, offset, length) as (view, at):
            assert view[at : at + length] == self.model[offset : offset + length], self.story()

    def mapped(self, fd: int, offset: int, length: int) -> Mapped:
        start = (self.base + offset) & -mmap.ALLOCATIONGRANULARITY
        at = self.base + offset - start
        return Mapped(mmap.mmap(fd, at + length, offset=start), at)

    def sync(self, fd: int) -> None:
        self.note("fsync")
        os.fsync(fd)

    def seek(self, fd: int) -> None:
        """Whatever is not zero is data."""
        offset, _ = self.span()
        self.note("seek", offset)
        try:
            data = os.lseek(fd, self.base + offset, os.SEEK_DATA) - self.base
        except OSError:
            data = len(self.model)
        assert not any(self.model[offset:data]), self.story()

    calls = (read, read, write, write, write, truncate, allocate, punch, zero, copy, copy, map_write, map_read, sync, seek)


class Mapped:
    """A mapping that is closed in the end, and where in it the wanted byte is."""

    def __init__(self, view: mmap.mmap, at: int) -> None:
        self.view = view
        self.at = at

    def __enter__(self) -> tuple[mmap.mmap, int]:
        return self.view, self.at

    def __exit__(self, *_: object) -> None:
        self.view.close()


def seed() -> int:
    chosen = int(os.environ.get("KEELFS_FSX_SEED") or random.randrange(1 << 32))
    print(f"KEELFS_FSX_SEED={chosen}")
    return chosen


@pytest.fixture(scope="module")
def second(cluster: Cluster) -> Iterator[Path]:
    path = cluster.mount("second")
    yield path
    cluster.unmount("second")


@pytest.mark.parametrize("base", [0, AWAY - ROOM // 2])
def test_one_mount(here: Path, base: int) -> None:
    Fsx([here / "f"], seed(), base, reopen=False).run(1500)


@pytest.mark.parametrize("base", [0, AWAY - ROOM // 2])
def test_two_mounts_alternating(cluster: Cluster, here: Path, second: Path, base: int) -> None:
    there = second / here.relative_to(cluster.mountpoint)
    Fsx([here / "f", there / "f"], seed(), base, reopen=True).run(500)


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
def test_a_million_calls(cluster: Cluster, here: Path, second: Path) -> None:
    there = second / here.relative_to(cluster.mountpoint)
    for number in range(500):
        base = (0, AWAY - ROOM // 2)[number % 2]
        name = f"f{number}"
        Fsx([here / name], seed(), base, reopen=False).run(1600)
        os.unlink(here / name)
        Fsx([here / name, there / name], seed(), base, reopen=True).run(400)
        os.unlink(here / name)
