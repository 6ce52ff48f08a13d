"""Makes the certificates of a cluster and says what is in one: a CA of its own, one certificate per node and per client.

Rules:
- Who somebody is stands in a URI of the certificate, `keelfs:node:<name>` or `keelfs:client:<name>`: addresses change, names do
  not, and a client's certificate can never pass for a node's. Addresses are there as well, for clients that check them (gRPC).
- Nothing is overwritten. A key is written before its certificate, each whole or not at all, the key with mode 0600 from its
  first byte on.
- Validity begins a day before now: machines whose clocks differ must be able to use a certificate that was just made.

EC P-256, because every TLS library of the last ten years knows it and a handshake costs a fraction of RSA's.
Not here: use of the files in TLS (tls.py), and words for people (keelfs/commands/certs.py).
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from raft.errors import ReplicationError
from raft.membership import NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

CA_NAME: Final = "ca"
CA_DAYS: Final = 3652
LEAF_DAYS: Final = 1826
BACKDATED: Final = datetime.timedelta(days=1)
NODE_URI: Final = "keelfs:node:"
CLIENT_URI: Final = "keelfs:client:"
FILE_BYTES_MAX: Final = 256 << 10

_HOST_MAX: Final = 253


class CertificateError(ReplicationError):
    """A certificate or key cannot be made, read or used; the text is complete and holds no part of a key."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Whom a certificate speaks for."""

    kind: str  # "node" or "client"
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Description:
    """What is in one certificate."""

    path: str
    kind: str  # "ca", "node", "client" or "other"
    name: str
    hosts: tuple[str, ...]
    serial: str  # hexadecimal
    issuer: str
    not_before: datetime.datetime  # UTC
    not_after: datetime.datetime


def principals(uris: Iterable[str]) -> tuple[Principal, ...]:
    """The names that a certificate's URIs claim; whatever else is among them is somebody else's business."""
    found = []
    for uri in uris:
        for prefix, kind in ((NODE_URI, "node"), (CLIENT_URI, "client")):
            if uri.startswith(prefix) and NAME.fullmatch(uri.removeprefix(prefix)):
                found.append(Principal(kind, uri.removeprefix(prefix)))
    return tuple(found)


# -- making -----------------------------------------------------------------------------------------------------------------


def make_ca(directory: Path, *, days: int = CA_DAYS, clock: Callable[[], float] = time.time) -> Path:
    """A new CA: `ca.crt` and `ca.key` in `directory`, which is made when missing. Raises CertificateError."""
    _make_directory(directory)
    _require_absent(directory, CA_NAME)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "KeelFS"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"KeelFS CA {secrets.token_hex(4)}"),
        ]
    )
    usage = _key_usage(signs_certificates=True)
    certificate = (
        _builder(name, name, key.public_key(), days, clock)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _write(directory, CA_NAME, key, certificate)


def make_node(
    directory: Path, name: str, hosts: Sequence[str], *, days: int = LEAF_DAYS, clock: Callable[[], float] = time.time
) -> Path:
    """A certificate for the node `name` at these DNS names and IP addresses, signed by the CA in `directory`. It is good for
    serving and for connecting. Raises CertificateError."""
    if not hosts:
        raise CertificateError(f"the certificate of node {name!r} needs at least one host name or address")
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return _make_leaf(directory, name, NODE_URI, [_general_name(host) for host in hosts], uses, days, clock)


def make_client(directory: Path, name: str, *, days: int = LEAF_DAYS, clock: Callable[[], float] = time.time) -> Path:
    """A certificate for the client `name`, signed by the CA in `directory`. Raises CertificateError."""
    return _make_leaf(directory, name, CLIENT_URI, [], [ExtendedKeyUsageOID.CLIENT_AUTH], days, clock)


def make_all(
    directory: Path,
    nodes: Sequence[str],
    hosts: Sequence[str],
    clients: Sequence[str] = (),
    *,
    days: int = LEAF_DAYS,
    clock: Callable[[], float] = time.time,
) -> list[Path]:
    """A CA and the certificates of nodes, all at the same `hosts`, and of clients. What can be refused is refused before
    anything is made. Raises CertificateError."""
    names = [*nodes, *clients]
    for name in names:
        _check_name(name)
        if names.count(name) > 1:
            raise CertificateError(f"{name!r} is named twice; every node and client needs a name of its own")
    for host in hosts:
        _general_name(host)
    for name in (CA_NAME, *names):
        _require_absent(directory, name)
    made = [make_ca(directory, clock=clock)]
    made += [make_node(directory, name, hosts, days=days, clock=clock) for name in nodes]
    return made + [make_client(directory, name, days=days, clock=clock) for name in clients]


def _make_leaf(
    directory: Path,
    name: str,
    prefix: str,
    hosts: list[x509.GeneralName],
    uses: list[x509.ObjectIdentifier],
    days: int,
    clock: Callable[[], float],
) -> Path:
    _check_name(name)
    _require_absent(directory, name)
    ca, ca_key = _load_ca(directory)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "KeelFS"), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )
    builder = _builder(subject, ca.subject, key.public_key(), days, clock, not_later=ca.not_valid_after_utc)
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName([*hosts, x509.UniformResourceIdentifier(prefix + name)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return _write(directory, name, key, certificate)


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name) or name == CA_NAME:
        raise CertificateError(f"{name[:64]!r} is no name for a certificate: use up to 32 of a-z, 0-9 and '-', but not 'ca'")


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    days: int,
    clock: Callable[[], float],
    not_later: datetime.datetime | None = None,
) -> x509.CertificateBuilder:
    now = datetime.datetime.fromtimestamp(int(clock()), datetime.UTC)
    end = now + datetime.timedelta(days=days)
    if not_later is not None and end > not_later:
        end = not_later
    if end <= now:
        raise CertificateError("the certificate would have expired already; is the CA too old, or the clock wrong?")
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(end)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    if not 0 < len(host) <= _HOST_MAX or not host.isascii() or any(not (c.isalnum() or c in "-._*") for c in host):
        raise CertificateError(f"{host[:64]!r} is no host name or IP address (without a port)")
    return x509.DNSName(host)


