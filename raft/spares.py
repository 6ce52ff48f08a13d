"""The file that will be the next segment, prepared before it is needed, and the disposal of those that are not needed any more.

Writing over space that was written before is the fastest durable write there is. A trimmed segment of the right size becomes
the spare as it is. When there is none by the time that a quarter of the current segment is used, a new file is allocated and
filled with zeros in small steps. The rest of the current segment and the spare are also the ballast: they take what must
still be logged when the disk is full.

All of it runs on one housekeeping thread. A failure here loses nothing: the log then makes its next segment itself, or
refuses. Only `take` and the properties are called from elsewhere.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, Protocol

from raft.recovery import SPARE_SUFFIX

if TYPE_CHECKING:
    from raft.disk import Disk

Job = Callable[[], None]
_ZERO_STEP = 1 << 20

log = logging.getLogger(__name__)


class Housekeeper(Protocol):
    """Runs jobs one at a time, in order, away from whoever submits them."""

    def submit(self, job: Job) -> None: ...

    def close(self) -> None:
        """Return when everything submitted has run."""


class HousekeepingThread:
    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "wal-housekeeper")

    def submit(self, job: Job) -> None:
        self._executor.submit(job)

    def close(self) -> None:
        self._executor.shutdown()


class Spare(NamedTuple):
    path: str
    fd: int
    size: int


class SparePool:
    def __init__(self, disk: Disk, directory: str, segment_bytes: int, housekeeper: Housekeeper, found: list[str]) -> None:
        """`found` are the spare files of an earlier process: one is taken over, the rest is removed. Raises OSError."""
        self._disk = disk
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._housekeeper = housekeeper
        self._lock = threading.Lock()  # held for one step of disk work at a time, so `take` waits for one at most
        self._spare: Spare | None = None
        self._zeroed_to = 0
        self._made = max((int(name.removesuffix(SPARE_SUFFIX)) for name in found), default=0)
        self._closing = False
        self._stuck = False
        self._short = False
        for name in found:
            self._adopt(os.path.join(directory, name))

    @property
    def short(self) -> bool:
        """There was no room for a spare when it was last tried."""
        return self._short and self._spare is None

    def prepare(self) -> None:
        """See to it that there is a spare, soon, and that its space has been written."""
        self._housekeeper.submit(self._prepare)

    def retire(self, path: str, fd: int, size: int) -> None:
        """Take a segment that is no longer part of the log: make it the spare or remove it."""
        self._housekeeper.submit(lambda: self._retire(Spare(path, fd, size)))

    def discard(self, name: str) -> None:
        """Remove a leftover file, soon."""
        self._housekeeper.submit(lambda: self._discard(os.path.join(self._directory, name)))

    def take(self, size_min: int) -> Spare:
        """A file of at least `size_min` bytes for the next segment; makes one when there is none. Raises OSError."""
        with self._lock:
            spare = self._spare
            if spare is not None and spare.size >= size_min:
                self._spare = None
                return spare
            return self._create(max(self._segment_bytes, size_min))

    def give_back(self, spare: Spare) -> None:
        """Undo a `take`."""
        with self._lock:
            if self._spare is None and spare.size == self._segment_bytes:
                self._spare, self._zeroed_to = spare, spare.size
                return
        self._disk.close(spare.fd)
        with contextlib.suppress(OSError):
            self._disk.remove(spare.path)

    def close(self) -> None:
        """Finish the disposals, drop the preparations. The spare stays on disk for the next start."""
        self._closing = True
        self._housekeeper.close()
        if self._spare is not None:
            self._disk.close(self._spare.fd)
            self._spare = None

    def create(self, size: int) -> Spare:
        """A new file with its space reserved and written, for a log that has nothing yet. Raises OSError."""
        with self._lock:
            spare = self._create(size)
        self._disk.write_durable(spare.fd, bytes(size), 0)
        return spare

    def _adopt(self, path: str) -> None:
        fd = self._disk.open(path)
        if self._spare is None and self._disk.size(fd) == self._segment_bytes:
            self._spare = Spare(path, fd, self._segment_bytes)
            return
        self._disk.close(fd)
        self._disk.remove(path)

    def _next_path(self) -> str:
        self._made += 1
        return os.path.join(self._directory, f"{self._made:010d}{SPARE_SUFFIX}")

    def _create(self, size: int) -> Spare:
        path = self._next_path()
        fd = self._disk.open(path, create=True)
        try:
            self._disk.allocate(fd, size)
        except OSError:
            self._disk.close(fd)
            with contextlib.suppress(OSError):
                self._disk.remove(path)
            raise
        return Spare(path, fd, size)

    def _prepare(self) -> None:
        with self._lock:
            if self._spare is None and not self._closing:
                try:
                    self._spare, self._zeroed_to = self._create(self._segment_bytes), 0
                    self._short = False
                except OSError as error:
                    self._short = True
                    log.warning("no space set aside for the next log segment: %s", error)
            wanted = self._spare
        while self._warm_step(wanted):
            pass

    def _warm_step(self, wanted: Spare | None) -> bool:
        with self._lock:
            spare = self._spare
            if spare is None or spare is not wanted or self._closing or self._zeroed_to >= spare.size:
                return False
            count = min(_ZERO_STEP, spare.size - self._zeroed_to)
            try:
                self._disk.write_durable(spare.fd, bytes(count), self._zeroed_to)
            except OSError as error:
                log.warning("the next log segment could not be prepared: %s", error)
                return False
            self._zeroed_to += count
            return True

    def _retire(self, old: Spare) -> None:
        """One at a time, oldest first or not at all: the names that are left are never a log with a hole."""
        with self._lock:
            recycle = self._spare is None and old.size == self._segment_bytes and not self._closing and not self._stuck
            path = self._next_path() if recycle else None
            try:
                if self._stuck:
                    pass
                elif path is not None:
                    self._disk.rename(old.path, path)
                    # Not before its old name is gone for good may the file get a new content.
                    self._disk.sync_directory(self._directory)
                    self._spare, self._zeroed_to = Spare(path, old.fd, old.size), old.size
                    return
                else:
                    self._disk.remove(old.path)
                    self._disk.sync_directory(self._directory)
            except OSError as error:
                self._stuck = True
                log.warning("a trimmed log segment could not be removed; trimming goes on after a restart: %s", error)
            self._disk.close(old.fd)

    def _discard(self, path: str) -> None:
        if self._stuck:
            return
        try:
            self._disk.remove(path)
            self._disk.sync_directory(self._directory)
        except OSError as error:
            # A replaced segment must not outlive the one that replaces it.
            self._stuck = True
            log.warning("a leftover log segment could not be removed; trimming goes on after a restart: %s", error)
