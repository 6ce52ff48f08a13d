"""What is remembered about a mount while it lives: its process, so that `umount` can wait for the last upload.

One small JSON file per mountpoint in /run/keelfs (root) or $XDG_RUNTIME_DIR/keelfs. It is a hint, checked against the kernel's
mount table and the process list before it is believed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
from pathlib import Path
from typing import Final

from fuseclient.errors import ClientError
from keelfs.console import say
from keelfs.exit_codes import ExitCode

_WAIT_NOTICE_S: Final = 2.0
_WAIT_MAX_S: Final = 3600.0


def runtime_dir() -> Path:
    """Where records and logs of mounts are."""
    if os.geteuid() == 0:
        return Path("/run/keelfs")
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/keelfs-{os.geteuid()}") / "keelfs"


def _name(mountpoint: Path) -> str:
    digest = hashlib.blake2b(os.fsencode(mountpoint), digest_size=8).hexdigest()
    return f"{mountpoint.name or 'root'}-{digest}"


def log_path(mountpoint: Path) -> Path:
    """The log of a mount that runs in the background."""
    return runtime_dir() / f"{_name(mountpoint)}.log"


class MountRecord:
    """The file of one mountpoint."""

    def __init__(self, mountpoint: Path) -> None:
        self._path = runtime_dir() / f"{_name(mountpoint)}.json"
        self._mountpoint = mountpoint

    def write(self, url: str) -> None:
        """This process serves it."""
        with contextlib.suppress(OSError):  # a hint only
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            self._path.write_text(json.dumps({"pid": os.getpid(), "url": url, "mountpoint": str(self._mountpoint)}))

    def pid(self) -> int | None:
        """The process that serves it, if the record is right."""
        try:
            found = json.loads(self._path.read_text())
            pid = int(found["pid"])
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return pid if b"keelfs" in command else None

    def is_abandoned(self) -> bool:
        """A process served it and is dead, or dying and nothing more than that."""
        return self._path.exists() and self.pid() is None

    def remove(self) -> None:
        """This process does not serve it any more."""
        if self.pid() == os.getpid():
            with contextlib.suppress(OSError):
                self._path.unlink()


def wait_for_end(pid: int, mountpoint: Path, timeout_s: float = _WAIT_MAX_S) -> None:
    """Wait until the process has stored what it still held. Raises ClientError when it does not end."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with os.fdopen(fd, "rb") as watched:
        if not select.select([watched], [], [], _WAIT_NOTICE_S)[0]:
            say(f"{mountpoint} is unmounted; waiting until everything that was written is stored ...")
            if not select.select([watched], [], [], timeout_s)[0]:
                raise ClientError(
                    f"process {pid} is still storing data of {mountpoint}; its log says why: {log_path(mountpoint)}",
                    exit_code=ExitCode.PARTIAL,
                )
