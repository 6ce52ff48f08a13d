"""Squashed callers at the client: who is mapped, and that the server is asked to check them."""

from __future__ import annotations

import errno
import os

import pytest
from fs_fakes import ROOT, USER, FakeData, FakeMeta
from test_filesystem_names import answer

from fuseclient.errors import FsError
from fuseclient.operations import Caller, Changes
from fuseclient.squash import Squash, SquashedFileSystem
from protos import meta_pb2 as pb

SUPERUSER = Caller(0, 0, 1)
FATTR_SIZE, FATTR_KILL = 1 << 3, 1 << 11


class CheckingMeta(FakeMeta):
    """Notes with which identity each request came; `refused` operations are denied to who is enforced."""

    def __init__(self) -> None:
        super().__init__()
        self.creds: list[tuple[str, pb.Cred]] = []
        self.sent: list[pb.Request] = []
        self.refused: set[str] = set()

    def _execute(self, request: pb.Request) -> pb.Response:
        op = request.WhichOneof("op")
        self.sent.append(request)
        cred = getattr(getattr(request, op), "cred", None)
        if cred is not None:
            self.creds.append((op, cred))
            if cred.enforce and op in self.refused:
                raise FsError(errno.EACCES)
        return super()._execute(request)

    def _access(self, r: pb.Access) -> pb.Response:
        return pb.Response(attr=self._node(r.ino).raw())

    def last(self, op: str) -> tuple[int, int, bool]:
        cred = next(cred for name, cred in reversed(self.creds) if name == op)
        return cred.uid, cred.gid, cred.enforce


@pytest.fixture
def meta() -> CheckingMeta:
    made = CheckingMeta()
    made.populate(ROOT, [b"f"])
    return made


@pytest.mark.parametrize(
    ("who", "uid", "mapped"),
    [("none", 0, False), ("none", 7, False), ("root", 0, True), ("root", 7, False), ("all", 0, True), ("all", 7, True)],
)
def test_who_is_mapped(who: str, uid: int, mapped: bool) -> None:
    assert Squash(who).maps(Caller(uid, uid, 1)) == mapped


async def test_changes_of_mapped_callers_are_enforced_and_of_others_not(meta: CheckingMeta) -> None:
    fs = SquashedFileSystem(meta, FakeData(meta), Squash("root", 99, 98))
    await fs.mkdir(ROOT, b"d", 0o755, 0, SUPERUSER)
    assert meta.last("mkdir") == (99, 98, True)
    await fs.mkdir(ROOT, b"e", 0o755, 0, USER)
    assert meta.last("mkdir") == (USER.uid, USER.gid, False)
    await fs.unlink(ROOT, b"f", SUPERUSER)
    assert meta.last("unlink") == (99, 98, True)


async def test_what_is_known_is_not_told_to_a_mapped_caller_unasked(meta: CheckingMeta) -> None:
    fs = SquashedFileSystem(meta, FakeData(meta), Squash("root"))
    await answer(fs.lookup(ROOT, b"f", USER))
    meta.refused = {"lookup", "access"}
    assert await answer(fs.lookup(ROOT, b"f", USER)) is not None
    for action in (fs.lookup(ROOT, b"f", SUPERUSER), fs.opendir(ROOT, SUPERUSER), fs.access(ROOT, 4, SUPERUSER)):
        with pytest.raises(FsError) as refused:
            await answer(action)
        assert refused.value.errno == errno.EACCES
    assert await answer(fs.access(ROOT, 4, USER)) is None
    meta.refused = set()
    assert await answer(fs.lookup(ROOT, b"none", SUPERUSER)) is None


async def test_a_truncation_that_is_refused_forgets_nothing(meta: CheckingMeta) -> None:
    """The client drops what lies beyond the new end before it sends the change."""
    fs = SquashedFileSystem(meta, FakeData(meta), Squash("root"))
    ino = meta.path(b"f").ino
    opened = await answer(fs.open(ino, os.O_WRONLY, USER))
    fs.write(ino, opened.fh, 0, memoryview(b"kept"), False)
    meta.refused = {"access"}
    with pytest.raises(FsError):
        await fs.setattr(ino, Changes(FATTR_SIZE, 0, 0, 0, 0, 0, 0, 0), None, SUPERUSER)
    await answer(fs.flush(ino, opened.fh, 0))
    assert meta.nodes[ino].content == b"kept"


async def test_through_a_descriptor_nothing_is_checked_but_set_id_falls(meta: CheckingMeta) -> None:
    fs = SquashedFileSystem(meta, FakeData(meta), Squash("root"))
    ino = meta.path(b"f").ino
    opened = await answer(fs.open(ino, os.O_WRONLY, SUPERUSER))
    assert meta.last("open")[2]
    meta.refused = {"access", "setattr"}
    await fs.setattr(ino, Changes(FATTR_SIZE, 0, 0, 0, 5, 0, 0, 0), opened.fh, SUPERUSER)
    sent = [request.setattr for request in meta.sent if request.HasField("setattr")]
    assert sent[-1].valid == FATTR_SIZE | FATTR_KILL
    meta.nodes[ino].mode |= 0o4000
    fs.write(ino, opened.fh, 0, memoryview(b"x"), False)
    await answer(fs.flush(ino, opened.fh, 0))
    assert not meta.nodes[ino].mode & 0o4000
    fs.release(ino, opened.fh)
    assert not fs._theirs
