"""The lines between this node and the other members: one connection per pair, kept up as long as both belong.

What consensus may rely on:
- `on_connected(name)` and `on_disconnected(name)` alternate, and messages of `name` come only between them.
- Between them messages come in the order of `send`, each once at most. Across them nothing is promised: what was on its way
  when a connection ended is lost.
- `send` never blocks and never calls back. What it takes has left for the network when it returns, if the network takes it.
- Who is at the other end was proven: by a certificate of the cluster's CA that names the node, by the cluster's id, the disk's
  incarnation, and by what this node remembers of that disk (peer_admission.py, peer_book.py).

Which of two connections of a pair stays is the lower name's decision, told by the serial in its Welcome; so both sides keep the
same one, whoever called, and a connection that one side has forgotten is replaced by the first new one.

Everything runs on one event loop, the raft thread's. Callers decide whether to run without TLS (`tls` None). The simulator
replaces this class as a whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from raft import messages as m
from raft.certificates import CertificateError, Principal
from raft.notices import Notices
from raft.peer_admission import Circumstances, Reason, belongs, judge, memory_of
from raft.peer_connection import ConnectionLimits, PeerConnection, State
from raft.peer_dialer import DialTiming, PeerDialer
from raft.peer_wire import Hello, Refusal, encode
from raft.tls import Contexts, TlsFiles, own_principal

if TYPE_CHECKING:
    import random
    import ssl
    from collections.abc import Callable

    from raft.identity import Identity
    from raft.membership import Membership
    from raft.messages import Message
    from raft.peer_book import PeerBook

log = logging.getLogger(__name__)

_KEPT_BYTES_MAX: Final = 1 << 20
_DETAIL_MAX: Final = 400
_CLOSING_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class HelloState:
    """How far this node's disk has come; all of it durable."""

    term: int
    last_index: int
    last_term: int


@dataclass(frozen=True, slots=True)
class PeerLimits:
    connection: ConnectionLimits = field(default_factory=ConnectionLimits)
    dialing: DialTiming = field(default_factory=DialTiming)
    strangers_max: int = 64  # accepted connections whose handshake is not complete
    ping_s: float = 1.0  # of silence, then we ask
    silence_s: float = 3.0  # of silence, then it is dead
    book_save_s: float = 30.0


@dataclass(slots=True)
class PeerCounters:
    """For metrics; they only grow."""

    messages_sent: int = 0
    messages_received: int = 0
    messages_dropped: int = 0
    bytes_sent: int = 0  # with TLS and TCP's payload; of connections that are over
    bytes_received: int = 0
    connections: int = 0
    refusals: int = 0  # of others by us


def _nothing(peer: str, reason: str, detail: str) -> None:
    pass


