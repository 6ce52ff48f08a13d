"""The session without any I/O: frames, watermark, holds, limits, and what a loss leaves."""

from __future__ import annotations

import errno

import pytest
from fake_meta_service import attr
from hypothesis import given, settings
from hypothesis import strategies as st

from fuseclient.errors import FsError
from fuseclient.session import Limits, Session
from protos import meta_pb2 as pb


def mkdir(name: bytes = b"d") -> pb.Request:
    return pb.Request(mkdir=pb.MkDir(parent=1, name=name))


def getattr_of(ino: int = 5) -> pb.Request:
    return pb.Request(getattr=pb.GetAttr(ino=ino))


def create(name: bytes = b"f") -> pb.Request:
    return pb.Request(create=pb.Create(parent=1, name=name))


def frame_of(session: Session, *, due: bool = False) -> pb.ClientFrame | None:
    raw = session.next_frame(due=due)
    return None if raw is None else pb.ClientFrame.FromString(raw)


def ids_sent(session: Session) -> list[int]:
    frame = frame_of(session)
    return [] if frame is None else [request.id for request in frame.requests]


async def test_a_frame_holds_everything_in_line_as_it_was_asked() -> None:
    session = Session(Limits())
    big = bytes(range(256)) * 300
    asked = [mkdir(), getattr_of(), pb.Request(setxattr=pb.SetXattr(ino=3, name=b"n", value=big))]
    for request, change in zip(asked, (True, False, True), strict=True):
        session.submit(request, change=change)
    frame = frame_of(session)
    assert frame is not None
    assert [(r.id, r.seq) for r in frame.requests] == [(1, 1), (2, 0), (3, 2)]
    assert list(frame.requests) == asked
    assert frame_of(session) is None


@pytest.mark.parametrize("body", [1, 100, 118, 119, 127, 128, 16383, 16384, 70000])
async def test_every_length_of_request_is_framed(body: int) -> None:
    session = Session(Limits())
    session.submit(pb.Request(mkdir=pb.MkDir(name=b"x" * body)), change=True)
    session.submit(mkdir(b"after"), change=True)
    frame = frame_of(session)
    assert frame is not None
    assert [len(r.mkdir.name) for r in frame.requests] == [body, 5]


async def test_the_watermark_passes_only_what_is_answered_without_gaps() -> None:
    session = Session(Limits())
    for _ in range(4):
        session.submit(mkdir(), change=True)
    session.next_frame()
    seen = []
    for id in (2, 4, 1, 3):
        session.take([pb.Response(id=id)])
        frame = frame_of(session, due=True)
        assert frame is not None
        seen.append(frame.acked_seq)
    assert seen == [0, 0, 2, 4]


@given(st.permutations(range(1, 9)))
@settings(max_examples=50)
def test_the_watermark_in_any_order_of_answers(order: list[int]) -> None:
    import asyncio

    async def run() -> None:
        session = Session(Limits())
        for _ in order:
            session.submit(mkdir(), change=True)
        session.next_frame()
        for at, id in enumerate(order):
            session.take([pb.Response(id=id)])
            answered = set(order[: at + 1])
            assert session.acked_seq == next(n for n in range(9) if n + 1 not in answered)

    asyncio.run(run())


async def test_an_error_becomes_fs_error_and_an_unknown_answer_nothing() -> None:
    session = Session(Limits())
    future = session.submit(mkdir(), change=True)
    session.next_frame()
    session.take([pb.Response(id=77), pb.Response(id=1, errno=errno.EEXIST, detail="there")])
    with pytest.raises(FsError, match="EEXIST: there"):
        await future
    assert session.acked_seq == 1


async def test_what_is_unanswered_goes_out_again_in_order_with_its_seq() -> None:
    session = Session(Limits())
    for n in range(5):
        session.submit(mkdir(b"%d" % n), change=True)
    session.submit(getattr_of(), change=False)
    session.next_frame()
    session.take([pb.Response(id=2), pb.Response(id=4)])
    session.submit(mkdir(b"later"), change=True)
    session.resume(())
    frame = frame_of(session)
    assert frame is not None
    assert [(r.id, r.seq, r.mkdir.name) for r in frame.requests] == [
        (1, 1, b"0"),
        (3, 3, b"2"),
        (5, 5, b"4"),
        (6, 0, b""),
        (7, 6, b"later"),
    ]


async def test_a_cancelled_read_is_dropped_and_a_cancelled_change_is_not() -> None:
    session = Session(Limits())
    read = session.submit(getattr_of(), change=False)
    change = session.submit(mkdir(), change=True)
    read.cancel()
    change.cancel()
    assert ids_sent(session) == [2]
    session.resume(())
    assert ids_sent(session) == [2]
    session.take([pb.Response(id=2)])
    assert session.acked_seq == 1


async def test_requests_and_bytes_in_flight_are_bounded_first_in_first_out() -> None:
    session = Session(Limits(in_flight_requests=3, frame_requests=2))
    for _ in range(5):
        session.submit(mkdir(), change=True)
    assert [ids_sent(session), ids_sent(session), ids_sent(session)] == [[1, 2], [3], []]
    assert not session.next_frame()
    session.take([pb.Response(id=2)])
    assert session.wants_frame
    assert ids_sent(session) == [4]

    session = Session(Limits(in_flight_bytes=250, frame_bytes=150))
    for _ in range(4):
        session.submit(mkdir(b"x" * 80), change=True)
    assert [ids_sent(session), ids_sent(session), ids_sent(session)] == [[1], [2], []]
    session.take([pb.Response(id=1)])
    assert ids_sent(session) == [3]


