"""Mounts and unmounts: from a directory to an open FUSE descriptor and back.

Root calls mount(2); anybody else goes through the set-uid program fusermount3, which opens the device, mounts, and passes the
descriptor over a socket. Every refusal is a MountError that says what to do. Nothing here reads the mounted file system
itself: whoever serves it may be the caller.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import shutil
import socket
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from fuseclient.errors import ClientError

log = logging.getLogger(__name__)

DEVICE: Final = "/dev/fuse"
READ_AHEAD_KIB: Final = 1024
_MOUNTINFO: Final = "/proc/self/mountinfo"
_FUSERMOUNT: Final = "fusermount3"

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_NOATIME = 1, 2, 4, 8, 1024
_MS_STRICTATIME = 1 << 24
_MNT_FORCE, _MNT_DETACH, _UMOUNT_NOFOLLOW = 1, 2, 8


class MountError(ClientError):
    """A mount or unmount that the system refused; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class MountOptions:
    """How to mount. `allow_other` needs root, or `user_allow_other` in /etc/fuse.conf."""

    fsname: str = "keelfs"
    subtype: str = "keelfs"
    read_only: bool = False
    allow_other: bool = True
    default_permissions: bool = True
    nosuid: bool = True
    nodev: bool = True
    noexec: bool = False
    atime: str = "relatime"  # or noatime, strictatime: who counts reads is the file system, the kernel only shows it
    nonempty: bool = False  # mount over whatever is there
    max_read: int = 1 << 20


class MountedAt(NamedTuple):
    """One line of mountinfo."""

    device: str  # major:minor
    path: str
    fstype: str


def mounted_at(path: str) -> MountedAt | None:
    """What is mounted on exactly this absolute path, the newest if there are several."""
    found = None
    for line in Path(_MOUNTINFO).read_text(errors="surrogateescape").splitlines():
        fields, _, rest = line.partition(" - ")
        columns = fields.split(" ")
        where = _unescape(columns[4])
        if where == path:
            found = MountedAt(columns[2], where, rest.split(" ", 1)[0])
    return found


def _unescape(text: str) -> str:
    """mountinfo writes blanks and backslashes as three octal digits."""
    head, *parts = text.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in parts)


class Mount:
    """A mount of ours: its descriptor, and the way to end it. `unmount` may be called from any thread, more than once."""

    def __init__(self, path: str, fd: int, device: str | None) -> None:
        self.path = path
        self.fd = fd
        self.device = device

    def set_read_ahead(self, kib: int = READ_AHEAD_KIB) -> bool:
        """Let the kernel read this far ahead, once INIT is answered. False if we may not: reads are then 128 KiB."""
        if self.device is None:
            return False
        try:
            Path(f"/sys/class/bdi/{self.device}/read_ahead_kb").write_text(str(kib))
        except OSError as failure:
            log.debug("read-ahead stays at the kernel's default: %s", failure)
            return False
        return True

    def unmount(self, *, lazy: bool = True) -> None:
        """Blocks until the kernel has let go, which may need requests answered: not for the thread that serves them."""
        at = mounted_at(self.path)
        if at is None or at.device != self.device:
            return  # gone already, or another's
        unmount(self.path, lazy=lazy)

    def close(self) -> None:
        """Close the descriptor. A mount that still exists is dead from here on."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def mount(mountpoint: str | os.PathLike[str], options: MountOptions | None = None) -> Mount:
    """Mount on a directory. Serve `Mount.fd` soon: until INIT is answered, whoever touches the mount waits."""
    chosen = options or MountOptions()
    path = check_mountpoint(mountpoint, chosen)
    fd = _mount_as_root(path, chosen) if os.geteuid() == 0 else _mount_with_helper(path, chosen)
    at = mounted_at(path)
    return Mount(path, fd, at.device if at else None)


def check_mountpoint(mountpoint: str | os.PathLike[str], options: MountOptions) -> str:
    """The mountpoint's absolute path, if one may mount there."""
    path = os.path.realpath(mountpoint)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise MountError(f"{path} does not exist; create the directory first: mkdir -p {path}") from None
    except NotADirectoryError:
        raise MountError(f"{path}: a part of the path is not a directory") from None
    except PermissionError:
        raise MountError(f"{path}: no permission to look at it") from None
    except OSError as failure:
        raise _dead_mount(path, failure) from None
    if not stat.S_ISDIR(mode):
        raise MountError(f"{path} is not a directory; a volume is mounted on an empty directory")
    if options.nonempty:
        return path
    at = mounted_at(path)
    if at is not None:
        raise MountError(f"{path} is already a mount ({at.fstype}); unmount it first, or choose another directory")
    try:
        with os.scandir(path) as entries:
            occupied = next(entries, None)
    except PermissionError:
        raise MountError(f"{path}: no permission to read the directory") from None
    if occupied is not None:
        raise MountError(
            f"{path} is not empty (it holds {occupied.name!r}, which the mount would hide); "
            "choose an empty directory, or ask for it with the option nonempty"
        )
    return path


def _dead_mount(path: str, failure: OSError) -> MountError:
    if failure.errno in (errno.ENOTCONN, errno.ECONNABORTED):
        return MountError(f"{path} holds a mount whose process has died; remove it with: fusermount3 -uz {path}")
    return MountError(f"{path}: {failure.strerror}")


