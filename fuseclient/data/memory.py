"""Bounds on memory: data that waits to be uploaded (WriteBudget) and blocks that were read (BlockMemory).

Used on the event loop only.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from fuseclient.data.block import segment_count


class BlockRef(NamedTuple):
    """A block: `number` of `slice`, `size` bytes. Names an object, and never means anything else."""

    slice: int
    number: int
    size: int


class WriteBudget:
    """Bytes written and not yet uploaded, of all files together.

    Taking never fails, since a write's data must be copied before it can wait; whoever took while `over` waits afterwards.
    So the limit is passed by at most one write for each request that the kernel has in flight.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used = 0
        self.uploading = 0  # the part of `used` that is on its way already
        self.peak = 0
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def over(self) -> bool:
        return self.used > self.limit_bytes

    @property
    def idle_is_much(self) -> bool:
        """Whether waiting alone will not do: too much of it is not even on its way."""
        return self.used - self.uploading > self.limit_bytes // 2

    def take(self, size: int) -> None:
        self.used += size
        self.peak = max(self.peak, self.used)

    def give(self, size: int) -> None:
        self.used -= size
        if self._waiters and not self.over:
            self.wake()

    def wake(self) -> None:
        """Let everybody look again, who waits."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def changed(self) -> None:
        """Wait until there is room, or `wake` says that something else matters."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter


class BlockMemory:
    """Verified segments of blocks, the least recently used block going first."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._blocks: dict[BlockRef, list[bytes | None]] = {}  # in the order of use
        self.used = 0
        self.hits = 0

    def segments(self, ref: BlockRef) -> list[bytes | None] | None:
        """What is known of a block, one place per segment; counts as a use."""
        segments = self._blocks.pop(ref, None)
        if segments is not None:
            self._blocks[ref] = segments
        return segments

    def holds(self, ref: BlockRef) -> bool:
        """Whether the whole block is here; does not count as a use."""
        segments = self._blocks.get(ref)
        return segments is not None and None not in segments

    def add(self, ref: BlockRef, first: int, segments: list[bytes]) -> None:
        """Keep `segments`, which start with number `first`."""
        known = self._blocks.pop(ref, None)
        if known is None:
            known = [None] * segment_count(ref.size)
        for number, segment in enumerate(segments, first):
            old = known[number]
            if old is not None:
                self.used -= len(old)
            known[number] = segment
            self.used += len(segment)
        self._blocks[ref] = known
        while self.used > self._limit_bytes and len(self._blocks) > 1:
            self.drop(next(iter(self._blocks)))

    def drop(self, ref: BlockRef) -> None:
        for segment in self._blocks.pop(ref, ()):
            if segment is not None:
                self.used -= len(segment)
