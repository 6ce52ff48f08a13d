"""The kernel's FUSE protocol as tables: opcodes, flags, and the layouts of what crosses /dev/fuse.

The source is include/uapi/linux/fuse.h, protocol 7.31 (Linux 5.4) to 7.45 (Linux 6.18); names are the kernel's without their
prefix. Numbers are little-endian, as on every machine that KeelFS supports. Padding is written `x`, so a layout's fields are
exactly those that mean something. No logic lives here; tests/kernel/test_protocol_layouts.py compares every table with the
C header.
"""

from __future__ import annotations

import enum
import struct
from typing import Final

VERSION_MAJOR: Final = 7
MINOR_OLDEST: Final = 31
MINOR_NEWEST: Final = 45
ROOT_ID: Final = 1


class Opcode(enum.IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


class Notify(enum.IntEnum):
    """What user space may tell the kernel unasked: the `error` field of a message whose `unique` is 0."""

    INVAL_INODE = 2
    INVAL_ENTRY = 3
    STORE = 4
    RETRIEVE = 5
    DELETE = 6
    RESEND = 7
    INC_EPOCH = 8  # since 7.44


class InitFlag(enum.IntFlag):
    """Capabilities, offered by the kernel in INIT and taken in the reply. Bits from 32 on travel in `flags2`."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    FILE_OPS = 1 << 2
    ATOMIC_O_TRUNC = 1 << 3
    EXPORT_SUPPORT = 1 << 4
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    SPLICE_WRITE = 1 << 7
    SPLICE_MOVE = 1 << 8
    SPLICE_READ = 1 << 9
    FLOCK_LOCKS = 1 << 10
    HAS_IOCTL_DIR = 1 << 11
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    HANDLE_KILLPRIV = 1 << 19
    POSIX_ACL = 1 << 20
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    EXPLICIT_INVAL_DATA = 1 << 25
    MAP_ALIGNMENT = 1 << 26
    SUBMOUNTS = 1 << 27
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30
    SECURITY_CTX = 1 << 32
    HAS_INODE_DAX = 1 << 33
    CREATE_SUPP_GROUP = 1 << 34
    HAS_EXPIRE_ONLY = 1 << 35
    DIRECT_IO_ALLOW_MMAP = 1 << 36
    PASSTHROUGH = 1 << 37
    NO_EXPORT_SUPPORT = 1 << 38
    HAS_RESEND = 1 << 39
    ALLOW_IDMAP = 1 << 40
    OVER_IO_URING = 1 << 41
    REQUEST_TIMEOUT = 1 << 42


# setattr: which fields count
FATTR_MODE: Final = 1 << 0
FATTR_UID: Final = 1 << 1
FATTR_GID: Final = 1 << 2
FATTR_SIZE: Final = 1 << 3
FATTR_ATIME: Final = 1 << 4
FATTR_MTIME: Final = 1 << 5
FATTR_FH: Final = 1 << 6
FATTR_ATIME_NOW: Final = 1 << 7
FATTR_MTIME_NOW: Final = 1 << 8
FATTR_LOCKOWNER: Final = 1 << 9
FATTR_CTIME: Final = 1 << 10
FATTR_KILL_SUIDGID: Final = 1 << 11

# replies to open, create and opendir
FOPEN_DIRECT_IO: Final = 1 << 0
FOPEN_KEEP_CACHE: Final = 1 << 1
FOPEN_NONSEEKABLE: Final = 1 << 2
FOPEN_CACHE_DIR: Final = 1 << 3
FOPEN_STREAM: Final = 1 << 4
FOPEN_NOFLUSH: Final = 1 << 5
FOPEN_PARALLEL_DIRECT_WRITES: Final = 1 << 6

GETATTR_FH: Final = 1 << 0
OPEN_KILL_SUIDGID: Final = 1 << 0
WRITE_CACHE: Final = 1 << 0
WRITE_LOCKOWNER: Final = 1 << 1
WRITE_KILL_SUIDGID: Final = 1 << 2
FSYNC_FDATASYNC: Final = 1 << 0
RELEASE_FLUSH: Final = 1 << 0
RELEASE_FLOCK_UNLOCK: Final = 1 << 1
EXPIRE_ONLY: Final = 1 << 0
SETXATTR_ACL_KILL_SGID: Final = 1 << 0
LK_FLOCK: Final = 1 << 0

# statx: what an answer holds
STATX_BASIC_STATS: Final = 0x7FF
STATX_BTIME: Final = 0x800

# every message
IN_HEADER: Final = struct.Struct("<IIQQIIIHxx")  # len opcode unique nodeid uid gid pid total_extlen
OUT_HEADER: Final = struct.Struct("<IiQ")  # len error unique
IN_HEADER_BYTES: Final = 40
OUT_HEADER_BYTES: Final = 16
EXTENSION_UNIT_BYTES: Final = 8

# requests: the part between the header and the names or data
INIT_IN: Final = struct.Struct("<IIII")  # major minor max_readahead flags
INIT_IN_EXT: Final = struct.Struct("<I")  # flags2, right behind, since 7.36 and if flags say INIT_EXT
FORGET_IN: Final = struct.Struct("<Q")
FORGET_ONE: Final = struct.Struct("<QQ")  # nodeid nlookup
BATCH_FORGET_IN: Final = struct.Struct("<I4x")
GETATTR_IN: Final = struct.Struct("<I4xQ")  # getattr_flags fh
SETATTR_IN: Final = struct.Struct("<I4xQQQQQQIIII4xII4x")
MKNOD_IN: Final = struct.Struct("<III4x")  # mode rdev umask
MKDIR_IN: Final = struct.Struct("<II")  # mode umask
RENAME_IN: Final = struct.Struct("<Q")
RENAME2_IN: Final = struct.Struct("<QI4x")  # newdir flags
LINK_IN: Final = struct.Struct("<Q")
OPEN_IN: Final = struct.Struct("<II")  # flags open_flags
CREATE_IN: Final = struct.Struct("<IIII")  # flags mode umask open_flags
READ_IN: Final = struct.Struct("<QQIIQI4x")  # fh offset size read_flags lock_owner flags
WRITE_IN: Final = struct.Struct("<QQIIQI4x")  # fh offset size write_flags lock_owner flags
RELEASE_IN: Final = struct.Struct("<QIIQ")  # fh flags release_flags lock_owner
FSYNC_IN: Final = struct.Struct("<QI4x")  # fh fsync_flags
SETXATTR_IN: Final = struct.Struct("<II")  # size flags
SETXATTR_IN_EXT: Final = struct.Struct("<III4x")  # size flags setxattr_flags; if SETXATTR_EXT was taken
GETXATTR_IN: Final = struct.Struct("<I4x")
FLUSH_IN: Final = struct.Struct("<Q8xQ")  # fh lock_owner
LK_IN: Final = struct.Struct("<QQQQIII4x")  # fh owner start end type pid lk_flags
ACCESS_IN: Final = struct.Struct("<I4x")
INTERRUPT_IN: Final = struct.Struct("<Q")
FALLOCATE_IN: Final = struct.Struct("<QQQI4x")  # fh offset length mode
COPY_FILE_RANGE_IN: Final = struct.Struct("<QQQQQQ8x")  # fh_in off_in nodeid_out fh_out off_out len; no flags exist
LSEEK_IN: Final = struct.Struct("<QQI4x")  # fh offset whence
IOCTL_IN: Final = struct.Struct("<QIIQII")  # fh flags cmd arg in_size out_size; then in_size bytes
STATX_IN: Final = struct.Struct("<I4xQII")  # getattr_flags fh sx_flags sx_mask

# replies: the part behind the header
FUSE_ATTR: Final = struct.Struct("<QQQqqqIIIIIIIIII")
ENTRY_OUT_HEAD: Final = struct.Struct(
    "<QQQQII"
)  # nodeid generation entry_valid attr_valid and their nanoseconds; then the attr
ATTR_OUT_HEAD: Final = struct.Struct("<QI4x")  # attr_valid and its nanoseconds; then the attr
OPEN_OUT: Final = struct.Struct("<QIi")  # fh open_flags backing_id
WRITE_OUT: Final = struct.Struct("<I4x")
STATFS_OUT: Final = struct.Struct("<QQQQQIII28x")  # blocks bfree bavail files ffree bsize namelen frsize
GETXATTR_OUT: Final = struct.Struct("<I4x")
LK_OUT: Final = struct.Struct("<QQII")  # start end type pid
COPY_FILE_RANGE_OUT: Final = struct.Struct("<Q")
LSEEK_OUT: Final = struct.Struct("<Q")
IOCTL_OUT: Final = struct.Struct("<iIII")  # result flags in_iovs out_iovs; then out_size bytes
STATX_OUT_HEAD: Final = struct.Struct("<QI20x")  # attr_valid and its nanoseconds; then the statx
# mask blksize attributes, nlink uid gid mode, ino size blocks attributes_mask, atime btime ctime mtime, rdev and dev as
# major and minor
STATX: Final = struct.Struct("<IIQIIIH2xQQQQqI4xqI4xqI4xqI4xIIII112x")
INIT_OUT: Final = struct.Struct("<IIIIHHIIHHI28x")
DIRENT: Final = struct.Struct("<QQII")  # ino off namelen type; then the name, padded to 8 bytes
ENTRY_OUT_BYTES: Final = 128
DIRENT_ALIGN: Final = 8

# notifications: the part behind the header
NOTIFY_INVAL_INODE_OUT: Final = struct.Struct("<Qqq")  # nodeid off len
NOTIFY_INVAL_ENTRY_OUT: Final = struct.Struct("<QII")  # parent namelen flags; then the name and a NUL
