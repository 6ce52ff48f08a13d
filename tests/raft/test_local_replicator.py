"""The single-node replicator on a disk that the test holds still, fills or breaks: group commit, bounds, fail-stop, start."""

from __future__ import annotations

import asyncio
import errno
import random
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from faulty_disk import Fault, FaultyDisk, InlineHousekeeper, PowerLoss

from raft.errors import LogCorrupt, Refused, Stopped
from raft.identity import load_or_create
from raft.local import LocalOptions, LocalReplicator
from raft.segment import FIRST_RECORD
from raft.sync_policy import FixedPolicy, SyncPolicy
from raft.wal import WalOptions

if TYPE_CHECKING:
    from collections.abc import Callable

DIRECTORY = "/node"
DEADLINE_S = 20
SMALL = WalOptions(segment_bytes=FIRST_RECORD + 1024, first_segment_bytes=FIRST_RECORD + 1024)
MEDIUM = WalOptions(segment_bytes=256 << 10)  # one is enough for most tests here, and cheap to hold in memory
DEFAULT = LocalOptions(wal=MEDIUM)


class Counter:
    """A state machine that counts."""

    def __init__(self, index_applied: int = 0) -> None:
        self.index_applied = self.index_durable = index_applied
        self.payloads: list[bytes] = []

    def apply(self, index: int, term: int, payload: bytes, hint: object | None) -> Any:
        assert index == self.index_applied + 1
        self.index_applied = index
        if payload == b"boom":
            raise RuntimeError("boom")
        self.payloads.append(payload)
        return index


class Gate:
    """Holds the writer thread inside a write until it is opened."""

    def __init__(self, disk: FaultyDisk) -> None:
        self.entered, self._open = threading.Event(), threading.Event()
        disk.before_write = self._wait

    def _wait(self) -> None:
        if threading.current_thread().name == "wal-writer":
            self.entered.set()
            assert self._open.wait(DEADLINE_S)

    def open(self) -> None:
        self._open.set()


def make(
    disk: FaultyDisk,
    state: Counter,
    options: LocalOptions = DEFAULT,
    *,
    policy: SyncPolicy | None = None,
) -> LocalReplicator:
    return LocalReplicator(
        DIRECTORY,
        state,
        options,
        disk=disk,
        policy=policy or FixedPolicy(inline=True),
        housekeeper=InlineHousekeeper(),
    )


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.001)


async def test_proposals_that_arrive_during_a_sync_share_the_next_one() -> None:
    """And the loop runs on meanwhile: the test itself is on it."""
    disk, state = FaultyDisk(), Counter()
    replicator = make(disk, state, policy=FixedPolicy(inline=False))
    await replicator.start()
    gate = Gate(disk)
    writes = len(disk.writes)
    first = replicator.propose(b"first")
    await until(gate.entered.is_set)
    others = [replicator.propose(b"%d" % number) for number in range(500)]
    await asyncio.sleep(0)
    assert not any(future.done() for future in (first, *others))
    gate.open()
    assert await asyncio.gather(first, *others) == list(range(1, 502))
    assert len(disk.writes) - writes == 2
    assert replicator.counters.syncs_thread == 2
    await replicator.stop()


async def test_proposals_of_one_turn_of_the_loop_share_one_sync_inline() -> None:
    disk, state = FaultyDisk(), Counter()
    replicator = make(disk, state)
    await replicator.start()
    writes = len(disk.writes)
    assert await asyncio.gather(*[replicator.propose(b"x") for _ in range(300)]) == list(range(1, 301))
    assert len(disk.writes) - writes == 1
    assert replicator.counters.syncs_inline == 1
    await replicator.stop()


async def test_the_next_batch_is_synced_while_the_last_is_applied() -> None:
    disk = FaultyDisk()
    gate_of_second = threading.Event()
    seen: list[bool] = []

    class Slow(Counter):
        def apply(self, index: int, term: int, payload: bytes, hint: object | None) -> Any:
            if index == 1:
                seen.append(gate_of_second.wait(DEADLINE_S))
            return super().apply(index, term, payload, hint)

    state = Slow()
    replicator = make(disk, state, policy=FixedPolicy(inline=False))
    await replicator.start()
    entered, opened = threading.Event(), threading.Event()
    count = iter(range(10))

    def before_write() -> None:
        if threading.current_thread().name == "wal-writer":
            if next(count) == 0:
                entered.set()
                assert opened.wait(DEADLINE_S)
            else:
                gate_of_second.set()

    disk.before_write = before_write
    first = replicator.propose(b"1")
    await until(entered.is_set)
    second = replicator.propose(b"2")
    opened.set()
    assert (await first, await second) == (1, 2)
    assert seen == [True]
    await replicator.stop()


