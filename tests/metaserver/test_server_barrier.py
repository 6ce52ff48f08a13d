"""barrier.py: who shares a confirmation, and that everybody is told once."""

from __future__ import annotations

import asyncio

import pytest

from metaserver.barrier import ROUNDS_MAX, Barrier, NoQuorum
from raft.errors import NotLeader


class Rounds:
    """A read barrier whose rounds end when the test says so."""

    def __init__(self):
        self.open = []
        self.fatal = []
        self.told = []

    async def __call__(self):
        future = asyncio.get_running_loop().create_future()
        self.open.append(future)
        return await future

    def make(self, wait_max_s=10.0):
        return Barrier(self, self.fatal.append, wait_max_s=wait_max_s)

    def tell(self, name):
        return lambda error: self.told.append((name, type(error)))


NOTHING = type(None)


async def turns(count=6):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_those_of_one_turn_share_a_round_and_later_ones_do_not_join_it():
    rounds = Rounds()
    barrier = rounds.make()
    barrier.wait(rounds.tell("a"))
    barrier.wait(rounds.tell("b"))
    await turns()
    barrier.wait(rounds.tell("c"))
    await turns()
    assert len(rounds.open) == 2
    rounds.open[0].set_result(1)
    await turns()
    assert rounds.told == [("a", NOTHING), ("b", NOTHING)]
    rounds.open[1].set_result(1)
    await turns()
    assert rounds.told[2:] == [("c", NOTHING)]
    assert not barrier.rounds


async def test_rounds_are_bounded_and_who_waits_for_one_shares_the_next():
    rounds = Rounds()
    barrier = rounds.make()
    for number in range(ROUNDS_MAX + 3):
        barrier.wait(rounds.tell(number))
        await turns()
    assert len(rounds.open) == ROUNDS_MAX
    rounds.open[2].set_result(1)
    await turns()
    assert rounds.told == [(2, NOTHING)]
    assert len(rounds.open) == ROUNDS_MAX + 1
    rounds.open[-1].set_result(1)
    await turns()
    assert [name for name, _ in rounds.told] == [2, ROUNDS_MAX, ROUNDS_MAX + 1, ROUNDS_MAX + 2]
    barrier.close(NotLeader(None))
    await turns()


async def test_a_round_without_an_answer_ends_in_time():
    rounds = Rounds()
    barrier = rounds.make(wait_max_s=0.02)
    with pytest.raises(NoQuorum):
        await barrier.reached()
    assert not barrier.rounds


async def test_a_refusal_is_passed_on():
    rounds = Rounds()
    barrier = rounds.make()
    waiting = asyncio.ensure_future(barrier.reached())
    await turns()
    rounds.open[0].set_exception(NotLeader("n2"))
    with pytest.raises(NotLeader):
        await waiting


@pytest.mark.parametrize("started", [0, 1, 6])
async def test_closing_tells_all_who_wait_and_all_who_come(started):
    rounds = Rounds()
    barrier = rounds.make()
    barrier.wait(rounds.tell("a"))
    await turns(started)
    barrier.wait(rounds.tell("b"))
    barrier.close(NotLeader(None))
    barrier.wait(rounds.tell("c"))
    await turns()
    assert sorted(rounds.told) == [("a", NotLeader), ("b", NotLeader), ("c", NotLeader)]
    assert not barrier.rounds
    assert not rounds.fatal


async def test_who_is_cancelled_is_passed_over():
    rounds = Rounds()
    barrier = rounds.make()
    waiting = asyncio.ensure_future(barrier.reached())
    await turns()
    waiting.cancel()
    barrier.wait(rounds.tell("b"))
    await turns()
    for future in rounds.open:
        future.set_result(1)
    await turns()
    assert rounds.told == [("b", NOTHING)]
    assert not rounds.fatal


async def test_a_bug_below_or_in_a_callback_is_fatal_and_the_others_are_told():
    rounds = Rounds()
    barrier = rounds.make()
    barrier.wait(lambda error: 1 // 0)
    barrier.wait(rounds.tell("b"))
    await turns()
    rounds.open[0].set_exception(RuntimeError("defect"))
    await turns()
    assert [type(error) for error in rounds.fatal] == [RuntimeError, ZeroDivisionError]
    assert [name for name, _ in rounds.told] == ["b"]
