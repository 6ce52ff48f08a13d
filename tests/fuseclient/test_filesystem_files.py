"""Open files: what open, close, write and setattr cost, and in which order things reach the metadata."""

from __future__ import annotations

import asyncio
import errno
import os

import pytest
from fs_fakes import NS, ROOT, USER, FakeData, FakeMeta
from test_filesystem_names import answer, at_once, make

from fuseclient.errors import FsError
from fuseclient.filesystem import FileSystem
from fuseclient.operations import OPEN_KILL_PRIV, Caller, Changes
from protos import meta_pb2 as pb

OTHER = Caller(7, 7, 1)


@pytest.fixture
def meta() -> FakeMeta:
    return FakeMeta()


@pytest.fixture
def data(meta: FakeMeta) -> FakeData:
    return FakeData(meta)


@pytest.fixture
async def fs(meta: FakeMeta, data: FakeData) -> FileSystem:
    return FileSystem(meta, data)


async def create(fs: FileSystem, name: bytes = b"f", flags: int = os.O_RDWR) -> tuple[int, int]:
    attr, opened = await fs.create(ROOT, name, 0o644, 0o022, flags | os.O_CREAT, USER)
    return attr.ino, opened.fh


async def write(fs: FileSystem, ino: int, fh: int, offset: int, text: bytes, kill: bool = False) -> int:
    return await answer(fs.write(ino, fh, offset, memoryview(text), kill))


async def read(fs: FileSystem, ino: int, fh: int, offset: int = 0, size: int = 1 << 20) -> bytes:
    return b"".join(await answer(fs.read(ino, fh, offset, size)))


async def close(fs: FileSystem, ino: int, fh: int) -> None:
    await answer(fs.flush(ino, fh, 0))
    fs.release(ino, fh)
    await fs.known.settled()


def times(mtime_ns: int) -> Changes:
    return Changes(1 << 4 | 1 << 5, 0, 0, 0, 0, mtime_ns, mtime_ns, 0)


async def test_create_write_close_is_one_create_and_one_commit(fs: FileSystem, meta: FakeMeta) -> None:
    ino, fh = await create(fs)
    assert fs.write(ino, fh, 0, memoryview(b"hello"), False) == 5
    assert at_once(fs.getattr(ino, fh)).fields.size == 5
    await close(fs, ino, fh)
    assert dict(meta.counts) == {"create": 1, "commit": 1}
    assert meta.nodes[ino].content == b"hello"
    assert at_once(fs.getattr(ino, None)).fields.size == 5
    assert not meta.holds
    assert not fs.known.files


async def test_closing_what_is_clean_asks_nothing(fs: FileSystem, meta: FakeMeta) -> None:
    ino = await make(fs, ROOT, b"f")
    before = meta.requests
    opened = await answer(fs.open(ino, os.O_RDWR, USER))
    assert meta.requests == before + 1
    assert meta.holds == {ino: 1}
    assert fs.flush(ino, opened.fh, 0) is None
    assert fs.fsync(ino, opened.fh, False) is None
    fs.release(ino, opened.fh)
    assert meta.requests == before + 1
    assert not meta.holds


async def test_open_shows_what_was_written_elsewhere_before_anybody_said_so(fs: FileSystem, meta: FakeMeta) -> None:
    """Close-to-open must not depend on how fast a notification travels."""
    ino, fh = await create(fs)
    second = await answer(fs.open(ino, os.O_RDONLY, USER))
    meta.foreign_write(ino, b"theirs", told=False)
    third = await answer(fs.open(ino, os.O_RDONLY, USER))
    assert not third.keep_cache
    for one in (fh, second.fh, third.fh):
        assert meta.holds[ino]
        assert await read(fs, ino, one) == b"theirs"
        fs.release(ino, one)
    assert not meta.holds


