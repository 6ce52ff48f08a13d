"""How an inode comes to be: its number, owner, mode, ACLs, first name, and its place in the volume's ledger.

`prepare` decides everything (and may refuse); `write` only writes. A number comes from the counter, or from a range that
was leased to the session; each is used once: what is taken from a range leaves it.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, NamedTuple

from metaserver.core import acl, acl_store, codec, directory, keys, usage, xattrs
from metaserver.core.errors import FsError
from metaserver.core.inode_flags import INHERITED
from metaserver.core.model import DIRECTORY_SIZE, FIRST_COOKIE, LINK_MAX, Inode
from metaserver.core.permission import S_ISGID, keeps_setgid

if TYPE_CHECKING:
    from metaserver.core.context import Context
    from metaserver.core.entry import Cred
    from metaserver.core.txn import ReadTxn, WriteTxn

#: A session that uses its numbers out of order leaves gaps; beyond so many ranges the oldest numbers are given up.
RANGES_MAX: Final = 64

_TYPE: Final = 0o170000
_DIR: Final = 0o040000
_SYMLINK: Final = 0o120000
_SETGID_EXEC: Final = 0o2010
_new: Final = tuple.__new__


class Birth(NamedTuple):
    """A decided birth: the new inode, its directory as it will be, and what else `write` needs."""

    inode: Inode
    parent: Inode
    name: bytes  # empty: it gets none
    cookie: int
    ledger: codec.Ledger
    ranges: list[tuple[int, int]] | None  # of the session's lease, without the number; None = the counter gives it
    lists: tuple[bytes, ...]  # the inode's ACLs, one more use of each


class _Lists(NamedTuple):
    """What a new inode has of ACLs: its fields xattr_bytes, acl, default_acl, and the values that it uses."""

    fields: tuple[int, int, int]
    values: tuple[bytes, ...]


_NO_LISTS: Final = _Lists((0, 0, 0), ())


def counter(txn: ReadTxn, key: bytes) -> int:
    """The next number that a counter gives."""
    value = txn.get(key)
    return keys.FIRST_NUMBER[key] if value is None else codec.decode_counter(value)


def prepare(
    txn: ReadTxn,
    ctx: Context,
    parent: Inode,
    name: bytes,
    mode: int,
    cred: Cred,
    wanted: int,
    *,
    umask: int = 0,
    rdev: int = 0,
    size: int = 0,
) -> Birth:
    """Decide a birth in a directory that may be written and where `name` is free. `mode` holds the type; the umask counts
    where no default ACL does."""
    is_dir = mode & _TYPE == _DIR
    if is_dir and parent.nlink >= LINK_MAX:
        raise FsError(errno.EMLINK, f"directory {parent.ino} has {parent.nlink} links")
    held = usage.ledger(txn, parent.volume)
    usage.require_inode(held)
    ranges = None
    if wanted:
        ino, ranges = wanted, take_leased(txn, ctx.session, wanted)
    else:
        ino = counter(txn, keys.NEXT_INO)
    gid = cred.gid
    if parent.mode & S_ISGID:
        gid = parent.gid
        if is_dir:
            mode |= S_ISGID
        elif mode & _SETGID_EXEC == _SETGID_EXEC and not keeps_setgid(gid, cred):
            mode &= ~S_ISGID
    lists: _Lists = _NO_LISTS
    if parent.default_acl and mode & _TYPE != _SYMLINK and held.settings.acl:
        mode, lists = _inherit(txn, parent, mode)
    else:
        mode &= ~(umask & 0o777)
    index, now, _, _, _ = ctx
    fields = (
        *(ino, mode, cred.uid, gid, 2 if is_dir else 1, DIRECTORY_SIZE if is_dir else size, parent.volume, parent.ino, rdev, 0),
        *(FIRST_COOKIE if is_dir else 0, now, now, now, now, index, index, *lists.fields, parent.flags & INHERITED),
    )
    cookie = parent.next_cookie
    after = directory.touched(parent, ctx, subdirs=1 if is_dir else 0, next_cookie=cookie + 1)
    return Birth(_new(Inode, fields), after, name, cookie, held, ranges, lists.values)


def _inherit(txn: ReadTxn, parent: Inode, mode: int) -> tuple[int, _Lists]:
    """The mode and the ACLs of what is made in a directory with a default ACL; directories pass that on."""
    default = acl_store.load(txn, parent.default_acl)
    mode, access = acl.inherit(default, mode)
    values, listed, own, inherited = [], 0, 0, 0
    if access is not None:
        values.append(acl.encode(access))
        listed += xattrs.listed(acl.ACCESS)
        own = acl_store.number_of(txn, values[0])
    if mode & _TYPE == _DIR:
        values.append(acl.encode(default))
        listed += xattrs.listed(acl.DEFAULT)
        inherited = parent.default_acl
    return mode, _Lists((listed, own, inherited), tuple(values))


def unnamed(birth: Birth) -> Birth:
    """The same birth without an entry: the directory stays as it is, the inode is an orphan that may get a name."""
    return birth._replace(inode=birth.inode._replace(nlink=0, parent=0), name=b"")


def write(txn: WriteTxn, ctx: Context, birth: Birth) -> None:
    inode, parent, name, cookie, held, ranges, lists = birth
    ino = inode[0]
    if ranges is None:
        txn.put(keys.NEXT_INO, codec.encode_counter(ino + 1))
    else:
        put_lease(txn, ctx.session, ranges)
    for value in lists:
        acl_store.use(txn, value)
    directory.store(txn, inode)
    if name:
        directory.put_entry(txn, parent[0], name, ino, inode[1] >> 12, cookie)
        directory.store(txn, parent)
    else:
        txn.put(keys.orphan(ino), codec.UNNAMED_MARK)
    usage.charge(txn, inode[6], held, 0, 1)


def take_leased(txn: ReadTxn, session: int, number: int) -> list[tuple[int, int]]:
    """The session's ranges without `number`; EINVAL when it is in none of them."""
    value = txn.get(keys.lease(session))
    ranges = [] if value is None else codec.decode_ranges(value)
    for at, (first, last) in enumerate(ranges):
        if first <= number <= last:
            ranges[at : at + 1] = [one for one in ((first, number - 1), (number + 1, last)) if one[0] <= one[1]]
            return ranges[-RANGES_MAX:]
    raise FsError(errno.EINVAL, f"inode number {number} is not leased to the session, or was used")


def put_lease(txn: WriteTxn, session: int, ranges: list[tuple[int, int]]) -> None:
    if ranges:
        txn.put(keys.lease(session), codec.encode_ranges(ranges))
    else:
        txn.delete(keys.lease(session))
