"""The composition root: opens the store and the log, wires the parts, serves, and ends in good order.

The only file that knows every concrete class. Order of a start: validate, open the store (a second server stops here), take
the ports, replay the log, serve. Health answers from the moment the ports are taken and says SERVING only when the state is
recovered. Order of an end: hand over leadership, refuse new work, answer what was taken, end the streams, stop the log, last
checkpoint, close.

A single node leads from start to end. A node of a cluster serves clients while it leads (leadership.py), and administration
always.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import random
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

import structlog
import uvloop

from metaserver import health
from metaserver.admin import AdminService
from metaserver.applier import Applier
from metaserver.barrier import NoQuorum
from metaserver.cluster_admin import ClusterAdmin
from metaserver.command_line import parse
from metaserver.config import EXIT_ADDRESS, EXIT_CONFIG, EXIT_CORRUPT, EXIT_DATA, EXIT_FAILURE, ServerConfig, ServerError
from metaserver.health import Health
from metaserver.leadership import Leadership
from metaserver.observed import ObservedState
from metaserver.ports import Ports, Ready
from metaserver.reign import Realm
from metaserver.replication import NodeState, Replication, replication_for
from metaserver.self_verification import SelfVerification
from metaserver.service import MetaService
from metaserver.status import Status
from metaserver.store.checkpointer import Checkpointer
from metaserver.store.errors import StoreCorrupt, StoreError, StoreVersion
from metaserver.store.layered import LayeredStore
from raft.errors import Diverged, LogCorrupt, ReplicationError
from raft.membership import Member

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from raft.api import ClusterControl, StateMachine

_log = structlog.get_logger(__name__)

#: How long the loop may keep a thread that has finished a sync from saying so. Python's default, 5 ms, is several syncs.
SWITCH_INTERVAL_S: Final = 0.0005


def _explain(error: Exception, config: ServerConfig) -> ServerError:
    """What went wrong below, in one line for the operator."""
    match error:
        case ServerError():
            return error
        case LogCorrupt() | StoreCorrupt() | StoreVersion():
            return ServerError(f"the data in {config.data_dir} cannot be used: {error}", EXIT_CORRUPT)
        case Diverged():
            advice = "remove it from the cluster and add it anew, with an empty directory"
            return ServerError(f"this node must not go on: {error}; {advice}", EXIT_CORRUPT)
        case StoreError():
            return ServerError(f"the data directory cannot be used: {error}", EXIT_DATA)
        case OSError() if error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
            where = config.peer_listen
            return ServerError(f"cannot listen on {where} (--peer): {error.strerror or error}", EXIT_ADDRESS)
        case OSError() if error.errno in (errno.EBUSY, errno.EAGAIN):
            return ServerError(f"the data directory {config.data_dir} is in use by another server", EXIT_DATA)
        case OSError():
            name = error.filename or config.data_dir
            return ServerError(f"the data directory cannot be used: {name}: {error.strerror or error}", EXIT_DATA)
        case _:
            return ServerError(f"the server failed: {type(error).__name__}: {error}", EXIT_FAILURE)


class Server:
    """Everything of one running server. `start`, then `wait`, then `stop`, which is to be called in any case."""

    def __init__(
        self,
        config: ServerConfig,
        clock: Callable[[], float] = time.monotonic,
        *,
        make_replication: Callable[[ServerConfig, StateMachine], Replication] = replication_for,
    ) -> None:
        config.validate()
        self.config = config
        self._clock = clock
        self._end: asyncio.Future[ServerError | None] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []
        self._status: Status | None = None
        self._recovered = False
        self._role_change = asyncio.Event()
        self._ready = Ready("", "")
        self._store = store = self._open_store()
        self._checkpointer = Checkpointer(store, on_durable=self._on_durable, on_failed=self._fatal)
        self._applier = Applier(store, paused=self._checkpointer.paused, overloaded=lambda: self._checkpointer.overloaded)
        self._state = ObservedState(self._applier, on_applied=self._checkpointer.nudge)
        self._replicator, self._cluster = make_replication(config, self._state)
        self._leadership = Leadership(self._realm(), self._state, self._applier, self._cluster, config.name, self._role_changed)
        self._verification: SelfVerification | None = None
        if self._cluster is not None:
            self._cluster.on_leading = self._leadership.switch
            self._verification = self._self_verification(self._cluster)
        self._meta = MetaService(self._leadership.current, self._fatal)
        self._health = Health()
        self._ports = Ports(config, self._meta, self._make_admin(), self._health.answers)

    def _open_store(self) -> LayeredStore:
        directory = self.config.data_dir
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return LayeredStore.open(directory / "state", map_bytes=self.config.map_bytes)

    def _realm(self) -> Realm:
        return Realm(
            config=self.config,
            store=self._store,
            replicator=self._replicator,
            pressure=self._checkpointer,
            clock=self._clock,
            on_fatal=self._fatal,
            in_cluster=self._cluster is not None,
            store_full=lambda: self._checkpointer.full_reason,
            log_low=lambda: self._replicator.space_low,
            addresses=self._addresses,
        )

    def _self_verification(self, cluster: ClusterControl) -> SelfVerification:
        config = self.config
        made = SelfVerification(
            self._applier,
            cluster,
            config.name,
            lambda: self._leadership.reign is not None,
            random.Random(),
            config.verify_interval_s,
        )
        self._state.on_marked = made.marked
        return made

    def _make_admin(self) -> AdminService:
        cluster = ClusterAdmin(
            cluster=self._cluster,
            replicator=self._replicator,
            local=NodeState(self.config.data_dir, self._applier, self._cluster, lambda: self._replicator.identity),
            cluster_id=lambda: self._replicator.identity.cluster_id,
            name=self.config.name,
            single=self._single,
        )
        return AdminService(
            txn=self._store,
            reign=lambda: self._leadership.reign,
            leader=lambda: self._leadership.leader,
            cluster=cluster,
            status=lambda: self._status,
            checkpoint=self._checkpointer.checkpoint_now,
            current=self._current_state,
        )

    # --- life ---

    async def start(self) -> Ready:
        """Take the ports, recover, serve. Raises what `_explain` understands."""
        await self._health.tell(clients=False, admin=False)
        self._ready = ready = await self._ports.start()
        self._checkpointer.start()
        await self._replicator.start()
        self._recovered = True
        store, identity = self._store, self._replicator.identity
        self._status = Status(
            txn=store,
            files=store,
            index_durable=lambda: store.index_durable,
            replicator=self._replicator,
            reign=lambda: self._leadership.reign,
            leader=lambda: self._leadership.leader,
            clock=self._clock,
            cluster_id=identity.cluster_id,
            node_id=identity.node_id,
            name=self.config.name,
        )
        self._check_seat()
        self._leadership.open()
        if self._cluster is None:
            self._leadership.switch(True)
        self._start_task(self._watch_log, "log")
        self._start_task(self._watch_health, "health")
        if self._verification is not None and self.config.verify_interval_s:
            self._start_task(self._verification.run, "self-verification")
        await self._tell_health()
        _log.info("serving", listen=ready.listen, admin=ready.admin, data=str(self.config.data_dir))
        return ready

    def _check_seat(self) -> None:
        """Whether the cluster knows this directory as what the config says. Raises ServerError."""
        if self._cluster is None:
            return
        config, node_id = self.config, self._replicator.identity.node_id
        for member in self._cluster.membership.members:
            if member.incarnation != node_id:
                continue
            if member.name != config.name:
                raise ServerError(f"{config.data_dir} is node {member.name!r} of its cluster, not {config.name!r}", EXIT_CONFIG)
            told = config.advertise_client or self._ready.listen
            if member.client != told:
                _log.warning("clients are sent to another address than this node's", sent_to=member.client, own=told)

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
        await self._health.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._recovered and not failed:
            await self._hand_over()
            await self._answer_what_was_taken()
        self._leadership.close()
        await self._leadership.stopped()
        await self._ports.stop(self.config.stop_grace_s)
        if self._recovered:
            await self._replicator.stop()
        if self._verification is not None:
            await self._verification.close()
        await self._applier.close()
        await self._checkpointer.close()
        self._store.close()
        _log.info("stopped", data=str(self.config.data_dir))

    async def _hand_over(self) -> None:
        """A leader that stops lets another node lead first, so that nobody waits for an election."""
        if self._cluster is None or self._leadership.reign is None or len(self._cluster.membership.voters) < 2:
            return
        try:
            async with asyncio.timeout(self.config.transfer_s):
                name = await self._cluster.transfer("")
            _log.info("leadership was handed over", to=name)
        except (ReplicationError, TimeoutError) as error:
            _log.warning("leadership could not be handed over; the others will elect", reason=str(error) or "no answer in time")

    async def _answer_what_was_taken(self) -> None:
        reign = self._leadership.reign
        if reign is not None:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(reign.writes.stop(), self.config.stop_grace_s)

    # --- what the parts ask ---

    def _addresses(self) -> list[str]:
        """Where clients find the nodes of the cluster; none on a single node, whose address they know."""
        return [member.client for member in self._cluster.membership.members] if self._cluster is not None else []

    def _single(self) -> Member:
        """A node without a cluster, as if it were one's only member."""
        config, node_id = self.config, self._replicator.identity.node_id
        client, admin = config.advertise_client or self._ready.listen, config.advertise_admin or self._ready.admin
        return Member(config.name or "single", node_id, config.advertise_peer, client, admin)

    async def _current_state(self) -> None:
        """Return when the state holds everything acknowledged before. Raises ReplicationError."""
        try:
            async with asyncio.timeout(self.config.wait_max_s):
                await self._replicator.read_barrier()
        except TimeoutError as error:
            raise NoQuorum(f"no majority of the cluster has answered for {self.config.wait_max_s:g} s") from error

    # --- what runs beside ---

    def _start_task(self, body: Callable[[], Awaitable[None]], name: str) -> None:
        async def guarded() -> None:
            try:
                await body()
            except Exception as error:
                self._fatal(error)

        self._tasks.append(asyncio.create_task(guarded(), name=name))

    async def _watch_log(self) -> None:
        raise await asyncio.shield(self._replicator.failed)

    async def _watch_health(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(health.INTERVAL_S):
                    await self._role_change.wait()
            self._role_change.clear()
            await self._tell_health()

    async def _tell_health(self) -> None:
        await self._health.tell(clients=self._leadership.reign is not None, admin=health.is_close(self._replicator.status()))

    def _role_changed(self) -> None:
        self._role_change.set()

    def _on_durable(self, index: int) -> None:
        if self._recovered:
            self._replicator.trim(index)

    def _fatal(self, error: BaseException) -> None:
        """The server cannot go on."""
        if self._end.done():
            return
        if not isinstance(error, ServerError | StoreError | ReplicationError | OSError):
            _log.error("a defect or damage stops the server", exc_info=error)
        self._end.set_result(_explain(error if isinstance(error, Exception) else RuntimeError(repr(error)), self.config))


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
    """See command_line.py."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        config, ready_fd = parse(argv)
        return serve(config, _announce(ready_fd))
    except ServerError as error:
        print(f"metaserver: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
