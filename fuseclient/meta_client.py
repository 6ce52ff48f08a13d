"""The client's line to the metadata service: one session, one stream at a time, requests out and answers in.

    FileSystem -> read()/change() -> Session (in line) -> _pump -> MetaStream -> server
                  future <---------- Session.take() <---- frame <-

 - A request costs no task, and neither does a frame: `_pump` runs once per loop iteration in which something was asked, and
   sends whatever is in line as one frame; an answer goes from the socket to its future in one call.
 - Until something of a frame is answered, but at most for HOLD_BACK_S, the next frame fills. So a lone request goes at
   once, and many share the cost of a frame.
 - A lost stream is not a failure: requests wait, the session is taken up again (dialer.py finds the node, redial.py says when
   and in which order), and what has no answer is sent again. Only `Timeouts` end the waiting earlier.
 - A stream on which a request waits for long is doubted (`Pulse`): the other nodes are asked beside it, and one that leads
   takes its place. A leader that was frozen is deposed when it wakes; what it has done all the same is found by its seq.
 - When the session itself is over, everything unanswered fails with EIO and a new session is attached.
 - `on_reset(reason)`: LOST when a stream ends (what is cached is not kept true any more), RECONNECTED before the first answer
   of the next one, EXPIRED when the session is over: nothing is held open any more, and handles from before are dead.
 - Notifications of a frame are handed to `on_notification` before the responses of that frame are given out, so that whoever
   acts on a response cannot be served from a cache that the same frame has overtaken. staleness.py tells the rest.

The invariant that makes a response safe to act on: `Session` forgets a change only when it is answered.
"""

from __future__ import annotations

