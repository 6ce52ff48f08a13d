"""The chain digest: equal for equal histories in every store, different after any difference, and as durable as the index."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metaserver.store.chain import DELETED, NO_DIGEST, fold
from metaserver.store.errors import StoreCorrupt
from metaserver.store.layered import LayeredStore
from metaserver.store.lmdb_store import LmdbStore
from metaserver.store.memory_store import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

Write = tuple[bytes, bytes | None]
Entry = tuple[int, list[Write]]

KEYS = st.sampled_from([b"Ia", b"Ib", b"Iab", b"E" * 9, b"E" * 20])
WRITES = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=3)), max_size=4)
HISTORIES = st.lists(WRITES, max_size=5).map(lambda entries: [(n + 1, writes) for n, writes in enumerate(entries)])


def checkpoint(store: LayeredStore) -> None:
    store.freeze()
    store.write_frozen()
    store.checkpointed()


def play(store: LayeredStore | MemoryStore, history: list[Entry]) -> bytes:
    for index, writes in history:
        for key, value in writes:
            if value is None:
                store.delete(key)
            else:
                store.put(key, value)
        store.mark_applied(index)
    return store.digest


def digest_of(history: list[Entry]) -> bytes:
    return play(MemoryStore(), history)


BASE: list[Entry] = [(1, [(b"Ia", b"1"), (b"Ib", b"2")]), (2, []), (3, [(b"Ia", None), (b"Ic", b"")])]


def test_the_digest_is_what_the_document_says() -> None:
    """Changing it makes every running cluster stop: the value is part of the format."""
    assert digest_of([]) == NO_DIGEST == bytes(16)
    assert digest_of(BASE).hex() == "b09317608dfb54dabcd8bb649ffef9db"


@pytest.mark.parametrize(
    "other",
    [
        [(1, [(b"Ib", b"2"), (b"Ia", b"1")]), *BASE[1:]],  # order
        [(1, [(b"Ia", b"1")]), *BASE[1:]],  # one write less
        [(1, [(b"Ia", b"1"), (b"Ib", b"2"), (b"Ib", b"2")]), *BASE[1:]],  # one that changes nothing
        [(1, [(b"Ia", b"1"), (b"Ib", b"3")]), *BASE[1:]],  # another value
        [(1, [(b"Ia", b"1"), (b"Id", b"2")]), *BASE[1:]],  # another key
        [(1, [(b"Ia1", b""), (b"Ib", b"2")]), *BASE[1:]],  # the same bytes, cut elsewhere
        [(1, [(b"Ia", b"1Ib2")]), *BASE[1:]],
        [(1, [(b"Ia", b"1")]), (2, [(b"Ib", b"2")]), BASE[2]],  # the same writes in another entry
        [*BASE[:2], (4, BASE[2][1])],  # another index
        [BASE[0], BASE[2]],  # an empty entry less
        [*BASE[:2], (3, [(b"Ia", b""), (b"Ic", b"")])],  # an empty value instead of none
        [*BASE[:2], (3, [(b"Ia", None), (b"Ic", None)])],
        [*BASE, (4, [])],
    ],
)
def test_any_other_history_has_another_digest_and_keeps_it(other: list[Entry]) -> None:
    assert digest_of(other) != digest_of(BASE)
    more: list[Entry] = [(9, [(b"Ia", b"equal from here on")])]
    assert digest_of(other + more) != digest_of(BASE + more)


def test_no_list_of_writes_looks_like_another() -> None:
    for one, other in (
        ([DELETED, b"Ia"], [DELETED + b"Ia"]),
        ([b"Ia", DELETED], [DELETED, b"Ia"]),
        ([], [b""]),
        ([b"", b""], [b""]),
        ([b"ab", b"c"], [b"a", b"bc"]),
    ):
        assert fold(NO_DIGEST, 1, one) != fold(NO_DIGEST, 1, other)


@given(one=HISTORIES, other=HISTORIES)
def test_digests_are_equal_when_histories_are(one: list[Entry], other: list[Entry]) -> None:
    assert (digest_of(one) == digest_of(other)) == (one == other)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=HISTORIES, moves=st.lists(st.sampled_from(["freeze", "refreeze", "checkpoint", "reopen"]), max_size=5))
def test_every_store_has_the_same_digest_wherever_its_layers_are(
    tmp_path_factory: pytest.TempPathFactory, history: list[Entry], moves: list[str]
) -> None:
    path = tmp_path_factory.mktemp("store")
    store, twin = LayeredStore.open(path), MemoryStore()
    after: dict[int, tuple[bytes, int]] = {0: (NO_DIGEST, 0)}  # index -> digest, entries
    done = 0
    for move in [*moves, "reopen"]:
        if move == "reopen":
            store.close()
            store = LayeredStore.open(path)
            digest, done = after[store.index_applied]
            assert store.digest == digest
        elif move == "freeze" and not store.is_frozen:
            store.freeze()
        elif move == "refreeze" and store.is_frozen:
            store.refreeze()
        elif move == "checkpoint":
            if not store.is_frozen:
                store.freeze()
            store.write_frozen()
            store.checkpointed()
        for entry in history[done : done + 2]:
            play(store, [entry])
            if twin.index_applied < entry[0]:
                play(twin, [entry])
                after[entry[0]] = (twin.digest, done + 1)
            assert store.digest == after[entry[0]][0]
            done += 1
    store.close()


@pytest.mark.parametrize("kind", ["memory", "layered"])
def test_a_skipped_index_moves_the_index_alone(tmp_path: Path, kind: str) -> None:
    store = MemoryStore() if kind == "memory" else LayeredStore.open(tmp_path)
    before = play(store, BASE)
    store.skip(5)
    assert (store.index_applied, store.digest) == (5, before)
    for index in (4, 0):
        with pytest.raises(ValueError, match="goes back"):
            store.skip(index)
    store.put(b"Ia", b"1")
    with pytest.raises(RuntimeError, match="in part"):
        store.skip(6)
    store.mark_applied(6)
    if isinstance(store, LayeredStore):
        store.skip(8)
        checkpoint(store)
        expected = store.digest
        store.close()
        store = LayeredStore.open(tmp_path)
        assert (store.index_applied, store.digest) == (8, expected)
    store.close()


def test_a_checkpoint_keeps_the_digest_of_its_own_index(tmp_path: Path) -> None:
    store = LayeredStore.open(tmp_path)
    first = play(store, BASE)
    store.freeze()
    play(store, [(4, [(b"Iz", b"1")])])
    store.write_frozen()
    store.checkpointed()
    store.close()
    store = LayeredStore.open(tmp_path)
    assert (store.index_applied, store.digest) == (3, first)
    (tmp_path / "copy").mkdir()
    store.copy(tmp_path / "copy")
    store.close()
    copy = LmdbStore.open(tmp_path / "copy", readonly=True)
    assert copy.digest == first
    copy.close()


def rewrite_record(directory: Path, value: bytes) -> None:
    with lmdb.open(str(directory), lib_version=0, map_size=1 << 30) as env, env.begin(write=True) as txn:
        txn.put(b"\0keelfs", value)


def test_a_store_from_before_the_digest_begins_with_zeros(tmp_path: Path) -> None:
    LayeredStore.open(tmp_path).close()
    rewrite_record(tmp_path, struct.pack(">4sIQ", b"KEEL", 1, 7))
    store = LayeredStore.open(tmp_path)
    assert (store.index_applied, store.digest) == (7, NO_DIGEST)
    expected = play(store, [(8, [(b"Ia", b"1")])])
    assert expected == fold(NO_DIGEST, 8, [b"Ia", b"1"])
    checkpoint(store)
    store.close()
    store = LayeredStore.open(tmp_path)
    assert (store.index_applied, store.digest) == (8, expected)
    store.close()


@pytest.mark.parametrize("size", [1, 15])
def test_a_record_that_ends_within_the_digest_is_damage(tmp_path: Path, size: int) -> None:
    LayeredStore.open(tmp_path).close()
    rewrite_record(tmp_path, struct.pack(">4sIQ", b"KEEL", 1, 7) + bytes(size))
    with pytest.raises(StoreCorrupt, match="within the digest"):
        LayeredStore.open(tmp_path)
