"""Programs that people use, on a real mount: tar, rsync, git, a C build, sqlite, pip, fio, cp, dd, find, du."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import zipfile
from typing import TYPE_CHECKING

import pytest

from fuseclient.meta_client import MetaClient
from fuseclient.volume_url import VolumeUrl
from protos import meta_pb2 as pb
from tests.fuse.cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.fuse.cluster import Cluster


def sh(script: str, cwd: Path, **env: str) -> str:
    """Run a shell script that must succeed; what it printed."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=280,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [name for name in programs if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="module")
def source_tree(scratch: Path) -> Path:
    """2,000 files with symbolic links, hard links, xattrs, odd modes, owners, names and times; on a local disk."""
    tree = scratch / "source"
    for number in range(2000):
        folder = tree / f"d{number % 25}" / f"e{number % 7}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"file {number}"
        path.write_bytes(hashlib.blake2b(str(number).encode()).digest() * (number % 97) * (40 if number % 50 == 0 else 1))
        os.chmod(path, (0o644, 0o755, 0o600, 0o4755, 0o2711)[number % 5])
        os.utime(path, ns=(10**18 + number, 10**18 + number * 1_000_003))
        if number % 10 == 0:
            os.symlink(f"file {number}", folder / f"link {number}")
        if number % 11 == 0:
            os.link(path, folder / f"hard {number}")
        if number % 13 == 0:
            os.setxattr(path, "user.note", b"n" * (number % 200))
        if number % 17 == 0:
            os.chown(path, number % 1000, number % 500)
    (tree / os.fsdecode(b"bytes \xff\xfe")).write_bytes(b"a name that is not UTF-8")
    (tree / "empty").mkdir()
    os.mkfifo(tree / "fifo")
    return tree


@needs("rsync", "setfattr")
def test_tar_unpacks_a_tree_that_rsync_cannot_tell_from_the_original(here: Path, source_tree: Path) -> None:
    sh(
        'tar -C "$S" --xattrs --xattrs-include="*" -cf - . | tar -C "$PWD" --xattrs --xattrs-include="*" -xpf -',
        here,
        S=str(source_tree),
    )
    differences = sh('rsync -aHXc --delete --dry-run --itemize-changes "$S/" "$PWD/"', here, S=str(source_tree))
    assert differences == ""


@needs("git")
def test_git_clone_fsck_status(here: Path, scratch: Path) -> None:
    origin = scratch / "origin"
    git = "git -c user.name=t -c user.email=t@localhost"
    sh(
        f"git init -q {origin} && cd {origin} && for i in $(seq 300); do echo $i > f$i; done"
        f" && {git} add . && {git} commit -qm one",
        scratch,
    )
    sh(f"git clone -q --no-local {origin} clone && cd clone && git fsck --full --strict", here)
    assert sh("git -C clone status --porcelain", here) == ""
    sh(
        f"cd clone && for i in $(seq 50); do echo new >> f$i; done && {git} commit -qam two && git gc -q && git fsck --full",
        here,
    )
    assert sh("git -C clone status --porcelain", here) == ""


