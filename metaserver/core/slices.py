"""Owners of slices, and their end: what no extent refers to any more goes to the delete queue, inline bytes go at once.

An owner is a chunk record that holds at least one extent of the slice, however many. The first owner is not written down: the
state counts only further ones (keys.SLICE_REFS). Whoever changes several records shares first and releases then, so that a
slice which moves from one to another does not end in between.

The queue is worked off by clients (they own the object store); an entry leaves it by FinishDeletes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaserver.core import codec, extents, keys

if TYPE_CHECKING:
    from collections.abc import Iterable

    from metaserver.core.context import Context
    from metaserver.core.extents import Held
    from metaserver.core.txn import ReadTxn, WriteTxn


def share(txn: WriteTxn, gained: Iterable[Held]) -> None:
    """One more record holds these slices, which have an owner already."""
    for one in gained:
        key = keys.slice_refs(one.slice)
        txn.put(key, codec.encode_counter(further_owners(txn, one.slice) + 1))


def further_owners(txn: ReadTxn, slice_id: int) -> int:
    """How many records hold the slice beside the first."""
    value = txn.get(keys.slice_refs(slice_id))
    return 0 if value is None else codec.decode_counter(value)


def release(txn: WriteTxn, ctx: Context, volume: int, freed: Iterable[Held]) -> int:
    """One record holds these slices no more; those that had no other owner end. How many went to the queue."""
    queued = 0
    for one in freed:
        others = further_owners(txn, one.slice)
        if others > 1:
            txn.put(keys.slice_refs(one.slice), codec.encode_counter(others - 1))
        elif others:
            txn.delete(keys.slice_refs(one.slice))
        elif one.inline:
            txn.delete(keys.inline(one.slice))
        else:
            txn.put(keys.doomed(one.slice), codec.encode_doomed(one.size, volume, ctx.now_ns))
            queued += 1
    return queued


def put_chunk(txn: WriteTxn, ino: int, index: int, value: bytes) -> None:
    """Store a chunk's extents; a chunk without any has no key."""
    if value == extents.EMPTY:
        txn.delete(keys.chunk(ino, index))
    else:
        txn.put(keys.chunk(ino, index), value)


def chunks_from(txn: ReadTxn, ino: int, first: int, last: int) -> list[tuple[int, bytes]]:
    """The chunk records of a file with `first` <= index <= `last`. Few are asked for one by one, many by a scan."""
    if last - first < 4:
        found = [(index, txn.get(keys.chunk(ino, index))) for index in range(first, last + 1)]
        return [(index, value) for index, value in found if value is not None]
    after = keys.chunk(ino, first - 1) if first else b""
    pairs: list[tuple[int, bytes]] = []
    for key, value in txn.scan(keys.chunks(ino), after):
        index = keys.short_at(key, 9)
        if index > last:
            break
        pairs.append((index, value))
    return pairs
