"""Names: what a lookup and a change cost, and what the caches say afterwards."""

from __future__ import annotations

import errno
import os

import pytest
from fs_fakes import ROOT, USER, FakeData, FakeMeta

from fuseclient.errors import FsError
from fuseclient.filesystem import FileSystem, Options
from protos import meta_pb2 as pb


@pytest.fixture
def meta() -> FakeMeta:
    return FakeMeta()


@pytest.fixture
async def fs(meta: FakeMeta) -> FileSystem:
    return FileSystem(meta, FakeData(meta))


async def answer(value):
    return await value if hasattr(value, "__await__") else value


async def lookup(fs: FileSystem, parent: int, name: bytes):
    return await answer(fs.lookup(parent, name, USER))


def at_once(value):
    assert not hasattr(value, "__await__"), "had to ask"
    return value


async def make(fs: FileSystem, parent: int, name: bytes) -> int:
    attr, opened = await fs.create(parent, name, 0o644, 0o022, os.O_WRONLY | os.O_CREAT, USER)
    assert fs.flush(attr.ino, opened.fh, 0) is None
    fs.release(attr.ino, opened.fh)
    return attr.ino


async def test_create_in_a_directory_of_ours_is_one_change_and_nothing_else(fs: FileSystem, meta: FakeMeta) -> None:
    made = await fs.mkdir(ROOT, b"d", 0o755, 0, USER)
    before = meta.changes, meta.reads
    for n in range(10):
        name = b"f%d" % n
        assert at_once(fs.lookup(made.ino, name, USER)) is None
        ino = await make(fs, made.ino, name)
        assert at_once(fs.lookup(made.ino, name, USER)).ino == ino
        assert at_once(fs.getattr(made.ino, None)).fields.version == meta.nodes[made.ino].version
        with pytest.raises(FsError) as refusal:
            fs.getxattr(ino, b"security.capability", USER)
        assert refusal.value.errno == errno.ENODATA
    assert (meta.changes, meta.reads) == (before[0] + 10, before[1])
    assert not meta.holds


async def test_unlink_rename_and_rmdir_cost_one_change_each(fs: FileSystem, meta: FakeMeta) -> None:
    top = (await fs.mkdir(ROOT, b"d", 0o755, 0, USER)).ino
    sub = (await fs.mkdir(top, b"sub", 0o755, 0, USER)).ino
    ino = await make(fs, top, b"a")
    other = await make(fs, sub, b"b")
    before = meta.changes
    reads = meta.reads
    await fs.rename(top, b"a", sub, b"b", 0, USER)
    assert at_once(fs.lookup(top, b"a", USER)) is None
    assert at_once(fs.lookup(sub, b"b", USER)).ino == ino
    assert other not in meta.nodes
    await fs.unlink(sub, b"b", USER)
    assert at_once(fs.lookup(sub, b"b", USER)) is None
    await fs.rmdir(top, b"sub", USER)
    assert at_once(fs.lookup(top, b"sub", USER)) is None
    assert at_once(fs.getattr(top, None)).fields.nlink == 2
    assert meta.changes == before + 3
    assert meta.reads == reads


async def test_a_second_name_is_the_same_inode(fs: FileSystem, meta: FakeMeta) -> None:
    top = (await fs.mkdir(ROOT, b"d", 0o755, 0, USER)).ino
    ino = await make(fs, top, b"a")
    attr = await fs.link(ino, top, b"b", USER)
    assert attr.fields.nlink == 2
    assert at_once(fs.lookup(top, b"a", USER)).fields.nlink == 2
    await fs.unlink(top, b"a", USER)
    assert at_once(fs.lookup(top, b"b", USER)).fields.nlink == 1


async def test_exchange_swaps_the_meanings(fs: FileSystem) -> None:
    top = (await fs.mkdir(ROOT, b"d", 0o755, 0, USER)).ino
    a, b = await make(fs, top, b"a"), await make(fs, top, b"b")
    await fs.rename(top, b"a", top, b"b", 2, USER)
    assert at_once(fs.lookup(top, b"a", USER)).ino == b
    assert at_once(fs.lookup(top, b"b", USER)).ino == a


async def test_rename_between_two_names_of_a_file_is_asked_again(fs: FileSystem, meta: FakeMeta) -> None:
    top = (await fs.mkdir(ROOT, b"d", 0o755, 0, USER)).ino
    ino = await make(fs, top, b"a")
    await fs.link(ino, top, b"b", USER)
    meta._rename = lambda r: pb.Response(attr=meta.nodes[ino].raw(), parent_attr=meta.nodes[top].raw())  # POSIX: nothing
    await fs.rename(top, b"a", top, b"b", 0, USER)
    assert (await lookup(fs, top, b"a")).ino == ino
    assert (await lookup(fs, top, b"b")).ino == ino


