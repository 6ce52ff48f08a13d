"""Access times and opens on trust at the client: what counts as a read, what is sent, and when nothing is."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest
from fs_fakes import NS, ROOT, USER, FakeData, FakeMeta
from test_filesystem_names import answer

from fuseclient.access_times import BATCH_MAX, NOATIME, RELATIME, STRICTATIME
from fuseclient.filesystem import FileSystem, Options
from protos import meta_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable

DAY_S = 86_400


@pytest.fixture
def meta() -> FakeMeta:
    made = FakeMeta()
    made.populate(ROOT, [b"f"])
    made.path(b"f").content += b"contents"
    return made


@pytest.fixture
def mounted(meta: FakeMeta) -> Callable[..., FileSystem]:
    return lambda **options: FileSystem(meta, FakeData(meta), Options(**options))


async def read_once(fs: FileSystem, ino: int, flags: int = os.O_RDONLY) -> None:
    opened = await answer(fs.open(ino, flags, USER))
    await answer(fs.read(ino, opened.fh, 0, 100))
    fs.release(ino, opened.fh)


async def reads(fs: FileSystem, meta: FakeMeta) -> int:
    """How many inodes the service hears of, once everything is sent."""
    before = meta.noted
    await fs.close()
    return meta.noted - before


def set_times(meta: FakeMeta, atime_ns: int, mtime_ns: int, ctime_ns: int) -> int:
    node = meta.path(b"f")
    node.atime_ns, node.mtime_ns, node.ctime_ns = atime_ns, mtime_ns, ctime_ns
    return node.ino


FUTURE = 1 << 62


@pytest.mark.parametrize(
    ("policy", "times", "counted"),
    [
        (RELATIME, (5, 5, 4), True),
        (RELATIME, (5, 4, 5), True),
        (RELATIME, (5, 4, 4), True),  # a day old
        (RELATIME, (FUTURE, 4, 4), False),
        (RELATIME, (FUTURE, FUTURE, 4), True),
        (STRICTATIME, (FUTURE, 4, 4), True),
        (NOATIME, (5, 5, 5), False),
    ],
)
async def test_which_reads_count(
    meta: FakeMeta, mounted: Callable[..., FileSystem], policy: str, times: tuple[int, int, int], counted: bool
) -> None:
    fs = mounted(atime=policy)
    ino = set_times(meta, *times)
    await read_once(fs, ino)
    assert await reads(fs, meta) == counted


async def test_a_read_costs_no_request_of_its_own_and_shows_at_once(meta: FakeMeta, mounted: Callable[..., FileSystem]) -> None:
    fs = mounted()
    ino = set_times(meta, 5 * NS, 5 * NS, 5 * NS)
    await read_once(fs, ino)
    assert meta.changes == 0
    seen = (await answer(fs.getattr(ino, None))).fields
    assert seen.atime_s > 5
    assert seen.mtime_s == 5
    await read_once(fs, ino)  # the answer to the open knows the old time still
    assert await reads(fs, meta) == 1
    assert meta.changes == 1
    assert meta.nodes[ino].atime_ns > 5 * NS


async def test_what_is_no_read(meta: FakeMeta, mounted: Callable[..., FileSystem]) -> None:
    fs = mounted()
    ino = set_times(meta, 5, 5, 5)
    await read_once(fs, ino, os.O_RDONLY | os.O_NOATIME)
    opened = await answer(fs.open(ino, os.O_WRONLY, USER))
    fs.release(ino, opened.fh)
    assert await reads(fs, meta) == 0


async def test_an_open_of_kept_pages_counts_since_the_kernel_says_no_more(
    meta: FakeMeta, mounted: Callable[..., FileSystem]
) -> None:
    fs = mounted(atime=STRICTATIME)
    ino = set_times(meta, 5, 5, 5)
    first = await answer(fs.open(ino, os.O_RDONLY, USER))
    fs.release(ino, first.fh)
    assert not fs._times._read
    second = await answer(fs.open(ino, os.O_RDONLY, USER))
    assert second.keep_cache
    assert list(fs._times._read) == [ino]
    await fs.close()


async def test_a_listing_counts(meta: FakeMeta, mounted: Callable[..., FileSystem]) -> None:
    fs = mounted()
    await answer(fs.getattr(ROOT, None))
    opened = await answer(fs.opendir(ROOT, USER))
    await answer(fs.readdir(ROOT, opened.fh, 0, plus=False))
    assert await reads(fs, meta) == 1


async def test_a_full_batch_goes_at_once(meta: FakeMeta, mounted: Callable[..., FileSystem]) -> None:
    fs = mounted()
    for ino in range(1000, 1000 + BATCH_MAX + 1):
        fs._times.note(ino)
    await fs.known.settled()
    assert meta.noted == BATCH_MAX
    assert await reads(fs, meta) == 1


# --- opens on trust


async def test_an_open_on_trust(meta: FakeMeta) -> None:
    now = [100.0]
    fs = FileSystem(meta, FakeData(meta), Options(open_cache_s=10, atime=NOATIME), clock=lambda: now[0])
    ino = meta.path(b"f").ino

    async def asked(flags: int = os.O_RDONLY) -> bool:
        """Whether the open waited for the service; what is held behind is let go first."""
        meta.holding = True
        opening = fs.open(ino, flags, USER)
        task = asyncio.ensure_future(opening)
        await asyncio.sleep(0)
        waited = not task.done()
        meta.holding = False
        meta.deliver()
        opened = await task
        await fs.known.settled()
        assert meta.holds[ino] == 1
        fs.release(ino, opened.fh)
        await fs.known.settled()
        assert not meta.holds
        return waited

    assert await asked()
    assert not await asked()
    assert await asked(os.O_WRONLY)
    assert not await asked()
    now[0] += 10
    assert await asked()
    meta.foreign(pb.Request(setattr=pb.SetAttr(ino=ino, valid=1, mode=0o600)))
    assert await asked()


async def test_an_open_on_trust_of_what_is_gone(meta: FakeMeta) -> None:
    fs = FileSystem(meta, FakeData(meta), Options(open_cache_s=10, atime=NOATIME))
    ino = meta.path(b"f").ino
    await read_once(fs, ino)
    del meta.nodes[ino]  # and nobody has told
    opened = await answer(fs.open(ino, os.O_RDONLY, USER))
    await fs.known.settled()
    assert fs.known.files[ino].stale
    fs.release(ino, opened.fh)
    assert not meta.holds
