"""When the layers go down to disk, and what the server must know about it.

Owns the timer, the one worker thread that writes, and the memory of how the last attempt ended. Its rules:

  - A checkpoint starts every `interval_s`, or as soon as the hot layer passes a soft bound, if there is anything to write.
    One runs at a time; what is applied meanwhile goes into the new hot layer.
  - After one, `on_durable(index)` is called on the loop: the log may be trimmed there.
  - Above a hard bound the server holds new operations back with `below_limit`.
  - A full disk (StoreFull) is a state, `full`, not an end: the layers stay, and each interval tries again with the newer
    changes joined to the older (what was created and deleted meanwhile needs no room any more). The server refuses operations
    that need space while `full` is set; those that free space go on, and use the distance between the soft and the hard bound.
  - While the store's state is replaced, nothing is written: `paused`.
  - Any other failure is final: `on_failed(error)` is called once, nothing is written any more, waiters get the error.

Everything here runs on the event loop, only LayeredStore.write_frozen does not.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from metaserver.store.errors import StoreError, StoreFull

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from metaserver.store.layered import LayeredStore


@dataclass(frozen=True, slots=True)
class CheckpointBounds:
    """When a checkpoint is due, and how much may wait in memory (see Overlay.memory_bytes) before operations must.

    The soft bounds keep a checkpoint to some 10 ms of work for the other thread; the hard ones bound the server's memory.
    """

    interval_s: float = 1.0
    soft_keys: int = 20_000
    soft_bytes: int = 16 << 20
    hard_keys: int = 200_000
    hard_bytes: int = 96 << 20


class Timer(Protocol):
    def cancel(self) -> None:
        """The call will not happen."""


class Checkpointer:
    def __init__(
        self,
        store: LayeredStore,
        *,
        on_durable: Callable[[int], None],
        on_failed: Callable[[StoreError], None],
        bounds: CheckpointBounds = CheckpointBounds(),
        call_later: Callable[[float, Callable[[], None]], Timer] | None = None,
    ) -> None:
        """`call_later` is the clock: the running loop's, unless a test has its own."""
        self._store = store
        self._bounds: Final = bounds
        self._on_durable = on_durable
        self._on_failed = on_failed
        self._call_later = call_later
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._one_at_a_time = asyncio.Lock()
        self._due = asyncio.Event()
        self._moved = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failed: StoreError | None = None
        self._full: StoreFull | None = None
        self._closing = False

    @property
    def full(self) -> bool:
        """The last attempt found no room."""
        return self._full is not None

    @property
    def full_reason(self) -> str:
        return str(self._full) if self._full is not None else ""

    @property
    def failed(self) -> StoreError | None:
        return self._failed

    @property
    def overloaded(self) -> bool:
        """More waits in memory than may."""
        store = self._store
        return store.dirty_keys > self._bounds.hard_keys or store.dirty_bytes > self._bounds.hard_bytes

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="checkpointer")

    def nudge(self) -> None:
        """To be called after entries were applied: starts a checkpoint when a soft bound is passed. Costs next to nothing."""
        store = self._store
        if self._full is not None:
            return  # only the timer tries again: a full disk under load must not become a busy loop
        if store.hot_keys > self._bounds.soft_keys or store.hot_bytes > self._bounds.soft_bytes:
            self._due.set()

    async def below_limit(self) -> None:
        """Return when not overloaded. Raises StoreFull when that cannot come because the disk is full."""
        while self.overloaded:
            if self._failed is not None:
                raise self._failed
            if self._full is not None:
                raise self._full
            self._due.set()
            self._moved.clear()
            await self._moved.wait()

    async def checkpoint_now(self) -> int:
        """Make everything applied before the call durable; the index that is. Raises StoreFull, StoreError.

        A caller that is cancelled does not take the checkpoint with it: the worker could not be stopped anyway.
        """
        error = await asyncio.shield(asyncio.get_running_loop().create_task(self._attempt()))
        if error is not None:
            raise error
        return self._store.index_durable

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """No checkpoint runs inside; one that is under way is waited for. `checkpoint_now` in here would wait for ever."""
        async with self._one_at_a_time:
            try:
                yield
            finally:
                if self._store.is_clean:
                    self._full = None  # what found no room is gone
                self._moved.set()

    async def close(self) -> None:
        """A last checkpoint, and the end of the thread. The store stays open. Raises nothing: what could not be written is in
        the log, and `full_reason` or `failed` says why."""
        self._closing = True
        self._due.set()
        if self._task is not None:
            await self._task
        await self._attempt()
        self._worker.shutdown()

    async def _run(self) -> None:
        while not self._closing and self._failed is None:
            timer = self._arm()
            try:
                await self._due.wait()
            finally:
                timer.cancel()
            self._due.clear()
            if not self._closing:
                await self._attempt()

    def _arm(self) -> Timer:
        call_later = self._call_later or asyncio.get_running_loop().call_later
        return call_later(self._bounds.interval_s, self._due.set)

    async def _attempt(self) -> StoreError | None:
        """One checkpoint, if there is anything to write; why it failed."""
        async with self._one_at_a_time:
            if self._failed is not None or self._store.is_clean:
                return self._failed
            try:
                await self._checkpoint()
            except StoreFull as e:
                self._full = e
                return e
            except StoreError as e:
                return self._fail(e)
            except Exception as e:  # a bug; it must stop the server like a broken disk, not only this task
                failure = StoreError(f"the checkpoint broke: {type(e).__name__}: {e}")
                failure.__cause__ = e
                return self._fail(failure)
            finally:
                self._moved.set()
            return None

    async def _checkpoint(self) -> None:
        store = self._store
        if store.is_frozen:
            store.refreeze()
        else:
            store.freeze()
        await asyncio.get_running_loop().run_in_executor(self._worker, store.write_frozen)
        dropped = store.checkpointed()
        self._full = None
        self._worker.submit(dropped.dissolve)
        self._on_durable(store.index_durable)

    def _fail(self, error: StoreError) -> StoreError:
        self._failed = error
        self._on_failed(error)
        return error
