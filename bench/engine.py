"""The metadata engine alone: one client drives the leader over one stream, every answer durable on a majority.

    python -m bench.engine [--nodes 1|3] [--creates N] [--in-flight N[,N...]] [--dirs N] [--ops OP,...] [--repeat N] [--json]

Starts one server, or three with mutual TLS, on an empty directory, makes a volume, and sends operations with a fixed number in
flight, each in one of the directories. Reports operations per second, latency, CPU per operation of the client and of each
node, and bytes per operation: between the nodes, in the leader's log, written to the disk. The median of --repeat rounds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from bench import limits
from bench.load import OPS, Session, create, mkdir
from bench.nodes import Nodes, OneNode, ThreeNodes, make_volume
from bench.processes import Usage
from bench.programs import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

VOLUME = "bench"
DIRS = 16
WARM_UP = 1000  # creates before anything is measured, when as many are measured


@dataclass(frozen=True, slots=True)
class Load:
    """So many operations with so many in flight."""

    in_flight: int
    count: int


#: One in flight is latency; etcd is driven by as many clients.
LOADS = (Load(1, 2000), Load(16, 8000), Load(64, 20_000))


def scaled(count: int, scale: float, least: int) -> int:
    """A number of operations, or fewer of them for a quick check."""
    return max(int(count * scale), least)


def measure(nodes: Nodes, round_number: int, home: Path, scale: float = 1.0) -> Iterator[dict[str, Any]]:
    """Rows of one round on nodes that run: the limits of the machine at this moment, then each operation under each load."""
    yield from limits.measure(nodes, round_number, home, scale)
    loads = [Load(load.in_flight, scaled(load.count, scale, 2 * load.in_flight)) for load in LOADS]
    yield from uvloop.run(one_round(nodes, home, round_number, loads, tuple(OPS), DIRS))


async def one_round(
    nodes: Nodes, home: Path, round_number: int, loads: Sequence[Load], ops: Sequence[str], dir_count: int
) -> list[dict[str, Any]]:
    """Every operation under every load, on a volume of their own."""
    volume = f"{VOLUME}{round_number}"
    make_volume(nodes, volume, home / f"objects-{nodes.name}")
    session = await Session.attach(nodes.address(), volume, nodes.tls.context() if nodes.tls else None)
    admin = nodes.admin()
    meter = Meter(nodes.pids(), nodes.peer_ports(), home, lambda: int(admin.status().wal_bytes))
    rows = []
    try:
        await _warm_up(session, min(WARM_UP, max(load.count for load in loads)))
        for load in loads:
            dirs = [await made(session, f"dir-{load.in_flight}-{number}") for number in range(dir_count)]
            for op in ops:
                row = await drive(meter, session, op, dirs, load)
                rows.append({"part": "engine", "system": nodes.name, "round": round_number, **row})
    finally:
        session.close()
        admin.close()
    return rows


async def made(session: Session, name: str) -> int:
    """The inode of a new directory below the root."""
    response = await session.ask(mkdir(session.root, name.encode()), change=True)
    return int.from_bytes(response.attr[:8], "little")


async def _warm_up(session: Session, count: int) -> None:
    """The interpreters have seen the code, the stores have their first pages."""
    parent = await made(session, "warm-up")
    await session.run([create(parent, number) for number in range(count)], change=True, in_flight=16, holds=True)


@dataclass(frozen=True, slots=True)
class Meter:
    """What the nodes are watched by while they work. Who leads does not change meanwhile: that would end the session."""

    pids: dict[str, int]
    peer_ports: list[int]
    home: Path
    log_bytes: Callable[[], int]  # of the leader

    def now(self) -> Usage:
        return Usage.now(self.pids, self.peer_ports, self.home)


async def drive(meter: Meter, session: Session, op: str, dirs: list[int], load: Load, first: int = 0) -> dict[str, Any]:
    """One operation under one load, on names numbered from `first`: the fields of a row."""
    kind = OPS[op]
    requests = [kind.request(dirs[number % len(dirs)], number) for number in range(first, first + load.count)]
    logged, before = meter.log_bytes(), meter.now()
    answered = await session.run(requests, change=kind.change, in_flight=load.in_flight, holds=kind.holds)
    after, grown = meter.now(), meter.log_bytes() - logged
    return {
        "op": op,
        "in_flight": load.in_flight,
        "ops": load.count,
        "ops_s": load.count / answered.seconds,
        **limits.percentiles(answered.latencies),
        **before.per_op(after, load.count, answered.cpu_s, answered.seconds),
        "log_bytes": max(grown, 0) / load.count,  # too small when the log gave back a segment meanwhile, which is seldom
        "errors": 0,  # one ends the benchmark
    }


def medians(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """For each operation and load the median run, and the best run's operations per second."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["op"], row["in_flight"]), []).append(row)
    for runs in groups.values():
        middle = statistics.median_low([run["ops_s"] for run in runs])
        yield {**next(run for run in runs if run["ops_s"] == middle), "best_ops_s": max(run["ops_s"] for run in runs)}


def line(row: dict[str, Any]) -> str:
    """For people."""
    cpu = "  ".join(f"{role} {us:.0f}" for role, us in row["cpu_us"].items())
    return (
        f"{row['op']:7} {row['in_flight']:3} in flight {row['ops_s']:8.0f}/s (best {row['best_ops_s']:.0f})"
        f"  p50 {row['p50_us']:6.0f} us  p99 {row['p99_us']:6.0f} us  CPU us/op: {cpu}"
        f"  bytes/op: wire {row['wire_bytes']:.0f}, log {row['log_bytes']:.0f}, disk {row['disk_bytes']:.0f}"
    )


def main() -> int:
    """The command; exit code."""
    parser = argparse.ArgumentParser(description="operations per second of the metadata engine alone")
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1)
    parser.add_argument("--creates", type=int, default=20_000)
    parser.add_argument("--in-flight", default="64", help="one number, or several with commas")
    parser.add_argument("--dirs", type=int, default=DIRS)
    parser.add_argument("--ops", default=",".join(OPS))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--data", type=Path, help="an empty directory on the disk to measure; default: a temporary one")
    parser.add_argument("--profile", type=Path, help="write a cProfile of the server there (one node)")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    loads = [Load(int(number), given.creates) for number in given.in_flight.split(",")]
    home: Path = given.data or Path(tempfile.mkdtemp(prefix="keelfs-engine-"))
    nodes: Nodes = OneNode(home, given.profile) if given.nodes == 1 else ThreeNodes(home)
    rows: list[dict[str, Any]] = []
    try:
        nodes.start()
        for number in range(given.repeat):
            rows += uvloop.run(one_round(nodes, home, number, loads, given.ops.split(","), given.dirs))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    finally:
        nodes.stop()
        if given.data is None:
            shutil.rmtree(home)
    found = list(medians(rows))
    print(json.dumps(found) if given.json else "\n".join(map(line, found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