async def test_a_request_larger_than_a_frame_is_refused_without_a_seq() -> None:
    session = Session(Limits(request_bytes=100))
    with pytest.raises(FsError, match="E2BIG"):
        await session.submit(mkdir(b"x" * 200), change=True)
    session.submit(mkdir(), change=True)
    frame = frame_of(session)
    assert frame is not None
    assert [r.seq for r in frame.requests] == [1]


async def test_answers_to_opens_are_held_and_releases_travel_with_the_next_frame() -> None:
    session = Session(Limits())
    session.submit(create(), change=True)
    session.submit(pb.Request(open=pb.Open(ino=8)), change=False)
    session.submit(create(), change=True)
    session.next_frame()
    session.take([pb.Response(id=1, attr=attr(7)), pb.Response(id=2, attr=attr(8)), pb.Response(id=3, errno=errno.EACCES)])
    assert session.held() == {7: 1, 8: 1}
    session.hold(7)
    session.release(7)
    session.release(8)
    session.release(99)
    assert frame_of(session) is None, "a lone release waits for company"
    session.submit(getattr_of(), change=False)
    frame = frame_of(session)
    assert frame is not None
    assert list(frame.released) == [8]
    assert session.held() == {7: 1}
    frame = frame_of(session, due=True)
    assert frame is not None
    assert list(frame.released) == []


async def test_a_release_is_taken_back_when_the_inode_is_opened_again() -> None:
    session = Session(Limits())
    session.hold(7)
    session.release(7)
    session.hold(7)
    frame = frame_of(session, due=True)
    assert frame is not None
    assert list(frame.released) == []


async def test_no_release_overtakes_an_open_that_is_on_its_way() -> None:
    """Found in design: Open(7) sent, release(7) of an older handle sent, and the server lets go of what was just opened."""
    session = Session(Limits())
    session.hold(7)
    session.submit(pb.Request(open=pb.Open(ino=7)), change=False)
    session.next_frame()
    session.release(7)
    session.submit(getattr_of(), change=False)
    for due in (False, True):
        frame = frame_of(session, due=due)
        assert frame is not None
        assert list(frame.released) == []
    session.take([pb.Response(id=1, attr=attr(7))])
    frame = frame_of(session, due=True)
    assert frame is not None
    assert list(frame.released) == []
    assert session.held() == {7: 1}


async def test_insisting_on_releases_holds_openings_back_until_none_is_on_its_way() -> None:
    session = Session(Limits())
    session.hold(9)
    session.submit(create(), change=True)
    session.next_frame()
    session.release(9)
    session.insist_on_releases()
    session.submit(getattr_of(), change=False)
    session.submit(create(), change=True)
    assert ids_sent(session) == [2]
    assert session.next_frame() is None
    session.take([pb.Response(id=1, attr=attr(7))])
    assert session.wants_frame
    frame = frame_of(session)
    assert frame is not None
    assert (list(frame.released), [r.id for r in frame.requests]) == ([9], [3])


async def test_an_open_whose_caller_is_gone_is_released() -> None:
    session = Session(Limits())
    session.submit(create(), change=True).cancel()
    session.next_frame()
    session.take([pb.Response(id=1, attr=attr(7))])
    assert session.held() == {}
    frame = frame_of(session, due=True)
    assert frame is not None
    assert list(frame.released) == [7]


async def test_attach_again_asserts_what_is_held_and_forgets_older_releases() -> None:
    session = Session(Limits())
    session.id, session.secret = 4, b"s"
    session.hold(7)
    session.hold(8)
    session.release(8)
    attach = session.attach("v", b"a/b", "me")
    assert (attach.session, attach.secret, list(attach.open_inodes)) == (4, b"s", [7])
    session.resume(attach.open_inodes)
    frame = frame_of(session, due=True)
    assert frame is not None
    assert list(frame.released) == []


async def test_what_is_released_while_attaching_is_said_again() -> None:
    """The attach is under way with inode 7 in it; the service would hold it for ever."""
    session = Session(Limits())
    session.id = 4
    session.hold(7)
    attach = session.attach("v", b"", "me")
    assert session.holds_only(attach.open_inodes)
    session.release(7)
    session.resume(attach.open_inodes)
    frame = frame_of(session, due=True)
    assert frame is not None
    assert list(frame.released) == [7]
    session.hold(8)
    assert not session.holds_only(attach.open_inodes)


async def test_the_end_of_a_session_fails_what_waits_and_begins_anew() -> None:
    session = Session(Limits())
    session.id = 4
    sent = session.submit(mkdir(), change=True)
    session.next_frame()
    waiting = session.submit(getattr_of(), change=False)
    session.hold(7)
    session.end(FsError(errno.EIO, "over"))
    for future in (sent, waiting):
        with pytest.raises(FsError, match="EIO: over"):
            await future
    session.take([pb.Response(id=1)])
    assert (session.held(), session.acked_seq, session.id, session.unanswered) == ({}, 0, 0, 0)
    session.release(7)
    session.submit(mkdir(), change=True)
    frame = frame_of(session)
    assert frame is not None
    assert [(r.id, r.seq) for r in frame.requests] == [(3, 1)]
    assert list(frame.released) == []


async def test_deadlines_fail_the_caller_and_keep_the_change() -> None:
    session = Session(Limits())
    late = session.submit(mkdir(), change=True, deadline_s=10.0)
    patient = session.submit(mkdir(), change=True)
    session.pass_deadlines(9.9)
    assert not late.done()
    session.pass_deadlines(10.0)
    with pytest.raises(FsError, match="ETIMEDOUT"):
        await late
    assert not patient.done()
    session.resume(())
    assert ids_sent(session) == [1, 2]
    session.take([pb.Response(id=1), pb.Response(id=2)])
    assert session.acked_seq == 2
