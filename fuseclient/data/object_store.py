"""What the data path asks of an object store. Implementations: local_dir.py (file://), s3.py (s3://).

All calls block and are made from worker threads. Keys are relative, '/'-separated ASCII without '.' or '..' parts. Objects
are written once and never changed. The contract suite in tests/contracts runs on every implementation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class ObjectStoreError(Exception):
    """The store could not do it. `transient`: trying again later may help (time-outs, 5xx, refused connections)."""

    def __init__(self, message: str, *, transient: bool) -> None:
        super().__init__(message)
        self.transient = transient


class ObjectMissing(ObjectStoreError):
    """There is no such object: the store answered, and said so."""

    def __init__(self, key: str) -> None:
        super().__init__(f"no object {key}", transient=False)
        self.key = key


class ObjectDenied(ObjectStoreError):
    """Credentials or permissions are not good enough."""

    def __init__(self, message: str) -> None:
        super().__init__(message, transient=False)


class ObjectStoreFull(ObjectStoreError):
    """There is no room: the disk or the bucket's quota is full."""

    def __init__(self, message: str) -> None:
        super().__init__(message, transient=False)


class ObjectInfo(NamedTuple):
    key: str
    size: int
    modified_s: float


class ObjectStore(Protocol):
    @property
    def url(self) -> str:
        """Where it is, without secrets; for people."""

    def put(self, key: str, parts: Iterable[bytes | bytearray | memoryview]) -> None:
        """Store the concatenation of `parts`. On return it is durable. Repeating it with the same bytes is harmless."""

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """The object, or `length` bytes of it from `offset` (fewer at its end). Raises ObjectMissing."""

    def size(self, key: str) -> int:
        """Bytes in the object. Raises ObjectMissing."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; one that is not there counts as removed. On return all of them are gone, else it raises."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object whose key starts with `prefix`, in key order. Raises rather than ending early on an error."""

    def probe(self) -> None:
        """Write, read back and remove a small object; raises what is wrong in words a user can act on."""

    def close(self) -> None:
        """Let go of connections and threads."""


@runtime_checkable
class NowaitReads(Protocol):
    """What a store on a local disk can do besides: answer from the page cache, on the event loop, without a thread."""

    def read_nowait(self, key: str, offset: int, into: memoryview) -> int:
        """Fill `into` from `offset`: how many bytes are there (all of them, except at the object's end), or -1 where that
        would wait, or the object is not there, or anything is wrong. Never raises."""
