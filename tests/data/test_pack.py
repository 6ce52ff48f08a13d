"""Small runs that share a slice: what is packed, how it is uploaded, cut, retried, committed and read."""

from __future__ import annotations

import errno
import random
from typing import Any

import pytest
from fake_slices import FakeSlices
from manual_threads import ManualClock, ManualThreads, pump
from memory_store import MemoryStore

from fuseclient.data.block import SEGMENT_BYTES
from fuseclient.data.data_path import StoreDataPath
from fuseclient.data.dirty import DirtyFile, Run
from fuseclient.data.object_store import ObjectStoreFull
from fuseclient.data.pack import PACK_RUNS_MAX, Pack
from fuseclient.data.settings import DataSettings
from fuseclient.data.slices import CHUNK_BYTES, INLINE_REACH
from fuseclient.errors import FsError

BLOCK = 4 * SEGMENT_BYTES
INLINE = 512
FAR = INLINE * INLINE_REACH


def sealed(*writes: tuple[int, int], chunk: int = 0) -> DirtyFile:
    """A file in which (pos, length) were written, each with bytes of its own, and sealed."""
    dirty = DirtyFile(BLOCK, INLINE)
    for fill, (pos, length) in enumerate(writes, 1):
        dirty.write(chunk, pos, memoryview(bytes([fill % 256]) * length))
    dirty.seal_all()
    return dirty


def packs(dirty: DirtyFile) -> list[Pack]:
    """All packs, in the order of commit."""
    return list(dict.fromkeys(run.pack for run in dirty.sealed() if run.pack is not None))


def payload(pack: Pack) -> bytes:
    block = pack.blocks[0]
    assert block is not None
    return block


def test_small_runs_are_put_one_after_the_other() -> None:
    dirty = sealed((FAR + 5000, 30), (FAR, 20), (FAR + 1000, 10))
    (pack,) = packs(dirty)
    assert payload(pack) == b"\2" * 20 + b"\3" * 10 + b"\1" * 30
    assert [(run.pos, run.off, run.use) for run in dirty.sealed()] == [
        (FAR, 0, 20),
        (FAR + 1000, 20, 10),
        (FAR + 5000, 30, 30),
    ]
    assert dirty.ready == [(pack, 0)]
    assert not any(run.is_inline for run in dirty.sealed())


def test_what_is_not_packed() -> None:
    """Inline runs, runs with blocks on their way, and a run that is alone."""
    dirty = sealed((0, 100), (FAR, BLOCK + 1), (FAR + 3 * BLOCK, 9))
    assert packs(dirty) == []
    assert [(type(carrier), number) for carrier, number in dirty.ready] == [(Run, 0), (Run, 1), (Run, 0)]
    assert [run.is_inline for run in sorted(dirty.sealed(), key=lambda run: run.pos)] == [True, False, False]


def test_a_pack_is_of_one_chunk() -> None:
    dirty = DirtyFile(BLOCK, INLINE)
    for chunk in (1, 2):
        for pos in (0, 100):
            dirty.write(chunk, pos, memoryview(b"x"))
    dirty.seal_all()
    assert [{run.chunk for run in pack.runs} for pack in packs(dirty)] == [{1}, {2}]


def test_a_pack_is_one_block_at_most() -> None:
    half = BLOCK // 2
    dirty = sealed(*[(FAR + n * BLOCK, half) for n in range(5)])
    assert [pack.size for pack in packs(dirty)] == [BLOCK, BLOCK]
    assert [run.pack is None for run in dirty.sealed()] == [False] * 4 + [True]


def test_a_pack_fits_in_a_commit() -> None:
    dirty = sealed(*[(2 * n, 1) for n in range(2 * PACK_RUNS_MAX)], chunk=1)
    assert [len(pack.runs) for pack in packs(dirty)] == [PACK_RUNS_MAX, PACK_RUNS_MAX]


