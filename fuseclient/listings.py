"""Directory listings: what readdir hands out, and reading pages of entries with attributes before they are asked for.

A page is read once for everybody who wants it: a reader who has come to the end of what is known, a lookup that
came while it was under way, and the prefetch. Prefetch begins after a few lookups that had to ask in one directory within a
second, and goes on page by page as long as somebody uses the directory.

A directory that is too big to keep (dir_cache.py) is listed through a window that belongs to the handle.
"""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Final

from fuseclient.attr import Attr
from fuseclient.attr_raw import parent_of
from fuseclient.directory import END
from fuseclient.errors import FsError
from fuseclient.handles import DirHandle
from fuseclient.operations import DirItem, Opened
from protos import meta_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from fuseclient.access_times import AccessTimes
    from fuseclient.directory import Directory
    from fuseclient.knowledge import Knowledge
    from fuseclient.operations import Caller

PAGE_ENTRIES: Final = 1000
MISSES: Final = 3
MISSES_WITHIN_S: Final = 1.0
PAGES_ON_TRUST: Final = 2  # so many pages are prefetched before somebody has to show an interest again
_DOTS_END: Final = 2
_BATCH_MIN: Final = 32
_LACKING_MAX: Final = 8
_DIRECTORY: Final = 4  # S_IFDIR >> 12