async def test_the_kernel_keeps_its_pages_while_only_we_write(fs: FileSystem, meta: FakeMeta) -> None:
    ino, fh = await create(fs)
    await write(fs, ino, fh, 0, b"mine")
    await close(fs, ino, fh)
    for expected in (True, True):
        opened = await answer(fs.open(ino, os.O_RDONLY, USER))
        assert opened.keep_cache is expected
        await close(fs, ino, opened.fh)
    meta.foreign_write(ino, b"theirs")
    opened = await answer(fs.open(ino, os.O_RDONLY, USER))
    assert not opened.keep_cache
    await close(fs, ino, opened.fh)
    assert (await answer(fs.open(ino, os.O_RDONLY, USER))).keep_cache


async def test_direct_io_is_said(fs: FileSystem) -> None:
    ino = await make(fs, ROOT, b"f")
    assert (await answer(fs.open(ino, os.O_RDONLY | os.O_DIRECT, USER))).direct_io


async def test_a_time_that_was_set_is_not_undone_by_the_commit(fs: FileSystem, meta: FakeMeta) -> None:
    """cp -p and tar: write, utimens, close."""
    ino, fh = await create(fs)
    await write(fs, ino, fh, 0, b"hello")
    attr = await fs.setattr(ino, times(1234 * NS + 5), fh, USER)
    assert attr.fields.mtime_s == 1234
    await close(fs, ino, fh)
    assert meta.nodes[ino].mtime_ns == 1234 * NS + 5
    assert at_once(fs.getattr(ino, None)).fields.mtime_nsec == 5


async def test_a_write_after_the_time_was_set_counts(fs: FileSystem, meta: FakeMeta, data: FakeData) -> None:
    ino, fh = await create(fs)
    await fs.setattr(ino, times(1234 * NS), fh, USER)
    await write(fs, ino, fh, 0, b"hello")
    assert at_once(fs.getattr(ino, None)).fields.mtime_s == data.time_ns // NS
    await close(fs, ino, fh)
    assert meta.nodes[ino].mtime_ns == data.time_ns


async def test_a_setuid_bit_that_is_set_after_the_write_stays(fs: FileSystem, meta: FakeMeta) -> None:
    ino, fh = await create(fs)
    await write(fs, ino, fh, 0, b"hello", kill=True)
    await fs.setattr(ino, Changes(1, 0o4755, 0, 0, 0, 0, 0, 0), fh, USER)
    await close(fs, ino, fh)
    assert meta.nodes[ino].mode & 0o7777 == 0o4755


async def test_a_write_takes_the_setuid_bit_at_once(fs: FileSystem, meta: FakeMeta) -> None:
    ino, fh = await create(fs)
    await fs.setattr(ino, Changes(1, 0o4755, 0, 0, 0, 0, 0, 0), fh, USER)
    await write(fs, ino, fh, 0, b"hello", kill=True)
    assert at_once(fs.getattr(ino, None)).fields.mode & 0o7777 == 0o755
    await close(fs, ino, fh)
    assert meta.nodes[ino].mode & 0o7777 == 0o755


@pytest.mark.parametrize("size", [0, 3, 5, 9])
async def test_truncate_after_write(fs: FileSystem, meta: FakeMeta, size: int) -> None:
    ino, fh = await create(fs)
    await write(fs, ino, fh, 0, b"hello")
    attr = await fs.setattr(ino, Changes(1 << 3, 0, 0, 0, size, 0, 0, 0), fh, USER)
    expected = b"hello"[:size].ljust(size, b"\0")
    assert attr.fields.size == size
    assert await read(fs, ino, fh) == expected
    mtime_ns = meta.nodes[ino].mtime_ns
    await close(fs, ino, fh)
    assert meta.nodes[ino].content == expected
    assert meta.nodes[ino].mtime_ns == mtime_ns  # the truncation came last


async def test_open_with_truncate(fs: FileSystem, meta: FakeMeta) -> None:
    ino, fh = await create(fs)
    await write(fs, ino, fh, 0, b"hello")
    await fs.setattr(ino, Changes(1, 0o4755, 0, 0, 0, 0, 0, 0), fh, USER)
    opened = await answer(fs.open(ino, os.O_WRONLY | os.O_TRUNC | OPEN_KILL_PRIV, USER))
    assert at_once(fs.getattr(ino, None)).fields.size == 0
    assert meta.nodes[ino].mode & 0o7777 == 0o755
    await write(fs, ino, opened.fh, 0, b"x")
    await close(fs, ino, opened.fh)
    await close(fs, ino, fh)
    assert meta.nodes[ino].content == b"x"
    assert not meta.holds


