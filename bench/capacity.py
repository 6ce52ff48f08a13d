"""What a million files cost: bytes in the store, memory, the time to start again, and whether creation gets slower.

All files are in one directory, the worst case for listings and caches. They are created over the client's own stream, many at a
time; the cost of one create is taken with one at a time, around the 1,000th and around the last.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import time
from typing import TYPE_CHECKING, Any

import uvloop

from bench.processes import memory_bytes
from fuseclient.meta_client import MetaClient
from fuseclient.volume_url import VolumeUrl
from keelfs.admin_client import admin
from keelfs.embedded import VOLUME, Embedded
from keelfs.formatting import create_volume
from keelfs.target import admin_address
from protos import meta_pb2 as pb

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

IN_FLIGHT = 256
SAMPLE = 2000
MIB = 1 << 20


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of name, value, unit and what is wanted."""
    home = options.home / "capacity"
    shutil.rmtree(home, ignore_errors=True)
    with Embedded(home / "state", home / "mnt") as running:
        running.directory.mkdir(parents=True)
        running.mountpoint.mkdir()
        running.start_server()
        at = admin_address(VolumeUrl.parse(running.url).addresses[0])
        with admin(at) as client:
            create_volume(client, VOLUME, {"store": f"file://{home}/objects"})
        early, late, seconds = uvloop.run(_fill(running.url, options.files))
        yield _row("create one at a time around the 1,000th file", early, "us, p50")
        yield _row("create one at a time around the last file", late, "us, p50")
        yield _row("the last create against the 1,000th", late / early, "times", "at most 1.3")
        yield _row(
            f"creating {options.files:,} files in one directory, {IN_FLIGHT} in flight", options.files / seconds, "creates/s"
        )
        with admin(at) as client:
            client.checkpoint()
            status = client.status()
        yield _row("store bytes a file (inode and entry)", status.store_bytes / options.files, "bytes", "at most 250")
        server = running.pids()[0]
        yield _row("server memory without page cache", memory_bytes(server)[1] / MIB, "MiB", "at most 200")
        running.stop_server()
        started = time.perf_counter()
        running.start_server()
        yield _row(f"server start with {options.files:,} inodes", time.perf_counter() - started, "s", "under 10")
        running.start_mount()
        started = time.perf_counter()
        with os.scandir(running.mountpoint / "many") as entries:
            listed = sum(1 for entry in entries if entry.stat(follow_symlinks=False))
        yield _row(f"listing {listed:,} entries with attributes", listed / (time.perf_counter() - started), "entries/s")
        yield _row(
            "client memory after that, without page cache", memory_bytes(running.pids()[1])[1] / MIB, "MiB", "at most 200"
        )
    shutil.rmtree(home, ignore_errors=True)


def _row(what: str, value: float, unit: str, wanted: str = "-") -> dict[str, Any]:
    return {"part": "capacity", "what": what, "value": value, "unit": unit, "wanted": wanted}


async def _fill(url: str, files: int) -> tuple[float, float, float]:
    """p50 of single creates early and late, in microseconds, and the seconds for all."""
    client = await MetaClient.connect(VolumeUrl.parse(url), "capacity benchmark")
    made = await client.change(pb.Request(mkdir=pb.MkDir(parent=client.root, name=b"many", mode=0o755, cred=pb.Cred())))
    parent = int.from_bytes(made.attr[:8], "little")
    numbers = iter(range(files))

    async def create_one() -> int:
        """Make the next file; its number, -1 when there are enough."""
        number = next(numbers, -1)
        if number < 0:
            return -1
        name = b"file-%07d" % number
        done = await client.change(
            pb.Request(create=pb.Create(parent=parent, name=name, mode=0o644, exclusive=True, cred=pb.Cred()))
        )
        client.release(int.from_bytes(done.attr[:8], "little"))
        return number

    async def sample(count: int) -> float:
        times = []
        for _ in range(count):
            before = time.perf_counter()
            await create_one()
            times.append(time.perf_counter() - before)
        return statistics.median(times) * 1e6

    async def worker() -> None:
        while -1 < await create_one() < files - SAMPLE - IN_FLIGHT:
            pass

    started = time.perf_counter()
    early = await sample(SAMPLE)
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    late = await sample(SAMPLE // 2)
    while await create_one() >= 0:
        pass
    seconds = time.perf_counter() - started
    await client.close()
    return early, late, seconds
