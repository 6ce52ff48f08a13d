"""Two real mounts of one volume, taken in turn, and a plain local directory, side by side: every call gives the same result,
errno, contents and attributes.

Hypothesis chooses the calls. What may differ is not compared: inode numbers, sizes of directories, and times that no call has
set. Most calls run as ordinary users, so permissions are compared too. Opens do not block, since a name may be a FIFO;
devices are left out, since the mount is nodev. A call of Linux alone that needs no more than a path is a row of LINUX_CALLS.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import itertools
import mmap
import os
import shutil
import stat
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.fuse.cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.fuse.cluster import Cluster

USER = 65534
#: Who calls -> the groups beside the own one.
USERS = {0: [0], USER: [], 1234: [4321]}
NAMES = st.sampled_from([b"a", b"b", b"c", b"\xff\xfe", b"n" * 255, b"n" * 256, b"."])
#: Most calls meet something that exists; some go anywhere.
NEAR = st.sampled_from([b"a", b"b", b"c", b"a/a", b"a/b", b"b/a"])
PATHS = NEAR | NEAR | NEAR | st.lists(NAMES, min_size=1, max_size=3).map(b"/".join)
MODES = st.sampled_from([0o777, 0o755, 0o700, 0o644, 0o600, 0o000, 0o4755, 0o2755, 0o1777, 0o2775])
OFFSETS = st.sampled_from([0, 1, 100, 4095, 4096, 5000, 100_000, (64 << 20) - 10, (64 << 20) + 3])
SIZES = st.sampled_from([0, 1, 10, 4096, 4097, 70_000])
TIMES = st.sampled_from([0, 1, 10**9 + 1, 1_700_000_000_123_456_789, 2**31 * 10**9 + 7])
XATTRS = st.sampled_from(["user.a", "user.b", "user." + "x" * 250, "trusted.t", "security.s", "nonsense.n"])
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
LIBC = ctypes.CDLL(None, use_errno=True)


def rename_with_flags(old: bytes, new: bytes, flags: int) -> None:
    at_cwd = -100
    if LIBC.renameat2(at_cwd, old, at_cwd, new, flags):
        raise OSError(ctypes.get_errno(), "renameat2")


def acl(user: int, mask: int) -> bytes:
    """An ACL as the kernel takes it, with one named user: acl(5), linux/posix_acl_xattr.h."""
    nobody = 0xFFFFFFFF
    entries = ((1, 6, nobody), (2, user, 1234), (4, 4, nobody), (16, mask, nobody), (32, 4, nobody))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def on_file(path: bytes, call: Callable[[int], Any]) -> Any:
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        return call(fd) if stat.S_ISREG(os.fstat(fd).st_mode) else "no file"
    finally:
        os.close(fd)


#: Calls of Linux that take a path and give something to compare.
LINUX_CALLS: dict[str, Callable[[bytes], Any]] = {
    "set an ACL": lambda path: os.setxattr(path, "system.posix_acl_access", acl(7, 7)),
    "set an ACL that the mask cuts": lambda path: os.setxattr(path, "system.posix_acl_access", acl(6, 4)),
    "set a default ACL": lambda path: os.setxattr(path, "system.posix_acl_default", acl(7, 6)),
    "set an ACL that is none": lambda path: os.setxattr(path, "system.posix_acl_access", b"nonsense"),
    "remove an ACL": lambda path: os.removexattr(path, "system.posix_acl_access"),
    "remove a default ACL": lambda path: os.removexattr(path, "system.posix_acl_default"),
    "read an ACL": lambda path: os.getxattr(path, "system.posix_acl_access"),
    "sync": lambda path: on_file(path, os.fsync),
    "reserve space": lambda path: on_file(path, lambda fd: (os.posix_fallocate(fd, 10, 5000), os.fstat(fd).st_size)),
    "copy within a file": lambda path: on_file(path, copied_within),
    "lock a file twice": lambda path: locked_twice(path) if not stat.S_ISFIFO(os.stat(path).st_mode) else "no file",
    "append twice": lambda path: append(path),
    "futimens": lambda path: on_file(path, lambda fd: os.utime(fd, ns=(5, 7))),
    "fchmod": lambda path: on_file(path, lambda fd: os.fchmod(fd, 0o6711)),
}


def copied_within(fd: int) -> object:
    return os.copy_file_range(fd, fd, 50, 0, 200), os.pread(fd, 300, 0)


def locked_twice(path: bytes) -> object:
    """By two descriptors: a lock of the whole file keeps the other out, until it goes."""
    with open(path, "rb") as one, open(path, "rb") as other:
        if not stat.S_ISREG(os.fstat(one.fileno()).st_mode):
            return "no file"
        fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(one, fcntl.LOCK_UN)
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return "kept out"
        return "not kept out"


def append(path: bytes) -> object:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
    try:
        return os.write(fd, b"one") + os.write(fd, b"two") if stat.S_ISREG(os.fstat(fd).st_mode) else "no file"
    finally:
        os.close(fd)


class Sides:
    """The directory, as one mount or the other names it, and the local one; one call on both."""

    def __init__(self, mounts: tuple[Path, Path], local: Path) -> None:
        self.mounts = itertools.cycle(mounts)
        self.ours = next(self.mounts)
        self.local = local
        self.uid = 0

    @property
    def roots(self) -> tuple[bytes, bytes]:
        return os.fsencode(self.ours), os.fsencode(self.local)

    def take_turns(self) -> None:
        """The other mount from now on, as soon as its kernel has heard of everything. It hears of names in order, and of the
        contents of listings right after: so a name that it knew is gone, and then a second one."""
        before, self.ours = self.ours, next(self.mounts)
        for name in ("first.mark", "second.mark"):
            here, there = before.parent / name, self.ours.parent / name
            here.touch()
            wait_for(there.exists, "a new name on the other mount")
            here.unlink()
            wait_for(lambda path=there: not path.exists(), "the end of a name on the other mount")

    def both(self, call: Callable[[bytes], Any]) -> Any:
        """`call(root)` on each side; the results, or errnos, must be equal. The result is returned."""
        results = [self._one(call, root) for root in self.roots]
        assert results[0] == results[1], f"as uid {self.uid}: KeelFS gives {results[0]!r}, the local file system {results[1]!r}"
        return results[0]

    def _one(self, call: Callable[[bytes], Any], root: bytes) -> Any:
        with self._identity():
            try:
                return call(root)
            except OSError as error:
                return f"OSError {errno.errorcode.get(error.errno or 0, error.errno)}"

    @contextlib.contextmanager
    def _identity(self) -> Any:
        if not self.uid:
            yield
            return
        groups = os.getgroups()
        os.setgroups(USERS[self.uid])
        os.setegid(self.uid)
        os.seteuid(self.uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(groups)


def attributes(path: bytes) -> tuple[object, ...]:
    """What stat(2) says and both sides must agree on."""
    found = os.lstat(path)
    size = None if stat.S_ISDIR(found.st_mode) else found.st_size
    return (stat.filemode(found.st_mode), found.st_nlink, found.st_uid, found.st_gid, size, found.st_rdev)


def contents(path: bytes, limit: int = 1 << 20) -> object:
    """A file's bytes as (size, its ends), without reading a sparse gigabyte."""
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        return size, os.pread(file.fileno(), limit, 0), os.pread(file.fileno(), limit, max(0, size - limit))


