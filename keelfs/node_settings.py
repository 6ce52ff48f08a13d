"""What a cluster's node is told at every start: `node.json` in its data directory, so that `keelfs server --data D` is enough.

    {"format": 1, "name": "n1", "listen": "10.0.0.1:7420", "admin": "10.0.0.1:7421", "peer": "10.0.0.1:7422",
     "advertise_client": "", "advertise_admin": "", "advertise_peer": "",
     "tls_ca": "/etc/keelfs/ca.crt", "tls_cert": "/etc/keelfs/n1.crt", "tls_key": "/etc/keelfs/n1.key", "insecure": false}

Rules:
- It is written once, by `cluster init`, `cluster add` and `snapshot restore`, as a whole and durably. People may edit it while
  the node is down; what they break is named, key by key.
- A flag of `keelfs server` counts more than it, and it more than the site's settings.
- An address that others are told (`told_*`) is the advertised one, else the one that is listened on. The cluster's log has it
  too, since the node was added: to change it, the node is removed and added anew.
- No secrets: paths of keys, never keys.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Final

from fuseclient.errors import ClientError
from fuseclient.volume_url import Address, parse_address
from keelfs.exit_codes import ExitCode
from raft import membership
from raft.atomic_file import load, replace
from raft.disk import RealDisk
from raft.errors import Refused
from raft.membership import Member
from raft.tls import TlsFiles

if TYPE_CHECKING:
    from pathlib import Path

    from raft.disk import Disk

FILE_NAME: Final = "node.json"
FORMAT: Final = 1
PEER_OFFSET: Final = 2  # the peer port is this far behind the client port unless said otherwise

_SIZE_MAX: Final = 64 << 10
_EVERYWHERE: Final = frozenset(("0.0.0.0", "::", "0"))


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Addresses are host:port; "" = not given. Paths are absolute."""

    name: str
    listen: str
    admin: str
    peer: str
    advertise_client: str = ""
    advertise_admin: str = ""
    advertise_peer: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    insecure: bool = False

    @property
    def tls(self) -> TlsFiles | None:
        """None: plaintext."""
        return TlsFiles(self.tls_ca, self.tls_cert, self.tls_key) if self.tls_ca else None

    @property
    def told_client(self) -> str:
        return self.advertise_client or self.listen

    @property
    def told_admin(self) -> str:
        return self.advertise_admin or self.admin

    @property
    def told_peer(self) -> str:
        return self.advertise_peer or self.peer

    def member(self, incarnation: str) -> Member:
        """The member of the cluster that this node is, on this disk."""
        return Member(self.name, incarnation, self.told_peer, self.told_client, self.told_admin)


def complete(
    *,
    name: str,
    listen: str,
    admin: str = "",
    peer: str = "",
    advertise: tuple[str, str, str] = ("", "", ""),
    tls: TlsFiles | None = None,
    insecure: bool = False,
) -> NodeSettings:
    """Settings from what was given, with defaults in the gaps. `advertise`: client, admin, peer. Raises ClientError."""
    client = parse_address(listen)
    made = NodeSettings(
        name=name,
        listen=str(client),
        admin=str(parse_address(admin) if admin else _after(client, 1, "--admin")),
        peer=str(parse_address(peer) if peer else _after(client, PEER_OFFSET, "--peer")),
        advertise_client=_address(advertise[0]),
        advertise_admin=_address(advertise[1]),
        advertise_peer=_address(advertise[2]),
        tls_ca=os.path.abspath(tls.ca) if tls else "",
        tls_cert=os.path.abspath(tls.cert) if tls else "",
        tls_key=os.path.abspath(tls.key) if tls else "",
        insecure=insecure,
    )
    check(made)
    return made


