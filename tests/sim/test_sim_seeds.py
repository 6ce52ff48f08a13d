"""Random clusters, random faults: two thousand runs in make test, any number (KEELFS_SIM_SEEDS) in make soak.

A failure prints its seed, its faults, and the command that runs it again with every message.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from tests.sim.run import run_seed

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 2000
SOAK_SEEDS = int(os.environ.get("KEELFS_SIM_SEEDS", "20000"))
WORKERS = 2
BLOCK = 50


def failures(seeds: range) -> list[str]:
    """What failed in these, as text. Runs in a process of its own."""
    logging.disable()  # nodes warn of disks that are full, as they should
    outcomes = (run_seed(seed) for seed in seeds)
    return [outcome.report() for outcome in outcomes if outcome.failure]


def run_all(first: int, count: int) -> None:
    blocks = [range(start, min(start + BLOCK, first + count)) for start in range(first, first + count, BLOCK)]
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as pool:
        failed = [report for reports in pool.map(failures, blocks) for report in reports]
    assert not failed, f"{len(failed)} of {count} seeds failed:\n\n" + "\n\n".join(failed[:5])


@pytest.mark.timeout(900)
def test_no_promise_is_broken() -> None:
    run_all(0, SEEDS)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_no_promise_is_broken_in_any_other_run() -> None:
    first = random.SystemRandom().randrange(1 << 40)
    print(f"seeds from {first}")
    run_all(first, SOAK_SEEDS)


def test_a_seed_is_a_run() -> None:
    """The same events in the same order, byte for byte; also in a process that hashes strings differently."""
    for seed in (3, 4):
        outcome = run_seed(seed)
        assert outcome.trace_hash == run_seed(seed).trace_hash
        other = subprocess.run(
            [sys.executable, "-m", "tests.sim", "--seed", str(seed)],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": str(seed + 100)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert outcome.trace_hash in other.stdout


def test_runs_are_not_idle() -> None:
    """Chance brings about what the simulator is for: elections, snapshots, refused disks, answers in between."""
    lines: list[str] = []
    for seed in range(60):
        outcome = run_seed(seed, verbose=True)
        assert not outcome.failure, outcome.report()
        lines += outcome.trace
    for what in ("leader in term", "installs a snapshot", "other-disk", "admin: changed", "(learner)", "power", "cannot start"):
        assert sum(what in line for line in lines) >= 3, f"{what!r} hardly ever happens"
