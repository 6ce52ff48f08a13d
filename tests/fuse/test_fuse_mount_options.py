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
