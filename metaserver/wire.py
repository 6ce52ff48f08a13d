"""The only translator between protobuf and the core's values.

`decode_change` turns a client's request into an op, `decode_entry` a logged payload into an Entry, `encode_*` turn results into
responses. Decoding is pure and total: the same bytes give the same op when they arrive and when they are replayed. What a
client may not send is refused before that, by `check_change`; what is in the log has passed once and is not asked again, so
that a limit may be lowered without making an old log unreadable.

One table row per operation. This is on the path of every request: about 5 us of decode and encode for a create.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from metaserver.core import entry as ops
from metaserver.core.errors import CorruptState, FsError
from metaserver.core.model import INLINE_MAX, SYMLINK_MAX, XATTR_NAME_MAX, XATTR_VALUE_MAX, Ino
from protos import meta_pb2, raft_pb2
from protos.attr_layout import ATTR, BLKSIZE, NO_XATTRS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from metaserver.core.model import Inode

FRAME_BYTES_MAX: Final = 8 << 20
REQUESTS_MAX: Final = 4096
RELEASED_MAX: Final = 65536
OPEN_INODES_MAX: Final = 1 << 20
NAME_BYTES_MAX: Final = 4096  # beyond the file system's own limit, so that the core gives the right errno
PATH_BYTES_MAX: Final = 4096
SLICES_MAX: Final = 1024
FINISHED_MAX: Final = 4096
READS_MAX: Final = 4096
LEASE_MAX: Final = 1 << 20
GROUPS_MAX: Final = 65536
PROTOCOL: Final = 1

_NS: Final = 1_000_000_000
_KEPT_CREDS_MAX: Final = 4096
_kept_creds: dict[tuple[int, int], ops.Cred] = {}


class FrameError(Exception):
    """The peer broke the protocol; the stream cannot go on. The text says which rule."""


# --- frames ---------------------------------------------------------------------------------------------------------


def decode_frame(raw: bytes) -> meta_pb2.ClientFrame:
    """One frame of a client, within the limits of docs/WIRE.md. Raises FrameError."""
    if len(raw) > FRAME_BYTES_MAX:
        raise FrameError(f"a frame of {len(raw)} bytes; the limit is {FRAME_BYTES_MAX}")
    try:
        frame = meta_pb2.ClientFrame.FromString(raw)
    except DecodeError as error:
        raise FrameError(f"not a ClientFrame ({len(raw)} bytes)") from error
    if len(frame.requests) > REQUESTS_MAX:
        raise FrameError(f"{len(frame.requests)} requests in one frame; the limit is {REQUESTS_MAX}")
    if len(frame.released) > RELEASED_MAX:
        raise FrameError(f"{len(frame.released)} released inodes in one frame; the limit is {RELEASED_MAX}")
    if len(frame.attach.open_inodes) > OPEN_INODES_MAX:
        raise FrameError(f"{len(frame.attach.open_inodes)} open inodes in one attach; the limit is {OPEN_INODES_MAX}")
    return frame


# --- checks of what a client sends ----------------------------------------------------------------------------------


def _check_name(name: bytes) -> None:
    if len(name) > NAME_BYTES_MAX:
        raise FsError(errno.ENAMETOOLONG)


def _check_symlink(r: meta_pb2.Request) -> None:
    _check_name(r.symlink.name)
    if len(r.symlink.target) > SYMLINK_MAX:
        raise FsError(errno.ENAMETOOLONG)


def _check_rename(r: meta_pb2.Request) -> None:
    _check_name(r.rename.name)
    _check_name(r.rename.name2)


def _check_commit(r: meta_pb2.Request) -> None:
    slices = r.commit_slices.slices
    if len(slices) > SLICES_MAX:
        raise FsError(errno.E2BIG, f"{len(slices)} slices in one commit; the limit is {SLICES_MAX}")
    for piece in slices:
        if len(piece.data) > INLINE_MAX:
            raise FsError(errno.EINVAL, f"an inline slice of {len(piece.data)} bytes; the limit is {INLINE_MAX}")


def _check_setxattr(r: meta_pb2.Request) -> None:
    _check_xattr_name(r.setxattr.name)
    if len(r.setxattr.value) > XATTR_VALUE_MAX:
        raise FsError(errno.E2BIG, f"a value of {len(r.setxattr.value)} bytes; the limit is {XATTR_VALUE_MAX}")


def _check_xattr_name(name: bytes) -> None:
    if len(name) > XATTR_NAME_MAX:
        raise FsError(errno.ERANGE, f"an xattr name of {len(name)} bytes; the limit is {XATTR_NAME_MAX}")


def _check_lease(r: meta_pb2.Request) -> None:
    if not 1 <= r.lease_ids.count <= LEASE_MAX:
        raise FsError(errno.EINVAL, f"a lease holds 1..{LEASE_MAX} numbers")


def _check_finish(r: meta_pb2.Request) -> None:
    if len(r.finish_deletes.slices) > FINISHED_MAX:
        raise FsError(errno.E2BIG, f"more than {FINISHED_MAX} slices")


def _check_reads(r: meta_pb2.Request) -> None:
    if len(r.note_reads.inodes) > READS_MAX:
        raise FsError(errno.E2BIG, f"more than {READS_MAX} inodes")


_CHECKS: Final[dict[str, Callable[[meta_pb2.Request], None]]] = {
    "create": lambda r: _check_name(r.create.name),
    "mkdir": lambda r: _check_name(r.mkdir.name),
    "mknod": lambda r: _check_name(r.mknod.name),
    "symlink": _check_symlink,
    "link": lambda r: _check_name(r.link.name),
    "unlink": lambda r: _check_name(r.unlink.name),
    "rmdir": lambda r: _check_name(r.rmdir.name),
    "rename": _check_rename,
    "commit_slices": _check_commit,
    "setxattr": _check_setxattr,
    "removexattr": lambda r: _check_xattr_name(r.removexattr.name),
    "lease_ids": _check_lease,
    "finish_deletes": _check_finish,
    "note_reads": _check_reads,
}


def check_change(request: meta_pb2.Request, kind: str) -> None:
    """Refuse (FsError) what may not enter the log. `kind` is the name of the request's op."""
    check = _CHECKS.get(kind)
    if check is not None:
        check(request)


