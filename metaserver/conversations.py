"""The conversations with clients while this node leads: what each frame of a stream means.

Each request of a frame goes to queries or writes, and the answer to the stream. One object per reign (reign.py): its streams
end with it, and what comes late for one of them finds the old tables, where it does no harm.

Frames are decoded here, so that garbage ends its own stream with a clear status. No task is made per frame or request: changes
are answered by a callback when their entry is applied, reads while the frame is walked or, in a cluster, by a callback when
the state is known to be current, once for all reads of a frame. A bug or damage that shows while a frame is handled stops the
server (`on_fatal`): it must not be answered as if it were the client's.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import grpc

from metaserver import wire
from metaserver.barrier import NoQuorum
from metaserver.core import reads
from metaserver.core.entry import Create, Item, Result, TmpFile
from metaserver.core.errors import FsError
from metaserver.queries import QUERIES
from metaserver.sessions import AttachRefused
from metaserver.store.errors import StoreFull
from metaserver.streams import DETACHED, FAILED, GONE, STOPPING, Ending, Stream, broken
from raft.errors import NotLeader, ReplicationError, Stopped

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from metaserver.barrier import Barrier
    from metaserver.core.model import Ino, Volume
    from metaserver.core.txn import ReadTxn
    from metaserver.holds import Holds
    from metaserver.interest import Interest
    from metaserver.queries import Queries
    from metaserver.sessions import LiveSession, Sessions
    from metaserver.writes import Writes
    from protos import meta_pb2

    #: Reads of one frame: each with the name of its operation.
    Reads = list[tuple[meta_pb2.Request, str]]


#: What makes a file and holds it open in one.
_OPENING: Final = (Create, TmpFile)


class Pressure(Protocol):
    """What may ask new operations to wait: the checkpointer."""

    @property
    def overloaded(self) -> bool: ...

    def below_limit(self) -> Awaitable[None]: ...


class Conversations:
    """All streams of one reign."""

    def __init__(
        self,
        *,
        txn: ReadTxn,
        writes: Writes,
        sessions: Sessions,
        holds: Holds,
        interest: Interest,
        queries: Queries,
        pressure: Pressure,
        on_fatal: Callable[[BaseException], None],
        in_flight_max: int,
        barrier: Barrier | None = None,
        leader: Callable[[], str] = lambda: "",
        addresses: Callable[[], Sequence[str]] = lambda: (),
    ) -> None:
        """`barrier`: to be waited for before reads; None where the state is always current (a single node). `leader`: where
        clients find the leader, as far as it is known; `addresses`: where they find any node."""
        self._txn = txn
        self._writes = writes
        self._sessions = sessions
        self._holds = holds
        self._interest = interest
        self._queries = queries
        self._pressure = pressure
        self._on_fatal = on_fatal
        self._in_flight_max = in_flight_max
        self._barrier = barrier
        self._leader = leader
        self._addresses = addresses
        self._streams: set[Stream] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed: Ending | None = None

    def __len__(self) -> int:
        return len(self._streams)

    def close(self, ending: Ending) -> None:
        """End every stream, refuse new ones. The first ending counts."""
        self._closed = self._closed or ending
        self.end_streams(self._closed)

    def end_streams(self, ending: Ending) -> None:
        """End every stream. Their clients may come again."""
        for stream in tuple(self._streams):
            stream.end(ending)

    def announce_members(self) -> None:
        """Tell every client of the nodes that there are now."""
        addresses = self._addresses()
        for stream in self._streams:
            stream.notify_members(addresses)

    def observe(self, items: Sequence[Item], results: Sequence[Result]) -> None:
        """A session holds open what it creates, and hears of the locks that came to it. One that has no stream now asks for
        them when it is back."""
        for item, result in zip(items, results, strict=True):
            for number, seq in result.granted:
                waiting = self._sessions.get(number)
                if waiting is not None and waiting.stream is not None:
                    waiting.stream.notify_lock(seq)
            if type(item.op) in _OPENING and result.inode is not None and self._sessions.get(item.session) is not None:
                self._holds.add(item.session, result.inode.ino)

    def ending_of(self, error: ReplicationError) -> Ending:
        """What a client is told when the log did not take its op, or may not have. It re-sends under the same seq."""
        if self._closed is not None:
            return self._closed
        if isinstance(error, NotLeader):
            return Ending(grpc.StatusCode.UNAVAILABLE, "not-leader", str(error), leader=self._leader())
        if isinstance(error, NoQuorum):
            return Ending(grpc.StatusCode.UNAVAILABLE, "no-quorum", str(error))
        if isinstance(error, Stopped):
            return STOPPING
        return Ending(grpc.StatusCode.UNAVAILABLE, "failed", str(error))

    # --- one stream, whatever brings its frames ---

    async def begin(self, raw: bytes) -> tuple[LiveSession, Stream] | Ending:
        """Attach with the first frame: the session and its new stream, which holds `attached` already, or why there is none."""
        try:
            if (refusal := self._closed) is not None:
                return refusal
            frame = wire.decode_frame(raw)
            session, volume = await self._attach(frame)
            if (refusal := self._closed) is not None:
                return refusal
            stream = Stream(volume=session.volume, session=session.id)
            stream.home = self
            self._connect(session, stream, volume, resumed=bool(frame.attach.session))
        except wire.FrameError as error:
            return broken(str(error))
        except AttachRefused as refused:
            return refused.ending
        except ReplicationError as error:
            return self.ending_of(error)
        except Exception as error:
            self._on_fatal(error)
            return FAILED
        return session, stream

    def take(self, session: LiveSession, stream: Stream, raw: bytes) -> None:
        """One more frame. What is wrong with it ends the stream."""
        if stream.ending is not None:
            return
        try:
            if stream.detaching:
                raise wire.FrameError("nothing may follow `detach`")
            frame = wire.decode_frame(raw)
            self._handle(session, stream, frame)
            if frame.detach:
                stream.detaching = True
                self._start(self._detach(session, stream))
        except wire.FrameError as error:
            stream.end(broken(str(error)))
        except Exception as error:
            self._on_fatal(error)
            stream.end(FAILED)

    def busy(self, stream: Stream) -> bool:
        """Whether `room` would wait: the next frame should not be taken yet."""
        return self._writes.full or stream.full(self._in_flight_max) or self._pressure.overloaded

    async def room(self, stream: Stream) -> None:
        """Return when there is room for what comes, or the stream ends."""
        await self._writes.room()
        await stream.pause(self._in_flight_max)
        if self._pressure.overloaded:
            with contextlib.suppress(StoreFull):  # then only what frees space is accepted, and that must not wait
                await self._pressure.below_limit()

    def leave(self, session: LiveSession, stream: Stream) -> None:
        """The stream has ended, one way or the other. The session lives on until its time is over."""
        stream.end(GONE)  # what comes later for this stream must not look at tables that it has left
        self._streams.discard(stream)
        self._interest.leave(stream)
        self._sessions.disconnect(session, stream)

    async def _detach(self, session: LiveSession, stream: Stream) -> None:
        """End the session in good order."""
        try:
            await self._sessions.close(session, expired=False)
            stream.end(DETACHED)
        except ReplicationError as error:
            stream.end(self.ending_of(error))
        except Exception as error:
            self._on_fatal(error)
            stream.end(FAILED)

    def _start(self, body: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(body)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- attach ---

    async def _attach(self, frame: meta_pb2.ClientFrame) -> tuple[LiveSession, Volume]:
        """The session that the first frame asks for. Raises FrameError, AttachRefused, ReplicationError."""
        attach = frame.attach
        if not frame.HasField("attach") or frame.requests or frame.released or frame.detach:
            raise wire.FrameError("the first frame of a stream holds `attach` and nothing else")
        if attach.protocol != wire.PROTOCOL:
            detail = f"protocol {attach.protocol} is not spoken here; this server speaks {wire.PROTOCOL}"
            raise AttachRefused(Ending(grpc.StatusCode.INVALID_ARGUMENT, "protocol", detail))
        if self._barrier is not None:
            await self._barrier.reached()
        volume = self._volume(attach.volume)
        if attach.session:
            session = self._sessions.resume(attach.session, attach.secret, volume.id)
            self._holds.replace(session.id, attach.open_inodes)
        else:
            session = await self._sessions.open(volume.id, self._root(volume, attach.subdir), attach.client)
        return session, volume

    def _volume(self, name: str) -> Volume:
        detail = f"there is no volume {name[:80]!r} here"
        try:
            volume = reads.volume_by_name(self._txn, name)
        except FsError as error:
            raise AttachRefused(Ending(grpc.StatusCode.NOT_FOUND, "no-volume", detail, errno.ENOENT)) from error
        if volume.destroyed:
            detail = f"volume {name!r} is being destroyed"
            raise AttachRefused(Ending(grpc.StatusCode.NOT_FOUND, "no-volume", detail, errno.ENOENT))
        return volume

    def _root(self, volume: Volume, subdir: bytes) -> Ino:
        if len(subdir) > wire.PATH_BYTES_MAX:
            raise wire.FrameError(f"a subdir of {len(subdir)} bytes; the limit is {wire.PATH_BYTES_MAX}")
        shown = subdir.decode("utf-8", "backslashreplace")
        try:
            inode = reads.resolve(self._txn, volume.root, subdir) if subdir else reads.getattr(self._txn, volume.root)
        except FsError as error:
            detail = f"there is no directory {shown!r} in volume {volume.name!r}"
            raise AttachRefused(Ending(grpc.StatusCode.NOT_FOUND, "no-subdir", detail, error.errno)) from error
        if not inode.is_dir:
            detail = f"{shown!r} in volume {volume.name!r} is not a directory"
            raise AttachRefused(Ending(grpc.StatusCode.INVALID_ARGUMENT, "not-a-directory", detail, errno.ENOTDIR))
        return inode.ino

    def _connect(self, session: LiveSession, stream: Stream, volume: Volume, *, resumed: bool) -> None:
        """Make the stream the session's, and let its first frame be `attached`, alone."""
        attached = stream.frame.attached
        attached.session = session.id
        attached.secret = session.secret
        attached.root = session.root
        attached.settings_json = volume.settings_json
        attached.ttl_ms = int(self._sessions.ttl_s * 1000)
        attached.resumed = resumed
        attached.protocol = wire.PROTOCOL
        attached.volume_id = volume.id
        attached.addresses.extend(self._addresses())
        stream.cut()
        self._streams.add(stream)
        self._interest.join(stream)
        self._sessions.connect(session, stream)

    # --- frames and requests ---

    def _handle(self, session: LiveSession, stream: Stream, frame: meta_pb2.ClientFrame) -> None:
        """One frame: acknowledgement, released inodes, requests. Raises FrameError."""
        if frame.HasField("attach"):
            raise wire.FrameError("`attach` is for the first frame of a stream only")
        self._sessions.heard(session)
        if frame.acked_seq > session.acked_seq:
            session.acked_seq = frame.acked_seq
        if frame.released:
            self._holds.release(session.id, frame.released)
        if not frame.requests:
            return
        changes, queries, barrier = wire.CHANGES, self._queries, self._barrier
        waiting: Reads = []
        for request in frame.requests:
            kind = request.WhichOneof("op")
            if kind in changes:
                self._change(session, stream, request, kind)
            elif kind not in QUERIES:
                wire.encode_error(stream.frame, request.id, FsError(errno.ENOSYS, "this server knows no such operation"))
            elif barrier is None:
                queries.answer(session, stream, request, kind)
            else:
                waiting.append((request, kind))
        stream.wake()
        if waiting and barrier is not None:
            stream.in_flight += len(waiting)
            barrier.wait(partial(self._answer_reads, session, stream, waiting))

    def _change(self, session: LiveSession, stream: Stream, request: meta_pb2.Request, kind: str) -> None:
        try:
            if not request.seq:
                raise FsError(errno.EINVAL, f"{kind} without seq")
            wire.check_change(request, kind)
            op = wire.CHANGES[kind](request)
        except FsError as error:
            wire.encode_error(stream.frame, request.id, error)
            return
        item = Item(session.id, request.seq, session.acked_seq, op)
        stream.in_flight += 1
        self._writes.submit(item, request, partial(self._answer_change, stream, request.id))

    def _answer_reads(self, session: LiveSession, stream: Stream, waiting: Reads, error: ReplicationError | None) -> None:
        """The state is known to be current, or will not be."""
        stream.in_flight -= len(waiting)
        if stream.ending is not None:
            return  # whoever asks again does so on another stream; an inode opened here would be held for nobody
        if error is not None:
            stream.end(self.ending_of(error))
            return
        for request, kind in waiting:
            self._queries.answer(session, stream, request, kind)
        stream.wake()

    def _answer_change(self, stream: Stream, request_id: int, outcome: Result | ReplicationError) -> None:
        """The end of a change: its result goes out with the next frame."""
        stream.in_flight -= 1
        if isinstance(outcome, Result):
            wire.encode_result(stream.frame, request_id, outcome)
            stream.wake()
        else:
            stream.end(self.ending_of(outcome))
