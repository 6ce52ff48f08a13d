"""Programs that a benchmark runs: to their end, or until they answer. Their failure is a BenchError with what they said."""

from __future__ import annotations

import socket
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 10.0
_SHOWN_CHARS = 500


class BenchError(Exception):
    """The benchmark cannot go on; the message says why and what to do."""


def run(command: Sequence[str]) -> str:
    """Run a program to its end; its output. Raises BenchError."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise BenchError(f"{error.filename} is not installed") from error
    if done.returncode:
        raise BenchError(f"{' '.join(command[:3])} failed: {(done.stderr or done.stdout).strip()[-_SHOWN_CHARS:]}")
    return done.stdout


def spawn(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a program that stays, with its output in `log`."""
    with open(log, "ab") as output:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)


def stop(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """End them, the last one first."""
    for child in reversed(children):
        child.terminate()
        try:
            child.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def wait_until(condition: Callable[[], bool], failure: str, log: Path) -> None:
    """Poll until `condition()`; BenchError with the end of the log after a while."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"{failure}: {log.read_text(errors='replace')[-_SHOWN_CHARS:]}")
        time.sleep(0.05)


def answers(port: int) -> bool:
    """Whether somebody listens on this port of this machine."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.2):
            return True
    except OSError:
        return False
