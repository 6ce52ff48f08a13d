"""Whatever happens to a node, each token comes back exactly once: a random walk through everything that may be asked or told.

The walk plays all others; it gives answers that fit, answers that do not, and answers of other terms. At its end the node hears
of a leader of a later term, whose log covers all indexes: then nothing may be open any more.
"""

from __future__ import annotations

import random

import pytest
from faulty_disk import Fault
from journal_harness import member
from node_harness import Lab, item, seats

from raft import membership as members
from raft.errors import Stopped
from raft.messages import (
    Append,
    AppendReply,
    PreVoteReply,
    ReadIndexReply,
    SnapshotOffer,
    SnapshotPiece,
    TimeoutNow,
    Vote,
    VoteReply,
)
from raft.node import SnapshotMeta
from raft.timing import Flow
from raft.upstream import LEADER

SEEDS = range(150)
STEPS = 120


class Walk:
    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.seed = seed
        self.lab = Lab(*[1] * rng.randrange(5), learners=rng.choice(["", "n4"]), flow=Flow(handed_entries=5), seed=seed)
        self.asked: list[str] = []
        self.leaders: dict[int, str] = {}  # one leader for each term, as Raft has it

    def token(self, what: str) -> str:
        self.asked.append(f"{what} {len(self.asked)}")
        return self.asked[-1]

    def step(self) -> None:
        lab, rng = self.lab, self.rng
        node = lab.node
        other = rng.choice(lab.others)
        match rng.choice(
            ["propose"] * 4 + ["read"] * 2 + ["change", "transfer", "time", "time", "apply"] + ["ack"] * 4 + ["elect"] * 2
            + ["append", "term", "line", "answer", "full", "snapshot"]
        ):  # fmt: skip
            case "propose":
                node.propose(b"x", self.token("write"))
            case "read":
                node.read(self.token("read"))
            case "change":
                wanted = rng.choice([
                    lambda now: members.add(now, member("n9", rng.randrange(1000, 2000))),
                    lambda now: members.remove(now, "n9"),
                    lambda now: members.remove(now, other),
                    lambda now: members.promote(now, "n4"),
                ])  # fmt: skip
                node.change(wanted, self.token("change"), force=rng.random() < 0.5)
            case "transfer":
                node.transfer(rng.choice(["", other]), self.token("transfer"))
            case "time":
                lab.pass_time(rng.choice([0.1, 0.5, 2.5]))
            case "apply":
                lab.apply_all()
            case "ack" if node.role == LEADER and rng.random() < 0.5:
                lab.flush()
                lab.ack(*lab.others)
            case "ack" if node.role == LEADER:
                match_ = rng.choice([lab.journal.last_index, rng.randrange(lab.journal.last_index + 2)])
                lab.receive(other, AppendReply(rng.choice([node.term, node.term - 1]), rng.random() < 0.8, match_, node.round))
            case "elect":
                lab.receive(other, PreVoteReply(node.term + 1, True))
                lab.receive(other, VoteReply(node.term, True))
            case "append":
                self.append(node.term + rng.randrange(2))
            case "term":
                lab.receive(other, Vote(node.term + 1, 99, node.term, rng.random() < 0.5))
            case "line":
                rng.choice([node.connected, node.disconnected])(other)
            case "answer" if node._asked:
                lab.receive(other, ReadIndexReply(node.term, rng.choice([*node._asked]), rng.choice([0, 1])))
            case "full":
                lab.disk.plan(rng.randrange(1, 4), Fault.NO_SPACE)
            case "snapshot":
                self.snapshot()
            case _:
                lab.receive(other, TimeoutNow(node.term))
        if rng.random() < 0.7:
            node.flush()

    def append(self, term: int) -> None:
        """By a leader that could be: it has what is committed."""
        lab, rng = self.lab, self.rng
        node, journal = lab.node, lab.journal
        if node.role == LEADER and term == node.term:
            return
        leader = self.leaders.setdefault(term, node.leader if term == node.term and node.leader else rng.choice(lab.others))
        if leader == "n1" or term == node.term == journal.last_term:
            return  # what entries of this term there are is fixed; another leader's of an older term are not played
        prev = rng.randrange(max(node.commit_index, journal.base_index), journal.last_index + 1)
        entries = tuple(item(prev + number, term) for number in range(1, rng.randrange(1, 4)))
        commit = rng.randrange(prev + len(entries) + 1) if term > journal.last_term else 0
        lab.receive(leader, Append(term, prev, journal.term_at(prev), commit, 0, entries), flush=rng.random() < 0.8)

    def snapshot(self) -> None:
        lab = self.lab
        node = lab.node
        if node._installing:
            meta = lab.snapshots.installs[-1]
            if self.rng.random() < 0.5:
                node.install_failed()
            else:
                node.installed(meta, seats("n1 n2 n3"), b"digest")
        elif node.leader not in (None, "n1"):
            meta = SnapshotMeta(lab.journal.last_index + 3, node.term, 2, b"checksum")
            lab.receive(node.leader, SnapshotOffer(node.term, meta.index, meta.term, 2, b"checksum"))
            lab.receive(node.leader, SnapshotPiece(node.term, meta.index, meta.term, 0, b"ab"))

    def end(self) -> None:
        lab = self.lab
        node = lab.node
        lab.disk.plan(0, Fault.NO_SPACE)
        if node._installing:
            node.install_failed()
        lab.apply_all()
        term = node.term + 5
        last, base = lab.journal.last_index, node.commit_index
        entries = tuple(item(index, term) for index in range(base + 1, last + 9))
        lab.receive("n2", Append(term, base, lab.journal.term_at(base), 0, 0, entries))
        lab.receive("n2", Append(term, last + 8, term, last + 8, 0))
        for _ in range(30):
            lab.apply_all()
        lab.pass_time(3.0, lambda: lab.receive("n2", Append(term, last + 8, term, last + 8, 0), flush=False))


@pytest.mark.parametrize("seed", SEEDS)
def test_every_token_comes_back_exactly_once(seed: int) -> None:
    walk = Walk(seed)
    lab = walk.lab
    for _ in range(STEPS):
        walk.step()
        if [*map(type, lab.told.halts)] == [Stopped]:
            return  # no space in the middle of what cannot be undone: the owner fails what is open
        assert not lab.told.halts, (seed, lab.told.halts)
        assert max(lab.told.answers.values(), default=0) <= 1, seed
    walk.end()
    assert not lab.told.halts, (seed, lab.told.halts)
    open_ = [token for token in walk.asked if token not in lab.told.answers]
    assert open_ == [], seed
    assert set(lab.told.answers.values()) <= {1}, seed
    indexes = lab.told.indexes
    assert indexes == sorted(set(indexes)), seed  # in order, each once


def test_the_walk_goes_everywhere() -> None:
    """A walk that never led, or never finished a write, would prove nothing."""
    results = []
    for seed in list(SEEDS)[:40]:
        walk = Walk(seed)
        for _ in range(STEPS):
            walk.step()
        walk.end()
        results += [(token.split()[0], type(result).__name__) for token, result in walk.lab.told.results.items()]
    for expected in [
        ("write", "Entry"),
        ("write", "OutcomeUnknown"),
        ("write", "NotLeader"),
        ("read", "int"),
        ("read", "NotLeader"),
        ("change", "Membership"),
        ("change", "Refused"),
        ("transfer", "str"),
        ("transfer", "Refused"),
    ]:
        assert expected in results
