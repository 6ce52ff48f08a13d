"""The fixed layout in which inode attributes travel (`bytes attr` in meta.proto).

A directory listing holds thousands of attributes; measured, a fixed struct costs a sixth of a protobuf message to build
and to read. The first 88 bytes are laid out as the kernel's `struct fuse_attr` (include/uapi/linux/fuse.h, little-endian),
so a client hands them on without touching them. What follows is ours.

    offset  type  field
    0       u64   ino
    8       u64   size         bytes
    16      u64   blocks       what is allocated, charged in units of 4 KiB, in 512-byte units as st_blocks
    24      i64   atime_s      seconds; the nanoseconds follow below
    32      i64   mtime_s
    40      i64   ctime_s
    48      u32   atime_nsec
    52      u32   mtime_nsec
    56      u32   ctime_nsec
    60      u32   mode         type and permission bits, as st_mode
    64      u32   nlink
    68      u32   uid
    72      u32   gid
    76      u32   rdev
    80      u32   blksize      preferred I/O size, bytes
    84      u32   fuse_flags   always 0
    88      i64   btime_ns
    96      u64   parent       directory that holds the only entry; 0 when there are several or none
    104     u64   version      log index of the last change to the inode
    112     u64   data_version log index of the last change to the file's contents or size
    120     u32   flags        bit 0 (NO_XATTRS): the inode has no extended attributes; the rest is reserved, 0
    124     u32   inode_flags  FS_*_FL of ioctl_iflags(2): immutable, append-only, nodump
"""

from __future__ import annotations

import struct
from typing import Final

ATTR: Final = struct.Struct("<QQQqqqIIIIIIIIIIqQQQII")
ATTR_BYTES: Final = 128
FUSE_ATTR_BYTES: Final = 88
BLKSIZE: Final = 4096
NO_XATTRS: Final = 1

assert ATTR.size == ATTR_BYTES
