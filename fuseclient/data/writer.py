"""The way of written bytes: buffered, cut into blocks, uploaded, committed.

Rules
 - A write is copied once, into the block it will be uploaded with, and is done. A block is uploaded as soon as it is full.
 - A slice is committed only after all of its blocks are durable, and one that several runs share by one request. `flush`
   seals what is dirty, waits for its uploads and commits it in the order of writing; what is written meanwhile goes to new
   runs on top and is not waited for.
 - Commits of one file are made one after the other, and one that was sent is always waited for: when it succeeds, its runs
   are forgotten in the same step in which the chunk maps are dropped, so that a read finds every byte in one of the two.
 - What could not be uploaded or committed stays dirty and readable, and the next flush tries again; so a flush succeeds
   only when everything is durable. Until then further writes to the file are refused with the same error, which bounds
   what piles up. `abandon` gives it all up; `forsake` sees to it that nothing more is committed.
"""

from __future__ import annotations

import asyncio
import errno
from itertools import groupby
from typing import TYPE_CHECKING, Final

import structlog

from fuseclient.data.dirty import DirtyFile
from fuseclient.data.layout import chunk_pieces
from fuseclient.data.slices import CHUNK_BYTES, NewSlice
from fuseclient.errors import FsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from fuseclient.attr import Attr
    from fuseclient.data.dirty import Carrier, Run
    from fuseclient.data.memory import WriteBudget
    from fuseclient.data.settings import DataSettings
    from fuseclient.data.slices import SliceService
    from fuseclient.data.uploader import Uploader

_COMMIT_SLICES_MAX: Final = 1000
_COMMIT_INLINE_MAX: Final = 64 << 10  # the metadata service takes no more in one operation

_log = structlog.get_logger(__name__)


class WriterHooks:
    """What a writer tells its surroundings: `dirtied` when the first byte becomes dirty, `pressed` when the buffer is full
    and waiting alone will not empty it, `committed` in the step in which committed runs are forgotten."""

    def __init__(self, dirtied: Callable[[], None], pressed: Callable[[], None], committed: Callable[[Attr], None]) -> None:
        self.dirtied = dirtied
        self.pressed = pressed
        self.committed = committed


