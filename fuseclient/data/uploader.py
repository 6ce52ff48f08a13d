"""Blocks on their way to the object store: encoded and put by worker threads, tried again while the store is away.

A store that says "not now" is asked again, ever more seldom, until the deadline: writers wait meanwhile and then succeed.
What it refuses for good becomes the errno that fsync(2) and close(2) return.
"""

from __future__ import annotations

import asyncio
import errno
import random
from typing import TYPE_CHECKING, Any, Final

import structlog

from fuseclient.data import block
from fuseclient.data.layout import object_key, object_keys
from fuseclient.data.object_store import ObjectDenied, ObjectStoreError, ObjectStoreFull
from fuseclient.errors import FsError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Executor

    from fuseclient.clock import Clock
    from fuseclient.data.block import Buffer
    from fuseclient.data.block_cache import BlockCache
    from fuseclient.data.object_store import ObjectStore
    from fuseclient.data.settings import DataSettings

_BACKOFF_FIRST_S: Final = 0.1
_BACKOFF_MAX_S: Final = 5.0
_ERRNO: Final[dict[type[ObjectStoreError], int]] = {ObjectStoreFull: errno.ENOSPC, ObjectDenied: errno.EACCES}

_log = structlog.get_logger(__name__)


class Uploader:
    """See the module's text."""

    def __init__(
        self,
        store: ObjectStore,
        settings: DataSettings,
        cache: BlockCache | None,
        threads: Executor,
        clock: Clock,
    ) -> None:
        self._store = store
        self._settings = settings
        self._cache = cache
        self._threads = threads
        self._clock = clock
        self._behind: set[asyncio.Task[None]] = set()
        self.uploaded_bytes = 0
        self.retries = 0

    async def put(self, slice_id: int, number: int, payload: Buffer, given_up: Callable[[], bool]) -> None:
        """Make a block durable. Raises FsError when the store will not, the deadline has passed, or `given_up`."""
        key = object_key(self._settings.volume, slice_id, number, len(payload))
        loop = asyncio.get_running_loop()
        deadline_s = self._clock.time() + self._settings.upload_deadline_s
        delay_s = _BACKOFF_FIRST_S
        while True:
            try:
                await loop.run_in_executor(self._threads, self._put, key, payload)
                self.uploaded_bytes += len(payload)
                return
            except ObjectStoreError as error:
                if given_up() or not error.transient or self._clock.time() + delay_s > deadline_s:
                    _log.error("cannot write to the object store", key=key, error=str(error))
                    raise FsError(_ERRNO.get(type(error), errno.EIO), str(error)) from error
                if not self.retries or delay_s >= _BACKOFF_MAX_S:
                    _log.warning("the object store does not take data; trying again", key=key, error=str(error))
                self.retries += 1
                await self._clock.sleep(delay_s * random.uniform(0.5, 1.0))
                delay_s = min(2 * delay_s, _BACKOFF_MAX_S)

    def behind(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something that nobody needs to wait for, except `settle` at the end."""
        task = asyncio.get_running_loop().create_task(work)
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)
        return task

    async def settle(self) -> None:
        """Wait for what is done behind."""
        while self._behind:
            await asyncio.wait(self._behind)

    def _put(self, key: str, payload: Buffer) -> None:
        parts = block.encode(payload)
        self._store.put(key, parts)
        if self._cache is not None:
            self._cache.add(key, parts)

    async def discard(self, slice_id: int, size: int) -> None:
        """Remove the objects of a slice that was never committed. A failure leaves garbage, which harms nobody."""
        keys = object_keys(self._settings.volume, slice_id, size, self._settings.block_bytes)
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._store.delete, keys)
        except ObjectStoreError as error:
            _log.warning("cannot remove the objects of abandoned data", slice=slice_id, error=str(error))
