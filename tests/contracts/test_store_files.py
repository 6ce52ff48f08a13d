"""The store's files when they are not as they should be: each case gets one clear error, and a full disk loses nothing."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import lmdb
import pytest

from metaserver.store.chain import NO_DIGEST
from metaserver.store.errors import StoreBusy, StoreCorrupt, StoreError, StoreFull, StoreMissing, StoreVersion
from metaserver.store.layered import LayeredStore
from metaserver.store.lmdb_store import LmdbStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system: needs root")


def checkpoint(store: LayeredStore) -> None:
    store.mark_applied(store.index_applied)
    store.freeze()
    store.write_frozen()
    store.checkpointed()


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """The directory of a closed store with 5,000 keys."""
    store = LayeredStore.open(tmp_path / "meta")
    for n in range(5000):
        store.put(b"I%06d" % n, b"x" * 200)
    store.put(b"Ibig", bytes(300_000))
    store.mark_applied(7)
    checkpoint(store)
    store.close()
    return tmp_path / "meta"


def test_a_new_store_is_empty_and_survives_reopening(tmp_path: Path) -> None:
    for _ in range(2):
        store = LmdbStore.open(tmp_path / "meta")
        assert (store.index, store.stat().entries) == (0, 0)
        assert store.stat().map_bytes == 1 << 40
        store.close()
    assert (tmp_path / "meta" / "data.mdb").stat().st_blocks * 512 < 1 << 20


def test_what_is_written_is_there_after_reopening(filled: Path) -> None:
    store = LmdbStore.open(filled, create=False, verify=True)
    assert (store.index, store.stat().entries) == (7, 5001)
    assert store.get(b"I004999") == b"x" * 200
    assert store.stat().used_bytes <= store.stat().file_bytes
    store.close()


def test_no_directory_and_no_store_are_told_apart_from_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match="no metadata directory"):
        LmdbStore.open(tmp_path / "meta", create=False)
    with pytest.raises(StoreMissing, match="meta"):
        LmdbStore.open(tmp_path / "not" / "meta")
    with pytest.raises(StoreMissing, match=r"no data\.mdb"):
        LmdbStore.open(tmp_path, create=False)


def test_a_file_in_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "meta").write_text("")
    with pytest.raises(StoreError, match="meta"):
        LmdbStore.open(tmp_path / "meta")


@pytest.mark.parametrize("content", [b"hello", b"#!/bin/sh\n" * 1000, bytes(8192), os.urandom(1) * 70_000])
def test_a_file_that_is_not_lmdb(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.mdb").write_bytes(content)
    with pytest.raises(StoreCorrupt, match=r"data\.mdb"):
        LmdbStore.open(tmp_path)
    assert (tmp_path / "data.mdb").read_bytes() == content


def test_an_empty_file_is_not_a_new_store(filled: Path) -> None:
    os.truncate(filled / "data.mdb", 0)
    with pytest.raises(StoreCorrupt, match="empty"):
        LmdbStore.open(filled)


def test_somebody_elses_lmdb_file(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path), lib_version=0) as env, env.begin(write=True) as txn:
        txn.put(b"a", b"b")
    with pytest.raises(StoreCorrupt, match="not a KeelFS metadata store"):
        LmdbStore.open(tmp_path)


def test_a_format_of_the_future(filled: Path) -> None:
    with lmdb.open(str(filled), lib_version=0, map_size=1 << 30) as env, env.begin(write=True) as txn:
        txn.put(b"\0keelfs", struct.pack(">4sIQ", b"KEEL", 2, 7))
    with pytest.raises(StoreVersion, match="format 2"):
        LmdbStore.open(filled)


@pytest.mark.parametrize("pages", [2, 3, 10, 200, -3])
def test_a_truncated_file_is_refused_and_does_not_kill_the_process(filled: Path, pages: int) -> None:
    size = (filled / "data.mdb").stat().st_size
    os.truncate(filled / "data.mdb", pages * 4096 if pages > 0 else size + pages * 4096)
    for verify in (False, True):
        with pytest.raises(StoreCorrupt, match=r"data\.mdb is truncated: page \d+ is needed"):
            LmdbStore.open(filled, verify=verify)


def test_whatever_is_cut_off_the_store_is_whole_or_refused(filled: Path) -> None:
    size = (filled / "data.mdb").stat().st_size
    refused = 0
    for cut in range(1, 40):
        os.truncate(filled / "data.mdb", size - cut * 1500)
        try:
            store = LmdbStore.open(filled)
        except StoreCorrupt:
            refused += 1
            continue
        assert sum(1 for _ in store.snapshot()) == 5001
        store.write({b"I%06d" % n: b"" for n in range(0, 5000, 7)}, 8, NO_DIGEST)
        store.close()
    assert refused > 30


def test_verify_finds_a_page_of_zeros(filled: Path) -> None:
    store = LmdbStore.open(filled, verify=True)
    pages = store.stat().file_bytes // 4096
    store.close()
    with (filled / "data.mdb").open("r+b") as f:
        f.seek(pages // 2 * 4096)
        f.write(bytes(4096))
    with pytest.raises(StoreCorrupt, match="is damaged"):
        LmdbStore.open(filled, verify=True)


def test_a_file_that_only_lacks_pages_without_data_is_opened(filled: Path) -> None:
    """LMDB does not write pages that one transaction allocates and drops; a crash can leave the file without them."""
    last_page_at = 136
    with (filled / "data.mdb").open("r+b") as f:
        for meta in (0, 4096):
            f.seek(meta + last_page_at)
            (last,) = struct.unpack("<Q", f.read(8))
            f.seek(meta + last_page_at)
            f.write(struct.pack("<Q", last + 5))
    size = (filled / "data.mdb").stat().st_size
    store = LmdbStore.open(filled)
    assert sum(1 for _ in store.snapshot()) == 5001
    assert (filled / "data.mdb").stat().st_size == store.stat().file_bytes == size + 5 * 4096
    store.close()


def test_a_crash_while_making_the_store_leaves_none(tmp_path: Path) -> None:
    (tmp_path / "data.mdb.new").write_bytes(b"half")
    store = LmdbStore.open(tmp_path)
    assert store.index == 0
    store.close()
    assert not (tmp_path / "data.mdb.new").exists()


def test_a_second_opening_is_refused_with_the_holder(tmp_path: Path) -> None:
    store = LmdbStore.open(tmp_path)
    with pytest.raises(StoreBusy, match=f"process {os.getpid()}"):
        LmdbStore.open(tmp_path)
    script = "import sys, pathlib; from metaserver.store.lmdb_store import LmdbStore as S; S.open(pathlib.Path(sys.argv[1]))"
    other = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert other.returncode == 1
    assert f"StoreBusy: {tmp_path} is in use by process {os.getpid()}" in other.stderr
    store.close()
    LmdbStore.open(tmp_path).close()


@needs_root
def test_no_permission(filled: Path) -> None:
    """As another user, in another process: root may read everything."""
    (filled / "data.mdb").chmod(0o600)
    filled.chmod(0o700)
    script = (
        "import os, sys; from pathlib import Path; from metaserver.store import lmdb_store; os.setgroups([]); os.setgid(65534);"
        "os.setuid(65534); lmdb_store.LmdbStore.open(Path(sys.argv[1]))"
    )
    for parent in filled.parents[:2]:
        parent.chmod(0o755)
    other = subprocess.run([sys.executable, "-c", script, str(filled)], capture_output=True, text=True, check=False)
    assert other.stderr.strip().rpartition("\n")[2].startswith("metaserver.store.errors.StoreDenied:"), other.stderr


def test_a_full_map_loses_nothing_and_growing_it_helps(tmp_path: Path) -> None:
    store = LayeredStore.open(tmp_path, map_bytes=1 << 20)
    model: dict[bytes, bytes] = {}
    for index in range(1, 100):
        for n in range(100):
            key = b"I%06d" % (index * 100 + n)
            store.put(key, b"y" * 150)
            model[key] = b"y" * 150
        store.mark_applied(index)
        store.freeze()
        try:
            store.write_frozen()
        except StoreFull:
            break
        store.checkpointed()
    assert index > 10
    assert store.index_durable == index - 1
    assert dict(store.snapshot_scan()) == model
    store.put(b"Inew", b"z")
    store.mark_applied(index + 1)
    with pytest.raises(StoreFull, match="map size"):
        store.write_frozen()
    store.grow(4 << 20)
    assert dict(store.scan(b"I")) == model | {b"Inew": b"z"}
    store.write_frozen()
    store.checkpointed()
    checkpoint(store)
    assert (store.index_durable, store.dirty_keys) == (index + 1, 0)
    store.close()
    reopened = LayeredStore.open(tmp_path, create=False)
    assert dict(reopened.snapshot_scan()) == model | {b"Inew": b"z"}
    reopened.close()


def test_deleting_what_did_not_fit_makes_it_fit(tmp_path: Path) -> None:
    store = LayeredStore.open(tmp_path, map_bytes=1 << 20)
    store.put(b"Ikept", b"1")
    for n in range(30):
        store.put(b"Ibig%d" % n, bytes(64 << 10))
    store.mark_applied(1)
    store.freeze()
    with pytest.raises(StoreFull):
        store.write_frozen()
    for n in range(25):
        store.delete(b"Ibig%d" % n)
    store.mark_applied(2)
    store.refreeze()
    store.write_frozen()
    store.checkpointed()
    assert [key for key, _ in store.snapshot_scan()] == [*(b"Ibig%d" % n for n in range(25, 30)), b"Ikept"]
    store.close()


@contextmanager
def small_disk(tmp_path: Path, kind: str) -> Iterator[Path]:
    """A file system of 8 MiB."""
    point = tmp_path / "disk"
    point.mkdir()
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(point)]
    else:
        image = tmp_path / "image"
        with image.open("wb") as f:
            f.truncate(8 << 20)
        if shutil.which("mkfs.ext4") is None:
            pytest.skip("no mkfs.ext4")
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", str(image)], check=True, capture_output=True)
        command = ["mount", "-o", "loop", str(image), str(point)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a {kind}: {mounted.stderr.strip()}")
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)  # lazily: a test that failed has files open


@needs_root
@pytest.mark.fuse
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_full_disk_loses_nothing_and_freed_space_is_used(tmp_path: Path, kind: str) -> None:
    with small_disk(tmp_path, kind) as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(3 << 20))
        store = LayeredStore.open(disk / "meta")
        model: dict[bytes, bytes] = {}
        for index in range(1, 200):
            for n in range(100):
                key = b"I%06d" % (index * 100 + n)
                store.put(key, b"y" * 500)
                model[key] = b"y" * 500
            store.mark_applied(index)
            store.freeze()
            try:
                store.write_frozen()
            except StoreFull:
                break
            store.checkpointed()
        assert store.index_durable == index - 1 > 5
        assert dict(store.snapshot_scan()) == model
        with pytest.raises(StoreFull, match="No space left"):
            store.write_frozen()
        ballast.unlink()
        store.write_frozen()
        store.checkpointed()
        assert store.index_durable == index
        store.close()
        reopened = LayeredStore.open(disk / "meta", create=False)
        assert (dict(reopened.snapshot_scan()), reopened.index_applied) == (model, index)
        reopened.close()
