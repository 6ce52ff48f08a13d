"""Two mounts' file systems on the real server, the real metadata client and the real data path, without a kernel."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

import pytest
from fake_meta_service import until
from fs_fakes import USER
from test_filesystem_files import close, read, write
from test_filesystem_listing import names, walk
from test_filesystem_names import answer, lookup, make
from test_meta_client_real_server import Server

from fuseclient.data.data_path import StoreDataPath
from fuseclient.data.settings import DataSettings
from fuseclient.data.stores import open_store
from fuseclient.filesystem import FileSystem
from fuseclient.meta_client import MetaClient
from fuseclient.operations import Changes
from fuseclient.slice_service import MetaSliceService
from fuseclient.volume_url import VolumeUrl

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@contextlib.asynccontextmanager
async def mounted(server: Server, objects: Path) -> AsyncIterator[FileSystem]:
    meta = await MetaClient.connect(VolumeUrl.parse(f"keel://{server.listen}/data"), "test")
    store = open_store(f"file://{objects}")
    data = StoreDataPath(store, MetaSliceService(meta), DataSettings(volume="data"))
    fs = FileSystem(meta, data)
    try:
        yield fs
    finally:
        await fs.close()
        await meta.close()
        store.close()


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[FileSystem, FileSystem]]:
    server = Server(tmp_path / "data")
    (tmp_path / "objects").mkdir()
    await server.start()
    try:
        await server.make_volume("data")
        async with mounted(server, tmp_path / "objects") as one, mounted(server, tmp_path / "objects") as other:
            yield one, other
    finally:
        await server.kill()


async def eventually(check, what: str) -> None:
    """Notifications are pushed: what they bring is there soon, not at once."""
    for _ in range(2000):
        if await check():
            return
        await asyncio.sleep(0.005)
    pytest.fail(f"not seen after ten seconds: {what}")


async def test_what_one_mount_writes_the_other_reads(pair: tuple[FileSystem, FileSystem]) -> None:
    one, other = pair
    top = (await one.mkdir(one.root, b"d", 0o755, 0, USER)).ino
    for size in (0, 5, 4096, 5000, 9 << 20):
        name, content = b"f%d" % size, os.urandom(size)
        attr, opened = await one.create(top, name, 0o644, 0, os.O_RDWR, USER)
        for at in range(0, size, 1 << 20):
            await write(one, attr.ino, opened.fh, at, content[at : at + (1 << 20)])
        assert await read(one, attr.ino, opened.fh, 0, size + 10) == content
        await close(one, attr.ino, opened.fh)
        found = await lookup(other, top, name)
        assert found.fields.size == size
        theirs = await answer(other.open(found.ino, os.O_RDONLY, USER))
        assert await read(other, found.ino, theirs.fh, 0, size + 10) == content
        await close(other, found.ino, theirs.fh)
    assert len(names(await walk(other, top))) == 7


async def test_times_size_and_mode_survive(pair: tuple[FileSystem, FileSystem]) -> None:
    one, other = pair
    attr, opened = await one.create(one.root, b"f", 0o644, 0, os.O_RDWR, USER)
    await write(one, attr.ino, opened.fh, 0, b"hello")
    await one.setattr(attr.ino, Changes(1 << 4 | 1 << 5, 0, 0, 0, 0, 7, 1234567890123456789, 0), opened.fh, USER)
    await close(one, attr.ino, opened.fh)
    found = (await lookup(other, one.root, b"f")).fields
    assert (found.size, found.mtime_s, found.mtime_nsec) == (5, 1234567890, 123456789)
    await other.setattr(attr.ino, Changes(1 << 3, 0, 0, 0, 3, 0, 0, 0), None, USER)

    async def shrunk() -> bool:
        return (await answer(one.getattr(attr.ino, None))).fields.size == 3

    await eventually(shrunk, "the truncation is seen")


async def test_a_mount_learns_of_every_kind_of_change(pair: tuple[FileSystem, FileSystem]) -> None:
    one, other = pair
    top = (await one.mkdir(one.root, b"d", 0o755, 0, USER)).ino
    ino = await make(one, top, b"a")
    assert await lookup(one, top, b"new") is None
    assert (await lookup(other, top, b"a")).ino == ino
    await make(other, top, b"new")

    async def created() -> bool:
        return await lookup(one, top, b"new") is not None

    await eventually(created, "a file that another mount made")
    await one.rename(top, b"a", top, b"b", 0, USER)

    async def renamed() -> bool:
        return await lookup(other, top, b"a") is None and (await lookup(other, top, b"b")) is not None

    await eventually(renamed, "a file that another mount renamed")
    assert sorted(names(await walk(one, top))) == sorted(names(await walk(other, top))) == [b".", b"..", b"b", b"new"]
    await other.setattr(ino, Changes(1, 0o600, 0, 0, 0, 0, 0, 0), None, USER)

    async def chmodded() -> bool:
        return (await answer(one.getattr(ino, None))).fields.mode & 0o777 == 0o600

    await eventually(chmodded, "a mode that another mount set")
    await other.unlink(top, b"b", USER)

    async def removed() -> bool:
        return await lookup(one, top, b"b") is None

    await eventually(removed, "a file that another mount removed")


async def test_a_directory_that_was_just_made_is_watched(pair: tuple[FileSystem, FileSystem]) -> None:
    """Its maker takes it for empty without ever having read it."""
    one, other = pair
    top = (await one.mkdir(one.root, b"d", 0o755, 0, USER)).ino
    assert await lookup(one, top, b"theirs") is None
    await make(other, top, b"theirs")

    async def seen() -> bool:
        return await lookup(one, top, b"theirs") is not None

    await eventually(seen, "a file in a directory that this mount made")


async def test_an_unlinked_file_is_readable_until_its_close(pair: tuple[FileSystem, FileSystem]) -> None:
    one, other = pair
    attr, opened = await one.create(one.root, b"f", 0o644, 0, os.O_RDWR, USER)
    await write(one, attr.ino, opened.fh, 0, b"hello")
    await answer(one.fsync(attr.ino, opened.fh, False))
    await other.unlink(one.root, b"f", USER)

    async def gone() -> bool:
        return await lookup(one, one.root, b"f") is None

    await eventually(gone, "the name goes")
    assert await read(one, attr.ino, opened.fh) == b"hello"
    await write(one, attr.ino, opened.fh, 5, b" again")
    await close(one, attr.ino, opened.fh)
    client = one.known.meta
    await until(lambda: not client.held())
