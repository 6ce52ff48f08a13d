"""setattr: chmod, chown, truncate, utimens in one. Result: inode.

What Linux does beside the obvious: a chown of anything but a directory takes setuid, setgid and file capabilities away;
so does a truncation by who is not root; a chmod by who is not in the file's group takes setgid away. A mode on a symbolic
link is EOPNOTSUPP. A chmod changes the access ACL too, whether or not the volume has ACLs on. With enforce, permission to
write is asked for a truncation (an open descriptor is the client's word).

Of an immutable inode nothing changes, of an append-only one the times to now (EPERM).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, NamedTuple

from metaserver.core import acl_store, directory, extents, usage, xattrs
from metaserver.core.context import load_for
from metaserver.core.entry import Result, SetAttrValid
from metaserver.core.errors import FsError
from metaserver.core.inode_flags import require_free, require_mutable
from metaserver.core.model import CHUNK_BYTES, FILE_SIZE_MAX
from metaserver.core.permission import (
    S_ISGID,
    WRITE,
    allowed,
    in_group,
    is_owner,
    keeps_setgid,
    require,
    require_owner,
    without_suid,
)
from metaserver.core.ranges import LAST_CHUNK
from metaserver.core.slices import chunks_from, put_chunk, release

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import SetAttr
    from metaserver.core.extents import Held
    from metaserver.core.model import Inode
    from metaserver.core.txn import ReadTxn, WriteTxn

# Plain numbers: an IntFlag's operators cost a microsecond each.
_MODE: Final = int(SetAttrValid.MODE)
_UID: Final = int(SetAttrValid.UID)
_GID: Final = int(SetAttrValid.GID)
_SIZE: Final = int(SetAttrValid.SIZE)
_ATIME: Final = int(SetAttrValid.ATIME)
_MTIME: Final = int(SetAttrValid.MTIME)
_ATIME_NOW: Final = int(SetAttrValid.ATIME_NOW)
_MTIME_NOW: Final = int(SetAttrValid.MTIME_NOW)
_CTIME: Final = int(SetAttrValid.CTIME)
_KILL: Final = int(SetAttrValid.KILL_SUIDGID)
_OWNERSHIP: Final = _UID | _GID
_TIMES: Final = _ATIME | _MTIME | _ATIME_NOW | _MTIME_NOW
_BOTH_NOW: Final = _ATIME_NOW | _MTIME_NOW
_ALL: Final = _MODE | _OWNERSHIP | _SIZE | _TIMES | _CTIME | _KILL


class Cut(NamedTuple):
    """What a truncation does to the chunks of a file."""

    chunks: list[tuple[int, bytes]]
    freed: list[Held]
    allocated: int


def apply(txn: WriteTxn, ctx: Context, op: SetAttr) -> Result:
    inode = load_for(txn, ctx, op.ino)
    valid = op.valid & _ALL
    if inode.flags:
        _require_flags(inode, valid)
    if not valid:
        return Result(0, "", inode)
    _require_size(txn, inode, op, valid)
    if op.cred.enforce:
        _require_owner_rights(txn, inode, op, valid)
    if valid & _MODE and inode.is_symlink:
        raise FsError(errno.EOPNOTSUPP, "a symbolic link has no mode of its own")
    cut = cut_to(txn, inode, op.size) if valid & _SIZE else None
    capability = xattrs.capability_key(txn, inode) if _loses_privilege(inode, valid) else None
    changed = _changed(ctx, inode, op, valid, cut)
    if capability is not None:
        txn.delete(capability)
        changed = changed._replace(xattr_bytes=changed.xattr_bytes - xattrs.listed(xattrs.CAPABILITY))
    if cut is not None and cut.chunks:
        _write_cut(txn, ctx, inode, cut)
    if valid & _MODE and inode.acl:
        changed = changed._replace(acl=acl_store.change_mode(txn, inode.acl, changed.mode))
    directory.store(txn, changed)
    return Result(0, "", changed)


def _require_flags(inode: Inode, valid: int) -> None:
    """Of what is append-only both times may be set to now, and the set-id bits may fall (a chown to nobody new)."""
    if valid & ~(_TIMES | _CTIME | _KILL) or (valid & _TIMES and valid & _BOTH_NOW != _BOTH_NOW):
        require_free(inode)
    require_mutable(inode)


def _require_size(txn: ReadTxn, inode: Inode, op: SetAttr, valid: int) -> None:
    if not valid & _SIZE:
        return
    if inode.is_dir:
        raise FsError(errno.EISDIR, f"inode {inode.ino}")
    if not inode.is_reg:
        raise FsError(errno.EINVAL, f"inode {inode.ino} is not a regular file")
    require(txn, inode, WRITE, op.cred)
    if op.size > FILE_SIZE_MAX:
        raise FsError(errno.EFBIG, f"a file has at most {FILE_SIZE_MAX} bytes")


def _require_owner_rights(txn: ReadTxn, inode: Inode, op: SetAttr, valid: int) -> None:
    """chown, chmod and times, in the order of setattr_prepare."""
    cred = op.cred
    if cred.uid == 0:
        return
    owner = is_owner(inode, cred)
    if valid & _UID and not (owner and op.uid == inode.uid):
        raise FsError(errno.EPERM, f"uid {cred.uid} may not give inode {inode.ino} to uid {op.uid}")
    if valid & _GID and not (owner and (op.gid == inode.gid or in_group(cred, op.gid))):
        raise FsError(errno.EPERM, f"uid {cred.uid} may not give inode {inode.ino} to gid {op.gid}")
    if valid & _MODE:
        require_owner(inode, cred)
    times = valid & _TIMES
    if times & _BOTH_NOW == _BOTH_NOW:  # the kernel sets ATIME and MTIME as well
        if not owner and not allowed(txn, inode, WRITE, cred):
            raise FsError(errno.EACCES, f"inode {inode.ino} is neither uid {cred.uid}'s nor writable")
    elif times:
        require_owner(inode, cred)


def _loses_privilege(inode: Inode, valid: int) -> bool:
    """Whether file capabilities go."""
    return bool(valid & (_SIZE | _KILL) or (valid & _OWNERSHIP and not inode.is_dir))


def _mode_after(inode: Inode, op: SetAttr, valid: int) -> int:
    mode, cred = inode.mode, op.cred
    gid = op.gid if valid & _GID else inode.gid
    if valid & _MODE:
        mode = mode & 0o170000 | op.mode & 0o7777
        if not keeps_setgid(gid, cred):
            mode &= ~S_ISGID
    if inode.is_dir:
        return mode
    if valid & _OWNERSHIP:
        mode = without_suid(mode)
        if not keeps_setgid(inode.gid, cred):
            mode &= ~S_ISGID
    if valid & _KILL or (valid & _SIZE and cred.enforce and cred.uid != 0):
        mode = without_suid(mode)
    return mode


def _changed(ctx: Context, inode: Inode, op: SetAttr, valid: int, cut: Cut | None) -> Inode:
    now = ctx.now_ns
    atime, mtime = inode.atime_ns, inode.mtime_ns
    if valid & _SIZE:
        mtime = now
    if valid & _ATIME_NOW:
        atime = now
    elif valid & _ATIME:
        atime = op.atime_ns
    if valid & _MTIME_NOW:
        mtime = now
    elif valid & _MTIME:
        mtime = op.mtime_ns
    return inode._replace(
        mode=_mode_after(inode, op, valid),
        uid=op.uid if valid & _UID else inode.uid,
        gid=op.gid if valid & _GID else inode.gid,
        size=op.size if valid & _SIZE else inode.size,
        allocated=inode.allocated + cut.allocated if cut is not None else inode.allocated,
        atime_ns=atime,
        mtime_ns=mtime,
        ctime_ns=op.ctime_ns if valid & _CTIME else now,
        version=ctx.version,
        data_version=ctx.version if valid & _SIZE else inode.data_version,
    )


def cut_to(txn: ReadTxn, inode: Inode, size: int) -> Cut:
    """What goes when a file gets `size` bytes; nothing when it grows. What is allocated beyond the end goes as well."""
    if size > inode.size or not inode.allocated:
        return Cut([], [], 0)
    first, keep = divmod(size, CHUNK_BYTES)
    last = max(inode.size - 1, 0) // CHUNK_BYTES
    cut = _cut(chunks_from(txn, inode.ino, first, last), first, keep)
    if not size and cut.allocated == -inode.allocated:
        return cut  # that was all
    beyond = _cut(chunks_from(txn, inode.ino, last + 1, LAST_CHUNK), first, keep)
    return Cut(cut.chunks + beyond.chunks, cut.freed + beyond.freed, cut.allocated + beyond.allocated)


def _cut(records: list[tuple[int, bytes]], first: int, keep: int) -> Cut:
    """Of these records, `keep` bytes of the first chunk stay."""
    chunks: list[tuple[int, bytes]] = []
    freed: list[Held] = []
    allocated = 0
    for index, value in records:
        after = extents.truncate(value, keep if index == first else 0)
        if after.allocated:
            chunks.append((index, after.value))
            freed += after.freed
            allocated += after.allocated
    return Cut(chunks, freed, allocated)


def _write_cut(txn: WriteTxn, ctx: Context, inode: Inode, cut: Cut) -> None:
    held = usage.ledger(txn, inode.volume)
    less = usage.charged(inode.allocated + cut.allocated) - usage.charged(inode.allocated)
    for index, value in cut.chunks:
        put_chunk(txn, inode.ino, index, value)
    release(txn, ctx, inode.volume, cut.freed)
    usage.charge(txn, inode.volume, held, less, 0)
