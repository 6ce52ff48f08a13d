"""The replicated log's StateMachine: one log entry becomes one step of the core's machine in the store.

The proposer's decoded items come along as the hint, so that the usual case decodes nothing. An exception passes through:
the replicator stops on it, because a state that cannot be explained must not be built upon.

Snapshots and marks are views of the store between two entries (store/view.py); they stop nothing. Installing one builds the
new state in a file beside the old one, in a worker thread, and then puts it in place in one step on the loop. Until then the
old state answers queries; entries and checkpoints must not come (the replicator sees to the one, `paused` to the other).

Below the log nobody knows the store's errors. What leaves the state as it was becomes an OSError here.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from metaserver import wire
from metaserver.core import keys, machine
from metaserver.core.entry import Entry, Item, Result
from metaserver.core.errors import CorruptState
from metaserver.store import state_stream
from metaserver.store.api import check_applied, check_digest
from metaserver.store.errors import StoreClosed, StoreDenied, StoreError, StoreFull
from metaserver.store.marks import Marks, StateDigest
from metaserver.store.memory_store import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from metaserver.core.txn import WriteTxn
    from metaserver.store.api import Incoming, Store
    from metaserver.store.view import View

#: Captures that may be open at once: each keeps the store's file from reusing pages.
CAPTURES_MAX: Final = 4

#: So long a capture may live, at most; what reads it then gets OSError.
CAPTURE_LIFE_S: Final = 900.0


class Proposal(NamedTuple):
    """The hint that goes with a proposed payload: what it decodes to."""

    now_ns: int
    items: tuple[Item, ...]


class StateCapture:
    """Implements raft.api.Capture."""

    def __init__(self, view: View) -> None:
        self._view: View | None = view
        self.index: Final = view.index
        self.digest: Final = view.digest

    @property
    def closed(self) -> bool:
        return self._view is None

    def chunks(self) -> Iterator[bytes]:
        """Closes the capture when it is through. Raises OSError, with ECANCELED when it was closed before."""
        view = self._view
        try:
            if view is None:
                raise StoreClosed("the capture was closed")
            yield from state_stream.encode(view.pairs())
        except StoreError as error:
            raise _os_error(error) from error
        finally:
            self.close()

    def close(self) -> None:
        view, self._view = self._view, None
        if view is not None:
            view.close()


class Applier:
    """raft.api.StateMachine over a store."""

    def __init__(
        self,
        store: Store,
        apply: Callable[[WriteTxn, Entry], Sequence[Result]] = machine.apply,
        *,
        paused: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
        capture_life_s: float = CAPTURE_LIFE_S,
        overloaded: Callable[[], bool] = lambda: False,
    ) -> None:
        """`paused`: nothing is checkpointed inside of it. Both are the Checkpointer's."""
        self._overloaded = overloaded
        self._store = store
        self._apply = apply
        self._paused = paused
        self._capture_life_s = capture_life_s
        self._captures: list[StateCapture] = []
        self._marks = Marks()
        self._installing = asyncio.Lock()

    @property
    def index_applied(self) -> int:
        return self._store.index_applied

    @property
    def index_durable(self) -> int:
        return self._store.index_durable

    @property
    def digest(self) -> bytes:
        return self._store.digest

    @property
    def overloaded(self) -> bool:
        return self._overloaded()

    @property
    def last_now_ns(self) -> int:
        """The time of the last entry that the state holds, whoever stamped it; 0 before the first."""
        return machine.last_time(self._store)

    def apply(self, index: int, term: int, payload: bytes, hint: object | None) -> Sequence[Result]:
        """Apply one committed entry; its results, in the order of its items."""
        entry = Entry(index, *hint) if isinstance(hint, Proposal) else wire.decode_entry(index, payload)
        results = self._apply(self._store, entry)
        self._store.mark_applied(index)
        return results

    def skip(self, index: int) -> None:
        self._store.skip(index)

    def mark(self, index: int, payload: bytes) -> None:
        """The payload is for people; nothing depends on it. A state that cannot be digested is no reason to stop."""
        self._store.skip(index)
        try:
            view = self._store.view()
        except StoreError as error:
            self._marks.refuse(index, str(error))
        else:
            self._marks.add(view)

    async def state_digest(self, index: int) -> StateDigest:
        """The digest of the whole state at the marker `index`. Waits until that is applied and digested, so give it a deadline.
        Raises LookupError when there is none: no marker, too old, or the state was replaced meanwhile."""
        return await self._marks.digest(index, self._store.index_applied)

    async def capture(self) -> StateCapture:
        """The state as it is now. Raises OSError: EBUSY when too many are open."""
        self._captures = [capture for capture in self._captures if not capture.closed]
        if len(self._captures) >= CAPTURES_MAX:
            raise OSError(errno.EBUSY, f"{CAPTURES_MAX} snapshots are being taken already")
        try:
            capture = StateCapture(self._store.view())
        except StoreError as error:
            raise _os_error(error) from error
        self._captures.append(capture)
        asyncio.get_running_loop().call_later(self._capture_life_s, capture.close)
        return capture

    async def install(self, index: int, digest: bytes, chunks: Iterator[bytes]) -> None:
        """See raft.api. Raises ValueError, OSError (and whatever `chunks` raises): the old state stays and nothing is left of
        the new one; so it is when the caller is cancelled. StoreError: nobody knows which state the disk has; stop.

        Views end: captures that are read and marks that are computed meanwhile fail.
        """
        async with self._installing, self._paused():
            check_applied(self._store.index_applied, index)
            check_digest(digest)
            incoming = await self._receive(index, digest, chunks)
            try:
                self._store.adopt(incoming)
            except BaseException as error:
                incoming.discard()
                if isinstance(error, StoreError) and not incoming.adopted:
                    raise _os_error(error) from error
                raise
        self._marks.passed(index)

    async def close(self) -> None:
        """End captures and marks. To be called before the store is closed."""
        for capture in self._captures:
            capture.close()
        await self._marks.close()

    async def _receive(self, index: int, digest: bytes, chunks: Iterator[bytes]) -> Incoming:
        stop = threading.Event()
        work = asyncio.ensure_future(asyncio.to_thread(_receive, self._store, index, digest, chunks, stop))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            stop.set()
            while not work.done():  # whatever else is cancelled: the thread must be gone before another one begins
                with suppress(asyncio.CancelledError, Exception):
                    await asyncio.shield(work)
            if not work.cancelled() and work.exception() is None:
                work.result().discard()
            raise


