"""Where a cluster's nodes spend their time under load: a flame graph of the leader and of a follower, and shares by stage.

Samples come from py-spy, which is fetched from the package index into the benchmark's own folder and is no dependency of
anything. Only samples that hold the interpreter's lock count: what waits for a disk or for a peer is not there.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import uvloop

from bench import engine, flame
from bench.engine import Load, scaled
from bench.nodes import LEADER
from bench.programs import BenchError, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from bench.flame import Stack
    from bench.nodes import Nodes

RATE, SECONDS = 250, 8
CREATES = 80_000

#: Stage by the file of the innermost frame that belongs to one; the first match from the inside counts.
STAGES = {
    "metaserver/core/": "state machine",
    "metaserver/store/": "store",
    "metaserver/wire.py": "wire",
    "metaserver/framed.py": "session stream",
    "metaserver/": "server",
    "raft/wal.py": "log",
    "raft/journal.py": "log",
    "raft/disk.py": "log: durable write",
    "raft/peer_": "peers",
    "raft/tls": "peers",
    "raft/": "consensus",
}


def measure(nodes: Nodes, home: Path, docs: Path, scale: float = 1.0) -> Iterator[dict[str, Any]]:
    """A row for the leader and one for a follower; writes flame-<role>.svg into `docs`."""
    program = _program(home)
    pids = nodes.pids()
    follower = next(role for role in pids if role != LEADER)
    seconds = max(round(SECONDS * scale), 1)  # py-spy counts whole ones
    raw = {role: home / f"stacks-{role}.txt" for role in (LEADER, follower)}
    samplers = [
        subprocess.Popen(
            [program, "record", "--gil", "-r", str(RATE), "-d", str(seconds), "-f", "raw", "-o", path, "-p", str(pids[role])],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for role, path in raw.items()
    ]
    load = Load(64, scaled(CREATES, scale, 2000))
    uvloop.run(engine.one_round(nodes, home, 0, [load], ("create",), engine.DIRS))
    for sampler in samplers:
        if sampler.wait(60):
            raise BenchError(f"py-spy failed: exit {sampler.returncode}")
    for role, name in ((LEADER, "leader"), (follower, "follower")):
        stacks = flame.parse(raw[role].read_text())
        title = f"{name} of three nodes, 64 creates in flight: samples that hold the interpreter's lock"
        (docs / f"flame-{name}.svg").write_text(flame.svg(stacks, title))
        yield {"part": "profile", "what": name, "samples": sum(n for _, n in stacks), "share": shares(stacks)}


def shares(stacks: Sequence[tuple[Stack, int]]) -> dict[str, float]:
    """The share of samples of each stage, largest first."""
    total = sum(count for _, count in stacks) or 1
    found: dict[str, float] = {}
    for stack, count in stacks:
        stage = stage_of(stack)
        found[stage] = found.get(stage, 0.0) + count / total
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def stage_of(stack: Stack) -> str:
    for frame in reversed(stack):
        for part, stage in STAGES.items():
            if f"({part}" in frame or f"/{part}" in frame:
                return stage
    return "interpreter and loops"


def _program(home: Path) -> Path:
    target = home / "py-spy"
    program = target / "bin" / "py-spy"
    if not program.exists():
        run([sys.executable, "-m", "pip", "install", "-q", "--target", str(target), "py-spy"])
    return program
