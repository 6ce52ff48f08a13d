"""What a volume holds against what it may hold. A volume's ledger is one value: usage and limits together.

Bytes are charged per file, allocation rounded up to 4 KiB; inodes one by one, the root and orphans included. `require_*`
decide and change nothing; a limit of 0 is none. Freeing is never refused, also above a limit.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from metaserver.core import codec, keys
from metaserver.core.codec import Ledger
from metaserver.core.errors import CorruptState, FsError
from metaserver.core.model import Usage

if TYPE_CHECKING:
    from metaserver.core.txn import ReadTxn, WriteTxn

UNIT: Final = 4096


def charged(allocated: int) -> int:
    """What a file with so many allocated bytes costs its volume."""
    return (allocated + UNIT - 1) & -UNIT


def ledger(txn: ReadTxn, volume: int) -> Ledger:
    value = txn.get(keys.ledger(volume))
    if value is None:
        raise CorruptState(f"volume {volume} has no ledger")
    return codec.decode_ledger(value)


def require_inode(held: Ledger) -> None:
    """Room for one more inode, or ENOSPC."""
    capacity = held.settings.capacity_inodes
    if capacity and held.usage.inodes >= capacity:
        raise FsError(errno.ENOSPC, f"the volume holds its {capacity} inodes")


def require_bytes(held: Ledger, more: int) -> None:
    """Room for `more` charged bytes, or ENOSPC."""
    capacity = held.settings.capacity_bytes
    if more > 0 and capacity and held.usage.bytes + more > capacity:
        raise FsError(errno.ENOSPC, f"the volume's capacity is {capacity} bytes, {held.usage.bytes} are used")


def charge(txn: WriteTxn, volume: int, held: Ledger, more_bytes: int, more_inodes: int) -> None:
    """Write the ledger with the change."""
    used, inodes = held.usage
    used, inodes = used + more_bytes, inodes + more_inodes
    if used < 0 or inodes < 0:
        raise CorruptState(f"volume {volume} would hold {used} bytes and {inodes} inodes")
    txn.put(keys.ledger(volume), codec.encode_ledger(Ledger(Usage(used, inodes), held.settings)))
