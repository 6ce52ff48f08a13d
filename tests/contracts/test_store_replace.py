"""Putting another state in a store's place: killed at every step, on a full disk, beside a second server; and its views."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metaserver.store import state_stream
from metaserver.store.chain import NO_DIGEST
from metaserver.store.errors import StoreBusy, StoreError, StoreFull
from metaserver.store.incoming import IncomingFile
from metaserver.store.layered import LayeredStore
from metaserver.store.lmdb_store import LmdbStore
from metaserver.store.memory_store import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NEW_DIGEST = b"n" * 16
NEW_INDEX = 900


def state(seed: int, count: int = 3000) -> dict[bytes, bytes]:
    rng = random.Random(seed)
    return {b"I%06d" % rng.randrange(10**6): rng.randbytes(rng.randrange(120)) for _ in range(count)}


def fill(store: LayeredStore, pairs: dict[bytes, bytes], index: int) -> None:
    for key, value in pairs.items():
        store.put(key, value)
    store.mark_applied(index)


def checkpoint(store: LayeredStore) -> None:
    store.freeze()
    store.write_frozen()
    store.checkpointed()


def bring(store: LayeredStore | MemoryStore, pairs: dict[bytes, bytes], index: int = NEW_INDEX) -> None:
    incoming = store.receive(index, NEW_DIGEST)
    try:
        for run in state_stream.decode(state_stream.encode(sorted(pairs.items()))):
            incoming.add(run)
        incoming.finish()
        store.adopt(incoming)
    except BaseException:
        incoming.discard()
        raise


OLD, NEW = state(1), state(2)


@pytest.fixture
def old(tmp_path: Path) -> Iterator[LayeredStore]:
    """A store with OLD on the disk at index 5."""
    store = LayeredStore.open(tmp_path / "state")
    fill(store, OLD, 5)
    checkpoint(store)
    yield store
    store.close()


def test_everything_of_the_old_state_is_gone_in_every_layer(old: LayeredStore) -> None:
    old.put(b"Ifrozen", b"1")
    old.mark_applied(6)
    old.freeze()
    put, delete = old.put, old.delete
    put(b"Ihot", b"1")
    old.mark_applied(7)
    bring(old, NEW)
    assert dict(old.snapshot_scan()) == NEW
    assert (old.index_applied, old.index_durable, old.digest) == (NEW_INDEX, NEW_INDEX, NEW_DIGEST)
    assert (old.is_clean, old.is_frozen, old.dirty_keys, old.stat().entries) == (True, False, 0, len(NEW))
    put(b"Ihot", b"2")
    delete(min(NEW))
    old.mark_applied(NEW_INDEX + 1)
    checkpoint(old)
    assert old.get(b"Ihot") == b"2"
    assert old.get(min(NEW)) is None


def test_a_state_can_be_replaced_again_and_again(old: LayeredStore) -> None:
    for seed in range(4):
        bring(old, state(seed, 500), NEW_INDEX + seed)
        old.put(b"Ix", b"%d" % seed)
        old.mark_applied(NEW_INDEX + seed)
        checkpoint(old)
    assert dict(old.snapshot_scan()) == state(3, 500) | {b"Ix": b"3"}


def test_large_values_and_many_pages(old: LayeredStore, tmp_path: Path) -> None:
    big = {b"I%03d" % n: os.urandom(1 << 20) for n in range(12)} | {b"Imax": bytes(state_stream.VALUE_MAX)}
    bring(old, big)
    old.close()
    again = LmdbStore.open(tmp_path / "state", verify=True)
    assert dict(again.snapshot()) == big
    again.close()


def test_an_incoming_file_is_full_pages(old: LayeredStore) -> None:
    pairs = {b"E" + n.to_bytes(8, "big"): bytes(60) for n in range(30_000)}
    bring(old, pairs)
    assert old.stat().used_bytes < 1.25 * sum(len(k) + len(v) + 10 for k, v in pairs.items())


def test_the_order_of_moves_is_enforced(old: LayeredStore) -> None:
    incoming = old.receive(NEW_INDEX, NEW_DIGEST)
    with pytest.raises(RuntimeError, match="not finished"):
        old.adopt(incoming)
    incoming.finish()
    for move in (incoming.finish, lambda: incoming.add([(b"Ia", b"")])):
        with pytest.raises(RuntimeError, match="finished or discarded"):
            move()
    old.mark_applied(NEW_INDEX + 1)
    with pytest.raises(ValueError, match="goes back"):
        old.adopt(incoming)
    incoming.discard()
    incoming.discard()
    with pytest.raises(TypeError):
        old.adopt(MemoryStore().receive(NEW_INDEX + 2, NEW_DIGEST))
    with pytest.raises(TypeError):
        MemoryStore().adopt(old.receive(NEW_INDEX + 2, NEW_DIGEST))
    assert dict(old.snapshot_scan()) == OLD


def test_a_second_server_is_refused_before_during_and_after(old: LayeredStore, tmp_path: Path) -> None:
    def refused() -> None:
        with pytest.raises(StoreBusy):
            LmdbStore.open(tmp_path / "state")

    incoming = old.receive(NEW_INDEX, NEW_DIGEST)
    refused()
    assert incoming.path.exists(), "an opening that is refused touches nothing"
    incoming.finish()
    old.adopt(incoming)
    refused()
    old.close()
    LmdbStore.open(tmp_path / "state").close()


def test_a_reader_from_outside_keeps_what_it_saw_and_the_store_is_not_confused(old: LayeredStore, tmp_path: Path) -> None:
    """LMDB's table of readers belongs to the old file; a new one must not inherit its transaction numbers."""
    script = (
        "import sys; from pathlib import Path; from metaserver.store.lmdb_store import LmdbStore\n"
        "store = LmdbStore.open(Path(sys.argv[1]), readonly=True); print(store.index, flush=True); sys.stdin.readline()\n"
        "print(sum(1 for _ in store.snapshot()), store.index)"
    )
    for index in range(6, 10):
        old.put(b"Imore", b"%d" % index)
        old.mark_applied(index)
        checkpoint(old)
    command = [sys.executable, "-c", script, str(tmp_path / "state")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "9\n"
        bring(old, NEW)
        for index in range(NEW_INDEX + 1, NEW_INDEX + 6):
            old.put(b"I%06d" % index, b"x")
            old.mark_applied(index)
            checkpoint(old)
        output, _ = reader.communicate("\n")
    assert output == f"{len(OLD) + 1} 9\n"
    expected = NEW | {b"I%06d" % index: b"x" for index in range(NEW_INDEX + 1, NEW_INDEX + 6)}
    assert dict(old.snapshot_scan()) == expected
    old.close()
    again = LmdbStore.open(tmp_path / "state", verify=True)
    assert (dict(again.snapshot()), again.index) == (expected, NEW_INDEX + 5)
    again.close()


# -- crashes -----------------------------------------------------------------------------------------------------------------


def stepped(name: str, real: Callable[..., Any], count: list[str], kill_at: int, when: str) -> Callable[..., Any]:
    def step(*args: Any, **kwargs: Any) -> Any:
        count.append(name)
        mine = len(count) == kill_at
        if mine and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return real(*args, **kwargs)
        finally:
            if mine:
                os.kill(os.getpid(), signal.SIGKILL)

    return step


def bring_stepwise(directory: Path, kill_at: int, when: str) -> list[str]:
    """Replace the state, and kill this process before or after the step `kill_at` (from 1); the names of the steps."""
    store = LayeredStore.open(directory)
    count: list[str] = []
    for name in ("unlink", "rename", "fsync", "truncate", "open"):
        setattr(os, name, stepped(name, getattr(os, name), count, kill_at, when))
    for name in ("add", "finish"):
        setattr(IncomingFile, name, stepped(name, getattr(IncomingFile, name), count, kill_at, when))
    bring(store, NEW)
    return count


def in_child(body: Callable[[], list[str]]) -> list[str] | None:
    """What `body` returns in a process of its own; None when that was killed. A fork: no store is open here, no thread runs."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, " ".join(body()).encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return text.split() if code == 0 else None


def test_killed_at_any_step_the_old_state_is_there_or_the_new(old: LayeredStore, tmp_path: Path) -> None:
    old.close()
    template = tmp_path / "template"
    shutil.copytree(tmp_path / "state", template)
    steps = in_child(lambda: bring_stepwise(tmp_path / "state", 0, "never"))
    assert steps is not None
    renamed = steps.index("rename")
    assert steps[renamed + 1 :] == ["unlink", "open", "fsync"], "the directory is synced before the old state is let go"
    assert "fsync" in steps[steps.index("finish") : renamed], "the new state is on the disk before it gets the name"
    seen = {"old": 0, "new": 0}
    interesting = [1, 2, steps.index("finish") - 1, *range(steps.index("finish"), len(steps) + 1)]
    for kill_at in interesting:
        for when in ("before", "after"):
            directory = tmp_path / f"killed-{kill_at}-{when}"
            shutil.copytree(template, directory)
            assert in_child(partial(bring_stepwise, directory, kill_at, when)) is None
            store = LayeredStore.open(directory, create=False)
            is_new = store.index_applied == NEW_INDEX
            expected = (NEW, NEW_INDEX, NEW_DIGEST) if is_new else (OLD, 5, store.digest)
            assert (dict(store.snapshot_scan()), store.index_applied, store.digest) == expected, (steps[kill_at - 1], when)
            assert is_new == (kill_at > renamed + 1 or (kill_at == renamed + 1 and when == "after"))
            assert not (directory / "data.mdb.incoming").exists()
            seen["new" if is_new else "old"] += 1
            store.put(b"Igoes on", b"1")
            store.mark_applied(NEW_INDEX + 1)
            checkpoint(store)
            store.close()
            shutil.rmtree(directory)
    assert min(seen.values()) >= 4


# -- a disk that is full or broken -------------------------------------------------------------------------------------------


def failing(name: str, error: OSError, times: int = 1) -> Callable[..., object]:
    real = getattr(os, name)
    left = [times]

    def call(*args: object, **kwargs: object) -> object:
        if "state" in str(args[0]) and left[0] > 0:
            left[0] -= 1
            raise error
        return real(*args, **kwargs)

    return call


@pytest.mark.parametrize("step", ["rename", "unlink"])
@pytest.mark.parametrize("number", [28, 5])
def test_an_error_before_the_rename_leaves_the_old_state_at_work(
    old: LayeredStore, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    incoming = old.receive(NEW_INDEX, NEW_DIGEST)
    incoming.finish()
    with monkeypatch.context() as patched:
        patched.setattr(os, step, failing(step, OSError(number, os.strerror(number))))
        with pytest.raises(StoreFull if number == 28 else StoreError):
            old.adopt(incoming)
    incoming.discard()
    assert not incoming.path.exists()
    assert (dict(old.snapshot_scan()), old.index_applied) == (OLD, 5)
    old.put(b"Igoes on", b"1")
    old.mark_applied(6)
    checkpoint(old)
    bring(old, NEW)
    assert dict(old.snapshot_scan()) == NEW


def test_a_full_map_or_disk_leaves_the_old_state_and_no_file(tmp_path: Path) -> None:
    store = LayeredStore.open(tmp_path / "state", map_bytes=1 << 20)
    fill(store, {b"Ia": b"1"}, 5)
    checkpoint(store)
    with pytest.raises(StoreFull):
        bring(store, {b"I%06d" % n: bytes(500) for n in range(5000)})
    assert (dict(store.snapshot_scan()), store.index_applied) == ({b"Ia": b"1"}, 5)
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["data.mdb", "keelfs.lock", "lock.mdb"]
    store.close()


@pytest.mark.fuse
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system: needs root")
def test_a_real_full_disk_leaves_the_old_state_and_the_space(tmp_path: Path) -> None:
    point = tmp_path / "disk"
    point.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(point)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("cannot mount a tmpfs")
    try:
        store = LayeredStore.open(point / "state")
        fill(store, OLD, 5)
        checkpoint(store)
        free = os.statvfs(point).f_bavail
        with pytest.raises(StoreFull):
            bring(store, {b"I%06d" % n: bytes(900) for n in range(12_000)})
        assert os.statvfs(point).f_bavail == free
        assert (dict(store.snapshot_scan()), store.index_applied) == (OLD, 5)
        bring(store, NEW)
        assert dict(store.snapshot_scan()) == NEW
        store.close()
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)


# -- views and streams -------------------------------------------------------------------------------------------------------

PAIRS = st.dictionaries(
    st.binary(min_size=1, max_size=20).filter(lambda key: key[0] != 0),
    st.binary(max_size=40) | st.just(bytes(300_000)),
    max_size=30,
)


@settings(max_examples=50, deadline=None)
@given(pairs=PAIRS, cuts=st.integers(1, 50_000))
def test_a_stream_gives_back_its_pairs_however_it_is_cut(pairs: dict[bytes, bytes], cuts: int) -> None:
    chunks = list(state_stream.encode(sorted(pairs.items())))
    assert all(len(chunk) == state_stream.CHUNK_BYTES for chunk in chunks[:-1])
    assert 0 < len(chunks[-1]) <= state_stream.CHUNK_BYTES
    data = b"".join(chunks)
    pieces = [data[at : at + cuts] for at in range(0, len(data), cuts)]
    for source in (chunks, pieces):
        assert [pair for run in state_stream.decode(source) for pair in run] == sorted(pairs.items())
    assert state_stream.digest_of(sorted(pairs.items()))[1] == len(pairs)


@settings(max_examples=100, deadline=None)
@given(pairs=st.dictionaries(st.binary(min_size=1, max_size=4), st.binary(max_size=4), max_size=5), data=st.data())
def test_a_damaged_stream_is_refused_or_another_valid_one(pairs: dict[bytes, bytes], data: st.DataObject) -> None:
    whole = bytearray(b"".join(state_stream.encode(sorted((b"I" + key, value) for key, value in pairs.items()))))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        got = [pair for run in state_stream.decode([bytes(whole)]) for pair in run]
    except ValueError:
        return
    assert b"".join(state_stream.encode(got)) == whole


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), data=st.data())
def test_a_view_is_the_state_of_its_index_while_entries_and_checkpoints_go_on(
    tmp_path_factory: pytest.TempPathFactory, seed: int, data: st.DataObject
) -> None:
    rng = random.Random(seed)
    store = LayeredStore.open(tmp_path_factory.mktemp("view"))
    model: dict[bytes, bytes] = {}

    def apply() -> None:
        for _ in range(rng.randrange(6)):
            key = b"I%02d" % rng.randrange(40)
            if rng.random() < 0.3:
                store.delete(key)
                model.pop(key, None)
            else:
                store.put(key, rng.randbytes(3))
                model[key] = store.get(key) or b""
        store.mark_applied(store.index_applied + 1)

    def move(name: str) -> None:
        match name:
            case "freeze" if not store.is_frozen:
                store.freeze()
            case "refreeze" if store.is_frozen:
                store.refreeze()
            case "write" if store.is_frozen:
                store.write_frozen()
            case "checkpointed" if store.is_frozen:
                store.write_frozen()
                store.checkpointed().dissolve()
            case _:
                apply()

    moves = st.lists(st.sampled_from(["freeze", "refreeze", "write", "checkpointed", "apply"]), max_size=8)
    for name in data.draw(moves):
        move(name)
    view, expected, index = store.view(), sorted(model.items()), store.index_applied
    first = data.draw(st.booleans())
    pairs = view.pairs()
    got = [next(pairs)] if first and expected else []
    for name in data.draw(moves):
        move(name)
    thread = threading.Thread(target=lambda: got.extend(pairs))
    thread.start()
    for _ in range(20):
        apply()
    thread.join()
    assert (got, view.index) == (expected, index)
    view.close()
    view.close()
    store.close()


def test_views_end_with_the_store_and_before_the_map_grows(old: LayeredStore) -> None:
    for end in (lambda: old.grow(1 << 31), lambda: bring(old, NEW), old.close):
        pairs = old.view().pairs()
        next(pairs)
        end()
        with pytest.raises(StoreError, match="was closed"):
            list(pairs)


def test_no_digest_is_of_sixteen_bytes() -> None:
    for store in (MemoryStore(),):
        with pytest.raises(ValueError, match="16 bytes"):
            store.receive(1, NO_DIGEST[1:])