async def test_a_refused_change_casts_doubt_on_its_names(fs: FileSystem, meta: FakeMeta) -> None:
    top = (await fs.mkdir(ROOT, b"d", 0o755, 0, USER)).ino
    meta.populate(top, [b"sneaked-in"])  # the notification has not come yet
    with pytest.raises(FsError) as refusal:
        await fs.create(top, b"sneaked-in", 0o644, 0, os.O_EXCL, USER)
    assert refusal.value.errno == errno.EEXIST
    assert (await lookup(fs, top, b"sneaked-in")) is not None


async def test_names_that_are_too_long_are_refused_whatever_is_known(fs: FileSystem) -> None:
    top = (await fs.mkdir(ROOT, b"d", 0o755, 0, USER)).ino
    for parent in (ROOT, top):
        with pytest.raises(FsError) as refusal:
            fs.lookup(parent, b"n" * 256, USER)
        assert refusal.value.errno == errno.ENAMETOOLONG


async def test_a_missing_name_is_asked_once(fs: FileSystem, meta: FakeMeta) -> None:
    assert await lookup(fs, ROOT, b"nothing") is None
    assert at_once(fs.lookup(ROOT, b"nothing", USER)) is None
    meta.foreign(pb.Request(create=pb.Create(parent=ROOT, name=b"nothing", mode=0o600)))
    assert (await lookup(fs, ROOT, b"nothing")) is not None


async def test_stat_of_a_thousand_names_costs_a_few_lookups_and_pages(fs: FileSystem, meta: FakeMeta) -> None:
    top = (await fs.mkdir(ROOT, b"x", 0o755, 0, USER)).ino
    names = [b"n%d" % n for n in range(1000)]
    meta.populate(top, names)
    meta.reset("lost")
    for name in names:
        assert (await lookup(fs, top, name)).ino == meta.nodes[top].entries[name][0]
    assert meta.counts["lookup"] <= 4
    assert meta.counts["readdir"] == 1
    assert at_once(fs.lookup(top, b"no such name", USER)) is None


async def test_prefetch_stops_when_nobody_is_interested(meta: FakeMeta) -> None:
    fs = FileSystem(meta, FakeData(meta), Options(page_entries=10))
    meta.populate(ROOT, [b"n%03d" % n for n in range(500)])
    for n in range(3):
        await lookup(fs, ROOT, b"n%03d" % (100 + n))
    await fs.known.settled()
    assert 2 <= meta.counts["readdir"] <= 4
    assert (await lookup(fs, ROOT, b"n499")) is not None


async def test_a_huge_directory_still_creates_without_looking(meta: FakeMeta) -> None:
    """Names are not kept any more, but what does not exist is still known."""
    fs = FileSystem(meta, FakeData(meta), Options(huge_directory=100))
    top = (await fs.mkdir(ROOT, b"x", 0o755, 0, USER)).ino
    reads = meta.reads
    for n in range(500):
        assert await lookup(fs, top, b"f%d" % n) is None
        await make(fs, top, b"f%d" % n)
    assert meta.reads - reads <= 2  # the filter may be wrong about a name in a thousand
    assert len(fs.known.dirs.at(top).names) <= 101
    for n in range(0, 500, 7):
        assert (await lookup(fs, top, b"f%d" % n)).ino == meta.nodes[top].entries[b"f%d" % n][0]
    meta.foreign(pb.Request(create=pb.Create(parent=top, name=b"theirs", mode=0o600)))
    assert (await lookup(fs, top, b"theirs")) is not None


async def test_symlink_targets_are_asked_once(fs: FileSystem, meta: FakeMeta) -> None:
    ino = (await fs.symlink(ROOT, b"l", b"a/b", USER)).ino
    assert at_once(fs.readlink(ino)) == b"a/b"
    meta.reset("lost")
    other = meta.foreign(pb.Request(symlink=pb.SymLink(parent=ROOT, name=b"m", target=b"c")))
    ino = int.from_bytes(other.attr[:8], "little")
    assert await answer(fs.readlink(ino)) == b"c"
    assert at_once(fs.readlink(ino)) == b"c"


async def test_create_that_finds_a_file_checks_its_permissions_and_truncates(fs: FileSystem, meta: FakeMeta) -> None:
    meta.populate(ROOT, [b"theirs"])
    node = meta.path(b"theirs")
    node.content += b"old"
    flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
    with pytest.raises(FsError) as refusal:
        await fs.create(ROOT, b"theirs", 0o644, 0, flags, USER)
    assert refusal.value.errno == errno.EACCES
    assert node.content == b"old"
    assert not meta.holds
    node.uid = USER.uid
    attr, opened = await fs.create(ROOT, b"theirs", 0o644, 0, flags, USER)
    assert attr.fields.size == 0
    assert not node.content
    fs.release(attr.ino, opened.fh)
    assert not meta.holds
