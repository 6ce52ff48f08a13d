"""LMDB's data file: how it is made, opened, made durable, and found to be whole."""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import lmdb

from metaserver.store import record
from metaserver.store.lmdb_errors import translated
from metaserver.store.page_walk import check_pages

if TYPE_CHECKING:
    from pathlib import Path

#: The 0.9 engine: its files can be read by every LMDB tool there is. An environment variable may not choose another one.
ENGINE: Final = 0


def environment(data: Path, map_bytes: int, readonly: bool) -> lmdb.Environment:
    """Why each of these settings: docs/decisions/0001-overlay-over-lmdb.md."""
    return lmdb.open(
        str(data.parent),
        map_size=whole_pages(max(map_bytes, data.stat().st_size)),
        readonly=readonly,
        create=False,
        sync=True,
        metasync=True,
        writemap=False,
        readahead=False,
        meminit=False,
        max_dbs=0,
        mode=0o600,
        lib_version=ENGINE,
    )


def create(data: Path) -> None:
    """Make a store with no keys, or none at all."""
    fresh = data.with_name("data.mdb.new")
    with translated(data):
        with suppress(FileNotFoundError):
            fresh.unlink()
        with lmdb.open(str(fresh), subdir=False, lock=False, map_size=1 << 20, mode=0o600, lib_version=ENGINE) as env:
            with env.begin(write=True) as txn:
                txn.put(record.KEY, record.pack(record.Record(0)))
            extend_to_last_page(fresh, env)
        fresh.rename(data)
        sync(data.parent)


def whole_pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def extend_to_last_page(data: Path, env: lmdb.Environment) -> None:
    """Give the file the size that its header claims.

    LMDB does not write pages that were allocated and dropped within one transaction. When those are the last ones the file
    ends early, which is harmless, but at the next start could not be told from a file that was cut.
    """
    end = _last_page_end(env)
    if data.stat().st_size < end:
        os.truncate(data, end)


def check_size(data: Path, env: lmdb.Environment, readonly: bool, verify: bool) -> None:
    """Refuse a file that was cut: reading a mapped page that is not there would kill the process (SIGBUS).

    It can also be short by a crash right after a commit (extend_to_last_page); page_walk.py knows which of the two it is.
    """
    short = data.stat().st_size < _last_page_end(env)
    if not short and not verify:
        return
    with translated(data):
        check_pages(data)
        if short and not readonly:
            extend_to_last_page(data, env)


def _last_page_end(env: lmdb.Environment) -> int:
    return (env.info()["last_pgno"] + 1) * env.stat()["psize"]
