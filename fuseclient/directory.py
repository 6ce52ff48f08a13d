"""What this mount knows of one directory: names, and a listing in cookie order.

Two kinds of knowledge, kept apart:
 - `names`, for lookups. `complete`: a name that is not there does not exist, unless it is in `doubt`.
 - the listing, for readdir: all entries with base < cookie <= cursor, in `_items`, ordered by `_cookies`. With
   cursor == END the end of the directory has been seen, and what this mount adds itself belongs to it.
   Removed entries leave a hole (None) until there are more holes than entries, so that a removal costs a bisection.

Names that somebody else changed are in `doubt` until somebody asks again, and tear the listing. Names whose cookie is not
known are counted in `unplaced`. A listing that is torn, or that has come to its end without placing every name, is not `exact`:
a reader who begins has it read again.

Requests about the directory that are under way are counted (`ask`, `answered`), and every change of a name in the meantime is
marked, so that an older answer cannot bring a name back or take it away.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final

from fuseclient.name_filter import NameFilter
from fuseclient.staleness import Overtakes

if TYPE_CHECKING:
    import asyncio

    from fuseclient.errors import FsError
    from fuseclient.operations import DirItem

END: Final = 1 << 64
_ABSENT_MAX: Final = 1024
_DOUBT_MAX: Final = 4096
_HOLES_MIN: Final = 64


class Directory:
    __slots__ = (
        "_cookies",
        "_holes",
        "_items",
        "_torn",
        "_unsettled",
        "absent",
        "asking",
        "base",
        "complete",
        "cursor",
        "doubt",
        "era",
        "filling",
        "filter",
        "huge",
        "ino",
        "marks",
        "missed_at_s",
        "misses",
        "names",
        "page",
        "unplaced",
        "used",
    )

    def __init__(self, ino: int, *, base: int = 0) -> None:
        self.ino = ino
        self.names: dict[bytes, DirItem] = {}
        self.complete = False
        self.absent: set[bytes] = set()  # names that are known not to exist, of a directory that is not complete
        self.doubt: set[bytes] = set()
        self.filter: NameFilter | None = None  # huge directories: instead of `complete`
        self.huge = False
        self.unplaced = 0
        self.base = base
        self.cursor = base
        self._cookies: list[int] = []
        self._items: list[DirItem | None] = []
        self._holes = 0
        self._torn = False  # names of the listing were changed by somebody else since it began
        self.era = 0  # a page that was asked for in another one is not part of this listing
        self._unsettled: set[bytes] = set()  # doubts that the listing under way will settle
        self.marks: Overtakes[bytes] = Overtakes()
        self.asking = 0
        self.page: asyncio.Task[FsError | None] | None = None  # the page that is being read
        self.filling = False
        self.used = True
        self.misses = 0
        self.missed_at_s = 0.0

    # names

    def set(self, item: DirItem) -> None:
        """The name means this now. A cookie of 0 is one that is not known."""
        name = item.name
        old = self.names.get(name)
        if old is not None:
            if item.cookie == 0 and old.ino == item.ino:
                item = item._replace(cookie=old.cookie)
            self._unplace(old, item.cookie)
        else:
            if self.doubt or self.absent:
                self.doubt.discard(name)
                self.absent.discard(name)
            if self.filter is not None:
                self.filter.add(name)
        self.names[name] = item
        self._place(item)

    def remove(self, name: bytes) -> DirItem | None:
        """There is no such name (any more)."""
        item = self.names.pop(name, None)
        if item is not None:
            self._unplace(item, 0)
        elif self.doubt:
            self.doubt.discard(name)
        if not self.complete:
            self._add_absent(name)
        return item

    def doubt_name(self, name: bytes) -> None:
        """The name may mean something else now, or nothing, or come to exist."""
        item = self.names.pop(name, None)
        if item is not None:
            self._unplace(item, 0)
        self.absent.discard(name)
        self._unsettled.discard(name)
        if self.filter is not None:
            self.filter.add(name)
        if self.complete or self.asking or self.cursor > self.base:
            self.doubt.add(name)
            self._torn = True
        if self.asking:
            self.marks.mark(name)
        if len(self.doubt) > _DOUBT_MAX:
            self.forget()

    def is_absent(self, name: bytes) -> bool:
        """Whether it is known that a name which is not in `names` does not exist."""
        if self.complete:
            return name not in self.doubt
        if name in self.absent:
            return True
        return self.filter is not None and name not in self.filter

    def _add_absent(self, name: bytes) -> None:
        if len(self.absent) >= _ABSENT_MAX:
            self.absent = set()
        self.absent.add(name)

    # requests under way

    def ask(self) -> int:
        """A request about this directory is being sent; to be given to `overtaken`."""
        self.asking += 1
        return self.marks.tick

    def answered(self) -> None:
        self.asking -= 1
        if not self.asking:
            self.marks.quiet()

    def changed(self, name: bytes) -> None:
        """This mount changed the name: answers that were asked for before do not know."""
        if self.asking:
            self.marks.mark(name)

    # the listing

    @property
    def exact(self) -> bool:
        """Whether what the listing covers is all there is."""
        return not self._torn and (self.cursor != END or not self.unplaced)

    def covers(self, cookie: int) -> bool:
        """Whether what follows `cookie` is known, if only that nothing does."""
        return self.base <= cookie < self.cursor

    def after(self, cookie: int, limit: int) -> list[DirItem]:
        """At most `limit` known entries that follow `cookie`."""
        start = bisect_right(self._cookies, cookie)
        end = len(self._cookies) if self.cursor == END else bisect_right(self._cookies, self.cursor, start)
        if not self._holes:
            return self._items[start : min(end, start + limit)]  # type: ignore[return-value]  # no holes, no None
        items = self._items
        found: list[DirItem] = []
        for at in range(start, end):
            item = items[at]
            if item is not None:
                found.append(item)
                if len(found) == limit:
                    break
        return found

    def relist(self, base: int = 0) -> None:
        """Begin the listing again; what is known of names stays."""
        self._cookies = []
        self._items = []
        self._holes = 0
        self.base = self.cursor = base
        self.era += 1
        self._torn = False
        self._unsettled = set(self.doubt)

    def left(self, cookie: int) -> int:
        """About how many known entries follow `cookie`."""
        return len(self._cookies) - bisect_right(self._cookies, cookie)

    def page_done(self, last_cookie: int, eof: bool) -> None:
        """A page was taken over with `set`, in order; `last_cookie` is its last entry's."""
        if not eof:
            self.cursor = max(self.cursor, last_cookie)
            return
        self.cursor = END
        if self.base == 0:
            self.complete = True
            self.absent = set()
            self.filter = None
            self.doubt -= self._unsettled
            self._unsettled = set()

    def made(self) -> None:
        """The directory is new and empty."""
        self.complete = True
        self.cursor = END

    def forget(self) -> None:
        """Know nothing; requests under way are overtaken."""
        self.names = {}
        self.absent = set()
        self.doubt = set()
        self.complete = False
        self.filter = None
        self.unplaced = 0
        self.relist()
        self.marks.mark_all()

    def shed(self) -> None:
        """There are too many names to keep. What can be kept in little space is which names do not exist."""
        if self.complete:
            self.filter = NameFilter(self.names)
            for name in self.doubt:
                self.filter.add(name)
        kept, self.huge = self.filter, True
        self.forget()
        self.filter = kept

    def _place(self, item: DirItem) -> None:
        cookie = item.cookie
        cookies = self._cookies
        if not cookie:
            self.unplaced += 1
        elif not cookies or cookie > cookies[-1]:
            cookies.append(cookie)
            self._items.append(item)
        else:
            at = bisect_left(cookies, cookie)
            if cookies[at] == cookie:
                self._holes -= self._items[at] is None
                self._items[at] = item
            else:
                cookies.insert(at, cookie)
                self._items.insert(at, item)

    def _unplace(self, item: DirItem, new_cookie: int) -> None:
        """Take an entry out of the listing, unless its place is about to be taken."""
        cookie = item.cookie
        if not cookie:
            self.unplaced -= 1
            return
        if cookie == new_cookie:
            return
        at = bisect_left(self._cookies, cookie)
        if at < len(self._cookies) and self._cookies[at] == cookie and self._items[at] is not None:
            self._items[at] = None
            self._holes += 1
            if self._holes > _HOLES_MIN and self._holes * 2 > len(self._items):
                self._compact()

    def _compact(self) -> None:
        kept = [item for item in self._items if item is not None]
        self._items = list(kept)
        self._cookies = [item.cookie for item in kept]
        self._holes = 0
