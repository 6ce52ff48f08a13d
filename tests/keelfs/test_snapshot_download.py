"""A snapshot that is saved is whole, or there is no file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fuseclient.errors import ClientError
from keelfs.snapshot_download import Saved, download, inspect
from protos.admin_pb2 import SnapshotPiece
from raft.disk import RealDisk
from raft.membership import Member, initial
from raft.snapshot_file import SnapshotHeader, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UUID = "00000000-0000-0000-0000-000000000001"


@pytest.fixture
def data(tmp_path: Path) -> bytes:
    path = tmp_path / "source.snapshot"
    header = SnapshotHeader(UUID, 7, 3, initial(Member("n1", UUID, "h:3", "h:1", "h:2")), bytes(16), "test", 0)
    write(RealDisk(), str(path), header, [bytes(1000), b"end"])
    whole = path.read_bytes()
    path.unlink()
    return whole


def pieces(data: bytes, size: int | None = None) -> Iterator[SnapshotPiece]:
    for at in range(0, len(data), 100):
        yield SnapshotPiece(index=7, size=len(data) if size is None else size, data=data[at : at + 100])


def test_it_comes_as_it_was_sent(tmp_path: Path, data: bytes) -> None:
    told: list[tuple[int, int]] = []
    saved = download(pieces(data), tmp_path / "f", advance=lambda count, size: told.append((count, size)))
    assert (tmp_path / "f").read_bytes() == data
    assert saved == Saved(7, len(data), data[-32:].hex()) == inspect(tmp_path / "f")
    assert sum(count for count, _ in told) == len(data)
    assert {size for _, size in told} == {len(data)}
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600


def test_what_is_there_is_kept_unless_told(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "f").write_bytes(b"precious")
    with pytest.raises(ClientError, match="exists"):
        download(pieces(data), tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == b"precious"
    download(pieces(data), tmp_path / "f", replace=True)
    assert (tmp_path / "f").read_bytes() == data


def failing(data: bytes) -> Iterator[SnapshotPiece]:
    yield from pieces(data[:300], len(data))
    raise ClientError("the node died")


@pytest.mark.parametrize("old", [None, b"precious"])
@pytest.mark.parametrize("wrong", ["cut", "damaged", "too long", "empty", "dies"])
def test_nothing_is_left_of_one_that_is_not_whole(tmp_path: Path, data: bytes, wrong: str, old: bytes | None) -> None:
    sent, says = {
        "cut": (pieces(data[:-200], len(data)), "ended after"),
        "damaged": (pieces(data[:500] + b"?" + data[501:]), "damaged"),
        "too long": (pieces(data, 250), "300 bytes of a snapshot of 250"),
        "empty": (iter(()), "ended after 0"),
        "dies": (failing(data), "the node died"),
    }[wrong]
    if old is not None:
        (tmp_path / "f").write_bytes(old)
    with pytest.raises(ClientError, match=says):
        download(sent, tmp_path / "f", replace=True)
    assert [path.name for path in tmp_path.iterdir()] == (["f"] if old is not None else [])
    assert old is None or (tmp_path / "f").read_bytes() == old


def test_where_nothing_can_be_written(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ClientError, match="cannot write"):
        download(pieces(data), tmp_path / "missing" / "f")


def test_what_is_no_snapshot(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"something else" * 100)
    with pytest.raises(ClientError, match="damaged"):
        inspect(tmp_path / "f")
