"""The disk under one simulated node: faulty_disk.FaultyDisk, which can also be full for a while and have its bits flipped."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from tests.raft.faulty_disk import Fault, FaultyDisk

if TYPE_CHECKING:
    import random


class SimDisk(FaultyDisk):
    def __init__(self) -> None:
        super().__init__()
        self.full = False

    def allocate(self, fd: int, size: int) -> None:
        self._refuse_if_full()
        super().allocate(fd, size)

    def open(self, path: str, *, create: bool = False) -> int:
        if create and path not in self.names:
            self._refuse_if_full()
        return super().open(path, create=create)

    def write_durable(self, fd: int, data: bytes, offset: int) -> None:
        """On a full disk only space that was written before can be written."""
        if self.full and offset + len(data) > self.size(fd):
            raise OSError(errno.ENOSPC, "no space left on device")
        super().write_durable(fd, data, offset)

    def flip_bit(self, rng: random.Random, path: str, start: int, stop: int) -> None:
        """Of what is on the disk and in the cache alike."""
        file = self.names[path]
        at, bit = rng.randrange(start, stop), 1 << rng.randrange(8)
        for data in (file.cached, file.durable):
            if at < len(data):
                data[at] ^= bit

    def copy(self) -> SimDisk:
        """An image of it, taken while no process runs."""
        disk = SimDisk()
        disk._take(self.killed())
        for path, file in disk.names.items():
            disk.names[path] = copy = type(file)(bytearray(file.durable), bytearray(file.cached), set(file.dirty))
            assert copy is not file
        disk.history = [dict(disk.names)]
        return disk

    def after_power_loss(self, rng: random.Random) -> SimDisk:
        return self._next(self.rebooted(rng))

    def after_kill(self) -> SimDisk:
        return self._next(self.killed())

    def _next(self, disk: FaultyDisk) -> SimDisk:
        mine = SimDisk()
        mine._take(disk)
        mine.full = self.full
        return mine

    def _take(self, disk: FaultyDisk) -> None:
        self.names, self.history = disk.names, disk.history

    def _refuse_if_full(self) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "no space left on device")


__all__ = ["Fault", "SimDisk"]
