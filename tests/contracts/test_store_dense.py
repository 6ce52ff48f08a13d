"""Big checkpoints on disk: exactly the right pairs, pages that are full, and a page reader that agrees with LMDB."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from metaserver.store.chain import NO_DIGEST
from metaserver.store.lmdb_store import LmdbStore
from metaserver.store.page_walk import PageFile, check_pages

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def file_keys(number: int, parent: int) -> list[tuple[bytes, bytes]]:
    """About what one file costs: an inode, an entry by name, an entry by cookie."""
    directory = parent.to_bytes(8, "big")
    return [
        (b"I" + (10**6 + number).to_bytes(8, "big"), bytes(100)),
        (b"D" + directory + b"f%09d" % number, bytes(17)),
        (b"C" + directory + number.to_bytes(8, "big"), bytes(10)),
    ]


ONE_FILE_BYTES = 119 + 10 + 46 + 37  # keys, values, and LMDB's 10 bytes for each


@pytest.mark.parametrize("checkpoint_files", [1000, 4000])
@pytest.mark.parametrize(
    "parent_of",
    [lambda n: 7, lambda n: n // 1500, lambda n: n % 16],
    ids=["one directory", "one after the other", "16 at once"],
)
def test_files_made_in_sequence_leave_full_pages(
    tmp_path: Path, checkpoint_files: int, parent_of: Callable[[int], int]
) -> None:
    store = LmdbStore.open(tmp_path)
    files = 24_000
    for start in range(0, files, checkpoint_files):
        numbers = range(start, min(start + checkpoint_files, files))
        store.write(dict(pair for n in numbers for pair in file_keys(n, parent_of(n))), start, NO_DIGEST)
        store.renew()
    assert store.stat().entries == 3 * files
    assert store.stat().used_bytes / files < 1.15 * ONE_FILE_BYTES
    assert store.stat().file_bytes < 1.6 * store.stat().used_bytes
    check_pages(tmp_path / "data.mdb")
    store.close()


@pytest.mark.parametrize("seed", range(6))
def test_any_mixture_of_gaps_updates_and_deletions_is_written_exactly(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    store = LmdbStore.open(tmp_path)
    model: dict[bytes, bytes] = {}
    for index in range(1, 16):
        changes: dict[bytes, bytes | None] = {}
        for _ in range(rng.randrange(1, 12)):
            start, step = rng.randrange(20_000), rng.choice([1, 1, 1, 3, 50])
            fate = rng.choice(["put", "put", "put", "delete", "mixed"])
            value = rng.randbytes(rng.choice([0, 10, 17, 100, 100, 1400, 1600, 5000]))
            for n in range(start, start + rng.randrange(1, 400) * step, step):
                gone = fate == "delete" or (fate == "mixed" and rng.random() < 0.5)
                changes[b"D%07d" % n + b"x" * rng.choice([0, 0, 0, 1, 200])] = None if gone else value
        store.write(changes, index, NO_DIGEST)
        store.renew()
        for key, new in changes.items():
            if new is None:
                model.pop(key, None)
            else:
                model[key] = new
        assert dict(store.snapshot()) == model
        assert store.index == index
    check_pages(tmp_path / "data.mdb")
    store.close()


def test_the_page_reader_finds_each_key_where_lmdb_put_it(tmp_path: Path) -> None:
    rng = random.Random(3)
    store = LmdbStore.open(tmp_path)
    store.write({}, 0, NO_DIGEST)
    with PageFile(tmp_path / "data.mdb") as file:
        assert file.leaf_around(b"D").keys == [b"\0keelfs"]
    keys = sorted({b"D" + rng.randbytes(rng.randrange(1, 40)) for _ in range(30_000)})
    store.write(dict.fromkeys(keys, bytes(20)), 1, NO_DIGEST)
    with PageFile(tmp_path / "data.mdb") as file:
        for key in rng.sample(keys, 500):
            leaf = file.leaf_around(key)
            at = leaf.keys.index(key)
            first = keys.index(key) - at
            assert [k for k in leaf.keys if k[0] != 0] == keys[max(first, 0) : first + len(leaf.keys)]
            assert sum(leaf.node_bytes) <= file.page_bytes - 16
        assert leaf.node_bytes[at] - len(leaf.keys[at]) in (30, 31)
    store.close()
