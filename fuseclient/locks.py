"""Locks: flock(2), and record locks of processes and of open file descriptions, which hold between all mounts.

The metadata service grants them; here is what this mount's owners hold, so that closing a file without locks asks nobody.

 - Whoever is granted a lock sees what its holders wrote before: attributes and extents are those of the moment of the
   grant, and the kernel has dropped pages that are older. Before a lock is given up, what was written here is stored.
 - A wait costs nothing but its place in the service's queue; the grant is pushed (LockGranted). After a lost stream each
   wait is asked for once, since its push may have been missed.
 - close(2) gives up a process's record locks of that file: the kernel's FLUSH names the owner. Locks of an open file
   description (flock too) end with its RELEASE, which is after the last close has returned. RELEASE names nobody, so it is
   remembered through which handle an owner locked; a process that did so has flushed before.
 - When the session ends its locks are lost, and others may hold them. Each owner that held some is told by one EIO, at its
   next lock call on that file, and nothing is written any more through the handles that it locked with.
"""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Final, NamedTuple

from fuseclient.attr_raw import data_version_of
from fuseclient.errors import FsError
from fuseclient.operations import LockRange
from protos import meta_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from fuseclient.file_io import FileIo
    from fuseclient.knowledge import Knowledge

F_UNLCK: Final = 2
LOCK_RECORD: Final = 0
LAST: Final = 2**63 - 1


class Key(NamedTuple):
    """Whose locks of which file."""

    ino: int
    kind: int
    owner: int


