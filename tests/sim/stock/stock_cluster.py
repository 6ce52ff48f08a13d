"""Stock pysyncobj 0.3.17 on an in-process network, without its clock, its sockets and its luck.

Nodes are real SyncObj objects; only what upstream lets a user replace is replaced (`transport=`, `doTick`), and besides that
its clock and its random numbers, by monkeypatching. Messages are queued until `deliver`, FIFO between any two nodes, never
doubled unless a test does it, so that every schedule is one that a network could produce.

Not here: anything of KeelFS. These tests say what upstream does; the same schedules on our node are in test_sim_hazards.py.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pysyncobj.syncobj
from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pytest

SUCCESS: int = FAIL_REASON.SUCCESS
Message = dict[str, Any]
Envelope = tuple[str, str, Message]  # sender, receiver, message


class Clock:
    """Seconds that pass only when told, and a microsecond per look: upstream has loops that wait for time to pass."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now


def take_over_time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pysyncobj.syncobj, "monotonicTime", clock)
    monkeypatch.setattr(pysyncobj.syncobj, "random", random.Random(0))
    return clock


@dataclass
class Network:
    clock: Clock
    transports: dict[str, QueueTransport] = field(default_factory=dict)
    queue: deque[Envelope] = field(default_factory=deque)
    cut: set[tuple[str, str]] = field(default_factory=set)  # (sender, receiver): what is sent is lost
    hold: Callable[[Envelope], bool] = field(default=lambda _: False)  # True: keep the message back, in `held`
    held: list[Envelope] = field(default_factory=list)

    def partition(self, *groups: Iterable[str]) -> None:
        """Only nodes of one group reach each other; none: everybody everybody."""
        sides = [frozenset(group) for group in groups]
        self.cut = {(a, b) for side in sides for other in sides if side != other for a in side for b in other}

    def deliver(self, limit: int = 100_000) -> None:
        while self.queue and limit:
            limit -= 1
            sender, receiver, message = self.queue.popleft()
            if (sender, receiver) in self.cut or receiver not in self.transports:
                continue
            if self.hold((sender, receiver, message)):
                self.held.append((sender, receiver, message))
                continue
            self.give(sender, receiver, message)

    def give(self, sender: str, receiver: str, message: Message) -> None:
        self.transports[receiver]._onMessageReceived(Node(sender), message)


class QueueTransport(Transport):  # type: ignore[misc]  # upstream has no types
    def __init__(self, network: Network, name: str) -> None:
        super().__init__(None, None, None)
        self._network = network
        self._name = name
        network.transports[name] = self

    def send(self, node: Any, message: Message) -> bool:
        self._network.queue.append((self._name, node.id, message))
        return True

    def addNode(self, node: Any) -> None:
        self._onNodeConnected(node)

    def destroy(self) -> None:
        self._network.transports.pop(self._name, None)


class StockNode(SyncObj):  # type: ignore[misc]  # upstream has no types
    """A list that is replicated. Elections happen when a test says so."""

    def __init__(self, network: Network, name: str, others: Iterable[str], **options: Any) -> None:
        settings: dict[str, Any] = {
            "autoTick": False,
            "raftMinTimeout": 1e6,
            "raftMaxTimeout": 2e6,
            "connectionTimeout": 3e6,
            "appendEntriesPeriod": 0.0005,
            "logCompactionMinTime": 10**6,
            "leaderFallbackTimeout": 10**6,
        }
        self.network = network
        others = list(others)
        super().__init__(
            Node(name),
            [Node(other) for other in others],
            SyncObjConf(**(settings | options)),
            nodeClass=Node,
            transport=QueueTransport(network, name),
        )
        self.values: list[Any] = []
        for other in others:
            network.transports[name]._onNodeConnected(Node(other))

    @replicated  # type: ignore[untyped-decorator]
    def put(self, value: Any) -> Any:
        self.values.append(value)
        return value

    @replicated  # type: ignore[untyped-decorator]
    def poison(self) -> None:
        self.values.append("a side effect")
        raise ValueError("an error of the application")

    def log(self) -> list[tuple[int, int]]:
        """(index, term) of every entry."""
        journal = self._SyncObj__raftLog
        return [(index, term) for _, index, term in (journal[i] for i in range(len(journal)))]

    def last(self) -> int:
        return self.log()[-1][0]

    def campaign(self) -> None:
        self._SyncObj__raftElectionDeadline = 0
        self.doTick(0)

    def leads(self) -> bool:
        return bool(self._isLeader())


Answers = list[tuple[Any, int]]


def collect(answers: Answers) -> Callable[[Any, int], None]:
    """A callback for a replicated method."""

    def callback(result: Any, reason: int) -> None:
        answers.append((result, reason))

    return callback


class Cluster:
    def __init__(self, clock: Clock, names: str = "ABC", **options: Any) -> None:
        self.network = Network(clock)
        self.nodes = {name: StockNode(self.network, name, [n for n in names if n != name], **options) for name in names}

    def __getitem__(self, name: str) -> StockNode:
        return self.nodes[name]

    def run(self, rounds: int = 6, names: str = "") -> None:
        """Tick every node (or those named), deliver everything, let a millisecond pass; `rounds` times."""
        for _ in range(rounds):
            self.network.clock.now += 0.001
            for name in names or self.nodes:
                self.nodes[name].doTick(0)
            self.network.deliver()

    def elect(self, name: str, names: str = "") -> None:
        self.nodes[name].campaign()
        self.network.deliver()
        self.run(4, names)
        assert self.nodes[name].leads(), f"{name} was to be elected"
