"""Which node a directory belongs to: `identity.json`, made once, never changed.

The cluster id is shared by the nodes of a cluster, the node id is this directory's own: a node that lost its disk is a
new node.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

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


def load_or_create(disk: Disk, directory: str, new_uuid: Callable[[], uuid.UUID] = uuid.uuid4) -> Identity:
    """Read the directory's identity; give it one when it has none. Raises LogCorrupt when it cannot be read, OSError."""
    path = os.path.join(directory, FILE_NAME)
    names = disk.list(directory)
    if FILE_NAME in names:
        return _load(disk, path)
    identity = Identity(cluster_id=str(new_uuid()), node_id=str(new_uuid()))
    draft = path + ".new"
    if os.path.basename(draft) in names:
        disk.remove(draft)
    fd = disk.open(draft, create=True)
    try:
        disk.write_durable(fd, json.dumps(asdict(identity), indent=1).encode() + b"\n", 0)
    except OSError:
        with contextlib.suppress(OSError):
            disk.remove(draft)
        raise
    finally:
        disk.close(fd)
    disk.rename(draft, path)
    disk.sync_directory(directory)
    return identity


def _load(disk: Disk, path: str) -> Identity:
    fd = disk.open(path)
    try:
        data = disk.read(fd, _SIZE_MAX, 0)
    finally:
        disk.close(fd)
    try:
        fields = json.loads(data)
        if fields["format"] != FORMAT:
            raise LogCorrupt(f"{path}: format {fields['format']!r}, this program reads {FORMAT}; use a newer one")
        return Identity(str(uuid.UUID(fields["cluster_id"])), str(uuid.UUID(fields["node_id"])))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LogCorrupt(
            f"{path}: not a readable identity ({error!r}); restore the file, its ids mark the log's segments"
        ) from error
