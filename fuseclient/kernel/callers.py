"""Whether the process behind a request is being killed.

The kernel sends INTERRUPT for every signal that reaches a waiting process, also for those that a program handles on its way:
progress timers, the Go runtime's preemption. System calls on files are not interrupted by these anywhere else, and programs do
not expect it. So only a caller that is about to die is let go: the kernel marks every thread of it with a pending SIGKILL,
whichever signal it was that killed it.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Final

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
