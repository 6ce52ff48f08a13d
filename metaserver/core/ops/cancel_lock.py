"""cancel_lock: not built yet; EOPNOTSUPP."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from metaserver.core.errors import FsError

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import CancelLock, Result
    from metaserver.core.txn import WriteTxn


def apply(txn: WriteTxn, ctx: Context, op: CancelLock) -> Result:
    raise FsError(errno.EOPNOTSUPP, "cancel_lock")
