"""holds.py and orphans.py: what is held lives, what is free goes, in bounded steps."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from hypothesis import given
from hypothesis import strategies as st
from instant_log import Bench, settle

from metaserver.core import entry as ops
from metaserver.core import reads
from metaserver.core.errors import FsError
from metaserver.holds import Holds
from metaserver.orphans import CHUNKS_PER_REAP, Orphans
from raft.errors import OutcomeUnknown


@given(st.lists(st.tuples(st.sampled_from(["add", "release", "drop", "replace"]), st.integers(1, 3), st.integers(1, 4))))
def test_holds_are_a_set_of_pairs(steps):
    model, freed = set(), []
    holds = Holds(freed.append)
    for step, session, ino in steps:
        before = {held for _, held in model}
        freed.clear()
        match step:
            case "add":
                holds.add(session, ino)
                model.add((session, ino))
            case "release":
                holds.release(session, [ino, 99])
                model.discard((session, ino))
            case "drop":
                holds.drop_session(session)
                model = {pair for pair in model if pair[0] != session}
            case "replace":
                holds.replace(session, [ino])
                model = {pair for pair in model if pair[0] != session} | {(session, ino)}
        now = {held for _, held in model}
        assert set(freed) == before - now
        assert all(holds.held(one) == (one in now) for one in range(1, 5))
        assert all(holds.count_of_inode(one) == sum(held == one for _, held in model) for one in range(1, 5))
        assert all(holds.count_of_session(one) == sum(who == one for who, _ in model) for one in range(1, 4))


class Parts:
    def __init__(self, bench):
        self.bench = bench
        self.orphans = Orphans(bench.writes, lambda ino: self.holds.held(ino), self.is_orphan)
        self.holds = Holds(self.orphans.freed)
        bench.listen(self.orphans.observe)

    def is_orphan(self, ino):
        try:
            return reads.getattr(self.bench.store, ino).nlink == 0
        except FsError:
            return False

    def exists(self, ino):
        try:
            return bool(reads.getattr(self.bench.store, ino))
        except FsError:
            return False

    @property
    def reaps(self):
        return [op.inodes for op in self.bench.log.applied if isinstance(op, ops.Reap)]


@asynccontextmanager
async def running(grace=False):
    bench = Bench()
    await bench.make_volume()
    parts = Parts(bench)
    parts.session = await bench.open_session()
    if not grace:
        parts.orphans.end_grace()
    task = asyncio.create_task(parts.orphans.run())
    try:
        yield parts
    finally:
        task.cancel()


async def make(parts, name):
    root = parts.bench.volume.root
    result = await parts.bench.change(parts.session, ops.Create(root, name, 0o644, 0, True, ops.ROOT))
    assert not result.errno
    return result.inode.ino


async def unlink(parts, name):
    result = await parts.bench.change(parts.session, ops.Unlink(parts.bench.volume.root, name, ops.ROOT))
    assert not result.errno


async def test_a_free_orphan_is_reaped():
    async with running() as parts:
        ino = await make(parts, b"f")
        await unlink(parts, b"f")
        await settle(lambda: not parts.exists(ino))
        await settle(lambda: not parts.orphans.count)
        assert not parts.orphans.is_reaping(ino)


async def test_a_held_orphan_waits_for_its_last_holder():
    async with running() as parts:
        ino = await make(parts, b"f")
        parts.holds.add(parts.session, ino)
        parts.holds.add(77, ino)
        await unlink(parts, b"f")
        parts.holds.release(parts.session, [ino])
        for _ in range(20):
            await asyncio.sleep(0)
        assert parts.exists(ino)
        assert not parts.reaps
        parts.holds.drop_session(77)
        await settle(lambda: not parts.exists(ino))


async def test_nothing_is_reaped_in_the_grace_after_a_start():
    async with running(grace=True) as parts:
        held, free = await make(parts, b"held"), await make(parts, b"free")
        await unlink(parts, b"held")
        await unlink(parts, b"free")
        for _ in range(20):
            await asyncio.sleep(0)
        assert not parts.reaps
        parts.holds.add(parts.session, held)
        parts.orphans.end_grace()
        await settle(lambda: not parts.exists(free))
        assert parts.exists(held)


async def test_orphans_of_the_state_are_known_at_the_start():
    async with running(grace=True) as parts:
        ino = await make(parts, b"f")
        await unlink(parts, b"f")
        fresh = Parts(parts.bench)
        fresh.orphans.load(reads.orphans(parts.bench.store))
        assert fresh.orphans.count == 1
        fresh.orphans.end_grace()
        task = asyncio.create_task(fresh.orphans.run())
        await settle(lambda: not parts.exists(ino))
        task.cancel()


async def test_a_removed_directory_is_reaped_too():
    async with running() as parts:
        root = parts.bench.volume.root
        await parts.bench.change(parts.session, ops.MkDir(root, b"d", 0o755, 0, ops.ROOT))
        assert not (await parts.bench.change(parts.session, ops.RmDir(root, b"d", ops.ROOT))).errno
        await settle(lambda: not parts.orphans.count)
        assert not list(reads.orphans(parts.bench.store))


async def test_a_large_file_goes_in_steps_and_is_closed_to_all_meanwhile():
    async with running(grace=True) as parts:
        ino = await make(parts, b"f")
        lease = await parts.bench.change(parts.session, ops.LeaseIds(ops.LEASE_SLICES, 1000))
        count = CHUNKS_PER_REAP + 10
        for start in range(0, count, 100):
            pieces = tuple(
                ops.NewSlice(chunk, 0, lease.first + chunk, 4096, 0, 4096) for chunk in range(start, min(start + 100, count))
            )
            assert not (await parts.bench.change(parts.session, ops.CommitSlices(ino, pieces, 0, False))).errno
        await unlink(parts, b"f")
        parts.orphans.end_grace()
        await settle(lambda: len(parts.reaps) == 1)
        assert parts.orphans.is_reaping(ino)
        await settle(lambda: not parts.exists(ino))
        assert parts.reaps == [(ino,), (ino,)]


async def test_reaping_waits_out_a_log_that_fails():
    async with running() as parts:
        ino = await make(parts, b"f")
        parts.holds.add(parts.session, ino)
        await unlink(parts, b"f")
        parts.bench.log.error = OutcomeUnknown("disk gone")
        parts.holds.release(parts.session, [ino])
        await settle(lambda: parts.orphans.is_reaping(ino))
        await asyncio.sleep(0.01)
        assert parts.exists(ino)
        assert parts.orphans.count == 1
        parts.bench.log.error = None
        deadline = asyncio.get_running_loop().time() + 5
        while parts.exists(ino):
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.02)
