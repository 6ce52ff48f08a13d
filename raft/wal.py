"""The write-ahead log: entries with consecutive indexes, durable when `sync` returns, whole or refused when opened again.

docs/WAL.md has the file format, docs/decisions/0002-write-ahead-log.md the reasons. Rules:
- `append` takes entries into memory; `sync` writes everything taken so far with one durable write, into one segment. All of
  it becomes durable or, after Refused, none of it is there, now or after any crash.
- Only bytes after the last durable record are ever written. What was durable changes by making a new segment or by removing
  old ones.
- A disk that is full refuses and recovers. Any other failure to write leaves the page cache in an unknown state: the log
  stops, and only opening it anew finds out what is there.
- `sync` may run in another thread than the rest, one at a time. `truncate_suffix`, `reset` and `close` need it to be idle.

Not here: group commit and who waits for what (local.py), what entries mean.
"""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from raft.disk import Disk, RealDisk
from raft.errors import Refused, Stopped
from raft.record import KINDS, PAYLOAD_MAX, POSITION_MAX, Entry, encode_batch, record_size
from raft.recovery import Recovered, recover
from raft.segment import FIRST_RECORD, OWNER_SIZE, Segment, SegmentHeader
from raft.spares import Housekeeper, HousekeepingThread, Spare, SparePool

if TYPE_CHECKING:
    from collections.abc import Sequence

_NO_SPACE = frozenset((errno.ENOSPC, errno.EDQUOT))
_NO_LIMIT = 1 << 62


@dataclass(frozen=True, slots=True)
class WalOptions:
    segment_bytes: int = 64 << 20
    first_segment_bytes: int = 4 << 20  # a new log starts small: its first segment is written full before use


