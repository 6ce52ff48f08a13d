"""The thread of a cluster node: an event loop of its own, on which the node, its journal and its connections live.

Why a thread: a sync of the log may take milliseconds and must neither wait for nor hold up the file system's work, and
heartbeats must go out while a large entry is applied. What the two loops say to each other goes through Mailbox: everything
that was posted while the other side was busy is taken at once, and costs one wake-up.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class Mailbox:
    """Calls for another loop, made there in the order of `post`. Any thread may post."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        after: Callable[[], None] | None = None,
        on_error: Callable[[Exception], None] | None = None,
    ) -> None:
        """`after` is called on `loop` when a batch of calls was made; `on_error` with what one of them raised."""
        self._loop = loop
        self._after = after
        self._on_error = on_error
        self._calls: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._awake = False

    def post(self, call: Callable[[], None]) -> None:
        with self._lock:
            self._calls.append(call)
            if self._awake:
                return
            self._awake = True
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there any more
            self._loop.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        """One batch. What was posted meanwhile is the next one's, so that the loop's connections get their turn in between."""
        with self._lock:
            batch = list(self._calls)
            self._calls.clear()
        for call in batch:
            self._make(call)
        if self._after is not None:
            self._make(self._after)
        with self._lock:
            self._awake = bool(self._calls)
        if self._awake:
            self._loop.call_soon(self._take)

    def _make(self, call: Callable[[], None]) -> None:
        """The calls after one that fails are somebody else's. Without `on_error`, the loop's own handler gets the error."""
        try:
            call()
        except Exception as error:
            if self._on_error is not None:
                self._on_error(error)
                return
            context = {"message": f"a call to another loop failed: {call!r}", "exception": error}
            self._loop.call_exception_handler(context)


class RaftThread:
    """Owns the thread and its loop."""

    def __init__(self, name: str, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self.loop = new_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    async def call(self, body: Coroutine[Any, Any, T]) -> T:
        """Run `body` there; what it returns or raises."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(body, self.loop))

    def stop(self) -> None:
        """End the loop and wait for the thread. May be called again."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
