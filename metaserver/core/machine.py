"""The state machine: one log entry in, one result per item out.

Rules
 - Items are applied in order; each decides first and then writes, so a refused item leaves nothing behind but its result.
 - Exactly once: the result of an item with seq > 0 is kept under (session, seq). The same item sent again gets that result
   and changes nothing. `acked_seq` forgets results up to it; asking for a forgotten one is EINVAL.
 - An item from a session that is not open (never was, closed, expired) is refused with ESTALE and leaves nothing at all:
   this is the fence behind which an expired client stays.
 - FsError becomes a Result; any other exception is a bug or damage and must stop the process before the entry counts.
 - The applied index is the store's to write, in the same transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metaserver.core.entry import Entry, Result
    from metaserver.core.txn import WriteTxn


def apply(txn: WriteTxn, entry: Entry) -> list[Result]:
    """Apply every item of `entry` to `txn`; the results are in the order of the items."""
    raise NotImplementedError


def find_result(txn: WriteTxn, session: int, seq: int) -> Result | None:
    """The kept result of an item that was applied already: lets the service answer a re-sent request without a log entry."""
    raise NotImplementedError
