"""Blocks, from wherever they are nearest: memory, the disk cache, the object store. Nothing unverified leaves here.

Rules
 - `read_now` answers on the event loop what needs no waiting: segments in memory, and files whose pages the kernel holds
   (read with RWF_NOWAIT). Everything else goes through worker threads.
 - One fetch at a time for a block: whoever wants it meanwhile waits for the same one.
 - Bytes that fail their checksum in the cache are dropped from it; in the store they are read once more, since the damage
   may have happened on the way; then it is EIO.
 - A store that answers "try again" is tried again until the deadline, then EIO. A missing object is passed on as
   ObjectMissing: only the reader knows whether the map it came from is still right.
"""

from __future__ import annotations

import asyncio
import errno
import random
from typing import TYPE_CHECKING, Final, TypeVar, TypeVarTuple, Unpack

import structlog

from fuseclient.data import block
from fuseclient.data.block import SEGMENT_BYTES, BlockCorrupt, Trailer
from fuseclient.data.layout import object_key
from fuseclient.data.object_store import NowaitReads, ObjectMissing, ObjectStoreError
from fuseclient.errors import FsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    from fuseclient.clock import Clock
    from fuseclient.data.block_cache import BlockCache
    from fuseclient.data.memory import BlockMemory, BlockRef
    from fuseclient.data.object_store import ObjectStore
    from fuseclient.data.settings import DataSettings

    Buffer = bytes | bytearray | memoryview

#: A block of at most this size is fetched whole even for a small random read: the round trip costs more than the bytes.
_WHOLE_BYTES: Final = 4 * SEGMENT_BYTES
#: So many ranged reads of one block make it worth fetching whole, where there is a disk cache to keep it.
_RANGED_MAX: Final = 8
_TRAILERS_MAX: Final = 1024
_BACKOFF_FIRST_S: Final = 0.1
_BACKOFF_MAX_S: Final = 5.0
_SHIFT: Final = 16
_MASK: Final = SEGMENT_BYTES - 1
assert 1 << _SHIFT == SEGMENT_BYTES

Loaded = TypeVar("Loaded")
Args = TypeVarTuple("Args")

_log = structlog.get_logger(__name__)


