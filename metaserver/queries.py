"""Requests that change nothing, answered from the state at once: decode, ask the core, encode, note who saw what.

One row per operation. An answer is written straight into the frame that goes out next. A session reaches only inodes of its
own volume: any other number is as good as none (ENOENT).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from metaserver import wire
from metaserver.core import reads
from metaserver.core.errors import FsError
from metaserver.core.locks import F_UNLCK
from metaserver.core.ops.set_lock import requested

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.core.model import Inode
    from metaserver.core.txn import ReadTxn
    from metaserver.deletes import Deletes
    from metaserver.holds import Holds
    from metaserver.interest import Interest
    from metaserver.orphans import Orphans
    from metaserver.sessions import LiveSession
    from metaserver.streams import Stream
    from protos import meta_pb2

READDIR_MAX: Final = 4096
READDIR_DEFAULT: Final = 1024
CHUNKS_MAX: Final = 64


class Queries:
    """Answers reads for all sessions."""

    def __init__(self, txn: ReadTxn, interest: Interest, holds: Holds, orphans: Orphans, deletes: Deletes) -> None:
        self.txn = txn
        self.interest = interest
        self.holds = holds
        self.orphans = orphans
        self.deletes = deletes

    def answer(self, session: LiveSession, stream: Stream, request: meta_pb2.Request, kind: str) -> None:
        """Add the answer to the stream's frame. `kind` is a key of QUERIES."""
        try:
            QUERIES[kind](self, session, stream, request)
        except FsError as error:
            wire.encode_error(stream.frame, request.id, error)


def _own(session: LiveSession, inode: Inode) -> Inode:
    if inode.volume != session.volume:
        raise FsError(errno.ENOENT, f"inode {inode.ino} is not of the session's volume")
    return inode


def _shown(query: Queries, session: LiveSession, stream: Stream, ino: int) -> Inode:
    """The inode, which the stream watches from now on."""
    inode = _own(session, reads.getattr(query.txn, ino))
    query.interest.saw(stream, inode)
    return inode


def _lookup(query: Queries, session: LiveSession, stream: Stream, r: meta_pb2.Request) -> None:
    m = r.lookup
    parent, name = m.parent, m.name
    try:
        inode = _own(session, reads.lookup(query.txn, parent, name, wire.decode_cred(m.cred)))
    except FsError as error:
        if error.errno == errno.ENOENT:
            query.interest.saw_entry(stream, parent, None)
        raise
    query.interest.saw_entry(stream, parent, inode)
    stream.frame.responses.add(id=r.id, attr=wire.encode_attr(inode))


def _getattr(query: Queries, session: LiveSession, stream: Stream, r: meta_pb2.Request) -> None:
    inode = _shown(query, session, stream, r.getattr.ino)
    stream.frame.responses.add(id=r.id, attr=wire.encode_attr(inode))


def _readlink(query: Queries, session: LiveSession, stream: Stream, r: meta_pb2.Request) -> None:
    _shown(query, session, stream, r.readlink.ino)
    stream.frame.responses.add(id=r.id, data=reads.readlink(query.txn, r.readlink.ino))
    stream.account(0)


def _readdir(query: Queries, session: LiveSession, stream: Stream, r: meta_pb2.Request) -> None:
    m = r.readdir
    limit = min(m.limit, READDIR_MAX) or READDIR_DEFAULT
    page = reads.readdir(query.txn, m.ino, m.after, limit, m.attrs, wire.decode_cred(m.cred))
    directory = _own(session, page.directory)
    interest, ino = query.interest, directory.ino
    interest.saw(stream, directory)
    interest.watch(stream, ino)
    response = stream.frame.responses.add(id=r.id, attr=wire.encode_attr(directory), eof=page.eof)
    add = response.entries.add
    size = 0
    for name, cookie, dentry, inode in page.entries:
        size += len(name) + 160
        if inode is None:
            add(name=name, cookie=cookie, ino=dentry.ino, type=dentry.type)
            continue
        if inode.parent != ino:
            interest.watch(stream, inode.ino)
        add(name=name, cookie=cookie, ino=dentry.ino, type=dentry.type, attr=wire.encode_attr(inode))
    stream.account(size)


def _add_slices(response: meta_pb2.Response, slices: reads.Slices) -> int:
    """Write extents and inline bytes; about how many bytes that is."""
    size = 0
    for chunk in sorted(slices.chunks):
        for e in slices.chunks[chunk]:
            response.extents.add(chunk=chunk, pos=e.pos, len=e.length, slice=e.slice, off=e.off, size=e.size, inline=e.inline)
        size += 40 * len(slices.chunks[chunk])
    for number, data in slices.inline.items():
        response.inline_data.add(slice=number, data=data)
        size += len(data) + 16
    return size


