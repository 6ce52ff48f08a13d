"""Who is not let in, and hears why: strangers of every kind at a real port, and disks that are not what they were."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import ssl
import struct
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from peer_nodes import (
    CLUSTER,
    DIRECTORY,
    QUICK,
    Node,
    Stranger,
    certificates,
    close,
    incarnation,
    meet,
    on_both_loops,
    until,
)

from raft import messages as m
from raft import peer_wire as wire
from raft.certificates import CertificateError, make_ca, make_node
from raft.membership import Membership
from raft.peer_admission import Reason, belongs
from raft.peer_transport import HelloState
from raft.tls import TlsFiles

UUID = "0b7b2a54-5a2b-4a10-8f6c-6f2a0d3a7a11"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory: Path = tmp_path_factory.mktemp("certs")
    certificates(directory, "n1", "n2", "n3")
    return directory


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another cluster's."""
    directory: Path = tmp_path_factory.mktemp("foreign")
    certificates(directory, "n1", "n2")
    return directory


def context(directory: Path, name: str | None) -> ssl.SSLContext:
    """A client that accepts every server, so that what is tested is the node."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    if name is not None:
        made.load_cert_chain(directory / f"{name}.crt", directory / f"{name}.key")
    return made


def hello(name: str, **changes: Any) -> wire.Hello:
    return replace(wire.Hello(CLUSTER, name, incarnation(name), 1, bytes(16), 1, 0, 0, 1), **changes)


async def member_of_three(tls: TlsFiles | None = None, **changes: Any) -> Node:
    """n2, which knows n1 and n3 and cannot reach them."""
    node = await Node("n2", tls, **changes).start()
    node.knows([node, *(Node(name, address="127.0.0.1:1").member() for name in ("n1", "n3"))])
    return node


# -- at the door: TLS ------------------------------------------------------------------------------------------------------


@on_both_loops
@pytest.mark.parametrize(
    ("who", "says"),
    [
        ("foreign", "its certificate is not accepted"),
        ("none", "it shows no certificate"),
        ("expired", "its certificate is not accepted: certificate has expired"),
        ("plain", "it does not speak TLS"),
        ("http", "HTTP"),
        ("tls 1.2", "it does not speak TLS 1.3"),
    ],
)
async def test_who_has_no_good_certificate_hears_nothing(
    who: str, says: str, made: Path, foreign: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    node = await member_of_three(TlsFiles.of(made, "n2"))
    tls: ssl.SSLContext | None = None
    if who == "foreign":
        tls = context(foreign, "n1")
    elif who == "none":
        tls = context(made, None)
    elif who == "expired":
        for file in ("ca.crt", "ca.key"):
            (tmp_path / file).write_bytes((made / file).read_bytes())
        make_node(tmp_path, "n1", ["h"], days=1, clock=lambda: time.time() - 5 * 86400)
        tls = context(tmp_path, "n1")
    elif who == "tls 1.2":
        tls = context(made, "n1")
        tls.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        stranger = await Stranger.connect(node.address, tls)
    except (ssl.SSLError, ConnectionError):
        pass  # with TLS 1.2 it ends in the middle of the handshake
    else:
        stranger.write_raw(b"GET / HTTP/1.1\r\n\r\n" if who == "http" else wire.framed(wire.encode(hello("n1"))))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError, ssl.SSLError, wire.WireError)):
            await stranger.read()
        await stranger.ended()
        await stranger.close()
    await until(lambda: says in caplog.text, f"the log says {says!r}")
    await until(lambda: not node.transport._all)
    assert not node.events
    await close(node)


@on_both_loops
async def test_a_clients_certificate_is_not_a_nodes(made: Path) -> None:
    node = await member_of_three(TlsFiles.of(made, "n2"))
    stranger = await Stranger.connect(node.address, context(made, "admin"))
    refusal = await stranger.read()
    assert (refusal.reason, refusal.detail) == (Reason.CERTIFICATE, "its certificate is that of client admin, not of a node")
    stranger.write(wire.encode(wire.Refusal("cluster", "you too")))  # what it says counts for nothing
    await stranger.ended()
    assert not node.events
    await stranger.close()
    await close(node)


@on_both_loops
async def test_a_node_may_only_claim_the_name_in_its_certificate(made: Path) -> None:
    node = await member_of_three(TlsFiles.of(made, "n2"))
    stranger = await Stranger.connect(node.address, context(made, "n3"))
    stranger.write(wire.encode(hello("n1")))
    assert isinstance(await stranger.read(), wire.Hello)
    refusal = await stranger.read()
    assert (refusal.reason, refusal.detail) == (Reason.CERTIFICATE, "it says that it is n1, its certificate is that of n3")
    await stranger.close()
    await close(node)


@on_both_loops
async def test_a_node_with_the_certificates_of_another_cluster_hears_it_in_its_own_log(
    made: Path, foreign: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    a, b = await Node("n1", TlsFiles.of(made, "n1")).start(), await Node("n2", TlsFiles.of(foreign, "n2")).start()
    a.knows([a, b])
    b.knows([a, b])
    await until(lambda: "node n2" in caplog.text and "certificate" in caplog.text)
    await asyncio.sleep(0.1)
    assert not a.events
    assert not b.events
    assert len(caplog.records) <= 4, "it is said again with every attempt"
    await close(a, b)


def test_a_node_does_not_start_with_the_certificate_of_another(made: Path) -> None:
    async def start() -> None:
        await Node("n1", TlsFiles.of(made, "n2")).start()

    with pytest.raises(CertificateError, match="certificate of node n2; node n1 needs one"):
        asyncio.run(start())


# -- at the door: bytes ------------------------------------------------------------------------------------------------------


@on_both_loops
@pytest.mark.parametrize("secure", [False, True])
async def test_random_bytes_end_their_connection_and_nothing_else(secure: bool, made: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    files = TlsFiles.of(made, "n2") if secure else None
    node, other = Node("n2", files), Node("n3", TlsFiles.of(made, "n3") if secure else None)
    await meet(node, other)
    for number in range(30):
        stranger = await Stranger.connect(node.address, context(made, "n1") if secure and number % 2 else None)
        stranger.write_raw(rng.randbytes(rng.choice((1, 5, 100, 5000, 60000))))
        if stranger.writer.can_write_eof():
            stranger.writer.write_eof()
        else:
            stranger.writer.close()
        await stranger.ended()
        await stranger.close()
    assert [event for event in node.events if event[0] != "connected"] == []
    assert node.transport.send("n3", m.TimeoutNow(1))
    await until(lambda: other.messages())
    await close(node, other)


@on_both_loops
@pytest.mark.parametrize("length", [wire.STRANGER_BYTES_MAX + 1, 1 << 30, (1 << 32) - 1])
async def test_a_long_frame_before_the_handshake_is_refused_unread(length: int) -> None:
    node = await member_of_three()
    stranger = await Stranger.connect(node.address)
    stranger.write_raw(struct.pack(">I", length) + bytes(1000))
    assert isinstance(await stranger.read(), wire.Hello)
    refusal = await stranger.read()
    assert refusal == wire.Refusal(Reason.PROTOCOL, f"a frame of {length} bytes is announced; the limit is 4096")
    await stranger.ended()
    await stranger.close()
    await close(node)


@on_both_loops
async def test_a_long_frame_of_a_member_ends_its_connection_too() -> None:
    a, b = Node("n1"), Node("n2")
    await meet(a, b)
    line = a.transport._open["n2"]
    assert line._transport is not None
    line._transport.write(struct.pack(">I", 1 << 30) + bytes(1 << 16))
    await until(lambda: ("n2", "protocol") in a.refusals())
    await until(lambda: min(a.count("connected"), b.count("connected")) >= 2)
    await close(a, b)


@on_both_loops
async def test_a_second_handshake_or_a_message_before_the_first_is_refused() -> None:
    node = await member_of_three()
    for frame, says in ((m.TimeoutNow(1), "TimeoutNow in the middle"), (wire.Welcome(1), "Welcome in the middle")):
        stranger = await Stranger.connect(node.address)
        stranger.write(wire.encode(frame))
        assert isinstance(await stranger.read(), wire.Hello)
        refusal = await stranger.read()
        assert refusal.reason == Reason.PROTOCOL
        assert says in refusal.detail
        await stranger.close()
    stranger = await Stranger.connect(node.address)
    stranger.write(wire.encode(hello("n3")) + b"")
    stranger.write(wire.encode(wire.Welcome(1)))
    assert [type(await stranger.read()) for _ in range(2)] == [wire.Hello, wire.Welcome]
    stranger.write(wire.encode(hello("n3")))
    refusal = await stranger.read()
    assert "second handshake" in refusal.detail
    await stranger.close()
    assert node.messages() == []
    await close(node)


@on_both_loops
@pytest.mark.parametrize("secure", [False, True])
async def test_a_handshake_that_is_not_complete_in_time_ends(
    secure: bool, made: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    limits = replace(QUICK, connection=replace(QUICK.connection, handshake_s=0.2))
    node = await member_of_three(TlsFiles.of(made, "n2") if secure else None, limits=limits)
    silent = await Stranger.connect(node.address)
    half = await Stranger.connect(node.address, context(made, "n1") if secure else None)
    half.write(wire.encode(hello("n1")))  # and never a Welcome
    await silent.ended()
    await half.ended()
    await until(lambda: "not complete within 0.2 s" in caplog.text)
    await until(lambda: not node.transport._all)
    assert not node.events
    for stranger in (silent, half):
        await stranger.close()
    await close(node)


@on_both_loops
async def test_strangers_that_wait_are_bounded_and_keep_nobody_out() -> None:
    limits = replace(QUICK, strangers_max=8, connection=replace(QUICK.connection, handshake_s=60.0))
    node = await Node("n2", limits=limits).start()
    crowd = [await Stranger.connect(node.address) for _ in range(40)]
    for stranger in crowd[:32]:
        await stranger.ended()
    other = await Node("n1").start()
    other.knows([node, other], index=3)
    await until(lambda: node.is_connected("n1"))
    assert len(node.transport._strangers) <= 8
    for stranger in crowd:
        await stranger.close()
    await close(node, other)


# -- who is it: cluster, name, disk ------------------------------------------------------------------------------------------


@on_both_loops
@pytest.mark.parametrize(
    ("said", "reason", "says"),
    [
        ({"protocol": 2}, Reason.PROTOCOL, "speaks version 2 of the peer protocol, this node 1"),
        ({"cluster_id": UUID}, Reason.CLUSTER, f"belongs to cluster {UUID}, this node to {CLUSTER}"),
        ({"name": "n2"}, Reason.NAME, "this node's own name"),
        ({"name": "n9"}, Reason.NOT_MEMBER, "n9 is not a member"),
        ({"incarnation": UUID}, Reason.OTHER_DISK, "remove the node from the cluster and add it again"),
        ({"incarnation": UUID, "membership_index": 0}, Reason.OTHER_DISK, "not the one that was a member"),
    ],
)
async def test_who_does_not_belong_is_told_why(said: dict[str, Any], reason: str, says: str) -> None:
    node = await member_of_three()
    stranger = await Stranger.connect(node.address)
    stranger.write(wire.encode(hello(**{"name": "n1", **said})))
    assert isinstance(await stranger.read(), wire.Hello)
    refusal = await stranger.read()
    assert refusal.reason == reason
    assert says in refusal.detail
    await stranger.ended()
    await stranger.close()
    assert not node.events
    await close(node)


@on_both_loops
async def test_the_address_of_one_node_must_not_lead_to_another() -> None:
    a, c = await Node("n1").start(), await Node("n3").start()
    wrong = replace(Node("n2", address=c.address).member())
    a.knows([a, wrong, replace(c.member(), peer="127.0.0.1:1")])
    c.knows([a, wrong, c])
    await until(lambda: ("n1", "name") in c.refusals())
    detail = next(event[3] for event in c.events if event[0] == "refused")
    assert detail == "at the peer address of n2 answers n3; correct the address"
    await until(lambda: a.is_connected("n3"))  # n3 calls n1, after some patience
    await close(a, c)


@on_both_loops
async def test_a_wiped_disk_is_refused_until_it_is_added_anew(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    a, b = Node("n1"), Node("n2")
    await meet(a, b)
    await b.transport.close()
    wiped = await Node("n2", number=2).start(b.address)  # a new directory: another incarnation, no members
    await until(lambda: ("n1", Reason.OTHER_DISK) in wiped.refusals())
    assert wiped.transport.refused_by["n1"].reason == Reason.OTHER_DISK
    await until(lambda: sum(e[0] == "refused" for e in wiped.events) >= 3)
    assert sum("refused this node" in r.message for r in caplog.records) == 1, "it is logged once, not with every attempt"
    assert wiped.count("connected") == 0
    a.knows([a], index=5)
    a.knows([a, wiped], index=6)
    await until(lambda: a.is_connected("n2") and wiped.is_connected("n1"))
    await close(a, wiped)


@on_both_loops
async def test_an_old_copy_of_a_disk_is_refused() -> None:
    a, b = Node("n1"), Node("n2")
    await meet(a, b)
    image = b.disk.killed()
    b = await b.restart()
    await until(lambda: a.is_connected("n2"))
    await b.transport.close()
    copy = await replace(b, disk=image.killed(), events=[]).start(b.address)  # as often started as the one that was seen
    assert copy.book.start == b.book.start
    await until(lambda: ("n1", Reason.OLD_DISK) in copy.refusals())
    assert copy.count("connected") == 0
    await copy.transport.close()
    b = await b.restart()  # the true one goes on
    await until(lambda: a.is_connected("n2") and b.is_connected("n1"))
    await close(a, b)


@on_both_loops
async def test_a_disk_that_forgot_what_it_had_acknowledged_is_refused_also_by_a_node_that_restarted() -> None:
    a, b = Node("n1"), Node("n2", state=HelloState(4, 90, 4))
    await meet(a, b)
    a.book.note_committed("n2", 4, 90)
    a = await a.restart()
    a.transport.reconcile()
    await until(lambda: a.is_connected("n2"))
    b = await b.restart(state=HelloState(4, 89, 4))
    await until(lambda: ("n1", Reason.OLD_DISK) in b.refusals())
    b = await b.restart(state=HelloState(6, 93, 5))
    await until(lambda: a.is_connected("n2") and b.is_connected("n1"))
    await close(a, b)


@on_both_loops
async def test_the_start_of_a_node_that_was_let_in_is_on_the_disk() -> None:
    a, b = Node("n1"), Node("n2")
    await meet(a, b)
    known = a.book.get("n2")
    assert known is not None
    assert known.start == b.book.start
    assert f"{DIRECTORY}/peers" in a.disk.names
    assert b.book.nonce.hex().encode() in bytes(a.disk.names[f"{DIRECTORY}/peers"].durable)
    await close(a, b)


@on_both_loops
async def test_what_a_refusal_says_is_fit_for_a_log() -> None:
    node = await member_of_three()
    stranger = await Stranger.connect(node.address)
    stranger.write(wire.encode(hello("n3")))
    stranger.write(wire.encode(wire.Refusal("old-disk", "\x1b[31m\nERROR root: gone" + "x" * 900)))
    await until(lambda: node.refusals())
    (detail,) = {event[3] for event in node.events if event[0] == "refused"}
    assert detail.startswith("?[31m?ERROR root: gone")
    assert len(detail) == 400
    await stranger.close()
    await close(node)


@on_both_loops
async def test_certificates_that_are_renewed_are_used_without_a_restart(tmp_path: Path) -> None:
    certificates(tmp_path, "n1", "n2")
    a, b = Node("n1", TlsFiles.of(tmp_path, "n1")), Node("n2", TlsFiles.of(tmp_path, "n2"))
    await meet(a, b)
    for name in os.listdir(tmp_path):
        os.rename(tmp_path / name, tmp_path / f"{name}.old")
    make_ca(tmp_path)
    make_node(tmp_path, "n1", ["h"])
    make_node(tmp_path, "n2", ["h"])
    for line in list(a.transport._all):
        line.abort("cut by the test")
    await until(lambda: min(a.count("connected"), b.count("connected")) >= 2)
    line = a.transport._open["n2"]
    assert line._tls is not None
    issuer = dict(part[0] for part in line._tls._object.getpeercert()["issuer"])["commonName"]
    (tmp_path / "n1.crt").write_text("rubbish")  # is not used, and the old one stays
    for line in list(a.transport._all):
        line.abort("cut by the test")
    await until(lambda: min(a.count("connected"), b.count("connected")) >= 3)
    assert issuer.startswith("KeelFS CA")
    await close(a, b)


def test_who_belongs() -> None:
    known = Node("n1", address="h:1").member()
    ours = Membership((known,), 5)
    assert belongs("n1", known.incarnation, 0, ours)
    assert not belongs("n1", UUID, 5, ours)
    assert belongs("n1", UUID, 6, ours)  # it goes by newer members
    assert not belongs("n4", UUID, 5, ours)
    assert belongs("n4", UUID, 0, Membership())  # this node knows nobody


def test_the_document_explains_every_refusal() -> None:
    text = (Path(__file__).parents[2] / "docs" / "PEERS.md").read_text()
    words = {value for name, value in vars(Reason).items() if name.isupper()}
    assert set(re.findall(r"^\| `([a-z-]+)` \| ", text, re.MULTILINE)) == words
