"""The metadata client over a real connection, against a service that the test leads: loss, order, expiry, refusal, goodbye."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
from typing import TYPE_CHECKING

import grpc
import pytest
from fake_meta_service import ROOT, FakeMeta, Stream, attr, until

from fuseclient.data.slices import Extent, NewSlice
from fuseclient.errors import ClientError, FsError
from fuseclient.id_ranges import IdRanges
from fuseclient.meta_client import MetaClient, Timeouts
from fuseclient.redial import GROWTH, Backoff
from fuseclient.session import Limits
from fuseclient.slice_service import MetaSliceService
from fuseclient.volume_url import Address, VolumeUrl
from protos import meta_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

QUICK = Timeouts(attach_s=5.0, close_s=0.5)


class FakeClock:
    """Time passes when the test says so; sleeping is only written down."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay_s: float, call: Callable[[], None], /) -> Timer:
        timer = Timer(self.now + delay_s, call)
        self.timers.append(timer)
        return timer

    async def sleep(self, delay_s: float, /) -> None:
        self.slept.append(delay_s)
        await asyncio.sleep(0.001)

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := sorted((t for t in self.timers if not t.cancelled and t.at <= end), key=lambda t: t.at):
            self.timers.remove(due[0])
            self.now = due[0].at
            due[0].call()
        self.now = end


class Timer:
    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at = at
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


@pytest.fixture
async def service() -> AsyncIterator[FakeMeta]:
    service = FakeMeta()
    await service.start()
    yield service
    await service.stop()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def client(service: FakeMeta, clock: FakeClock) -> AsyncIterator[MetaClient]:
    client = await connected(service, clock)
    yield client
    await client.close()


async def connected(
    service: FakeMeta, clock: FakeClock | None = None, *, timeouts: Timeouts = QUICK, limits: Limits | None = None
) -> MetaClient:
    return await MetaClient.connect(
        url_of(service), "test", clock=clock, rng=random.Random(1), timeouts=timeouts, limits=limits
    )


def url_of(service: FakeMeta) -> VolumeUrl:
    return VolumeUrl.parse(f"keel://127.0.0.1:{service.port}/data/sub%20dir")


def mkdir(name: bytes = b"d") -> pb.Request:
    return pb.Request(mkdir=pb.MkDir(parent=1, name=name))


def getattr_of(ino: int = 5) -> pb.Request:
    return pb.Request(getattr=pb.GetAttr(ino=ino))


def held_back(stream: Stream, request: pb.Request) -> None:
    """An `answer` that gives none."""


# --- attach ---


async def test_connect_attaches_and_learns_the_volume(service: FakeMeta, client: MetaClient) -> None:
    attach = service.live.attach
    assert (attach.volume, attach.subdir, attach.client, attach.protocol) == ("data", b"sub dir", "test", 1)
    assert (client.session_id, client.root, client.volume_id, client.ttl_s, client.connected) == (1, ROOT, 9, 30.0, True)
    assert (client.settings.store_url, client.settings.block_bytes, client.settings.inline_bytes) == (
        "file:///objects",
        1 << 20,
        2048,
    )
    assert client.settings.other == {"color": "red"}


async def test_connect_tries_every_address(service: FakeMeta) -> None:
    url = VolumeUrl((Address("127.0.0.1", 1), Address("127.0.0.1", service.port)), "data")
    client = await MetaClient.connect(url, "test", timeouts=QUICK)
    assert (await client.read(getattr_of(6))).attr == attr(6)
    await client.close()


async def test_nothing_listens() -> None:
    with pytest.raises(ClientError, match=r"127\.0\.0\.1:1: .*Is the server running") as refused:
        await MetaClient.connect(VolumeUrl.parse("keel://127.0.0.1:1/v"), "test", timeouts=QUICK)
    assert refused.value.exit_code == 11


@pytest.mark.parametrize(
    ("code", "reason", "exit_code", "text"),
    [
        (grpc.StatusCode.NOT_FOUND, "no-volume", 10, "keelfs volume list"),
        (grpc.StatusCode.NOT_FOUND, "", 10, "keelfs volume list"),
        (grpc.StatusCode.INVALID_ARGUMENT, "protocol", 1, "same release"),
        (grpc.StatusCode.UNIMPLEMENTED, "", 1, "same release"),
        (grpc.StatusCode.PERMISSION_DENIED, "wrong-secret", 12, "credentials"),
        (grpc.StatusCode.UNAVAILABLE, "starting", 11, "Is the server running"),
    ],
)
async def test_a_refused_attach_says_what_and_what_next(
    service: FakeMeta, code: grpc.StatusCode, reason: str, exit_code: int, text: str
) -> None:
    service.refuse_attach = lambda attach: (code, reason)
    with pytest.raises(ClientError, match=text) as refused:
        await connected(service)
    assert refused.value.exit_code == exit_code
    assert "/data/sub%20dir" in str(refused.value)


