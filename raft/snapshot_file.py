"""The file of a snapshot: how it is written, sent, received and believed. docs/SNAPSHOTS.md draws it.

    header    what it is of, under a CRC32C
    chunks    offset, length, CRC32C, the bytes
    trailer   a chunk of no bytes; number of chunks, number of their bytes; blake2b-256 of everything before

Rules:
- Nothing in the file is used before a checksum says that it is what was written: the header as a whole, a chunk as it is given
  out, and at the end everything at once. A reader that has not come to the end has not read a snapshot; so whoever installs one
  reads to the end first. There is no bit that may flip unnoticed, and no piece that may be missing, doubled or moved.
- A file has its name when it is complete and durable. What is being written is called `.new`, what is being received `.part`.
- The checksum in the trailer names the file: two that were made of the same state at different times differ in it.
- Writes are synced as they go (disk.py), a MiB at a time: the log's syncs never wait for a large snapshot to reach the disk.

Everything here blocks on the disk; only IncomingSnapshot's `write` (one piece) and the opening of one are short.
The state in the chunks is the state machine's business.
"""

from __future__ import annotations

import errno
import os
import re
import struct
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import google_crc32c

from raft import membership as members
from raft.atomic_file import DRAFT_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from raft.disk import Disk
    from raft.membership import Membership

CHUNK_MAX: Final = 1 << 20
PIECE_MAX: Final = 1 << 20  # of what is received at a time
CHECKSUM_BYTES: Final = 32
FILE_MAX: Final = 1 << 44
SUFFIX: Final = ".snapshot"
PART_SUFFIX: Final = ".part"

_VERSION: Final = 1
_MAGIC: Final = b"KEELSNAP"
_BODY_MAX: Final = 64 << 10
_TEXT_MAX: Final = 256
_DIGEST_MAX: Final = 64
_WRITE_BYTES: Final = 1 << 20

_PREFIX: Final = struct.Struct("<8sII")  # magic, version, bytes of the body
_CRC: Final = struct.Struct("<I")
_FIXED: Final = struct.Struct("<QQQq")  # index, term, index of the membership, time of creation
_LENGTH: Final = struct.Struct("<H")
_CHUNK: Final = struct.Struct("<QII")  # offset in the file, length, CRC32C of those two and the bytes
_CHUNK_CHECKED: Final = struct.Struct("<QI")
_TOTALS: Final = struct.Struct("<QQ")  # chunks, their bytes
_SMALLEST: Final = _PREFIX.size + _CRC.size + _CHUNK.size + _TOTALS.size + CHECKSUM_BYTES

_NAME: Final = re.compile(r"(\d{20})-(\d{20})(?:-[0-9a-f]{64})?(\.snapshot\.new|\.snapshot|\.part)", re.ASCII)
_extend: Final = google_crc32c.extend


class SnapshotDamaged(ValueError):
    """The file is not what was written. `offset` is where that showed."""

    def __init__(self, path: str, offset: int, what: str) -> None:
        super().__init__(f"{path}: {what} at byte {offset}")
        self.path = path
        self.offset = offset


class SnapshotCancelled(Exception):
    """`write` was told to end. Nothing is left of the file."""