async def test_a_batch_is_bounded() -> None:
    disk, state = FaultyDisk(), Counter()
    replicator = make(disk, state, LocalOptions(wal=MEDIUM, batch_entries_max=10, batch_bytes_max=1000))
    await replicator.start()
    writes = len(disk.writes)
    await asyncio.gather(*[replicator.propose(b"") for _ in range(25)])
    assert len(disk.writes) - writes == 3
    await asyncio.gather(*[replicator.propose(bytes(400)) for _ in range(4)])
    assert len(disk.writes) - writes == 5
    await replicator.stop()


@pytest.mark.parametrize(
    ("options", "room"),
    [(LocalOptions(wal=MEDIUM, queue_entries_max=5), 5), (LocalOptions(wal=MEDIUM, queue_bytes_max=320), 10)],
)
async def test_a_full_queue_refuses_and_takes_again_later(options: LocalOptions, room: int) -> None:
    disk, state = FaultyDisk(), Counter()
    replicator = make(disk, state, options)
    await replicator.start()
    taken = [replicator.propose(b"") for _ in range(room)]
    with pytest.raises(Refused) as refused:
        await replicator.propose(b"")
    assert refused.value.errno == errno.EAGAIN
    await asyncio.gather(*taken)
    assert await replicator.propose(b"") == room + 1
    await replicator.stop()


@pytest.mark.parametrize("inline", [True, False])
async def test_a_full_disk_refuses_the_batch_and_the_next_one_takes_its_indexes(inline: bool) -> None:
    disk, state = FaultyDisk(), Counter()
    replicator = make(disk, state, policy=FixedPolicy(inline=inline))
    await replicator.start()
    assert await replicator.propose(b"1") == 1
    disk.plan(1, Fault.NO_SPACE)
    lost = [replicator.propose(b"lost"), replicator.propose(b"lost too")]
    for future in lost:
        with pytest.raises(Refused) as refused:
            await future
        assert refused.value.errno == errno.ENOSPC
    assert await replicator.propose(b"2") == 2
    await replicator.stop()
    state = Counter()
    replicator = make(disk, state)
    await replicator.start()
    assert state.payloads == [b"1", b"2"]
    await replicator.stop()


@pytest.mark.parametrize("inline", [True, False])
async def test_a_failed_sync_stops_the_replicator(inline: bool) -> None:
    disk, state = FaultyDisk(), Counter()
    replicator = make(disk, state, policy=FixedPolicy(inline=inline))
    await replicator.start()
    disk.plan(1, Fault.SYNC_FAILS)
    for future in [replicator.propose(b"1"), replicator.propose(b"2")]:
        with pytest.raises(Stopped):
            await future
    assert isinstance(await replicator.failed, Stopped)
    assert state.payloads == []
    with pytest.raises(Stopped):
        await replicator.propose(b"3")
    await replicator.stop()


async def test_a_failing_apply_rejects_the_batch_whose_sync_is_under_way() -> None:
    disk, state = FaultyDisk(), Counter()
    replicator = make(disk, state, policy=FixedPolicy(inline=False))
    await replicator.start()
    gate = Gate(disk)
    boom = replicator.propose(b"boom")
    await until(gate.entered.is_set)
    later = replicator.propose(b"later")
    gate.open()
    for future in (boom, later):
        with pytest.raises(Stopped):
            await future
    assert "boom" in str(await replicator.failed)
    await replicator.stop()
    assert state.payloads == []


async def test_replay_runs_in_bounded_pieces_and_lets_the_loop_turn() -> None:
    disk = FaultyDisk()
    replicator = make(disk, Counter())
    await replicator.start()
    await asyncio.gather(*[replicator.propose(b"%03d" % number) for number in range(100)])
    await replicator.stop()
    state = Counter()
    replicator = make(disk, state, LocalOptions(wal=MEDIUM, replay_bytes=400))
    seen: set[int] = set()

    async def watch() -> None:
        while True:
            seen.add(state.index_applied)
            await asyncio.sleep(0)

    watcher = asyncio.create_task(watch())
    await replicator.start()
    watcher.cancel()
    assert state.payloads == [b"%03d" % number for number in range(100)]
    assert len(seen) > 5
    await replicator.stop()


