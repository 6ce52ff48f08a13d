"""A simulated machine: a name, a disk, a store for the state, and the process that runs there now and then.

What is here survives crashes; process.py is one life of the node. The disk is the simulator's; the store stands for LMDB: what
a power loss leaves of it is some state that was written since the last one that was synced, or that one.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from raft.base import Base, BaseFile
from raft.errors import LogCorrupt, ReplicationError
from raft.founding import join_cluster
from raft.membership import Member, Membership
from raft.reserve import Reserve
from tests.raft.faulty_disk import PowerLoss
from tests.sim.disk import SimDisk
from tests.sim.process import Process
from tests.sim.setting import CLUSTER_ID, DIRECTORY
from tests.sim.world import Violation

if TYPE_CHECKING:
    from raft.node import SnapshotMeta
    from tests.sim.setting import Setting


@dataclass(eq=False)
class Seat:
    setting: Setting
    name: str
    generation: int = 0  # how many disks this seat has had
    disk: SimDisk = field(default_factory=SimDisk)
    stored: tuple[bytes, bytes] = (b"", b"")  # dumps of the state: what is synced, what is written
    snapshot: tuple[SnapshotMeta, bytes] | None = None
    incoming: tuple[SnapshotMeta, bytes] | None = None
    clock_offset: float = 0.0
    process: Process | None = None
    damaged: str = ""  # what was done to this disk, so that it may be refused
    refusal: str = ""  # why it was refused at the last start
    unplugged: bool = False  # do not start by itself
    fresh: bool = True  # never a member that was removed

    def __post_init__(self) -> None:
        self.rng = self.setting.world.rng(f"seat {self.name}")

    @property
    def incarnation(self) -> str:
        return str(uuid.uuid5(uuid.UUID(CLUSTER_ID), f"{self.name}/{self.generation}"))

    @property
    def member(self) -> Member:
        return Member(self.name, self.incarnation, f"{self.name}:1", f"{self.name}:2", f"{self.name}:3")

    # -- disks ---------------------------------------------------------------------------------------------------------------

    def prepare(self, membership: Membership) -> None:
        """An empty directory becomes one of the first nodes of a cluster, or, without members, one that is to join."""
        join_cluster(self.disk, DIRECTORY, CLUSTER_ID, lambda: uuid.UUID(self.incarnation))
        if membership.members:
            BaseFile(self.disk, DIRECTORY, Reserve(self.disk, DIRECTORY)).save(Base(membership))
        self.setting.laws.new_disk(self.name)

    def replace_disk(self) -> None:
        """An empty disk, prepared to join: another node, in the old one's place."""
        assert self.process is None
        self.generation += 1
        self.disk, self.stored, self.snapshot, self.incoming, self.damaged = SimDisk(), (b"", b""), None, None, ""
        self.prepare(Membership())
        self.setting.world.trace(f"{self.name}: has a new disk")

    def retire(self) -> None:
        """It was removed from the cluster and does not come back."""
        self.refusal = "it was removed"
        self.unplugged = True

    # -- processes -----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        if self.process is not None or self.unplugged:
            return
        world = self.setting.world
        world.trace(f"{self.name}: starts")
        self.refusal = ""
        try:
            process = Process(self)
        except PowerLoss:
            self._come_up_after("power")
            self.restart_after(0.5)
        except LogCorrupt as error:
            world.trace(f"{self.name}: refuses to start: {error}")
            self.refusal = str(error)
            if not self.damaged:
                raise Violation(f"{self.name} refuses a disk that nobody damaged: {error}") from error
        except (ReplicationError, OSError) as error:
            world.trace(f"{self.name}: cannot start: {error}")
            self._come_up_after("kill")
            self.restart_after(0.5)
        else:
            self.process = process
            process.begin()

    def crash(self, how: str) -> None:
        """`how`: "kill" (the machine goes on) or "power". Nothing starts again by itself."""
        if self.process is None:
            return
        self.setting.world.trace(f"{self.name}: {how}")
        self.process.die(silently=how == "power")
        self.process = None
        self._come_up_after(how)

    def restart_after(self, seconds: float) -> None:
        self.setting.world.after(seconds, self.start)

    def _come_up_after(self, how: str) -> None:
        durable, cached = self.stored
        if how == "power":
            self.disk = self.disk.after_power_loss(self.rng)
            cached = durable = self.rng.choice((durable, cached))
        else:
            self.disk = self.disk.after_kill()
        self.stored = (durable, cached)
        self.setting.laws.crashed(self.name)
