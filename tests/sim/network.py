"""The network between nodes: one connection per pair, and everything that may happen to it.

A connection is FIFO and delivers each message at most once, as TCP does. It is made when both ends run, can hear each other,
and each takes the other for a member (the handshake of the real transport); it breaks by chance, with one of its processes, or
when nothing has come through for `KEEPALIVE_S`, and then what was under way is lost. A partition loses messages in one
direction or both and says so to nobody. Beside that, a message may be doubled and arrive again at any time later, even over the
next connection: no answer may be believed just because it comes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING

from tests.raft.faulty_disk import PowerLoss

if TYPE_CHECKING:
    from collections.abc import Callable

    from raft.messages import Message
    from tests.sim.process import Process
    from tests.sim.world import World

KEEPALIVE_S = 1.5
RECONNECT_S = (0.02, 0.4)


@dataclass(frozen=True, slots=True)
class Weather:
    """What chance does to messages. Seconds and probabilities."""

    delay_s: tuple[float, float] = (0.0002, 0.002)
    slow: float = 0.0  # of a message that takes up to `slow_s`, and holds up all behind it
    slow_s: float = 0.4
    refuse: float = 0.0  # `send` gives False: its queue is full
    doubled: float = 0.0
    breaks: float = 0.0  # of the connection, per message


CALM = Weather()


@dataclass(slots=True, eq=False)
class Connection:
    ends: dict[str, Process]
    made_at: float
    up: bool = True
    last_words: str = ""  # of a dead process: what it had sent still arrives
    clear_at: dict[str, float] = field(default_factory=dict)  # by sender: when its last message arrives
    heard_at: dict[str, float] = field(default_factory=dict)  # by receiver


@dataclass
class Network:
    world: World
    weather: Weather = CALM
    cut: set[tuple[str, str]] = field(default_factory=set)  # (sender, receiver)
    watch: Callable[[str, str, Message], bool] = field(default=lambda *_: True)  # of every message sent; False loses it
    running: dict[str, Process] = field(default_factory=dict)
    _connections: dict[tuple[str, str], Connection] = field(default_factory=dict)
    _unaware: list[tuple[Process, str, Connection]] = field(
        default_factory=list
    )  # ends that do not know yet that theirs is broken

    def __post_init__(self) -> None:
        self._rng = self.world.rng("network")
        self.world.after(0.0, self._look_after_connections)

    # -- faults --------------------------------------------------------------------------------------------------------------

    def partition(self, *groups: str | list[str]) -> None:
        """Only nodes of one group hear each other; none: everybody everybody."""
        sides = [frozenset(group) for group in groups]
        self.cut = {(a, b) for side in sides for other in sides if side != other for a in side for b in other}

    def isolate(self, name: str) -> None:
        self.cut |= {pair for other in self.running if other != name for pair in ((name, other), (other, name))}

    def heal(self) -> None:
        self.cut.clear()

    def break_connection(self, a: str, b: str, *, within_s: float = 0.002, dead: str = "") -> None:
        """Both ends notice, each within this time, or when they are connected anew. What was under way is lost, but for that
        of a process that has just died: its kernel still sends it."""
        connection = self._connections.pop(_pair(a, b), None)
        if connection is None:
            return
        connection.up = False
        connection.last_words = dead
        self.world.trace(f"net: {a} and {b} are disconnected")
        wait = max(connection.clear_at.get(dead, 0.0) - self.world.now, 0.0)
        for end, other in ((a, b), (b, a)):
            process = connection.ends[end]
            if process.alive:
                self._unaware.append((process, other, connection))
                after = wait + self._rng.random() * within_s
                self.world.after(after, lambda p=process, o=other: self._notice(p, o))  # type: ignore[misc]

    # -- what processes do ---------------------------------------------------------------------------------------------------

    def up(self, process: Process) -> None:
        self.running[process.name] = process

    def down(self, process: Process, *, silently: bool) -> None:
        """The process is gone: the kernel closes its connections, or a dead machine leaves that to keepalive."""
        if self.running.get(process.name) is process:
            del self.running[process.name]
        for a, b in [pair for pair, connection in self._connections.items() if process in connection.ends.values()]:
            self.break_connection(a, b, within_s=KEEPALIVE_S if silently else 0.002, dead=process.name)

    def send(self, sender: Process, name: str, message: Message) -> bool:
        connection = self._connections.get(_pair(sender.name, name))
        if connection is None or connection.ends[sender.name] is not sender:
            return False
        rng, weather, world = self._rng, self.weather, self.world
        if weather.refuse and rng.random() < weather.refuse:
            return False
        if not self.watch(sender.name, name, message) or (sender.name, name) in self.cut:
            return True
        low, high = weather.delay_s
        delay = low + (high - low) * rng.random()
        if weather.slow and rng.random() < weather.slow:
            delay += rng.random() * weather.slow_s
        at = max(world.now + delay, connection.clear_at.get(sender.name, 0.0))
        connection.clear_at[sender.name] = at
        world.after(at - world.now, lambda: self._arrive(connection, sender, name, message))
        if weather.doubled and rng.random() < weather.doubled:
            receiver = connection.ends[name]
            world.after(delay + rng.random() ** 3 * 5.0, lambda: self._arrive_again(sender, receiver, message))
        if weather.breaks and rng.random() < weather.breaks:
            world.after(delay * rng.random(), lambda: self._break_if_same(connection, sender.name, name))
        return True

    def is_clear(self, a: str, b: str) -> bool:
        """They are connected, and hear each other."""
        return _pair(a, b) in self._connections and not {(a, b), (b, a)} & self.cut

    # -- events --------------------------------------------------------------------------------------------------------------

    def _arrive(self, connection: Connection, sender: Process, name: str, message: Message) -> None:
        receiver = connection.ends[name]
        if not (connection.up or connection.last_words == sender.name) or not receiver.alive or (sender.name, name) in self.cut:
            return
        connection.heard_at[name] = self.world.now
        receiver.on_message(sender.name, message)

    def _arrive_again(self, sender: Process, receiver: Process, message: Message) -> None:
        if receiver.alive and (sender.name, receiver.name) not in self.cut:
            self.world.trace(f"net: a {type(message).__name__} from {sender.name} arrives at {receiver.name} once more")
            receiver.on_message(sender.name, message)

    def _notice(self, process: Process, other: str) -> None:
        for unaware in [each for each in self._unaware if each[:2] == (process, other)]:
            self._unaware.remove(unaware)
            unaware[2].last_words = ""
            if process.alive:
                process.on_disconnected(other)

    def _break_if_same(self, connection: Connection, a: str, b: str) -> None:
        if self._connections.get(_pair(a, b)) is connection:
            self.break_connection(a, b)

    def _look_after_connections(self) -> None:
        """What keepalive and redialling do."""
        now = self.world.now
        for a, b in combinations(sorted(self.running), 2):
            one, other = self.running[a], self.running[b]
            connection = self._connections.get((a, b))
            deaf = (a, b) in self.cut or (b, a) in self.cut
            if connection is None:
                if not deaf and not one.paused and not other.paused and self._rng.random() < 0.5:
                    self._connect(one, other)
            elif not one.still_admits(other) or not other.still_admits(one):
                self.break_connection(a, b)
            elif not deaf and not one.paused and not other.paused:
                connection.made_at = now  # pings come through
            elif now - connection.made_at > KEEPALIVE_S:
                self.break_connection(a, b)
        self.world.after(self._rng.uniform(*RECONNECT_S), self._look_after_connections)

    def _connect(self, one: Process, other: Process) -> None:
        try:
            if not one.admits(other) or not other.admits(one):
                return
        except PowerLoss:
            return  # of the one whose disk was told of the other; its next step meets it too
        self.world.trace(f"net: {one.name} and {other.name} are connected")
        self._connections[_pair(one.name, other.name)] = Connection({one.name: one, other.name: other}, self.world.now)
        for end, name in ((one, other.name), (other, one.name)):
            self._notice(end, name)
            end.on_connected(name)


def _pair(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a < b else (b, a)
