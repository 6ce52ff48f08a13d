"""Mounting and unmounting: every way it can be refused says what to do, and anybody may mount."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import need_fuse

from fuseclient.kernel import mount as m
from fuseclient.kernel.mount import MountError, MountOptions, check_mountpoint, mount, mounted_at, unmount

HERE = Path(__file__).parent


def test_a_missing_mountpoint(tmp_path: Path) -> None:
    with pytest.raises(MountError, match=r"does not exist; create the directory first: mkdir -p .*/none"):
        check_mountpoint(tmp_path / "none", MountOptions())


def test_what_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MountError, match="is not a directory"):
        check_mountpoint(tmp_path / "file", MountOptions())
    with pytest.raises(MountError, match="not a directory"):
        check_mountpoint(tmp_path / "file" / "below", MountOptions())


def test_a_directory_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(MountError, match=r"not empty \(it holds 'precious'.*nonempty"):
        check_mountpoint(tmp_path, MountOptions())
    assert check_mountpoint(tmp_path, MountOptions(nonempty=True)) == str(tmp_path)


def test_what_is_a_mount_already() -> None:
    with pytest.raises(MountError, match=r"/proc is already a mount \(proc\)"):
        check_mountpoint("/proc", MountOptions())


def test_a_symlink_leads_to_the_directory(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert check_mountpoint(tmp_path / "link", MountOptions()) == str(tmp_path / "real")


@pytest.mark.parametrize("root", [True, False])
def test_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: bool) -> None:
    monkeypatch.setattr(m, "DEVICE", str(tmp_path / "fuse"))
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
    monkeypatch.setattr(m, "_helper", lambda: "/bin/true")
    (tmp_path / "mnt").mkdir()
    with pytest.raises(MountError, match=r"does not exist; load the kernel module \(modprobe fuse\)"):
        mount(tmp_path / "mnt")


def test_no_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MountError, match="install the package fuse3"):
        mount(tmp_path)


def test_a_helper_that_passes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(m, "_helper", lambda: "/bin/true")
    monkeypatch.setattr(m, "DEVICE", "/dev/null")
    with pytest.raises(MountError, match="passed no descriptor"):
        mount(tmp_path)


def test_refusals_of_the_kernel_carry_a_hint() -> None:
    assert "CAP_SYS_ADMIN" in str(m._refused("/mnt", 1))
    assert "modprobe fuse" in str(m._refused("/mnt", 19))
    assert str(m._refused("/mnt", 12)) == "cannot mount on /mnt: Cannot allocate memory"


def test_commas_in_the_source_do_not_become_options() -> None:
    words = ",".join(m._helper_words(MountOptions(fsname="keel://a,b/v\\")))
    assert "fsname=keel://a\\,b/v\\\\," in words


def test_paths_with_blanks_are_found_in_mountinfo() -> None:
    assert m._unescape("/a\\040b\\134c") == "/a b\\c"


def test_unmounting_what_is_no_mount(tmp_path: Path) -> None:
    with pytest.raises(MountError, match="is not a mount"):
        unmount(tmp_path)


@pytest.mark.fuse
def test_mount_and_unmount_leave_nothing(tmp_path: Path) -> None:
    need_fuse()
    path = tmp_path / "with blank"
    path.mkdir()
    mounted = mount(path, MountOptions(fsname="keel://x/y", read_only=True))
    at = mounted_at(str(path))
    assert at is not None
    assert (at.fstype, at.device) == ("fuse.keelfs", mounted.device)
    options = subprocess.run(["findmnt", "-no", "SOURCE,OPTIONS", path], capture_output=True, text=True, check=True).stdout
    assert options.startswith("keel://x/y")
    for word in ("ro", "nosuid", "nodev", "allow_other", "default_permissions", "max_read=1048576"):
        assert word in options.replace(" ", ",").strip().split(",")
    assert not os.get_inheritable(mounted.fd)
    mounted.unmount()
    mounted.unmount()
    assert mounted_at(str(path)) is None
    mounted.close()
    mounted.close()
    path.rmdir()


@pytest.mark.fuse
def test_the_mount_of_a_dead_process_is_named_and_can_be_removed(tmp_path: Path) -> None:
    need_fuse()
    mounted = mount(tmp_path)
    mounted.close()
    with pytest.raises(MountError, match=r"whose process has died; remove it with: fusermount3 -uz"):
        check_mountpoint(tmp_path, MountOptions())
    unmount(tmp_path)
    assert check_mountpoint(tmp_path, MountOptions()) == str(tmp_path)


AS_NOBODY = """
import asyncio, os, sys
sys.path[:0] = sys.argv[2:4]
from toy_filesystem import ToyFilesystem
from fuseclient.errors import ClientError
from fuseclient.kernel.loop import KernelDriver
from fuseclient.kernel.mount import MountOptions, mount

async def main():
    assert os.geteuid() == 65534
    try:
        mount(sys.argv[1])
    except ClientError as error:
        print(error)
    mounted = mount(sys.argv[1], MountOptions(allow_other=False))
    driver = KernelDriver(mounted.fd, ToyFilesystem(), unmount=mounted.unmount)
    serving = asyncio.ensure_future(driver.serve())
    await driver.ready.wait()
    mounted.set_read_ahead()
    def use():
        path = os.path.join(sys.argv[1], "file")
        with open(path, "w") as f:
            f.write("mine")
        with open(path) as f:
            return f.read(), os.stat(path).st_uid, open("/proc/self/mountinfo").read().count("fuse.keelfs")
    print(await asyncio.to_thread(use))
    await driver.stop()
    await serving
    print("still mounted" if os.path.ismount(sys.argv[1]) else "unmounted")

asyncio.run(main())
"""


#: Everywhere but in some containers /dev/fuse is open to all. The test has a mount namespace of its own in which it is.
OPEN_DEVICE = """
set -e
mknod $0/fuse c 10 229
chmod 666 $0/fuse
mount --bind $0/fuse /dev/fuse
exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
"""


@pytest.mark.fuse
def test_anybody_may_mount_through_the_helper(tmp_path: Path) -> None:
    need_fuse()
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_mode & 0o5 != 0o5:
            parent.chmod(parent.stat().st_mode | 0o5)
    path = tmp_path / "mnt"
    path.mkdir()
    os.chown(path, 65534, 65534)
    server = [sys.executable, "-B", "-c", AS_NOBODY, str(path), str(HERE), str(HERE.parent.parent)]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", OPEN_DEVICE, str(tmp_path), *server],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    refused, used, end = done.stdout.splitlines()
    assert "user_allow_other" in refused
    assert "mount without allow_other" in refused
    assert used.startswith("('mine', 65534, ")
    assert end == "unmounted"
