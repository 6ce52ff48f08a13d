"""What nodes say to each other as bytes: the only translator between protos/peer.proto and messages.py. docs/PEERS.md draws it.

Rules:
- One table row per kind of frame says its fields and their bounds. They hold both ways, so nothing leaves that the other side
  would refuse.
- Decoding is total: any bytes give a value or a WireError, and nothing is made of a length before it was compared with a limit.
- Appends are the hot path. Payloads are a list of their own and terms are run-length coded, so that entries cost no Python of
  their own: 0.2 us each to write and 0.4 us to read.

Pure. Who may say what when is peer_connection.py's business.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import partial
from itertools import groupby, repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from google.protobuf.message import DecodeError

from protos import peer_pb2 as pb
from raft import messages as m
from raft.membership import NAME
from raft.record import KINDS, PAYLOAD_MAX, Entry

if TYPE_CHECKING:
    from collections.abc import Sequence

PROTOCOL: Final = 1
FRAME_BYTES_MAX: Final = PAYLOAD_MAX + (2 << 20)
STRANGER_BYTES_MAX: Final = 4096  # a frame before both sides have recognised each other
ENTRIES_MAX: Final = 1 << 18  # in one Append
NUMBER_MAX: Final = (1 << 63) - 1
DIGEST_MAX: Final = 64
NONCE_SIZE: Final = 16
REASON_MAX: Final = 32
DETAIL_MAX: Final = 1024
PREFIX: Final = struct.Struct(">I")

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


class WireError(Exception):
    """These bytes are no frame, or this value cannot be one. The text says why; it holds nothing of the content."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The first frame of either side: who it is, which disk it has, and how far that disk has come."""

    cluster_id: str
    name: str
    incarnation: str
    start: int  # how often this disk was started
    start_nonce: bytes
    term: int
    last_index: int  # durable
    last_term: int
    membership_index: int  # of the members it goes by; 0 also when it knows none
    protocol: int = PROTOCOL


@dataclass(frozen=True, slots=True)
class Welcome:
    """Your Hello is accepted. Of two connections of a pair, the one whose Welcome has the larger serial stays."""

    serial: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the sender ends the connection: a word of peer_admission.Reason, and a sentence for people."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there? The answer repeats `id`."""

    id: int


@dataclass(frozen=True, slots=True)
class Pong:
    id: int


Control = Hello | Welcome | Refusal | Ping | Pong


class _Number(NamedTuple):
    least: int = 0
    most: int = NUMBER_MAX


class _Bytes(NamedTuple):
    least: int = 0
    most: int = DIGEST_MAX


class _Text(NamedTuple):
    most: int = 64
    shape: re.Pattern[str] = re.compile(r".+", re.DOTALL)


class _Flag(NamedTuple):
    pass


_Bound = _Number | _Bytes | _Text | _Flag
_ANY: Final = _Number()
_SOME: Final = _Number(least=1)
_FLAG: Final = _Flag()


class _Row(NamedTuple):
    """A kind of frame. `term` bounds the frame's own term; None: it has none. `fields` are in the order of the value's."""

    value: type[Any]
    kind: str
    term: _Number | None
    fields: dict[str, _Bound]


