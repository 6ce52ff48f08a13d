"""What processes use: CPU seconds, memory, bytes to the disk and over TCP, from /proc, /sys and `ss`.

Ticks of CPU time are 10 ms: measure phases that use much more than that.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.programs import run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_SECTORS_WRITTEN, _SECTOR_BYTES = 6, 512  # Linux's Documentation/block/stat.rst
_PID = re.compile(r"\bpid=(\d+)")
_SENT = re.compile(r"\bbytes_sent:(\d+)")


def cpu_s(pids: Iterable[int]) -> float:
    """User and system time of the processes and of their children that ended."""
    total = 0.0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(int(field) for field in fields[11:15]) * _TICK_S
    return total


def memory_bytes(pid: int) -> tuple[int, int]:
    """(resident, of it not backed by files): the second is what the process itself needs."""
    found = {"VmRSS": 0, "RssAnon": 0}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in found:
            found[name] = int(rest.split()[0]) * 1024
    return found["VmRSS"], found["RssAnon"]


def busy_s() -> float:
    """CPU seconds that the machine has used for anything."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) * _TICK_S


def disk_bytes(home: Path) -> int:
    """What anybody has written to the disk below `home`, the file system's journal included; 0 where that cannot be told.

    Not /proc/PID/io: there one dirty page of a large folio counts as the whole folio, up to 2 MiB (seen on Linux 6.18).
    """
    device = home.stat().st_dev
    try:
        fields = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text().split()
    except OSError:
        return 0
    return int(fields[_SECTORS_WRITTEN]) * _SECTOR_BYTES


def sent_bytes(pids: Iterable[int], ports: Iterable[int]) -> int:
    """What these processes have sent over their open TCP connections that end at one of the ports, on either side.

    TCP's payload, TLS included; headers are not.
    """
    either = " or ".join(f"sport = :{port} or dport = :{port}" for port in ports)
    if not either:
        return 0
    wanted, total = set(pids), 0
    for line in run(["ss", "-tinpHO", "state", "established", f"( {either} )"]).splitlines():
        owners, sent = {int(pid) for pid in _PID.findall(line)}, _SENT.search(line)
        if sent is not None and owners & wanted:
            total += int(sent[1])
    return total


@dataclass(frozen=True, slots=True)
class Usage:
    """What the nodes of a system have used up to a moment, by role."""

    cpu_s: dict[str, float]
    disk_bytes: int  # of the whole machine
    wire_bytes: int  # between the nodes
    busy_s: float  # of the whole machine

    @classmethod
    def now(cls, pids: Mapping[str, int], ports: Iterable[int], home: Path) -> Usage:
        return cls(
            cpu_s={role: cpu_s([pid]) for role, pid in pids.items()},
            disk_bytes=disk_bytes(home),
            wire_bytes=sent_bytes(pids.values(), ports),
            busy_s=busy_s(),
        )

    def per_op(self, later: Usage, ops: int, client_cpu_s: float, seconds: float) -> dict[str, object]:
        """The fields of a row: CPU microseconds and bytes an operation, and how much other work the machine did."""
        used = {role: later.cpu_s[role] - before for role, before in self.cpu_s.items()}
        cpu = {"client": client_cpu_s, **used}
        foreign = later.busy_s - self.busy_s - sum(cpu.values())
        return {
            "cpu_us": {role: seconds_used / ops * 1e6 for role, seconds_used in cpu.items()},
            "disk_bytes": (later.disk_bytes - self.disk_bytes) / ops,
            "wire_bytes": (later.wire_bytes - self.wire_bytes) / ops,
            "foreign_cores": max(0.0, foreign / max(seconds, 1e-9)),
        }
