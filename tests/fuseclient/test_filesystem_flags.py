"""Inode flags at the client: who may change them, and that nothing is written or forgotten that they forbid."""

from __future__ import annotations

import errno
import os

import pytest
from fs_fakes import ROOT, USER, FakeData, FakeMeta
from test_filesystem_names import answer, at_once

from fuseclient.attr import Attr, AttrFields
from fuseclient.errors import FsError
from fuseclient.filesystem import FileSystem
from fuseclient.operations import APPEND_FL, IMMUTABLE_FL, NODUMP_FL, Caller, Changes
from fuseclient.permission import CAP_LINUX_IMMUTABLE, flags_allow, is_capable
from protos import meta_pb2 as pb

SUPERUSER = Caller(0, 0, 1)
OWNER = Caller(1000, 1000, 0)  # a process that cannot be seen: it has no capabilities
MINE = Caller(os.getuid(), os.getgid(), os.getpid())


@pytest.fixture
def meta() -> FakeMeta:
    return FakeMeta()


@pytest.fixture
async def fs(meta: FakeMeta) -> FileSystem:
    return FileSystem(meta, FakeData(meta))


async def opened(fs: FileSystem, flags: int = os.O_RDWR) -> tuple[int, int]:
    attr, file = await fs.create(ROOT, b"f", 0o644, 0o022, flags | os.O_CREAT, USER)
    return attr.ino, file.fh


async def refusal(action: object) -> int:
    with pytest.raises(FsError) as refused:
        await answer(action)
    return refused.value.errno


async def test_flags_are_set_and_known_without_asking(fs: FileSystem, meta: FakeMeta) -> None:
    ino, _ = await opened(fs)
    assert at_once(fs.getflags(ino)) == 0
    assert await fs.setflags(ino, IMMUTABLE_FL | NODUMP_FL, SUPERUSER) == IMMUTABLE_FL | NODUMP_FL
    before = meta.requests
    assert at_once(fs.getflags(ino)) == IMMUTABLE_FL | NODUMP_FL
    assert meta.requests == before
    meta.foreign(pb.Request(set_flags=pb.SetFlags(ino=ino, flags=0)))
    assert await answer(fs.getflags(ino)) == 0


async def test_who_may_change_which(fs: FileSystem) -> None:
    ino, _ = await opened(fs)
    assert await refusal(fs.setflags(ino, IMMUTABLE_FL, OWNER)) == errno.EPERM
    assert await refusal(fs.setflags(ino, 0x80, SUPERUSER)) == errno.EOPNOTSUPP
    await fs.setflags(ino, APPEND_FL, SUPERUSER)
    assert await refusal(fs.setflags(ino, 0, OWNER)) == errno.EPERM
    assert await fs.setflags(ino, APPEND_FL | NODUMP_FL, OWNER) == APPEND_FL | NODUMP_FL


async def test_what_was_written_before_is_stored_before(fs: FileSystem, meta: FakeMeta) -> None:
    ino, fh = await opened(fs)
    fs.write(ino, fh, 0, memoryview(b"before"), False)
    await fs.setflags(ino, IMMUTABLE_FL, SUPERUSER)
    assert meta.nodes[ino].content == b"before"
    assert await refusal(fs.write(ino, fh, 0, memoryview(b"after"), False)) == errno.EPERM
    assert at_once(fs.read(ino, fh, 0, 100)) == [b"before"]


async def test_a_flag_set_elsewhere_stops_the_next_write(fs: FileSystem, meta: FakeMeta) -> None:
    ino, fh = await opened(fs)
    fs.write(ino, fh, 0, memoryview(b"x"), False)
    await answer(fs.flush(ino, fh, 0))
    meta.foreign(pb.Request(set_flags=pb.SetFlags(ino=ino, flags=IMMUTABLE_FL)))
    assert await refusal(fs.write(ino, fh, 0, memoryview(b"y"), False)) == errno.EPERM
    meta.foreign(pb.Request(set_flags=pb.SetFlags(ino=ino, flags=0)))
    assert await answer(fs.write(ino, fh, 0, memoryview(b"y"), False)) == 1


async def test_a_truncation_that_is_refused_forgets_nothing(fs: FileSystem, meta: FakeMeta) -> None:
    """The client drops what lies beyond the new end before it asks, because the server refuses no truncation but this."""
    ino, fh = await opened(fs, os.O_WRONLY | os.O_APPEND)
    await fs.setflags(ino, APPEND_FL, SUPERUSER)
    assert await answer(fs.write(ino, fh, 0, memoryview(b"a line"), False)) == 6
    cut = Changes(8, 0, 0, 0, 1, 0, 0, 0)
    assert await refusal(fs.setattr(ino, cut, fh, USER)) == errno.EPERM
    await answer(fs.flush(ino, fh, 0))
    assert meta.nodes[ino].content == b"a line"


@pytest.mark.parametrize(
    ("flags", "how", "code"),
    [
        (IMMUTABLE_FL, os.O_RDONLY, 0),
        (IMMUTABLE_FL, os.O_WRONLY, errno.EPERM),
        (IMMUTABLE_FL, os.O_RDONLY | os.O_TRUNC, errno.EPERM),
        (APPEND_FL, os.O_WRONLY, errno.EPERM),
        (APPEND_FL, os.O_RDWR | os.O_APPEND, 0),
        (APPEND_FL, os.O_WRONLY | os.O_APPEND | os.O_TRUNC, errno.EPERM),
        (NODUMP_FL, os.O_WRONLY | os.O_TRUNC, 0),
    ],
)
async def test_a_create_that_finds_the_file_there(fs: FileSystem, meta: FakeMeta, flags: int, how: int, code: int) -> None:
    """The kernel believed the name to be free and sends no open."""
    meta.populate(ROOT, [b"f"])
    meta.path(b"f").flags = flags
    made = fs.create(ROOT, b"f", 0o644, 0, how | os.O_CREAT, SUPERUSER)
    if code:
        assert await refusal(made) == code
        assert not meta.holds
    else:
        await made


async def test_the_server_hears_how_a_file_is_opened(fs: FileSystem, meta: FakeMeta) -> None:
    seen: list[int] = []
    execute = meta._execute

    def watch(request: pb.Request) -> pb.Response:
        if request.WhichOneof("op") == "open":
            seen.append(request.open.flags)
        return execute(request)

    meta._execute = watch
    meta.populate(ROOT, [b"f"])
    ino = meta.path(b"f").ino
    for flags in (os.O_RDONLY, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_SYNC | os.O_NONBLOCK):
        await answer(fs.open(ino, flags, USER))
    assert seen == [os.O_RDONLY, os.O_WRONLY | os.O_APPEND, os.O_RDWR]


def test_a_file_without_flags_may_be_opened_anyhow() -> None:
    attr = Attr.of(AttrFields(*[0] * len(AttrFields._fields)))
    assert flags_allow(attr, os.O_WRONLY | os.O_TRUNC)


def test_capabilities_are_read_from_the_process() -> None:
    assert is_capable(Caller(0, 0, 0), CAP_LINUX_IMMUTABLE)
    assert not is_capable(Caller(7, 7, 2**22 + 7), CAP_LINUX_IMMUTABLE)
    if os.getuid() == 0:
        assert is_capable(MINE._replace(uid=7), CAP_LINUX_IMMUTABLE)
