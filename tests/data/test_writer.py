"""Writing under trouble: stores that are away or refuse, buffers that fill, flushes that overlap, data given up."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Any

import pytest
from fake_slices import INO, FakeSlices
from manual_threads import ManualClock, ManualThreads, pump
from memory_store import MemoryStore

from fuseclient.data.block import SEGMENT_BYTES
from fuseclient.data.data_path import StoreDataPath
from fuseclient.data.object_store import ObjectDenied, ObjectStoreError, ObjectStoreFull
from fuseclient.data.settings import DataSettings
from fuseclient.data.slices import CHUNK_BYTES
from fuseclient.errors import FsError

if TYPE_CHECKING:
    from fuseclient.attr import Attr
    from fuseclient.data.file_data import StoredFile

BLOCK = SEGMENT_BYTES


class World:
    """One mount with everything in hand. Made inside a running loop."""

    def __init__(self, **settings: Any) -> None:
        self.store = MemoryStore()
        self.service = FakeSlices()
        self.threads = ManualThreads()
        self.clock = ManualClock()
        self.settings = DataSettings("vol", block_bytes=BLOCK, **{"inline_bytes": 512, "buffer_bytes": 60 * BLOCK, **settings})
        self.path = StoreDataPath(
            self.store, self.service, self.settings, clock=self.clock, now_ns=lambda: 5, threads=self.threads
        )

    def file(self, ino: int = INO) -> StoredFile:
        return self.path.file(self.service.attr(ino))

    async def do(self, work: Any) -> Any:
        return await pump(work, self.threads)

    async def settle(self) -> None:
        """Let everything go on that can, but run no job."""
        for _ in range(20):
            await asyncio.sleep(0)


async def test_small_data_travels_in_the_commit() -> None:
    world = World()
    file = world.file()
    file.write(10, memoryview(b"x" * 500), True)
    attr: Attr = await world.do(file.flush())
    assert attr.fields.size == 510
    assert world.store.puts == 0
    ((ino, (slice_,), kill_priv),) = world.service.commits
    assert (ino, slice_.pos, slice_.data, kill_priv) == (INO, 10, b"x" * 500, True)
    assert file.mtime_ns == 5
    assert world.service.mtimes[INO] == 5


async def test_nothing_dirty_nothing_done() -> None:
    world = World()
    file = world.file()
    assert await world.do(file.flush()) is None
    assert world.service.commits == []
    assert file.close() is None


async def test_privileges_are_dropped_once() -> None:
    world = World()
    file = world.file()
    file.write(0, memoryview(b"a"), True)
    await world.do(file.flush())
    file.write(0, memoryview(b"b"), False)
    await world.do(file.flush())
    assert [kill for _, _, kill in world.service.commits] == [True, False]


async def test_full_blocks_are_uploaded_before_any_flush() -> None:
    world = World()
    file = world.file()
    file.write(0, memoryview(bytes(2 * BLOCK + 5)), False)
    await world.settle()
    while world.threads.jobs:
        world.threads.run()
    await world.settle()
    assert sorted(world.store.objects) == ["vol/chunks/0/1/1001_0_65536", "vol/chunks/0/1/1001_1_65536"]
    assert world.path.stats()["dirty_bytes"] == 5
    assert world.service.commits == []
    await world.do(file.flush())
    assert len(world.store.objects) == 3


async def test_nothing_is_committed_before_its_objects_are_durable() -> None:
    world = World()
    file = world.file()
    file.write(0, memoryview(bytes(3 * BLOCK)), False)
    flush = asyncio.ensure_future(file.flush())
    await world.settle()
    world.threads.run()
    world.threads.run()
    await world.settle()
    assert world.service.commits == []
    assert not flush.done()
    await world.do(flush)
    assert len(world.service.commits) == 1


async def test_writes_during_a_flush_belong_to_the_next() -> None:
    world = World()
    file = world.file()
    file.write(0, memoryview(b"a" * BLOCK), False)
    flush = asyncio.ensure_future(file.flush())
    await world.settle()
    file.write(0, memoryview(b"b" * 10), False)
    await world.do(flush)
    assert file.dirty
    assert b"".join(await world.do(file.read(0, 12))) == b"b" * 10 + b"aa"
    await world.do(file.flush())
    assert not file.dirty
    assert [slice_.pos for _, slices, _ in world.service.commits for slice_ in slices] == [0, 0]


async def test_a_store_that_is_away_makes_writers_wait_and_then_succeed() -> None:
    world = World()
    file = world.file()
    world.store.fail_puts = [ObjectStoreError("refused", transient=True)] * 12
    file.write(0, memoryview(bytes(BLOCK)), False)
    await world.do(file.flush())
    assert world.clock.slept_s > 20
    assert world.path.stats()["upload_retries"] == 12
    assert len(world.store.objects) == 1
    assert not file.dirty


async def test_a_store_that_stays_away_is_an_error_in_the_end() -> None:
    world = World(upload_deadline_s=60.0)
    file = world.file()
    world.store.fail_puts = [ObjectStoreError("refused", transient=True)] * 1000
    file.write(0, memoryview(b"k" * BLOCK), False)
    with pytest.raises(FsError) as caught:
        await world.do(file.flush())
    assert caught.value.errno == errno.EIO
    assert 30 < world.clock.slept_s <= 60
    assert file.dirty
    assert b"".join(file.read(0, BLOCK)) == b"k" * BLOCK  # type: ignore[arg-type]  # still readable


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (ObjectStoreFull("full"), errno.ENOSPC),
        (ObjectDenied("no"), errno.EACCES),
        (ObjectStoreError("broken", transient=False), errno.EIO),
    ],
)
async def test_a_refusal_is_told_by_flush_and_heals(error: ObjectStoreError, number: int) -> None:
    world = World()
    file = world.file()
    world.store.fail_puts = [error]
    file.write(0, memoryview(b"k" * BLOCK), False)
    with pytest.raises(FsError) as caught:
        await world.do(file.flush())
    assert caught.value.errno == number
    with pytest.raises(FsError) as refused:
        file.write(BLOCK, memoryview(b"more"), False)
    assert refused.value.errno == number
    await world.do(file.flush())  # nothing is lost: the next flush tries again
    file.write(BLOCK, memoryview(b"more"), False)
    await world.do(file.flush())
    assert world.service.sizes[INO] == BLOCK + 4
    assert world.path.stats()["dirty_bytes"] == 0


async def test_a_refused_commit_keeps_the_data() -> None:
    world = World()
    file = world.file()
    world.service.refuse = errno.EDQUOT
    file.write(0, memoryview(b"k" * BLOCK), True)
    with pytest.raises(FsError) as caught:
        await world.do(file.flush())
    assert caught.value.errno == errno.EDQUOT
    assert file.dirty
    await world.do(file.flush())
    ((_, _, kill_priv),) = world.service.commits
    assert kill_priv
    assert world.store.puts == 1


async def test_the_buffer_is_bounded_and_writers_wait() -> None:
    world = World(buffer_bytes=12 * BLOCK)  # 8 blocks of dirty data
    file = world.file()
    limit = world.settings.dirty_bytes_max
    waiting = None
    for number in range(100):
        waiting = file.write(number * BLOCK, memoryview(bytes(BLOCK)), False)
        if waiting is not None:
            break
    assert waiting is not None
    assert world.path.stats()["dirty_bytes"] == limit + BLOCK
    writer = asyncio.ensure_future(waiting)
    await world.settle()
    assert not writer.done()
    world.threads.run()
    await world.settle()
    assert writer.done()
    await world.do(file.flush())
    assert world.path.stats()["dirty_bytes_peak"] == limit + BLOCK
    assert world.path.stats()["dirty_bytes"] == 0


async def test_a_full_buffer_of_small_files_is_flushed() -> None:
    """Nothing here fills a block by itself, so without a push nothing would ever leave."""
    world = World(buffer_bytes=12 * BLOCK)
    files = [world.file(number) for number in range(1, 40)]
    for file in files:
        waiting = file.write(0, memoryview(bytes(BLOCK // 2)), False)
        if waiting is not None:
            await world.do(waiting)
    assert world.service.commits
    assert world.path.stats()["dirty_bytes_peak"] <= world.settings.dirty_bytes_max + BLOCK // 2
    await world.do(world.path.close())
    assert len(world.service.commits) == len(files)


async def test_a_failing_file_does_not_stop_the_others() -> None:
    world = World(buffer_bytes=12 * BLOCK)
    bad, good = world.file(1), world.file(2)
    world.store.fail_puts = [ObjectDenied("no")] * 6
    for number in range(6):
        bad.write(number * BLOCK, memoryview(bytes(BLOCK)), False)
    with pytest.raises(FsError):
        await world.do(bad.flush())
    for number in range(30):
        waiting = good.write(number * BLOCK, memoryview(bytes(BLOCK)), False)
        if waiting is not None:
            await world.do(waiting)
    await world.do(good.flush())
    await world.do(bad.close())
    assert world.path.stats()["dirty_bytes"] == 0


async def test_data_is_not_kept_back_for_long() -> None:
    world = World()
    file = world.file()
    file.write(0, memoryview(b"x"), False)
    world.clock.advance(3)
    await world.settle()
    assert file.dirty
    world.clock.advance(3)
    await world.settle()
    assert not file.dirty
    assert len(world.service.commits) == 1
    file.write(0, memoryview(b"y"), False)
    world.clock.advance(7)
    await world.settle()
    assert len(world.service.commits) == 2


async def test_committed_attributes_are_told() -> None:
    world = World()
    told: list[Attr] = []
    world.path.on_commit = told.append
    file = world.file()
    file.write(0, memoryview(b"x"), False)
    attr = await world.do(file.flush())
    assert told == [attr]


async def test_what_is_given_up_leaves_no_objects() -> None:
    world = World()
    file = world.file()
    file.write(0, memoryview(bytes(2 * BLOCK + 7)), False)
    await world.settle()
    world.threads.run()
    await world.settle()
    closing = file.close()
    assert closing is not None
    await world.do(closing)
    assert world.store.objects == {}
    assert world.service.commits == []
    assert world.path.stats()["dirty_bytes"] == 0
    assert world.path.stats()["open_files"] == 0


async def test_what_is_cut_off_leaves_no_objects() -> None:
    world = World()
    file = world.file()
    file.write(0, memoryview(bytes(2 * BLOCK + 7)), False)
    await world.do(file.truncate(0))
    assert file.size == 0
    assert not file.dirty
    await world.do(world.path.close())
    assert world.store.objects == {}
    assert world.path.stats()["dirty_bytes"] == 0


async def test_forsaken_data_is_not_committed_even_by_a_flush_under_way() -> None:
    """Else what a dead session wrote would land under the next one, over what others have written since."""
    world = World()
    file = world.file()
    file.write(0, memoryview(b"u" * BLOCK), False)
    file.write(3 * BLOCK, memoryview(b"inline"), False)
    flush = asyncio.ensure_future(file.flush())
    await world.settle()  # its upload waits for a thread
    file.forsake()
    for one in (flush, file.flush()):
        with pytest.raises(FsError) as caught:
            await world.do(one)
        assert caught.value.errno == errno.EIO
    assert not world.service.commits
    assert b"".join(await world.do(_read(file, 0, 10))) == b"u" * 10
    closing = file.close()
    assert closing is not None
    await world.do(closing)
    assert world.store.objects == {}
    # The file's next life is not concerned.
    fresh = world.file()
    fresh.write(0, memoryview(b"new"), False)
    await world.do(fresh.flush())
    assert len(world.service.commits) == 1


async def _read(file: StoredFile, offset: int, size: int) -> Any:
    found = file.read(offset, size)
    return found if isinstance(found, list) else await found  # type: ignore[misc]


async def test_an_interrupted_flush_commits_once() -> None:
    world = World()
    file = world.file()
    gate = asyncio.Event()
    inner = world.service.commit

    async def slow(*args: Any) -> Attr:
        await gate.wait()
        return await inner(*args)

    world.service.commit = slow  # type: ignore[method-assign]
    file.write(0, memoryview(b"x"), False)
    flush = asyncio.ensure_future(file.flush())
    await world.settle()
    flush.cancel()
    again = asyncio.ensure_future(file.flush())
    await world.settle()
    gate.set()
    await world.do(again)
    assert flush.cancelled()
    assert len(world.service.commits) == 1
    assert not file.dirty


async def test_inline_commits_are_bounded() -> None:
    world = World(inline_bytes=20_000)
    world.service.inline_bytes = 20_000
    file = world.file()
    for number in range(12):
        file.write(number * 25_000, memoryview(bytes([number + 1]) * 20_000), False)
    await world.do(file.flush())
    assert world.store.puts == 0
    assert [len(slices) for _, slices, _ in world.service.commits] == [3, 3, 3, 3]  # at most 64 KiB each


@pytest.mark.parametrize(("offset", "inline"), [(16 * 512 - 500, True), (16 * 512 - 499, False), (CHUNK_BYTES, False)])
async def test_only_the_start_of_a_file_is_inline(offset: int, inline: bool) -> None:
    world = World()
    file = world.file()
    file.write(offset, memoryview(b"x" * 500), False)
    await world.do(file.flush())
    ((_, (slice_,), _),) = world.service.commits
    assert bool(slice_.data) is inline
    assert world.store.puts == (not inline)


async def test_one_file_for_an_inode() -> None:
    world = World()
    file = world.file()
    assert world.file() is file
    assert file.close() is None
    assert world.file() is not file


async def test_the_largest_file() -> None:
    world = World()
    file = world.file()
    with pytest.raises(FsError) as caught:
        file.write(2**57, memoryview(b"x"), False)
    assert caught.value.errno == errno.EFBIG
