"""Metadata operations from 1 and 16 threads (mdload.c), with the CPU that each system's processes used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.processes import busy_s, cpu_s
from bench.programs import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.systems import System

#: In an order in which each phase finds what it needs.
PHASES = (
    *("mkdir", "create", "stat_cold", "ls_cold", "rename", "write4k", "read4k_cold"),
    *("unlink", "unlink4k", "rmdir", "shared_create", "shared_unlink"),
)
THREADS = {1: 600, 16: 150}  # threads: files a thread


def build(home: Path) -> Path:
    """Compile mdload."""
    program = home / "mdload"
    source = Path(__file__).with_name("mdload.c")
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        run(["gcc", "-O2", "-Wall", "-o", str(program), str(source), "-lpthread"])
    return program


def measure(system: System, program: Path, round_number: int, scale: float = 1.0) -> Iterator[dict[str, Any]]:
    """One row a phase and number of threads."""
    for threads, count in THREADS.items():
        files = max(int(count * scale), 2)
        target = system.mount / f"md-{round_number}-{threads}"
        for phase in PHASES:
            before, busy = cpu_s(system.pids()), busy_s()
            row = json.loads(run([str(program), str(target), str(threads), str(files), phase]))
            used = cpu_s(system.pids()) - before
            row["cpu_s_per_1000"] = used / max(row["n"], 1) * 1000
            row["foreign_cores"] = max(0.0, (busy_s() - busy - used - row["own_cpu_s"]) / max(row["seconds"], 1e-9))
            yield {"part": "metadata", "system": system.name, "round": round_number, **row}