#: A question comes from a node that is in some term; an answer may come from one that was never in any.
_ROWS: Final = (
    _Row(m.PreVote, "pre_vote", _SOME, {"last_index": _ANY, "last_term": _ANY}),
    _Row(m.PreVoteReply, "pre_vote_reply", _ANY, {"granted": _FLAG}),
    _Row(m.Vote, "vote", _SOME, {"last_index": _ANY, "last_term": _ANY, "transfer": _FLAG}),
    _Row(m.VoteReply, "vote_reply", _ANY, {"granted": _FLAG}),
    _Row(m.Append, "append", _SOME, {"prev_index": _ANY, "prev_term": _ANY, "commit": _ANY, "round": _ANY}),
    _Row(
        m.AppendReply,
        "append_reply",
        _ANY,
        {"success": _FLAG, "match": _ANY, "round": _ANY, "point": _ANY, "digest": _Bytes()},
    ),
    _Row(m.TimeoutNow, "timeout_now", _SOME, {}),
    _Row(m.ReadIndex, "read_index", _ANY, {"id": _ANY}),
    _Row(m.ReadIndexReply, "read_index_reply", _ANY, {"id": _ANY, "index": _ANY}),
    _Row(
        m.SnapshotOffer,
        "snapshot_offer",
        _SOME,
        {"index": _SOME, "index_term": _ANY, "size": _SOME, "checksum": _Bytes(least=1)},
    ),
    _Row(m.SnapshotPull, "snapshot_pull", _ANY, {"index": _SOME, "index_term": _ANY, "offset": _ANY}),
    _Row(
        m.SnapshotPiece,
        "snapshot_piece",
        _ANY,
        {"index": _SOME, "index_term": _ANY, "offset": _ANY, "data": _Bytes(most=PAYLOAD_MAX)},
    ),
    _Row(m.Diverged, "diverged", _SOME, {"index": _SOME}),
    _Row(m.StateReport, "state_report", _SOME, {"index": _SOME, "digest": _Bytes(least=1)}),
    _Row(
        Hello,
        "hello",
        None,
        {
            "cluster_id": _Text(shape=_UUID),
            "name": _Text(shape=NAME),
            "incarnation": _Text(shape=_UUID),
            "start": _SOME,
            "start_nonce": _Bytes(NONCE_SIZE, NONCE_SIZE),
            "term": _ANY,
            "last_index": _ANY,
            "last_term": _ANY,
            "membership_index": _ANY,
            "protocol": _Number(1, (1 << 32) - 1),
        },
    ),
    _Row(Welcome, "welcome", None, {"serial": _SOME}),
    _Row(Refusal, "refusal", None, {"reason": _Text(REASON_MAX), "detail": _Text(DETAIL_MAX)}),
    _Row(Ping, "ping", None, {"id": _ANY}),
    _Row(Pong, "pong", None, {"id": _ANY}),
)
_BY_VALUE: Final = {row.value: row for row in _ROWS}
_BY_KIND: Final = {row.kind: row for row in _ROWS}

_new_entry = partial(tuple.__new__, Entry)  # the constructor of a NamedTuple is Python, this one is not
_term_and_kind = attrgetter("term", "kind")


# -- values to bytes -----------------------------------------------------------------------------------------------------


def encode(value: m.Message | Control) -> bytes:
    """The frame's bytes, without their length. Raises WireError for what `decode` would not give back."""
    row = _BY_VALUE.get(type(value))
    if row is None:
        raise WireError(f"{type(value).__name__} is no message")
    frame = pb.Frame()
    body = getattr(frame, row.kind)
    body.SetInParent()
    try:
        if row.term is not None:
            frame.term = _within(row, "term", row.term, value.term)  # type: ignore[union-attr]  # the row says it has one
        for name, bound in row.fields.items():
            setattr(body, name, _within(row, name, bound, getattr(value, name)))
        if type(value) is m.Append and value.entries:
            _encode_entries(value, body)
        data = frame.SerializeToString()
    except (TypeError, ValueError, struct.error) as error:
        raise WireError(f"{row.kind}: {error}") from error
    if len(data) > FRAME_BYTES_MAX:
        raise WireError(f"{row.kind}: a frame of {len(data)} bytes; the limit is {FRAME_BYTES_MAX}")
    return data


def framed(data: bytes) -> bytes:
    """With its length before it, as it goes out."""
    return PREFIX.pack(len(data)) + data


def _encode_entries(append: m.Append, body: pb.Append) -> None:
    indexes, terms, payloads, kinds = zip(*append.entries, strict=True)
    first, count = append.prev_index + 1, len(indexes)
    if indexes[0] != first or indexes[-1] != first + count - 1:
        raise WireError(f"append: entries {indexes[0]}..{indexes[-1]} ({count}) do not follow {append.prev_index}")
    runs: list[tuple[int, int, int]]
    if terms.count(terms[0]) == count and kinds.count(kinds[0]) == count:
        runs = [(count, terms[0], kinds[0])]
    else:
        runs = [(sum(1 for _ in run), term, kind) for (term, kind), run in groupby(append.entries, _term_and_kind)]
    _check_runs(append.term, append.prev_index, append.prev_term, runs, payloads)
    for number, term, kind in runs:
        body.runs.add(count=number, term=term, kind=kind)
    body.payloads.extend(payloads)


# -- bytes to values -----------------------------------------------------------------------------------------------------


