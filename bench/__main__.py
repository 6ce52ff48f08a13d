"""`python -m bench [PART...]`: compare file systems, compare replicated engines, profile, measure capacity, write the tables.

Root; state in bench/peers-state, recorded rows in bench/results. See docs/BENCHMARKS.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bench import capacity, data, engine, etcd, metadata, profile, report, scenario
from bench.nodes import OneNode, ThreeNodes
from bench.programs import BenchError
from bench.systems import SYSTEMS, System

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

HERE = Path(__file__).resolve().parent
COMPARED = ("metadata", "data", "scenario")
ENGINES = ("engine", "cluster", "etcd")
PARTS = (*COMPARED, *ENGINES, "profile", "capacity", "report")

Row = dict[str, Any]


def options_from(argv: Sequence[str] | None) -> argparse.Namespace:
    """What to do, and where."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="file systems to compare, comma-separated")
    parser.add_argument("--size", default="1g", help="of the big file")
    parser.add_argument("--files", type=int, default=1_000_000, help="of the capacity part")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of operations; small: only see that it runs")
    parser.add_argument("--home", type=Path, default=HERE / "peers-state", help="where the systems live; same disk for all")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where rows are recorded")
    parser.add_argument("--docs", type=Path, default=HERE.parent / "docs", help="where tables and flame graphs are written")
    options = parser.parse_args(argv)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    options.systems = options.systems.split(",")
    if unknown := set(options.systems) - set(SYSTEMS):
        parser.error(f"no such system: {', '.join(sorted(unknown))}; there are {', '.join(SYSTEMS)}")
    if os.geteuid() != 0 and set(options.parts) & {*COMPARED, "profile"}:
        parser.error("dropping the kernel's caches and looking into processes needs root")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts that are named; exit code."""
    options = options_from(argv)
    options.results.mkdir(parents=True, exist_ok=True)
    options.home.mkdir(parents=True, exist_ok=True)
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S")
    try:
        if set(options.parts) != {"report"}:
            with open(options.results / f"{stamp}.jsonl", "a", buffering=1) as out:
                run_parts(options, lambda row: keep(out, row))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if "report" in options.parts:
        report.write(options.docs / "BENCHMARKS.md", report.render(report.load(options.results)))
    return 0


def keep(out: Any, row: Row) -> None:
    """Record a row, and show it."""
    out.write(json.dumps(row) + "\n")
    shown = {key: _short(value) for key, value in row.items() if key not in ("part", "round")}
    print(" ".join(f"{key}={value}" for key, value in shown.items()), file=sys.stderr, flush=True)


def _short(value: object) -> object:
    if isinstance(value, dict):
        return ",".join(f"{key}:{_short(one)}" for key, one in value.items())
    return round(value, 3) if isinstance(value, float) else value


def run_parts(options: argparse.Namespace, emit: Callable[[Row], None]) -> None:
    """Rounds of every system in turn, then the parts that concern KeelFS alone."""
    compared = [part for part in COMPARED if part in options.parts]
    if compared:
        for number, name in interleaved(options.systems, options.rounds):
            system = SYSTEMS[name](options.home)
            running(system, rows_of(system, compared, options, number), emit)
    engines = [part for part in ENGINES if part in options.parts]
    for number, name in interleaved(engines, options.rounds):
        if name == "etcd":
            peer = etcd.Etcd3(options.home)
            running(peer, etcd.measure(peer, number, options.home, options.scale), emit)
        else:
            nodes = OneNode(options.home) if name == "engine" else ThreeNodes(options.home)
            running(nodes, engine.measure(nodes, number, options.home, options.scale), emit)
    if "profile" in options.parts:
        nodes = ThreeNodes(options.home)
        running(nodes, profile.measure(nodes, options.home, options.docs, options.scale), emit)
    if "capacity" in options.parts:
        for row in capacity.measure(options):
            emit(row)


class Startable(Protocol):
    def start(self) -> None: ...
    def stop(self) -> None: ...


def running(what: Startable, rows: Iterable[Row], emit: Callable[[Row], None]) -> None:
    """The rows, which are made while it runs."""
    try:
        what.start()
        for row in rows:
            emit(row)
    finally:
        what.stop()


def interleaved(names: Sequence[str], rounds: int) -> Iterable[tuple[int, str]]:
    """Each name once a round, in another order each round: what the disk does after one falls on another one next time."""
    for number in range(rounds):
        first = number % len(names) if names else 0
        for name in (*names[first:], *names[:first]):
            yield number, name


def rows_of(system: System, parts: list[str], options: argparse.Namespace, number: int) -> Iterable[Row]:
    """One round of one system."""
    if "metadata" in parts:
        yield from metadata.measure(system, metadata.build(options.home), number, options.scale)
    if "scenario" in parts:
        yield from scenario.measure(system, scenario.make_archive(options.home), number)
    if "data" in parts:
        yield from data.measure(system, options.size, number)


if __name__ == "__main__":
    sys.exit(main())