# --- requests and log items -> ops ----------------------------------------------------------------------------------


def decode_cred(cred: meta_pb2.Cred) -> ops.Cred:
    """Who asks. Without `enforce` the groups do not matter, and few users share all requests: those are kept. The one limit
    that is checked in decoding, since nothing else looks at the groups: FsError."""
    if cred.enforce:
        if len(cred.groups) > GROUPS_MAX:
            raise FsError(errno.EINVAL, f"more than {GROUPS_MAX} groups")
        return ops.Cred(cred.uid, cred.gid, tuple(cred.groups), True)
    key = (cred.uid, cred.gid)
    kept = _kept_creds.get(key)
    if kept is None:
        if len(_kept_creds) >= _KEPT_CREDS_MAX:
            _kept_creds.clear()
        kept = _kept_creds[key] = ops.Cred(*key)
    return kept


def _create(r: meta_pb2.Request) -> ops.Op:
    m = r.create
    return ops.Create(Ino(m.parent), m.name, m.mode, m.umask, m.exclusive, decode_cred(m.cred), m.ino)


def _mkdir(r: meta_pb2.Request) -> ops.Op:
    m = r.mkdir
    return ops.MkDir(Ino(m.parent), m.name, m.mode, m.umask, decode_cred(m.cred), m.ino)


def _mknod(r: meta_pb2.Request) -> ops.Op:
    m = r.mknod
    return ops.MkNod(Ino(m.parent), m.name, m.mode, m.umask, m.rdev, decode_cred(m.cred), m.ino)