def test_a_pack_lives_as_long_as_one_of_its_runs() -> None:
    dirty = sealed((0, 50), (1000, 50), (2000, 50), chunk=1)
    (pack,) = packs(dirty)
    freed, gone = dirty.cut(CHUNK_BYTES + 1020)
    assert (freed, [run.pos for run in gone]) == (0, [2000])
    assert [(run.pos, run.off, run.use) for run in dirty.sealed()] == [(0, 0, 50), (1000, 50, 20)]
    assert (pack.size, pack.gone) == (150, False)
    dirty.cut(CHUNK_BYTES)
    assert pack.gone
    assert not dirty


class World:
    """One mount with everything in hand. Made inside a running loop."""

    def __init__(self, block_bytes: int = BLOCK, store: MemoryStore | None = None, service: FakeSlices | None = None) -> None:
        self.store = store or MemoryStore()
        self.service = service or FakeSlices(INLINE)
        self.threads = ManualThreads()
        settings = DataSettings("vol", block_bytes=block_bytes, inline_bytes=INLINE, buffer_bytes=60 * BLOCK)
        self.path = StoreDataPath(self.store, self.service, settings, clock=ManualClock(), threads=self.threads)
        self.file = self.path.file(self.service.attr())

    async def do(self, work: Any) -> Any:
        return await pump(work, self.threads)

    async def read(self, offset: int, size: int) -> bytes:
        parts = self.file.read(offset, size)
        return b"".join(parts if isinstance(parts, (list, tuple)) else await self.do(parts))

    def scatter(self, count: int, length: int = 1000, stride: int = 3000) -> bytearray:
        """Small writes from the second chunk's start on; what is there then."""
        content = bytearray(count * stride)
        for n in range(count):
            data = bytes([n % 255 + 1]) * length
            self.file.write(CHUNK_BYTES + n * stride, memoryview(data), False)
            content[n * stride : n * stride + length] = data
        return content[: (count - 1) * stride + length]

    @property
    def dirty_bytes(self) -> int:
        return self.path.stats()["dirty_bytes"]


async def test_random_small_writes_cost_few_objects_and_commits() -> None:
    world = World()
    rng = random.Random(1)
    content = bytearray(8 << 20)
    for n in range(500):
        at = rng.randrange(FAR, len(content) - 4096)
        data = bytes([n % 255 + 1]) * 4096
        content[at : at + 4096] = data
        world.file.write(at, memoryview(data), False)
    content = content[: world.file.size]
    await world.do(world.file.flush())
    assert world.store.puts <= 2_048_000 // BLOCK + 3
    assert len(world.service.commits) == 1
    assert world.dirty_bytes == 0
    assert await world.read(0, len(content)) == content


async def test_a_request_holds_whole_packs() -> None:
    world = World()
    content = world.scatter(2 * PACK_RUNS_MAX + 50, 10, 30)
    await world.do(world.file.flush())
    assert [len(slices) for _, slices, _ in world.service.commits] == [PACK_RUNS_MAX, PACK_RUNS_MAX + 50]
    assert await world.read(CHUNK_BYTES, len(content)) == content


@pytest.mark.parametrize("jobs", [0, 1])
async def test_cut_off_before_the_commit_it_leaves_no_object(jobs: int) -> None:
    world = World()
    world.scatter(5)
    world.service.refuse = errno.EDQUOT
    if jobs:
        with pytest.raises(FsError):
            await world.do(world.file.flush())
        assert len(world.store.objects) == 1
    await world.do(world.file.truncate(CHUNK_BYTES))
    await world.do(world.path.close())
    assert world.store.objects == {}
    assert world.service.commits == []
    assert world.dirty_bytes == 0


