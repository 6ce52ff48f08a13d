"""A data file that another state is written into, beside the one in use, until LmdbStore.adopt puts it in its place.

The keys come in order, so LMDB fills page after page and never splits one. It is written in transactions of some MiB without a
sync, and synced every 32 MiB: memory stays bounded, and the disk never has so much to write at once that the log's own syncs
would wait long for it. The file has a meaning only under its final name, so nothing in it needs to say whether it is complete;
`finish` makes it durable, the rename makes it count.

For one worker thread.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import lmdb

from metaserver.store import data_file, record
from metaserver.store.errors import StoreError
from metaserver.store.lmdb_errors import translated
from metaserver.store.pacing import rest

if TYPE_CHECKING:
    from pathlib import Path

    from metaserver.store.api import Pair
    from metaserver.store.record import Record

_COMMIT_BYTES: Final = 4 << 20
_SYNC_BYTES: Final = 32 << 20


class IncomingFile:
    """Implements api.Incoming."""

    def __init__(self, path: Path, new: Record, map_bytes: int) -> None:
        """Raises StoreFull, StoreError."""
        self.path = path
        self.index = new.index
        self._txn: lmdb.Transaction[bytes] | None = None
        self._env: lmdb.Environment | None = None
        self._keys = 1  # the record's
        self._uncommitted = self._unsynced = 0
        self.finished = False
        #: The file has its final name; what is at `path` from then on is another's.
        self.adopted = False
        try:
            with translated(path):
                path.unlink(missing_ok=True)
                self._env = lmdb.open(
                    str(path),
                    subdir=False,
                    lock=False,
                    sync=False,
                    meminit=False,
                    map_size=data_file.whole_pages(map_bytes),
                    max_dbs=0,
                    mode=0o600,
                    lib_version=data_file.ENGINE,
                )
                self._txn = self._env.begin(write=True)
                self._txn.put(record.KEY, record.pack(new))
        except BaseException:
            self.discard()
            raise

    def add(self, run: list[Pair]) -> None:
        env, txn = self._open()
        with translated(self.path):
            txn.cursor().putmulti(run, append=True)
            self._keys += len(run)
            self._uncommitted += sum(len(key) + len(value) for key, value in run)
            if self._uncommitted >= _COMMIT_BYTES:
                self._unsynced += self._uncommitted
                self._uncommitted = 0
                self._txn = None
                txn.commit()
                if self._unsynced >= _SYNC_BYTES:
                    self._unsynced = 0
                    env.sync(True)
                self._txn = env.begin(write=True)
        rest()

    def finish(self) -> None:
        env, txn = self._open()
        with translated(self.path):
            self._txn = None
            txn.commit()
            keys = env.stat()["entries"]
            if keys != self._keys:
                raise StoreError(f"{self.path}: {self._keys} keys were written and {keys} are there")
            env.sync(True)
            data_file.extend_to_last_page(self.path, env)
            self._env = None
            env.close()
            data_file.sync(self.path)
        self.finished = True

    def discard(self) -> None:
        env, txn, self._env, self._txn = self._env, self._txn, None, None
        with suppress(lmdb.Error):
            if txn is not None:
                txn.abort()
        if env is not None:
            env.close()
        if not self.adopted:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)

    def _open(self) -> tuple[lmdb.Environment, lmdb.Transaction[bytes]]:
        if self._env is None or self._txn is None:
            raise RuntimeError("the incoming state is finished or discarded")
        return self._env, self._txn
