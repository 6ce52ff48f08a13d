"""What health checks are told: that a node serves clients, and that it can be administered.

The service names are gRPC's: "" and Meta are SERVING where clients are answered, so only at the leader; Admin is SERVING on
every node that knows a leader and whose state is nearly as new as the log that it knows of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grpc_health.v1 import health, health_pb2

from metaserver.ports import ADMIN_SERVICE
from metaserver.service import SERVICE

if TYPE_CHECKING:
    from raft.api import ReplicatorStatus

INTERVAL_S: Final = 0.25
#: Entries that a state may be behind: a second or two of load.
LAG_MAX: Final = 10_000

_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING


def is_close(status: ReplicatorStatus) -> bool:
    """The node takes part: there is a leader, and the state is nearly as new as the log."""
    return status.leader is not None and status.index_committed - status.index_applied <= LAG_MAX


class Health:
    """Owns the answers; until told otherwise they are NOT_SERVING."""

    def __init__(self) -> None:
        self.answers = health.aio.HealthServicer()
        self._told: tuple[bool, bool] | None = None

    async def tell(self, *, clients: bool, admin: bool) -> None:
        """Clients are served; the node can be administered."""
        if self._told == (clients, admin):
            return
        self._told = (clients, admin)
        for service, serving in (("", clients), (SERVICE, clients), (ADMIN_SERVICE, admin)):
            await self.answers.set(service, _SERVING if serving else _NOT_SERVING)

    async def stop(self) -> None:
        """NOT_SERVING, whatever is told from now on."""
        await self.answers.enter_graceful_shutdown()