@needs("gcc", "make")
def test_a_c_project_configures_and_builds(here: Path) -> None:
    (here / "configure").write_text(
        "#!/bin/sh\nset -e\nfor h in stdio.h unistd.h no_such.h; do\n"
        'if echo "#include <$h>" | gcc -E - >/dev/null 2>conf.log; then echo "HAVE_$h=yes"; else echo "HAVE_$h=no"; fi\n'
        "done > config.status\nsed s/@CC@/gcc/ Makefile.in > Makefile\nchmod +x config.status\n"
    )
    (here / "configure").chmod(0o755)
    objects = " ".join(f"m{n}.o" for n in range(20))
    rule = "%.o: %.c m.h\n\t@CC@ -O1 -c $< -o $@\n"
    (here / "Makefile.in").write_text(
        f"prog: {objects}\n\t@CC@ -o $@ $^\n\tar rcs libm.a $^\n{rule}clean:\n\trm -f *.o prog libm.a\n"
    )
    (here / "m.h").write_text("".join(f"int f{n}(void);\n" for n in range(1, 20)))
    for number in range(1, 20):
        (here / f"m{number}.c").write_text(f'#include "m.h"\nint f{number}(void) {{ return {number}; }}\n')
    total = " + ".join(f"f{n}()" for n in range(1, 20))
    (here / "m0.c").write_text(f'#include <stdio.h>\n#include "m.h"\nint main(void) {{ printf("%d", {total}); return 0; }}\n')
    assert sh("./configure && make -s -j4 && ./prog", here).endswith(str(sum(range(20))))
    assert "HAVE_no_such.h=no" in (here / "config.status").read_text()
    assert "up to date" in sh("make", here)
    sh("make -s clean && make -s && ./prog", here)


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_sqlite_with_four_writers(here: Path, mode: str) -> None:
    path = here / "data.db"
    rows, writers = 40, 4
    program = (
        "import sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], timeout=120, isolation_level=None)\n"
        f"for n in range({rows}):\n"
        "    db.execute('begin immediate')\n"
        "    (count,) = db.execute('select count(*) from t').fetchone()\n"
        "    db.execute('insert into t values (?, ?, ?)', (int(sys.argv[2]), n, count))\n"
        "    db.execute('commit')\n"
    )
    with sqlite3.connect(path) as database:
        assert database.execute(f"pragma journal_mode={mode}").fetchone() == (mode,)
        database.execute("create table t (writer integer, n integer, seen integer unique)")
    database.close()
    children = [subprocess.Popen([sys.executable, "-c", program, str(path), str(w)]) for w in range(writers)]
    assert [child.wait(250) for child in children] == [0] * writers
    database = sqlite3.connect(path)
    assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    # Each transaction saw every earlier one, so the counts they saw are all different.
    assert sorted(row[0] for row in database.execute("select seen from t")) == list(range(rows * writers))
    database.close()


