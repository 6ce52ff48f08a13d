"""open_session: a client gets a number. Result: first (the number), inode (the session's root).

ENOENT for a volume that is not there or is being destroyed and for a root that is not of
it, ENOTDIR for one that is no directory.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from metaserver.core import birth, codec, keys
from metaserver.core.context import load
from metaserver.core.entry import Result
from metaserver.core.errors import FsError
from metaserver.core.model import Session

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import OpenSession
    from metaserver.core.txn import WriteTxn

TEXT_MAX: Final = 1024


def apply(txn: WriteTxn, ctx: Context, op: OpenSession) -> Result:
    client = op.client.encode("utf-8", "replace").decode()
    if len(op.secret) > TEXT_MAX or len(client) > TEXT_MAX:
        raise FsError(errno.EINVAL, f"secret and client have at most {TEXT_MAX} characters")
    value = txn.get(keys.volume(op.volume)) if op.volume < 1 << 32 else None
    if value is None or codec.decode_volume(op.volume, value).destroyed:
        raise FsError(errno.ENOENT, f"volume {op.volume} does not exist")
    root = load(txn, op.root)
    if root.volume != op.volume:
        raise FsError(errno.ENOENT, f"inode {op.root} is not of volume {op.volume}")
    if not root.is_dir or not root.nlink:
        raise FsError(errno.ENOTDIR, f"inode {op.root}")
    number = birth.counter(txn, keys.NEXT_SESSION)
    session = Session(number, op.volume, root.ino, op.secret, client, ctx.now_ns, 0)
    txn.put(keys.NEXT_SESSION, codec.encode_counter(number + 1))
    txn.put(keys.session(number), codec.encode_session(session))
    txn.put(keys.session_acked(number), codec.encode_acked(0, op.volume))
    return Result(inode=root, first=number)
