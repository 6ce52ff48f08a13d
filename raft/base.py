"""What a cluster node must know beside its log: the members set before the log begins, and the snapshot being installed.

The file `base`, checksummed and replaced as a whole. It is there in every directory that was founded as a cluster or prepared
to join one, and in no other. Rules:
- `membership` is what is in force at the entry before the log's first, or newer: before the log loses an entry that sets the
  members, the file has it.
- `pending` is written before the state is replaced by a snapshot, and removed when the log continues after it. In between,
  state and log do not belong together, and only this record says that this is no damage. `membership` stays what it was until
  then: if the state was not replaced, the old one counts.

docs/WAL.md has the bytes; what follows from them at a start is in matching.py.
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import google_crc32c

from raft import membership as members
from raft.atomic_file import load
from raft.errors import LogCorrupt, Refused, Stopped
from raft.membership import Membership
from raft.reserve import NO_SPACE, Reserve

if TYPE_CHECKING:
    from raft.disk import Disk

FILE_NAME = "base"

_SIZE_MAX = 64 << 10
_MAGIC = b"KEELBAS1"
# magic with version; index and length of the membership; of the pending snapshot (or zeros): index, term, and as before
_FIELDS = struct.Struct("<8sQIQQQI")
_CRC = struct.Struct("<I")
_NO_MEMBERS = Membership()


@dataclass(frozen=True, slots=True)
class Installation:
    """A snapshot that is to replace the state: taken after entry `index`, which had `term`; `membership` was in force there."""

    index: int
    term: int
    membership: Membership


@dataclass(frozen=True, slots=True)
class Base:
    membership: Membership = _NO_MEMBERS
    pending: Installation | None = None


class BaseFile:
    """Owns the file of one directory, which its user has locked."""

    def __init__(self, disk: Disk, directory: str, reserve: Reserve) -> None:
        """Reads the file; makes none. Raises LogCorrupt, OSError."""
        self._directory = directory
        self._reserve = reserve
        self._stopped: str | None = None
        data = load(disk, directory, FILE_NAME, _SIZE_MAX)
        self.exists = data is not None
        self.value = Base()
        if data is not None:
            self.value = _decode(data, os.path.join(directory, FILE_NAME))
            # As with the hard state: what was read may be in the cache only, and entries are trimmed because it is here.
            reserve.settle(FILE_NAME, data)

    def save(self, value: Base) -> None:
        """Durable on return. Refused(ENOSPC): as before, or so it seems: the next save decides. Stopped: no more saves."""
        if self._stopped is not None:
            raise Stopped(self._stopped)
        try:
            self._reserve.replace(FILE_NAME, _encode(value))
        except OSError as error:
            reason = f"the members could not be saved in {self._directory}: {error}"
            if error.errno in NO_SPACE:
                raise Refused(errno.ENOSPC, reason) from error
            self._stopped = reason
            raise Stopped(reason) from error
        self.value, self.exists = value, True


def _encode(value: Base) -> bytes:
    membership = members.encode(value.membership)
    pending, index, term, its_index, its_membership = value.pending, 0, 0, 0, b""
    if pending is not None:
        index, term, its_index = pending.index, pending.term, pending.membership.index
        its_membership = members.encode(pending.membership)
    fields = _FIELDS.pack(_MAGIC, value.membership.index, len(membership), index, term, its_index, len(its_membership))
    body = fields + membership + its_membership
    if len(body) + _CRC.size > _SIZE_MAX:
        raise ValueError(f"a membership of {len(body)} bytes is too large")
    return body + _CRC.pack(google_crc32c.value(body))


def _decode(data: bytes, path: str) -> Base:
    body = data[: -_CRC.size]
    if len(body) >= _FIELDS.size and _CRC.unpack(data[-_CRC.size :])[0] == google_crc32c.value(body):
        magic, set_at, length, index, term, its_set_at, its_length = _FIELDS.unpack_from(body)
        middle = _FIELDS.size + length
        if magic == _MAGIC and middle + its_length == len(body):
            try:
                membership = members.decode(body[_FIELDS.size : middle], set_at)
                pending = Installation(index, term, members.decode(body[middle:], its_set_at)) if index else None
            except ValueError as error:
                raise LogCorrupt(f"{path}: {error}; {_ADVICE}") from error
            return Base(membership, pending)
    raise LogCorrupt(f"{path}: the cluster's members cannot be read; {_ADVICE}")


_ADVICE = "remove this node from the cluster and add it anew, with an empty directory"
