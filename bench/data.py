"""One big file: sequential write and read, and random reads, by fio."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.processes import cpu_s
from bench.programs import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.systems import System

#: name, cold, direction, fio's options
STEPS = (
    ("seq_write_fsync", False, "write", ["--rw=write", "--bs=1m", "--end_fsync=1"]),
    ("seq_read_cold", True, "read", ["--rw=read", "--bs=1m"]),
    ("seq_read_warm", False, "read", ["--rw=read", "--bs=1m", "--invalidate=0"]),
    ("rand_read4k_warm", False, "read", ["--rw=randread", "--bs=4k", "--invalidate=0", "--time_based", "--runtime=4"]),
)


def measure(system: System, size: str, round_number: int) -> Iterator[dict[str, Any]]:
    """One row a step: MB/s, operations a second, CPU seconds of the system."""
    path = system.mount / "big.dat"
    base = ["fio", f"--filename={path}", f"--size={size}", "--ioengine=psync", "--thread", "--output-format=json"]
    for name, cold, direction, options in STEPS:
        if cold:
            drop_kernel_caches()
            system.drop_data_cache()
        before = cpu_s(system.pids())
        text = run([*base, f"--name={name}", *options])
        job = json.loads(text[text.index("{") :])["jobs"][0]
        figures = job[direction]
        yield {
            "part": "data",
            "system": system.name,
            "round": round_number,
            "phase": name,
            "mb_s": figures["bw_bytes"] / 1e6,
            "ops_s": figures["iops"],
            "p99_us": figures["clat_ns"].get("percentile", {}).get("99.000000", 0) / 1e3,
            "cpu_s": cpu_s(system.pids()) - before,
            "errors": job["error"],
        }
    path.unlink()


def drop_kernel_caches() -> None:
    """Everything clean that the kernel keeps: pages, names, inodes. Needs root."""
    run(["sync"])
    Path("/proc/sys/vm/drop_caches").write_text("3")
