"""tmp_file: not built yet; EOPNOTSUPP."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from metaserver.core.errors import FsError

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import Result, TmpFile
    from metaserver.core.txn import WriteTxn


def apply(txn: WriteTxn, ctx: Context, op: TmpFile) -> Result:
    raise FsError(errno.EOPNOTSUPP, "tmp_file")
