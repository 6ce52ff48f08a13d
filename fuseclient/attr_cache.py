"""The attributes that this mount knows to be current.

Rules
 - What is here stays true until a notification (`drop`) or the end of the stream (`clear`): there is no time-out.
 - An older version never replaces a newer one.
 - An answer that an invalidation has overtaken is not kept: `put` takes the `tick` at which the request was sent.
 - At most `limit` inodes, about 350 bytes each; the least recently used go first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fuseclient.attr_raw import version_of
from fuseclient.recent import Recent
from fuseclient.staleness import Overtakes

if TYPE_CHECKING:
    from fuseclient.attr import Attr

LIMIT: Final = 160_000


class AttrCache:
    __slots__ = ("_attrs", "get", "overtakes")

    def __init__(self, limit: int = LIMIT) -> None:
        self._attrs: Recent[int, Attr] = Recent(limit)
        self.overtakes: Overtakes[int] = Overtakes()
        self.get = self._attrs.get

    @property
    def tick(self) -> int:
        """To be remembered with a request, for `put`."""
        return self.overtakes.tick

    def put(self, ino: int, attr: Attr, tick: int) -> Attr:
        """Keep attributes asked for at `tick`. Gives the newest that are known, which may be others."""
        if tick != self.overtakes.tick and self.overtakes.hit(ino, tick):
            return attr
        known = self.get(ino)
        if known is not None and version_of(known) > version_of(attr):
            return known
        self._attrs.put(ino, attr)
        return attr

    def fresh(self, ino: int, tick: int) -> bool:
        """Whether an answer about `ino`, asked at `tick`, is still good."""
        return not self.overtakes.hit(ino, tick)

    def drop(self, ino: int) -> None:
        """Somebody changed the inode."""
        self._attrs.drop(ino)
        self.overtakes.mark(ino)

    def forget(self, ino: int) -> None:
        """Nobody needs it any more."""
        self._attrs.drop(ino)

    def clear(self) -> None:
        self._attrs.clear()
        self.overtakes.mark_all()

    def __len__(self) -> int:
        return len(self._attrs)
