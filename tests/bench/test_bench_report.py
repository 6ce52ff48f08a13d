"""The report of the benchmarks: what it says follows from the recorded rows, and from nothing else."""

from __future__ import annotations

import pytest

from bench import flame, profile, report


def metadata(system, number, ops_s, phase="create", threads=16, **more):
    row = {"part": "metadata", "system": system, "round": number, "phase": phase, "threads": threads, "ops_s": ops_s}
    return row | {"p99_us": 2000.0, "cpu_s_per_1000": 0.2, "errors": 0} | more


def engine(system, number, ops_s, op="create", in_flight=64, p50_us=1000.0):
    row = {"part": "engine", "system": system, "round": number, "op": op, "in_flight": in_flight, "ops_s": ops_s}
    return row | {"p50_us": p50_us, "p99_us": 3000.0, "cpu_us": {"leader": 90.0, "n2": 40.0}, "log_bytes": 50.0, "errors": 0}


def line_of(text, start):
    return next(line for line in text.splitlines() if line.startswith(start))


def test_a_ratio_is_the_median_of_the_rounds_own_ratios():
    rows = [metadata("keelfs", n, ours) for n, ours in enumerate((200.0, 900.0, 300.0))]
    rows += [metadata("juicefs", n, theirs) for n, theirs in enumerate((100.0, 300.0, 300.0))]
    # 2, 3 and 1: the median of the speeds, 300 / 300, would be another figure.
    assert (
        line_of(report.render(rows), "| keelfs / juicefs: create, 16")
        == "| keelfs / juicefs: create, 16 threads | 2.0 | 2.00 | yes |"
    )


def test_a_goal_that_is_missed_is_said_to_be():
    rows = [metadata("keelfs", 0, 199.0), metadata("juicefs", 0, 100.0)]
    assert line_of(report.render(rows), "| keelfs / juicefs: create, 16").endswith("| 1.99 | **no** |")


def test_what_was_not_measured_has_no_figure():
    text = report.render([])
    assert line_of(text, "| keelfs / juicefs: create, 16").endswith("| - | - |")
    assert line_of(text, "| three nodes, 64 in flight").endswith("| - | - |")
    assert "Not recorded." in text


def test_seconds_count_the_other_way_round():
    rows = [
        {"part": "scenario", "system": name, "round": 0, "phase": "tar_x", "seconds": seconds, "cpu_s": 1.0, "errors": 0}
        for name, seconds in (("keelfs", 10.0), ("juicefs", 20.0))
    ]
    assert line_of(report.render(rows), "| keelfs / juicefs: tar_x").endswith("| 1.5 | 2.00 | yes |")


@pytest.mark.parametrize(("p50", "reached"), [(899.0, "yes"), (901.0, "**no**")])
def test_a_cluster_is_held_against_etcd_and_against_disk_and_wire(p50, reached):
    rows = [
        engine("keelfs3", 0, 9500.0),
        engine("etcd3", 0, 5000.0, "put"),
        engine("keelfs3", 0, 1000.0, in_flight=1, p50_us=p50),
    ]
    rows += [
        {"part": "limits", "system": "keelfs3", "round": 0, "what": what, "p50_us": p50_us}
        for what, p50_us in (("fdatasync", 200.0), ("round trip", 100.0))
    ]
    text = report.render(rows)
    assert line_of(text, "| three nodes, 64 in flight").endswith("| 9,500 | yes |")
    assert line_of(text, "| three nodes' creates").endswith("| 1.9 | yes |")
    assert line_of(text, "| p50 of a create alone").endswith(f"| {reached} |")
    assert (
        line_of(text, "| keelfs3 | create | 64 |")
        == "| keelfs3 | create | 64 | 9,500 | 1,000 | 3,000 | leader 90, n2 40 | 0, 50 |"
    )


def test_errors_are_counted():
    assert report.render([metadata("keelfs", 0, 1.0, errors=3)]).startswith("1 rounds, 1 rows, 3 errors.")


def test_the_report_replaces_what_stands_between_its_marks(tmp_path):
    document = tmp_path / "BENCHMARKS.md"
    document.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write(document, "new\n")
    assert document.read_text() == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"


def test_samples_count_for_the_innermost_stage():
    stacks = flame.parse(
        "main (keelfs/main.py:1);take (metaserver/framed.py:2);apply (metaserver/core/machine.py:3) 6\n"
        "run (threading.py:1);sync (raft/wal.py:4) 3\n"
        "main (keelfs/main.py:1) 1\n"
    )
    assert profile.shares(stacks) == {"state machine": 0.6, "log": 0.3, "interpreter and loops": 0.1}


def test_a_flame_graph_shows_every_frame_and_its_share():
    stacks = flame.parse("a (x.py:1);b (y.py:2) 3\na (x.py:1) 1\n")
    picture = flame.svg(stacks, "a title")
    assert picture.startswith("<svg")
    assert "a title" in picture
    assert "b (y.py" in picture
