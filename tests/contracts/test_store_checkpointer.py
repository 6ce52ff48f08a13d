"""The checkpointer, with a clock that the test moves: when it writes, whom it tells, and how it lives through a full disk."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from metaserver.store.checkpointer import CheckpointBounds, Checkpointer
from metaserver.store.errors import StoreError, StoreFull
from metaserver.store.layered import LayeredStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DEADLINE_S = 20


class HandTimer:
    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class HandClock:
    """Time passes when the test says so."""

    def __init__(self) -> None:
        self._timers: list[HandTimer] = []

    def call_later(self, delay_s: float, call: Callable[[], None]) -> HandTimer:
        assert delay_s == 1.0
        self._timers.append(HandTimer(call))
        return self._timers[-1]

    @property
    def armed(self) -> int:
        return sum(not timer.cancelled for timer in self._timers)

    async def tick(self) -> None:
        """An interval passes, and what it starts has begun."""
        await until(lambda: self.armed == 1)
        timers, self._timers = [timer for timer in self._timers if not timer.cancelled], []
        for timer in timers:
            timer.call()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  # the condition is often a plain value of another object
            await asyncio.sleep(0.001)


class Disk:
    """Stands between the layered store and its disk: fails or holds on command."""

    def __init__(self, store: LayeredStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: Exception | None = None
        self.attempts = 0
        self.open_gate = threading.Event()
        self.open_gate.set()
        self.thread = ""
        self._write = store.write_frozen
        monkeypatch.setattr(store, "write_frozen", self._write_frozen)

    def _write_frozen(self) -> None:
        self.attempts += 1
        self.thread = threading.current_thread().name
        assert self.open_gate.wait(DEADLINE_S)
        if self.error is not None:
            raise self.error
        self._write()


class Rig:
    def __init__(self, store: LayeredStore, disk: Disk) -> None:
        self.store = store
        self.disk = disk
        self.clock = HandClock()
        self.durable: list[int] = []
        self.failures: list[StoreError] = []
        self.index = 0

    def checkpointer(self, **bounds: int) -> Checkpointer:
        return Checkpointer(
            self.store,
            on_durable=self.durable.append,
            on_failed=self.failures.append,
            bounds=CheckpointBounds(**bounds),
            call_later=self.clock.call_later,
        )

    def apply(self, keys: int = 1, size: int = 10) -> None:
        self.index += 1
        for n in range(keys):
            self.store.put(b"I%08d%04d" % (self.index, n), bytes(size))
        self.store.mark_applied(self.index)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    store = LayeredStore.open(tmp_path)
    yield Rig(store, Disk(store, monkeypatch))
    store.close()


async def test_the_timer_makes_what_was_applied_durable_and_says_so(rig: Rig) -> None:
    checkpointer = rig.checkpointer()
    checkpointer.start()
    rig.apply()
    await rig.clock.tick()
    await until(lambda: rig.durable == [1])
    assert rig.disk.thread.startswith("checkpoint")
    assert (rig.store.index_durable, rig.store.dirty_keys) == (1, 0)
    await checkpointer.close()
    assert rig.durable == [1]


async def test_nothing_is_written_when_nothing_changed(rig: Rig) -> None:
    checkpointer = rig.checkpointer()
    checkpointer.start()
    for _ in range(3):
        await rig.clock.tick()
    await until(lambda: rig.clock.armed == 1)
    assert rig.disk.attempts == 0
    await checkpointer.close()
    assert (rig.disk.attempts, rig.durable) == (0, [])


@pytest.mark.parametrize(("bounds", "keys", "size"), [({"soft_keys": 5}, 6, 10), ({"soft_bytes": 50_000}, 1, 50_001)])
async def test_a_soft_bound_starts_one_without_the_timer(rig: Rig, bounds: dict[str, int], keys: int, size: int) -> None:
    checkpointer = rig.checkpointer(**bounds)
    checkpointer.start()
    await until(lambda: rig.clock.armed == 1)
    rig.apply(keys=keys - 1, size=10)
    checkpointer.nudge()
    await asyncio.sleep(0)
    assert rig.disk.attempts == 0
    rig.apply(keys=keys, size=size)
    checkpointer.nudge()
    await until(lambda: rig.durable == [2])
    await checkpointer.close()


async def test_what_is_applied_during_a_checkpoint_waits_for_the_next(rig: Rig) -> None:
    checkpointer = rig.checkpointer()
    checkpointer.start()
    rig.apply()
    rig.disk.open_gate.clear()
    await rig.clock.tick()
    await until(lambda: rig.disk.attempts == 1)
    rig.apply()
    rig.disk.open_gate.set()
    await until(lambda: rig.durable == [1])
    assert (rig.store.index_applied, rig.store.dirty_keys) == (2, 1)
    await rig.clock.tick()
    await until(lambda: rig.durable == [1, 2])
    await checkpointer.close()


async def test_checkpoint_now_waits_for_the_one_under_way_and_then_does_its_own(rig: Rig) -> None:
    checkpointer = rig.checkpointer()
    checkpointer.start()
    rig.apply()
    rig.disk.open_gate.clear()
    await rig.clock.tick()
    await until(lambda: rig.disk.attempts == 1)
    rig.apply()
    asked = asyncio.create_task(checkpointer.checkpoint_now())
    await asyncio.sleep(0)
    assert not asked.done()
    rig.disk.open_gate.set()
    assert await asked == 2
    assert rig.durable == [1, 2]
    assert await checkpointer.checkpoint_now() == 2
    assert rig.disk.attempts == 2
    await checkpointer.close()


async def test_a_cancelled_caller_leaves_the_checkpoint_alone(rig: Rig) -> None:
    checkpointer = rig.checkpointer()
    rig.apply(keys=50)
    rig.disk.open_gate.clear()
    asked = asyncio.create_task(checkpointer.checkpoint_now())
    await until(lambda: rig.disk.attempts == 1)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    rig.apply()
    again = asyncio.create_task(checkpointer.checkpoint_now())
    await asyncio.sleep(0)
    assert rig.disk.attempts == 1
    rig.disk.open_gate.set()
    assert await again == 2
    assert rig.durable == [1, 2]
    await checkpointer.close()


async def test_a_full_disk_is_a_state_that_ends_by_itself_and_loses_nothing(rig: Rig) -> None:
    checkpointer = rig.checkpointer(soft_keys=5)
    checkpointer.start()
    rig.disk.error = StoreFull("no space on the disk")
    rig.apply(keys=3)
    await rig.clock.tick()
    await until(lambda: checkpointer.full)
    assert checkpointer.full_reason == "no space on the disk"
    rig.apply(keys=8)
    checkpointer.nudge()
    await until(lambda: rig.clock.armed == 1)
    assert rig.disk.attempts == 1, "only the timer tries again"
    with pytest.raises(StoreFull):
        await checkpointer.checkpoint_now()
    await rig.clock.tick()
    await until(lambda: rig.disk.attempts == 3)
    assert (rig.durable, rig.failures, len(list(rig.store.snapshot_scan()))) == ([], [], 11)
    rig.disk.error = None
    await rig.clock.tick()
    await until(lambda: not checkpointer.full)
    assert (rig.durable, checkpointer.full_reason, rig.store.dirty_keys) == ([2], "", 0)
    assert len(list(rig.store.snapshot_scan())) == 11
    await checkpointer.close()


async def test_above_the_hard_bound_operations_wait_for_a_checkpoint(rig: Rig) -> None:
    checkpointer = rig.checkpointer(hard_keys=10)
    checkpointer.start()
    await checkpointer.below_limit()
    rig.disk.open_gate.clear()
    rig.apply(keys=11)
    assert rig.store.dirty_keys == 11
    waiting = [asyncio.create_task(checkpointer.below_limit()) for _ in range(3)]
    await until(lambda: rig.disk.attempts == 1)
    assert not any(task.done() for task in waiting)
    rig.disk.open_gate.set()
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*waiting)
    assert not checkpointer.overloaded
    await checkpointer.close()


async def test_above_the_hard_bound_on_a_full_disk_waiting_is_refused(rig: Rig) -> None:
    checkpointer = rig.checkpointer(hard_bytes=5000)
    checkpointer.start()
    rig.disk.error = StoreFull("no space")
    rig.apply(size=6000)
    for _ in range(2):
        with pytest.raises(StoreFull):
            await checkpointer.below_limit()
    await checkpointer.close()
    assert checkpointer.full


@pytest.mark.parametrize("error", [StoreError("input/output error"), ZeroDivisionError("a bug")])
async def test_any_other_failure_is_final_and_reported_once(rig: Rig, error: Exception) -> None:
    checkpointer = rig.checkpointer(hard_keys=1)
    checkpointer.start()
    rig.disk.error = error
    rig.apply(keys=5)
    with pytest.raises(StoreError):
        await checkpointer.checkpoint_now()
    assert len(rig.failures) == 1
    assert str(error) in str(rig.failures[0])
    rig.disk.error = None
    for call in (checkpointer.checkpoint_now, checkpointer.below_limit):
        with pytest.raises(StoreError):
            await call()
    await checkpointer.close()
    assert (rig.disk.attempts, rig.durable, len(rig.failures)) == (1, [], 1)
    assert checkpointer.failed is rig.failures[0]


async def test_an_entry_that_broke_off_ends_the_checkpoints(rig: Rig) -> None:
    """Also the last one of close: the server closes after a defect in `apply` too."""
    checkpointer = rig.checkpointer()
    checkpointer.start()
    rig.apply()
    rig.store.put(b"Iwhole", b"part of an entry")
    await checkpointer.close()
    assert (rig.durable, rig.disk.attempts, len(rig.failures)) == ([], 0, 1)
    assert "applied in part" in str(checkpointer.failed)


async def test_close_makes_the_rest_durable_and_ends_the_thread(rig: Rig) -> None:
    checkpointer = rig.checkpointer()
    checkpointer.start()
    rig.apply(keys=3000)
    await checkpointer.close()
    assert rig.durable == [1]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint")]


async def test_while_paused_nothing_is_written(rig: Rig) -> None:
    checkpointer = rig.checkpointer()
    checkpointer.start()
    rig.apply()
    rig.disk.open_gate.clear()
    first = asyncio.create_task(checkpointer.checkpoint_now())
    await until(lambda: rig.disk.attempts == 1)
    entered = asyncio.Event()
    leave = asyncio.Event()

    async def pause() -> None:
        async with checkpointer.paused():
            entered.set()
            await leave.wait()

    pausing = asyncio.create_task(pause())
    await asyncio.sleep(0)
    assert not entered.is_set(), "the checkpoint under way is waited for"
    rig.disk.open_gate.set()
    await first
    await entered.wait()
    rig.apply()
    second = asyncio.create_task(checkpointer.checkpoint_now())
    await rig.clock.tick()
    for _ in range(5):
        await asyncio.sleep(0)
    assert (rig.disk.attempts, second.done()) == (1, False)
    leave.set()
    await pausing
    assert await second == 2
    await checkpointer.close()


async def test_the_loops_own_clock_is_the_default(rig: Rig) -> None:
    checkpointer = Checkpointer(
        rig.store, on_durable=rig.durable.append, on_failed=rig.failures.append, bounds=CheckpointBounds(interval_s=0.001)
    )
    checkpointer.start()
    rig.apply()
    await until(lambda: rig.durable == [1])
    await checkpointer.close()