import asyncio
import errno
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from fuseclient.clock import LoopClock
from fuseclient.dialer import STAGGER_S, Dialer, Found, NotFound
from fuseclient.errors import ClientError, FsError
from fuseclient.id_ranges import INODES, SLICES, IdRanges
from fuseclient.meta_api import EXPIRED
from fuseclient.meta_stream import MetaStream, StreamEnd, StreamEnded
from fuseclient.redial import GROWTH, TICK_S, Backoff, Doubt, Pulse
from fuseclient.session import NEVER, Limits, Session
from fuseclient.tls import Access
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
    StreamEnd.DENIED: "Check the credentials: certificate and authority must be those of this cluster.",
    StreamEnd.INCOMPATIBLE: "Use the same release of keelfs on both sides, and the server's client port in the URL.",
}

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. Without a deadline a request waits as long as it takes. `attach_s`: one attempt at one node; `stagger_s`: its
    head start before the next node is tried beside it."""

    attach_s: float = 10.0
    stagger_s: float = STAGGER_S
    read_s: float | None = None
    change_s: float | None = None
    close_s: float = 5.0


class MetaClient:
    """See the module's text. Made by `connect`; implements MetaApi (meta_api.py)."""

    def __init__(
        self,
        url: VolumeUrl,
        client_name: str,
        access: Access,
        clock: Clock,
        rng: random.Random,
        timeouts: Timeouts,
        limits: Limits,
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
        self._dialer = Dialer(url.addresses, access, clock, attach_s=timeouts.attach_s, stagger_s=timeouts.stagger_s)
        self._backoff = Backoff(rng, growth=GROWTH)
        self._loop = asyncio.get_running_loop()
        self._stream: MetaStream | None = None  # while there is one
        self._outcome: asyncio.Future[StreamEnded | Found] | None = None  # how it ends: by itself, or for a better one
        self._pulse = Pulse()
        self._answered = 0
        self._pump_due = False
        self._unanswered_frame = False  # since the last frame nothing was answered
        self._held_back: asyncio.TimerHandle | None = None
        self._due = False  # the next frame goes out even if it is empty
        self._broken: FsError | None = None
        self._detaching = False
        self._goodbye_said = False
        self._drained: asyncio.Future[None] | None = None
        self._frames_sent = 0
        self._frames_at_heartbeat = 0
        self._heartbeat: Timer | None = None
        self._tick_timer: Timer | None = None
        self._probe: asyncio.Task[None] | None = None
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
        access: Access | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        timeouts: Timeouts | None = None,
        limits: Limits | None = None,
    ) -> MetaClient:
        """Attach to the volume at the node that serves. Raises ClientError, complete for the user."""
        client = cls(
            url,
            client_name,
            access or Access(),
            clock or LoopClock(),
            rng or random.Random(),
            timeouts or Timeouts(),
            limits or Limits(),
        )
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

    @property
    def frames_received(self) -> int:
        """On the stream in use."""
        return self._stream.received if self._stream is not None else 0

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
                self._wake_pump()
                await asyncio.wait([task], timeout=self._timeouts.close_s)
            task.cancel()
            await asyncio.wait([task])
        self._end_session("the metadata client is closed")
        for timer in (self._heartbeat, self._release_timer, self._deadline_timer, self._tick_timer):
            if timer is not None:
                timer.cancel()

    def _submit(self, request: pb.Request, change: bool, timeout_s: float | None) -> asyncio.Future[pb.Response]:
        if self._broken is not None:
            refused: asyncio.Future[pb.Response] = self._loop.create_future()
            refused.set_exception(FsError(self._broken.errno, self._broken.detail))
            return refused
        deadline_s = NEVER if timeout_s is None else self._deadline(timeout_s)
        future = self._session.submit(request, change=change, deadline_s=deadline_s)
        self._wake_pump()
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
        self._wake_pump()
        self._release_timer = self._clock.call_later(RELEASE_WAIT_S, self._releases_waited)

    def _beat(self) -> None:
        """Sends a frame when none was sent since the last call; also keeps a server's idea of acked_seq fresh."""
        if self._frames_sent == self._frames_at_heartbeat:
            self._due = True
            self._wake_pump()
        self._frames_at_heartbeat = self._frames_sent
        self._heartbeat = self._clock.call_later(self.ttl_s / HEARTBEATS_PER_TTL, self._beat)

    def _tick(self) -> None:
        """Doubt a stream on which something is missing, and act on it."""
        self._tick_timer = self._clock.call_later(TICK_S, self._tick)
        stream = self._stream
        if stream is None:
            return
        doubt = self._pulse.tick(stream.received, self._answered, waiting=self._session.in_flight > 0)
        if doubt is Doubt.NONE:
            return
        if Doubt.LOST in doubt:
            stream.end(StreamEnded(StreamEnd.LOST, "the server has fallen silent"))
        elif Doubt.PROBE in doubt and self._probe is None and self._dialer.has_others and not self._detaching:
            self._probe = asyncio.create_task(self._ask_others(), name="meta client's search for another leader")
        if Doubt.PING in doubt:
            stream.ping()

    # one stream

    async def _run(self, stream: MetaStream) -> None:
        """Serve this stream, and the ones after it, until `close`."""
        try:
            while True:
                outcome = await self._serve(stream)
                if self._detaching:
                    return
                stream = await self._redial(outcome) if isinstance(outcome, StreamEnded) else await self._take_over(outcome)
        except ClientError as error:
            _log.error("the volume is not usable any more", url=str(self.url), why=str(error))
            self._break(str(error))
        except Exception:
            _log.exception("the metadata client has failed", url=str(self.url))
            self._break("the metadata client has failed; see the log")

    async def _serve(self, stream: MetaStream) -> StreamEnded | Found:
        """Move frames until the stream ends, or another node is found to lead in its place; how it was."""
        self._stream = stream
        self._outcome = self._loop.create_future()
        self._pulse = Pulse()
        self._unanswered_frame = False
        self.connected = True
        stream.start(self)
        self._wake_pump()
        try:
            return await self._outcome
        finally:
            self.connected = False
            self._stream = None
            probe, self._probe = self._probe, None
            if probe is not None:
                probe.cancel()
                await asyncio.wait([probe])
            await stream.close()

    def _wake_pump(self) -> None:
        if not self._pump_due:
            self._pump_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Send what is in line, as far as the stream takes it and it need not wait for company."""
        self._pump_due = False
        stream, session = self._stream, self._session
        if stream is None:
            return
        while stream.writable:
            if self._unanswered_frame and session.wants_frame:
                self._hold_back()
                return
            due, self._due = self._due, False
            frame = session.next_frame(due=due)
            if frame is None:
                if self._detaching and not self._goodbye_said:
                    self._goodbye_said = True
                    stream.write(session.detach_frame())
                return
            self._frames_sent += 1
            self._unanswered_frame = session.unanswered > 0
            stream.write(frame)

    def _hold_back(self) -> None:
        """Gather what comes until something is answered. A frame costs as much as several requests, on either side."""
        if self._held_back is None:
            self._held_back = self._loop.call_later(HOLD_BACK_S, self._let_go)

    def _let_go(self) -> None:
        """Something was answered, or it took too long."""
        self._unanswered_frame = False
        if self._held_back is not None:
            self._held_back.cancel()
            self._held_back = None
        if self._session.wants_frame:
            self._wake_pump()

    # what the stream calls (meta_stream.Receiver)

    def frame(self, frame: pb.ServerFrame) -> None:
        session = self._session
        notifications = frame.notifications
        expired = self._notify(notifications) if notifications else None
        responses = frame.responses
        if responses:
            self._answered += 1
            session.take(responses)
            self._let_go()
            self._backoff.reset()
            if self._drained is not None and not session.unanswered and not self._drained.done():
                self._drained.set_result(None)
        if expired is not None:
            self.ended(expired)

    def writable(self) -> None:
        self._wake_pump()

    def ended(self, ended: StreamEnded) -> None:
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(ended)

    def _notify(self, notifications: Iterable[pb.Notification]) -> StreamEnded | None:
        """Hand them on; the stream's end if one of them says that the session is over."""
        over: StreamEnded | None = None
        for notification in notifications:
            what = notification.WhichOneof("what")
            if what == "members":
                self._dialer.learn(notification.members.addresses)
                continue
            if what == "session_expired":
                over = StreamEnded(StreamEnd.SESSION_OVER, notification.session_expired.reason or "expired")
                continue
            if what == "deletes_waiting" and self.on_deletes_waiting is not None:
                self.on_deletes_waiting()
            if self.on_notification is not None:
                self.on_notification(notification)
        return over

    # from stream to stream

    def _attach(self) -> pb.Attach:
        return self._session.attach(self.url.volume, self.url.subdir, self._client_name)

    async def _attach_first(self) -> MetaStream:
        try:
            found = await self._dialer.search(self._attach())
        except NotFound as failed:
            raise self._refusal(failed) from None
        try:
            self._adopt(found.attached)
        except ClientError:
            await found.stream.close()
            raise
        return found.stream

    async def _redial(self, ended: StreamEnded) -> MetaStream:
        """Another stream, however long it takes. Raises ClientError when there cannot be one."""
        if ended.end is StreamEnd.REPLACED and not self._dialer.recently_abandoned():
            raise ClientError("Another process has taken this session over.")
        self._stream_ended(ended)
        hint = ended.hint
        if hint is None:
            self._dialer.lost()
        while True:
            await self._clock.sleep(self._backoff.next())
            session = self._session.id
            try:
                found = await self._dialer.search(self._attach(), first=hint)
            except NotFound as failed:
                hint = None
                if failed.verdict is not None and session:  # whatever the service has against it, the session is over
                    self._expire(str(failed.verdict))
                elif failed.verdict is not None and failed.verdict.end is not StreamEnd.SESSION_OVER:
                    raise self._refusal(failed) from None
                else:
                    _log.debug("no node serves", url=str(self.url), why=str(failed))
                continue
            return await self._take_up(found, session)

    async def _ask_others(self) -> None:
        """Whether another node leads by now; then it takes the place of the one in use."""
        try:
            found = await self._dialer.search(self._attach(), others_only=True)
        except NotFound as failed:
            _log.debug("no other node leads", url=str(self.url), why=str(failed))
        else:
            if self._outcome is not None and not self._outcome.done():
                self._outcome.set_result(found)
            else:
                found.stream.abort()
        finally:
            self._probe = None

    async def _take_over(self, found: Found) -> MetaStream:
        """Go on with another node, which leads while the one in use does not answer."""
        _log.warning("the metadata server does not answer, another one leads", url=str(self.url), leader=str(found.address))
        if not self._session.holds_only(found.attach.open_inodes):  # an answer that came in between has opened something
            await found.stream.close()
            return await self._redial(StreamEnded(StreamEnd.LOST, "another node leads", hint=found.address))
        self._reset(LOST)
        return await self._take_up(found, self._session.id)

    async def _take_up(self, found: Found, session: int) -> MetaStream:
        """The session goes on, or a new one begins in its place. Raises ClientError when that cannot be."""
        if session and found.attached.session != session:
            self._expire("the server did not know it any more")
        try:
            self._resume(found)
        except ClientError:
            await found.stream.close()
            raise
        return found.stream

    def _stream_ended(self, ended: StreamEnded) -> None:
        if ended.end is StreamEnd.SESSION_OVER:
            self._expire(str(ended))
            return
        _log.warning("the connection to the metadata service is lost", url=str(self.url), why=str(ended))
        self._reset(LOST)

    def _resume(self, found: Found) -> None:
        attached = found.attached
        if attached.volume_id != self.volume_id or attached.root != self.root:
            raise ClientError(f"The volume behind {self.url} is not the one that was mounted. Unmount, and mount it again.")
        self.reconnects += 1
        self._adopt(attached)
        self._session.resume(found.attach.open_inodes)
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
        self._dialer.learn(attached.addresses)
        if self._tick_timer is None:
            self._tick_timer = self._clock.call_later(TICK_S, self._tick)
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

    def _refusal(self, failed: NotFound) -> ClientError:
        end = failed.end
        next_step = _WHAT_NEXT.get(end, _WHAT_NEXT[StreamEnd.LOST])
        return ClientError(f"Cannot attach to {self.url}: {failed}. {next_step}", exit_code=_EXIT.get(end, 1))
