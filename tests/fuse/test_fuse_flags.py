"""Immutable, append-only, nodump: every call that they forbid, beside the same call on a local file system.

A row is what is done to a file or directory that has a flag, by root. Both sides have to answer alike, and that the row is
refused on the local side where the man page says so shows that it asks what it means to.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fuse.cluster import wait_for
from tests.fuse.inode_flags import APPEND, FSGETXATTR, FSSETXATTR, IMMUTABLE, NODUMP, OURS, get_flags, set_flags
from tests.fuse.users import User, refusal_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.fuse.cluster import Cluster


class Subject:
    """A directory of its own with the file `f`, the directory `d` with entries in it, and one more file."""

    def __init__(self, base: Path) -> None:
        base.mkdir()
        self.base, self.f, self.d, self.other = base, base / "f", base / "d", base / "other"
        self.f.write_bytes(b"contents")
        self.other.write_bytes(b"other")
        self.d.mkdir()
        (self.d / "old").write_bytes(b"old")
        (self.d / "sub").mkdir()
        os.setxattr(self.f, "user.there", b"1")

    def close(self) -> None:
        for path in (self.f, self.d):
            if path.exists():
                set_flags(path, 0)
        subprocess.run(["rm", "-rf", self.base], check=True)


def opening(flags: int) -> Callable[[Subject], object]:
    return lambda s: os.close(os.open(s.f, flags))


def appending(s: Subject) -> bytes:
    fd = os.open(s.f, os.O_WRONLY | os.O_APPEND)
    os.write(fd, b" more")
    os.close(fd)
    return s.f.read_bytes()


def overwriting_appended(s: Subject) -> bytes:
    """A descriptor that appends writes at the end wherever it is told to."""
    fd = os.open(s.f, os.O_WRONLY | os.O_APPEND)
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, b"XX")
    os.close(fd)
    return s.f.read_bytes()


def cutting_open(s: Subject) -> None:
    fd = os.open(s.f, os.O_WRONLY | os.O_APPEND)
    try:
        os.ftruncate(fd, 2)
    finally:
        os.close(fd)


def times_by(spec: tuple[int, int] | None) -> Callable[[Subject], object]:
    return lambda s: os.utime(s.f, ns=spec) if spec else os.utime(s.f)


FILE_CALLS: dict[str, Callable[[Subject], object]] = {
    "open-read": opening(os.O_RDONLY),
    "open-write": opening(os.O_WRONLY),
    "open-both": opening(os.O_RDWR),
    "open-append": opening(os.O_WRONLY | os.O_APPEND),
    "open-both-append": opening(os.O_RDWR | os.O_APPEND),
    "open-trunc": opening(os.O_WRONLY | os.O_TRUNC),
    "open-append-trunc": opening(os.O_WRONLY | os.O_APPEND | os.O_TRUNC),
    "open-read-trunc": opening(os.O_RDONLY | os.O_TRUNC),
    "open-creat": opening(os.O_WRONLY | os.O_CREAT),
    "open-creat-read": opening(os.O_RDONLY | os.O_CREAT),
    "append": appending,
    "append-at-start": overwriting_appended,
    "ftruncate": cutting_open,
    "truncate": lambda s: os.truncate(s.f, 2),
    "extend": lambda s: os.truncate(s.f, 200),
    "chmod": lambda s: s.f.chmod(0o600),
    "chown": lambda s: os.chown(s.f, 12, 34),
    "chown-nothing": lambda s: os.chown(s.f, -1, -1),
    "touch": times_by(None),
    "utimens": times_by((1, 2)),
    "setxattr": lambda s: os.setxattr(s.f, "user.new", b"1"),
    "setxattr-trusted": lambda s: os.setxattr(s.f, "trusted.new", b"1"),
    "removexattr": lambda s: os.removexattr(s.f, "user.there"),
    "getxattr": lambda s: os.getxattr(s.f, "user.there"),
    "link": lambda s: os.link(s.f, s.base / "linked"),
    "link-away": lambda s: os.link(s.f, s.d / "linked"),
    "unlink": lambda s: s.f.unlink(),
    "rename": lambda s: s.f.rename(s.base / "g"),
    "rename-away": lambda s: s.f.rename(s.d / "g"),
    "rename-onto": lambda s: s.other.rename(s.f),
    "read": lambda s: s.f.read_bytes(),
    "stat": lambda s: s.f.stat().st_size,
    "access": lambda s: [os.access(s.f, mode) for mode in (os.R_OK, os.X_OK)],
}
DIRECTORY_CALLS: dict[str, Callable[[Subject], object]] = {
    "create": lambda s: (s.d / "new").write_bytes(b"x"),
    "create-there": lambda s: os.close(os.open(s.d / "old", os.O_CREAT | os.O_WRONLY)),
    "create-there-excl": lambda s: os.close(os.open(s.d / "old", os.O_CREAT | os.O_EXCL | os.O_WRONLY)),
    "mkdir": lambda s: (s.d / "new").mkdir(),
    "mkdir-there": lambda s: (s.d / "sub").mkdir(),
    "symlink": lambda s: (s.d / "new").symlink_to("x"),
    "mkfifo": lambda s: os.mkfifo(s.d / "new"),
    "link-in": lambda s: os.link(s.other, s.d / "new"),
    "rename-in": lambda s: s.other.rename(s.d / "new"),
    "rename-onto": lambda s: s.other.rename(s.d / "old"),
    "rename-within": lambda s: (s.d / "old").rename(s.d / "new"),
    "rename-out": lambda s: (s.d / "old").rename(s.base / "out"),
    "rename-itself": lambda s: s.d.rename(s.base / "e"),
    "unlink": lambda s: (s.d / "old").unlink(),
    "rmdir": lambda s: (s.d / "sub").rmdir(),
    "rmdir-itself": lambda s: s.d.rmdir(),
    "chmod": lambda s: s.d.chmod(0o700),
    "touch": lambda s: os.utime(s.d),
    "utimens": lambda s: os.utime(s.d, ns=(1, 2)),
    "setxattr": lambda s: os.setxattr(s.d, "user.a", b"1"),
    "list": lambda s: sorted(os.listdir(s.d)),
    "write-below": lambda s: (s.d / "old").write_bytes(b"new"),
    "create-below": lambda s: (s.d / "sub" / "deep").write_bytes(b"new"),
    "chmod-below": lambda s: (s.d / "old").chmod(0o600),
}
CALLS = {**{f"file-{name}": call for name, call in FILE_CALLS.items()}, **{f"dir-{n}": c for n, c in DIRECTORY_CALLS.items()}}
#: Rows that must be refused, lest a call that asks nothing passes.
REFUSED_TO_IMMUTABLE = {
    "file-open-write",
    "file-chmod",
    "file-unlink",
    "file-link",
    "file-setxattr",
    "dir-create",
    "dir-unlink",
}


def outcome(base: Path, flags: int, call: str) -> object:
    subject = Subject(base)
    try:
        set_flags(subject.d if call.startswith("dir-") else subject.f, flags)
        try:
            found = CALLS[call](subject)
            return None if isinstance(found, Path) else found
        except OSError as refused:
            return errno.errorcode[refused.errno or 0]
    finally:
        subject.close()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("flags", [0, IMMUTABLE, APPEND, NODUMP, IMMUTABLE | APPEND], ids=["none", "i", "a", "d", "ia"])
def test_as_on_a_local_file_system(cluster: Cluster, here: Path, flags: int, call: str) -> None:
    local = cluster.home / f"local-{flags}-{call}"
    expected = outcome(local, flags, call)
    assert outcome(here / "s", flags, call) == expected
    if flags & IMMUTABLE and call in REFUSED_TO_IMMUTABLE:
        assert expected == "EPERM"


@pytest.fixture
def flagged(here: Path) -> Iterator[Callable[[str, int], Path]]:
    made: list[Path] = []

    def make(name: str, flags: int) -> Path:
        path = here / name
        path.write_bytes(b"contents")
        made.append(path)
        set_flags(path, flags)
        return path

    yield make
    for path in made:
        if path.exists():
            set_flags(path, 0)


def test_chattr_and_lsattr_work(flagged: Callable[[str, int], Path], here: Path) -> None:
    file = flagged("f", 0)
    subprocess.run(["chattr", "+id", file], check=True)
    shown = subprocess.run(["lsattr", file], check=True, capture_output=True, text=True).stdout.split()[0]
    assert set(shown) - {"-"} == {"i", "d"}
    assert get_flags(file) == IMMUTABLE | NODUMP
    subprocess.run(["chattr", "-i", "+a", file], check=True)
    assert get_flags(file) == APPEND | NODUMP
    subprocess.run(["chattr", "=", file], check=True)
    assert get_flags(file) == 0
    subprocess.run(["chattr", "+d", here], check=True)
    assert get_flags(here) == NODUMP
    (here / "inherits").mkdir()
    assert get_flags(here / "inherits") == NODUMP


def test_a_flag_that_is_not_kept_is_refused(flagged: Callable[[str, int], Path]) -> None:
    file = flagged("f", NODUMP)
    for flag in (0x1, 0x8, 0x80, 0x800000):  # secure deletion, sync, noatime, nocow
        with pytest.raises(OSError, match="not supported") as refused:
            set_flags(file, flag)
        assert refused.value.errno == errno.EOPNOTSUPP
    assert get_flags(file) == NODUMP


def test_the_other_ioctl_says_and_sets_the_same(flagged: Callable[[str, int], Path]) -> None:
    file = flagged("f", IMMUTABLE | NODUMP)
    fd = os.open(file, os.O_RDONLY)
    try:
        assert fcntl.ioctl(fd, FSGETXATTR, bytes(28)) == struct.pack("<I24x", 0x08 | 0x80)
        fcntl.ioctl(fd, FSSETXATTR, struct.pack("<I24x", 0x10))
        assert get_flags(file) == APPEND
        for wrong in (struct.pack("<I24x", 0x10 | 0x20), struct.pack("<IIIII8x", 0x10, 0, 0, 7, 0)):  # sync; a project
            with pytest.raises(OSError, match="not supported"):
                fcntl.ioctl(fd, FSSETXATTR, wrong)
        with pytest.raises(OSError, match="Inappropriate"):
            fcntl.ioctl(fd, 0x5421 + 0x1000, 0)
    finally:
        os.close(fd)
    assert get_flags(file) == APPEND


def test_who_may_set_which_flag(flagged: Callable[[str, int], Path], here: Path) -> None:
    here.chmod(0o755)
    file = flagged("f", 0)
    os.chown(file, 1000, 1000)
    file.chmod(0o644)
    assert refusal_to(User(1000, 1000), lambda: set_flags(file, NODUMP)) == 0
    assert get_flags(file) == NODUMP
    assert refusal_to(User(1000, 1000), lambda: set_flags(file, NODUMP | IMMUTABLE)) == errno.EPERM
    assert refusal_to(User(1000, 1000), lambda: set_flags(file, APPEND)) == errno.EPERM
    assert refusal_to(User(1001, 1001), lambda: set_flags(file, 0)) == errno.EPERM
    set_flags(file, IMMUTABLE)
    assert refusal_to(User(1000, 1000), lambda: set_flags(file, 0)) == errno.EPERM
    assert refusal_to(User(1000, 1000), lambda: set_flags(file, IMMUTABLE | NODUMP)) == 0
    assert get_flags(file) & OURS == IMMUTABLE | NODUMP


def test_a_file_that_was_open_before(flagged: Callable[[str, int], Path], cluster: Cluster) -> None:
    """Immutable: what was written stays and nothing is added. Append-only: who could overwrite before still can."""
    local = cluster.home / "open-before"
    local.write_bytes(b"contents")
    for flag, allowed in ((IMMUTABLE, False), (APPEND, True)):
        for file in (local, flagged("f", 0)):
            file.write_bytes(b"contents")
            fd = os.open(file, os.O_RDWR)
            try:
                os.pwrite(fd, b"BEFORE", 0)
                set_flags(file, flag)
                assert os.pread(fd, 8, 0) == b"BEFOREts"
                if allowed:
                    os.pwrite(fd, b"after!", 0)
                else:
                    with pytest.raises(PermissionError):
                        os.pwrite(fd, b"after!", 0)
                with pytest.raises(PermissionError):
                    os.ftruncate(fd, 3)
                os.fsync(fd)
            finally:
                os.close(fd)
            assert file.read_bytes() == (b"after!ts" if allowed else b"BEFOREts"), file
            set_flags(file, 0)


def test_another_mount_obeys_at_once(cluster: Cluster, flagged: Callable[[str, int], Path]) -> None:
    """Also where the file is open, and known without flags."""
    second = cluster.mount("second")
    try:
        file = flagged("f", 0)
        there = second / file.relative_to(cluster.mountpoint)
        fd = os.open(there, os.O_RDWR)
        os.pwrite(fd, b"C", 0)
        os.fsync(fd)
        set_flags(file, IMMUTABLE)

        def refused() -> bool:
            try:
                os.pwrite(fd, b"D", 0)
                os.fsync(fd)
            except PermissionError:
                return True
            return False

        wait_for(refused, "a write through the other mount to be refused", 5)
        with pytest.raises(PermissionError):
            os.open(there, os.O_WRONLY)
        with pytest.raises(PermissionError):
            there.unlink()
        with pytest.raises(PermissionError):
            there.chmod(0o600)
        assert get_flags(there) == IMMUTABLE
        os.close(fd)
        set_flags(there, 0)
        wait_for(lambda: get_flags(file) == 0, "the flag to be gone here", 1)
        file.write_bytes(b"again")
    finally:
        cluster.unmount("second")