# -- reading ----------------------------------------------------------------------------------------------------------------


def describe(path: Path) -> Description:
    """What is in the first certificate of a PEM file. Raises CertificateError."""
    certificate = load_certificates(path)[0]
    names = alternative_names(certificate)
    found = principals(names[1])
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = str(common[0].value) if common else certificate.subject.rfc4514_string()
    if len(found) == 1:
        kind, name = found[0].kind, found[0].name
    else:
        kind = "ca" if is_ca(certificate) else "other"
    return Description(
        path=os.fspath(path),
        kind=kind,
        name=name,
        hosts=names[0],
        serial=f"{certificate.serial_number:x}",
        issuer=certificate.issuer.rfc4514_string(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def describe_all(directory: Path) -> list[Description]:
    """Of every *.crt file in a directory, by file name. Raises CertificateError."""
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix == ".crt")
    except OSError as error:
        raise CertificateError(f"{directory}: {error.strerror}") from error
    return [describe(path) for path in paths]


def load_certificates(path: Path) -> list[x509.Certificate]:
    """All certificates of a PEM file, at least one. Raises CertificateError."""
    data = read_file(path)
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise CertificateError(f"{path}: not a certificate in PEM format") from error


def alternative_names(certificate: x509.Certificate) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(host names and addresses, URIs)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return (), ()
    hosts = [str(host) for host in (*names.get_values_for_type(x509.DNSName), *names.get_values_for_type(x509.IPAddress))]
    return tuple(hosts), tuple(names.get_values_for_type(x509.UniformResourceIdentifier))


def is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def issued_by(certificate: x509.Certificate, issuers: Iterable[x509.Certificate]) -> bool:
    """Whether one of `issuers` signed it."""
    for issuer in issuers:
        with contextlib.suppress(ValueError, TypeError, InvalidSignature):
            certificate.verify_directly_issued_by(issuer)
            return True
    return False


def read_file(path: Path) -> bytes:
    """A file's bytes, at most 256 KiB. Raises CertificateError that names the path."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror}") from error
    if len(data) > FILE_BYTES_MAX:
        raise CertificateError(f"{path}: larger than {FILE_BYTES_MAX} bytes; that is no certificate or key")
    return data


def _load_ca(directory: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    path, key_path = directory / f"{CA_NAME}.crt", directory / f"{CA_NAME}.key"
    if not path.exists():
        raise CertificateError(f"{path}: there is no CA; make one with: keelfs certs init {directory}")
    certificate = load_certificates(path)[0]
    try:
        key = serialization.load_pem_private_key(read_file(key_path), password=None)
    except (ValueError, TypeError) as error:
        raise CertificateError(f"{key_path}: not a private key that can be used (PEM, without a password)") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise CertificateError(f"{key_path}: not the key of {path}")
    return certificate, key


# -- files ------------------------------------------------------------------------------------------------------------------


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CertificateError(f"{directory}: {error.strerror}") from error


def _require_absent(directory: Path, name: str) -> None:
    for path in (directory / f"{name}.key", directory / f"{name}.crt"):
        if os.path.lexists(path):
            raise CertificateError(f"{path}: it is there already and nothing is overwritten; move it away first")


def _write(directory: Path, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> Path:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write_new(directory / f"{name}.key", pem, 0o600)
    path = directory / f"{name}.crt"
    try:
        _write_new(path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    except BaseException:
        (directory / f"{name}.key").unlink(missing_ok=True)  # ours, and without its certificate of no use
        raise
    return path


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """The whole file or none, durable; a file that is there stays."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            os.link(draft, path)  # unlike rename, it fails when the name is taken
        finally:
            os.unlink(draft)
        _sync_directory(path.parent)
    except FileExistsError as error:
        raise CertificateError(f"{path}: it is there already and nothing is overwritten; move it away first") from error
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror}") from error


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
