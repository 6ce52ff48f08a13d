"""Two mounts of one volume. The kernel may keep what it knows for a minute, so that what is seen at once was pushed.

What is promised: a file that is opened after another mount has closed it shows what was written (close-to-open, at once and
always); names, attributes and the contents of files that stay open follow within milliseconds.
"""

from __future__ import annotations

import os
import random
import stat
import statistics
import subprocess
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fuse.cluster import Cluster, wait_for

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Iterator

#: Far below the kernel's minute, far above what a loaded machine needs.
SOON_S = 5.0


@pytest.fixture(scope="module")
def pair(scratch: Path) -> Iterator[Cluster]:
    """A volume on mounts 'a' and 'b'."""
    with Cluster(Path(tempfile.mkdtemp(dir=scratch))) as cluster:
        cluster.start_unmounted("--block-size", "256KiB")
        for name in ("a", "b"):
            cluster.mount(name, "--attr-cache", "60s", "--entry-cache", "60s")
        yield cluster


@pytest.fixture
def a(pair: Cluster, request: pytest.FixtureRequest) -> Path:
    """A directory of the test's own on the first mount, known to both."""
    made = pair.home / "a" / str(request.node.name)
    made.mkdir()
    wait_for((pair.home / "b" / made.name).exists, "the test's directory on the other mount")
    return made


@pytest.fixture
def b(pair: Cluster, a: Path) -> Path:
    """The same directory on the second mount."""
    return pair.home / "b" / a.name


def objects(pair: Cluster) -> set[Path]:
    return {path for path in (pair.home / "objects").rglob("*") if path.is_file()}


def seen_ms(change: Callable[[], object], seen: Callable[[], bool], what: str) -> float:
    """How long after the change's return it was seen."""
    change()
    started = time.perf_counter()
    wait_for(seen, what, SOON_S)
    return (time.perf_counter() - started) * 1000


def has_mode(path: Path, mode: int) -> bool:
    return stat.S_IMODE(path.stat().st_mode) == mode


def is_gone(path: Path) -> bool:
    return not path.exists() and path.name not in os.listdir(path.parent)


def read_more(file: io.FileIO, got: list[bytes]) -> bool:
    """Read what has come; whether a line is complete."""
    got.append(file.read(100) or b"")
    return got[-1].endswith(b"\n")


def test_close_to_open(a: Path, b: Path) -> None:
    for turn in range(40):
        writer, reader = (a, b) if turn % 2 else (b, a)
        data = random.Random(turn).randbytes((10, 5000, 700_000)[turn % 3])
        (writer / f"f{turn // 10}").write_bytes(data)
        wait_for((reader / f"f{turn // 10}").exists, "the new name")
        assert (reader / f"f{turn // 10}").read_bytes() == data, turn


def test_close_to_open_of_a_file_that_is_open_there_already(a: Path, b: Path) -> None:
    """Neither what this mount has open nor the size that its kernel remembers may hide what was written."""
    (a / "f").write_bytes(b"first")
    wait_for((b / "f").exists, "the new name")
    with open(b / "f", "rb") as held:
        for turn in range(300):
            data = b"%d" % turn * (1, 3000, 40, 9)[turn % 4]
            (a / "f").write_bytes(data)
            with open(b / "f", "rb") as file:
                assert file.read() == data, turn
                assert os.fstat(file.fileno()).st_size == len(data), turn
        assert held.read(5)


def test_changes_are_seen_within_milliseconds(a: Path, b: Path) -> None:
    times = []
    for turn in range(20):
        new, seen = a / f"new{turn}", b / f"new{turn}"
        os.listdir(b)
        assert not seen.exists()  # now the kernel knows that there is none
        times.append(seen_ms(new.touch, seen.exists, "a new name"))
        times.append(seen_ms(partial(new.chmod, 0o600 + turn), partial(has_mode, seen, 0o600 + turn), "chmod"))
        times.append(seen_ms(new.unlink, partial(is_gone, seen), "a name that is gone"))
    assert statistics.median(times) < 100, times


