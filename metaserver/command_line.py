"""The options of `python -m metaserver.server`, for tests and service managers; people use `keelfs server`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from metaserver.config import EXIT_CONFIG, ServerConfig, ServerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raft.tls import TlsFiles


def parse(argv: Sequence[str] | None) -> tuple[ServerConfig, int | None]:
    """The config, and the file descriptor that gets a line when the server answers. Raises ServerError, SystemExit."""
    parser = argparse.ArgumentParser(prog="metaserver", description="KeelFS metadata server")
    parser.add_argument("--data", type=Path, required=True, help="data directory")
    parser.add_argument("--listen", default="127.0.0.1:7420", help="host:port for clients")
    parser.add_argument("--admin", default="127.0.0.1:7421", help="host:port for administration")
    parser.add_argument("--name", default="", help="this node's name in its cluster")
    parser.add_argument("--peer", metavar="ADDRESS", help="host:port for the other nodes of the cluster")
    for whom in ("client", "admin", "peer"):
        parser.add_argument(f"--advertise-{whom}", default="", metavar="ADDRESS", help="what others are told instead")
    for what, meaning in (("ca", "whom to trust"), ("cert", "this node's certificate"), ("key", "its key")):
        parser.add_argument(f"--tls-{what}", metavar="FILE", help=f"PEM file: {meaning}")
    parser.add_argument("--insecure", action="store_true", help="allow plaintext beyond this machine")
    parser.add_argument("--session-ttl", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--delete-delay", type=float, default=30.0, metavar="SECONDS")
    parser.add_argument("--verify-interval", type=float, default=6 * 3600.0, metavar="SECONDS")
    parser.add_argument("--log-segment", type=int, default=64 << 20, metavar="BYTES")
    parser.add_argument("--log-retain", type=int, default=128 << 20, metavar="BYTES")
    parser.add_argument("--ready-fd", type=int, help="file descriptor that gets a line when the server answers")
    given = parser.parse_args(argv)
    config = ServerConfig(
        data_dir=given.data,
        listen=given.listen,
        admin=given.admin,
        insecure=given.insecure,
        name=given.name,
        peer_listen=given.peer,
        advertise_client=given.advertise_client,
        advertise_admin=given.advertise_admin,
        advertise_peer=given.advertise_peer,
        tls=tls_files(given.tls_ca, given.tls_cert, given.tls_key),
        session_ttl_s=given.session_ttl,
        delete_delay_s=given.delete_delay,
        verify_interval_s=given.verify_interval,
        log_segment_bytes=given.log_segment,
        log_retain_bytes=given.log_retain,
    )
    return config, given.ready_fd


def tls_files(ca: str | None, cert: str | None, key: str | None) -> TlsFiles | None:
    """All three or none. Raises ServerError."""
    if ca and cert and key:
        from raft.tls import TlsFiles

        return TlsFiles(ca, cert, key)
    missing = [option for option, path in (("--tls-ca", ca), ("--tls-cert", cert), ("--tls-key", key)) if not path]
    if len(missing) < 3:
        raise ServerError(f"TLS needs all of --tls-ca, --tls-cert and --tls-key; missing: {', '.join(missing)}", EXIT_CONFIG)
    return None
