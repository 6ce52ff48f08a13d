"""From a store's URL to the store: the one table of what kinds there are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

    from fuseclient.data.object_store import ObjectStore


def _open_file(url: str) -> ObjectStore:
    from fuseclient.data.local_dir import LocalDir

    parts = urlsplit(url)
    if parts.netloc or parts.query or not parts.path.startswith("/"):
        raise ValueError("a directory as a store is file:///ABSOLUTE/PATH")
    return LocalDir(Path(unquote(parts.path)))


def _open_s3(url: str) -> ObjectStore:
    from fuseclient.data.s3 import Bucket, S3Store  # here: importing boto3 takes a third of a second

    return S3Store(Bucket.of(url))


_KINDS: Final[dict[str, Callable[[str], ObjectStore]]] = {"file": _open_file, "s3": _open_s3}


def open_store(url: str) -> ObjectStore:
    """The store that `url` names. ValueError: the URL is wrong; ObjectStoreError: the store is."""
    scheme = urlsplit(url).scheme
    opener = _KINDS.get(scheme)
    if opener is None:
        known = ", ".join(f"{kind}://" for kind in _KINDS)
        raise ValueError(f"a store's URL starts with one of {known}; this one starts with {scheme or 'nothing'}")
    return opener(url)


def is_local(url: str) -> bool:
    """Whether the store is on this machine's own disk, so that caching it on disk again makes no sense."""
    return urlsplit(url).scheme == "file"
