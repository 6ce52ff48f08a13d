"""Access control lists as the file system of a mount handles them: what costs a question, and who answers it."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
from fs_fakes import ROOT, USER, FakeData, FakeMeta
from test_filesystem_names import answer

from fuseclient import permission
from fuseclient.errors import FsError
from fuseclient.filesystem import FileSystem, Options
from protos import meta_pb2 as pb

if TYPE_CHECKING:
    import asyncio

ACCESS = b"system.posix_acl_access"
NAMES = (ACCESS, b"system.posix_acl_default")


class AclMeta(FakeMeta):
    """Remembers the last request of each kind, and refuses access when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.last: dict[str, pb.Request] = {}
        self.refuses = False

    def read(self, request: pb.Request) -> asyncio.Future[pb.Response]:
        self.last[str(request.WhichOneof("op"))] = request
        return super().read(request)

    def change(self, request: pb.Request) -> asyncio.Future[pb.Response]:
        self.last[str(request.WhichOneof("op"))] = request
        return super().change(request)

    def _access(self, r: pb.Access) -> pb.Response:
        if self.refuses:
            raise FsError(errno.EACCES)
        return pb.Response(attr=self._node(r.ino).raw())


@pytest.fixture
def meta() -> AclMeta:
    meta = AclMeta()
    meta.populate(ROOT, [b"f"])
    return meta


def mount(meta: FakeMeta, *, acl: bool) -> FileSystem:
    return FileSystem(meta, FakeData(meta), Options(acl=acl))


async def refusal(call: object) -> int:
    with pytest.raises(FsError) as refused:
        await answer(call() if callable(call) else call)
    return refused.value.errno


async def test_a_file_without_a_list_costs_no_question(meta: AclMeta) -> None:
    fs, ino = mount(meta, acl=True), meta.path(b"f").ino
    await answer(fs.getattr(ino, None))
    for name in NAMES:
        assert await refusal(lambda name=name: fs.getxattr(ino, name, USER)) == errno.ENODATA
    assert meta.counts["getxattr"] == 0
    meta.foreign(pb.Request(setxattr=pb.SetXattr(ino=ino, name=b"user.a", value=b"1")))
    await answer(fs.getattr(ino, None))
    for _ in range(3):
        for name in NAMES:
            assert await refusal(lambda name=name: fs.getxattr(ino, name, USER)) == errno.ENODATA
    assert meta.counts["getxattr"] == len(NAMES)
    meta.foreign(pb.Request(setxattr=pb.SetXattr(ino=ino, name=ACCESS, value=b"list")))
    assert await answer(fs.getxattr(ino, ACCESS, USER)) == b"list"


async def test_without_acls_nothing_is_asked(meta: AclMeta) -> None:
    fs, ino = mount(meta, acl=False), meta.path(b"f").ino
    for name in NAMES:
        assert await refusal(lambda name=name: fs.getxattr(ino, name, USER)) == errno.EOPNOTSUPP
        assert await refusal(lambda name=name: fs.setxattr(ino, name, b"list", 0, USER)) == errno.EOPNOTSUPP
        assert await refusal(lambda name=name: fs.removexattr(ino, name, USER)) == errno.EOPNOTSUPP
    assert meta.requests == 0


async def test_switched_off_since_the_mount_is_no_list(meta: AclMeta) -> None:
    """The kernel asks for each permission, and would give the caller of open(2) an EOPNOTSUPP."""
    fs, ino = mount(meta, acl=True), meta.path(b"f").ino
    meta.failures["getxattr"] = FsError(errno.EOPNOTSUPP)
    assert await refusal(lambda: fs.getxattr(ino, ACCESS, USER)) == errno.ENODATA
    meta.failures["setxattr"] = FsError(errno.EOPNOTSUPP)
    assert await refusal(lambda: fs.setxattr(ino, ACCESS, b"list", 0, USER)) == errno.EOPNOTSUPP


@pytest.mark.parametrize("kill", [False, True])
async def test_setgid_goes_where_the_kernel_says_so(meta: AclMeta, kill: bool) -> None:
    fs, ino = mount(meta, acl=True), meta.path(b"f").ino
    await fs.setxattr(ino, ACCESS, b"list", 0, USER, kill)
    assert meta.last["setxattr"].setxattr.clear_setgid == kill


async def test_the_server_decides_about_a_list_that_the_kernel_did_not_see(
    meta: AclMeta, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A create that found the file there: the kernel has checked the directory alone. Permission bits would refuse here."""
    fs, ino = mount(meta, acl=True), meta.path(b"f").ino
    meta.nodes[ino].mode = 0o100070
    meta.nodes[ino].xattrs[ACCESS] = b"list"
    monkeypatch.setattr(permission, "groups_of", lambda pid: frozenset({30, 20}))
    attr, opened = await fs.create(ROOT, b"f", 0o644, 0, os.O_RDWR | os.O_CREAT, USER)
    assert attr.ino == ino
    fs.release(ino, opened.fh)
    asked = meta.last["access"].access
    assert (asked.ino, asked.mask) == (ino, 6)
    assert asked.cred == pb.Cred(uid=USER.uid, gid=USER.gid, groups=[20, 30], enforce=True)
    meta.refuses = True
    assert await refusal(lambda: fs.create(ROOT, b"f", 0o644, 0, os.O_RDONLY | os.O_CREAT, USER)) == errno.EACCES
    assert not meta.holds[ino]
