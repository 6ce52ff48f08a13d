"""What all nodes of one run share: the world, the laws, the sizes that make rare things happen often."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from raft.errors import ReplicationError
from raft.journal import Journal, JournalOptions
from raft.node import RaftNode
from raft.segment import FIRST_RECORD
from raft.timing import Flow, Timing
from raft.wal import WalOptions
from tests.sim.kv import Command, Machine, Op, Value
from tests.sim.world import Violation

if TYPE_CHECKING:
    from raft.membership import Membership
    from tests.sim.laws import Laws
    from tests.sim.network import Network
    from tests.sim.world import World

DIRECTORY: Final = "/node"
CLUSTER_ID: Final = str(uuid.UUID(int=7))


def _small_journal() -> JournalOptions:
    return JournalOptions(WalOptions(FIRST_RECORD + 3072, FIRST_RECORD + 2048), tail_bytes=6000, retain_bytes=1500)


def _small_flow() -> Flow:
    return Flow(
        append_bytes=600,
        inflight_bytes=3000,
        inflight_messages=6,
        handed_bytes=3000,
        handed_entries=12,
        promote_lag=8,
        snapshot_piece_bytes=300,
    )


@dataclass(frozen=True, slots=True)
class Tuning:
    """Small segments, tails and batches, so that a short run trims, catches up by snapshot, and fills queues."""

    journal: JournalOptions = field(default_factory=_small_journal)
    flow: Flow = field(default_factory=_small_flow)
    timing: Timing = field(default_factory=Timing)
    apply_s: float = 0.003  # until a committed entry is applied, at most
    checkpoint_s: float = 0.8  # between two durable states
    background_s: float = 0.05  # to make or to install a snapshot, at most


@dataclass
class Setting:
    world: World
    network: Network
    laws: Laws
    tuning: Tuning = field(default_factory=Tuning)
    node_class: type[RaftNode] = RaftNode
    machine_class: type[Machine] = Machine
    journal_class: type[Journal] = Journal


Answer = Value | ReplicationError | str
Change = Callable[["Membership"], "Membership"]


class Attempt:
    """One question to one node: answered once, or never if the process dies first. The token that the node gets."""

    __slots__ = ("answered", "command", "op", "reply")

    def __init__(self, reply: Callable[[Answer], None], op: Op | None = None, command: Command | None = None) -> None:
        self.reply = reply
        self.op = op
        self.command = command
        self.answered = False

    def answer(self, what: Answer) -> None:
        if self.answered:
            raise Violation(f"one question is answered twice: {self.command or self.op}, now with {what!r}")
        self.answered = True
        self.reply(what)
