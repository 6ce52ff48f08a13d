"""Why the store could not do something, by what its owner can do about it.

A caller's mistake (a key of 0 or 512 bytes, freezing twice) is a ValueError or RuntimeError and not in this family: it is
a bug of ours, and stops the process.
"""

from __future__ import annotations


class StoreError(Exception):
    """Base of all. Raised as such: the disk or the library failed in a way that nobody here can repair; stop the node."""


class StoreFull(StoreError):
    """No room for the checkpoint. Nothing is lost and nothing has changed: the layers stay in memory and in the log.
    Retry when there is room."""


class StoreCorrupt(StoreError):
    """The files are not what a store left behind. Never retried, never repaired by guessing."""


class StoreVersion(StoreError):
    """The files are intact but of a format that this release cannot read."""


class StoreBusy(StoreError):
    """Another process, or another object in this one, has the store open for writing."""


class StoreClosed(StoreError):
    """The view was closed: it lived too long, the state was replaced, or the store is being closed. Take another one."""


class StoreDenied(StoreError):
    """The operating system does not let this user read or write the files."""


class StoreMissing(StoreError):
    """There is no store here, and none was to be made."""
