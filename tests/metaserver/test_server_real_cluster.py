"""Real replicators under real servers, with certificates: a single node grows into a cluster, a session outlives its leader."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path

import grpc
import pytest
from stream_peer import Harness, channel, ino_of, serving

from metaserver.config import ServerConfig, ServerError
from metaserver.server import Server
from protos import admin_pb2, admin_pb2_grpc, meta_pb2
from raft.certificates import make_ca, make_client, make_node
from raft.disk import RealDisk
from raft.founding import found_cluster, join_cluster
from raft.identity import load_identity
from raft.membership import Member
from raft.tls import TlsFiles

pytestmark = pytest.mark.asyncio(loop_scope="session")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Node:
    """One directory with its addresses; the server on it, while there is one."""

    def __init__(self, root: Path, certs: Path, name: str) -> None:
        self.name = name
        self.data = root / name
        self.listen, self.admin, self.peer = (f"127.0.0.1:{free_port()}" for _ in range(3))
        make_node(certs, name, ["127.0.0.1"])
        self.tls = TlsFiles.of(certs, name)
        self.server: Server | None = None
        client = [Path(path).read_bytes() for path in (certs / "ca.crt", certs / "me.key", certs / "me.crt")]
        self.harness = Harness(None, self.listen, self.admin, grpc.ssl_channel_credentials(*client))

    @property
    def member(self) -> Member:
        identity = load_identity(RealDisk(), str(self.data))
        return Member(self.name, identity.node_id, self.peer, self.listen, self.admin)

    @property
    def leads(self) -> bool:
        return self.server is not None and self.server._leadership.reign is not None

    async def start(self) -> None:
        config = ServerConfig(
            data_dir=self.data,
            listen=self.listen,
            admin=self.admin,
            peer_listen=self.peer,
            name=self.name,
            tls=self.tls,
            stop_grace_s=1.0,
        )
        self.server = self.harness.server = Server(config)
        await self.server.start()

    async def stop(self) -> None:
        server, self.server = self.server, None
        await self.harness.close_peers()
        if server is not None:
            await server.stop()


async def until(condition, what):
    deadline = asyncio.get_running_loop().time() + 30
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, what
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def grown(root: Path, names=("n1", "n2", "n3")):
    """A cluster that began as a single node with a volume and a file in it."""
    async with serving(root / "n1") as single:
        peer = await single.peer()
        assert not (await peer.create(b"old")).errno
    certs = root / "certs"
    make_ca(certs)
    make_client(certs, "me")
    nodes = [Node(root, certs, name) for name in names]
    try:
        first = nodes[0]
        found_cluster(RealDisk(), str(first.data), first.member)
        await first.start()
        await until(lambda: first.leads, "the first node leads")
        cluster_id = load_identity(RealDisk(), str(first.data)).cluster_id
        for node in nodes[1:]:
            join_cluster(RealDisk(), str(node.data), cluster_id)
            await node.start()
            await take_in(first, node)
        yield nodes
    finally:
        for node in nodes:
            await node.stop()


async def take_in(leader: Node, node: Node) -> None:
    """Add, and promote as soon as the node has caught up."""
    m = node.member
    async with leader.harness.admin_stub() as stub:
        added = admin_pb2.AddMemberRequest(name=m.name, incarnation=m.incarnation, peer=m.peer, client=m.client, admin=m.admin)
        await stub.AddMember(added)
        deadline = asyncio.get_running_loop().time() + 30
        while True:
            try:
                await stub.PromoteMember(admin_pb2.MemberRequest(name=m.name))
                return
            except grpc.aio.AioRpcError as refused:
                if asyncio.get_running_loop().time() > deadline:
                    raise AssertionError(f"never promoted: {refused.details()}") from refused
                await asyncio.sleep(0.05)


async def digests(nodes):
    leader = next(node for node in nodes if node.leads)
    async with leader.harness.admin_stub() as stub:
        index = (await stub.MarkDigest(admin_pb2.MarkDigestRequest())).index
    replies = []
    for node in nodes:
        async with node.harness.admin_stub() as stub:
            replies.append(await stub.Digest(admin_pb2.DigestRequest(index=index, timeout_ms=20_000)))
    return {(reply.state, reply.chain, reply.keys) for reply in replies}


async def test_a_session_outlives_its_leader_and_every_op_happens_once(tmp_path):
    async with grown(tmp_path) as nodes:
        first, others = nodes[0], nodes[1:]
        peer = await first.harness.peer()
        assert sorted(peer.attached.addresses) == sorted(node.listen for node in nodes)
        assert not (await peer.lookup(b"old")).errno  # what the single node made
        create = meta_pb2.Create(parent=peer.root, name=b"f", mode=0o644, exclusive=True)
        made = await peer.change(create=create)
        assert len(await digests(nodes)) == 1

        await first.stop()  # hands over
        await until(lambda: any(node.leads for node in others), "another node leads")
        leader = next(node for node in others if node.leads)
        back = await leader.harness.peer(session=peer.attached.session, secret=peer.attached.secret)
        assert back.attached.resumed
        assert ino_of(await back.change(seq=peer.seq, create=create)) == ino_of(made)
        back.seq = peer.seq
        assert not (await back.create(b"g")).errno

        await first.start()
        assert len(await digests(nodes)) == 1
        async with first.harness.admin_stub() as stub:  # a follower now
            assert (await stub.GetVolume(admin_pb2.GetVolumeRequest(name="vol"))).inodes_used == 4
            pieces = [piece async for piece in stub.SaveSnapshot(admin_pb2.SaveSnapshotRequest())]
            assert sum(len(piece.data) for piece in pieces) == pieces[0].size
        assert not [path for path in (first.data / "snapshots").rglob("*") if path.is_file()]


async def test_a_directory_does_not_start_under_another_name(tmp_path):
    async with grown(tmp_path, ("n1",)) as (node,):
        await node.stop()
        make_node(tmp_path / "certs", "n2", ["127.0.0.1"])
        node.name, node.tls = "n2", TlsFiles.of(tmp_path / "certs", "n2")
        with pytest.raises(ServerError, match="is node 'n1' of its cluster, not 'n2'"):
            await node.start()


async def test_who_has_no_certificate_of_the_cluster_is_not_served(tmp_path):
    async with grown(tmp_path, ("n1",)) as (node,):
        make_ca(tmp_path / "other")
        make_client(tmp_path / "other", "me")
        ca = (tmp_path / "certs" / "ca.crt").read_bytes()
        stranger = [(tmp_path / "other" / name).read_bytes() for name in ("me.key", "me.crt")]
        for credentials in (None, grpc.ssl_channel_credentials(ca), grpc.ssl_channel_credentials(ca, *stranger)):
            async with channel(node.admin, credentials) as opened:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await admin_pb2_grpc.AdminStub(opened).Status(admin_pb2.StatusRequest(), timeout=10)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        context = ssl.create_default_context(cafile=str(tmp_path / "certs" / "ca.crt"))
        reader, writer = await asyncio.open_connection(*node.listen.split(":"), ssl=context)
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 10)
        writer.transport.abort()
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            await writer.wait_closed()
