"""The driver on a real mount, with a toy file system behind it."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import signal
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import LiveMount, wait_until

from fuseclient.kernel.negotiation import DriverOptions
from fuseclient.kernel.protocol import InitFlag
from fuseclient.operations import OPEN_KILL_PRIV

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.fuse


def drop_caches() -> None:
    Path("/proc/sys/vm/drop_caches").write_text("2")


@pytest.mark.parametrize("uvloop", [False, True], ids=["asyncio", "uvloop"])
def test_the_basics(live: Callable[..., LiveMount], uvloop: bool) -> None:
    mnt = live(uvloop=uvloop)
    base = mnt.path
    (base / "d").mkdir(mode=0o750)
    file = base / "d" / "file"
    file.write_bytes(b"hello")
    assert file.read_bytes() == b"hello"
    with file.open("ab") as f:
        f.write(b" world")
    assert file.read_bytes() == b"hello world"
    assert file.stat().st_size == 11
    assert stat.S_IMODE((base / "d").stat().st_mode) == 0o750
    (base / "link").symlink_to("d/file")
    assert os.readlink(base / "link") == "d/file"
    assert (base / "link").read_bytes() == b"hello world"
    os.link(file, base / "hard")
    assert (base / "hard").stat().st_nlink == 2
    assert os.path.samefile(file, base / "hard")
    os.rename(file, base / "moved")
    assert sorted(os.listdir(base)) == ["d", "hard", "link", "moved"]
    os.unlink(base / "hard")
    os.rmdir(base / "d")
    os.mknod(base / "fifo", stat.S_IFIFO | 0o600)
    assert stat.S_ISFIFO((base / "fifo").stat().st_mode)
    os.utime(base / "moved", ns=(1, -5_000_000_001))
    assert (base / "moved").stat().st_mtime_ns == -5_000_000_001
    os.chmod(base / "moved", 0o4711)
    assert stat.S_IMODE((base / "moved").stat().st_mode) == 0o4711
    os.truncate(base / "moved", 3)
    assert (base / "moved").read_bytes() == b"hel"
    with pytest.raises(FileNotFoundError):
        (base / "none").stat()
    with pytest.raises(FileExistsError):
        (base / "fifo").mkdir()


def test_large_data_comes_back_whole(mnt: LiveMount) -> None:
    data = os.urandom(1 << 16) * 80  # 5 MiB
    file = mnt.path / "big"
    file.write_bytes(data)
    assert mnt.stats()["write"] <= 6  # 1 MiB each
    drop = os.open(file, os.O_RDONLY)
    os.posix_fadvise(drop, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(drop)
    assert hashlib.sha1(file.read_bytes()).digest() == hashlib.sha1(data).digest()


def test_direct_io_goes_past_the_page_cache(mnt: LiveMount) -> None:
    buffer = mmap.mmap(-1, 1 << 20)
    buffer.write(os.urandom(1 << 20))
    fd = os.open(mnt.path / "direct", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    assert os.write(fd, buffer) == 1 << 20
    reads = mnt.stats().get("read", 0)
    back = mmap.mmap(-1, 1 << 20)
    for _ in range(2):
        assert os.preadv(fd, [back], 0) == 1 << 20
    assert back[:] == buffer[:]
    assert mnt.stats()["read"] == reads + 2
    os.close(fd)


MAP_AND_WRITE = """
import mmap, sys
with open(sys.argv[1], "r+b") as f, mmap.mmap(f.fileno(), 8192) as view:
    assert view[:10] == bytes(10)
    view[4095:4099] = b"KEEL"
    view.flush()
