"""A server's inner parts over the in-memory store and a log that lands at once: for tests of one part."""

from __future__ import annotations

import asyncio

from metaserver.applier import Applier
from metaserver.core import entry as ops
from metaserver.core import reads
from metaserver.observed import ObservedState
from metaserver.store.memory_store import MemoryStore
from metaserver.writes import Writes


class InstantLog:
    """A replicator that applies what is proposed before `propose` returns. `error`: raised instead."""

    def __init__(self, state: ObservedState) -> None:
        self._state = state
        self._index = 0
        self.error: Exception | None = None
        self.applied: list[object] = []

    def propose(self, payload, hint=None):
        future = asyncio.get_running_loop().create_future()
        if self.error is not None:
            future.set_exception(self.error)
            return future
        self._index += 1
        self.applied += [item.op for item in hint.items]
        future.set_result(self._state.apply(self._index, 1, payload, hint))
        return future


class Bench:
    """Store, log and writes, with a volume."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.state = ObservedState(Applier(self.store))
        self.log = InstantLog(self.state)
        self.now_s = 1000.0
        self.writes = Writes(self.log, lambda: int(self.now_s * 1e9), ride_s=0)
        self.seq = 0

    async def make_volume(self) -> int:
        result = await self.writes.call(ops.CreateVolume("vol", '{"store":"file:///x"}', 0, 0, 0o755))
        assert not result.errno, result
        self.volume = reads.volume_by_name(self.store, "vol")
        return self.volume.id

    def listen(self, *observers) -> None:
        """As in a reign: the tables follow what is applied."""
        self.state.observers += observers

    def clock(self) -> float:
        return self.now_s

    async def open_session(self) -> int:
        result = await self.writes.call(ops.OpenSession(self.volume.id, self.volume.root, b"s" * 32, "test"))
        assert not result.errno, result
        return result.first

    async def change(self, session: int, op: ops.Op) -> ops.Result:
        """One op of a session, as if a client had sent it."""
        self.seq += 1
        future = asyncio.get_running_loop().create_future()
        self.writes.submit(ops.Item(session, self.seq, 0, op), request_of(op), future.set_result)
        return await future


def request_of(op: ops.Op):
    """A message in the place of the client's: what the log holds is not looked at here."""
    from protos import meta_pb2

    return meta_pb2.Request(unlink=meta_pb2.Unlink(name=type(op).__name__.encode()))


async def settle(condition) -> None:
    """Let callbacks run until the condition holds."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("never came true")
