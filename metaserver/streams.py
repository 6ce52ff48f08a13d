"""One connected stream as its session sees it: what is queued to go out, what is in flight, and how it ends.

Everything that has queued up while the last frame was being sent leaves as the next frame; frames are cut when they grow
large. Whoever answers writes straight into the frame that is being gathered (`frame`, then `wake`), which spares a copy.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

import grpc

from protos import meta_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from metaserver.conversations import Conversations

FRAME_BYTES_AIM: Final = 1 << 20
FRAME_RESPONSES_MAX: Final = 2048
#: Unsent bytes beyond which no more requests are read, and beyond which a client that takes nothing is given up.
BACKLOG_PAUSE_BYTES: Final = 4 << 20
BACKLOG_END_BYTES: Final = 256 << 20

_RESPONSE_BYTES: Final = 300  # a usual answer; larger ones are accounted for by whoever writes them
_NOTIFICATION_BYTES: Final = 24


class Ending(NamedTuple):
    """How a stream ends; `reason` is one of those in docs/WIRE.md, `leader` the node to go to (host:port), if it is known."""

    code: grpc.StatusCode
    reason: str
    detail: str
    errno: int = 0
    leader: str = ""


DETACHED: Final = Ending(grpc.StatusCode.OK, "", "")
REPLACED: Final = Ending(grpc.StatusCode.ABORTED, "replaced", "a newer stream of this session is there")
EXPIRED: Final = Ending(grpc.StatusCode.ABORTED, "session-expired", "the session was silent for too long and has expired")
STARTING: Final = Ending(grpc.StatusCode.UNAVAILABLE, "starting", "the server is still reading its log; try again")
STOPPING: Final = Ending(grpc.StatusCode.UNAVAILABLE, "stopping", "the server is stopping; take the session up again")
FAILED: Final = Ending(grpc.StatusCode.UNAVAILABLE, "failed", "the server failed and stops")
GONE: Final = Ending(grpc.StatusCode.UNAVAILABLE, "failed", "the connection is gone")
SLOW: Final = Ending(grpc.StatusCode.UNAVAILABLE, "failed", "the client does not read what it is sent")


def broken(detail: str) -> Ending:
    """The client broke a rule of the protocol."""
    return Ending(grpc.StatusCode.INVALID_ARGUMENT, "bad-frame", detail)


def _nobody() -> None:
    """Nobody sends yet."""


class Stream:
    """The server's end of one stream. `bit` names it in the table of watches."""

    def __init__(self, *, volume: int = 0, session: int = 0) -> None:
        self.volume = volume
        self.session = session
        self.bit = 0
        self.home: Conversations | None = None  # where its frames are taken to
        self.in_flight = 0  # changes and reads without result
        self.ending: Ending | None = None
        self.detaching = False  # the client has sent its last frame
        self.frame = meta_pb2.ServerFrame()
        self._ready: list[bytes] = []  # frames that are cut
        self._ready_bytes = 0
        self._extra_bytes = 0  # of `frame`, beyond the usual size of its answers
        self._told: set[int] = set()  # inode notifications in `frame`: (ino << 1) | data
        self.on_wake: Callable[[], None] = _nobody  # told that there is something to send, or that the stream is to end
        self._relief: asyncio.Future[None] | None = None

    @property
    def backlog_bytes(self) -> int:
        """About how much is not sent yet."""
        frame = self.frame
        return (
            self._ready_bytes
            + self._extra_bytes
            + len(frame.responses) * _RESPONSE_BYTES
            + len(frame.notifications) * _NOTIFICATION_BYTES
        )

    def wake(self) -> None:
        """Something was added to `frame`."""
        self.on_wake()

    def account(self, size: int) -> None:
        """An answer of `size` bytes, larger than usual, was added to `frame`; cut it when it is full."""
        self._extra_bytes += size
        if self._extra_bytes >= FRAME_BYTES_AIM or len(self.frame.responses) >= FRAME_RESPONSES_MAX:
            self.cut()

    def notify_inode(self, ino: int, data: bool) -> None:
        """Queue InvalInode, once per frame. One with data covers one without."""
        if (ino << 1) | 1 in self._told or (not data and ino << 1 in self._told):
            return
        self._told.add((ino << 1) | data)
        note = self.frame.notifications.add().inval_inode
        note.ino = ino
        note.data = data
        self._notified()

    def notify_entry(self, parent: int, name: bytes) -> None:
        """Queue InvalEntry."""
        note = self.frame.notifications.add().inval_entry
        note.parent = parent
        note.name = name
        self._notified()

    def notify_deletes(self, slices: int) -> None:
        """Queue DeletesWaiting."""
        self.frame.notifications.add().deletes_waiting.slices = slices
        self.wake()

    def notify_lock(self, seq: int) -> None:
        """Queue LockGranted."""
        self.frame.notifications.add().lock_granted.seq = seq
        self.wake()

    def notify_members(self, addresses: Iterable[str]) -> None:
        """Queue Members."""
        self.frame.notifications.add().members.addresses.extend(addresses)
        self.wake()

    def notify_expired(self, reason: str) -> None:
        """Queue SessionExpired."""
        self.frame.notifications.add().session_expired.reason = reason
        self.wake()

    def end(self, ending: Ending) -> None:
        """Send what is queued, then end the stream so. The first ending counts."""
        if self.ending is None:
            self.ending = ending
        self.wake()
        self.relieve()

    def relieve(self) -> None:
        """Something that `pause` waits for may have come true."""
        relief, self._relief = self._relief, None
        if relief is not None and not relief.done():
            relief.set_result(None)

    def full(self, in_flight_max: int) -> bool:
        """Too many requests are in flight, or too much is unsent."""
        return self.in_flight >= in_flight_max or self.backlog_bytes >= BACKLOG_PAUSE_BYTES

    async def pause(self, in_flight_max: int) -> None:
        """Wait while too many requests are in flight or too much is unsent, unless the stream ends."""
        while self.ending is None and self.full(in_flight_max):
            if self._relief is None:
                self._relief = asyncio.get_running_loop().create_future()
            await self._relief

    @property
    def unsent(self) -> bool:
        """Whether `gather` would return anything."""
        frame = self.frame
        return bool(self._ready or frame.responses or frame.notifications or frame.HasField("attached"))

    def gather(self) -> list[bytes]:
        """The frames to send now."""
        self.cut()
        ready, self._ready = self._ready, []
        self._ready_bytes = 0
        return ready

    async def send_all(self, write: Callable[[bytes], Awaitable[None]]) -> Ending:
        """Write frames as they come until the stream is to end; how it is to end."""
        woken = asyncio.Event()
        self.on_wake = woken.set
        while True:
            woken.clear()
            for raw in self.gather():
                await write(raw)
            self.relieve()
            if self.unsent:
                continue
            if self.ending is not None:
                return self.ending
            await woken.wait()

    def _notified(self) -> None:
        if len(self.frame.notifications) & 0xFFF == 0 and self.backlog_bytes > BACKLOG_END_BYTES:
            self._drop_all()
            self.end(SLOW)
            return
        self.wake()

    def cut(self) -> None:
        """What is added from now on goes into another frame."""
        frame = self.frame
        if not frame.responses and not frame.notifications and not frame.HasField("attached"):
            return
        raw = frame.SerializeToString()
        self._ready.append(raw)
        self._ready_bytes += len(raw)
        self.frame = meta_pb2.ServerFrame()
        self._extra_bytes = 0
        self._told.clear()

    def _drop_all(self) -> None:
        self._ready.clear()
        self._ready_bytes = 0
        self.frame = meta_pb2.ServerFrame()
        self._extra_bytes = 0
        self._told.clear()