async def test_a_server_that_accepts_and_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = VolumeUrl.parse(f"keel://127.0.0.1:{server.getsockname()[1]}/v")
        with pytest.raises(ClientError, match=r"no answer within 0\.2 s"):
            await MetaClient.connect(url, "test", timeouts=Timeouts(attach_s=0.2))


# --- requests ---


async def test_requests_of_one_loop_iteration_share_a_frame(service: FakeMeta, client: MetaClient) -> None:
    answers = await asyncio.gather(*(client.read(getattr_of(n)) for n in range(50)), client.change(mkdir()))
    assert [answer.attr for answer in answers[:50]] == [attr(n) for n in range(50)]
    assert [len(frame.requests) for frame in service.live.frames] == [51]


async def test_answers_out_of_order_find_their_callers(service: FakeMeta, client: MetaClient) -> None:
    service.answer = held_back
    futures = [client.read(getattr_of(n)) for n in range(20)]
    await until(lambda: len(service.live.requests) == 20)
    order = list(service.live.requests)
    random.Random(3).shuffle(order)
    for request in order:
        service.live.send(pb.Response(id=request.id, attr=attr(request.getattr.ino)))
    assert [response.attr for response in await asyncio.gather(*futures)] == [attr(n) for n in range(20)]


async def test_the_limit_of_requests_in_flight_lets_later_ones_wait(service: FakeMeta) -> None:
    client = await connected(service, limits=Limits(in_flight_requests=4))
    service.answer = held_back
    futures = [client.read(getattr_of(n)) for n in range(9)]
    await until(lambda: len(service.live.requests) == 4)
    service.answer = service.apply
    service.live.send(*(service.apply(service.live, request) for request in service.live.requests))
    assert [response.attr for response in await asyncio.gather(*futures)] == [attr(n) for n in range(9)]
    await client.close()


async def test_a_deadline_fails_the_caller_only(service: FakeMeta, clock: FakeClock) -> None:
    client = await connected(service, clock, timeouts=Timeouts(read_s=4.0))
    service.answer = held_back
    read, change = client.read(getattr_of()), client.change(mkdir())
    await until(lambda: len(service.live.requests) == 2)
    clock.advance(3.9)
    assert not read.done()
    clock.advance(1.0)
    with pytest.raises(FsError, match="ETIMEDOUT"):
        await read
    service.live.send(*(service.apply(service.live, request) for request in service.live.requests))
    await change
    await client.close()


async def test_heartbeats_only_when_idle_and_with_the_watermark(service: FakeMeta, clock: FakeClock) -> None:
    service.ttl_ms = 8000
    client = await connected(service, clock)
    await client.change(mkdir())
    assert len(service.live.frames) == 1
    clock.advance(2.0)  # a quarter of the ttl; a frame was sent in it
    clock.advance(2.0)
    await until(lambda: len(service.live.frames) == 2)
    heartbeat = service.live.frames[1]
    assert (len(heartbeat.requests), heartbeat.acked_seq) == (0, 1)
    await client.close()


async def test_a_lone_release_is_sent_after_a_short_wait(service: FakeMeta, client: MetaClient, clock: FakeClock) -> None:
    client.hold(7)
    client.hold(8)
    client.release(7)
    client.release(8)
    client.hold(8)
    clock.advance(0.11)
    await until(lambda: service.live.frames)
    assert service.live.released == [7]


async def test_releases_get_through_under_openings_without_end(service: FakeMeta, client: MetaClient, clock: FakeClock) -> None:
    """There is always an opening on its way, so a release would wait for ever if openings were not held back for it."""
    service.answer = held_back

    def open_another() -> None:
        client.read(pb.Request(open=pb.Open(ino=100)))

    async def answer_oldest(at: int) -> None:
        await until(lambda: len(service.live.requests) > at, f"request {at}")
        service.live.send(pb.Response(id=service.live.requests[at].id, attr=attr(100)))

    client.hold(7)
    for sent in (1, 2):
        open_another()
        await until(lambda sent=sent: len(service.live.requests) == sent)
    client.release(7)
    for at in range(14):
        open_another()
        if at < 12:  # the next one is on its way before the oldest is answered
            await until(lambda at=at: len(service.live.requests) == at + 3)
        elif at == 12:
            assert service.live.released == []
            clock.advance(2.0)
        await answer_oldest(at)
    await until(lambda: service.live.released == [7])