def test_a_reader_that_stays_sees_what_is_appended(a: Path, b: Path) -> None:
    (a / "log").write_bytes(b"")
    wait_for((b / "log").exists, "the new name")
    with open(b / "log", "rb", buffering=0) as reader:
        for turn in range(10):
            with open(a / "log", "ab") as writer:
                writer.write(line := b"line %d\n" % turn)
            got: list[bytes] = []
            wait_for(partial(read_more, reader, got), f"line {turn}", SOON_S)
            assert b"".join(got) == line


def test_rename_is_seen_and_an_open_file_keeps_its_contents(a: Path, b: Path) -> None:
    (a / "old").write_bytes(b"old contents")
    (a / "new").write_bytes(b"new contents")
    wait_for((b / "new").exists, "the new name")
    with open(b / "old", "rb") as held:
        os.rename(a / "new", a / "old")
        wait_for(lambda: not (b / "new").exists(), "the rename", SOON_S)
        assert (b / "old").read_bytes() == b"new contents"
        assert held.read() == b"old contents"
    assert os.listdir(b) == ["old"]


def test_renaming_a_directory_under_a_working_directory(a: Path, b: Path) -> None:
    (a / "dir/sub").mkdir(parents=True)
    (a / "dir/sub/f").write_bytes(b"here")
    wait_for((b / "dir/sub/f").exists, "the new names")
    fd = os.open(b / "dir/sub", os.O_RDONLY)
    try:
        os.rename(a / "dir", a / "moved")
        wait_for((b / "moved").exists, "the rename", SOON_S)
        with os.fdopen(os.open("f", os.O_RDONLY, dir_fd=fd), "rb") as file:
            assert file.read() == b"here"
        assert (b / "moved/sub/f").read_bytes() == b"here"
        assert not (b / "dir").exists()
    finally:
        os.close(fd)


def test_a_file_unlinked_here_stays_readable_where_it_is_open(pair: Cluster, a: Path, b: Path) -> None:
    before = objects(pair)
    data = random.Random(1).randbytes(1_500_000)
    (a / "f").write_bytes(data)
    wait_for((b / "f").exists, "the new name")
    with open(b / "f", "r+b", buffering=0) as held:
        (a / "f").unlink()
        wait_for(lambda: not (b / "f").exists(), "the unlink", SOON_S)
        assert os.fstat(held.fileno()).st_nlink == 0
        assert os.pread(held.fileno(), 1000, 1_400_000) == data[1_400_000:1_401_000]
        assert os.pwrite(held.fileno(), b"still", 700_000) == 5
        os.fsync(held.fileno())
        with open(f"/proc/self/fd/{held.fileno()}", "rb") as again:
            assert again.read() == data[:700_000] + b"still" + data[700_005:]
        assert pair.status()["orphans"] in (1, "1")
        own = objects(pair) - before
        assert own
    wait_for(lambda: not objects(pair) & own, "the objects of the unlinked file to go")


def test_appending_from_both_by_turns_loses_nothing(a: Path, b: Path) -> None:
    (a / "log").write_bytes(b"")
    wait_for((b / "log").exists, "the new name")
    lines = [b"%d from %s\n" % (turn, name) for turn in range(30) for name in (b"a", b"b")]
    for line in lines:
        with open((a if line.endswith(b"a\n") else b) / "log", "ab", buffering=0) as file:
            file.write(line)
    assert (a / "log").read_bytes() == (b / "log").read_bytes() == b"".join(lines)