class Locks:
    """Wraps the flush and release of `files`."""

    def __init__(self, known: Knowledge, files: FileIo) -> None:
        self._known = known
        self._meta = known.meta
        self._files = files
        self._held: dict[Key, set[int]] = {}  # and the handles through which it was locked
        self._by_handle: dict[int, set[Key]] = {}
        self._lost: dict[Key, set[int]] = {}
        #: by seq: True when the lock is granted, False when it never will be
        self._waits: dict[int, asyncio.Future[bool]] = {}
        self._resets = 0
        known.on_lock_granted = self._granted

    # calls

    async def getlk(self, ino: int, fh: int, lock: LockRange) -> LockRange:
        asked = pb.GetLock(ino=ino, owner=lock.owner, kind=lock.kind, type=lock.type, first=lock.first, last=lock.last)
        found = (await self._meta.read(pb.Request(get_lock=asked))).lock
        if found.type == F_UNLCK:
            return lock._replace(type=F_UNLCK)
        return LockRange(0, lock.kind, found.type, found.first, found.last, found.pid)

    def setlk(self, ino: int, fh: int, lock: LockRange, *, wait: bool) -> Awaitable[None] | None:
        key = Key(ino, lock.kind, lock.owner)
        if self._lost.pop(key, None) is not None:
            raise FsError(errno.EIO, "the session ended, and with it the locks")
        if lock.type != F_UNLCK:
            return self._take(key, fh, lock, wait=wait)
        return self._give_back(key, fh, lock) if key in self._held else None

    def flush(self, ino: int, fh: int, lock_owner: int) -> Awaitable[None] | None:
        if self._held:
            key = Key(ino, LOCK_RECORD, lock_owner)
            if key in self._held:
                return self._give_back(key, fh, _everything(key))
        if self._lost:
            self._lost.pop(Key(ino, LOCK_RECORD, lock_owner), None)
        return self._files.flush(ino, fh, lock_owner)

    def release(self, ino: int, fh: int) -> None:
        if self._lost:
            self._lost = {key: handles for key, handles in self._lost.items() if handles != {fh}}
        keys = self._by_handle.pop(fh, None) if self._by_handle else None
        if not keys:
            self._files.release(ino, fh)
            return
        stored = self._files.fsync(ino, fh, False)
        # At once if nothing is to be stored: whoever asks for the lock next, on this mount, is behind.
        given = None if stored is not None else self._unlock_all(keys)
        self._known.behind(self._release(ino, fh, keys, stored, given), f"giving up locks of inode {ino}")

    # taking

    async def _take(self, key: Key, fh: int, lock: LockRange, *, wait: bool) -> None:
        """Downgrading gives something up as well, so what was written is stored first."""
        if key in self._held:
            await self._store(key.ino, fh)
        tick = self._known.attrs.tick
        request = _set(key.ino, lock, wait=wait)
        attr = bytes((await (self._wait(request) if wait else self._meta.change(request))).attr)
        self._held.setdefault(key, set()).add(fh)
        self._by_handle.setdefault(fh, set()).add(key)
        if not attr:
            tick = self._known.attrs.tick
            attr = bytes((await self._meta.read(pb.Request(getattr=pb.GetAttr(ino=key.ino)))).attr)
        await self._see(attr, tick)

    async def _wait(self, request: pb.Request) -> pb.Response:
        """The answer to `request` once the lock is held. Cancelled: FsError EINTR, or the lock after all."""
        asked = self._meta.change(request)
        seq, resets = request.seq, self._resets
        granted = self._waits[seq] = asyncio.get_running_loop().create_future()
        try:
            response = await asyncio.shield(asked)
            if response.count:
                if resets != self._resets:
                    self._ask(seq)
                if not await asyncio.shield(granted):
                    raise FsError(errno.EIO, "the session ended before the lock was granted")
            return response
        except asyncio.CancelledError:
            return await self._give_up(asked, seq)
        finally:
            del self._waits[seq]

    async def _give_up(self, asked: asyncio.Future[pb.Response], seq: int) -> pb.Response:
        """The service tells in order whether the lock was granted before this."""
        cancelled = self._meta.change(pb.Request(cancel_lock=pb.CancelLock(seq=seq)))
        answers = await asyncio.gather(asked, cancelled, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        response, given_up = answers
        assert isinstance(response, pb.Response)
        assert isinstance(given_up, pb.Response)
        if response.count and not given_up.count:
            raise FsError(errno.EINTR)
        return response

    async def _see(self, raw: bytes, tick: int) -> None:
        """The holder's view of the file is the one of the grant, or newer: ours, and the kernel's."""
        attr = self._known.learn(raw, tick)
        version = data_version_of(attr)
        kernel, pages = self._known.kernel, self._known.pages
        if kernel is None:
            return
        if pages.get(attr.ino) != version:
            pages.put(attr.ino, version)
            kernel.invalidate_inode(attr.ino, data=True)
        settled = kernel.settled()
        if settled is not None:
            await settled

    # giving back

    async def _give_back(self, key: Key, fh: int, lock: LockRange) -> None:
        """What was written is stored first. If that fails the lock is given up all the same, and the caller is told."""
        try:
            await self._store(key.ino, fh)
        finally:
            if lock.first == 0 and lock.last == LAST:
                self._forget(key)
            await self._meta.change(_set(key.ino, lock, wait=False))

    async def _store(self, ino: int, fh: int) -> None:
        storing = self._files.fsync(ino, fh, False)
        if storing is not None:
            await storing

    def _unlock_all(self, keys: Iterable[Key]) -> list[asyncio.Future[pb.Response]]:
        for key in keys:
            self._forget(key)
        return [self._meta.change(_set(key.ino, _everything(key), wait=False)) for key in keys]

    async def _release(
        self,
        ino: int,
        fh: int,
        keys: set[Key],
        stored: Awaitable[None] | None,
        given: list[asyncio.Future[pb.Response]] | None,
    ) -> None:
        try:
            if stored is not None:
                await stored
        finally:
            try:
                await asyncio.gather(*(self._unlock_all(keys) if given is None else given))
            finally:
                self._files.release(ino, fh)  # after the locks: the service must not reap a file that is locked

    def _forget(self, key: Key) -> None:
        for fh in self._held.pop(key, ()):
            keys = self._by_handle.get(fh)
            if keys is not None:
                keys.discard(key)
                if not keys:
                    del self._by_handle[fh]

    # what comes from the service

    def _granted(self, seq: int) -> None:
        waiting = self._waits.get(seq)
        if waiting is not None and not waiting.done():
            waiting.set_result(True)

    def stream_lost(self) -> None:
        """Grants may have been missed."""
        self._resets += 1
        for seq in self._waits:
            self._ask(seq)

    def _ask(self, seq: int) -> None:
        """Whether that wait still lasts; it may not even have begun, then whoever began it asks."""
        self._known.behind(self._look(seq), "asking for a lock that is waited for")

    async def _look(self, seq: int) -> None:
        response = await self._meta.read(pb.Request(lock_wait=pb.LockWait(seq=seq)))
        if not response.count:
            self._granted(seq)

    def session_ended(self) -> None:
        """Nothing is held any more, and whoever waits does so for nothing."""
        for waiting in self._waits.values():
            if not waiting.done():
                waiting.set_result(False)
        self._lost.update(self._held)
        for fh in self._by_handle:
            self._files.fence(fh)
        self._held.clear()
        self._by_handle.clear()


def _set(ino: int, lock: LockRange, *, wait: bool) -> pb.Request:
    owner, kind, type_, first, last, pid = lock
    return pb.Request(
        set_lock=pb.SetLock(ino=ino, owner=owner, kind=kind, type=type_, first=first, last=last, pid=pid, wait=wait)
    )


def _everything(key: Key) -> LockRange:
    return LockRange(key.owner, key.kind, F_UNLCK, 0, LAST, 0)
