"""Names: lookup, and everything that makes, moves or removes one.

A name that this mount knows, and one that it knows not to exist, is answered at once. A change costs one request, and its
answer brings the caches up to date, so that nothing has to be asked again afterwards. When a change is refused, what was
believed of its names may be wrong: they fall in doubt.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from fuseclient.attr_raw import type_of
from fuseclient.errors import FsError
from fuseclient.operations import DirItem
from protos import meta_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from fuseclient.attr import Attr
    from fuseclient.directory import Directory
    from fuseclient.knowledge import Knowledge
    from fuseclient.listings import Listings
    from fuseclient.operations import Caller

NAME_MAX: Final = 255
RENAME_EXCHANGE: Final = 2
_DOTS: Final = (b".", b"..")


def cred_of(caller: Caller) -> pb.Cred:
    if caller.enforce:
        return pb.Cred(uid=caller.uid, gid=caller.gid, enforce=True)
    return pb.Cred(uid=caller.uid, gid=caller.gid)


class Namespace:
    def __init__(self, known: Knowledge, listings: Listings) -> None:
        self._known = known
        self._meta = known.meta
        self._attrs = known.attrs
        self._dirs = known.dirs
        self._files = known.files
        self._listings = listings

    # lookup

    def lookup(self, parent: int, name: bytes, caller: Caller) -> Attr | Awaitable[Attr | None] | None:
        directory = self._dirs.get(parent)
        if directory is not None:
            directory.used = True
            item = directory.names.get(name)
            if item is not None:
                ino = item.ino
                attr = self._attrs.get(ino)
                if attr is not None:
                    file = self._files.get(ino)
                    return attr if file is None else file.local(attr)
            elif len(name) <= NAME_MAX and directory.is_absent(name) and name not in _DOTS:
                return None
        if len(name) > NAME_MAX:
            raise FsError(errno.ENAMETOOLONG)
        return self._ask(parent, name, caller)

    async def _ask(self, parent: int, name: bytes, caller: Caller) -> Attr | None:
        directory = self._dirs.at(parent)
        if directory.page is not None:
            # The listing is being read anyway: what this name means is perhaps in the page that is under way.
            await self._listings.page(directory)
            item = directory.names.get(name)
            attr = None if item is None else self._attrs.get(item.ino)
            if attr is not None:
                return self._local(attr)
            if item is None and directory.is_absent(name):
                return None
        self._listings.missed(directory, name)
        return await self._ask_server(directory, name, caller)

    async def _ask_server(self, directory: Directory, name: bytes, caller: Caller) -> Attr | None:
        tick = self._attrs.tick
        asked = directory.ask()
        try:
            request = pb.Request(lookup=pb.Lookup(parent=directory.ino, name=name, cred=cred_of(caller)))
            response = await self._meta.read(request)
            attr = self._known.learn(response.attr, tick)
            if name not in _DOTS and not directory.marks.hit(name, asked):
                directory.set(DirItem(name, attr.ino, type_of(attr), 0, attr))
                self._dirs.grown(directory, 1)
        except FsError as error:
            if error.errno != errno.ENOENT:
                raise
            if not directory.marks.hit(name, asked):
                directory.remove(name)
            return None
        finally:
            directory.answered()
        return self._local(attr)

    def _local(self, attr: Attr) -> Attr:
        file = self._files.get(attr.ino)
        return attr if file is None else file.local(attr)

    # changes

    async def _change(self, request: pb.Request, *names: tuple[int, bytes]) -> tuple[pb.Response, list[bool]]:
        """Send a change of these names. Gives the answer, and for each name whether somebody else changed it meanwhile."""
        places = [(self._dirs.at(parent), name) for parent, name in names]
        asked = [directory.ask() for directory, _ in places]
        try:
            response = await self._meta.change(request)
            overtaken = [directory.marks.hit(name, tick) for (directory, name), tick in zip(places, asked, strict=True)]
        except BaseException:
            for parent, name in names:
                self._dirs.doubt(parent, name)
            raise
        finally:
            for directory, _ in places:
                directory.answered()
        return response, overtaken

    async def make(self, request: pb.Request, parent: int, name: bytes) -> tuple[Attr, pb.Response]:
        """Send a change that gives `name` a meaning, and note it."""
        tick = self._attrs.tick
        response, (overtaken,) = await self._change(request, (parent, name))
        attr = self._known.learn(response.attr, tick)
        self._known.learn(response.parent_attr, tick)
        if overtaken:
            self._dirs.doubt(parent, name)
        else:
            self._dirs.set(parent, DirItem(name, attr.ino, type_of(attr), response.first, attr))
        return attr, response

    async def create(
        self, parent: int, name: bytes, mode: int, umask: int, exclusive: bool, caller: Caller
    ) -> tuple[Attr, pb.Response]:
        """The Create alone; opening is file_io.py's."""
        made = pb.Create(parent=parent, name=name, mode=mode, umask=umask, exclusive=exclusive, cred=cred_of(caller))
        return await self.make(pb.Request(create=made), parent, name)

    async def mkdir(self, parent: int, name: bytes, mode: int, umask: int, caller: Caller) -> Attr:
        made = pb.MkDir(parent=parent, name=name, mode=mode, umask=umask, cred=cred_of(caller))
        tick = self._attrs.tick
        attr, _ = await self.make(pb.Request(mkdir=made), parent, name)
        if self._attrs.fresh(attr.ino, tick):  # else somebody has been in it already
            self._dirs.made(attr.ino)
        return attr

    async def mknod(self, parent: int, name: bytes, mode: int, umask: int, rdev: int, caller: Caller) -> Attr:
        made = pb.MkNod(parent=parent, name=name, mode=mode, umask=umask, rdev=rdev, cred=cred_of(caller))
        attr, _ = await self.make(pb.Request(mknod=made), parent, name)
        return attr

    async def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Attr:
        made = pb.SymLink(parent=parent, name=name, target=target, cred=cred_of(caller))
        attr, _ = await self.make(pb.Request(symlink=made), parent, name)
        self._known.targets.put(attr.ino, target)
        return attr

    async def link(self, ino: int, parent: int, name: bytes, caller: Caller) -> Attr:
        made = pb.Link(ino=ino, parent=parent, name=name, cred=cred_of(caller))
        attr, _ = await self.make(pb.Request(link=made), parent, name)
        file = self._files.get(ino)
        if file is None:
            return attr
        file.gone = False
        return file.local(attr)

    async def unlink(self, parent: int, name: bytes, caller: Caller) -> None:
        await self._remove(pb.Request(unlink=pb.Unlink(parent=parent, name=name, cred=cred_of(caller))), parent, name)

    async def rmdir(self, parent: int, name: bytes, caller: Caller) -> None:
        request = pb.Request(rmdir=pb.RmDir(parent=parent, name=name, cred=cred_of(caller)))
        self._dirs.drop(await self._remove(request, parent, name))

    async def _remove(self, request: pb.Request, parent: int, name: bytes) -> int:
        tick = self._attrs.tick
        response, (overtaken,) = await self._change(request, (parent, name))
        self._known.learn(response.parent_attr, tick)
        if overtaken:
            self._dirs.doubt(parent, name)
        else:
            self._dirs.remove(parent, name)
        return self._known.unlinked(response.attr, tick)

    async def rename(self, parent: int, name: bytes, parent2: int, name2: bytes, flags: int, caller: Caller) -> None:
        tick = self._attrs.tick
        moving = pb.Rename(parent=parent, name=name, parent2=parent2, name2=name2, flags=flags, cred=cred_of(caller))
        response, overtaken = await self._change(pb.Request(rename=moving), (parent, name), (parent2, name2))
        learn = self._known.learn
        learn(response.parent_attr, tick)
        if response.parent2_attr:
            learn(response.parent2_attr, tick)
        moved = learn(response.attr, tick)
        if any(overtaken) or (flags & RENAME_EXCHANGE and not response.other_attr):
            self._dirs.doubt(parent, name)
            self._dirs.doubt(parent2, name2)
        elif flags & RENAME_EXCHANGE:
            self._exchanged((parent, name), (parent2, name2), moved, learn(response.other_attr, tick))
        else:
            self._moved((parent, name), (parent2, name2), moved, response, tick)

    def _exchanged(self, place: tuple[int, bytes], place2: tuple[int, bytes], moved: Attr, other: Attr) -> None:
        """The cookies stay with the names."""
        for (parent, name), attr in ((place, other), (place2, moved)):
            item = self._dirs.at(parent).names.get(name)
            cookie = 0 if item is None else item.cookie
            self._dirs.set(parent, DirItem(name, attr.ino, type_of(attr), cookie, attr))

    def _moved(
        self, place: tuple[int, bytes], place2: tuple[int, bytes], moved: Attr, response: pb.Response, tick: int
    ) -> None:
        (parent, name), (parent2, name2) = place, place2
        replaced = self._dirs.at(parent2).names.get(name2)
        if replaced is not None and replaced.ino == moved.ino:  # two names of one file: rename(2) does nothing then
            self._dirs.doubt(parent, name)
            self._dirs.doubt(parent2, name2)
            return
        self._dirs.remove(parent2, name2)
        item = self._dirs.remove(parent, name)
        # Within a directory an entry keeps its cookie.
        cookie = response.first or (item.cookie if item is not None and parent == parent2 else 0)
        self._dirs.set(parent2, DirItem(name2, moved.ino, type_of(moved), cookie, moved))
        if response.other_attr:
            self._dirs.drop(self._known.unlinked(response.other_attr, tick))

    # symbolic links

    def readlink(self, ino: int) -> bytes | Awaitable[bytes]:
        target = self._known.targets.get(ino)
        return self._readlink(ino) if target is None else target

    async def _readlink(self, ino: int) -> bytes:
        response = await self._meta.read(pb.Request(readlink=pb.ReadLink(ino=ino)))
        target = bytes(response.data)
        self._known.targets.put(ino, target)
        return target
