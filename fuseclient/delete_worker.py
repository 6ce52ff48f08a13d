"""Works off the queue of slices that nothing refers to any more: claim, delete their objects, report them gone.

The metadata service owns the queue (ARCHITECTURE.md, Object data); a claim lapses there after a minute. This fails closed: a
slice is reported only after the store has said that every object of it is gone; after any error it stays in the queue and is
tried again later. Two clients that delete the same slice do no harm, since numbers are never used again.

One task, woken by DeletesWaiting and by a slow poll, and one thread for the store's calls.
"""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from fuseclient.clock import LoopClock
from fuseclient.data.layout import object_keys
from fuseclient.data.object_store import ObjectStoreError
from fuseclient.data.slices import CHUNK_BYTES
from fuseclient.errors import FsError
from fuseclient.redial import Backoff
from protos import meta_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fuseclient.clock import Clock
    from fuseclient.data.object_store import ObjectStore

POLL_S: Final = 30.0
#: A batch has to be done before its claim lapses.
CLAIM_SLICES: Final = 64
RETRY_FIRST_S: Final = 1.0
RETRY_LONGEST_S: Final = 60.0
CLOSE_S: Final = 5.0

_log = structlog.get_logger(__name__)


class _Requests(Protocol):
    volume_id: int

    def read(self, request: pb.Request, /) -> asyncio.Future[pb.Response]: ...
    def change(self, request: pb.Request, /) -> asyncio.Future[pb.Response]: ...


class DeleteWorker:
    """`start`, then `wake` whenever something may be waiting (MetaClient.on_deletes_waiting), `close` at the end."""

    def __init__(
        self,
        client: _Requests,
        store: ObjectStore,
        volume: str,
        block_bytes: int,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        self.deleted = 0  # slices reported gone
        self._client = client
        self._store = store
        self._volume = volume
        self._block_bytes = block_bytes
        self._clock = clock or LoopClock()
        self._poll_s = poll_s
        self._backoff = Backoff(rng or random.Random(), RETRY_FIRST_S, RETRY_LONGEST_S, at_once=False)
        self._woken = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keelfs-delete")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="delete worker")

    def wake(self) -> None:
        """Slices may be waiting. Never blocks."""
        self._woken.set()

    async def close(self) -> None:
        """Stop. What is under way is finished by the store or not; either way the queue knows what is left."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=CLOSE_S)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            try:
                finished, failed = await self._work_off_batch()
            except FsError as error:
                _log.warning("deleted files' objects wait: the metadata service refuses", why=str(error))
                finished, failed = 0, 1
            except Exception:
                _log.exception("deleted files' objects wait")
                finished, failed = 0, 1
            if failed:
                await self._clock.sleep(self._backoff.next())
            else:
                self._backoff.reset()
                if not finished:
                    await self._wait()

    async def _wait(self) -> None:
        """Until woken, or for one poll."""
        timer = self._clock.call_later(self._poll_s, self._woken.set)
        try:
            await self._woken.wait()
        finally:
            timer.cancel()

    async def _work_off_batch(self) -> tuple[int, int]:
        """Claim some slices and delete what they hold: how many are gone, and how many have to be tried again."""
        claimed = await self._client.read(pb.Request(claim_deletes=pb.ClaimDeletes(limit=CLAIM_SLICES)))
        doomed = [(one.slice, one.size) for one in claimed.doomed if self._is_ours(one)]
        refused = len(claimed.doomed) - len(doomed)
        if not doomed:
            return 0, refused
        gone = await self._delete(doomed)
        if gone:
            await self._client.change(pb.Request(finish_deletes=pb.FinishDeletes(slices=gone)))
            self.deleted += len(gone)
        return len(gone), refused + len(doomed) - len(gone)

    def _is_ours(self, doomed: pb.Doomed) -> bool:
        """Never touch what this store may not be responsible for."""
        if doomed.volume_id == self._client.volume_id and doomed.slice and doomed.size <= CHUNK_BYTES:
            return True
        _log.error("not deleting a slice", slice=doomed.slice, size=doomed.size, volume_id=doomed.volume_id)
        return False

    async def _delete(self, doomed: Sequence[tuple[int, int]]) -> list[int]:
        """The slices whose objects are gone. All at once, which is one call for a store that can do that; where it fails
        for good, one by one, so that a single bad object does not keep the rest."""
        try:
            await self._delete_objects(doomed)
        except ObjectStoreError as error:
            _log.warning("objects could not be deleted", slices=len(doomed), store=self._store.url, why=str(error))
            if error.transient or len(doomed) == 1:
                return []
            return [slice_id for one in doomed for slice_id in await self._delete([one])]
        return [slice_id for slice_id, _ in doomed]

    async def _delete_objects(self, doomed: Sequence[tuple[int, int]]) -> None:
        keys = [key for slice_id, size in doomed for key in object_keys(self._volume, slice_id, size, self._block_bytes)]
        if keys:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._store.delete, keys)
