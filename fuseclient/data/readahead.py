"""Finds sequential readers in the reads of one file, and says how far ahead of each to fetch. Pure: no I/O.

A kernel reads ahead itself and splits and reorders what a program asks for, so a stream is followed within a tolerance.
Several programs may read one file at once; the streams used longest ago are forgotten first.
"""

from __future__ import annotations

from typing import Final

_STREAMS_MAX: Final = 8
_TOLERANCE_BYTES: Final = 2 << 20


class Stream:
    """A sequential reader. `active`: its reads have waited, so fetching ahead pays."""

    __slots__ = ("active", "fetched_to", "next", "read_bytes", "window")

    def __init__(self, offset: int, size: int) -> None:
        self.next = offset + size
        self.read_bytes = size
        self.fetched_to = 0
        self.window = 1  # blocks
        self.active = False


class ReadAhead:
    def __init__(self, block_bytes: int, window_max: int) -> None:
        self._block_bytes = block_bytes
        self._window_max = max(window_max, 1)
        self._streams: list[Stream] = []  # in the order of use

    def note(self, offset: int, size: int) -> Stream | None:
        """Remember a read; the stream it belongs to, None when it looks random."""
        streams = self._streams
        for at in range(len(streams) - 1, -1, -1):
            stream = streams[at]
            if -_TOLERANCE_BYTES <= offset - stream.next <= _TOLERANCE_BYTES:
                jump = offset != stream.next
                if offset + size > stream.next:
                    stream.next = offset + size
                # A jump within the tolerance may be chance; only what continues exactly counts as sequential.
                stream.read_bytes += 0 if jump else size
                if at != len(streams) - 1:
                    streams.append(streams.pop(at))
                return stream if stream.read_bytes > size or offset == 0 else None
        fresh = Stream(offset, size)
        streams.append(fresh)
        if len(streams) > _STREAMS_MAX:
            del streams[0]
        return fresh if offset == 0 else None

    def extend(self, stream: Stream, end: int) -> tuple[int, int] | None:
        """The next part of the file to fetch for an active stream, None when enough is under way."""
        start = max(stream.fetched_to, stream.next)
        target = min(stream.next + stream.window * self._block_bytes, end)
        if target <= start or (target - start < self._block_bytes and target < end):
            return None
        stream.fetched_to = target
        stream.window = min(stream.window * 2, self._window_max)
        return start, target - start
