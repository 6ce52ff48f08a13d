"""The wire between nodes: golden bytes, a round trip of every message, and no bytes that raise anything but WireError."""

from __future__ import annotations

import dataclasses
import struct
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos import peer_pb2 as pb
from raft import messages as m
from raft import peer_wire as wire
from raft.peer_wire import WireError, decode, encode
from raft.record import PAYLOAD_MAX, Entry

UUID = "0b7b2a54-5a2b-4a10-8f6c-6f2a0d3a7a11"
UUID_HEX = UUID.encode().hex()
HELLO = wire.Hello(UUID, "n1", UUID, 3, b"0123456789abcdef", 7, 99, 6, 12)
GOLDEN = {
    m.PreVote(7, 99, 6): "0807220408631006",
    m.PreVoteReply(7, True): "08072a020801",
    m.Vote(7, 99, 6, True): "08073206086310061801",
    m.VoteReply(7, False): "08073a00",
    m.Append(7, 98, 6, 97, 5): "080742080862100618612005",
    m.Append(
        7, 98, 6, 97, 5, (Entry(99, 6, b"ab"), Entry(100, 7, b"", 2))
    ): "0807421e08621006186120052a060801100618012a06080110071802320261623200",
    m.AppendReply(7, True, 99, 5, 64, b"\x01\x02"): "08074a0c08011063180520402a020102",
    m.TimeoutNow(7): "08075200",
    m.ReadIndex(7, 4): "08075a020804",
    m.ReadIndexReply(7, 4, 99): "0807620408041063",
    m.SnapshotOffer(7, 90, 6, 1000, b"\xff"): "08076a0a085a100618e8072201ff",
    m.SnapshotPull(7, 90, 6, 512): "08077207085a1006188004",
    m.SnapshotPiece(7, 90, 6, 512, b"xyz"): "08077a0c085a1006188004220378797a",
    m.Diverged(7, 99): "08078201020863",
    m.StateReport(7, 99, b"\x01\x02"): "0807a20106086312020102",
    HELLO: f"126e08011224{UUID_HEX}1a026e312224{UUID_HEX}2803321030313233343536373839616263646566380740634806500c",
    wire.Welcome(2): "9a01020802",
    wire.Refusal("protocol", "no"): "1a0e0a0870726f746f636f6c12026e6f",
    wire.Ping(1): "8a01020801",
    wire.Pong(1): "9201020801",
}

number = st.integers(0, wire.NUMBER_MAX)
positive = st.integers(1, wire.NUMBER_MAX)
small = st.binary(max_size=wire.DIGEST_MAX)


@st.composite
def appends(draw: st.DrawFn) -> m.Append:
    prev_index = draw(st.integers(0, 1 << 62))
    prev_term = draw(st.integers(0, 1 << 40))
    terms = sorted(draw(st.lists(st.integers(max(prev_term, 1), 1 << 41), max_size=20)))
    entries = [
        Entry(prev_index + i, term, draw(st.binary(max_size=40)), draw(st.integers(1, 4))) for i, term in enumerate(terms, 1)
    ]
    return m.Append(draw(st.integers(1 << 41, 1 << 50)), prev_index, prev_term, draw(number), draw(number), tuple(entries))


MESSAGES: st.SearchStrategy[Any] = st.one_of(
    st.builds(m.PreVote, positive, number, number),
    st.builds(m.PreVoteReply, number, st.booleans()),
    st.builds(m.Vote, positive, number, number, st.booleans()),
    st.builds(m.VoteReply, number, st.booleans()),
    appends(),
    st.builds(m.AppendReply, number, st.booleans(), number, number, number, small),
    st.builds(m.TimeoutNow, positive),
    st.builds(m.ReadIndex, number, number),
    st.builds(m.ReadIndexReply, number, number, number),
    st.builds(m.SnapshotOffer, positive, positive, number, positive, st.binary(min_size=1, max_size=64)),
    st.builds(m.SnapshotPull, number, positive, number, number),
    st.builds(m.SnapshotPiece, number, positive, number, number, st.binary(max_size=100)),
    st.builds(m.Diverged, positive, positive),
    st.builds(m.StateReport, positive, positive, st.binary(min_size=1, max_size=64)),
    st.builds(wire.Welcome, positive),
    st.builds(wire.Refusal, st.text(min_size=1, max_size=32), st.text(min_size=1, max_size=100)),
    st.builds(wire.Ping, number),
    st.builds(wire.Pong, number),
)


