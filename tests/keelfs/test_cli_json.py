"""`--json` of every verb that reads: one document on stdout and nothing else, with the documented keys and types."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.fuse.cluster import Cluster
    from tests.keelfs.command_zygote import Zygote

VOLUME = {
    "name": str,
    "id": int,
    "root": int,
    "created_ns": int,
    "bytes_used": int,
    "inodes_used": int,
    "slices_doomed": int,
    "settings": dict,
}
SETTINGS = {
    "store": str,
    "block_bytes": int,
    "inline_bytes": int,
    "capacity_bytes": int,
    "capacity_inodes": int,
    "acl": bool,
    "uuid": str,
}
STATUS = {
    "version": str,
    "cluster_id": str,
    "node_id": str,
    "role": str,
    "term": int,
    "index_applied": int,
    "index_checkpointed": int,
    "wal_bytes": int,
    "store_bytes": int,
    "uptime_ms": int,
    "sessions": list,
    "orphans": int,
    "slices_doomed": int,
    "read_only": bool,
    "read_only_reason": str,
    "rss_bytes": int,
    "inodes": int,
    "name": str,
    "leader": str,
    "index_last": int,
    "index_committed": int,
    "log_first": int,
}
SESSION = {
    "session": int,
    "client": str,
    "volume": str,
    "connected": bool,
    "silent_ms": int,
    "open_files": int,
    "results_kept": int,
}
INFO = {
    "ino": int,
    "paths": list,
    "mode": str,
    "nlink": int,
    "uid": int,
    "gid": int,
    "size": int,
    "allocated": int,
    "atime_ns": int,
    "mtime_ns": int,
    "ctime_ns": int,
    "btime_ns": int,
    "version": int,
    "data_version": int,
    "open_by": int,
    "symlink": str | None,
    "xattrs": list,
    "truncated": bool,
    "chunks": list,
}
EXTENT = {"pos": int, "len": int, "slice": int, "off": int, "size": int, "inline": bool, "objects": list}


@pytest.fixture
def document(zygote: Zygote) -> Callable[..., Any]:
    """What a command says with --json."""

    def read(*arguments: object) -> Any:
        done = zygote.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return read


def assert_shape(found: dict[str, Any], keys: dict[str, Any]) -> None:
    assert found.keys() == keys.keys()
    for key, kind in keys.items():
        assert isinstance(found[key], kind), f"{key}: {found[key]!r}"


def test_status(document: Callable[..., Any], cluster: Cluster) -> None:
    for server in (cluster.address, cluster.url, cluster.mountpoint):
        found = document("status", server)
        assert_shape(found, STATUS)
        (session,) = found["sessions"]
        assert_shape(session, SESSION)
        assert session["connected"]
        assert str(cluster.mountpoint) in session["client"]


def test_volumes(document: Callable[..., Any], cluster: Cluster, home: Path) -> None:
    (listed,) = document("volume", "list", cluster.address)
    shown = document("volume", "show", cluster.url)
    assert listed == shown
    assert_shape(shown, VOLUME)
    assert_shape(shown["settings"], SETTINGS)
    made = document("format", f"keel://{cluster.address}/second", "--store", f"file://{home}/second", "--block-size", "64KiB")
    assert_shape(made, VOLUME)
    assert made["settings"]["block_bytes"] == 65536
    gone = document("volume", "destroy", f"keel://{cluster.address}/second", "--yes")
    assert_shape(gone, {"name": str, "inodes": int, "slices": int, "objects": int})
    assert [volume["name"] for volume in document("volume", "list", cluster.address)] == ["test"]


def test_info(document: Callable[..., Any], cluster: Cluster, here: Path) -> None:
    path = here / "f\udcff\nname"
    path.write_bytes(bytes(5_000_000))
    os.link(path, here / "second")
    os.setxattr(path, "user.x", b"1")
    found = document("info", here / "second")
    assert_shape(found, INFO)
    assert sorted(found["paths"]) == sorted(f"/{here.name}/{name}" for name in ("f\udcff\nname", "second"))
    assert (found["size"], found["nlink"], found["xattrs"]) == (5_000_000, 2, ["user.x"])
    (chunk,) = found["chunks"]
    objects = [key for extent in chunk["extents"] for key in extent["objects"]]
    assert_shape(chunk["extents"][0], EXTENT)
    # Where info says that the bytes are, they are.
    assert len(objects) == 2
    assert all((cluster.home / "objects" / key).is_file() for key in objects)
    assert document("info", str(found["ino"]), "--url", cluster.url)["paths"] == found["paths"]
    assert document("info", f"{here.name}/second", "--url", cluster.url)["ino"] == found["ino"]
    os.symlink("to there", here / "link")
    assert document("info", here / "link")["symlink"] == "to there"
    (here / "small").write_bytes(b"inline")
    (chunk,) = document("info", here / "small")["chunks"]
    assert chunk["extents"][0]["inline"]
    assert_shape(document("info", here), INFO)


def test_version_and_bench(document: Callable[..., Any], here: Path) -> None:
    assert_shape(document("version"), {"keelfs": str, "python": str, "kernel": str})
    rows = document("bench", here, "--big", "2MiB", "--files", "3", "--threads", "2")
    for row in rows:
        assert_shape(row, {"what": str, "value": float, "unit": str, "p50_ms": float})
        assert row["value"] > 0
    assert os.listdir(here) == []


@pytest.mark.parametrize("arguments", [("status",), ("volume", "list"), ("volume", "show"), ("info",)])
def test_without_json_people_read_text_without_colour(zygote: Zygote, cluster: Cluster, arguments: tuple[str, ...]) -> None:
    target = cluster.mountpoint if arguments == ("info",) else cluster.url
    text = zygote.run(*arguments, target).stdout
    assert text
    assert "\x1b" not in text
