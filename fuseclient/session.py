"""One session with the metadata service, without any I/O: what was asked, what was answered, what is held open.

It turns requests into frames and responses into results; meta_client.py moves the frames. Rules:
 - A request is encoded once, when it is submitted, and what is sent again after a loss is the same bytes: same seq, same
   operation, in the order of submission. So the service's exactly-once rule (meta.proto) covers every change.
 - A change keeps its place until it is answered, also when its caller is gone: the watermark of answered seqs, which lets the
   service forget results, may only pass it then. A read nobody waits for any more is dropped if it was not sent yet.
 - Requests beyond the limits wait in line; the line is first in, first out.
 - `_held` counts open handles per inode. A request with `opens` takes a hold when its response arrives, before its caller
"""

from __future__ import annotations

import asyncio
import errno
import struct
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fuseclient.errors import FsError
from protos import meta_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable

_REQUESTS: Final = 0x12  # field 2, length-delimited
_ACKED_SEQ: Final = b"\x18"  # field 3, varint
_RELEASED: Final = b"\x22"  # field 4, packed fixed64
#: What gives the session an open file.
_OPENING: Final = frozenset(("open", "create", "tmpfile"))
_DETACH: Final = b"\x28\x01"  # field 5 = true

NEVER: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Limits:
    """Below what the service accepts (docs/WIRE.md)."""

    in_flight_requests: int = 4096
    in_flight_bytes: int = 32 << 20
    frame_requests: int = 1024
    frame_bytes: int = 4 << 20  # a single larger request has a frame of its own
    request_bytes: int = 7 << 20
    frame_released: int = 4096


class _Pending:
    __slots__ = ("deadline_s", "future", "id", "opens", "raw", "seq")

    def __init__(
        self, id: int, seq: int, raw: bytes, opens: bool, deadline_s: float, future: asyncio.Future[pb.Response]
    ) -> None:
        self.id = id
        self.seq = seq
        self.raw = raw  # as it stands in a ClientFrame: tag, length, Request
        self.opens = opens
        self.deadline_s = deadline_s
        self.future = future


