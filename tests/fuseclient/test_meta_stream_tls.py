"""TLS between client and node, good and bad: what does not fit is refused with one sentence that says what to mend."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from fake_meta_service import FakeMeta

from fuseclient.errors import ClientError
from fuseclient.meta_client import MetaClient, Timeouts
from fuseclient.tls import Access, TlsFiles, names_a_node
from fuseclient.volume_url import VolumeUrl
from protos import meta_pb2 as pb
from raft.certificates import make_ca, make_client, make_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

QUICK = Timeouts(attach_s=5.0, close_s=0.5)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ours/: authority, node n1, client c1; theirs/: another cluster's."""
    base = tmp_path_factory.mktemp("certificates")
    for cluster in ("ours", "theirs"):
        directory = base / cluster
        directory.mkdir()
        make_ca(directory)
        make_node(directory, "n1", ["127.0.0.1", "localhost"])
        make_client(directory, "c1")
    return base


def server_context(directory: Path, who: str = "n1", trust: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / f"{who}.crt", directory / f"{who}.key")
    context.load_verify_locations((trust or directory) / "ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def access(directory: Path, who: str = "c1") -> Access:
    return Access(TlsFiles(directory / "ca.crt", directory / f"{who}.crt", directory / f"{who}.key").context())


@asynccontextmanager
async def node(context: ssl.SSLContext | None) -> AsyncIterator[VolumeUrl]:
    service = FakeMeta(tls=context)
    await service.start()
    try:
        yield VolumeUrl.parse(f"keel://{service.address}/data")
    finally:
        await service.stop()


async def refusal(url: VolumeUrl, how: Access) -> ClientError:
    with pytest.raises(ClientError) as refused:
        await MetaClient.connect(url, "test", access=how, timeouts=QUICK)
    assert "\n" not in str(refused.value)
    return refused.value


async def test_a_session_over_mutual_tls(certificates: Path) -> None:
    ours = certificates / "ours"
    async with node(server_context(ours)) as url:
        client = await MetaClient.connect(url, "test", access=access(ours), timeouts=QUICK)
        big = pb.Request(setxattr=pb.SetXattr(ino=3, name=b"n", value=bytes(3 << 20)))
        await client.change(big)
        await client.close()


async def test_a_node_of_another_cluster(certificates: Path) -> None:
    async with node(server_context(certificates / "theirs")) as url:
        error = await refusal(url, access(certificates / "ours"))
    assert error.exit_code == 12
    assert "not one of this cluster (--tls-ca)" in str(error)


async def test_a_client_of_another_cluster(certificates: Path) -> None:
    ours, theirs = certificates / "ours", certificates / "theirs"
    files = TlsFiles(ours / "ca.crt", theirs / "c1.crt", theirs / "c1.key")
    async with node(server_context(ours)) as url:
        error = await refusal(url, Access(files.context()))
    assert error.exit_code == 12
    assert "--tls-cert" in str(error)


async def test_a_client_without_a_certificate(certificates: Path) -> None:
    ours = certificates / "ours"
    async with node(server_context(ours)) as url:
        error = await refusal(url, Access(TlsFiles(ours / "ca.crt").context()))
    assert error.exit_code == 12
    assert "--tls-cert" in str(error)


async def test_a_client_that_passes_itself_off_as_a_node(certificates: Path) -> None:
    """Its certificate is the cluster's, but names no node."""
    ours = certificates / "ours"
    context = server_context(ours)
    context.load_cert_chain(ours / "c1.crt", ours / "c1.key")
    async with node(context) as url:
        error = await refusal(url, access(ours))
    assert error.exit_code == 12


def test_only_a_node_passes_for_one() -> None:
    def names(*names: tuple[str, str]) -> dict[str, object]:
        return {"subjectAltName": names}

    assert names_a_node(names(("IP Address", "127.0.0.1"), ("URI", "keelfs:node:n1")))
    for other in (
        names(("URI", "keelfs:client:n1")),
        names(("DNS", "keelfs:node:n1")),
        names(("URI", "https://keelfs:node:n1")),
        names(),
        {},
        None,
    ):
        assert not names_a_node(other)


async def test_tls_to_a_port_in_plain_text(certificates: Path) -> None:
    async with node(None) as url:
        error = await refusal(url, access(certificates / "ours"))
    assert error.exit_code == 11


async def test_plain_text_to_a_port_with_tls(certificates: Path) -> None:
    async with node(server_context(certificates / "ours")) as url:
        error = await refusal(url, Access())
    assert error.exit_code == 11
    assert "TLS" in str(error)


def test_files_that_do_not_fit(certificates: Path, tmp_path: Path) -> None:
    ours, theirs = certificates / "ours", certificates / "theirs"
    junk = tmp_path / "junk.pem"
    junk.write_text("hello")
    cases = [
        (TlsFiles(tmp_path / "absent"), "cannot be read"),
        (TlsFiles(tmp_path), "cannot be read"),
        (TlsFiles(junk), "holds no certificate"),
        (TlsFiles(ours / "ca.crt", ours / "c1.crt", theirs / "c1.key"), "cannot be used together"),
        (TlsFiles(ours / "ca.crt", junk, ours / "c1.key"), "cannot be used together"),
        (TlsFiles(ours / "ca.crt", ours / "c1.crt", junk), "cannot be used together"),
    ]
    for files, why in cases:
        with pytest.raises(ClientError, match=why) as refused:
            files.context()
        assert refused.value.exit_code == 2


def test_options_that_belong_together() -> None:
    assert TlsFiles.given("", "", "") is None
    for ca, cert, key in (("", "c", "k"), ("a", "c", ""), ("a", "", "k")):
        with pytest.raises(ClientError, match="--tls"):
            TlsFiles.given(ca, cert, key)
