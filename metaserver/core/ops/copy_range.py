"""copy_range: a range of one file becomes part of another, or of itself, by sharing its slices.

Result: inode (the target), other (the source), count: bytes copied. Fewer than asked for are copied where the source ends,
where the target may not grow further, or after what one op may touch; none (and nothing changes) at or beyond the source's end.
Holes are copied as holes. The ranges of one file may not overlap (EINVAL). Every copy counts in full against its volume. A
record that would hold too many inline bytes is EOPNOTSUPP: whoever asked copies the bytes instead.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from metaserver.core import contents, ranges, usage
from metaserver.core.context import load_for
from metaserver.core.entry import Result
from metaserver.core.errors import FsError
from metaserver.core.inode_flags import require_mutable
from metaserver.core.model import CHUNK_BYTES, FILE_SIZE_MAX

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import CopyRange
    from metaserver.core.model import Inode
    from metaserver.core.ranges import Place
    from metaserver.core.txn import ReadTxn, WriteTxn

BYTES_MAX: Final = 1024 * CHUNK_BYTES
PIECES_MAX: Final = 1 << 16


def apply(txn: WriteTxn, ctx: Context, op: CopyRange) -> Result:
    source, target = load_for(txn, ctx, op.ino), load_for(txn, ctx, op.ino2)
    contents.require_regular(source)
    contents.require_regular(target)
    if target.flags:
        require_mutable(target)
    if source.volume != target.volume:
        raise FsError(errno.EXDEV, f"inode {op.ino2} is of another volume")
    if op.offset2 >= FILE_SIZE_MAX and op.length:
        raise FsError(errno.EFBIG, f"a file has at most {FILE_SIZE_MAX} bytes")
    length = min(op.length, source.size - op.offset, FILE_SIZE_MAX - op.offset2)
    if length < 1:
        return Result(0, "", target, other=source)
    if op.ino == op.ino2 and abs(op.offset - op.offset2) < length:
        raise FsError(errno.EINVAL, "the ranges overlap")
    laid, length = _source(txn, source, op.offset, min(length, BYTES_MAX))
    shift = op.offset2 - op.offset
    changes = ranges.overlay(txn, target, op.offset2, length, [place._replace(at=place.at + shift) for place in laid])
    more = sum(change.allocated for change in changes)
    held = usage.ledger(txn, target.volume)
    size = max(target.size, op.offset2 + length)
    decided = contents.prepare(txn, ctx, target, held, size=size, more=more, kill_priv=op.kill_priv)
    ranges.write(txn, ctx, target, changes)
    contents.write(txn, decided)
    return Result(0, "", decided.inode, other=decided.inode if op.ino == op.ino2 else source, count=length)


def _source(txn: ReadTxn, source: Inode, offset: int, length: int) -> tuple[list[Place], int]:
    """What a range holds, and how much of the range that is: no more than PIECES_MAX extents."""
    laid = ranges.places(txn, source, offset, length) if source.allocated else []
    if len(laid) <= PIECES_MAX:
        return laid, length
    return laid[:PIECES_MAX], laid[PIECES_MAX].at - offset
