"""A file on the data path against a plain byte array: writes, reads, holes, truncates, flushes that overlap with all of it,
a store that fails now and then, and readers who come fresh."""

from __future__ import annotations

import asyncio
import errno
import os

import pytest
from fake_slices import INO, FakeSlices
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from manual_threads import ManualClock, ManualThreads, pump
from memory_store import MemoryStore

from fuseclient.data.block import SEGMENT_BYTES
from fuseclient.data.data_path import StoreDataPath
from fuseclient.data.layout import object_keys
from fuseclient.data.object_store import ObjectStoreError, ObjectStoreFull
from fuseclient.data.settings import DataSettings
from fuseclient.data.slices import CHUNK_BYTES
from fuseclient.errors import FsError

BLOCK = SEGMENT_BYTES
NEAR = 5 * BLOCK

# Around the start of the file and around the first chunk's end, so that blocks and chunks are crossed often.
offsets = st.one_of(
    st.integers(0, NEAR),
    st.integers(0, NEAR // BLOCK).map(lambda n: n * BLOCK),
    st.integers(CHUNK_BYTES - NEAR, CHUNK_BYTES + NEAR),
    st.integers(-2, 2).map(lambda n: CHUNK_BYTES + n * BLOCK),
)
lengths = st.one_of(st.integers(1, 200), st.integers(1, 3 * BLOCK), st.sampled_from([4096, BLOCK, 2 * BLOCK]))


def _expect(error: FsError, *numbers: int) -> None:
    """Refusals of other kinds are not among what the machine provokes."""
    if error.errno not in numbers:
        raise error


class FileMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = MemoryStore()
        self.service = FakeSlices()
        self.threads = ManualThreads()
        self.clock = ManualClock()
        self.settings = DataSettings("vol", block_bytes=BLOCK, inline_bytes=512, buffer_bytes=64 * BLOCK)
        self.content = bytearray(CHUNK_BYTES + 8 * NEAR)  # anonymous memory: what is not touched costs nothing
        self.size = 0
        self.ticks = 0
        self.flushes: list[asyncio.Task[object]] = []
        self._open()

    def _open(self) -> None:
        async def make() -> None:
            self.path = StoreDataPath(
                self.store, self.service, self.settings, clock=self.clock, now_ns=self._now_ns, threads=self.threads
            )
            self.file = self.path.file(self.service.attr())

        self.loop.run_until_complete(make())

    def _now_ns(self) -> int:
        self.ticks += 1
        return self.ticks

    def _run(self, work: object) -> object:
        async def through() -> object:
            return await pump(work, self.threads)  # type: ignore[arg-type]

        return self.loop.run_until_complete(through())

    def _expected(self, offset: int, size: int) -> bytes:
        return bytes(self.content[offset : min(offset + size, self.size)]) if offset < self.size else b""

    def _write(self, offset: int, data: bytes) -> None:
        async def write() -> None:
            buffer = bytearray(data)
            waiting = self.file.write(offset, memoryview(buffer), False)
            buffer[:] = bytes(len(buffer))  # the kernel's buffer is used again at once
            if waiting is not None:
                await pump(waiting, self.threads)  # type: ignore[arg-type]

        self.loop.run_until_complete(write())
        self.content[offset : offset + len(data)] = data
        self.size = max(self.size, offset + len(data))

    def _read(self, offset: int, size: int) -> bytes:
        async def read() -> bytes:
            parts = self.file.read(offset, size)
            if not isinstance(parts, (list, tuple)):
                parts = await pump(parts, self.threads)  # type: ignore[arg-type]
            return b"".join(parts)

        return self.loop.run_until_complete(read())

    def _settle(self) -> None:
        for task in self.flushes:
            try:
                self._run(task)
            except FsError as error:
                _expect(error, errno.ENOSPC, errno.EDQUOT)
        self.flushes.clear()

    def _flush(self) -> None:
        self.store.fail_puts.clear()
        self.service.refuse = 0
        self._run(self.file.flush())
        assert not self.file.dirty

    @rule(offset=offsets, length=lengths, fill=st.integers(1, 255), rounds=st.integers(0, 6))
    def write(self, offset: int, length: int, fill: int, rounds: int) -> None:
        pattern = bytes((fill + n) % 255 + 1 for n in range(min(length, 251)))
        try:
            self._write(offset, (pattern * (length // len(pattern) + 1))[:length])
        except FsError as error:
            _expect(error, errno.ENOSPC)  # an upload failed for good; a flush that succeeds heals it
            self._settle()
            self._flush()
        self._go(rounds)

    @rule(offset=offsets, shifts=st.lists(st.integers(0, BLOCK), min_size=2, max_size=4), rounds=st.integers(0, 2))
    def rewrite(self, offset: int, shifts: list[int], rounds: int) -> None:
        """The same place again and again, so that layers of uploaded data lie upon each other."""
        for fill, shift in enumerate(shifts, 1):
            self.write(offset + shift, 2 * BLOCK, fill, rounds)
        assert self._read(offset, NEAR) == self._expected(offset, NEAR)

    @rule(
        offset=offsets,
        strides=st.lists(st.integers(1, 9000), min_size=2, max_size=40),
        length=st.integers(1, 6000),
        steps=st.integers(0, 8),
        jobs=st.integers(0, 3),
        cut=st.none() | st.integers(0, 40_000),
    )
    def scatter(self, offset: int, strides: list[int], length: int, steps: int, jobs: int, cut: int | None) -> None:
        """Small runs beside each other, which share a slice when a flush comes; and perhaps a truncate among them."""
        start = offset
        for fill, stride in enumerate(strides, length):
            self.write(offset, length, fill % 255 + 1, 0)
            offset += length + stride
        self.begin_flush(steps, 0, None)
        self._go(jobs)
        if cut is not None:
            self.truncate(start + cut)
        assert self._read(start, NEAR) == self._expected(start, NEAR)

    @rule(count=st.integers(2, 12), fill=st.integers(1, 255))
    def append(self, count: int, fill: int) -> None:
        if self.size + count * 20_000 < len(self.content):
            for n in range(count):
                try:
                    self._write(self.size, bytes([(fill + n) % 255 + 1]) * 20_000)
                except FsError as error:
                    _expect(error, errno.ENOSPC)
                    self._settle()
                    self._flush()

    @rule(offset=offsets, size=lengths)
    def read(self, offset: int, size: int) -> None:
        assert self._read(offset, size) == self._expected(offset, size)

    @rule()
    def flush(self) -> None:
        self._settle()
        self._flush()
        assert self.service.sizes.get(INO, 0) == self.size

    @rule(steps=st.integers(0, 12), jobs=st.integers(0, 6), order=st.randoms(use_true_random=False))
    def begin_flush(self, steps: int, jobs: int, order: object) -> None:
        """A flush that gets so far and no further for now; uploads end in any order."""

        async def begin() -> None:
            self.flushes.append(asyncio.ensure_future(self.file.flush()))
            for _ in range(steps):
                await asyncio.sleep(0)
            for _ in range(jobs):
                if self.threads.jobs:
                    self.threads.run(order.randrange(len(self.threads.jobs)))  # type: ignore[attr-defined]
                await asyncio.sleep(0)

        self.loop.run_until_complete(begin())

    @rule(rounds=st.integers(1, 8))
    def go_on(self, rounds: int) -> None:
        self._go(rounds)

    def _go(self, rounds: int) -> None:
        """Let uploads proceed by some jobs."""

        async def go() -> None:
            for _ in range(rounds):
                for _ in range(3):
                    await asyncio.sleep(0)
                if self.threads.jobs:
                    self.threads.run()
            await asyncio.sleep(0)

        self.loop.run_until_complete(go())

    @rule(seconds=st.integers(1, 8))
    def time_passes(self, seconds: int) -> None:
        async def go() -> None:
            self.clock.advance(seconds)
            await asyncio.sleep(0)

        self.loop.run_until_complete(go())

    @rule(size=st.one_of(offsets, st.just(0)))
    def truncate(self, size: int) -> None:
        self._run(self.file.truncate(size))
        assert self.file.size == size
        self.file.refresh(self.service.set_size(INO, size))
        self._cut(size)

    @rule(offset=offsets, steps=st.integers(0, 9), jobs=st.integers(0, 4), cut=st.integers(0, 3 * BLOCK))
    def cut_what_is_under_way(self, offset: int, steps: int, jobs: int, cut: int) -> None:
        self.write(offset, 3 * BLOCK, steps + jobs + 1, 0)

        async def begin() -> None:
            self.flushes.append(asyncio.ensure_future(self.file.flush()))
            for _ in range(steps):
                await asyncio.sleep(0)

        self.loop.run_until_complete(begin())
        self._go(jobs)
        self.truncate(offset + cut)

    def _cut(self, size: int) -> None:
        if size < self.size:
            self.content[size : self.size] = bytes(self.size - size)
        self.size = size

    @rule(kind=st.sampled_from(["away", "full", "quota"]), times=st.integers(1, 4))
    def trouble(self, kind: str, times: int) -> None:
        if kind == "away":
            self.store.fail_puts = [ObjectStoreError("away", transient=True)] * times
        elif kind == "full":
            self.store.fail_puts.append(ObjectStoreFull("no room"))
        else:
            self.service.refuse = errno.EDQUOT

    @rule()
    def slow_reads(self) -> None:
        self.store.fail_gets = [ObjectStoreError("away", transient=True)] * 2

    @precondition(lambda self: not self.flushes)
    @rule()
    def reopen(self) -> None:
        self._flush()
        assert self.file.close() is None
        self._run(self.path.close())
        self._open()
        assert self.file.size == self.size

    @rule()
    def another_client_overwrites(self) -> None:
        """Close-to-open: what somebody else committed is seen after a refresh, and its old objects may be gone."""
        self._settle()
        self._flush()
        before = self.service.live()

        async def other() -> None:
            path = StoreDataPath(self.store, self.service, self.settings, clock=self.clock, threads=self.threads)
            file = path.file(self.service.attr())
            file.write(100, memoryview(b"other" * 30_000), False)
            await pump(file.flush(), self.threads)
            await pump(path.close(), self.threads)

        self.loop.run_until_complete(other())
        for slice_id, size in before.items():
            if slice_id not in self.service.live():
                self.store.delete(object_keys("vol", slice_id, size, BLOCK))
        self.file.refresh(self.service.attr())
        self.content[100 : 100 + 150_000] = b"other" * 30_000
        self.size = max(self.size, 150_100)

    @rule(offset=offsets)
    def seek(self, offset: int) -> None:
        """SEEK_DATA and SEEK_HOLE may be coarse, but never pass over data, and never call a hole what holds something."""
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            try:
                found = self._run_seek(offset, whence)
            except FsError as error:
                _expect(error, errno.ENXIO)
                assert offset >= self.size or whence == os.SEEK_DATA
                if offset < self.size:
                    assert not any(self.content[offset : self.size])
                continue
            assert offset <= found <= self.size
            if whence == os.SEEK_DATA:
                assert found < self.size
                assert not any(self.content[offset:found])
            elif found < self.size:
                assert not self.content[found]

    def _run_seek(self, offset: int, whence: int) -> int:
        async def seek() -> int:
            found = self.file.seek(offset, whence)
            return found if isinstance(found, int) else await found

        return self.loop.run_until_complete(seek())

    @invariant()
    def size_agrees(self) -> None:
        assert self.file.size == self.size

    @invariant()
    def committed_objects_are_there(self) -> None:
        for slice_id, size in self.service.live().items():
            for key in object_keys("vol", slice_id, size, BLOCK):
                assert key in self.store.objects

    def teardown(self) -> None:
        self._settle()
        self._flush()
        for at in (0, NEAR, CHUNK_BYTES - NEAR, CHUNK_BYTES):
            assert self._read(at, NEAR) == self._expected(at, NEAR)
        self._run(self.path.close())
        assert self.path.stats()["dirty_bytes"] == 0
        garbage = {int(key.split("/")[-1].split("_")[0]) for key in self.store.objects} - self.service.committed
        assert not garbage
        self._open()
        for at in (0, NEAR, CHUNK_BYTES - NEAR, CHUNK_BYTES):
            assert self._read(at, NEAR) == self._expected(at, NEAR)
        self._run(self.path.close())
        self.loop.close()


FileMachine.TestCase.settings = settings(
    max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestFileMachine = FileMachine.TestCase


@pytest.mark.soak
def test_file_machine_for_long() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        FileMachine, settings=settings(max_examples=2000, stateful_step_count=60, deadline=None, print_blob=True)
    )
