"""close_session: the session, its results, leases and locks go; nothing it sends later can land.

Result: count (0 or 1), granted: who got the locks that it held.

Closing one that is not open is no error: it happens when an expiry and a detach cross.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaserver.core import keys, lock_table
from metaserver.core.entry import Result

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import CloseSession, Granted
    from metaserver.core.txn import WriteTxn


def apply(txn: WriteTxn, _ctx: Context, op: CloseSession) -> Result:
    if txn.get(keys.session(op.session)) is None:
        return Result()
    return Result(count=1, granted=close(txn, op.session))


def close(txn: WriteTxn, number: int) -> Granted:
    granted = lock_table.drop_session(txn, number)
    for key in [key for key, _ in txn.scan(keys.results(number))]:
        txn.delete(key)
    txn.delete(keys.lease(number))
    txn.delete(keys.session_acked(number))
    txn.delete(keys.session(number))
    return granted