def tree(root: bytes) -> list[object]:
    """Everything below: names, attributes, contents, link targets, xattrs."""
    found: list[object] = []
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            what: object = None
            if stat.S_ISREG(mode):
                what = contents(path)
            elif stat.S_ISLNK(mode):
                what = os.readlink(path)
            xattrs = {key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)}
            found.append((path[len(root) :], attributes(path), what, sorted(xattrs.items())))
    return found


class SideBySide(RuleBasedStateMachine):
    """Each rule is one system call, or the few that belong together."""

    mounts: tuple[Path, Path]
    local: Path

    @initialize()
    def begin(self) -> None:
        for root in (self.mounts[0], self.local):
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir(parents=True)
            root.chmod(0o777)
        self.sides = Sides(self.mounts, self.local)
        self.sides.take_turns()
        self.open: list[tuple[int, int]] = []
        os.umask(0o022)

    def both(self, call: Callable[[bytes], Any]) -> Any:
        return self.sides.both(call)

    @rule()
    def change_mounts(self) -> None:
        """What is open stays on the mount on which it was opened, and close-to-open promises nothing of it: it is closed."""
        while self.open:
            self.close_kept(0)
        self.sides.take_turns()

    @rule(path=PATHS, name=st.sampled_from(sorted(LINUX_CALLS)))
    def linux_call(self, path: bytes, name: str) -> None:
        self.both(lambda root: LINUX_CALLS[name](root + b"/" + path))

    @rule(old=PATHS, new=PATHS, flags=st.sampled_from([RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_EXCHANGE, 3]))
    def rename_with_flags(self, old: bytes, new: bytes, flags: int) -> None:
        self.both(lambda root: rename_with_flags(root + b"/" + old, root + b"/" + new, flags))

    @rule(uid=st.sampled_from(sorted(USERS)), mask=st.sampled_from([0, 0o022, 0o077]))
    def become(self, uid: int, mask: int) -> None:
        self.sides.uid = uid
        os.umask(mask)

    @rule(
        path=PATHS,
        flags=st.sampled_from([0, os.O_EXCL, os.O_TRUNC, os.O_APPEND]),
        mode=MODES,
        data=st.binary(max_size=64),
        size=SIZES,
    )
    def create(self, path: bytes, flags: int, mode: int, data: bytes, size: int) -> None:
        def call(root: bytes) -> object:
            fd = os.open(root + b"/" + path, os.O_CREAT | os.O_WRONLY | os.O_NONBLOCK | flags, mode)
            try:
                return os.write(fd, (data * (size // max(1, len(data)) + 1))[:size])
            finally:
                os.close(fd)

        self.both(call)

    @rule(
        path=PATHS, offset=OFFSETS, data=st.binary(min_size=1, max_size=32), times=st.sampled_from([1, 200]), sync=st.booleans()
    )
    def overwrite(self, path: bytes, offset: int, data: bytes, times: int, sync: bool) -> None:
        def call(root: bytes) -> object:
            fd = os.open(root + b"/" + path, os.O_RDWR | os.O_NONBLOCK)
            try:
                wrote = os.pwrite(fd, data * times, offset)
                if sync:
                    os.fsync(fd)
                return wrote, os.pread(fd, 300, max(0, offset - 100)), os.fstat(fd).st_size
            finally:
                os.close(fd)

        self.both(call)

    @rule(path=PATHS, offset=OFFSETS, size=SIZES)
    def read(self, path: bytes, offset: int, size: int) -> None:
        def call(root: bytes) -> object:
            fd = os.open(root + b"/" + path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                return os.pread(fd, size, offset)
            finally:
                os.close(fd)

        self.both(call)

    @rule(path=PATHS, size=OFFSETS)
    def truncate(self, path: bytes, size: int) -> None:
        self.both(lambda root: os.truncate(root + b"/" + path, size))

    @rule(path=PATHS, byte=st.integers(0, 255))
    def write_through_map(self, path: bytes, byte: int) -> None:
        def call(root: bytes) -> object:
            fd = os.open(root + b"/" + path, os.O_RDWR | os.O_NONBLOCK)
            try:
                size = os.fstat(fd).st_size
                if not 0 < size <= 1 << 20:
                    return "not mapped"
                with mmap.mmap(fd, size) as mapped:
                    mapped[size // 2] = byte
                    mapped.flush()
                return os.pread(fd, 10, size // 2)
            finally:
                os.close(fd)

        self.both(call)

    @rule(path=PATHS, mode=MODES)
    def mkdir(self, path: bytes, mode: int) -> None:
        self.both(lambda root: os.mkdir(root + b"/" + path, mode))

    @rule(path=PATHS, mode=MODES, kind=st.sampled_from([stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG]))
    def mknod(self, path: bytes, mode: int, kind: int) -> None:
        self.both(lambda root: os.mknod(root + b"/" + path, mode | kind, os.makedev(1, 3)))

    @rule(path=PATHS)
    def unlink(self, path: bytes) -> None:
        self.both(lambda root: os.unlink(root + b"/" + path))

    @rule(path=PATHS)
    def rmdir(self, path: bytes) -> None:
        self.both(lambda root: os.rmdir(root + b"/" + path))

    @rule(old=PATHS, new=PATHS)
    def rename(self, old: bytes, new: bytes) -> None:
        self.both(lambda root: os.rename(root + b"/" + old, root + b"/" + new))

    @rule(old=PATHS, new=PATHS)
    def link(self, old: bytes, new: bytes) -> None:
        self.both(lambda root: os.link(root + b"/" + old, root + b"/" + new, follow_symlinks=False))

    @rule(to=st.sampled_from([b"a", b"a/b", b"../x", b"t" * 4095, b"t" * 1000]), path=PATHS)
    def symlink(self, to: bytes, path: bytes) -> None:
        self.both(lambda root: os.symlink(to, root + b"/" + path))

    @rule(path=PATHS)
    def readlink(self, path: bytes) -> None:
        self.both(lambda root: os.readlink(root + b"/" + path))

    @rule(path=PATHS, mode=MODES)
    def chmod(self, path: bytes, mode: int) -> None:
        self.both(lambda root: os.chmod(root + b"/" + path, mode))

    @rule(path=PATHS, uid=st.sampled_from([-1, 0, USER, 1234]), gid=st.sampled_from([-1, 0, USER, 4321]))
    def chown(self, path: bytes, uid: int, gid: int) -> None:
        self.both(lambda root: os.lchown(root + b"/" + path, uid, gid))

    @rule(path=PATHS, atime=TIMES, mtime=TIMES)
    def utimens(self, path: bytes, atime: int, mtime: int) -> None:
        def call(root: bytes) -> object:
            os.utime(root + b"/" + path, ns=(atime, mtime), follow_symlinks=False)
            found = os.lstat(root + b"/" + path)
            return found.st_atime_ns, found.st_mtime_ns

        self.both(call)

    @rule(path=PATHS, name=XATTRS, value=st.binary(max_size=40), flags=st.sampled_from([0, os.XATTR_CREATE, os.XATTR_REPLACE]))
    def setxattr(self, path: bytes, name: str, value: bytes, flags: int) -> None:
        self.both(lambda root: os.setxattr(root + b"/" + path, name, value, flags, follow_symlinks=False))

    @rule(path=PATHS, name=XATTRS)
    def getxattr(self, path: bytes, name: str) -> None:
        self.both(lambda root: os.getxattr(root + b"/" + path, name, follow_symlinks=False))

    @rule(path=PATHS, name=XATTRS)
    def removexattr(self, path: bytes, name: str) -> None:
        self.both(lambda root: os.removexattr(root + b"/" + path, name, follow_symlinks=False))

    @rule(path=PATHS)
    def stat(self, path: bytes) -> None:
        self.both(lambda root: attributes(root + b"/" + path))

    @rule(path=PATHS)
    def listdir(self, path: bytes) -> None:
        self.both(lambda root: sorted(os.listdir(root + b"/" + path)))

    @rule(path=PATHS, mask=st.sampled_from([os.R_OK, os.W_OK, os.X_OK]))
    def access(self, path: bytes, mask: int) -> None:
        self.both(lambda root: os.access(root + b"/" + path, mask, effective_ids=True))

    @rule(path=PATHS)
    def keep_open(self, path: bytes) -> None:
        """Later rules write through it after the name was renamed or removed."""
        fds: list[int] = []

        def call(root: bytes) -> object:
            fds.append(os.open(root + b"/" + path, os.O_RDWR | os.O_NONBLOCK))
            return "open"

        if self.both(call) == "open" and len(fds) == 2:
            self.open.append((fds[0], fds[1]))

    @rule(which=st.integers(0, 7), offset=OFFSETS, data=st.binary(min_size=1, max_size=32))
    def use_kept(self, which: int, offset: int, data: bytes) -> None:
        if not self.open:
            return
        pair = iter(self.open[which % len(self.open)])

        def call(_root: bytes) -> object:
            fd = next(pair)
            os.pwrite(fd, data, offset)
            found = os.fstat(fd)
            return os.pread(fd, 100, max(0, offset - 50)), found.st_size, found.st_nlink

        self.both(call)

    @rule(which=st.integers(0, 7))
    def close_kept(self, which: int) -> None:
        if self.open:
            for fd in self.open.pop(which % len(self.open)):
                os.close(fd)

    @rule()
    def compare_everything(self) -> None:
        uid, self.sides.uid = self.sides.uid, 0
        self.both(tree)
        self.sides.uid = uid

    def teardown(self) -> None:
        if not hasattr(self, "sides"):
            return
        for pair in self.open:
            for fd in pair:
                os.close(fd)
        self.sides.uid = 0
        os.umask(0o022)
        self.both(tree)


def drive(cluster: Cluster, scratch: Path, runs: int, steps: int) -> None:
    class Machine(SideBySide):
        mounts = (cluster.mountpoint / "side", cluster.home / "second" / "side")
        local = scratch / "side"

    if "second" not in cluster.mounts:
        cluster.mount("second")

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=runs,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            print_blob=True,
            verbosity=Verbosity.normal,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(900)
def test_two_thousand_steps_beside_a_local_directory(cluster: Cluster, scratch: Path) -> None:
    drive(cluster, scratch, runs=120, steps=60)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_fifty_thousand_steps_beside_a_local_directory(cluster: Cluster, scratch: Path) -> None:
    drive(cluster, scratch, runs=500, steps=120)