async def test_cut_in_part_the_rest_is_committed() -> None:
    world = World()
    content = world.scatter(5)
    world.service.refuse = errno.EDQUOT
    with pytest.raises(FsError):
        await world.do(world.file.flush())
    await world.do(world.file.truncate(CHUNK_BYTES + 3500))
    await world.do(world.file.flush())
    ((_, slices, _),) = world.service.commits
    assert [(one.pos, one.off, one.length, one.size) for one in slices] == [(0, 0, 1000, 5000), (3000, 1000, 500, 5000)]
    assert world.store.puts == 1
    world.file.refresh(world.service.attr())
    assert await world.read(CHUNK_BYTES, 9000) == content[:3500]


async def test_a_pack_that_fails_stays_readable_and_is_tried_again() -> None:
    world = World()
    content = world.scatter(5)
    world.store.fail_puts = [ObjectStoreFull("no room")]
    with pytest.raises(FsError) as caught:
        await world.do(world.file.flush())
    assert caught.value.errno == errno.ENOSPC
    assert world.dirty_bytes == 0  # what failed must not stop the writers of other files
    with pytest.raises(FsError):
        world.file.write(0, memoryview(b"more"), False)
    assert await world.read(CHUNK_BYTES, len(content)) == content
    await world.do(world.file.flush())
    assert world.store.puts == 1
    assert world.dirty_bytes == 0
    assert not world.file.dirty
    assert await world.read(CHUNK_BYTES, len(content)) == content


async def test_a_failed_pack_that_is_cut_off_fails_no_more() -> None:
    world = World()
    world.scatter(5)
    world.store.fail_puts = [ObjectStoreFull("no room")]
    with pytest.raises(FsError):
        await world.do(world.file.flush())
    await world.do(world.file.truncate(CHUNK_BYTES + 1))
    with pytest.raises(FsError):
        world.file.write(0, memoryview(b"x"), False)  # one run is left
    await world.do(world.file.truncate(0))
    world.file.write(0, memoryview(b"x"), False)
    await world.do(world.file.flush())
    assert world.store.objects == {}


async def test_uploaded_and_not_committed_it_is_read_from_the_store() -> None:
    world = World()
    content = world.scatter(5)
    world.service.refuse = errno.EDQUOT
    with pytest.raises(FsError):
        await world.do(world.file.flush())
    assert world.dirty_bytes == 0
    assert await world.read(CHUNK_BYTES, len(content)) == content
    assert world.store.gets


async def test_given_up_it_leaves_no_object() -> None:
    world = World()
    world.scatter(5)
    world.service.refuse = errno.EDQUOT
    with pytest.raises(FsError):
        await world.do(world.file.flush())
    closing = world.file.close()
    assert closing is not None
    await world.do(closing)
    assert world.store.objects == {}
    assert world.dirty_bytes == 0


async def test_newer_data_lies_on_top_of_a_pack() -> None:
    world = World()
    content = world.scatter(5)
    world.service.refuse = errno.EDQUOT
    with pytest.raises(FsError):
        await world.do(world.file.flush())
    for at in (500, 3100):
        world.file.write(CHUNK_BYTES + at, memoryview(b"new" * 50), False)
        content[at : at + 150] = b"new" * 50
    await world.do(world.file.flush())
    assert await world.read(CHUNK_BYTES, len(content)) == content
    assert len(world.service.committed) == 2


async def test_a_large_pack_is_read_in_pieces_or_whole() -> None:
    """Few segments are fetched alone; many of them cost one request and not one each."""
    world = World(4 * BLOCK)
    content = world.scatter(4 * BLOCK // 4096, 4096, 5000)
    await world.do(world.file.flush())
    assert world.store.puts == 1
    for offset, size, requests, at_most in ((500_050, 100, 2, 2), (0, 20_000, 2, 2), (100_000, 500_000, 1, 17)):
        reader = World(4 * BLOCK, world.store, world.service)
        world.store.gets.clear()
        assert await reader.read(CHUNK_BYTES + offset, size) == content[offset : offset + size]
        assert len(world.store.gets) == requests
        assert sum(length or 4 * BLOCK for _, _, length in world.store.gets) < at_most * SEGMENT_BYTES
