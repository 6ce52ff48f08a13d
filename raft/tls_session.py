"""One TLS session without I/O: ciphertext in, plaintext out, and the other way round.

Why not the event loop's own TLS: this way a connection exists, is counted and has a deadline before its handshake is over; a
failed handshake is an error here with a reason, not a line in the loop's log; and the two event loops behave alike.

After an error the session is of no use any more, but `take` still gives the alert that tells the other side.
"""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING, Final

from raft.tls import peer_principal

if TYPE_CHECKING:
    from raft.certificates import Principal

_READ_BYTES: Final = 1 << 18
_REASONS: Final = {
    "HTTP_REQUEST": "it speaks HTTP",
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
    "UNSUPPORTED_PROTOCOL": "it does not speak TLS 1.3",
    "NO_PROTOCOLS_AVAILABLE": "it does not speak TLS 1.3",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it shows no certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not accept this node's certificate: signed by a CA that it does not know",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate and was shown none",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it does not accept this node's certificate: expired",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not accept this node's certificate",
}
_NOT_TLS: Final = re.compile(r"RECORD|PACKET|LENGTH|UNEXPECTED_MESSAGE|VERSION|DECODE|EXTENSION|DIGEST")


class TlsFailed(Exception):
    """The session is over; the text is the end of a sentence that begins with who the other side is."""


class TlsSession:
    def __init__(self, context: ssl.SSLContext, *, server_side: bool) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self.established = False
        self.ended = False  # the other side said goodbye: nothing more comes

    def start(self) -> None:
        """The side that connects speaks first."""
        self._handshake()

    def receive(self, data: bytes) -> bytes:
        """The plaintext in it. `take` may have something to send afterwards. Raises TlsFailed."""
        self._incoming.write(data)
        if not self.established and not self._handshake():
            return b""
        parts = []
        try:
            while part := self._object.read(_READ_BYTES):
                parts.append(part)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            raise TlsFailed(_reason(error)) from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def send(self, data: bytes) -> bytes:
        """The ciphertext. Raises TlsFailed."""
        view = memoryview(data)
        try:
            while view:
                view = view[self._object.write(view) :]
        except ssl.SSLError as error:
            raise TlsFailed(_reason(error)) from error
        return self._outgoing.read()

    def take(self) -> bytes:
        """What has to be sent: handshake, alerts."""
        return self._outgoing.read()

    def principal(self) -> Principal | None:
        """Whom the other side's certificate speaks for, once established."""
        try:
            return peer_principal(self._object.getpeercert())
        except (ValueError, ssl.SSLError):  # a name that is no text
            return None

    def _handshake(self) -> bool:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise TlsFailed(_reason(error)) from error
        self.established = True
        return True


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    reason = error.reason or "UNKNOWN"
    if reason in _REASONS:
        return _REASONS[reason]
    if "ALERT" in reason:
        return f"it ended the TLS session: {reason.lower().replace('_', ' ')}"
    if _NOT_TLS.search(reason):
        return f"what it sends is no TLS: {reason.lower().replace('_', ' ')}"
    return f"TLS failed: {reason.lower().replace('_', ' ')}"
