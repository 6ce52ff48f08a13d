"""commit_slices: written data becomes part of a file. Result: inode.

The slices are laid over the file in order. Their numbers come from the slice counter (EINVAL for one that was never given,
that is in the delete queue, or that several chunks share already); their objects are durable already. One slice may serve
several places of one chunk: small writes share an object. A slice of 0 makes a hole; a hole, too, grows the file to its end. An
orphan may be written to: somebody has it open. An immutable file may not (EPERM), whoever opened it before.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, NamedTuple

from metaserver.core import birth, contents, extents, keys, usage
from metaserver.core.context import load_for
from metaserver.core.entry import Result
from metaserver.core.errors import FsError
from metaserver.core.inode_flags import require_mutable
from metaserver.core.model import CHUNK_BYTES, EXTENTS_MAX, FILE_SIZE_MAX, INLINE_MAX, INLINE_REACH, Extent
from metaserver.core.slices import further_owners, put_chunk, release

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import CommitSlices, NewSlice
    from metaserver.core.extents import Held
    from metaserver.core.model import Inode, Settings
    from metaserver.core.txn import ReadTxn, WriteTxn

_CHUNKS_MAX: Final = FILE_SIZE_MAX // CHUNK_BYTES


class _Laid(NamedTuple):
    """What the slices make of the file: chunks that changed, slices that ended, bytes to keep inline."""

    chunks: dict[int, bytes]
    freed: list[Held]
    inline: dict[int, bytes]
    allocated: int
    size: int


def apply(txn: WriteTxn, ctx: Context, op: CommitSlices) -> Result:
    inode = load_for(txn, ctx, op.ino)
    contents.require_regular(inode)
    if inode.flags:
        require_mutable(inode)
    held = usage.ledger(txn, inode.volume)
    _require_slices(txn, op.slices, held.settings)
    laid = _lay(txn, inode, op.slices)
    decided = contents.prepare(
        txn, ctx, inode, held, size=laid.size, more=laid.allocated, kill_priv=op.kill_priv, mtime_ns=op.mtime_ns
    )
    for slice_id, data in laid.inline.items():
        txn.put(keys.inline(slice_id), data)
    release(txn, ctx, inode.volume, laid.freed)
    for index, value in laid.chunks.items():
        put_chunk(txn, op.ino, index, value)
    contents.write(txn, decided)
    return Result(0, "", decided.inode)


def _require_slices(txn: ReadTxn, slices: tuple[NewSlice, ...], settings: Settings) -> None:
    """EINVAL for what cannot be, EFBIG beyond the largest file."""
    given = birth.counter(txn, keys.NEXT_SLICE)
    inline_bytes = 0
    seen: dict[int, NewSlice] = {}
    for new in slices:
        if new.chunk >= _CHUNKS_MAX:
            raise FsError(errno.EFBIG, f"a file has at most {FILE_SIZE_MAX} bytes")
        if new.length < 1 or new.pos + new.length > CHUNK_BYTES:
            raise FsError(errno.EINVAL, f"{new.length} bytes at {new.pos} are not within a chunk")
        if not new.slice:
            if new.data:
                raise FsError(errno.EINVAL, "a hole has no bytes")
            continue
        if new.slice >= given or txn.get(keys.doomed(new.slice)) is not None or further_owners(txn, new.slice):
            raise FsError(errno.EINVAL, f"slice {new.slice} was never given, was deleted or is shared")
        first = seen.get(new.slice)
        if first is None:
            seen[new.slice] = new
        elif new.data or first.data or (first.chunk, first.size) != (new.chunk, new.size):
            raise FsError(errno.EINVAL, f"slice {new.slice} comes twice: inline, or of another chunk or size")
        if new.size > CHUNK_BYTES or new.off + new.length > new.size:
            raise FsError(errno.EINVAL, f"slice {new.slice} of {new.size} bytes has no {new.length} at {new.off}")
        inline_bytes += len(new.data)
        if new.data and (len(new.data) != new.size or new.size > settings.inline_bytes or inline_bytes > INLINE_MAX):
            raise FsError(errno.EINVAL, f"slice {new.slice}: {len(new.data)} inline bytes of {new.size} are not allowed")
        if new.data and (new.chunk or new.pos + new.length > INLINE_REACH * settings.inline_bytes):
            raise FsError(errno.EINVAL, f"slice {new.slice}: inline bytes are for the start of a file only")


def _lay(txn: ReadTxn, inode: Inode, slices: tuple[NewSlice, ...]) -> _Laid:
    chunks: dict[int, bytes] = {}
    freed: dict[int, list[Held]] = {}
    inline: dict[int, bytes] = {}
    allocated, size = 0, inode.size
    for new in slices:
        value = chunks.get(new.chunk)
        if value is None:
            value = txn.get(keys.chunk(inode.ino, new.chunk)) or extents.EMPTY
        extent = Extent(new.pos, new.length, new.slice, new.off, new.size, bool(new.data))
        after = extents.splice(value, extent)
        if len(after.value) > len(value) and extents.check(after.value) > EXTENTS_MAX:
            raise FsError(errno.EFBIG, f"chunk {new.chunk} is in more than {EXTENTS_MAX} pieces; copy the file")
        chunks[new.chunk] = after.value
        freed.setdefault(new.chunk, []).extend(after.freed)
        allocated += after.allocated
        size = max(size, new.chunk * CHUNK_BYTES + new.pos + new.length)
        if new.data:
            inline[new.slice] = new.data
    # A slice that a later one of this op covered may have been laid again after that.
    ended = [one for chunk, found in freed.items() for one in extents.unheld(chunks[chunk], found)]
    return _Laid(chunks, ended, inline, allocated, size)
