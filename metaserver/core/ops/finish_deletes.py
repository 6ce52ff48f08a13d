"""finish_deletes: the objects of these slices are gone; the queue forgets them. Result: count of those it knew."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaserver.core import keys
from metaserver.core.entry import Result

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import FinishDeletes
    from metaserver.core.txn import WriteTxn


def apply(txn: WriteTxn, _ctx: Context, op: FinishDeletes) -> Result:
    known = [key for key in map(keys.doomed, dict.fromkeys(op.slices)) if txn.get(key) is not None]
    for key in known:
        txn.delete(key)
    return Result(count=len(known))
