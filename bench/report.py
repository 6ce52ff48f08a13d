"""From recorded rows to the tables of docs/BENCHMARKS.md: medians over rounds, and ratios to the goals.

A ratio is formed within each round (KeelFS and the peer ran next to each other there) and its median is quoted. Nothing in a
table is typed by hand: `python -m bench report` writes them from bench/results/*.jsonl between two marker lines.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"

Key = tuple[str, int, str]  # part, threads (0 where it has none), phase


class Goal(NamedTuple):
    """KeelFS's figure divided by JuiceFS's is to be at least `ratio` (times count inverted: faster is larger)."""

    part: str
    threads: int
    phase: str
    ratio: float


GOALS = (
    Goal("metadata", 16, "create", 2.0),
    Goal("metadata", 16, "rename", 2.0),
    Goal("metadata", 16, "unlink", 2.0),
    Goal("metadata", 16, "mkdir", 1.5),
    Goal("metadata", 16, "stat_cold", 1.0),
    Goal("metadata", 16, "ls_cold", 1.0),
    Goal("metadata", 16, "shared_create", 4.0),
    Goal("metadata", 1, "create", 0.8),
    Goal("metadata", 1, "stat_cold", 1.0),
    Goal("metadata", 1, "write4k", 1.5),
    Goal("scenario", 0, "tar_x", 1.5),
    Goal("data", 0, "seq_write_fsync", 1.0),
    Goal("data", 0, "seq_read_cold", 1.0),
    Goal("data", 0, "seq_read_warm", 1.0),
    Goal("data", 0, "rand_read4k_warm", 1.0),
)
CPU_GOALS = {"create": 0.25, "stat_cold": 0.06}  # CPU-s per 1000 operations at 16 threads, client and server together


def load(results: Path) -> list[dict[str, Any]]:
    """Every recorded row, oldest file first."""
    return [json.loads(line) for path in sorted(results.glob("*.jsonl")) for line in path.read_text().splitlines() if line]


def speed(row: dict[str, Any]) -> float:
    """What is compared: more is better."""
    if row["part"] == "scenario":
        return 1.0 / float(row["seconds"])
    return float(row["mb_s"] if row["phase"].startswith("seq_") else row["ops_s"])


def grouped(rows: list[dict[str, Any]]) -> dict[Key, dict[str, dict[int, dict[str, Any]]]]:
    """key -> system -> round -> row."""
    found: dict[Key, dict[str, dict[int, dict[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        if row["part"] in ("metadata", "data", "scenario"):
            found[row["part"], row.get("threads", 0), row["phase"]][row["system"]][row["round"]] = row
    return found


def ratio(by_system: dict[str, dict[int, dict[str, Any]]], ours: str = "keelfs", theirs: str = "juicefs") -> float | None:
    """The median over rounds of our speed divided by theirs."""
    a, b = by_system.get(ours, {}), by_system.get(theirs, {})
    ratios = [speed(a[n]) / speed(b[n]) for n in a.keys() & b.keys()]
    return statistics.median(ratios) if ratios else None


def _median(rows: dict[int, dict[str, Any]], field: str) -> float | None:
    values = [row[field] for row in rows.values() if field in row]
    return statistics.median(values) if values else None


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def goals_table(groups: dict[Key, dict[str, dict[int, dict[str, Any]]]]) -> list[str]:
    """Each goal, the median ratio, and whether it is reached."""
    lines = ["| goal: KeelFS / JuiceFS | wanted | measured | reached |", "|---|---|---|---|"]
    for goal in GOALS:
        value = ratio(groups.get((goal.part, goal.threads, goal.phase), {}))
        where = f"{goal.phase}, {goal.threads} threads" if goal.threads else goal.phase
        measured, reached = ("-", "-") if value is None else (f"{value:.2f}", "yes" if value >= goal.ratio else "**no**")
        lines.append(f"| {where} | {goal.ratio} | {measured} | {reached} |")
    for phase, most in CPU_GOALS.items():
        cpu = _median(groups.get(("metadata", 16, phase), {}).get("keelfs", {}), "cpu_s_per_1000")
        reached = "-" if cpu is None else "yes" if cpu <= most else "**no**"
        lines.append(
            f"| CPU-s per 1000 {phase}, 16 threads | at most {most} | {'-' if cpu is None else f'{cpu:.3f}'} | {reached} |"
        )
    return lines


def systems_table(groups: dict[Key, dict[str, dict[int, dict[str, Any]]]], part: str) -> list[str]:
    """Every phase of a part: each system's median, p99 and CPU."""
    systems = ("local", "juicefs", "keelfs")
    unit = {"metadata": "ops/s", "data": "MB/s or ops/s", "scenario": "seconds"}[part]
    lines = [
        f"| {unit} | threads | {' | '.join(systems)} | keelfs p99 ms | CPU-s per 1000: juicefs, keelfs |",
        "|---" * 7 + "|",
    ]
    for (found, threads, phase), by_system in groups.items():
        if found != part:
            continue
        field = "seconds" if part == "scenario" else "mb_s" if phase.startswith("seq_") else "ops_s"
        cells = [_number(_median(by_system.get(name, {}), field)) for name in systems]
        p99 = _median(by_system.get("keelfs", {}), "p99_us")
        cpu = [_number(_median(by_system.get(name, {}), "cpu_s_per_1000")) for name in ("juicefs", "keelfs")]
        shown = "-" if p99 is None else f"{p99 / 1000:.2f}"
        lines.append(f"| {phase} | {threads or '-'} | {' | '.join(cells)} | {shown} | {', '.join(cpu)} |")
    return lines


def facts_table(rows: list[dict[str, Any]]) -> list[str]:
    """What the capacity and engine parts found, the newest of each."""
    newest = {(row["part"], row["what"]): row for row in rows if row["part"] in ("capacity", "engine")}
    lines = ["| figure | value | wanted |", "|---|---|---|"]
    lines += [
        f"| {row['what']} | {_number(row['value'])} {row['unit']} | {row.get('wanted', '-')} |" for row in newest.values()
    ]
    return lines


def render(rows: list[dict[str, Any]]) -> str:
    """The generated part of docs/BENCHMARKS.md."""
    groups = grouped(rows)
    errors = sum(row.get("errors", 0) for row in rows)
    rounds = len({row["round"] for row in rows if "round" in row})
    parts = [f"{rounds} rounds, {len(rows)} rows, {errors} errors.", "", *goals_table(groups)]
    for part, title in (("metadata", "Metadata"), ("data", "One big file"), ("scenario", "A source tree")):
        parts += ["", f"### {title}", "", *systems_table(groups, part)]
    parts += ["", "### Engine and capacity", "", *facts_table(rows)]
    return "\n".join(parts) + "\n"


def write(document: Path, generated: str) -> None:
    """Replace what stands between the markers."""
    text = document.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    document.write_text(f"{before}{BEGIN}\n{generated}{END}{after}")
