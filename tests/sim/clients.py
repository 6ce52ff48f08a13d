"""Clients of the simulated cluster: each asks one thing at a time, again and elsewhere until it knows, and notes it.

A command keeps its (session, seq) however often it is sent, so it may be sent again after any error. A client that gives up
takes a new session, for the old command may still be under way; then its history has a call without an answer.

`Admin` makes changes of the membership and transfers in the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft.errors import NotLeader, ReplicationError
from tests.sim.history import Call
from tests.sim.kv import Command, Op
from tests.sim.setting import Answer, Attempt, Change

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sim.cluster import Cluster
    from tests.sim.process import Process

PATIENCE_S = 1.0  # until one attempt counts as lost
KEYS = ("n0", "n1", "list0", "cas0")
PADDINGS = (0, 0, 0, 0, 0, 0, 20, 150, 900, 2500)


class Client:
    def __init__(self, cluster: Cluster, number: int, pause_s: float, gives_up_s: float) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.name = f"c{number}"
        self.rng = self.world.rng(self.name)
        self.history: list[Call] = []
        self.stopped = False
        self._number = number
        self._pause_s = pause_s
        self._gives_up_s = gives_up_s
        self._sessions = 0
        self._seq = 0
        self._target: str | None = None
        self._new_session()
        self._rest()

    def _new_session(self) -> None:
        self._sessions += 1
        self._session = self._number * 1000 + self._sessions
        self._seq = 0

    def _rest(self) -> None:
        self.world.after(self.rng.expovariate(1 / self._pause_s), self._begin)

    def _begin(self) -> None:
        if not self.stopped:
            self.run(self._choose())

    def _choose(self) -> Op:
        rng, key = self.rng, self.rng.choice(KEYS)
        if rng.random() < 0.35:
            return Op("read", key)
        if key.startswith("list"):
            return Op("append", key, f"{self.name}.{len(self.history)}")
        if key.startswith("cas"):
            return Op("cas", key, str(rng.randrange(3)), str(rng.randrange(3)))
        return Op("add", key, "1")

    def run(self, op: Op) -> Call:
        """Ask until there is an answer or patience is at an end; its call in the history."""
        call = Call(self.name, op, self.world.now)
        self.history.append(call)
        command = None
        if op.kind != "read":
            self._seq += 1
            command = Command(self._session, self._seq, op, self.rng.choice(PADDINGS))
        _Asking(self, call, command, self.world.now + self._gives_up_s).send()
        return call

    def ended(self, call: Call, command: Command | None, answer: Answer | None) -> None:
        if answer is None:
            self._new_session()
        else:
            assert isinstance(answer, int | tuple)
            if command is not None:
                self.cluster.laws.acknowledged(command, answer)
            call.answer, call.returned_at = answer, self.world.now
        self.world.trace(f"{self.name}: {' '.join(call.op)} -> {answer}")
        self._rest()

    def target(self) -> Process | None:
        """A node that runs, best the one that a hint named."""
        names = [name for name, seat in self.cluster.seats.items() if seat.process is not None]
        if self._target not in names or self.rng.random() < 0.1:
            self._target = self.rng.choice(names) if names else None
        return self.cluster.seats[self._target].process if self._target else None

    def heard(self, error: ReplicationError) -> float:
        """Where to ask next; seconds until then."""
        hint = error.hint if isinstance(error, NotLeader) else None
        self._target = hint.split(":")[0] if hint else None
        return 0.002 if hint else self.rng.uniform(0.02, 0.2)


class _Asking:
    """One question until its end. Answers of earlier attempts are as good as those of the last."""

    def __init__(self, client: Client, call: Call, command: Command | None, deadline: float) -> None:
        self.client, self.call, self.command, self.deadline = client, call, command, deadline
        self.done = False
        self.attempts = 0

    def send(self) -> None:
        client = self.client
        if self.done:
            return
        if client.world.now > self.deadline:
            self._end(None)
            return
        self.attempts += 1
        number = self.attempts
        client.world.after(PATIENCE_S, lambda: self._again(number))
        process = client.target()
        if process is not None and client.rng.random() > client.cluster.client_loss:
            attempt = Attempt(lambda answer: self._answered(number, answer), self.call.op, self.command)
            client.world.after(client.rng.random() * 0.001, lambda: self._arrive(process, attempt))

    def _arrive(self, process: Process, attempt: Attempt) -> None:
        if process.alive:
            process.ask(attempt)

    def _answered(self, number: int, answer: Answer) -> None:
        client = self.client
        if client.rng.random() >= client.cluster.client_loss:
            client.world.after(client.rng.random() * 0.001, lambda: self._arrived(number, answer))

    def _arrived(self, number: int, answer: Answer) -> None:
        if self.done:
            return
        if not isinstance(answer, ReplicationError):
            self._end(answer)
        elif number == self.attempts:
            self.client.world.after(self.client.heard(answer), lambda: self._again(number))

    def _again(self, number: int) -> None:
        if number == self.attempts:
            if not self.done:
                self.client._target = None if self.attempts % 2 else self.client._target
            self.send()

    def _end(self, answer: Answer | None) -> None:
        self.done = True
        self.client.ended(self.call, self.command, answer)


class Admin:
    """Asks the leader, whoever that is, for changes of the membership. What became of each is in `done`."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.done: list[Answer] = []

    def change(self, change: Change, *, force: bool = False, then: Callable[[Answer], None] | None = None) -> None:
        """Once; `then` gets "changed" or the error. No answer at all if the leader dies."""
        leader = self.cluster.leader()
        if leader is None:
            self.done.append("no leader")
            return
        leader.change(change, Attempt(lambda answer: self._ended(answer, then)), force=force)

    def transfer(self, name: str = "", then: Callable[[Answer], None] | None = None) -> None:
        leader = self.cluster.leader()
        if leader is None:
            self.done.append("no leader")
            return
        leader.transfer(name, Attempt(lambda answer: self._ended(answer, then)))

    def _ended(self, answer: Answer, then: Callable[[Answer], None] | None) -> None:
        self.done.append(answer)
        self.cluster.world.trace(f"admin: {answer}")
        if then is not None:
            then(answer)
