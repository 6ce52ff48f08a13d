"""Listings: complete, in order, paged, while the directory changes."""

from __future__ import annotations

import asyncio
import time

import pytest
from fs_fakes import ROOT, USER, FakeData, FakeMeta
from test_filesystem_names import answer, at_once, make

from fuseclient.filesystem import FileSystem, Options
from protos import meta_pb2 as pb


@pytest.fixture
def meta() -> FakeMeta:
    return FakeMeta()


async def walk(fs: FileSystem, ino: int, *, take: int = 25, plus: bool = True, between=None) -> list:
    """Read a directory as the kernel does: the driver takes `take` entries of each answer."""
    fh = fs.opendir(ino, USER).fh
    found: list = []
    cookie = 0
    while True:
        items = list(await answer(fs.readdir(ino, fh, cookie, plus=plus)))[:take]
        if not items:
            break
        found += items
        cookie = items[-1].cookie
        if between is not None:
            await between(items)
    fs.releasedir(ino, fh)
    return found


def names(items: list) -> list[bytes]:
    return [item.name for item in items]


@pytest.mark.parametrize("entries", [0, 1, 24, 25, 999, 1000, 1001, 2500])
async def test_every_entry_once_in_order_with_attributes(meta: FakeMeta, entries: int) -> None:
    fs = FileSystem(meta, FakeData(meta))
    expected = [b"n%d" % n for n in range(entries)]
    meta.populate(ROOT, expected)
    found = await walk(fs, ROOT)
    assert names(found) == [b".", b"..", *expected]
    assert [item.cookie for item in found] == list(range(1, entries + 3))
    assert all(item.attr.ino == item.ino for item in found[2:])
    assert meta.requests == meta.counts["readdir"] == max(1, -(-entries // 1000))
    assert names(await walk(fs, ROOT, take=1000)) == names(found)  # now from the cache
    assert meta.requests == max(1, -(-entries // 1000))
    if entries:
        assert at_once(fs.lookup(ROOT, b"n0", USER)).ino == found[2].ino


@pytest.mark.parametrize("cookies", [True, False])
async def test_a_directory_we_filled_is_listed_without_asking_if_the_server_says_cookies(cookies: bool) -> None:
    meta = FakeMeta(cookies=cookies)
    fs = FileSystem(meta, FakeData(meta))
    top = (await fs.mkdir(ROOT, b"d", 0o755, 0, USER)).ino
    for n in range(100):
        await make(fs, top, b"f%d" % n)
    await fs.unlink(top, b"f50", USER)
    await fs.rename(top, b"f10", top, b"g", 0, USER)
    found = await walk(fs, top)
    assert sorted(names(found)[2:]) == sorted(meta.nodes[top].entries)
    assert meta.counts["readdir"] == (0 if cookies else 1)
    assert names(await walk(fs, top)) == names(found)


@pytest.mark.parametrize("huge", [True, False])
@pytest.mark.parametrize("page_entries", [50, 1000])
async def test_a_listing_while_its_entries_are_removed(meta: FakeMeta, huge: bool, page_entries: int) -> None:
    fs = FileSystem(meta, FakeData(meta), Options(huge_directory=200 if huge else 10**6, page_entries=page_entries))
    expected = [b"n%d" % n for n in range(3000)]
    meta.populate(ROOT, expected)

    async def remove(items: list) -> None:
        for item in items:
            if item.cookie > 2:
                await fs.unlink(ROOT, item.name, USER)

    found = await walk(fs, ROOT, between=remove)
    assert names(found)[2:] == expected
    assert not meta.nodes[ROOT].entries
    assert names(await walk(fs, ROOT)) == [b".", b".."]
    assert meta.counts["readdir"] <= 3 * 3000 / page_entries + 3


@pytest.mark.parametrize("huge", [True, False])
async def test_entries_that_stay_are_seen_once_while_others_come_and_go(meta: FakeMeta, huge: bool) -> None:
    fs = FileSystem(meta, FakeData(meta), Options(huge_directory=100 if huge else 10**6, page_entries=60))
    stay = [b"stay%d" % n for n in range(500)]
    go = [b"go%d" % n for n in range(500)]
    for pair in zip(stay, go, strict=True):
        meta.populate(ROOT, list(pair))
    ours, theirs = iter(go[::2]), iter(reversed(go[1::2]))
    made = iter(range(10**6))

    async def churn(items: list) -> None:
        if next(made) > 100:
            return  # a listing that grows as fast as it is read has no end
        await fs.unlink(ROOT, next(ours), USER)
        meta.foreign(pb.Request(unlink=pb.Unlink(parent=ROOT, name=next(theirs))))
        await make(fs, ROOT, b"ours%d" % next(made))
        meta.foreign(pb.Request(create=pb.Create(parent=ROOT, name=b"theirs%d" % next(made), mode=0o600)))

    found = names(await walk(fs, ROOT, take=20, between=churn))
    assert [name for name in found if name.startswith(b"stay")] == stay
    assert len(found) == len(set(found))
    after = names(await walk(fs, ROOT))
    assert sorted(after[2:]) == sorted(meta.nodes[ROOT].entries)


async def test_two_readers_of_one_listing_share_its_pages(meta: FakeMeta) -> None:
    fs = FileSystem(meta, FakeData(meta))
    meta.populate(ROOT, [b"n%d" % n for n in range(3000)])
    first, second = await asyncio.gather(walk(fs, ROOT), walk(fs, ROOT))
    assert names(first) == names(second)
    assert meta.counts["readdir"] == 3


async def test_a_listing_goes_on_after_everything_was_forgotten(meta: FakeMeta) -> None:
    fs = FileSystem(meta, FakeData(meta), Options(page_entries=50))
    expected = [b"n%d" % n for n in range(400)]
    meta.populate(ROOT, expected)
    countdown = iter([False] * 5 + [True] + [False] * 100)

    async def forget(items: list) -> None:
        if next(countdown):
            meta.reset("lost")

    assert names(await walk(fs, ROOT, between=forget))[2:] == expected


async def test_a_cookie_from_long_ago_is_understood(meta: FakeMeta) -> None:
    fs = FileSystem(meta, FakeData(meta))
    meta.populate(ROOT, [b"n%d" % n for n in range(100)])
    items = await answer(fs.readdir(ROOT, 77 << 8, 50, plus=False))  # a handle that another process has made
    assert names(list(items))[0] == b"n48"


async def test_listed_attributes_are_those_of_now(meta: FakeMeta) -> None:
    fs = FileSystem(meta, FakeData(meta))
    meta.populate(ROOT, [b"n%d" % n for n in range(50)])
    await walk(fs, ROOT)
    ino = meta.path(b"n7").ino
    meta.foreign(pb.Request(setattr=pb.SetAttr(ino=ino, valid=1, mode=0o600)))
    (item,) = (item for item in await walk(fs, ROOT) if item.name == b"n7")
    assert item.attr is None  # not known: the kernel will ask
    await answer(fs.getattr(ino, None))
    (item,) = (item for item in await walk(fs, ROOT) if item.name == b"n7")
    assert item.attr.fields.mode & 0o777 == 0o600


async def test_attributes_that_are_missing_are_asked_for_together(meta: FakeMeta) -> None:
    fs = FileSystem(meta, FakeData(meta))
    meta.populate(ROOT, [b"n%d" % n for n in range(500)])
    await walk(fs, ROOT)
    for node in list(meta.nodes.values()):
        if node.ino != ROOT:
            meta.foreign(pb.Request(setattr=pb.SetAttr(ino=node.ino, valid=1, mode=0o600)))
    before = meta.requests
    found = await walk(fs, ROOT)
    assert all(item.attr.fields.mode & 0o777 == 0o600 for item in found[2:])
    assert meta.requests <= before + 2


async def test_parents_and_dots(meta: FakeMeta) -> None:
    fs = FileSystem(meta, FakeData(meta))
    top = (await fs.mkdir(ROOT, b"d", 0o755, 0, USER)).ino
    sub = (await fs.mkdir(top, b"e", 0o755, 0, USER)).ino
    assert [(item.name, item.ino) for item in await walk(fs, sub)] == [(b".", sub), (b"..", top)]
    assert [(item.name, item.ino) for item in await walk(fs, ROOT)][:2] == [(b".", ROOT), (b"..", ROOT)]


async def test_a_hundred_thousand_entries_are_listed_and_removed_in_linear_time(meta: FakeMeta) -> None:
    fs = FileSystem(meta, FakeData(meta), Options(page_entries=4096))
    top = (await fs.mkdir(ROOT, b"d", 0o755, 0, USER)).ino
    directory = fs.known.dirs.at(top)
    from fuseclient.operations import DirItem

    for n in range(100_000):
        directory.set(DirItem(b"n%d" % n, 10_000 + n, 8, n + 3, None))
    started = time.perf_counter()
    seen = 0
    cookie = 2
    while items := at_once(fs.readdir(top, 1 << 8, cookie, plus=False)):
        for item in items[:32]:
            directory.remove(item.name)
            seen += 1
        cookie = items[:32][-1].cookie
    assert seen == 100_000
    assert time.perf_counter() - started < 10  # it takes half a second; quadratic work would take minutes
