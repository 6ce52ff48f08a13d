"""INIT: what this driver asks of the kernel, and what a mount then runs under. Pure.

WANTED is the whole choice; docs/decisions/0003-speak-the-kernel-protocol.md gives the reasons and what is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from fuseclient.kernel import protocol as p
from fuseclient.kernel.protocol import InitFlag

if TYPE_CHECKING:
    from fuseclient.kernel.codec import Init

MAX_WRITE_BYTES: Final = 1 << 20
PAGE_BYTES: Final = 4096

WANTED: Final = (
    InitFlag.ASYNC_READ  # read-ahead in parallel
    | InitFlag.POSIX_LOCKS  # locks hold between mounts, so they are not for this kernel to keep
    | InitFlag.FLOCK_LOCKS
    | InitFlag.ATOMIC_O_TRUNC  # open truncates: one request, and no window between the two
    | InitFlag.EXPORT_SUPPORT  # open_by_handle_at and NFS export of inodes that the kernel has forgotten
    | InitFlag.BIG_WRITES
    | InitFlag.DONT_MASK  # a default ACL overrides the umask, so the umask is not for the kernel to apply
    | InitFlag.DO_READDIRPLUS
    | InitFlag.ASYNC_DIO
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.ABORT_ERROR
    | InitFlag.MAX_PAGES
    | InitFlag.CACHE_SYMLINKS  # a link's target never changes
    | InitFlag.EXPLICIT_INVAL_DATA  # pages go when we say so, not whenever an mtime moves
    | InitFlag.HANDLE_KILLPRIV_V2  # set-id bits fall with the write itself; no GETXATTR before every write
    | InitFlag.SETXATTR_EXT
    | InitFlag.INIT_EXT
    | InitFlag.HAS_EXPIRE_ONLY
    | InitFlag.DIRECT_IO_ALLOW_MMAP
    | InitFlag.HAS_RESEND  # another process can take the mount over and ask for what was unanswered
)


class KernelTooOldError(Exception):
    """The kernel's protocol is older than 7.31 (Linux 5.4)."""


class DriverOptions(NamedTuple):
    """What a mount may change. The defaults are what was measured."""

    max_background: int = 64
    congestion_threshold: int = 48
    adaptive_readdirplus: bool = True  # the kernel asks for attributes only of directories whose entries are looked at
    requests_per_wake: int = 32  # then other tasks have their turn
    stop_grace_s: float = 10.0
    wanted: int = int(WANTED)


class Negotiated(NamedTuple):
    """What kernel and driver agreed upon."""

    minor: int
    flags: int
    max_write: int

    def has(self, flag: InitFlag) -> bool:
        return bool(self.flags & flag)


def needs_another_round(init: Init) -> bool:
    """A kernel of a later major version will ask again in ours."""
    return init.major > p.VERSION_MAJOR


def negotiate(init: Init, options: DriverOptions) -> Negotiated:
    """The agreement that follows from the kernel's offer."""
    if init.major != p.VERSION_MAJOR or init.minor < p.MINOR_OLDEST:
        raise KernelTooOldError(
            f"the kernel speaks FUSE {init.major}.{init.minor}; KeelFS needs 7.{p.MINOR_OLDEST} (Linux 5.4) or later"
        )
    wanted = options.wanted | (InitFlag.READDIRPLUS_AUTO if options.adaptive_readdirplus else 0)
    return Negotiated(min(init.minor, p.MINOR_NEWEST), init.flags & wanted, MAX_WRITE_BYTES)


def init_reply(init: Init, agreed: Negotiated, options: DriverOptions) -> bytes:
    """The body of the reply to INIT."""
    return p.INIT_OUT.pack(
        p.VERSION_MAJOR,
        agreed.minor,
        init.max_readahead,
        agreed.flags & 0xFFFFFFFF,
        options.max_background,
        options.congestion_threshold,
        agreed.max_write,
        1,  # time granularity, nanoseconds
        agreed.max_write // PAGE_BYTES,
        0,
        agreed.flags >> 32,
    )


def major_reply() -> bytes:
    """The body that tells a later kernel which major version to ask for."""
    return p.INIT_OUT.pack(p.VERSION_MAJOR, p.MINOR_NEWEST, 0, 0, 0, 0, 0, 0, 0, 0, 0)
