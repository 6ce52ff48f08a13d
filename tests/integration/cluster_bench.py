"""A cluster of real nodes that a client uses all the time while one node is hurt: what the tests of damage and attack share.

The client is a MetaClient in a thread of its own. It makes one directory after the other and remembers which were acknowledged;
an error that reaches it is a failure of the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import threading
from typing import TYPE_CHECKING, Any, Final, Self

from fuseclient.attr import Attr
from fuseclient.meta_client import MetaClient
from fuseclient.tls import Access
from fuseclient.volume_url import VolumeUrl
from keelfs import joining
from keelfs.admin_client import AdminClient
from keelfs.state_comparison import compare
from protos import meta_pb2 as pb
from tests.fuse.cluster import wait_for

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Coroutine, Iterator
    from pathlib import Path
    from types import TracebackType

    from keelfs.local_plan import LocalNode
    from keelfs.state_comparison import Comparison
    from tests.integration.node_cluster import NodeCluster
    from tests.keelfs.command_zygote import Zygote

ROOT: Final = pb.Cred(uid=0, gid=0)
PAUSE_S: Final = 0.01  # between two changes: the machine is shared


class Worker:
    """The client. `acknowledged` are the names that the cluster has confirmed; `check` after the end of it all."""

    def __init__(self, cluster: NodeCluster, prefix: str = "w") -> None:
        self._cluster = cluster
        self._prefix = prefix
        self._stop = threading.Event()
        self.acknowledged: list[bytes] = []
        self.errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, name="worker")

    def _run(self) -> None:
        try:
            asyncio.run(self._work())
        except BaseException as error:
            self.errors.append(error)

    async def _work(self) -> None:
        client = await connect(self._cluster)
        number = 0
        while not self._stop.is_set():
            name = f"{self._prefix}{number}".encode()
            await client.change(mkdir(client.root, name))  # done twice, it would fail
            self.acknowledged.append(name)
            number += 1
            await asyncio.sleep(PAUSE_S)
        await client.close()

    def goes_on(self, count: int = 10) -> None:
        """Until so many more changes were acknowledged."""
        goal = len(self.acknowledged) + count
        wait_for(lambda: len(self.acknowledged) >= goal or self.errors, f"{count} more changes")
        assert not self.errors, self.errors

    def check(self) -> None:
        """All is well: everything that was acknowledged is there, and all nodes hold the same."""
        self._stop.set()
        self._thread.join(60)
        assert not self.errors, self.errors
        there = run(names_in_root(self._cluster))
        missing = [name for name in self.acknowledged if name not in there]
        assert not missing, f"{len(missing)} of {len(self.acknowledged)} acknowledged changes are gone: {missing[:5]!r}"
        require_equal(self._cluster)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.check()
        self._stop.set()
        self._thread.join(60)


def run(body: Coroutine[Any, Any, Any]) -> Any:
    """One conversation with the cluster."""
    return asyncio.run(body)


async def connect(cluster: NodeCluster) -> MetaClient:
    return await MetaClient.connect(VolumeUrl.parse(cluster.url), "bench", access=Access(cluster.plan.client_tls.context()))


def mkdir(parent: int, name: bytes) -> pb.Request:
    return pb.Request(mkdir=pb.MkDir(parent=parent, name=name, mode=0o755, cred=ROOT))


async def names_in_root(cluster: NodeCluster) -> set[bytes]:
    client = await connect(cluster)
    names: set[bytes] = set()
    after, eof = 0, False
    while not eof:
        page = await client.read(pb.Request(readdir=pb.ReadDir(ino=client.root, after=after, limit=1000, cred=ROOT)))
        names.update(entry.name for entry in page.entries)
        eof = page.eof
        after = page.entries[-1].cookie if page.entries else after
    await client.close()
    return names


def ino_of(response: pb.Response) -> int:
    return Attr(response.attr).ino


async def add_bulk(cluster: NodeCluster, name: bytes, count: int, value: bytes) -> None:
    """A directory with so many others in it, each with an extended attribute of this value."""
    client = await connect(cluster)
    top = ino_of(await client.change(mkdir(client.root, name)))
    made = await asyncio.gather(*(client.change(mkdir(top, b"%d" % number)) for number in range(count)))
    for answer in made:
        change = pb.SetXattr(ino=ino_of(answer), name=b"user.bulk", value=value, cred=ROOT)
        await client.change(pb.Request(setxattr=change))
    await client.close()


# -- nodes -----------------------------------------------------------------------------------------------------------------


def node(cluster: NodeCluster, name: str) -> LocalNode:
    return next(node for node in cluster.plan.nodes if node.name == name)


@contextlib.contextmanager
def admin(cluster: NodeCluster, name: str = "") -> Iterator[AdminClient]:
    """Calls to one node, or to the cluster."""
    addresses = node(cluster, name).admin if name else cluster.plan.admin_addresses
    client = AdminClient(addresses, timeout_s=20, tls=cluster.plan.client_tls)
    try:
        yield client
    finally:
        client.close()


def checkpoint(cluster: NodeCluster, name: str) -> int:
    with admin(cluster, name) as client:
        return client.checkpoint()


def index_of(cluster: NodeCluster, name: str) -> int:
    with admin(cluster, name) as client:
        return client.status().index_applied


def replace(cluster: NodeCluster, name: str) -> None:
    """The operator's way out: stop the node, remove it, add it anew with an empty directory, wait until it votes."""
    cluster.nodes[name].stop()
    data, settings = cluster.data(name), cluster.plan.settings(node(cluster, name))
    shutil.rmtree(data, ignore_errors=True)
    with admin(cluster) as client:
        if joining.find(client.members(), name) is not None:
            client.remove_member(name)
        joining.add(client, data, settings)
        cluster.nodes[name].start()
        joining.promote(client, name, 60.0)
    cluster.healthy()


def verified(cluster: NodeCluster) -> Comparison:
    """All nodes' states, at one index."""
    with admin(cluster) as client:
        index = client.mark_digest()
        members = client.members().members
    return compare(members, index, 30.0, cluster.connect)


def require_equal(cluster: NodeCluster) -> None:
    cluster.healthy()
    found = verified(cluster)
    assert found.equal, found
    assert found.complete, found


def refused_start(zygote: Zygote, cluster: NodeCluster, name: str) -> str:
    """Start a node that must not start: exit code 5, and what it says, in one line and without a traceback."""
    done = zygote.run("server", "--data", cluster.data(name), *cluster.options)
    return one_line(done)


def one_line(done: subprocess.CompletedProcess[str], code: int = 5) -> str:
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == code, f"exit code {done.returncode}: {said[-2000:]}"
    assert "Traceback" not in said, said
    return said


class Log:
    """What a node says from now on."""

    def __init__(self, cluster: NodeCluster, name: str) -> None:
        self.path: Path = cluster.home / f"{name}.log"
        self._start = self.path.stat().st_size if self.path.exists() else 0

    @property
    def text(self) -> str:
        with self.path.open("rb") as file:
            file.seek(self._start)
            return file.read().decode("utf-8", "replace")

    def says(self, pattern: str) -> None:
        """Until it does."""
        wait_for(lambda: re.search(pattern, self.text), f"{pattern!r} in {self.path.name}:\n{self.text[-1500:]}")

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size - self._start
