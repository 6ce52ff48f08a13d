"""What a volume does, end to end, on every kind of object store: the same tests on file://, moto's S3 and a radosgw."""

from __future__ import annotations

import hashlib
import mmap
import os
import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from tests.fuse.cluster import Cluster, wait_for
from tests.integration.object_servers import Bucket, Folder, Processes, radosgw_missing, start_moto, start_radosgw

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.object_servers import Store

BLOCK = 1 << 20


@pytest.fixture(scope="module", params=["file", "moto", pytest.param("radosgw", marks=pytest.mark.soak)])
def store(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Store]:
    """A store of each kind."""
    kind = cast("str", request.param)
    folder = Path(tempfile.mkdtemp(dir=scratch))
    if kind == "file":
        yield Folder(folder / "objects")
        return
    if kind == "radosgw" and (why := radosgw_missing()):
        pytest.skip(why)
    with Processes(folder) as servers:
        bucket = Bucket(start_moto(servers) if kind == "moto" else start_radosgw(servers))
        yield bucket
        bucket.close()


@pytest.fixture(scope="module")
def volume(store: Store, scratch: Path) -> Iterator[Cluster]:
    """A volume of small blocks on it, mounted twice: as 'mnt' and as 'other'."""
    with Cluster(Path(tempfile.mkdtemp(dir=scratch)), store.url, dict(store.env)) as cluster:
        cluster.start_unmounted("--block-size", "1MiB")
        cluster.mount("mnt")
        cluster.mount("other")
        yield cluster


@pytest.fixture
def folder(volume: Cluster, request: pytest.FixtureRequest) -> Path:
    """A directory of the test's own on the first mount."""
    made = volume.mountpoint / "".join(c if c.isalnum() else "-" for c in request.node.name)
    made.mkdir()
    return made


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def on_other(volume: Cluster, path: Path) -> Path:
    """The same file on the second mount, which hears of new names within milliseconds."""
    other = volume.home / "other" / path.relative_to(volume.mountpoint)
    wait_for(other.exists, f"{other} to be seen")
    return other


def reread(volume: Cluster, path: Path) -> bytes:
    """The bytes as the other mount finds them, which has cached nothing of a file that it never saw."""
    return on_other(volume, path).read_bytes()


def test_a_file_of_many_blocks(volume: Cluster, folder: Path) -> None:
    path, data = folder / "big", noise(9 * BLOCK + 12_345)
    with open(path, "wb") as file:
        file.write(data)
        os.fsync(file.fileno())
    with open(path, "rb") as file:
        assert os.pread(file.fileno(), 100, 5 * BLOCK) == data[5 * BLOCK : 5 * BLOCK + 100]
    assert reread(volume, path) == data
    assert path.stat().st_blocks * 512 >= len(data)


def test_overwriting_in_the_middle(volume: Cluster, folder: Path) -> None:
    path, data = folder / "f", bytearray(noise(4 * BLOCK))
    path.write_bytes(data)
    for at, size in ((0, 10), (BLOCK - 5, 10), (2 * BLOCK, BLOCK), (3 * BLOCK + 7, 100_000), (BLOCK - 6, 3 * BLOCK)):
        piece = noise(size, at)
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(piece)
        data[at : at + size] = piece
    assert path.read_bytes() == bytes(data)
    assert reread(volume, path) == bytes(data)


def test_appending(volume: Cluster, folder: Path) -> None:
    path, data = folder / "log", b""
    for number in range(30):
        piece = noise(1 + number * 4001, number)
        with open(path, "ab") as file:
            file.write(piece)
        data += piece
    assert reread(volume, path) == data


def test_holes(volume: Cluster, folder: Path) -> None:
    path = folder / "sparse"
    with open(path, "wb") as file:
        for at in (3 * BLOCK, 200 * BLOCK, 70 * BLOCK + 9):
            file.seek(at)
            file.write(noise(5000, at))
        file.truncate(300 * BLOCK)
    with open(on_other(volume, path), "rb") as file:
        assert os.fstat(file.fileno()).st_size == 300 * BLOCK
        assert os.fstat(file.fileno()).st_blocks * 512 < BLOCK
        for at in (3 * BLOCK, 70 * BLOCK + 9, 200 * BLOCK):
            assert os.pread(file.fileno(), 6000, at) == noise(5000, at) + bytes(1000)
        assert os.pread(file.fileno(), BLOCK, 100 * BLOCK) == bytes(BLOCK)
        assert os.lseek(file.fileno(), 100 * BLOCK, os.SEEK_DATA) // 4096 == 200 * BLOCK // 4096


