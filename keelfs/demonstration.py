"""What `keelfs demo` does: real work on a fresh volume, compared byte by byte with the original, before and after a restart.

The tree is KeelFS's own sources when it runs from a checkout, else Python's standard library. Any difference ends the
demonstration with an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fuseclient.errors import ClientError
from fuseclient.volume_url import parse_address
from keelfs.admin_client import admin
from keelfs.console import out, size_text
from keelfs.embedded import Embedded
from keelfs.target import admin_address

if TYPE_CHECKING:
    from collections.abc import Iterator

_SKIP: Final = {
    ".git",
    ".venv",
    "__pycache__",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".hypothesis",
    "peers-state",
    "site-packages",
    "test",
}


def run(directory: Path | None) -> None:
    """The demonstration, in `directory` or in a temporary one that is removed. Raises ClientError."""
    if os.geteuid() != 0 and not Path("/dev/fuse").exists():
        raise ClientError("there is no /dev/fuse; load the kernel's fuse module or run as root")
    with contextlib.ExitStack() as stack:
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keelfs-demo-")))
        directory = directory.absolute()
        _demonstrate(directory)
    out.print("[bold green]Everything is as it was written.[/]")


def _demonstrate(directory: Path) -> None:
    mountpoint = directory / "mnt"
    source = directory / "original"
    if source.exists():
        raise ClientError(f"{directory} holds a demonstration already; remove it, or name another directory")
    with step(f"set a copy of {source_tree()} aside, to compare with"):
        unpack(source_tree(), source)  # somebody may be working on the tree itself
    with Embedded(directory / "keelfs", mountpoint) as running:
        with step("start a metadata server, make a volume, mount it"):
            running.start()
        tree = mountpoint / "tree"
        with step("unpack it onto the mount"):
            count = unpack(source, tree)
        with step(f"compare the checksums of {count} files with the original"):
            compare(source, tree)
        with step("build on the mount: byte-compile every module"):
            call([sys.executable, "-m", "compileall", "-q", str(tree)])
        with step("sqlite on the mount: 1,000 rows in WAL mode"):
            sqlite_rows(mountpoint / "demo.db")
        with step("unmount, stop the server, start both again"):
            running.unmount()
            running.stop_server()
            running.start_server()
            running.start_mount()
        with step("compare again"):
            compare(source, tree)
            sqlite_check(mountpoint / "demo.db")
        show_status(running)


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Say what is done, and how long it took."""
    out.print(f"• {what} ...", end="", markup=False)
    started = time.perf_counter()
    yield
    out.print(f" done ({time.perf_counter() - started:.2f} s)")


def source_tree() -> Path:
    """The project's checkout, or the standard library."""
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "pyproject.toml").is_file() else Path(sysconfig.get_paths()["stdlib"])


def unpack(source: Path, target: Path) -> int:
    """Copy the tree with tar, as anybody would; the number of files."""
    target.mkdir(parents=True)
    excludes = [f"--exclude={name}" for name in sorted(_SKIP)]
    packing = subprocess.Popen(["tar", "-C", str(source), *excludes, "-cf", "-", "."], stdout=subprocess.PIPE)
    try:
        call(["tar", "-C", str(target), "-xf", "-"], packing.stdout)
    finally:
        assert packing.stdout is not None
        packing.stdout.close()
        packing.wait()
    return len(checksums(target))


def checksums(tree: Path) -> dict[str, str]:
    """The digest of every regular file's bytes and of every symbolic link's target, by relative path."""
    found = {}
    for folder, folders, files in os.walk(tree):
        folders[:] = sorted(name for name in folders if name not in _SKIP)
        for name in files:
            path = Path(folder) / name
            content = os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes()
            found[str(path.relative_to(tree))] = hashlib.blake2b(content).hexdigest()
    return found


def compare(source: Path, copy: Path) -> None:
    """Raises ClientError at a difference."""
    original, found = checksums(source), checksums(copy)
    wrong = sorted(name for name in original.keys() | found.keys() if original.get(name) != found.get(name))
    if wrong:
        raise ClientError(f"{len(wrong)} files differ from the original: {', '.join(wrong[:5])}")


def sqlite_rows(path: Path) -> None:
    """A database in write-ahead mode, which needs shared memory maps and locks."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("pragma journal_mode=wal")
        with database:
            database.execute("create table numbers (n integer)")
            database.executemany("insert into numbers values (?)", ((n,) for n in range(1000)))


def sqlite_check(path: Path) -> None:
    """Raises ClientError when the database is not what was written."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(path)) as database:
        (state,) = database.execute("pragma integrity_check").fetchone()
        (total,) = database.execute("select sum(n) from numbers").fetchone()
    if state != "ok" or total != sum(range(1000)):
        raise ClientError(f"the database is damaged: {state}, sum {total}")


def call(command: list[str], stdin: object = None) -> None:
    """Run a program; its failure is ours."""
    done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False)  # type: ignore[call-overload]
    if done.returncode:
        raise ClientError(f"{command[0]} failed with {done.returncode}: {done.stderr.strip()[-500:]}")


def show_status(running: Embedded) -> None:
    """What `keelfs status` would say, in three lines."""
    with admin(admin_address(parse_address(running.address))) as client:
        status = client.status()
        (volume,) = client.volumes()
    out.print(f"  {running.url}: {volume.inodes_used} inodes, {size_text(volume.bytes_used)}")
    out.print(f"  server: {status.role}, log index {status.index_applied}, {size_text(status.rss_bytes)} of memory")