class PeerTransport:
    """Made and used on the raft thread's loop. Raises CertificateError when the TLS files are no good for this node."""

    def __init__(
        self,
        *,
        identity: Identity,
        name: str,
        listen: str,
        tls: TlsFiles | None,
        membership: Callable[[], Membership],
        hello: Callable[[], HelloState],
        book: PeerBook,
        on_message: Callable[[str, Message], None],
        on_connected: Callable[[str], None],
        on_disconnected: Callable[[str], None],
        clock: Callable[[], float],
        rng: random.Random,
        limits: PeerLimits | None = None,
        on_refused: Callable[[str, str, str], None] = _nothing,
    ) -> None:
        """`on_refused(peer, reason, detail)`: a node of the cluster does not want us; peer_admission.Reason has the words."""
        if tls is not None and (own := own_principal(tls)) != Principal("node", name):
            raise CertificateError(f"{tls.cert}: it is the certificate of {own}; node {name} needs one of its own")
        self.counters = PeerCounters()
        self.refused_by: dict[str, Refusal] = {}  # nodes that do not want us, until they do
        self._identity = identity
        self._name = name
        self._listen = listen
        self._contexts = Contexts(tls) if tls is not None else None
        self._membership = membership
        self._state = hello
        self._book = book
        self._on_message = on_message
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._on_refused = on_refused
        self._clock = clock
        self._rng = rng
        self._limits = limits or PeerLimits()
        self._notices = Notices(clock)
        self._serials = itertools.count(1)
        self._pings = itertools.count(1)
        self._open: dict[str, PeerConnection] = {}
        self._all: set[PeerConnection] = set()
        self._none_left = asyncio.Event()
        self._none_left.set()
        self._calls: dict[PeerConnection, asyncio.Future[None]] = {}  # under way; done when it is open or over
        self._strangers: dict[PeerConnection, None] = {}  # the oldest first
        self._dialers: dict[str, PeerDialer] = {}
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ticked_at = clock()
        self._saved_at = clock()
        self._closing = False
        self._kept: tuple[Message, bytes] | None = None

    # -- what consensus uses -----------------------------------------------------------------------------------------------

    async def start(self) -> str:
        """Listen and call the members; the address that is listened at. Raises OSError."""
        self._loop = loop = asyncio.get_running_loop()
        host, port = split_address(self._listen)
        self._server = await loop.create_server(self._accept, host or None, port)
        bound = self._server.sockets[0].getsockname()
        self._ticked_at = self._saved_at = self._clock()
        self._timer = loop.call_later(self._limits.ping_s / 2, self._tick)
        self.reconcile()
        return join_address(bound[0], bound[1])

    def send(self, name: str, message: Message) -> bool:
        """True when it is on its way. False: it was dropped, for there is no connection or its queue is full. Raises WireError
        for what cannot be a message."""
        connection = self._open.get(name)
        if connection is None or not connection.send(self._encode(message)):
            self.counters.messages_dropped += 1
            return False
        self.counters.messages_sent += 1
        return True

    def connected(self) -> frozenset[str]:
        return frozenset(self._open)

    def reconcile(self) -> None:
        """The membership has changed: call new members, drop those that no longer belong."""
        membership = self._membership()
        wanted = self._others(membership)
        for name in self._dialers.keys() - wanted:
            self._dialers.pop(name).stop()
        for name in sorted(wanted - self._dialers.keys()):
            self._dialers[name] = PeerDialer(
                lambda name=name: self._call(name),  # type: ignore[misc]  # mypy cannot infer a lambda with a default
                self._limits.dialing,
                self._rng,
                patient=name < self._name,
                connected=name in self._open,
            )
        for name, connection in list(self._open.items()):
            hello = connection.hello
            assert hello is not None
            if not belongs(name, hello.incarnation, hello.membership_index, membership):
                connection.refuse(Refusal(Reason.NOT_MEMBER, f"{name} is no longer a member of the cluster"))

    async def close(self) -> None:
        """Send what waits, for a second at most, and end everything. Nothing is called back any more."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        dialers = list(self._dialers.values())
        self._dialers.clear()
        for dialer in dialers:
            dialer.stop()
        if self._server is not None:
            self._server.close()
        for connection in list(self._all):
            connection.close("this node is shutting down")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._none_left.wait(), _CLOSING_S)
        for connection in list(self._all):
            connection.abort("this node is shutting down")
        await self._none_left.wait()
        for dialer in dialers:
            await dialer.stopped()
        self._book.save()

    # -- connections -------------------------------------------------------------------------------------------------------

    def _others(self, membership: Membership) -> set[str]:
        """Whom to call: nobody while this node is not a member itself, for it does not know the true ones."""
        if self._closing or self._name not in membership:
            return set()
        return {member.name for member in membership.members} - {self._name}

    def _accept(self) -> PeerConnection:
        return self._connection(None, self._contexts.server() if self._contexts is not None else None)

    def _connection(self, dialed: str | None, context: ssl.SSLContext | None) -> PeerConnection:
        return PeerConnection(
            self, name=self._name, dialed=dialed, context=context, limits=self._limits.connection, clock=self._clock
        )

    async def _call(self, name: str) -> None:
        """One attempt to reach a member; returns when its outcome is known."""
        member = self._membership().get(name)
        if member is None or self._closing:
            return
        connection = self._connection(name, self._contexts.client() if self._contexts is not None else None)
        outcome = self._calls[connection] = self._loop.create_future()
        try:
            host, port = split_address(member.peer)
            async with asyncio.timeout(self._limits.connection.handshake_s):
                await self._loop.create_connection(lambda: connection, host, port)
            await outcome
        except (OSError, ValueError) as error:  # TimeoutError is an OSError, a name that cannot be resolved a ValueError
            if self._notices.due("unreachable", name):
                log.info("node %s cannot be reached at %s: %s", name, member.peer, str(error) or "it does not answer")
        finally:
            del self._calls[connection]
            if connection.state is not State.OPEN:
                connection.abort("given up")

    def _settled(self, connection: PeerConnection) -> None:
        outcome = self._calls.get(connection)
        if outcome is not None and not outcome.done():
            outcome.set_result(None)

    def _gone(self, name: str) -> None:
        """Nothing comes from the connection in use any more, and nothing goes there."""
        connection = self._open.pop(name)
        if self._closing:
            return
        log.info("the connection to node %s is over: %s", name, connection.why)
        if name in self._dialers:
            self._dialers[name].disconnected()
        self._on_disconnected(name)

    # -- raft.peer_connection.Owner ----------------------------------------------------------------------------------------

    def hello(self) -> Hello:
        state, book, identity = self._state(), self._book, self._identity
        return Hello(
            cluster_id=identity.cluster_id,
            name=self._name,
            incarnation=identity.node_id,
            start=book.start,
            start_nonce=book.nonce,
            term=state.term,
            last_index=state.last_index,
            last_term=state.last_term,
            membership_index=self._membership().index,
        )

    def made(self, connection: PeerConnection) -> None:
        """Of strangers, the oldest makes room: who means well needs milliseconds, who does not can wait for ever."""
        self._all.add(connection)
        self._none_left.clear()
        if self._closing:
            connection.abort("this node is shutting down")
        elif connection.dialed is None:
            self._strangers[connection] = None
            if len(self._strangers) > self._limits.strangers_max:
                oldest = next(iter(self._strangers))
                del self._strangers[oldest]
                oldest.abort("too many connections wait for their handshake")

    def judge(self, connection: PeerConnection, hello: Hello) -> Refusal | None:
        membership = self._membership()
        here = Circumstances(self._identity.cluster_id, self._name, membership, connection.dialed, connection.proven)
        refusal = judge(hello, here, self._book)
        if refusal is None:
            self._book.met(hello.name, memory_of(hello))
        return refusal

    def next_serial(self) -> int:
        return next(self._serials)

    def opened(self, connection: PeerConnection) -> None:
        hello = connection.hello
        assert hello is not None
        name = hello.name
        old = self._open.get(name)
        if old is not None:
            if _rank(connection) < _rank(old):
                connection.abort("a newer connection is in use")
                return
            old.abort("a newer connection took its place")
            self._gone(name)
        self._strangers.pop(connection, None)
        self._open[name] = connection
        self.counters.connections += 1
        self.refused_by.pop(name, None)
        if name in self._dialers:
            self._dialers[name].connected()
        self._settled(connection)
        log.info("connected to node %s at %s", name, connection.address)
        self._on_connected(name)

    def message(self, connection: PeerConnection, message: Message) -> None:
        hello = connection.hello
        assert hello is not None
        self.counters.messages_received += 1
        self._on_message(hello.name, message)

    def refused(self, connection: PeerConnection, refusal: Refusal) -> None:
        peer = connection.peer
        if peer is None or self._closing:
            return  # somebody without a name, on a line without TLS
        reason, detail = _printable(refusal.reason), _printable(refusal.detail)
        self.refused_by[peer] = Refusal(reason, detail)
        if self._notices.due("refused by", peer, reason):
            log.warning("node %s refused this node (%s): %s", peer, reason, detail)
        self._on_refused(peer, reason, detail)

    def lost(self, connection: PeerConnection) -> None:
        self._all.discard(connection)
        self._strangers.pop(connection, None)
        self.counters.bytes_sent += connection.bytes_out
        self.counters.bytes_received += connection.bytes_in
        self._settled(connection)
        hello = connection.hello
        if hello is not None and self._open.get(hello.name) is connection:
            self._gone(hello.name)
        elif connection.faulted:
            self.counters.refusals += 1
            who = f"node {connection.peer}" if connection.peer is not None else "a connection"
            if self._notices.due("fault", connection.peer or connection.address.rpartition(":")[0], connection.why):
                log.warning("%s at %s was refused: %s", who, connection.address, connection.why)
        if not self._all:
            self._none_left.set()

    # -- time --------------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Ask those that are silent whether they are there, give up those that do not answer."""
        limits, now = self._limits, self._clock()
        self._timer = self._loop.call_later(limits.ping_s / 2, self._tick)
        paused = now - self._ticked_at > limits.ping_s
        self._ticked_at = now
        for connection in list(self._open.values()):
            if paused:  # this process stood still: what came meanwhile has not been read yet
                connection.heard_at = now
            silence = now - connection.heard_at
            if silence >= limits.silence_s:
                connection.abort(f"nothing came for {silence:.1f} s")
            elif silence >= limits.ping_s and now - connection.pinged_at >= limits.ping_s:
                connection.ping(next(self._pings))
        if now - self._saved_at >= limits.book_save_s:
            self._saved_at = now
            self._book.save()

    # -- encoding ----------------------------------------------------------------------------------------------------------

    def _encode(self, message: Message) -> bytes:
        """Entries go to every follower: the bytes of the last Append are kept for the next one's."""
        if not isinstance(message, m.Append) or not message.entries:
            return encode(message)
        if self._kept is not None and self._kept[0] == message:
            return self._kept[1]
        data = encode(message)
        self._kept = (message, data) if len(data) <= _KEPT_BYTES_MAX else None
        return data


def split_address(address: str) -> tuple[str, int]:
    """host:port or [host]:port. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{address[:64]!r} is no host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _rank(connection: PeerConnection) -> tuple[int, int]:
    """The larger one stays: of the later start, and then of the later handshake."""
    assert connection.hello is not None
    return connection.hello.start, connection.serial


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:_DETAIL_MAX])
