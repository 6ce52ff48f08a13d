"""The two families of failure inside the state machine.

FsError is an expected answer: it is a logged result like success and never leaves a change behind. Anything else that is
raised inside `apply` is our bug, or damage, and stops the process before it can spread.
"""

from __future__ import annotations

import errno as _errno


class FsError(Exception):
    """An operation was refused. `errno` is what the caller's system call returns."""

    def __init__(self, errno: int, detail: str = "") -> None:
        super().__init__(errno, detail)
        self.errno = errno
        self.detail = detail

    def __str__(self) -> str:
        name = _errno.errorcode.get(self.errno, str(self.errno))
        return f"{name}: {self.detail}" if self.detail else name


class CorruptState(Exception):
    """The stored state breaks an invariant or cannot be decoded. Fail-stop: never answered to a client."""