# --- notifications ---


async def test_notifications_are_delivered_before_the_answers_of_their_frame(service: FakeMeta, client: MetaClient) -> None:
    seen: list[str] = []
    client.on_notification = lambda n: seen.append(f"{n.WhichOneof('what')} {future.done()}")
    woken: list[bool] = []
    client.on_deletes_waiting = lambda: woken.append(True)
    service.answer = held_back
    future = client.read(getattr_of())
    await until(lambda: service.live.requests)
    service.live.send(
        pb.Response(id=service.live.requests[0].id),
        notifications=[
            pb.Notification(inval_inode=pb.InvalInode(ino=5)),
            pb.Notification(inval_entry=pb.InvalEntry(parent=1, name=b"x")),
            pb.Notification(deletes_waiting=pb.DeletesWaiting(slices=3)),
        ],
    )
    await future
    assert seen == ["inval_inode False", "inval_entry False", "deletes_waiting False"]
    assert woken == [True]


# --- loss ---


async def test_after_a_loss_unanswered_changes_are_sent_again_in_order_with_their_seq(
    service: FakeMeta, client: MetaClient
) -> None:
    resets: list[str] = []
    client.on_reset = resets.append
    await asyncio.gather(*(client.change(mkdir(b"before%d" % n)) for n in range(3)))
    client.hold(77)

    def apply_without_answer(stream: Stream, request: pb.Request) -> None:
        if request.seq in (4, 6):  # these happened, but their answers are lost
            service.apply(stream, request)

    service.answer = apply_without_answer
    futures = [client.change(mkdir(b"%d" % n)) for n in range(4)]
    read = client.read(getattr_of(8))
    await until(lambda: len(service.live.requests) == 8)
    first = service.live
    service.answer = service.apply
    first.end()
    await asyncio.gather(*futures, read)

    second = service.live
    assert second is not first
    assert (second.attach.session, second.attach.secret, list(second.attach.open_inodes)) == (1, b"secret-1", [77])
    assert [(r.seq, r.mkdir.name) for r in second.requests] == [(4, b"0"), (5, b"1"), (6, b"2"), (7, b"3"), (0, b"")]
    assert sorted(seq for _, seq, _ in service.applied) == [1, 2, 3, 4, 5, 6, 7]
    assert second.frames[0].acked_seq == 3
    assert resets == ["lost", "reconnected"]
    assert (client.session_id, client.reconnects) == (1, 1)


async def test_reset_comes_before_the_first_answer_of_the_new_stream(service: FakeMeta, client: MetaClient) -> None:
    seen: list[str] = []
    client.on_reset = seen.append
    service.answer = held_back
    future = client.read(getattr_of())
    future.add_done_callback(lambda _: seen.append("answer"))
    await until(lambda: service.live.requests)
    service.answer = service.apply
    service.live.end()
    await future
    assert seen == ["lost", "reconnected", "answer"]


async def test_the_client_waits_out_a_restart_with_growing_waits(
    service: FakeMeta, client: MetaClient, clock: FakeClock
) -> None:
    await client.change(mkdir(b"a"))
    await service.stop()
    future = client.change(mkdir(b"b"))
    await until(lambda: len(clock.slept) >= 9)
    assert not future.done()
    await service.start()
    await future
    assert [name for _, _, name in service.applied] == [b"a", b"b"]
    backoff = Backoff(random.Random(1), growth=GROWTH)
    assert clock.slept == [backoff.next() for _ in clock.slept]


async def test_many_losses_under_load_apply_every_change_once(service: FakeMeta) -> None:
    client = await connected(service, FakeClock())
    rng = random.Random(5)

    def unreliable(stream: Stream, request: pb.Request) -> pb.Response | None:
        if stream.over:
            return None
        fate = rng.random()
        if fate < 0.01:
            stream.end()
        response = service.apply(stream, request) if fate > 0.005 else None
        return None if stream.over else response

    service.answer = unreliable

    async def work(worker: int) -> None:
        for n in range(40):
            await client.change(mkdir(b"%d-%d" % (worker, n)))

    await asyncio.gather(*(work(n) for n in range(16)))
    names = [name for _, _, name in service.applied]
    assert len(names) == len(set(names)) == 640
    assert len(service.streams) > 3
    assert client.unanswered == 0
    await client.close()


