"""sessions.py with a clock of the test's: expiry, resumption, the wait after a start."""

from __future__ import annotations

import grpc
import pytest
from instant_log import Bench

from metaserver.core import entry as ops
from metaserver.core import reads
from metaserver.sessions import AttachRefused, Sessions
from metaserver.streams import Stream
from raft.errors import OutcomeUnknown


async def table(bench, **config):
    await bench.make_volume()
    return make(bench, **config)


def make(bench, **config):
    sessions = Sessions(
        bench.writes,
        lambda number: reads.session(bench.store, number),
        bench.clock,
        **({"ttl_s": 60.0, "sessions_max": 3, "make_secret": lambda: b"s" * 32} | config),
    )
    bench.state.observers = (sessions.observe,)
    return sessions


async def opened(bench, sessions):
    return await sessions.open(bench.volume.id, bench.volume.root, "host:/mnt")


async def test_only_the_right_secret_on_the_right_volume_resumes():
    bench = Bench()
    sessions = await table(bench)
    live = await opened(bench, sessions)
    assert sessions.resume(live.id, b"s" * 32, live.volume) is live
    for secret, volume, code in [
        (b"t" * 32, live.volume, grpc.StatusCode.PERMISSION_DENIED),
        (b"", live.volume, grpc.StatusCode.PERMISSION_DENIED),
        (b"s" * 32, live.volume + 1, grpc.StatusCode.NOT_FOUND),
    ]:
        with pytest.raises(AttachRefused) as refused:
            sessions.resume(live.id, secret, volume)
        assert refused.value.ending.code is code


async def test_time_in_which_the_server_was_stopped_counts_against_nobody():
    bench = Bench()
    sessions = await table(bench)
    live, other = await opened(bench, sessions), await opened(bench, sessions)
    bench.now_s += 20
    sessions.heard(other)
    bench.now_s += 500
    sessions.forgive(500)
    assert (sessions.silent_s(live), sessions.silent_s(other)) == (20, 0)
    await sessions.sweep()
    assert len(sessions) == 2
    bench.now_s += 41
    await sessions.sweep()
    assert [left.id for left in sessions] == [other.id]


async def test_expiry_is_logged_and_told():
    bench = Bench()
    sessions = await table(bench)
    closed = []
    sessions.on_closed.append(closed.append)
    live, other = await opened(bench, sessions), await opened(bench, sessions)
    stream = Stream(volume=live.volume, session=live.id)
    sessions.connect(live, stream)
    bench.now_s += 59
    await sessions.sweep()
    sessions.heard(other)
    assert not closed
    bench.now_s += 2
    await sessions.sweep()
    assert closed == [live]
    assert stream.frame.notifications[0].HasField("session_expired")
    assert stream.ending.reason == "session-expired"
    assert reads.session(bench.store, live.id) is None
    assert reads.session(bench.store, other.id) is not None
    assert (await bench.change(live.id, ops.LeaseIds(1, 1))).errno


async def test_a_session_that_cannot_be_closed_stays_and_is_tried_again():
    bench = Bench()
    sessions = await table(bench)
    live = await opened(bench, sessions)
    bench.now_s += 61
    bench.log.error = OutcomeUnknown("disk gone")
    await sessions.sweep()
    assert sessions.get(live.id) is live
    bench.log.error = None
    await sessions.sweep()
    assert sessions.get(live.id) is None


async def test_after_a_start_every_session_has_a_full_ttl_to_come_back():
    bench = Bench()
    before = await table(bench)
    one, two = await opened(bench, before), await opened(bench, before)
    bench.now_s += 500
    sessions, back = make(bench), []
    sessions.on_all_back.append(lambda: back.append(bench.now_s))
    sessions.load(reads.sessions(bench.store))
    bench.now_s += 59
    await sessions.sweep()
    live = sessions.resume(one.id, one.secret, one.volume)
    sessions.connect(live, Stream(volume=live.volume, session=live.id))
    assert not back
    bench.now_s += 2
    await sessions.sweep()
    assert sessions.get(two.id) is None
    assert sessions.get(one.id) is live
    assert back == [bench.now_s]


async def test_without_sessions_all_are_back_at_once():
    bench = Bench()
    sessions, back = await table(bench), []
    sessions.on_all_back.append(lambda: back.append(True))
    sessions.load([])
    assert back == [True]


async def test_sessions_are_bounded():
    bench = Bench()
    sessions = await table(bench, sessions_max=1)
    live = await opened(bench, sessions)
    with pytest.raises(AttachRefused):
        await opened(bench, sessions)
    await sessions.close(live, expired=False)
    await opened(bench, sessions)
