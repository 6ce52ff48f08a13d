"""Calls that programs seldom make: each beside a local file system, or with a promise of its own."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import stat
import struct
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fuse.cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fuse.cluster import Cluster

LIBC = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4


def called(result: int) -> int:
    """0, or the errno of a call through LIBC."""
    return ctypes.get_errno() if result < 0 else 0


@pytest.mark.parametrize("flags", [0, NOREPLACE, EXCHANGE, WHITEOUT, WHITEOUT | NOREPLACE, NOREPLACE | EXCHANGE, 8])
@pytest.mark.parametrize("there", [False, True], ids=["free", "taken"])
def test_rename_with_flags(cluster: Cluster, here: Path, flags: int, there: bool) -> None:
    """As ext4, but for whiteouts: those are overlayfs's, and refused."""
    outcomes = []
    for folder in (cluster.home / f"local-{flags}-{there}", here / "d"):
        folder.mkdir()
        (folder / "a").write_text("a")
        if there:
            (folder / "b").write_text("b")
        asked = flags & ~WHITEOUT if folder != here / "d" else flags  # ext4 would make a device here
        code = called(LIBC.renameat2(AT_FDCWD, bytes(folder / "a"), AT_FDCWD, bytes(folder / "b"), asked))
        outcomes.append((code, {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder))}))
    if flags & WHITEOUT:
        assert outcomes[1][0] == (errno.EEXIST if there and flags & NOREPLACE else errno.EINVAL)
        assert set(outcomes[1][1]) == ({"a", "b"} if there else {"a"})
    else:
        assert outcomes[1] == outcomes[0]


@pytest.mark.parametrize(
    "kind", [stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFDIR, stat.S_IFLNK]
)
def test_mknod_of_every_type(cluster: Cluster, here: Path, kind: int) -> None:
    outcomes = []
    for folder in (cluster.home, here):
        path = folder / f"node-{kind:o}"
        try:
            os.mknod(path, kind | 0o640, os.makedev(7, 300) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0)
        except OSError as refused:
            outcomes.append((refused.errno, 0, 0))
        else:
            made = path.lstat()
            outcomes.append((0, made.st_mode, made.st_rdev))
    assert outcomes[0] == outcomes[1]


def test_a_fifo_joins_two_processes(here: Path) -> None:
    fifo = here / "fifo"
    os.mkfifo(fifo)
    writer = subprocess.Popen(["sh", "-c", 'printf hello > "$0"', fifo])
    assert fifo.read_bytes() == b"hello"
    assert writer.wait(10) == 0


def test_a_socket_joins_two_processes(here: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(here / "s"))
        server.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(here / "s"))
            accepted, _ = server.accept()
            client.sendall(b"hello")
            assert accepted.recv(10) == b"hello"
            accepted.close()
    assert stat.S_ISSOCK((here / "s").lstat().st_mode)


CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # VFS_CAP_REVISION_2, cap_net_bind_service=ep


@pytest.mark.parametrize("change", ["write", "truncate", "chown", "chmod", "append-as-user"])
def test_capabilities_fall_with_the_contents(cluster: Cluster, here: Path, change: str) -> None:
    def cut(path: Path) -> None:
        os.truncate(path, 2)

    acts: dict[str, Callable[[Path], object]] = {
        "write": lambda path: path.write_bytes(b"other"),
        "truncate": cut,
        "chown": lambda path: os.chown(path, 1000, 1000),
        "chmod": lambda path: path.chmod(0o700),
        "append-as-user": lambda path: subprocess.run(["sh", "-c", f"echo x >> {path}"], check=True, user=1000, group=1000),
    }
    outcomes = []
    here.chmod(0o755)
    for folder in (cluster.home, here):
        file = folder / f"cap-{change}"
        file.write_bytes(b"program")
        file.chmod(0o777)
        os.setxattr(file, "security.capability", CAPABILITY)
        assert os.getxattr(file, "security.capability") == CAPABILITY
        acts[change](file)
        outcomes.append(os.listxattr(file))
    assert outcomes[0] == outcomes[1]


def test_sizes_of_attributes(cluster: Cluster, here: Path) -> None:
    """Probes with no room, and with too little."""
    outcomes = []
    for folder in (cluster.home, here):
        file = bytes(folder / "xattrs")
        Path(os.fsdecode(file)).touch()
        os.setxattr(file, "user.a", b"12345")
        os.setxattr(file, "user.empty", b"")
        found = []
        for name in (b"user.a", b"user.empty", b"user.none"):
            for size in (0, 1, 5, 100):
                buffer = ctypes.create_string_buffer(100)
                got = LIBC.getxattr(file, name, buffer, size)
                found.append(got if got >= 0 else -ctypes.get_errno())
        for size in (0, 1, 5, 18, 100):
            buffer = ctypes.create_string_buffer(100)
            got = LIBC.listxattr(file, buffer, size)
            found.append(got if got >= 0 else -ctypes.get_errno())
        for flags in (1, 2):
            found += [called(LIBC.setxattr(file, name, b"x", 1, flags)) for name in (b"user.a", b"user.new")]
        outcomes.append(found)
    assert outcomes[0] == outcomes[1]


