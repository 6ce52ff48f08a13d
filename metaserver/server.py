"""The composition root: opens the store and the log, wires the parts, serves, and ends in good order.

The only file that knows every concrete class. Order of a start: validate, open the store (a second server stops here), take
the ports, replay the log, serve. Health answers from the moment the ports are taken and says SERVING only when the state is
recovered. Order of an end: refuse new work, answer what was taken, end the streams, stop the log, last checkpoint, close.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import grpc
import structlog
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from metaserver import space
from metaserver.admin import AdminService
from metaserver.applier import Applier
from metaserver.config import EXIT_ADDRESS, EXIT_CORRUPT, EXIT_DATA, EXIT_FAILURE, ServerConfig, ServerError, split_address
from metaserver.core import reads
from metaserver.core.errors import FsError
from metaserver.deletes import Deletes
from metaserver.holds import Holds
from metaserver.interest import Interest
from metaserver.orphans import Orphans
from metaserver.queries import Queries
from metaserver.service import GRPC_OPTIONS, SERVICE, MetaService
from metaserver.sessions import Sessions
from metaserver.status import Status
from metaserver.store.checkpointer import Checkpointer
from metaserver.store.errors import StoreCorrupt, StoreError, StoreVersion
from metaserver.store.layered import LayeredStore
from metaserver.writes import Writes
from protos import admin_pb2_grpc
from raft.errors import LogCorrupt, ReplicationError
from raft.local import LocalReplicator

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from metaserver.core.entry import Item, Result

_log = structlog.get_logger(__name__)

ADMIN_SERVICE: Final = "keelfs.admin.v1.Admin"
#: How long the loop may keep a thread that has finished a sync from saying so. Python's default, 5 ms, is several syncs.
SWITCH_INTERVAL_S: Final = 0.0005
_DELETES_INTERVAL_S: Final = 2.0


class Ready(NamedTuple):
    """The addresses that are served."""

    listen: str
    admin: str


def _explain(error: Exception, config: ServerConfig) -> ServerError:
    """What went wrong below, in one line for the operator."""
    match error:
        case ServerError():
            return error
        case LogCorrupt() | StoreCorrupt() | StoreVersion():
            return ServerError(f"the data in {config.data_dir} cannot be used: {error}", EXIT_CORRUPT)
        case StoreError():
            return ServerError(f"the data directory cannot be used: {error}", EXIT_DATA)
        case OSError() if error.errno in (errno.EBUSY, errno.EAGAIN):
            return ServerError(f"the data directory {config.data_dir} is in use by another server", EXIT_DATA)
        case OSError():
            name = error.filename or config.data_dir
            return ServerError(f"the data directory cannot be used: {name}: {error.strerror or error}", EXIT_DATA)
        case _:
            return ServerError(f"the server failed: {type(error).__name__}: {error}", EXIT_FAILURE)


class Server:
    """Everything of one running server. `start`, then `wait`, then `stop`, which is to be called in any case."""

    def __init__(self, config: ServerConfig, clock: Callable[[], float] = time.monotonic) -> None:
        config.validate()
        self.config = config
        self._clock = clock
        self._end: asyncio.Future[ServerError | None] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []
        self._status: Status | None = None
        self._recovered = False
        self._store = self._open_store()
        store = self._store
        self._checkpointer = Checkpointer(store, on_durable=self._on_durable, on_failed=self._fatal)
        self._applier = Applier(store)
        self._replicator = LocalReplicator(config.data_dir, self._applier)
        self._writes = Writes(
            self._replicator,
            time.time_ns,
            entry_items=config.entry_items,
            entry_bytes=config.entry_bytes,
            queue_items=config.queue_items,
            on_fatal=self._fatal,
        )
        self._orphans = Orphans(self._writes, lambda ino: self._holds.held(ino), self._is_orphan)
        self._holds = Holds(self._orphans.freed)
        self._sessions = Sessions(
            self._writes,
            lambda number: reads.session(store, number),
            clock,
            ttl_s=config.session_ttl_s,
            sessions_max=config.sessions_max,
        )
        self._interest = Interest(config.watches_per_stream)
        self._deletes = Deletes(lambda after: reads.doomed(store, after), clock, time.time_ns, delay_s=config.delete_delay_s)
        self._service = MetaService(
            txn=store,
            writes=self._writes,
            sessions=self._sessions,
            holds=self._holds,
            interest=self._interest,
            queries=Queries(store, self._interest, self._holds, self._orphans, self._deletes),
            pressure=self._checkpointer,
            on_fatal=self._fatal,
            in_flight_max=config.in_flight_max,
        )
        self._space = space.SpaceWatch(
            free=lambda: space.free_bytes(config.data_dir),
            reserve_bytes=config.reserve_bytes,
            store_full=lambda: self._checkpointer.full_reason,
            log_low=lambda: self._replicator.space_low,
            report=self._writes.set_space_short,
        )
        self._health = health.aio.HealthServicer()
        self._grpc: list[grpc.aio.Server] = []
        self._wire()

    def _wire(self) -> None:
        """Who hears of what."""
        self._writes.observers += [
            self._service.observe,  # holds first: an orphan that is held must not be reaped
            self._orphans.observe,
            self._deletes.observe,
            self._interest.observe,
            self._nudge,
        ]
        self._sessions.on_all_back.append(self._orphans.end_grace)
        self._sessions.on_closed += [
            lambda session: self._holds.drop_session(session.id),
            self._deletes.drop_session,
        ]

    def _open_store(self) -> LayeredStore:
        directory = self.config.data_dir
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return LayeredStore.open(directory / "state", map_bytes=self.config.map_bytes)

    # --- life ---

    async def start(self) -> Ready:
        """Take the ports, recover, serve. Raises what `_explain` understands."""
        ready = await self._listen()
        self._checkpointer.start()
        await self._replicator.start()
        self._writes.not_before(self._applier.last_now_ns)
        store = self._store
        self._orphans.load(reads.orphans(store))
        self._sessions.load(list(reads.sessions(store)))
        identity = self._replicator.identity
        self._status = Status(
            txn=store,
            files=store,
            index_durable=lambda: store.index_durable,
            replicator=self._replicator,
            writes=self._writes,
            sessions=self._sessions,
            holds=self._holds,
            orphans=self._orphans,
            clock=self._clock,
            cluster_id=identity.cluster_id,
            node_id=identity.node_id,
        )
        self._start_tasks()
        self._recovered = True
        self._service.open()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        _log.info("serving", listen=ready.listen, admin=ready.admin, data=str(self.config.data_dir))
        return ready

    async def wait(self) -> None:
        """Return when the server is asked to end; raises ServerError when it cannot go on."""
        error = await asyncio.shield(self._end)
        if error is not None:
            raise error

    def request_stop(self) -> None:
        """End in good order."""
        if not self._end.done():
            self._end.set_result(None)

    async def stop(self) -> None:
        """See the module's text. Does what it can, also after a failed start."""
        failed = self._end.done() and self._end.result() is not None
        await self._health.enter_graceful_shutdown()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._recovered and not failed:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._writes.stop(), self.config.stop_grace_s)
        self._service.close()
        for server in self._grpc:
            await server.stop(self.config.stop_grace_s)
        if self._recovered:
            await self._replicator.stop()
        await self._checkpointer.close()
        self._store.close()
        _log.info("stopped", data=str(self.config.data_dir))

    # --- ports ---

    async def _listen(self) -> Ready:
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        clients = grpc.aio.server(options=GRPC_OPTIONS)
        clients.add_generic_rpc_handlers((self._service.handler(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, clients)
        admin = grpc.aio.server(options=GRPC_OPTIONS)
        service = AdminService(
            txn=self._store,
            writes=self._writes,
            sessions=self._sessions,
            holds=self._holds,
            status=lambda: self._status,
            checkpoint=self._checkpointer.checkpoint_now,
        )
        admin_pb2_grpc.add_AdminServicer_to_server(service, admin)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, admin)
        reflection.enable_server_reflection((ADMIN_SERVICE, SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), admin)
        self._grpc = [clients, admin]
        bound = [
            _bind(server, name, address)
            for server, name, address in ((clients, "listen", self.config.listen), (admin, "admin", self.config.admin))
        ]
        for server in self._grpc:
            await server.start()
        return Ready(*bound)

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in ("", SERVICE, ADMIN_SERVICE):
            await self._health.set(service, status)

    # --- what runs beside ---

    def _start_tasks(self) -> None:
        ttl_s = self.config.session_ttl_s
        self._start_task(self._orphans.run(), "reaper")
        self._start_task(self._expire_sessions(min(max(ttl_s / 8, 0.05), 5.0)), "expiry")
        self._start_task(self._every(_DELETES_INTERVAL_S, self._announce_deletes), "deletes")
        self._start_task(self._every(space.INTERVAL_S, self._look_at_space), "space")
        self._start_task(self._watch_log(), "log")
        self._space.look()

    def _start_task(self, body: Awaitable[None], name: str) -> None:
        async def guarded() -> None:
            try:
                await body
            except Exception as error:
                self._fatal(error)

        self._tasks.append(asyncio.create_task(guarded(), name=name))

    async def _every(self, interval_s: float, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(interval_s)
            await step()

    async def _expire_sessions(self, interval_s: float) -> None:
        while True:
            before_s = self._clock()
            await asyncio.sleep(interval_s)
            late_s = self._clock() - before_s - interval_s
            if late_s > interval_s:
                _log.warning(
                    "the server itself was stopped, or short of CPU; sessions get that time back", seconds=round(late_s, 1)
                )
                self._sessions.forgive(late_s)
            await self._sessions.sweep()

    async def _announce_deletes(self) -> None:
        self._deletes.announce(self._sessions)

    async def _look_at_space(self) -> None:
        self._space.look()

    async def _watch_log(self) -> None:
        raise await asyncio.shield(self._replicator.failed)

    def _nudge(self, items: Sequence[Item], results: Sequence[Result]) -> None:
        self._checkpointer.nudge()

    def _on_durable(self, index: int) -> None:
        if self._recovered:
            self._replicator.trim(index)

    def _is_orphan(self, ino: int) -> bool:
        try:
            return reads.getattr(self._store, ino).nlink == 0
        except FsError:
            return False

    def _fatal(self, error: BaseException) -> None:
        """The server cannot go on."""
        if self._end.done():
            return
        if not isinstance(error, ServerError | StoreError | ReplicationError | OSError):
            _log.error("a defect or damage stops the server", exc_info=error)
        self._end.set_result(_explain(error if isinstance(error, Exception) else RuntimeError(repr(error)), self.config))


def _bind(server: grpc.aio.Server, name: str, address: str) -> str:
    """Take a port; the address with the port that it got."""
    host, port = split_address(name, address)
    shown = f"[{host}]" if ":" in host else host
    try:
        bound = server.add_insecure_port(f"{shown}:{port}")
    except RuntimeError as error:
        bound = 0
        cause: RuntimeError | None = error
    else:
        cause = None
    if bound == 0:
        raise ServerError(
            f"cannot listen on {address} (--{name}): the port is taken or the address is not this machine's; "
            "stop the other program or choose another port",
            EXIT_ADDRESS,
        ) from cause
    return f"{shown}:{bound}"


async def run_server(config: ServerConfig, ready: Callable[[Ready], None] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. `ready` is called once clients are answered. Raises ServerError."""
    loop = asyncio.get_running_loop()
    server: Server | None = None
    try:
        server = Server(config)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.request_stop)
        addresses = await server.start()
        gc.collect()
        gc.freeze()  # what a start builds stays: no need to look through it ever again
        if ready is not None:
            ready(addresses)
        await server.wait()
    except Exception as error:
        raise _explain(error, config) from error
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        if server is not None:
            await server.stop()
    return 0


def serve(config: ServerConfig, ready: Callable[[Ready], None] | None = None) -> int:
    """Run a server in this process, which does nothing else. Raises ServerError."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(20_000, 20, 50)
    return uvloop.run(run_server(config, ready))


def _announce(ready_fd: int | None) -> Callable[[Ready], None]:
    """Tell the caller by one line on a file descriptor that the server answers, and where."""

    def ready(addresses: Ready) -> None:
        if ready_fd is not None:
            os.write(ready_fd, f"ready {addresses.listen} {addresses.admin}\n".encode("ascii"))
            os.close(ready_fd)

    return ready


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m metaserver.server`: for tests and service managers; people use `keelfs server`."""
    parser = argparse.ArgumentParser(prog="metaserver", description="KeelFS metadata server")
    parser.add_argument("--data", type=Path, required=True, help="data directory")
    parser.add_argument("--listen", default="127.0.0.1:7420", help="host:port for clients")
    parser.add_argument("--admin", default="127.0.0.1:7421", help="host:port for administration")
    parser.add_argument("--insecure", action="store_true", help="allow plaintext beyond this machine")
    parser.add_argument("--session-ttl", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--delete-delay", type=float, default=30.0, metavar="SECONDS")
    parser.add_argument("--ready-fd", type=int, help="file descriptor that gets a line when the server answers")
    given = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    config = ServerConfig(
        data_dir=given.data,
        listen=given.listen,
        admin=given.admin,
        insecure=given.insecure,
        session_ttl_s=given.session_ttl,
        delete_delay_s=given.delete_delay,
    )
    try:
        return serve(config, _announce(given.ready_fd))
    except ServerError as error:
        print(f"metaserver: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
