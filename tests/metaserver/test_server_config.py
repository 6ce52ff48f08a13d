"""What a server refuses before it opens anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from metaserver.command_line import parse, tls_files
from metaserver.config import EXIT_CONFIG, ServerConfig, ServerError
from metaserver.replication import replication_for
from raft.tls import TlsFiles

TLS = TlsFiles("ca.crt", "n1.crt", "n1.key")
DATA = Path("/nowhere")


def refusal(**fields):
    with pytest.raises(ServerError) as refused:
        ServerConfig(DATA, **fields).validate()
    assert refused.value.exit_code == EXIT_CONFIG
    return str(refused.value)


@pytest.mark.parametrize("option", ["listen", "admin", "peer_listen"])
def test_plaintext_stays_on_this_machine(option):
    there = {option: "10.0.0.1:7000"}
    said = refusal(**there)
    assert f"--{option.removesuffix('_listen')} 10.0.0.1:7000" in said
    assert "--insecure" in said
    ServerConfig(DATA, **there, insecure=True).validate()
    ServerConfig(DATA, **there, tls=TLS).validate()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"advertise_client": "host:0"}, "--advertise-client host:0"),
        ({"advertise_peer": "host"}, "--advertise-peer host"),
        ({"peer_listen": "nonsense"}, "--peer nonsense"),
        ({"wait_max_s": 0}, "wait_max_s"),
    ],
)
def test_what_cannot_work_is_named(fields, said):
    assert said in refusal(**fields)


def test_certificates_come_in_threes():
    assert tls_files(None, None, None) is None
    assert tls_files("a", "b", "c") == TlsFiles("a", "b", "c")
    with pytest.raises(ServerError, match="missing: --tls-cert, --tls-key"):
        tls_files("a", None, None)


def test_the_options_of_a_cluster_node():
    argv = [
        "--data",
        "/d",
        "--name",
        "n1",
        "--peer",
        "127.0.0.1:1",
        "--tls-ca",
        "a",
        "--tls-cert",
        "b",
        "--tls-key",
        "c",
    ]
    config, ready_fd = parse([*argv, "--advertise-peer", "h:2", "--ready-fd", "7"])
    assert (config.name, config.peer_listen, config.advertise_peer) == ("n1", "127.0.0.1:1", "h:2")
    assert (config.tls, ready_fd) == (TlsFiles("a", "b", "c"), 7)


def test_a_directory_and_its_options_belong_together(tmp_path):
    with pytest.raises(ServerError, match="keelfs cluster init"):
        replication_for(ServerConfig(tmp_path, peer_listen="127.0.0.1:0", name="n1"), None)
    (tmp_path / "base").write_bytes(b"")
    for fields in ({}, {"name": "n1"}, {"peer_listen": "127.0.0.1:0"}):
        with pytest.raises(ServerError, match="--name and --peer") as refused:
            replication_for(ServerConfig(tmp_path, **fields), None)
        assert refused.value.exit_code == EXIT_CONFIG
