"""A TCP line that a test can cut: between a mount and its server, or its object store."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Self

from tests.integration.object_servers import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class Proxy:
    """Passes TCP connections on to a port, of this machine unless said otherwise, until it is switched off. A peer that is
    `muted` is heard of no more, while what is sent to it still arrives; what it says meanwhile is lost, so the connections have
    to be cut then."""

    def __init__(self, target: int, host: str = "127.0.0.1", enter: Callable[[], None] = lambda: None) -> None:
        """`enter` is called on the thread that will connect to the target: it may take that to another network."""
        self._target = host, target
        self._enter = enter
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._serving: list[threading.Thread] = []
        self._accepting: tuple[socket.socket, threading.Thread] | None = None
        self.muted = False
        self.port = free_port()
        self.on()

    def on(self) -> None:
        """Take connections."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(128)
        self._accepting = listener, threading.Thread(target=self._accept, args=(listener,), daemon=True)
        self._accepting[1].start()

    def off(self) -> None:
        """Refuse connections, and cut those that exist."""
        accepting, self._accepting = self._accepting, None
        if accepting is not None:
            _cut(accepting[0])
            accepting[1].join()
        with self._lock:
            for one in self._open:
                _cut(one)
        for thread in self._serving:
            thread.join()
        self._serving.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.off()

    def _accept(self, listener: socket.socket) -> None:
        self._enter()
        with listener:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                try:
                    server = socket.create_connection(self._target)
                except OSError:
                    client.close()
                    continue
                with self._lock:
                    self._open |= {client, server}
                thread = threading.Thread(target=self._serve, args=(client, server), daemon=True)
                self._serving.append(thread)
                thread.start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        back = threading.Thread(target=self._pump, args=(server, client, True), daemon=True)
        back.start()
        self._pump(client, server, False)
        back.join()
        with self._lock:
            self._open -= {client, server}
            client.close()
            server.close()

    def _pump(self, source: socket.socket, target: socket.socket, mutable: bool) -> None:
        """Pass bytes on until either end is gone; then both are cut."""
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                if not (mutable and self.muted):
                    target.sendall(data)
        _cut(source)
        _cut(target)


def _cut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
