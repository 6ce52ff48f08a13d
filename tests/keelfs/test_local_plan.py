"""What `keelfs cluster up` keeps of a cluster from one start to the next."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from fuseclient.errors import ClientError
from keelfs import local_plan
from keelfs.embedded import free_ports
from keelfs.settings import Settings
from raft.tls import own_principal, server_context

if TYPE_CHECKING:
    from pathlib import Path


def test_a_plan_is_made_once(tmp_path: Path) -> None:
    made = local_plan.plan(tmp_path / "d", 3)
    assert [node.name for node in made.nodes] == ["n1", "n2", "n3"]
    addresses = [address for node in made.nodes for address in (node.listen, node.admin, node.peer)]
    assert len(set(addresses)) == 9
    assert made.url == f"keel://{made.nodes[0].listen},{made.nodes[1].listen},{made.nodes[2].listen}/main"
    assert local_plan.plan(tmp_path / "d", 3) == local_plan.load(tmp_path / "d") == made


@pytest.mark.parametrize("count", [0, 2, 4, 6, -1])
def test_not_every_number_makes_a_cluster(tmp_path: Path, count: int) -> None:
    with pytest.raises(ClientError, match="1, 3 or 5 nodes"):
        local_plan.plan(tmp_path, count)
    assert list(tmp_path.iterdir()) == []


def test_another_number_than_before_is_refused(tmp_path: Path) -> None:
    local_plan.plan(tmp_path, 3)
    with pytest.raises(ClientError, match="a cluster of 3"):
        local_plan.plan(tmp_path, 5)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"format": 1, "nodes": []}', b'{"format": 1, "nodes": [{"name": "x"}]}'])
def test_a_broken_plan_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "cluster.json").write_bytes(data)
    with pytest.raises(ClientError, match=r"cluster\.json"):
        local_plan.plan(tmp_path, 3)


def test_certificates_and_settings_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = local_plan.plan(tmp_path, 1)
    local_plan.prepare(made)
    settings = made.settings(made.nodes[0])
    assert settings.tls is not None
    server_context(settings.tls)
    assert str(own_principal(settings.tls)) == "node n1"
    made.client_tls.context()
    monkeypatch.setenv("KEELFS_CONFIG", str(made.config))
    site = Settings()
    assert site.listen == made.authority
    assert site.tls_files() == made.client_tls
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    local_plan.prepare(made)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_lost_certificate_is_made_again(tmp_path: Path) -> None:
    made = local_plan.plan(tmp_path, 1)
    local_plan.prepare(made)
    for name in ("n1.crt", "n1.key"):
        (made.certs / name).unlink()
    local_plan.prepare(made)
    settings = made.settings(made.nodes[0])
    assert settings.tls is not None
    server_context(settings.tls)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    lock = tmp_path / "d" / "up.lock"
    assert local_plan.holder(lock) is None
    with local_plan.locked(tmp_path / "d"):
        assert local_plan.holder(lock) == os.getpid()
        with pytest.raises(ClientError, match=f"process {os.getpid()} runs the cluster"), local_plan.locked(tmp_path / "d"):
            pass
    assert local_plan.holder(lock) is None
    with local_plan.locked(tmp_path / "d"):
        pass


def test_ports_do_not_overlap() -> None:
    found = free_ports(20, 3)
    numbers = [port + offset for port in found for offset in range(3)]
    assert len(set(numbers)) == 60
    assert all(1024 < number < 32768 for number in numbers)
