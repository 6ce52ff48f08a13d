"""What stock pysyncobj does with bytes, from strangers and from its own users: E15, E16 and E19 of RAFT_HAZARDS."""

from __future__ import annotations

import pickle
import random
import socket
import struct
import time
import zlib

import pytest
from pysyncobj import SyncObj, SyncObjConf

from tests.sim.stock.stock_cluster import Answers, Clock, Cluster, Network, StockNode, collect, take_over_time

DEADLINE_S = 10.0
executed: list[str] = []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return take_over_time(monkeypatch)


def record(word: str) -> None:
    executed.append(word)


class Call:
    """What a stranger sends: an instruction to call something, here something harmless."""

    def __reduce__(self) -> tuple[object, ...]:
        return record, ("by a stranger",)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_e15_the_first_bytes_of_a_stranger_are_executed() -> None:
    executed.clear()
    address = f"127.0.0.1:{free_port()}"
    node = SyncObj(address, ["127.0.0.1:1"], SyncObjConf(autoTick=False, bindAddress=address))
    try:
        data = zlib.compress(pickle.dumps(Call(), 2))
        with socket.create_connection(("127.0.0.1", int(address.split(":")[1]))) as stranger:
            stranger.sendall(struct.pack("i", len(data)) + data)
            deadline = time.monotonic() + DEADLINE_S
            while not executed and time.monotonic() < deadline:
                node.doTick(0.01)
    finally:
        node._doDestroy()
    assert executed == ["by a stranger"]


def test_e16_a_command_is_refused_although_it_was_queued(clock: Clock) -> None:
    node = StockNode(Network(clock), "A", "BC", appendEntriesUseBatch=False)
    submitted = 0

    def submit() -> None:
        nonlocal submitted
        while submitted < 1 << 20:
            submitted += 1
            node._applyCommand(b"\0", None)

    with pytest.raises(BlockingIOError):  # the pipe that wakes the tick thread is full
        submit()
    assert len(node._SyncObj__commandsQueue._FastQueue__queue) == submitted


def test_e19_a_large_command_throws_inside_the_message_handler(clock: Clock) -> None:
    cluster = Cluster(clock)
    cluster.elect("A")
    answers: Answers = []
    cluster["A"].put(random.Random(19).randbytes(200_000), callback=collect(answers))
    raised = 0
    for _ in range(40):
        clock.now += 0.001
        for node in cluster.nodes.values():
            node.doTick(0)
        while cluster.network.queue:
            try:
                cluster.network.deliver(1)
            except Exception:  # whatever half a pickle makes pickle raise
                raised += 1
    assert raised
