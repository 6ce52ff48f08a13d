"""What /proc tells of the thread behind a request: whether it is being killed, and which kind of lock it waits for.

The kernel sends INTERRUPT for every signal that reaches a waiting process, also for those that a program handles on its way:
progress timers, the Go runtime's preemption. System calls on files are not interrupted by these anywhere else, and programs do
not expect it. So only a caller that is about to die is let go: the kernel marks every thread of it with a pending SIGKILL,
whichever signal it was that killed it.

A wait for a lock is the exception: fcntl(2) and flock(2) promise that a signal ends it. And the kernel does not say whether a
record lock is a process's or an open file description's (F_OFD_SETLKW); for the latter there is no deadlock detection, since
any process that has the file open can give it up. The arguments of the system call in which the thread sleeps say it.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Final

F_OFD_SETLKW: Final = 38
_LOOKS: Final = 10  # at a thread that has asked and does not sleep yet
_LOOK_AGAIN_S: Final = 0.001
_KILL_BIT: Final = 1 << (signal.SIGKILL - 1)


def parse_dying(status: str) -> bool:
    """Whether a /proc/PID/status shows a pending SIGKILL, of the thread or of its process."""
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name in ("SigPnd", "ShdPnd") and int(value, 16) & _KILL_BIT:
            return True
    return False


def is_dying(pid: int) -> bool:
    """`pid` is a thread's number as our kernel namespace has it; 0 is one that we cannot see, which is left waiting."""
    if pid == 0:
        return False
    try:
        return parse_dying(Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return False


def parse_locks_open_file(syscall: str) -> bool | None:
    """Whether a /proc/PID/syscall shows a wait for a lock of an open file description; None: the thread runs."""
    fields = syscall.split()
    if fields[:1] == ["running"]:
        return None
    return len(fields) > 2 and int(fields[2], 16) == F_OFD_SETLKW


def _syscall_of(pid: int) -> str:
    return Path(f"/proc/{pid}/syscall").read_text()


async def locks_open_file(pid: int) -> bool:
    """The same of a thread. One that we may not look at is taken for a process that locks for itself, as nearly all do."""
    if pid == 0:
        return False
    for _ in range(_LOOKS):
        try:
            found = parse_locks_open_file(_syscall_of(pid))
        except (OSError, ValueError):
            return False
        if found is not None:
            return found
        await asyncio.sleep(_LOOK_AGAIN_S)
    return False
