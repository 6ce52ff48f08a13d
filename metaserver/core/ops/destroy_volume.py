"""destroy_volume: a volume is taken apart in steps, each as small as `limit`, each leaving a sound state.

The first step fences: the volume is marked, its sessions are closed. Every step removes names from the leaves upwards and
the inodes that lose their last one, then orphans. The step that finds nothing left removes the root and the volume's
records, so its name is free again.

Result: count = names and inodes removed by this step; 0 = the volume is gone. first = slices put into the delete queue.
"""

from __future__ import annotations

import errno
from itertools import islice
from typing import TYPE_CHECKING, Final

from metaserver.core import codec, death, directory, keys, usage
from metaserver.core.context import load_known
from metaserver.core.death import Toll
from metaserver.core.entry import Result
from metaserver.core.errors import CorruptState, FsError
from metaserver.core.ops.close_session import close

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import DestroyVolume
    from metaserver.core.model import Inode, Volume
    from metaserver.core.txn import ReadTxn, WriteTxn

_DIR: Final = 4
#: Entries of a directory that are looked at before its subdirectories are entered.
_PAGE: Final = 64


def apply(txn: WriteTxn, ctx: Context, op: DestroyVolume) -> Result:
    value = txn.get(keys.volume(op.volume)) if op.volume < 1 << 32 else None
    if value is None:
        raise FsError(errno.ENOENT, f"volume {op.volume} does not exist")
    if op.limit < 1:
        raise FsError(errno.EINVAL, "limit is at least 1")
    volume = codec.decode_volume(op.volume, value)
    if not volume.destroyed:
        _fence(txn, volume)
    step = _Step(txn, ctx, op.limit)
    step.empty(load_known(txn, volume.root))
    for inode in _orphans(txn, volume, step.left):
        step.bury(inode)
    toll, done = step.toll, op.limit - step.left
    if not done:
        return _finish(txn, ctx, volume)
    usage.charge(txn, volume.id, usage.ledger(txn, volume.id), -toll.bytes, -toll.inodes)
    return Result(first=toll.slices, count=done)


def _fence(txn: WriteTxn, volume: Volume) -> None:
    txn.put(keys.volume(volume.id), codec.encode_volume(volume._replace(destroyed=True)))
    acked = [(keys.number_at(key), codec.decode_acked(value)) for key, value in txn.scan(keys.SESSION_ACKED)]
    for number, one in acked:
        if one.volume == volume.id:
            close(txn, number)


def _orphans(txn: ReadTxn, volume: Volume, limit: int) -> list[Inode]:
    found: list[Inode] = []
    for key, _ in txn.scan(keys.ORPHAN):
        if len(found) >= limit:
            break
        inode = load_known(txn, keys.number_at(key))
        if inode.volume == volume.id:
            found.append(inode)
    return found


def _finish(txn: WriteTxn, ctx: Context, volume: Volume) -> Result:
    death.remove(txn, ctx, load_known(txn, volume.root))
    txn.delete(keys.ledger(volume.id))
    txn.delete(keys.volume_name(volume.name))
    txn.delete(keys.volume(volume.id))
    return Result()


class _Step:
    """One step's work: names are removed until `left` is used up."""

    def __init__(self, txn: WriteTxn, ctx: Context, limit: int) -> None:
        self.txn = txn
        self.ctx = ctx
        self.left = limit
        self.toll = Toll()

    def empty(self, root: Inode) -> None:
        """Remove what is below `root`, deepest first."""
        trail: list[int] = [root.ino]
        while self.left > 0:
            below = self._remove_files(trail[-1])
            if below is not None:
                trail.append(below)
            elif len(trail) == 1:
                return
            elif self.left > 0:
                self._remove_directory(trail.pop())

    def bury(self, inode: Inode) -> None:
        """Remove an inode that has no name."""
        self.toll = self.toll.plus(death.remove(self.txn, self.ctx, inode))
        self.left -= 1

    def _remove_files(self, parent: int) -> int | None:
        """Remove the entries of a directory that are not directories; the first directory among them, or None when
        nothing is left or the step is over."""
        txn = self.txn
        while self.left > 0:
            page = list(islice(txn.scan(keys.listings(parent)), min(_PAGE, self.left)))
            if not page:
                return None
            for key, value in page:
                ino, kind, name = codec.decode_listing(value)
                if kind == _DIR:
                    return ino
                self._remove_name(parent, name, keys.number_at(key, 9), ino)
        return None

    def _remove_name(self, parent: int, name: bytes, cookie: int, ino: int) -> None:
        txn, ctx = self.txn, self.ctx
        directory.delete_entry(txn, parent, name, cookie)
        inode = directory.lose_name(txn, ctx, load_known(txn, ino), parent)
        if inode.nlink:
            directory.store(txn, inode)
            self.left -= 1
        else:
            self.bury(inode)

    def _remove_directory(self, ino: int) -> None:
        """Remove an empty directory below the root, its entry in its parent included."""
        txn, ctx = self.txn, self.ctx
        inode = load_known(txn, ino)
        parent = load_known(txn, inode.parent)
        for key, value in txn.scan(keys.listings(parent.ino)):
            found, _, name = codec.decode_listing(value)
            if found == ino:
                cookie = keys.number_at(key, 9)
                break
        else:
            raise CorruptState(f"directory {ino} has no entry in its parent {parent.ino}")
        directory.delete_entry(txn, parent.ino, name, cookie)
        directory.store(txn, directory.touched(parent, ctx, subdirs=-1))
        self.bury(directory.lose_directory(txn, ctx, inode))
