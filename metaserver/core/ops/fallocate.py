"""fallocate: ranges of a file become allocated, zeros, holes, nothing, or room for more. Result: inode.

The modes and their refusals are fallocate(2)'s, with the rules of ext4 about the end of the file. All of a call happens in one
op or none of it. What is allocated counts against the volume at once, also beyond the end of the file (KEEP_SIZE); a truncation
takes that away again.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, NamedTuple

from metaserver.core import contents, ranges, usage
from metaserver.core.context import load_for
from metaserver.core.entry import Result
from metaserver.core.errors import FsError
from metaserver.core.inode_flags import require_free, require_mutable
from metaserver.core.model import FILE_SIZE_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.core.context import Context
    from metaserver.core.entry import Fallocate
    from metaserver.core.model import Inode
    from metaserver.core.ranges import Change
    from metaserver.core.txn import ReadTxn, WriteTxn

KEEP_SIZE: Final = 1
PUNCH_HOLE: Final = 2
COLLAPSE_RANGE: Final = 8
ZERO_RANGE: Final = 16
INSERT_RANGE: Final = 32


class _Form(NamedTuple):
    """`plan` of (txn, inode, offset, length); `size` of (size, offset, length) is the new one, or refuses."""

    plan: Callable[[ReadTxn, Inode, int, int], list[Change]]
    size: Callable[[int, int, int], int]


def apply(txn: WriteTxn, ctx: Context, op: Fallocate) -> Result:
    inode = load_for(txn, ctx, op.ino)
    contents.require_regular(inode, errno.ENODEV)
    if inode.flags:
        require_mutable(inode)
        if op.mode & ~KEEP_SIZE:
            require_free(inode)
    form = _FORMS.get(op.mode)
    if form is None:
        raise FsError(errno.EOPNOTSUPP, f"fallocate mode {op.mode:#x}")
    if not op.length:
        raise FsError(errno.EINVAL, "a range has at least one byte")
    if op.offset + op.length > FILE_SIZE_MAX:
        raise FsError(errno.EFBIG, f"a file has at most {FILE_SIZE_MAX} bytes")
    size = form.size(inode.size, op.offset, op.length)
    changes = form.plan(txn, inode, op.offset, op.length)
    more = sum(change.allocated for change in changes)
    held = usage.ledger(txn, inode.volume)
    decided = contents.prepare(txn, ctx, inode, held, size=size, more=more, kill_priv=op.kill_priv)
    ranges.write(txn, ctx, inode, changes)
    contents.write(txn, decided)
    return Result(0, "", decided.inode)


def _kept(size: int, offset: int, length: int) -> int:
    return size


def _grown(size: int, offset: int, length: int) -> int:
    return max(size, offset + length)


def _collapsed(size: int, offset: int, length: int) -> int:
    _require_units(offset, length)
    if offset + length >= size:
        raise FsError(errno.EINVAL, "the end of the file is cut off by truncate(2)")
    return size - length


def _inserted(size: int, offset: int, length: int) -> int:
    _require_units(offset, length)
    if offset >= size:
        raise FsError(errno.EINVAL, "the file is made longer by truncate(2)")
    if size + length > FILE_SIZE_MAX:
        raise FsError(errno.EFBIG, f"a file has at most {FILE_SIZE_MAX} bytes")
    return size + length


def _require_units(offset: int, length: int) -> None:
    if offset % ranges.UNIT or length % ranges.UNIT:
        raise FsError(errno.EINVAL, f"what moves the rest of a file starts and ends at a multiple of {ranges.UNIT}")


_FORMS: Final = {
    0: _Form(ranges.allocate, _grown),
    KEEP_SIZE: _Form(ranges.allocate, _kept),
    PUNCH_HOLE | KEEP_SIZE: _Form(ranges.punch, _kept),
    ZERO_RANGE: _Form(ranges.zero, _grown),
    ZERO_RANGE | KEEP_SIZE: _Form(ranges.zero, _kept),
    COLLAPSE_RANGE: _Form(ranges.collapse, _collapsed),
    INSERT_RANGE: _Form(ranges.insert, _inserted),
}
