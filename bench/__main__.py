"""`python -m bench [PART...]`: metadata, data, scenario, engine, capacity, report. Root; state in bench/peers-state."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import capacity, data, engine, metadata, report, scenario
from bench.systems import SYSTEMS, BenchError, System

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HERE = Path(__file__).resolve().parent
COMPARED = ("metadata", "data", "scenario")
PARTS = (*COMPARED, "engine", "capacity", "report")


def main() -> int:
    """Run the parts that are named; exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="comma-separated")
    parser.add_argument("--size", default="1g", help="of the big file")
    parser.add_argument("--files", type=int, default=1_000_000, help="of the capacity part")
    parser.add_argument("--home", type=Path, default=HERE / "peers-state", help="where the systems live; same disk for all")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if os.geteuid() != 0:
        parser.error("dropping the kernel's caches needs root")
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    options.home.mkdir(parents=True, exist_ok=True)
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S")
    try:
        with open(results / f"{stamp}.jsonl", "a", buffering=1) as out:
            run_parts(options, lambda row: keep(out, row))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if "report" in options.parts:
        report.write(HERE.parent / "docs" / "BENCHMARKS.md", report.render(report.load(results)))
    return 0


def keep(out: Any, row: dict[str, Any]) -> None:
    """Record a row, and show it."""
    out.write(json.dumps(row) + "\n")
    shown = {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items() if k not in ("part", "round")}
    print(" ".join(f"{k}={v}" for k, v in shown.items()), file=sys.stderr, flush=True)


def run_parts(options: argparse.Namespace, emit: Callable[[dict[str, Any]], None]) -> None:
    """Rounds of every system in turn, then the parts that concern KeelFS alone."""
    compared = [part for part in COMPARED if part in options.parts]
    names = options.systems.split(",")
    for number in range(options.rounds if compared else 0):
        # Another order each round: whatever the disk does after one system falls on another one next time.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            system = SYSTEMS[name](options.home)
            try:
                system.start()
                for row in rows_of(system, compared, options, number):
                    emit(row)
            finally:
                system.stop()
    for part, module in (("engine", engine), ("capacity", capacity)):
        if part in options.parts:
            for row in module.measure(options):
                emit(row)


def rows_of(system: System, parts: list[str], options: argparse.Namespace, number: int) -> Iterable[dict[str, Any]]:
    """One round of one system."""
    if "metadata" in parts:
        yield from metadata.measure(system, metadata.build(options.home), number)
    if "scenario" in parts:
        yield from scenario.measure(system, scenario.make_archive(options.home), number)
    if "data" in parts:
        yield from data.measure(system, options.size, number)


sys.exit(main())
