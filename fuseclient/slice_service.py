"""The data path's view of the metadata service: slices as meta.proto carries them, and nothing else.

A commit too large for one request goes out as several, in order, without waiting in between; the service applies a session's
changes in the order of their arrival, so later slices win as they should. Each of them is exactly once by itself. The places
of one slice are never divided between two.
"""

from __future__ import annotations

import asyncio
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Final, Protocol

from fuseclient.attr import Attr
from fuseclient.data.slices import ChunkMap, Extent
from protos import meta_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fuseclient.data.slices import NewSlice
    from fuseclient.id_ranges import IdRanges

#: Below docs/WIRE.md's limits for one request.
COMMIT_SLICES_MAX: Final = 1024
COMMIT_BYTES_MAX: Final = 64 << 10


class _Requests(Protocol):
    slice_ids: IdRanges

    def read(self, request: pb.Request, /) -> asyncio.Future[pb.Response]: ...
    def change(self, request: pb.Request, /) -> asyncio.Future[pb.Response]: ...


class MetaSliceService:
    """SliceService on a MetaClient."""

    def __init__(self, client: _Requests) -> None:
        self._client = client

    async def new_slice_id(self) -> int:
        """A number never used before; from a range leased in advance, so it seldom waits."""
        number = self._client.slice_ids.take()
        return await self._client.slice_ids.next() if number is None else number

    async def commit(self, ino: int, slices: Sequence[NewSlice], mtime_ns: int, kill_priv: bool) -> Attr:
        """Make the slices part of the file, durably, in this order. When it fails, a first part of them may be committed."""
        futures = [
            self._client.change(
                pb.Request(
                    commit_slices=pb.CommitSlices(
                        ino=ino, slices=[_wire(one) for one in part], mtime_ns=mtime_ns, kill_priv=kill_priv
                    )
                )
            )
            for part in _parts(slices)
        ]
        if len(futures) == 1:
            return Attr((await futures[0]).attr)
        return Attr((await asyncio.gather(*futures))[-1].attr)

    async def read(self, ino: int, first_chunk: int, chunks: int) -> tuple[Attr, dict[int, ChunkMap]]:
        """The maps of `chunks` (1..64) chunks from `first_chunk`; a chunk that is all hole is absent."""
        found: dict[int, ChunkMap] = {}
        attr: Attr | None = None
        at, end = first_chunk, first_chunk + chunks
        while at < end:
            request = pb.Request(read_slices=pb.ReadSlices(ino=ino, first_chunk=at, chunks=end - at))
            response = await self._client.read(request)
            fresh = Attr(response.attr)
            if attr is not None and fresh.fields.data_version != attr.fields.data_version:
                found, at = {}, first_chunk  # the file changed between two parts of the answer
            else:
                found |= chunk_maps(response)
                at += max(response.count, 1)
            attr = fresh
        assert attr is not None
        return attr, found

    async def next_chunk(self, ino: int, chunk: int) -> int:
        """The first chunk from `chunk` on that is not all hole, or one beyond the end of the file."""
        request = pb.Request(read_slices=pb.ReadSlices(ino=ino, first_chunk=chunk, chunks=1))
        response = await self._client.read(request)
        return chunk if response.extents else chunk + max(response.count, 1)


def chunk_maps(response: pb.Response) -> dict[int, ChunkMap]:
    """The extents and inline contents of a response to ReadSlices or Open, by chunk."""
    inline = {one.slice: one.data for one in response.inline_data}
    extents: dict[int, list[Extent]] = {}
    contents: dict[int, dict[int, bytes]] = {}
    for one in response.extents:
        chunk, slice_id = one.chunk, one.slice
        extents.setdefault(chunk, []).append(Extent(one.pos, one.len, slice_id, one.off, one.size, one.inline))
        if one.inline and slice_id in inline:
            contents.setdefault(chunk, {})[slice_id] = inline[slice_id]
    return {chunk: ChunkMap(tuple(found), contents.get(chunk, {})) for chunk, found in extents.items()}


def _wire(one: NewSlice) -> pb.NewSlice:
    return pb.NewSlice(chunk=one.chunk, pos=one.pos, slice=one.slice, size=one.size, off=one.off, len=one.length, data=one.data)


def _parts(slices: Sequence[NewSlice]) -> Iterator[list[NewSlice]]:
    """At least one part, each within the limits; neighbors that share a slice stay together."""
    part: list[NewSlice] = []
    size = 0
    for _, group in groupby(slices, key=attrgetter("slice")):
        together = list(group)
        more = sum(len(one.data) for one in together)
        if part and (len(part) + len(together) > COMMIT_SLICES_MAX or size + more > COMMIT_BYTES_MAX):
            yield part
            part, size = [], 0
        part += together
        size += more
    yield part