def check(made: NodeSettings) -> None:
    """Refuse what no member of a cluster can have. Raises ClientError."""
    try:
        membership.check(made.member("00000000-0000-0000-0000-000000000000"))
    except Refused as refused:
        raise ClientError(str(refused), exit_code=ExitCode.USAGE) from refused
    for option, address in (("client", made.told_client), ("admin", made.told_admin), ("peer", made.told_peer)):
        if parse_address(address).host in _EVERYWHERE:
            raise ClientError(
                f"{address} means every address of this machine, and others cannot be told that: say where they reach it, with "
                f"--advertise-{option} HOST:PORT",
                exit_code=ExitCode.USAGE,
            )
    told = [made.listen, made.admin, made.peer]
    if len(set(told)) != len(told):
        raise ClientError("--listen, --admin and --peer need a port each", exit_code=ExitCode.USAGE)
    if len({bool(path) for path in (made.tls_ca, made.tls_cert, made.tls_key)}) != 1:
        raise ClientError(
            "TLS needs all three: the CA's certificate, the node's, and the node's key (--certs DIR, or --tls-ca, --tls-cert, "
            "--tls-key)",
            exit_code=ExitCode.USAGE,
        )


def write(directory: Path, made: NodeSettings, disk: Disk | None = None) -> None:
    """Durable on return. Raises ClientError."""
    text = json.dumps({"format": FORMAT, **asdict(made)}, indent=1)
    disk = disk or RealDisk()
    try:
        disk.make_directory(os.fspath(directory))
        replace(disk, os.fspath(directory), FILE_NAME, text.encode() + b"\n")
    except OSError as error:
        raise ClientError(f"cannot write {directory / FILE_NAME}: {error.strerror}") from error


def read(directory: Path, disk: Disk | None = None) -> NodeSettings | None:
    """The directory's settings, None when it has none. Raises ClientError that says what is wrong with the file."""
    path = directory / FILE_NAME
    try:
        data = load(disk or RealDisk(), os.fspath(directory), FILE_NAME, _SIZE_MAX) if os.path.isdir(directory) else None
    except PermissionError as error:
        raise ClientError(f"{error.filename or path}: {error.strerror}", exit_code=ExitCode.DENIED) from error
    except OSError as error:
        raise ClientError(f"cannot read {path}: {error.strerror}") from error
    if data is None:
        return None
    made = _decode(data, path)
    check(made)
    return made


def remove(directory: Path) -> None:
    """Take the file away again, where making the node came to nothing."""
    (directory / FILE_NAME).unlink(missing_ok=True)


def _decode(data: bytes, path: Path) -> NodeSettings:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise _wrong(path, f"it is not JSON ({error})") from None
    if not isinstance(found, dict):
        raise _wrong(path, "it is not a JSON object")
    form = found.pop("format", None)
    if form != FORMAT:
        raise _wrong(path, f"its format is {form!r}, and this program reads {FORMAT}")
    known = {field.name: bool if field.name == "insecure" else str for field in fields(NodeSettings)}
    for key, value in found.items():
        if key not in known:
            raise _wrong(path, f"{key[:64]!r} is no setting of a node")
        if type(value) is not known[key]:
            raise _wrong(path, f"{key!r} must be {'true or false' if known[key] is bool else 'text'}")
    for key in ("name", "listen", "admin", "peer"):
        if not found.get(key):
            raise _wrong(path, f"{key!r} is missing")
    for key in ("listen", "admin", "peer", "advertise_client", "advertise_admin", "advertise_peer"):
        try:
            _address(found.get(key, ""))
        except ClientError as error:
            raise _wrong(path, f"{key!r}: {error}") from None
    return NodeSettings(**found)


def _address(text: str) -> str:
    return str(parse_address(text)) if text else ""


def _after(client: Address, offset: int, option: str) -> Address:
    if client.port + offset > 65535:
        raise ClientError(f"there is no port {client.port + offset}; choose one with {option}", exit_code=ExitCode.USAGE)
    return Address(client.host, client.port + offset)


def _wrong(path: Path, why: str) -> ClientError:
    return ClientError(f"{path} cannot be used: {why}. docs/OPERATING.md describes it", exit_code=ExitCode.USAGE)
