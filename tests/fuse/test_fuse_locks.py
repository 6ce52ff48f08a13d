"""Locks through real mounts: the table of lock_cases.py on a local file system, on one mount and between two; counting and
appending under locks on two mounts; signals, crashes, and programs that lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.fuse.cluster import Cluster, wait_for
from tests.fuse.lock_cases import CASES
from tests.fuse.lock_stage import Actor, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Stages(NamedTuple):
    local: Stage
    one_mount: Stage
    two_mounts: Stage


@pytest.fixture(scope="module")
def second(cluster: Cluster) -> Path:
    return cluster.mount("second")


@pytest.fixture(scope="module")
def stages(cluster: Cluster, second: Path, scratch: Path) -> Iterator[Stages]:
    local, here, there = scratch / "local-locks", cluster.mountpoint / "locks", second / "locks"
    local.mkdir()
    here.mkdir()
    with (
        Stage((local, local, local), remote=False) as on_disk,
        Stage((here, here, here), remote=True) as on_one,
        Stage((here, there, here), remote=True) as on_two,
    ):
        yield Stages(on_disk, on_one, on_two)


@pytest.fixture
def actors() -> Iterator[list[Actor]]:
    made = [Actor() for _ in range(8)]
    yield made
    for actor in made:
        actor.kill()


def test_the_table_is_long_enough() -> None:
    assert len(set(CASES)) == len(CASES) >= 150


@pytest.mark.parametrize("case", CASES)
def test_a_case_is_as_on_a_local_file_system(stages: Stages, case: str) -> None:
    expected = stages.local.play(case)
    for name, stage in (("one mount", stages.one_mount), ("two mounts", stages.two_mounts)):
        given = stage.play(case, expected)
        different = [
            f"{step.strip()}: {name} gives {ours}, the local file system {theirs}"
            for step, ours, theirs in zip(case.split(";"), given, expected, strict=True)
            if ours != theirs
        ]
        assert not different, "\n".join(different)


# --- many at once


@pytest.mark.parametrize("how", ["w", "ow", "flock"])
def test_eight_processes_on_two_mounts_lose_no_count(here: Path, second: Path, actors: list[Actor], how: str) -> None:
    (here / "count").write_bytes(b"%020d" % 0)
    ways = [here / "count", second / here.name / "count"]
    for number, actor in enumerate(actors):
        assert actor.do("open", "f", str(ways[number % 2]), os.O_RDWR) == "ok"
    for actor in actors:
        actor.tell("count", "f", 40, how)
    assert [actor.answer(120) for actor in actors] == ["ok"] * 8
    assert [int(way.read_bytes()) for way in ways] == [320, 320]


def test_eight_processes_on_two_mounts_lose_no_line(here: Path, second: Path, actors: list[Actor]) -> None:
    """Each appends; no mount may write over what the other has added meanwhile."""
    (here / "lines").write_bytes(b"")
    ways = [here / "lines", second / here.name / "lines"]
    for number, actor in enumerate(actors):
        assert actor.do("open", "f", str(ways[number % 2]), os.O_RDWR | os.O_APPEND) == "ok"
    for number, actor in enumerate(actors):
        actor.tell("append", "f", 40, f"actor-{number}")
    assert [actor.answer(120) for actor in actors] == ["ok"] * 8
    expected = sorted(f"actor-{actor} {number} {'x' * (number % 90)}" for actor in range(8) for number in range(40))
    for way in ways:
        assert sorted(way.read_text().splitlines()) == expected


# --- signals and crashes


@pytest.mark.parametrize("number", [signal.SIGALRM, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_a_wait_and_leaves_no_lock(here: Path, second: Path, actors: list[Actor], number: signal.Signals) -> None:
    (here / "f").write_bytes(b"")
    holder, waiter, third, *_ = actors
    for actor, way in ((holder, here), (waiter, second / here.name), (third, here)):
        assert actor.do("open", "f", str(way / "f"), os.O_RDWR) == "ok"
    assert holder.do("set", "f", "w", 0, 0) == "ok"
    assert waiter.start_waiting("set", "f", "w", 0, 0, "w") == "waits"
    os.kill(waiter.pid, number)
    assert waiter.answer() == "EINTR"
    assert holder.do("set", "f", "u", 0, 0) == "ok"
    assert third.do("get", "f", "w", 0, 0) == ["free"]


def test_a_wait_that_a_killed_process_left_gets_nothing(here: Path, second: Path, actors: list[Actor]) -> None:
    (here / "f").write_bytes(b"")
    holder, waiter, third, *_ = actors
    for actor, way in ((holder, here), (waiter, second / here.name), (third, here)):
        assert actor.do("open", "f", str(way / "f"), os.O_RDWR) == "ok"
    assert holder.do("flock", "f", "x") == "ok"
    assert waiter.start_waiting("flock", "f", "x", True) == "waits"
    waiter.kill()
    assert holder.do("flock", "f", "u") == "ok"
    assert third.do("flock", "f", "x") == "ok"


def test_the_locks_of_a_mount_that_was_killed_are_free_after_its_time_to_live(
    cluster: Cluster, here: Path, actors: list[Actor]
) -> None:
    (here / "f").write_bytes(b"")
    doomed = cluster.mount("doomed")
    holder, waiter, *_ = actors
    assert holder.do("open", "f", str(doomed / here.name / "f"), os.O_RDWR) == "ok"
    assert holder.do("set", "f", "w", 0, 0) == "ok"
    assert waiter.do("open", "f", str(here / "f"), os.O_RDWR) == "ok"
    assert waiter.start_waiting("set", "f", "w", 0, 0, "w") == "waits"
    began = time.monotonic()
    cluster.kill_mount("doomed")
    holder.kill()
    assert waiter.answer(30) == "ok"
    assert 5 < time.monotonic() - began < 20, "the session's time to live is 10 s here"


def test_a_mount_that_was_away_for_too_long_has_lost_its_locks_and_writes_nothing_under_them(
    cluster: Cluster, here: Path, actors: list[Actor]
) -> None:
    (here / "f").write_bytes(b"before")
    asleep = cluster.mount("asleep")
    holder, waiter, *_ = actors
    assert holder.do("open", "f", str(asleep / here.name / "f"), os.O_RDWR) == "ok"
    assert holder.do("set", "f", "w", 0, 0) == "ok"
    assert waiter.do("open", "f", str(here / "f"), os.O_RDWR) == "ok"
    process = cluster.mounts["asleep"]
    os.kill(process.pid, signal.SIGSTOP)
    assert waiter.do("write", "f", "theirs", 0) == 6
    waiter.tell("set", "f", "w", 0, 0, "w")
    assert waiter.answer(30) == "ok"
    os.kill(process.pid, signal.SIGCONT)
    holder.tell("write", "f", "mine!!", 0)
    assert holder.answer(30) in ("EIO", 6), "what is written before the mount knows is forsaken"
    wait_for(lambda: holder.do("write", "f", "mine!!", 0) == "EIO", "the descriptor to be fenced")
    assert holder.do("set", "f", "w", 0, 0) == "EIO"
    assert holder.do("set", "f", "w", 0, 0) == "EAGAIN"
    assert waiter.do("set", "f", "u", 0, 0) == "ok"
    holder.do("close_all")
    assert (here / "f").read_bytes() == b"theirs"
    assert holder.do("open", "f", str(asleep / here.name / "f"), os.O_RDWR) == "ok"
    assert holder.do("set", "f", "w", 0, 0) == "ok"
    assert holder.do("write", "f", "again!", 0) == 6
    holder.do("close_all")
    assert (here / "f").read_bytes() == b"again!"


# --- programs


def test_flock_1_excludes_another_mount(here: Path, second: Path) -> None:
    script = f"exec 9>{here}/lock; flock 9; flock -n {second / here.name}/lock true && exit 1; flock -u 9; "
    subprocess.run(["bash", "-ec", script + f"flock -n {second / here.name}/lock true"], check=True, timeout=60)


INSERTS = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
for number in range(25):
    db.execute("BEGIN IMMEDIATE")
    (count,) = db.execute("SELECT n FROM counter").fetchone()
    db.execute("UPDATE counter SET n = ?", (count + 1,))
    db.execute("INSERT INTO rows VALUES (?, ?)", (sys.argv[2], number))
    db.execute("COMMIT")
"""


def test_sqlite_with_four_processes_on_two_mounts(here: Path, second: Path) -> None:
    import sqlite3

    ways = [here / "db", second / here.name / "db"]
    db = sqlite3.connect(ways[0])
    db.executescript("CREATE TABLE counter (n); INSERT INTO counter VALUES (0); CREATE TABLE rows (who, n)")
    db.close()
    writers = [subprocess.Popen([sys.executable, "-c", INSERTS, str(ways[n % 2]), str(n)]) for n in range(4)]
    assert [writer.wait(200) for writer in writers] == [0] * 4
    for way in ways:
        db = sqlite3.connect(way)
        assert db.execute("SELECT n FROM counter").fetchone() == (100,)
        assert db.execute("SELECT count(*) FROM rows").fetchone() == (100,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        db.close()