class Listings:
    def __init__(
        self,
        known: Knowledge,
        times: AccessTimes,
        clock: Callable[[], float],
        page_entries: int = PAGE_ENTRIES,
        dir_cache_s: float = 0.0,
    ) -> None:
        self._known = known
        self._times = times
        self._dir_cache_s = dir_cache_s
        self._meta = known.meta
        self._attrs = known.attrs
        self._dirs = known.dirs
        self._handles = known.handles
        self._clock = clock
        self._page_entries = page_entries

    # directory handles

    def opendir(self, ino: int, caller: Caller) -> Opened:
        fh = self._handles.open_dir(ino)
        if not self._dir_cache_s:
            return Opened(fh)
        # The kernel keeps the listing that the readers of this opening get, and answers from one that is young enough.
        kept, now = self._known.kept_listings, self._clock()
        since = kept.get(ino)
        keep = since is not None and now - since < self._dir_cache_s
        if keep:
            self._times.note_if_due(ino)
        else:
            kept.put(ino, now)
        return Opened(fh, keep_cache=keep, cache_dir=True)

    def releasedir(self, ino: int, fh: int) -> None:
        handle = self._handles.dirs.pop(fh, None)
        if handle is not None and handle.window is not None:
            self._dirs.close_window(handle.window)

    def readdir(self, ino: int, fh: int, cookie: int, *, plus: bool) -> Sequence[DirItem] | Awaitable[Sequence[DirItem]]:
        handle = self._handles.dirs.get(fh)
        if handle is None:
            handle = self._handles.dirs[fh] = DirHandle(ino)
        if not cookie and self._times.counted:
            self._times.note_if_due(ino)
        directory = handle.window or self._dirs.at(ino)
        directory.used = True
        if directory.exact and directory.covers(cookie):
            items, lacking = self._serve(handle, directory, cookie, plus)
            if lacking:
                return self._relearn(handle, directory, cookie)
            if items or directory.cursor == END:
                return items
        return self._read_on(handle, cookie, plus)

    async def _read_on(self, handle: DirHandle, cookie: int, plus: bool) -> Sequence[DirItem]:
        """Read pages until one has something that follows `cookie`. A page that others changed while it was read is good
        enough for this reader: he began before."""
        strict = True
        while True:
            directory = self._source(handle, cookie, strict)
            if directory.covers(cookie) and (directory.exact or not strict):
                items, _ = self._serve(handle, directory, cookie, plus)
                if items or directory.cursor == END:
                    return items
            await self.page(directory, raising=True)
            strict = False

    def _source(self, handle: DirHandle, cookie: int, strict: bool) -> Directory:
        """Where the reader at `cookie` reads on: in the listing that is kept for all, or in a window of his own."""
        kept, window = self._dirs.at(handle.ino), handle.window
        if cookie <= _DOTS_END and not kept.huge:
            self._close_window(handle)
            if strict and not kept.exact:
                kept.relist()
            return kept
        source = kept if window is None and not kept.huge else window
        if (
            source is not None
            and source.base <= cookie <= source.cursor
            and (source.exact or not strict)
            and (window is None or source.covers(cookie) or len(source.names) <= self._page_entries)
        ):
            return source
        self._close_window(handle)
        handle.window = self._dirs.window(handle.ino, 0 if cookie <= _DOTS_END else cookie)
        return handle.window

    def _close_window(self, handle: DirHandle) -> None:
        if handle.window is not None:
            self._dirs.close_window(handle.window)
            handle.window = None

    async def _relearn(self, handle: DirHandle, directory: Directory, cookie: int) -> Sequence[DirItem]:
        """The entries are known but not their attributes: one request for all of them instead of one for each."""
        tick = self._attrs.tick
        asking = pb.ReadDir(ino=directory.ino, after=cookie, limit=self._page_entries, attrs=True)
        response = await self._meta.read(pb.Request(readdir=asking))
        for entry in response.entries:
            if entry.attr:
                self._learn(entry.ino, entry.attr, tick)
        items, _ = self._serve(handle, directory, cookie, True)
        return items

    # handing out

    def _dots(self, ino: int, cookie: int) -> list[DirItem]:
        attr = self._attrs.get(ino)
        above = parent_of(attr) if attr is not None and ino != self._known.root else 0
        dots = [DirItem(b".", ino, _DIRECTORY, 1, None), DirItem(b"..", above or ino, _DIRECTORY, 2, None)]
        return dots[cookie:]

    def _serve(self, handle: DirHandle, directory: Directory, cookie: int, plus: bool) -> tuple[Sequence[DirItem], bool]:
        """Entries that are known, and whether too many lack attributes. How many: about as many as the driver took the last
        time, since it has to drop the rest."""
        batch = handle.batch
        if cookie and cookie == handle.expected:
            batch = min(batch * 2, self._page_entries)
        elif batch > _BATCH_MIN:
            batch = max(_BATCH_MIN, batch * 3 // 4)
        handle.batch = batch
        items = directory.after(cookie, batch)
        lacking = self._renew_attrs(items) if plus else 0
        if items:
            handle.expected = items[-1].cookie
            if directory.cursor != END and directory.page is None and directory.left(handle.expected) < self._page_entries // 2:
                self._start_page(directory)
        if cookie < _DOTS_END:
            items = self._dots(handle.ino, cookie) + items
        return items, lacking > _LACKING_MAX

    def _renew_attrs(self, items: list[DirItem]) -> int:
        """Give the entries the attributes that are known now; in nearly all cases these are the ones they have. Returns how
        many have none."""
        get = self._attrs.get
        files = self._known.files
        lacking = 0
        for at, item in enumerate(items):
            ino = item.ino
            attr = get(ino)
            if attr is None:
                lacking += 1
            elif files and ino in files:
                attr = files[ino].local(attr)
            if attr is not item.attr:
                items[at] = item._replace(attr=attr)
        return lacking

    # pages

    async def page(self, directory: Directory, *, raising: bool = False) -> None:
        """Have the next page of the listing, sharing the request if it is under way."""
        task = directory.page or self._start_page(directory)
        error = await asyncio.shield(task)
        if raising and error is not None:
            raise FsError(error.errno, error.detail)

    def _start_page(self, directory: Directory) -> asyncio.Task[FsError | None]:
        task = asyncio.get_running_loop().create_task(self._fetch(directory))
        directory.page = task
        return task

    async def _fetch(self, directory: Directory) -> FsError | None:
        tick = self._attrs.tick
        asked = directory.ask()
        era = directory.era
        try:
            asking = pb.ReadDir(ino=directory.ino, after=directory.cursor, limit=self._page_entries, attrs=True)
            response = await self._meta.read(pb.Request(readdir=asking))
            if response.attr:
                self._known.learn(response.attr, tick)
            if era == directory.era:
                self._take(directory, response, tick, asked)
        except FsError as error:
            return error
        except ValueError as error:  # attributes that are none
            return FsError(errno.EIO, f"the metadata service sent a listing that cannot be read: {error}")
        finally:
            directory.page = None
            directory.answered()
        return None

    def _take(self, directory: Directory, response: pb.Response, tick: int, asked: int) -> None:
        """Enter a page into the listing. Runs once per entry of every listing: nothing here is called without need."""
        entries = response.entries
        last = 0
        still = asked == directory.marks.tick
        hit = directory.marks.hit
        place = directory.set
        for entry in entries:
            name, ino, last, raw = entry.name, entry.ino, entry.cookie, entry.attr
            attr = self._learn(ino, raw, tick) if raw else None
            if still or not hit(name, asked):
                place(DirItem(name, ino, entry.type, last, attr))
        directory.page_done(last, response.eof or not entries)
        self._dirs.grown(directory, len(entries))

    def _learn(self, ino: int, raw: bytes, tick: int) -> Attr:
        attr = self._attrs.put(ino, Attr(raw), tick)
        files = self._known.files
        if files and ino in files:
            files[ino].refresh(attr)
        return attr

    # prefetch

    def missed(self, directory: Directory, name: bytes) -> None:
        """A lookup has to ask the server."""
        if directory.filling or directory.huge:
            return
        if directory.complete and name not in directory.names:
            return  # a doubt concerns one name, and is no reason to read the others
        now = self._clock()
        if now - directory.missed_at_s > MISSES_WITHIN_S:
            directory.misses = 0
            directory.missed_at_s = now
        directory.misses += 1
        if directory.misses >= max(MISSES, len(directory.names) // 10 if directory.complete else 0):
            directory.filling = True
            self._known.behind(self._prefetch(directory), "reading a directory ahead")

    async def _prefetch(self, directory: Directory) -> None:
        pages = 0
        try:
            if directory.page is None and directory.cursor == END:
                directory.relist()
            while directory.cursor != END and not directory.huge and (directory.used or pages < PAGES_ON_TRUST):
                directory.used = False
                before = directory.cursor
                await self.page(directory, raising=True)
                pages += 1
                if directory.cursor == before:
                    return
        except FsError:
            return  # whoever needs the listing will hear of it
        finally:
            directory.filling = False
            directory.misses = 0
