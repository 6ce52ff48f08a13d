"""Strangers at every port of real nodes, with a client at work: they are turned away, memory and logs stay bounded, and nobody
else notices. Strangers that show a certificate come from another cluster, are no node, or are another node."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import ssl
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from raft.certificates import CA_NAME, make_all, make_ca, make_node
from raft.tls import TlsFiles
from tests.fuse.cluster import wait_for
from tests.integration import cluster_bench as bench
from tests.integration.cluster_bench import Log, Worker
from tests.integration.node_cluster import OPTIONS, NodeCluster

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(300)

PORTS = ("listen", "admin", "peer")
GROWTH_BYTES = 48 << 20  # of a node's own memory, whatever it is sent
LOG_BYTES = 256 << 10  # of a node's log, however often it is sent it
HALF_OPEN = 300
A_GIB = struct.pack(">I", 1 << 30)
GREETINGS = {
    "random bytes": random.Random(1).randbytes(4096),
    "a prefix of 1 GiB": A_GIB + bytes(1000),
    "a stream's prefix of 1 GiB": b"KEELFS1\n" + A_GIB + bytes(1000),
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100),
    "a TLS record of 16 KiB that never ends": b"\x16\x03\x01\x40\x00" + bytes(100),
}


@pytest.fixture(scope="module")
def cluster(scratch: Path) -> Iterator[NodeCluster]:
    with NodeCluster(Path(tempfile.mkdtemp(dir=scratch)), options=OPTIONS) as running:
        running.start()
        running.healthy()
        yield running


def addresses(cluster: NodeCluster) -> list[tuple[str, str, tuple[str, int]]]:
    """Node, kind of port, address; of a leader and of followers."""
    found = []
    for node in cluster.plan.nodes:
        for kind in PORTS:
            host, _, port = getattr(node, kind).rpartition(":")
            found.append((node.name, kind, (host, int(port))))
    return found


def own_memory(cluster: NodeCluster, name: str) -> int:
    """Bytes that are not of files."""
    status = Path(f"/proc/{cluster.pid_of(name)}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]) * 1024


@contextlib.contextmanager
def unharmed(cluster: NodeCluster) -> Iterator[Worker]:
    """What is done meanwhile costs no node memory, and the client at work nothing."""
    with Worker(cluster, os.urandom(4).hex()) as worker:
        worker.goes_on()
        memory = {name: own_memory(cluster, name) for name in cluster.nodes}
        logs = {name: Log(cluster, name) for name in cluster.nodes}
        leader = cluster.leader()
        yield worker
        worker.goes_on(50)
        for name, before in memory.items():
            assert own_memory(cluster, name) - before < GROWTH_BYTES, name
            assert logs[name].bytes < LOG_BYTES, name
            assert "Traceback" not in logs[name].text
        assert cluster.leader() == leader


def is_over(connection: socket.socket) -> bool:
    """The other side has ended it, perhaps after some words."""
    connection.settimeout(30)
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("greeting", GREETINGS)
def test_bytes_that_nobody_should_send_end_the_connection(cluster: NodeCluster, greeting: str) -> None:
    with unharmed(cluster):
        for name, kind, address in addresses(cluster):
            for _ in range(5):
                with socket.create_connection(address, timeout=10) as connection:
                    with contextlib.suppress(ConnectionError):
                        connection.sendall(GREETINGS[greeting])
                        connection.shutdown(socket.SHUT_WR)
                    assert is_over(connection), (name, kind)


def test_many_connections_that_say_nothing_keep_nobody_out(cluster: NodeCluster) -> None:
    with contextlib.ExitStack() as silent, unharmed(cluster):
        for _, _, address in addresses(cluster)[:3]:
            for _ in range(HALF_OPEN):
                silent.enter_context(socket.create_connection(address, timeout=10))
        cluster.healthy()
        view = cluster.view()
        assert view is not None
        assert view.leader


def refused(address: tuple[str, int], context: ssl.SSLContext) -> bool:
    """No connection comes about; TLS 1.3 says so with the first thing that is read."""
    try:
        with socket.create_connection(address, timeout=10) as plain, context.wrap_socket(plain) as connection:
            connection.settimeout(10)
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"KEELFS1\n")
            return connection.recv(1) == b""
    except (ssl.SSLError, ConnectionError):
        return True


def a_context(ca: Path, files: TlsFiles | None) -> ssl.SSLContext:
    """A client that trusts whom it must, and shows this certificate or none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(ca)
    if files is not None:
        context.load_cert_chain(files.cert, files.key)
    return context


def test_certificates_of_another_cluster_expired_ones_and_none_open_no_port(cluster: NodeCluster, tmp_path: Path) -> None:
    other = tmp_path / "other"
    make_all(other, ["n1"], ["127.0.0.1"], ["admin"])
    ours = cluster.plan.certs / f"{CA_NAME}.crt"
    expired = tmp_path / "expired"
    make_ca(expired, clock=lambda: 0.0)
    make_node(expired, "n1", ("127.0.0.1",), days=1, clock=lambda: 0.0)
    strangers = {
        "another cluster's node": TlsFiles.of(other, "n1"),
        "another cluster's client": TlsFiles.of(other, "admin"),
        "an expired one": TlsFiles.of(expired, "n1"),
        "none": None,
    }
    with unharmed(cluster):
        for name, kind, address in addresses(cluster):
            for who, files in strangers.items():
                assert refused(address, a_context(ours, files)), (who, name, kind)


def test_a_client_and_another_node_are_no_peer(cluster: NodeCluster) -> None:
    """A good certificate of this cluster: its name must be the one that the handshake claims, and a node's."""
    certs = cluster.plan.certs
    ours = certs / f"{CA_NAME}.crt"
    garbage = struct.pack(">I", 64) + random.Random(2).randbytes(64)
    with unharmed(cluster):
        for node in cluster.plan.nodes:
            host, _, port = node.peer.rpartition(":")
            for name in ("admin", "n3"):
                context = a_context(ours, TlsFiles.of(certs, name))
                with (
                    contextlib.suppress(ssl.SSLError, ConnectionError),
                    socket.create_connection((host, int(port)), timeout=10) as plain,
                    context.wrap_socket(plain) as connection,
                ):
                    connection.sendall(garbage)
                    assert is_over(connection), (node.name, name)
        wait_for(lambda: bench.index_of(cluster, "n1") > 0, "an answer")
        cluster.healthy()