def _device_missing() -> MountError:
    return MountError(
        f"{DEVICE} does not exist; load the kernel module (modprobe fuse), or give the container the device (--device {DEVICE})"
    )


# --- as root


def _mount_as_root(path: str, options: MountOptions) -> int:
    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _device_missing() from None
    except OSError as failure:
        raise MountError(f"{DEVICE}: {failure.strerror}; mounting needs read and write access to it") from None
    try:
        _mount_call(path, fd, options)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _mount_call(path: str, fd: int, options: MountOptions) -> None:
    words = [f"fd={fd}", f"rootmode={stat.S_IFDIR:o}", f"user_id={os.geteuid()}", f"group_id={os.getegid()}"]
    words += _common_words(options)
    flags = sum(
        bit
        for wanted, bit in (
            (options.read_only, _MS_RDONLY),
            (options.nosuid, _MS_NOSUID),
            (options.nodev, _MS_NODEV),
            (options.noexec, _MS_NOEXEC),
            (options.atime == "noatime", _MS_NOATIME),
            (options.atime == "strictatime", _MS_STRICTATIME),
        )
        if wanted
    )
    libc = ctypes.CDLL(None, use_errno=True)
    fstype = f"fuse.{options.subtype}".encode()
    if libc.mount(os.fsencode(options.fsname), os.fsencode(path), fstype, ctypes.c_ulong(flags), ",".join(words).encode()):
        raise _refused(path, ctypes.get_errno())


def _refused(path: str, code: int) -> MountError:
    hints = {
        errno.EPERM: "mounting needs CAP_SYS_ADMIN; in a container, grant it or run without privileges through fusermount3",
        errno.ENODEV: "this kernel has no FUSE; load the module (modprobe fuse)",
        errno.EINVAL: "the kernel did not accept the mount options",
        errno.EBUSY: "the mountpoint is in use",
    }
    hint = hints.get(code)
    return MountError(f"cannot mount on {path}: {os.strerror(code)}" + (f"; {hint}" if hint else ""))


def _common_words(options: MountOptions) -> list[str]:
    words = [f"max_read={options.max_read}"]
    if options.default_permissions:
        words.append("default_permissions")
    if options.allow_other:
        words.append("allow_other")
    return words


# --- as anybody else


def _mount_with_helper(path: str, options: MountOptions) -> int:
    program = _helper()
    if not os.path.exists(DEVICE):
        raise _device_missing()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(
            [program, "-o", ",".join(_helper_words(options)), "--", path],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            capture_output=True,
            text=True,
            check=False,
        )
        theirs.close()
        if done.returncode != 0:
            raise MountError(f"cannot mount on {path}: {_complaint(done)}")
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    if not fds:
        raise MountError(f"cannot mount on {path}: {program} passed no descriptor")
    os.set_inheritable(fds[0], False)
    return fds[0]


def _helper() -> str:
    program = shutil.which(_FUSERMOUNT)
    if program is None:
        raise MountError(f"mounting without root needs {_FUSERMOUNT}; install the package fuse3, or mount as root")
    return program


def _helper_words(options: MountOptions) -> list[str]:
    switches = (
        (options.read_only, "ro", "rw"),
        (options.nosuid, "nosuid", "suid"),
        (options.nodev, "nodev", "dev"),
        (options.noexec, "noexec", "exec"),
        (options.atime == "noatime", "noatime", "atime"),
    )
    words = [on if wanted else off for wanted, on, off in switches]
    fsname = options.fsname.replace("\\", "\\\\").replace(",", "\\,")
    return [*words, f"fsname={fsname}", f"subtype={options.subtype}", *_common_words(options)]


def _complaint(done: subprocess.CompletedProcess[str]) -> str:
    text = done.stderr.strip()
    if "failed to open" in text and "Permission denied" in text:
        return f"{text}; {DEVICE} is usually open to all (mode 0666): ask for that, or mount as root"
    if "user_allow_other" in text:
        return f"{text}; or mount without allow_other, for yourself only"
    return text or f"{_FUSERMOUNT} ended with status {done.returncode}"


# --- the end


def unmount(mountpoint: str | os.PathLike[str], *, lazy: bool = False, dead: bool = False) -> None:
    """Unmount a path. With `lazy` it goes at once and the mount ends when its last user does. `dead` says that nobody serves it
    any more: its requests are aborted, so that who waits for one is let go (a process that was killed while it told the
    kernel to drop pages may itself be among them)."""
    path = os.path.abspath(mountpoint)  # no realpath: it would ask a mount that may be dead
    if mounted_at(path) is None:
        raise MountError(f"{path} is not a mount")
    if os.geteuid() != 0:
        _unmount_with_helper(path, lazy=lazy)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if dead:
        libc.umount2(os.fsencode(path), _MNT_FORCE)  # aborts; what is in use is detached below
        lazy = mounted_at(path) is not None
        if not lazy:
            return
    if libc.umount2(os.fsencode(path), _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)):
        code = ctypes.get_errno()
        if code == errno.EBUSY:
            raise MountError(f"{path} is in use; end the programs that use it (fuser -vm {path}), or unmount lazily")
        raise MountError(f"cannot unmount {path}: {os.strerror(code)}")


def _unmount_with_helper(path: str, *, lazy: bool) -> None:
    flags = "-uz" if lazy else "-u"
    done = subprocess.run([_helper(), flags, "--", path], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MountError(f"cannot unmount {path}: {_complaint(done)}")
