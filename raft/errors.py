"""Why a proposal was not carried out, by what the caller may conclude from it."""

from __future__ import annotations


class ReplicationError(Exception):
    """Base of everything that `raft` raises to its callers."""


class NotLeader(ReplicationError):
    """Nothing was logged; ask the node named by `hint` (None: not known yet)."""

    def __init__(self, hint: str | None) -> None:
        super().__init__(f"not the leader; leader: {hint or 'unknown'}")
        self.hint = hint


class Refused(ReplicationError):
    """Nothing was logged and nothing will be: the log cannot take the entry now. `errno` says why (ENOSPC, EFBIG, EAGAIN)."""

    def __init__(self, errno: int, reason: str) -> None:
        super().__init__(reason)
        self.errno = errno
        self.reason = reason


class OutcomeUnknown(ReplicationError):
    """The entry may or may not take effect. Send it again under the same identity."""


class Stopped(OutcomeUnknown):
    """The replicator is shutting down or failed; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class LogCorrupt(ReplicationError):
    """The log on disk is damaged where entries follow: not a torn tail. The node must not start on it."""


class Diverged(ReplicationError):
    """This node's state or log contradicts the cluster's, or can no longer be read. It must not go on: remove the node
    and add it anew."""


class StateWrong(Diverged):
    """A majority has another state at the same index. What is on this disk must not be used again."""
