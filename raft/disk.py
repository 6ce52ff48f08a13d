"""Everything that `raft` asks of a file system, in one small protocol, and the real one behind it.

A write is durable when `write_durable` returns; there is no other kind of write, so no caller can forget a sync. Names are
durable after `sync_directory`. Errors are OSError with the kernel's errno. The log is written against this protocol, so that
tests can put a disk under it that tears, fills up, lies about names or fails a sync.

Not here: any knowledge of what is in the files.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Protocol

_FLAG_UNSUPPORTED = frozenset((errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS))


class Disk(Protocol):
    def make_directory(self, path: str) -> None:
        """Create the directory (and its parents) unless it is there."""

    def list(self, directory: str) -> list[str]:
        """The names in the directory."""

    def lock(self, directory: str) -> int:
        """Lock the directory for this process until the handle is closed; OSError(EBUSY) when another one has it."""

    def open(self, path: str, *, create: bool = False) -> int:
        """A handle for reading and writing."""

    def close(self, fd: int) -> None: ...

    def size(self, fd: int) -> int: ...

    def allocate(self, fd: int, size: int) -> None:
        """Reserve space for `size` bytes; what was not written reads as zeros. Never shrinks."""

    def read(self, fd: int, count: int, offset: int) -> bytes:
        """`count` bytes, fewer only at the end of the file."""

    def write_durable(self, fd: int, data: bytes, offset: int) -> None:
        """Write, and return when a power loss cannot undo it. After an error any part may have been written."""

    def rename(self, source: str, target: str) -> None: ...

    def remove(self, path: str) -> None: ...

    def sync_directory(self, directory: str) -> None:
        """Make creations, renames and removals in the directory durable."""


class RealDisk:
    """The operating system's files.

    `write_durable` is one system call, pwritev2 with RWF_DSYNC, where the kernel has it: on space that was written before, it
    changes no metadata and costs about two thirds of an append with fdatasync.
    """

    def __init__(self) -> None:
        self._dsync = getattr(os, "RWF_DSYNC", 0)

    def make_directory(self, path: str) -> None:
        if os.path.isdir(path):
            return
        parent = os.path.dirname(os.path.abspath(path))
        self.make_directory(parent)
        os.mkdir(path, 0o700)
        self.sync_directory(parent)

    def list(self, directory: str) -> list[str]:
        return os.listdir(directory)

    def lock(self, directory: str) -> int:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            reason = "in use by another process; a log has one owner at a time, stop the other server first"
            raise OSError(errno.EBUSY, reason, directory) from None
        except OSError:
            os.close(fd)
            raise
        return fd

    def open(self, path: str, *, create: bool = False) -> int:
        return os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o600)

    def close(self, fd: int) -> None:
        os.close(fd)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def allocate(self, fd: int, size: int) -> None:
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            if error.errno not in _FLAG_UNSUPPORTED:
                raise
            if self.size(fd) < size:
                os.ftruncate(fd, size)

    def read(self, fd: int, count: int, offset: int) -> bytes:
        data = os.pread(fd, count, offset)
        if len(data) == count or not data:
            return data
        parts = [data]
        got = len(data)
        while got < count and (data := os.pread(fd, count - got, offset + got)):
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def write_durable(self, fd: int, data: bytes, offset: int) -> None:
        done = 0
        if self._dsync:
            try:
                done = os.pwritev(fd, (data,), offset, self._dsync)
                while done < len(data):
                    done += os.pwritev(fd, (memoryview(data)[done:],), offset + done, self._dsync)
            except OSError as error:
                if error.errno not in _FLAG_UNSUPPORTED:
                    raise
                self._dsync = 0
            else:
                return
        while done < len(data):
            done += os.pwrite(fd, memoryview(data)[done:], offset + done)
        os.fdatasync(fd)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def remove(self, path: str) -> None:
        os.unlink(path)

    def sync_directory(self, directory: str) -> None:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
