"""A whole simulated cluster: seats, network, clients, laws; and the questions that a test or the end of a run asks of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft.membership import Membership
from raft.node import RaftNode
from raft.upstream import LEADER
from tests.raft.faulty_disk import Fault
from tests.sim import history
from tests.sim.clients import Admin, Client
from tests.sim.history import Call
from tests.sim.kv import Command, Op
from tests.sim.laws import Laws
from tests.sim.network import CALM, Network
from tests.sim.seat import Seat
from tests.sim.setting import Answer, Attempt, Setting, Tuning
from tests.sim.world import Violation, World

if TYPE_CHECKING:
    from tests.sim.process import Process

SETTLE_S = 20.0  # within which a healed cluster must work again, and agree


class Cluster:
    """`voters` found it; `spares` are there, prepared to join."""

    def __init__(
        self,
        world: World,
        voters: int = 3,
        spares: int = 0,
        *,
        tuning: Tuning | None = None,
        node_class: type[RaftNode] = RaftNode,
        **classes: type,
    ) -> None:
        self.world = world
        self.laws = Laws()
        self.network = Network(world)
        self.setting = Setting(world, self.network, self.laws, tuning or Tuning(), node_class, **classes)
        self.client_loss = 0.0
        self.disks_lost = 0
        self.clients: list[Client] = []
        self.asked: list[Call] = []  # besides what clients did
        self.admin = Admin(self)
        names = [f"n{i + 1}" for i in range(voters + spares)]
        self.seats = {name: Seat(self.setting, name) for name in names}
        first = Membership(tuple(self.seats[name].member for name in names[:voters]))
        for name, seat in self.seats.items():
            seat.prepare(first if name in names[:voters] else Membership())

    def __getitem__(self, name: str) -> Seat:
        return self.seats[name]

    def process(self, name: str) -> Process:
        process = self.seats[name].process
        assert process is not None, f"{name} does not run"
        return process

    def start(self) -> None:
        for seat in self.seats.values():
            seat.start()

    def add_client(self, pause_s: float = 1e9, gives_up_s: float = 30.0) -> Client:
        client = Client(self, len(self.clients) + 1, pause_s, gives_up_s)
        self.clients.append(client)
        return client

    # -- questions -----------------------------------------------------------------------------------------------------------

    def running(self) -> list[Process]:
        return [seat.process for seat in self.seats.values() if seat.process is not None]

    def leader(self) -> Process | None:
        """The one that leads in the highest term."""
        leaders = [process for process in self.running() if process.node.role == LEADER]
        return max(leaders, key=lambda process: process.node.term, default=None)

    def members(self) -> Membership:
        """As the leader knows them, or for want of one whoever knows most of what is committed."""
        leader = self.leader()
        if leader is not None:
            return leader.journal.membership
        return max(
            (process.journal.membership_at(process.machine.index) for process in self.running()),
            key=lambda membership: (membership.index, len(membership.members)),
        )

    def wait_for_leader(self, limit_s: float = 10.0) -> Process:
        if not self.world.run_while(lambda: self.leader() is None, limit_s, 0.01):
            raise Violation(f"no leader within {limit_s} s")
        leader = self.leader()
        assert leader is not None
        return leader

    def elect(self, name: str, limit_s: float = 10.0) -> Process:
        """See to it that this one leads: whenever it may, it stands for election first."""

        asked_at = -1.0

        def undecided() -> bool:
            nonlocal asked_at
            leader = self.leader()
            if leader is not None and leader.name == name:
                return False
            if leader is not None and self.network.is_clear(leader.name, name):
                if self.world.now - asked_at > 0.5:
                    asked_at = self.world.now
                    leader.transfer(name, Attempt(lambda _: None))
                return True
            for process in self.running():
                process.node._election_at = process.node._clock() + (0.0 if process.name == name else 1.0)
            self.process(name).post(lambda: None)
            return True

        if not self.world.run_while(undecided, limit_s, 0.02):
            raise Violation(f"{name} was not elected within {limit_s} s")
        return self.process(name)

    def ask(self, name: str, op: Op, session: int = 99, seq: int = 1, padding: int = 0) -> list[Answer]:
        """One question to one node, not asked again; where its answer will be."""
        answers: list[Answer] = []
        call = Call(f"to {name}", op, self.world.now)
        self.asked.append(call)

        def reply(answer: Answer) -> None:
            answers.append(answer)
            if not isinstance(answer, Exception | str):
                call.answer, call.returned_at = answer, self.world.now

        command = None if op.kind == "read" else Command(session, seq, op, padding)
        self.process(name).ask(Attempt(reply, op, command))
        return answers

    def call(self, op: Op, client: Client | None = None, limit_s: float = 15.0) -> Call:
        """Have a client do this and wait for its answer."""
        call = (client or self.add_client()).run(op)
        if not self.world.run_while(lambda: call.answer is None, limit_s, 0.01):
            raise Violation(f"liveness: no answer to {op} within {limit_s} s")
        return call

    # -- the end of a run ----------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Everything works from now on, and everybody who may run does."""
        self.network.heal()
        self.network.weather = CALM
        self.client_loss = 0.0
        for seat in self.seats.values():
            seat.disk.full = False
            seat.disk.plan(0, Fault.POWER)
            if seat.process is not None:
                seat.process.resume()
            elif not seat.refusal:
                seat.start()

    def heal_and_settle(self) -> None:
        self.heal()
        self.settle()

    def settle(self) -> None:
        """After `heal`: clients end, a write succeeds, all members come to the same state, histories are explained."""
        for client in self.clients:
            client.stopped = True
        self.call(Op("add", "n0", "1"), limit_s=SETTLE_S)
        if not self.world.run_while(lambda: not self._agreed(), SETTLE_S):
            states = {p.name: (p.machine.index, p.node.commit_index, p.node.role) for p in self.running()}
            raise Violation(f"liveness: the members do not agree after {SETTLE_S} s: {states}")
        dumps = {process.machine.dump() for process in self._members_running()}
        if len(dumps) != 1:
            raise Violation("state-machine safety: the states differ although their digests do not")
        history.check([*self.asked, *(call for client in self.clients for call in client.history)])

    def _members_running(self) -> list[Process]:
        members = self.members()
        return [process for process in self.running() if process.name in members]

    def _agreed(self) -> bool:
        """Every member that can run has everything."""
        processes = self._members_running()
        last = max(self.laws.committed, default=0)
        return (
            all(process.machine.index == last for process in processes)
            and len({process.machine.digest for process in processes}) == 1
        )
