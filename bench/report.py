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
    """Our figure divided by theirs is to be at least `ratio` (times count inverted: faster is larger)."""

    part: str
    threads: int
    phase: str
    ratio: float
    ours: str = "keelfs"
    theirs: str = "juicefs"


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
    *(
        Goal("metadata", 16, phase, ratio, "keelfs3", theirs)
        for theirs, ratio in (("juicefs-always", 2.0), ("juicefs", 1.0))
        for phase in ("create", "rename", "unlink", "mkdir")
    ),
    Goal("metadata", 1, "create", 1.0, "keelfs3", "juicefs-always"),
    Goal("metadata", 16, "shared_create", 3.0, "keelfs3", "juicefs-always"),
)
ENGINES = ("keelfs1", "keelfs3", "etcd3")
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
    lines = ["| goal: ratio of speeds | wanted | measured | reached |", "|---|---|---|---|"]
    for goal in GOALS:
        value = ratio(groups.get((goal.part, goal.threads, goal.phase), {}), goal.ours, goal.theirs)
        where = f"{goal.phase}, {goal.threads} threads" if goal.threads else goal.phase
        where = f"{goal.ours} / {goal.theirs}: {where}"
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
    systems = ("local", "juicefs", "juicefs-always", "keelfs", "keelfs3")
    unit = {"metadata": "ops/s", "data": "MB/s or ops/s", "scenario": "seconds"}[part]
    lines = [
        f"| {unit} | threads | {' | '.join(systems)} | keelfs p99 ms | CPU-s per 1000: juicefs, keelfs, keelfs3 |",
        "|---" * (4 + len(systems)) + "|",
    ]
    for (found, threads, phase), by_system in groups.items():
        if found != part:
            continue
        field = "seconds" if part == "scenario" else "mb_s" if phase.startswith("seq_") else "ops_s"
        cells = [_number(_median(by_system.get(name, {}), field)) for name in systems]
        p99 = _median(by_system.get("keelfs", {}), "p99_us")
        cpu = [_number(_median(by_system.get(name, {}), "cpu_s_per_1000")) for name in ("juicefs", "keelfs", "keelfs3")]
        shown = "-" if p99 is None else f"{p99 / 1000:.2f}"
        lines.append(f"| {phase} | {threads or '-'} | {' | '.join(cells)} | {shown} | {', '.join(cpu)} |")
    return lines


def engines_table(rows: list[dict[str, Any]]) -> list[str]:
    """Every operation and load of the engines alone: medians over rounds."""
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["part"] == "engine":
            groups[row["system"], row["op"], row["in_flight"]].append(row)
    lines = [
        "| engine | operation | in flight | ops/s | p50 us | p99 us | CPU us an operation | bytes an operation: wire, log |",
        "|---" * 8 + "|",
    ]
    for (system, op, in_flight), found in sorted(groups.items()):
        cells = [_number(statistics.median(row[field] for row in found)) for field in ("ops_s", "p50_us", "p99_us")]
        roles = found[-1]["cpu_us"]
        cpu = ", ".join(f"{role} {statistics.median(row['cpu_us'].get(role, 0.0) for row in found):.0f}" for role in roles)
        sizes = ", ".join(
            _number(statistics.median(row.get(field, 0.0) for row in found)) for field in ("wire_bytes", "log_bytes")
        )
        lines.append(f"| {system} | {op} | {in_flight} | {' | '.join(cells)} | {cpu} | {sizes} |")
    return lines


def cluster_goals(rows: list[dict[str, Any]]) -> list[str]:
    """What a cluster of three is to reach, each ratio formed within a round."""
    engines = {(row["system"], row["op"], row["in_flight"], row["round"]): row for row in rows if row["part"] == "engine"}
    limits = {
        (row["what"], row["round"]): row["p50_us"] for row in rows if row["part"] == "limits" and row["system"] == "keelfs3"
    }
    rounds = sorted({row["round"] for row in rows if row["part"] == "engine"})
    creates = [engines[key]["ops_s"] for n in rounds if (key := ("keelfs3", "create", 64, n)) in engines]
    to_etcd = [
        engines["keelfs3", "create", 64, n]["ops_s"] / engines["etcd3", "put", 64, n]["ops_s"]
        for n in rounds
        if ("keelfs3", "create", 64, n) in engines and ("etcd3", "put", 64, n) in engines
    ]
    to_limit = [
        engines["keelfs3", "create", 1, n]["p50_us"] / (limits["fdatasync", n] + limits["round trip", n])
        for n in rounds
        if ("keelfs3", "create", 1, n) in engines and {("fdatasync", n), ("round trip", n)} <= limits.keys()
    ]
    wanted: tuple[tuple[str, list[float], float, bool], ...] = (
        ("three nodes, 64 in flight: creates/s", creates, 9000.0, True),
        ("three nodes' creates / three etcd nodes' puts, 64 in flight", to_etcd, 1.0, True),
        ("p50 of a create alone / (fdatasync + round trip)", to_limit, 3.0, False),
    )
    lines = ["| goal of a cluster | wanted | measured | reached |", "|---|---|---|---|"]
    for what, values, bound, more in wanted:
        value = statistics.median(values) if values else None
        reached = "-" if value is None else "yes" if (value >= bound) == more else "**no**"
        lines.append(f"| {what} | at {'least' if more else 'most'} {bound:,.0f} | {_number(value)} | {reached} |")
    return lines


def stages_table(rows: list[dict[str, Any]]) -> list[str]:
    """Where the interpreter's time goes, by stage; the newest profile."""
    newest = {row["what"]: row["share"] for row in rows if row["part"] == "profile"}
    stages = list(dict.fromkeys(stage for share in newest.values() for stage in share))
    lines = [f"| stage | {' | '.join(newest)} |", "|---" * (1 + len(newest)) + "|"]
    lines += [f"| {stage} | {' | '.join(f'{share.get(stage, 0.0):.0%}' for share in newest.values())} |" for stage in stages]
    return lines if newest else ["Not recorded."]


def facts_table(rows: list[dict[str, Any]]) -> list[str]:
    """What the capacity part found, the newest of each."""
    newest = {row["what"]: row for row in rows if row["part"] == "capacity"}
    lines = ["| figure | value | wanted |", "|---|---|---|"]
    lines += [
        f"| {row['what']} | {_number(row['value'])} {row['unit']} | {row.get('wanted', '-')} |" for row in newest.values()
    ]
    return lines if newest else ["Not recorded."]


def render(rows: list[dict[str, Any]]) -> str:
    """The generated part of docs/BENCHMARKS.md."""
    groups = grouped(rows)
    errors = sum(row.get("errors", 0) for row in rows)
    rounds = len({row["round"] for row in rows if "round" in row})
    parts = [f"{rounds} rounds, {len(rows)} rows, {errors} errors.", "", *goals_table(groups)]
    for part, title in (("metadata", "Metadata"), ("data", "One big file"), ("scenario", "A source tree")):
        parts += ["", f"### {title}", "", *systems_table(groups, part)]
    parts += ["", "### Engines alone", "", *cluster_goals(rows), "", *engines_table(rows)]
    parts += ["", "### Where nodes spend their time", "", *stages_table(rows)]
    parts += ["", "### Capacity", "", *facts_table(rows)]
    return "\n".join(parts) + "\n"


def write(document: Path, generated: str) -> None:
    """Replace what stands between the markers."""
    text = document.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    document.write_text(f"{before}{BEGIN}\n{generated}{END}{after}")
