"""Blocks on a local disk: files that hold whole objects, trailers included, found by name and proved by checksum.

Rules
 - It is only a cache: nothing in it is needed, nothing that goes wrong with it fails a read or a write. Files are not synced;
   one that a crash has torn fails its checksum, is removed, and the block is read from the store again. The caller verifies
   (this module moves bytes) and calls `drop` on what is bad.
 - Adding happens behind: `add` queues, a thread writes. When the queue is full the block is simply not cached.
 - The least recently used files go first when the limit is passed or the disk has less than `reserve_bytes` free. Use is
   remembered across restarts in the files' modification times, set at most once a minute per file.
 - Several mounts may share the directory: files appear by rename and are never changed; each mount scans the directory now
   and then to learn what the others hold. What another one evicts is simply missed.
 - `identity` separates stores and volumes whose object keys may be equal; it must change when a volume is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import secrets
import threading
import time
from typing import TYPE_CHECKING, Final

import structlog

from fuseclient.data.local_dir import read_file_nowait, write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Parts = Sequence[bytes | bytearray | memoryview]

_TEMP_PREFIX: Final = ".tmp-"
_TEMP_STALE_S: Final = 3600
_TOUCH_S: Final = 60.0
_RESCAN_S: Final = 600.0
_QUEUE_BYTES_MAX: Final = 64 << 20

_log = structlog.get_logger(__name__)


class _Held:
    """A file of the cache: its size, and when its use was last written down."""

    __slots__ = ("size", "touched_s")

    def __init__(self, size: int, touched_s: float) -> None:
        self.size = size
        self.touched_s = touched_s


class BlockCache:
    """See the module's text. `read`, `read_nowait`, `add` and `drop` may be called from any thread."""

    def __init__(
        self,
        directory: Path,
        identity: str,
        limit_bytes: int,
        *,
        reserve_bytes: int = 1 << 30,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._top = os.path.join(os.fspath(directory), "blocks")
        self._root = os.path.join(self._top, hashlib.sha256(identity.encode()).hexdigest()[:24])
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        self._limit_bytes = limit_bytes
        self._reserve_bytes = reserve_bytes
        self._now_s = now_s
        self._lock = threading.Lock()
        self._index: dict[str, _Held] = {}  # path -> file, in the order of use
        self._used = 0
        self._queued_bytes = 0
        self._scanned_s = 0.0
        self._queue: queue.SimpleQueue[tuple[str, Parts, int] | threading.Event | None] = queue.SimpleQueue()
        self.hits = self.misses = self.dropped = 0
        self._scan()
        self._thread = threading.Thread(target=self._work, name="block-cache", daemon=True)
        self._thread.start()

    @property
    def used(self) -> int:
        """Bytes in the files of all identities that share the directory, as far as known."""
        return self._used

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes | None:
        """The object's bytes, None when it is not here. They are not verified."""
        path = f"{self._root}/{key}"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                size = os.fstat(fd).st_size
                data = os.pread(fd, size - offset if length is None else length, offset)
            finally:
                os.close(fd)
        except (OSError, ValueError, OverflowError):
            self.misses += 1
            self._forget(path)
            return None
        self._used_now(path, size)
        return data

    def read_nowait(self, key: str, offset: int, into: memoryview) -> int:
        """See NowaitReads in object_store.py."""
        path = f"{self._root}/{key}"
        got = read_file_nowait(path, offset, into)
        if got > 0:
            self._used_now(path, 0)
        return got

    def holds(self, key: str) -> bool:
        """Whether it is known to be here; another mount's may be here all the same."""
        return f"{self._root}/{key}" in self._index

    def add(self, key: str, parts: Parts) -> None:
        """Keep an object, some time later; the parts must not change any more."""
        size = sum(map(len, parts))
        with self._lock:
            if self._queued_bytes + size > _QUEUE_BYTES_MAX or size > self._limit_bytes:
                return
            self._queued_bytes += size
        self._queue.put((f"{self._root}/{key}", parts, size))

    def drop(self, key: str) -> None:
        """Remove a file that is not what it should be."""
        path = f"{self._root}/{key}"
        self.dropped += 1
        _log.warning("a cached block is damaged; it is read from the store again", path=path)
        with contextlib.suppress(OSError):
            os.unlink(path)
        self._forget(path)

    def settle(self) -> None:
        """Wait until everything queued so far is written."""
        done = threading.Event()
        self._queue.put(done)
        done.wait()

    def close(self) -> None:
        """Write what is queued, and stop."""
        self._queue.put(None)
        self._thread.join()

    # the thread

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            if isinstance(job, threading.Event):
                job.set()
                continue
            path, parts, size = job
            try:
                self._store(path, parts, size)
                self._make_room()
                if self._now_s() - self._scanned_s > _RESCAN_S:
                    self._scan()
            except OSError as error:
                _log.warning("cannot write to the block cache", path=path, error=str(error))
            finally:
                del parts, job  # the queue may be empty for long; keep no block alive
                with self._lock:
                    self._queued_bytes -= size

    def _store(self, path: str, parts: Parts, size: int) -> None:
        if self._free_bytes() < self._reserve_bytes + size:
            self._make_room(size)
            if self._free_bytes() < self._reserve_bytes + size:
                return
        directory = os.path.dirname(path)
        temp = f"{directory}/{_TEMP_PREFIX}{secrets.token_hex(8)}"
        try:
            fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, parts)
            now_s = self._now_s()
            os.utime(fd, (now_s, now_s))
            os.rename(temp, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temp)
            raise
        finally:
            os.close(fd)
        self._used_now(path, size)

    def _make_room(self, extra: int = 0) -> None:
        """Remove the least recently used files until both limits are kept."""
        short = max(self._reserve_bytes + extra - self._free_bytes(), 0)
        while self._used + extra > self._limit_bytes or short > 0:
            with self._lock:
                path = next(iter(self._index), None)
            if path is None:
                return
            size = self._forget(path)
            short -= size
            with contextlib.suppress(OSError):
                os.unlink(path)
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(path))

    def _free_bytes(self) -> int:
        info = os.statvfs(self._root)
        return info.f_bavail * info.f_frsize

    # the index

    def _scan(self) -> None:
        """Learn what is there, oldest use first; temporary files that nobody can be writing any more are removed."""
        self._scanned_s = self._now_s()
        found: list[tuple[float, str, int]] = []
        for directory, _, names in os.walk(self._top):
            for name in names:
                path = f"{directory}/{name}"
                try:
                    info = os.lstat(path)
                    if not name.startswith(_TEMP_PREFIX):
                        found.append((info.st_mtime, path, info.st_size))
                    elif self._scanned_s - info.st_mtime > _TEMP_STALE_S:
                        os.unlink(path)
                except OSError:
                    continue  # removed by another mount meanwhile
        found.sort()
        with self._lock:
            self._index = {path: _Held(size, touched_s) for touched_s, path, size in found}
            self._used = sum(size for _, _, size in found)

    def _used_now(self, path: str, size: int) -> None:
        """Note a use; `size` counts for files that are new here (0: not known, the next scan finds it)."""
        now_s = self._now_s()
        with self._lock:
            held = self._index.pop(path, None)
            if held is None:
                if not size:
                    return
                held = _Held(size, now_s)
                self._used += size
            elif size and size != held.size:
                self._used += size - held.size
                held.size = size
            self._index[path] = held
            stale = now_s - held.touched_s > _TOUCH_S
            if stale:
                held.touched_s = now_s
        self.hits += 1
        if stale:
            with contextlib.suppress(OSError):
                os.utime(path, (now_s, now_s))

    def _forget(self, path: str) -> int:
        with self._lock:
            held = self._index.pop(path, None)
            if held is None:
                return 0
            self._used -= held.size
            return held.size