def test_one_of_two_makes_a_name(a: Path, b: Path) -> None:
    """O_EXCL, mkdir and link from both sides at once: one wins each time."""
    won: list[list[str]] = [[], []]
    (a / "source").touch()
    wait_for((b / "source").exists, "the new name")

    def race(side: int, folder: Path, barrier: threading.Barrier) -> None:
        for turn in range(60):
            barrier.wait()
            try:
                if turn % 3 == 0:
                    os.close(os.open(folder / f"n{turn}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                elif turn % 3 == 1:
                    os.mkdir(folder / f"n{turn}")
                else:
                    os.link(folder / "source", folder / f"n{turn}")
            except FileExistsError:
                continue
            won[side].append(f"n{turn}")

    barrier = threading.Barrier(2, timeout=60)
    other = threading.Thread(target=race, args=(1, b, barrier))
    other.start()
    race(0, a, barrier)
    other.join()
    assert sorted(won[0] + won[1]) == sorted(f"n{turn}" for turn in range(60))
    names = sorted(["source", *won[0], *won[1]])
    wait_for(lambda: sorted(os.listdir(a)) == sorted(os.listdir(b)) == names, "both listings", SOON_S)


def test_truncating_here_cuts_what_is_read_there(a: Path, b: Path) -> None:
    (a / "f").write_bytes(b"x" * 600_000)
    wait_for((b / "f").exists, "the new name")
    with open(b / "f", "rb", buffering=0) as held:
        assert len(held.read(700_000) or b"") == 600_000
        os.truncate(a / "f", 100_000)
        wait_for(lambda: os.fstat(held.fileno()).st_size == 100_000, "the new size", SOON_S)
        os.truncate(a / "f", 200_000)
        wait_for(lambda: os.fstat(held.fileno()).st_size == 200_000, "the newer size", SOON_S)
        assert os.pread(held.fileno(), 300_000, 0) == b"x" * 100_000 + bytes(100_000)


def test_a_directory_made_here_and_filled_there(a: Path, b: Path) -> None:
    """Whoever makes a directory knows that it is empty, without asking, and must hear when it no longer is."""
    (a / "dir").mkdir()
    wait_for((b / "dir").exists, "the new directory")
    assert os.listdir(a / "dir") == []
    (b / "dir/f").write_bytes(b"from b")
    wait_for((a / "dir/f").exists, "the file of the other mount", SOON_S)
    assert (a / "dir/f").read_bytes() == b"from b"
    assert os.listdir(a / "dir") == ["f"]


def test_removing_a_directory_that_was_filled_there(a: Path, b: Path) -> None:
    (a / "dir").mkdir()
    wait_for((b / "dir").exists, "the new directory")
    (b / "dir/f").touch()
    with pytest.raises(OSError, match="not empty"):
        (a / "dir").rmdir()
    (b / "dir/f").unlink()
    (a / "dir").rmdir()
    wait_for(lambda: not (b / "dir").exists(), "the directory to be gone", SOON_S)


def test_hard_links_and_xattrs_and_ownership_are_seen(a: Path, b: Path) -> None:
    (a / "f").write_bytes(b"x")
    wait_for((b / "f").exists, "the new name")
    assert os.listxattr(b / "f") == []
    os.setxattr(a / "f", "user.colour", b"blue")
    os.chown(a / "f", 1234, 4321)
    os.link(a / "f", a / "g")
    wait_for(lambda: os.listxattr(b / "f") == ["user.colour"], "the attribute", SOON_S)
    wait_for(lambda: (b / "f").stat().st_uid == 1234 and (b / "f").stat().st_gid == 4321, "the owner", SOON_S)
    wait_for(lambda: (b / "g").exists() and (b / "f").stat().st_nlink == 2, "the link", SOON_S)
    assert (b / "f").samefile(b / "g")


def test_programs_follow_each_other(a: Path, b: Path) -> None:
    """A pipeline of separate processes on alternating mounts, without a wait: each opens what the last one has closed."""
    (a / "counter").write_text("0")
    wait_for((b / "counter").exists, "the new name")
    step = 'n=$(cat "$0"); echo $((n + 1)) > "$0"'
    for turn in range(20):
        subprocess.run(["sh", "-c", step, str((a if turn % 2 else b) / "counter")], check=True)
    assert (a / "counter").read_text() == (b / "counter").read_text() == "20\n"
    assert stat.S_ISREG((a / "counter").stat().st_mode)
