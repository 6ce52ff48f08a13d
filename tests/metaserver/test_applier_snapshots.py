"""The applier as the replicated log's state machine: captures, marks, installed states, while entries go on being applied."""

from __future__ import annotations

import asyncio
import errno
import random
import threading
from typing import TYPE_CHECKING, Any

import pytest

from metaserver.applier import CAPTURES_MAX, Applier, Proposal
from metaserver.core import codec, keys
from metaserver.store import state_stream
from metaserver.store.chain import NO_DIGEST
from metaserver.store.checkpointer import Checkpointer
from metaserver.store.errors import StoreError, StoreFull
from metaserver.store.layered import LayeredStore
from metaserver.store.marks import MARKS_MAX, WAITING_MAX
from metaserver.store.memory_store import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from metaserver.store.api import Store

DEADLINE_S = 20
Writes = list[tuple[bytes, bytes | None]]


def write_all(txn: Any, entry: Any) -> list[Any]:
    """A state machine whose items are the writes themselves."""
    for key, value in entry.items:
        if value is None:
            txn.delete(key)
        else:
            txn.put(key, value)
    return []


class Node:
    """A state machine over a store, and the dict that its state must be after each entry."""

    def __init__(self, store: Store, seed: int = 1) -> None:
        self.store = store
        self.checkpointer: Checkpointer | None = None
        paused = {}
        if isinstance(store, LayeredStore):
            self.checkpointer = Checkpointer(store, on_durable=lambda _: None, on_failed=self._on_failed)
            paused = {"paused": self.checkpointer.paused}
        self.failures: list[StoreError] = []
        self.applier = Applier(store, write_all, **paused)
        self.model: dict[bytes, bytes] = {}
        self.history: dict[int, dict[bytes, bytes]] = {0: {}}
        self.rng = random.Random(seed)

    def _on_failed(self, error: StoreError) -> None:
        self.failures.append(error)

    def apply(self, count: int = 1) -> None:
        for _ in range(count):
            rng = self.rng
            writes: Writes = [
                (b"I%04d" % rng.randrange(400), rng.choice([None, rng.randbytes(rng.randrange(60)), rng.randbytes(5)]))
                for _ in range(rng.randrange(8))
            ]
            if rng.random() < 0.02:
                writes.append((b"Ibig%d" % rng.randrange(3), rng.randbytes(300_000)))
            self.write(writes)

    def write(self, writes: Writes) -> None:
        index = self.store.index_applied + 1
        self.applier.apply(index, 1, b"", Proposal(0, tuple(writes)))  # type: ignore[arg-type]
        for key, value in writes:
            if value is None:
                self.model.pop(key, None)
            else:
                self.model[key] = value
        self.history[index] = dict(self.model)

    def mark(self) -> int:
        index = self.store.index_applied + 1
        self.applier.mark(index, b"")
        self.history[index] = dict(self.model)
        return index

    async def end(self) -> None:
        await self.applier.close()
        if self.checkpointer is not None:
            await self.checkpointer.close()
        self.store.close()
        assert self.failures == []


