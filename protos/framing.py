"""The framing of the session stream, for both ends: bytes in, frames out. No sockets and no messages here.

    stream  = MAGIC frame*          in either direction
    frame   = length message        length: 4 bytes, big-endian, of the message alone

The message is a ClientFrame or a ServerFrame of meta.proto. A frame of length 0 is a ping of the client, and the server's
answer to it. docs/WIRE.md tells the rest. A length is judged before anything is allocated for it, and what is held of an
unfinished frame is never more than what has arrived.
"""

from __future__ import annotations

from typing import Final

MAGIC: Final = b"KEELFS1\n"
LENGTH_BYTES: Final = 4
PING: Final = bytes(LENGTH_BYTES)
CLIENT_FRAME_BYTES_MAX: Final = 8 << 20
SERVER_FRAME_BYTES_MAX: Final = 16 << 20


class NotOurs(Exception):
    """The peer speaks something else. `received`: all that has come from it."""

    def __init__(self, received: bytes) -> None:
        super().__init__(f"the first bytes are {received[: len(MAGIC)]!r}")
        self.received = received


class FrameTooLong(Exception):
    """A length beyond the limit; the stream cannot be followed any further."""


class Deframer:
    """Takes one direction of one stream apart. After an exception it is of no further use."""

    def __init__(self, frame_bytes_max: int) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._begun = False
        self._held = bytearray()  # the beginning of something
        self._wanted = 0  # with fewer bytes held than this there is nothing whole

    @property
    def held_bytes(self) -> int:
        """Of a frame that has not fully arrived."""
        return len(self._held)

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are whole now. Raises NotOurs, FrameTooLong."""
        held = self._held
        if held:
            held += data
            if self._begun and len(held) < self._wanted:
                return []
            data = bytes(held)
            held.clear()
        at = 0
        if not self._begun:
            if not data.startswith(MAGIC):
                if not MAGIC.startswith(data):
                    raise NotOurs(data)
                held += data
                return []
            self._begun = True
            at = len(MAGIC)
        found: list[bytes] = []
        end = len(data)
        self._wanted = LENGTH_BYTES
        while end - at >= LENGTH_BYTES:
            size = int.from_bytes(data[at : at + LENGTH_BYTES], "big")
            if size > self._frame_bytes_max:
                raise FrameTooLong(f"a frame of {size} bytes; the limit is {self._frame_bytes_max}")
            stop = at + LENGTH_BYTES + size
            if stop > end:
                self._wanted = LENGTH_BYTES + size
                break
            found.append(data[at + LENGTH_BYTES : stop])
            at = stop
        if at < end:
            held += data[at:]
        return found


def framed(message: bytes) -> bytes:
    """`message` as a frame."""
    return len(message).to_bytes(LENGTH_BYTES, "big") + message
