"""Reading: nearest copy first, one fetch for many readers, reading ahead, and damage or absence never giving wrong bytes."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING, Any

import pytest
from fake_slices import INO, FakeSlices
from manual_threads import ManualClock
from memory_store import MemoryStore

from fuseclient.data import block
from fuseclient.data.block import SEGMENT_BYTES
from fuseclient.data.block_cache import BlockCache
from fuseclient.data.data_path import StoreDataPath
from fuseclient.data.local_dir import LocalDir
from fuseclient.data.object_store import ObjectStoreError
from fuseclient.data.settings import DataSettings
from fuseclient.errors import FsError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from fuseclient.data.file_data import StoredFile
    from fuseclient.data.object_store import ObjectStore

BLOCK = 16 * SEGMENT_BYTES
CONTENT = b"".join(number.to_bytes(4, "big") for number in range(6 * BLOCK // 4))


class World:
    """A store with one file in it, and mounts on it."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.service = FakeSlices()
        self.clock = ManualClock()
        self.settings = DataSettings("vol", block_bytes=BLOCK, buffer_bytes=60 * BLOCK)
        self.paths: list[StoreDataPath] = []

    def mount(self, store: ObjectStore | None = None, cache: BlockCache | None = None) -> StoreDataPath:
        path = StoreDataPath(store or self.store, self.service, self.settings, clock=self.clock, cache=cache)
        self.paths.append(path)
        return path

    async def fill(self, content: bytes = CONTENT, store: ObjectStore | None = None) -> None:
        file = self.mount(store).file(self.service.attr())
        waiting = file.write(0, memoryview(content), False)
        if waiting is not None:
            await waiting
        await file.flush()

    def file(self, **mount: Any) -> StoredFile:
        return self.mount(**mount).file(self.service.attr())


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    for path in made.paths:
        await path.close()


async def _read(file: StoredFile, offset: int, size: int) -> bytes:
    parts = file.read(offset, size)
    return b"".join(parts if isinstance(parts, (list, tuple)) else await parts)


def _damage_files(directory: Path, pattern: str) -> None:
    for path in [path for path in directory.rglob(pattern) if path.is_file()]:
        data = bytearray(path.read_bytes())
        data[3] ^= 0x40
        path.write_bytes(data)


async def test_a_small_random_read_fetches_little(world: World) -> None:
    await world.fill()
    file = world.file()
    at = 2 * BLOCK + 5 * SEGMENT_BYTES + 100
    assert await _read(file, at, 50) == CONTENT[at : at + 50]
    fetched = [length for _, _, length in world.store.gets]
    assert None not in fetched
    assert sum(filter(None, fetched)) <= SEGMENT_BYTES + block.trailer_bytes(BLOCK)
    world.store.gets.clear()
    assert await _read(file, at + 60, 50) == CONTENT[at + 60 : at + 110]
    assert world.store.gets == []  # the segment is in memory
    assert await _read(file, at + SEGMENT_BYTES, 50) == CONTENT[at + SEGMENT_BYTES : at + SEGMENT_BYTES + 50]
    assert len(world.store.gets) == 1  # and the trailer is known


async def test_a_read_across_blocks(world: World) -> None:
    await world.fill()
    file = world.file()
    at = 3 * BLOCK - 10
    assert await _read(file, at, 20) == CONTENT[at : at + 20]
    assert await _read(file, 0, len(CONTENT) + 100) == CONTENT


async def test_sequential_reads_fetch_ahead_and_each_block_once(world: World) -> None:
    await world.fill()
    file = world.file()
    step = 128 << 10
    for at in range(0, len(CONTENT), step):
        assert await _read(file, at, step) == CONTENT[at : at + step]
    assert len(world.store.gets) == len(CONTENT) // BLOCK
    assert world.paths[-1].stats()["prefetched_blocks"] >= len(CONTENT) // BLOCK - 2


async def test_two_sequential_readers_at_once(world: World) -> None:
    await world.fill()
    file = world.file()
    step, half = 64 << 10, len(CONTENT) // 2
    for at in range(0, half, step):
        assert await _read(file, at, step) == CONTENT[at : at + step]
        assert await _read(file, half + at, step) == CONTENT[half + at : half + at + step]
    whole = [key for key, _, length in world.store.gets if length is None]
    assert len(whole) == len(set(whole)) == len(CONTENT) // BLOCK


