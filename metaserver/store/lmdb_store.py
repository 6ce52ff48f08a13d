"""The durable bottom layer: one LMDB environment, one keyspace, one writer. The only importer of lmdb.

Owns the files of its directory:

    data.mdb      LMDB's. Under one reserved key it holds the format's version and the applied index, so that both change
                  in the same transaction as the data.
    lock.mdb      LMDB's table of readers.
    keelfs.lock   flock'ed by whoever has the store open for writing; holds that process's id, for people.

Rules: `get`, `scan` and `renew` belong to the thread that opened the store and see the checkpoint as of the last `renew`;
`write` may run in one other thread at a time. A data.mdb is made under another name and renamed when its first record is on
disk, so that one without that record, or with no bytes in it, was never a store of ours and is refused.

LMDB's errors become those of errors.py here and nowhere else. It is not the place for what is not durable yet: layered.py.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import lmdb

from metaserver.store.api import KEY_MAX, RESERVED_BYTE, check_key
from metaserver.store.dense_writer import DenseWriter
from metaserver.store.errors import StoreBusy, StoreCorrupt, StoreDenied, StoreError, StoreFull, StoreMissing, StoreVersion
from metaserver.store.pacing import rest, sorted_runs
from metaserver.store.page_walk import PageFile, check_pages

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

FORMAT_VERSION: Final = 1
MAP_BYTES: Final = 1 << 40

_RECORD_KEY: Final = bytes([RESERVED_BYTE]) + b"keelfs"
_RECORD: Final = struct.Struct(">4sIQ")  # magic, format version, applied index
_MAGIC: Final = b"KEEL"
_FIRST_KEY: Final = bytes([RESERVED_BYTE + 1])

#: The 0.9 engine: its files can be read by every LMDB tool there is. An environment variable may not choose another one.
_ENGINE: Final = 0

#: More than LMDB writes with one call.
_PROBE_BYTES: Final = 4 << 20

_FULL_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED_ERRNOS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_CORRUPT: Final = (lmdb.InvalidError, lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.IncompatibleError)


class StoreStat(NamedTuple):
    entries: int
    used_bytes: int  # pages that hold data
    file_bytes: int  # pages of the file, with those that are free for reuse
    map_bytes: int  # the file cannot grow beyond this
    index_durable: int


class LmdbStore:
    """An open store. Make it with `open`."""

    def __init__(self, path: Path, env: lmdb.Environment, lock_fd: int, index: int) -> None:
        self._path = path
        self._env = env
        self._lock_fd = lock_fd
        self._index = index
        self._txn = env.begin()

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
            _create(data)
        if data.stat().st_size == 0:
            raise StoreCorrupt(f"{data} is empty: a store never leaves it so")
        with _translated(data):
            env = _environment(data, map_bytes, readonly)
        try:
            _check_size(data, env, readonly, verify)
            with _translated(data):
                return cls(directory, env, lock_fd, _read_record(data, env))
        except BaseException:
            env.close()
            raise

    @property
    def index(self) -> int:
        """The applied index of the checkpoint that `get` and `scan` see."""
        return self._index

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
        with _translated(self._path):
            txn = self._env.begin()
            cursor = txn.cursor()
            found = cursor.set_range(_FIRST_KEY)
        return self._walk_and_abort(txn, cursor if found else None)

    def write(self, changes: Mapping[bytes, bytes | None], index: int) -> None:
        """Make `changes` (None deletes) and `index` durable in one transaction, in key order.

        Blocks, for a worker thread; nobody may change `changes` meanwhile. All or nothing: on StoreFull the store is
        as it was before.
        """
        with _translated(self._path):
            txn = self._env.begin(write=True)
            try:
                with PageFile(self._path / "data.mdb") as committed:
                    writer = DenseWriter(txn, committed, changes)
                    for run in sorted_runs(changes):
                        writer.write(run)
                        rest()
                    writer.finish()
                txn.put(_RECORD_KEY, _RECORD.pack(_MAGIC, FORMAT_VERSION, index))
                txn.commit()
            except BaseException:
                with suppress(lmdb.Error):  # a commit that failed has ended the transaction already
                    txn.abort()
                raise
            _extend_to_last_page(self._path / "data.mdb", self._env)

    def renew(self) -> None:
        """Let the reading side see the last checkpoint. Open scans are over."""
        with _translated(self._path):
            self._txn.abort()
            self._txn = self._env.begin()
            self._index = _parse_record(self._path, self._txn.get(_RECORD_KEY))

    def grow(self, map_bytes: int) -> None:
        """Allow the file to become larger (or, down to what is used, smaller). Not while `write` runs."""
        with _translated(self._path):
            self._txn.abort()
            try:
                self._env.set_mapsize(_whole_pages(map_bytes))
            finally:
                self._txn = self._env.begin()

    def copy(self, directory: Path, *, compact: bool = True) -> None:
        """Write a durable copy of the last checkpoint into an empty directory, as a store of its own. Blocks; any thread."""
        with _translated(directory):
            self._env.copy(str(directory), compact=compact)
            _sync(directory / "data.mdb")
            _sync(directory)

    def stat(self) -> StoreStat:
        with _translated(self._path):
            main = self._txn.stat()
            info = self._env.info()
        pages = main["branch_pages"] + main["leaf_pages"] + main["overflow_pages"]
        return StoreStat(
            entries=main["entries"] - 1,
            used_bytes=pages * main["psize"],
            file_bytes=(info["last_pgno"] + 1) * main["psize"],
            map_bytes=info["map_size"],
            index_durable=self._index,
        )

    def close(self) -> None:
        """Idempotent. Not while `write` runs."""
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

    def _translate(self, e: lmdb.Error) -> Exception:
        return _translate(e, self._path)


def _environment(data: Path, map_bytes: int, readonly: bool) -> lmdb.Environment:
    """Why each of these settings: docs/decisions/0001-overlay-over-lmdb.md."""
    return lmdb.open(
        str(data.parent),
        map_size=_whole_pages(max(map_bytes, data.stat().st_size)),
        readonly=readonly,
        create=False,
        sync=True,
        metasync=True,
        writemap=False,
        readahead=False,
        meminit=False,
        max_dbs=0,
        mode=0o600,
        lib_version=_ENGINE,
    )


def _whole_pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _create(data: Path) -> None:
    """Make a store with no keys, or none at all."""
    fresh = data.with_name("data.mdb.new")
    with _translated(data):
        with suppress(FileNotFoundError):
            fresh.unlink()
        with lmdb.open(str(fresh), subdir=False, lock=False, map_size=1 << 20, mode=0o600, lib_version=_ENGINE) as env:
            with env.begin(write=True) as txn:
                txn.put(_RECORD_KEY, _RECORD.pack(_MAGIC, FORMAT_VERSION, 0))
            _extend_to_last_page(fresh, env)
        fresh.rename(data)
        _sync(data.parent)


def _make_directory(directory: Path) -> None:
    with _translated(directory):
        directory.mkdir(mode=0o700, exist_ok=True)


def _exists(path: Path) -> bool:
    with _translated(path):
        return path.exists()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _take_lock(path: Path) -> int:
    with _translated(path):
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


def _read_record(data: Path, env: lmdb.Environment) -> int:
    with env.begin() as txn:
        return _parse_record(data, txn.get(_RECORD_KEY))


def _parse_record(path: Path, record: bytes | None) -> int:
    """The applied index."""
    if record is None or len(record) < _RECORD.size or record[:4] != _MAGIC:
        raise StoreCorrupt(f"{path} is an LMDB file, but not a KeelFS metadata store: it lacks the format record")
    _, version, index = _RECORD.unpack_from(record)
    if version != FORMAT_VERSION:
        raise StoreVersion(f"{path} has format {version}; this release reads format {FORMAT_VERSION}")
    return int(index)


def _last_page_end(env: lmdb.Environment) -> int:
    return (env.info()["last_pgno"] + 1) * env.stat()["psize"]


def _extend_to_last_page(data: Path, env: lmdb.Environment) -> None:
    """Give the file the size that its header claims.

    LMDB does not write pages that were allocated and dropped within one transaction. When those are the last ones the file
    ends early, which is harmless, but at the next start could not be told from a file that was cut.
    """
    end = _last_page_end(env)
    if data.stat().st_size < end:
        os.truncate(data, end)


def _check_size(data: Path, env: lmdb.Environment, readonly: bool, verify: bool) -> None:
    """Refuse a file that was cut: reading a mapped page that is not there would kill the process (SIGBUS).

    It can also be short by a crash right after a commit (_extend_to_last_page); page_walk.py knows which of the two it is.
    """
    short = data.stat().st_size < _last_page_end(env)
    if not short and not verify:
        return
    with _translated(data):
        check_pages(data)
        if short and not readonly:
            _extend_to_last_page(data, env)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except lmdb.Error as e:
        raise _translate(e, path) from e
    except OSError as e:
        raise _by_errno(e.errno or 0, f"{path}: {e.strerror}") from e


def _translate(e: lmdb.Error, path: Path) -> Exception:
    if isinstance(e, lmdb.MapFullError):
        return StoreFull(f"{path}: the store has reached its map size")
    if isinstance(e, lmdb.BadValsizeError):
        return ValueError(f"a key has 1..{KEY_MAX} bytes")
    if isinstance(e, lmdb.VersionMismatchError):
        return StoreVersion(f"{path}: written by another version of LMDB ({e})")
    if isinstance(e, _CORRUPT):
        return StoreCorrupt(f"{path}: not a readable LMDB file ({e})")
    code = getattr(e, "code", 0) or 0
    if code == errno.EIO and not _has_room(path):
        return StoreFull(f"{path}: {os.strerror(errno.ENOSPC)}")
    return _by_errno(code, f"{path}: {e}")


def _has_room(path: Path) -> bool:
    """LMDB calls it an I/O error when the system wrote only a part, which is what happens on the last bytes of a disk or a
    quota. Nobody but the file system knows, so ask it for some space."""
    probe = (path if path.is_dir() else path.parent) / "room.probe"
    try:
        fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, _PROBE_BYTES)
        finally:
            os.close(fd)
            probe.unlink()
    except OSError as e:
        return e.errno not in _FULL_ERRNOS
    return True


def _by_errno(code: int, message: str) -> StoreError:
    if code in _FULL_ERRNOS:
        return StoreFull(message)
    if code in _DENIED_ERRNOS:
        return StoreDenied(message)
    return StoreMissing(message) if code == errno.ENOENT else StoreError(message)
