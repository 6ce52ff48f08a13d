"""Finds the node that serves a session, among all that are known, and attaches there.

   search():  the address that worked last ──refused, with a hint──> the hint ──> attached
              no answer yet, after STAGGER_S, or refused ──────────> the next address beside it

- Attempts overlap, so that one address that swallows everything costs STAGGER_S and not a timeout. The first that is attached
  wins; the others are broken off.
- A verdict of the service (there is no such volume) ends the search: it is the same everywhere. What only one connection says
  (a certificate that does not fit, another protocol) does not.
- Two addresses may be one node. Then an attempt that was broken off may still take effect there and replace the stream that
  won: `recently_abandoned` tells such an end from another process that has taken the session.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

from fuseclient.errors import ClientError
from fuseclient.meta_stream import MetaStream, StreamEnd, StreamEnded
from fuseclient.redial import Endpoints, Round
from fuseclient.volume_url import parse_address

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fuseclient.clock import Clock
    from fuseclient.tls import Access
    from fuseclient.volume_url import Address
    from protos import meta_pb2 as pb

STAGGER_S: Final = 0.3
ABANDONED_FOR_S: Final = 60.0  # what was broken off longer ago than this cannot come back


class Found(NamedTuple):
    """An attached stream and the server's first answer."""

    stream: MetaStream
    attach: pb.Attach
    attached: pb.Attached
    address: Address


class NotFound(Exception):
    """Nobody serves. `failures`: what each attempt met, in order, the last one decisive if it is a verdict."""

    def __init__(self, failures: Sequence[tuple[Address, StreamEnded]]) -> None:
        super().__init__("; ".join(f"{address}: {ended}" for address, ended in failures))
        self.failures = tuple(failures)

    @property
    def verdict(self) -> StreamEnded | None:
        """What the service has decided."""
        last = self.failures[-1][1] if self.failures else None
        return last if last is not None and _decides(last) else None

    @property
    def end(self) -> StreamEnd:
        """What the user has to be told: what is to be mended, before what may mend itself."""
        ends = [ended.end for _, ended in self.failures]
        return next((end for end in reversed(ends) if end is not StreamEnd.LOST), StreamEnd.LOST)


def _decides(ended: StreamEnded) -> bool:
    return ended.verdict and ended.end is not StreamEnd.LOST


class Dialer:
    """`attach_s` bounds every single attempt, `stagger_s` is the head start of one before the next."""

    def __init__(
        self, named: Sequence[Address], access: Access, clock: Clock, *, attach_s: float, stagger_s: float = STAGGER_S
    ) -> None:
        self._access = access
        self._clock = clock
        self._attach_s = attach_s
        self._stagger_s = stagger_s
        self._endpoints = Endpoints(named)
        self._abandoned_at_s = float("-inf")
        self._current: Address | None = None

    @property
    def has_others(self) -> bool:
        """Whether there is anybody to ask besides the node in use."""
        return len(self._endpoints.all) > 1

    @property
    def addresses(self) -> tuple[Address, ...]:
        return self._endpoints.all

    def recently_abandoned(self) -> bool:
        return self._clock.time() - self._abandoned_at_s < ABANDONED_FOR_S

    def learn(self, texts: Iterable[str]) -> None:
        """The cluster's nodes, as one of them lists them. What is not an address, or must not be talked to, is left out."""
        found = []
        for text in texts:
            try:
                address = parse_address(text)
            except ClientError:
                continue
            if self._access.refusal(address) is None:
                found.append(address)
        if found:
            self._endpoints.learn(found)

    def lost(self) -> None:
        """The node in use does not serve any more: the others come first."""
        if self._current is not None:
            self._endpoints.demote(self._current)

    async def search(self, attach: pb.Attach, *, first: Address | None = None, others_only: bool = False) -> Found:
        """Ask every node, `first` before all; with `others_only` not the one in use. Raises NotFound."""
        avoid = self._current if others_only else None
        order = [address for address in self._endpoints.all if address != avoid]
        turn = Round([first, *order] if first is not None and first != avoid else order)
        attempts: dict[asyncio.Task[Found], Address] = {}
        failures: list[tuple[Address, StreamEnded]] = []
        try:
            while turn or attempts:
                if turn:
                    self._begin(turn.next(), attach, attempts)
                found = await self._outcome(attempts, turn, failures, avoid)
                if found is not None:
                    self._current = found.address
                    self._endpoints.prefer(found.address)
                    return found
                if failures and _decides(failures[-1][1]):
                    break
        finally:
            await self._abandon(attempts)
        raise NotFound(failures)

    def _begin(self, address: Address, attach: pb.Attach, attempts: dict[asyncio.Task[Found], Address]) -> None:
        async def attempt() -> Found:
            stream, attached = await MetaStream.open(address, attach, self._attach_s, self._access)
            return Found(stream, attach, attached, address)

        attempts[asyncio.create_task(attempt(), name=f"attach at {address}")] = address

    async def _outcome(
        self,
        attempts: dict[asyncio.Task[Found], Address],
        turn: Round,
        failures: list[tuple[Address, StreamEnded]],
        avoid: Address | None,
    ) -> Found | None:
        """Wait for an attempt to end, at most until the next one may begin. Failures are noted; of those who are attached the
        first is returned."""
        done, _ = await asyncio.wait(attempts, timeout=self._stagger_s if turn else None, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            address = attempts[task]
            try:
                found = task.result()
            except StreamEnded as ended:
                del attempts[task]
                failures.append((address, ended))
                if ended.pending:
                    self._abandoned_at_s = self._clock.time()
                turn.failed(address, None if ended.hint == avoid else ended.hint)
                if _decides(ended):
                    return None
            else:
                del attempts[task]
                return found
        return None

    async def _abandon(self, attempts: dict[asyncio.Task[Found], Address]) -> None:
        """Break off what is under way. A session that the service has begun for one of them ends by itself, in silence."""
        if not attempts:
            return
        self._abandoned_at_s = self._clock.time()
        for task in attempts:
            task.cancel()
        await asyncio.wait(attempts)
        for task in attempts:
            if not task.cancelled() and task.exception() is None:
                task.result().stream.abort()