@pytest.fixture(params=["memory", "layered"])
async def node(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(MemoryStore() if request.param == "memory" else LayeredStore.open(tmp_path / "state"))
    yield node
    await node.end()


@pytest.fixture
async def layered(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(LayeredStore.open(tmp_path / "state"))
    yield node
    await node.end()


@pytest.fixture
async def other(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(LayeredStore.open(tmp_path / "other"))
    yield node
    await node.end()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  # the condition is often a plain value of another object
            await asyncio.sleep(0.001)


def stream_of(state: dict[bytes, bytes]) -> list[bytes]:
    return list(state_stream.encode(sorted(state.items())))


def pairs_of(store: Store) -> dict[bytes, bytes]:
    return dict(store.snapshot_scan())


async def test_a_capture_is_the_state_of_its_index_whatever_follows(node: Node) -> None:
    node.apply(50)
    capture = await node.applier.capture()
    assert (capture.index, capture.digest) == (50, node.applier.digest)
    node.apply(50)
    chunks = await asyncio.to_thread(lambda: list(capture.chunks()))
    assert chunks == stream_of(node.history[50])
    assert capture.closed
    with pytest.raises(OSError, match="closed"):
        next(capture.chunks())


async def test_captures_and_marks_during_checkpoints_are_exact(layered: Node) -> None:
    """Entries, checkpoints, captures and marks all at once: each view is exactly the state at its index."""
    node = layered
    node.checkpointer.start()
    marks: list[int] = []
    for _ in range(12):
        node.apply(60)
        checkpoint = asyncio.create_task(node.checkpointer.checkpoint_now())
        node.apply(node.rng.randrange(10))
        await asyncio.sleep(node.rng.choice([0, 0.0005, 0.002]))
        node.apply(3)
        marks.append(node.mark())
        capture = await node.applier.capture()
        node.apply(40)
        reading = asyncio.create_task(asyncio.to_thread(lambda capture=capture: list(capture.chunks())))
        while not reading.done():
            node.apply(1)
            await asyncio.sleep(0)
        assert await reading == stream_of(node.history[capture.index])
        digest = await node.applier.state_digest(marks[-1])
        assert (digest.state, digest.keys) == state_stream.digest_of(sorted(node.history[marks[-1]].items()))
        await checkpoint
    assert pairs_of(node.store) == node.model


async def test_replicas_have_equal_digests_wherever_their_layers_are(layered: Node, tmp_path: Path) -> None:
    twins = [Node(MemoryStore(), seed=5), Node(LayeredStore.open(tmp_path / "twin"), seed=5), layered]
    layered.rng = random.Random(5)
    for round_ in range(20):
        for node in twins:
            node.apply(10)
            if round_ % 7 == 3:
                node.applier.skip(node.store.index_applied + 1)
        await twins[round_ % 2 + 1].checkpointer.checkpoint_now()
        assert len({node.applier.digest for node in twins}) == 1
    at = {node.mark() for node in twins}
    digests = {await node.applier.state_digest(index) for node in twins for index in at}
    assert len(digests) == 1
    for node in twins[:2]:
        await node.end()


async def test_a_mark_may_be_asked_for_before_it_is_reached(node: Node) -> None:
    node.apply(5)
    asked = asyncio.create_task(node.applier.state_digest(7))
    never = asyncio.create_task(node.applier.state_digest(6))
    await asyncio.sleep(0)
    node.apply(1)
    assert node.mark() == 7
    async with asyncio.timeout(DEADLINE_S):
        digest = await asked
        with pytest.raises(LookupError, match="no marker"):
            await never
    assert (digest.index, digest.chain, digest.keys) == (7, node.applier.digest, len(node.model))
    assert digest == await node.applier.state_digest(7)
    with pytest.raises(LookupError, match="was not marked"):
        await node.applier.state_digest(3)


async def test_a_mark_does_not_change_the_digest_and_other_state_does(node: Node) -> None:
    node.apply(5)
    before = node.applier.digest
    first = await node.applier.state_digest(node.mark())
    assert node.applier.digest == before == first.chain
    node.write([(b"Inew", b"1")])
    second = await node.applier.state_digest(node.mark())
    assert first.state != second.state
    assert second.keys == first.keys + 1


async def test_many_marks_at_once_give_way_and_are_bounded(layered: Node) -> None:
    layered.apply(20)
    asked = [asyncio.create_task(layered.applier.state_digest(21 + n)) for n in range(MARKS_MAX)]
    await asyncio.sleep(0)
    marks = [layered.mark() for _ in range(MARKS_MAX)]
    async with asyncio.timeout(DEADLINE_S):
        results = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(result) for result in results[-WAITING_MAX:]] == [type(results[-1])] * WAITING_MAX
    assert results[-1].index == marks[-1]
    assert sum(isinstance(result, LookupError) for result in results) == MARKS_MAX - WAITING_MAX
    with pytest.raises(LookupError):
        await layered.applier.state_digest(marks[0])


async def test_asking_for_indexes_that_never_come_is_bounded(node: Node) -> None:
    asked = [asyncio.create_task(node.applier.state_digest(1000 + n)) for n in range(3 * MARKS_MAX)]
    await until(lambda: sum(task.done() for task in asked) == 2 * MARKS_MAX)
    await node.applier.close()
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(result, LookupError) for result in results)


async def test_captures_are_bounded_in_number_and_life(layered: Node) -> None:
    layered.apply(3)
    captures = [await layered.applier.capture() for _ in range(CAPTURES_MAX)]
    with pytest.raises(OSError, match="already") as refused:
        await layered.applier.capture()
    assert refused.value.errno == 16
    captures[0].close()
    captures[0].close()
    (await layered.applier.capture()).close()
    short = Applier(layered.store, write_all, capture_life_s=0.0)
    capture = await short.capture()
    await until(lambda: capture.closed)
    with pytest.raises(OSError, match="closed"):
        list(capture.chunks())


async def test_an_installed_state_is_the_other_nodes_at_its_index(node: Node, other: Node) -> None:
    other.apply(300)
    capture = await other.applier.capture()
    node.apply(7)
    put = node.store.put
    await node.applier.install(capture.index, capture.digest, capture.chunks())
    assert pairs_of(node.store) == other.model
    assert (node.store.index_applied, node.store.index_durable) == (300, 300)
    assert node.applier.digest == other.applier.digest
    node.model = dict(other.model)
    for each in (node, other):
        each.rng = random.Random(9)
        each.apply(30)
    assert node.applier.digest == other.applier.digest
    put(b"Ibound", b"methods stay valid")
    node.store.mark_applied(331)
    assert node.store.get(b"Ibound") == b"methods stay valid"
    assert pairs_of(node.store) == other.model | {b"Ibound": b"methods stay valid"}


async def test_an_installed_state_survives_and_goes_on(layered: Node, other: Node, tmp_path: Path) -> None:
    layered.apply(40)
    await layered.checkpointer.checkpoint_now()
    layered.apply(40)
    other.apply(200)
    capture = await other.applier.capture()
    await layered.applier.install(capture.index, capture.digest, capture.chunks())
    layered.model = dict(other.model)
    layered.apply(20)
    await layered.checkpointer.checkpoint_now()
    digest = layered.applier.digest
    layered.store.close()
    reopened = LayeredStore.open(tmp_path / "state", create=False)
    assert (pairs_of(reopened), reopened.index_applied, reopened.digest) == (layered.model, 220, digest)
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["data.mdb", "keelfs.lock", "lock.mdb"]
    reopened.close()


async def test_installing_waits_for_a_checkpoint_and_none_runs_meanwhile(
    layered: Node, other: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    other.apply(50)
    capture = await other.applier.capture()
    layered.apply(30)
    layered.checkpointer.start()
    write_frozen = layered.store.write_frozen
    gate, checkpoint_gate = threading.Event(), threading.Event()

    def write_when_told() -> None:
        assert checkpoint_gate.wait(DEADLINE_S)
        write_frozen()

    monkeypatch.setattr(layered.store, "write_frozen", write_when_told)
    checkpoint = asyncio.create_task(layered.checkpointer.checkpoint_now())
    await until(lambda: layered.store.is_frozen)

    def slowly() -> Iterator[bytes]:
        assert gate.wait(DEADLINE_S)
        yield from capture.chunks()

    installing = asyncio.create_task(layered.applier.install(50, capture.digest, slowly()))
    await asyncio.sleep(0)
    assert layered.store.is_frozen
    checkpoint_gate.set()
    assert await checkpoint == 30
    again = asyncio.create_task(layered.checkpointer.checkpoint_now())
    await asyncio.sleep(0.01)
    assert not again.done()
    assert pairs_of(layered.store) == layered.model, "queries are answered from the old state until the new one is there"
    gate.set()
    await installing
    assert await again == 50
    assert pairs_of(layered.store) == other.model


async def test_installing_ends_a_full_disk(layered: Node, other: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    layered.apply(10)
    with monkeypatch.context() as patched:
        patched.setattr(layered.store, "write_frozen", lambda: (_ for _ in ()).throw(StoreFull("no room")))
        with pytest.raises(StoreFull):
            await layered.checkpointer.checkpoint_now()
    assert layered.checkpointer.full
    other.apply(20)
    capture = await other.applier.capture()
    await layered.applier.install(capture.index, capture.digest, capture.chunks())
    assert not layered.checkpointer.full
    assert (layered.store.is_clean, pairs_of(layered.store)) == (True, other.model)


async def test_views_end_when_the_state_is_replaced(layered: Node, other: Node) -> None:
    layered.apply(600)
    await layered.checkpointer.checkpoint_now()
    capture = await layered.applier.capture()
    chunks = capture.chunks()
    other.apply(700)
    new = await other.applier.capture()
    await layered.applier.install(new.index, new.digest, new.chunks())
    with pytest.raises(OSError, match="view of the state was closed") as ended:
        list(chunks)
    assert ended.value.errno == errno.ECANCELED
    assert capture.closed


async def test_marks_that_an_installed_state_jumps_over_are_refused(layered: Node, other: Node) -> None:
    other.apply(30)
    asked = asyncio.create_task(layered.applier.state_digest(20))
    await asyncio.sleep(0)
    capture = await other.applier.capture()
    await layered.applier.install(capture.index, capture.digest, capture.chunks())
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(LookupError):
            await asked
    with pytest.raises(LookupError):
        await layered.applier.state_digest(30)


def broken_streams() -> dict[str, list[bytes]]:
    def head(key: int, value: int) -> bytes:
        return key.to_bytes(2, "big") + value.to_bytes(4, "big")

    end = head(0, 0) + (1).to_bytes(8, "big")
    good = head(2, 1) + b"Iax"
    whole = good + end
    return {
        "empty": [],
        "no end": [good],
        "cut in the head": [whole[:3]],
        "cut in the value": [whole[:8]],
        "cut in the end": [whole[:-1]],
        "end of another kind": [good + head(0, 1) + (1).to_bytes(8, "big")],
        "wrong count": [good + head(0, 0) + (2).to_bytes(8, "big")],
        "more after the end": [whole, b"\0"],
        "more in the same piece": [whole + b"\0"],
        "twice the same key": [good + good + head(0, 0) + (2).to_bytes(8, "big")],
        "out of order": [head(2, 0) + b"Ib" + good + head(0, 0) + (2).to_bytes(8, "big")],
        "key too long": [head(512, 0) + b"I" * 512 + end],
        "a key of the store": [head(7, 0) + b"\0keelfs" + end],
        "a value of 4 GiB": [head(2, 2**32 - 1) + b"Ia" + b"x" * 1000],
        "another format of the state": stream_of({keys.FORMAT: codec.encode_counter(codec.FORMAT_VERSION + 1)}),
        "a damaged format": stream_of({keys.FORMAT: b"?"}),
    }


@pytest.mark.parametrize("name", broken_streams())
async def test_what_is_no_state_is_refused_and_the_old_one_stays(layered: Node, tmp_path: Path, name: str) -> None:
    layered.apply(20)
    await layered.checkpointer.checkpoint_now()
    layered.apply(20)
    digest = layered.applier.digest
    with pytest.raises(ValueError, match="state"):
        await layered.applier.install(100, NO_DIGEST, iter(broken_streams()[name]))
    assert (pairs_of(layered.store), layered.store.index_applied, layered.applier.digest) == (layered.model, 40, digest)
    assert not (tmp_path / "state" / "data.mdb.incoming").exists()
    layered.apply(5)
    await layered.checkpointer.checkpoint_now()
    assert layered.store.index_durable == 45


async def test_the_index_does_not_go_back_and_the_digest_has_its_length(node: Node) -> None:
    node.apply(5)
    for index, digest in ((4, NO_DIGEST), (9, b"short")):
        with pytest.raises(ValueError, match=r"goes back|16 bytes"):
            await node.applier.install(index, digest, iter(stream_of({})))
    assert pairs_of(node.store) == node.model
    await node.applier.install(5, NO_DIGEST, iter(stream_of({})))
    assert (pairs_of(node.store), node.applier.digest) == ({}, NO_DIGEST)


@pytest.mark.parametrize(("error", "number"), [(StoreFull("no room"), errno.ENOSPC), (StoreError("bad disk"), errno.EIO)])
@pytest.mark.parametrize("step", ["receive", "adopt"])
async def test_what_leaves_the_old_state_is_an_os_error(
    layered: Node, monkeypatch: pytest.MonkeyPatch, step: str, error: StoreError, number: int
) -> None:
    """So that the replicator, which does not know the store, can go on."""
    layered.apply(5)

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(layered.store, step, fail)
        with pytest.raises(OSError, match=str(error)) as refused:
            await layered.applier.install(9, NO_DIGEST, iter(stream_of({})))
    assert refused.value.errno == number
    assert (layered.store.index_applied, pairs_of(layered.store)) == (5, layered.model)


@pytest.mark.parametrize("step", ["sync", "environment"])
async def test_after_a_failure_behind_the_rename_nothing_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Above all no checkpoint: it would go into the old file, which has no name any more, and the log would be trimmed."""
    node = Node(LayeredStore.open(tmp_path / "state"))
    node.apply(5)
    incoming_of = node.store.receive

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "bad disk")

    def receive(*args: Any) -> Any:
        incoming = incoming_of(*args)
        finish = incoming.finish
        monkeypatch.setattr(
            incoming, "finish", lambda: (finish(), monkeypatch.setattr(f"metaserver.store.data_file.{step}", fail))
        )
        return incoming

    monkeypatch.setattr(node.store, "receive", receive)
    with pytest.raises(StoreError, match="bad disk"):
        await node.applier.install(9, NO_DIGEST, iter(stream_of({b"Inew": b"1"})))
    with pytest.raises(StoreError):
        node.store.get(b"Inew")
    await node.checkpointer.close()
    assert len(node.failures) == 1
    await node.applier.close()
    node.store.close()
    monkeypatch.undo()
    reopened = LayeredStore.open(tmp_path / "state")
    assert (pairs_of(reopened), reopened.index_applied) == ({b"Inew": b"1"}, 9)
    reopened.close()


async def test_a_state_that_cannot_be_digested_stops_nothing(layered: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    layered.apply(5)

    def fail() -> None:
        raise StoreError("too many readers")

    with monkeypatch.context() as patched:
        patched.setattr(layered.store, "view", fail)
        mark = layered.mark()
        with pytest.raises(OSError, match="too many readers"):
            await layered.applier.capture()
    with pytest.raises(LookupError, match="too many readers"):
        await layered.applier.state_digest(mark)
    assert (await layered.applier.state_digest(layered.mark())).keys == len(layered.model)


async def test_an_error_of_the_source_passes_through(layered: Node, tmp_path: Path) -> None:
    layered.apply(5)

    def damaged() -> Iterator[bytes]:
        yield from stream_of(layered.model)
        raise ZeroDivisionError("after the last piece")

    with pytest.raises(ZeroDivisionError):
        await layered.applier.install(9, NO_DIGEST, damaged())
    assert (layered.store.index_applied, pairs_of(layered.store)) == (5, layered.model)
    assert not (tmp_path / "state" / "data.mdb.incoming").exists()


async def test_a_cancelled_install_leaves_nothing_and_another_one_follows(layered: Node, other: Node, tmp_path: Path) -> None:
    layered.apply(5)
    other.apply(50)
    begun, gate = threading.Event(), threading.Event()

    def slowly() -> Iterator[bytes]:
        begun.set()
        assert gate.wait(DEADLINE_S)
        yield from stream_of(other.model)

    installing = asyncio.create_task(layered.applier.install(50, NO_DIGEST, slowly()))
    await until(begun.is_set)
    for _ in range(3):
        installing.cancel()
        await asyncio.sleep(0)
    assert not installing.done(), "its thread must be gone before anything else begins"
    following = asyncio.create_task(layered.applier.install(50, other.applier.digest, iter(stream_of(other.model))))
    await asyncio.sleep(0)
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await installing
    await following
    assert (pairs_of(layered.store), layered.applier.digest) == (other.model, other.applier.digest)
    assert not (tmp_path / "state" / "data.mdb.incoming").exists()


async def test_a_store_may_be_closed_while_a_capture_is_read(layered: Node) -> None:
    layered.write([(b"I%06d" % n, bytes(100)) for n in range(20_000)])
    await layered.checkpointer.checkpoint_now()
    capture = await layered.applier.capture()
    begun, closed = threading.Event(), threading.Event()

    def read() -> None:
        for number, _ in enumerate(capture.chunks()):
            begun.set()
            assert number < 3 or closed.wait(DEADLINE_S)

    reading = asyncio.create_task(asyncio.to_thread(read))
    await until(begun.is_set)
    layered.store.close()
    closed.set()
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(OSError, match="closed"):
            await reading


async def test_in_the_middle_of_an_entry_nothing_is_captured_or_skipped(node: Node) -> None:
    node.apply(2)
    node.store.put(b"Ia", b"half an entry")
    with pytest.raises(RuntimeError, match="in part"):
        await node.applier.capture()
    with pytest.raises(RuntimeError, match="in part"):
        node.applier.skip(3)
    node.store.mark_applied(3)
