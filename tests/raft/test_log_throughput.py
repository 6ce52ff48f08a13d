"""How fast the log is on this disk. Prints, asserts only that everything arrived: run with `-m soak -s`."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from raft.disk import RealDisk
from raft.local import LocalReplicator
from raft.sync_policy import AdaptivePolicy, FixedPolicy
from raft.wal import Wal

if TYPE_CHECKING:
    from pathlib import Path

    from raft.sync_policy import SyncPolicy

BLOCK, BLOCKS = 200, 20
TURN, TURNS = 4, 600
PROPOSERS, EACH = 64, 1500
PAYLOAD = bytes(range(250)) + bytes(50)
POLICIES: dict[str, SyncPolicy] = {
    "inline": FixedPolicy(inline=True),
    "thread": FixedPolicy(inline=False),
    "adaptive": AdaptivePolicy(),
}


class Nothing:
    index_applied = index_durable = 0

    def apply(self, index: int, term: int, payload: bytes, hint: object | None) -> Any:
        self.index_applied = index


class Switch:
    """A policy that the measurement turns over between blocks, so that both modes see the same disk and the same load."""

    def __init__(self) -> None:
        self.on_loop = True

    def inline(self, batch_bytes: int) -> bool:
        return self.on_loop

    def observe(self, seconds: float) -> None:
        pass


def write_block(disk: RealDisk, fd: int, offset: int, count: int, *, append: bool) -> list[float]:
    """The two ways to make 336 bytes durable: an append with fdatasync, or over space that was written before."""
    times = []
    data = PAYLOAD + bytes(36)
    for number in range(count):
        at = offset + number * len(data)
        started = time.perf_counter()
        if append:
            os.pwrite(fd, data, at)
            os.fdatasync(fd)
        else:
            disk.write_durable(fd, data, at)
        times.append(time.perf_counter() - started)
    return times


def log_turn(wal: Wal) -> list[float]:
    """The log itself, without a loop and a queue."""
    times = []
    for _ in range(TURN):
        index = wal.last_index + 1
        started = time.perf_counter()
        wal.append([(index, 1, PAYLOAD)])
        wal.sync()
        times.append(time.perf_counter() - started)
    return times


async def propose_turn(replicator: LocalReplicator) -> list[float]:
    times = []
    for _ in range(TURN):
        started = time.perf_counter()
        await replicator.propose(PAYLOAD)
        times.append(time.perf_counter() - started)
    return times


def report(name: str, blocks: list[list[float]]) -> None:
    medians = sorted(statistics.median(block) * 1e6 for block in blocks)
    print(f"{name}: p50 {statistics.median(medians):.0f} us (blocks {medians[0]:.0f} to {medians[-1]:.0f})")


@pytest.mark.soak
def test_what_one_durable_write_costs(tmp_path: Path) -> None:
    disk = RealDisk()
    fresh, written = (disk.open(str(tmp_path / name), create=True) for name in ("fresh", "written"))
    size = BLOCK * (len(PAYLOAD) + 36)
    disk.write_durable(written, bytes(BLOCKS * size), 0)
    blocks: dict[bool, list[list[float]]] = {True: [], False: []}
    for number in range(BLOCKS):
        for append in (True, False):
            blocks[append].append(write_block(disk, fresh if append else written, number * size, BLOCK, append=append))
    print()
    report("append + fdatasync", blocks[True])
    report("overwrite with RWF_DSYNC", blocks[False])
    assert disk.size(fresh) == disk.size(written) == BLOCKS * size


async def compare(path: Path) -> None:
    """Four ways in turn, a few each, so that all see the same disk and load; the differences are taken within a turn."""
    switch = Switch()
    replicator = LocalReplicator(path / "node", Nothing(), policy=switch)
    await replicator.start()
    disk, wal = RealDisk(), Wal.open(path / "wal")
    raw = disk.open(str(path / "raw"), create=True)
    size = TURN * (len(PAYLOAD) + 36)
    disk.write_durable(raw, bytes(TURNS * size), 0)
    medians: dict[str, list[float]] = {name: [] for name in ("write", "log", "loop", "thread")}
    for number in range(TURNS):
        medians["write"].append(statistics.median(write_block(disk, raw, number * size, TURN, append=False)))
        medians["log"].append(statistics.median(log_turn(wal)))
        for name in ("loop", "thread"):
            switch.on_loop = name == "loop"
            medians[name].append(statistics.median(await propose_turn(replicator)))
    await replicator.stop()
    wal.close()
    disk.close(raw)
    print()
    for name, values in medians.items():
        above = [value - base for value, base in zip(values, medians["write"], strict=True)]
        print(f"{name}: p50 {statistics.median(values) * 1e6:.0f} us, above the write {statistics.median(above) * 1e6:.0f} us")
    assert replicator.counters.entries == 2 * TURNS * TURN


@pytest.mark.soak
def test_what_one_proposal_costs_on_the_loop_and_in_the_thread(tmp_path: Path) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(compare(tmp_path))


async def crowd(path: Path, policy: SyncPolicy) -> LocalReplicator:
    replicator = LocalReplicator(path, Nothing(), policy=policy)
    await replicator.start()

    async def proposer() -> None:
        for _ in range(EACH):
            await replicator.propose(PAYLOAD)

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*[proposer() for _ in range(PROPOSERS)])
    count = PROPOSERS * EACH
    elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu
    print(f"\n{PROPOSERS} proposers: {count / elapsed:.0f} entries/s, {cpu / count * 1e6:.1f} us of CPU per entry", end="; ")
    await replicator.stop()
    return replicator


@pytest.mark.soak
@pytest.mark.parametrize("name", POLICIES)
def test_how_many_entries_a_crowd_gets_through(name: str, tmp_path: Path) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        counters = runner.run(crowd(tmp_path / "node", POLICIES[name])).counters
    print(f"{name}: {counters.syncs_inline} syncs on the loop, {counters.syncs_thread} in the thread")
    assert counters.entries == PROPOSERS * EACH
