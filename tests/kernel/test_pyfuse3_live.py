"""The pyfuse3 adapter: the basics on a real mount. It serves from a process of its own, since pyfuse3's session is global."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import need_fuse, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVER = """
import asyncio, json, signal, sys
sys.path[:0] = sys.argv[2:4]
from toy_filesystem import ToyFilesystem
from fuseclient.errors import ClientError
from fuseclient.pyfuse3_driver import Pyfuse3Driver

async def main():
    toy = ToyFilesystem(ttl_s=60)
    driver = Pyfuse3Driver(sys.argv[1], toy)
    loop = asyncio.get_running_loop()
    def tell():
        toy.nodes[toy.root].entries[b"appeared"] = toy.nodes[toy.root].entries.pop(b"hidden")
        toy.kernel.invalidate_entry(toy.root, b"appeared")
    loop.add_signal_handler(signal.SIGUSR1, tell)
    loop.add_signal_handler(signal.SIGTERM, lambda: asyncio.ensure_future(driver.stop()))
    serving = asyncio.ensure_future(driver.serve())
    await driver.ready.wait()
    print("ready", flush=True)
    await serving
    print(json.dumps({**driver.stats(), "open": toy.open_files}), flush=True)

try:
    if sys.argv[4] == "uvloop":
        import uvloop
        uvloop.run(main())
    else:
        asyncio.run(main())
except ClientError as error:
    print("ClientError:", error)
"""
HERE = Path(__file__).parent


class Served:
    def __init__(self, path: Path, loop: str) -> None:
        self.path = path
        arguments = [sys.executable, "-c", SERVER, str(path), str(HERE), str(HERE.parent.parent), loop]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.out = self.process.stdout
        self.first = self.out.readline().strip()

    def end(self) -> dict[str, int]:
        """The counters that the server prints at its end."""
        said, _ = self.process.communicate(timeout=10)
        return dict(json.loads(said)) if said else {}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    need_fuse()
    pytest.importorskip("pyfuse3")
    path = tmp_path / "mnt"
    path.mkdir()
    made = Served(path, "asyncio")
    try:
        assert made.first == "ready"
        yield made
    finally:
        if made.process.poll() is None:
            made.process.kill()
            subprocess.run(["umount", "-l", path], check=False, capture_output=True)
            made.process.communicate()


@pytest.mark.fuse
def test_the_basics_through_libfuse(served: Served) -> None:
    base = served.path
    (base / "d").mkdir(mode=0o750)
    file = base / "d" / "file"
    data = os.urandom(300_000)
    file.write_bytes(data)
    assert file.read_bytes() == data
    assert file.stat().st_size == len(data)
    os.symlink("d/file", base / "link")
    assert (base / "link").read_bytes() == data
    os.link(file, base / "hard")
    assert file.stat().st_nlink == 2
    os.rename(file, base / "moved")
    os.unlink(base / "hard")
    assert sorted(os.listdir(base)) == ["d", "link", "moved"]
    os.truncate(base / "moved", 5)
    os.chmod(base / "moved", 0o640)
    os.utime(base / "moved", ns=(1, 12_345_678_901))
    found = (base / "moved").stat()
    assert (found.st_size, stat.S_IMODE(found.st_mode), found.st_mtime_ns) == (5, 0o640, 12_345_678_901)
    os.setxattr(base / "moved", "user.a", b"v")
    assert os.listxattr(base / "moved") == ["user.a"]
    assert os.getxattr(base / "moved", "user.a") == b"v"
    os.rmdir(base / "d")
    with pytest.raises(FileNotFoundError):
        (base / "none").stat()
    with pytest.raises(OSError, match="Input/output error"):
        (base / "boom").stat()
    for k in range(600):
        (base / f"n{k}").touch()
    assert len(os.listdir(base)) == 602
    assert os.statvfs(base).f_blocks == 1000
    served.process.send_signal(signal.SIGTERM)
    counts = served.end()
    assert served.process.returncode == 0
    assert not os.path.ismount(base)
    assert counts["create"] == 601
    assert (counts["nodes"], counts["open"]) == (0, 0)


@pytest.mark.fuse
def test_a_notification_through_libfuse(served: Served) -> None:
    (served.path / "hidden").write_bytes(b"x")
    assert not (served.path / "appeared").exists()
    served.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: (served.path / "appeared").exists(), "the name was invalidated")


@pytest.mark.fuse
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_an_unmount_from_outside_ends_it(tmp_path: Path, loop: str) -> None:
    need_fuse()
    pytest.importorskip("pyfuse3")
    served = Served(tmp_path, loop)
    assert served.first == "ready"
    (tmp_path / "file").touch()
    subprocess.run(["umount", tmp_path], check=True)
    assert served.end()["nodes"] == 0
    assert served.process.returncode == 0


@pytest.mark.fuse
def test_a_bad_mountpoint_is_refused_before_libfuse_sees_it(tmp_path: Path) -> None:
    need_fuse()
    pytest.importorskip("pyfuse3")
    (tmp_path / "file").touch()
    served = Served(tmp_path / "file", "asyncio")
    assert "is not a directory" in served.first
    served.process.communicate()


def test_without_pyfuse3_the_error_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['pyfuse3'] = None\n"
        "from fuseclient.errors import ClientError\n"
        "try: import fuseclient.pyfuse3_driver\n"
        "except ClientError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=HERE.parent.parent)
    assert "pip install 'keelfs[pyfuse3]'" in done.stdout
