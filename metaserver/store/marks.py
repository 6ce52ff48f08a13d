"""Digests of the whole state at marked indexes, for the comparison of replicas.

A mark is a view that was taken between two entries; its digest is computed in a worker thread, one mark after the other. The
results of the last MARKS_MAX marks are kept. At most WAITING_MAX views wait at once, because each holds memory and pages: when
more come (several people compare, or a replay meets old markers) the oldest give way, and who asks for them is told.

All on the loop's thread but the digesting itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from metaserver.store import state_stream
from metaserver.store.errors import StoreError

if TYPE_CHECKING:
    from metaserver.store.view import View

MARKS_MAX: Final = 16
WAITING_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class StateDigest:
    """`state` is the digest of all pairs (state_stream.py), `chain` that of all changes up to `index` (chain.py)."""

    index: int
    state: bytes
    chain: bytes
    keys: int


@dataclass(slots=True)
class _Mark:
    done: asyncio.Event = field(default_factory=asyncio.Event)
    digest: StateDigest | None = None
    reason: str = ""

    def settle(self, digest: StateDigest | None, reason: str = "") -> None:
        if not self.done.is_set():
            self.digest, self.reason = digest, reason
            self.done.set()


class Marks:
    def __init__(self) -> None:
        self._marks: dict[int, _Mark] = {}  # also of indexes that were asked for and are not reached yet
        self._waiting: deque[View] = deque()
        self._current: View | None = None
        self._task: asyncio.Task[None] | None = None

    def add(self, view: View) -> None:
        """Digest `view`, in its turn, and close it."""
        self.passed(view.index - 1)
        mark = self._marks.get(view.index)
        if mark is not None and (mark.done.is_set() or any(view.index == other.index for other in self._views())):
            view.close()
            return
        if mark is None:
            self._marks[view.index] = _Mark()
            self._forget_oldest()
        self._waiting.append(view)
        if len(self._waiting) > WAITING_MAX:
            self._give_up(self._waiting.popleft(), "too many were marked after it")
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="marks")

    def refuse(self, index: int, reason: str) -> None:
        """The state at `index` cannot be digested."""
        self._marks.setdefault(index, _Mark()).settle(None, reason)
        self._forget_oldest()

    async def digest(self, index: int, index_applied: int) -> StateDigest:
        """The digest at the mark `index`; waits until it is reached and computed. LookupError: there is none, or no longer."""
        mark = self._marks.get(index)
        if mark is None:
            if index <= index_applied:
                raise LookupError(f"the state at {index} was not marked, or too long ago")
            mark = self._marks[index] = _Mark()
            self._forget_oldest()
        await mark.done.wait()
        if mark.digest is None:
            raise LookupError(f"there is no digest of the state at {index}: {mark.reason}")
        return mark.digest

    def passed(self, index: int) -> None:
        """Whatever is up to `index` and was not marked by now will not be."""
        marked = {view.index for view in self._views()}
        for at in [at for at, mark in self._marks.items() if at <= index and not mark.done.is_set() and at not in marked]:
            self._marks.pop(at).settle(None, "it is no marker")

    async def close(self) -> None:
        """End what is under way."""
        while self._waiting:
            self._give_up(self._waiting.popleft(), "the server ends")
        if self._current is not None:
            self._current.close()
        if self._task is not None:
            await self._task
        for mark in self._marks.values():
            mark.settle(None, "the server ends")

    async def _run(self) -> None:
        while self._waiting:
            view = self._current = self._waiting.popleft()
            try:
                state, keys = await asyncio.to_thread(state_stream.digest_of, view.pairs())
            except StoreError as error:
                self._give_up(view, str(error))
            except Exception as error:  # whoever asks is told; nothing else depends on it
                self._give_up(view, f"{type(error).__name__}: {error}")
            else:
                self._settle(view, StateDigest(view.index, state, view.digest, keys))
            finally:
                view.close()
                self._current = None

    def _views(self) -> list[View]:
        return [*self._waiting, self._current] if self._current is not None else list(self._waiting)

    def _give_up(self, view: View, reason: str) -> None:
        view.close()
        self._settle(view, None, reason)

    def _settle(self, view: View, digest: StateDigest | None, reason: str = "") -> None:
        mark = self._marks.get(view.index)
        if mark is not None:
            mark.settle(digest, reason)

    def _forget_oldest(self) -> None:
        while len(self._marks) > MARKS_MAX:
            self._marks.pop(min(self._marks)).settle(None, "too many were marked after it")
