"""Others change things: notifications, races between answers and invalidations, resets."""

from __future__ import annotations

import asyncio
import os

import pytest
from fs_fakes import ROOT, USER, FakeData, FakeKernel, FakeMeta
from test_filesystem_names import answer, at_once, lookup, make

from fuseclient.filesystem import FileSystem
from protos import meta_pb2 as pb


@pytest.fixture
def meta() -> FakeMeta:
    return FakeMeta()


@pytest.fixture
async def fs(meta: FakeMeta) -> FileSystem:
    return FileSystem(meta, FakeData(meta))


async def sent(meta: FakeMeta, awaitable) -> asyncio.Task:
    """A call whose request is on its way."""
    before = meta.requests
    task = asyncio.ensure_future(awaitable)
    for _ in range(10):
        await asyncio.sleep(0)
    assert meta.requests > before
    return task


def chmod(ino: int, mode: int) -> pb.Request:
    return pb.Request(setattr=pb.SetAttr(ino=ino, valid=1, mode=mode))


async def test_a_foreign_change_is_seen_and_told_to_the_kernel(fs: FileSystem, meta: FakeMeta) -> None:
    kernel = FakeKernel()
    fs.attach_kernel(kernel)
    ino = await make(fs, ROOT, b"a")
    meta.foreign(chmod(ino, 0o600))
    assert (await answer(fs.getattr(ino, None))).fields.mode & 0o777 == 0o600
    meta.foreign(pb.Request(unlink=pb.Unlink(parent=ROOT, name=b"a")))
    assert await lookup(fs, ROOT, b"a") is None
    assert kernel.entries == [(ROOT, b"a")]
    assert kernel.inodes == [(ino, True), (ino, False)]


async def test_an_answer_that_an_invalidation_has_overtaken_is_not_kept(fs: FileSystem, meta: FakeMeta) -> None:
    ino = await make(fs, ROOT, b"a")
    meta.foreign(chmod(ino, 0o600))
    meta.holding = True
    old = await sent(meta, fs.getattr(ino, None))
    meta.foreign(chmod(ino, 0o640))
    meta.deliver()
    assert (await old).fields.mode & 0o777 == 0o600
    meta.holding = False
    assert (await answer(fs.getattr(ino, None))).fields.mode & 0o777 == 0o640


async def test_an_older_answer_does_not_replace_a_newer_one(fs: FileSystem, meta: FakeMeta) -> None:
    meta.populate(ROOT, [b"a"])
    ino = meta.path(b"a").ino
    meta.holding = True
    old = await sent(meta, fs.getattr(ino, None))
    new = await sent(meta, fs.setattr(ino, _mode(0o600), None, USER))
    meta.deliver(last_first=True)
    await asyncio.gather(old, new)
    assert at_once(fs.getattr(ino, None)).fields.mode & 0o777 == 0o600


def _mode(mode: int):
    from fuseclient.operations import Changes

    return Changes(1, mode, 0, 0, 0, 0, 0, 0)


async def test_a_lookup_that_was_overtaken_by_our_unlink_does_not_bring_the_name_back(fs: FileSystem, meta: FakeMeta) -> None:
    meta.populate(ROOT, [b"a"])
    meta.holding = True
    looked = await sent(meta, fs.lookup(ROOT, b"a", USER))
    removed = await sent(meta, fs.unlink(ROOT, b"a", USER))
    meta.deliver(last_first=True)
    await asyncio.gather(looked, removed)
    meta.holding = False
    assert await lookup(fs, ROOT, b"a") is None


async def test_a_miss_that_was_overtaken_by_our_create_does_not_hide_the_name(fs: FileSystem, meta: FakeMeta) -> None:
    meta.holding = True
    looked = await sent(meta, fs.lookup(ROOT, b"a", USER))
    made = await sent(meta, fs.mkdir(ROOT, b"a", 0o755, 0, USER))
    meta.deliver(last_first=True)
    await asyncio.gather(looked, made)
    assert (await lookup(fs, ROOT, b"a")).ino == meta.path(b"a").ino


async def test_a_page_that_was_overtaken_leaves_the_name_in_doubt(fs: FileSystem, meta: FakeMeta) -> None:
    meta.populate(ROOT, [b"a", b"b"])
    meta.holding = True
    listing = await sent(meta, fs.readdir(ROOT, fs.opendir(ROOT, USER).fh, 0, plus=True))
    meta.foreign(pb.Request(unlink=pb.Unlink(parent=ROOT, name=b"a")))
    meta.foreign(pb.Request(create=pb.Create(parent=ROOT, name=b"c", mode=0o600)))
    meta.deliver()
    await listing
    meta.holding = False
    assert await lookup(fs, ROOT, b"a") is None
    assert (await lookup(fs, ROOT, b"c")) is not None
    assert (await lookup(fs, ROOT, b"b")) is not None


async def test_a_reset_forgets_everything(fs: FileSystem, meta: FakeMeta) -> None:
    kernel = FakeKernel()
    fs.attach_kernel(kernel)
    top = (await fs.mkdir(ROOT, b"d", 0o755, 0, USER)).ino
    ino = await make(fs, top, b"a")
    attr, opened = await fs.create(top, b"open", 0o644, 0, os.O_RDWR, USER)
    meta.nodes[ino].mode ^= 0o111
    meta.populate(top, [b"new"])
    meta.reset("lost")
    assert (await answer(fs.getattr(ino, None))).fields.mode == meta.nodes[ino].mode
    assert (await lookup(fs, top, b"new")) is not None
    assert (attr.ino, True) in kernel.inodes
    fs.release(attr.ino, opened.fh)


async def test_a_reset_overtakes_what_is_under_way(fs: FileSystem, meta: FakeMeta) -> None:
    ino = await make(fs, ROOT, b"a")
    meta.foreign(chmod(ino, 0o600))
    meta.holding = True
    old = await sent(meta, fs.getattr(ino, None))
    page = await sent(meta, fs.readdir(ROOT, fs.opendir(ROOT, USER).fh, 0, plus=True))
    meta.nodes[ino].mode ^= 0o111
    meta.nodes[ROOT].entries[b"quiet"] = (ino, 1000)
    meta.holding = False
    meta.reset("lost")
    meta.deliver()
    await asyncio.gather(old, page)
    assert (await answer(fs.getattr(ino, None))).fields.mode == meta.nodes[ino].mode
    assert (await lookup(fs, ROOT, b"quiet")) is not None


async def test_the_memory_of_caches_is_bounded(meta: FakeMeta) -> None:
    from fuseclient.filesystem import Options

    fs = FileSystem(meta, FakeData(meta), Options(attrs_max=1000, entries_max=10_000, huge_directory=5_000))
    for d in range(30):
        top = (await fs.mkdir(ROOT, b"d%d" % d, 0o755, 0, USER)).ino
        names = [b"n%d" % n for n in range(1000)]
        meta.populate(top, names)
        fs.known.dirs.drop(top)
        for name in names[:5]:
            await lookup(fs, top, name)
        await fs.known.settled()
    assert len(fs.known.attrs) <= 1000
    assert fs.known.dirs.weight() <= 10_000 + 8192
    for d in range(30):
        top = meta.path(b"d%d" % d)
        assert (await lookup(fs, top.ino, b"n77")).ino == top.entries[b"n77"][0]
