"""A small file system in memory that implements Operations: what the drivers are tested and measured with.

It knows nothing of KeelFS. Names that begin with `slow` are answered by a task, `hang` waits until `unhang`, `boom` raises
what no file system should. Run as a program it serves a mount until it is unmounted: for measuring.

    python toy_filesystem.py MOUNTPOINT [--uvloop] [--null-io] [--ttl SECONDS] [--plus-always] [--profile FILE]
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from typing import TYPE_CHECKING, Any

from fuseclient.attr import Attr
from fuseclient.errors import FsError
from fuseclient.operations import OPEN_KILL_PRIV, Caller, Changes, DirItem, KernelCache, LockRange, Opened, StatFs
from protos.attr_layout import ATTR

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from fuseclient.operations import Buffer

ROOT = 77  # not the kernel's 1, so that forgotten translations show
ZEROS = memoryview(bytes(1 << 20))


class Node:
    __slots__ = ("attr", "data", "entries", "ino", "mode", "mtime", "nlink", "owner", "parent", "rdev", "size", "xattrs")

    def __init__(self, ino: int, mode: int, caller: Caller, parent: int, rdev: int = 0) -> None:
        self.ino = ino
        self.mode = mode
        self.owner = (caller.uid, caller.gid)
        self.parent = parent
        self.rdev = rdev
        self.nlink = 2 if stat.S_ISDIR(mode) else 1
        self.data = bytearray()
        self.size = 0
        self.mtime = time.time_ns()
        self.entries: dict[bytes, int] = {}
        self.xattrs: dict[bytes, bytes] = {}
        self.attr: Attr | None = None


class ToyFilesystem:
    root = ROOT

    def __init__(self, *, ttl_s: float = 1.0, null_io: bool = False) -> None:
        self.entry_ttl_s = self.attr_ttl_s = self.negative_ttl_s = ttl_s
        self.null_io = null_io
        self.kernel: KernelCache | None = None
        self.locks: dict[tuple[int, int], LockRange] = {}
        self.nodes = {ROOT: Node(ROOT, stat.S_IFDIR | 0o755, Caller(os.getuid(), os.getgid(), 0), ROOT)}
        self.next_ino = 100
        self.forgotten: list[int] = []
        self.flags: dict[int, int] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.open_files = 0
        self.direct_io = False
        self.keep_cache = False
        self.cache_dir = False
        self._hanging: list[asyncio.Future[None]] = []

    def attach_kernel(self, cache: KernelCache) -> None:
        self.kernel = cache

    # --- inside

    def node(self, ino: int) -> Node:
        try:
            return self.nodes[ino]
        except KeyError:
            raise FsError(errno.ENOENT) from None

    def attr(self, node: Node) -> Attr:
        if node.attr is None:
            seconds, nanoseconds = divmod(node.mtime, 1_000_000_000)
            times = (seconds,) * 3 + (nanoseconds,) * 3
            rest = (node.mode, node.nlink, *node.owner, node.rdev, 4096, 0, 0, node.parent, 0, 0, 0, 0)
            node.attr = Attr(ATTR.pack(node.ino, node.size, -(-node.size // 512), *times, *rest))
        return node.attr

    def touch(self, node: Node) -> None:
        node.mtime = time.time_ns()
        node.attr = None

    def add(self, parent: int, name: bytes, mode: int, caller: Caller, rdev: int = 0) -> Node:
        directory = self.node(parent)
        if name in directory.entries:
            raise FsError(errno.EEXIST)
        if len(name) > 255:
            raise FsError(errno.ENAMETOOLONG)
        node = Node(self.next_ino, mode, caller, parent, rdev)
        self.next_ino += 1
        self.nodes[node.ino] = node
        directory.entries[name] = node.ino
        if stat.S_ISDIR(mode):
            directory.nlink += 1
        directory.attr = None
        return node

    async def hang(self) -> None:
        waiting = asyncio.get_running_loop().create_future()
        self._hanging.append(waiting)
        await waiting

    def unhang(self) -> None:
        for waiting in self._hanging:
            if not waiting.done():
                waiting.set_result(None)
        self._hanging.clear()

    @property
    def hanging(self) -> int:
        return len(self._hanging)

    # --- names

    def lookup(self, parent: int, name: bytes, caller: Caller) -> Attr | Awaitable[Attr | None] | None:
        if name[:4] in (b"slow", b"hang", b"boom"):
            return self._lookup_oddly(parent, name)
        directory = self.node(parent)
        if name == b"..":
            return self.attr(self.node(directory.parent))
        ino = directory.entries.get(name)
        return None if ino is None else self.attr(self.nodes[ino])

    async def _lookup_oddly(self, parent: int, name: bytes) -> Attr | None:
        if name.startswith(b"boom"):
            raise RuntimeError("boom")
        if name.startswith(b"hanglookup"):
            await self.hang()
        await asyncio.sleep(0)
        ino = self.node(parent).entries.get(name)
        return None if ino is None else self.attr(self.nodes[ino])

    def forget(self, inodes: Sequence[int]) -> None:
        self.forgotten.extend(inodes)

    def create(
        self, parent: int, name: bytes, mode: int, umask: int, flags: int, caller: Caller
    ) -> Awaitable[tuple[Attr, Opened]]:
        self.calls.append(("create", name, oct(mode), oct(umask)))
        node = self.add(parent, name, mode & ~umask, caller)
        self.open_files += 1
        return self._now((self.attr(node), Opened(node.ino, direct_io=self.direct_io)))  # type: ignore[no-any-return]

    def _now(self, value: Any) -> Any:
        """As FileSystem answers from its own memory: at once, although the contract would allow an awaitable."""
        return value

    async def mkdir(self, parent: int, name: bytes, mode: int, umask: int, caller: Caller) -> Attr:
        return self.attr(self.add(parent, name, stat.S_IFDIR | (mode & ~umask), caller))

    async def mknod(self, parent: int, name: bytes, mode: int, umask: int, rdev: int, caller: Caller) -> Attr:
        return self.attr(self.add(parent, name, mode & ~umask, caller, rdev))

    async def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Attr:
        node = self.add(parent, name, stat.S_IFLNK | 0o777, caller)
        node.data[:] = target
        node.size = len(target)
        return self.attr(node)

    async def link(self, ino: int, parent: int, name: bytes, caller: Caller) -> Attr:
        node, directory = self.node(ino), self.node(parent)
        if name in directory.entries:
            raise FsError(errno.EEXIST)
        directory.entries[name] = ino
        node.nlink += 1
        self.touch(node)
        return self.attr(node)

    def unlink(self, parent: int, name: bytes, caller: Caller) -> Awaitable[None]:
        ino = self.node(parent).entries.pop(name, None)
        if ino is None:
            raise FsError(errno.ENOENT)
        self.nodes[ino].nlink -= 1
        self.touch(self.nodes[ino])
        return self._now(None)  # type: ignore[no-any-return]

    async def rmdir(self, parent: int, name: bytes, caller: Caller) -> None:
        directory = self.node(parent)
        if self.nodes[directory.entries[name]].entries:
            raise FsError(errno.ENOTEMPTY)
        del directory.entries[name]
        directory.nlink -= 1
        directory.attr = None

    async def rename(self, parent: int, name: bytes, parent2: int, name2: bytes, flags: int, caller: Caller) -> None:
        self.calls.append(("rename", name, name2, flags))
        source, target = self.node(parent), self.node(parent2)
        if flags & 1 and name2 in target.entries:
            raise FsError(errno.EEXIST)
        if flags & 2:
            source.entries[name], target.entries[name2] = target.entries[name2], source.entries[name]
            return
        target.entries[name2] = source.entries.pop(name)

    def readlink(self, ino: int) -> bytes:
        return bytes(self.node(ino).data)

    # --- attributes

    def getattr(self, ino: int, fh: int | None) -> Attr:
        return self.attr(self.node(ino))

    async def setattr(self, ino: int, changes: Changes, fh: int | None, caller: Caller) -> Attr:
        self.calls.append(("setattr", changes.valid))
        node = self.node(ino)
        valid = changes.valid
        if valid & 1:
            node.mode = stat.S_IFMT(node.mode) | changes.mode & 0o7777
        if valid & 8:
            self.truncate(node, changes.size)
        uid, gid = node.owner
        node.owner = (changes.uid if valid & 2 else uid, changes.gid if valid & 4 else gid)
        self.touch(node)
        if valid & 32 and not valid & 256:
            node.mtime = changes.mtime_ns
        if valid & 1 << 11:
            node.mode &= ~0o6000
        return self.attr(node)

    def truncate(self, node: Node, size: int) -> None:
        if not self.null_io:
            if size < len(node.data):
                del node.data[size:]
            else:
                node.data.extend(bytes(size - len(node.data)))
        node.size = size

    def access(self, ino: int, mask: int, caller: Caller) -> None:
        return None

    def getxattr(self, ino: int, name: bytes, caller: Caller) -> bytes:
        self.calls.append(("getxattr", name))
        try:
            return self.node(ino).xattrs[name]
        except KeyError:
            raise FsError(errno.ENODATA) from None

    def listxattr(self, ino: int, caller: Caller) -> bytes:
        return b"".join(name + b"\0" for name in self.node(ino).xattrs)

    async def setxattr(self, ino: int, name: bytes, value: bytes, flags: int, caller: Caller, kill_sgid: bool = False) -> None:
        xattrs = self.node(ino).xattrs
        if flags & 1 and name in xattrs:
            raise FsError(errno.EEXIST)
        xattrs[name] = value

    async def removexattr(self, ino: int, name: bytes, caller: Caller) -> None:
        if self.node(ino).xattrs.pop(name, None) is None:
            raise FsError(errno.ENODATA)

    def getflags(self, ino: int) -> int:
        return self.flags.get(ino, 0)

    async def setflags(self, ino: int, flags: int, caller: Caller) -> int:
        self.flags[ino] = flags
        return flags

    def statfs(self, ino: int) -> StatFs:
        return StatFs(4096, 1000, 400, 50, 20, 255)

    # --- files

    def open(self, ino: int, flags: int, caller: Caller) -> Opened:
        self.calls.append(("open", flags))
        node = self.node(ino)
        if flags & os.O_TRUNC:
            self.truncate(node, 0)
            if flags & OPEN_KILL_PRIV:
                node.mode &= ~0o6000
            self.touch(node)
        self.open_files += 1
        return Opened(ino, keep_cache=self.keep_cache, direct_io=self.direct_io)

    def read(self, ino: int, fh: int, offset: int, size: int) -> Sequence[Buffer] | Awaitable[Sequence[Buffer]]:
        node = self.node(ino)
        if self.null_io:
            return [ZEROS[: max(0, min(size, node.size - offset))]]
        if b"hang" in node.xattrs.get(b"user.mode", b""):
            return self._read_after_hanging(node, offset, size)
        return [bytes(node.data[offset : offset + size])]

    async def _read_after_hanging(self, node: Node, offset: int, size: int) -> Sequence[Buffer]:
        await self.hang()
        return [bytes(node.data[offset : offset + size])]

    def write(self, ino: int, fh: int, offset: int, data: memoryview, kill_priv: bool) -> int:
        node = self.node(ino)
        end = offset + len(data)
        if not self.null_io:
            if offset > len(node.data):
                node.data.extend(bytes(offset - len(node.data)))
            node.data[offset:end] = data
        node.size = max(node.size, end)
        if kill_priv:
            node.mode &= ~0o6000
        self.touch(node)
        return len(data)

    def flush(self, ino: int, fh: int, lock_owner: int) -> None:
        self.calls.append(("flush", ino))

    def fsync(self, ino: int, fh: int, datasync: bool) -> None:
        self.calls.append(("fsync", datasync))

    def release(self, ino: int, fh: int) -> None:
        self.open_files -= 1

    def lseek(self, ino: int, fh: int, offset: int, whence: int) -> int:
        size = self.node(ino).size
        if offset >= size:
            raise FsError(errno.ENXIO)
        return offset if whence == os.SEEK_DATA else size

    def copy_range(
        self, ino: int, fh: int, offset: int, ino2: int, fh2: int, offset2: int, length: int, caller: Caller
    ) -> Awaitable[int]:
        self.calls.append(("copy_range", offset, offset2, length))
        source, target = self.node(ino), self.node(ino2)
        data = bytes(source.data[offset : min(offset + length, source.size)])
        self.truncate(target, max(target.size, offset2 + len(data)))
        target.data[offset2 : offset2 + len(data)] = data
        self.touch(target)
        return self._now(len(data))  # type: ignore[no-any-return]

    def tmpfile(self, parent: int, mode: int, umask: int, flags: int, caller: Caller) -> Awaitable[tuple[Attr, Opened]]:
        node = Node(self.next_ino, mode & ~umask, caller, parent)
        self.next_ino += 1
        node.nlink = 0
        self.nodes[node.ino] = node
        self.open_files += 1
        return self._now((self.attr(node), Opened(node.ino, direct_io=self.direct_io)))  # type: ignore[no-any-return]

    def fallocate(self, ino: int, fh: int, offset: int, length: int, mode: int, caller: Caller) -> None:
        node = self.node(ino)
        self.calls.append(("fallocate", offset, length, mode))
        if not mode & 1:
            self.truncate(node, max(node.size, offset + length))
        self.touch(node)

    # --- locks: one owner a file and kind

    async def getlk(self, ino: int, fh: int, lock: LockRange) -> LockRange:
        holder = self.locks.get((ino, lock.kind))
        return lock._replace(type=2) if holder is None or holder.owner == lock.owner else holder

    async def setlk(self, ino: int, fh: int, lock: LockRange, *, wait: bool) -> None:
        self.calls.append(("setlk", lock.kind, lock.type, lock.first, lock.last, wait, bool(lock.pid)))
        holder = self.locks.get((ino, lock.kind))
        mine = holder is None or holder.owner == lock.owner
        if lock.type == 2:
            if mine:
                self.locks.pop((ino, lock.kind), None)
        elif mine:
            self.locks[ino, lock.kind] = lock
        elif not wait:
            raise FsError(errno.EAGAIN)
        else:
            try:
                await self.hang()
            except asyncio.CancelledError:
                raise FsError(errno.EINTR) from None

    # --- directories

    def opendir(self, ino: int, caller: Caller) -> Opened:
        self.open_files += 1
        return Opened(ino, cache_dir=self.cache_dir, keep_cache=self.cache_dir)

    def readdir(self, ino: int, fh: int, cookie: int, *, plus: bool) -> Sequence[DirItem]:
        self.calls.append(("readdir", plus))
        node = self.node(ino)
        items = [DirItem(b".", ino, 4, 1, None), DirItem(b"..", node.parent, 4, 2, None)][cookie:]
        names = list(node.entries.items())
        first = max(0, cookie - 2)
        for position, (name, child) in enumerate(names[first : first + 512], first):
            entry = self.nodes[child]
            items.append(DirItem(name, child, entry.mode >> 12, position + 3, self.attr(entry) if plus else None))
        return items

    def releasedir(self, ino: int, fh: int) -> None:
        self.open_files -= 1

    def fsyncdir(self, ino: int, fh: int) -> None:
        self.calls.append(("fsyncdir", ino))


def main() -> None:
    import argparse
    import json
    import sys

    from fuseclient.kernel.loop import KernelDriver
    from fuseclient.kernel.mount import mount
    from fuseclient.kernel.negotiation import DriverOptions

    arguments = argparse.ArgumentParser()
    arguments.add_argument("mountpoint")
    arguments.add_argument("--uvloop", action="store_true")
    arguments.add_argument("--null-io", action="store_true")
    arguments.add_argument("--direct-io", action="store_true")
    arguments.add_argument("--keep-cache", action="store_true")
    arguments.add_argument("--ttl", type=float, default=1.0)
    arguments.add_argument("--plus-always", action="store_true")
    arguments.add_argument("--profile")
    chosen = arguments.parse_args()
    toy = ToyFilesystem(ttl_s=chosen.ttl, null_io=chosen.null_io)
    toy.direct_io = chosen.direct_io
    toy.keep_cache = chosen.keep_cache
    toy.calls = _Nothing()
    mounted = mount(chosen.mountpoint)

    async def serve() -> None:
        driver = KernelDriver(mounted.fd, toy, DriverOptions(adaptive_readdirplus=not chosen.plus_always))
        serving = asyncio.ensure_future(driver.serve())
        await driver.ready.wait()
        mounted.set_read_ahead()
        await serving
        print(json.dumps({**driver.stats(), "cpu_s": round(time.process_time(), 2)}), file=sys.stderr)

    def run() -> None:
        if chosen.uvloop:
            import uvloop

            uvloop.run(serve())
        else:
            asyncio.run(serve())

    if chosen.profile:
        import cProfile

        cProfile.runctx("run()", globals(), locals(), chosen.profile)
    else:
        run()


class _Nothing(list[tuple[Any, ...]]):
    def append(self, item: tuple[Any, ...]) -> None:
        pass


if __name__ == "__main__":
    main()
