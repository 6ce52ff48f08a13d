"""A server with very many inodes is back within seconds, after a crash and after a stop."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from typing import TYPE_CHECKING

import pytest

from fuseclient.errors import FsError
from fuseclient.meta_client import MetaClient
from fuseclient.volume_url import VolumeUrl
from protos import meta_pb2 as pb
from tests.fuse.cluster import Cluster
from tests.integration.offline import violations

if TYPE_CHECKING:
    from pathlib import Path

PER_DIRECTORY = 10_000
IN_FLIGHT = 2000
OPENS_WITHIN_S = 10.0


async def make_files(url: str, count: int) -> None:
    """Empty files d<n>/f<m>, by one client without a mount."""
    client = await MetaClient.connect(VolumeUrl.parse(url), "maker")
    try:
        for first in range(0, count, PER_DIRECTORY):
            name = b"d%d" % (first // PER_DIRECTORY)
            made = await client.change(pb.Request(mkdir=pb.MkDir(parent=client.root, name=name, mode=0o755)))
            parent = int.from_bytes(made.attr[:8], "little")
            for start in range(0, PER_DIRECTORY, IN_FLIGHT):
                mode = stat.S_IFREG | 0o644
                names = (b"f%05d" % number for number in range(start, start + IN_FLIGHT))
                requests = (pb.Request(mknod=pb.MkNod(parent=parent, name=name, mode=mode)) for name in names)
                await asyncio.gather(*[client.change(request) for request in requests])
    except FsError as error:
        pytest.fail(str(error))
    finally:
        await client.close()


def opening_s(cluster: Cluster) -> float:
    """Seconds until the server answers, the start of Python included."""
    started = time.monotonic()
    cluster.server.start()
    return time.monotonic() - started


def restart(home: Path, count: int) -> None:
    with Cluster(home) as cluster:
        cluster.start_unmounted()
        asyncio.run(make_files(cluster.url, count))
        cluster.server.kill()
        after_crash_s = opening_s(cluster)
        directories = count // PER_DIRECTORY
        assert cluster.status()["inodes"] == count + directories + 1
        top = cluster.mount("mnt")
        assert sorted(os.listdir(top)) == sorted(f"d{number}" for number in range(directories))
        assert len(os.listdir(top / "d0")) == PER_DIRECTORY
        assert (top / f"d{directories - 1}/f09999").stat().st_size == 0
        (top / "d0/f00000").unlink()
        cluster.unmount("mnt")
        assert cluster.server.stop() == 0
        after_stop_s = opening_s(cluster)
        assert cluster.status()["inodes"] == count + directories
        rss_mib = cluster.status()["rss_bytes"] >> 20
        print(f"{count} inodes: open {after_crash_s:.2f} s after a crash, {after_stop_s:.2f} s after a stop, {rss_mib} MiB")
        assert max(after_crash_s, after_stop_s) < OPENS_WITHIN_S
        assert cluster.server.stop() == 0
    if count <= 100_000:  # the check holds all of it in memory
        assert violations(home / "meta") == []


def test_a_hundred_thousand_inodes(home: Path) -> None:
    restart(home, 100_000)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_million_inodes(home: Path) -> None:
    restart(home, 1_000_000)
