"""Certificates and the TLS made of them: what is in the files, who accepts whom, and what is said when a file is no good."""

from __future__ import annotations

import datetime
import os
import ssl
import stat
import threading
import time
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from raft import tls
from raft.certificates import (
    CertificateError,
    Principal,
    describe,
    describe_all,
    make_all,
    make_ca,
    make_client,
    make_node,
    principals,
)
from raft.tls import TlsFiles
from raft.tls_session import TlsFailed, TlsSession

NOW = 1_900_000_000.0


def clock() -> float:
    return NOW


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory: Path = tmp_path_factory.mktemp("certs")
    make_all(directory, ["n1", "n2"], ["127.0.0.1", "node.example.org", "::1"], ["admin"])
    return directory


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


# -- what is made ------------------------------------------------------------------------------------------------------------


def test_a_ca_may_sign_for_ten_years_and_only_leaves(tmp_path: Path) -> None:
    ca = load(make_ca(tmp_path / "new" / "pki", clock=clock))
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)
    assert ca.not_valid_before_utc == datetime.datetime.fromtimestamp(NOW - 86400, datetime.UTC)
    assert ca.not_valid_after_utc == datetime.datetime.fromtimestamp(NOW + 3652 * 86400, datetime.UTC)
    assert stat.S_IMODE((tmp_path / "new" / "pki").stat().st_mode) == 0o700