def _receive(store: Store, index: int, digest: bytes, chunks: Iterator[bytes], stop: threading.Event) -> Incoming:
    """Write the state beside the one in use, all of it or nothing; in a worker thread."""
    try:
        return _write_incoming(store, index, digest, chunks, stop)
    except StoreError as error:
        raise _os_error(error) from error


def _write_incoming(store: Store, index: int, digest: bytes, chunks: Iterator[bytes], stop: threading.Event) -> Incoming:
    incoming = store.receive(index, digest)
    about = MemoryStore()
    try:
        for run in state_stream.decode(chunks):
            if stop.is_set():
                raise StoreClosed("nobody waits for the state any more")
            incoming.add(run)
            for key, value in run:
                if key == keys.FORMAT:
                    about.put(key, value)
        machine.require_format(about)
        incoming.finish()
    except BaseException as error:
        incoming.discard()
        if isinstance(error, CorruptState):
            raise ValueError(f"not a state that this program knows: {error}") from error
        raise
    return incoming


def _os_error(error: StoreError) -> OSError:
    """The same for those who do not know the store."""
    match error:
        case StoreFull():
            number = errno.ENOSPC
        case StoreDenied():
            number = errno.EACCES
        case StoreClosed():
            number = errno.ECANCELED
        case _:
            number = errno.EIO
    return OSError(number, str(error))
