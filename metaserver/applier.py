"""The replicated log's StateMachine: one log entry becomes one step of the core's machine in the store.

The proposer's decoded items come along as the hint, so that the usual case decodes nothing. An exception passes through:
the replicator stops on it, because a state that cannot be explained must not be built upon.

Snapshots and marks are views of the store between two entries (store/view.py); they stop nothing. Installing one builds the
new state in a file beside the old one, in a worker thread, and then puts it in place in one step on the loop. Until then the
old state answers queries; entries and checkpoints must not come (the replicator sees to the one, `paused` to the other).
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
from metaserver.store.errors import StoreError
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

#: So long a capture may live, at most; what reads it then gets StoreError.
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
        """Closes the capture when it is through. Raises StoreError, also when it was closed before."""
        view = self._view
        if view is None:
            raise StoreError("the capture was closed")
        try:
            yield from state_stream.encode(view.pairs())
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
    ) -> None:
        """`paused`: nothing is checkpointed inside of it (Checkpointer.paused)."""
        self._store = store
        self._apply = apply
        self._paused = paused
        self._capture_life_s = capture_life_s
        self._captures: list[StateCapture] = []
        self._marks = Marks()
        self._installing = asyncio.Lock()
        self.last_now_ns = 0  # the time of the last entry applied by this process

    @property
    def index_applied(self) -> int:
        return self._store.index_applied

    @property
    def index_durable(self) -> int:
        return self._store.index_durable

    @property
    def digest(self) -> bytes:
        return self._store.digest

    def apply(self, index: int, term: int, payload: bytes, hint: object | None) -> Sequence[Result]:
        """Apply one committed entry; its results, in the order of its items."""
        entry = Entry(index, *hint) if isinstance(hint, Proposal) else wire.decode_entry(index, payload)
        results = self._apply(self._store, entry)
        self._store.mark_applied(index)
        self.last_now_ns = entry.now_ns
        return results

    def skip(self, index: int) -> None:
        self._store.skip(index)

    def mark(self, index: int, payload: bytes) -> None:
        """The payload is for people; nothing depends on it."""
        self._store.skip(index)
        self._marks.add(self._store.view())

    async def state_digest(self, index: int) -> StateDigest:
        """The digest of the whole state at the marker `index`. Waits until that is applied and digested, so give it a deadline.
        Raises LookupError when there is none: no marker, too old, or the state was replaced meanwhile."""
        return await self._marks.digest(index, self._store.index_applied)

    async def capture(self) -> StateCapture:
        """The state as it is now. Raises OSError(EBUSY) when too many are open, StoreError."""
        self._captures = [capture for capture in self._captures if not capture.closed]
        if len(self._captures) >= CAPTURES_MAX:
            raise OSError(errno.EBUSY, f"{CAPTURES_MAX} snapshots are being taken already")
        capture = StateCapture(self._store.view())
        self._captures.append(capture)
        asyncio.get_running_loop().call_later(self._capture_life_s, capture.close)
        return capture

    async def install(self, index: int, digest: bytes, chunks: Iterator[bytes]) -> None:
        """See raft.api. Raises ValueError (and whatever `chunks` raises) or StoreFull: the old state stays and nothing is left
        of the new one; so it is when the caller is cancelled. Any other StoreError: unknown which state the disk has; stop.

        Views end: captures that are read and marks that are computed meanwhile fail.
        """
        async with self._installing, self._paused():
            check_applied(self._store.index_applied, index)
            check_digest(digest)
            incoming = await self._receive(index, digest, chunks)
            try:
                self._store.adopt(incoming)
            except BaseException:
                incoming.discard()
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
    """Write the state beside the one in use; in a worker thread."""
    incoming = store.receive(index, digest)
    about = MemoryStore()
    try:
        for run in state_stream.decode(chunks):
            if stop.is_set():
                raise StoreError("nobody waits for the state any more")
            incoming.add(run)
            for key, value in run:
                if key == keys.FORMAT:
                    about.put(key, value)
        machine.require_format(about)
        incoming.finish()
    except CorruptState as error:
        incoming.discard()
        raise ValueError(f"not a state that this program knows: {error}") from error
    except BaseException:
        incoming.discard()
        raise
    return incoming
