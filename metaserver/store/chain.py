"""The chain digest: one number that says which changes have made the state, cheap enough to be kept with every entry.

    d(index) = blake2b-128( d(before) | index u64 BE | n u32 BE | n lengths u32 LE | n strings )

The n strings are what the entry wrote, two per write in the order of the writes: key and value of a put, DELETED and the key
of a delete. No key is DELETED (keys that begin with a zero byte are the store's), and the lengths are hashed before the
strings, so two different lists of writes never give the same input. Replicas that have applied the same entries have equal
digests; once they differ they stay different, at every later index, whatever is written then.

Entries of the log's own (a new leader's no-op, a membership, a marker) are not in the chain: they change nothing.

It says nothing about what *is* in the store (a bit that flips on the disk leaves it alone); state_stream.py digests that.
"""

from __future__ import annotations

import struct
from array import array
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

DIGEST_BYTES: Final = 16

#: Of a store that nothing was written to, and of one from before there were digests.
NO_DIGEST: Final = bytes(DIGEST_BYTES)

#: In the place of a key: what follows is a key that was deleted.
DELETED: Final = b"\0"

_HEAD: Final = struct.Struct(">QI")

#: To be copied: that takes half the time of making one.
_FRESH: Final = blake2b(digest_size=DIGEST_BYTES)


def fold(digest: bytes, index: int, writes: Sequence[bytes]) -> bytes:
    """The digest after the entry at `index`. One update of the hash whatever the entry's size: this runs for every entry."""
    lengths = array("I", map(len, writes)).tobytes()  # little-endian, as LMDB's files and every machine they are made on
    state = _FRESH.copy()
    state.update(b"".join((digest, _HEAD.pack(index, len(writes)), lengths, *writes)))
    return state.digest()