@pytest.mark.parametrize("value", GOLDEN, ids=lambda value: type(value).__name__)
def test_the_bytes_are_these(value: Any) -> None:
    assert encode(value).hex() == GOLDEN[value]
    assert decode(bytes.fromhex(GOLDEN[value])) == value


def test_the_table_names_every_message_and_its_fields_in_their_order() -> None:
    rows = {row.value: row for row in wire._ROWS}
    assert set(rows) == {*get_args(m.Message), *get_args(wire.Control)}
    for value, row in rows.items():
        names = [field.name for field in dataclasses.fields(value)]
        assert names == [*(["term"] if row.term else []), *row.fields, *(["entries"] if value is m.Append else [])]
    assert {row.kind for row in wire._ROWS} == {field.name for field in pb.Frame.DESCRIPTOR.oneofs[0].fields}


@given(MESSAGES)
def test_what_is_written_is_read(value: Any) -> None:
    assert decode(encode(value)) == value


def test_a_hello_fits_before_the_handshake() -> None:
    widest = dataclasses.replace(
        HELLO, name="n" * 32, start=wire.NUMBER_MAX, term=wire.NUMBER_MAX, last_index=wire.NUMBER_MAX, last_term=wire.NUMBER_MAX
    )
    assert decode(encode(widest)) == widest
    assert len(encode(widest)) < wire.STRANGER_BYTES_MAX
    assert len(encode(wire.Refusal("x" * 32, "\U0001f512" * wire.DETAIL_MAX))) > wire.STRANGER_BYTES_MAX  # so it is shortened


@given(st.binary(max_size=300))
def test_random_bytes_are_a_value_or_a_wire_error(data: bytes) -> None:
    try:
        value = decode(data)
    except WireError:
        return
    assert decode(encode(value)) == value


@settings(max_examples=300)
@given(MESSAGES, st.data())
def test_damaged_frames_are_a_value_or_a_wire_error(value: Any, data: st.DataObject) -> None:
    whole = bytearray(encode(value))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    part = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    for damaged in (bytes(whole), part):
        try:
            read = decode(damaged)
        except WireError:
            continue
        assert decode(encode(read)) == read


def frame(term: int = 7, **kind: Any) -> bytes:
    return pb.Frame(term=term, **kind).SerializeToString()


def run(count: int, term: int, kind: int = 1) -> pb.Run:
    return pb.Run(count=count, term=term, kind=kind)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "kind"),
        (frame(), "kind"),
        (b"\xfa\x01\x00", "kind"),  # field 31: of some later version
        (b"\x0a", "no frame"),
        (frame(1 << 63, pre_vote=pb.PreVote()), "term"),
        (frame(0, pre_vote=pb.PreVote()), "term"),
        (frame(0, append=pb.Append()), "term"),
        (frame(7, ping=pb.Ping()), "term"),
        (frame(pre_vote=pb.PreVote(last_index=1 << 63)), "last_index"),
        (frame(append_reply=pb.AppendReply(digest=bytes(65))), "digest"),
        (frame(snapshot_offer=pb.SnapshotOffer(index=1, size=1)), "checksum"),
        (frame(snapshot_offer=pb.SnapshotOffer(index=1, checksum=b"x")), "size"),
        (frame(snapshot_pull=pb.SnapshotPull()), "index"),
        (frame(diverged=pb.Diverged()), "index"),
        (frame(state_report=pb.StateReport(index=1)), "digest"),
        (frame(state_report=pb.StateReport(digest=b"1")), "index"),
        (frame(0, hello=pb.Hello(protocol=1, cluster_id=UUID, name="N1", incarnation=UUID)), "name"),
        (frame(0, hello=pb.Hello(protocol=1, cluster_id=UUID, name="n1", incarnation="x" * 37)), "incarnation"),
        (frame(0, hello=pb.Hello(protocol=1, cluster_id=UUID, name="n1", incarnation=UUID, start=1)), "start_nonce"),
        (frame(0, refusal=pb.Refusal(reason="protocol")), "detail"),
        (frame(append=pb.Append(payloads=[b"a"])), "cover"),
        (frame(append=pb.Append(runs=[run(1, 7)])), "runs"),
        (frame(append=pb.Append(payloads=[b"a"], runs=[run(2, 7)])), "cover"),
        (frame(append=pb.Append(payloads=[b"a", b"b"], runs=[run(1, 7), run(0, 7)])), "term"),
        (frame(append=pb.Append(payloads=[b"a", b"b"], runs=[run(1, 7), run(1, 6)])), "term"),
        (frame(append=pb.Append(payloads=[b"a"], runs=[run(1, 8)])), "term"),
        (frame(append=pb.Append(payloads=[b"a"], runs=[run(1, 0)])), "term"),
        (frame(append=pb.Append(payloads=[b"a"], runs=[run(1, 5)], prev_term=6)), "term"),
        (frame(append=pb.Append(payloads=[b"a"], runs=[run(1, 7, 9)])), "kind"),
        (frame(append=pb.Append(payloads=[b"a"], runs=[run(1, 7)], prev_index=wire.NUMBER_MAX)), "index"),
        (frame(append=pb.Append(payloads=[bytes(PAYLOAD_MAX + 1)], runs=[run(1, 7)])), "entry of more"),
        (frame(snapshot_piece=pb.SnapshotPiece(index=1, data=bytes(PAYLOAD_MAX + 1))), "data"),
        (bytes(wire.FRAME_BYTES_MAX + 1), "limit"),
    ],
)
def test_what_no_node_may_say_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(WireError, match=why):
        decode(data)