def decode(data: bytes) -> m.Message | Control:
    """The value of a frame (without its length). Raises WireError, and nothing else, for whatever is no frame."""
    if len(data) > FRAME_BYTES_MAX:
        raise WireError(f"a frame of {len(data)} bytes; the limit is {FRAME_BYTES_MAX}")
    try:
        frame = pb.Frame.FromString(data)
    except (DecodeError, ValueError) as error:  # ValueError: a text that is no UTF-8, in some versions of protobuf
        raise WireError(f"{len(data)} bytes that are no frame") from error
    kind = frame.WhichOneof("kind")
    if kind is None:
        raise WireError("a frame of a kind that this version does not know")
    row = _BY_KIND[kind]
    body = getattr(frame, kind)
    values = [_within(row, name, bound, getattr(body, name)) for name, bound in row.fields.items()]
    if row.term is None:
        if frame.term:
            raise WireError(f"{kind}: it has no term of its own")
        return cast("Control", row.value(*values))
    term = _within(row, "term", row.term, frame.term)
    if row.value is m.Append:
        values.append(_decode_entries(term, body))
    return cast("m.Message", row.value(term, *values))


def _decode_entries(term: int, body: pb.Append) -> tuple[Entry, ...]:
    if len(body.payloads) > ENTRIES_MAX or len(body.runs) > len(body.payloads):
        raise WireError(f"append: {len(body.payloads)} entries in {len(body.runs)} runs; the limit is {ENTRIES_MAX}")
    payloads = list(body.payloads)
    runs = [(run.count, run.term, run.kind) for run in body.runs]
    prev_index = body.prev_index
    _check_runs(term, prev_index, body.prev_term, runs, payloads)
    entries: list[Entry] = []
    at = 0
    for count, run_term, kind in runs:
        first = prev_index + 1 + at
        part = payloads[at : at + count]
        entries += map(_new_entry, zip(range(first, first + count), repeat(run_term), part, repeat(kind), strict=False))
        at += count
    return tuple(entries)


# -- bounds ----------------------------------------------------------------------------------------------------------------


def _within(row: _Row, name: str, bound: _Bound, value: Any) -> Any:
    if type(bound) is _Number:
        if bound.least <= value <= bound.most:
            return value
    elif type(bound) is _Flag:
        if isinstance(value, bool):
            return value
    elif type(bound) is _Bytes:
        if bound.least <= len(value) <= bound.most:
            return value
    elif type(bound) is _Text and len(value) <= bound.most and bound.shape.fullmatch(value):
        return value
    raise WireError(f"{row.kind}: {name} is missing or out of bounds")


def _check_runs(
    term: int, prev_index: int, prev_term: int, runs: Sequence[tuple[int, int, int]], payloads: Sequence[bytes]
) -> None:
    """What is true of every log: terms never fall, none is newer than the leader's, kinds are known, payloads fit a record."""
    if not payloads:
        if runs:
            raise WireError("append: runs without entries")
        return
    last_term = max(prev_term, 1)
    for count, run_term, kind in runs:
        if not count or not last_term <= run_term <= term or kind not in KINDS:
            raise WireError("append: an entry of no or an impossible term, or of an unknown kind")
        last_term = run_term
    if sum(run[0] for run in runs) != len(payloads):
        raise WireError(f"append: terms do not cover the {len(payloads)} entries")
    if len(payloads) > ENTRIES_MAX:
        raise WireError(f"append: {len(payloads)} entries; the limit is {ENTRIES_MAX}")
    if prev_index + len(payloads) > NUMBER_MAX:
        raise WireError("append: an index out of bounds")
    if max(map(len, payloads)) > PAYLOAD_MAX:
        raise WireError(f"append: an entry of more than {PAYLOAD_MAX} bytes")


# -- a stream of bytes to frames -------------------------------------------------------------------------------------------


class FrameSplitter:
    """Finds the frames in a stream. Holds one incomplete frame and the last chunk, never more than `limit` foresees."""

    def __init__(self, limit: int = STRANGER_BYTES_MAX) -> None:
        self.limit = limit  # of the next frame's bytes
        self._buffer = bytearray()
        self._at = 0  # where the next frame begins

    def feed(self, data: bytes) -> None:
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    def take(self) -> bytes | None:
        """The next whole frame, None while there is none. Raises WireError as soon as a length is beyond the limit."""
        start = self._at + PREFIX.size
        if start > len(self._buffer):
            return None
        (length,) = PREFIX.unpack_from(self._buffer, self._at)
        if length > self.limit:
            raise WireError(f"a frame of {length} bytes is announced; the limit is {self.limit}")
        end = start + length
        if end > len(self._buffer):
            return None
        frame = bytes(memoryview(self._buffer)[start:end])
        self._at = end
        if end == len(self._buffer):
            self._buffer.clear()  # a large frame's memory is not kept
            self._at = 0
        return frame
