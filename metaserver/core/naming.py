"""What may be a name. Names are bytes: anything but "/" and NUL, 1..255 of them.

Linux resolves "." and ".." before a file system sees them, and each system call refuses them in its own way; the table
below says how, so that a client that forwards one gets the same answer.
"""

from __future__ import annotations

import errno
import re
from typing import Final

from metaserver.core.errors import FsError
from metaserver.core.model import NAME_MAX

DOTS: Final = frozenset((b".", b".."))

#: What a call answers to "." and "..".
MAKE: Final = (errno.EEXIST, errno.EEXIST)
OPEN: Final = (errno.EISDIR, errno.EISDIR)
UNLINK: Final = (errno.EISDIR, errno.EISDIR)
RMDIR: Final = (errno.EINVAL, errno.ENOTEMPTY)
RENAME: Final = (errno.EBUSY, errno.EBUSY)

_VOLUME_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)


def require_name(name: bytes, dots: tuple[int, int]) -> None:
    """Refuse what cannot be the name of an entry: ENOENT empty, ENAMETOOLONG, EINVAL "/" or NUL, `dots` for dots."""
    if len(name) > NAME_MAX:
        raise FsError(errno.ENAMETOOLONG, f"{len(name)} bytes")
    refuse_dots(name, dots)
    if not name:
        raise FsError(errno.ENOENT, "the name is empty")
    if b"/" in name or b"\0" in name:
        raise FsError(errno.EINVAL, "a name holds no / and no NUL")


def refuse_dots(name: bytes, dots: tuple[int, int]) -> None:
    if name in DOTS:
        raise FsError(dots[len(name) - 1], "the name is . or ..")


def require_volume_name(name: str) -> None:
    if not _VOLUME_NAME.fullmatch(name):
        raise FsError(errno.EINVAL, f"volume name {name[:80]!r}: 1 to 63 of a-z, 0-9 and -, not - first")
