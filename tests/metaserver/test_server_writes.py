"""writes.py: gathering, order, time, refusals, back-pressure."""

from __future__ import annotations

import asyncio
import errno

import pytest
from instant_log import request_of, settle

from metaserver import wire
from metaserver.core import entry as ops
from metaserver.core.entry import Item, Result
from metaserver.writes import CONSUMING, Writes
from raft.errors import NotLeader, OutcomeUnknown, Refused, Stopped

OP = ops.CloseSession(1, False)


class SlowLog:
    """A replicator whose entries land when the test says so."""

    def __init__(self) -> None:
        self.proposed: list[tuple[bytes, object, asyncio.Future]] = []

    def propose(self, payload, hint=None):
        future = asyncio.get_running_loop().create_future()
        self.proposed.append((payload, hint, future))
        return future

    def land(self, at=-1):
        _, hint, future = self.proposed[at]
        future.set_result([Result(first=item.seq) for item in hint.items])


class Clock:
    def __init__(self, *times):
        self.times = list(times)

    def __call__(self):
        return self.times.pop(0) if len(self.times) > 1 else self.times[0]


async def turn():
    for _ in range(3):
        await asyncio.sleep(0)


def submit(writes, number, done=lambda outcome: None):
    request = None
    writes.submit(Item(1, number, 0, ops.Reap((number,), 1)), request, done)


def seqs(hint):
    return [item.seq for item in hint.items]


async def test_what_arrives_while_an_entry_is_under_way_forms_the_next():
    log, answers = SlowLog(), []
    writes = Writes(log, Clock(5))
    for number in (1, 2):
        submit(writes, number, answers.append)
    await turn()
    for number in (3, 4, 5):
        submit(writes, number, answers.append)
    await turn()
    assert [seqs(hint) for _, hint, _ in log.proposed] == [[1, 2]]
    log.land()
    await turn()
    assert [seqs(hint) for _, hint, _ in log.proposed] == [[1, 2], [3, 4, 5]]
    assert [result.first for result in answers] == [1, 2]
    log.land()
    await turn()
    assert [result.first for result in answers] == [1, 2, 3, 4, 5]
    assert writes.queued == 0


async def test_the_hint_is_what_the_payload_decodes_to():
    log = SlowLog()
    writes = Writes(log, Clock(77))
    submit(writes, 1)
    submit(writes, 2)
    await turn()
    payload, hint, _ = log.proposed[0]
    assert wire.decode_entry(3, payload) == ops.Entry(3, hint.now_ns, hint.items)


async def test_time_never_runs_backwards():
    log = SlowLog()
    writes = Writes(log, Clock(50, 200, 100))
    writes.not_before(60)
    for number in (1, 2, 3):
        submit(writes, number)
        await turn()
        log.land()
        await turn()
    assert [hint.now_ns for _, hint, _ in log.proposed] == [60, 200, 200]


async def test_an_entry_is_bounded_in_items():
    log = SlowLog()
    writes = Writes(log, Clock(1), entry_items=3)
    for number in range(1, 8):
        submit(writes, number)
    await turn()
    while writes.queued:
        log.land()
        await turn()
    assert [len(hint.items) for _, hint, _ in log.proposed] == [3, 3, 1]


async def test_a_refusal_is_an_errno_and_the_next_entry_goes_on():
    log, answers = SlowLog(), []
    writes = Writes(log, Clock(1))
    submit(writes, 1, answers.append)
    await turn()
    log.proposed[-1][2].set_exception(Refused(errno.ENOSPC, "disk full"))
    await turn()
    submit(writes, 2, answers.append)
    await turn()
    log.land()
    await turn()
    assert [(a.errno, a.first) for a in answers] == [(errno.ENOSPC, 0), (0, 2)]


async def test_an_unknown_outcome_is_not_an_answer():
    log, answers = SlowLog(), []
    writes = Writes(log, Clock(1))
    submit(writes, 1, answers.append)
    await turn()
    log.proposed[-1][2].set_exception(OutcomeUnknown("lost"))
    await turn()
    assert [type(a) for a in answers] == [OutcomeUnknown]
    task = asyncio.create_task(writes.call(OP))
    await turn()
    log.proposed[-1][2].set_exception(OutcomeUnknown("lost"))
    with pytest.raises(OutcomeUnknown):
        await task


