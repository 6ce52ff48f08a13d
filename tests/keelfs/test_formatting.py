"""A volume is made only where nothing is in its way."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from fuseclient.data.layout import object_key
from fuseclient.data.purge import purge_volume
from fuseclient.data.stores import open_store
from fuseclient.errors import ClientError
from fuseclient.mount import cache_identity
from fuseclient.volume_settings import VolumeSettings
from keelfs.formatting import create_volume
from protos import admin_pb2

if TYPE_CHECKING:
    from pathlib import Path


class Volumes:
    """The admin calls that making a volume needs."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)

    def volumes(self) -> list[admin_pb2.Volume]:
        return [admin_pb2.Volume(name=name) for name in self.names]

    def create_volume(self, name: str, settings_json: str, *, uid: int, gid: int, mode: int) -> admin_pb2.Volume:
        if name in self.names:
            raise ClientError(f"volume {name} exists")
        self.names.append(name)
        return admin_pb2.Volume(name=name, settings_json=settings_json)


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"file://{tmp_path}/objects"


def put(store: str, volume: str) -> None:
    opened = open_store(store)
    opened.put(object_key(volume, 1, 0, 4), [b"data"])
    opened.close()


def make(cluster: Volumes, name: str, store: str) -> admin_pb2.Volume:
    return create_volume(cluster, name, {"store": store})  # type: ignore[arg-type]  # has what it takes


def test_on_an_empty_store_and_beside_other_volumes(store: str) -> None:
    cluster = Volumes()
    assert json.loads(make(cluster, "home", store).settings_json) == {"store": store}
    put(store, "home")
    assert make(cluster, "hom", store).name == "hom"
    assert make(cluster, "home2", store).name == "home2"


def test_not_on_what_another_cluster_left(store: str) -> None:
    put(store, "home")
    cluster = Volumes("other")
    with pytest.raises(ClientError, match=r"holds objects below home/ already.*keelfs volume destroy.*another name") as caught:
        make(cluster, "home", store)
    assert store in str(caught.value)
    assert cluster.names == ["other"]
    purge_volume(store, "home")
    assert make(cluster, "home", store).name == "home"


def test_a_volume_that_exists_here_is_called_that(store: str) -> None:
    put(store, "home")
    with pytest.raises(ClientError, match="volume home exists"):
        make(Volumes("home"), "home", store)


def test_a_store_that_does_not_work_comes_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(ClientError, match="object store does not work"):
        make(Volumes(), "home", f"file://{tmp_path}/file")


def test_a_volume_made_anew_has_a_cache_of_its_own() -> None:
    first, second = (VolumeSettings.parse(f'{{"store": "s3://b/p", "uuid": "{one}"}}') for one in ("u1", "u2"))
    assert cache_identity(first, 1) != cache_identity(second, 1)
    old = VolumeSettings.parse('{"store": "s3://b/p"}')
    assert cache_identity(old, 1) != cache_identity(old, 2)
