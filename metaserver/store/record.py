"""The store's own record, under a key that no state has: how far the state has come, in the same transaction as the state.

    magic 4, format u32, applied index u64, chain digest 16       all numbers big-endian

Releases before the digest wrote the first three; such a store begins its chain with zeros. They read the longer record too.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from metaserver.store.api import RESERVED_BYTE
from metaserver.store.chain import DIGEST_BYTES, NO_DIGEST
from metaserver.store.errors import StoreCorrupt, StoreVersion

if TYPE_CHECKING:
    from pathlib import Path

FORMAT_VERSION: Final = 1
KEY: Final = bytes([RESERVED_BYTE]) + b"keelfs"

_MAGIC: Final = b"KEEL"
_FIXED: Final = struct.Struct(">4sIQ")


class Record(NamedTuple):
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    digest: bytes = NO_DIGEST


def pack(record: Record) -> bytes:
    return _FIXED.pack(_MAGIC, FORMAT_VERSION, record.index) + record.digest


def parse(path: Path, value: bytes | None) -> Record:
    """Raises StoreCorrupt, StoreVersion; `path` is for their texts."""
    if value is None or len(value) < _FIXED.size or value[:4] != _MAGIC:
        raise StoreCorrupt(f"{path} is an LMDB file, but not a KeelFS metadata store: it lacks the format record")
    _, version, index = _FIXED.unpack_from(value)
    if version != FORMAT_VERSION:
        raise StoreVersion(f"{path} has format {version}; this release reads format {FORMAT_VERSION}")
    digest = value[_FIXED.size : _FIXED.size + DIGEST_BYTES]
    if len(digest) not in (0, DIGEST_BYTES):
        raise StoreCorrupt(f"{path}: the format record ends within the digest")
    return Record(int(index), digest or NO_DIGEST)