async def test_short_of_space_only_what_consumes_is_refused():
    log, answers = SlowLog(), []
    writes = Writes(log, Clock(1))
    writes.set_space_short("full")
    cred = ops.ROOT
    writes.submit(Item(1, 1, 0, ops.MkDir(2, b"d", 0, 0, cred)), None, answers.append)
    assert [(a.errno, a.detail) for a in answers] == [(errno.ENOSPC, "full")]
    freeing = {ops.Unlink, ops.RmDir, ops.SetAttr, ops.Reap, ops.FinishDeletes, ops.RemoveXattr, ops.CloseSession}
    assert not freeing & CONSUMING
    submit(writes, 2, answers.append)
    await turn()
    log.land()
    await turn()
    assert answers[-1].first == 2
    writes.set_space_short(None)
    assert writes.space_short is None


async def test_room_waits_for_the_queue_to_shrink():
    log = SlowLog()
    writes = Writes(log, Clock(1), queue_items=2, entry_items=1)
    await writes.room()
    for number in (1, 2, 3):
        submit(writes, number)
    await turn()
    waiting = asyncio.create_task(writes.room())
    await turn()
    assert not waiting.done()
    log.land()
    await turn()
    assert waiting.done()


async def test_stop_answers_everything_that_was_taken():
    log, answers = SlowLog(), []
    writes = Writes(log, Clock(1), entry_items=1)
    submit(writes, 1, answers.append)
    submit(writes, 2, answers.append)
    await turn()
    stopping = asyncio.create_task(writes.stop())
    await turn()
    submit(writes, 3, answers.append)  # too late
    log.land()
    await turn()
    log.land()
    await asyncio.wait_for(stopping, 5)
    assert [getattr(a, "first", None) for a in answers] == [None, 1, 2]


async def test_a_bug_in_making_an_entry_is_fatal_and_everybody_is_told():
    log, answers, fatal = SlowLog(), [], []
    clock = Clock(1)
    writes = Writes(log, clock, on_fatal=fatal.append)
    submit(writes, 1, answers.append)
    await turn()
    submit(writes, 2, answers.append)
    submit(writes, 3, answers.append)
    writes._clock_ns = lambda: 1 // 0
    log.land()
    await turn()
    assert [type(error) for error in fatal] == [ZeroDivisionError]
    assert [type(a) for a in answers] == [Stopped, Stopped, Result]


async def test_when_the_reign_ends_everybody_is_told_at_once_and_nothing_more_is_proposed():
    log, answers = SlowLog(), []
    writes = Writes(log, Clock(1), entry_items=1)
    for number in (1, 2):
        submit(writes, number, answers.append)
    await turn()
    waiting = asyncio.create_task(writes.call(OP))
    await turn()
    writes.end(NotLeader(None))
    assert [type(a) for a in answers] == [NotLeader, NotLeader]
    with pytest.raises(NotLeader):
        await waiting
    submit(writes, 3, answers.append)
    log.land()  # it was committed after all; nobody hears of it
    await turn()
    assert [type(a) for a in answers] == [NotLeader] * 3
    assert len(log.proposed) == 1
    assert writes.queued == 0


async def test_a_reign_that_ends_before_its_first_entry_proposes_nothing():
    log, answers = SlowLog(), []
    writes = Writes(log, Clock(1))
    submit(writes, 1, answers.append)
    writes.end(NotLeader(None))  # in the same turn of the loop
    await turn()
    assert [type(a) for a in answers] == [NotLeader]
    assert not log.proposed


async def test_a_failure_of_what_was_under_way_is_looked_at_after_the_end():
    log = SlowLog()
    writes = Writes(log, Clock(1))
    submit(writes, 1)
    await turn()
    writes.end(NotLeader(None))
    log.proposed[-1][2].set_exception(NotLeader(None))
    await turn()  # warnings are errors: an exception that nobody retrieved would be one