def test_a_node_is_server_and_client_and_a_client_is_not_a_server(made: Path) -> None:
    uses = {
        name: set(load(made / f"{name}.crt").extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        for name in ("n1", "admin")
    }
    assert uses["n1"] == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert uses["admin"] == {ExtendedKeyUsageOID.CLIENT_AUTH}
    node, client, ca = describe(made / "n1.crt"), describe(made / "admin.crt"), describe(made / "ca.crt")
    assert (node.kind, node.name, node.hosts) == ("node", "n1", ("node.example.org", "127.0.0.1", "::1"))
    assert (client.kind, client.name, client.hosts) == ("client", "admin", ())
    assert ca.kind == "ca"
    assert [one.name for one in describe_all(made)] == ["admin", ca.name, "n1", "n2"]


def test_no_certificate_outlives_its_ca(tmp_path: Path) -> None:
    make_ca(tmp_path, days=10, clock=clock)
    make_node(tmp_path, "n1", ["h"], days=100, clock=clock)
    assert describe(tmp_path / "n1.crt").not_after == describe(tmp_path / "ca.crt").not_after
    with pytest.raises(CertificateError, match="expired already"):
        make_node(tmp_path, "n2", ["h"], clock=lambda: NOW + 11 * 86400)


def test_keys_are_for_their_owner_alone_from_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, modes = os.open, []

    def spy(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            modes.append(mode)
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", spy)
    old = os.umask(0)
    try:
        make_ca(tmp_path)
        make_client(tmp_path, "admin")
    finally:
        os.umask(old)
    assert modes == [0o600] * 4
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert found == {"ca.crt": 0o644, "ca.key": 0o600, "admin.crt": 0o644, "admin.key": 0o600}


@pytest.mark.parametrize("there", ["n1.crt", "n1.key", "ca.crt", "ca.key"])
def test_nothing_is_overwritten(there: str, tmp_path: Path) -> None:
    if there.startswith("n1"):
        make_ca(tmp_path)
    (tmp_path / there).symlink_to("nowhere")  # also not what a dangling link stands for
    before = {path.name: path.lstat().st_ino for path in tmp_path.iterdir()}
    with pytest.raises(CertificateError, match="nothing is overwritten"):
        make_ca(tmp_path) if there.startswith("ca") else make_node(tmp_path, "n1", ["h"])
    with pytest.raises(CertificateError, match="nothing is overwritten"):
        make_all(tmp_path, ["n1"], ["h"])
    assert {path.name: path.lstat().st_ino for path in tmp_path.iterdir()} == before


def test_a_disk_that_is_full_leaves_nothing_half_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_ca(tmp_path)
    real, synced = os.fsync, []

    def full(fd: int) -> None:
        synced.append(fd)
        if len(synced) == 3:  # key, its name, certificate
            raise OSError(28, "No space left on device")
        real(fd)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CertificateError, match=r"n1\.crt: No space left on device"):
        make_node(tmp_path, "n1", ["h"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ca.crt", "ca.key"]


@pytest.mark.parametrize("name", ["", "ca", "N1", "n1\n", "../n1", "a" * 33, "n 1", "-n"])
def test_names_are_those_that_a_node_can_have(name: str, tmp_path: Path) -> None:
    make_ca(tmp_path)
    for make in (lambda: make_node(tmp_path, name, ["h"]), lambda: make_client(tmp_path, name)):
        with pytest.raises(CertificateError, match="no name for a certificate"):
            make()


@pytest.mark.parametrize("host", ["", "h:7000", "http://h", "h h", "hö", "h" * 254, "a\0b"])
def test_hosts_are_names_or_addresses(host: str, tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="no host name"):
        make_all(tmp_path / "new", ["n1"], ["127.0.0.1", host])
    assert not (tmp_path / "new").exists()


def test_a_ca_that_cannot_sign_is_told(tmp_path: Path, made: Path) -> None:
    with pytest.raises(CertificateError, match="there is no CA; make one with: keelfs certs init"):
        make_node(tmp_path, "n1", ["h"])
    (tmp_path / "ca.crt").write_bytes((made / "ca.crt").read_bytes())
    with pytest.raises(CertificateError, match=r"ca\.key: No such file"):
        make_node(tmp_path, "n1", ["h"])
    (tmp_path / "ca.key").write_bytes((made / "n1.key").read_bytes())
    with pytest.raises(CertificateError, match=r"ca\.key: not the key of"):
        make_node(tmp_path, "n1", ["h"])
    (tmp_path / "ca.key").write_text("rubbish")
    with pytest.raises(CertificateError, match=r"ca\.key: not a private key"):
        make_node(tmp_path, "n1", ["h"])


def test_who_a_uri_speaks_for() -> None:
    assert principals(["https://x", "keelfs:node:n1"]) == (Principal("node", "n1"),)
    assert principals(["keelfs:client:ops-1", "keelfs:node:n1"]) == (Principal("client", "ops-1"), Principal("node", "n1"))
    for wrong in ("keelfs:node:", "keelfs:node:N1", "keelfs:node:n1\n", "keelfs:admin:n1", "KEELFS:node:n1", "keelfs:node:a/b"):
        assert principals([wrong]) == ()
    assert tls.peer_principal({"subjectAltName": (("URI", "keelfs:node:n1"), ("URI", "keelfs:node:n2"))}) is None
    assert tls.peer_principal({"subjectAltName": (("DNS", "keelfs:node:n1"),)}) is None
    assert tls.peer_principal(None) is None


# -- TLS ---------------------------------------------------------------------------------------------------------------------


def shake(client: TlsSession, server: TlsSession) -> None:
    client.start()
    for _ in range(4):
        server.receive(client.take())
        client.receive(server.take())


def test_both_sides_know_each_other_and_nothing_is_resumed(made: Path) -> None:
    client = TlsSession(tls.client_context(TlsFiles.of(made, "n1")), server_side=False)
    server = TlsSession(tls.server_context(TlsFiles.of(made, "n2")), server_side=True)
    shake(client, server)
    assert client.established
    assert server.established
    assert (client.principal(), server.principal()) == (Principal("node", "n2"), Principal("node", "n1"))
    assert client._object.version() == "TLSv1.3"
    large = os.urandom(3 << 20)
    assert server.receive(client.send(large)) == large
    assert client.receive(server.send(b"x") + server.send(b"y")) == b"xy"
    with pytest.raises(ssl.SSLWantReadError):
        server._object.unwrap()
    assert client.receive(server.take()) == b""
    assert client.ended
    assert not server.ended
    damaged = bytearray(client.send(b"hello"))
    damaged[-1] ^= 1
    with pytest.raises(TlsFailed, match="no TLS"):
        server.receive(bytes(damaged))


def test_a_client_proves_itself_to_a_node_but_cannot_serve(made: Path) -> None:
    client = TlsSession(tls.client_context(TlsFiles.of(made, "admin")), server_side=False)
    server = TlsSession(tls.server_context(TlsFiles.of(made, "n2")), server_side=True)
    shake(client, server)
    assert server.principal() == Principal("client", "admin")
    client = TlsSession(tls.client_context(TlsFiles.of(made, "n1")), server_side=False)
    server = TlsSession(tls.server_context(TlsFiles.of(made, "admin")), server_side=True)
    with pytest.raises(TlsFailed, match="unsuitable certificate purpose"):
        shake(client, server)


def test_contexts_are_strict(made: Path) -> None:
    for make in (tls.server_context, tls.client_context):
        context = make(TlsFiles.of(made, "n1"))
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3


def test_a_session_that_is_fed_rubbish_fails_with_a_reason(made: Path) -> None:
    context = tls.server_context(TlsFiles.of(made, "n1"))
    for rubbish in (b"GET / HTTP/1.0\r\n\r\n", b"\0" * 100, b"\x16\x03\x01\x00\x05" + b"\xff" * 50, b"SSH-2.0-x\r\n"):
        session = TlsSession(context, server_side=True)
        with pytest.raises(TlsFailed):
            session.receive(rubbish)
        with pytest.raises(TlsFailed):
            session.receive(rubbish)


def test_grpc_takes_the_files(made: Path) -> None:
    """Server and client by the files alone; grpc checks the host name, so the address must be in the certificate."""
    pem, own = tls.pem_bytes(TlsFiles.of(made, "n1")), tls.pem_bytes(TlsFiles.of(made, "admin"))
    assert "PRIVATE" not in repr(pem)
    from concurrent.futures import ThreadPoolExecutor

    seen: list[set[bytes]] = []

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: object) -> grpc.RpcMethodHandler:
            def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
                seen.append({bytes(name) for name in context.auth_context()["x509_subject_alternative_name"]})
                return request

            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Handler()])
    credentials = grpc.ssl_server_credentials([(pem.key, pem.cert)], pem.ca, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        with grpc.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(own.ca, own.key, own.cert)) as channel:
            assert channel.unary_unary("/x/y")(b"hello", timeout=10) == b"hello"
        assert principals(name.decode() for name in seen[0]) == (Principal("client", "admin"),)
    finally:
        server.stop(None).wait()