def as_user(action: Callable[[], bool]) -> bool:
    child = os.fork()
    if child == 0:
        held = False
        try:
            os.setgroups([])
            os.setresgid(1000, 1000, 1000)
            os.setresuid(1000, 1000, 1000)
            held = action()
        finally:
            os._exit(0 if held else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_trusted_attributes_are_named_to_root_only(here: Path) -> None:
    here.chmod(0o755)
    file = here / "f"
    file.touch()
    os.setxattr(file, "trusted.secret", b"1")
    os.setxattr(file, "user.shown", b"1")
    assert sorted(os.listxattr(file)) == ["trusted.secret", "user.shown"]
    assert as_user(lambda: os.listxattr(file) == ["user.shown"])


def test_numbers_stay_when_the_kernel_has_forgotten(cluster: Cluster, here: Path) -> None:
    (here / "d" / "e").mkdir(parents=True)
    (here / "d" / "f").touch()
    before = [path.stat().st_ino for path in (here, here / "d", here / "d" / "f", here / "d" / "e" / "..")]
    Path("/proc/sys/vm/drop_caches").write_text("2")
    after = [path.stat().st_ino for path in (here, here / "d", here / "d" / "f", here / "d" / "e" / "..")]
    assert before == after
    other = cluster.mount("numbers") / here.relative_to(cluster.mountpoint)
    try:
        assert [path.stat().st_ino for path in (other, other / "d", other / "d" / "f", other / "d" / "e" / "..")] == before
    finally:
        cluster.unmount("numbers")


class FileHandle(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("handle", ctypes.c_ubyte * 128))


def handle_of(path: Path) -> FileHandle:
    handle = FileHandle(bytes=128)
    mount = ctypes.c_int()
    assert LIBC.name_to_handle_at(AT_FDCWD, bytes(path), ctypes.byref(handle), ctypes.byref(mount), 0) == 0
    return handle


def open_handle(mountpoint: Path, handle: FileHandle) -> int:
    root = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return LIBC.open_by_handle_at(root, ctypes.byref(handle), os.O_RDONLY)
    finally:
        os.close(root)


def test_handles_outlive_caches_and_mounts(cluster: Cluster, here: Path) -> None:
    """What an NFS server needs."""
    file = here / "f"
    file.write_bytes(b"contents")
    handle = handle_of(file)
    for remount in (False, True):
        if remount:
            cluster.unmount("mnt")
            cluster.mount("mnt")
        else:
            Path("/proc/sys/vm/drop_caches").write_text("2")
        fd = open_handle(cluster.mountpoint, handle)
        assert fd >= 0, os.strerror(ctypes.get_errno())
        assert os.read(fd, 100) == b"contents"
        os.close(fd)
    file.unlink()
    Path("/proc/sys/vm/drop_caches").write_text("2")

    def stale() -> bool:
        Path("/proc/sys/vm/drop_caches").write_text("2")
        fd = open_handle(cluster.mountpoint, handle)
        if fd >= 0:
            os.close(fd)
        return fd < 0 and ctypes.get_errno() == errno.ESTALE

    wait_for(stale, "the handle of a removed file to be stale", 10)


def test_a_directory_is_read_on_from_where_one_was(here: Path) -> None:
    names = {f"{number:03}" for number in range(300)}
    for name in names:
        (here / name).touch()
    LIBC.fdopendir.restype = ctypes.c_void_p
    LIBC.readdir.restype = ctypes.c_void_p
    directory = ctypes.c_void_p(LIBC.fdopendir(os.open(here, os.O_RDONLY)))

    def following() -> str | None:
        entry = LIBC.readdir(directory)
        return os.fsdecode(ctypes.string_at(entry + 19)) if entry else None

    LIBC.telldir.restype = ctypes.c_long
    read: list[tuple[int, str]] = []
    while True:
        place = LIBC.telldir(directory)
        name = following()
        if name is None:
            break
        read.append((place, name))
    assert {name for _, name in read} == names | {".", ".."}
    for place, name in [read[0], read[1], read[2], read[150], read[-1], read[7]]:
        LIBC.seekdir(directory, ctypes.c_long(place))
        assert following() == name
    LIBC.closedir(directory)


def test_syncing_and_polling(here: Path) -> None:
    fd = os.open(here, os.O_RDONLY)
    os.fsync(fd)
    os.fdatasync(fd)
    assert LIBC.syncfs(fd) == 0
    os.close(fd)
    with (here / "f").open("w+b") as file:
        poll = select.poll()
        poll.register(file, select.POLLIN | select.POLLOUT)
        assert poll.poll(1000) == [(file.fileno(), select.POLLIN | select.POLLOUT)]
        assert select.select([file], [file], [], 1) == ([file], [file], [])
        with select.epoll() as epoll:  # ext4 refuses regular files here, FUSE does not
            epoll.register(file, select.EPOLLIN | select.EPOLLOUT)
            assert epoll.poll(1) == [(file.fileno(), select.EPOLLIN | select.EPOLLOUT)]


def test_inotify_tells_of_local_changes(here: Path) -> None:
    fd = LIBC.inotify_init1(os.O_CLOEXEC)
    assert LIBC.inotify_add_watch(fd, bytes(here), 0xFFF) > 0
    ended = threading.Timer(10, os.close, (fd,))
    (here / "f").write_bytes(b"x")
    (here / "f").rename(here / "g")
    (here / "g").unlink()
    seen: set[int] = set()
    ended.start()
    try:
        while 0x200 not in seen:
            events = os.read(fd, 4096)
            while events:
                _, mask, _, length = struct.unpack_from("iIII", events)
                seen.add(mask & 0xFFF)
                events = events[16 + length :]
    finally:
        ended.cancel()
        os.close(fd)
    assert {0x100, 0x2, 0x8, 0x40, 0x80, 0x200} <= seen  # created, modified, closed, moved from and to, deleted