class Writer:
    """Of one file. See the module's text."""

    def __init__(
        self,
        ino: int,
        settings: DataSettings,
        service: SliceService,
        uploader: Uploader,
        budget: WriteBudget,
        now_ns: Callable[[], int],
        hooks: WriterHooks,
    ) -> None:
        self._ino = ino
        self._service = service
        self._uploader = uploader
        self._budget = budget
        self._now_ns = now_ns
        self._hooks = hooks
        self._committing = asyncio.Lock()
        self._kill_priv = False
        self._failed = False
        self._forsaken = False
        self._last_attr: Attr | None = None
        self.dirty = DirtyFile(settings.block_bytes, settings.inline_bytes)
        self.mtime_ns = 0

    @property
    def failing(self) -> bool:
        """An upload failed for good and no flush has succeeded since."""
        return self._failed

    def write(self, offset: int, data: memoryview, kill_priv: bool) -> Awaitable[None] | None:
        """Copy `data` in; an awaitable when the writer has to wait for room."""
        if self._failed:
            raise self._failure()
        if not data:
            return None
        dirty = self.dirty
        if not dirty:
            self._hooks.dirtied()
        chunk, pos = divmod(offset, CHUNK_BYTES)
        if pos + len(data) <= CHUNK_BYTES:
            grown = dirty.write(chunk, pos, data)
        else:
            grown = done = 0
            for piece in chunk_pieces(offset, len(data)):
                grown += dirty.write(piece.chunk, piece.pos, data[done : done + piece.length])
                done += piece.length
        self._budget.take(grown)
        self.mtime_ns = self._now_ns()
        self._kill_priv = self._kill_priv or kill_priv
        if dirty.ready:
            self._submit()
        return self._room() if self._budget.over else None

    async def flush(self) -> Attr | None:
        """Everything that is dirty now, durable and committed; the attributes of the last commit, if any was needed."""
        self._seal()
        runs = self.dirty.sealed()
        if not runs:
            return None
        self._try_failed_again(runs)
        await _uploaded(_carriers(runs))
        # Shielded: a commit whose caller is interrupted must still be heard of, or it would be made twice.
        return await asyncio.shield(asyncio.ensure_future(self._commit(runs)))

    async def cut(self, size: int) -> None:
        """Forget what is dirty beyond `size`, after the commit that is under way."""
        async with self._committing:
            freed, gone = self.dirty.cut(size)
            self._budget.give(freed)
            self._submit()
            self._discard(gone)
            self._failed = any(run.carrier.error for run in self.dirty.all_runs())

    def forsake(self) -> None:
        """Commit nothing more; see data_api.py."""
        self._forsaken = True

    async def abandon(self) -> None:
        """Give up everything that is dirty, after the commit that is under way; wait until it is cleared away."""
        async with self._committing:
            runs = self.dirty.all_runs()
            self.dirty.clear()
            self._failed = False
            discards = self._discard(runs)
        await asyncio.gather(*discards)

    # uploads

    def _seal(self) -> None:
        self.dirty.seal_all()
        if self.dirty.ready:
            self._submit()

    def _submit(self) -> None:
        ready, self.dirty.ready = self.dirty.ready, []
        loop = asyncio.get_running_loop()
        for carrier, number in ready:
            if not carrier.gone:
                self._budget.uploading += carrier.held(number)
                carrier.uploads.append(loop.create_task(self._upload(carrier, number)))

    async def _upload(self, carrier: Carrier, number: int) -> None:
        payload = carrier.blocks[number]
        assert payload is not None
        size = len(payload)
        try:
            if not carrier.slice:
                fresh = await self._service.new_slice_id()
                carrier.slice = carrier.slice or fresh  # another block of the run may have asked as well
            await self._uploader.put(carrier.slice, number, payload, lambda: carrier.gone)
            carrier.uploaded(number)
        except FsError as error:
            if not carrier.gone:
                carrier.failed.append(number)
                carrier.error = error
                self._failed = True
        finally:
            # Failed data leaves the budget too: it must not stop the writers of other files.
            self._budget.uploading -= size
            self._budget.give(size)
            if self._failed:
                self._budget.wake()

    def _try_failed_again(self, runs: Sequence[Run]) -> None:
        if not self._failed:
            return
        for carrier in _carriers(runs):
            numbers, carrier.failed, carrier.error = carrier.failed, [], None
            for number in numbers:
                self._budget.take(carrier.held(number))
                self.dirty.ready.append((carrier, number))
        self._failed = False
        self._submit()

    def _failure(self) -> FsError:
        for run in self.dirty.all_runs():
            error = run.carrier.error
            if error is not None:
                return FsError(error.errno, error.detail)
        raise AssertionError("failing without a failed upload")

    async def _room(self) -> None:
        while self._budget.over:
            if self._failed:
                raise self._failure()
            if self._budget.idle_is_much:
                self._hooks.pressed()
            await self._budget.changed()

    def _discard(self, runs: Sequence[Run]) -> list[asyncio.Task[None]]:
        """Let go of runs that will never be committed; of objects that nothing else is in, too, once uploads have ended."""
        for run in runs:
            self._budget.give(run.length - run.frozen)  # frozen blocks leave the budget when their upload ends
        uploading = [carrier for carrier in _carriers(run for run in runs if run.frozen) if carrier.gone]
        return [self._uploader.behind(self._discard_objects(carrier)) for carrier in uploading]

    async def _discard_objects(self, carrier: Carrier) -> None:
        await _uploaded([carrier])
        if carrier.slice:
            await self._uploader.discard(carrier.slice, carrier.size)

    # commits

    async def _commit(self, runs: Sequence[Run]) -> Attr | None:
        async with self._committing:
            left = [run for run in runs if not run.gone]
            while not all(run.is_durable for run in left):
                # Failed, or failed and tried again by another flush that came meanwhile.
                for run in left:
                    error = run.carrier.error
                    if error is not None:
                        raise FsError(error.errno, error.detail)
                await _uploaded(_carriers(left))
            for batch in _batches(left):
                await self._commit_batch(batch)
            return self._last_attr

    async def _commit_batch(self, batch: Sequence[Run]) -> None:
        slices: list[NewSlice] = []
        for run in batch:
            carrier = run.carrier
            if not carrier.slice:
                carrier.slice = await self._service.new_slice_id()
            inline = run.contents() if run.is_inline else b""
            size = len(inline) or carrier.size
            slices.append(NewSlice(run.chunk, run.pos, carrier.slice, size, run.off, run.use, inline))
        if self._forsaken:
            raise FsError(errno.EIO, "the session under which this was written is over")
        kill_priv, self._kill_priv = self._kill_priv, False
        try:
            attr = await self._service.commit(self._ino, slices, self.mtime_ns, kill_priv)
        except BaseException:
            self._kill_priv = self._kill_priv or kill_priv
            raise
        self._last_attr = attr
        for run in batch:
            if self.dirty.remove(run) and run.is_inline:
                self._budget.give(run.length)
        self._hooks.committed(attr)


def _carriers(runs: Iterable[Run]) -> list[Carrier]:
    """What is uploaded for the runs, each once."""
    return list(dict.fromkeys(run.carrier for run in runs))


async def _uploaded(carriers: Iterable[Carrier]) -> None:
    """Wait for the uploads under way; whether they succeeded is to be seen in the carriers."""
    waiting = [task for carrier in carriers for task in carrier.uploads if not task.done()]
    if waiting:
        await asyncio.wait(waiting)


def _batches(runs: Iterable[Run]) -> Iterator[list[Run]]:
    """The runs in their order, so many at a time as one request may hold, and a pack's all in one."""
    batch: list[Run] = []
    inline_bytes = 0
    for _, group in groupby(runs, key=_carrier):
        together = list(group)
        size = sum(run.use for run in together if run.is_inline)
        if batch and (len(batch) + len(together) > _COMMIT_SLICES_MAX or inline_bytes + size > _COMMIT_INLINE_MAX):
            yield batch
            batch, inline_bytes = [], 0
        batch += together
        inline_bytes += size
    if batch:
        yield batch


def _carrier(run: Run) -> Carrier:
    return run.carrier
