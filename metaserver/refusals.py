"""How an administrative call is refused: one error, and the one place where it becomes a gRPC status with trailers.

The refusals of the parts below are translated here too. docs/WIRE.md lists the trailers.
"""

from __future__ import annotations

import contextlib
import errno
import functools
from typing import TYPE_CHECKING, Any, Final, Protocol

import grpc

from metaserver import wire
from metaserver.barrier import NoQuorum
from metaserver.core.errors import FsError
from metaserver.settings import SettingsError
from metaserver.store.errors import StoreError
from raft.errors import NotLeader, Refused, ReplicationError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

_CODES: Final = {
    errno.ENOENT: grpc.StatusCode.NOT_FOUND,
    errno.EEXIST: grpc.StatusCode.ALREADY_EXISTS,
    errno.EINVAL: grpc.StatusCode.INVALID_ARGUMENT,
    errno.ENAMETOOLONG: grpc.StatusCode.INVALID_ARGUMENT,
    errno.ENOTDIR: grpc.StatusCode.INVALID_ARGUMENT,
    errno.EBUSY: grpc.StatusCode.FAILED_PRECONDITION,
    errno.ENOTEMPTY: grpc.StatusCode.FAILED_PRECONDITION,
    errno.EOPNOTSUPP: grpc.StatusCode.FAILED_PRECONDITION,
    errno.ESTALE: grpc.StatusCode.NOT_FOUND,
    errno.ENOSPC: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errno.EAGAIN: grpc.StatusCode.UNAVAILABLE,
    errno.ETIMEDOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
}


class AdminError(Exception):
    """A call was refused; the message is complete."""

    def __init__(self, errno_: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.errno = errno_
        self.reason = reason


def not_leader(leader: str) -> AdminError:
    """The call is the leader's to answer; `leader` is its admin address, "" when it is not known."""
    where = f"the leader is at {leader}" if leader else "there is no leader now, as far as this node knows"
    return AdminError(errno.EAGAIN, "not-leader", f"this node does not lead the cluster; {where}")


class Guarded(Protocol):
    """What `answering` needs of a service."""

    def require_ready(self) -> object:
        """Raises AdminError while the state is being recovered."""

    def leader_admin(self) -> str:
        """The leader's admin address, "" when it is not known."""


_REFUSALS: Final = (AdminError, FsError, SettingsError, ReplicationError, StoreError, OSError, TimeoutError)


def _translate(error: Exception, leader: str) -> AdminError:
    match error:
        case AdminError():
            return error
        case FsError():
            return AdminError(error.errno, "refused", str(error))
        case SettingsError():
            return AdminError(errno.EINVAL, "bad-settings", str(error))
        case NotLeader():
            return not_leader(leader)
        case NoQuorum() | TimeoutError():
            return AdminError(errno.EAGAIN, "no-quorum", str(error) or "no majority of the cluster answers")
        case Refused():
            return AdminError(error.errno, "refused", error.reason)
        case ReplicationError():
            return AdminError(errno.EAGAIN, "unavailable", str(error))
        case StoreError():
            return AdminError(errno.ENOSPC, "checkpoint", str(error))
        case _:
            return AdminError(errno.ENOSPC, "disk", str(error))


async def _abort(error: Exception, service: Guarded, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    leader = service.leader_admin()
    told = _translate(error, leader)
    trailers = [("keelfs-errno", str(told.errno)), ("keelfs-reason", told.reason)]
    if told.reason == "not-leader":
        trailers.append(("keelfs-leader", leader))
    code = _CODES.get(told.errno, grpc.StatusCode.FAILED_PRECONDITION)
    await context.abort(code, wire.printable(str(told)), tuple(trailers))


def answering(method: Callable[[Any, Any, Any], Awaitable[Any]]) -> Callable[[Any, Any, Any], Awaitable[Any]]:
    """A unary call whose refusals become a status with trailers."""

    @functools.wraps(method)
    async def answer(self: Guarded, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            self.require_ready()
            return await method(self, request, context)
        except _REFUSALS as error:
            await _abort(error, self, context)

    return answer


def streaming(method: Callable[[Any, Any, Any], AsyncGenerator[Any, None]]) -> Callable[[Any, Any, Any], AsyncIterator[Any]]:
    """The same for a call that answers with a stream."""

    @functools.wraps(method)
    async def answer(self: Guarded, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        try:
            self.require_ready()
            async with contextlib.aclosing(method(self, request, context)) as pieces:
                async for piece in pieces:
                    yield piece
        except _REFUSALS as error:
            await _abort(error, self, context)

    return answer
