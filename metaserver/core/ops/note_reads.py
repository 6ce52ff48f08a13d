"""note_reads: inodes were read. Result: count, the inodes whose access time moved.

Nobody asked for this change: it needs no permission, no flag is in the way, and what is gone or not the session's is passed
over. The access time moves forward only, at most to the entry's time. Nothing else moves, not even `version`: what others
have cached stays true but for this one time, which is not worth telling them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaserver.core import codec, directory, keys
from metaserver.core.entry import Result

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import NoteReads
    from metaserver.core.txn import WriteTxn


def apply(txn: WriteTxn, ctx: Context, op: NoteReads) -> Result:
    atime_ns = min(op.atime_ns, ctx.now_ns)
    moved = 0
    for ino in dict.fromkeys(op.inodes):
        value = txn.get(keys.inode(ino))
        if value is None:
            continue
        inode = codec.decode_inode(ino, value)
        if inode.atime_ns < atime_ns and inode.volume == (ctx.volume or inode.volume):
            directory.store(txn, inode._replace(atime_ns=atime_ns))
            moved += 1
    return Result(count=moved)
