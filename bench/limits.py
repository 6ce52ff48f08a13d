"""What this machine allows at this moment: one durable write to the log's disk, one round trip of the session stream.

A create that waits for one log write on a majority cannot be faster than the two together.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import uvloop

from bench.load import Session
from bench.nodes import Nodes, make_volume

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

APPENDS, APPEND_BYTES, PINGS = 1000, 256, 2000
_VOLUME = "limits"


def measure(nodes: Nodes, round_number: int, home: Path, scale: float = 1.0) -> Iterator[dict[str, Any]]:
    """Two rows."""
    base = {"part": "limits", "system": nodes.name, "round": round_number}
    yield {**base, "what": "fdatasync", **percentiles(append_times(home, max(int(APPENDS * scale), 10)))}
    make_volume(nodes, f"{_VOLUME}{round_number}", home / f"objects-{nodes.name}")
    pings = uvloop.run(_ping_times(nodes, f"{_VOLUME}{round_number}", max(int(PINGS * scale), 10)))
    yield {**base, "what": "round trip", **percentiles(pings)}


def append_times(home: Path, count: int) -> list[float]:
    """Seconds of each append of 256 bytes with fdatasync, to a file that grows."""
    path = home / "fdatasync-probe"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    try:
        times, record = [], bytes(APPEND_BYTES)
        for _ in range(count):
            before = time.perf_counter()
            os.write(fd, record)
            os.fdatasync(fd)
            times.append(time.perf_counter() - before)
        return times
    finally:
        os.close(fd)
        path.unlink()


async def _ping_times(nodes: Nodes, volume: str, count: int) -> list[float]:
    session = await Session.attach(nodes.address(), volume, nodes.tls.context() if nodes.tls else None)
    try:
        return [await session.ping() for _ in range(count)]
    finally:
        session.close()


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50 and p99 in microseconds, as fields of a row."""
    ordered = sorted(seconds)
    return {"p50_us": ordered[len(ordered) // 2] * 1e6, "p99_us": ordered[len(ordered) * 99 // 100] * 1e6}
