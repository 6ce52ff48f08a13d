"""A little space set aside in a node's directory, so that a full disk cannot keep a vote from being saved.

A small file is replaced by writing a new one beside it, which takes space when there is none to be had; but a cluster whose
disks are full must still be able to elect a leader, or nobody can delete anything. So a few blocks are held by a file without
meaning. When a replacement finds no space they are given up for it, and taken back, with what the replaced file leaves.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING

from raft.atomic_file import replace

if TYPE_CHECKING:
    from raft.disk import Disk

FILE_NAME = "reserve"
BLOCK = 4096
SIZE = 4 * BLOCK  # one is lost to every file that is made for the first time on a full disk
NO_SPACE = frozenset((errno.ENOSPC, errno.EDQUOT))

log = logging.getLogger(__name__)


class Reserve:
    """Owns the file of one directory, which its user has locked."""

    def __init__(self, disk: Disk, directory: str) -> None:
        """Raises nothing: without space for it, things are as they would be without it."""
        self._disk = disk
        self._directory = directory
        self._path = os.path.join(directory, FILE_NAME)
        self._held = False  # in full
        self._fill()

    def replace(self, name: str, data: bytes) -> None:
        """As atomic_file.replace, with its errors, also on a full disk."""
        try:
            replace(self._disk, self._directory, name, data)
        except OSError as error:
            if error.errno not in NO_SPACE or FILE_NAME not in self._disk.list(self._directory):
                raise
            self._held = False
            self._disk.remove(self._path)
            self._disk.sync_directory(self._directory)
            replace(self._disk, self._directory, name, data)
        if not self._held:
            self._fill()

    def settle(self, name: str, data: bytes) -> None:
        """Make durable that the file has this content, which was read from it: it may be there in the cache only.

        Its bytes were durable before they got the name, so on a full disk it is enough to sync that.
        """
        try:
            self.replace(name, data)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            self._disk.sync_directory(self._directory)

    def _fill(self) -> None:
        try:
            fd = self._disk.open(self._path, create=True)
            try:
                for at in range(self._disk.size(fd) // BLOCK * BLOCK, SIZE, BLOCK):
                    self._disk.write_durable(fd, bytes(BLOCK), at)
                self._held = True
            finally:
                self._disk.close(fd)
        except OSError as error:
            log.warning("not all the space for the next vote could be set aside: %s", error)
