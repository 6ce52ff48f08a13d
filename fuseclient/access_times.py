"""Access times: who read what, told to the metadata service behind and in batches. No read ever waits for it.

Under `relatime` a read counts when the access time is not later than the last change, or a day old, as in Linux; under
`strictatime` the first read of every open counts; under `noatime`, and on a mount that is read-only, none. What a program
sees here follows at once, because the cached attributes get the new time; other mounts learn of it when they ask anew.

What the kernel reads from its own pages it does not tell. So the first READ of an open is a read, and when the pages were
kept, the open itself. A program that opens such a file and reads nothing is the one that is wronged.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from fuseclient.attr_raw import NS, times_of, with_atime
from protos import meta_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable

    from fuseclient.attr import Attr
    from fuseclient.knowledge import Knowledge

RELATIME: Final = "relatime"
STRICTATIME: Final = "strictatime"
NOATIME: Final = "noatime"
POLICIES: Final = (RELATIME, STRICTATIME, NOATIME)

#: Reads of so long go together; of one request, at most so many (the server takes 4096).
BATCH_S: Final = 1.0
BATCH_MAX: Final = 4096
_DAY_NS: Final = 24 * 3600 * NS


class AccessTimes:
    def __init__(self, known: Knowledge, policy: str, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._known = known
        self._strict = policy == STRICTATIME
        self._now_ns = now_ns
        self._read: dict[int, None] = {}
        self._last_ns = 0
        self._timer: asyncio.TimerHandle | None = None
        self.counted = policy != NOATIME

    def due(self, attr: Attr) -> bool:
        """Whether a read of what has these attributes counts."""
        if self._strict:
            return True
        atime, mtime, ctime = times_of(attr)
        return atime <= mtime or atime <= ctime or self._now_ns() - atime >= _DAY_NS

    def note(self, ino: int) -> None:
        """It was read."""
        attrs = self._known.attrs
        attr = attrs.get(ino)
        self._last_ns = now_ns = self._now_ns()
        if attr is not None:
            attrs.put(ino, with_atime(attr, now_ns), attrs.tick)
        self._read[ino] = None
        if len(self._read) >= BATCH_MAX:
            self._send()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(BATCH_S, self._send)

    def note_if_due(self, ino: int) -> None:
        """It was read, by way of attributes that are known."""
        attr = self._known.attrs.get(ino)
        if attr is not None and self.due(attr):
            self.note(ino)

    def close(self) -> None:
        """Send what is left, behind: whoever closes waits for that."""
        if self._read:
            self._send()

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        reads = pb.NoteReads(inodes=self._read, atime_ns=self._last_ns)
        self._read = {}
        self._known.behind(self._tell(reads), "telling of reads")

    async def _tell(self, reads: pb.NoteReads) -> None:
        await self._known.meta.change(pb.Request(note_reads=reads))
