"""Which node a directory belongs to: `identity.json`, made once, never changed.

The cluster id is shared by the nodes of a cluster, the node id is this directory's own: a node that lost its disk is a
new node.
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from raft.atomic_file import load, replace
from raft.errors import LogCorrupt

if TYPE_CHECKING:
    from collections.abc import Callable

    from raft.disk import Disk

FILE_NAME = "identity.json"
FORMAT = 1

_SIZE_MAX = 4096


@dataclass(frozen=True, slots=True)
class Identity:
    cluster_id: str
    node_id: str
    format: int = FORMAT

    @property
    def owner(self) -> bytes:
        """The node id as the 16 bytes that mark its files."""
        return uuid.UUID(self.node_id).bytes


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
