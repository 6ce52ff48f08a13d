"""The metadata client against the real server, killed under load: every create is there, once, and its session goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from fake_meta_service import until

from fuseclient.errors import FsError
from fuseclient.meta_client import MetaClient
from fuseclient.volume_url import VolumeUrl
from protos import admin_pb2, admin_pb2_grpc
from protos import meta_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

import grpc.aio

ROUNDS = 3
WORKERS = 24


class Server:
    """One server process after another on the same data and port."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._process: asyncio.subprocess.Process | None = None
        self.listen = "127.0.0.1:0"
        self.admin = "127.0.0.1:0"

    async def start(self) -> None:
        read, write = os.pipe()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "metaserver.server",
            *("--data", str(self._data), "--listen", self.listen, "--admin", self.admin, "--ready-fd", str(write)),
            pass_fds=[write],
            stderr=asyncio.subprocess.DEVNULL,
        )
        os.close(write)
        with os.fdopen(read) as pipe:
            line = await asyncio.wait_for(asyncio.to_thread(pipe.readline), 30)
        assert line.startswith("ready "), "the server did not start"
        _, self.listen, self.admin = line.split()

    async def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            await process.wait()

    async def make_volume(self, name: str) -> None:
        async with grpc.aio.insecure_channel(self.admin) as channel:
            request = admin_pb2.CreateVolumeRequest(name=name, settings_json='{"store": "file:///nowhere"}', mode=0o755)
            await admin_pb2_grpc.AdminStub(channel).CreateVolume(request)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    server = Server(tmp_path / "data")
    await server.start()
    yield server
    await server.kill()


async def names_in(client: MetaClient, ino: int) -> list[bytes]:
    names: list[bytes] = []
    after, eof = 0, False
    while not eof:
        page = await client.read(pb.Request(readdir=pb.ReadDir(ino=ino, after=after, limit=500)))
        names += [entry.name for entry in page.entries]
        eof = page.eof
        after = page.entries[-1].cookie if page.entries else after
    return [name for name in names if name not in {b".", b".."}]


def exclusive(client: MetaClient, name: bytes) -> pb.Request:
    create = pb.Create(parent=client.root, name=name, mode=0o644, exclusive=True, cred=pb.Cred(uid=0, gid=0))
    return pb.Request(create=create)


async def test_every_create_survives_kills_of_the_server_and_exists_once(server: Server) -> None:
    await server.make_volume("data")
    client = await MetaClient.connect(VolumeUrl.parse(f"keel://{server.listen}/data"), "test")
    session = client.session_id
    rng = random.Random(11)
    acknowledged: list[bytes] = []
    stop = False

    async def work(worker: int) -> None:
        n = 0
        while not stop:
            name = b"%d-%d" % (worker, n)
            await client.change(exclusive(client, name))  # applied twice, it would be EEXIST
            acknowledged.append(name)
            n += 1

    workers = [asyncio.create_task(work(n)) for n in range(WORKERS)]
    for killed in range(ROUNDS):
        reached = len(acknowledged) + rng.randrange(50, 400)
        await until(lambda: len(acknowledged) >= reached or any(w.done() for w in workers), timeout_s=30)  # noqa: B023
        await server.kill()
        await server.start()
        await until(lambda: client.reconnects == killed + 1 or any(w.done() for w in workers), timeout_s=30)  # noqa: B023
    stop = True
    await asyncio.wait_for(asyncio.gather(*workers), 30)

    assert client.session_id == session
    assert sorted(await names_in(client, client.root)) == sorted(acknowledged)
    assert len(client.held()) == len(acknowledged)
    with pytest.raises(FsError, match="EEXIST"):
        await client.change(exclusive(client, acknowledged[0]))
    await client.close()


async def test_an_open_file_without_names_lives_through_a_restart_until_it_is_released(server: Server) -> None:
    await server.make_volume("data")
    client = await MetaClient.connect(VolumeUrl.parse(f"keel://{server.listen}/data"), "test")
    made = await client.change(exclusive(client, b"f"))
    ino = int.from_bytes(made.attr[:8], "little")
    await client.change(pb.Request(unlink=pb.Unlink(parent=client.root, name=b"f", cred=pb.Cred())))
    await server.kill()
    await server.start()
    assert (await client.read(pb.Request(getattr=pb.GetAttr(ino=ino)))).attr[:8] == made.attr[:8]
    client.release(ino)

    async def gone() -> bool:
        try:
            await client.read(pb.Request(getattr=pb.GetAttr(ino=ino)))
        except FsError:
            return True
        return False

    deadline = asyncio.get_running_loop().time() + 20
    while not await gone():  # each turn is a round trip
        assert asyncio.get_running_loop().time() < deadline
    await client.close()


async def test_numbers_are_leased_from_the_real_counters(server: Server) -> None:
    await server.make_volume("data")
    client = await MetaClient.connect(VolumeUrl.parse(f"keel://{server.listen}/data"), "test")
    slices = [await client.slice_ids.next() for _ in range(5000)]
    assert len(set(slices)) == 5000
    ino = await client.inode_ids.next()
    request = exclusive(client, b"named")
    request.create.ino = ino
    assert int.from_bytes((await client.change(request)).attr[:8], "little") == ino
    await client.close()
