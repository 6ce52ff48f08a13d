"""Serves one mount: reads requests from /dev/fuse on the event loop, asks Operations, writes the answers.

An answer that is there at once is written at once; an awaitable is answered when it is done, in any order. Whatever one
request does, the next is served: a refusal goes back as its errno, anything unexpected is logged and goes back as EIO.

A caller that is killed while it waits is let go with EINTR where the route allows it; the operation goes on without it.
No other signal ends a wait (callers.py says why), but a wait for a lock: that is cancelled, and ends with EINTR or with the
lock. What else Operations has begun is cancelled only when serving ends.

The driver does not own the mount. `serve` returns when the kernel ends the connection, that is after an unmount; `stop`
unmounts first if it was given how.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fuseclient.errors import ClientError, FsError
from fuseclient.kernel import codec, replies
from fuseclient.kernel import protocol as p
from fuseclient.kernel.callers import is_dying
from fuseclient.kernel.codec import ProtocolError
from fuseclient.kernel.negotiation import (
    MAX_WRITE_BYTES,
    DriverOptions,
    KernelTooOldError,
    Negotiated,
    init_reply,
    major_reply,
    needs_another_round,
    negotiate,
)
from fuseclient.kernel.notify import KernelNotifier
from fuseclient.kernel.protocol import Opcode
from fuseclient.kernel.routes import REFUSED, OnSignal, Port, Reply, Route, routes
from fuseclient.operations import Caller

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fuseclient.operations import Operations

log = logging.getLogger(__name__)

_BUFFER_BYTES: Final = MAX_WRITE_BYTES + p.IN_HEADER_BYTES + p.WRITE_IN.size + 4096
_READ_AGAIN: Final = frozenset((errno.EINTR, errno.ENOENT))  # ENOENT: the request was withdrawn while it was copied
_GONE: Final = frozenset((errno.ENODEV, errno.ECONNABORTED, errno.ENOTCONN, errno.EPERM))
_LOOK_AGAIN_S: Final = 0.25
_BATCHES_TO_GROW: Final = 4
_CALLERS_MAX: Final = 1024
_readv = os.readv
_write = os.write
_unpack_header = p.IN_HEADER.unpack_from
_PIECES_MAX: Final = 1000  # the kernel takes at most 1024 in one write


class Pending(NamedTuple):
    """A request whose answer is awaited."""

    future: asyncio.Future[Any]
    route: Route
    ino: int
    request: Any
    pid: int


class KernelDriver:
    """Operations served on one FUSE descriptor."""

    def __init__(
        self,
        fd: int,
        operations: Operations,
        options: DriverOptions | None = None,
        *,
        unmount: Callable[[], None] | None = None,
    ) -> None:
        """`unmount` blocks until the mountpoint is free; `stop` calls it from a thread."""
        self.ready = asyncio.Event()
        self.agreed: Negotiated | None = None
        self._fd = fd
        self._options = options or DriverOptions()
        self._unmount = unmount
        self._port = Port(operations)
        self._notifier = KernelNotifier(fd, knows=self._port.nodes.__contains__, nodeid=self._port.nodeid)
        self._buffer = bytearray(_BUFFER_BYTES)
        self._frame = memoryview(self._buffer)
        self._vector = [self._buffer]
        self._routes: dict[int, Route] = {}
        self._control: dict[int, Callable[[codec.Header], None]] = {
            Opcode.INIT: self._on_init,
            Opcode.FORGET: self._on_forget,
            Opcode.BATCH_FORGET: self._on_batch_forget,
            Opcode.INTERRUPT: self._on_interrupt,
            Opcode.DESTROY: self._on_destroy,
            Opcode.NOTIFY_REPLY: self._ignore,
        }
        self._root = self._port.root
        self._callers: dict[tuple[int, int, int], Caller] = {}
        self._batch = 1
        self._full_batches = 0
        self._requests = [0] * (max(Opcode) + 1)
        self._pending: dict[int, Pending] = {}
        self._left: set[asyncio.Future[Any]] = set()
        self._failures = 0
        self._malformed = 0
        self._interrupted = 0
        self._ended: asyncio.Future[None] | None = None
        operations.attach_kernel(self._notifier)

    # --- lifetime

    async def serve(self) -> None:
        """Serve until the mount is gone. Afterwards Operations has been told to forget every inode.

        ClientError: the kernel is too old. OSError: the descriptor failed in a way that is not an unmount.
        """
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        os.set_blocking(self._fd, False)
        self._loop.add_reader(self._fd, self._on_readable)
        try:
            await self._ended
        finally:
            self._loop.remove_reader(self._fd)
            await self._wind_up()

    async def stop(self) -> None:
        """Unmount, if that is ours to do, and end `serve`. What is under way gets `stop_grace_s` to finish."""
        if self._unmount is not None:
            try:
                await asyncio.wait_for(asyncio.to_thread(self._unmount), self._options.stop_grace_s)
            except TimeoutError:
                log.warning("the unmount did not end within %s s", self._options.stop_grace_s)
            except ClientError as error:
                log.warning("%s", error)
        self._end(None)

    def stats(self) -> dict[str, int]:
        """Requests by opcode since the start, and the state of the driver."""
        counts = {opcode.name.lower(): self._requests[opcode] for opcode in Opcode if self._requests[opcode]}
        return {
            **counts,
            "in_flight": len(self._pending),
            "nodes": len(self._port.nodes),
            "failures": self._failures,
            "malformed": self._malformed,
            "interrupted": self._interrupted,
            "notifications_sent": self._notifier.sent,
            "notifications_unknown": self._notifier.unknown,
            "notifications_dropped": self._notifier.dropped,
        }

    def _end(self, failure: Exception | None) -> None:
        if self._ended is None or self._ended.done():
            return
        if failure is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(failure)

    async def _wind_up(self) -> None:
        """Nobody waits for answers any more: let what is under way finish, then cancel it."""
        futures = {pending.future for pending in self._pending.values()} | self._left
        for pending in self._pending.values():
            if pending.route.on_signal is OnSignal.CANCELS:
                pending.future.cancel()
        if futures:
            _, late = await asyncio.wait(futures, timeout=self._options.stop_grace_s)
            for future in late:
                future.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await asyncio.to_thread(self._notifier.close)
        gone = self._port.nodes.clear()
        if gone:
            self._port.operations.forget(gone)

    # --- requests

    def _on_readable(self) -> None:
        """Read a few requests. An attempt that finds none costs more than a turn of the loop, so how many are tried follows
        how many there were: one after the other for a lone caller, many at once under load."""
        fd, vector, ended = self._fd, self._vector, self._ended
        assert ended is not None
        for taken in range(self._batch):
            try:
                size = _readv(fd, vector)
            except BlockingIOError:
                self._batch = taken or 1
                self._full_batches = 0
                return
            except OSError as failure:
                if failure.errno in _READ_AGAIN:
                    continue
                self._end(None if failure.errno in _GONE else failure)
                return
            self._receive(size)
            if ended.done():
                return
        self._full_batches += 1
        if self._full_batches == _BATCHES_TO_GROW:
            self._full_batches = 0
            self._batch = min(self._batch + 1, self._options.requests_per_wake)

    def _receive(self, size: int) -> None:
        """One request. Never raises: what cannot be read as a request is counted, and answered if it has a number."""
        try:
            length, opcode, unique, nodeid, uid, gid, pid, units = _unpack_header(self._buffer)
            if length != size or size < p.IN_HEADER_BYTES:
                raise ProtocolError(f"a request says that it has {length} bytes, {size} were read")
            route = self._routes.get(opcode)
            if route is None:
                self._handle_other(codec.Header(length, opcode, unique, nodeid, uid, gid, pid, units))
                return
            self._requests[opcode] += 1
            request = route.decode(self._frame, codec.body_end(size, units) if units else size)
        except ProtocolError as error:
            self._reject(error, size)
            return
        except Exception:  # of the few requests that the driver handles itself
            self._failures += 1
            log.exception("request %d failed", opcode)
            return
        try:
            ino = self._root if nodeid == p.ROOT_ID else nodeid
            value = route.call(self._port, ino, request, self._caller(uid, gid, pid))
            if getattr(value, "__await__", None) is None:
                self._send(unique, route, ino, value, route.encode(self._port, unique, request, value))
            else:
                self._answer_later(unique, route, ino, request, pid, value)
        except Exception as error:
            self._refuse(unique, route, error)

    def _reject(self, error: ProtocolError, size: int) -> None:
        self._malformed += 1
        log.warning("unreadable request: %s", error)
        if size >= p.IN_HEADER_BYTES:
            self._send_error(_unpack_header(self._buffer)[2], errno.EIO)
        elif size == 0:  # the other end is closed; the kernel's device never says so, a stand-in's socket does
            self._end(None)

    def _caller(self, uid: int, gid: int, pid: int) -> Caller:
        """Who asks, remembered: a program asks many times."""
        key = (uid, gid, pid)
        caller = self._callers.get(key)
        if caller is None:
            if len(self._callers) >= _CALLERS_MAX:
                self._callers.clear()
            caller = self._callers[key] = Caller(uid, gid, pid)
        return caller

    def _answer_later(self, unique: int, route: Route, ino: int, request: Any, pid: int, awaitable: Awaitable[Any]) -> None:
        # A future needs no task of its own, and one that is done not even a turn of the loop.
        future = awaitable if isinstance(awaitable, asyncio.Future) else asyncio.ensure_future(awaitable, loop=self._loop)
        pending = Pending(future, route, ino, request, pid)
        if future.done():
            self._complete(unique, pending)
            return
        self._pending[unique] = pending
        future.add_done_callback(functools.partial(self._on_done, unique))

    def _on_done(self, unique: int, future: asyncio.Future[Any]) -> None:
        pending = self._pending.pop(unique, None)
        if pending is not None:
            self._complete(unique, pending)
            return
        self._left.discard(future)  # its caller is gone; a failure has nobody to go to
        if not future.cancelled() and (failure := future.exception()) is not None and not isinstance(failure, FsError):
            log.error("an operation that its caller had left failed", exc_info=failure)

    def _complete(self, unique: int, pending: Pending) -> None:
        future, route, ino, request, _ = pending
        try:
            value = future.result()
            self._send(unique, route, ino, value, route.encode(self._port, unique, request, value))
        except asyncio.CancelledError:
            self._send_error(unique, errno.EINTR if route.on_signal is OnSignal.CANCELS else errno.EIO)
        except Exception as error:
            self._refuse(unique, route, error)

    # --- answers

    def _send(self, unique: int, route: Route, ino: int, value: Any, reply: Reply) -> None:
        try:
            if reply.__class__ is bytes:
                _write(self._fd, reply)
            elif len(reply) <= _PIECES_MAX:
                os.writev(self._fd, reply)  # type: ignore[arg-type]
            else:
                os.write(self._fd, b"".join(reply))  # type: ignore[arg-type]
        except OSError as failure:
            if route.undo is not None:
                route.undo(self._port, ino, value)
            if failure.errno == errno.ENOENT or failure.errno in _GONE:
                return  # the request was withdrawn, or the mount is gone
            raise

    def _refuse(self, unique: int, route: Route, error: Exception) -> None:
        if isinstance(error, FsError):
            self._send_error(unique, error.errno)
            return
        self._failures += 1
        log.error("%s failed", route.opcode.name, exc_info=error)
        self._send_error(unique, errno.EIO)

    def _send_error(self, unique: int, code: int) -> None:
        try:
            os.write(self._fd, replies.error(unique, code))
        except OSError as failure:
            # ENOENT, EINVAL: already answered or withdrawn. Else the mount is gone, which reading will tell.
            log.debug("a refusal found no request: %s", failure)

    # --- what is not asked of Operations

    def _handle_other(self, header: codec.Header) -> None:
        opcode = header.opcode
        if opcode < len(self._requests):
            self._requests[opcode] += 1
        handler = self._control.get(opcode)
        if handler is not None:
            handler(header)
        elif self.agreed is None:
            raise ProtocolError(f"opcode {opcode} before INIT")
        else:
            self._send_error(header.unique, REFUSED.get(opcode, errno.ENOSYS))

    def _body(self, header: codec.Header, opcode: Opcode) -> Any:
        end = codec.body_end(header.length, header.extension_units)
        return codec.decoders(0)[opcode](self._frame, end)

    def _on_init(self, header: codec.Header) -> None:
        init: codec.Init = self._body(header, Opcode.INIT)
        if needs_another_round(init):
            os.write(self._fd, replies.body(header.unique, major_reply()))
            return
        try:
            agreed = negotiate(init, self._options)
        except KernelTooOldError as error:
            self._send_error(header.unique, errno.EPROTO)
            self._end(ClientError(str(error)))
            return
        os.write(self._fd, replies.body(header.unique, init_reply(init, agreed, self._options)))
        self.agreed = agreed
        self._routes = routes(agreed.flags)
        self._notifier.start(agreed)
        log.debug("FUSE 7.%d, flags %#x", agreed.minor, agreed.flags)
        self.ready.set()

    def _forget(self, pairs: list[tuple[int, int]]) -> None:
        gone = self._port.nodes.forget(pairs)
        if gone:
            try:
                self._port.operations.forget(gone)
            except Exception:
                self._failures += 1
                log.exception("forget failed")

    def _on_forget(self, header: codec.Header) -> None:
        self._forget([(header.nodeid, self._body(header, Opcode.FORGET).nlookup)])

    def _on_batch_forget(self, header: codec.Header) -> None:
        self._forget(codec.batch_forget(self._frame, codec.body_end(header.length, header.extension_units)))

    def _on_interrupt(self, header: codec.Header) -> None:
        unique = self._body(header, Opcode.INTERRUPT).unique
        pending = self._pending.get(unique)
        if pending is not None and pending.route.on_signal is OnSignal.CANCELS:
            self._interrupted += 1
            pending.future.cancel()
        else:
            self._leave_if_dying(unique)

    def _leave_if_dying(self, unique: int) -> None:
        """The kernel interrupts a request once, perhaps for a harmless signal; so look again while it waits."""
        pending = self._pending.get(unique)
        if pending is None or pending.route.on_signal is not OnSignal.LEAVES:
            return
        if is_dying(pending.pid):
            del self._pending[unique]
            self._left.add(pending.future)
            self._interrupted += 1
            self._send_error(unique, errno.EINTR)
        elif self._ended is not None and not self._ended.done():
            self._loop.call_later(_LOOK_AGAIN_S, self._leave_if_dying, unique)

    def _on_destroy(self, header: codec.Header) -> None:
        os.write(self._fd, replies.done(header.unique))
        self._end(None)

    def _ignore(self, header: codec.Header) -> None:
        pass
