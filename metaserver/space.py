"""Whether there is room for more: the free space of the data directory, the log, the store.

Looked at every second. Once short, there must be a quarter more than the reserve before it counts as over, so that the
server does not swing between the two with every deletion.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_log = structlog.get_logger(__name__)

INTERVAL_S: Final = 1.0
LOG_LOW_LOOKS: Final = 3
LOG_LOW_FREE_BYTES: Final = 256 << 20


def free_bytes(directory: Path) -> int:
    """What an unprivileged process may still write there."""
    stat = os.statvfs(directory)
    return stat.f_bavail * stat.f_frsize


class SpaceWatch:
    """`report(reason)` is called when room gets short (a text for people) and when it no longer is (None)."""

    def __init__(
        self,
        *,
        free: Callable[[], int],
        reserve_bytes: int,
        store_full: Callable[[], str],
        log_low: Callable[[], bool],
        report: Callable[[str | None], None],
    ) -> None:
        self._free = free
        self._reserve_bytes = reserve_bytes
        self._store_full = store_full
        self._log_low = log_low
        self._report = report
        self._log_low_looks = 0
        self.reason: str | None = None

    def look(self) -> None:
        """Find out, and report a change."""
        reason = self._find()
        if reason is not None and self.reason is None:
            _log.error("space is short: only operations that free space are accepted", reason=reason)
        elif reason is None and self.reason is not None:
            _log.info("there is space again")
        if reason != self.reason:
            self.reason = reason
            self._report(reason)

    def _find(self) -> str | None:
        full = self._store_full()
        if full:
            return f"the metadata store is full: {full}"
        free = self._free()
        needed = self._reserve_bytes if self.reason is None else self._reserve_bytes + self._reserve_bytes // 4
        if free < needed:
            return f"the metadata server's disk is nearly full: {free >> 20} MiB free, {needed >> 20} MiB kept in reserve"
        # The log has no spare segment while it makes the next one, too. Short of space is only where none comes.
        self._log_low_looks = self._log_low_looks + 1 if self._log_low() else 0
        if self._log_low_looks > LOG_LOW_LOOKS and free < LOG_LOW_FREE_BYTES:
            return "the metadata server's disk has no room for the log"
        return None
