"""A metadata service and a data path in memory, for the file system's tests: real trees, counted requests, held answers."""

from __future__ import annotations

import asyncio
import errno
import stat
from collections import Counter
from dataclasses import dataclass, field

from fuseclient.attr import Attr, AttrFields
from fuseclient.errors import FsError
from fuseclient.operations import Caller
from protos import meta_pb2 as pb

ROOT = 2
USER = Caller(1000, 1000, 1)
NS = 1_000_000_000


@dataclass
class Node:
    ino: int
    mode: int
    uid: int = 0
    gid: int = 0
    nlink: int = 1
    rdev: int = 0
    parent: int = 0
    mtime_ns: int = 0
    atime_ns: int = 0
    ctime_ns: int = 0
    version: int = 0
    data_version: int = 0
    content: bytearray = field(default_factory=bytearray)
    entries: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    next_cookie: int = 3
    target: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    flags: int = 0

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    def raw(self) -> bytes:
        times = (self.atime_ns, self.mtime_ns, self.ctime_ns)
        seconds = [t // NS for t in times]
        rest = [t % NS for t in times]
        size = 4096 if self.is_dir else len(self.target) or len(self.content)
        fields = AttrFields(
            self.ino, size, -(-len(self.content) // 512), *seconds, *rest, self.mode, self.nlink, self.uid, self.gid,
            self.rdev, 4096, 0, 0, self.parent, self.version, self.data_version, int(not self.xattrs), self.flags,
        )  # fmt: skip
        return Attr.of(fields).raw


class FakeMeta:
    """Executes a request when it is sent. Answers come with the loop's next turn, or by `deliver` while `holding`."""

    def __init__(self, *, cookies: bool = True) -> None:
        self.root = ROOT
        self.on_notification = None
        self.on_reset = None
        self.cookies = cookies
        self.counts: Counter[str] = Counter()
        self.changes = self.reads = 0
        self.noted = 0
        self.holds: Counter[int] = Counter()
        self.index = 0
        self.nodes = {ROOT: Node(ROOT, stat.S_IFDIR | 0o755, nlink=2)}
        self.next_ino = 100
        self.holding = False
        self.held: list[tuple[asyncio.Future[pb.Response], pb.Response | FsError]] = []
        self.failures: dict[str, FsError] = {}

    # MetaApi

    def read(self, request: pb.Request) -> asyncio.Future[pb.Response]:
        self.reads += 1
        return self._answer(request)

    def change(self, request: pb.Request) -> asyncio.Future[pb.Response]:
        self.changes += 1
        request.seq = self.changes
        return self._answer(request)

    def hold(self, ino: int) -> None:
        self.holds[ino] += 1

    def release(self, ino: int) -> None:
        self.holds[ino] -= 1
        if not self.holds[ino]:
            del self.holds[ino]

    # what tests do

    @property
    def requests(self) -> int:
        return self.reads + self.changes

    def deliver(self, count: int | None = None, *, last_first: bool = False) -> None:
        """Let held answers arrive."""
        for _ in range(len(self.held) if count is None else count):
            future, outcome = self.held.pop(-1 if last_first else 0)
            self._settle(future, outcome)

    def foreign(self, request: pb.Request) -> pb.Response:
        """Somebody else's change: executed, and announced."""
        response = self._execute(request)
        op = request.WhichOneof("op")
        made = getattr(request, op)
        if op in ("setattr", "commit_slices", "setxattr", "set_flags"):
            data = op in ("setattr", "commit_slices")
            self.notify(pb.Notification(inval_inode=pb.InvalInode(ino=made.ino, data=data)))
            return response
        self.notify(pb.Notification(inval_entry=pb.InvalEntry(parent=made.parent, name=made.name)))
        if op == "rename":
            self.notify(pb.Notification(inval_entry=pb.InvalEntry(parent=made.parent2, name=made.name2)))
        if op in ("unlink", "link", "rename"):
            for raw in filter(None, (response.attr, response.other_attr)):
                self.notify(pb.Notification(inval_inode=pb.InvalInode(ino=int.from_bytes(raw[:8], "little"))))
        return response

    def foreign_write(self, ino: int, content: bytes, *, told: bool = True) -> None:
        """Somebody else writes; `told` False: the notification has not come yet."""
        node = self.nodes[ino]
        node.content[:] = content
        self._touch(node, data=True)
        if told:
            self.notify(pb.Notification(inval_inode=pb.InvalInode(ino=ino, data=True)))

    def notify(self, notification: pb.Notification) -> None:
        if self.on_notification is not None:
            self.on_notification(notification)

    def reset(self, reason: str) -> None:
        if reason == "expired":
            self.holds.clear()
        self.on_reset(reason)

    def path(self, *names: bytes) -> Node:
        node = self.nodes[ROOT]
        for name in names:
            node = self.nodes[node.entries[name][0]]
        return node

    def populate(self, parent: int, names: list[bytes]) -> None:
        """Files that were there before, without requests."""
        for name in names:
            self._make(parent, name, stat.S_IFREG | 0o644)

    # the service

    def _answer(self, request: pb.Request) -> asyncio.Future[pb.Response]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[pb.Response] = loop.create_future()
        op = request.WhichOneof("op")
        self.counts[op] += 1
        outcome: pb.Response | FsError
        try:
            if op in self.failures:
                raise self.failures[op]
            outcome = self._execute(request)
            if op in ("create", "open", "tmpfile"):
                self.hold(int.from_bytes(outcome.attr[:8], "little"))
        except FsError as error:
            outcome = error
        if self.holding:
            self.held.append((future, outcome))
        else:
            loop.call_soon(self._settle, future, outcome)
        return future

    @staticmethod
    def _settle(future: asyncio.Future[pb.Response], outcome: pb.Response | FsError) -> None:
        if future.done():
            return
        if isinstance(outcome, FsError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def _execute(self, request: pb.Request) -> pb.Response:
        op = request.WhichOneof("op")
        return getattr(self, f"_{op}")(getattr(request, op))

    def _node(self, ino: int) -> Node:
        node = self.nodes.get(ino)
        if node is None:
            raise FsError(errno.ESTALE)
        return node

    def _dir(self, ino: int) -> Node:
        node = self._node(ino)
        if not node.is_dir:
            raise FsError(errno.ENOTDIR)
        return node

    def _touch(self, node: Node, *, data: bool = False) -> None:
        self.index += 1
        node.version = self.index
        node.ctime_ns = self.index * NS
        if data:
            node.data_version = self.index
            node.mtime_ns = self.index * NS

    def _enter(self, parent: Node, name: bytes, ino: int) -> int:
        cookie = parent.next_cookie
        parent.next_cookie += 1
        parent.entries[name] = (ino, cookie)
        self._touch(parent, data=True)
        return cookie

    def _make(self, parent: int, name: bytes, mode: int, **more: object) -> tuple[Node, Node, int]:
        above = self._dir(parent)
        if name in above.entries:
            raise FsError(errno.EEXIST)
        self.next_ino += 1
        node = self.nodes[self.next_ino] = Node(self.next_ino, mode, parent=parent, **more)  # type: ignore[arg-type]
        if node.is_dir:
            node.nlink = 2
            above.nlink += 1
        self._touch(node, data=True)
        return node, above, self._enter(above, name, node.ino)

    def _made(self, node: Node, above: Node, cookie: int) -> pb.Response:
        return pb.Response(attr=node.raw(), parent_attr=above.raw(), first=cookie if self.cookies else 0)

    def _lookup(self, r: pb.Lookup) -> pb.Response:
        found = self._dir(r.parent).entries.get(r.name)
        if found is None:
            raise FsError(errno.ENOENT)
        return pb.Response(attr=self._node(found[0]).raw())

    def _getattr(self, r: pb.GetAttr) -> pb.Response:
        return pb.Response(attr=self._node(r.ino).raw())

    def _readlink(self, r: pb.ReadLink) -> pb.Response:
        return pb.Response(data=self._node(r.ino).target)

    def _readdir(self, r: pb.ReadDir) -> pb.Response:
        above = self._dir(r.ino)
        rest = sorted((cookie, name, ino) for name, (ino, cookie) in above.entries.items() if cookie > r.after)
        response = pb.Response(attr=above.raw(), eof=len(rest) <= r.limit)
        for cookie, name, ino in rest[: r.limit]:
            node = self._node(ino)
            response.entries.add(name=name, cookie=cookie, ino=ino, type=node.mode >> 12, attr=node.raw())
        return response

    def _open(self, r: pb.Open) -> pb.Response:
        return pb.Response(attr=self._node(r.ino).raw())

    def _create(self, r: pb.Create) -> pb.Response:
        found = self._dir(r.parent).entries.get(r.name)
        if found is not None:
            if r.exclusive:
                raise FsError(errno.EEXIST)
            return pb.Response(
                attr=self._node(found[0]).raw(), parent_attr=self._dir(r.parent).raw(), existed=True, first=found[1]
            )
        mode = stat.S_IFREG | (r.mode & ~r.umask & 0o7777)
        return self._made(*self._make(r.parent, r.name, mode, uid=r.cred.uid, gid=r.cred.gid))

    def _mkdir(self, r: pb.MkDir) -> pb.Response:
        mode = stat.S_IFDIR | (r.mode & ~r.umask & 0o7777)
        return self._made(*self._make(r.parent, r.name, mode, uid=r.cred.uid, gid=r.cred.gid))

    def _mknod(self, r: pb.MkNod) -> pb.Response:
        return self._made(*self._make(r.parent, r.name, r.mode & ~r.umask, rdev=r.rdev))

    def _symlink(self, r: pb.SymLink) -> pb.Response:
        return self._made(*self._make(r.parent, r.name, stat.S_IFLNK | 0o777, target=r.target))

    def _link(self, r: pb.Link) -> pb.Response:
        above, node = self._dir(r.parent), self._node(r.ino)
        if r.name in above.entries:
            raise FsError(errno.EEXIST)
        node.nlink += 1
        node.parent = 0
        self._touch(node)
        return self._made(node, above, self._enter(above, r.name, node.ino))

    def _lose(self, node: Node) -> None:
        node.nlink -= 2 if node.is_dir else 1
        self._touch(node)
        if not node.nlink and not self.holds[node.ino]:
            del self.nodes[node.ino]

    def _unlink(self, r: pb.Unlink) -> pb.Response:
        above = self._dir(r.parent)
        if r.name not in above.entries:
            raise FsError(errno.ENOENT)
        node = self._node(above.entries[r.name][0])
        if node.is_dir:
            raise FsError(errno.EISDIR)
        del above.entries[r.name]
        self._touch(above, data=True)
        self._lose(node)
        return pb.Response(attr=node.raw(), parent_attr=above.raw())

    def _rmdir(self, r: pb.RmDir) -> pb.Response:
        above = self._dir(r.parent)
        if r.name not in above.entries:
            raise FsError(errno.ENOENT)
        node = self._dir(above.entries[r.name][0])
        if node.entries:
            raise FsError(errno.ENOTEMPTY)
        del above.entries[r.name]
        above.nlink -= 1
        self._touch(above, data=True)
        self._lose(node)
        return pb.Response(attr=node.raw(), parent_attr=above.raw())

    def _rename(self, r: pb.Rename) -> pb.Response:
        above, above2 = self._dir(r.parent), self._dir(r.parent2)
        if r.name not in above.entries:
            raise FsError(errno.ENOENT)
        ino, cookie = above.entries[r.name]
        node, other = self._node(ino), above2.entries.get(r.name2)
        if other and r.flags & 1:
            raise FsError(errno.EEXIST)
        response = pb.Response()
        if r.flags & 2:
            assert other is not None
            above.entries[r.name], above2.entries[r.name2] = (other[0], cookie), (ino, other[1])
            self._touch(self._node(other[0]))
            response.other_attr = self._node(other[0]).raw()
        else:
            if other is not None:
                replaced = self._node(other[0])
                if replaced.entries:
                    raise FsError(errno.ENOTEMPTY)
                del above2.entries[r.name2]
                self._lose(replaced)
                response.other_attr = replaced.raw()
            del above.entries[r.name]
            if above is above2:
                above.entries[r.name2] = (ino, cookie)
            else:
                cookie = self._enter(above2, r.name2, ino)
                if node.is_dir:
                    above.nlink -= 1
                    above2.nlink += 1
            if node.parent:
                node.parent = above2.ino
            response.first = cookie if self.cookies else 0
        for one in {above.ino: above, above2.ino: above2}.values():
            self._touch(one, data=True)
        self._touch(node)
        response.attr, response.parent_attr = node.raw(), above.raw()
        if above is not above2:
            response.parent2_attr = above2.raw()
        return response

    def _setattr(self, r: pb.SetAttr) -> pb.Response:
        node = self._node(r.ino)
        self._touch(node, data=bool(r.valid & 8))
        if r.valid & 1:
            node.mode = stat.S_IFMT(node.mode) | r.mode & 0o7777
        if r.valid & 2:
            node.uid = r.uid
        if r.valid & 4:
            node.gid = r.gid
        if r.valid & 8:
            del node.content[r.size :]
            node.content += bytes(r.size - len(node.content))
        if r.valid & 1 << 11:
            node.mode &= ~stat.S_ISUID
        if r.valid & 0x120 == 0x20:
            node.mtime_ns = r.mtime_ns
        if r.valid & 0x90 == 0x10:
            node.atime_ns = r.atime_ns
        return pb.Response(attr=node.raw())

    def _note_reads(self, r: pb.NoteReads) -> pb.Response:
        self.noted += len(r.inodes)
        for ino in r.inodes:
            node = self.nodes.get(ino)
            if node is not None:
                node.atime_ns = max(node.atime_ns, r.atime_ns)
        return pb.Response(count=len(r.inodes))

    def _set_flags(self, r: pb.SetFlags) -> pb.Response:
        node = self._node(r.ino)
        node.flags = r.flags
        self._touch(node)
        return pb.Response(attr=node.raw())

    def _fallocate(self, r: pb.Fallocate) -> pb.Response:
        """Allocating, which grows, and holes."""
        node = self._node(r.ino)
        if r.mode not in (0, 3):
            raise FsError(errno.EOPNOTSUPP)
        end = r.offset + r.length
        if r.mode:
            node.content[r.offset : end] = bytes(max(min(end, len(node.content)) - r.offset, 0))
        else:
            node.content += bytes(max(0, end - len(node.content)))
        self._touch(node, data=True)
        if r.kill_priv:
            node.mode &= ~stat.S_ISUID
        return pb.Response(attr=node.raw())

    def _copy_range(self, r: pb.CopyRange) -> pb.Response:
        source, target = self._node(r.ino), self._node(r.ino2)
        data = bytes(source.content[r.offset : r.offset + r.length])
        if data:
            target.content += bytes(max(0, r.offset2 + len(data) - len(target.content)))
            target.content[r.offset2 : r.offset2 + len(data)] = data
            self._touch(target, data=True)
        return pb.Response(attr=target.raw(), other_attr=source.raw(), count=len(data))

    def _tmpfile(self, r: pb.TmpFile) -> pb.Response:
        self._dir(r.parent)
        self.next_ino += 1
        mode = stat.S_IFREG | (r.mode & ~r.umask & 0o7777)
        node = self.nodes[self.next_ino] = Node(self.next_ino, mode, uid=r.cred.uid, gid=r.cred.gid, nlink=0)
        self._touch(node, data=True)
        return pb.Response(attr=node.raw())

    def _getxattr(self, r: pb.GetXattr) -> pb.Response:
        value = self._node(r.ino).xattrs.get(r.name)
        if value is None:
            raise FsError(errno.ENODATA)
        return pb.Response(data=value)

    def _listxattr(self, r: pb.ListXattr) -> pb.Response:
        return pb.Response(data=b"".join(name + b"\0" for name in self._node(r.ino).xattrs))

    def _setxattr(self, r: pb.SetXattr) -> pb.Response:
        node = self._node(r.ino)
        node.xattrs[r.name] = r.value
        self._touch(node)
        return pb.Response(attr=node.raw())

    def _removexattr(self, r: pb.RemoveXattr) -> pb.Response:
        node = self._node(r.ino)
        if node.xattrs.pop(r.name, None) is None:
            raise FsError(errno.ENODATA)
        self._touch(node)
        return pb.Response(attr=node.raw())

    def _statfs(self, r: pb.StatFs) -> pb.Response:
        return pb.Response(statfs=pb.StatFsResult(bytes_used=10_000, inodes_used=len(self.nodes)))

    def commit(self, ino: int, writes: list[tuple[int, bytes]], mtime_ns: int, kill_priv: bool) -> Attr:
        """What CommitSlices does."""
        self.counts["commit"] += 1
        node = self._node(ino)
        for offset, data in writes:
            node.content += bytes(max(0, offset + len(data) - len(node.content)))
            node.content[offset : offset + len(data)] = data
        self._touch(node, data=True)
        node.mtime_ns = mtime_ns
        if kill_priv:
            node.mode &= ~stat.S_ISUID
        return Attr(node.raw())


class FakeFile:
    """FileData: writes stay in memory until a flush, which takes a few turns of the loop."""

    def __init__(self, path: FakeData, attr: Attr) -> None:
        self._path = path
        self.ino = attr.ino
        self.size = attr.fields.size
        self.mtime_ns = 0
        self.writes: list[tuple[int, bytes]] = []
        self.kill = False
        self.error: FsError | None = None
        self.closed = False
        self.forsaken = False
        self.primed = 0
        self.refreshed = 0

    @property
    def dirty(self) -> bool:
        return bool(self.writes) or self.error is not None

    @property
    def dirty_bytes(self) -> int:
        return sum(len(data) for _, data in self.writes)

    def write(self, offset: int, data: memoryview, kill_priv: bool) -> None:
        self.writes.append((offset, bytes(data)))
        self.size = max(self.size, offset + len(data))
        self.mtime_ns = self._path.now_ns()
        self.kill = self.kill or kill_priv

    def read(self, offset: int, size: int) -> list[bytes]:
        node = self._path.meta.nodes[self.ino]
        content = bytearray(node.content[: self.size].ljust(self.size, b"\0"))
        for at, data in self.writes:
            content[at : at + len(data)] = data
        return [bytes(content[offset : min(offset + size, self.size)])]

    async def flush(self) -> Attr | None:
        error, self.error = self.error, None
        if error is not None:
            raise error
        if not self.writes:
            return None
        for _ in range(3):
            await asyncio.sleep(0)
        if self.forsaken:
            raise FsError(errno.EIO, "forsaken")
        writes, self.writes = self.writes, []
        kill, self.kill = self.kill, False
        attr = self._path.meta.commit(self.ino, writes, self.mtime_ns, kill)
        if self._path.on_commit is not None:
            self._path.on_commit(attr)
        return attr

    async def truncate(self, size: int) -> None:
        self.writes = [(at, data[: size - at]) for at, data in self.writes if at < size]
        self.size = size

    def refresh(self, attr: Attr) -> None:
        self.refreshed += 1
        self.size = max([attr.fields.size, *(at + len(data) for at, data in self.writes)])

    def prime(self, extents: object, inline: object) -> None:
        self.primed += 1

    def seek(self, offset: int, whence: int) -> int:
        if offset >= self.size:
            raise FsError(errno.ENXIO)
        return offset if whence == 3 else self.size

    def forsake(self) -> None:
        self.forsaken = True

    def close(self) -> None:
        self.writes = []
        self.closed = True
        self._path.files.pop(self.ino, None)


class FakeData:
    def __init__(self, meta: FakeMeta) -> None:
        self.meta = meta
        self.on_commit = None
        self.files: dict[int, FakeFile] = {}
        self.time_ns = 5_000_000 * NS

    def now_ns(self) -> int:
        self.time_ns += NS
        return self.time_ns

    def file(self, attr: Attr) -> FakeFile:
        made = self.files.get(attr.ino)
        if made is None:
            made = self.files[attr.ino] = FakeFile(self, attr)
        return made

    async def close(self) -> None:
        for file in list(self.files.values()):
            await file.flush()


class FakeKernel:
    def __init__(self) -> None:
        self.inodes: list[tuple[int, bool]] = []
        self.entries: list[tuple[int, bytes]] = []

    def invalidate_inode(self, ino: int, *, data: bool) -> None:
        self.inodes.append((ino, data))

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        self.entries.append((parent, name))

    def settled(self) -> None:
        return None
