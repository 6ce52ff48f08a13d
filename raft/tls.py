"""From files to TLS contexts: mutual TLS 1.3, where both sides show a certificate of the cluster's own CA.

Rules:
- No host name is checked between nodes: who answers is told by the URI in the certificate (certificates.py), and whoever makes
  a context here asks `peer_principal`.
- What is wrong with a file is said in one sentence with its path before the first connection, not by a handshake at night.
- A key that others may read is refused; one that its group may read (as orchestrators mount secrets) is let pass.
- Files may be renewed while a node runs: `Contexts` looks whether they changed. Old ones stay while new ones are no good.
"""

from __future__ import annotations

import datetime
import logging
import os
import ssl
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from raft.certificates import (
    CA_NAME,
    CertificateError,
    Principal,
    alternative_names,
    issued_by,
    load_certificates,
    principals,
    read_file,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.x509 import Certificate

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files: the CA that others must be signed by, and what this process shows."""

    ca: str
    cert: str
    key: str

    @classmethod
    def of(cls, directory: str | os.PathLike[str], name: str) -> TlsFiles:
        """As `keelfs certs` lays them out."""
        base = Path(directory)
        return cls(os.fspath(base / f"{CA_NAME}.crt"), os.fspath(base / f"{name}.crt"), os.fspath(base / f"{name}.key"))


@dataclass(frozen=True, slots=True)
class PemBytes:
    """The files' contents, as gRPC wants them."""

    ca: bytes
    cert: bytes
    key: bytes = field(repr=False)


def server_context(files: TlsFiles, *, clock: Callable[[], float] = time.time) -> ssl.SSLContext:
    """For the side that accepts; it asks for the other's certificate. Raises CertificateError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0  # nobody resumes: a session ticket would outlive a renewed certificate
    return _prepare(context, files, clock)


def client_context(files: TlsFiles, *, clock: Callable[[], float] = time.time) -> ssl.SSLContext:
    """For the side that connects. The other's certificate is checked, not its host name. Raises CertificateError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _prepare(context, files, clock)


def pem_bytes(files: TlsFiles, *, clock: Callable[[], float] = time.time) -> PemBytes:
    """For gRPC's credentials; checked as for a context. Raises CertificateError."""
    client_context(files, clock=clock)
    return PemBytes(read_file(Path(files.ca)), read_file(Path(files.cert)), read_file(Path(files.key)))


def own_principal(files: TlsFiles) -> Principal:
    """Whom the certificate in `files` speaks for. Raises CertificateError when that is not exactly one node or client."""
    found = principals(alternative_names(load_certificates(Path(files.cert))[0])[1])
    if len(found) != 1:
        raise CertificateError(f"{files.cert}: it names {len(found)} KeelFS nodes or clients instead of one")
    return found[0]


def peer_principal(certificate: dict[str, Any] | None) -> Principal | None:
    """Whom a verified certificate (`getpeercert()`) speaks for; None unless that is exactly one node or client."""
    names = (certificate or {}).get("subjectAltName", ())
    found = principals(value for kind, value in names if kind == "URI")
    return found[0] if len(found) == 1 else None


class Contexts:
    """The contexts of one set of files, made anew when a file has changed."""

    def __init__(self, files: TlsFiles, *, clock: Callable[[], float] = time.time) -> None:
        """Raises CertificateError."""
        self._files = files
        self._clock = clock
        self._seen = self._signature()
        self._server = server_context(files, clock=clock)
        self._client = client_context(files, clock=clock)

    def server(self) -> ssl.SSLContext:
        self._refresh()
        return self._server

    def client(self) -> ssl.SSLContext:
        self._refresh()
        return self._client

    def _refresh(self) -> None:
        now = self._signature()
        if now == self._seen:
            return
        self._seen = now
        try:
            server, client = server_context(self._files, clock=self._clock), client_context(self._files, clock=self._clock)
        except CertificateError as error:
            log.warning("the changed certificates are not used, the old ones stay: %s", error)
            return
        self._server, self._client = server, client
        log.info("certificates were read again")

    def _signature(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_identity(path) for path in (self._files.ca, self._files.cert, self._files.key))


def _identity(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _prepare(context: ssl.SSLContext, files: TlsFiles, clock: Callable[[], float]) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    _check_files(files, clock)
    try:
        context.load_verify_locations(cafile=files.ca)
    except (ssl.SSLError, OSError) as error:
        raise CertificateError(f"{files.ca}: not a CA's certificate that can be used") from error
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CertificateError(f"{files.key}: not the key of {files.cert}") from error
        raise CertificateError(f"{files.key}: not a private key that can be used (PEM, without a password)") from error
    except _PasswordNeeded as error:
        raise CertificateError(f"{files.key}: the key is encrypted; a server can ask nobody for the password") from error
    except OSError as error:
        raise CertificateError(f"{files.key}: {error.strerror}") from error
    return context


class _PasswordNeeded(Exception):
    pass


def _no_password() -> NoReturn:
    raise _PasswordNeeded


def _check_files(files: TlsFiles, clock: Callable[[], float]) -> None:
    """What a handshake would only fail with."""
    ca, own = load_certificates(Path(files.ca)), load_certificates(Path(files.cert))
    now = datetime.datetime.fromtimestamp(clock(), datetime.UTC)
    for path, certificate in ((files.ca, ca[0]), (files.cert, own[0])):
        _check_validity(path, certificate, now)
    if not issued_by(own[0], (*ca, *own[1:])):
        raise CertificateError(f"{files.cert}: not signed by {files.ca}; they belong to different clusters")
    try:
        mode = os.stat(files.key).st_mode
    except OSError as error:
        raise CertificateError(f"{files.key}: {error.strerror}") from error
    if mode & stat.S_IRWXO:
        raise CertificateError(f"{files.key}: everybody on this machine may read or change this key; chmod 600 it")
    if mode & stat.S_IWGRP:
        raise CertificateError(f"{files.key}: its group may change this key; chmod 600 it")


def _check_validity(path: str, certificate: Certificate, now: datetime.datetime) -> None:
    if now > certificate.not_valid_after_utc:
        raise CertificateError(f"{path}: the certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if now < certificate.not_valid_before_utc:
        raise CertificateError(
            f"{path}: not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; is the clock right?"
        )
