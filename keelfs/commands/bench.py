"""`keelfs bench`: how fast a directory is, in a few numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keelfs.benchmark import Plan, measure
from keelfs.console import emit_json, emit_table, progress
from keelfs.quantity import parse_size


def bench(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A directory on the mount; a folder is made in it and removed.")
    ],
    big: Annotated[str, typer.Option(help="Size of the big file.")] = "256MiB",
    files: Annotated[int, typer.Option(min=1, help="Small files per thread.")] = 500,
    threads: Annotated[int, typer.Option(min=1, max=256, help="Threads for the small files.")] = 4,
    small: Annotated[str, typer.Option(help="Size of a small file.")] = "4KiB",
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Measure sequential throughput and small-file operations on any directory."""
    plan = Plan(directory, parse_size(big), files, threads, parse_size(small))
    with progress("benchmark") as bar:
        task = bar.add_task("", total=plan.steps)
        rows = measure(plan, lambda: bar.advance(task))
    if as_json:
        emit_json([row._asdict() for row in rows])
    else:
        emit_table(
            "", ("what", "value", "unit", "p50 ms"), ((r.what, f"{r.value:,.0f}", r.unit, f"{r.p50_ms:.2f}") for r in rows)
        )
