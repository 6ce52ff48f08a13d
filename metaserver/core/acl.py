"""POSIX access control lists as values: their bytes, which lists are good, what they grant, how they change. Pure arithmetic.

The bytes are those of `system.posix_acl_access` and `system.posix_acl_default` (include/uapi/linux/posix_acl_xattr.h): u32
version 2, then per entry u16 tag, u16 permissions, u32 id, little-endian. Every rule is Linux's (fs/posix_acl.c), so that what
is decided here is what a local file system decides.

A list that says no more than a mode is none: it is folded into the mode and not kept. One that is kept has a mask, and the
mode's group bits are the mask. Where the lists are kept is acl_store.py's business; who may set one, acl_change.py's.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from metaserver.core.errors import FsError

if TYPE_CHECKING:
    from collections.abc import Callable

ACCESS: Final = b"system.posix_acl_access"
DEFAULT: Final = b"system.posix_acl_default"
NAMES: Final = (ACCESS, DEFAULT)

USER_OBJ: Final = 0x01
USER: Final = 0x02
GROUP_OBJ: Final = 0x04
GROUP: Final = 0x08
MASK: Final = 0x10
OTHER: Final = 0x20

#: What a kernel that mounts us can read: a page of 4096 bytes.
ENTRIES_MAX: Final = 511

_VERSION: Final = 2
_HEADER: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")
_NO_ID: Final = 0xFFFFFFFF
_ALL: Final = 7
_NAMED: Final = (USER, GROUP)
_GROUPS: Final = (GROUP_OBJ, GROUP)
#: Where the entries that every list has stand in a mode; and where those of a list with a mask do.
_SHIFT: Final = {USER_OBJ: 6, GROUP_OBJ: 3, OTHER: 0}
_SHIFT_MASKED: Final = {USER_OBJ: 6, MASK: 3, OTHER: 0}
#: Tag -> what may come before it, the start of a list being 0. A list ends with OTHER.
_AFTER: Final = {
    USER_OBJ: (0,),
    USER: (USER_OBJ, USER),
    GROUP_OBJ: (USER_OBJ, USER),
    GROUP: (GROUP_OBJ, GROUP),
    MASK: (GROUP_OBJ, GROUP),
    OTHER: (GROUP_OBJ, MASK),
}


class Entry(NamedTuple):
    """Who (`tag`, and `id` of the named ones) may do what (`perm`: r 4, w 2, x 1)."""

    tag: int
    perm: int
    id: int = _NO_ID


Acl: TypeAlias = tuple[Entry, ...]


class Inherited(NamedTuple):
    """What a new inode gets from its directory's default list: its permission bits, and its own list if it says more."""

    mode: int
    access: Acl | None


def decode(value: bytes) -> Acl:
    """The entries, not yet checked by `require_valid`. EINVAL for what is no list, EOPNOTSUPP for another version, E2BIG."""
    if len(value) < _HEADER.size or (len(value) - _HEADER.size) % _ENTRY.size:
        raise FsError(errno.EINVAL, f"{len(value)} bytes are no ACL")
    if _HEADER.unpack_from(value)[0] != _VERSION:
        raise FsError(errno.EOPNOTSUPP, f"an ACL has version {_VERSION}")
    if len(value) > _HEADER.size + ENTRIES_MAX * _ENTRY.size:
        raise FsError(errno.E2BIG, f"an ACL has at most {ENTRIES_MAX} entries")
    found = [Entry._make(one) for one in _ENTRY.iter_unpack(memoryview(value)[_HEADER.size :])]
    # The id of an entry that has none is not looked at: one list is always the same bytes.
    return tuple([one if one.tag in _NAMED else one._replace(id=_NO_ID) for one in found])


def encode(acl: Acl) -> bytes:
    return _HEADER.pack(_VERSION) + b"".join([_ENTRY.pack(*one) for one in acl])


def require_valid(acl: Acl) -> None:
    """EINVAL unless the entries are in order, those that must be are there once, and named ones come with a mask."""
    before = 0
    for one in acl:
        if before not in _AFTER.get(one.tag, ()):
            raise FsError(errno.EINVAL, f"an ACL's entry with tag {one.tag:#x} is out of place")
        if one.perm & ~_ALL or (one.tag in _NAMED and one.id == _NO_ID):
            raise FsError(errno.EINVAL, f"an ACL's entry has permissions {one.perm:#x} and id {one.id}")
        before = one.tag
    if before != OTHER:
        raise FsError(errno.EINVAL, "an ACL ends with the entry for others")
    tags = {one.tag for one in acl}
    if tags.intersection(_NAMED) and MASK not in tags:
        raise FsError(errno.EINVAL, "an ACL with named entries has a mask")


def says_more(acl: Acl) -> bool:
    """Whether a mode cannot say the same."""
    return any(one.tag not in _SHIFT for one in acl)


def mode_bits(acl: Acl) -> int:
    """The nine permission bits that go with a list: the group's are the mask, where there is one."""
    return sum(one.perm << shift for one, shift in _places(acl) if shift is not None)


def with_mode(acl: Acl, mode: int) -> Acl:
    """The list after a chmod: owner and others get their bits, the group's go to the mask, where there is one."""
    return tuple([one if shift is None else one._replace(perm=mode >> shift & _ALL) for one, shift in _places(acl)])


def inherit(default: Acl, mode: int) -> Inherited:
    """What comes of creating something with `mode` in a directory with this default list. No umask is applied."""
    masked = tuple(
        [one if shift is None else one._replace(perm=one.perm & mode >> shift & _ALL) for one, shift in _places(default)]
    )
    return Inherited(mode & ~0o777 | mode_bits(masked), masked if says_more(masked) else None)


def _places(acl: Acl) -> list[tuple[Entry, int | None]]:
    """The entries, each with its place in a mode: that of the group is the mask's, where there is one."""
    places = _SHIFT_MASKED if any(one.tag == MASK for one in acl) else _SHIFT
    return [(one, places.get(one.tag)) for one in acl]


def permits(acl: Acl, want: int, uid: int, gid: int, member: Callable[[int], bool]) -> bool:
    """Whether a user who does not own the inode, of group `gid`, may do all of `want`: acl(5), CHECKING ACCESS PERMISSIONS.
    `member` says whether the user is in a group."""
    mask = next((one.perm for one in acl if one.tag == MASK), _ALL)
    for one in acl:
        if one.tag == USER and one.id == uid:
            return one.perm & mask & want == want
    groups = [one.perm for one in acl if one.tag in _GROUPS and member(gid if one.tag == GROUP_OBJ else one.id)]
    if groups:
        return any(perm & mask & want == want for perm in groups)
    return acl[-1].perm & want == want