async def test_a_new_log_continues_after_the_state() -> None:
    disk = FaultyDisk()
    for last in (1000, 1001):  # the second time the log is there
        replicator = make(disk, Counter(last))
        await replicator.start()
        assert await replicator.propose(b"x") == last + 1
        assert replicator.status().log_first == 1001
        await replicator.stop()


async def test_a_log_that_begins_after_the_state_is_refused() -> None:
    disk, state = FaultyDisk(), Counter()
    replicator = make(disk, state, LocalOptions(wal=SMALL))
    await replicator.start()
    for _ in range(100):
        await replicator.propose(b"x")
    state.index_durable = 100
    replicator.trim(100)
    first = replicator.status().log_first
    assert first > 50
    await replicator.stop()
    replicator = make(disk, Counter(20), LocalOptions(wal=SMALL))
    with pytest.raises(LogCorrupt, match=rf"up to 20, the log begins with {first}"):
        await replicator.start()
    replicator = make(disk, Counter(first - 1), LocalOptions(wal=SMALL))
    await replicator.start()
    await replicator.stop()


async def test_a_log_that_ends_before_the_state_lost_something() -> None:
    disk, state = FaultyDisk(), Counter()
    replicator = make(disk, state)
    await replicator.start()
    await replicator.propose(b"x")
    await replicator.stop()
    with pytest.raises(LogCorrupt, match="up to 5, the log ends with 1"):
        await make(disk, Counter(5)).start()


async def test_a_state_that_cannot_apply_an_entry_at_start_keeps_the_node_down() -> None:
    disk = FaultyDisk()
    replicator = make(disk, Counter())
    await replicator.start()
    with pytest.raises(Stopped):
        await replicator.propose(b"boom")
    await replicator.stop()
    replicator = make(disk, Counter())
    with pytest.raises(RuntimeError, match="boom"):
        await replicator.start()
    with pytest.raises(Stopped):
        await replicator.propose(b"x")


async def test_a_directory_in_use_is_refused_and_free_after_stop() -> None:
    disk = FaultyDisk()
    replicator = make(disk, Counter())
    await replicator.start()
    with pytest.raises(OSError, match="in use") as error:
        await make(disk, Counter()).start()
    assert error.value.errno == errno.EBUSY
    await replicator.stop()
    again = make(disk, Counter())
    await again.start()
    await again.stop()


async def test_low_space_is_reported_and_looked_at_again() -> None:
    disk, now = FaultyDisk(), [100.0]
    replicator = LocalReplicator(
        DIRECTORY,
        Counter(),
        LocalOptions(wal=WalOptions(segment_bytes=512 << 10, first_segment_bytes=256 << 10)),
        disk=disk,
        policy=FixedPolicy(inline=True),
        housekeeper=InlineHousekeeper(),
        clock=lambda: now[0],
    )

    def no_room(fd: int, size: int) -> None:
        if size == 512 << 10:
            raise OSError(errno.ENOSPC, "no space left on device")

    allocate, disk.allocate = disk.allocate, no_room  # type: ignore[method-assign]
    await replicator.start()
    assert not replicator.space_low
    assert await replicator.propose(bytes(100 << 10)) == 1
    seen = [replicator.space_low]
    disk.allocate = allocate  # type: ignore[method-assign]
    for step in (0.0, 1.0):
        now[0] += step
        await replicator.propose(b"x")
        seen.append(replicator.space_low)
    assert seen == [True, True, False]
    await replicator.stop()


def test_an_identity_is_made_once_and_survives_a_power_loss_while_it_is_made() -> None:
    for changes in range(1, 8):
        disk = FaultyDisk()
        disk.plan(changes, Fault.POWER)
        try:
            made = load_or_create(disk, DIRECTORY)
        except PowerLoss:
            made = None
        for seed in range(10):
            later = load_or_create(disk.rebooted(random.Random(seed)), DIRECTORY)
            assert made in (None, later)
    assert made is not None
    assert load_or_create(disk, DIRECTORY) == made
    assert made.node_id != made.cluster_id
    assert len(made.owner) == 16


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff", b'{"format": 1, "cluster_id": "x", "node_id": "y"}', b'{"format": 9}']
)
def test_an_identity_that_cannot_be_read_is_refused(content: bytes) -> None:
    disk = FaultyDisk()
    fd = disk.open(f"{DIRECTORY}/identity.json", create=True)
    disk.write_durable(fd, content, 0)
    with pytest.raises(LogCorrupt, match=r"identity\.json"):
        load_or_create(disk, DIRECTORY)
