"""What one mount keeps while another changes it: seen within a second, though everything may be kept for a minute.

The kernel, and the process of the mount, are told to believe what they know for so long that nothing but an invalidation
from the server can make a change seen.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from tests.fuse.cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.fuse.cluster import Cluster, Process

SOON_S = 1.0
LONG = "600s"


class Pair:
    """One directory as two mounts see it: `a` changes, `b` keeps."""

    def __init__(self, a: Path, b: Path) -> None:
        self.a, self.b = a, b


@pytest.fixture(scope="module")
def keeping(cluster: Cluster) -> Iterator[Path]:
    """A mount that keeps everything for as long as it is let."""
    caches = ("--attr-cache", LONG, "--entry-cache", LONG, "--dir-cache", LONG)
    yield cluster.mount("keeping", *caches)
    cluster.unmount("keeping")


@pytest.fixture
def pair(cluster: Cluster, here: Path, keeping: Path) -> Pair:
    return Pair(here, keeping / here.relative_to(cluster.mountpoint))


def seen(condition: Callable[[], object], what: str) -> None:
    wait_for(condition, what, SOON_S)


CHANGES: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "chmod": (lambda f: f.chmod(0o600), lambda f: f.stat().st_mode & 0o777),
    "chown": (lambda f: os.chown(f, 12, 34), lambda f: (f.stat().st_uid, f.stat().st_gid)),
    "utime": (lambda f: os.utime(f, ns=(5, 5)), lambda f: f.stat().st_mtime_ns),
    "grow": (lambda f: f.write_bytes(b"x" * 100), lambda f: f.stat().st_size),
    "cut": (lambda f: os.truncate(f, 1), lambda f: f.stat().st_size),
    "link": (lambda f: os.link(f, f.parent / "second"), lambda f: f.stat().st_nlink),
    "setxattr": (lambda f: os.setxattr(f, "user.a", b"1"), lambda f: os.listxattr(f)),
    "write": (lambda f: f.write_bytes(b"CONTENTS"), lambda f: f.read_bytes()),
    "unlink": (lambda f: f.unlink(), lambda f: f.exists()),
    "rename-away": (lambda f: f.rename(f.parent / "g"), lambda f: (f.exists(), (f.parent / "g").exists())),
    "replace": (lambda f: (f.parent / "other").rename(f), lambda f: f.stat().st_size),
    "create-beside": (lambda f: (f.parent / "new").touch(), lambda f: (f.parent / "new").exists()),
    "mkdir-beside": (lambda f: (f.parent / "new").mkdir(), lambda f: sorted(os.listdir(f.parent))),
    "listing-loses": (lambda f: f.unlink(), lambda f: sorted(os.listdir(f.parent))),
    "listing-renames": (lambda f: f.rename(f.parent / "z"), lambda f: sorted(os.listdir(f.parent))),
    "symlink-turns": (lambda f: turn(f.parent / "link"), lambda f: os.readlink(f.parent / "link")),
}


@contextlib.contextmanager
def standing_still(process: Process) -> Iterator[None]:
    """What is done meanwhile has to be done without the process; if it is not, the process goes on and the test fails."""
    late = threading.Timer(5, os.kill, (process.pid, signal.SIGCONT))
    os.kill(process.pid, signal.SIGSTOP)
    late.start()
    try:
        yield
        assert late.is_alive(), "it waited for the process that stood still"
    finally:
        late.cancel()
        os.kill(process.pid, signal.SIGCONT)


def turn(link: Path) -> None:
    link.unlink()
    link.symlink_to("b")


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_elsewhere_is_seen_within_a_second(pair: Pair, change: str) -> None:
    (pair.a / "f").write_bytes(b"contents")
    (pair.a / "other").write_bytes(b"another")
    (pair.a / "link").symlink_to("a")
    act, look = CHANGES[change]
    seen(lambda: sorted(os.listdir(pair.b)) == ["f", "link", "other"], "what was made")
    seen(lambda: (pair.b / "f").read_bytes() == b"contents", "what was written")
    before = look(pair.b / "f")
    assert look(pair.b / "f") == before  # kept by now
    act(pair.a / "f")
    after = look(pair.a / "f")
    assert after != before
    seen(lambda: look(pair.b / "f") == after, change)


def test_a_listing_is_kept_by_the_kernel_and_not_asked_for_again(cluster: Cluster, pair: Pair) -> None:
    """While nobody changes the directory; a change of one's own shows as well."""
    for number in range(50):
        (pair.a / f"{number:02}").touch()
    names = sorted(os.listdir(pair.a))
    seen(lambda: sorted(os.listdir(pair.b)) == names, "the files")
    fd = os.open(pair.b, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.listdir(fd)
        with standing_still(cluster.mounts["keeping"]):
            assert sorted(os.listdir(fd)) == names
    finally:
        os.close(fd)
    (pair.b / "own").touch()
    assert sorted(os.listdir(pair.b)) == [*names, "own"]
    (pair.b / "own").unlink()
    assert sorted(os.listdir(pair.b)) == names


def test_an_open_asks_nobody_while_the_open_cache_holds(cluster: Cluster, here: Path) -> None:
    """With the server standing still, an open for reading succeeds."""
    file = here / "f"
    file.write_bytes(b"contents")
    mount = cluster.mount("trusting", "--open-cache", LONG, "--attr-cache", LONG, "--entry-cache", LONG, "-o", "noatime")
    try:
        there = mount / file.relative_to(cluster.mountpoint)
        assert there.read_bytes() == b"contents"
        with standing_still(cluster.server):
            fd = os.open(there, os.O_RDONLY)
            assert os.read(fd, 100) == b"contents"
        file.unlink()
        # It is held open all the same: the server heard of the open behind.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(fd, 100, 0) == b"contents"
        os.close(fd)
        file.write_bytes(b"another")
        wait_for(lambda: there.read_bytes() == b"another", "the new file", SOON_S)
    finally:
        cluster.unmount("trusting")


def test_every_open_asks_by_default(cluster: Cluster, here: Path) -> None:
    """Close-to-open: no waiting, also where the kernel keeps everything."""
    mount = cluster.mount("strict", "--attr-cache", LONG, "--entry-cache", LONG)
    try:
        file, there = here / "f", mount / here.relative_to(cluster.mountpoint) / "f"
        for number in range(30):
            file.write_bytes(b"%d" % number)
            assert there.read_bytes() == b"%d" % number
    finally:
        cluster.unmount("strict")