# -- files that are no good ----------------------------------------------------------------------------------------------------


@pytest.fixture
def files(made: Path, tmp_path: Path) -> TlsFiles:
    for name in ("ca.crt", "n1.crt", "n1.key"):
        (tmp_path / name).write_bytes((made / name).read_bytes())
    (tmp_path / "n1.key").chmod(0o600)
    return TlsFiles.of(tmp_path, "n1")


def complaint(files: TlsFiles, when: float | None = None) -> str:
    with pytest.raises(CertificateError) as raised:
        tls.server_context(files, clock=time.time if when is None else lambda: when)
    text = str(raised.value)
    assert "\n" not in text
    assert "PRIVATE" not in text
    return text


@pytest.mark.parametrize("which", ["ca", "cert", "key"])
@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "No such file"), (b"rubbish", "not a "), (b"\0" * (300 << 10), ""), (b"", "not a ")],
)
def test_a_file_that_is_no_good_is_named(which: str, content: bytes | None, says: str, files: TlsFiles) -> None:
    path = Path(getattr(files, which))
    path.unlink()
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    text = complaint(files)
    assert text.startswith(f"{path}: ")
    assert says in text


def test_files_that_do_not_belong_together(files: TlsFiles, made: Path, tmp_path: Path) -> None:
    key = tmp_path / "n1.key"
    key.write_bytes((made / "n2.key").read_bytes())
    assert complaint(files) == f"{key}: not the key of {files.cert}"
    other = tmp_path / "other"
    make_ca(other)
    (tmp_path / "ca.crt").write_bytes((other / "ca.crt").read_bytes())
    assert "belong to different clusters" in complaint(files)


def test_a_certificate_out_of_its_time(files: TlsFiles) -> None:
    until = describe(Path(files.cert)).not_after.timestamp()
    assert "n1.crt: the certificate expired on" in complaint(files, until + 1)
    assert "ca.crt: not valid before" in complaint(files, 1_000_000_000)
    tls.server_context(files, clock=lambda: until - 1)
    tls.server_context(files, clock=lambda: time.time() - 3600)  # a clock that is an hour behind is no reason to stay down


@pytest.mark.parametrize(
    ("mode", "fine"), [(0o600, True), (0o400, True), (0o640, True), (0o644, False), (0o620, False), (0o602, False)]
)
def test_a_key_that_others_may_read_is_refused(mode: int, fine: bool, files: TlsFiles) -> None:
    Path(files.key).chmod(mode)
    if fine:
        tls.server_context(files)
    else:
        assert "chmod 600" in complaint(files)


def test_an_encrypted_key_is_refused_without_asking_for_its_password(files: TlsFiles) -> None:
    key = serialization.load_pem_private_key(Path(files.key).read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    Path(files.key).write_bytes(locked)
    assert "the key is encrypted" in complaint(files)


def test_two_cas_in_one_file_carry_a_cluster_from_one_to_the_other(files: TlsFiles, tmp_path: Path) -> None:
    make_ca(tmp_path / "new")
    with Path(files.ca).open("ab") as file:
        file.write((tmp_path / "new" / "ca.crt").read_bytes())
    make_node(tmp_path / "new", "n2", ["h"])
    new = TlsFiles(files.ca, str(tmp_path / "new" / "n2.crt"), str(tmp_path / "new" / "n2.key"))
    client, server = (
        TlsSession(tls.client_context(files), server_side=False),
        TlsSession(tls.server_context(new), server_side=True),
    )
    shake(client, server)
    assert server.principal() == Principal("node", "n1")


def test_a_certificate_that_speaks_for_nobody_is_no_nodes(files: TlsFiles) -> None:
    assert tls.own_principal(files) == Principal("node", "n1")
    with pytest.raises(CertificateError, match="names 0 KeelFS nodes or clients"):
        tls.own_principal(TlsFiles(files.ca, files.ca, files.key))


def test_contexts_are_made_anew_only_when_a_file_has_changed(
    files: TlsFiles, made: Path, caplog: pytest.LogCaptureFixture
) -> None:
    contexts = tls.Contexts(files)
    first = contexts.server()
    assert contexts.server() is first
    Path(files.cert).write_text("rubbish")
    assert contexts.server() is first
    assert contexts.server() is first
    assert caplog.text.count("are not used") == 1
    Path(files.cert).write_bytes((made / "n1.crt").read_bytes())
    assert contexts.server() is not first
    assert threading.active_count() >= 1
