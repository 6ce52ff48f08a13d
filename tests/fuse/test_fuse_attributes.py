"""Attributes on a real mount: statx and the time of birth, and what the kernel does not pass on."""

from __future__ import annotations

import ctypes
import os
import struct
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.fuse.inode_flags import IMMUTABLE, set_flags

if TYPE_CHECKING:
    from pathlib import Path

_SYS_STATX = 332
_AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW = 0x100
_AT_FORCE_SYNC = 0x2000
_AT_DONT_SYNC = 0x4000
BASIC, BTIME, EVERYTHING = 0x7FF, 0x800, 0xFFFF
ATTR_IMMUTABLE = 0x10


class Statx(NamedTuple):
    mask: int
    attributes: int
    attributes_mask: int
    btime_ns: int
    mtime_ns: int
    size: int
    mode: int
    rdev: tuple[int, int]


def statx(path: Path, mask: int = EVERYTHING, flags: int = 0) -> Statx:
    buffer = ctypes.create_string_buffer(256)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_SYS_STATX, _AT_FDCWD, os.fsencode(path), flags | _AT_SYMLINK_NOFOLLOW, mask, buffer):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    raw = buffer.raw
    found, _, attributes = struct.unpack_from("<IIQ", raw)
    (mode,) = struct.unpack_from("<H", raw, 28)
    (size,) = struct.unpack_from("<Q", raw, 40)
    (attributes_mask,) = struct.unpack_from("<Q", raw, 56)
    birth, change = (struct.unpack_from("<qI", raw, at) for at in (80, 112))
    major, minor = struct.unpack_from("<II", raw, 128)
    btime_ns, mtime_ns = (seconds * 10**9 + nanoseconds for seconds, nanoseconds in (birth, change))
    return Statx(found, attributes, attributes_mask, btime_ns, mtime_ns, size, mode, (major, minor))


def test_the_time_of_birth_is_told_and_stays(here: Path) -> None:
    before = time.time_ns()
    file = here / "f"
    file.write_bytes(b"one")
    after = time.time_ns()
    first = statx(file)
    assert first.mask & BTIME
    assert before - 20_000_000 <= first.btime_ns <= after + 20_000_000
    file.write_bytes(b"more than one")
    os.utime(file, ns=(5, 5))
    file.chmod(0o600)
    file.rename(here / "g")
    again = statx(here / "g", flags=_AT_FORCE_SYNC)
    assert (again.btime_ns, again.size, again.mtime_ns) == (first.btime_ns, 13, 5)


@pytest.mark.parametrize("flags", [0, _AT_FORCE_SYNC, _AT_DONT_SYNC], ids=["as-stat", "force-sync", "dont-sync"])
def test_every_type_has_one(here: Path, flags: int) -> None:
    (here / "dir").mkdir()
    (here / "file").touch()
    (here / "link").symlink_to("nowhere")
    os.mkfifo(here / "fifo")
    os.mknod(here / "null", 0o20666, os.makedev(1, 3))
    for name in ("dir", "file", "link", "fifo", "null"):
        path = here / name
        statx(path)  # dont-sync: whoever asks not to ask the file system is told what was known before
        told = statx(path, flags=flags)
        known = path.lstat()
        assert told.mask & (BASIC | BTIME) == BASIC | BTIME, name
        assert (told.mode, told.size, told.mtime_ns) == (known.st_mode, known.st_size, known.st_mtime_ns), name
        assert told.rdev == (os.major(known.st_rdev), os.minor(known.st_rdev)), name
        assert abs(told.btime_ns - time.time_ns()) < 60 * 10**9, name


def test_bytes_that_are_not_stored_yet_count(here: Path) -> None:
    with (here / "f").open("wb", buffering=0) as file:
        file.write(b"x" * 70_000)
        assert statx(here / "f", flags=_AT_FORCE_SYNC).size == 70_000


def test_the_kernel_does_not_pass_inode_flags_on(here: Path) -> None:
    """Linux 6.18 takes basic attributes and btime from FUSE and drops the rest. When this fails, a newer kernel takes more, and
    the reply to STATX should tell it. lsattr shows the flags meanwhile."""
    file = here / "f"
    file.touch()
    set_flags(file, IMMUTABLE)
    try:
        told = statx(file, flags=_AT_FORCE_SYNC)
    finally:
        set_flags(file, 0)
    assert not told.attributes & ATTR_IMMUTABLE
    assert not told.attributes_mask & ATTR_IMMUTABLE
