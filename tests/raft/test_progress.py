"""What a leader knows of a follower: raft/progress.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.progress import Progress
from raft.timing import Flow

FLOW = Flow(inflight_messages=4, inflight_bytes=1000)


def replicating(match: int = 10, next_: int = 11) -> Progress:
    peer = Progress(next_, 0.0)
    peer.acknowledged(match)
    return peer


def test_at_first_one_message_at_a_time() -> None:
    peer = Progress(11, 0.0)
    assert peer.may_send(FLOW, 0.0)
    peer.sent(15, 100)
    assert not peer.may_send(FLOW, 0.0)
    assert (peer.match, peer.next) == (0, 16)
    peer.acknowledged(15)
    assert (peer.match, peer.next, peer.inflight_bytes, peer.probing) == (15, 16, 0, False)


@pytest.mark.parametrize(("messages", "size"), [(4, 10), (2, 500)])
def test_then_as_much_as_the_flow_allows(messages: int, size: int) -> None:
    peer = replicating()
    sent = 0
    while peer.may_send(FLOW, 0.0):
        peer.sent(peer.next, size)
        sent += 1
    assert sent == messages
    peer.acknowledged(peer.match + 1)
    assert peer.may_send(FLOW, 0.0)


@pytest.mark.parametrize(
    ("acknowledged", "match", "next_", "inflight"),
    [
        (12, 12, 14, 1),
        (13, 13, 14, 0),
        (11, 11, 14, 2),  # part of a message
        (10, 10, 14, 2),  # late
        (3, 10, 14, 2),  # later still
        (20, 20, 21, 0),  # more than was sent: it had that before
    ],
)
def test_acknowledgements(acknowledged: int, match: int, next_: int, inflight: int) -> None:
    peer = replicating()
    peer.sent(12, 1)
    peer.sent(13, 1)
    peer.acknowledged(acknowledged)
    assert (peer.match, peer.next, len(peer.inflight), peer.inflight_bytes) == (match, next_, inflight, inflight)


@pytest.mark.parametrize(
    ("hint", "next_"),
    [
        (12, 13),
        (10, 11),
        (5, 11),  # before what it acknowledged: an old answer
        (50, 20),  # a hint beyond what was asked does not help: one back at least
    ],
)
def test_refusals_lead_back_to_match_at_most(hint: int, next_: int) -> None:
    peer = replicating()
    peer.sent(20, 100)
    peer.refused(hint, 1.0)
    assert (peer.match, peer.next, peer.probing, peer.inflight_bytes) == (10, next_, True, 0)
    assert peer.may_send(FLOW, 0.0)


def test_who_refuses_exactly_what_it_asked_for_is_left_alone_for_a_while() -> None:
    peer = replicating()
    peer.sent(20, 100)
    peer.refused(10, 1.0)
    peer.sent(20, 100)
    peer.refused(10, 1.0)
    assert not peer.may_send(FLOW, 0.9)
    assert peer.may_send(FLOW, 1.0)
    peer.sent(20, 100)
    peer.acknowledged(20)
    assert peer.may_send(FLOW, 0.0)


def test_going_back_step_by_step_is_not_held_up() -> None:
    peer = Progress(100, 0.0)
    for hint in (90, 70, 40, 0):
        peer.sent(peer.next, 1)
        peer.refused(hint, 1.0)
        assert peer.next == hint + 1
        assert peer.may_send(FLOW, 0.0)


def test_a_snapshot_is_offered_until_it_is_there() -> None:
    peer = replicating()
    peer.offered = (50, 0.0)
    peer.acknowledged(49)
    assert peer.offered is not None
    peer.acknowledged(50)
    assert (peer.offered, peer.next) == (None, 51)


_STEPS = st.one_of(
    st.tuples(st.just("send"), st.integers(1, 5), st.integers(1, 400)),
    st.tuples(st.just("ack"), st.integers(0, 60), st.just(0)),
    st.tuples(st.just("refuse"), st.integers(0, 60), st.just(0)),
    st.tuples(st.just("restart"), st.integers(0, 60), st.just(0)),
)


@given(st.lists(_STEPS, max_size=60))
def test_always(steps: list[tuple[str, int, int]]) -> None:
    """`match` never falls, `next` is after it, bytes add up, and the bounds hold whatever the answers are."""
    peer = Progress(11, 0.0)
    for what, number, size in steps:
        match = peer.match
        if what == "send":
            if peer.may_send(FLOW, 0.0):
                peer.sent(peer.next + number - 1, size)
        elif what == "ack":
            peer.acknowledged(number)
        elif what == "refuse":
            peer.refused(number, 0.0)
        else:
            peer.restart(number)
        assert peer.match >= match
        assert peer.next > peer.match
        assert peer.inflight_bytes == sum(each for _, each in peer.inflight)
        assert len(peer.inflight) <= FLOW.inflight_messages
        assert peer.inflight_bytes <= FLOW.inflight_bytes + 400