"""


def test_shared_memory_maps_are_written_back(mnt: LiveMount) -> None:
    file = mnt.path / "map"
    file.write_bytes(bytes(8192))
    subprocess.run([sys.executable, "-c", MAP_AND_WRITE, str(file)], check=True)
    drop = os.open(file, os.O_RDONLY | os.O_DIRECT)
    back = mmap.mmap(-1, 8192)
    assert os.preadv(drop, [back], 0) == 8192
    os.close(drop)
    assert back[4095:4099] == b"KEEL"


def test_extended_attributes(mnt: LiveMount) -> None:
    file = mnt.path / "x"
    file.touch()
    os.setxattr(file, "user.a", b"value", os.XATTR_CREATE)
    with pytest.raises(FileExistsError):
        os.setxattr(file, "user.a", b"other", os.XATTR_CREATE)
    os.setxattr(file, "user.b", b"")
    assert os.getxattr(file, "user.a") == b"value"
    assert os.getxattr(file, "user.b") == b""
    assert os.listxattr(file) == ["user.a", "user.b"]
    os.removexattr(file, "user.a")
    with pytest.raises(OSError, match="No data available"):
        os.getxattr(file, "user.a")
    libc = ctypes.CDLL(None, use_errno=True)
    os.setxattr(file, "user.c", bytes(100))
    room = ctypes.create_string_buffer(50)
    assert libc.getxattr(os.fsencode(file), b"user.c", room, 50) == -1
    assert ctypes.get_errno() == errno.ERANGE


def test_the_rest_of_the_calls_arrive(mnt: LiveMount) -> None:
    file = mnt.path / "f"
    file.write_bytes(b"12345")
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(file, os.O_RDWR)
    os.posix_fallocate(fd, 0, 100)
    assert os.fstat(fd).st_size == 100
    assert libc.fallocate(fd, 3, ctypes.c_long(8), ctypes.c_long(16)) == 0
    assert ("fallocate", 8, 16, 3) in mnt.toy.calls
    assert os.lseek(fd, 0, os.SEEK_HOLE) == 100
    with pytest.raises(OSError, match="No such device or address"):
        os.lseek(fd, 500, os.SEEK_DATA)
    os.fsync(fd)
    os.fdatasync(fd)
    assert ("fsync", False) in mnt.toy.calls
    assert ("fsync", True) in mnt.toy.calls
    other = os.open(mnt.path / "copy", os.O_CREAT | os.O_WRONLY)
    assert os.copy_file_range(fd, other, 5, 0) == 5
    assert ("copy_range", 0, 0, 5) in mnt.toy.calls
    os.close(other)
    assert (mnt.path / "copy").read_bytes() == b"12345"
    os.close(fd)
    directory = os.open(mnt.path, os.O_RDONLY)
    os.fsync(directory)
    assert any(call[0] == "fsyncdir" for call in mnt.toy.calls)
    with pytest.raises(OSError, match="Inappropriate ioctl"):
        fcntl.ioctl(directory, 0x4B01, b"")
    unnamed = os.open(mnt.path, os.O_TMPFILE | os.O_RDWR)
    assert os.fstat(unnamed).st_nlink == 0
    os.close(unnamed)
    os.close(directory)
    for flags in (1, 2):
        rename = libc.renameat2(-100, os.fsencode(file), -100, os.fsencode(mnt.path / "copy"), flags)
        assert (rename, ctypes.get_errno()) == ((-1, errno.EEXIST) if flags == 1 else (0, errno.EEXIST))
    assert file.read_bytes() == b"12345"
    volume = os.statvfs(mnt.path)
    assert (volume.f_bsize, volume.f_blocks, volume.f_bfree, volume.f_files, volume.f_namemax) == (4096, 1000, 400, 50, 255)


def test_locks_are_asked_for_and_not_kept_by_this_kernel(mnt: LiveMount) -> None:
    file = mnt.path / "lock"
    file.touch()
    with file.open("r+") as a, file.open("r+") as b:
        fcntl.flock(a, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(b, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(b, fcntl.LOCK_EX)  # of the other kind
    asked = [(kind, type_, wait) for name, kind, type_, _, _, wait, _ in (c for c in mnt.toy.calls if c[0] == "setlk")]
    assert asked[:3] == [(1, fcntl.F_WRLCK, True), (1, fcntl.F_WRLCK, False), (0, fcntl.F_WRLCK, True)]


def test_the_umask_is_ours_to_apply(mnt: LiveMount) -> None:
    before = os.umask(0o027)
    try:
        os.close(os.open(mnt.path / "masked", os.O_CREAT | os.O_WRONLY, 0o666))
    finally:
        os.umask(before)
    assert ("create", b"masked", oct(0o100666), oct(0o027)) in mnt.toy.calls


def test_open_truncates_in_one_request(mnt: LiveMount) -> None:
    file = mnt.path / "t"
    file.write_bytes(b"long content")
    mnt.toy.calls.clear()
    os.close(os.open(file, os.O_WRONLY | os.O_TRUNC))
    assert file.stat().st_size == 0
    assert [call[0] for call in mnt.toy.calls if call[0] in ("open", "setattr")] == ["open"]


def as_nobody(script: str) -> None:
    subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", script], check=True)


def test_set_id_bits_fall_with_the_change_itself(mnt: LiveMount, tmp_path: Path) -> None:
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_mode & 0o5 != 0o5:
            parent.chmod(parent.stat().st_mode | 0o5)
    for name, script in (("write", "printf x >> {}"), ("truncate", ": > {}"), ("resize", "truncate -s 1 {}")):
        file = mnt.path / name
        file.write_bytes(b"abc")
        os.chown(file, 65534, 65534)
        os.chmod(file, 0o6777)
        mnt.toy.calls.clear()
        as_nobody(script.format(file))
        assert stat.S_IMODE(file.stat().st_mode) == 0o777, name
        if name == "truncate":
            assert any(call[0] == "open" and call[1] & OPEN_KILL_PRIV for call in mnt.toy.calls)
        if name == "resize":
            assert ("setattr", 8 | 1 << 11) in [(c[0], c[1] & (8 | 1 << 11)) for c in mnt.toy.calls if c[0] == "setattr"]
    os.chmod(mnt.path / "write", 0o6777)
    with (mnt.path / "write").open("ab") as f:
        f.write(b"root keeps them")
    assert stat.S_IMODE((mnt.path / "write").stat().st_mode) == 0o6777


def test_reading_needs_no_flush(mnt: LiveMount) -> None:
    file = mnt.path / "r"
    file.write_bytes(b"x")
    flushes = mnt.stats()["flush"]
    file.read_bytes()
    assert mnt.stats()["flush"] == flushes
    with file.open("r+b"):
        pass
    assert mnt.stats()["flush"] == flushes + 1


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_large_listing_is_whole_and_brings_attributes(live: Callable[..., LiveMount], adaptive: bool) -> None:
    mnt = live(ttl_s=60, options=DriverOptions(adaptive_readdirplus=adaptive))
    names = {f"file-{k:05}{'x' * (k % 40)}" for k in range(5000)}
    for name in names:
        os.close(os.open(mnt.path / name, os.O_CREAT | os.O_WRONLY))
    drop_caches()
    wait_until(lambda: mnt.stats()["nodes"] == 0, "the kernel's forgetting")
    before = mnt.stats()
    with os.scandir(mnt.path) as entries:
        found = {entry.name: entry.stat(follow_symlinks=False).st_ino for entry in entries}
    assert set(found) == names
    assert len(set(found.values())) == 5000
    after = mnt.stats()
    assert after["readdirplus"] > before.get("readdirplus", 0)
    looked_up = after["lookup"] - before["lookup"]
    assert looked_up == 0 if not adaptive else looked_up < 1000, "stat after readdirplus should ask nothing"


def test_forget_accounting_reaches_zero(live: Callable[..., LiveMount]) -> None:
    mnt = live(ttl_s=60)
    for k in range(300):
        (mnt.path / f"d{k}").mkdir()
        (mnt.path / f"f{k}").write_bytes(b"x")
        os.link(mnt.path / f"f{k}", mnt.path / f"l{k}")
    for _ in range(3):
        os.listdir(mnt.path)
    for k in range(0, 300, 3):
        os.unlink(mnt.path / f"f{k}")
    assert mnt.stats()["nodes"] >= 600
    drop_caches()
    wait_until(lambda: mnt.stats()["nodes"] == 0, "the kernel's forgetting")
    assert len(set(mnt.toy.forgotten)) == 600
    os.listdir(mnt.path)
    (mnt.path / "d1").stat()
    assert mnt.stats()["nodes"] > 0
    mnt.close()
    assert mnt.stats()["nodes"] == 0
    assert mnt.toy.open_files == 0


def test_what_others_change_is_seen_when_the_kernel_is_told(live: Callable[..., LiveMount]) -> None:
    mnt = live(ttl_s=3600)
    file = mnt.path / "file"
    file.write_bytes(b"old")
    mnt.toy.keep_cache = True
    assert file.read_bytes() == b"old"
    node = mnt.toy.nodes[file.stat().st_ino]

    def change() -> None:
        node.data[:] = b"newer"
        node.size = 5
        mnt.toy.touch(node)

    mnt.on_loop(change)
    assert file.read_bytes() == b"old", "the kernel should have believed its cache"
    kernel = mnt.toy.kernel
    assert kernel is not None
    sent = mnt.stats()["notifications_sent"]
    mnt.on_loop(lambda: kernel.invalidate_inode(node.ino, data=True))
    wait_until(lambda: mnt.stats()["notifications_sent"] > sent, "the notification")
    assert file.read_bytes() == b"newer"

    # a name that goes, one that comes (and is known not to exist), and the listing
    mnt.toy.cache_dir = True
    assert os.listdir(mnt.path) == ["file"]
    assert not (mnt.path / "other").exists()
    root = mnt.toy.nodes[mnt.toy.root]

    def swap() -> None:
        root.entries[b"other"] = root.entries.pop(b"file")

    mnt.on_loop(swap)
    assert os.listdir(mnt.path) == ["file"]
    assert file.exists()
    assert not (mnt.path / "other").exists()
    seen = mnt.stats()["notifications_sent"]

    def tell() -> None:
        kernel.invalidate_entry(mnt.toy.root, b"file")
        kernel.invalidate_entry(mnt.toy.root, b"other")

    mnt.on_loop(tell)
    wait_until(lambda: mnt.stats()["notifications_sent"] >= seen + 3, "the notifications")
    assert os.listdir(mnt.path) == ["other"]
    assert not file.exists()
    assert (mnt.path / "other").read_bytes() == b"newer"


def test_invalidations_of_what_the_kernel_does_not_hold_are_not_sent(mnt: LiveMount) -> None:
    kernel = mnt.toy.kernel
    assert kernel is not None
    for _ in range(3):
        mnt.on_loop(lambda: kernel.invalidate_inode(424242, data=True))
        mnt.on_loop(lambda: kernel.invalidate_entry(424242, b"x"))
    mnt.on_loop(lambda: kernel.invalidate_entry(mnt.toy.root, b"no such name"))
    wait_until(lambda: mnt.stats()["notifications_sent"] == 1, "the root's listing was invalidated")
    wait_until(lambda: mnt.stats()["notifications_unknown"] == 1, "the name was not in the cache")


def test_when_names_overflow_the_kernel_looks_every_name_up_anew(live: Callable[..., LiveMount]) -> None:
    mnt = live(ttl_s=3600)
    file = mnt.path / "file"
    file.touch()
    assert mnt.driver is not None
    assert mnt.driver.agreed is not None
    if mnt.driver.agreed.minor < 44:
        pytest.skip("needs FUSE 7.44 (Linux 6.16)")
    lookups = mnt.stats()["lookup"]
    file.stat()
    assert mnt.stats()["lookup"] == lookups
    notifier = mnt.driver._notifier
    notifier._entries_max = 2

    def overflow() -> None:
        for k in range(5):
            notifier.invalidate_entry(mnt.toy.root, b"%d" % k)

    mnt.on_loop(overflow)
    wait_until(lambda: mnt.stats()["notifications_sent"] == 2, "the epoch, and the root's listing")
    file.stat()
    assert mnt.stats()["lookup"] == lookups + 1


def test_an_invalidation_while_the_directory_is_locked_blocks_nobody(mnt: LiveMount) -> None:
    """The kernel holds the directory's lock during a lookup that hangs; the notification waits for it, the loop does not."""
    kernel = mnt.toy.kernel
    assert kernel is not None
    (mnt.path / "file").write_bytes(b"x")
    creator = threading.Thread(target=lambda: os.open(mnt.path / "hanglookup", os.O_CREAT | os.O_WRONLY), daemon=True)
    creator.start()
    wait_until(lambda: mnt.toy.hanging == 1, "the lookup inside open")
    mnt.on_loop(lambda: kernel.invalidate_entry(mnt.toy.root, b"file"))
    (mnt.path / "file").stat()
    os.statvfs(mnt.path)
    mnt.on_loop(mnt.toy.unhang)
    creator.join(10)
    assert not creator.is_alive()
    wait_until(lambda: mnt.stats()["notifications_sent"] >= 2, "the notifications after the lock was free")