class Session:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._last_id = 0
        self._pending: dict[int, _Pending] = {}  # unanswered, by id, so in the order of submission
        self.id = 0
        self.secret = b""
        self._begin()

    def _begin(self) -> None:
        self._last_seq = 0
        self._acked_seq = 0
        self._answered: set[int] = set()  # seqs above the watermark
        self._waiting: deque[_Pending] = deque()  # not sent on this stream, a subset of _pending
        self._in_flight = 0
        self._in_flight_bytes = 0
        self._held: dict[int, int] = {}
        self._released: dict[int, None] = {}  # not held any more, and the service does not know it yet
        self._openings_in_flight = 0
        self._insist = False

    @property
    def acked_seq(self) -> int:
        """Every seq up to here is answered."""
        return self._acked_seq

    @property
    def unanswered(self) -> int:
        return len(self._pending)

    @property
    def in_flight(self) -> int:
        """Requests that were sent on this stream and have no answer."""
        return self._in_flight

    @property
    def wants_frame(self) -> bool:
        """Something may be sent now that could not be sent before the last `take`."""
        return bool(self._waiting) or (self._insist and bool(self._released) and not self._openings_in_flight)

    @property
    def has_releases(self) -> bool:
        return bool(self._released)

    def held(self) -> dict[int, int]:
        """Open handles per inode."""
        return dict(self._held)

    # requests

    def submit(self, request: pb.Request, *, change: bool, deadline_s: float = NEVER) -> asyncio.Future[pb.Response]:
        """Put `request` in line. Its id is set here, and its seq when it changes something."""
        future: asyncio.Future[pb.Response] = self._loop.create_future()
        self._last_id = request.id = id = self._last_id + 1
        seq = self._last_seq + 1 if change else 0
        request.seq = seq
        body = request.SerializeToString()
        if len(body) > self._limits.request_bytes:
            future.set_exception(FsError(errno.E2BIG, f"a request of {len(body)} bytes"))
            return future
        if change:
            self._last_seq = seq
        opens = request.WhichOneof("op") in _OPENING
        pending = _Pending(id, seq, _delimited(body), opens, deadline_s, future)
        self._pending[id] = pending
        self._waiting.append(pending)
        return future

    def next_frame(self, *, due: bool = False) -> bytes | None:
        """What can be sent now, or None. With `due` there is always a frame: it carries what waits for company otherwise."""
        releases = b""
        if self._released and not self._openings_in_flight and (due or self._insist or self._waiting):
            releases = self._next_releases()
        parts = self._next_requests()
        if releases:
            parts.append(releases)
        elif not parts and not due:
            return None
        if self._acked_seq:
            parts.append(_ACKED_SEQ + _varint(self._acked_seq))
        return b"".join(parts)

    def detach_frame(self) -> bytes:
        return (_ACKED_SEQ + _varint(self._acked_seq) if self._acked_seq else b"") + _DETACH

    def _next_requests(self) -> list[bytes]:
        limits, waiting = self._limits, self._waiting
        parts: list[bytes] = []
        size = 0
        while waiting and self._in_flight < limits.in_flight_requests and len(parts) < limits.frame_requests:
            pending = waiting[0]
            cost = len(pending.raw)
            if parts and size + cost > limits.frame_bytes:
                break
            if self._in_flight and self._in_flight_bytes + cost > limits.in_flight_bytes:
                break
            if pending.opens and self._insist and self._released:
                break
            waiting.popleft()
            if pending.seq == 0 and pending.future.done():
                del self._pending[pending.id]
                continue
            parts.append(pending.raw)
            size += cost
            self._openings_in_flight += pending.opens
            self._in_flight += 1
            self._in_flight_bytes += cost
        return parts

    def _next_releases(self) -> bytes:
        inodes = list(self._released)[: self._limits.frame_released]
        for ino in inodes:
            del self._released[ino]
        self._insist = self._insist and bool(self._released)
        return _RELEASED + _varint(8 * len(inodes)) + struct.pack(f"<{len(inodes)}Q", *inodes)

    # responses

    def take(self, responses: Iterable[pb.Response]) -> None:
        """Settle the requests that these answer. A response to something unknown is ignored."""
        pop = self._pending.pop
        for response in responses:
            pending = pop(response.id, None)
            if pending is None:
                continue
            self._in_flight -= 1
            self._in_flight_bytes -= len(pending.raw)
            if pending.seq:
                self._settle(pending.seq)
            if pending.opens:
                self._opened(pending, response)
            future = pending.future
            if future.done():  # cancelled, or its deadline has passed
                continue
            if response.errno:
                future.set_exception(FsError(response.errno, response.detail))
            else:
                future.set_result(response)

    def _settle(self, seq: int) -> None:
        if seq != self._acked_seq + 1:
            self._answered.add(seq)
            return
        answered = self._answered
        while seq + 1 in answered:
            seq += 1
            answered.remove(seq)
        self._acked_seq = seq

    def _opened(self, pending: _Pending, response: pb.Response) -> None:
        self._openings_in_flight -= 1
        if response.errno or not response.attr:
            return
        ino = int.from_bytes(response.attr[:8], "little")
        self.hold(ino)
        if pending.future.done():  # nobody is left who would close it
            self.release(ino)

    def pass_deadlines(self, now_s: float) -> None:
        """Fail what waited too long. A change stays in line: it may have happened, and its answer must be waited for."""
        for pending in self._pending.values():
            if pending.deadline_s <= now_s and not pending.future.done():
                pending.future.set_exception(FsError(errno.ETIMEDOUT, "the metadata service did not answer in time"))

    # open inodes

    def hold(self, ino: int) -> None:
        """One more open handle."""
        self._held[ino] = self._held.get(ino, 0) + 1
        self._released.pop(ino, None)

    def release(self, ino: int) -> None:
        """One handle less. Of an inode that is not held it means nothing (its session has expired)."""
        count = self._held.get(ino, 0)
        if count > 1:
            self._held[ino] = count - 1
        elif count:
            del self._held[ino]
            self._released[ino] = None

    def insist_on_releases(self) -> None:
        """Releases have waited long enough: no opening request is sent until they are."""
        self._insist = bool(self._released)

    # streams

    def attach(self, volume: str, subdir: bytes, client: str) -> pb.Attach:
        """The first message of a stream: a new session, or this one taken up again with what it holds open."""
        return pb.Attach(
            volume=volume,
            subdir=subdir,
            session=self.id,
            secret=self.secret,
            client=client,
            open_inodes=list(self._held) if self.id else (),
            protocol=1,
        )

    def holds_only(self, told: Iterable[int]) -> bool:
        """Whether every inode that is held is among those that an attach has named."""
        return self._held.keys() <= set(told)

    def resume(self, told: Iterable[int]) -> None:
        """A new stream has taken the session up: everything unanswered goes out again. `told`: the inodes that the attach said
        are held open, so what was released since then has to be said again, and nothing else."""
        self._released = {ino: None for ino in told if ino not in self._held}
        self._insist = False
        self._in_flight = self._in_flight_bytes = self._openings_in_flight = 0
        for pending in [p for p in self._pending.values() if p.seq == 0 and p.future.done()]:
            del self._pending[pending.id]
        self._waiting = deque(self._pending.values())

    def end(self, error: FsError) -> None:
        """The session is no more: what is unanswered fails, nothing is held, and the next attach begins a new one."""
        pending, self._pending = self._pending, {}
        self.id = 0
        self.secret = b""
        self._begin()
        for one in pending.values():
            if not one.future.done():
                one.future.set_exception(FsError(error.errno, error.detail))


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _delimited(body: bytes) -> bytes:
    """`body` as an element of ClientFrame.requests. Serialized messages may be concatenated, so a frame is a join of these;
    measured, that costs a third of building a ClientFrame around a single request."""
    size = len(body)
    if size < 0x80:
        return bytes((_REQUESTS, size)) + body
    return b"\x12" + _varint(size) + body
