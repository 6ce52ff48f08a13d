"""Options of `keelfs mount -o`: what each of them forbids or changes, on real mounts of one volume."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fuse.cluster import wait_for
from tests.fuse.users import User, refusal_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.fuse.cluster import Cluster

DAY_NS = 86_400 * 10**9
PAST_NS = 10**18


@pytest.fixture
def mounted(cluster: Cluster) -> Iterator[Callable[..., Path]]:
    """Mounts with options, unmounted at the end."""
    names: list[str] = []

    def mount(*options: str) -> Path:
        name = f"m{len(names)}"
        names.append(name)
        return cluster.mount(name, *options)

    yield mount
    for name in names:
        cluster.unmount(name)


def elsewhere(mount: Path, path: Path, cluster: Cluster) -> Path:
    return mount / path.relative_to(cluster.mountpoint)


def refusal(action: Callable[[], object]) -> int:
    with pytest.raises(OSError) as refused:  # noqa: PT011  # the number is what is asked
        action()
    return refused.value.errno or 0


# --- ro, nosuid, nodev, noexec


def test_read_only(cluster: Cluster, here: Path, mounted: Callable[..., Path]) -> None:
    file = here / "f"
    file.write_bytes(b"contents")
    os.setxattr(file, "user.a", b"1")
    os.utime(file, ns=(PAST_NS, PAST_NS + 1))
    there = elsewhere(mounted("-o", "ro"), file, cluster)
    changes: dict[str, Callable[[], object]] = {
        "write": lambda: os.open(there, os.O_WRONLY),
        "create": lambda: os.open(there.parent / "new", os.O_WRONLY | os.O_CREAT),
        "truncate": lambda: os.truncate(there, 0),
        "chmod": lambda: there.chmod(0o600),
        "chown": lambda: os.chown(there, 1, 1),
        "utime": lambda: os.utime(there),
        "unlink": there.unlink,
        "rename": lambda: there.rename(there.parent / "g"),
        "link": lambda: os.link(there, there.parent / "g"),
        "symlink": lambda: (there.parent / "g").symlink_to("x"),
        "mkdir": lambda: (there.parent / "g").mkdir(),
        "mkfifo": lambda: os.mkfifo(there.parent / "g"),
        "rmdir": there.parent.rmdir,
        "setxattr": lambda: os.setxattr(there, "user.b", b"1"),
        "removexattr": lambda: os.removexattr(there, "user.a"),
    }
    assert {name: refusal(change) for name, change in changes.items()} == dict.fromkeys(changes, errno.EROFS)
    assert there.read_bytes() == b"contents"
    assert os.listdir(there.parent) == ["f"]
    assert there.stat().st_atime_ns == PAST_NS
    assert file.stat().st_atime_ns == PAST_NS
    assert os.statvfs(there).f_flag & os.ST_RDONLY


def copy_of_id(folder: Path) -> Path:
    """A program that prints its effective user, owned by uid 1234 and set-uid."""
    program = folder / "id"
    shutil.copy(shutil.which("id") or "/usr/bin/id", program)
    os.chown(program, 1234, 1234)
    program.chmod(0o4755)
    return program


def run_id(program: Path) -> str:
    return subprocess.run([program, "-u"], check=True, capture_output=True, text=True, user=1000, group=1000).stdout.strip()


def test_set_uid_programs(cluster: Cluster, here: Path, mounted: Callable[..., Path]) -> None:
    here.chmod(0o755)
    program = copy_of_id(here)
    assert run_id(program) == "1000"  # nosuid is the default
    assert run_id(elsewhere(mounted("-o", "suid"), program, cluster)) == "1234"
    assert run_id(elsewhere(mounted("-o", "suid,nosuid"), program, cluster)) == "1000"


def test_devices(cluster: Cluster, here: Path, mounted: Callable[..., Path]) -> None:
    device = here / "null"
    os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert refusal(lambda: device.write_bytes(b"x")) == errno.EACCES  # nodev is the default
    with_devices = elsewhere(mounted("-o", "dev"), device, cluster)
    with_devices.write_bytes(b"x")
    assert with_devices.read_bytes() == b""


def test_programs(cluster: Cluster, here: Path, mounted: Callable[..., Path]) -> None:
    here.chmod(0o755)
    program = copy_of_id(here)
    there = elsewhere(mounted("-o", "noexec"), program, cluster)
    assert refusal(lambda: subprocess.run([there], check=False)) == errno.EACCES
    assert not os.access(there, os.X_OK)
    assert os.access(program, os.X_OK)


# --- access times


def aged(path: Path, atime_ns: int, mtime_ns: int) -> Path:
    os.utime(path, ns=(atime_ns, mtime_ns))
    return path


def read_once(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.read(fd, 100)
    os.close(fd)


def moved(path: Path, since_ns: int) -> bool:
    return path.stat().st_atime_ns > since_ns


def test_relatime_counts_as_a_local_file_system(cluster: Cluster, here: Path) -> None:
    """Whether a read moves the access time, for each relation of the three; beside ext4, which is mounted with relatime."""
    now = time.time_ns()
    cases = {
        "never-read": (PAST_NS, PAST_NS + 1),
        "as-old-as-the-change": (PAST_NS, PAST_NS),
        "later-than-all": (now + 3600 * 10**9, PAST_NS),
        "in-the-future-of-the-change": (now + 7200 * 10**9, now + 3600 * 10**9),
    }
    local = cluster.home / "local"
    local.mkdir()
    for name, (atime, mtime) in cases.items():
        answers = []
        for folder in (local, here):
            file = folder / name
            file.write_bytes(b"contents")
            aged(file, atime, mtime)
            read_once(file)
            answers.append(file.stat().st_atime_ns != atime)
        assert answers[0] == answers[1], name


def test_relatime_counts_once(cluster: Cluster, here: Path, mounted: Callable[..., Path]) -> None:
    other = mounted()
    file = here / "f"
    file.write_bytes(b"contents")
    fresh = elsewhere(other, file, cluster)  # nothing of it is in that mount's memory
    read_once(fresh)
    first = fresh.stat().st_atime_ns
    assert first > fresh.stat().st_ctime_ns
    read_once(fresh)
    assert fresh.stat().st_atime_ns == first
    file.write_bytes(b"changed!")
    wait_for(lambda: fresh.stat().st_mtime_ns > first, "the change to be seen", 5)
    read_once(fresh)
    assert fresh.stat().st_atime_ns > fresh.stat().st_mtime_ns


def test_an_open_that_reads_nothing_does_not_count(cluster: Cluster, here: Path, mounted: Callable[..., Path]) -> None:
    file = here / "f"
    file.write_bytes(b"contents")
    aged(file, PAST_NS, PAST_NS + 1)
    fresh = elsewhere(mounted(), file, cluster)
    os.close(os.open(fresh, os.O_RDONLY))
    assert fresh.stat().st_atime_ns == PAST_NS
    fd = os.open(fresh, os.O_RDONLY | os.O_NOATIME)
    os.read(fd, 100)
    os.close(fd)
    assert fresh.stat().st_atime_ns == PAST_NS


def test_the_server_hears_of_reads_behind(cluster: Cluster, here: Path, mounted: Callable[..., Path]) -> None:
    """Another mount that asks anew sees the time, though nothing was invalidated; and the last batch goes with the unmount."""
    file = here / "f"
    file.write_bytes(b"contents")
    aged(file, PAST_NS, PAST_NS + 1)
    cluster.mount("reader")
    try:
        read_once(elsewhere(cluster.home / "reader", file, cluster))
    finally:
        cluster.unmount("reader")
    assert elsewhere(mounted(), file, cluster).stat().st_atime_ns > PAST_NS


def test_listing_a_directory_counts(here: Path) -> None:
    folder = here / "d"
    folder.mkdir()
    (folder / "x").touch()
    before = folder.stat().st_atime_ns
    os.listdir(folder)
    wait_for(lambda: moved(folder, before), "the directory's access time", 5)
    once = folder.stat().st_atime_ns
    os.listdir(folder)
    assert folder.stat().st_atime_ns == once


def test_noatime_and_strictatime(cluster: Cluster, here: Path, mounted: Callable[..., Path]) -> None:
    file = here / "f"
    file.write_bytes(b"contents")
    aged(file, PAST_NS, PAST_NS + 1)
    never = elsewhere(mounted("-o", "noatime"), file, cluster)
    always = elsewhere(mounted("-o", "strictatime"), file, cluster)
    read_once(never)
    os.listdir(never.parent)
    assert never.stat().st_atime_ns == PAST_NS
    read_once(always)
    first = always.stat().st_atime_ns
    assert first > PAST_NS
    read_once(always)
    wait_for(lambda: moved(always, first), "the second read to count", 5)
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    options = {words[4]: words[5] for words in lines}
    roots = [str(cluster.home / name) for name in ("mnt", "m0", "m1")]
    assert ["relatime" in options[root] for root in roots] == [True, False, False]
    assert "noatime" in options[roots[1]]


# --- squash


def opened(path: Path, flags: int) -> None:
    os.close(os.open(path, flags))


def scene(folder: Path, anon: int) -> None:
    """Things of root, of user 1000 and of `anon`, open to more and to fewer."""
    folder.chmod(0o777)
    for name, owner, mode in (
        ("roots", 0, 0o600),
        ("roots-shown", 0, 0o644),
        ("users", 1000, 0o600),
        ("users-shared", 1000, 0o666),
        ("anons", anon, 0o600),
        ("anons-program", anon, 0o711),
    ):
        path = folder / name
        path.write_bytes(b"#!/bin/true\n" if "program" in name else b"contents")
        os.chown(path, owner, owner)
        path.chmod(mode)
    for name, owner, mode in (
        ("roots-dir", 0, 0o755),
        ("roots-secret", 0, 0o700),
        ("list-only", 0, 0o744),
        ("anons-dir", anon, 0o700),
    ):
        path = folder / name
        path.mkdir()
        (path / "inside").write_bytes(b"inside")
        os.chown(path, owner, owner)
        os.chown(path / "inside", owner, owner)
        path.chmod(mode)
    os.setxattr(folder / "anons", "user.there", b"1")
    os.setxattr(folder / "roots", "user.there", b"1")


SQUASHED: dict[str, Callable[[Path], object]] = {
    "read-roots": lambda d: opened(d / "roots", os.O_RDONLY),
    "read-roots-shown": lambda d: opened(d / "roots-shown", os.O_RDONLY),
    "write-roots-shown": lambda d: opened(d / "roots-shown", os.O_WRONLY),
    "read-users": lambda d: opened(d / "users", os.O_RDONLY),
    "write-shared": lambda d: opened(d / "users-shared", os.O_RDWR | os.O_APPEND),
    "cut-shared": lambda d: os.truncate(d / "users-shared", 3),
    "cut-roots-shown": lambda d: os.truncate(d / "roots-shown", 3),
    "cut-open-roots-shown": lambda d: opened(d / "roots-shown", os.O_WRONLY | os.O_TRUNC),
    "read-anons": lambda d: opened(d / "anons", os.O_RDWR),
    "exec-anons": lambda d: subprocess.run([d / "anons-program"], check=True),
    "exec-roots": lambda d: subprocess.run([d / "roots-shown"], check=False),
    "chmod-roots": lambda d: (d / "roots").chmod(0o666),
    "chmod-anons": lambda d: (d / "anons").chmod(0o640),
    "chown-away": lambda d: os.chown(d / "anons", 1000, -1),
    "chown-take": lambda d: os.chown(d / "roots", os.geteuid(), -1),
    "utime-anons": lambda d: os.utime(d / "anons", ns=(5, 5)),
    "utime-roots": lambda d: os.utime(d / "roots", ns=(5, 5)),
    "touch-shared": lambda d: os.utime(d / "users-shared"),
    "create": lambda d: opened(d / "new", os.O_WRONLY | os.O_CREAT | os.O_EXCL),
    "create-in-roots": lambda d: opened(d / "roots-dir" / "new", os.O_WRONLY | os.O_CREAT),
    "mkdir-in-anons": lambda d: (d / "anons-dir" / "new").mkdir(),
    "unlink-in-roots": lambda d: (d / "roots-dir" / "inside").unlink(),
    "rename-out-of-roots": lambda d: (d / "roots-dir" / "inside").rename(d / "out"),
    "rename-in-anons": lambda d: (d / "anons-dir" / "inside").rename(d / "anons-dir" / "new"),
    "stat-in-roots": lambda d: (d / "roots-dir" / "inside").stat(),
    "stat-in-secret": lambda d: (d / "roots-secret" / "inside").stat(),
    "list-secret": lambda d: os.listdir(d / "roots-secret"),
    "list-list-only": lambda d: os.listdir(d / "list-only"),
    "stat-in-list-only": lambda d: [os.listdir(d / "list-only"), (d / "list-only" / "inside").stat()],
    "list-anons": lambda d: os.listdir(d / "anons-dir"),
    "getxattr-roots": lambda d: os.getxattr(d / "roots", "user.there"),
    "getxattr-anons": lambda d: os.getxattr(d / "anons", "user.there"),
    "setxattr-anons": lambda d: os.setxattr(d / "anons", "user.new", b"1"),
    "setxattr-shown": lambda d: os.setxattr(d / "roots-shown", "user.new", b"1"),
    "mknod-device": lambda d: os.mknod(d / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3)),
    "mkfifo": lambda d: os.mkfifo(d / "fifo"),
    "link-anons": lambda d: os.link(d / "anons", d / "linked"),
    "symlink": lambda d: (d / "symbolic").symlink_to("anons"),
}
#: What a kernel refuses to who is not root in name, before a file system is asked.
ROOTS_ALONE = {"mknod-device"}


@pytest.mark.parametrize("call", SQUASHED)
@pytest.mark.parametrize("who", ["root", "all"])
def test_a_squashed_caller_may_do_what_anon_may_on_a_local_file_system(
    cluster: Cluster, here: Path, squashed: Callable[[str], Path], who: str, call: str
) -> None:
    """Root, and under `all` user 1000 as well, on the mount; uid 4321 without groups on ext4."""
    anon = 4321
    local = cluster.home / f"local-{who}-{call}"
    local.mkdir()
    act = SQUASHED[call]
    scene(local, anon)
    expected = refusal_to(User(anon, anon), lambda: act(local))
    for uid in (0, 1000) if who == "all" else (0,):
        if uid and call in ROOTS_ALONE:
            continue
        folder = here / str(uid)
        folder.mkdir()
        scene(folder, anon)
        there = elsewhere(squashed(who), folder, cluster)
        wait_for(lambda path=there: (path / "symbolic").parent.exists(), "the scene", 5)
        assert refusal_to(User(uid, uid), lambda path=there: act(path)) == expected, f"uid {uid}"


@pytest.fixture(scope="module")
def squashed(cluster: Cluster) -> Iterator[Callable[[str], Path]]:
    made: dict[str, Path] = {}

    def mount(who: str) -> Path:
        if who not in made:
            options = ("--squash", who, "--anon-uid", "4321", "--anon-gid", "4321")
            made[who] = cluster.mount(f"squash-{who}", *options)
        return made[who]

    yield mount
    for who in made:
        cluster.unmount(f"squash-{who}")


def test_who_owns_what_is_made(cluster: Cluster, here: Path, squashed: Callable[[str], Path]) -> None:
    here.chmod(0o777)
    for who, owners in (("root", {0: 4321, 1000: 1000}), ("all", {0: 4321, 1000: 4321})):
        for uid, owner in owners.items():
            name = f"{who}-{uid}"
            there = elsewhere(squashed(who), here / name, cluster)
            assert refusal_to(User(uid, uid), lambda path=there: path.write_bytes(b"x")) == 0
            made = (here / name).stat()
            assert (made.st_uid, made.st_gid) == (owner, owner), name


def test_others_than_root_are_themselves(cluster: Cluster, here: Path, squashed: Callable[[str], Path]) -> None:
    scene(here, 4321)
    there = elsewhere(squashed("root"), here, cluster)
    assert refusal_to(User(1000, 1000), lambda: opened(there / "users", os.O_RDWR)) == 0
    assert refusal_to(User(1000, 1000), lambda: opened(there / "roots", os.O_RDONLY)) == errno.EACCES
    assert refusal_to(User(1000, 1000), lambda: (there / "roots-secret" / "inside").stat()) == errno.EACCES


def test_roots_writes_take_set_id_away(cluster: Cluster, here: Path, squashed: Callable[[str], Path]) -> None:
    """The kernel sees root write, which keeps them; to the volume it was anon."""
    here.chmod(0o777)
    for name, act in (
        ("write", lambda path: path.open("r+b").close() or write_some(path)),
        ("cut", lambda path: os.truncate(path, 1)),
        ("cut-open", lambda path: opened(path, os.O_WRONLY | os.O_TRUNC)),
    ):
        file = here / name
        file.write_bytes(b"contents")
        os.chown(file, 4321, 4321)
        file.chmod(0o6777)
        there = elsewhere(squashed("root"), file, cluster)
        assert there.stat().st_mode & 0o7777 == 0o6777
        act(there)
        wait_for(lambda path=file: path.stat().st_mode & 0o7777 == 0o777, f"{name}: the bits to fall", 5)


def write_some(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, b"x")
    os.close(fd)


def test_a_descriptor_goes_on_to_allow(cluster: Cluster, here: Path, squashed: Callable[[str], Path]) -> None:
    file = here / "f"
    file.write_bytes(b"contents")
    os.chown(file, 4321, 4321)
    there = elsewhere(squashed("root"), file, cluster)
    fd = os.open(there, os.O_RDWR)
    try:
        file.chmod(0o400)
        os.chown(file, 0, 0)
        os.pwrite(fd, b"C", 0)
        os.ftruncate(fd, 4)
        os.fsync(fd)
    finally:
        os.close(fd)
    wait_for(lambda: file.read_bytes() == b"Cont", "what was written", 5)
    assert refusal(lambda: os.open(there, os.O_RDONLY)) == errno.EACCES
