"""A disk in memory that loses power, fills up and fails: raft.disk.Disk with every fault that the log must survive.

What reads see (the page cache) and what a power loss leaves are kept apart. `plan(n, fault)` makes the n-th change from now go
wrong. After PowerLoss, `rebooted` gives the disk as it comes up again: each 512-byte piece of a write that was under way has
landed, or not, or in part; names changed since the last directory sync are kept up to some point. `killed` gives the disk as
the next process finds it when only the process died.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

SECTOR = 512


class PowerLoss(BaseException):
    """Not an Exception: no error handling may hold it up."""


class Fault(Enum):
    POWER = "power"
    NO_SPACE = "no space"  # part of the data is written, then ENOSPC
    SYNC_FAILS = "sync fails"  # reads see the data, the disk does not have it, and the cache forgot that it should: EIO


@dataclass
class MemoryFile:
    durable: bytearray = field(default_factory=bytearray)
    cached: bytearray = field(default_factory=bytearray)
    dirty: set[int] = field(default_factory=set)  # sectors written to the cache that the disk may have or not

    def touch(self, data: bytes, offset: int) -> list[int]:
        """Write into the cache; the sectors that this changes."""
        if len(self.cached) < offset + len(data):
            self.cached.extend(bytes(offset + len(data) - len(self.cached)))
        self.cached[offset : offset + len(data)] = data
        return list(range(offset // SECTOR, -(-(offset + len(data)) // SECTOR)))

    def land(self, sector: int, size: int = SECTOR) -> None:
        """The first `size` bytes of a sector reach the disk."""
        start = sector * SECTOR
        piece = self.cached[start : start + size]
        if len(self.durable) < len(self.cached):
            self.durable.extend(bytes(len(self.cached) - len(self.durable)))
        self.durable[start : start + len(piece)] = piece


class FaultyDisk:
    def __init__(self) -> None:
        self.names: dict[str, MemoryFile] = {}
        self.history: list[dict[str, MemoryFile]] = [{}]  # the last durable names, then what they became since
        self.writes: list[tuple[str, int, int]] = []  # every completed write: path at opening, offset, size
        self.before_write: Callable[[], None] = lambda: None
        self._handles: dict[int, tuple[str, MemoryFile]] = {}
        self._locks: dict[int, str] = {}
        self._next_fd = 3
        self._countdown = 0
        self._fault: Fault | None = None
        self._part = 0.5
        self._dead = False

    # -- faults --------------------------------------------------------------------------------------------------------------

    def plan(self, changes: int, fault: Fault, part: float = 0.5) -> None:
        """The `changes`-th change from now fails; of a write that runs out of space, `part` is written."""
        self._countdown, self._fault, self._part = changes, fault, part

    def _change(self) -> Fault | None:
        """Count one change; the fault that hits it. Faults on names: power, or an errno."""
        if self._dead:
            raise PowerLoss
        if self._countdown:
            self._countdown -= 1
            if not self._countdown:
                return self._fault
        return None

    def _change_name(self) -> None:
        fault = self._change()
        if fault is Fault.POWER:
            self._dead = True
            raise PowerLoss
        if fault is not None:
            raise OSError(errno.ENOSPC if fault is Fault.NO_SPACE else errno.EIO, fault.value)

    def rebooted(self, rng: random.Random) -> FaultyDisk:
        disk = FaultyDisk()
        disk.names = dict(rng.choice(self.history))
        disk.history = [dict(disk.names)]
        for file in {id(file): file for file in disk.names.values()}.values():
            for sector in sorted(file.dirty):
                file.land(sector, rng.choice((0, SECTOR, SECTOR, rng.randrange(SECTOR))))
            file.dirty = set()
            file.cached = bytearray(file.durable)
        return disk

    def killed(self) -> FaultyDisk:
        disk = FaultyDisk()
        disk.names, disk.history = dict(self.names), [*map(dict, self.history)]
        return disk

    # -- raft.disk.Disk ------------------------------------------------------------------------------------------------------

    def make_directory(self, path: str) -> None:
        pass

    def list(self, directory: str) -> list[str]:
        prefix = directory.rstrip("/") + "/"
        return list(dict.fromkeys(path.removeprefix(prefix).split("/")[0] for path in self.names if path.startswith(prefix)))

    def lock(self, directory: str) -> int:
        if directory in self._locks.values():
            raise OSError(errno.EBUSY, "in use by another process", directory)
        self._next_fd += 1
        self._locks[self._next_fd] = directory
        return self._next_fd

    def open(self, path: str, *, create: bool = False) -> int:
        if path not in self.names:
            if not create:
                raise FileNotFoundError(errno.ENOENT, "no such file", path)
            self._change_name()
            self.names[path] = MemoryFile()
            self._named()
        self._next_fd += 1
        self._handles[self._next_fd] = (path, self.names[path])
        return self._next_fd

    def close(self, fd: int) -> None:
        if fd not in self._handles and fd not in self._locks:
            raise OSError(errno.EBADF, "closed twice")
        self._handles.pop(fd, None)
        self._locks.pop(fd, None)

    def size(self, fd: int) -> int:
        return len(self._handles[fd][1].cached)

    def allocate(self, fd: int, size: int) -> None:
        self._change_name()
        file = self._handles[fd][1]
        missing = size - len(file.cached)
        if missing > 0:
            file.cached.extend(bytes(missing))

    def read(self, fd: int, count: int, offset: int) -> bytes:
        return bytes(self._handles[fd][1].cached[offset : offset + count])

    def write_durable(self, fd: int, data: bytes, offset: int) -> None:
        self.before_write()
        path, file = self._handles[fd]
        fault = self._change()
        if fault is Fault.NO_SPACE:
            file.dirty.update(file.touch(data[: int(len(data) * self._part)], offset))
            raise OSError(errno.ENOSPC, "no space left on device")
        sectors = file.touch(data, offset)
        if fault is Fault.SYNC_FAILS:
            file.dirty.difference_update(sectors)
            raise OSError(errno.EIO, "input/output error")
        if fault is Fault.POWER:
            file.dirty.update(sectors)
            self._dead = True
            raise PowerLoss
        # As RWF_DSYNC: the pages of this write are durable now; an earlier write elsewhere in the file may still not be.
        for sector in sectors:
            file.land(sector)
        file.dirty.difference_update(sectors)
        self.writes.append((path, offset, len(data)))

    def rename(self, source: str, target: str) -> None:
        self._change_name()
        self.names[target] = self.names.pop(source)
        self._named()

    def remove(self, path: str) -> None:
        self._change_name()
        del self.names[path]
        self._named()

    def sync_directory(self, directory: str) -> None:
        self._change_name()
        self.history = [dict(self.names)]

    def _named(self) -> None:
        self.history.append(dict(self.names))


class InlineHousekeeper:
    """Does the housekeeping at once, so that a test decides when it happens."""

    def submit(self, job: Callable[[], None]) -> None:
        job()

    def close(self) -> None:
        pass
