"""What the verbs of `keelfs cluster` have in common: whom to ask, and the settings of a node."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fuseclient.errors import ClientError
from fuseclient.tls import TlsFiles as ClientTlsFiles
from keelfs.admin_client import AdminClient, admin
from keelfs.exit_codes import ExitCode
from keelfs.settings import settings
from keelfs.target import server_admin_addresses

if TYPE_CHECKING:
    from keelfs.node_settings import NodeSettings
    from raft.tls import TlsFiles

ServerArgument = Annotated[
    str, typer.Argument(help="Any node: keel:// URL, host:port, or a path on a mount; default: the configured server.")
]
AdminOption = Annotated[str, typer.Option("--admin", help="Admin address, when it is not the port after the server's.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON.")]
DataOption = Annotated[Path, typer.Option("--data", help="Directory of the node's log and store.")]
NameOption = Annotated[str, typer.Option("--name", help="The node's name: up to 32 of a-z, 0-9 and '-'.")]
ListenOption = Annotated[str, typer.Option("--listen", help="Address for clients, host:port.")]
AdminListenOption = Annotated[str, typer.Option("--admin", help="Address for administration.", show_default="the next port")]
PeerOption = Annotated[str, typer.Option("--peer", help="Address for the other nodes.", show_default="the port after that")]
AdvertiseClientOption = Annotated[str, typer.Option(help="What clients are told instead of --listen.")]
AdvertiseAdminOption = Annotated[str, typer.Option(help="What others are told instead of --admin.")]
AdvertisePeerOption = Annotated[str, typer.Option(help="What other nodes are told instead of --peer.")]
CertsOption = Annotated[str, typer.Option("--certs", help="Directory with ca.crt, NAME.crt and NAME.key.")]
TlsCaOption = Annotated[str, typer.Option(help="The cluster's CA, instead of the one in --certs.")]
TlsCertOption = Annotated[str, typer.Option(help="The node's certificate, instead of the one in --certs.")]
TlsKeyOption = Annotated[str, typer.Option(help="The node's key, instead of the one in --certs.")]
InsecureOption = Annotated[
    bool, typer.Option("--insecure", help="Work without TLS beyond this machine: anybody who reaches the node is root.")
]


def asked(server: str, admin_at: str) -> AbstractContextManager[AdminClient]:
    """A client for the cluster that `server` belongs to; what only the leader does finds its way there."""
    return admin(server_admin_addresses(server, admin_at))


def asked_as(made: NodeSettings, server: str, admin_at: str) -> AbstractContextManager[AdminClient]:
    """The same, with the node's own certificate where the site has none for clients."""
    if settings().tls_files() is not None:
        return asked(server, admin_at)
    tls = ClientTlsFiles(Path(made.tls_ca), Path(made.tls_cert), Path(made.tls_key)) if made.tls_ca else None
    insecure = made.insecure or settings().insecure
    return contextlib.closing(AdminClient(server_admin_addresses(server, admin_at), tls=tls, insecure=insecure))


def settings_given(
    name: str,
    listen: str,
    admin_at: str,
    peer: str,
    advertise: tuple[str, str, str],
    certs: str,
    tls: tuple[str, str, str],
    insecure: bool,
) -> NodeSettings:
    """A node's settings from the command line. Raises ClientError."""
    from keelfs import node_settings

    return node_settings.complete(
        name=name,
        listen=listen,
        admin=admin_at,
        peer=peer,
        advertise=advertise,
        tls=tls_given(certs, name, tls),
        insecure=insecure,
    )


def tls_given(certs: str, name: str, tls: tuple[str, str, str]) -> TlsFiles | None:
    """The files of --certs, or those named one by one; None for neither. Raises ClientError."""
    from raft.tls import TlsFiles

    usual = TlsFiles.of(certs, name) if certs else TlsFiles("", "", "")
    files = TlsFiles(tls[0] or usual.ca, tls[1] or usual.cert, tls[2] or usual.key)
    given = [bool(path) for path in (files.ca, files.cert, files.key)]
    if any(given) and not all(given):
        raise ClientError(
            "--tls-ca, --tls-cert and --tls-key belong together: give all three, or --certs DIR", exit_code=ExitCode.USAGE
        )
    return files if all(given) else None
