"""The metadata engine alone: one client process drives a server over one stream, every answer fsynced.

    python -m bench.engine [--creates N] [--in-flight N] [--dirs N] [--json]

Starts a server on an empty directory, makes a volume, and sends operations with a fixed number in flight, each in one of the
directories. Reports operations per second, latency, and CPU per operation of both sides: median and best of --repeat rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import uvloop

from protos import admin_pb2, admin_pb2_grpc, meta_pb2
from protos.framing import MAGIC, SERVER_FRAME_BYTES_MAX, Deframer, framed

if TYPE_CHECKING:
    from collections.abc import Iterator

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Outcome:
    """One run of one operation."""

    op: str
    in_flight: int
    ops: int
    ops_per_s: float
    p50_us: float
    p99_us: float
    client_cpu_us: float
    server_cpu_us: float


def cpu_s(pid: int) -> float:
    """User and system time of a process, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


class Server:
    """A server process on a fresh directory."""

    def __init__(self, directory: Path, profile: Path | None) -> None:
        read_fd, write_fd = os.pipe()
        runner = ["-m", "cProfile", "-o", str(profile)] if profile else []
        command = [sys.executable, *runner, "-m", "metaserver.server", "--data", str(directory), "--ready-fd", str(write_fd)]
        self.process = subprocess.Popen(
            [*command, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"], pass_fds=(write_fd,), stderr=subprocess.DEVNULL
        )
        os.close(write_fd)
        with open(read_fd, encoding="ascii") as ready:
            words = ready.readline().split()
        if not words:
            raise SystemExit(f"the server did not start (exit code {self.process.wait()})")
        self.listen, self.admin = words[1], words[2]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


class Client(asyncio.Protocol):
    """The least that speaks the session stream: requests with futures, frames of what has queued up."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._deframer = Deframer(SERVER_FRAME_BYTES_MAX)
        self._transport: asyncio.Transport | None = None
        self._queue: list[meta_pb2.Request] = []
        self._waiting: dict[int, tuple[asyncio.Future[meta_pb2.Response], float]] = {}
        self._attached: asyncio.Future[meta_pb2.Attached] = self._loop.create_future()
        self._next = 0
        self.latencies: list[float] = []
        self.root = 0

    @classmethod
    async def attach(cls, address: str, volume: str) -> Client:
        host, _, port = address.rpartition(":")
        transport, client = await asyncio.get_running_loop().create_connection(cls, host, int(port))
        client._transport = transport
        frame = meta_pb2.ClientFrame(attach=meta_pb2.Attach(volume=volume, client="bench", protocol=1))
        transport.write(MAGIC + framed(frame.SerializeToString()))
        client.root = (await client._attached).root
        return client

    def ask(self, request: meta_pb2.Request, *, change: bool) -> asyncio.Future[meta_pb2.Response]:
        self._next += 1
        request.id = self._next
        if change:
            request.seq = self._next
        future: asyncio.Future[meta_pb2.Response] = self._loop.create_future()
        self._waiting[self._next] = (future, time.perf_counter())
        if not self._queue:
            self._loop.call_soon(self._send)
        self._queue.append(request)
        return future

    def _send(self) -> None:
        queue, self._queue = self._queue, []
        acked = min(self._waiting, default=self._next + 1) - 1
        frame = meta_pb2.ClientFrame(requests=queue, acked_seq=acked)
        assert self._transport is not None
        self._transport.write(framed(frame.SerializeToString()))

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        for raw in self._deframer.feed(data):
            frame = meta_pb2.ServerFrame.FromString(raw)
            if frame.HasField("end"):
                raise SystemExit(f"the stream ended: {frame.end.detail}")
            if frame.HasField("attached"):
                self._attached.set_result(frame.attached)
            for response in frame.responses:
                future, asked = self._waiting.pop(response.id)
                self.latencies.append(now - asked)
                future.set_result(response)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def mkdir(parent: int, name: bytes) -> meta_pb2.Request:
    return meta_pb2.Request(mkdir=meta_pb2.MkDir(parent=parent, name=name, mode=0o755))


def create(parent: int, number: int) -> meta_pb2.Request:
    return meta_pb2.Request(create=meta_pb2.Create(parent=parent, name=b"file-%08d" % number, mode=0o644, exclusive=True))


def lookup(parent: int, number: int) -> meta_pb2.Request:
    return meta_pb2.Request(lookup=meta_pb2.Lookup(parent=parent, name=b"file-%08d" % number))


def unlink(parent: int, number: int) -> meta_pb2.Request:
    return meta_pb2.Request(unlink=meta_pb2.Unlink(parent=parent, name=b"file-%08d" % number))


_OPS = {"create": (create, True), "lookup": (lookup, False), "unlink": (unlink, True)}


async def drive(client: Client, server_pid: int, op: str, dirs: list[int], count: int, in_flight: int) -> Outcome:
    """`count` operations with `in_flight` of them at a time."""
    make, change = _OPS[op]
    client.latencies.clear()
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            response = await client.ask(make(dirs[number % len(dirs)], number), change=change)
            if response.errno:
                raise SystemExit(f"{op} failed: {os.strerror(response.errno)} {response.detail}")

    client_s, server_s, start = cpu_s(os.getpid()), cpu_s(server_pid), time.perf_counter()
    await asyncio.gather(*[worker() for _ in range(in_flight)])
    took = time.perf_counter() - start
    client_s, server_s = cpu_s(os.getpid()) - client_s, cpu_s(server_pid) - server_s
    ordered = sorted(client.latencies)
    return Outcome(
        op=op,
        in_flight=in_flight,
        ops=count,
        ops_per_s=round(count / took, 1),
        p50_us=round(ordered[len(ordered) // 2] * 1e6, 1),
        p99_us=round(ordered[len(ordered) * 99 // 100] * 1e6, 1),
        client_cpu_us=round(client_s / count * 1e6, 1),
        server_cpu_us=round(server_s / count * 1e6, 1),
    )


async def one_round(server: Server, volume: str, given: argparse.Namespace) -> list[Outcome]:
    """Every operation once, on a volume of its own."""
    async with grpc.aio.insecure_channel(server.admin) as channel:
        settings = json.dumps({"store": f"file://{given.data}/objects"})
        await admin_pb2_grpc.AdminStub(channel).CreateVolume(admin_pb2.CreateVolumeRequest(name=volume, settings_json=settings))
    client = await Client.attach(server.listen, volume)
    made = [await client.ask(mkdir(client.root, b"dir-%d" % n), change=True) for n in range(given.dirs)]
    dirs = [int.from_bytes(response.attr[:8], "little") for response in made]
    ops = given.ops.split(",")
    outcomes = [await drive(client, server.process.pid, op, dirs, given.creates, given.in_flight) for op in ops]
    client.close()
    return outcomes


async def all_rounds(server: Server, given: argparse.Namespace) -> list[list[Outcome]]:
    return [await one_round(server, f"bench{n}", given) for n in range(given.repeat)]


def medians(rounds: list[list[Outcome]]) -> Iterator[tuple[Outcome, float]]:
    """For each operation the median run, and the best run's operations per second."""
    for runs in zip(*rounds, strict=True):
        middle = statistics.median_low([run.ops_per_s for run in runs])
        yield next(run for run in runs if run.ops_per_s == middle), max(run.ops_per_s for run in runs)


def report(rounds: list[list[Outcome]], as_json: bool) -> None:
    rows: list[dict[str, Any]] = [asdict(outcome) | {"best_ops_per_s": best} for outcome, best in medians(rounds)]
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(
            f"{row['op']:8} {row['in_flight']:4} in flight {row['ops_per_s']:9.0f}/s (best {row['best_ops_per_s']:.0f})"
            f"  p50 {row['p50_us']:7.0f} us  p99 {row['p99_us']:7.0f} us"
            f"  cpu/op: server {row['server_cpu_us']:6.1f} us  client {row['client_cpu_us']:6.1f} us"
        )


def measure(_options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of name, value, unit and what is wanted, for `python -m bench`."""
    command = [sys.executable, "-m", "bench.engine", "--json"]
    for in_flight, wanted in ((64, "at least 10,000"), (1, "-")):
        count = ["--in-flight", str(in_flight), "--creates", str(300 * in_flight + 2000)]
        done = subprocess.run([*command, *count], check=True, capture_output=True, text=True)
        for row in json.loads(done.stdout):
            what = f"{row['op']}, engine alone, {in_flight} in flight"
            goal = wanted if row["op"] == "create" else "-"
            yield {"part": "engine", "what": what, "value": row["ops_per_s"], "unit": "ops/s", "wanted": goal}
            for side in ("server", "client"):
                cpu = {"what": f"{what}: CPU of the {side}", "value": row[f"{side}_cpu_us"], "unit": "us an operation"}
                yield {"part": "engine", "wanted": "-", **cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description="creates per second of the metadata engine alone")
    parser.add_argument("--creates", type=int, default=20_000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--dirs", type=int, default=16)
    parser.add_argument("--ops", default="create,lookup,unlink")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--data", type=Path, help="an empty directory on the disk to measure; default: a temporary one")
    parser.add_argument("--profile", type=Path, help="write a cProfile of the server there")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    temporary = None
    if given.data is None:
        temporary = given.data = Path(tempfile.mkdtemp(prefix="keelfs-engine-"))
    server = Server(given.data / "meta", given.profile)
    try:
        report(uvloop.run(all_rounds(server, given)), given.json)
    finally:
        server.stop()
        if temporary is not None:
            shutil.rmtree(temporary)


if __name__ == "__main__":
    main()
