"""Starting a long-running command in the background, and saying when it is ready.

The parent runs the same command again as a new session with `--ready-fd`, the child writes one line into that pipe when it
answers (or why it never will), and the parent returns then. No fork without exec: the child of a process with gRPC or boto3
threads would inherit locks that nobody releases.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from fuseclient.errors import ClientError
from keelfs.service_manager import tell_ready

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_READY: Final = b"ready\n"
_FLAGS: Final = ("-d", "--background")
_MESSAGE_MAX: Final = 64 << 10


class Ready:
    """The child's end. Without a pipe both calls only tell systemd, where that has started this process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def tell(self) -> None:
        """It answers now."""
        self._write(_READY)
        tell_ready()

    def fail(self, why: str) -> None:
        """It never will."""
        self._write(why.encode("utf-8", "surrogateescape"))

    def _write(self, data: bytes) -> None:
        if self._fd >= 0:
            os.write(self._fd, data)
            os.close(self._fd)
            self._fd = -1


def spawn(arguments: Sequence[str], log: Path | None, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """`keelfs ARGUMENTS` in a session of its own, returned as soon as it is ready. Raises ClientError with its reason.

    `env`: what is set beside this process's environment.
    """
    read_end, write_end = os.pipe()
    try:
        output = open(log, "ab") if log is not None else None  # noqa: SIM115 - inherited by the child
    except OSError as error:
        os.close(read_end)
        os.close(write_end)
        raise ClientError(f"cannot write the log file {log}: {error.strerror}") from error
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "keelfs", *arguments, "--ready-fd", str(write_end)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[write_end],
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )
    finally:
        os.close(write_end)
        if output is not None:
            output.close()
    with os.fdopen(read_end, "rb") as pipe:
        answer = pipe.read(_MESSAGE_MAX)
    if answer == _READY:
        return child
    code = child.wait()
    reason = answer.decode("utf-8", "replace") or f"it ended with exit code {code}" + (f"; see {log}" if log else "")
    raise ClientError(reason, exit_code=code or 1)


def start_in_background(arguments: Sequence[str], log: Path) -> int:
    """The same command without its background flag; the process number."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClientError(f"cannot make {log.parent}: {error.strerror}") from error
    kept = [argument for argument in arguments if argument not in _FLAGS]
    child = spawn(kept, log)
    child.returncode = 0  # it lives on by itself; keeps Popen's destructor from warning
    return child.pid
