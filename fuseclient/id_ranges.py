"""Inode and slice numbers, leased from the metadata service in ranges so that taking one seldom waits.

A number is given out once. A range belongs to the session that leased it: `clear` forgets what is left when that ends.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from typing import Final, Protocol

from fuseclient.errors import FsError
from protos import meta_pb2 as pb

INODES: Final = 1
SLICES: Final = 2
RANGE: Final = 4096
LOW_WATER: Final = 1024


class _Changes(Protocol):
    def change(self, request: pb.Request, /) -> asyncio.Future[pb.Response]: ...


class IdRanges:
    def __init__(self, client: _Changes, kind: int, count: int = RANGE, low_water: int = LOW_WATER) -> None:
        self._client = client
        self._kind = kind
        self._count = count
        self._low_water = low_water
        self._ranges: deque[range] = deque()
        self._left = 0
        self._lease: asyncio.Future[pb.Response] | None = None

    def take(self) -> int | None:
        """A number never given out before, or None when there is none right now (a lease is then under way)."""
        if self._left <= self._low_water and self._lease is None:
            self._begin_lease()
        if not self._left:
            return None
        first = self._ranges[0]
        number = first[0]
        self._left -= 1
        if len(first) == 1:
            self._ranges.popleft()
        else:
            self._ranges[0] = first[1:]
        return number

    async def next(self) -> int:
        """A number never given out before. Raises FsError when none can be leased."""
        while True:
            number = self.take()
            if number is not None:
                return number
            lease = self._lease
            if lease is not None:
                await _answered(lease)

    def clear(self) -> None:
        """The session is over: its ranges are not ours any more."""
        self._ranges.clear()
        self._left = 0
        self._lease = None

    def _begin_lease(self) -> None:
        lease = self._client.change(pb.Request(lease_ids=pb.LeaseIds(kind=self._kind, count=self._count)))
        self._lease = lease
        lease.add_done_callback(self._leased)

    def _leased(self, lease: asyncio.Future[pb.Response]) -> None:
        current = lease is self._lease
        if current:
            self._lease = None
        if lease.cancelled() or lease.exception() is not None or not current:
            return
        response = lease.result()
        if response.count:
            self._ranges.append(range(response.first, response.first + response.count))
            self._left += response.count


async def _answered(lease: asyncio.Future[pb.Response]) -> None:
    """Wait for a lease that several may wait for; none of them, when cancelled, takes it from the others."""
    await asyncio.wait([lease])
    if not lease.result().count:
        raise FsError(errno.EIO, "the metadata service leased no numbers")