def _open(query: Queries, session: LiveSession, stream: Stream, r: meta_pb2.Request) -> None:
    m = r.open
    inode = _own(session, reads.open_check(query.txn, m.ino, m.flags, wire.decode_cred(m.cred)))
    if inode.nlink == 0 and query.orphans.is_reaping(inode.ino):
        raise FsError(errno.ESTALE, f"inode {inode.ino} is being removed")
    slices = reads.read_slices(query.txn, inode.ino, 0, 1) if m.want_slices and inode.is_reg else None
    query.holds.add(session.id, inode.ino)
    query.interest.saw(stream, inode)
    response = stream.frame.responses.add(id=r.id, attr=wire.encode_attr(inode))
    if slices is not None:
        stream.account(_add_slices(response, slices))


def _read_slices(query: Queries, session: LiveSession, stream: Stream, r: meta_pb2.Request) -> None:
    m = r.read_slices
    if not 1 <= m.chunks <= CHUNKS_MAX:
        raise FsError(errno.EINVAL, f"1..{CHUNKS_MAX} chunks at a time")
    slices = reads.read_slices(query.txn, m.ino, m.first_chunk, m.chunks)
    inode = _own(session, slices.inode)
    query.interest.saw(stream, inode)
    response = stream.frame.responses.add(id=r.id, attr=wire.encode_attr(inode), count=slices.covered)
    stream.account(_add_slices(response, slices))


def _getxattr(query: Queries, session: LiveSession, stream: Stream, r: meta_pb2.Request) -> None:
    m = r.getxattr
    _shown(query, session, stream, m.ino)
    value = reads.getxattr(query.txn, m.ino, m.name, wire.decode_cred(m.cred))
    stream.frame.responses.add(id=r.id, data=value)
    stream.account(len(value))


def _listxattr(query: Queries, session: LiveSession, stream: Stream, r: meta_pb2.Request) -> None:
    _shown(query, session, stream, r.listxattr.ino)
    names = b"".join([name + b"\0" for name in reads.listxattr(query.txn, r.listxattr.ino)])
    stream.frame.responses.add(id=r.id, data=names)
    stream.account(len(names))


def _statfs(query: Queries, session: LiveSession, stream: Stream, r: meta_pb2.Request) -> None:
    usage, settings = reads.statfs(query.txn, session.volume)
    made = stream.frame.responses.add(id=r.id).statfs
    made.SetInParent()
    made.bytes_total, made.bytes_used = settings.capacity_bytes, usage.bytes
    made.inodes_total, made.inodes_used = settings.capacity_inodes, usage.inodes


def _claim_deletes(query: Queries, session: LiveSession, stream: Stream, r: meta_pb2.Request) -> None:
    taken = query.deletes.claim(session.id, session.volume, r.claim_deletes.limit)
    response = stream.frame.responses.add(id=r.id)
    for slice_ in taken:
        response.doomed.add(slice=slice_.slice, size=slice_.size, volume_id=slice_.volume)
    stream.account(24 * len(taken))


def _access(query: Queries, session: LiveSession, stream: Stream, r: meta_pb2.Request) -> None:
    m = r.access
    inode = _own(session, reads.access(query.txn, m.ino, m.mask, wire.decode_cred(m.cred)))
    query.interest.saw(stream, inode)
    stream.frame.responses.add(id=r.id, attr=wire.encode_attr(inode))


def _resolve(query: Queries, session: LiveSession, stream: Stream, r: meta_pb2.Request) -> None:
    m = r.resolve
    if len(m.path) > wire.PATH_BYTES_MAX:
        raise FsError(errno.ENAMETOOLONG)
    _own(session, reads.getattr(query.txn, getattr(m, "from")))
    inode = _own(session, reads.resolve(query.txn, getattr(m, "from"), m.path))
    query.interest.saw(stream, inode)
    stream.frame.responses.add(id=r.id, attr=wire.encode_attr(inode))


def _get_lock(query: Queries, session: LiveSession, stream: Stream, r: meta_pb2.Request) -> None:
    m = r.get_lock
    wanted = requested(session.id, m.owner, m.kind, m.type, m.first, m.last, 0)
    inode = _own(session, reads.getattr(query.txn, m.ino))
    found = reads.lock_in_the_way(query.txn, inode.ino, m.kind, wanted)
    lock = stream.frame.responses.add(id=r.id).lock
    if found is None:
        lock.type = F_UNLCK
    else:
        lock.type, lock.first, lock.last, lock.pid, lock.session = found.type, found.first, found.last, found.pid, found.session


def _lock_wait(query: Queries, session: LiveSession, stream: Stream, r: meta_pb2.Request) -> None:
    waits = reads.waits_for_lock(query.txn, session.id, r.lock_wait.seq)
    stream.frame.responses.add(id=r.id, count=int(waits))


QUERIES: Final[dict[str, Callable[[Queries, LiveSession, Stream, meta_pb2.Request], None]]] = {
    "lookup": _lookup,
    "getattr": _getattr,
    "readlink": _readlink,
    "readdir": _readdir,
    "open": _open,
    "read_slices": _read_slices,
    "getxattr": _getxattr,
    "listxattr": _listxattr,
    "statfs": _statfs,
    "claim_deletes": _claim_deletes,
    "access": _access,
    "resolve": _resolve,
    "get_lock": _get_lock,
    "lock_wait": _lock_wait,
}
