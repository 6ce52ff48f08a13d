"""The state machine: one log entry in, one result per item out.

Rules
 - Items are applied in order; each decides first and then writes, so a refused item leaves nothing behind but its result.
 - Exactly once: the result of an item with seq > 0 is kept under (session, seq). The same item sent again gets that result
   and changes nothing. `acked_seq` forgets results up to it; asking for a forgotten one is EINVAL.
 - An item from a session that is not open (never was, closed, expired) is refused with ESTALE and leaves nothing at all:
   this is the fence behind which an expired client stays.
 - FsError becomes a Result; any other exception is a bug or damage and must stop the process before the entry counts.
 - Time never runs back, whoever stamps the entries: it is part of the state, and an earlier stamp counts as the last one.
 - The applied index is the store's to write, in the same transaction.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from metaserver.core import codec, entry, keys
from metaserver.core.context import Context
from metaserver.core.entry import Result
from metaserver.core.errors import CorruptState, FsError
from metaserver.core.ops import (
    cancel_lock,
    close_session,
    commit_slices,
    copy_range,
    create,
    create_volume,
    destroy_volume,
    fallocate,
    finish_deletes,
    lease_ids,
    link,
    mkdir,
    mknod,
    note_reads,
    open_session,
    reap,
    remove_xattr,
    rename,
    rmdir,
    set_flags,
    set_lock,
    set_volume,
    set_xattr,
    setattr,
    symlink,
    tmp_file,
    unlink,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.core.entry import Entry, Item
    from metaserver.core.txn import ReadTxn, WriteTxn

#: Every operation and the one function that applies it.
OPS: Final[dict[type, Callable[[WriteTxn, Context, Any], Result]]] = {
    entry.Create: create.apply,
    entry.MkDir: mkdir.apply,
    entry.MkNod: mknod.apply,
    entry.SymLink: symlink.apply,
    entry.Link: link.apply,
    entry.Unlink: unlink.apply,
    entry.RmDir: rmdir.apply,
    entry.Rename: rename.apply,
    entry.SetAttr: setattr.apply,
    entry.CommitSlices: commit_slices.apply,
    entry.SetXattr: set_xattr.apply,
    entry.RemoveXattr: remove_xattr.apply,
    entry.LeaseIds: lease_ids.apply,
    entry.FinishDeletes: finish_deletes.apply,
    entry.SetLock: set_lock.apply,
    entry.CancelLock: cancel_lock.apply,
    entry.Fallocate: fallocate.apply,
    entry.CopyRange: copy_range.apply,
    entry.TmpFile: tmp_file.apply,
    entry.SetFlags: set_flags.apply,
    entry.NoteReads: note_reads.apply,
    entry.OpenSession: open_session.apply,
    entry.CloseSession: close_session.apply,
    entry.CreateVolume: create_volume.apply,
    entry.DestroyVolume: destroy_volume.apply,
    entry.SetVolume: set_volume.apply,
    entry.Reap: reap.apply,
}

#: Up to so many acknowledged numbers are forgotten one by one; beyond, the results that exist are looked for.
_FORGET_ONE_BY_ONE: Final = 256


def apply(txn: WriteTxn, entry: Entry) -> list[Result]:
    """Apply every item of `entry` to `txn`; the results are in the order of the items."""
    version, now_ns = entry.index, max(entry.now_ns, last_time(txn))
    txn.put(keys.TIME, codec.encode_counter(now_ns))
    return [_apply_item(txn, version, now_ns, item) for item in entry.items]


def last_time(txn: ReadTxn) -> int:
    """The time of the last entry, in nanoseconds; 0 before the first."""
    value = txn.get(keys.TIME)
    return 0 if value is None else codec.decode_counter(value)


def find_result(txn: ReadTxn, session: int, seq: int) -> Result | None:
    """The kept result of an item that was applied already: lets the service answer a re-sent request without a log entry."""
    value = txn.get(keys.result(session, seq))
    return None if value is None else codec.decode_result(value)


def require_format(txn: ReadTxn) -> None:
    """CorruptState when the state was written in another format; a store that is opened asks this first."""
    value = txn.get(keys.FORMAT)
    if value is not None and codec.decode_counter(value) != codec.FORMAT_VERSION:
        raise CorruptState(f"the state has format {codec.decode_counter(value)}, this program knows {codec.FORMAT_VERSION}")


def _apply_item(txn: WriteTxn, version: int, now_ns: int, item: Item) -> Result:
    session, seq = item.session, item.seq
    volume = 0
    if session:
        value = txn.get(keys.session_acked(session))
        if value is None:
            return Result(errno.ESTALE, f"session {session} is not open")
        acked, volume = codec.decode_acked(value)
        if item.acked_seq > acked:
            _forget(txn, session, acked, item.acked_seq)
            acked = item.acked_seq
            txn.put(keys.session_acked(session), codec.encode_acked(acked, volume))
        if 0 < seq <= acked:
            return Result(errno.EINVAL, f"seq {seq} was acknowledged (up to {acked}), its result is forgotten")
    if not seq:
        return _run(txn, Context(version, now_ns, session, volume), item.op)
    key = keys.result(session, seq)
    kept = txn.get(key)
    if kept is not None:
        return codec.decode_result(kept)
    result = _run(txn, Context(version, now_ns, session, volume, seq), item.op)
    if session:
        txn.put(key, codec.encode_result(result))
    return result


def _run(txn: WriteTxn, ctx: Context, op: entry.Op) -> Result:
    try:
        return OPS[type(op)](txn, ctx, op)
    except FsError as refusal:
        return Result(refusal.errno, refusal.detail)


def _forget(txn: WriteTxn, session: int, acked: int, now_acked: int) -> None:
    """Delete the results acked < seq <= now_acked."""
    if now_acked - acked <= _FORGET_ONE_BY_ONE:
        for seq in range(acked + 1, now_acked + 1):
            txn.delete(keys.result(session, seq))
        return
    last = keys.result(session, now_acked)
    for key in [key for key, _ in txn.scan(keys.results(session)) if key <= last]:
        txn.delete(key)