async def test_many_readers_share_a_fetch(world: World) -> None:
    await world.fill()
    file = world.file()
    results = await asyncio.gather(*(_read(file, number, BLOCK // 2 + 1) for number in range(20)))
    assert results == [CONTENT[number : number + BLOCK // 2 + 1] for number in range(20)]
    assert len([key for key, _, length in world.store.gets if "_0_" in key]) == 1


async def test_holes_and_the_end(world: World) -> None:
    file = world.file()
    file.write(100, memoryview(b"x" * 5000), False)
    file.write(3 << 20, memoryview(b"y"), False)
    await file.flush()
    fresh = world.file()
    assert await _read(fresh, 0, 200) == bytes(100) + b"x" * 100
    assert await _read(fresh, 5000, 2 << 20) == b"x" * 100 + bytes((2 << 20) - 100)
    assert await _read(fresh, (3 << 20) - 1, 100) == b"\0y"
    assert await _read(fresh, (3 << 20) + 1, 100) == b""
    assert await _read(fresh, 1 << 40, 100) == b""


async def test_no_request_for_what_open_brought(world: World) -> None:
    file = world.file()
    file.write(0, memoryview(b"small"), False)
    await file.flush()
    _, maps = await world.service.read(INO, 0, 1)
    world.service.reads = 0
    fresh = world.file()
    fresh.prime(maps[0].extents, maps[0].inline)
    assert b"".join(fresh.read(0, 10)) == b"small"  # type: ignore[arg-type]
    assert world.service.reads == 0


async def test_an_old_answer_to_open_primes_nothing(world: World) -> None:
    file = world.file()
    file.write(0, memoryview(b"old"), False)
    old = await file.flush()
    assert old is not None
    _, maps = await world.service.read(INO, 0, 1)
    file.write(0, memoryview(b"new"), False)
    await file.flush()
    file.refresh(old)  # overtaken on the way
    file.prime(maps[0].extents, maps[0].inline)
    assert await _read(file, 0, 3) == b"new"


async def test_a_map_asked_for_before_a_commit_is_not_used_after_it(world: World) -> None:
    """The server answers with the map from before; own data must not vanish from the file in between."""
    await world.fill(b"a" * 5000)
    file = world.file()
    asked, answer = asyncio.Event(), asyncio.Event()
    inner = world.service.read

    async def slow(*args: int) -> Any:
        result = await inner(*args)
        asked.set()
        await answer.wait()
        return result

    world.service.read = slow  # type: ignore[method-assign]
    reading = asyncio.ensure_future(_read(file, 0, 100))
    await asked.wait()
    world.service.read = inner  # type: ignore[method-assign]
    file.write(0, memoryview(b"b" * 50), False)
    await file.flush()
    answer.set()
    assert await reading == b"b" * 50 + b"a" * 50
    assert await _read(file, 0, 100) == b"b" * 50 + b"a" * 50


async def test_a_missing_object_means_that_the_map_is_old(world: World) -> None:
    await world.fill()
    file = world.file()
    assert await _read(file, 5 * BLOCK, 10) == CONTENT[5 * BLOCK : 5 * BLOCK + 10]
    other = world.file()
    other.write(0, memoryview(CONTENT[::-1]), False)
    await other.flush()
    for key in [key for key in world.store.objects if "/1001_" in key]:
        del world.store.objects[key]
    assert await _read(file, 2 * BLOCK, 1000) == CONTENT[::-1][2 * BLOCK : 2 * BLOCK + 1000]


async def test_an_object_that_stays_missing_is_an_error(world: World) -> None:
    await world.fill()
    world.store.objects.clear()
    file = world.file()
    with pytest.raises(FsError) as caught:
        await _read(file, 0, 10)
    assert caught.value.errno == errno.EIO
    assert world.service.reads == 2


@pytest.mark.parametrize("size", [10, BLOCK])
async def test_damage_in_the_store_is_an_error_never_wrong_bytes(world: World, size: int) -> None:
    await world.fill()
    for key in list(world.store.objects):
        world.store.damage(key, 7)
    file = world.file()
    with pytest.raises(FsError) as caught:
        await _read(file, BLOCK, size)
    assert caught.value.errno == errno.EIO
    # What is whole can still be read.
    at = BLOCK + 2 * SEGMENT_BYTES
    assert await _read(file, at, 10) == CONTENT[at : at + 10]


async def test_damage_on_the_way_is_read_again(world: World) -> None:
    await world.fill()
    file = world.file()
    inner, first = world.store.get, [True]

    def garbled(key: str, offset: int = 0, length: int | None = None) -> bytes:
        data = inner(key, offset, length)
        if first:
            first.clear()
            return b"?" + data[1:]
        return data

    world.store.get = garbled  # type: ignore[method-assign]
    assert await _read(file, 0, BLOCK) == CONTENT[:BLOCK]


async def test_a_store_that_hiccups_is_asked_again(world: World) -> None:
    await world.fill()
    file = world.file()
    world.store.fail_gets = [ObjectStoreError("slow down", transient=True)] * 3
    assert await _read(file, 0, 10) == CONTENT[:10]
    assert world.clock.slept_s > 0


async def test_a_store_that_is_away_is_an_error_after_a_while(world: World) -> None:
    await world.fill()
    file = world.file()
    world.store.fail_gets = [ObjectStoreError("refused", transient=True)] * 1000
    with pytest.raises(FsError) as caught:
        await _read(file, 0, 10)
    assert caught.value.errno == errno.EIO
    assert world.clock.slept_s <= world.settings.read_deadline_s


async def test_the_disk_cache_serves_and_repairs(world: World, tmp_path: Path) -> None:
    await world.fill()
    cache = BlockCache(tmp_path, "x", 1 << 30, reserve_bytes=0)
    try:
        assert await _read(world.file(cache=cache), 0, len(CONTENT)) == CONTENT
        cache.settle()
        gets = len(world.store.gets)
        assert await _read(world.file(cache=cache), 0, len(CONTENT)) == CONTENT
        assert len(world.store.gets) == gets
        _damage_files(tmp_path, "*_0_*")
        assert await _read(world.file(cache=cache), 0, len(CONTENT)) == CONTENT
        assert len(world.store.gets) == gets + 1
        assert cache.dropped == 1
        cache.settle()
        assert await _read(world.file(cache=cache), 1, 1000) == CONTENT[1:1001]
        assert len(world.store.gets) == gets + 1  # repaired
    finally:
        cache.close()


async def test_what_was_written_is_cached(world: World, tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, "x", 1 << 30, reserve_bytes=0)
    try:
        file = world.file(cache=cache)
        file.write(0, memoryview(CONTENT), False)
        await file.flush()
        cache.settle()
        world.store.objects.clear()
        assert await _read(world.file(cache=cache), 0, len(CONTENT)) == CONTENT
    finally:
        cache.close()


async def test_a_local_store_answers_without_waiting(world: World, tmp_path: Path) -> None:
    store = LocalDir(tmp_path / "objects")
    await world.fill(store=store)
    file = world.file(store=store)
    assert await _read(file, 0, 10) == CONTENT[:10]  # fetches the map
    at = 3 * BLOCK + 1000
    first = file.read(at, 5000)
    if not isinstance(first, list):
        await first
        pytest.skip("this file system does not read without waiting")
    assert b"".join(first) == CONTENT[at : at + 5000]


async def test_memory_for_read_blocks_is_bounded(world: World) -> None:
    world.settings = DataSettings("vol", block_bytes=BLOCK, buffer_bytes=6 * BLOCK)
    await world.fill()
    file = world.file()
    for _ in range(2):
        for at in range(0, len(CONTENT), BLOCK):
            assert await _read(file, at, BLOCK) == CONTENT[at : at + BLOCK]
            assert world.paths[-1].stats()["memory_bytes"] <= 2 * BLOCK


async def test_seek(world: World) -> None:
    file = world.file()
    file.write(10_000, memoryview(b"x" * 5000), False)
    file.write(100_000_000, memoryview(b"y" * 10), False)
    for _ in range(2):

        async def seek(offset: int, whence: int) -> int:
            found = file.seek(offset, whence)
            return found if isinstance(found, int) else await found

        assert await seek(0, os.SEEK_HOLE) == 0
        assert await seek(0, os.SEEK_DATA) == 10_000
        assert await seek(12_000, os.SEEK_DATA) == 12_000
        assert await seek(12_000, os.SEEK_HOLE) == 15_000
        assert await seek(15_000, os.SEEK_DATA) == 100_000_000
        assert await seek(100_000_000, os.SEEK_HOLE) == 100_000_010
        for offset, whence in ((100_000_010, os.SEEK_DATA), (100_000_010, os.SEEK_HOLE), (-1, os.SEEK_DATA)):
            with pytest.raises(FsError) as caught:
                await seek(offset, whence)
            assert caught.value.errno == errno.ENXIO
        await file.truncate(100_000_005)
        file.refresh(world.service.set_size(INO, 100_000_005))
        await file.truncate(100_000_010)
        file.refresh(world.service.set_size(INO, 100_000_010))
        with pytest.raises(FsError):
            await seek(100_000_006, os.SEEK_DATA)
        file.write(100_000_000, memoryview(b"y" * 10), False)
        await file.flush()
