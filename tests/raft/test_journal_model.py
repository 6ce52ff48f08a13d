"""The journal against a model that is a list, with faults of the disk at random moments, found and shrunk by Hypothesis.

The model knows what the log holds since it last began anew and how much of that was synced. When a fault ends the process, it
knows what may be found afterwards: what was there before the operation, what the operation makes, or, of a sync, a prefix. The
state machine is an index that only grows and is always durable: the journal must never make it unusable.

What a cluster rules out is not tried: of one index and term there is one history. So entries have even terms, and snapshots of
another history have odd ones; and a state never comes to the place of such a snapshot by the log.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from faulty_disk import Fault, FaultyDisk, PowerLoss
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from journal_harness import OPTIONS as USUAL
from journal_harness import change, entry, membership, opened

from raft import membership as members
from raft.base import Installation
from raft.errors import Refused, Stopped
from raft.membership import Membership
from raft.record import MEMBERSHIP, NOOP, Entry
from raft.segment import FIRST_RECORD
from raft.wal import WalOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from raft.journal import Journal

NAMES = ("n1", "n2", "n3")
NOBODY = Membership()
KIND_LISTS = st.lists(st.sampled_from(["data", "data", "data", "no-op", "members"]), min_size=1, max_size=6)
SMALL = FIRST_RECORD + 160  # one or two entries in a segment, so that there is something to trim
OPTIONS = replace(USUAL, wal=WalOptions(SMALL, SMALL))


@dataclass(frozen=True)
class Model:
    start: int = 0  # the log began after this entry,
    start_term: int = 0
    start_members: Membership = NOBODY
    history: tuple[Entry, ...] = ()  # what followed, trimmed entries included
    durable: int = 0
    trimmed: int = 0  # the log may begin anywhere up to here
    term: int = 0
    vote: str = ""
    state: int = 0

    @property
    def last(self) -> int:
        return self.start + len(self.history)

    def term_at(self, index: int) -> int:
        return self.history[index - self.start - 1].term if index > self.start else self.start_term

    def members_at(self, index: int) -> Membership:
        for each in reversed(self.history[: index - self.start]):
            if each.kind == MEMBERSHIP:
                return members.decode(each.payload, each.index)
        return self.start_members

    def cut(self, index: int) -> Model:
        return replace(self, history=self.history[: index - self.start], durable=min(self.durable, index))

    def crashed(self) -> Model:
        return self.cut(self.durable)

    def synced(self) -> Model:
        return replace(self, durable=self.last)

    def installed(self, index: int, term: int, then: Membership) -> Model:
        state = replace(self, state=index)
        if self.start <= index <= self.durable and self.term_at(index) == term:
            return state
        return replace(state, start=index, start_term=term, start_members=then, history=(), durable=index, trimmed=index)

    def differs(self, journal: Journal) -> str:
        """In what the journal is not as the model says; empty when it is."""
        base = journal.base_index
        if not self.start <= base <= max(self.start, self.trimmed):
            return f"it begins after {base}"
        held = self.history[base - self.start :]
        found: list[Entry] = []
        while more := journal.entries(base + 1 + len(found), 300):
            found += more
        if tuple(found) != held:
            return f"it holds {found}"
        if (journal.term, journal.voted_for) != (self.term, self.vote):
            return f"term and vote are {journal.term}, {journal.voted_for}"
        if (journal.last_index, journal.durable_index, journal.last_term) != (self.last, self.durable, self.term_at(self.last)):
            return f"it ends with {journal.last_index} of term {journal.last_term}, {journal.durable_index} is durable"
        if [journal.term_at(i) for i in range(base, self.last + 1)] != [self.term_at(i) for i in range(base, self.last + 1)]:
            return "it has other terms"
        if any(journal.membership_at(index) != self.members_at(index) for index in range(self.state, self.last + 1)):
            return "it has other members"
        return "" if journal.membership == self.members_at(self.last) else f"the members are {journal.membership}"


class JournalMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.disk, self.model = FaultyDisk(), Model()
        self.rng = random.Random(0)
        self.journal = opened(self.disk, 0, OPTIONS)

    @initialize(count=st.integers(0, 12))
    def begin(self, count: int) -> None:
        self.save_vote(2, "")
        self.write(["data"] * count, 1)

    def attempt(self, action: Callable[[], object], refused: Model, *outcomes: Model) -> None:
        """Do it; `refused` holds when the journal refuses, the last outcome when it succeeds, any after a crash."""
        try:
            action()
        except Refused:
            self.model = refused
        except (PowerLoss, Stopped, OSError):
            self.crash(*outcomes)
        else:
            self.model = outcomes[-1]

    def crash(self, *outcomes: Model) -> None:
        """The process is gone; the next one must find one of these, also when its own start is interrupted."""
        states = {outcome.state for outcome in outcomes}
        assert len(states) == 1
        (state,) = states
        self.reboot()
        self.disk.plan(self.rng.randrange(12), self.rng.choice(list(Fault)), self.rng.random())
        try:
            self.journal = opened(self.disk, state, OPTIONS)
        except (PowerLoss, Stopped, Refused, OSError):
            self.reboot()
            self.journal = opened(self.disk, state, OPTIONS)
        self.disk.plan(0, Fault.POWER)
        found = [outcome.crashed() for outcome in outcomes]
        wrong = [outcome.differs(self.journal) for outcome in found]
        assert "" in wrong, wrong
        self.model = found[wrong.index("")]

    def reboot(self) -> None:
        self.disk = self.disk.killed() if self.rng.random() < 0.4 else copy.deepcopy(self.disk).rebooted(self.rng)

    @rule(seed=st.integers(0, 2**32), changes=st.integers(1, 12), fault=st.sampled_from(list(Fault)), part=st.floats(0, 0.99))
    def arm(self, seed: int, changes: int, fault: Fault, part: float) -> None:
        self.rng = random.Random(seed)
        self.disk.plan(changes, fault, part)

    @rule(ahead=st.sampled_from([0, 2, 4]), vote=st.sampled_from(["", *NAMES]))
    def save_vote(self, ahead: int, vote: str) -> None:
        model = self.model
        if ahead == 0 and model.vote:
            vote = model.vote
        saved = replace(model, term=model.term + ahead, vote=vote)
        self.attempt(lambda: self.journal.save_vote(saved.term, vote), model, model, saved)

    @rule(
        kinds=KIND_LISTS,
        behind=st.sampled_from([0, 2, 4]),
        size=st.sampled_from([0, 30, 200]),
        count=st.integers(1, 3),
    )
    def append(self, kinds: list[str], behind: int, size: int, count: int) -> None:
        model, batch = self.model, []
        term = max(model.term_at(model.last) + 1 & ~1, model.term - behind)
        for index, kind in enumerate(kinds, model.last + 1):
            if kind == "data":
                batch.append(entry(index, term, size))
            elif kind == "no-op":
                batch.append(Entry(index, term, b"", NOOP))
            else:
                batch.append(change(index, term, *NAMES[:count]))
        self.journal.append(batch)
        self.model = replace(model, history=(*model.history, *batch))

    @rule()
    def sync(self) -> None:
        model = self.model
        prefixes = [replace(model.cut(index), durable=index) for index in range(model.durable, model.last)]
        self.attempt(self.journal.sync, model.crashed(), *prefixes, model.synced())

    @rule(kinds=KIND_LISTS, count=st.integers(1, 3))
    def write(self, kinds: list[str], count: int) -> None:
        """Each in a sync of its own: what there is to trim, to cut and to replace."""
        journal = self.journal
        for kind in kinds:
            if self.journal is not journal:
                return
            self.append([kind], 0, 30, count)
            self.sync()

    @rule(back=st.integers(0, 12))
    def truncate(self, back: int) -> None:
        model = self.model
        index = max(model.last - back, model.state, self.journal.base_index)
        self.attempt(lambda: self.journal.truncate_after(index), model, model, model.cut(index))

    def apply(self, ahead: int) -> None:
        pending = self.journal._base.value.pending
        state = min(self.model.state + ahead, self.model.durable)
        if not (pending and pending.index == state and pending.term % 2):
            self.model = replace(self.model, state=state)

    @rule(ahead=st.sampled_from([0, 3, 50]), back=st.integers(0, 3))
    def trim(self, ahead: int, back: int) -> None:
        self.apply(ahead)
        model = self.model
        index = max(model.state - back, 0)
        trimmed = replace(model, trimmed=max(model.trimmed, index))
        self.attempt(lambda: self.journal.trim(index), trimmed, trimmed)

    @rule(
        ahead=st.sampled_from([1, 1, 2, 2, 5, 5, 30]),
        agree=st.booleans(),
        count=st.integers(0, 3),
        ending=st.sampled_from(["install", "install", "cancel", "forget"]),
    )
    def snapshot(self, ahead: int, agree: bool, count: int, ending: str) -> None:
        model, journal = self.model, self.journal
        index = model.state + ahead
        if agree and index <= model.last:
            term, then = model.term_at(index), model.members_at(index)
        else:
            term, then = model.term - 1, membership(*NAMES[:count], index=index - ahead // 2)
        place = (index, term, then)
        if ending != "install":
            self.attempt(lambda: journal.prepare_reset(*place), model, model)
            if ending == "cancel" and self.journal is journal:
                self.attempt(journal.cancel_reset, model, model)
            return
        installed = model.installed(*place)
        self.attempt(lambda: journal.prepare_reset(*place), model, model)
        if self.journal is not journal or journal._base.value.pending != Installation(*place):
            return
        for _ in range(3):
            self.attempt(lambda: journal.reset(*place), model, installed)
            if self.model is not model:
                return
        raise AssertionError("a reset must succeed once there is space")

    @rule()
    def reopen(self) -> None:
        model = self.model
        self.journal.close()
        try:
            self.journal = opened(self.disk, model.state, OPTIONS)
        except (PowerLoss, Stopped, Refused, OSError):
            self.crash(model)
        else:
            self.model = model.crashed()

    @rule()
    def pull_the_plug(self) -> None:
        self.crash(self.model)

    @invariant()
    def the_journal_is_as_the_model_says(self) -> None:
        assert self.model.differs(self.journal) == ""
        assert self.journal.dirty == (self.model.last > self.model.durable)
        assert self.journal._tail.size_bytes <= OPTIONS.tail_bytes


JournalMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=30, deadline=None, print_blob=True)
TestJournal = JournalMachine.TestCase
TestJournal.pytestmark = [pytest.mark.timeout(900)]  # a failure takes Hypothesis minutes to make small
