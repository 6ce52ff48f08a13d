"""deletes.py: leases on the delete queue, with clocks of the test's."""

from __future__ import annotations

from types import SimpleNamespace

from metaserver.core import entry as ops
from metaserver.core.entry import DONE, Item
from metaserver.core.reads import Doomed
from metaserver.deletes import CLAIM_S, Deletes
from metaserver.streams import Stream


class Queue:
    def __init__(self, *slices):
        self.slices = list(slices)
        self.now_s = 1000.0

    def doomed(self, after):
        return iter([slice_ for slice_ in self.slices if slice_.slice > after])

    def deletes(self, delay_s=30.0):
        return Deletes(self.doomed, lambda: self.now_s, lambda: int(self.now_s * 1e9), delay_s=delay_s)


def doomed(number, volume=1, at_s=0.0):
    return Doomed(number, 4096, volume, int(at_s * 1e9))


def numbers(slices):
    return [slice_.slice for slice_ in slices]


def test_only_old_slices_of_the_own_volume_are_given_out():
    queue = Queue(doomed(1), doomed(2, volume=2), doomed(3, at_s=990.0), doomed(4, at_s=970.0))
    assert numbers(queue.deletes().claim(7, 1, 10)) == [1, 4]


def test_what_is_claimed_is_given_out_again_only_when_the_claim_lapses():
    queue = Queue(*map(doomed, range(1, 6)))
    deletes = queue.deletes()
    assert numbers(deletes.claim(7, 1, 2)) == [1, 2]
    assert numbers(deletes.claim(8, 1, 2)) == [3, 4]
    queue.now_s += CLAIM_S - 1
    assert numbers(deletes.claim(9, 1, 0)) == [5]
    queue.now_s += 1
    assert numbers(deletes.claim(9, 1, 10)) == [1, 2, 3, 4]


def test_a_session_that_ends_gives_back_its_claims():
    deletes = Queue(*map(doomed, range(1, 4))).deletes()
    deletes.claim(7, 1, 2)
    deletes.claim(8, 1, 1)
    deletes.drop_session(SimpleNamespace(id=7))
    assert deletes.claimed == 1
    assert numbers(deletes.claim(9, 1, 10)) == [1, 2]


def test_what_is_finished_is_forgotten():
    deletes = Queue(*map(doomed, range(1, 4))).deletes()
    deletes.claim(7, 1, 3)
    deletes.observe([Item(7, 1, 0, ops.FinishDeletes((1, 3)))], [DONE])
    assert deletes.claimed == 1


def test_one_connected_session_of_a_volume_is_told_and_they_take_turns():
    deletes = Queue(doomed(1), doomed(2)).deletes()

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
