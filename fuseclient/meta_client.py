"""The client's line to the metadata service: one session, one stream at a time, requests out and answers in.

    FileSystem -> read()/change() -> Session (in line) -> writer -> MetaStream -> server
                  future <---------- Session.take() <---- reader <-

 - A request costs no task. The writer sends whatever is in line as one frame; until something of it is answered, but at
   most for HOLD_BACK_S, the next frame fills. So a lone request goes at once, and many share the cost of a frame.
 - A lost stream is not a failure: requests wait, the session is taken up again (redial.py says when and where), and what has no
   answer is sent again. Only `Timeouts` end the waiting earlier.
 - When the session itself is over, everything unanswered fails with EIO and a new session is attached.
 - `on_reset(reason)`: LOST when a stream ends (what is cached is not kept true any more), RECONNECTED before the first answer
   of the next one, EXPIRED when the session is over: nothing is held open any more, and handles from before are dead.
 - Notifications of a frame are handed to `on_notification` before the responses of that frame are given out, so that whoever
   acts on a response cannot be served from a cache that the same frame has overtaken. staleness.py tells the rest.

The invariant that makes a response safe to act on: `Session` forgets a change only when it is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from fuseclient.clock import LoopClock
from fuseclient.errors import ClientError, FsError
from fuseclient.id_ranges import INODES, SLICES, IdRanges
from fuseclient.meta_api import EXPIRED
from fuseclient.meta_stream import MetaStream, StreamEnd, StreamEnded
from fuseclient.redial import Backoff, Endpoints
from fuseclient.session import NEVER, Limits, Session
from fuseclient.volume_settings import VolumeSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fuseclient.clock import Clock, Timer
    from fuseclient.volume_url import VolumeUrl
    from protos import meta_pb2 as pb

LOST: Final = "lost"
RECONNECTED: Final = "reconnected"
HOLD_BACK_S: Final = 0.002  # the longest that a request waits for company while another frame is unanswered
RELEASE_WAIT_S: Final = 0.1  # a release waits this long for a frame to ride on
RELEASE_TRIES: Final = 10  # and this many times longer for a moment without openings under way
HEARTBEATS_PER_TTL: Final = 4
#: The process's exit status (keelfs/exit_codes.py) for what a user has to mend.
_EXIT: Final = {StreamEnd.NO_VOLUME: 10, StreamEnd.LOST: 11, StreamEnd.DENIED: 12}
_WHAT_NEXT: Final = {
    StreamEnd.NO_VOLUME: "`keelfs volume list` shows what is there, `keelfs format` makes a volume.",
    StreamEnd.LOST: "Is the server running (`keelfs status`), and are the addresses right?",
    StreamEnd.DENIED: "Check the credentials.",
    StreamEnd.INCOMPATIBLE: "Use the same release of keelfs on both sides, and the server's client port in the URL.",
}

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. Without a deadline a request waits as long as it takes."""

    attach_s: float = 10.0
    read_s: float | None = None
    change_s: float | None = None
    close_s: float = 5.0