def _symlink(r: meta_pb2.Request) -> ops.Op:
    m = r.symlink
    return ops.SymLink(Ino(m.parent), m.name, m.target, decode_cred(m.cred), m.ino)


def _link(r: meta_pb2.Request) -> ops.Op:
    m = r.link
    return ops.Link(Ino(m.ino), Ino(m.parent), m.name, decode_cred(m.cred))


def _unlink(r: meta_pb2.Request) -> ops.Op:
    m = r.unlink
    return ops.Unlink(Ino(m.parent), m.name, decode_cred(m.cred))


def _rmdir(r: meta_pb2.Request) -> ops.Op:
    m = r.rmdir
    return ops.RmDir(Ino(m.parent), m.name, decode_cred(m.cred))


def _rename(r: meta_pb2.Request) -> ops.Op:
    m = r.rename
    return ops.Rename(Ino(m.parent), m.name, Ino(m.parent2), m.name2, m.flags, decode_cred(m.cred))


def _setattr(r: meta_pb2.Request) -> ops.Op:
    m = r.setattr
    return ops.SetAttr(
        Ino(m.ino), m.valid, m.mode, m.uid, m.gid, m.size, m.atime_ns, m.mtime_ns, m.ctime_ns, decode_cred(m.cred)
    )


def _commit_slices(r: meta_pb2.Request) -> ops.Op:
    m = r.commit_slices
    slices = tuple([ops.NewSlice(s.chunk, s.pos, s.slice, s.size, s.off, s.len, s.data) for s in m.slices])
    return ops.CommitSlices(Ino(m.ino), slices, m.mtime_ns, m.kill_priv)


def _setxattr(r: meta_pb2.Request) -> ops.Op:
    m = r.setxattr
    return ops.SetXattr(Ino(m.ino), m.name, m.value, m.flags, decode_cred(m.cred), m.clear_setgid)


def _removexattr(r: meta_pb2.Request) -> ops.Op:
    m = r.removexattr
    return ops.RemoveXattr(Ino(m.ino), m.name, decode_cred(m.cred))


def _lease_ids(r: meta_pb2.Request) -> ops.Op:
    return ops.LeaseIds(r.lease_ids.kind, r.lease_ids.count)


def _finish_deletes(r: meta_pb2.Request) -> ops.Op:
    return ops.FinishDeletes(tuple(r.finish_deletes.slices))


def _set_lock(r: meta_pb2.Request) -> ops.Op:
    m = r.set_lock
    return ops.SetLock(Ino(m.ino), m.owner, m.kind, m.type, m.first, m.last, m.pid, m.wait)


def _cancel_lock(r: meta_pb2.Request) -> ops.Op:
    return ops.CancelLock(r.cancel_lock.seq)


def _fallocate(r: meta_pb2.Request) -> ops.Op:
    m = r.fallocate
    return ops.Fallocate(Ino(m.ino), m.mode, m.offset, m.length, m.kill_priv)


def _copy_range(r: meta_pb2.Request) -> ops.Op:
    m = r.copy_range
    return ops.CopyRange(Ino(m.ino), m.offset, Ino(m.ino2), m.offset2, m.length, m.kill_priv)


def _tmpfile(r: meta_pb2.Request) -> ops.Op:
    m = r.tmpfile
    return ops.TmpFile(Ino(m.parent), m.mode, m.umask, decode_cred(m.cred), m.ino)


def _set_flags(r: meta_pb2.Request) -> ops.Op:
    m = r.set_flags
    return ops.SetFlags(Ino(m.ino), m.flags, decode_cred(m.cred))


def _note_reads(r: meta_pb2.Request) -> ops.Op:
    m = r.note_reads
    return ops.NoteReads(tuple([Ino(ino) for ino in m.inodes]), m.atime_ns)


