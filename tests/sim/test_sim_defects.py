"""The simulator finds defects: nodes that are broken on purpose, each in one way, are caught in a few seeds or by a scenario.

Each mutant is one of the mistakes that the hazards are about. If one goes by, the laws or the faults have lost their teeth.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from raft import membership as members
from raft.hard_state import HardState
from raft.journal import Journal
from raft.messages import AppendReply, SnapshotPiece
from raft.node import RaftNode
from raft.upstream import LEADER
from tests.sim.kv import Machine, Op
from tests.sim.run import run_seed
from tests.sim.test_sim_hazards import figure_8, ghosts, started
from tests.sim.world import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from raft.messages import Append, Message

SEEDS = 200


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


class NeverSyncs(Journal):
    """Says that everything is durable, and writes nothing."""

    @property
    def durable_index(self) -> int:
        return self.last_index

    @property
    def dirty(self) -> bool:
        return False


class ForgetsVotes(Journal):
    """Keeps term and vote in memory."""

    def save_vote(self, term: int, voted_for: str) -> None:
        self._hard_state.state = HardState(term, voted_for)


class ChangesVotes(Journal):
    def save_vote(self, term: int, voted_for: str) -> None:
        self._hard_state.save(HardState(term, voted_for))


class VotesTwice(RaftNode):
    @property
    def voted_for(self) -> str:
        return ""


class VotesForAnyLog(RaftNode):
    def _is_up_to_date(self, last_index: int, last_term: int) -> bool:
        return True


class CommitsByCounting(RaftNode):
    """Entries of older terms too (figure 8)."""

    def _advance_commit(self) -> None:
        matches = sorted(
            self.journal.durable_index if name == self.name else self.peers[name].match for name in self.members.voters
        )
        index = matches[len(matches) - self.members.quorum]
        if index > self.commit_index:
            self.commit_index = index


class AnswersBeforeItSyncs(RaftNode):
    def _sync(self) -> None:
        self._send_replies()
        super()._sync()


class CountsOldAnswers(RaftNode):
    def receive(self, sender: str, message: Message) -> None:
        super().receive(sender, replace(message, term=self.term) if isinstance(message, AppendReply) else message)


class CutsWhatMatches(RaftNode):
    def _take(self, message: Append) -> int | None:
        journal, prev = self.journal, message.prev_index
        if message.entries and journal.base_index <= prev < journal.last_index:
            journal.truncate_after(prev)
        return super()._take(message)


class CommitsOnSnapshotPieces(RaftNode):
    def receive(self, sender: str, message: Message) -> None:
        if isinstance(message, SnapshotPiece):
            self.commit_index = max(self.commit_index, min(message.index, self.journal.last_index))
        super().receive(sender, message)


class ReadsWithoutAsking(RaftNode):
    def read(self, token: object) -> None:
        self.events.read_ready(token, self.commit_index)


class ChangesWithoutWaiting(RaftNode):
    def _require_settled(self) -> None:
        pass


class ForgetsSessions(Machine):
    remembers_sessions = False


CRASHES = ("the leader dies", "all nodes die", "a node dies")
MUTANTS: dict[str, tuple[dict[str, Any], Sequence[str]]] = {
    "never syncs": ({"journal_class": NeverSyncs}, ()),
    "forgets votes": ({"journal_class": ForgetsVotes}, (*CRASHES, "a partition")),
    "votes twice": ({"journal_class": ChangesVotes, "node_class": VotesTwice}, ("the leader is cut off", "a partition")),
    "votes for any log": ({"node_class": VotesForAnyLog}, ("the leader is cut off", "a partition", "a process is stopped")),
    "answers before it syncs": ({"node_class": AnswersBeforeItSyncs}, ("power is lost during a write",)),
    "cuts what matches": ({"node_class": CutsWhatMatches}, ()),
    "reads without asking": ({"node_class": ReadsWithoutAsking}, ()),
    "forgets sessions": ({"machine_class": ForgetsSessions}, ()),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_random_runs_catch(name: str) -> None:
    classes, only = MUTANTS[name]
    for seed in range(SEEDS):
        outcome = run_seed(seed, only=only, **classes)
        if outcome.failure:
            print(f"seed {seed}: {outcome.failure}")
            return
    pytest.fail(f"a node that {name} went through {SEEDS} seeds")


def test_a_scenario_catches_commits_by_counting() -> None:
    with pytest.raises(Violation, match=r"leader completeness|state-machine safety|stops although"):
        figure_8(started(5, node_class=CommitsByCounting))


def test_a_scenario_catches_answers_of_old_terms() -> None:
    cluster = started(3, node_class=CountsOldAnswers)
    n1 = cluster.process("n1")
    late: list[AppendReply] = []

    def watch(sender: str, receiver: str, message: Any) -> bool:
        if (sender, receiver) == ("n2", "n1") and hasattr(message, "match"):
            late.append(message)
        return True

    cluster.network.partition(["n1", "n2"], ["n3"])
    cluster.network.watch = watch
    n1.node._advance_commit = lambda: None  # type: ignore[method-assign]  # its acknowledgements are late
    for seq in range(1, 5):
        cluster.ask("n1", Op("append", "list0", f"old {seq}"), 90, seq)
    cluster.world.run_until(cluster.world.now + 0.3)
    del n1.node._advance_commit
    cluster["n2"].crash("kill")
    cluster["n1"].crash("kill")
    cluster.network.watch = lambda *_: True
    cluster.network.heal()
    cluster["n2"].unplugged = True
    cluster["n1"].start()
    cluster.elect("n1", 30)
    cluster.network.partition(["n1"], ["n2"], ["n3"])
    for seq in range(1, 3):
        cluster.ask("n1", Op("append", "list0", f"new {seq}"), 91, seq)
    cluster.world.run_until(cluster.world.now + 0.05)
    ahead = replace(late[-1], match=cluster.process("n1").journal.last_index)
    cluster.process("n1").on_message("n2", ahead)
    with pytest.raises(Violation, match="durability"):
        cluster.world.run_until(cluster.world.now + 0.1)


def test_a_scenario_catches_commits_on_snapshot_pieces() -> None:
    with pytest.raises(Violation, match=r"durability|state-machine safety"):
        ghosts(started(node_class=CommitsOnSnapshotPieces))


def test_a_scenario_catches_changes_that_do_not_wait() -> None:
    """n1 and n2, cut off, throw out the three others one by one, and are a majority of what is left."""
    cluster = started(5, node_class=ChangesWithoutWaiting)
    cluster.network.partition(["n1", "n2"], ["n3", "n4", "n5"])
    for name in ("n3", "n4", "n5"):
        cluster.admin.change(lambda now, name=name: members.remove(now, name), force=True)  # type: ignore[misc]
    with pytest.raises(Violation, match="leader completeness"):
        cluster.elect("n3", 30)


def test_a_scenario_passes_when_nothing_is_broken() -> None:
    """The same steps with the real node: what the mutants are caught for is what they do."""
    cluster = started(5)
    cluster.network.partition(["n1", "n2"], ["n3", "n4", "n5"])
    for name in ("n3", "n4", "n5"):
        cluster.admin.change(lambda now, name=name: members.remove(now, name), force=True)  # type: ignore[misc]
    cluster.elect("n3", 30)
    cluster.call(Op("add", "n1", "1"))
    cluster.heal_and_settle()
    leader = cluster.leader()
    assert leader is not None
    assert leader.node.role == LEADER
