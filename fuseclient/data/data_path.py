"""The data path of one mount: puts the store, the caches, the threads and the files together, and drains what is dirty.

Every second, files with data older than `flush_after_s` are flushed behind; when the buffer is full, those that hold most.
A failure of such a flush is not lost: the data stays dirty, and the next flush that somebody waits for tells.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import structlog

from fuseclient.clock import LoopClock
from fuseclient.data.block import checksums_are_fast
from fuseclient.data.block_source import BlockSource
from fuseclient.data.file_data import FileHooks, StoredFile
from fuseclient.data.memory import BlockMemory, WriteBudget
from fuseclient.data.uploader import Uploader
from fuseclient.errors import FsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from fuseclient.attr import Attr
    from fuseclient.clock import Clock, Timer
    from fuseclient.data.block_cache import BlockCache
    from fuseclient.data.object_store import ObjectStore
    from fuseclient.data.settings import DataSettings
    from fuseclient.data.slices import SliceService

_TICK_S: Final = 1.0
_RETRY_S: Final = 30.0

_log = structlog.get_logger(__name__)


class StoreDataPath:
    """data_api.DataPath on an object store. The store and the cache are closed by whoever opened them, after `close`."""

    def __init__(
        self,
        store: ObjectStore,
        service: SliceService,
        settings: DataSettings,
        *,
        cache: BlockCache | None = None,
        clock: Clock | None = None,
        now_ns: Callable[[], int] = time.time_ns,
        threads: Executor | None = None,
    ) -> None:
        """`threads` takes the place of both thread pools."""
        if not checksums_are_fast():
            _log.warning("checksums are computed in Python: reading and writing will be very slow")
        self.on_commit: Callable[[Attr], None] | None = None
        self._settings = settings
        self._service = service
        self._clock = clock or LoopClock()
        self._now_ns = now_ns
        self._cache = cache
        self._budget = WriteBudget(settings.dirty_bytes_max)
        self._memory = BlockMemory(settings.cached_bytes_max)
        self._upload_threads = threads or ThreadPoolExecutor(settings.upload_threads, thread_name_prefix="upload")
        self._read_threads = threads or ThreadPoolExecutor(settings.read_threads, thread_name_prefix="fetch")
        self._source = BlockSource(store, settings, self._memory, cache, self._read_threads, self._clock)
        self._uploader = Uploader(store, settings, cache, self._upload_threads, self._clock)
        self._hooks = FileHooks(self._dirtied, self._pressed, self._committed, self._closed)
        self._files: dict[int, StoredFile] = {}
        self._due_s: dict[StoredFile, float] = {}  # files that may be dirty -> when to flush them, oldest first
        self._flushing: dict[StoredFile, asyncio.Task[None]] = {}
        self._timer: Timer | None = None

    def file(self, attr: Attr) -> StoredFile:
        """The contents of a regular file; the same object for an inode until it is closed."""
        known = self._files.get(attr.ino)
        if known is not None:
            known.refresh(attr)
            return known
        made = StoredFile(
            attr, self._settings, self._service, self._source, self._uploader, self._budget, self._now_ns, self._hooks
        )
        self._files[made.ino] = made
        return made

    async def close(self) -> None:
        """Flush every file and stop. What cannot be flushed is given up, and said so."""
        if self._timer is not None:
            self._timer.cancel()
        files = list(self._files.values())
        for file in files:
            if file.dirty:
                self._flush_behind(file)
        await asyncio.gather(*self._flushing.values(), return_exceptions=True)
        for file in files:
            if file.dirty:
                _log.error("data was lost: it could not be written before the end", ino=file.ino)
            closing = file.close()
            if closing is not None:
                await closing
        await self._uploader.settle()
        await self._source.close()
        self._upload_threads.shutdown(wait=False)
        self._read_threads.shutdown(wait=False)

    def stats(self) -> dict[str, int]:
        """Counters and levels, for people and for metrics."""
        cache = self._cache
        return {
            "dirty_bytes": self._budget.used,
            "dirty_bytes_peak": self._budget.peak,
            "uploaded_bytes": self._uploader.uploaded_bytes,
            "upload_retries": self._uploader.retries,
            "memory_bytes": self._memory.used,
            "fetched_bytes": self._source.fetched_bytes,
            "prefetched_blocks": self._source.prefetches,
            "cache_bytes": cache.used if cache else 0,
            "cache_hits": cache.hits if cache else 0,
            "cache_misses": cache.misses if cache else 0,
            "open_files": len(self._files),
        }

    # what files tell

    def _dirtied(self, file: StoredFile) -> None:
        self._due_s.pop(file, None)
        self._due_s[file] = self._clock.time() + self._settings.flush_after_s
        if self._timer is None:
            self._timer = self._clock.call_later(_TICK_S, self._tick)

    def _pressed(self) -> None:
        """The buffer is full of data that nobody uploads: begin with what is oldest."""
        for file in self._due_s:
            if file not in self._flushing:
                self._flush_behind(file)
                return

    def _committed(self, attr: Attr) -> None:
        if self.on_commit is not None:
            self.on_commit(attr)

    def _closed(self, file: StoredFile) -> None:
        if self._files.get(file.ino) is file:
            del self._files[file.ino]
        self._due_s.pop(file, None)

    # draining

    def _tick(self) -> None:
        self._timer = None
        now_s = self._clock.time()
        for file, due_s in list(self._due_s.items()):
            if not file.dirty:
                del self._due_s[file]
            elif due_s <= now_s and file not in self._flushing:
                self._flush_behind(file)
        if self._due_s:
            self._timer = self._clock.call_later(_TICK_S, self._tick)

    def _flush_behind(self, file: StoredFile) -> None:
        task = asyncio.get_running_loop().create_task(self._try_flush(file))
        self._flushing[file] = task

    async def _try_flush(self, file: StoredFile) -> None:
        wait_s = self._settings.flush_after_s
        try:
            await file.flush()
        except FsError as error:
            _log.warning("cannot write data behind; it stays in memory", ino=file.ino, error=str(error))
            wait_s = _RETRY_S
        finally:
            del self._flushing[file]
            if file in self._due_s:
                # To the end of the row, so that under pressure every file has its turn.
                del self._due_s[file]
                if file.dirty:
                    self._due_s[file] = self._clock.time() + wait_s