HANGING_READ = """
import os, signal, sys
signal.signal(signal.SIGALRM, lambda *_: os.write(1, b"alarm "))
fd = os.open(sys.argv[1], os.O_RDONLY)
os.write(1, b"open ")
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
data = os.read(fd, 100)
signal.setitimer(signal.ITIMER_REAL, 0)
os.write(1, data)
"""


def start_hanging_read(mnt: LiveMount) -> subprocess.Popen[bytes]:
    file = mnt.path / "stuck"
    file.write_bytes(b"content")
    os.setxattr(file, "user.mode", b"hang")
    mnt.toy.direct_io = True  # a buffered read waits for its page, where the kernel lets a killed process go by itself
    reader = subprocess.Popen([sys.executable, "-c", HANGING_READ, str(file)], stdout=subprocess.PIPE)
    wait_until(lambda: mnt.toy.hanging == 1, "the read")
    return reader


def test_a_killed_reader_is_let_go_and_the_mount_serves_on(mnt: LiveMount) -> None:
    reader = start_hanging_read(mnt)
    wait_until(lambda: mnt.stats().get("interrupt", 0) >= 1, "an interrupt for the alarm")
    assert mnt.stats()["in_flight"] == 1
    reader.kill()  # after the kernel has told of the only signal that it tells of
    reader.wait(10)
    assert reader.returncode == -signal.SIGKILL
    assert mnt.stats()["interrupted"] == 1
    assert mnt.stats()["in_flight"] == 0
    assert reader.stdout is not None
    reader.stdout.close()
    mnt.on_loop(mnt.toy.unhang)
    assert (mnt.path / "stuck").stat().st_size == 7


