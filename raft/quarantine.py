"""A disk whose state a majority has found wrong: the file `diverged`, with the reason. No node starts beside it.

Without it, what is wrong would be served and built upon again from the next start on, until it is found once more.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

from raft import atomic_file
from raft.errors import LogCorrupt

if TYPE_CHECKING:
    from raft.disk import Disk

FILE_NAME: Final = "diverged"
_SIZE_MAX: Final = 4096
_ADVICE: Final = "remove this node from the cluster and add it anew, with an empty directory"

log = logging.getLogger(__name__)


def close(disk: Disk, directory: str, reason: str) -> None:
    """From now on no node starts here. A disk that fails is logged: the node stops in any case."""
    try:
        atomic_file.replace(disk, directory, FILE_NAME, reason.encode()[:_SIZE_MAX])
    except OSError as error:
        log.warning("%s could not be marked as wrong: %s", directory, error)


def require_open(disk: Disk, directory: str) -> None:
    """Raises LogCorrupt, OSError."""
    reason = atomic_file.load(disk, directory, FILE_NAME, _SIZE_MAX)
    if reason is not None:
        text = reason.decode("utf-8", "replace")
        raise LogCorrupt(f"{os.path.join(directory, FILE_NAME)} says: {text}. What is on this disk is wrong; {_ADVICE}")
