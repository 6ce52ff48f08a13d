"""The border where LMDB's errors and the operating system's become those of errors.py."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import lmdb

from metaserver.store.api import KEY_MAX
from metaserver.store.errors import StoreCorrupt, StoreDenied, StoreError, StoreFull, StoreMissing, StoreVersion

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: More than LMDB writes with one call.
_PROBE_BYTES: Final = 4 << 20

_FULL_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED_ERRNOS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_CORRUPT: Final = (lmdb.InvalidError, lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.IncompatibleError)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    try:
        yield
    except lmdb.Error as e:
        raise translate(e, path) from e
    except OSError as e:
        raise _by_errno(e.errno or 0, f"{path}: {e.strerror}") from e


def translate(e: lmdb.Error, path: Path) -> Exception:
    if isinstance(e, lmdb.MapFullError):
        return StoreFull(f"{path}: the store has reached its map size")
    if isinstance(e, lmdb.BadValsizeError):
        return ValueError(f"a key has 1..{KEY_MAX} bytes")
    if isinstance(e, lmdb.VersionMismatchError):
        return StoreVersion(f"{path}: written by another version of LMDB ({e})")
    if isinstance(e, _CORRUPT):
        return StoreCorrupt(f"{path}: not a readable LMDB file ({e})")
    code = getattr(e, "code", 0) or 0
    if code == errno.EIO and not _has_room(path):
        return StoreFull(f"{path}: {os.strerror(errno.ENOSPC)}")
    return _by_errno(code, f"{path}: {e}")


def _has_room(path: Path) -> bool:
    """LMDB calls it an I/O error when the system wrote only a part, which is what happens on the last bytes of a disk or a
    quota. Nobody but the file system knows, so ask it for some space."""
    probe = (path if path.is_dir() else path.parent) / "room.probe"
    try:
        fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, _PROBE_BYTES)
        finally:
            os.close(fd)
            probe.unlink()
    except OSError as e:
        return e.errno not in _FULL_ERRNOS
    return True


def _by_errno(code: int, message: str) -> StoreError:
    if code in _FULL_ERRNOS:
        return StoreFull(message)
    if code in _DENIED_ERRNOS:
        return StoreDenied(message)
    return StoreMissing(message) if code == errno.ENOENT else StoreError(message)
