"""`keelfs server`: run a metadata node."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fuseclient.volume_url import parse_address
from keelfs.admin_client import admin_address
from keelfs.background import Ready, start_in_background
from keelfs.console import say
from keelfs.logs import configure_logs
from keelfs.quantity import parse_duration
from keelfs.settings import settings


def server(
    data: Annotated[Path, typer.Option(help="Directory of the node's log and store; made when missing.")],
    listen: Annotated[str, typer.Option(help="Address for clients, host:port.", show_default="127.0.0.1:7420")] = "",
    admin_at: Annotated[str, typer.Option("--admin", help="Address for administration.", show_default="the next port")] = "",
    session_ttl: Annotated[str, typer.Option(help="A client silent for this long loses its session.", show_default="60s")] = "",
    delete_delay: Annotated[str, typer.Option(help="Wait this long before deleted data is removed.", show_default="30s")] = "",
    insecure: Annotated[
        bool, typer.Option(help="Listen beyond this machine without TLS: anybody who reaches it is root.")
    ] = False,
    background: Annotated[
        bool, typer.Option("-d", "--background", help="Return as soon as it answers; log to DATA/server.log.")
    ] = False,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.", show_default="info")] = "",
    log_format: Annotated[str, typer.Option(help="console or json.", show_default="console")] = "",
    ready_fd: Annotated[int, typer.Option(hidden=True)] = -1,
) -> None:
    """Run a metadata server in the foreground (SIGTERM or Ctrl-C stops it cleanly)."""
    defaults = settings()
    if background:
        pid = start_in_background(sys.argv[1:], data / "server.log")
        say(f"the server is ready (process {pid}, log {data / 'server.log'})")
        return
    configure_logs(log_level or defaults.log_level, log_format or defaults.log_format, None)

    from fuseclient.errors import ClientError
    from metaserver.config import ServerConfig, ServerError
    from metaserver.server import serve

    address = parse_address(listen or defaults.listen)
    ready = Ready(ready_fd)
    try:
        config = ServerConfig(
            data_dir=data,
            listen=str(address),
            admin=admin_at or defaults.admin or admin_address(address),
            session_ttl_s=parse_duration(session_ttl or defaults.session_ttl),
            delete_delay_s=parse_duration(delete_delay or defaults.delete_delay),
            insecure=insecure,
        )
        code = serve(config, lambda _: ready.tell())
    except ServerError as error:
        ready.fail(str(error))
        raise ClientError(str(error), exit_code=error.exit_code) from error
    raise typer.Exit(code)
