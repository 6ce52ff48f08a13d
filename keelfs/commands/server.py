"""`keelfs server`: run a metadata node, a single one or a cluster's."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fuseclient.errors import ClientError
from fuseclient.volume_url import parse_address
from keelfs.background import Ready, start_in_background
from keelfs.console import say
from keelfs.exit_codes import ExitCode
from keelfs.logs import configure_logs
from keelfs.quantity import parse_duration
from keelfs.settings import settings
from keelfs.target import admin_address

if TYPE_CHECKING:
    from metaserver.config import ServerConfig


def server(
    data: Annotated[Path, typer.Option(help="Directory of the node's log and store; made when missing.")],
    listen: Annotated[str, typer.Option(help="Address for clients, host:port.", show_default="127.0.0.1:7420")] = "",
    admin_at: Annotated[str, typer.Option("--admin", help="Address for administration.", show_default="the next port")] = "",
    name: Annotated[str, typer.Option(help="The node's name in its cluster.")] = "",
    peer: Annotated[str, typer.Option(help="Address for the other nodes of the cluster.")] = "",
    advertise_client: Annotated[str, typer.Option(help="What clients are told instead of --listen.")] = "",
    advertise_admin: Annotated[str, typer.Option(help="What others are told instead of --admin.")] = "",
    advertise_peer: Annotated[str, typer.Option(help="What other nodes are told instead of --peer.")] = "",
    tls_ca: Annotated[str, typer.Option(help="The CA that clients and nodes must be signed by.")] = "",
    tls_cert: Annotated[str, typer.Option(help="This node's certificate.")] = "",
    tls_key: Annotated[str, typer.Option(help="Its key.")] = "",
    insecure: Annotated[
        bool | None, typer.Option(help="Listen beyond this machine without TLS: anybody who reaches it is root.")
    ] = None,
    session_ttl: Annotated[str, typer.Option(help="A client silent for this long loses its session.", show_default="60s")] = "",
    delete_delay: Annotated[str, typer.Option(help="Wait this long before deleted data is removed.", show_default="30s")] = "",
    verify_interval: Annotated[
        str, typer.Option(help="How often a cluster's nodes compare their states; 0s = never.", show_default="6h")
    ] = "6h",
    background: Annotated[
        bool, typer.Option("-d", "--background", help="Return as soon as it answers; log to DATA/server.log.")
    ] = False,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.", show_default="info")] = "",
    log_format: Annotated[str, typer.Option(help="console or json.", show_default="console")] = "",
    log_segment: Annotated[int, typer.Option(hidden=True)] = 64 << 20,
    log_retain: Annotated[int, typer.Option(hidden=True)] = 128 << 20,
    ready_fd: Annotated[int, typer.Option(hidden=True)] = -1,
) -> None:
    """Run a metadata server in the foreground (SIGTERM or Ctrl-C stops it cleanly). A cluster's node knows its settings."""
    defaults = settings()
    if background:
        pid = start_in_background(sys.argv[1:], data / "server.log")
        say(f"the server is ready (process {pid}, log {data / 'server.log'})")
        return
    configure_logs(log_level or defaults.log_level, log_format or defaults.log_format, None)

    from metaserver.config import ServerError
    from metaserver.server import serve

    ready = Ready(ready_fd)
    try:
        config = configured(
            data,
            {"name": name, "listen": listen, "admin": admin_at, "peer": peer}
            | {"advertise_client": advertise_client, "advertise_admin": advertise_admin, "advertise_peer": advertise_peer}
            | {"tls_ca": tls_ca, "tls_cert": tls_cert, "tls_key": tls_key},
            insecure,
        )
        config = replace(
            config,
            session_ttl_s=parse_duration(session_ttl or defaults.session_ttl),
            delete_delay_s=parse_duration(delete_delay or defaults.delete_delay),
            verify_interval_s=parse_duration(verify_interval),
            log_segment_bytes=log_segment,
            log_retain_bytes=log_retain,
        )
        code = serve(config, lambda _: ready.tell())
    except ServerError as error:
        ready.fail(str(error))
        raise ClientError(str(error), exit_code=error.exit_code) from error
    except ClientError as error:
        ready.fail(str(error))
        raise
    raise typer.Exit(code)


def configured(data: Path, given: dict[str, str], insecure: bool | None) -> ServerConfig:
    """The server's configuration: a flag counts more than the directory's node.json, and that more than the site's settings.

    `given`: the flags by their names in node.json, "" = not given. Raises ClientError.
    """
    from keelfs import node_settings
    from keelfs.node_directory import UNFINISHED_NAME
    from metaserver.config import ServerConfig
    from raft.tls import TlsFiles

    if os.path.exists(data / UNFINISHED_NAME):  # a directory that cannot be looked into is the server's to refuse
        raise ClientError(
            f"{data} holds a snapshot that was not restored to its end; give 'keelfs cluster snapshot restore' again, or take "
            "an empty directory"
        )
    known = node_settings.read(data)
    site = settings()
    if known is None:
        known = node_settings.NodeSettings(name="", listen=site.listen, admin=site.admin, peer="")
    elif given["listen"] and not given["admin"] and not known.advertise_admin:
        known = replace(known, admin="")  # the port after
    flags: dict[str, Any] = {key: value for key, value in given.items() if value}
    if insecure is not None:
        flags["insecure"] = insecure
    wanted = replace(known, **flags)
    tls = [wanted.tls_ca, wanted.tls_cert, wanted.tls_key]
    if any(tls) and not all(tls):
        raise ClientError("--tls-ca, --tls-cert and --tls-key belong together: give all three", exit_code=ExitCode.USAGE)
    address = parse_address(wanted.listen)
    return ServerConfig(
        data_dir=data,
        listen=str(address),
        admin=wanted.admin or admin_address(address),
        insecure=wanted.insecure,
        name=wanted.name,
        peer_listen=wanted.peer or None,
        advertise_client=wanted.advertise_client,
        advertise_admin=wanted.advertise_admin,
        advertise_peer=wanted.advertise_peer,
        tls=TlsFiles(*tls) if all(tls) else None,
    )