async def test_a_peer_that_falls_silent_is_found_out(service: FakeMeta, clock: FakeClock) -> None:
    service.ttl_ms = 3_600_000  # heartbeats are no help here
    client = await connected(service, clock)
    await until(lambda: client.connected)
    for pings in (1, 2, 3):  # an idle line is kept up by pings
        clock.advance(5.5)
        await until(lambda pings=pings: service.live.pings == pings, f"ping {pings}")
        await until(lambda pings=pings: client.frames_received == 1 + pings, f"the answer to ping {pings}")
    assert client.reconnects == 0
    service.frozen = True
    clock.advance(9.5)
    assert client.connected
    clock.advance(1.0)
    await until(lambda: not client.connected)
    service.wake()
    await until(lambda: client.reconnects == 1)
    assert client.session_id == 1
    await client.close()


def test_backoff_is_immediate_first_then_grows_to_its_cap() -> None:
    backoff = Backoff(random.Random(0), 0.1, 1.0)
    waits = [backoff.next() for _ in range(8)]
    assert waits[0] == 0.0
    assert all(0.5 * top <= wait <= top for wait, top in zip(waits[1:], (0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0), strict=True))
    backoff.reset()
    assert backoff.next() == 0.0
    assert Backoff(random.Random(0), 0.1, 1.0, at_once=False).next() > 0


# --- the end of a session ---


@pytest.mark.parametrize("how", ["notification", "status", "attach"])
async def test_an_expired_session_fails_what_waits_and_begins_a_new_one(
    service: FakeMeta, client: MetaClient, how: str
) -> None:
    resets: list[str] = []
    client.on_reset = resets.append
    client.hold(7)
    service.answer = held_back
    future = client.change(mkdir(b"lost"))
    await until(lambda: service.live.requests)
    service.answer = service.apply
    if how == "notification":
        note = pb.Notification(session_expired=pb.SessionExpired(reason="silent"))
        service.live.send(notifications=[note])
    elif how == "status":
        service.live.end(grpc.StatusCode.ABORTED, "session-expired")
    else:
        service.refuse_attach = lambda attach: (grpc.StatusCode.NOT_FOUND, "no-session") if attach.session else None
        service.live.end()
    with pytest.raises(FsError, match=r"EIO.*session"):
        await future
    await client.change(mkdir(b"after"))
    assert client.session_id == 2
    assert client.held() == {}
    assert service.applied == [(2, 1, b"after")]
    assert (service.live.attach.secret, list(service.live.attach.open_inodes)) == (b"", [])
    assert [r for r in resets if r != "lost"] == ["expired", "reconnected"]


async def test_another_volume_of_that_name_is_not_the_one_that_was_mounted(service: FakeMeta, client: MetaClient) -> None:
    service.answer = held_back
    future = client.change(mkdir())
    await until(lambda: service.live.requests)
    service.volume_id = 10
    service.live.end()
    for attempt in (future, client.read(getattr_of())):
        with pytest.raises(FsError, match=r"EIO.*not the one that was mounted"):
            await attempt
    with pytest.raises(FsError, match="EIO"):
        await client.read(getattr_of())


async def test_a_session_taken_over_by_another_process_is_let_go(service: FakeMeta, client: MetaClient) -> None:
    service.live.end(grpc.StatusCode.ABORTED, "replaced")
    await until(lambda: not client.connected)
    with pytest.raises(FsError, match=r"EIO.*taken this session over"):
        await client.read(getattr_of())
    assert len(service.streams) == 1


async def test_close_waits_for_answers_then_says_goodbye(service: FakeMeta, clock: FakeClock) -> None:
    client = await connected(service, clock)
    service.answer = held_back
    future = client.change(mkdir())
    await until(lambda: service.live.requests)
    closing = asyncio.create_task(client.close())
    await asyncio.sleep(0)
    with pytest.raises(FsError, match=r"EIO.*closed"):
        await client.read(getattr_of())
    service.live.send(service.apply(service.live, service.live.requests[0]))
    await closing
    assert future.done()
    assert future.exception() is None
    last = service.live.frames[-1]
    assert (last.detach, last.acked_seq, len(last.requests)) == (True, 1, 0)
    assert [frame.detach for frame in service.live.frames].count(True) == 1