class BlockSource:
    """See the module's text. `read_threads` runs the fetches."""

    def __init__(
        self,
        store: ObjectStore,
        settings: DataSettings,
        memory: BlockMemory,
        cache: BlockCache | None,
        read_threads: Executor,
        clock: Clock,
    ) -> None:
        self._store = store
        self._settings = settings
        self._memory = memory
        self._cache = cache
        self._threads = read_threads
        self._clock = clock
        nearest = cache if cache is not None else store
        self._nowait = nearest if isinstance(nearest, NowaitReads) else None
        self._scratch = memoryview(bytearray(settings.block_bytes))
        self._trailers: dict[BlockRef, Trailer] = {}
        self._ranged: dict[BlockRef, int] = {}
        self._fetching: dict[tuple[BlockRef, int, int], asyncio.Task[list[bytes]]] = {}
        self.fetched_bytes = 0
        self.prefetches = 0

    def read_now(self, ref: BlockRef, start: int, length: int) -> list[Buffer] | None:
        """`length` bytes at `start` of a block, None when that has to wait."""
        first, last = start >> _SHIFT, (start + length - 1) >> _SHIFT
        known = self._memory.segments(ref)
        if known is not None:
            segments = known[first : last + 1]
            if None not in segments:
                return cut(segments, start & _MASK, length)  # type: ignore[arg-type]  # just checked
        if self._nowait is None:
            return None
        fresh = self._from_page_cache(ref, first, last - first + 1)
        return None if fresh is None else cut(fresh, start & _MASK, length)

    async def read(self, ref: BlockRef, start: int, length: int, *, whole: bool) -> list[Buffer]:
        """The same, waiting. `whole`: more of the block will be wanted soon."""
        first, last = start >> _SHIFT, (start + length - 1) >> _SHIFT
        known = self._memory.segments(ref)
        if known is not None:
            segments = known[first : last + 1]
            if None not in segments:
                return cut(segments, start & _MASK, length)  # type: ignore[arg-type]  # just checked
        try:
            if whole or ref.size <= _WHOLE_BYTES or 2 * length >= ref.size or (ref, 0, 0) in self._fetching:
                try:
                    whole_block = await asyncio.shield(self._fetch(ref, 0, 0))
                    return cut(whole_block[first : last + 1], start & _MASK, length)
                except BlockCorrupt:
                    pass  # what is asked for may be in a part that is whole
            return cut(await asyncio.shield(self._fetch(ref, first, last - first + 1)), start & _MASK, length)
        except BlockCorrupt as error:
            _log.error("a block in the object store is damaged", key=self._key(ref), error=str(error))
            raise FsError(errno.EIO, f"{self._key(ref)}: {error}") from error

    def prefetch(self, ref: BlockRef) -> bool:
        """Begin to fetch a block that will be wanted; failures show when it is. False: it is here or on its way."""
        if self._memory.holds(ref) or (ref, 0, 0) in self._fetching:
            return False
        self._fetch(ref, 0, 0).add_done_callback(_unheard)
        self.prefetches += 1
        return True

    async def close(self) -> None:
        for task in list(self._fetching.values()):
            task.cancel()
        await asyncio.gather(*self._fetching.values(), return_exceptions=True)

    # on the event loop

    def _from_page_cache(self, ref: BlockRef, first: int, count: int) -> list[bytes] | None:
        assert self._nowait is not None
        key = self._key(ref)
        trailer = self._trailers.get(ref)
        start, length = block.segment_range(first, count, ref.size)
        try:
            if trailer is None:
                size = block.trailer_bytes(ref.size)
                if self._nowait.read_nowait(key, ref.size, self._scratch[:size]) != size:
                    return None
                trailer = block.parse_trailer(bytes(self._scratch[:size]), ref.size)
                self._remember(ref, trailer)
            view = self._scratch[:length]
            if self._nowait.read_nowait(key, start, view) != length:
                return None
            segments = block.verify(trailer, first, view)
        except BlockCorrupt:
            self._trailers.pop(ref, None)
            return None  # the slow way drops and repairs
        if count == 1:
            # Small reads of one place tend to come in rows; big ones are as fast from the page cache.
            self._memory.add(ref, first, segments)
        return segments

    def _fetch(self, ref: BlockRef, first: int, count: int) -> asyncio.Task[list[bytes]]:
        """The one task that fetches these segments; count 0 = the whole block."""
        wanted = (ref, first, count)
        task = self._fetching.get(wanted)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._run(wanted))
            self._fetching[wanted] = task
        return task

    async def _run(self, wanted: tuple[BlockRef, int, int]) -> list[bytes]:
        ref, first, count = wanted
        try:
            if count:
                segments, trailer = await self._insist(self._load_range, ref, first, count)
                self._remember(ref, trailer)
                self._promote(ref)
            else:
                segments = await self._insist(self._load_whole, ref)
            self._memory.add(ref, first, segments)
            return segments
        finally:
            del self._fetching[wanted]

    def _promote(self, ref: BlockRef) -> None:
        """Fetch a block whole that is read again and again in small pieces."""
        if self._cache is None:
            return
        times = self._ranged.pop(ref, 0) + 1
        if times >= _RANGED_MAX:
            self.prefetch(ref)
            return
        self._ranged[ref] = times
        if len(self._ranged) > _TRAILERS_MAX:
            del self._ranged[next(iter(self._ranged))]

    def _remember(self, ref: BlockRef, trailer: Trailer) -> None:
        self._trailers[ref] = trailer
        if len(self._trailers) > _TRAILERS_MAX:
            del self._trailers[next(iter(self._trailers))]

    async def _insist(self, load: Callable[[Unpack[Args]], Loaded], *args: *Args) -> Loaded:
        """Run `load` in a thread until it succeeds, fails for good, or the deadline has passed."""
        loop = asyncio.get_running_loop()
        deadline_s = self._clock.time() + self._settings.read_deadline_s
        delay_s = _BACKOFF_FIRST_S
        while True:
            try:
                return await loop.run_in_executor(self._threads, load, *args)
            except ObjectMissing:
                raise
            except ObjectStoreError as error:
                if not error.transient or self._clock.time() + delay_s > deadline_s:
                    _log.error("cannot read from the object store", wanted=str(args), error=str(error))
                    raise FsError(errno.EIO, str(error)) from error
                await self._clock.sleep(delay_s * random.uniform(0.5, 1.0))
                delay_s = min(2 * delay_s, _BACKOFF_MAX_S)

    # in worker threads

    def _load_whole(self, ref: BlockRef) -> list[bytes]:
        key = self._key(ref)
        if self._cache is not None and (data := self._cache.read(key)) is not None:
            try:
                return block.split(data, ref.size)
            except BlockCorrupt:
                self._cache.drop(key)
        data = self._store.get(key)
        try:
            segments = block.split(data, ref.size)
        except BlockCorrupt:
            data = self._store.get(key)
            segments = block.split(data, ref.size)
        self.fetched_bytes += len(data)
        if self._cache is not None:
            self._cache.add(key, (data,))
        return segments

    def _load_range(self, ref: BlockRef, first: int, count: int) -> tuple[list[bytes], Trailer]:
        key = self._key(ref)
        start, length = block.segment_range(first, count, ref.size)
        known = self._trailers.get(ref)
        if self._cache is not None:
            try:
                found = _ranged(self._cache.read, ref, key, first, start, length, None)
                if found is not None:
                    return found
            except BlockCorrupt:
                self._cache.drop(key)
        try:
            found = _ranged(self._store.get, ref, key, first, start, length, known)
        except BlockCorrupt:
            found = _ranged(self._store.get, ref, key, first, start, length, None)
        assert found is not None  # a store raises where the cache gives None
        self.fetched_bytes += length
        return found

    def _key(self, ref: BlockRef) -> str:
        return object_key(self._settings.volume, ref.slice, ref.number, ref.size)


def _ranged(
    get: Callable[[str, int, int], bytes | None],
    ref: BlockRef,
    key: str,
    first: int,
    start: int,
    length: int,
    trailer: Trailer | None,
) -> tuple[list[bytes], Trailer] | None:
    """Some segments and the trailer that proves them, in one or two reads."""
    if trailer is None:
        size = block.trailer_bytes(ref.size)
        raw = get(key, ref.size, size)
        if raw is None:
            return None
        trailer = block.parse_trailer(raw, ref.size)
    data = get(key, start, length)
    if data is None:
        return None
    if len(data) != length:
        raise BlockCorrupt(f"{len(data)} bytes instead of {length} at {start}")
    return block.verify(trailer, first, data), trailer


def cut(segments: Sequence[bytes], start: int, length: int) -> list[Buffer]:
    """`length` bytes from `start` of the first segment, as views where a segment is not wanted whole."""
    parts: list[Buffer] = list(segments)
    end = start + length - SEGMENT_BYTES * (len(parts) - 1)
    if end < len(segments[-1]):
        parts[-1] = memoryview(segments[-1])[:end]
    if start:
        parts[0] = memoryview(parts[0])[start:]
    return parts


def _unheard(task: asyncio.Task[list[bytes]]) -> None:
    """Nobody waits for a prefetch; look at its error so that asyncio does not complain of it."""
    if not task.cancelled():
        task.exception()
