"""How fast the log is on this disk. Prints, asserts only that everything arrived: run with `-m soak -s`."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from raft.local import LocalReplicator
from raft.sync_policy import AdaptivePolicy, FixedPolicy
from raft.wal import Wal

if TYPE_CHECKING:
    from pathlib import Path

    from raft.sync_policy import SyncPolicy

SERIAL, PROPOSERS, EACH = 3000, 64, 1500
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


def quantiles(seconds: list[float]) -> str:
    cuts = statistics.quantiles(seconds, n=100)
    return f"p50 {cuts[49] * 1e6:.0f} us, p99 {cuts[98] * 1e6:.0f} us"


def sync_alone(path: Path) -> list[float]:
    """What the log itself costs, without a loop."""
    wal = Wal.open(path)
    times = []
    for index in range(1, SERIAL + 1):
        started = time.perf_counter()
        wal.append([(index, 1, PAYLOAD)])
        wal.sync()
        times.append(time.perf_counter() - started)
    wal.close()
    return times


async def propose(path: Path, policy: SyncPolicy) -> tuple[list[float], float, LocalReplicator]:
    replicator = LocalReplicator(path, Nothing(), policy=policy)
    await replicator.start()
    times = []
    for _ in range(SERIAL):
        started = time.perf_counter()
        await replicator.propose(PAYLOAD)
        times.append(time.perf_counter() - started)

    async def proposer() -> None:
        for _ in range(EACH):
            await replicator.propose(PAYLOAD)

    started = time.perf_counter()
    await asyncio.gather(*[proposer() for _ in range(PROPOSERS)])
    elapsed = time.perf_counter() - started
    await replicator.stop()
    return times, PROPOSERS * EACH / elapsed, replicator


@pytest.mark.soak
@pytest.mark.parametrize("name", POLICIES)
def test_how_fast_the_log_is(name: str, tmp_path: Path) -> None:
    alone = sync_alone(tmp_path / "wal")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        times, rate, replicator = runner.run(propose(tmp_path / "node", POLICIES[name]))
    counters = replicator.counters
    print(
        f"\n{name}: append + sync alone {quantiles(alone)}; propose {quantiles(times)}; "
        f"{PROPOSERS} proposers {rate:.0f} entries/s; "
        f"syncs: {counters.syncs_inline} inline, {counters.syncs_thread} in the thread"
    )
    assert counters.entries == SERIAL + PROPOSERS * EACH