@dataclass(frozen=True, slots=True)
class SnapshotHeader:
    """What the state is of. `membership` is the one in force at `index`, `digest` the state machine's."""

    cluster_id: str
    index: int
    term: int  # of the entry at `index`
    membership: Membership
    digest: bytes
    creator: str
    created_ns: int  # Unix time, for people


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A complete file, by what is needed to offer it."""

    path: str
    index: int
    term: int
    size: int
    checksum: bytes


def file_name(index: int, term: int) -> str:
    return f"{index:020d}-{term:020d}{SUFFIX}"


def sweep(disk: Disk, directory: str, keep: frozenset[str]) -> None:
    """Remove what crashes left behind, and complete snapshots that are not in `keep` (names). Parts stay: they are resumed."""
    for name in disk.list(directory):
        match = _NAME.fullmatch(name)
        if match is not None and match[3] != PART_SUFFIX and name not in keep:
            disk.remove(os.path.join(directory, name))


def write(
    disk: Disk, path: str, header: SnapshotHeader, chunks: Iterable[bytes], cancelled: Callable[[], bool] = lambda: False
) -> SnapshotInfo:
    """Write a snapshot; it is complete and durable on return, and not there at all after any exception.

    `cancelled` is asked before each chunk. Raises SnapshotCancelled, OSError, ValueError (a header or chunk that no file may
    have), and what `chunks` raises.
    """
    draft = path + DRAFT_SUFFIX
    leftover = draft
    fd = -1
    try:
        _remove_if_there(disk, draft)
        fd = disk.open(draft, create=True)
        writer = _Writer(disk, fd)
        writer.put(_encode_header(header))
        for chunk in chunks:
            if cancelled():
                raise SnapshotCancelled(path)
            writer.chunk(chunk)
        checksum = writer.finish()
        disk.close(fd)
        fd = -1
        disk.rename(draft, path)
        leftover = path
        disk.sync_directory(os.path.dirname(path))
    except BaseException:
        with suppress(OSError):
            if fd >= 0:
                disk.close(fd)
            _remove_if_there(disk, leftover)
        raise
    return SnapshotInfo(path, header.index, header.term, writer.size, checksum)


class _Writer:
    def __init__(self, disk: Disk, fd: int) -> None:
        self._disk = disk
        self._fd = fd
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._written = 0
        self._sum = blake2b(digest_size=CHECKSUM_BYTES)
        self._chunks = 0
        self._chunk_bytes = 0

    @property
    def size(self) -> int:
        return self._written + self._waiting_bytes

    def put(self, data: bytes) -> None:
        self._sum.update(data)
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes >= _WRITE_BYTES:
            self.flush()

    def chunk(self, data: bytes) -> None:
        if not 0 < len(data) <= CHUNK_MAX:
            raise ValueError(f"a chunk has 1..{CHUNK_MAX} bytes, not {len(data)}")
        self.put(_chunk_head(self.size, data))
        self.put(data)
        self._chunks += 1
        self._chunk_bytes += len(data)

    def finish(self) -> bytes:
        """The checksum."""
        self.put(_chunk_head(self.size, b""))
        self.put(_TOTALS.pack(self._chunks, self._chunk_bytes))
        checksum = self._sum.digest()
        self.put(checksum)
        self.flush()
        return checksum

    def flush(self) -> None:
        data = b"".join(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        if data:
            self._disk.write_durable(self._fd, data, self._written)
            self._written += len(data)


class SnapshotReader:
    """A complete file. Raises SnapshotDamaged for what is not as it was written, OSError. A context manager; one thread."""

    def __init__(self, disk: Disk, path: str) -> None:
        self._disk = disk
        self._path = path
        self._fd = disk.open(path)
        try:
            self.size = disk.size(self._fd)
            self._sum = blake2b(digest_size=CHECKSUM_BYTES)
            self._at = 0
            self.checksum = b""  # after `chunks` has ended
            self.header = self._read_header()
        except BaseException:
            disk.close(self._fd)
            raise

    def __enter__(self) -> SnapshotReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._disk.close(fd)

    def chunks(self) -> Iterator[bytes]:
        """What was written, each chunk after it was found intact, once. When it ends without an error the whole file is."""
        count = total = 0
        while True:
            offset = self._at
            where, length, crc = _CHUNK.unpack(self._take(_CHUNK.size))
            if where != offset or length > CHUNK_MAX:
                raise SnapshotDamaged(self._path, offset, "there is no chunk")
            data = self._take(length)
            if _chunk_crc(offset, data) != crc:
                raise SnapshotDamaged(self._path, offset, "the chunk is damaged")
            if not length:
                break
            yield data
            count += 1
            total += length
        self._check_trailer(count, total)

    def verify(self) -> bytes:
        """Read everything; the checksum."""
        for _ in self.chunks():
            pass
        return self.checksum

    def _check_trailer(self, count: int, total: int) -> None:
        offset = self._at
        if _TOTALS.unpack(self._take(_TOTALS.size)) != (count, total):
            raise SnapshotDamaged(self._path, offset, "chunks are missing")
        computed = self._sum.digest()
        offset = self._at
        if self._take(CHECKSUM_BYTES) != computed:
            raise SnapshotDamaged(self._path, offset, "the checksum of the whole is another one")
        if self._at != self.size:
            raise SnapshotDamaged(self._path, self._at, "there is more than a snapshot")
        self.checksum = computed

    def _read_header(self) -> SnapshotHeader:
        magic, version, length = _PREFIX.unpack(self._take(_PREFIX.size))
        if magic != _MAGIC or length > _BODY_MAX:
            raise SnapshotDamaged(self._path, 0, "no snapshot begins")
        body = self._take(length)
        offset = self._at
        if _CRC.unpack(self._take(_CRC.size))[0] != _extend(_extend(0, _PREFIX.pack(magic, version, length)), body):
            raise SnapshotDamaged(self._path, offset, "the header is damaged")
        if version != _VERSION:
            raise SnapshotDamaged(self._path, len(_MAGIC), f"a snapshot of version {version}, this release reads {_VERSION},")
        try:
            return _decode_header(body)
        except (ValueError, struct.error) as error:
            raise SnapshotDamaged(self._path, _PREFIX.size, f"no header that this release knows ({error})") from error

    def _take(self, count: int) -> bytes:
        data = self._disk.read(self._fd, count, self._at)
        if len(data) < count:
            raise SnapshotDamaged(self._path, self._at + len(data), "the file ends")
        self._sum.update(data)
        self._at += count
        return data


class IncomingSnapshot:
    """A file that comes in pieces, in order, from its first byte. What was durable is there again after a restart.

    One at a time in a directory: parts of other files are removed. Not thread-safe.
    """

    def __init__(self, disk: Disk, directory: str, *, index: int, term: int, size: int, checksum: bytes) -> None:
        """Raises ValueError when no file can be like that, OSError."""
        if len(checksum) != CHECKSUM_BYTES or not _SMALLEST <= size <= FILE_MAX or index < 0 or term < 0:
            raise ValueError(f"no snapshot has {size} bytes and a checksum of {len(checksum)}")
        self._disk = disk
        self._directory = directory
        self._size = size
        self._checksum = checksum
        self._target = os.path.join(directory, file_name(index, term))
        name = f"{index:020d}-{term:020d}-{checksum.hex()}{PART_SUFFIX}"
        self._path = os.path.join(directory, name)
        for other in disk.list(directory):
            match = _NAME.fullmatch(other)
            if match is not None and match[3] == PART_SUFFIX and other != name:
                disk.remove(os.path.join(directory, other))
        self._fd = disk.open(self._path, create=True)
        #: Only the last write can have been torn by a power loss, and it was no longer than a piece.
        self._offset = max(0, min(disk.size(self._fd), size) - PIECE_MAX)

    @property
    def offset(self) -> int:
        """Where the next piece begins; the file's size when all is here."""
        return self._offset

    @property
    def whole(self) -> bool:
        return self._offset == self._size

    def write(self, offset: int, data: bytes) -> int:
        """Keep the piece, durably, if it is the next one; where the next one begins.

        A piece that is not the next (an old or doubled answer) is ignored. Raises ValueError for one that goes beyond the file
        or is too long, OSError: the disk is full, or broken; the pieces before stay, and the same one may be tried again.
        """
        if self._fd < 0:
            raise OSError(errno.EBADF, "the snapshot was completed or given up", self._path)
        if len(data) > PIECE_MAX or offset + len(data) > self._size:
            raise ValueError(f"a piece of {len(data)} bytes at {offset} of a snapshot of {self._size}")
        if data and offset == self._offset:
            self._disk.write_durable(self._fd, data, offset)
            self._offset += len(data)
        return self._offset

    def complete(self) -> SnapshotInfo:
        """All is here: check it as a whole and give it its name. For a worker thread.

        Raises SnapshotDamaged: nothing of it is left, begin again. OSError: it is still here.
        """
        if not self.whole:
            raise ValueError(f"{self._offset} of {self._size} bytes are here")
        self.close()
        try:
            with SnapshotReader(self._disk, self._path) as reader:
                if reader.verify() != self._checksum or reader.size != self._size:
                    raise SnapshotDamaged(self._path, 0, "a snapshot, but not the one that was offered, begins")
                header = reader.header
                if self._target != os.path.join(self._directory, file_name(header.index, header.term)):
                    raise SnapshotDamaged(self._path, 0, "a snapshot of another index begins")
        except SnapshotDamaged:
            self.discard()
            raise
        self._disk.rename(self._path, self._target)
        self._path = self._target
        self._disk.sync_directory(self._directory)
        return SnapshotInfo(self._target, header.index, header.term, self._size, self._checksum)

    def discard(self) -> None:
        """Give it up, and the space; after `complete` too. Raises OSError."""
        self.close()
        _remove_if_there(self._disk, self._path)

    def close(self) -> None:
        """Idempotent. What came stays, to be resumed."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._disk.close(fd)


def _chunk_crc(offset: int, data: bytes) -> int:
    return int(_extend(_extend(0, _CHUNK_CHECKED.pack(offset, len(data))), data))


def _chunk_head(offset: int, data: bytes) -> bytes:
    return _CHUNK.pack(offset, len(data), _chunk_crc(offset, data))


def _encode_header(header: SnapshotHeader) -> bytes:
    fields = (header.cluster_id.encode(), header.creator.encode(), header.digest, members.encode(header.membership))
    body = _FIXED.pack(header.index, header.term, header.membership.index, header.created_ns)
    body += b"".join(_LENGTH.pack(len(field)) + field for field in fields)
    if len(body) > _BODY_MAX or max(map(len, fields[:2])) > _TEXT_MAX or len(header.digest) > _DIGEST_MAX:
        raise ValueError(f"a header of {len(body)} bytes")
    prefix = _PREFIX.pack(_MAGIC, _VERSION, len(body))
    return prefix + body + _CRC.pack(_extend(_extend(0, prefix), body))


def _decode_header(body: bytes) -> SnapshotHeader:
    """Raises ValueError, struct.error."""
    index, term, membership_index, created_ns = _FIXED.unpack_from(body)
    fields: list[bytes] = []
    at = _FIXED.size
    for _ in range(4):
        (length,) = _LENGTH.unpack_from(body, at)
        at += _LENGTH.size + length
        if at > len(body):
            raise ValueError("a field goes beyond the header")
        fields.append(body[at - length : at])
    if at != len(body) or membership_index > index:
        raise ValueError("the header does not add up")
    cluster_id, creator, digest, membership = fields
    return SnapshotHeader(
        cluster_id.decode(),
        index,
        term,
        members.decode(membership, membership_index),
        digest,
        creator.decode(),
        created_ns,
    )


def _remove_if_there(disk: Disk, path: str) -> None:
    if os.path.basename(path) in disk.list(os.path.dirname(path)):
        disk.remove(path)
