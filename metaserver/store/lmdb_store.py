"""The durable bottom layer: one LMDB environment, one keyspace, one writer.

Owns the files of its directory:

    data.mdb           LMDB's. Under one reserved key it holds record.py's record, so that the applied index and the digest
                       change in the same transaction as the data.
    data.mdb.incoming  another state on its way in (incoming.py). One that is found at opening is what a crash left; it goes.
    lock.mdb           LMDB's table of readers.
    keelfs.lock        flock'ed by whoever has the store open for writing; holds that process's id, for people. It is held
                       across `adopt`, so no second server gets in while the data changes under the directory.

Rules: `get`, `scan`, `renew` and `adopt` belong to the thread that opened the store and see the checkpoint as of the last
`renew`; `write` may run in one other thread at a time, and each `reader` in one more. A data.mdb is made under another name and
renamed when its first record is on disk, so one without it, or with no bytes in it, was never a store of ours and is refused.

It is not the place for what is not durable yet: layered.py.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

import lmdb

from metaserver.store import data_file, record
from metaserver.store.api import KEY_MAX, RESERVED_BYTE, check_key
from metaserver.store.dense_writer import DenseWriter
from metaserver.store.errors import StoreBusy, StoreClosed, StoreCorrupt, StoreError, StoreMissing
from metaserver.store.incoming import IncomingFile
from metaserver.store.lmdb_errors import translate, translated
from metaserver.store.pacing import rest, sorted_runs
from metaserver.store.page_walk import PageFile
from metaserver.store.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from metaserver.store.api import Pair

MAP_BYTES: Final = 1 << 40

_FIRST_KEY: Final = bytes([RESERVED_BYTE + 1])

#: A reader takes no more values at once than this, and one.
_READ_BYTES: Final = 1 << 20


class StoreStat(NamedTuple):
    entries: int
    used_bytes: int  # pages that hold data
    file_bytes: int  # pages of the file, with those that are free for reuse
    map_bytes: int  # the file cannot grow beyond this
    index_durable: int


class LmdbStore:
    """An open store. Make it with `open`."""

    def __init__(self, path: Path, env: lmdb.Environment, lock_fd: int, map_bytes: int) -> None:
        self._path = path
        self._data = path / "data.mdb"
        self._env = env
        self._lock_fd = lock_fd
        self._map_bytes = map_bytes
        self._readers: set[DiskReader] = set()
        self._writing = False
        self._txn = env.begin()
        self._record = self._read_record()

    @classmethod
    def open(
        cls, directory: Path, *, map_bytes: int = MAP_BYTES, create: bool = True, readonly: bool = False, verify: bool = False
    ) -> LmdbStore:
        """Open the store in `directory`; with `create` an empty one is made where there is none.

        A read-only store takes no lock and may look at one that a server has open; it sees checkpoints only. `verify`
        reads every page first. Raises StoreError and what is below it.
        """
        if create and not readonly:
            _make_directory(directory)
        if not directory.is_dir():
            raise StoreMissing(f"no metadata directory at {directory}")
        lock_fd = -1 if readonly else _take_lock(directory / "keelfs.lock")
        try:
            return cls._open_locked(directory, map_bytes, create, readonly, verify, lock_fd)
        except BaseException:
            if lock_fd >= 0:
                os.close(lock_fd)
            raise

    @classmethod
    def _open_locked(
        cls, directory: Path, map_bytes: int, create: bool, readonly: bool, verify: bool, lock_fd: int
    ) -> LmdbStore:
        data = directory / "data.mdb"
        if not _exists(data):
            if not create or readonly:
                raise StoreMissing(f"no metadata store in {directory}: there is no data.mdb")
            data_file.create(data)
        if data.stat().st_size == 0:
            raise StoreCorrupt(f"{data} is empty: a store never leaves it so")
        if not readonly:
            with translated(data):
                _incoming(data).unlink(missing_ok=True)
        with translated(data):
            env = data_file.environment(data, map_bytes, readonly)
        try:
            data_file.check_size(data, env, readonly, verify)
            with translated(data):
                return cls(directory, env, lock_fd, map_bytes)
        except BaseException:
            env.close()
            raise

    @property
    def index(self) -> int:
        """The applied index of the checkpoint that `get` and `scan` see."""
        return self._record.index

    @property
    def digest(self) -> bytes:
        """The chain digest at `index`."""
        return self._record.digest

    def get(self, key: bytes) -> bytes | None:
        try:
            value = self._txn.get(key)
        except lmdb.Error as e:
            raise self._translate(e) from e
        if value is None and len(key) > KEY_MAX:
            check_key(key)
        return value

    def scan(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """As ReadTxn.scan. The iterator ends with StoreError when it is used after `renew`."""
        try:
            cursor = self._txn.cursor()
            found = cursor.set_range(max(prefix, after))
            if found and after >= prefix and cursor.key() == after:
                found = cursor.next()
        except lmdb.Error as e:
            raise self._translate(e) from e
        return self._walk(cursor, prefix) if found else iter(())

    def snapshot(self) -> Iterator[tuple[bytes, bytes]]:
        """Everything, as of the call; not disturbed by `renew`. While it is open, no page it sees is reused: keep it short."""
        with translated(self._path):
            txn = self._env.begin()
            cursor = txn.cursor()
            found = cursor.set_range(_FIRST_KEY)
        return self._walk_and_abort(txn, cursor if found else None)

    def reader(self) -> DiskReader:
        """Everything as of the last commit, for another thread; not disturbed by `renew`. To be closed: no page that it sees is
        reused before. `close`, `grow` and `adopt` close it."""
        with translated(self._path):
            reader = DiskReader(self._path, self._env.begin(), self._readers.discard)
        self._readers.add(reader)
        return reader

    def write(self, changes: Mapping[bytes, bytes | None], index: int, digest: bytes) -> None:
        """Make `changes` (None deletes), `index` and `digest` durable in one transaction, in key order.

        Blocks, for a worker thread; nobody may change `changes` meanwhile. All or nothing: on StoreFull the store is
        as it was before.
        """
        self._writing = True
        try:
            self._write(changes, Record(index, digest))
        finally:
            self._writing = False

    def _write(self, changes: Mapping[bytes, bytes | None], new: Record) -> None:
        with translated(self._path):
            txn = self._env.begin(write=True)
            try:
                with PageFile(self._data) as committed:
                    writer = DenseWriter(txn, committed, changes)
                    for run in sorted_runs(changes):
                        writer.write(run)
                        rest()
                    writer.finish()
                txn.put(record.KEY, record.pack(new))
                txn.commit()
            except BaseException:
                with suppress(lmdb.Error):  # a commit that failed has ended the transaction already
                    txn.abort()
                raise
            data_file.extend_to_last_page(self._data, self._env)

    def renew(self) -> None:
        """Let the reading side see the last checkpoint. Open scans are over."""
        with translated(self._path):
            self._txn.abort()
            self._txn = self._env.begin()
            self._record = self._read_record()

    def receive(self, index: int, digest: bytes) -> IncomingFile:
        """Begin a file beside this one's; see IncomingFile."""
        return IncomingFile(_incoming(self._data), Record(index, digest), self._map_bytes)

    def adopt(self, incoming: IncomingFile) -> None:
        """See api.Store.adopt. The rename is the moment: before it the old state is there, after it the new one.

        LMDB keeps in lock.mdb the number of the last transaction *of this file*. So that goes too, before the rename and after
        it, in case a reader from outside has come in between; readers keep what they have open, which is the old data.
        """
        if self._writing:
            raise RuntimeError("a checkpoint is being written")
        if not incoming.finished:
            raise RuntimeError("the incoming state is not finished")
        lock = self._path / "lock.mdb"
        with translated(self._path):
            lock.unlink(missing_ok=True)
            incoming.path.rename(self._data)
            incoming.adopted = True
            try:
                lock.unlink(missing_ok=True)
                data_file.sync(self._path)
            finally:
                # Also after an error: what would be written here now goes into a file without a name, and counts as durable.
                self._end_readers()
                self._env.close()
            self._env = data_file.environment(self._data, self._map_bytes, readonly=False)
            self._txn = self._env.begin()
            self._record = self._read_record()

    def grow(self, map_bytes: int) -> None:
        """Allow the file to become larger (or, down to what is used, smaller). Not while `write` runs. Readers end."""
        self._end_readers()
        self._map_bytes = map_bytes
        with translated(self._path):
            self._txn.abort()
            try:
                self._env.set_mapsize(data_file.whole_pages(map_bytes))
            finally:
                self._txn = self._env.begin()

    def copy(self, directory: Path, *, compact: bool = True) -> None:
        """Write a durable copy of the last checkpoint into an empty directory, as a store of its own. Blocks; any thread."""
        with translated(directory):
            self._env.copy(str(directory), compact=compact)
            data_file.sync(directory / "data.mdb")
            data_file.sync(directory)

    def stat(self) -> StoreStat:
        with translated(self._path):
            main = self._txn.stat()
            info = self._env.info()
        pages = main["branch_pages"] + main["leaf_pages"] + main["overflow_pages"]
        return StoreStat(
            entries=main["entries"] - 1,
            used_bytes=pages * main["psize"],
            file_bytes=(info["last_pgno"] + 1) * main["psize"],
            map_bytes=info["map_size"],
            index_durable=self._record.index,
        )

    def close(self) -> None:
        """Idempotent. Not while `write` runs."""
        self._end_readers()
        self._env.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _walk(self, cursor: lmdb.Cursor[bytes], prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        try:
            for item in cursor.iternext():
                if not item[0].startswith(prefix):
                    return
                yield item
        except lmdb.Error as e:
            raise self._translate(e) from e

    def _walk_and_abort(self, txn: lmdb.Transaction[bytes], cursor: lmdb.Cursor[bytes] | None) -> Iterator[tuple[bytes, bytes]]:
        try:
            if cursor is not None:
                yield from self._walk(cursor, b"")
        finally:
            with suppress(lmdb.Error):  # the store was closed first
                txn.abort()

    def _read_record(self) -> Record:
        return record.parse(self._path, self._txn.get(record.KEY))

    def _end_readers(self) -> None:
        for reader in list(self._readers):
            reader.close()

    def _translate(self, e: lmdb.Error) -> Exception:
        return translate(e, self._path)


class DiskReader:
    """One read transaction, handed to another thread: a view.Source."""

    def __init__(self, path: Path, txn: lmdb.Transaction[bytes], on_closed: Callable[[DiskReader], None]) -> None:
        self._path = path
        self._txn = txn
        self._on_closed = on_closed
        self._lock = threading.Lock()  # held while LMDB is at work for the reader, so that `close` cannot pull it away
        self._items: Iterator[Pair] | None = None
        self._closed = False

    def read(self, count: int) -> list[Pair]:
        """The next `count` pairs in key order, fewer at the end and where values are large. Raises StoreError."""
        with self._lock:
            if self._closed:
                raise StoreClosed(f"{self._path}: the view of the state was closed")
            with translated(self._path):
                if self._items is None:
                    cursor = self._txn.cursor()
                    self._items = cursor.iternext() if cursor.set_range(_FIRST_KEY) else iter(())
                pairs: list[Pair] = []
                size = 0
                for pair in islice(self._items, count):
                    pairs.append(pair)
                    size += len(pair[1])
                    if size >= _READ_BYTES:
                        break
                return pairs

    def close(self) -> None:
        """Idempotent; any thread. Waits for a `read` that is under way: some hundred microseconds."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._items = None
            with suppress(lmdb.Error):
                self._txn.abort()
        self._on_closed(self)


def _incoming(data: Path) -> Path:
    return data.with_name("data.mdb.incoming")


def _make_directory(directory: Path) -> None:
    with translated(directory):
        directory.mkdir(mode=0o700, exist_ok=True)


def _exists(path: Path) -> bool:
    with translated(path):
        return path.exists()


def _take_lock(path: Path) -> int:
    with translated(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
        os.close(fd)
        if e.errno != errno.EWOULDBLOCK:
            raise StoreError(f"{path}: {os.strerror(e.errno or 0)}") from e
        raise StoreBusy(f"{path.parent} is in use by process {holder or 'unknown'}") from e
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd
