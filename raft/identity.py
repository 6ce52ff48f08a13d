"""Which node a directory belongs to: `identity.json`, made once, never changed.

The cluster id is shared by the nodes of a cluster, the node id is this directory's own: a node that lost its disk is a
new node.

Beside it is `starts`: how often the directory was started, and a nonce of the last start. Peers remember the highest they saw,
so they recognise a copy of the directory that is older than the one they knew, or that was started elsewhere too.
"""

from __future__ import annotations

import json
import os
import struct
import uuid
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

import google_crc32c

from raft.atomic_file import load, replace
from raft.errors import LogCorrupt
from raft.reserve import Reserve

if TYPE_CHECKING:
    from collections.abc import Callable

    from raft.disk import Disk

FILE_NAME = "identity.json"
FORMAT = 1
STARTS_NAME = "starts"
NONCE_SIZE = 8

_SIZE_MAX = 4096
_STARTS = struct.Struct("<8sQ8s")  # magic with version, count, nonce
_STARTS_MAGIC = b"KEELSTA1"
_CRC = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Identity:
    cluster_id: str
    node_id: str
    format: int = FORMAT

    @property
    def owner(self) -> bytes:
        """The node id as the 16 bytes that mark its files."""
        return uuid.UUID(self.node_id).bytes


class Start(NamedTuple):
    """One start of the process on a directory."""

    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    nonce: bytes


def load_identity(disk: Disk, directory: str) -> Identity | None:
    """The directory's identity, None when it has none yet. Raises LogCorrupt, OSError."""
    data = load(disk, directory, FILE_NAME, _SIZE_MAX)
    return None if data is None else _decode(data, os.path.join(directory, FILE_NAME))


def load_or_create(disk: Disk, directory: str, new_uuid: Callable[[], uuid.UUID] = uuid.uuid4) -> Identity:
    """Read the directory's identity; give it one when it has none. Raises LogCorrupt when it cannot be read, OSError."""
    identity = load_identity(disk, directory)
    return identity or create(disk, directory, str(new_uuid()), new_uuid)


def create(disk: Disk, directory: str, cluster_id: str, new_uuid: Callable[[], uuid.UUID] = uuid.uuid4) -> Identity:
    """Give a directory without an identity one of this cluster. Raises OSError."""
    identity = Identity(cluster_id=cluster_id, node_id=str(new_uuid()))
    replace(disk, directory, FILE_NAME, json.dumps(asdict(identity), indent=1).encode() + b"\n")
    return identity


def note_start(disk: Disk, directory: str, rng_bytes: Callable[[int], bytes]) -> Start:
    """Count this start, durably on return; once per process, with the directory locked. Raises LogCorrupt, OSError."""
    path = os.path.join(directory, STARTS_NAME)
    data = load(disk, directory, STARTS_NAME, _STARTS.size + _CRC.size + 1)
    start = Start(1 if data is None else _decode_starts(data, path) + 1, rng_bytes(NONCE_SIZE))
    if len(start.nonce) != NONCE_SIZE:
        raise ValueError(f"a nonce of {len(start.nonce)} bytes, it takes {NONCE_SIZE}")
    fields = _STARTS.pack(_STARTS_MAGIC, *start)
    Reserve(disk, directory).replace(STARTS_NAME, fields + _CRC.pack(google_crc32c.value(fields)))
    return start


def _decode_starts(data: bytes, path: str) -> int:
    fields = data[: _STARTS.size]
    if len(data) == _STARTS.size + _CRC.size and _CRC.unpack(data[_STARTS.size :])[0] == google_crc32c.value(fields):
        magic, count, _ = _STARTS.unpack(fields)
        if magic == _STARTS_MAGIC:
            return int(count)
    raise LogCorrupt(
        f"{path}: how often this node was started cannot be read, so its peers would take it for an old copy of "
        "itself; remove this node from the cluster and add it anew, with an empty directory"
    )


def _decode(data: bytes, path: str) -> Identity:
    try:
        fields = json.loads(data)
        if fields["format"] != FORMAT:
            raise LogCorrupt(f"{path}: format {fields['format']!r}, this program reads {FORMAT}; use a newer one")
        return Identity(str(uuid.UUID(fields["cluster_id"])), str(uuid.UUID(fields["node_id"])))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LogCorrupt(
            f"{path}: not a readable identity ({error!r}); restore the file, its ids mark the log's segments"
        ) from error