CHANGES: Final[dict[str, Callable[[meta_pb2.Request], ops.Op]]] = {
    "create": _create,
    "mkdir": _mkdir,
    "mknod": _mknod,
    "symlink": _symlink,
    "link": _link,
    "unlink": _unlink,
    "rmdir": _rmdir,
    "rename": _rename,
    "setattr": _setattr,
    "commit_slices": _commit_slices,
    "setxattr": _setxattr,
    "removexattr": _removexattr,
    "lease_ids": _lease_ids,
    "finish_deletes": _finish_deletes,
    "set_lock": _set_lock,
    "cancel_lock": _cancel_lock,
    "fallocate": _fallocate,
    "copy_range": _copy_range,
    "tmpfile": _tmpfile,
    "set_flags": _set_flags,
    "note_reads": _note_reads,
}


def decode_change(request: meta_pb2.Request, kind: str) -> ops.Op:
    """The op that a request asks for; `kind` is a key of CHANGES."""
    return CHANGES[kind](request)


# The service's own operations: protobuf <-> op, both ways because this side makes them.


def _open_session(i: raft_pb2.Item) -> ops.Op:
    m = i.open_session
    return ops.OpenSession(m.volume_id, Ino(m.root), m.secret, m.client)


def _close_session(i: raft_pb2.Item) -> ops.Op:
    return ops.CloseSession(i.close_session.session, i.close_session.expired)


def _create_volume(i: raft_pb2.Item) -> ops.Op:
    m = i.create_volume
    return ops.CreateVolume(m.name, m.settings_json, m.uid, m.gid, m.mode)


def _destroy_volume(i: raft_pb2.Item) -> ops.Op:
    return ops.DestroyVolume(i.destroy_volume.volume_id, i.destroy_volume.limit)


def _set_volume(i: raft_pb2.Item) -> ops.Op:
    return ops.SetVolume(i.set_volume.volume_id, i.set_volume.settings_json)


def _reap(i: raft_pb2.Item) -> ops.Op:
    return ops.Reap(tuple([Ino(ino) for ino in i.reap.inodes]), i.reap.chunk_limit)


_SERVICE_OPS: Final[dict[str, Callable[[raft_pb2.Item], ops.Op]]] = {
    "open_session": _open_session,
    "close_session": _close_session,
    "create_volume": _create_volume,
    "destroy_volume": _destroy_volume,
    "set_volume": _set_volume,
    "reap": _reap,
}


def encode_service_op(item: raft_pb2.Item, op: ops.Op) -> None:
    """Write one of the service's own ops into a log item. SetInParent: one whose fields are all zero is still there."""
    match op:
        case ops.OpenSession():
            item.open_session.SetInParent()
            item.open_session.volume_id = op.volume
            item.open_session.secret = op.secret
            item.open_session.client = op.client
            item.open_session.root = op.root
        case ops.CloseSession():
            item.close_session.SetInParent()
            item.close_session.session = op.session
            item.close_session.expired = op.expired
        case ops.CreateVolume():
            made = item.create_volume
            made.SetInParent()
            made.name, made.settings_json, made.uid, made.gid, made.mode = op.name, op.settings_json, op.uid, op.gid, op.mode
        case ops.DestroyVolume():
            item.destroy_volume.SetInParent()
            item.destroy_volume.volume_id = op.volume
            item.destroy_volume.limit = op.limit
        case ops.SetVolume():
            item.set_volume.SetInParent()
            item.set_volume.volume_id = op.volume
            item.set_volume.settings_json = op.settings_json
        case ops.Reap():
            item.reap.SetInParent()
            item.reap.inodes.extend(op.inodes)
            item.reap.chunk_limit = op.chunk_limit
        case ops.FinishDeletes():
            item.client.finish_deletes.SetInParent()
            item.client.finish_deletes.slices.extend(op.slices)
        case _:
            raise TypeError(f"{type(op).__name__} is no operation of the service")


