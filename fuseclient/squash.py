"""Callers that are somebody else to the volume: root squash and all squash, as NFS has them.

The mapped caller is `anon`, without groups and without privilege. The mounting kernel knows only who calls, so whatever a
mapped caller does is checked by the server, whose word counts (`Cred.enforce`): changes, opens, listings, lookups, access(2).
To have every lookup asked, the kernel keeps no names on such a mount (mount.py).

    root    root is anon. The kernel checks everybody else as ever (default_permissions); root it lets through to us.
    all     everybody is anon. The kernel checks nothing: who calls says nothing about who may.

Through a descriptor one may do what it was opened for, whoever one is: reads, writes and ftruncate are not checked again. But a
mapped caller's write takes set-id bits away, also where the kernel saw root write.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fuseclient.attributes import FATTR_SIZE
from fuseclient.errors import FsError
from fuseclient.file_io import FATTR_KILL_SUIDGID
from fuseclient.filesystem import DEFAULTS, FileSystem, Options
from fuseclient.namespace import cred_of
from fuseclient.operations import Caller, Changes, Opened
from protos import meta_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fuseclient.attr import Attr
    from fuseclient.data_api import DataPath
    from fuseclient.meta_api import MetaApi

NOBODY: Final = 65534
WHO: Final = ("none", "root", "all")

#: Operations whose caller is replaced and nothing else. Those that need more are methods below.
_MAPPED: Final = (
    *("mkdir", "mknod", "symlink", "link", "unlink", "rmdir", "rename"),
    *("getxattr", "listxattr", "setxattr", "removexattr", "setflags"),
)


class Squash(NamedTuple):
    who: str = "none"
    anon_uid: int = NOBODY
    anon_gid: int = NOBODY

    def maps(self, caller: Caller) -> bool:
        return self.who == "all" or (self.who == "root" and caller.uid == 0)

    @property
    def anon(self) -> Caller:
        """No process either: its groups and capabilities are not anon's."""
        return Caller(self.anon_uid, self.anon_gid, 0, enforce=True)


class SquashedFileSystem(FileSystem):
    """FileSystem for the callers that `squash` makes of those that the kernel names."""

    def __init__(self, meta: MetaApi, data: DataPath, squash: Squash, options: Options = DEFAULTS) -> None:
        super().__init__(meta, data, options)
        self._maps = squash.maps
        self._anon = squash.anon
        self._theirs: set[int] = set()  # handles that a mapped caller opened
        for name in _MAPPED:
            setattr(self, name, self._for_mapped(getattr(self, name)))
        self._plain_lookup, self.lookup = self.lookup, self._lookup
        self._plain_create, self.create = self.create, self._create
        self._plain_open, self.open = self.open, self._open
        self._plain_opendir, self.opendir = self.opendir, self._opendir  # type: ignore[assignment]
        self._plain_setattr, self.setattr = self.setattr, self._setattr
        self._plain_write, self.write = self.write, self._write
        self._plain_release, self.release = self.release, self._release
        self.access = self._access

    def _map(self, caller: Caller) -> Caller:
        return self._anon if self._maps(caller) else caller

    def _for_mapped(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            return method(*[self._map(one) if isinstance(one, Caller) else one for one in arguments], **more)

        return call

    async def _require(self, ino: int, mask: int) -> None:
        """EACCES unless anon has all of `mask`."""
        await self.known.meta.read(pb.Request(access=pb.Access(ino=ino, mask=mask, cred=cred_of(self._anon))))

    # names

    def _lookup(self, parent: int, name: bytes, caller: Caller) -> Attr | Awaitable[Attr | None] | None:
        return self._checked_lookup(parent, name) if self._maps(caller) else self._plain_lookup(parent, name, caller)

    async def _checked_lookup(self, parent: int, name: bytes) -> Attr | None:
        """What is known here is known to others; whether anon may know it, the server says."""
        tick = self.known.attrs.tick
        request = pb.Request(lookup=pb.Lookup(parent=parent, name=name, cred=cred_of(self._anon)))
        try:
            response = await self.known.meta.read(request)
        except FsError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        attr = self.known.learn(response.attr, tick)
        file = self.known.files.get(attr.ino)
        return attr if file is None else file.local(attr)

    def _opendir(self, ino: int, caller: Caller) -> Opened | Awaitable[Opened]:
        return self._checked_opendir(ino) if self._maps(caller) else self._plain_opendir(ino, caller)

    async def _checked_opendir(self, ino: int) -> Opened:
        await self._require(ino, os.R_OK)
        return self._plain_opendir(ino, self._anon)

    # files

    async def _create(self, parent: int, name: bytes, mode: int, umask: int, flags: int, caller: Caller) -> tuple[Attr, Opened]:
        attr, opened = await self._plain_create(parent, name, mode, umask, flags, self._map(caller))
        return attr, self._opened(opened, caller)

    async def _open(self, ino: int, flags: int, caller: Caller) -> Opened:
        return self._opened(await self._plain_open(ino, flags, self._map(caller)), caller)

    def _opened(self, opened: Opened, caller: Caller) -> Opened:
        if self._maps(caller):
            self._theirs.add(opened.fh)
        return opened

    def _write(self, ino: int, fh: int, offset: int, data: memoryview, kill_priv: bool) -> int | Awaitable[int]:
        return self._plain_write(ino, fh, offset, data, kill_priv or fh in self._theirs)

    def _release(self, ino: int, fh: int) -> None:
        self._theirs.discard(fh)
        self._plain_release(ino, fh)

    # attributes

    def _access(self, ino: int, mask: int, caller: Caller) -> Awaitable[None] | None:
        return self._require(ino, mask & (os.R_OK | os.W_OK | os.X_OK)) if self._maps(caller) else None

    async def _setattr(self, ino: int, changes: Changes, fh: int | None, caller: Caller) -> Attr:
        if not self._maps(caller):
            return await self._plain_setattr(ino, changes, fh, caller)
        if not changes.valid & FATTR_SIZE:
            return await self._plain_setattr(ino, changes, fh, self._anon)
        if fh is None:  # before the client forgets what lies beyond the new end
            await self._require(ino, os.W_OK)
        allowed = self._anon._replace(enforce=False)
        return await self._plain_setattr(ino, changes._replace(valid=changes.valid | FATTR_KILL_SUIDGID), fh, allowed)
