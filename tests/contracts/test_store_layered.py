"""The layered store as a whole: random histories against a dict, the index, and what a killed process leaves behind."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from metaserver.store.errors import StoreMissing
from metaserver.store.layered import LayeredStore
from metaserver.store.lmdb_store import LmdbStore
from metaserver.store.overlay import Overlay
from metaserver.store.pacing import RUN_KEYS, sorted_runs

#: Few enough keys that layers often say different things about the same one; short ones, one group, several groups.
KEYS = st.sampled_from(
    [
        *(prefix + bytes(7) + bytes([n]) for prefix in (b"D", b"I") for n in range(4)),
        *(
            b"D" + bytes(7) + bytes([n]) + name
            for n in (1, 2)
            for name in (b"", b"a", b"ab", b"b", b"\0", b"\xff", b"\xff\xff")
        ),
        b"D",
        b"I\xff",
        b"\xff" * 9,
        b"\xff" * 300,
    ]
)
PREFIXES = st.sampled_from([b"D", b"I", b"\xff", b"D" + bytes(7), *(b"D" + bytes(7) + bytes([n]) for n in range(3))]) | KEYS


class LayeredMachine(RuleBasedStateMachine):
    """Every answer equals that of a dict, wherever the layers are; a reopened store equals the dict of its index."""

    def __init__(self) -> None:
        super().__init__()
        self._directory = tempfile.TemporaryDirectory()
        self._store = LayeredStore.open(Path(self._directory.name))
        self._model: dict[bytes, bytes] = {}
        self._history: dict[int, dict[bytes, bytes]] = {0: {}}
        self._index = 0

    @initialize()
    def nothing_yet(self) -> None:
        assert list(self._store.snapshot_scan()) == []

    @rule(
        puts=st.dictionaries(KEYS, st.binary(max_size=12) | st.just(b"big" * 2000), max_size=6),
        deletes=st.sets(KEYS, max_size=4),
    )
    def apply(self, puts: dict[bytes, bytes], deletes: set[bytes]) -> None:
        for key, value in puts.items():
            self._store.put(key, value)
            self._model[key] = value
        for key in sorted(deletes):
            self._store.delete(key)
            self._model.pop(key, None)
        self._index += 1
        self._store.mark_applied(self._index)
        self._history[self._index] = dict(self._model)

    @precondition(lambda self: not self._store.is_frozen)
    @rule()
    def freeze(self) -> None:
        self._store.freeze()

    @precondition(lambda self: self._store.is_frozen)
    @rule()
    def refreeze(self) -> None:
        self._store.refreeze()

    @precondition(lambda self: self._store.is_frozen)
    @rule(in_thread=st.booleans())
    def checkpoint(self, in_thread: bool) -> None:
        if in_thread:
            thread = threading.Thread(target=self._store.write_frozen)
            thread.start()
            thread.join()
        else:
            self._store.write_frozen()
        self._store.checkpointed().dissolve()

    @precondition(lambda self: self._store.is_frozen)
    @rule()
    def write_without_noticing(self) -> None:
        """A crash between the commit and `checkpointed`, or a second attempt."""
        self._store.write_frozen()

    @rule()
    def reopen(self) -> None:
        self._store.close()
        self._store = LayeredStore.open(Path(self._directory.name))
        self._index = self._store.index_applied
        assert self._store.index_durable == self._index
        self._model = dict(self._history[self._index])

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        assert self._store.get(key) == self._model.get(key)

    @rule(prefix=PREFIXES, after=KEYS | st.just(b""))
    def scan(self, prefix: bytes, after: bytes) -> None:
        expected = [(k, v) for k, v in sorted(self._model.items()) if k.startswith(prefix) and k > after]
        assert list(self._store.scan(prefix, after)) == expected

    @invariant()
    def the_whole_is_the_model(self) -> None:
        assert list(self._store.snapshot_scan()) == sorted(self._model.items())
        assert self._store.index_durable <= self._store.index_applied == self._index

    def teardown(self) -> None:
        self._store.close()
        self._directory.cleanup()


LayeredMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestLayeredMachine = LayeredMachine.TestCase


def mark(store: LayeredStore) -> None:
    store.mark_applied(store.index_applied + 1)


def checkpoint(store: LayeredStore) -> None:
    mark(store)
    store.freeze()
    store.write_frozen()
    store.checkpointed()


def test_writes_during_a_checkpoint_are_seen_and_kept_for_the_next(tmp_path: Path) -> None:
    store = LayeredStore.open(tmp_path)
    store.put(b"Ia", b"old")
    store.mark_applied(1)
    store.freeze()
    store.put(b"Ia", b"new")
    store.mark_applied(2)
    store.write_frozen()
    assert store.get(b"Ia") == b"new"
    store.checkpointed()
    assert (store.get(b"Ia"), store.index_durable, store.index_applied) == (b"new", 1, 2)
    store.close()
    with_first = LayeredStore.open(tmp_path)
    assert (with_first.get(b"Ia"), with_first.index_applied) == (b"old", 1)
    with_first.close()


def test_a_bound_put_stays_valid_across_a_freeze(tmp_path: Path) -> None:
    store = LayeredStore.open(tmp_path)
    put = store.put
    put(b"Ia", b"1")
    checkpoint(store)
    put(b"Ib", b"2")
    assert [k for k, _ in store.scan(b"I")] == [b"Ia", b"Ib"]
    assert store.dirty_keys == 1
    store.close()


def test_the_order_of_moves_is_enforced(tmp_path: Path) -> None:
    store = LayeredStore.open(tmp_path)
    for move in (store.refreeze, store.write_frozen, store.checkpointed):
        with pytest.raises(RuntimeError, match="no frozen layer"):
            move()
    store.freeze()
    with pytest.raises(RuntimeError, match="frozen layer already"):
        store.freeze()
    store.close()


@pytest.mark.parametrize("frozen_first", [False, True])
def test_an_entry_that_broke_off_never_reaches_the_disk(tmp_path: Path, frozen_first: bool) -> None:
    """An overwrite of the same size, which changes neither the number of keys nor their bytes."""
    store = LayeredStore.open(tmp_path)
    store.put(b"Ia", b"1")
    store.mark_applied(1)
    if frozen_first:
        store.freeze()
        store.write_frozen()
    store.put(b"Ia", b"2")
    with pytest.raises(RuntimeError, match="entry after 1 was applied in part"):
        store.refreeze() if frozen_first else store.freeze()
    store.close()
    store = LayeredStore.open(tmp_path)
    assert (store.get(b"Ia"), store.index_applied) == ((b"1", 1) if frozen_first else (None, 0))
    store.close()


def test_dirty_bytes_follow_what_is_held(tmp_path: Path) -> None:
    store = LayeredStore.open(tmp_path)
    assert (store.dirty_keys, store.dirty_bytes, store.is_clean) == (0, 0, True)
    store.put(b"Ia", bytes(100_000))
    mark(store)
    assert 100_000 < store.dirty_bytes < 101_000
    for _ in range(10):
        store.put(b"Ia", bytes(50_000))
    assert 50_000 < store.dirty_bytes < 51_000
    mark(store)
    store.freeze()
    store.put(b"Ib", bytes(7_000))
    assert (store.dirty_keys, 57_000 < store.dirty_bytes < 58_000) == (2, True)
    store.delete(b"Ib")
    assert 50_000 < store.dirty_bytes < 51_000
    store.write_frozen()
    store.checkpointed()
    assert store.dirty_keys == 1
    checkpoint(store)
    assert (store.dirty_keys, store.dirty_bytes, store.is_clean) == (0, 0, True)
    store.close()


def test_only_an_index_that_moved_is_worth_a_checkpoint(tmp_path: Path) -> None:
    store = LayeredStore.open(tmp_path)
    store.mark_applied(9)
    assert not store.is_clean
    checkpoint(store)
    assert (store.is_clean, store.index_durable) == (True, 10)
    store.close()


def test_a_layer_scan_does_not_depend_on_when_it_was_sorted() -> None:
    rng = random.Random(4)
    layer, model = Overlay(), {}
    for step in range(3000):
        key = b"D" + rng.randrange(3).to_bytes(8, "big") + rng.randbytes(2)
        layer.put(key, b"%d" % step)
        model[key] = b"%d" % step
        if rng.random() < 0.02:
            prefix = key[: rng.choice([1, 8, 9, 10])]
            expected = sorted((k, v) for k, v in model.items() if k.startswith(prefix))
            assert list(layer.scan(prefix) or ()) == expected


@pytest.mark.parametrize("count", [0, 1, RUN_KEYS, RUN_KEYS + 1, 5000, 70_000])
def test_runs_are_the_sorted_keys_in_small_pieces(count: int) -> None:
    rng = random.Random(count)
    keys = {rng.randbytes(rng.choice([3, 4, 20])) for _ in range(count)}
    runs = list(sorted_runs(keys))
    assert [key for run in runs for key in run] == sorted(keys)
    assert all(0 < len(run) <= max(RUN_KEYS, len(keys) // 1024) for run in runs)


def test_a_copy_is_a_store_of_its_own(tmp_path: Path) -> None:
    store = LayeredStore.open(tmp_path / "one")
    for n in range(3000):
        store.put(b"I%07d" % n, bytes(100))
    store.mark_applied(11)
    checkpoint(store)
    store.put(b"Iz", b"not in the checkpoint")
    (tmp_path / "two").mkdir()
    store.copy(tmp_path / "two")
    twin = LayeredStore.open(tmp_path / "two", create=False)
    assert twin.index_applied == 12
    assert len(list(twin.snapshot_scan())) == 3000
    assert twin.stat().entries == store.stat().entries == 3000
    twin.close()
    store.close()


def test_a_reader_beside_the_writer_sees_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing):
        LmdbStore.open(tmp_path, readonly=True)
    store = LayeredStore.open(tmp_path)
    store.put(b"Ia", b"1")
    checkpoint(store)
    store.close()
    reader = LmdbStore.open(tmp_path, readonly=True)
    assert (reader.get(b"Ia"), reader.index) == (b"1", 1)
    reader.close()


CRASHER = """
import random, sys
from pathlib import Path
from metaserver.store.layered import LayeredStore

