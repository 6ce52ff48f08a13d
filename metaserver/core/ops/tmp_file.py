"""tmp_file: a regular file without a name (O_TMPFILE). Result: inode.

Everything is as if it were created in the directory, except that it gets no entry: it is an orphan from the start, kept by the
session that holds it open, and the one kind of orphan to which `link` gives a name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaserver.core import birth, directory
from metaserver.core.entry import Result

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import TmpFile
    from metaserver.core.txn import WriteTxn


def apply(txn: WriteTxn, ctx: Context, op: TmpFile) -> Result:
    parent = directory.enter(txn, ctx, op.parent, op.cred)
    directory.require_writable(txn, parent, op.cred)
    born = birth.prepare(txn, ctx, parent, b"", 0o100000 | op.mode & 0o7777, op.cred, op.ino, umask=op.umask)
    born = birth.unnamed(born)
    birth.write(txn, ctx, born)
    return Result(0, "", born.inode)
