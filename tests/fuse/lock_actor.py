"""A process that locks when it is told to: one command a line on stdin (JSON), one answer a line on stdout.

    ["open", name, path, flags]  ["set", name, type, start, length, how, whence]  ["flock", name, operation, wait]  ...

Each `do_` below is one. `how` is "" (F_SETLK), "w" (F_SETLKW), "o" or "ow" (open file description). A refusal is the name of
its errno. A signal that ends a wait is EINTR: Python would begin it again, so the handler raises.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import struct
import sys
from typing import Any

FLOCK = struct.Struct("hhqqi4x")
TYPES = {"r": fcntl.F_RDLCK, "w": fcntl.F_WRLCK, "u": fcntl.F_UNLCK}
SET = {"": fcntl.F_SETLK, "w": fcntl.F_SETLKW, "o": 37, "ow": 38}
GET = {"": fcntl.F_GETLK, "o": 36}
FLOCKS = {"s": fcntl.LOCK_SH, "x": fcntl.LOCK_EX, "u": fcntl.LOCK_UN}
files: dict[str, int] = {}


class Signalled(Exception):
    """A signal has come."""


def on_signal(number: int, frame: object) -> None:
    raise Signalled


def do_open(name: str, path: str, flags: int) -> str:
    files[name] = os.open(path, flags, 0o644)
    return "ok"


def do_close(name: str) -> str:
    os.close(files.pop(name))
    return "ok"


def do_close_all() -> str:
    for name in list(files):
        do_close(name)
    return "ok"


def do_dup(name: str, new: str) -> str:
    files[new] = os.dup(files[name])
    return "ok"


def do_set(name: str, type_: str, start: int, length: int, how: str = "", whence: int = 0) -> str:
    fcntl.fcntl(files[name], SET[how], FLOCK.pack(TYPES[type_], whence, start, length, 0))
    return "ok"


def do_get(name: str, type_: str, start: int, length: int, how: str = "", whence: int = 0) -> list[Any]:
    raw = fcntl.fcntl(files[name], GET[how], FLOCK.pack(TYPES[type_], whence, start, length, 0))
    found, _, start, length, pid = FLOCK.unpack(raw)
    return ["free"] if found == fcntl.F_UNLCK else ["rwu"[found], start, length, pid]


def do_flock(name: str, operation: str, wait: bool = False) -> str:
    fcntl.flock(files[name], FLOCKS[operation] | (0 if wait else fcntl.LOCK_NB))
    return "ok"


def do_child(*commands: list[Any]) -> list[Any]:
    """A child made by fork runs these and exits; what they answered."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        os.write(write_end, json.dumps([run(command) for command in commands]).encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        answer: list[Any] = json.loads(pipe.read())
    os.waitpid(child, 0)
    return answer


def do_alarm() -> str:
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    return "ok"


def do_seek(name: str, offset: int) -> int:
    return os.lseek(files[name], offset, os.SEEK_SET)


def do_write(name: str, data: str, offset: int) -> int:
    return os.pwrite(files[name], data.encode(), offset)


def do_read(name: str, size: int, offset: int) -> str:
    return os.pread(files[name], size, offset).decode()


def do_cut(name: str, size: int) -> str:
    os.ftruncate(files[name], size)
    return "ok"


def do_count(name: str, times: int, how: str) -> str:
    """Add 1 to the number in the file, `times` times, each under a lock of the whole file."""
    for _ in range(times):
        if how == "flock":
            fcntl.flock(files[name], fcntl.LOCK_EX)
        else:
            do_set(name, "w", 0, 0, how)
        number = int(os.pread(files[name], 20, 0) or b"0")
        os.pwrite(files[name], b"%020d" % (number + 1), 0)
        if how == "flock":
            fcntl.flock(files[name], fcntl.LOCK_UN)
        else:
            do_set(name, "u", 0, 0, how.rstrip("w"))
    return "ok"


def do_append(name: str, times: int, who: str) -> str:
    """Add lines to the file, which is open for appending, each under a record lock."""
    for number in range(times):
        do_set(name, "w", 0, 0, "w")
        os.write(files[name], f"{who} {number} {'x' * (number % 90)}\n".encode())
        do_set(name, "u", 0, 0)
    return "ok"


def run(command: list[Any]) -> Any:
    try:
        return globals()["do_" + command[0]](*command[1:])
    except Signalled:
        return "EINTR"
    except OSError as refusal:
        return errno.errorcode[refusal.errno or 0]


def main() -> None:
    for number in (signal.SIGALRM, signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, on_signal)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
