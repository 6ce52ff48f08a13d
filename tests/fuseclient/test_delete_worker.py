"""The delete worker fails closed: nothing is reported gone that the store has not said is gone."""

from __future__ import annotations

import asyncio
import errno
import random
from typing import TYPE_CHECKING

import pytest
from fake_meta_service import until

from fuseclient.data.object_store import ObjectDenied, ObjectStoreError
from fuseclient.delete_worker import CLAIM_SLICES, DeleteWorker
from fuseclient.errors import FsError
from protos import meta_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from fuseclient.clock import Timer

BLOCK = 1 << 20


class Queue:
    """The service's queue as the worker sees it: a claimed slice is not handed out again until `lapse`."""

    def __init__(self) -> None:
        self.volume_id = 9
        self.waiting: dict[int, pb.Doomed] = {}
        self.claimed: set[int] = set()
        self.claims = 0
        self.error = 0

    def add(self, slice_id: int, size: int, volume_id: int = 9) -> None:
        self.waiting[slice_id] = pb.Doomed(slice=slice_id, size=size, volume_id=volume_id)

    def lapse(self) -> None:
        self.claimed.clear()

    def read(self, request: pb.Request, /) -> asyncio.Future[pb.Response]:
        self.claims += 1
        limit = request.claim_deletes.limit
        assert limit == CLAIM_SLICES
        given = [one for one in self.waiting.values() if one.slice not in self.claimed][:limit]
        self.claimed |= {one.slice for one in given}
        return self._answer(pb.Response(doomed=given))

    def change(self, request: pb.Request, /) -> asyncio.Future[pb.Response]:
        for slice_id in request.finish_deletes.slices:
            del self.waiting[slice_id]
        return self._answer(pb.Response())

    def _answer(self, response: pb.Response) -> asyncio.Future[pb.Response]:
        future: asyncio.Future[pb.Response] = asyncio.get_running_loop().create_future()
        if self.error:
            future.set_exception(FsError(self.error))
        else:
            future.set_result(response)
        return future


class Store:
    url = "test://"

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.error: Callable[[list[str]], Exception | None] = lambda keys: None

    def delete(self, keys: Iterable[str]) -> None:
        found = list(keys)
        self.calls.append(found)
        error = self.error(found)
        if error is not None:
            raise error


class PatientClock:
    """Sleeps until the test lets it go on."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.go = asyncio.Event()

    def time(self) -> float:
        return 0.0

    def call_later(self, delay_s: float, call: Callable[[], None], /) -> Timer:
        return asyncio.get_running_loop().call_later(3600, call)

    async def sleep(self, delay_s: float, /) -> None:
        self.slept.append(delay_s)
        await self.go.wait()
        self.go.clear()


class Bench:
    def __init__(self) -> None:
        self.queue, self.store, self.clock = Queue(), Store(), PatientClock()
        self.worker = DeleteWorker(self.queue, self.store, "data", BLOCK, clock=self.clock, rng=random.Random(1))  # type: ignore[arg-type]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.worker.close()


async def test_every_object_of_a_slice_is_deleted_then_it_is_reported(bench: Bench) -> None:
    bench.queue.add(1_234_567, 2 * BLOCK + 5)
    bench.queue.add(42, 7)
    bench.worker.start()
    await until(lambda: not bench.queue.waiting)
    assert bench.store.calls == [
        [
            f"data/chunks/1/1234/1234567_0_{BLOCK}",
            f"data/chunks/1/1234/1234567_1_{BLOCK}",
            "data/chunks/1/1234/1234567_2_5",
            "data/chunks/0/0/42_0_7",
        ]
    ]
    await until(lambda: bench.queue.claims == 2)
    assert bench.worker.deleted == 2


async def test_it_sleeps_until_woken(bench: Bench) -> None:
    bench.worker.start()
    await until(lambda: bench.queue.claims == 1)
    bench.queue.add(5, 1)
    bench.worker.wake()
    await until(lambda: not bench.queue.waiting)
    await until(lambda: bench.queue.claims == 3)


async def test_a_store_that_is_away_leaves_everything_in_the_queue_and_is_tried_again(bench: Bench) -> None:
    bench.store.error = lambda keys: ObjectStoreError("refused", transient=True)
    bench.queue.add(1, 1)
    bench.queue.add(2, 1)
    bench.worker.start()
    for failures in range(1, 5):
        await until(lambda: len(bench.clock.slept) == failures)  # noqa: B023
        assert set(bench.queue.waiting) == {1, 2}
        assert len(bench.store.calls) == failures
        bench.queue.lapse()
        bench.clock.go.set()
    assert all(later > sooner for sooner, later in zip(bench.clock.slept, bench.clock.slept[2:], strict=False))
    await until(lambda: len(bench.clock.slept) == 5)
    bench.store.error = lambda keys: None
    bench.queue.lapse()
    bench.clock.go.set()
    await until(lambda: not bench.queue.waiting)


async def test_one_bad_object_does_not_keep_the_rest(bench: Bench) -> None:
    bench.store.error = lambda keys: ObjectDenied("no") if any("/2_" in key for key in keys) else None
    for slice_id in (1, 2, 3):
        bench.queue.add(slice_id, 1)
    bench.worker.start()
    await until(lambda: bench.clock.slept)
    assert set(bench.queue.waiting) == {2}


async def test_any_other_failure_of_the_store_fails_closed_too(bench: Bench) -> None:
    bench.store.error = lambda keys: RuntimeError("a defect")
    bench.queue.add(1, 1)
    bench.worker.start()
    await until(lambda: bench.clock.slept)
    assert set(bench.queue.waiting) == {1}


async def test_an_error_of_the_service_is_waited_out(bench: Bench) -> None:
    bench.queue.error = errno.EIO
    bench.queue.add(1, 1)
    bench.worker.start()
    await until(lambda: bench.clock.slept)
    assert bench.store.calls == []
    bench.queue.error = 0
    bench.queue.lapse()
    bench.clock.go.set()
    await until(lambda: not bench.queue.waiting)


async def test_nothing_of_another_volume_or_of_impossible_size_is_touched(bench: Bench) -> None:
    bench.queue.add(1, 1, volume_id=8)
    bench.queue.add(2, (64 << 20) + 1)
    bench.queue.add(3, 1)
    bench.worker.start()
    await until(lambda: bench.clock.slept)
    assert bench.store.calls == [["data/chunks/0/0/3_0_1"]]
    assert set(bench.queue.waiting) == {1, 2}


async def test_a_slice_without_objects_is_just_reported(bench: Bench) -> None:
    bench.queue.add(1, 0)
    bench.worker.start()
    await until(lambda: not bench.queue.waiting)
    assert bench.store.calls == []
