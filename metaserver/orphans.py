"""Inodes without a name: known as soon as their last name goes, reaped as soon as nobody holds them open.

The state keeps an index of orphans; this keeps the same set in memory, read once at the start and then kept up by the
results of every entry, so that nothing is searched for. Reaping is logged (`Reap`), in batches, with the next entry: a program
that removes one file after the other does not wait for an entry between two of them, and what comes next finds the space free.
Until every session that was open at the start has come back or expired nothing is reaped, because nobody else knows what they
hold open.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from metaserver.core import entry as ops
from metaserver.core.model import Ino
from raft.errors import ReplicationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from metaserver.core.entry import Item, Result
    from metaserver.writes import Writes

_log = structlog.get_logger(__name__)

BATCH: Final = 256
CHUNKS_PER_REAP: Final = 256  # chunk records that one inode loses in one step
_RETRY_S: Final = 1.0


class Orphans:
    """The set of orphans and the task that works it off."""

    def __init__(self, writes: Writes, held: Callable[[int], bool], still_orphan: Callable[[int], bool]) -> None:
        self._writes = writes
        self._held = held
        self._still_orphan = still_orphan
        self._known: set[int] = set()
        self._ready: dict[int, None] = {}  # known and free, in the order in which they became so
        self._reaping: set[int] = set()  # named in a Reap and not known to be gone
        self._grace = True
        self._wake = asyncio.Event()

    @property
    def count(self) -> int:
        return len(self._known)

    def load(self, inodes: Iterable[int]) -> None:
        """The orphans in the state at the start."""
        self._known.update(inodes)

    def end_grace(self) -> None:
        """Every session from before the start is back or gone: what is held is known from now on."""
        if not self._grace:
            return
        self._grace = False
        for ino in sorted(self._known):
            self.freed(ino)

    def observe(self, items: Sequence[Item], results: Sequence[Result]) -> None:
        """Learn from an applied entry which inodes lost their last name, or got one again."""
        for result in results:
            for inode in (result.inode, result.other):
                if inode is None:
                    continue
                if inode.nlink == 0:
                    self._known.add(inode.ino)
                    self.freed(inode.ino)
                elif self._known and inode.ino in self._known:
                    self._known.discard(inode.ino)
                    self._ready.pop(inode.ino, None)

    def freed(self, ino: int) -> None:
        """Nobody holds the inode (any more): reap it if it is an orphan."""
        if ino in self._known and not self._grace and not self._held(ino):
            self._ready[ino] = None
            self._wake.set()

    def is_reaping(self, ino: int) -> bool:
        """A Reap that names this inode is on its way: it can no longer be opened."""
        return ino in self._reaping

    async def run(self) -> None:
        """Reap until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while batch := self._next_batch():
                if not await self._reap(batch):
                    await asyncio.sleep(_RETRY_S)

    def _next_batch(self) -> list[int]:
        batch: list[int] = []
        while self._ready and len(batch) < BATCH:
            ino = next(iter(self._ready))
            del self._ready[ino]
            if not self._still_orphan(ino):  # removed at once, as directories are
                self._known.discard(ino)
            elif not self._held(ino):  # else opened again in between: `freed` brings it back
                batch.append(ino)
        return batch

    async def _reap(self, batch: list[int]) -> bool:
        self._reaping.update(batch)
        try:
            result = await self._writes.call(ops.Reap(tuple([Ino(ino) for ino in batch]), CHUNKS_PER_REAP), rides=True)
            if result.errno:
                _log.error("reaping was refused", errno=result.errno, detail=result.detail)
        except ReplicationError as error:
            _log.warning("reaping has to wait", reason=str(error))
            self._ready.update(dict.fromkeys(batch))
            return False
        for ino in batch:
            if self._still_orphan(ino):  # larger than one step; nobody may open what is half gone
                self._ready[ino] = None
            else:
                self._known.discard(ino)
                self._reaping.discard(ino)
        return not result.errno
