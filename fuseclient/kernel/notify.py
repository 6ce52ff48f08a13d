"""Tells the kernel to drop what it keeps: KernelCache over /dev/fuse.

The kernel takes the parent's lock to drop an entry and waits for pages under I/O to drop an inode's data, and both may be held
by a request that waits for us. So a thread of its own writes these; the event loop only queues them.

To drop an inode's attributes takes no lock that anybody holds while waiting, so that is written at once: when a file is opened
after another mount has closed it, the kernel must not believe the size that it remembers, which it never asks for again with
the open itself. Whatever the event loop answers after a notification is then answered to a kernel that knows of it.

What is queued is a set: an inode or a name that waits is not queued again. Inodes are bounded by what the kernel holds, names
by ENTRIES_MAX. Beyond that, names give way to one notification that makes the kernel look up every name anew (7.44), or on
an older kernel to their lifetimes: the oldest are dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import threading
from typing import TYPE_CHECKING, Final

from fuseclient.kernel import protocol as p
from fuseclient.kernel.protocol import InitFlag, Notify

if TYPE_CHECKING:
    from collections.abc import Callable

    from fuseclient.kernel.negotiation import Negotiated

ENTRIES_MAX: Final = 65_536
_EPOCH_SINCE_MINOR: Final = 44
_JOIN_S: Final = 1.0
_GONE: Final = frozenset((errno.ENODEV, errno.ECONNABORTED, errno.ENOTCONN, errno.EPERM, errno.EBADF))

log = logging.getLogger(__name__)


def inval_inode(nodeid: int, *, data: bool) -> bytes:
    """Attributes; with `data` every page too. The kernel reads a negative offset as attributes only."""
    out = p.NOTIFY_INVAL_INODE_OUT.pack(nodeid, 0 if data else -1, 0)
    return p.OUT_HEADER.pack(p.OUT_HEADER_BYTES + len(out), Notify.INVAL_INODE, 0) + out


def inval_entry(parent: int, name: bytes, flags: int) -> bytes:
    out = p.NOTIFY_INVAL_ENTRY_OUT.pack(parent, len(name), flags) + name + b"\0"
    return p.OUT_HEADER.pack(p.OUT_HEADER_BYTES + len(out), Notify.INVAL_ENTRY, 0) + out


def inc_epoch() -> bytes:
    return p.OUT_HEADER.pack(p.OUT_HEADER_BYTES, Notify.INC_EPOCH, 0)


def resend() -> bytes:
    """Asks for every request that was read and not answered, after a takeover."""
    return p.OUT_HEADER.pack(p.OUT_HEADER_BYTES, Notify.RESEND, 0)


class KernelNotifier:
    """One mount's notifications. `knows` tells which inodes the kernel holds; `nodeid` gives their number there."""

    def __init__(
        self, fd: int, *, knows: Callable[[int], bool], nodeid: Callable[[int], int], entries_max: int = ENTRIES_MAX
    ) -> None:
        # A descriptor of our own: the thread may outlast the mount's, whose number could be another file's by then.
        self._fd = os.dup(fd)
        self._knows = knows
        self._nodeid = nodeid
        self._entries_max = entries_max
        self._flags = 0
        self._has_epoch = False
        self._wake = threading.Condition()
        self._inodes: dict[int, bool] = {}
        self._entries: dict[tuple[int, bytes], None] = {}
        self._everything = False
        self._settling: list[asyncio.Future[None]] = []
        self._writing = False
        self._closed = False
        self._started = False
        self._thread: threading.Thread | None = None
        self.sent = 0  # by the thread
        self.unknown = 0
        self.dropped = 0

    def start(self, agreed: Negotiated) -> None:
        """Begin to write; what was queued before goes out now."""
        # An expired name is looked up again and stays if it is the same file; a dropped one detaches what is mounted below.
        self._flags = p.EXPIRE_ONLY if agreed.has(InitFlag.HAS_EXPIRE_ONLY) else 0
        self._has_epoch = agreed.minor >= _EPOCH_SINCE_MINOR
        self._thread = threading.Thread(target=self._run, name="fuse-notify", daemon=True)
        self._thread.start()
        self._started = True

    def invalidate_inode(self, ino: int, *, data: bool) -> None:
        if not self._knows(ino):
            return
        nodeid = self._nodeid(ino)
        with self._wake:
            if self._started and not self._closed:
                self._forget_attributes(nodeid)
                if not data:
                    return
            self._inodes[nodeid] = data or self._inodes.get(nodeid, False)
            self._wake.notify()

    def _forget_attributes(self, nodeid: int) -> None:
        # Refused: the kernel does not know the inode, or the mount is gone, which reading will tell.
        with contextlib.suppress(OSError):
            os.write(self._fd, inval_inode(nodeid, data=False))

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        if not self._knows(parent):
            return
        nodeid = self._nodeid(parent)
        with self._wake:
            # The kernel drops a directory's listing with a name only if it has that name, so the listing is named as well.
            self._inodes[nodeid] = True
            if not self._everything:
                self._entries[nodeid, name] = None
                if len(self._entries) > self._entries_max:
                    self._overflow()
            self._wake.notify()

    def settled(self) -> asyncio.Future[None] | None:
        """See KernelCache."""
        with self._wake:
            queued = self._writing or self._inodes or self._entries or self._everything
            if not queued or not self._started or self._closed:
                return None
            future = asyncio.get_running_loop().create_future()
            self._settling.append(future)
            self._wake.notify()
            return future

    def close(self) -> None:
        """End the thread. One that the kernel holds up is left behind, with its descriptor, until the mount lets it go."""
        with self._wake:
            if self._closed:
                return
            self._closed = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(_JOIN_S)
            if self._thread.is_alive():
                log.warning("a notification to the kernel is still held up; its thread ends with the mount")
                return
        os.close(self._fd)

    def _overflow(self) -> None:
        if self._has_epoch:
            self.dropped += len(self._entries)
            self._entries.clear()
            self._everything = True
        else:
            self.dropped += 1
            del self._entries[next(iter(self._entries))]

    def _run(self) -> None:
        try:
            while self._write_queued():
                pass
        finally:
            with self._wake:
                self._writing = self._started = False  # nobody writes what is queued from now on
                settling, self._settling = self._settling, []
            _tell(settling)

    def _write_queued(self) -> bool:
        """Wait for something, and write it; False at the end."""
        with self._wake:
            self._writing = False
            self._wake.wait_for(
                lambda: self._closed or self._inodes or self._entries or self._everything or self._settling,
            )
            if self._closed:
                return False
            self._writing = True
            settling, self._settling = self._settling, []
            inodes, self._inodes = self._inodes, {}
            entries, self._entries = self._entries, {}
            everything, self._everything = self._everything, False
        messages = [inc_epoch()] if everything else []
        messages += [inval_entry(parent, name, self._flags) for parent, name in entries]
        messages += [inval_inode(nodeid, data=data) for nodeid, data in inodes.items()]
        there = all(map(self._write, messages))
        _tell(settling)
        return there

    def _write(self, message: bytes) -> bool:
        """False when the mount is gone."""
        if self._closed:
            return False
        try:
            os.write(self._fd, message)
        except OSError as failure:
            if failure.errno in _GONE:
                return False
            if failure.errno == errno.ENOENT:  # not, or no longer, in the kernel's cache: what was wanted
                self.unknown += 1
            else:
                log.warning("the kernel refused a notification: %s", failure)
            return True
        self.sent += 1
        return True


def _tell(settling: list[asyncio.Future[None]]) -> None:
    """From the thread: what these wait for has been written."""
    for future in settling:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            future.get_loop().call_soon_threadsafe(_done, future)


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
