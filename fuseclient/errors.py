"""Failures of the client, by who has to know.

FsError becomes the errno of a system call. ClientError ends a command: its text says what happened, why, and what to do.
"""

from __future__ import annotations

import errno as _errno


class FsError(Exception):
    """The errno that the calling program's system call returns."""

    def __init__(self, errno: int, detail: str = "") -> None:
        super().__init__(errno, detail)
        self.errno = errno
        self.detail = detail

    def __str__(self) -> str:
        name = _errno.errorcode.get(self.errno, str(self.errno))
        return f"{name}: {self.detail}" if self.detail else name


class ClientError(Exception):
    """Something a user has to mend; the message is complete. `exit_code` is the process's (docs/OPERATING.md), `errno` that of
    a server's refusal, 0 where there is none."""

    def __init__(self, message: str, *, exit_code: int = 1, errno: int = 0) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.errno = errno
