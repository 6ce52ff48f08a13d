"""Admin calls of a command among several nodes: they find the leader, wait out an election, and are not made twice by guess."""

from __future__ import annotations

import errno
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from fuseclient.errors import ClientError
from fuseclient.tls import TlsFiles
from keelfs import admin_client
from keelfs.admin_client import AdminClient
from protos import admin_pb2, admin_pb2_grpc
from raft.certificates import make_ca, make_client, make_node

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Node(admin_pb2_grpc.AdminServicer):
    """Leads, or names who does."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.leader: str | None = None  # None: this one
        self.elected_after = 0  # refusals until this node leads
        self.calls = 0
        self.breaks: tuple[grpc.StatusCode, str] | None = None
        self.address = ""

    def _lead(self, context: Any) -> None:
        self.calls += 1
        if self.breaks is not None:
            context.abort(*self.breaks)
        if self.leader is None:
            return
        if self.elected_after and self.calls > self.elected_after:
            return
        context.set_trailing_metadata((("keelfs-reason", "not-leader"), ("keelfs-errno", "11"), ("keelfs-leader", self.leader)))
        context.abort(grpc.StatusCode.UNAVAILABLE, f"{self.name} does not lead")

    def CreateVolume(self, request: Any, context: Any) -> admin_pb2.Volume:
        self._lead(context)
        return admin_pb2.Volume(name=request.name)

    def PromoteMember(self, request: Any, context: Any) -> admin_pb2.MembersReply:
        self._lead(context)
        context.set_trailing_metadata((("keelfs-reason", "behind"), ("keelfs-errno", str(errno.EBUSY))))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "n3 lags 7 entries behind")
        raise AssertionError

    def Status(self, request: Any, context: Any) -> admin_pb2.StatusReply:
        self.calls += 1
        return admin_pb2.StatusReply(name=self.name)


@contextmanager
def serving(*nodes: Node, credentials: grpc.ServerCredentials | None = None) -> Iterator[None]:
    servers = []
    for node in nodes:
        server = grpc.server(ThreadPoolExecutor(2))
        admin_pb2_grpc.add_AdminServicer_to_server(node, server)
        at = "127.0.0.1:0"
        port = server.add_insecure_port(at) if credentials is None else server.add_secure_port(at, credentials)
        node.address = f"127.0.0.1:{port}"
        server.start()
        servers.append(server)
    try:
        yield
    finally:
        for server in servers:
            server.stop(None).wait()


@contextmanager
def client(*addresses: str, **options: Any) -> Iterator[AdminClient]:
    made = AdminClient(addresses, 10.0, **options)
    try:
        yield made
    finally:
        made.close()


def create(using: AdminClient) -> str:
    return using.create_volume("v", "{}", uid=0, gid=0, mode=0o755).name


@pytest.fixture
def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_call_goes_where_the_leader_is_said_to_be() -> None:
    follower, leader = Node("a"), Node("b")
    with serving(follower, leader):
        follower.leader = leader.address
        with client(follower.address) as using:
            assert create(using) == "v"
            assert create(using) == "v"
        assert (follower.calls, leader.calls) == (1, 2)  # it stays there


def test_without_a_hint_the_others_are_asked(closed_port: str) -> None:
    follower, leader = Node("a"), Node("b")
    follower.leader = ""
    with serving(follower, leader), client(closed_port, follower.address, leader.address) as using:
        assert create(using) == "v"


def test_an_election_is_waited_out() -> None:
    node = Node("a")
    node.leader, node.elected_after = "", 3
    with serving(node), client(node.address) as using:
        assert create(using) == "v"
        assert node.calls == 4


def test_one_that_never_ends_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_client, "ELECTION_S", 0.3)
    one, other = Node("a"), Node("b")
    with serving(one, other):
        one.leader, other.leader = other.address, one.address  # in a circle
        with client(one.address, other.address) as using, pytest.raises(ClientError, match="does not lead") as refused:
            create(using)
    assert refused.value.exit_code == 11
    assert one.calls + other.calls < 30


def test_what_may_have_been_carried_out_is_not_asked_of_another() -> None:
    broken, leader = Node("a"), Node("b")
    broken.breaks = (grpc.StatusCode.UNAVAILABLE, "the connection broke")
    with serving(broken, leader), client(broken.address, leader.address) as using:
        with pytest.raises(ClientError):
            create(using)
        assert leader.calls == 0


def test_a_refusal_keeps_its_errno() -> None:
    node = Node("a")
    with (
        serving(node),
        client(node.address) as using,
        pytest.raises(ClientError, match=r"7 entries behind \(EBUSY\)") as refused,
    ):
        using.promote_member("n3")
    assert refused.value.errno == errno.EBUSY


def test_status_is_of_the_first_that_answers(closed_port: str) -> None:
    follower, leader = Node("a"), Node("b")
    with serving(follower, leader), client(closed_port, follower.address, leader.address) as using:
        follower.leader = leader.address
        assert using.status().name == "a"


def test_nobody_is_there(closed_port: str) -> None:
    with client(closed_port) as using, pytest.raises(ClientError, match=r"no server answers.*--admin") as refused:
        create(using)
    assert refused.value.exit_code == 11


def test_plain_text_stays_on_this_machine() -> None:
    with client("192.0.2.1:7421") as using, pytest.raises(ClientError, match="--tls-ca") as refused:
        create(using)
    assert refused.value.exit_code == 12


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("certificates")
    for cluster, host in (("ours", "127.0.0.1"), ("theirs", "127.0.0.1"), ("elsewhere", "192.0.2.1")):
        make_ca(base / cluster)
        make_node(base / cluster, "n1", [host])
        make_client(base / cluster, "c1")
    return base


def files(directory: Path, who: Path | None = None) -> TlsFiles:
    who = who or directory
    return TlsFiles(directory / "ca.crt", who / "c1.crt", who / "c1.key")


def server_credentials(directory: Path) -> grpc.ServerCredentials:
    pair = ((directory / "n1.key").read_bytes(), (directory / "n1.crt").read_bytes())
    return grpc.ssl_server_credentials([pair], (directory / "ca.crt").read_bytes(), require_client_auth=True)


def test_tls_and_what_can_be_wrong_with_it(certificates: Path) -> None:
    ours, theirs = certificates / "ours", certificates / "theirs"
    node = Node("a")
    with serving(node, credentials=server_credentials(ours)):
        with client(node.address, tls=files(ours)) as using:
            assert create(using) == "v"
        for tls, exit_code, why in (
            (files(theirs), 12, "--tls-ca"),
            (files(ours, theirs), 12, "--tls-cert"),
            (None, 11, "may expect TLS"),
        ):
            with client(node.address, tls=tls) as using, pytest.raises(ClientError, match=why) as refused:
                create(using)
            assert refused.value.exit_code == exit_code, why
    elsewhere = certificates / "elsewhere"
    with (
        serving(node, credentials=server_credentials(elsewhere)),
        client(node.address, tls=files(elsewhere)) as using,
        pytest.raises(ClientError, match="not made for that address") as refused,
    ):
        create(using)
    assert refused.value.exit_code == 12
    with serving(node), client(node.address, tls=files(ours)) as using, pytest.raises(ClientError) as refused:
        create(using)
    assert refused.value.exit_code == 11
    assert "does not speak TLS" in str(refused.value)
