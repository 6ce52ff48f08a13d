"""Three etcd nodes on loopback, and puts to their leader: what a replicated log costs that is written in Go.

The load is h2load speaking gRPC: etcdserverpb.KV/Put with one key and a value of 128 bytes, one request at a time from each
of 1, 16 and 64 connections. gRPC's failures are no HTTP failures: what was put is known from the revision, which every put
raises by one. etcd talks plain text here, KeelFS mutual TLS; both fsync on a majority before they answer, on the same disk.

Needs Debian's etcd-server (3.4) and nghttp2-client.
"""

from __future__ import annotations

import json
import resource
import shutil
import urllib.request
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.engine import LOADS, Load, scaled
from bench.limits import percentiles
from bench.nodes import LEADER
from bench.processes import Usage
from bench.programs import BenchError, run, spawn, stop, wait_until
from keelfs.embedded import free_ports

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

KEY, VALUE_BYTES = b"bench", 128
_PACKAGES = {"etcd": "etcd-server", "h2load": "nghttp2-client"}
_REQUEST_TIMEOUT_S = 5.0


class _Node(NamedTuple):
    name: str
    client: int  # port
    peer: int


class Etcd3:
    """The three processes. `start`, and `stop` at the end in any case."""

    name = "etcd3"

    def __init__(self, home: Path) -> None:
        self._home = home / self.name
        self._nodes: list[_Node] = []
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        require()
        self._home.mkdir(parents=True)
        self._nodes = [_Node(f"e{number}", port, port + 1) for number, port in enumerate(free_ports(3, 2), 1)]
        members = ",".join(f"{node.name}=http://127.0.0.1:{node.peer}" for node in self._nodes)
        for node in self._nodes:
            client, peer = f"http://127.0.0.1:{node.client}", f"http://127.0.0.1:{node.peer}"
            command = ["etcd", "--name", node.name, "--data-dir", str(self._home / node.name)]
            command += ["--listen-client-urls", client, "--advertise-client-urls", client]
            command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
            command += ["--initial-cluster", members, "--initial-cluster-state", "new", "--logger=zap", "--log-level=error"]
            self._children[node.name] = spawn(command, self._home / f"{node.name}.log")
        wait_until(lambda: self._leader() is not None, "etcd has no leader", self._home / "e1.log")

    def stop(self) -> None:
        stop(list(self._children.values()))
        self._children.clear()
        shutil.rmtree(self._home, ignore_errors=True)

    def pids(self) -> dict[str, int]:
        """By role, as those of KeelFS's nodes."""
        leader = self.leader().name
        return {LEADER if name == leader else name: child.pid for name, child in self._children.items()}

    def peer_ports(self) -> list[int]:
        return [node.peer for node in self._nodes]

    def leader(self) -> _Node:
        """Raises BenchError."""
        found = self._leader()
        if found is None:
            raise BenchError("etcd has lost its leader; the machine is too busy for a measurement")
        return found

    def revision(self) -> int:
        """How many changes were made, more or less one."""
        answer = self._status(self.leader())
        assert answer is not None
        return int(answer["header"]["revision"])

    def _leader(self) -> _Node | None:
        for node in self._nodes:
            answer = self._status(node)
            if answer is not None and answer.get("leader", "0") == answer["header"]["member_id"]:
                return node
        return None

    def _status(self, node: _Node) -> dict[str, Any] | None:
        """etcdserverpb.Maintenance/Status through etcd's JSON gateway; None when it does not answer."""
        request = urllib.request.Request(f"http://127.0.0.1:{node.client}/v3/maintenance/status", b"{}")
        try:
            with urllib.request.urlopen(request, timeout=_REQUEST_TIMEOUT_S) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except OSError:  # URLError is one
            return None


def require() -> None:
    """Raises BenchError that names the packages which are missing."""
    missing = [package for program, package in _PACKAGES.items() if shutil.which(program) is None]
    if missing:
        raise BenchError(f"the comparison with etcd needs: apt-get install {' '.join(missing)}")


def put_body() -> bytes:
    """One gRPC message (flag byte, length) of etcdserverpb.PutRequest: key = field 1, value = field 2 (etcd's rpc.proto)."""
    value = bytes(VALUE_BYTES)
    length = bytes([VALUE_BYTES & 0x7F | 0x80, VALUE_BYTES >> 7])  # protobuf's base-128: two digits
    message = b"\x0a" + bytes([len(KEY)]) + KEY + b"\x12" + length + value
    return b"\x00" + len(message).to_bytes(4, "big") + message


def measure(etcd: Etcd3, round_number: int, home: Path, scale: float = 1.0) -> Iterator[dict[str, Any]]:
    """A row a load, of the same shape as the engine's."""
    body = home / "etcd-put"
    body.write_bytes(put_body())
    warm_up = scaled(1000, scale, 16)
    _put(etcd, home, body, Load(16, warm_up))
    pids = etcd.pids()
    for full in LOADS:
        load = Load(full.in_flight, scaled(full.count, scale, 2 * full.in_flight))
        revision, before, client_s = etcd.revision(), Usage.now(pids, etcd.peer_ports(), home), _children_cpu_s()
        seconds, latencies = _put(etcd, home, body, load)
        client_s = _children_cpu_s() - client_s
        after, put = Usage.now(pids, etcd.peer_ports(), home), etcd.revision() - revision
        yield {
            "part": "engine",
            "system": etcd.name,
            "round": round_number,
            "op": "put",
            "in_flight": load.in_flight,
            "ops": load.count,
            "ops_s": load.count / seconds,
            "errors": abs(load.count - put),
            **percentiles(latencies),
            **before.per_op(after, load.count, client_s, seconds),
        }


def _put(etcd: Etcd3, home: Path, body: Path, load: Load) -> tuple[float, list[float]]:
    """Seconds of all puts, and of each."""
    log = home / "h2load.tsv"
    log.unlink(missing_ok=True)
    url = f"http://127.0.0.1:{etcd.leader().client}/etcdserverpb.KV/Put"
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    clients = [f"--clients={load.in_flight}", f"--requests={load.count}", "--max-concurrent-streams=1"]
    run(["h2load", *clients, *headers, f"--data={body}", f"--log-file={log}", url])
    return h2load_times(log.read_text())


def h2load_times(log: str) -> tuple[float, list[float]]:
    """From its log: seconds from the first request's start to the last one's end, and of each request. Raises BenchError."""
    spans = [tuple(map(int, row.split("\t")[:3])) for row in log.splitlines()]  # start, status, duration; microseconds
    if not spans or any(status != 200 for _, status, _ in spans):
        raise BenchError("etcd does not answer h2load's requests")
    first, last = min(start for start, _, _ in spans), max(start + took for start, _, took in spans)
    return (last - first) / 1e6, [took / 1e6 for _, _, took in spans]


def _children_cpu_s() -> float:
    """Of h2load, and of `ss`, which is nothing beside it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