def _decode_item(item: raft_pb2.Item) -> ops.Item:
    kind = item.WhichOneof("op")
    if kind == "client":
        inner = item.client.WhichOneof("op")
        decode = CHANGES.get(inner) if inner else None
        if decode is None:
            raise CorruptState(f"a log item of session {item.session} holds no change that this version knows ({inner})")
        return ops.Item(item.session, item.seq, item.acked_seq, decode(item.client))
    own = _SERVICE_OPS.get(kind) if kind else None
    if own is None:
        raise CorruptState(f"a log item holds no operation that this version knows ({kind})")
    return ops.Item(item.session, item.seq, item.acked_seq, own(item))


def decode_entry(index: int, payload: bytes) -> ops.Entry:
    """What one log index holds. Raises CorruptState on what no version of this program wrote."""
    try:
        logged = raft_pb2.LogEntry.FromString(payload)
    except DecodeError as error:
        raise CorruptState(f"log entry {index} is no LogEntry ({len(payload)} bytes)") from error
    return ops.Entry(index, logged.now_ns, tuple([_decode_item(item) for item in logged.items]))


# --- results -> responses -------------------------------------------------------------------------------------------


def encode_attr(inode: Inode) -> bytes:
    """The layout of protos/attr_layout.py."""
    (
        ino,
        mode,
        uid,
        gid,
        nlink,
        size,
        _volume,
        parent,
        rdev,
        allocated,
        _next_cookie,
        atime_ns,
        mtime_ns,
        ctime_ns,
        btime_ns,
        version,
        data_version,
        xattr_bytes,
        _acl,
        _default_acl,
        flags,
    ) = inode
    return ATTR.pack(
        ino,
        size,
        ((allocated + 4095) >> 12) << 3,
        atime_ns // _NS,
        mtime_ns // _NS,
        ctime_ns // _NS,
        atime_ns % _NS,
        mtime_ns % _NS,
        ctime_ns % _NS,
        mode,
        nlink,
        uid,
        gid,
        rdev,
        BLKSIZE,
        0,
        btime_ns,
        parent,
        version,
        data_version,
        0 if xattr_bytes else NO_XATTRS,
        flags,
    )


def encode_result(frame: meta_pb2.ServerFrame, request_id: int, result: ops.Result) -> None:
    """Add the answer to a change. Unset fields cost nothing on the wire, so there is no case by kind."""
    if result.errno:
        frame.responses.add(id=request_id, errno=result.errno, detail=printable(result.detail))
        return
    inode, parent = result.inode, result.parent
    response = frame.responses.add(
        id=request_id,
        attr=b"" if inode is None else encode_attr(inode),
        parent_attr=b"" if parent is None else encode_attr(parent),
    )
    if result.parent2 is not None:
        response.parent2_attr = encode_attr(result.parent2)
    if result.other is not None:
        response.other_attr = encode_attr(result.other)
    if result.existed:
        response.existed = True
    if result.first:
        response.first = result.first
    if result.count:
        response.count = result.count


def encode_error(frame: meta_pb2.ServerFrame, request_id: int, error: FsError) -> None:
    """Add a refusal."""
    frame.responses.add(id=request_id, errno=error.errno, detail=printable(error.detail))


def printable(text: str) -> str:
    """Names are any bytes and may stand in a message; a protobuf string has to be UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def encode_payload(now_ns: int, items: Iterable[tuple[ops.Item, meta_pb2.Request | None, object]]) -> bytes:
    """The bytes of one log entry. An item of a client travels as the request that brought it (the third is not looked at)."""
    logged = raft_pb2.LogEntry(now_ns=now_ns)
    add = logged.items.add
    for item, request, _ in items:
        made = add(session=item.session, seq=item.seq, acked_seq=item.acked_seq)
        if request is None:
            encode_service_op(made, item.op)
        else:
            made.client.CopyFrom(request)
    return logged.SerializeToString()