rng = random.Random(int(sys.argv[2]))
store = LayeredStore.open(Path(sys.argv[1]))
print(store.index_applied, flush=True)
index = store.index_applied
while True:
    for _ in range(rng.randrange(1, 20)):
        index += 1
        for n in range(12):
            store.put(b"I%05d" % ((index * 7919 + n * 104729) % 3000), b"%d" % index * (1 + index % 50))
        store.delete(b"I%05d" % (index * 31 % 3000))
        store.mark_applied(index)
    store.freeze()
    store.write_frozen()
    store.checkpointed()
    print(store.index_durable, flush=True)
"""


class Expected:
    """What CRASHER's state is at an index: the same rule, applied to a dict, forwards only."""

    def __init__(self) -> None:
        self._index = 0
        self._state: dict[bytes, bytes] = {}

    def at(self, index: int) -> dict[bytes, bytes]:
        assert index >= self._index, "the store went back behind what it had made durable"
        for i in range(self._index + 1, index + 1):
            for n in range(12):
                self._state[b"I%05d" % ((i * 7919 + n * 104729) % 3000)] = b"%d" % i * (1 + i % 50)
            self._state.pop(b"I%05d" % (i * 31 % 3000), None)
        self._index = index
        return self._state


def test_a_killed_process_leaves_a_whole_checkpoint_and_its_index(tmp_path: Path) -> None:
    rng = random.Random(20)
    expected = Expected()
    for round_ in range(10):
        command = [sys.executable, "-c", CRASHER, str(tmp_path), str(round_)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline()
            alive_for = threading.Timer(rng.uniform(0.005, 0.2), process.send_signal, (signal.SIGKILL,))
            alive_for.start()
            reported = [int(line) for line in process.stdout if line.endswith("\n")]
            alive_for.join()
        store = LayeredStore.open(tmp_path, create=False)
        index = store.index_applied
        assert index >= max(reported, default=0), f"round {round_}: a finished checkpoint is missing"
        assert dict(store.snapshot_scan()) == expected.at(index), f"round {round_}: index {index}"
        store.close()
    assert expected._index > 100