async def test_close_is_bounded_when_the_server_is_away(service: FakeMeta) -> None:
    client = await connected(service, FakeClock(), timeouts=Timeouts(close_s=0.05))
    await service.stop()
    future = client.change(mkdir())
    await client.close()
    with pytest.raises(FsError, match="EIO"):
        await future


# --- numbers and slices ---


async def test_numbers_are_leased_ahead_and_given_out_once(service: FakeMeta, client: MetaClient) -> None:
    leases: list[pb.Request] = []

    def lease(stream: Stream, request: pb.Request) -> pb.Response:
        leases.append(request)
        return pb.Response(id=request.id, first=1000 * len(leases), count=request.lease_ids.count)

    service.answer = lease
    ranges = IdRanges(client, 2, count=10, low_water=4)
    taken = await asyncio.gather(*(ranges.next() for _ in range(12)))
    assert sorted(taken) == [*range(1000, 1010), 2000, 2001]
    assert [ranges.take() for _ in range(4)] == [2002, 2003, 2004, 2005]
    asked = len(leases)
    assert ranges.take() == 2006
    await until(lambda: len(leases) == asked + 1)
    assert (leases[0].lease_ids.kind, leases[0].lease_ids.count, leases[0].seq) == (2, 10, 1)
    ranges.clear()
    assert ranges.take() is None


async def test_a_refused_lease_is_the_error_of_those_who_wait(service: FakeMeta, client: MetaClient) -> None:
    service.answer = lambda stream, request: pb.Response(id=request.id, errno=errno.ENOSPC)
    waiting = [asyncio.ensure_future(client.slice_ids.next()) for _ in range(2)]
    for one in waiting:
        with pytest.raises(FsError, match="ENOSPC"):
            await one
    service.answer = lambda stream, request: pb.Response(id=request.id, first=5, count=2)
    assert await MetaSliceService(client).new_slice_id() == 5


async def test_slices_are_committed_in_order_and_in_bounded_requests(service: FakeMeta, client: MetaClient) -> None:
    slices = [NewSlice(1, n, n + 1, 1, 0, 1, b"x") for n in range(1500)]
    got = await MetaSliceService(client).commit(3, slices, 99, kill_priv=True)
    assert got.ino == 2  # the second request's
    commits = [request.commit_slices for request in service.live.requests]
    assert [len(commit.slices) for commit in commits] == [1024, 476]
    assert [one.slice for commit in commits for one in commit.slices] == list(range(1, 1501))
    assert all((commit.ino, commit.mtime_ns, commit.kill_priv) == (3, 99, True) for commit in commits)
    first = commits[0].slices[0]
    assert (first.chunk, first.pos, first.size, first.off, first.len, first.data) == (1, 0, 1, 0, 1, b"x")


async def test_slices_are_read_by_chunk_with_their_inline_contents(service: FakeMeta, client: MetaClient) -> None:
    service.answer = lambda stream, request: pb.Response(
        id=request.id,
        attr=attr(3),
        extents=[
            pb.Extent(chunk=0, pos=0, len=4, slice=8, off=0, size=4, inline=True),
            pb.Extent(chunk=2, pos=10, len=5, slice=9, off=1, size=6),
            pb.Extent(chunk=2, pos=20, len=5, slice=9, off=0, size=6),
        ],
        inline_data=[pb.InlineData(slice=8, data=b"abcd")],
    )
    got, chunks = await MetaSliceService(client).read(3, 0, 3)
    assert got.ino == 3
    assert chunks[0] == ((Extent(0, 4, 8, 0, 4, True),), {8: b"abcd"})
    assert chunks[2] == ((Extent(10, 5, 9, 1, 6, False), Extent(20, 5, 9, 0, 6, False)), {})
    assert set(chunks) == {0, 2}


# --- company for a frame ---


async def test_requests_wait_for_company_until_something_is_answered(service: FakeMeta, client: MetaClient) -> None:
    """While a frame is unanswered, what comes shares the next one; the wait is short and needs no answer to end."""
    service.answer = held_back
    client.read(getattr_of())
    await until(lambda: len(service.live.requests) == 1)
    frames = len(service.live.frames)
    for _ in range(5):
        client.read(getattr_of())
        await asyncio.sleep(0)
    await until(lambda: len(service.live.requests) == 6)
    assert len(service.live.frames) == frames + 1
