"""node.json: what is written is read again, and what cannot be used is named."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from fuseclient.errors import ClientError
from keelfs import node_settings
from keelfs.commands.server import configured
from keelfs.node_settings import NodeSettings, complete
from raft.tls import TlsFiles

if TYPE_CHECKING:
    from pathlib import Path

    from metaserver.config import ServerConfig

MINE = complete(name="n1", listen="10.0.0.1:7420", insecure=True)
ADDRESSES = ("listen", "admin", "peer", "advertise_client", "advertise_admin", "advertise_peer")
FLAGS = dict.fromkeys(("name", *ADDRESSES, "tls_ca", "tls_cert", "tls_key"), "")


def test_the_gaps_are_filled() -> None:
    assert (MINE.listen, MINE.admin, MINE.peer) == ("10.0.0.1:7420", "10.0.0.1:7421", "10.0.0.1:7422")
    assert (MINE.told_client, MINE.told_admin, MINE.told_peer) == (MINE.listen, MINE.admin, MINE.peer)
    assert complete(name="n1", listen="[::1]").peer == "[::1]:7422"


def test_what_is_advertised_is_told() -> None:
    made = complete(name="n1", listen="0.0.0.0:1000", advertise=("a:1", "b:2", "c:3"))
    assert (made.told_client, made.told_admin, made.told_peer) == ("a:1", "b:2", "c:3")
    member = made.member("x")
    assert (member.client, member.admin, member.peer) == ("a:1", "b:2", "c:3")


@pytest.mark.parametrize(
    ("says", "given"),
    {
        "is no node name": {"name": "N1"},
        "means every address": {"listen": "0.0.0.0:7420"},
        "--advertise-peer": {"peer": "[::]:7422"},
        "a port each": {"peer": "10.0.0.1:7420"},
        "port must be a number": {"admin": "10.0.0.1:0"},
        "there is no port 65536": {"listen": "10.0.0.1:65535"},
        "is not an address": {"advertise": ("", "http://x", "")},
    }.items(),
)
def test_what_no_member_can_have(says: str, given: dict[str, Any]) -> None:
    with pytest.raises(ClientError, match=re.escape(says)) as raised:
        complete(**{"name": "n1", "listen": "10.0.0.1:7420", **given})
    assert raised.value.exit_code == 2


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = complete(name="n1", listen="h:1", advertise=("a:1", "", ""), tls=TlsFiles("ca", "/c", "/k"))
    node_settings.write(tmp_path / "d", made)
    assert node_settings.read(tmp_path / "d") == made
    assert made.tls == TlsFiles(f"{os.getcwd()}/ca", "/c", "/k")
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["node.json"]


def test_there_may_be_none(tmp_path: Path) -> None:
    assert node_settings.read(tmp_path) is None
    assert node_settings.read(tmp_path / "missing") is None


def good() -> dict[str, Any]:
    return {"format": 1, "name": "n1", "listen": "h:1", "admin": "h:2", "peer": "h:3"}


@pytest.mark.parametrize(
    ("says", "data"),
    {
        "not JSON": b"{",
        "not JSON (": b"\xff\xfe",
        "not a JSON object": b"[1]",
        "format is 2": json.dumps(good() | {"format": 2}).encode(),
        "format is None": b"{}",
        "'admim' is no setting": json.dumps(good() | {"admim": "h:1"}).encode(),
        "'name' must be text": json.dumps(good() | {"name": 5}).encode(),
        "'insecure' must be true or false": json.dumps(good() | {"insecure": "no"}).encode(),
        "'peer' is missing": json.dumps({k: v for k, v in good().items() if k != "peer"}).encode(),
        "'listen': 'h:99999'": json.dumps(good() | {"listen": "h:99999"}).encode(),
        "TLS needs all three": json.dumps(good() | {"tls_ca": "/ca"}).encode(),
        "is no node name": json.dumps(good() | {"name": "../n"}).encode(),
    }.items(),
)
def test_what_people_broke_is_named(tmp_path: Path, says: str, data: bytes) -> None:
    (tmp_path / "node.json").write_bytes(data)
    with pytest.raises(ClientError, match=re.escape(says)) as raised:
        node_settings.read(tmp_path)
    assert raised.value.exit_code == 2


# --- what `keelfs server` makes of it


def config(directory: Path, insecure: bool | None = None, **flags: str) -> ServerConfig:
    return configured(directory, {**FLAGS, **flags}, insecure)


def test_a_node_needs_no_flags(tmp_path: Path) -> None:
    node_settings.write(tmp_path, MINE)
    found = config(tmp_path)
    assert (found.name, found.listen, found.admin, found.peer_listen, found.insecure) == (
        "n1",
        "10.0.0.1:7420",
        "10.0.0.1:7421",
        "10.0.0.1:7422",
        True,
    )


def test_a_flag_counts_more(tmp_path: Path) -> None:
    node_settings.write(tmp_path, MINE)
    found = config(tmp_path, listen="127.0.0.1:99", peer="127.0.0.1:5", insecure=False, tls_ca="a", tls_cert="b", tls_key="c")
    assert (found.listen, found.admin, found.peer_listen) == ("127.0.0.1:99", "127.0.0.1:100", "127.0.0.1:5")
    assert not found.insecure
    assert found.tls == TlsFiles("a", "b", "c")


def test_a_single_node_uses_the_sites_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "keelfs.commands.server.settings", lambda: NodeSettings(name="", listen="127.0.0.1:5000", admin="", peer="")
    )
    found = config(tmp_path)
    assert (found.name, found.listen, found.admin, found.peer_listen) == ("", "127.0.0.1:5000", "127.0.0.1:5001", None)


def test_half_of_tls_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="belong together"):
        config(tmp_path, tls_ca="ca")


def test_nothing_starts_on_an_unfinished_restore(tmp_path: Path) -> None:
    (tmp_path / "restore.unfinished").touch()
    with pytest.raises(ClientError, match="not restored to its end"):
        config(tmp_path)
