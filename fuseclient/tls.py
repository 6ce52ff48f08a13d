"""How a client may talk to nodes: TLS with the cluster's own authority, or in plain text where nobody else listens.

A node's certificate is good when the cluster's authority has signed it and it names a node (`keelfs:node:<name>` among its
subjectAltNames, RFC 5280 4.2.1.6). Host names are not compared: addresses change, and the authority signs for one cluster only.
Plain text is for this machine, or for networks that the user vouches for (`insecure`).
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fuseclient.errors import ClientError

if TYPE_CHECKING:
    from fuseclient.volume_url import Address

NODE_URI: Final = "keelfs:node:"
_USAGE: Final = 2


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the cluster's authority, and this client's certificate with its key, where the cluster asks for one."""

    ca: Path
    cert: Path | None = None
    key: Path | None = None

    @classmethod
    def given(cls, ca: str, cert: str, key: str) -> TlsFiles | None:
        """From what the user has set; empty = not set. Raises ClientError when the parts do not fit together."""
        if not ca and not cert and not key:
            return None
        if not ca:
            raise ClientError("--tls-cert and --tls-key need --tls-ca, the cluster's authority", exit_code=_USAGE)
        if bool(cert) != bool(key):
            raise ClientError("--tls-cert and --tls-key belong together: one of them is missing", exit_code=_USAGE)
        return cls(Path(ca), Path(cert) if cert else None, Path(key) if key else None)

    def read(self) -> tuple[bytes, bytes | None, bytes | None]:
        """The files' contents: authority, key, certificate. Raises ClientError."""
        return _read(self.ca), _read(self.key) if self.key else None, _read(self.cert) if self.cert else None

    def context(self) -> ssl.SSLContext:
        """For connections to nodes. Raises ClientError."""
        self.read()  # its errors name the file
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        try:
            context.load_verify_locations(self.ca)
        except ssl.SSLError:
            raise ClientError(f"{self.ca} (--tls-ca) holds no certificate in PEM form", exit_code=_USAGE) from None
        if self.cert is not None:
            try:
                # A key with a passphrase is refused: nobody is there to type it.
                context.load_cert_chain(self.cert, self.key, password=_no_passphrase)
            except (ssl.SSLError, ValueError) as error:
                why = f"{self.cert} (--tls-cert) and {self.key} (--tls-key) cannot be used together: {_reason(error)}"
                raise ClientError(why, exit_code=_USAGE) from None
        return context


@dataclass(frozen=True, slots=True)
class Access:
    """What a client is allowed to do to reach a node."""

    tls: ssl.SSLContext | None = None
    insecure: bool = False  # plain text to other machines is accepted

    def refusal(self, address: Address) -> str | None:
        """Why this address must not be talked to; None when it may."""
        if self.tls is not None or self.insecure or address.is_loopback:
            return None
        return (
            "it is another machine, and without TLS everybody on the way could read and change what is sent: "
            "give --tls-ca (and --tls-cert, --tls-key), or --insecure if the network is yours alone"
        )


def names_a_node(certificate: dict[str, Any] | None) -> bool:
    """`certificate` as ssl's getpeercert gives it."""
    names = (certificate or {}).get("subjectAltName", ())
    return any(kind == "URI" and str(value).startswith(NODE_URI) for kind, value in names)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ClientError(f"{path} cannot be read: {error.strerror}", exit_code=_USAGE) from None


def _no_passphrase() -> str:
    raise ValueError("the key is protected by a passphrase")


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error).lower().replace("_", " ")