def test_venv_and_pip_install_from_a_local_wheel(here: Path) -> None:
    wheel = here / "hello_keel-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("hello_keel.py", "print('hello from the mount')\n")
        archive.writestr("hello_keel-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: hello-keel\nVersion: 1.0\n")
        archive.writestr("hello_keel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("hello_keel-1.0.dist-info/RECORD", "")
    sh(f'"{sys.executable}" -m venv v && v/bin/pip install -q --no-index --disable-pip-version-check {wheel}', here)
    assert sh("v/bin/python -m hello_keel", here) == "hello from the mount\n"


FIO = {
    "sequential": "--rw=write --bs=1m --size=96m --end_fsync=1",
    "random": "--rw=randwrite --bs=4k --size=24m --fsync=500",
    "mmap": "--rw=randwrite --bs=4k --size=8m --ioengine=mmap",
    "direct": "--rw=randrw --bs=64k --size=32m --direct=1",
    "mixed sizes": "--rw=randwrite --bsrange=1k-256k --size=48m --bs_unaligned=1",
}


@needs("fio")
@pytest.mark.parametrize("how", FIO)
def test_fio_verifies_what_it_wrote(here: Path, how: str) -> None:
    options = "--name=v --filename=data --verify=crc32c --do_verify=1 --verify_fatal=1 --verify_backlog=0 --randseed=7"
    engine = "" if "ioengine" in FIO[how] else "--ioengine=psync"
    sh(f"fio {options} {engine} {FIO[how]} --output-format=terse >/dev/null", here)


def test_sparse_copies_stay_sparse(here: Path, scratch: Path) -> None:
    original = scratch / "sparse"
    with open(original, "wb") as file:
        file.seek(10 << 20)
        file.write(b"in the middle")
        file.truncate(100 << 20)
    for how in ("always", "auto"):
        sh(f"cp --sparse={how} {original} {how} && cmp {original} {how}", here)
        found = os.stat(here / how)
        assert found.st_size == 100 << 20
        assert found.st_blocks * 512 < 1 << 20
    sh("cp --sparse=auto always again && cmp always again", here)
    assert os.stat(here / "again").st_blocks * 512 < 1 << 20


def test_du_counts_what_is_allocated(here: Path) -> None:
    (here / "full").write_bytes(os.urandom(1_000_000))
    with open(here / "holes", "wb") as file:
        file.truncate(50 << 20)
    os.sync()
    assert int(sh("du -B1 full", here).split()[0]) == -(-1_000_000 // 4096) * 4096
    assert int(sh("du -B1 holes", here).split()[0]) == 0
    assert int(sh("du -B1 --apparent-size holes", here).split()[0]) == 50 << 20


def test_dd_changes_the_middle_only(here: Path) -> None:
    content = bytearray(os.urandom(9 << 20))
    (here / "file").write_bytes(content)
    patch = os.urandom(70_000)
    (here / "patch").write_bytes(patch)
    sh("dd if=patch of=file bs=7k seek=500 conv=notrunc,fsync status=none", here)
    content[500 * 7168 : 500 * 7168 + len(patch)] = patch
    assert (here / "file").read_bytes() == content


def test_find_sees_the_whole_tree(here: Path, source_tree: Path) -> None:
    sh('cp -a "$S" copy', here, S=str(source_tree))
    listing = 'find . -printf "%P %y %m %n %U %G %l\\n" | sort'
    assert sh(f"cd copy && {listing}", here) == sh(listing, source_tree)


def test_a_file_renamed_over_lives_on_for_who_has_it_open(here: Path) -> None:
    (here / "target").write_bytes(b"old contents" * 1000)
    (here / "new").write_bytes(b"new contents")
    with open(here / "target", "r+b") as old:
        os.rename(here / "new", here / "target")
        assert (here / "target").read_bytes() == b"new contents"
        assert os.fstat(old.fileno()).st_nlink == 0
        old.seek(0, os.SEEK_END)
        old.write(b"still written")
        old.flush()
        os.fsync(old.fileno())
        old.seek(0)
        assert old.read() == b"old contents" * 1000 + b"still written"


def test_an_unlinked_file_lives_on_for_who_has_it_open(here: Path) -> None:
    with open(here / "gone", "w+b") as file:
        file.write(b"x" * 5_000_000)
        os.unlink(here / "gone")
        assert os.listdir(here) == []
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        assert file.read() == b"x" * 5_000_000
        file.truncate(3)
        assert os.fstat(file.fileno()).st_size == 3


def test_a_hundred_thousand_files_listed_while_they_are_deleted(cluster: Cluster, here: Path) -> None:
    """What stays is listed, each name once, whatever goes meanwhile. The crowd is made and cleared away by a client without a
    mount, thousands at a time, since one directory of one mount takes one change at a time."""
    count = 100_000
    folder = here / "many"
    folder.mkdir()
    names = [b"%06d" % number for number in range(count)]
    asyncio.run(in_bulk(cluster.url, folder.stat().st_ino, names, make))
    seen: list[bytes] = []
    gone: set[bytes] = set()
    listed = threading.Event()

    def remove_some(start: int) -> None:
        for name in names[start::8]:
            if listed.is_set():
                return
            os.unlink(os.fsencode(folder) + b"/" + name)
            gone.add(name)

    removers = [threading.Thread(target=remove_some, args=(start,)) for start in range(4)]
    with os.scandir(os.fsencode(folder)) as entries:
        for entry in entries:
            if not seen:
                for thread in removers:
                    thread.start()
            seen.append(entry.name)
            if len(seen) % 100 == 0:  # leave the removers time: about as many names go as are listed before them
                wait_for(lambda: len(gone) > len(seen) // 50 or not any(t.is_alive() for t in removers), "deletions")
    listed.set()
    for thread in removers:
        thread.join()
    assert len(gone) > 1000
    assert len(seen) == len(set(seen)), "a name was listed twice"
    assert set(names) - gone <= set(seen), "a name that stayed was not listed"
    assert set(os.listdir(os.fsencode(folder))) == set(names) - gone
    asyncio.run(in_bulk(cluster.url, folder.stat().st_ino, sorted(set(names) - gone), remove))
    wait_for(lambda: os.listdir(folder) == [], "the mount hears of every deletion")
    folder.rmdir()


def make(parent: int, name: bytes) -> pb.Request:
    return pb.Request(create=pb.Create(parent=parent, name=name, mode=0o644, exclusive=True, cred=pb.Cred()))


def remove(parent: int, name: bytes) -> pb.Request:
    return pb.Request(unlink=pb.Unlink(parent=parent, name=name, cred=pb.Cred()))


async def in_bulk(url: str, parent: int, names: list[bytes], request: Callable[[int, bytes], pb.Request]) -> None:
    """The same change for every name, many in flight."""
    client = await MetaClient.connect(VolumeUrl.parse(url), "test")
    left = iter(names)

    async def worker() -> None:
        for name in left:
            done = await client.change(request(parent, name))
            client.release(int.from_bytes(done.attr[:8], "little"))

    await asyncio.gather(*(worker() for _ in range(256)))
    await client.close()
