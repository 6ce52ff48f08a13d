"""The two ports: framed streams for clients (framed.py), gRPC for administration, with or without TLS.

The admin port answers Admin, health and reflection, and Meta.Session too, for programs that speak gRPC. With certificates both
ports speak TLS and take only callers that show a certificate of the cluster's own CA.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from metaserver.config import EXIT_ADDRESS, EXIT_CONFIG, ServerError, split_address
from metaserver.framed import FramedListener
from metaserver.service import GRPC_OPTIONS, SERVICE
from protos import admin_pb2_grpc

if TYPE_CHECKING:
    import ssl

    from metaserver.admin import AdminService
    from metaserver.config import ServerConfig
    from metaserver.service import MetaService
    from raft.tls import TlsFiles

ADMIN_SERVICE: Final = "keelfs.admin.v1.Admin"


class Ready(NamedTuple):
    """The addresses that are served."""

    listen: str
    admin: str


class Ports:
    """Owns the listening. `start`, and `stop` in any case."""

    def __init__(
        self, config: ServerConfig, meta: MetaService, admin: AdminService, health_answers: health.aio.HealthServicer
    ) -> None:
        self._config = config
        self._meta = meta
        self._admin = admin
        self._health = health_answers
        self._clients: FramedListener | None = None
        self._grpc: grpc.aio.Server | None = None

    async def start(self) -> Ready:
        """Take both ports, then answer. Raises ServerError."""
        config = self._config
        context, credentials = _tls(config.tls)
        self._grpc = server = grpc.aio.server(options=GRPC_OPTIONS)
        server.add_generic_rpc_handlers((self._meta.handler(),))
        admin_pb2_grpc.add_AdminServicer_to_server(self._admin, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((ADMIN_SERVICE, SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        self._clients = FramedListener(self._meta, context)
        host, port = split_address("listen", config.listen)
        try:
            host, port = await self._clients.start(host, port)
        except OSError as error:
            _cannot_listen("listen", config.listen, error)
        admin = _bind(server, "admin", config.admin, credentials)
        await server.start()
        return Ready(_shown(host, port), admin)

    async def stop(self, grace_s: float) -> None:
        """Take no more calls; give those that run `grace_s`."""
        if self._clients is not None:
            await self._clients.close(grace_s)
        if self._grpc is not None:
            await self._grpc.stop(grace_s)


def _tls(files: TlsFiles | None) -> tuple[ssl.SSLContext | None, grpc.ServerCredentials | None]:
    """For the one port and the other; None: plaintext, which the config has allowed. Raises ServerError."""
    if files is None:
        return None, None
    # A tenth of a start is spent on this import, which a plaintext node need not pay.
    from raft.certificates import CertificateError
    from raft.tls import pem_bytes, server_context

    try:
        context, pem = server_context(files), pem_bytes(files)
    except CertificateError as error:
        raise ServerError(f"the certificates cannot be used: {error}", EXIT_CONFIG) from error
    return context, grpc.ssl_server_credentials([(pem.key, pem.cert)], root_certificates=pem.ca, require_client_auth=True)


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind(server: grpc.aio.Server, name: str, address: str, credentials: grpc.ServerCredentials | None) -> str:
    """Take a port; the address with the port that it got."""
    host, port = split_address(name, address)
    wanted = _shown(host, port)
    cause: RuntimeError | None = None
    bound = 0
    try:
        bound = server.add_insecure_port(wanted) if credentials is None else server.add_secure_port(wanted, credentials)
    except RuntimeError as error:
        cause = error
    if not bound:
        _cannot_listen(name, address, cause)
    return _shown(host, bound)


def _cannot_listen(name: str, address: str, cause: Exception | None) -> NoReturn:
    raise ServerError(
        f"cannot listen on {address} (--{name}): the port is taken or the address is not this machine's; "
        "stop the other program or choose another port",
        EXIT_ADDRESS,
    ) from cause