async def test_given_up_an_entry_stays_under_way_and_the_next_waits_for_it():
    log, answers, clock = SlowLog(), [], [100.0]
    writes = Writes(log, Clock(1), clock=lambda: clock[0])
    assert writes.stalled_s == 0
    submit(writes, 1, answers.append)
    await turn()
    clock[0] += 12
    assert writes.stalled_s == 12
    writes.give_up(OutcomeUnknown("no quorum"))
    assert [type(a) for a in answers] == [OutcomeUnknown]
    assert writes.stalled_s == 0  # the next who come have their full time
    submit(writes, 2, answers.append)
    await turn()
    assert len(log.proposed) == 1
    log.land()
    await turn()
    log.land()
    await turn()
    assert [getattr(a, "first", None) for a in answers] == [None, 2]


class Memory:
    """What the state remembers."""

    def __init__(self):
        self.results = {}

    def __call__(self, session, seq):
        return self.results.get((session, seq))


MAKE = ops.MkDir(2, b"d", 0, 0, ops.ROOT)


async def test_an_op_that_took_effect_before_is_not_refused_when_space_is_short():
    log, answers, memory = SlowLog(), [], Memory()
    memory.results[1, 7] = Result(first=7)
    writes = Writes(log, Clock(1), kept_result=memory)
    writes.set_space_short("full")
    writes.submit(Item(1, 7, 0, MAKE), request_of(MAKE), answers.append)  # sent again: the state machine answers
    writes.submit(Item(1, 8, 0, MAKE), request_of(MAKE), answers.append)
    await turn()
    log.land()
    await turn()
    assert [(a.errno, a.first) for a in answers] == [(errno.ENOSPC, 0), (0, 7)]


async def test_an_op_that_may_still_take_effect_is_not_refused_when_space_is_short():
    log, answers = SlowLog(), []
    writes = Writes(log, Clock(1), kept_result=Memory())
    writes.submit(Item(1, 7, 0, MAKE), request_of(MAKE), answers.append)
    await turn()
    writes.set_space_short("full")
    writes.submit(Item(1, 7, 0, MAKE), request_of(MAKE), answers.append)  # the stream broke, the client came again
    log.land()
    await turn()
    log.land()
    await turn()
    assert [a.first for a in answers] == [7, 7]


async def test_a_refusal_of_the_log_does_not_hide_the_first_result():
    log, answers, memory = SlowLog(), [], Memory()
    memory.results[1, 7] = Result(first=7)
    writes = Writes(log, Clock(1), kept_result=memory)
    for seq in (7, 8):
        writes.submit(Item(1, seq, 0, MAKE), request_of(MAKE), answers.append)
    await turn()
    log.proposed[-1][2].set_exception(Refused(errno.ENOSPC, "disk full"))
    await turn()
    assert [(a.errno, a.first) for a in answers] == [(0, 7), (errno.ENOSPC, 0)]


# --- riding -------------------------------------------------------------------------------------------------------------


async def test_an_op_that_rides_goes_first_in_the_next_entry():
    log = SlowLog()
    writes = Writes(log, Clock(5), ride_s=3600)
    riding = asyncio.create_task(writes.call(OP, rides=True))
    await turn()
    assert not log.proposed
    assert writes.queued == 1
    submit(writes, 7)
    await turn()
    assert [item.op for item in log.proposed[0][1].items] == [OP, ops.Reap((7,), 1)]
    log.land()
    await asyncio.wait_for(riding, 5)


async def test_an_op_that_rides_goes_alone_when_no_entry_comes():
    log = SlowLog()
    writes = Writes(log, Clock(5), ride_s=0)
    riding = asyncio.create_task(writes.call(OP, rides=True))
    await settle(lambda: log.proposed)
    assert [item.op for item in log.proposed[0][1].items] == [OP]
    log.land()
    await asyncio.wait_for(riding, 5)


async def test_an_op_that_rides_is_not_left_behind_when_the_server_stops():
    log = SlowLog()
    writes = Writes(log, Clock(5), ride_s=3600)
    riding = asyncio.create_task(writes.call(OP, rides=True))
    await turn()
    stopping = asyncio.create_task(writes.stop())
    await turn()
    log.land()
    await asyncio.wait_for(asyncio.gather(riding, stopping), 5)


async def test_who_rides_is_told_when_the_node_leads_no_longer():
    writes = Writes(SlowLog(), Clock(5), ride_s=3600)
    riding = asyncio.create_task(writes.call(OP, rides=True))
    await turn()
    writes.end(NotLeader(None))
    with pytest.raises(NotLeader):
        await asyncio.wait_for(riding, 5)