def test_a_handled_signal_does_not_end_a_read(mnt: LiveMount) -> None:
    reader = start_hanging_read(mnt)
    wait_until(lambda: mnt.stats().get("interrupt", 0) >= 1, "an interrupt for the alarm")
    mnt.on_loop(mnt.toy.unhang)
    said, _ = reader.communicate(timeout=10)
    assert reader.returncode == 0
    assert said.startswith(b"open alarm")
    assert said.endswith(b"content")
    assert mnt.stats()["interrupted"] == 0


def test_a_task_answers_while_others_are_served(mnt: LiveMount) -> None:
    with ThreadPoolExecutor(8) as pool:
        slow = [pool.submit((mnt.path / f"slow{k}").exists) for k in range(8)]
        assert not any(future.result(10) for future in slow)
    (mnt.path / "slow1").touch()
    assert (mnt.path / "slow1").exists()


def test_an_unexpected_failure_is_eio_and_only_that(mnt: LiveMount, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(OSError, match="Input/output error"):
        (mnt.path / "boom").stat()
    assert "RuntimeError: boom" in caplog.text
    file = mnt.path / "file"
    file.write_bytes(b"x")
    node = mnt.toy.nodes[file.stat().st_ino]
    for rubbish in (None, "text", (1, 2), -5):
        mnt.toy.getxattr = lambda *_, rubbish=rubbish: rubbish  # type: ignore[method-assign]
        with pytest.raises(OSError, match="Input/output error"):
            os.getxattr(file, "user.x")
    mnt.toy.read = lambda *_: [bytes(1 << 21)]  # type: ignore[method-assign] # more than was asked
    drop = os.open(file, os.O_RDONLY | os.O_DIRECT)
    with pytest.raises(OSError, match="Input/output error"):
        os.preadv(drop, [mmap.mmap(-1, 4096)], 0)
    os.close(drop)
    assert mnt.stats()["failures"] >= 6
    assert node.size == 1
    assert file.exists()


def test_many_threads(mnt: LiveMount) -> None:
    def work(k: int) -> int:
        base = mnt.path / f"t{k}"
        base.mkdir()
        for i in range(40):
            (base / f"f{i}").write_bytes(b"%d" % i)
            os.rename(base / f"f{i}", base / f"g{i}")
        return sum(int((base / f"g{i}").read_bytes()) for i in range(40))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [sum(range(40))] * 8


def test_a_file_handle_outlives_the_kernels_memory(mnt: LiveMount) -> None:
    """name_to_handle_at and open_by_handle_at, as an NFS server uses them: LOOKUP of "." and ".."."""
    (mnt.path / "d").mkdir()
    (mnt.path / "d" / "f").write_bytes(b"by handle")
    libc = ctypes.CDLL(None, use_errno=True)
    handle = ctypes.create_string_buffer(struct_file_handle(128))
    mount_id = ctypes.c_int()
    named = libc.name_to_handle_at(-100, os.fsencode(mnt.path / "d" / "f"), handle, ctypes.byref(mount_id), 0)
    assert named == 0, os.strerror(ctypes.get_errno())
    drop_caches()
    wait_until(lambda: mnt.stats()["nodes"] == 0, "the kernel's forgetting")
    at = os.open(mnt.path, os.O_RDONLY)
    fd = libc.open_by_handle_at(at, handle, os.O_RDONLY)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    assert os.read(fd, 100) == b"by handle"
    os.close(fd)
    os.close(at)


def struct_file_handle(size: int) -> bytes:
    return size.to_bytes(4, sys.byteorder) + bytes(4 + size)


def test_stop_unmounts_and_answers_what_is_under_way(mnt: LiveMount) -> None:
    (mnt.path / "f").write_bytes(b"x")
    assert mnt.driver is not None
    asyncio.run_coroutine_threadsafe(
        mnt.driver.stop(), mnt.loop
    )  # serve returns, and the loop ends, before its result is there
    wait_until(lambda: not mnt._thread.is_alive(), "the driver's end")
    assert not os.path.ismount(mnt.path)
    assert os.listdir(mnt.path) == []


def test_an_aborted_connection_ends_the_driver(mnt: LiveMount) -> None:
    mnt.abort()
    wait_until(lambda: not mnt._thread.is_alive(), "the driver's end")
    assert mnt.failure is None
    with pytest.raises(OSError, match=r"not connected|abort"):
        os.listdir(mnt.path)


def test_what_was_agreed(mnt: LiveMount) -> None:
    assert mnt.driver is not None
    agreed = mnt.driver.agreed
    assert agreed is not None
    assert agreed.minor >= 31
    for flag in (InitFlag.DONT_MASK, InitFlag.ATOMIC_O_TRUNC, InitFlag.HANDLE_KILLPRIV_V2, InitFlag.EXPLICIT_INVAL_DATA):
        assert agreed.has(flag)
    assert not agreed.has(InitFlag.WRITEBACK_CACHE)
    read_ahead = Path(f"/sys/class/bdi/{mnt.mounted.device}/read_ahead_kb").read_text()
    assert int(read_ahead) == 1024
