"""The term and the vote of a node: what Raft may never forget, not even half of it.

A small checksummed file, replaced as a whole by every `save`. A file that cannot be read keeps the node down: a forgotten vote
can be cast twice, so there is no default to fall back to. A single node has no use for this; the cluster node has.

Two copies written in place would be faster (no rename) and tempting; with a failed sync before a power loss they can both be
lost, because which of the two is on the disk cannot be told from reading them.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, NamedTuple

import google_crc32c

from raft.atomic_file import load
from raft.errors import LogCorrupt, Stopped
from raft.reserve import Reserve

if TYPE_CHECKING:
    from collections.abc import Callable

    from raft.disk import Disk

FILE_NAME = "hard_state"
VOTE_MAX = 64
#: A vote of which only the term is known. It is nobody's name, so nobody gets another one in that term.
VOTE_UNKNOWN = "-"

_FIELDS = struct.Struct("<8sQB64s")  # magic with version, term, length of the vote, vote
_CRC = struct.Struct("<I")
_MAGIC = b"KEELVOT1"
_ADVICE = (
    "voting without knowing term and vote could elect two leaders; remove this node from the cluster and add it anew, with an "
    "empty directory"
)


class HardState(NamedTuple):
    term: int = 0
    voted_for: str = ""  # a node id, "" when none was voted for in this term


class HardStateFile:
    """Owns the file of one directory, which its user has locked."""

    def __init__(self, disk: Disk, directory: str, *, must_exist: bool = False, reserve: Reserve | None = None) -> None:
        """Reads the file, makes it when there is none and may be none. Raises LogCorrupt, Stopped, OSError."""
        self._directory = directory
        self._reserve = reserve or Reserve(disk, directory)
        self._stopped: str | None = None
        path = os.path.join(directory, FILE_NAME)
        data = load(disk, directory, FILE_NAME, _FIELDS.size + _CRC.size)
        if data is None and must_exist:
            raise LogCorrupt(f"{path}: the file is missing; {_ADVICE}")
        self.state = HardState() if data is None else _decode(data, path)
        # What was read may be in the cache only: no vote may rest on it before it is on the disk.
        self._write(self.state, self._reserve.replace if data is None else self._reserve.settle)

    def save(self, state: HardState) -> None:
        """Durable on return. Raises Stopped when the disk fails: what it holds is unknown until it is opened anew."""
        if self._stopped is not None:
            raise Stopped(self._stopped)
        self._write(state, self._reserve.replace)

    def _write(self, state: HardState, write: Callable[[str, bytes], None]) -> None:
        data = _encode(state)
        try:
            write(FILE_NAME, data)
        except OSError as error:
            self._stopped = f"term and vote could not be saved in {self._directory}: {error}"
            raise Stopped(self._stopped) from error
        self.state = state


def _encode(state: HardState) -> bytes:
    vote = state.voted_for.encode()
    if len(vote) > VOTE_MAX:
        raise ValueError(f"a node id of {len(vote)} bytes is too long, the limit is {VOTE_MAX}")
    fields = _FIELDS.pack(_MAGIC, state.term, len(vote), vote)
    return fields + _CRC.pack(google_crc32c.value(fields))


def _decode(data: bytes, path: str) -> HardState:
    fields = data[: _FIELDS.size]
    if len(data) == _FIELDS.size + _CRC.size and _CRC.unpack(data[_FIELDS.size :])[0] == google_crc32c.value(fields):
        magic, term, length, vote = _FIELDS.unpack(fields)
        if magic == _MAGIC:
            return HardState(term, vote[:length].decode())
    raise LogCorrupt(f"{path}: the term and the vote cannot be read; {_ADVICE}")