def test_truncating_and_growing_again(volume: Cluster, folder: Path) -> None:
    path, data = folder / "f", noise(3 * BLOCK)
    path.write_bytes(data)
    os.truncate(path, BLOCK + 100)
    assert reread(volume, path) == data[: BLOCK + 100]
    os.truncate(path, 2 * BLOCK)
    assert reread(volume, path) == data[: BLOCK + 100].ljust(2 * BLOCK, b"\0")
    path.write_bytes(b"short")
    assert reread(volume, path) == b"short"


def test_many_small_files(volume: Cluster, folder: Path) -> None:
    contents = {f"{number:03}": noise(number * 97, number) for number in range(150)}
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    assert {path.name: path.read_bytes() for path in on_other(volume, folder).iterdir()} == contents


def test_rename_over_a_file_that_is_open(volume: Cluster, folder: Path) -> None:
    old, new = noise(2 * BLOCK, 1), noise(2 * BLOCK, 2)
    (folder / "a").write_bytes(old)
    (folder / "b").write_bytes(new)
    with open(folder / "a", "rb") as file:
        os.rename(folder / "b", folder / "a")
        assert file.read() == old
    assert reread(volume, folder / "a") == new
    assert os.listdir(folder) == ["a"]


def test_deleted_files_lose_their_objects(volume: Cluster, store: Store, folder: Path) -> None:
    before = store.keys()
    (folder / "kept").write_bytes(kept := noise(3 * BLOCK, 7))
    mine = store.keys().keys() - before.keys()
    assert len(mine) == 3
    (folder / "gone").write_bytes(noise(5 * BLOCK, 8))
    (folder / "replaced").write_bytes(noise(2 * BLOCK, 9))
    os.truncate(folder / "replaced", 0)
    os.unlink(folder / "gone")
    # Other tests' files may be going at the same time, so this looks at what is new.
    wait_for(lambda: store.keys().keys() - before.keys() == mine, "the objects of deleted files to go")
    assert reread(volume, folder / "kept") == kept


def test_close_to_open_between_two_mounts(volume: Cluster, folder: Path) -> None:
    here, there = folder / "f", on_other(volume, folder) / "f"
    there.touch()
    wait_for(here.exists, "the new file to be seen")
    for turn in range(6):
        writer, reader = (here, there) if turn % 2 else (there, here)
        data = noise(BLOCK + turn * 1000 if turn != 3 else 100, turn)
        writer.write_bytes(data)
        assert reader.read_bytes() == data
        with open(reader, "ab") as file:
            file.write(b"and more")
        assert writer.read_bytes() == data + b"and more"


def test_memory_maps(volume: Cluster, folder: Path) -> None:
    path, data = folder / "mapped", bytearray(noise(2 * BLOCK + 77))
    path.write_bytes(data)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        assert mapped[BLOCK : BLOCK + 1000] == data[BLOCK : BLOCK + 1000]
        for at in (0, 4095, BLOCK - 3, 2 * BLOCK + 70):
            mapped[at : at + 7] = data[at : at + 7] = b"changed"
        mapped.flush()
    assert reread(volume, path) == bytes(data)


def test_direct_io(volume: Cluster, folder: Path) -> None:
    path, data = folder / "direct", noise(BLOCK + 8192)
    buffer = mmap.mmap(-1, len(data))  # aligned to a page
    buffer.write(data)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    try:
        assert os.writev(fd, [buffer]) == len(data)
        buffer.seek(0)
        buffer.write(bytes(len(data)))
        assert os.preadv(fd, [buffer], 0) == len(data)
        assert buffer[:] == data
    finally:
        os.close(fd)
        buffer.close()
    assert reread(volume, path) == data


def test_everything_is_there_after_a_remount_with_a_cold_cache(volume: Cluster) -> None:
    """Last: whatever the other tests have left."""
    (volume.mountpoint / "one more").write_bytes(noise(3 * BLOCK + 5))
    before = digests(volume.mountpoint)
    volume.unmount("mnt")
    volume.unmount("other")
    cold = volume.mount("cold")
    assert digests(cold) == before
    assert len(before) > 3


def digests(top: Path) -> dict[str, str]:
    found = {}
    for base, _, names in os.walk(top):
        for name in names:
            path = Path(base, name)
            with open(path, "rb") as file:
                found[str(path.relative_to(top))] = hashlib.file_digest(file, "blake2b").hexdigest()
    return found
