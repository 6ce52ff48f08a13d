"""Small files that are replaced as a whole: after a crash at any moment the old content is there or the new one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raft.disk import Disk

DRAFT_SUFFIX = ".new"


def replace(disk: Disk, directory: str, name: str, data: bytes) -> None:
    """Durable on return. After OSError either content may be the one that survives."""
    path = os.path.join(directory, name)
    draft = path + DRAFT_SUFFIX
    if name + DRAFT_SUFFIX in disk.list(directory):
        disk.remove(draft)
    fd = disk.open(draft, create=True)
    try:
        disk.write_durable(fd, data, 0)
    finally:
        disk.close(fd)
    disk.rename(draft, path)
    disk.sync_directory(directory)


def load(disk: Disk, directory: str, name: str, size_max: int) -> bytes | None:
    """The content, None when there is no such file; at most `size_max` bytes are read."""
    if name not in disk.list(directory):
        return None
    fd = disk.open(os.path.join(directory, name))
    try:
        return disk.read(fd, size_max, 0)
    finally:
        disk.close(fd)