async def test_writes_wait_while_the_file_is_cut(fs: FileSystem, meta: FakeMeta) -> None:
    ino, fh = await create(fs)
    await write(fs, ino, fh, 0, b"hello")
    meta.holding = True
    cut = asyncio.ensure_future(fs.setattr(ino, Changes(1 << 3, 0, 0, 0, 0, 0, 0, 0), fh, USER))
    await asyncio.sleep(0)
    late = asyncio.ensure_future(write(fs, ino, fh, 0, b"late"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not late.done()
    meta.holding = False
    meta.deliver()
    assert await late == 4
    await cut
    await close(fs, ino, fh)
    assert meta.nodes[ino].content == b"late"


async def test_append_writes_at_the_end_as_this_mount_knows_it(fs: FileSystem, meta: FakeMeta) -> None:
    ino, fh = await create(fs, flags=os.O_WRONLY | os.O_APPEND)
    await write(fs, ino, fh, 0, b"one")
    await close(fs, ino, fh)
    meta.foreign_write(ino, b"one, two")
    opened = await answer(fs.open(ino, os.O_WRONLY | os.O_APPEND, USER))
    await write(fs, ino, opened.fh, 3, b", three")  # the kernel has not heard
    await close(fs, ino, opened.fh)
    assert meta.nodes[ino].content == b"one, two, three"


async def test_an_open_file_sees_what_others_wrote(fs: FileSystem, meta: FakeMeta) -> None:
    ino, fh = await create(fs)
    meta.foreign_write(ino, b"theirs")
    assert await read(fs, ino, fh) == b"theirs"
    before = meta.requests
    assert await read(fs, ino, fh) == b"theirs"
    assert meta.requests == before


async def test_o_sync_stores_before_it_returns(fs: FileSystem, meta: FakeMeta) -> None:
    ino, fh = await create(fs, flags=os.O_WRONLY | os.O_SYNC)
    assert await write(fs, ino, fh, 0, b"hello") == 5
    assert meta.nodes[ino].content == b"hello"


async def test_an_unlinked_file_lives_until_its_last_close_and_is_not_stored(fs: FileSystem, meta: FakeMeta) -> None:
    ino, fh = await create(fs)
    await write(fs, ino, fh, 0, b"temporary")
    await fs.unlink(ROOT, b"f", USER)
    assert at_once(fs.getattr(ino, fh)).fields.nlink == 0
    assert await read(fs, ino, fh) == b"temporary"
    assert fs.flush(ino, fh, 0) is None
    await close(fs, ino, fh)
    assert not meta.counts["commit"]
    assert not meta.holds


async def test_what_was_dirty_at_release_is_stored_behind(fs: FileSystem, meta: FakeMeta) -> None:
    ino, fh = await create(fs)
    await write(fs, ino, fh, 0, b"hello")
    fs.release(ino, fh)  # no flush before: a process that was killed
    assert meta.holds == {ino: 1}
    again = await answer(fs.open(ino, os.O_RDONLY, USER))  # meanwhile somebody opens it
    await fs.known.settled()
    assert meta.nodes[ino].content == b"hello"
    assert meta.holds[ino]
    fs.release(ino, again.fh)
    assert not meta.holds


async def test_errors_of_storing_come_out_of_flush(fs: FileSystem, data: FakeData) -> None:
    ino, fh = await create(fs)
    await write(fs, ino, fh, 0, b"hello")
    data.files[ino].error = FsError(errno.ENOSPC)
    with pytest.raises(FsError) as refusal:
        await answer(fs.flush(ino, fh, 0))
    assert refusal.value.errno == errno.ENOSPC
    await close(fs, ino, fh)


async def test_an_expired_session_loses_what_was_dirty_and_says_so_once(fs: FileSystem, meta: FakeMeta, data: FakeData) -> None:
    ino, fh = await create(fs)
    second = await answer(fs.open(ino, os.O_RDWR, USER))
    clean, clean_fh = await create(fs, b"clean")
    await write(fs, ino, fh, 0, b"lost")
    meta.reset("expired")
    await fs.known.settled()
    assert meta.holds == {ino: 1, clean: 1}
    for one in (fh, second.fh):
        with pytest.raises(FsError) as refusal:
            await answer(fs.fsync(ino, one, False))
        assert refusal.value.errno == errno.EIO
        assert fs.fsync(ino, one, False) is None
    assert fs.fsync(clean, clean_fh, False) is None
    assert await read(fs, ino, fh) == b""
    await write(fs, ino, fh, 0, b"kept")
    for one in (fh, second.fh):
        await close(fs, ino, one)
    await close(fs, clean, clean_fh)
    assert meta.nodes[ino].content == b"kept"
    assert not meta.holds


async def test_what_an_expired_session_wrote_never_lands_over_what_others_write(fs: FileSystem, meta: FakeMeta) -> None:
    """Not by a flush that was under way either, nor by one that comes before the file is opened again."""
    ino, fh = await create(fs)
    await write(fs, ino, fh, 0, b"lost")
    flush = asyncio.ensure_future(fs.fsync(ino, fh, False))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    meta.reset("expired")
    meta.foreign_write(ino, b"theirs, and longer")
    later = fs.flush(ino, fh, 0)
    assert later is not None
    for one in (flush, later):
        with pytest.raises(FsError) as refusal:
            await one
        assert refusal.value.errno == errno.EIO
    await fs.known.settled()
    assert meta.nodes[ino].content == b"theirs, and longer"
    assert await read(fs, ino, fh) == b"theirs, and longer"
    await close(fs, ino, fh)
    assert meta.nodes[ino].content == b"theirs, and longer"


async def test_a_lost_stream_loses_nothing(fs: FileSystem, meta: FakeMeta) -> None:
    ino, fh = await create(fs)
    await write(fs, ino, fh, 0, b"kept")
    meta.reset("lost")
    assert await read(fs, ino, fh) == b"kept"
    await close(fs, ino, fh)
    assert meta.nodes[ino].content == b"kept"


async def test_a_handle_that_another_process_gave_out_is_opened_again(fs: FileSystem, meta: FakeMeta, data: FakeData) -> None:
    ino, fh = await create(fs, flags=os.O_WRONLY | os.O_APPEND)
    await write(fs, ino, fh, 0, b"one")
    await close(fs, ino, fh)
    heir = FileSystem(meta, data)
    assert await write(heir, ino, fh, 0, b" two") == 4
    await close(heir, ino, fh)
    assert meta.nodes[ino].content == b"one two"
    assert not meta.holds


async def test_seek(fs: FileSystem) -> None:
    ino, fh = await create(fs)
    await write(fs, ino, fh, 0, b"hello")
    assert at_once(fs.lseek(ino, fh, 2, os.SEEK_DATA)) == 2
    assert at_once(fs.lseek(ino, fh, 2, os.SEEK_HOLE)) == 5


async def test_fallocate_comes_after_what_was_written(fs: FileSystem, meta: FakeMeta) -> None:
    ino, fh = await create(fs)
    await write(fs, ino, fh, 0, b"hello")
    await fs.fallocate(ino, fh, 1, 3, 3, USER)
    assert meta.nodes[ino].content == b"h\0\0\0o"
    assert await read(fs, ino, fh) == b"h\0\0\0o"
    await fs.fallocate(ino, fh, 0, 10, 0, USER)
    assert at_once(fs.getattr(ino, fh)).fields.size == 10
    with pytest.raises(FsError) as refusal:
        await fs.fallocate(ino, fh, 0, 10, 64, USER)
    assert refusal.value.errno == errno.EOPNOTSUPP
    await write(fs, ino, fh, 10, b"!")
    await close(fs, ino, fh)
    assert meta.nodes[ino].content == b"h\0\0\0o" + bytes(5) + b"!"


async def test_a_copy_has_what_was_written_to_either_file(fs: FileSystem, meta: FakeMeta, data: FakeData) -> None:
    source, fh = await create(fs, b"source")
    target, fh2 = await create(fs, b"target")
    await write(fs, source, fh, 0, b"hello")
    await write(fs, target, fh2, 0, b"target")
    assert await fs.copy_range(source, fh, 1, target, fh2, 2, 100, USER) == 4
    assert await read(fs, target, fh2) == b"taello"
    assert meta.nodes[target].content == b"taello"
    assert await fs.copy_range(target, fh2, 0, target, fh2, 6, 2, USER) == 2
    assert await read(fs, target, fh2) == b"taelloTA".replace(b"TA", b"ta")
    await close(fs, source, fh)
    await close(fs, target, fh2)
    assert not meta.holds


async def test_a_file_without_a_name(fs: FileSystem, meta: FakeMeta) -> None:
    """It is held open; what is dirty at its last close is stored only if it got a name."""
    attr, opened = await fs.tmpfile(ROOT, 0o666, 0o022, os.O_RDWR, USER)
    assert (attr.fields.nlink, attr.fields.mode & 0o7777) == (0, 0o644)
    assert meta.holds[attr.ino] == 1
    await write(fs, attr.ino, opened.fh, 0, b"lost")
    await close(fs, attr.ino, opened.fh)
    assert meta.nodes[attr.ino].content == b""
    assert not meta.holds
    attr, opened = await fs.tmpfile(ROOT, 0o666, 0, os.O_RDWR, USER)
    await write(fs, attr.ino, opened.fh, 0, b"kept")
    named = await fs.link(attr.ino, ROOT, b"name", USER)
    assert (named.fields.nlink, named.fields.size) == (1, 4)
    await close(fs, attr.ino, opened.fh)
    assert meta.path(b"name").content == b"kept"


async def test_too_big(fs: FileSystem) -> None:
    ino, fh = await create(fs)
    with pytest.raises(FsError) as refusal:
        fs.write(ino, fh, 2**57, memoryview(b"x"), False)
    assert refusal.value.errno == errno.EFBIG


async def test_xattrs(fs: FileSystem, meta: FakeMeta) -> None:
    meta.populate(ROOT, [b"f"])
    ino = meta.path(b"f").ino
    await answer(fs.getattr(ino, None))
    assert at_once(fs.listxattr(ino, USER)) == b""
    with pytest.raises(FsError) as refusal:
        fs.getxattr(ino, b"user.any", USER)
    assert refusal.value.errno == errno.ENODATA
    meta.foreign(pb.Request(setxattr=pb.SetXattr(ino=ino, name=b"user.other", value=b"1")))
    for _ in range(3):
        with pytest.raises(FsError):
            await answer(fs.getxattr(ino, b"security.selinux", USER))
    assert meta.counts["getxattr"] == 1
    with pytest.raises(FsError) as refusal:
        fs.getxattr(ino, b"system.posix_acl_access", USER)
    assert refusal.value.errno == errno.EOPNOTSUPP
    meta.foreign(pb.Request(setxattr=pb.SetXattr(ino=ino, name=b"security.selinux", value=b"label")))
    assert await answer(fs.getxattr(ino, b"security.selinux", USER)) == b"label"
    await fs.setxattr(ino, b"user.a", b"1", 0, USER)
    assert await answer(fs.listxattr(ino, USER)) == b"user.other\0security.selinux\0user.a\0"
    await fs.removexattr(ino, b"user.a", USER)
    assert at_once(fs.getattr(ino, None)).fields.version == meta.nodes[ino].version


async def test_statfs_is_asked_once_a_second(meta: FakeMeta, data: FakeData) -> None:
    now = [100.0]
    fs = FileSystem(meta, data, clock=lambda: now[0])
    first = await answer(fs.statfs(ROOT))
    assert first.blocks - first.blocks_free == 3
    assert at_once(fs.statfs(ROOT)) is first
    now[0] += 1
    await answer(fs.statfs(ROOT))
    assert meta.counts["statfs"] == 2


async def test_closing_the_file_system_stores_everything(fs: FileSystem, meta: FakeMeta) -> None:
    ino, fh = await create(fs)
    await write(fs, ino, fh, 0, b"hello")
    await fs.close()
    assert meta.nodes[ino].content == b"hello"