class Wal:
    def __init__(self, disk: Disk, directory: str, owner: bytes, lock_fd: int, found: Recovered, pool: SparePool) -> None:
        """Use `Wal.open`."""
        self._disk = disk
        self._directory = directory
        self._owner = owner
        self._lock_fd = lock_fd
        self._pool = pool
        self._sequence = found.sequence_last
        self._segments = found.segments
        self._state = threading.Lock()  # over what a sync and the owning thread both change; never held during disk work
        self._syncing = False
        self._pending: list[Entry] = []
        self._pending_bytes = 0
        self._inflight: list[Entry] = []
        self._stopped: str | None = None
        self._prepared = False  # the next segment
        self._durable = self._last = self._term = 0
        if found.segments:
            self._durable = self._last = found.segments[-1].index_last
            self._term = found.segments[-1].term_last
        #: Of the log as it was opened: the MEMBERSHIP entries, and (index, term) of each entry that begins a term.
        self.memberships_found = tuple(index for segment in found.segments for index in segment.memberships_found)
        self.terms_found = tuple(start for segment in found.segments for start in segment.terms_found)

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        options: WalOptions | None = None,
        *,
        disk: Disk | None = None,
        owner: bytes = bytes(OWNER_SIZE),
        housekeeper: Housekeeper | None = None,
    ) -> Wal:
        """Lock, recover, and make the first segment of a new log. `owner` is the node's identity, checked on every file.

        Raises LogCorrupt, OSError(EBUSY) when another process has the log, and OSError.
        """
        options = options or WalOptions()
        disk = disk or RealDisk()
        path = os.fspath(directory)
        disk.make_directory(path)
        lock_fd = disk.lock(path)
        try:
            found = recover(disk, path, owner)
            try:
                disk.sync_directory(path)
                pool = SparePool(disk, path, options.segment_bytes, housekeeper or HousekeepingThread(), found.spares)
                wal = cls(disk, path, owner, lock_fd, found, pool)
                wal._begin(found, options)
            except BaseException:
                for segment in found.segments:
                    segment.close(disk)
                raise
        except BaseException:
            disk.close(lock_fd)
            raise
        return wal

    def _begin(self, found: Recovered, options: WalOptions) -> None:
        for name in found.leftovers:
            self._pool.discard(name)
        if not self._segments:
            try:
                spare = self._pool.create(min(options.first_segment_bytes, options.segment_bytes))
                self._activate(spare, base=1, term_before=0, start=False)
            except BaseException:
                self._pool.close()
                raise

    @property
    def first_index(self) -> int:
        """The oldest entry in the log; `last_index + 1` when it is empty."""
        return self._segments[0].header.base

    @property
    def last_index(self) -> int:
        """The last entry appended, durable or not."""
        return self._last

    @property
    def durable_index(self) -> int:
        return self._durable

    @property
    def size_bytes(self) -> int:
        """What the durable entries take on disk."""
        return sum(segment.end - FIRST_RECORD for segment in tuple(self._segments))

    @property
    def space_low(self) -> bool:
        """There is no room for the next segment, only what is left in this one: refuse what is not needed to free some."""
        return self._pool.short

    def reserve(self) -> None:
        """Try again, in the background, to set space aside for the next segment."""
        self._pool.prepare()

    def append(self, entries: Sequence[Entry | tuple[int, int, bytes]]) -> int:
        """Take entries that continue the log; the bytes that now wait for `sync`. Raises Refused, Stopped."""
        self._check()
        batch = [entry if isinstance(entry, Entry) else Entry(*entry) for entry in entries]
        expected = self._last
        size = 0
        for index, term, payload, kind in batch:
            expected += 1
            if kind not in KINDS:
                raise ValueError(f"entry {index} is of kind {kind}, which does not exist")
            if index != expected or not 0 <= term < 1 << 64:
                raise ValueError(f"entry {index} in term {term} does not continue the log, which ends at {expected - 1}")
            if len(payload) > PAYLOAD_MAX:
                raise Refused(errno.EFBIG, f"a log entry of {len(payload)} bytes is too large, the limit is {PAYLOAD_MAX}")
            size += record_size(len(payload))
        if len(self._pending) + len(batch) > POSITION_MAX:
            raise Refused(errno.EAGAIN, "too many log entries wait for one sync")
        with self._state:
            self._pending += batch
            self._pending_bytes += size
            self._last = expected
        return self._pending_bytes

    def sync(self) -> int:
        """Make everything appended before the call durable; the last durable index.

        Refused(ENOSPC): nothing that was not durable before is in the log, `last_index` is `durable_index` again, and the log
        can be used as soon as there is space. Stopped: the log is of no use until it is opened anew; the entries may be in it.
        """
        self._check()
        with self._state:
            if self._syncing:
                raise RuntimeError("one sync at a time")
            if not self._pending:
                return self._durable
            self._syncing = True
            batch, size = self._pending, self._pending_bytes
            self._inflight, self._pending, self._pending_bytes = batch, [], 0
        try:
            self._write(batch, size)
        except OSError as error:
            self._forget()
            if error.errno not in _NO_SPACE:
                raise self._stop(error) from error
            raise Refused(errno.ENOSPC, f"no space for the log in {self._directory}: {error.strerror}") from error
        finally:
            self._inflight = []
            self._syncing = False
        return self._durable

    def read(self, first: int, last: int, bytes_max: int = _NO_LIMIT) -> list[Entry]:
        """Entries `first`..`last`, as many as fit in `bytes_max` but at least one. Raises LogCorrupt, OSError.

        Entries that were appended but are not durable yet are returned too.
        """
        with self._state:
            segments, durable = tuple(self._segments), self._durable
            memory = [*self._inflight, *self._pending]
        if not segments[0].header.base <= first <= last <= durable + len(memory):
            raise ValueError(
                f"entries {first} to {last} are not in the log, which has {segments[0].header.base} to {self._last}"
            )
        entries: list[Entry] = []
        used = 0
        for segment in segments:
            start, stop = max(first, segment.header.base), min(last, segment.index_last, durable)
            if start <= stop:
                part = segment.read(self._disk, start, stop, bytes_max - used, least=0 if entries else 1)
                entries += part
                if len(part) <= stop - start:
                    return entries
                used += sum(record_size(len(entry.payload)) for entry in part)
        for entry in memory[max(first - durable - 1, 0) : max(last - durable, 0)]:
            size = record_size(len(entry.payload))
            if entries and used + size > bytes_max:
                break
            entries.append(entry)
            used += size
        return entries

    def term_at(self, index: int) -> int:
        """The term of an entry, or of the one before the first. Raises ValueError outside of that."""
        if index == self.first_index - 1:
            return self._segments[0].header.term_before
        return self.read(index, index)[0].term

    def truncate_suffix(self, index: int) -> None:
        """Remove all entries after `index`; durable on return. The same failures as `sync`, all or nothing."""
        self._check_idle()
        if not self.first_index - 1 <= index <= self._last:
            raise ValueError(f"cannot cut after {index}: the log has {self.first_index} to {self._last}")
        if index < self._durable:
            term = self.term_at(index)
            self._replace(base=index + 1, term_before=term, start=False)
            while len(self._segments) > 1 and self._segments[-2].header.base > index:
                self._retire(self._segments.pop(-2))
            if len(self._segments) > 1:
                self._segments[-2].cut(index, term)
            self._durable, self._term, self._pending = index, term, []
        else:
            del self._pending[index - self._durable :]
        self._pending_bytes = sum(record_size(len(entry.payload)) for entry in self._pending)
        self._last = index

    def reset(self, index: int, term: int) -> None:
        """Drop everything: the log continues after `index`, which came from elsewhere (a snapshot). Durable on return."""
        self._check_idle()
        self._replace(base=index + 1, term_before=term, start=True)
        for segment in self._segments[:-1]:
            self._retire(segment)
        del self._segments[:-1]
        self._durable = self._last = index
        self._term = term
        self._pending, self._pending_bytes = [], 0

    def trim_point(self, index: int, retain_bytes: int) -> int:
        """Up to where `trim` removes entries when those up to `index` are not needed but the log is to keep its last
        `retain_bytes`: the end of a segment, or the entry before the first. O(number of segments)."""
        segments = tuple(self._segments)
        remain = self.size_bytes
        point = segments[0].header.base - 1
        for segment, successor in pairwise(segments):
            remain -= segment.end - FIRST_RECORD
            if successor.header.base > index + 1 or remain < retain_bytes:
                break
            point = successor.header.base - 1
        return point

    def trim(self, index: int) -> None:
        """Entries up to `index` are not needed: give back the segments that hold nothing else, in the background."""
        while True:
            with self._state:
                if len(self._segments) < 2 or self._segments[1].header.base > index + 1:
                    return
                segment = self._segments.pop(0)
            self._retire(segment)

    def close(self) -> None:
        """Release files and lock. What was appended but not synced is lost. May be called again."""
        self._check_idle(stopped_is_fine=True)
        if self._lock_fd < 0:
            return
        self._stopped = self._stopped or "the log is closed"
        self._pool.close()
        for segment in self._segments:
            segment.close(self._disk)
        self._disk.close(self._lock_fd)
        self._lock_fd = -1

    def _write(self, batch: list[Entry], size: int) -> None:
        segment = self._segments[-1]
        if segment.end + size > segment.size:
            segment = self._roll(size)
        data, offsets = encode_batch(segment.tag, batch, self._durable)
        end = segment.end
        try:
            self._disk.write_durable(segment.fd, data, end)
        except OSError as error:
            if error.errno in _NO_SPACE:
                self._erase(segment, end, len(data))
            raise
        with self._state:
            segment.offsets.extend([end + offset for offset in offsets])
            segment.end = end + len(data)
            segment.term_last = self._term = batch[-1].term
            self._durable = batch[-1].index
            self._inflight = []
        if not self._prepared and segment.end * 4 > segment.size:
            self._prepared = True
            self._pool.prepare()

    def _erase(self, segment: Segment, start: int, size: int) -> None:
        """Take back a write that ran out of space. A crash half way leaves a torn batch, which recovery cuts."""
        written = self._disk.read(segment.fd, size, start).rstrip(b"\0")
        try:
            if written:
                self._disk.write_durable(segment.fd, bytes(len(written)), start)
        except OSError as error:
            raise self._stop(error) from error

    def _roll(self, size: int) -> Segment:
        spare = self._pool.take(FIRST_RECORD + size)
        return self._activate(spare, base=self._durable + 1, term_before=self._term, start=False)

    def _replace(self, *, base: int, term_before: int, start: bool) -> None:
        """A new last segment outside of `sync`, with its errors."""
        try:
            self._activate(self._pool.take(FIRST_RECORD), base=base, term_before=term_before, start=start)
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise self._stop(error) from error
            raise Refused(errno.ENOSPC, f"no space for the log in {self._directory}: {error.strerror}") from error

    def _activate(self, spare: Spare, *, base: int, term_before: int, start: bool) -> Segment:
        """Turn a spare file into the last segment: header, then name, each durable before the next step."""
        header = SegmentHeader(self._owner, self._sequence + 1, base, term_before, start)
        path = os.path.join(self._directory, header.name)
        try:
            self._disk.write_durable(spare.fd, header.encode(), 0)
            self._disk.rename(spare.path, path)
        except OSError:
            self._pool.give_back(spare)
            raise
        try:
            self._disk.sync_directory(self._directory)
        except OSError as error:
            self._disk.close(spare.fd)
            raise self._stop(error) from error
        self._sequence += 1
        segment = Segment(path, spare.fd, header, spare.size)
        with self._state:
            self._segments.append(segment)
        self._prepared = False
        return segment

    def _retire(self, segment: Segment) -> None:
        self._pool.retire(segment.path, segment.fd, segment.size)

    def _forget(self) -> None:
        with self._state:
            self._pending, self._pending_bytes = [], 0
            self._last = self._durable

    def _stop(self, error: OSError) -> Stopped:
        self._stopped = (
            f"the log in {self._directory} failed: {error}; what was not acknowledged is unknown until it is opened anew"
        )
        return Stopped(self._stopped)

    def _check(self) -> None:
        if self._stopped is not None:
            raise Stopped(self._stopped)

    def _check_idle(self, *, stopped_is_fine: bool = False) -> None:
        if not stopped_is_fine:
            self._check()
        if self._syncing:
            raise RuntimeError("a sync is under way")
