"""What the metadata is made of: plain immutable values, no behaviour beyond naming.

Sizes are bytes, times are signed nanoseconds since the epoch, `version` fields are log indexes.
"""

from __future__ import annotations

import stat
from typing import Final, NamedTuple, NewType

Ino = NewType("Ino", int)

#: Never allocated: FUSE names the root of every mount 1 (FUSE_ROOT_ID), so no real inode may be called so.
RESERVED_INO: Final = Ino(1)

CHUNK_BYTES: Final = 64 << 20
NAME_MAX: Final = 255
SYMLINK_MAX: Final = 4095
XATTR_NAME_MAX: Final = 255
XATTR_VALUE_MAX: Final = 64 << 10
XATTR_LIST_MAX: Final = 64 << 10
LINK_MAX: Final = 2**31 - 1
FILE_SIZE_MAX: Final = 2**57
INLINE_MAX: Final = 64 << 10
#: Inline slices lie within this many times `inline_bytes` from the start of a file, so that a file which is rewritten in small
#: pieces cannot move into the metadata as a whole.
INLINE_REACH: Final = 16
#: The slice of an extent that is allocated and was never written: it reads as zeros, has no objects, no bytes and no owners.
ZEROS: Final = 2**64 - 1
#: Of one chunk. More would be pieces of less than 256 bytes on average.
EXTENTS_MAX: Final = 1 << 18

#: st_size of every directory; a directory's allocation is not metered.
DIRECTORY_SIZE: Final = 4096

#: The cookie of a directory's first entry: 1 and 2 are left for "." and "..", which the client lists itself.
FIRST_COOKIE: Final = 3


class Inode(NamedTuple):
    """One file of any type. `parent`, `allocated`, `rdev`, `next_cookie` mean what the comments say for the type named."""

    ino: Ino
    mode: int  # type and permission bits, as st_mode
    uid: int
    gid: int
    nlink: int
    size: int
    volume: int  # id of the volume it belongs to
    parent: int  # the directory that holds its only entry; 0 when several do (see keys.LINK) or none does
    rdev: int  # devices only
    allocated: int  # regular files: bytes that extents cover, shared ones and zeros included
    next_cookie: int  # directories: the cookie that the next entry gets
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int
    version: int  # log index of the last change to this inode
    data_version: int  # log index of the last change to contents or size
    xattr_bytes: int = 0  # what listxattr gives: the length of every name + 1; 0 = no extended attributes
    acl: int = 0  # number of the access ACL (keys.ACL); 0 = the mode says all
    default_acl: int = 0  # directories: number of the default ACL
    flags: int = 0  # FS_*_FL of ioctl_iflags(2)

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_reg(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)


class Dentry(NamedTuple):
    """What a name in a directory means. `type` is st_mode >> 12; `cookie` orders a listing and is never reused."""

    ino: Ino
    type: int
    cookie: int


class Extent(NamedTuple):
    """`length` bytes at `pos` of a chunk that come from byte `off` of a slice. A chunk's extents are sorted and disjoint.

    slice 0 never appears: what no extent covers is a hole. ZEROS has off 0 and size 0.
    """

    pos: int
    length: int
    slice: int
    off: int
    size: int  # bytes that the whole slice holds; names its objects
    inline: bool  # the slice's bytes are kept in the metadata


class Session(NamedTuple):
    """A client's identity. `acked_seq`: results up to here are forgotten and may not be asked for again."""

    session: int
    volume: int
    root: Ino
    secret: bytes
    client: str
    opened_ns: int
    acked_seq: int


class Volume(NamedTuple):
    id: int
    name: str
    root: Ino
    settings_json: str
    created_ns: int
    destroyed: bool  # being removed; no session may attach


class Usage(NamedTuple):
    """What a volume holds: `bytes` are allocated bytes rounded up to 4 KiB per file."""

    bytes: int
    inodes: int


class Settings(NamedTuple):
    """The settings of a volume that the state machine itself obeys (a subset of settings_json)."""

    capacity_bytes: int  # 0 = no limit
    capacity_inodes: int
    inline_bytes: int
    acl: bool = True  # POSIX ACLs are in force; off, those that there are wait
