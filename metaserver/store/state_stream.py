"""The state as a stream of bytes, the same bytes for the same state: what snapshots are made of and what `verify` compares.

    pair      key length u16 (1..511), value length u32, key, value     in ascending order of the keys
    end       0 u16, 0 u32, number of pairs u64                         nothing follows

All numbers are big-endian. The stream is cut into pieces of CHUNK_BYTES without regard to the pairs; only the last is shorter.
The digest of a state is blake2b-256 of its stream.

`decode` trusts nothing: order, lengths, the store's own keys and the count are checked, and what it holds of the stream at once
is bounded by one value. What is in the pairs is the core's business.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from metaserver.store.api import KEY_MAX, RESERVED_BYTE
from metaserver.store.pacing import RUN_KEYS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from metaserver.store.api import Pair

CHUNK_BYTES: Final = 256 << 10

#: A value came with one entry of the log, and those end at 16 MiB.
VALUE_MAX: Final = 16 << 20

#: A run of pairs is no longer than RUN_KEYS and ends when it has so many bytes of values.
_RUN_BYTES: Final = 1 << 20

STATE_DIGEST_BYTES: Final = 32

_HEAD: Final = struct.Struct(">HI")
_END: Final = struct.Struct(">HIQ")


def encode(pairs: Iterable[Pair]) -> Iterator[bytes]:
    """The stream of `pairs`, which are in order, in pieces."""
    parts: list[bytes] = []
    size = count = 0
    pack = _HEAD.pack
    for key, value in pairs:
        parts += (pack(len(key), len(value)), key, value)
        size += _HEAD.size + len(key) + len(value)
        count += 1
        if size >= CHUNK_BYTES:
            data = b"".join(parts)
            whole = size - size % CHUNK_BYTES
            for at in range(0, whole, CHUNK_BYTES):
                yield data[at : at + CHUNK_BYTES]
            parts = [data[whole:]]
            size -= whole
    data = b"".join((*parts, _END.pack(0, 0, count)))
    for at in range(0, len(data), CHUNK_BYTES):
        yield data[at : at + CHUNK_BYTES]


def digest_of(pairs: Iterable[Pair]) -> tuple[bytes, int]:
    """The digest of the state that `pairs` are, and how many there are."""
    count = 0

    def counted() -> Iterator[Pair]:
        nonlocal count
        for pair in pairs:
            count += 1
            yield pair

    state = blake2b(digest_size=STATE_DIGEST_BYTES)
    for chunk in encode(counted()):
        state.update(chunk)
    return state.digest(), count


def decode(chunks: Iterable[bytes]) -> Iterator[list[Pair]]:
    """The pairs of a stream, a few at a time. `chunks` is read to its end. Raises ValueError when it is not a whole stream."""
    buffer = bytearray()
    last = b""
    count = 0
    ended = False
    for chunk in chunks:
        if ended and chunk:
            raise ValueError("the state goes on after its end")
        buffer += chunk
        at = 0
        run: list[Pair] = []
        run_bytes = 0
        while not ended and len(buffer) - at >= _HEAD.size:
            key_bytes, value_bytes = _HEAD.unpack_from(buffer, at)
            if not key_bytes:
                if len(buffer) - at < _END.size:
                    break
                _check_end(buffer, at, count)
                at += _END.size
                ended = True
                break
            if key_bytes > KEY_MAX or value_bytes > VALUE_MAX:
                raise ValueError(f"pair {count + 1} of the state claims {key_bytes} bytes of key and {value_bytes} of value")
            value_at = at + _HEAD.size + key_bytes
            end = value_at + value_bytes
            if len(buffer) < end:
                break
            key = bytes(buffer[at + _HEAD.size : value_at])
            if key <= last or key[0] == RESERVED_BYTE:
                raise ValueError(f"pair {count + 1} of the state is out of order, or its key is none: {key[:20]!r}")
            run.append((key, bytes(buffer[value_at:end])))
            run_bytes += value_bytes
            last, at = key, end
            count += 1
            if len(run) >= RUN_KEYS or run_bytes >= _RUN_BYTES:
                yield run
                run, run_bytes = [], 0
        if ended and len(buffer) > at:
            raise ValueError("the state goes on after its end")
        del buffer[:at]
        if run:
            yield run
    if not ended:
        raise ValueError(f"the state ends early, after {count} pairs")


def _check_end(buffer: bytearray, at: int, count: int) -> None:
    _, nothing, claimed = _END.unpack_from(buffer, at)
    if nothing or claimed != count:
        raise ValueError(f"the state has {count} pairs, and says that it has {claimed}")
