"""Answers for those who call the stream port in another protocol, each in words that its program shows to people.

A gRPC client gets its call refused as UNIMPLEMENTED, which takes waiting for the call: an HTTP/2 connection that is closed
before that is only tried again. An HTTP/1 client gets a 400. For anything else there is the stream's own `end` (framed.py).
"""

from __future__ import annotations

from typing import Final

HELLO: Final = "this is the stream port of a KeelFS metadata server; gRPC is served on its admin port"
TLS_HANDSHAKE: Final = b"\x16\x03"
_HTTP1: Final = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"OPTIONS ")
_HTTP2: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_RECOGNISED: Final = 8  # bytes of it that are enough
_HELD_MAX: Final = 64 << 10

# RFC 9113, section 6; RFC 7541 for the header block, without its compression
_HEADERS: Final = 1
_SETTINGS: Final = 4
_GOAWAY: Final = 7
_END: Final = 0x5  # END_STREAM and END_HEADERS
_FRAME_HEADER: Final = 9
_STATUS_200: Final = b"\x88"
_CONTENT_TYPE: Final = b"\x0f\x10"
_UNIMPLEMENTED: Final = b"12"


def http1(first: bytes) -> bytes | None:
    """The whole answer, if that is how a request of HTTP/1 begins."""
    if not first.startswith(_HTTP1):
        return None
    body = HELLO.encode("ascii") + b"\n"
    head = f"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode("ascii") + body


class Http2:
    """One connection of a gRPC client, up to the refusal of its first call."""

    def __init__(self) -> None:
        self._held = b""
        self._begun = False

    @staticmethod
    def begins(first: bytes) -> bool:
        return first.startswith(_HTTP2[:_RECOGNISED])

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What to send, and whether to close then."""
        held = self._held + data
        out = b""
        if not self._begun:
            if not _HTTP2.startswith(held[: len(_HTTP2)]):
                return b"", True
            if len(held) < len(_HTTP2):
                self._held = held
                return b"", False
            self._begun = True
            held = held[len(_HTTP2) :]
            out = _frame(_SETTINGS, 0, 0, b"")
        while len(held) >= _FRAME_HEADER:
            end = _FRAME_HEADER + int.from_bytes(held[:3], "big")
            if held[3] == _HEADERS:
                stream = int.from_bytes(held[5:9], "big")
                return out + _frame(_HEADERS, _END, stream, _refusal()) + _frame(_GOAWAY, 0, 0, bytes(8)), True
            if len(held) < end:
                break
            held = held[end:]
        self._held = held
        return out, len(held) > _HELD_MAX


def _refusal() -> bytes:
    """The header block of a gRPC answer that is nothing but a status."""
    message = HELLO.encode("ascii")
    return b"".join(
        (
            _STATUS_200,
            _CONTENT_TYPE + _text(b"application/grpc"),
            b"\0" + _text(b"grpc-status") + _text(_UNIMPLEMENTED),
            b"\0" + _text(b"grpc-message") + _text(message),
        )
    )


def _text(value: bytes) -> bytes:
    assert len(value) < 127  # longer ones have another form
    return bytes((len(value),)) + value


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
