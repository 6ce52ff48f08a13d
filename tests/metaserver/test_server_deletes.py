"""deletes.py: leases on the delete queue, with clocks of the test's."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from metaserver.core import entry as ops
from metaserver.core.entry import DONE, Item
from metaserver.core.reads import Doomed
from metaserver.deletes import CLAIM_S, Deletes
from metaserver.streams import Stream


class Queue:
    def __init__(self, *slices):
        self.slices = list(slices)
        self.now_s = 1000.0
        self.log_s = 1000.0  # the newest time in the log

    def doomed(self, after):
        return iter([slice_ for slice_ in self.slices if slice_.slice > after])

    def deletes(self, delay_s=30.0):
        return Deletes(self.doomed, lambda: self.now_s, lambda: int(self.log_s * 1e9), delay_s=delay_s)

    def pass_time(self, deletes, seconds):
        """An entry a second, by a clock that is right."""
        for _ in range(seconds):
            self.now_s += 1
            self.log_s += 1
            deletes.observe([], [])


def doomed(number, volume=1, at_s=0.0):
    return Doomed(number, 4096, volume, int(at_s * 1e9))


def numbers(slices):
    return [slice_.slice for slice_ in slices]


def test_only_old_slices_of_the_own_volume_are_given_out():
    queue = Queue(doomed(1), doomed(2, volume=2), doomed(3, at_s=1005.0), doomed(4, at_s=1000.0))
    deletes = queue.deletes()
    queue.pass_time(deletes, 29)
    assert not deletes.claim(7, 1, 10)
    queue.pass_time(deletes, 1)
    assert numbers(deletes.claim(7, 1, 10)) == [1, 4]
    queue.pass_time(deletes, 7)
    assert numbers(deletes.claim(8, 1, 10)) == [3]


def test_a_new_leader_gives_nothing_out_before_it_has_waited_itself():
    queue = Queue(doomed(1, at_s=0.0))
    deletes = queue.deletes()
    queue.now_s += 29.9
    assert not deletes.claim(7, 1, 10)
    queue.now_s += 0.1
    assert numbers(deletes.claim(7, 1, 10)) == [1]


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_a_clock_that_jumps_cuts_no_reader_short(jump_s):
    queue = Queue(doomed(1, at_s=1000.0))
    deletes = queue.deletes()
    queue.pass_time(deletes, 5)
    queue.log_s = max(queue.log_s, queue.log_s + jump_s)  # what writes.py makes of it
    queue.slices.append(doomed(2, at_s=queue.log_s))
    deletes.observe([], [])
    queue.now_s += 24
    assert not deletes.claim(7, 1, 10)
    queue.now_s += 1
    assert numbers(deletes.claim(7, 1, 10)) == [1]
    queue.now_s += 5
    assert numbers(deletes.claim(7, 1, 10)) == [2]


def test_an_idle_log_holds_nothing_back_for_ever():
    queue = Queue(doomed(1, at_s=1003.0))
    deletes = queue.deletes()
    queue.pass_time(deletes, 3)
    queue.now_s += 30
    assert numbers(deletes.claim(7, 1, 10)) == [1]


def test_what_is_remembered_of_the_log_is_bounded():
    queue = Queue()
    deletes = queue.deletes()
    for _ in range(10_000):
        queue.now_s += 0.01
        queue.log_s += 0.01
        deletes.observe([], [])
    assert len(deletes._points) < 25


def test_what_is_claimed_is_given_out_again_only_when_the_claim_lapses():
    queue = Queue(*map(doomed, range(1, 6)))
    deletes = queue.deletes(delay_s=0)
    assert numbers(deletes.claim(7, 1, 2)) == [1, 2]
    assert numbers(deletes.claim(8, 1, 2)) == [3, 4]
    queue.now_s += CLAIM_S - 1
    assert numbers(deletes.claim(9, 1, 0)) == [5]
    queue.now_s += 1
    assert numbers(deletes.claim(9, 1, 10)) == [1, 2, 3, 4]


def test_a_session_that_ends_gives_back_its_claims():
    deletes = Queue(*map(doomed, range(1, 4))).deletes(delay_s=0)
    deletes.claim(7, 1, 2)
    deletes.claim(8, 1, 1)
    deletes.drop_session(SimpleNamespace(id=7))
    assert deletes.claimed == 1
    assert numbers(deletes.claim(9, 1, 10)) == [1, 2]


def test_what_is_finished_is_forgotten():
    deletes = Queue(*map(doomed, range(1, 4))).deletes(delay_s=0)
    deletes.claim(7, 1, 3)
    deletes.observe([Item(7, 1, 0, ops.FinishDeletes((1, 3)))], [DONE])
    assert deletes.claimed == 1


def test_one_connected_session_of_a_volume_is_told_and_they_take_turns():
    deletes = Queue(doomed(1), doomed(2)).deletes(delay_s=0)

    def session(number, volume=1, connected=True):
        return SimpleNamespace(id=number, volume=volume, stream=Stream() if connected else None)

    sessions = [session(1), session(2, connected=False), session(3), session(4, volume=2)]
    told = []
    for _ in range(3):
        deletes.announce(sessions)
        for one in sessions:
            if one.stream:
                told += [(one.id, note.deletes_waiting.slices) for note in one.stream.frame.notifications]
                one.stream._drop_all()
    assert told == [(1, 2), (3, 2), (1, 2)]