class MetaClient:
    """See the module's text. Made by `connect`; implements MetaApi (meta_api.py)."""

    def __init__(
        self, url: VolumeUrl, client_name: str, clock: Clock, rng: random.Random, timeouts: Timeouts, limits: Limits
    ) -> None:
        self.url = url
        self.on_notification: Callable[[pb.Notification], None] | None = None
        self.on_deletes_waiting: Callable[[], None] | None = None
        self.on_reset: Callable[[str], None] | None = None
        self.root = 0
        self.ttl_s = 0.0
        self.volume_id = 0
        self.reconnects = 0
        self.connected = False
        self._client_name = client_name
        self._clock = clock
        self._timeouts = timeouts
        self._session = Session(limits)
        self._endpoints = Endpoints(url.addresses)
        self._backoff = Backoff(rng)
        self._loop = asyncio.get_running_loop()
        self._idle_writer: asyncio.Future[None] | None = None
        self._unanswered_frame = False  # since the last frame nothing was answered
        self._held_back: asyncio.Future[None] | None = None
        self._due = False  # the next frame goes out even if it is empty
        self._broken: FsError | None = None
        self._detaching = False
        self._drained: asyncio.Future[None] | None = None
        self._frames_sent = 0
        self._frames_at_heartbeat = 0
        self._heartbeat: Timer | None = None
        self._release_timer: Timer | None = None
        self._release_tries = 0
        self._deadline_timer: Timer | None = None
        self._task: asyncio.Task[None] | None = None
        self._settings = VolumeSettings("")
        self.inode_ids = IdRanges(self, INODES)
        self.slice_ids = IdRanges(self, SLICES)

    @classmethod
    async def connect(
        cls,
        url: VolumeUrl,
        client_name: str,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        timeouts: Timeouts | None = None,
        limits: Limits | None = None,
    ) -> MetaClient:
        """Attach to the volume at the first address that answers. Raises ClientError, complete for the user."""
        client = cls(url, client_name, clock or LoopClock(), rng or random.Random(), timeouts or Timeouts(), limits or Limits())
        stream = await client._attach_first()
        client._task = asyncio.create_task(client._run(stream), name=f"meta client of {url}")
        return client

    @property
    def session_id(self) -> int:
        return self._session.id

    @property
    def settings(self) -> VolumeSettings:
        return self._settings

    @property
    def unanswered(self) -> int:
        """Requests that wait for their answer."""
        return self._session.unanswered

    # what the file system and the data path call

    def read(self, request: pb.Request) -> asyncio.Future[pb.Response]:
        """Ask. The future raises FsError. A response shares its frame's memory: take what is needed, do not keep it."""
        return self._submit(request, False, self._timeouts.read_s)

    def change(self, request: pb.Request) -> asyncio.Future[pb.Response]:
        """Change something, exactly once, also if the future is cancelled. The future raises FsError; done means durable."""
        return self._submit(request, True, self._timeouts.change_s)

    def hold(self, ino: int) -> None:
        """One more reason to keep the inode open at the server. The answer to an Open or a Create counts as one by itself."""
        self._session.hold(ino)

    def release(self, ino: int) -> None:
        """One reason less; with the last one the server is told, with the next frame or after RELEASE_WAIT_S."""
        self._session.release(ino)
        if self._release_timer is None and self._session.has_releases:
            self._release_timer = self._clock.call_later(RELEASE_WAIT_S, self._releases_waited)

    def held(self) -> dict[int, int]:
        """Reasons per inode that is held open."""
        return self._session.held()

    async def close(self) -> None:
        """Wait for answers, say goodbye, stop; at most `close_s` for each. What has no answer then fails with EIO."""
        if self._broken is None:
            self._broken = FsError(errno.EIO, "the metadata client is closed")
        task = self._task
        if task is not None and not task.done():
            if self._session.unanswered:
                self._drained = self._loop.create_future()
                await asyncio.wait([self._drained, task], timeout=self._timeouts.close_s, return_when=asyncio.FIRST_COMPLETED)
            if self.connected:
                self._detaching = True
                self._wake_writer()
                await asyncio.wait([task], timeout=self._timeouts.close_s)
            task.cancel()
            await asyncio.wait([task])
        self._end_session("the metadata client is closed")
        for timer in (self._heartbeat, self._release_timer, self._deadline_timer):
            if timer is not None:
                timer.cancel()

    def _submit(self, request: pb.Request, change: bool, timeout_s: float | None) -> asyncio.Future[pb.Response]:
        if self._broken is not None:
            refused: asyncio.Future[pb.Response] = self._loop.create_future()
            refused.set_exception(FsError(self._broken.errno, self._broken.detail))
            return refused
        deadline_s = NEVER if timeout_s is None else self._deadline(timeout_s)
        future = self._session.submit(request, change=change, deadline_s=deadline_s)
        self._wake_writer()
        return future

    # timers

    def _deadline(self, timeout_s: float) -> float:
        now = self._clock.time()
        if self._deadline_timer is None:
            self._deadline_timer = self._clock.call_later(min(1.0, timeout_s / 2), self._pass_deadlines)
        return now + timeout_s

    def _pass_deadlines(self) -> None:
        self._deadline_timer = None
        self._session.pass_deadlines(self._clock.time())
        if self._session.unanswered:
            shortest = min(t for t in (self._timeouts.read_s, self._timeouts.change_s) if t is not None)
            self._deadline_timer = self._clock.call_later(min(1.0, shortest / 2), self._pass_deadlines)

    def _releases_waited(self) -> None:
        self._release_timer = None
        if not self._session.has_releases:
            self._release_tries = 0
            return
        self._release_tries += 1
        if self._release_tries >= RELEASE_TRIES:
            self._session.insist_on_releases()
        self._due = True
        self._wake_writer()
        self._release_timer = self._clock.call_later(RELEASE_WAIT_S, self._releases_waited)

    def _beat(self) -> None:
        """Sends a frame when none was sent since the last call; also keeps a server's idea of acked_seq fresh."""
        if self._frames_sent == self._frames_at_heartbeat:
            self._due = True
            self._wake_writer()
        self._frames_at_heartbeat = self._frames_sent
        self._heartbeat = self._clock.call_later(self.ttl_s / HEARTBEATS_PER_TTL, self._beat)

    # one stream

    async def _run(self, stream: MetaStream) -> None:
        """Serve this stream, and the ones after it, until `close`."""
        try:
            while True:
                end = await self._serve(stream)
                if self._detaching:
                    return
                stream = await self._redial(end)
        except ClientError as error:
            _log.error("the volume is not usable any more", url=str(self.url), why=str(error))
            self._break(str(error))
        except Exception:
            _log.exception("the metadata client has failed", url=str(self.url))
            self._break("the metadata client has failed; see the log")

    async def _serve(self, stream: MetaStream) -> StreamEnded:
        """Move frames until the stream ends, and say how it did."""
        writer = asyncio.create_task(self._write_frames(stream), name="meta client's writer")
        writer.add_done_callback(lambda _: None if self._detaching else stream.abort())
        self.connected = True
        try:
            end = await self._read_frames(stream)
        finally:
            self.connected = False
            self._idle_writer = None
            writer.cancel()
            await asyncio.wait([writer])
            await stream.close()
        if not writer.cancelled():
            writer.result()  # a defect of ours is not a lost stream
        return end

    async def _write_frames(self, stream: MetaStream) -> None:
        session = self._session
        self._unanswered_frame = False
        with contextlib.suppress(StreamEnded):
            while True:
                if self._unanswered_frame and session.wants_frame:
                    await self._hold_back()
                due, self._due = self._due, False
                frame = session.next_frame(due=due)
                if frame is not None:
                    self._frames_sent += 1
                    self._unanswered_frame = session.unanswered > 0
                    await stream.write(frame)
                elif self._detaching:
                    await stream.write(session.detach_frame())
                    await stream.done_writing()
                    return
                else:
                    self._idle_writer = self._loop.create_future()
                    await self._idle_writer

    async def _hold_back(self) -> None:
        """Gather what comes until something is answered. A frame costs as much as ten requests, on either side."""
        self._held_back = held = self._loop.create_future()
        timer = self._loop.call_later(HOLD_BACK_S, self._let_go)
        try:
            await held
        finally:
            timer.cancel()
            self._held_back = None

    def _let_go(self) -> None:
        self._unanswered_frame = False
        if self._held_back is not None and not self._held_back.done():
            self._held_back.set_result(None)

    def _wake_writer(self) -> None:
        waiting = self._idle_writer
        if waiting is not None:
            self._idle_writer = None
            if not waiting.done():
                waiting.set_result(None)

    async def _read_frames(self, stream: MetaStream) -> StreamEnded:
        session = self._session
        while True:
            try:
                frame = await stream.read()
            except StreamEnded as ended:
                return ended
            notifications = frame.notifications
            expired = self._notify(notifications) if notifications else None
            responses = frame.responses
            if responses:
                session.take(responses)
                self._let_go()
                self._backoff.reset()
                if session.wants_frame:
                    self._wake_writer()
                if self._drained is not None and not session.unanswered and not self._drained.done():
                    self._drained.set_result(None)
            if expired is not None:
                return expired

    def _notify(self, notifications: Iterable[pb.Notification]) -> StreamEnded | None:
        """Hand them on; the stream's end if one of them says that the session is over."""
        over: StreamEnded | None = None
        for notification in notifications:
            what = notification.WhichOneof("what")
            if what == "session_expired":
                over = StreamEnded(StreamEnd.SESSION_OVER, notification.session_expired.reason or "expired")
                continue
            if what == "deletes_waiting" and self.on_deletes_waiting is not None:
                self.on_deletes_waiting()
            if self.on_notification is not None:
                self.on_notification(notification)
        return over

    # from stream to stream

    async def _attach_first(self) -> MetaStream:
        failures: list[tuple[str, StreamEnded]] = []
        for address in self._endpoints.all:
            try:
                stream, attached = await self._open()
            except StreamEnded as ended:
                failures.append((str(address), ended))
                if ended.end in (StreamEnd.NO_VOLUME, StreamEnd.DENIED):
                    break  # the cluster has spoken
                self._endpoints.advance()
            else:
                try:
                    self._adopt(attached)
                except ClientError:
                    await stream.close()
                    raise
                return stream
        raise self._refusal(failures)

    async def _open(self) -> tuple[MetaStream, pb.Attached]:
        attach = self._session.attach(self.url.volume, self.url.subdir, self._client_name)
        return await MetaStream.open(self._endpoints.current, attach, self._timeouts.attach_s)

    async def _redial(self, ended: StreamEnded) -> MetaStream:
        """Another stream, however long it takes. Raises ClientError when there cannot be one."""
        if ended.end is StreamEnd.REPLACED:
            raise ClientError("Another process has taken this session over.")
        self._stream_ended(ended)
        while True:
            await self._clock.sleep(self._backoff.next())
            session = self._session.id
            try:
                stream, attached = await self._open()
            except StreamEnded as error:
                if error.end is StreamEnd.LOST:
                    self._endpoints.advance()
                elif session:  # whatever the server has against taking it up, the session is over
                    self._expire(str(error))
                elif error.end is not StreamEnd.SESSION_OVER:
                    raise self._refusal([(str(self._endpoints.current), error)]) from None
                continue
            if session and attached.session != session:
                self._expire("the server did not know it any more")
            try:
                self._resume(attached)
            except ClientError:
                await stream.close()
                raise
            return stream

    def _stream_ended(self, ended: StreamEnded) -> None:
        if ended.end is StreamEnd.SESSION_OVER:
            self._expire(str(ended))
            return
        _log.warning("the connection to the metadata service is lost", url=str(self.url), why=str(ended))
        self._reset(LOST)

    def _resume(self, attached: pb.Attached) -> None:
        if attached.volume_id != self.volume_id or attached.root != self.root:
            raise ClientError(f"The volume behind {self.url} is not the one that was mounted. Unmount, and mount it again.")
        self.reconnects += 1
        self._adopt(attached)
        self._session.resume()
        _log.info("the metadata service is back", url=str(self.url), session=attached.session)
        self._reset(RECONNECTED)

    def _adopt(self, attached: pb.Attached) -> None:
        self._settings = VolumeSettings.parse(attached.settings_json)
        self._session.id = attached.session
        self._session.secret = attached.secret
        self.root = attached.root
        self.volume_id = attached.volume_id
        self.ttl_s = max(attached.ttl_ms, 1) / 1000
        self._due = False
        if self._heartbeat is None:
            self._heartbeat = self._clock.call_later(self.ttl_s / HEARTBEATS_PER_TTL, self._beat)

    def _expire(self, why: str) -> None:
        _log.error("the session is over; files that were open are lost", url=str(self.url), session=self.session_id, why=why)
        self._end_session(f"the session with the metadata service is over: {why}")
        self._reset(EXPIRED)

    def _end_session(self, why: str) -> None:
        self._session.end(FsError(errno.EIO, why))
        self.inode_ids.clear()
        self.slice_ids.clear()

    def _reset(self, reason: str) -> None:
        if self.on_reset is not None:
            self.on_reset(reason)

    def _break(self, why: str) -> None:
        self._broken = FsError(errno.EIO, why)
        self._end_session(why)
        self._reset(EXPIRED)

    def _refusal(self, failures: list[tuple[str, StreamEnded]]) -> ClientError:
        end = failures[-1][1].end
        why = "; ".join(f"{address}: {ended}" for address, ended in failures)
        next_step = _WHAT_NEXT.get(end, _WHAT_NEXT[StreamEnd.LOST])
        return ClientError(f"Cannot attach to {self.url}: {why}. {next_step}", exit_code=_EXIT.get(end, 1))
