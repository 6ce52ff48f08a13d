"""The cache on disk: limits, order of use, restarts, damage, and mounts that share a directory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from fuseclient.data.block_cache import BlockCache

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Now:
    def __init__(self) -> None:
        self.s = 1_000_000.0

    def __call__(self) -> float:
        return self.s


class Caches:
    """Opens caches in one directory, and closes them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now = Now()
        self.opened: list[BlockCache] = []

    def open(self, limit: int = 1000, identity: str = "store/volume", reserve: int = 0) -> BlockCache:
        cache = BlockCache(self.directory, identity, limit, reserve_bytes=reserve, now_s=self.now)
        self.opened.append(cache)
        return cache


@pytest.fixture
def caches(tmp_path: Path) -> Iterator[Caches]:
    made = Caches(tmp_path)
    yield made
    for cache in made.opened:
        cache.close()


def _add(cache: BlockCache, key: str, data: bytes) -> None:
    cache.add(key, (data,))
    cache.settle()


def test_what_was_added_is_there(caches: Caches) -> None:
    cache = caches.open()
    cache.add("v/chunks/0/1/1_0_5", (b"hel", bytearray(b"lo")))
    cache.settle()
    assert cache.read("v/chunks/0/1/1_0_5") == b"hello"
    assert cache.read("v/chunks/0/1/1_0_5", 1, 3) == b"ell"
    assert cache.read("v/chunks/0/1/2_0_5") is None
    into = memoryview(bytearray(3))
    if cache.read_nowait("v/chunks/0/1/1_0_5", 1, into) >= 0:  # not every file system can
        assert bytes(into) == b"ell"
    assert cache.read_nowait("v/chunks/0/1/2_0_5", 0, into) == -1


def test_the_least_recently_used_goes_first(caches: Caches) -> None:
    cache = caches.open(limit=300)
    for name in "abc":
        _add(cache, f"v/{name}", bytes(100))
        caches.now.s += 1
    assert cache.read("v/a") is not None
    _add(cache, "v/d", bytes(100))
    assert cache.used == 300
    assert [name for name in "abcd" if cache.read(f"v/{name}") is not None] == ["a", "c", "d"]


def test_order_of_use_survives_a_restart(caches: Caches) -> None:
    cache = caches.open(limit=300)
    for name in "abc":
        _add(cache, f"v/{name}", bytes(100))
        caches.now.s += 1
    caches.now.s += 120  # uses are written down once a minute
    assert cache.read("v/a") is not None
    again = caches.open(limit=300)
    assert again.used == 300
    _add(again, "v/d", bytes(100))
    assert [name for name in "abcd" if again.read(f"v/{name}") is not None] == ["a", "c", "d"]


def test_a_smaller_limit_is_kept_after_the_next_addition(caches: Caches) -> None:
    cache = caches.open(limit=1000)
    for name in "abcdefgh":
        _add(cache, f"v/{name}", bytes(100))
        caches.now.s += 1
    smaller = caches.open(limit=250)
    _add(smaller, "v/z", bytes(100))
    assert smaller.used <= 250
    assert smaller.read("v/z") is not None


def test_too_large_is_not_kept(caches: Caches) -> None:
    cache = caches.open(limit=100)
    _add(cache, "v/a", bytes(101))
    assert cache.read("v/a") is None


def test_a_full_disk_is_left_alone(caches: Caches) -> None:
    cache = caches.open(limit=1000, reserve=1 << 60)
    _add(cache, "v/a", bytes(10))
    assert cache.read("v/a") is None
    assert cache.used == 0


def test_damage_is_dropped(caches: Caches) -> None:
    cache = caches.open()
    _add(cache, "v/a", bytes(10))
    cache.drop("v/a")
    assert cache.read("v/a") is None
    assert cache.used == 0


def test_mounts_share_a_directory(caches: Caches) -> None:
    one, two = caches.open(), caches.open()
    _add(one, "v/a", b"from one")
    assert two.read("v/a") == b"from one"
    assert two.used == 8  # learned by using it
    two.drop("v/a")
    assert one.read("v/a") is None
    assert one.used == 0


def test_other_identities_are_other_objects(caches: Caches) -> None:
    one, two = caches.open(identity="s3://a/v"), caches.open(identity="s3://b/v")
    _add(one, "v/a", b"a's")
    assert two.read("v/a") is None


def test_a_mount_counts_what_others_hold(caches: Caches) -> None:
    one = caches.open(identity="one", limit=300)
    for name in "ab":
        _add(one, f"v/{name}", bytes(100))
        caches.now.s += 1
    two = caches.open(identity="two", limit=250)
    assert two.used == 200
    _add(two, "v/x", bytes(100))
    assert two.used == 200
    assert one.read("v/a") is None


def test_left_over_temporary_files_are_removed(caches: Caches) -> None:
    cache = caches.open()
    _add(cache, "v/a", bytes(10))
    (file,) = [path for path in caches.directory.rglob("*") if path.is_file()]
    old, young = file.parent / ".tmp-old", file.parent / ".tmp-young"
    for path, age_s in ((old, 7200), (young, 10)):
        path.write_bytes(b"half")
        os.utime(path, (caches.now.s - age_s,) * 2)
    again = caches.open()
    assert not old.exists()
    assert young.exists()
    assert again.used == 10


def test_an_unwritable_directory_fails_no_reader(caches: Caches, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = caches.open()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "no")

    monkeypatch.setattr("fuseclient.data.block_cache.write_all", refuse)
    _add(cache, "v/a", bytes(10))
    assert cache.read("v/a") is None
    assert not [path for path in caches.directory.rglob("*") if path.is_file()]


def test_the_queue_is_bounded(caches: Caches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuseclient.data.block_cache._QUEUE_BYTES_MAX", 250)
    cache = caches.open(limit=10_000)
    for _ in range(3):  # none has room for all three at once unless one was written in between
        cache.add("v/x", (bytes(200),))
    cache.settle()
    cache.add("v/y", (bytes(251),))
    cache.settle()
    assert cache.read("v/y") is None
    assert cache.read("v/x") is not None
