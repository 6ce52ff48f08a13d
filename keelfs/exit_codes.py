"""What the `keelfs` command's exit status means. Documented in docs/OPERATING.md; anything else is a failure."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    OK = 0
    FAILURE = 1
    USAGE = 2
    PARTIAL = 3
    NO_VOLUME = 10
    UNAVAILABLE = 11  # no server answers, or it is locked or read-only
    DENIED = 12  # credentials or permissions
    INTERRUPTED = 130