def test_a_million_empty_entries_are_refused_before_they_are_made() -> None:
    count = wire.ENTRIES_MAX + 1
    with pytest.raises(WireError, match="limit"):
        decode(frame(append=pb.Append(payloads=[b""] * count, runs=[run(count, 7)])))


@pytest.mark.parametrize(
    "value",
    [
        m.PreVote(-1, 0, 0),
        m.PreVote(1 << 64, 0, 0),
        m.Append(7, 5, 6, 0, 0, (Entry(7, 7, b""),)),
        m.Append(7, 5, 6, 0, 0, (Entry(6, 7, b""), Entry(8, 7, b""))),
        m.Append(7, 5, 6, 0, 0, (Entry(6, 8, b""),)),
        m.Append(7, 5, 6, 0, 0, (Entry(6, 7, b"", 5),)),
        m.Append(7, 5, 6, 0, 0, (Entry(6, 7, bytes(PAYLOAD_MAX + 1)),)),
        m.Append(7, 5, 6, 0, 0, (Entry(6, 7, bytes(PAYLOAD_MAX)), Entry(7, 7, bytes(PAYLOAD_MAX)))),
        m.Append(7, 5, 6, 0, 0, (Entry(6, 7, "text"),)),  # type: ignore[arg-type]
        m.PreVoteReply(7, 1),  # type: ignore[arg-type]
        wire.Refusal("\udcff", "x"),
        "not a message",
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_would_be_refused_is_not_sent(value: Any) -> None:
    with pytest.raises(WireError):
        encode(value)


def test_the_largest_entry_passes() -> None:
    append = m.Append(7, 5, 6, 0, 0, (Entry(6, 7, bytes(PAYLOAD_MAX)),))
    assert decode(encode(append)) == append


@given(st.lists(st.binary(max_size=50), max_size=20), st.data())
def test_frames_are_found_wherever_the_stream_is_cut(frames: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(wire.framed, frames))
    splitter, found, at = wire.FrameSplitter(), [], 0
    while at < len(stream):
        size = data.draw(st.integers(1, 40))
        splitter.feed(stream[at : at + size])
        at += size
        while (one := splitter.take()) is not None:
            found.append(one)
    assert found == frames


def test_a_length_beyond_the_limit_ends_it_before_its_bytes_are_there() -> None:
    splitter = wire.FrameSplitter()
    splitter.feed(struct.pack(">I", 1 << 30) + b"x")
    with pytest.raises(WireError, match="1073741824 bytes"):
        splitter.take()
    assert len(splitter._buffer) < 100


def test_the_limit_holds_from_the_next_frame_on() -> None:
    splitter = wire.FrameSplitter(limit=2)
    splitter.feed(wire.framed(b"ab") + wire.framed(b"abc"))
    assert splitter.take() == b"ab"
    splitter.limit = 3
    assert splitter.take() == b"abc"
    assert splitter.take() is None
